//! What is on the disk, and what of it the process sees.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::time::Instant;

use wire::id::{BootId, EventSeq};
use wire::record::{self, Record, Step};

use super::super::random::Random;

const SECTOR: usize = 512;

#[derive(Debug)]
pub(in crate::spool::sim) struct State {
    pub(in crate::spool::sim) random: Random,
    pub(in crate::spool::sim) now: Instant,
    pub(in crate::spool::sim) unix_ms: u64,
    /// How many bytes go on the disk.
    pub(in crate::spool::sim) capacity: u64,
    /// How many of a thousand syncs, and writes, fail.
    pub(in crate::spool::sim) failing: (u64, u64),
    /// The process is killed at so manieth operation.
    pub(in crate::spool::sim) kill_in: Option<u64>,
    /// Places that can't be read, as blocks of a file, and files that can't be opened.
    pub(super) unreadable: BTreeSet<(usize, u64)>,
    pub(super) shut: BTreeSet<usize>,
    /// When an event was first written to any file.
    pub(in crate::spool::sim) written: BTreeMap<(BootId, EventSeq), Instant>,
    pub(super) files: Vec<Inode>,
    pub(super) dirs: Vec<Dir>,
    pub(super) locks: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) seen: Vec<u8>,
    pub(super) disk: Vec<u8>,
    pub(super) dirty: BTreeSet<usize>,
    pub(super) links: usize,
    pub(super) opens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(usize),
    Dir(usize),
}

#[derive(Debug, Default)]
pub(super) struct Dir {
    pub(super) seen: BTreeMap<String, Node>,
    pub(super) disk: BTreeMap<String, Node>,
}

impl State {
    pub(super) fn new(seed: u64, unix_ms: u64) -> Self {
        Self {
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
        }
    }

    /// The process is gone, and with it its locks.
    pub(in crate::spool::sim) fn unlock_all(&mut self) {
        self.locks.clear();
        self.kill_in = None;
    }

    pub(in crate::spool::sim) fn used(&self) -> u64 {
        let files = self.files.iter().filter(|file| file.links + file.opens > 0);
        files.map(|file| file.seen.len() as u64).sum()
    }

    /// What was not synced is there or not.
    pub(in crate::spool::sim) fn cut_power(&mut self) {
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

    pub(super) fn dir(&self, path: &Path) -> io::Result<usize> {
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

    pub(super) fn entry(&self, path: &Path) -> io::Result<(usize, String, Option<Node>)> {
        let name = path.file_name().and_then(OsStr::to_str).ok_or(ErrorKind::InvalidInput)?;
        let dir = self.dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, name.to_owned(), self.dirs[dir].seen.get(name).copied()))
    }

    pub(super) fn make(&mut self, path: &Path) -> io::Result<usize> {
        let (dir, name, None) = self.entry(path)? else { return Err(ErrorKind::AlreadyExists.into()) };
        self.files.push(Inode { links: 1, ..Inode::default() });
        let file = self.files.len() - 1;
        self.dirs[dir].seen.insert(name, Node::File(file));
        Ok(file)
    }

    pub(super) fn found(&self, path: &Path) -> io::Result<usize> {
        match self.entry(path)?.2 {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn grow(&mut self, file: usize, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.files[file].seen.len()) as u64;
        if more > 0 && self.used() + more > self.capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        let seen = &mut self.files[file].seen;
        seen.resize(seen.len().max(len), 0);
        Ok(())
    }

    pub(super) fn write(&mut self, file: usize, bytes: &[u8], at: usize) -> io::Result<()> {
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

    pub(super) fn unlink(&mut self, node: Node) {
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
    pub(super) fn flush_some(&mut self, mut is_flushed: impl FnMut(usize) -> bool) {
        for sector in self.dirty.iter().copied().filter(|sector| is_flushed(*sector)) {
            let end = ((sector + 1) * SECTOR).min(self.seen.len()).min(self.disk.len());
            let from = (sector * SECTOR).min(end);
            self.disk[from..end].copy_from_slice(&self.seen[from..end]);
        }
    }
}
