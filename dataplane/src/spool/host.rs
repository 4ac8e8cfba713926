//! What the pipeline's threads ask of the machine: files and the time.
//!
//! `Os` is the machine that it runs on. The tests have another (`sim/disk.rs`), which knows what was synced,
//! loses what was not, fills up and fails on purpose, so that the very code that runs in production is tried
//! in thousands of crashes. Slots are not part of it: they are memory.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use crate::slots::pool::now_ms;

/// How much of a file is given up where a read fails: what the kernel reads at least.
const BLOCK_BYTES: u64 = 4096;

/// Files and the time.
pub trait Host: Clone + Debug + Send + 'static {
    /// An open file.
    type File: HostFile;
    /// A file that is locked until this is dropped, or the process ends.
    type Lock: Debug + Send;

    /// The time that only goes forward.
    fn now(&self) -> Instant;
    /// Unix time in milliseconds.
    fn unix_ms(&self) -> u64;
    /// Makes a file; fails where there is one.
    fn create_new(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for writing, and makes it where there is none.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Locks a file, which is made where there is none; `None` where another process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;
    /// The names in a directory that are UTF-8.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory; fails where there is one.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and what is in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file or a directory another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails where there is one of that name.
    fn link(&self, file: &Path, name: &Path) -> io::Result<()>;
    /// Waits until what was made, renamed or removed in a directory is on the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait HostFile: Debug + Send {
    /// Writes all of `bytes` at a place.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads from a place; 0 at the end.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Makes the file `size` bytes long and takes the space for all of it.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// Cuts the file, or makes it longer by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// How many bytes it has.
    fn size(&self) -> io::Result<u64>;
    /// How many names it has.
    fn names(&self) -> io::Result<u64>;
    /// Waits until the disk has what was written.
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads from `at` on until `bytes` are full or the file ends; gives how many there are. What can't be read
/// is zeros, block by block, and listed.
pub(super) fn read_around(
    file: &impl HostFile,
    bytes: &mut [u8],
    at: u64,
) -> io::Result<(usize, Vec<Range<usize>>)> {
    let (mut filled, mut unread) = (0, Vec::new());
    while filled < bytes.len() {
        let from = at + filled as u64;
        match file.read_at(&mut bytes[filled..], from) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => return Err(e),
            Err(_) => {
                let block = BLOCK_BYTES - from % BLOCK_BYTES;
                let rest = usize::try_from(block.min(file.size()?.saturating_sub(from))).unwrap_or(0);
                let end = bytes.len().min(filled + rest);
                if end == filled {
                    break;
                }
                bytes[filled..end].fill(0);
                unread.push(filled..end);
                filled = end;
            }
        }
    }
    Ok((filled, unread))
}

/// Removes a file so that its space is free at once, also while a reader has it open. Under a second name, in
/// `set_aside`, its bytes stay.
pub(super) fn discard(host: &impl Host, path: &Path) -> io::Result<()> {
    let emptied = host.create(path).and_then(|file| if file.names()? > 1 { Ok(()) } else { file.set_len(0) });
    match emptied.and_then(|()| host.remove(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // In this order on the disk, too: what comes later may only go after what came before.
    path.parent().map_or(Ok(()), |dir| host.sync_dir(dir))
}

/// The machine that this runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Host for Os {
    type File = File;
    type Lock = File;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_ms(&self) -> u64 {
        now_ms()
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file = self.create(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        fs::hard_link(file, name)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl HostFile for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, at)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        preallocate(self, size)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn names(&self) -> io::Result<u64> {
        Ok(self.metadata()?.nlink())
    }

    fn sync(&self) -> io::Result<()> {
        // With the length, where it changed; not with the times.
        self.sync_data()
    }
}

/// Makes a file `size` bytes long and takes the space for all of it.
#[allow(unsafe_code, reason = "std has no fallocate")]
pub fn preallocate(file: &File, size: u64) -> io::Result<()> {
    let size = libc::off_t::try_from(size).map_err(io::Error::other)?;
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size) } {
            0 => return Ok(()),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}
