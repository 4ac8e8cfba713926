//! Why a command failed: what happened, which thing, what to do; and the exit status that says it to scripts.

use std::path::PathBuf;

use thiserror::Error;

use crate::quickstart::QuickstartError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("no administrator's key: neither LIUTONG_ADMIN_KEY nor LIUTONG_ADMIN_KEY_FILE is set")]
    NoAdminKey,
    #[error("the administrator's key in {origin} is {reason}")]
    BadAdminKey { origin: String, reason: &'static str },
    #[error("{action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} holds no segment", path.display())]
    NoSegments { path: PathBuf },
    #[error("--admin-url {url:?}: {reason}")]
    AdminUrl { url: String, reason: String },
    #[error("the admin API at {url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{action}: the admin API answered {status}: {text}")]
    Refused { action: String, status: u16, text: String },
    #[error("{action}: the admin API's answer is not what this command expects: {reason}")]
    Unexpected { action: String, reason: String },
    #[error("{events} events damaged or missing, {faults} faults in {segments} segments")]
    Damaged { events: u64, faults: u64, segments: u64 },
    #[error("writing to stdout: {source}")]
    Stdout { source: std::io::Error },
    #[error("starting the runtime: {source}")]
    Runtime { source: std::io::Error },
    #[error(transparent)]
    Quickstart(#[from] QuickstartError),
}

impl CliError {
    /// 1 error, 2 usage, 3 not found, 4 not authorized, 5 conflict.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::AdminUrl { .. } => 2,
            Self::NoSegments { .. } => 3,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
            Self::NoAdminKey | Self::BadAdminKey { .. } => 4,
            Self::Refused { status: 404, .. } => 3,
            Self::Refused { status: 401 | 403, .. } => 4,
            Self::Refused { status: 409, .. } => 5,
            Self::Quickstart(error) if error.is_usage() => 2,
            _ => 1,
        }
    }

    /// Says it on stderr.
    pub(super) fn print(&self) {
        // A reader such as `head` that has seen enough is no error worth a message.
        if matches!(self, Self::Stdout { source } if source.kind() == std::io::ErrorKind::BrokenPipe) {
            return;
        }
        eprintln!("liutong: {self}");
        if let Some(hint) = self.hint() {
            eprintln!("  {hint}");
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoAdminKey => {
                Some("after `liutong quickstart` the key is in the file admin-key of its data directory")
            }
            Self::Unreachable { .. } => Some(
                "is liutong-controlplane running there? LIUTONG_ADMIN_URL or --admin-url says where it is",
            ),
            Self::Refused { status: 401, .. } => {
                Some("check LIUTONG_ADMIN_KEY; an application's key (sk-lt-) does not work here")
            }
            Self::Refused { status: 403, .. } => Some("this administrator's role does not allow it"),
            Self::Refused { status: 503, .. } => {
                Some("the control plane is starting, or ClickHouse is away: try again")
            }
            _ => None,
        }
    }
}
