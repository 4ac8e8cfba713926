//! Putting a backup in the place of an installation.
//!
//! Nothing is touched before every file was compared with its checksum. The registry is replaced in one
//! transaction, which is begun first (no control plane may be there) and committed last: what fails in
//! between leaves the registry as it was, and is made good by another attempt with `replace`.
//!
//! Backups beside this one may know of erasures that were made after it; they are made again by the control
//! plane that starts next, as are those that the replaced registry knew.

use std::fs::File;
use std::path::Path;

use flate2::read::GzDecoder;

use super::manifest::{self, Manifest};
use super::usage::Usage;
use super::{BackupError, REGISTRY, at};
use crate::clickhouse::transfer;
use crate::config::Config;
use crate::registry::dump::load::{Restored, Restoring};
use crate::registry::erasure::Erasure;

/// How a backup is restored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether usage that is in ClickHouse goes; without it a ClickHouse with usage is an error.
    pub replace: bool,
    /// Whether ClickHouse is left alone.
    pub registry_only: bool,
}

/// Restores a backup into the installation of a configuration.
pub async fn restore(config: &Config, backup: &Path, options: Options) -> Result<Restored, BackupError> {
    let manifest = Manifest::read(backup)?;
    manifest.verify(backup)?;
    let path = backup.join(REGISTRY);
    let mut dump = std::io::BufReader::new(GzDecoder::new(File::open(&path).map_err(at(&path))?));
    make_private(&config.data_dir)?;
    let later = erasures_beside(backup, &manifest)?;
    let restoring = Restoring::begin(&config.registry, &mut dump, &later).await?;
    if !options.registry_only {
        let usage = Usage::open(&config.clickhouse, &config.data_dir).await?;
        let written = write_usage(&usage, backup, &manifest, config.raw_days, options.replace).await;
        usage.close().await;
        written?;
    }
    Ok(restoring.commit().await?)
}

/// What later backups in the same place say was erased.
fn erasures_beside(backup: &Path, manifest: &Manifest) -> Result<Vec<Erasure>, BackupError> {
    let full = std::path::absolute(backup).map_err(at(backup))?;
    let Some(directory) = full.parent() else { return Ok(Vec::new()) };
    let others = manifest::list(directory)?.into_iter().map(|found| found.manifest);
    let later = others.filter(|other| other.made_at > manifest.made_at);
    Ok(later.flat_map(|other| other.erasures).collect())
}

async fn write_usage(
    usage: &Usage,
    backup: &Path,
    manifest: &Manifest,
    raw_days: u32,
    replace: bool,
) -> Result<(), BackupError> {
    let client = &usage.client;
    client.migrate(raw_days).await?;
    // What is held must not expire before the control plane knows of it.
    client.retain_all().await?;
    for table in transfer::TABLES {
        let rows = client.count(table).await?;
        if rows > 0 && !replace {
            return Err(BackupError::NotEmpty { table, rows });
        }
        if rows > 0 {
            client.empty(table).await?;
        }
    }
    for table in transfer::TABLES {
        for entry in manifest.files.iter().filter(|entry| entry.table.as_deref() == Some(table)) {
            let path = backup.join(&entry.file);
            let mut rows = GzDecoder::new(File::open(&path).map_err(at(&path))?);
            let written = client.write_partition(table, &mut rows).await;
            written.map_err(|source| BackupError::Table { table: table.to_owned(), source })?;
        }
    }
    Ok(())
}

fn make_private(path: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}
