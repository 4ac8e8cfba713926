//! The copy of the tables on disk, from which a data plane starts while the control plane is away.
//!
//! ```text
//! tables/snapshot   Revoke{tombstones} SnapshotBegin SnapshotPart.. SnapshotEnd Revoke{tombstones}
//!                   replaced by rename
//! tables/changes    Delta and Revoke frames, in the order in which they were applied
//!                   appended, then fdatasync
//! tables/current    when they were last known to be the control plane's, Unix milliseconds in 20 digits; of
//!                   which registry, in 16 hexadecimal ones; at which generation, in 20
//! ```
//!
//! Frames carry their own checksums. What is torn at the end of `changes` was never acknowledged, and is cut
//! off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use wire::frame::Frame;
use wire::id::{Generation, RegistryId};

use super::writer::{Incoming, TableWriter};
use crate::watch::millis;

/// When `changes` is longer than this, a new snapshot is asked for, which empties it.
const CHANGES_BYTES_MAX: u64 = 16 << 20;

/// The files.
pub struct TableStore {
    dir: PathBuf,
    changes: File,
    changes_bytes: u64,
}

/// A snapshot that is being written.
pub struct SnapshotFile {
    out: BufWriter<File>,
    scratch: Vec<u8>,
}

impl TableStore {
    /// Opens or makes the files in `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let changes = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("changes"))?;
        let changes_bytes = changes.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), changes, changes_bytes })
    }

    /// Applies what is on disk to empty tables. A snapshot that is damaged counts as none; revocations still
    /// hold.
    pub fn load(&mut self, writer: &mut TableWriter) -> io::Result<()> {
        let mut incoming = None;
        if let Ok(file) = File::open(self.dir.join("snapshot")) {
            read_frames(file, |frame| match frame {
                Frame::Revoke { digests, .. } => writer.revoke(&digests, false),
                Frame::SnapshotBegin { registry, generation } => {
                    incoming = Some(Incoming::new(registry, generation));
                }
                Frame::SnapshotPart(changes) => incoming.iter_mut().for_each(|i| i.add(changes.clone())),
                Frame::SnapshotEnd { changes, .. } => {
                    if let Some(whole) = incoming.take().filter(|i| i.changes() == changes) {
                        writer.replace(whole);
                    }
                }
                _ => {}
            })?;
        }
        self.changes.rewind()?;
        let whole = read_frames(&self.changes, |frame| match frame {
            Frame::Revoke { digests, .. } => writer.revoke(&digests, false),
            Frame::Delta { from, to, changes } => {
                writer.apply(from, to, changes);
            }
            _ => {}
        })?;
        self.changes.set_len(whole)?;
        self.changes.seek(io::SeekFrom::Start(whole))?;
        self.changes_bytes = whole;
        Ok(())
    }

    /// Appends a change. When this returns it survives a power cut.
    pub fn append(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.to_bytes();
        let written = self.changes.write_all(&bytes).and_then(|()| self.changes.sync_data());
        if written.is_err() {
            // Half a frame must not stand before the next one.
            self.changes.set_len(self.changes_bytes)?;
            self.changes.seek(io::SeekFrom::Start(self.changes_bytes))?;
        } else {
            self.changes_bytes += bytes.len() as u64;
        }
        written
    }

    /// Notes that the tables are the control plane's at this time (Unix milliseconds). Unsynced: what a power
    /// cut takes of it makes the tables look older than they are.
    pub fn note_current(&self, unix_ms: u64, position: (RegistryId, Generation)) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.dir.join("current"))?;
        let (registry, generation) = position;
        let line = format!("{unix_ms:020} {:016x} {:020}\n", registry.0, generation.0);
        file.write_all_at(line.as_bytes(), 0)
    }

    /// When they last were, as noted; where it was not, when the snapshot came. Tables that stand at less
    /// than what the note is about have lost changes on the disk: nobody knows when they were current.
    pub fn current_at_ms(&self, (registry, generation): (RegistryId, Generation)) -> u64 {
        let Ok(text) = fs::read_to_string(self.dir.join("current")) else { return self.came_at_ms() };
        let mut words = text.split_whitespace();
        let Some(noted_ms) = words.next().and_then(|word| word.parse().ok()) else {
            return self.came_at_ms();
        };
        let noted_registry = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        let noted_generation = words.next().and_then(|word| word.parse::<u64>().ok());
        let lacks =
            noted_registry == Some(registry.0) && noted_generation.is_some_and(|at| at > generation.0);
        if lacks { 0 } else { noted_ms }
    }

    fn came_at_ms(&self) -> u64 {
        let came =
            || fs::metadata(self.dir.join("snapshot")).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok();
        came().map_or(0, millis)
    }

    /// Whether a new snapshot would be shorter than what has piled up.
    pub fn is_long(&self) -> bool {
        self.changes_bytes > CHANGES_BYTES_MAX
    }

    /// Begins to write a snapshot beside the one that is there.
    pub fn begin(&self) -> io::Result<SnapshotFile> {
        let file = File::create(self.dir.join("snapshot.new"))?;
        Ok(SnapshotFile { out: BufWriter::with_capacity(1 << 18, file), scratch: Vec::new() })
    }

    /// Puts a complete snapshot in the place of all that is on disk.
    pub fn finish(&mut self, snapshot: SnapshotFile) -> io::Result<()> {
        snapshot.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(self.dir.join("snapshot.new"), self.dir.join("snapshot"))?;
        File::open(&self.dir)?.sync_all()?;
        // The snapshot has all of them, tombstones too. Deltas that outlive a crash here are older than it.
        self.changes.set_len(0)?;
        self.changes.rewind()?;
        self.changes_bytes = 0;
        Ok(())
    }
}

impl SnapshotFile {
    /// Adds a frame.
    pub fn add(&mut self, frame: &Frame) -> io::Result<()> {
        self.scratch.clear();
        frame.encode(&mut self.scratch);
        self.out.write_all(&self.scratch)
    }
}

/// Reads frames until the end or until bytes that are none; tells how many bytes the whole ones had.
fn read_frames(file: impl Read, mut each: impl FnMut(Frame)) -> io::Result<u64> {
    let mut file = BufReader::with_capacity(1 << 18, file);
    let (mut bytes, mut whole) = (Vec::new(), 0);
    loop {
        bytes.clear();
        file.by_ref().take(wire::frame::HEADER_BYTES as u64).read_to_end(&mut bytes)?;
        let Ok(Some(len)) = Frame::len_of(&bytes) else { return Ok(whole) };
        let missing = len - bytes.len().min(len);
        file.by_ref().take(missing as u64).read_to_end(&mut bytes)?;
        let Ok(Some((frame, used))) = Frame::decode(&bytes) else { return Ok(whole) };
        whole += used as u64;
        each(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Tables;
    use std::collections::HashMap;
    use std::sync::Arc;
    use wire::id::{ApplicationId, AttributionId, Generation, KeyDigest, KeyId, RegistryId};
    use wire::table::{Change, Key};

    fn key(number: u8) -> Change {
        Change::Key(Key {
            digest: KeyDigest([number; 32]),
            id: KeyId(1),
            application: ApplicationId(1),
            attribution: AttributionId(1),
            not_after_ms: 0,
            allow: None,
        })
    }

    fn delta(from: u64, change: Change) -> Frame {
        Frame::Delta { from: Generation(from), to: Generation(from + 1), changes: vec![change] }
    }

    fn revoke(number: u8) -> Frame {
        Frame::Revoke { revocation: 1, cut_streams: false, digests: vec![KeyDigest([number; 32])] }
    }

    fn write_snapshot(store: &mut TableStore) {
        let mut file = store.begin().unwrap();
        file.add(&revoke(9)).unwrap();
        file.add(&Frame::SnapshotBegin { registry: RegistryId(7), generation: Generation(5) }).unwrap();
        file.add(&Frame::SnapshotPart(vec![key(1), key(9)])).unwrap();
        file.add(&Frame::SnapshotEnd { generation: Generation(5), changes: 2 }).unwrap();
        store.finish(file).unwrap();
    }

    fn read(dir: &Path) -> (Arc<Tables>, TableWriter) {
        let tables = Arc::new(Tables::new());
        let mut writer = TableWriter::new(tables.clone(), HashMap::new());
        TableStore::open(dir).unwrap().load(&mut writer).unwrap();
        (tables, writer)
    }

    fn has(tables: &Tables, number: u8) -> bool {
        tables.caller(&KeyDigest([number; 32])).is_some()
    }

    #[test]
    fn a_start_finds_snapshot_deltas_and_revocations() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TableStore::open(dir.path()).unwrap();
        write_snapshot(&mut store);
        store.append(&delta(5, key(2))).unwrap();
        store.append(&revoke(1)).unwrap();
        let (tables, writer) = read(dir.path());
        assert!(tables.is_ready());
        assert_eq!(writer.position(), (RegistryId(7), Generation(6)));
        assert_eq!([1, 2, 9].map(|number| has(&tables, number)), [false, true, false]);
    }

    #[test]
    fn a_change_torn_at_any_byte_is_cut_off_and_the_next_one_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TableStore::open(dir.path()).unwrap();
        write_snapshot(&mut store);
        store.append(&delta(5, key(2))).unwrap();
        let whole = fs::read(dir.path().join("changes")).unwrap();
        let torn = delta(6, key(3)).to_bytes();
        for len in 0..torn.len() {
            fs::write(dir.path().join("changes"), [&whole[..], &torn[..len]].concat()).unwrap();
            let mut store = TableStore::open(dir.path()).unwrap();
            let (tables, mut writer) = read(dir.path());
            store.load(&mut writer).unwrap();
            assert!(has(&tables, 2) && !has(&tables, 3), "{len}");
            store.append(&delta(6, key(4))).unwrap();
            assert!(has(&read(dir.path()).0, 4), "{len}");
        }
    }

    #[test]
    fn when_the_tables_were_current_is_known_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TableStore::open(dir.path()).unwrap();
        let here = (RegistryId(7), Generation(5));
        assert_eq!(store.current_at_ms(here), 0);
        write_snapshot(&mut store);
        assert!(store.current_at_ms(here).abs_diff(crate::auth::unix_ms()) < 600_000, "as its file");
        for at in [1_800_000_000_000, 7] {
            store.note_current(at, here).unwrap();
            assert_eq!(TableStore::open(dir.path()).unwrap().current_at_ms(here), at);
        }
        fs::write(dir.path().join("current"), "00000000000000000042\n").unwrap();
        assert_eq!(store.current_at_ms(here), 42, "of a version that noted no generation");
    }

    #[test]
    fn tables_that_lost_changes_on_the_disk_are_not_taken_for_current() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TableStore::open(dir.path()).unwrap();
        write_snapshot(&mut store);
        store.append(&delta(5, key(2))).unwrap();
        store.append(&delta(6, key(3))).unwrap();
        let (_, writer) = read(dir.path());
        store.note_current(1_800_000_000_000, writer.position()).unwrap();
        assert_eq!(store.current_at_ms(read(dir.path()).1.position()), 1_800_000_000_000);
        let mut bytes = fs::read(dir.path().join("changes")).unwrap();
        let at = bytes.len() / 2 + 40;
        bytes[at] ^= 1;
        fs::write(dir.path().join("changes"), &bytes).unwrap();
        let (_, writer) = read(dir.path());
        assert_eq!(writer.position().1, Generation(6));
        assert_eq!(store.current_at_ms(writer.position()), 0);
    }

    #[test]
    fn a_damaged_snapshot_leaves_the_tables_unready_but_revocations_hold() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TableStore::open(dir.path()).unwrap();
        write_snapshot(&mut store);
        let mut bytes = fs::read(dir.path().join("snapshot")).unwrap();
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        fs::write(dir.path().join("snapshot"), &bytes).unwrap();
        let (tables, writer) = read(dir.path());
        assert!(!tables.is_ready());
        assert_eq!(writer.tombstones().count(), 1);
    }
}
