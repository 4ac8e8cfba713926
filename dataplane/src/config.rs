//! The data plane's configuration: as the administrator wrote it, then as the program needs it.
//!
//! One TOML file. Nothing secret may stand in it: a credential names the environment variable or the file
//! that holds it, and the hosts it may be sent to, so that whoever administers the registry can't have it
//! sent elsewhere.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::spool::SyncPolicy;
use crate::tls::certificate::CertificateFiles;
use crate::tls::clients::{ClientTls, TlsFiles};

/// Why a configuration can't be used. One line for the administrator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not of the form.
    #[error("{file}: {problem}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The parser's words, which name the line and the key.
        problem: String,
    },
    /// A value is not one that its key takes.
    #[error("{file}: {key}: {problem}")]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is allowed.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    data_dir: PathBuf,
    runtime_dir: Option<PathBuf>,
    workers: Option<usize>,
    #[serde(default)]
    http: WrittenHttp,
    #[serde(default)]
    ops: WrittenListener,
    control: WrittenControl,
    #[serde(default)]
    credentials: HashMap<String, WrittenCredential>,
    #[serde(default)]
    limits: WrittenLimits,
    #[serde(default)]
    usage: WrittenUsage,
    upstream_ca_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHttp {
    listen: Option<SocketAddr>,
    tls: Option<WrittenTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTls {
    certificate_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: Option<PathBuf>,
    #[serde(default)]
    certificates: Vec<WrittenCertificate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCertificate {
    certificate_file: PathBuf,
    key_file: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenListener {
    listen: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenControl {
    socket: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCredential {
    env: Option<String>,
    file: Option<PathBuf>,
    hosts: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    connections: Option<usize>,
    exchanges: Option<usize>,
    body_mib: Option<usize>,
    bodies_total_mib: Option<usize>,
    drain_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUsage {
    sync: Option<String>,
    retention_minutes: Option<u64>,
}

/// A secret that an upstream asks for, and where it may go.
pub struct Credential {
    /// The secret.
    pub secret: Zeroizing<String>,
    /// `host:port`, lower case.
    pub hosts: Vec<String>,
}

/// Limits of the process; ARCHITECTURE.md has the table.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open client connections of one worker.
    pub connections_per_worker: usize,
    /// Exchanges under way on one worker: its slots.
    pub exchanges_per_worker: usize,
    /// Bytes of one request's body.
    pub body_bytes_max: usize,
    /// Bytes of all requests' bodies that are held at once.
    pub bodies_bytes_max: usize,
    /// How long streams may go on after the process was told to end.
    pub drain: Duration,
}

/// The configuration as the program needs it.
pub struct Config {
    /// Node id, snapshot, spool.
    pub data_dir: PathBuf,
    /// Slots; on tmpfs in production.
    pub runtime_dir: PathBuf,
    /// How many workers.
    pub workers: u16,
    /// Where clients connect.
    pub http: SocketAddr,
    /// Set where clients are to speak TLS.
    pub http_tls: Option<ClientTls>,
    /// Where health and metrics are.
    pub ops: SocketAddr,
    /// The control plane's socket.
    pub control_socket: PathBuf,
    /// Upstream credentials by name.
    pub credentials: HashMap<String, Credential>,
    /// Limits.
    pub limits: Limits,
    /// Durability of the spool.
    pub spool_sync: SyncPolicy,
    /// How long segments stay past their acknowledgement.
    pub spool_retention: Duration,
    /// A certificate authority for upstreams, instead of the system's.
    pub upstream_ca_file: Option<PathBuf>,
}

const MIB: usize = 1 << 20;

impl Config {
    /// Reads `file`, and the credentials that it names.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        let written: Written = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            let problem = format!("line {line}: {}", error.message().lines().next().unwrap_or_default());
            ConfigError::Malformed { file: file.to_owned(), problem }
        })?;
        written.check(file)
    }
}

impl Written {
    fn check(self, file: &Path) -> Result<Config, ConfigError> {
        let bad = |key: &str, problem: String| ConfigError::Value {
            file: file.to_owned(),
            key: key.to_owned(),
            problem,
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = match self.workers.unwrap_or(cores) {
            count @ 1..=1024 => u16::try_from(count).unwrap_or(1),
            count => return Err(bad("workers", format!("{count} is not between 1 and 1024"))),
        };
        let exchanges = self.limits.exchanges.unwrap_or(65_536);
        let body_mib = self.limits.body_mib.unwrap_or(32);
        let bodies_total_mib = self.limits.bodies_total_mib.unwrap_or(1024);
        for (key, value, range) in [
            ("limits.exchanges", exchanges, 64..=4_194_304),
            ("limits.body_mib", body_mib, 1..=1024),
            ("limits.bodies_total_mib", bodies_total_mib, body_mib..=1_048_576),
        ] {
            if !range.contains(&value) {
                let (start, end) = range.into_inner();
                return Err(bad(key, format!("{value} is not between {start} and {end}")));
            }
        }
        let spool_sync = match self.usage.sync.as_deref() {
            None | Some("interval") => SyncPolicy::Interval,
            Some("always") => SyncPolicy::Always,
            Some("never") => SyncPolicy::Never,
            Some(_) => return Err(bad("usage.sync", "is none of always, interval, never".to_owned())),
        };
        let per_worker = |total: usize| total.div_ceil(usize::from(workers));
        Ok(Config {
            runtime_dir: self.runtime_dir.unwrap_or_else(|| self.data_dir.join("run")),
            data_dir: self.data_dir,
            workers,
            http: self.http.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            http_tls: self.http.tls.map(|written| client_tls(file, written)).transpose()?,
            ops: self.ops.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9180))),
            control_socket: self.control.socket,
            credentials: self
                .credentials
                .into_iter()
                .map(|(name, written)| Ok((name.clone(), credential(file, &name, written)?)))
                .collect::<Result<_, ConfigError>>()?,
            limits: Limits {
                connections_per_worker: per_worker(self.limits.connections.unwrap_or(65_536)),
                exchanges_per_worker: per_worker(exchanges),
                body_bytes_max: body_mib * MIB,
                bodies_bytes_max: bodies_total_mib * MIB,
                drain: Duration::from_secs(self.limits.drain_seconds.unwrap_or(30)),
            },
            spool_sync,
            spool_retention: Duration::from_secs(60 * self.usage.retention_minutes.unwrap_or(15)),
            upstream_ca_file: self.upstream_ca_file,
        })
    }
}

fn client_tls(file: &Path, written: WrittenTls) -> Result<ClientTls, ConfigError> {
    let first = CertificateFiles { certificate: written.certificate_file, key: written.key_file };
    let others = written
        .certificates
        .into_iter()
        .map(|written| CertificateFiles { certificate: written.certificate_file, key: written.key_file });
    let certificates = std::iter::once(first).chain(others).collect();
    let client_ca = written.client_ca_file;
    ClientTls::load(TlsFiles { certificates, client_ca }).map_err(|error| ConfigError::Value {
        file: file.to_owned(),
        key: error.key.to_owned(),
        problem: format!("{}: {}", error.file, error.problem),
    })
}

fn credential(file: &Path, name: &str, written: WrittenCredential) -> Result<Credential, ConfigError> {
    let bad = |problem: String| ConfigError::Value {
        file: file.to_owned(),
        key: format!("credentials.{name}"),
        problem,
    };
    let secret = match (&written.env, &written.file) {
        (Some(variable), None) => std::env::var(variable)
            .map_err(|_| bad(format!("the environment has no variable {variable}, or it is not UTF-8")))?,
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| bad(format!("{}: {error}", path.display())))?,
        _ => return Err(bad("give either env (a variable's name) or file (a path)".to_owned())),
    };
    if secret.is_empty() || secret.bytes().any(|byte| !(0x21..0x7f).contains(&byte)) {
        return Err(bad("the secret is empty, or has bytes that a header can't carry".to_owned()));
    }
    if written.hosts.is_empty() {
        return Err(bad("hosts is empty: name the host:port it may be sent to".to_owned()));
    }
    let hosts = written.hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
    Ok(Credential { secret: Zeroizing::new(secret), hosts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dataplane.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file).map_err(|error| error.to_string())
    }

    const LEAST: &str = "data_dir = '/d'\n[control]\nsocket = '/r/control.sock'\n";

    #[test]
    fn what_is_not_written_has_its_default() {
        let config = load(LEAST).unwrap();
        assert_eq!(config.http.to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits.body_bytes_max, 32 << 20);
        assert_eq!(config.spool_sync, SyncPolicy::Interval);
        assert_eq!(config.runtime_dir, Path::new("/d/run"));
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_allowed() {
        let cases = [
            (format!("workers = 0\n{LEAST}"), "workers: 0 is not between 1 and 1024"),
            (format!("{LEAST}[usage]\nsync = 'often'\n"), "usage.sync: is none of always, interval, never"),
            (format!("{LEAST}[credentials.A]\nhosts = ['h:1']\n"), "give either env"),
            (
                format!("{LEAST}[credentials.A]\nenv = 'LIUTONG_NOT_SET'\nhosts = ['h:1']\n"),
                "LIUTONG_NOT_SET",
            ),
            (format!("{LEAST}[credentials.A]\nsecret = 's'\nhosts = ['h:1']\n"), "unknown field `secret`"),
            (format!("colour = 1\n{LEAST}"), "line 1: unknown field `colour`"),
        ];
        for (text, expected) in cases {
            let error = load(&text).err().unwrap();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("dataplane.toml"), "{error}");
        }
    }
}
