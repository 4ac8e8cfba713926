//! Why quickstart could not start, in words that say what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::cli::CliError;

/// Why quickstart failed.
#[derive(Debug, Error)]
pub(crate) enum QuickstartError {
    #[error("{0}")]
    Usage(String),
    #[error("{action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not what quickstart wrote: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "another quickstart runs on {} (its lock is held): stop that one, or choose another --data-dir",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "the path {} is {len} bytes long, {max} is the most for a socket: choose a shorter --data-dir",
        path.display()
    )]
    SocketPath { path: PathBuf, len: usize, max: usize },
    #[error("--{flag} {address}: {source}; choose another address, or port 0 for any free port")]
    Address { flag: &'static str, address: SocketAddr, source: io::Error },
    #[error("--{flag} and --{other} are the same address, {address}")]
    SameAddress { flag: &'static str, other: &'static str, address: SocketAddr },
    #[error("--upstream {url:?}: {reason}")]
    UpstreamUrl { url: String, reason: String },
    #[error("the environment variable {name} is not set: the upstream's credential is to be in it")]
    NoCredential { name: String },
    #[error("processes of an earlier start still run: {pids}; end them with `kill {pids}`")]
    Orphans { pids: String },
    #[error("where this program lies cannot be found out: {source}")]
    OwnPath { source: io::Error },
    #[error("{} is missing: `cargo build --release` makes all programs side by side", path.display())]
    NoProgram { path: PathBuf },
    #[error("starting {title} ({}): {source}", path.display())]
    Spawn { title: &'static str, path: PathBuf, source: io::Error },
    #[error("{title} ended before it was ready ({status}){tail}")]
    EndedEarly { title: &'static str, status: String, tail: String },
    #[error("{title} was not ready within {seconds} s{tail}")]
    NotReady { title: &'static str, seconds: u64, tail: String },
    #[error("the demo upstream: {source}")]
    DemoUpstream { source: io::Error },
    #[error("signals cannot be caught: {source}")]
    Signals { source: io::Error },
    #[error("{signal} before all was ready")]
    Interrupted { signal: &'static str },
    #[error("no random bytes: {0}")]
    Random(String),
    #[error("{0}")]
    Engine(String),
    #[error("setting up the demo: {0}")]
    Setup(Box<CliError>),
    #[error("writing to stdout: {source}")]
    Stdout { source: io::Error },
}

impl QuickstartError {
    /// Whether the command line is to blame.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::UpstreamUrl { .. } | Self::SameAddress { .. })
    }
}

impl From<CliError> for QuickstartError {
    fn from(error: CliError) -> Self {
        Self::Setup(Box::new(error))
    }
}
