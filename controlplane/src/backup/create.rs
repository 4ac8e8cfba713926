//! Making a backup while everything runs.
//!
//! The registry is read in one transaction. Usage is read before it: whatever an event names, the registry
//! knows.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::manifest::{self, Entry, FILE, Found, Manifest, PARTIAL};
use super::usage::Usage;
use super::{BackupError, REGISTRY, at};
use crate::clickhouse::transfer;
use crate::config::Config;
use crate::keys;
use crate::registry::{Registry, RegistryError};

/// Makes a backup in a directory of its own under `directory`, and removes those there whose end has come.
pub async fn create(config: &Config, directory: &Path, keep_days: u32) -> Result<Found, BackupError> {
    make_private(directory)?;
    let made = Timestamp::now();
    let random = keys::random_u64().map_err(RegistryError::from)?;
    let id = format!("{}-{:08x}", made.strftime("%Y%m%dT%H%M%SZ"), random >> 32);
    let partial = directory.join(format!("{PARTIAL}{id}"));
    make_private(&partial)?;
    let filled = fill(config, &partial, Manifest::new(id.clone(), made, keep_days)).await;
    let manifest = match filled {
        Ok(manifest) => manifest,
        Err(error) => {
            // Best effort: `prune` finds it otherwise.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    let path = directory.join(id);
    fs::rename(&partial, &path).map_err(at(&path))?;
    sync_dir(directory)?;
    manifest::prune(directory, None)?;
    Ok(Found { path, manifest })
}

async fn fill(config: &Config, dir: &Path, mut manifest: Manifest) -> Result<Manifest, BackupError> {
    let usage = Usage::open(&config.clickhouse, &config.data_dir).await?;
    let read = read_usage(&usage, dir, &mut manifest.files).await;
    usage.close().await;
    read?;
    let registry = Registry::open(&config.registry).await?;
    let mut out = Out::create(dir.join(REGISTRY))?;
    let dumped = registry.dump(&mut out.gzip).await?;
    manifest.files.push(out.finish(None, dumped.rows)?);
    manifest.registry_id = registry.id().to_string();
    manifest.generation = dumped.generation.0;
    manifest.erasures = registry.erasures_made().await?;
    registry.close().await;
    let path = dir.join(FILE);
    let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from).map_err(at(&path))?;
    let mut file = create_private(&path)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(at(&path))?;
    sync_dir(dir)?;
    Ok(manifest)
}

async fn read_usage(usage: &Usage, dir: &Path, files: &mut Vec<Entry>) -> Result<(), BackupError> {
    for table in transfer::TABLES {
        // Listed when its turn comes: what is added later belongs to batches that the ledger does not have.
        for partition in usage.client.partitions(table).await? {
            let mut out = Out::create(dir.join(format!("{table}.{}.gz", partition.id)))?;
            let read = usage.client.read_partition(table, &partition.id, &mut out.gzip).await;
            read.map_err(|source| BackupError::Table { table: table.to_owned(), source })?;
            files.push(out.finish(Some(table), partition.rows)?);
        }
    }
    Ok(())
}

/// A file that is being written.
struct Out {
    path: PathBuf,
    gzip: GzEncoder<BufWriter<File>>,
}

impl Out {
    fn create(path: PathBuf) -> Result<Self, BackupError> {
        let file = BufWriter::with_capacity(1 << 18, create_private(&path)?);
        // Columns compress well at once.
        Ok(Self { path, gzip: GzEncoder::new(file, Compression::fast()) })
    }

    /// Brings it to disk, and reads it once more for its checksum: of what is there, not of what was meant.
    fn finish(self, table: Option<&str>, rows: u64) -> Result<Entry, BackupError> {
        let Self { path, gzip } = self;
        let written =
            gzip.finish().and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
        written.and_then(|file| file.sync_all()).map_err(at(&path))?;
        let (bytes, sha256) = manifest::measure(&path)?;
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Entry { file, table: table.map(str::to_owned), rows, bytes, sha256 })
    }
}

fn create_private(path: &Path) -> Result<File, BackupError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at(path))
}

fn make_private(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}

fn sync_dir(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(at(path))
}
