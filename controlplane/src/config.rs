//! What the configuration file may say, and what it means.
//!
//! Two types: `Written`, field by field as in the file, and `Config`, as the program needs it, with one
//! conversion between. A secret never stands in the file: it names a file or an environment variable. Errors
//! are one line that names the file, the key and what is allowed, and never repeat a value that may be a
//! secret.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;
use thiserror::Error;

use crate::keys::Secret;

/// The exit status for a bad configuration (`EX_USAGE`).
pub const EXIT_STATUS: u8 = 64;
/// The environment variable with the first administrator's key.
pub const BOOTSTRAP_KEY_VARIABLE: &str = "LIUTONG_BOOTSTRAP_ADMIN_KEY";

const ADMIN_LISTEN: &str = "127.0.0.1:8090";
const ENGINE_LISTEN: &str = "127.0.0.1:18123";
const RAW_DAYS_MAX: u32 = 36_500;

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys or types that are not allowed.
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// What is allowed.
        message: String,
    },
    /// A key has a value that is not allowed.
    #[error("{}: {key}: {allowed}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// What is allowed.
        allowed: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    data_dir: PathBuf,
    #[serde(default)]
    admin: WrittenAdmin,
    #[serde(default)]
    sync: WrittenSync,
    #[serde(default)]
    clickhouse: WrittenClickHouse,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAdmin {
    listen: Option<String>,
    bootstrap_key_file: Option<PathBuf>,
    /// Refused by name.
    bootstrap_key: Option<Literal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSync {
    socket: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenClickHouse {
    url: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    /// Refused by name.
    password: Option<Literal>,
    raw_days: Option<u32>,
    embedded: Option<WrittenEngine>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEngine {
    listen: Option<String>,
}

/// A secret that someone wrote into the file: noticed, and not kept.
#[derive(Debug, Deserialize)]
struct Literal(
    #[allow(dead_code, reason = "it takes any value so that the key is refused, not its type")]
    serde::de::IgnoredAny,
);

/// What the control plane is to be.
#[derive(Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the admin API listens.
    pub admin_listen: SocketAddr,
    /// The first administrator's key.
    pub bootstrap_key: Option<Secret>,
    /// The socket for data planes.
    pub sync_socket: PathBuf,
    /// Where usage goes.
    pub clickhouse: ClickHouse,
    /// How many days usage events are kept.
    pub raw_days: u32,
}

/// Where usage goes.
#[derive(Debug)]
pub enum ClickHouse {
    /// A server.
    Server {
        /// Its address.
        url: String,
        /// The user.
        user: String,
        /// The user's password.
        password: Secret,
    },
    /// One that this process starts, under the data directory.
    Embedded {
        /// The port on loopback.
        port: u16,
    },
}

impl Config {
    /// Reads a file, and the secrets that it names.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(file, &text, |name| std::env::var(name).ok())
    }

    fn parse(file: &Path, text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let written: Written = toml::from_str(text).map_err(|error| syntax(file, text, &error))?;
        let reader = Reader { file, env: &env };
        if written.data_dir.as_os_str().is_empty() {
            return Err(reader.error("data_dir", "a path"));
        }
        let WrittenAdmin { listen, bootstrap_key_file, bootstrap_key } = written.admin;
        reader.no_literal("admin.bootstrap_key", bootstrap_key.is_some(), "admin.bootstrap_key_file")?;
        let raw_days = written.clickhouse.raw_days.unwrap_or(crate::clickhouse::migrate::RAW_DAYS_DEFAULT);
        if !(1..=RAW_DAYS_MAX).contains(&raw_days) {
            return Err(reader.error("clickhouse.raw_days", format!("1 to {RAW_DAYS_MAX}")));
        }
        Ok(Self {
            admin_listen: reader.address("admin.listen", listen.as_deref().unwrap_or(ADMIN_LISTEN))?,
            bootstrap_key: reader.bootstrap_key(bootstrap_key_file)?,
            sync_socket: written.sync.socket.unwrap_or_else(|| written.data_dir.join("run/control.sock")),
            clickhouse: reader.clickhouse(written.clickhouse)?,
            data_dir: written.data_dir,
            raw_days,
        })
    }
}

/// Turns what was written into what it means.
struct Reader<'a> {
    file: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn error(&self, key: &'static str, allowed: impl Into<String>) -> ConfigError {
        ConfigError::Value { file: self.file.to_owned(), key, allowed: allowed.into() }
    }

    fn no_literal(&self, key: &'static str, there: bool, instead: &str) -> Result<(), ConfigError> {
        if there {
            return Err(self.error(key, format!("a secret does not belong in this file, use {instead}")));
        }
        Ok(())
    }

    fn address(&self, key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
        text.parse().map_err(|_| self.error(key, "an IP address and a port, such as 127.0.0.1:8090"))
    }

    fn secret_file(&self, key: &'static str, path: &Path) -> Result<Secret, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| self.error(key, format!("a readable file, {}: {error}", path.display())))?;
        Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn bootstrap_key(&self, file: Option<PathBuf>) -> Result<Option<Secret>, ConfigError> {
        let (key, secret) = match ((self.env)(BOOTSTRAP_KEY_VARIABLE).filter(|text| !text.is_empty()), file) {
            (Some(text), _) => (BOOTSTRAP_KEY_VARIABLE, Secret::new(text)),
            (None, Some(file)) => {
                ("admin.bootstrap_key_file", self.secret_file("admin.bootstrap_key_file", &file)?)
            }
            (None, None) => return Ok(None),
        };
        if !wire::key_format::check_admin(secret.reveal().as_bytes()) {
            let allowed = "an admin key (sk-ltadm-...), which `liutong-controlplane --new-admin-key` makes";
            return Err(self.error(key, allowed));
        }
        Ok(Some(secret))
    }

    fn clickhouse(&self, written: WrittenClickHouse) -> Result<ClickHouse, ConfigError> {
        let instead = "clickhouse.password_file or clickhouse.password_env";
        self.no_literal("clickhouse.password", written.password.is_some(), instead)?;
        let Some(url) = written.url else {
            let server_only = [
                ("clickhouse.user", written.user.is_some()),
                ("clickhouse.password_file", written.password_file.is_some()),
                ("clickhouse.password_env", written.password_env.is_some()),
            ];
            if let Some((key, _)) = server_only.into_iter().find(|(_, there)| *there) {
                return Err(self.error(key, "allowed only beside clickhouse.url"));
            }
            return self.embedded(written.embedded);
        };
        if written.embedded.is_some() {
            return Err(self.error("clickhouse.embedded", "allowed only without clickhouse.url"));
        }
        let url = plain_url(&url).map_err(|allowed| self.error("clickhouse.url", allowed))?;
        let password = match (written.password_file, written.password_env) {
            (Some(_), Some(_)) => {
                return Err(self.error("clickhouse.password_env", "not beside clickhouse.password_file"));
            }
            (Some(file), None) => self.secret_file("clickhouse.password_file", &file)?,
            (None, Some(name)) => (self.env)(&name)
                .map(Secret::new)
                .ok_or_else(|| self.error("clickhouse.password_env", "the name of a variable that is set"))?,
            (None, None) => Secret::new(String::new()),
        };
        Ok(ClickHouse::Server { url, user: written.user.unwrap_or_else(|| "default".to_owned()), password })
    }

    fn embedded(&self, written: Option<WrittenEngine>) -> Result<ClickHouse, ConfigError> {
        let listen = written.and_then(|engine| engine.listen);
        let key = "clickhouse.embedded.listen";
        let address = self.address(key, listen.as_deref().unwrap_or(ENGINE_LISTEN))?;
        if address.ip() != std::net::Ipv4Addr::LOCALHOST {
            return Err(self.error(key, "a port on 127.0.0.1"));
        }
        Ok(ClickHouse::Embedded { port: address.port() })
    }
}

/// Checks an `http` or `https` URL without user, password, query and fragment; returns it without a slash at
/// its end.
pub fn plain_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|_| "a URL such as https://host/v1".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("an http or https URL with a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL without user and password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL without query and fragment".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    ConfigError::Syntax { file: file.to_owned(), line, message }
}

#[cfg(test)]
mod tests;
