//! A disk that knows what was synced: what the process sees, and what a power cut would leave.
//!
//! A file's bytes reach the disk by sectors, a directory's entries one by one, each by its own `sync`; at a
//! power cut every sector and entry that was not synced is there or not, by chance. A failed sync leaves some
//! sectors behind and forgets that they are dirty, as kernels do: a second one succeeds and proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::panic::resume_unwind;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wire::id::{BootId, EventSeq};
use wire::record::{self, Record, Step};
use wire::segment_scan::{Found, Scan};

use super::super::host::{Host, HostFile};
use super::random::Random;

const SECTOR: usize = 512;
/// How much an error of reading takes.
const BLOCK: u64 = 4096;

/// What a process that was killed in the middle of an operation unwinds with.
pub(super) struct Killed;

#[derive(Clone, Debug)]
pub(super) struct SimHost {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) now: Instant,
    pub(super) unix_ms: u64,
    /// How many bytes go on the disk.
    pub(super) capacity: u64,
    /// How many of a thousand syncs, and writes, fail.
    pub(super) failing: (u64, u64),
    /// The process is killed at so manieth operation.
    pub(super) kill_in: Option<u64>,
    /// Places that can't be read, as blocks of a file, and files that can't be opened.
    unreadable: BTreeSet<(usize, u64)>,
    shut: BTreeSet<usize>,
    /// When an event was first written to any file.
    pub(super) written: BTreeMap<(BootId, EventSeq), Instant>,
    files: Vec<Inode>,
    dirs: Vec<Dir>,
    locks: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    disk: Vec<u8>,
    dirty: BTreeSet<usize>,
    links: usize,
    opens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir(usize),
}

#[derive(Debug, Default)]
struct Dir {
    seen: BTreeMap<String, Node>,
    disk: BTreeMap<String, Node>,
}

impl State {
    /// The process is gone, and with it its locks.
    pub(super) fn unlock_all(&mut self) {
        self.locks.clear();
        self.kill_in = None;
    }

    pub(super) fn used(&self) -> u64 {
        let files = self.files.iter().filter(|file| file.links + file.opens > 0);
        files.map(|file| file.seen.len() as u64).sum()
    }

    /// What was not synced is there or not.
    pub(super) fn cut_power(&mut self) {
        self.unlock_all();
        let random = &mut self.random;
        for dir in &mut self.dirs {
            let names: BTreeSet<String> = dir.seen.keys().chain(dir.disk.keys()).cloned().collect();
            for name in names {
                if dir.seen.get(&name) != dir.disk.get(&name) && random.one_in(2) {
                    match dir.seen.get(&name) {
                        Some(node) => dir.disk.insert(name, *node),
                        None => dir.disk.remove(&name),
                    };
                }
            }
            dir.seen = dir.disk.clone();
        }
        for file in &mut self.files {
            if file.seen.len() != file.disk.len() && random.one_in(2) {
                file.disk.resize(file.seen.len(), 0);
            }
            file.flush_some(|_| random.one_in(2));
            file.dirty.clear();
            file.seen.clone_from(&file.disk);
            (file.links, file.opens) = (0, 0);
        }
        for node in self.dirs.iter().flat_map(|dir| dir.disk.values()) {
            if let Node::File(file) = node {
                self.files[*file].links += 1;
            }
        }
    }

    fn dir(&self, path: &Path) -> io::Result<usize> {
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        names.into_iter().try_fold(0, |at, name| match self.dirs[at].seen.get(name) {
            Some(Node::Dir(dir)) => Ok(*dir),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        })
    }

    fn entry(&self, path: &Path) -> io::Result<(usize, String, Option<Node>)> {
        let name = path.file_name().and_then(OsStr::to_str).ok_or(ErrorKind::InvalidInput)?;
        let dir = self.dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, name.to_owned(), self.dirs[dir].seen.get(name).copied()))
    }

    fn make(&mut self, path: &Path) -> io::Result<usize> {
        let (dir, name, None) = self.entry(path)? else { return Err(ErrorKind::AlreadyExists.into()) };
        self.files.push(Inode { links: 1, ..Inode::default() });
        let file = self.files.len() - 1;
        self.dirs[dir].seen.insert(name, Node::File(file));
        Ok(file)
    }

    fn found(&self, path: &Path) -> io::Result<usize> {
        match self.entry(path)?.2 {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn grow(&mut self, file: usize, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.files[file].seen.len()) as u64;
        if more > 0 && self.used() + more > self.capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        let seen = &mut self.files[file].seen;
        seen.resize(seen.len().max(len), 0);
        Ok(())
    }

    fn write(&mut self, file: usize, bytes: &[u8], at: usize) -> io::Result<()> {
        self.grow(file, at + bytes.len())?;
        let file = &mut self.files[file];
        file.seen[at..at + bytes.len()].copy_from_slice(bytes);
        file.dirty.extend(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
        let mut from = 0;
        while let Step::Record { record, next, .. } = record::next(bytes, from) {
            if let Record::Event(event) = record {
                self.written.entry((event.boot, event.seq)).or_insert(self.now);
            }
            from = next;
        }
        Ok(())
    }

    fn unlink(&mut self, node: Node) {
        match node {
            Node::File(file) => self.files[file].links -= 1,
            Node::Dir(dir) => {
                for node in std::mem::take(&mut self.dirs[dir].seen).into_values() {
                    self.unlink(node);
                }
            }
        }
    }
}

impl Inode {
    fn flush_some(&mut self, mut is_flushed: impl FnMut(usize) -> bool) {
        for sector in self.dirty.iter().copied().filter(|sector| is_flushed(*sector)) {
            let end = ((sector + 1) * SECTOR).min(self.seen.len()).min(self.disk.len());
            let from = (sector * SECTOR).min(end);
            self.disk[from..end].copy_from_slice(&self.seen[from..end]);
        }
    }
}

impl SimHost {
    pub(super) fn new(seed: u64, unix_ms: u64) -> Self {
        let state = State {
            random: Random(seed),
            now: Instant::now(),
            unix_ms,
            capacity: u64::MAX,
            failing: (0, 0),
            kill_in: None,
            unreadable: BTreeSet::new(),
            shut: BTreeSet::new(),
            written: BTreeMap::new(),
            files: Vec::new(),
            dirs: vec![Dir::default()],
            locks: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events in the files of a directory.
    pub(super) fn events_below(&self, dir: &Path) -> BTreeSet<(BootId, EventSeq)> {
        let state = self.state();
        let Ok(dir) = state.dir(dir) else { return BTreeSet::new() };
        let mut found = BTreeSet::new();
        for node in state.dirs[dir].seen.values() {
            let Node::File(file) = node else { continue };
            let mut bytes = vec![0; record::SEGMENT_HEADER_BYTES];
            bytes.extend(&state.files[*file].seen);
            for step in Scan::new(&bytes) {
                if let Found::Record { record: Record::Event(event), .. } = step {
                    found.insert((event.boot, event.seq));
                }
            }
        }
        found
    }

    /// From now on reading the block at `at` of a file is an error.
    pub(super) fn spoil(&self, path: &Path, at: u64) {
        let mut state = self.state();
        let file = state.found(path).unwrap();
        state.unreadable.insert((file, at / BLOCK));
    }

    /// From now on opening a file is an error.
    pub(super) fn shut(&self, path: &Path) {
        let mut state = self.state();
        let file = state.found(path).unwrap();
        state.shut.insert(file);
    }

    /// Everything can be read again.
    pub(super) fn mend(&self) {
        let mut state = self.state();
        state.unreadable.clear();
        state.shut.clear();
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut state = self.state();
        state.now += time;
        state.unix_ms += u64::try_from(time.as_millis()).unwrap_or(0);
    }

    /// One operation that changes something. The process may not live to see it.
    fn operation<T>(&self, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        if let Some(left) = &mut state.kill_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                drop(state);
                resume_unwind(Box::new(Killed));
            }
        }
        run(&mut state)
    }

    fn handle(&self, file: usize) -> SimFile {
        self.state().files[file].opens += 1;
        SimFile { host: self.clone(), file }
    }
}

impl Host for SimHost {
    type File = SimFile;
    type Lock = SimLock;

    fn now(&self) -> Instant {
        self.state().now
    }

    fn unix_ms(&self) -> u64 {
        self.state().unix_ms
    }

    fn create_new(&self, path: &Path) -> io::Result<SimFile> {
        self.operation(|state| state.make(path)).map(|file| self.handle(file))
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let file = self.operation(|state| match state.found(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => state.make(path),
            found => found,
        })?;
        Ok(self.handle(file))
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let state = self.state();
        let file = state.found(path)?;
        if state.shut.contains(&file) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        drop(state);
        Ok(self.handle(file))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        let file = self.create(path)?;
        let is_free = self.state().locks.insert(file.file);
        Ok(is_free.then(|| SimLock { file }))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        Ok(state.dirs[state.dir(dir)?].seen.keys().cloned().collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operation(|state| {
            let (dir, name, None) = state.entry(path)? else { return Err(ErrorKind::AlreadyExists.into()) };
            state.dirs.push(Dir::default());
            let made = Node::Dir(state.dirs.len() - 1);
            state.dirs[dir].seen.insert(name, made);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(|state| {
            let file = state.found(path)?;
            let (dir, name, _) = state.entry(path)?;
            state.dirs[dir].seen.remove(&name);
            state.unlink(Node::File(file));
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        // File by file, so that it can be interrupted.
        for name in self.names(path)? {
            self.remove(&path.join(name))?;
        }
        self.operation(|state| {
            let (dir, name, _) = state.entry(path)?;
            state.dirs[dir].seen.remove(&name);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(|state| {
            let (dir, name, Some(node)) = state.entry(from)? else {
                return Err(ErrorKind::NotFound.into());
            };
            let (to_dir, to_name, _) = state.entry(to)?;
            state.dirs[dir].seen.remove(&name);
            state.dirs[to_dir].seen.insert(to_name, node);
            Ok(())
        })
    }

    fn link(&self, path: &Path, other: &Path) -> io::Result<()> {
        self.operation(|state| {
            let file = state.found(path)?;
            let (dir, name, None) = state.entry(other)? else { return Err(ErrorKind::AlreadyExists.into()) };
            state.dirs[dir].seen.insert(name, Node::File(file));
            state.files[file].links += 1;
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operation(|state| {
            let dir = state.dir(path)?;
            state.dirs[dir].disk = state.dirs[dir].seen.clone();
            Ok(())
        })
    }
}

#[derive(Debug)]
pub(super) struct SimLock {
    file: SimFile,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.file.host.state().locks.remove(&self.file.file);
    }
}

#[derive(Debug)]
pub(super) struct SimFile {
    host: SimHost,
    file: usize,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let opens = &mut self.host.state().files[self.file].opens;
        *opens = opens.saturating_sub(1);
    }
}

impl HostFile for SimFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        // A process can be killed, and a write can fail, when some of the bytes are written.
        let killed = {
            let mut state = self.host.state();
            let part = usize::try_from(state.random.below(bytes.len() as u64 + 1)).unwrap_or(0);
            let fails = state.random.below(1000) < state.failing.1;
            if fails || state.kill_in == Some(1) {
                state.write(self.file, &bytes[..part], at)?;
            }
            fails && state.kill_in != Some(1)
        };
        if killed {
            return Err(io::Error::other("EIO"));
        }
        self.host.operation(|state| state.write(self.file, bytes, at))
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let state = self.host.state();
        let rest = state.files[self.file].seen.get(at..).unwrap_or_default();
        let block = at as u64 / BLOCK;
        let mut bad = state.unreadable.range((self.file, block)..(self.file + 1, 0)).map(|(_, block)| *block);
        let readable = bad.next().map_or(u64::MAX, |bad| (bad * BLOCK).saturating_sub(at as u64));
        if readable == 0 && !rest.is_empty() {
            return Err(io::Error::other("EIO"));
        }
        let readable = usize::try_from(readable).unwrap_or(usize::MAX);
        let read = rest.len().min(bytes.len()).min(readable);
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        self.host.operation(|state| state.grow(self.file, size))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.host.operation(|state| {
            state.grow(self.file, len)?;
            state.files[self.file].seen.truncate(len);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.host.state().files[self.file].seen.len() as u64)
    }

    fn names(&self) -> io::Result<u64> {
        Ok(self.host.state().files[self.file].links as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.host.operation(|state| {
            let fails = state.random.below(1000) < state.failing.0;
            let State { random, files, .. } = state;
            let file = &mut files[self.file];
            file.disk.resize(file.seen.len(), 0);
            file.flush_some(|_| !fails || random.one_in(2));
            file.dirty.clear();
            if fails { Err(io::Error::other("EIO")) } else { Ok(()) }
        })
    }
}
