//! What a backup says of itself: what it holds, from when, until when it is kept, and each file's checksum.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BackupError, at};
use crate::clickhouse::transfer;
use crate::registry::erasure::Erasure;

/// The file's name.
pub const FILE: &str = "manifest.json";
/// What a backup's directory is called while it is being made.
pub(super) const PARTIAL: &str = ".partial-";

const FORMAT: u32 = 1;
/// How long a backup that was never finished stays.
const PARTIAL_SECONDS: u64 = 24 * 60 * 60;

/// What a backup holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    #[serde(rename = "liutong_backup")]
    format: u32,
    /// Its name, that of its directory.
    pub id: String,
    /// When it was begun, RFC 3339.
    pub made_at: String,
    /// From when on it may be removed, RFC 3339.
    pub expires_at: String,
    /// The history that the registry is of.
    pub registry_id: String,
    /// The registry's generation.
    pub generation: u64,
    /// What had been erased by then: an older backup that is restored loses it, too.
    pub erasures: Vec<Erasure>,
    /// The files.
    pub files: Vec<Entry>,
}

/// A file of a backup.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entry {
    /// Its name.
    pub file: String,
    /// The table of ClickHouse's that it is a partition of; none for the registry.
    pub table: Option<String>,
    /// How many rows it had when it was found.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// Of the whole file, in hex.
    pub sha256: String,
}

/// A backup on disk.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its directory.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl Manifest {
    pub(super) fn new(id: String, made: Timestamp, keep_days: u32) -> Self {
        // A span of hours: days would need a calendar.
        let end = made.checked_add(jiff::SignedDuration::from_hours(24 * i64::from(keep_days)));
        Self {
            format: FORMAT,
            id,
            made_at: made.to_string(),
            expires_at: end.unwrap_or(Timestamp::MAX).to_string(),
            registry_id: String::new(),
            generation: 0,
            erasures: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Reads the manifest of a backup.
    pub fn read(backup: &Path) -> Result<Self, BackupError> {
        let path = backup.join(FILE);
        let not = |reason: String| BackupError::NotABackup { path: backup.to_owned(), reason };
        let text = fs::read(&path).map_err(|error| not(format!("{FILE}: {error}")))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| not(format!("{FILE}: {error}")))?;
        if manifest.format != FORMAT {
            return Err(not(format!("format {}, this program knows format {FORMAT}", manifest.format)));
        }
        let is_plain = |entry: &Entry| !entry.file.contains('/') && !entry.file.starts_with('.');
        let is_ours = |entry: &Entry| entry.table.as_deref().is_none_or(|table| known(table).is_some());
        match manifest.files.iter().find(|entry| !is_plain(entry) || !is_ours(entry)) {
            Some(entry) => Err(not(format!("{FILE} names {:?}, which no backup has", entry.file))),
            None => Ok(manifest),
        }
    }

    /// Reads every file, and compares it with what it was when it was made.
    pub fn verify(&self, backup: &Path) -> Result<(), BackupError> {
        for entry in &self.files {
            let path = backup.join(&entry.file);
            let (bytes, sha256) = measure(&path)?;
            if (bytes, sha256.as_str()) != (entry.bytes, entry.sha256.as_str()) {
                let reason = format!(
                    "{bytes} bytes with SHA-256 {sha256}, made with {} and {}",
                    entry.bytes, entry.sha256
                );
                return Err(BackupError::Damaged { path, reason });
            }
        }
        Ok(())
    }

    /// How many bytes its files have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }

    fn is_over(&self, now: Timestamp, older_than: Option<Timestamp>) -> bool {
        let before = |text: &str, limit: Timestamp| text.parse::<Timestamp>().is_ok_and(|at| at <= limit);
        before(&self.expires_at, now) || older_than.is_some_and(|limit| before(&self.made_at, limit))
    }
}

/// The table of ours that has this name.
pub(super) fn known(table: &str) -> Option<&'static str> {
    transfer::TABLES.into_iter().find(|known| *known == table)
}

/// The backups in a directory, the oldest first.
pub fn list(directory: &Path) -> Result<Vec<Found>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let is_partial = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PARTIAL));
        if !is_partial && path.join(FILE).exists() {
            let manifest = Manifest::read(&path)?;
            found.push(Found { path, manifest });
        }
    }
    found.sort_by(|a, b| a.manifest.made_at.cmp(&b.manifest.made_at).then_with(|| a.path.cmp(&b.path)));
    Ok(found)
}

/// Removes the backups whose end has come, or that were made by `older_than`; and what was never finished.
pub fn prune(directory: &Path, older_than: Option<Timestamp>) -> Result<Vec<Found>, BackupError> {
    let now = Timestamp::now();
    let over: Vec<Found> =
        list(directory)?.into_iter().filter(|found| found.manifest.is_over(now, older_than)).collect();
    for found in &over {
        // From here on it is no backup any more, and what a crash leaves of it goes with the next call.
        let rest = directory.join(format!("{PARTIAL}{}", found.manifest.id));
        fs::rename(&found.path, &rest).map_err(at(&found.path))?;
        fs::remove_dir_all(&rest).map_err(at(&rest))?;
    }
    for entry in fs::read_dir(directory).map_err(at(directory))?.flatten() {
        let is_partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        if is_partial && age.is_some_and(|age| age.as_secs() > PARTIAL_SECONDS) {
            fs::remove_dir_all(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(over)
}

/// A file's length, and its SHA-256 in hex.
pub(super) fn measure(path: &Path) -> Result<(u64, String), BackupError> {
    let mut file = File::open(path).map_err(at(path))?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let len = file.read(&mut piece).map_err(at(path))?;
        if len == 0 {
            break;
        }
        hash.update(&piece[..len]);
        bytes += len as u64;
    }
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(directory: &Path, name: &str, made: &str, keep_days: u32) {
        let manifest = Manifest::new(name.to_owned(), made.parse().unwrap(), keep_days);
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join(FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
    }

    fn names(found: &[Found]) -> Vec<&str> {
        found.iter().map(|one| one.manifest.id.as_str()).collect()
    }

    #[test]
    fn backups_go_at_their_end_or_when_they_are_older_than_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "b", "2026-02-01T00:00:00Z", 36_500);
        make(dir.path(), "a", "2026-01-01T00:00:00Z", 36_500);
        make(dir.path(), "over", "2020-01-01T00:00:00Z", 30);
        fs::create_dir(dir.path().join(".partial-x")).unwrap();
        fs::create_dir(dir.path().join("something else")).unwrap();
        assert_eq!(names(&prune(dir.path(), None).unwrap()), ["over"]);
        let older = "2026-01-15T00:00:00Z".parse().unwrap();
        assert_eq!(names(&prune(dir.path(), Some(older)).unwrap()), ["a"]);
        assert_eq!(names(&list(dir.path()).unwrap()), ["b"]);
        assert!(dir.path().join("something else").exists() && dir.path().join(".partial-x").exists());
    }

    #[test]
    fn a_manifest_that_leads_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "a", "2026-01-01T00:00:00Z", 1);
        let path = dir.path().join("a");
        for (file, table) in [("../x", None), ("x", Some("system.users")), (".x", None)] {
            let mut manifest = Manifest::read(&path).unwrap();
            let (file, table) = (file.to_owned(), table.map(str::to_owned));
            manifest.files = vec![Entry { file, table, rows: 0, bytes: 0, sha256: String::new() }];
            let before = fs::read(path.join(FILE)).unwrap();
            fs::write(path.join(FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
            assert!(matches!(Manifest::read(&path), Err(BackupError::NotABackup { .. })));
            fs::write(path.join(FILE), before).unwrap();
        }
    }
}
