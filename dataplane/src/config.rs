//! The data plane's configuration: as the administrator wrote it, then as the program needs it.
//!
//! One TOML file. Nothing secret may stand in it, and no error repeats what may be one.

/// Upstream credentials.
mod credential;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::spool::SyncPolicy;
use crate::tls::certificate::CertificateFiles;
use crate::tls::clients::{ClientTls, TlsFiles};

pub use credential::{Credential, Host};

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
    credentials: HashMap<String, credential::Written>,
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
    socket: Option<OneOrMore<PathBuf>>,
    address: Option<OneOrMore<String>>,
    stale_limit_seconds: Option<u64>,
}

/// Where several control planes share a registry.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn all(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(all) => all,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    connections: Option<u64>,
    exchanges: Option<u64>,
    body_mib: Option<u64>,
    bodies_total_mib: Option<u64>,
    drain_seconds: Option<u64>,
    idle_seconds: Option<u64>,
    head_seconds: Option<u64>,
    body_seconds: Option<u64>,
    write_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUsage {
    sync: Option<String>,
    retention_minutes: Option<u64>,
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
    /// How long a client's connection may be open between requests.
    pub idle: Duration,
    /// How long a head may take from its first byte on, in all, and a TLS handshake.
    pub head: Duration,
    /// How long a body may take, beside a second for each `BODY_RATE_MIN` bytes.
    pub body: Duration,
    /// How long a client may leave what we write unread.
    pub write: Duration,
}

/// Where the control planes are; the first is used first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// On this host: their sockets.
    Sockets(Vec<PathBuf>),
    /// On other hosts, which are reached over TLS: each `host:port`.
    Remote(Vec<String>),
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
    /// Where the control plane is.
    pub control: Control,
    /// How long requests are served without word of the control plane; for ever without it.
    pub stale_limit: Option<Duration>,
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

/// What a limit of time towards clients may be.
const CLIENT_SECONDS: RangeInclusive<u64> = 1..=86_400;

/// How long segments may stay past their acknowledgement; none at all is fine.
const RETENTION_MINUTES: RangeInclusive<u64> = 0..=366 * 24 * 60;

/// The least is well above the ten seconds after which the control plane gives word of itself.
const STALE_LIMIT_SECONDS: RangeInclusive<u64> = 30..=10 * 365 * 24 * 60 * 60;

impl Config {
    /// Reads of `file` what enrolling needs: the data directory, and the control plane's `host:port`.
    pub fn load_for_enrolling(file: &Path) -> Result<(PathBuf, String), ConfigError> {
        let written = read(file)?;
        match written.control.place() {
            Ok(Control::Remote(mut addresses)) => Ok((written.data_dir, addresses.swap_remove(0))),
            Ok(Control::Sockets(_)) => Err(ConfigError::Value {
                file: file.to_owned(),
                key: "control.socket".to_owned(),
                problem:
                    "on the control plane's own host nothing is to be enrolled; elsewhere set control.address"
                        .to_owned(),
            }),
            Err(problem) => {
                Err(ConfigError::Value { file: file.to_owned(), key: "control".to_owned(), problem })
            }
        }
    }

    /// Reads `file`, and the credentials that it names.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        read(file)?.check(file)
    }
}

fn read(file: &Path) -> Result<Written, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        let problem = format!("line {line}: {}", secret::without_values(error.message()));
        ConfigError::Malformed { file: file.to_owned(), problem }
    })
}

impl WrittenControl {
    fn place(&self) -> Result<Control, String> {
        const EITHER: &str =
            "give either socket (on this host) or address (host:port, over TLS), one or a list";
        let is_address = |address: &String| {
            let parts = address.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let given = (self.socket.clone().map(OneOrMore::all), self.address.clone().map(OneOrMore::all));
        match given {
            (Some(sockets), None) if !sockets.is_empty() => Ok(Control::Sockets(sockets)),
            (None, Some(addresses)) if addresses.is_empty() => Err(EITHER.to_owned()),
            (None, Some(addresses)) if addresses.iter().all(is_address) => Ok(Control::Remote(addresses)),
            (None, Some(_)) => Err("address is host:port".to_owned()),
            _ => Err(EITHER.to_owned()),
        }
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
        let retention_minutes = self.usage.retention_minutes.unwrap_or(15);
        if !RETENTION_MINUTES.contains(&retention_minutes) {
            let (least, most) = RETENTION_MINUTES.into_inner();
            let problem = format!("{retention_minutes} is not between {least} and {most}");
            return Err(bad("usage.retention_minutes", problem));
        }
        let limits = self.limits.check(workers).map_err(|(key, problem)| bad(key, problem))?;
        let spool_sync = match self.usage.sync.as_deref() {
            None | Some("interval") => SyncPolicy::Interval,
            Some("always") => SyncPolicy::Always,
            Some("never") => SyncPolicy::Never,
            Some(_) => return Err(bad("usage.sync", "is none of always, interval, never".to_owned())),
        };
        let control = self.control.place().map_err(|problem| bad("control", problem))?;
        let stale_limit = match self.control.stale_limit_seconds {
            Some(seconds) if !STALE_LIMIT_SECONDS.contains(&seconds) => {
                let (least, most) = STALE_LIMIT_SECONDS.into_inner();
                let problem = format!("{seconds} is not between {least} and {most}");
                return Err(bad("control.stale_limit_seconds", problem));
            }
            seconds => seconds.map(Duration::from_secs),
        };
        Ok(Config {
            runtime_dir: self.runtime_dir.unwrap_or_else(|| self.data_dir.join("run")),
            data_dir: self.data_dir,
            workers,
            http: self.http.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            http_tls: self.http.tls.map(|written| client_tls(file, written)).transpose()?,
            ops: self.ops.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9180))),
            control,
            stale_limit,
            credentials: credential::read_all(file, self.credentials)?,
            limits,
            spool_sync,
            spool_retention: Duration::from_secs(60 * retention_minutes),
            upstream_ca_file: self.upstream_ca_file,
        })
    }
}

impl WrittenLimits {
    /// What they come to with so many workers; else a key, and what is wrong with its value.
    fn check(&self, workers: u16) -> Result<Limits, (&'static str, String)> {
        let in_range = |key, value: u64, range: RangeInclusive<u64>| {
            let problem = format!("{value} is not between {} and {}", range.start(), range.end());
            if range.contains(&value) { Ok(value) } else { Err((key, problem)) }
        };
        let connections = in_range("limits.connections", self.connections.unwrap_or(65_536), 1..=4_194_304)?;
        let drain = in_range("limits.drain_seconds", self.drain_seconds.unwrap_or(30), 0..=86_400)?;
        let exchanges = in_range("limits.exchanges", self.exchanges.unwrap_or(65_536), 64..=4_194_304)?;
        let body_mib = in_range("limits.body_mib", self.body_mib.unwrap_or(32), 1..=1024)?;
        let all_mib = self.bodies_total_mib.unwrap_or(1024);
        let all_mib = in_range("limits.bodies_total_mib", all_mib, body_mib..=1_048_576)?;
        let seconds = |key, written: Option<u64>, default| {
            in_range(key, written.unwrap_or(default), CLIENT_SECONDS).map(Duration::from_secs)
        };
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let per_worker = |total: usize| total.div_ceil(usize::from(workers));
        Ok(Limits {
            connections_per_worker: per_worker(size(connections)),
            exchanges_per_worker: per_worker(size(exchanges)),
            body_bytes_max: size(body_mib << 20),
            bodies_bytes_max: size(all_mib << 20),
            drain: Duration::from_secs(drain),
            idle: seconds("limits.idle_seconds", self.idle_seconds, 75)?,
            head: seconds("limits.head_seconds", self.head_seconds, 10)?,
            body: seconds("limits.body_seconds", self.body_seconds, 30)?,
            write: seconds("limits.write_seconds", self.write_seconds, 60)?,
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

#[cfg(test)]
mod tests;
