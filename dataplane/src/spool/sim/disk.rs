//! A disk that knows what was synced: what the process sees, and what a power cut would leave.
//!
//! A file's bytes reach the disk by sectors, a directory's entries one by one, each by its own `sync`; at a
//! power cut every sector and entry that was not synced is there or not, by chance. A failed sync leaves some
//! sectors behind and forgets that they are dirty, as kernels do: a second one succeeds and proves nothing.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wire::id::{BootId, EventSeq};
use wire::record::{self, Record};
use wire::segment_scan::{Found, Scan};

use self::state::{Dir, Node, State};
use super::super::host::{Host, HostFile};

/// What is on it.
mod state;

/// How much an error of reading takes.
const BLOCK: u64 = 4096;

/// What a process that was killed in the middle of an operation unwinds with.
pub(super) struct Killed;

#[derive(Clone, Debug)]
pub(super) struct SimHost {
    state: Arc<Mutex<State>>,
}

impl SimHost {
    pub(super) fn new(seed: u64, unix_ms: u64) -> Self {
        let state = State::new(seed, unix_ms);
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
