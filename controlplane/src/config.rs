//! What the configuration file may say, and what it means.
//!
//! Two types: `Written`, field by field as in the file, and `Config`, as the program needs it, with one
//! conversion between. A secret never stands in the file: it names an environment variable, a file or one of
//! systemd's credentials. Errors are one line that names the file, the key and what is allowed, and never
//! repeat a value that may be a secret.

/// As it is written.
mod written;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use secret::{Secret, Source, SourceError};
use thiserror::Error;

use self::written::*;
use crate::authority::NODE_LIFE;
use crate::clickhouse::retention::Retention;
use crate::registry::Place;

/// The exit status for a bad configuration (`EX_USAGE`).
pub const EXIT_STATUS: u8 = 64;
/// The environment variable with the first administrator's key.
pub const BOOTSTRAP_KEY_VARIABLE: &str = "LIUTONG_BOOTSTRAP_ADMIN_KEY";

/// The registry's name under the data directory.
pub const REGISTRY_FILE: &str = "registry.db";

const ADMIN_LISTEN: &str = "127.0.0.1:8090";
const ENGINE_LISTEN: &str = "127.0.0.1:18123";
/// A node renews its certificate when a third of this is left, so it must not be too short.
const CERTIFICATE_SECONDS: std::ops::RangeInclusive<u64> = 6..=366 * 24 * 60 * 60;
const RAW_DAYS_MAX: u32 = 36_500;
const BACKUP_KEEP_DAYS: u32 = 30;

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
    /// The secret that a key names is not to be had.
    #[error("{}: {key}: {source}", file.display())]
    Secret {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// Why.
        source: SourceError,
    },
}

impl ConfigError {
    /// Whether a secret is missing that the control plane's unit has: from systemd, or in its environment.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Secret { source, .. } if source.is_elsewhere())
    }
}

/// What is written of one secret.
struct Places {
    keys: &'static Keys,
    literal: bool,
    variable: Option<String>,
    file: Option<PathBuf>,
    credential: Option<String>,
}

/// What the control plane is to be.
#[derive(Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the registry is.
    pub registry: Place,
    /// Where the admin API listens.
    pub admin_listen: SocketAddr,
    /// The first administrator's key.
    pub bootstrap_key: Option<Secret>,
    /// The socket for data planes.
    pub sync_socket: PathBuf,
    /// Where data planes on other hosts connect, over TLS; nowhere without it.
    pub sync_listen: Option<SocketAddr>,
    /// How long a node's certificate is good.
    pub certificate_life: Duration,
    /// Where usage goes.
    pub clickhouse: ClickHouse,
    /// How many days usage events are kept.
    pub raw_days: u32,
    /// How many days sums by hour are kept; without it until they are removed.
    pub hourly_days: Option<u32>,
    /// How many days sums by day are kept, likewise.
    pub daily_days: Option<u32>,
    /// How many days a backup is kept.
    pub backup_keep_days: u32,
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

/// What a configuration is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Serving,
    Tools,
}

impl Config {
    /// Reads a file, and the secrets that it names.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(file, &read(file)?, For::Serving, |name| std::env::var(name).ok())
    }

    /// The same without the first administrator's key, which only the control plane has a use for: whoever
    /// backs up, restores or looks may not even be allowed to read it.
    pub fn load_for_tools(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(file, &read(file)?, For::Tools, |name| std::env::var(name).ok())
    }

    /// How long usage is kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let Self { raw_days, hourly_days, daily_days, .. } = *self;
        Retention { raw_days, hourly_days, daily_days }
    }

    fn parse(
        file: &Path,
        text: &str,
        used_for: For,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let written: Written = toml::from_str(text).map_err(|error| syntax(file, text, &error))?;
        let reader = Reader { file, env: &env };
        if written.data_dir.as_os_str().is_empty() {
            return Err(reader.error("data_dir", "a path"));
        }
        let WrittenAdmin { listen, bootstrap_key_file, bootstrap_key_systemd_credential, bootstrap_key } =
            written.admin;
        let bootstrap = Places {
            keys: &BOOTSTRAP_KEYS,
            literal: bootstrap_key.is_some(),
            variable: None,
            file: bootstrap_key_file,
            credential: bootstrap_key_systemd_credential,
        };
        let raw_days = written.clickhouse.raw_days.unwrap_or(crate::clickhouse::migrate::RAW_DAYS_DEFAULT);
        if !(1..=RAW_DAYS_MAX).contains(&raw_days) {
            return Err(reader.error("clickhouse.raw_days", format!("1 to {RAW_DAYS_MAX}")));
        }
        let (hourly_days, daily_days) = (written.clickhouse.hourly_days, written.clickhouse.daily_days);
        reader.sums_outlive(raw_days, hourly_days, daily_days)?;
        let backup_keep_days = written.backup.keep_days.unwrap_or(BACKUP_KEEP_DAYS);
        if !(1..=RAW_DAYS_MAX).contains(&backup_keep_days) {
            return Err(reader.error("backup.keep_days", format!("1 to {RAW_DAYS_MAX}")));
        }
        let WrittenSync { socket, listen: sync_listen, certificate_seconds } = written.sync;
        Ok(Self {
            registry: reader.registry(written.registry, &written.data_dir)?,
            admin_listen: reader.address("admin.listen", listen.as_deref().unwrap_or(ADMIN_LISTEN))?,
            bootstrap_key: if used_for == For::Serving { reader.bootstrap_key(bootstrap)? } else { None },
            sync_socket: socket.unwrap_or_else(|| written.data_dir.join("run/control.sock")),
            sync_listen: sync_listen.map(|text| reader.address("sync.listen", &text)).transpose()?,
            certificate_life: reader.certificate_life(certificate_seconds)?,
            clickhouse: reader.clickhouse(written.clickhouse)?,
            data_dir: written.data_dir,
            raw_days,
            hourly_days,
            daily_days,
            backup_keep_days,
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

    fn address(&self, key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
        text.parse().map_err(|_| self.error(key, "an IP address and a port, such as 127.0.0.1:8090"))
    }

    /// What is derived must outlive what it is derived from: it would come back else, or be missed.
    fn sums_outlive(&self, raw: u32, hourly: Option<u32>, daily: Option<u32>) -> Result<(), ConfigError> {
        let (hours, days) = (hourly.unwrap_or(u32::MAX), daily.unwrap_or(u32::MAX));
        if hours < raw || hourly.is_some_and(|days| days > RAW_DAYS_MAX) {
            let allowed = format!("clickhouse.raw_days to {RAW_DAYS_MAX}, or nothing");
            return Err(self.error("clickhouse.hourly_days", allowed));
        }
        if days < hours || daily.is_some_and(|days| days > RAW_DAYS_MAX) {
            let allowed =
                format!("clickhouse.hourly_days (which must be set, too) to {RAW_DAYS_MAX}, or nothing");
            return Err(self.error("clickhouse.daily_days", allowed));
        }
        Ok(())
    }

    fn certificate_life(&self, seconds: Option<u64>) -> Result<Duration, ConfigError> {
        let seconds = seconds.unwrap_or(NODE_LIFE.as_secs());
        if !CERTIFICATE_SECONDS.contains(&seconds) {
            let (least, most) = CERTIFICATE_SECONDS.into_inner();
            return Err(self.error("sync.certificate_seconds", format!("{least} to {most}")));
        }
        Ok(Duration::from_secs(seconds))
    }

    /// Fetches a secret from where the configuration says that it is.
    fn secret(&self, places: Places) -> Result<Option<Secret>, ConfigError> {
        let Keys { literal, variable, file, credential } = *places.keys;
        if places.literal {
            let instead = [variable, file, credential].into_iter().filter(|key| !key.is_empty());
            let instead = instead.collect::<Vec<_>>().join(" or ");
            return Err(self.error(literal, format!("a secret does not belong in this file, use {instead}")));
        }
        let given = [
            places.variable.map(|name| (variable, Source::Environment(name))),
            places.file.map(|path| (file, Source::File(path))),
            places.credential.map(|name| (credential, Source::SystemdCredential(name))),
        ];
        let mut given = given.into_iter().flatten();
        let Some((key, source)) = given.next() else { return Ok(None) };
        if let Some((other, _)) = given.next() {
            return Err(self.error(other, format!("not beside {key}")));
        }
        let failed = |source| ConfigError::Secret { file: self.file.to_owned(), key, source };
        source.read_with(self.env).map(Some).map_err(failed)
    }

    fn bootstrap_key(&self, places: Places) -> Result<Option<Secret>, ConfigError> {
        let configured = places.file.is_some() || places.credential.is_some() || places.literal;
        let key = if places.credential.is_some() { places.keys.credential } else { places.keys.file };
        let (key, secret) = match (self.env)(BOOTSTRAP_KEY_VARIABLE).filter(|text| !text.is_empty()) {
            Some(text) if !places.literal => (BOOTSTRAP_KEY_VARIABLE, Some(Secret::new(text))),
            _ if configured => (key, self.secret(places)?),
            _ => return Ok(None),
        };
        if !secret.as_ref().is_some_and(|secret| wire::key_format::check_admin(secret.reveal().as_bytes())) {
            let allowed = "an admin key (sk-ltadm-...), which `liutong-controlplane --new-admin-key` makes";
            return Err(self.error(key, allowed));
        }
        Ok(secret)
    }

    fn registry(&self, written: WrittenRegistry, data_dir: &Path) -> Result<Place, ConfigError> {
        let password = self.secret(Places {
            keys: &REGISTRY_KEYS,
            literal: written.password.is_some(),
            variable: written.password_env,
            file: written.password_file,
            credential: written.password_systemd_credential,
        })?;
        let Some(url) = written.url else {
            if password.is_some() {
                return Err(self.error("registry.url", "without it there is nothing that takes a password"));
            }
            return Ok(Place::File(data_dir.join(REGISTRY_FILE)));
        };
        let url = postgres_url(&url, password).map_err(|allowed| self.error("registry.url", allowed))?;
        Ok(Place::Postgres(url))
    }

    fn clickhouse(&self, written: WrittenClickHouse) -> Result<ClickHouse, ConfigError> {
        let password = self.secret(Places {
            keys: &CLICKHOUSE_KEYS,
            literal: written.password.is_some(),
            variable: written.password_env,
            file: written.password_file,
            credential: written.password_systemd_credential,
        })?;
        let Some(url) = written.url else {
            if written.user.is_some() || password.is_some() {
                return Err(self.error("clickhouse.user", "it and a password only beside clickhouse.url"));
            }
            return self.embedded(written.embedded);
        };
        if written.embedded.is_some() {
            return Err(self.error("clickhouse.embedded", "allowed only without clickhouse.url"));
        }
        let url = plain_url(&url).map_err(|allowed| self.error("clickhouse.url", allowed))?;
        let password = password.unwrap_or_else(|| Secret::new(String::new()));
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

/// Checks a URL of PostgreSQL's, without a password, and puts the password in.
fn postgres_url(text: &str, password: Option<Secret>) -> Result<Secret, String> {
    let form = "a URL such as postgres://liutong@host/liutong";
    let mut url = Url::parse(text).map_err(|_| form.to_owned())?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(form.to_owned());
    }
    let in_query = url.query_pairs().any(|(name, _)| name == "password");
    if in_query || url.password().is_some_and(|password| !password.is_empty()) {
        return Err("a URL without password, use registry.password_file or registry.password_env".to_owned());
    }
    if let Some(password) = password {
        url.set_password(Some(password.reveal())).map_err(|()| form.to_owned())?;
    }
    Ok(Secret::new(url.into()))
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })
}

fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let message = secret::without_values(error.message());
    ConfigError::Syntax { file: file.to_owned(), line, message }
}

#[cfg(test)]
mod tests;
