//! One file of the spool: made whole and preallocated, written from front to back, never changed behind.
//!
//! Space is taken when a segment is made, so that a record that is begun can be finished on a full disk. The
//! last `RESERVE_BYTES` are kept from events: seals and acks, which lead to space being freed, still go there
//! when no new segment can be had.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wire::record::{SEGMENT_HEADER_BYTES, SegmentHeader};
use wire::segment_scan::SegmentName;

use crate::slots::sync_dir;

/// The size of a segment of a process's own spool.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// The size of a segment that another process adds to a spool, for acks.
pub const ANNEX_BYTES: u64 = 64 * 1024;
/// How much of a segment's end is kept from events.
pub const RESERVE_BYTES: u64 = 64 * 1024;

/// A segment that is being written.
#[derive(Debug)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Where it is.
    pub path: PathBuf,
    file: File,
    written: u64,
    size: u64,
}

impl Segment {
    /// Makes a segment in `dir`; it and its name are on the disk when this returns.
    pub fn create(dir: &Path, header: &SegmentHeader, size: u64) -> io::Result<Self> {
        let (name, path, file) = create_new(dir, header)?;
        let prepared = preallocate(&file, size)
            .and_then(|()| file.write_all_at(&header.encode(), 0))
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_dir(dir));
        if let Err(e) = prepared {
            // Half a segment is of no use, and what it holds may be all the space there is.
            fs::remove_file(&path)?;
            return Err(e);
        }
        Ok(Self { name, path, file, written: SEGMENT_HEADER_BYTES as u64, size })
    }

    /// Whether `bytes` more go in: events up to the reserve, other records to the end.
    #[must_use]
    pub fn has_room(&self, bytes: usize, is_events: bool) -> bool {
        let end = if is_events { self.size.saturating_sub(RESERVE_BYTES) } else { self.size };
        self.written + bytes as u64 <= end
    }

    /// Appends records in one write. After an error nothing more may be written here.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_all_at(records, self.written)?;
        self.written += records.len() as u64;
        Ok(())
    }

    /// Waits until the disk has everything. After an error nothing that was unsynced is known to be there.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn create_new(dir: &Path, header: &SegmentHeader) -> io::Result<(SegmentName, PathBuf, File)> {
    for copy in 0.. {
        let name = SegmentName { first: header.first, copy };
        let path = dir.join(name.to_string());
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            file => return file.map(|file| (name, path, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The segments in `dir`, in the order of writing.
pub fn list(dir: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().to_str().and_then(SegmentName::parse));
    }
    names.sort_unstable();
    Ok(names)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use wire::id::{BootId, NodeId, Position};

    fn header(first: u64) -> SegmentHeader {
        SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(first), created_ms: 3 }
    }

    #[test]
    fn segments_that_begin_at_one_position_keep_the_order_of_writing() {
        let dir = TempDir::new().unwrap();
        let made: Vec<_> = [0, 7, 7, 7, 9]
            .map(|first| Segment::create(dir.path(), &header(first), ANNEX_BYTES).unwrap().name)
            .to_vec();
        fs::write(dir.path().join("lock"), b"").unwrap();
        assert_eq!(list(dir.path()).unwrap(), made);
    }

    #[test]
    fn the_reserve_is_kept_from_events_only() {
        let dir = TempDir::new().unwrap();
        let mut segment = Segment::create(dir.path(), &header(0), RESERVE_BYTES + 64 + 208).unwrap();
        assert!(segment.has_room(208, true));
        segment.append(&[1; 208]).unwrap();
        assert!(!segment.has_room(8, true));
        assert!(segment.has_room(usize::try_from(RESERVE_BYTES).unwrap(), false));
        assert_eq!(fs::metadata(&segment.path).unwrap().len(), RESERVE_BYTES + 272);
    }

    #[test]
    fn a_segment_that_cannot_be_made_whole_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        assert!(Segment::create(dir.path(), &header(0), u64::MAX).is_err());
        assert!(list(dir.path()).unwrap().is_empty());
    }
}
