//! Backups: the registry and the usage in ClickHouse, as one directory of plain files.
//!
//! ```text
//! 20261129T080000Z-1a2b3c4d/
//!   registry.jsonl.gz            the registry as it was at one moment (`registry::dump`)
//!   usage_events.20261128.gz     a table's partition in ClickHouse's Native format (`clickhouse::transfer`)
//!   ...
//!   manifest.json                what there is, with checksums; written last
//! ```
//!
//! It needs no control plane: the command reads where things are from the control plane's configuration. One
//! may run meanwhile, and take changes and batches. Keys are in it as SHA-256 alone, and files are for their
//! owner alone (0600).
//!
//! Invariants:
//!
//!   * a directory under its own name is whole: it is made under another one, synced, and renamed
//!   * a backup has an end; who makes one removes those in the same place whose end has come
//!   * what a restore must not undo (revocations, erasures, legal holds) stays: see `registry::dump::load`

/// Making one.
pub mod create;
/// What a backup says of itself, and which there are.
pub mod manifest;
/// Putting one in the place of an installation that is empty, or is to be replaced.
pub mod restore;
/// ClickHouse, reached or started for the time it takes.
mod usage;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::clickhouse::ClickHouseError;
use crate::clickhouse::engine::EngineError;
use crate::clickhouse::transfer::TransferError;
use crate::config::ConfigError;
use crate::registry::RegistryError;

/// The registry's file in a backup.
const REGISTRY: &str = "registry.jsonl.gz";

/// Why there is no backup, or nothing was restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The control plane's configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// ClickHouse failed.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// The embedded ClickHouse can't be started.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A table did not get across.
    #[error("{table}: {source}")]
    Table {
        /// The table.
        table: String,
        /// Why.
        source: TransferError,
    },
    /// A file failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no backup.
    #[error("{}: not a backup: {reason}", path.display())]
    NotABackup {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Its files are not those that it was made with.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        reason: String,
    },
    /// ClickHouse has usage already.
    #[error("ClickHouse is not empty ({table} has {rows} rows): restore into an empty one, or add --replace")]
    NotEmpty {
        /// The table.
        table: &'static str,
        /// How many.
        rows: u64,
    },
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}
