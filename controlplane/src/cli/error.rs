//! Why a command failed: what happened, which thing, what to do; and the exit status that says it to scripts.

use std::path::PathBuf;

use secret::SourceError;
use thiserror::Error;

use crate::backup::BackupError;
use crate::quickstart::QuickstartError;
use crate::registry::RegistryError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error(
        "no administrator's key: no profile, and neither LIUTONG_ADMIN_KEY nor LIUTONG_ADMIN_KEY_FILE is set"
    )]
    NoAdminKey,
    #[error("the administrator's key, {origin}: {source}")]
    AdminKey { origin: String, source: SourceError },
    #[error("the administrator's key in {origin} is {reason}")]
    BadAdminKey { origin: String, reason: &'static str },
    #[error("{action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} holds no segment", path.display())]
    NoSegments { path: PathBuf },
    #[error("the admin API's URL {url:?}: {reason}")]
    AdminUrl { url: String, reason: String },
    #[error("the admin API at {url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{action}: the admin API answered {status}: {text}")]
    Refused { action: String, status: u16, text: String },
    #[error("{action}: the admin API's answer is not what this command expects: {reason}")]
    Unexpected { action: String, reason: String },
    #[error("{events} events damaged or missing, {faults} faults in {segments} segments")]
    Damaged { events: u64, faults: u64, segments: u64 },
    #[error("usage is not accounted for: {verdict} ({lost} lost, {doubled} stored more than once)")]
    Unaccounted { verdict: String, lost: u64, doubled: u64 },
    #[error("the audit trail is not as it was written: {faults} faults")]
    Altered { faults: usize },
    #[error("{count} checks failed")]
    Unwell { count: usize },
    #[error("{count} keys found")]
    KeysFound { count: u64 },
    #[error("writing to stdout: {source}")]
    Stdout { source: std::io::Error },
    #[error("starting the runtime: {source}")]
    Runtime { source: std::io::Error },
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Quickstart(#[from] QuickstartError),
}

impl CliError {
    /// 1 error, 2 usage, 3 not found, 4 not authorized, 5 conflict, 6 not reached: the same again may do.
    /// Stable: scripts rely on it, and `liutong --help` says it.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::AdminUrl { .. } => 2,
            Self::NoSegments { .. } => 3,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
            Self::AdminKey { source: SourceError::File { source, .. }, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                3
            }
            Self::NoAdminKey | Self::AdminKey { .. } | Self::BadAdminKey { .. } => 4,
            Self::Refused { status: 404, .. } => 3,
            Self::Refused { status: 401 | 403, .. } => 4,
            Self::Refused { status: 409 | 412, .. } => 5,
            Self::Unreachable { .. } | Self::Refused { status: 429 | 502..=504, .. } => 6,
            Self::Backup(BackupError::Config(_)) => 2,
            Self::Backup(BackupError::NotABackup { .. }) => 3,
            Self::Backup(BackupError::NotEmpty { .. } | BackupError::Registry(RegistryError::InUse)) => 5,
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

    /// What to do next.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoAdminKey => Some(
                "`liutong profile list --help` says how to make a profile; after `liutong quickstart` the key is in the \
                      file admin-key of its data directory",
            ),
            Self::Unreachable { .. } => Some(
                "is liutong-controlplane running there? `liutong doctor` looks; --profile, --admin-url or \
                 LIUTONG_ADMIN_URL say where it is",
            ),
            Self::Refused { status: 401, .. } => Some(
                "an administrator's key (sk-ltadm-) is needed; an application's (sk-lt-) does not work here",
            ),
            Self::Refused { status: 403, .. } => Some("this administrator's role does not allow it"),
            Self::Refused { status: 404, .. } => {
                Some("`list` in place of the last word shows what is there; names and ids are both taken")
            }
            Self::Refused { status: 409 | 412, .. } => {
                Some("it is there already, or was changed meanwhile: `show` it, then try again")
            }
            Self::Refused { status: 503, .. } => {
                Some("the control plane is starting, or ClickHouse is away: try again")
            }
            _ => None,
        }
    }
}
