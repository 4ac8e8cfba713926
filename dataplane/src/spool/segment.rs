//! One file of the spool: made whole and preallocated, written from front to back, never changed behind.
//!
//! Space is taken when a segment is made, so that a record that is begun can be finished on a full disk. The
//! end of a segment is kept from events: seals and acks, which lead to space being freed, still go there when
//! no new segment can be had. Where there is no room for a whole segment a smaller one is made.

use std::io;
use std::path::{Path, PathBuf};

use wire::record::{SEGMENT_HEADER_BYTES, SegmentHeader};
use wire::segment_scan::SegmentName;

use super::host::{Host, HostFile, Os, is_full};

/// The size of a segment of a process's own spool.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// The least size of a segment for events, on a disk that is nearly full.
pub const SEGMENT_BYTES_MIN: u64 = 128 * 1024;
/// How much room a segment for events leaves on the disk: for annexes, without which the next process could
/// not note acks, and so make no room.
pub const SPARE_BYTES: u64 = 64 * 1024;
/// The size of a segment that another process adds to a spool, for acks.
pub const ANNEX_BYTES: u64 = 16 * 1024;
/// The least size of a segment for seals and acks alone.
pub const ANNEX_BYTES_MIN: u64 = 4 * 1024;
/// How much of a segment's end is kept from events, at most; of a small one it is a quarter.
pub const RESERVE_BYTES: u64 = 64 * 1024;

/// A segment that is being written.
#[derive(Debug)]
pub struct Segment<H: Host = Os> {
    /// Its name.
    pub name: SegmentName,
    /// Where it is.
    pub path: PathBuf,
    file: H::File,
    written: u64,
    size: u64,
}

impl<H: Host> Segment<H> {
    /// Makes a segment in `dir`; it and its name are on the disk when this returns.
    pub fn create(host: &H, dir: &Path, header: &SegmentHeader, size: u64) -> io::Result<Self> {
        Self::create_sparing(host, dir, (header, &mut 0), (size, 0))
    }

    /// Makes it only where `spare` more bytes would fit.
    fn create_sparing(
        host: &H,
        dir: &Path,
        (header, copy): (&SegmentHeader, &mut u32),
        (size, spare): (u64, u64),
    ) -> io::Result<Self> {
        let (name, path, file) = create_new(host, dir, header, copy)?;
        let prepared = file
            .allocate(size.saturating_add(spare))
            .and_then(|()| if spare == 0 { Ok(()) } else { file.set_len(size) })
            .and_then(|()| file.write_at(&header.encode(), 0))
            .and_then(|()| file.sync())
            .and_then(|()| host.sync_dir(dir));
        if let Err(e) = prepared {
            // Half a segment is of no use, and what it holds may be all the space there is.
            host.remove(&path)?;
            return Err(e);
        }
        Ok(Self { name, path, file, written: SEGMENT_HEADER_BYTES as u64, size })
    }

    /// Makes the largest segment for which there is room, `size` at most and `least` at least, and `spare`
    /// beside it. Its name is the first free one from `copy` on, which is then the one behind it.
    pub fn create_fitting(
        host: &H,
        dir: &Path,
        (header, copy): (&SegmentHeader, &mut u32),
        (size, least, spare): (u64, u64, u64),
    ) -> io::Result<Self> {
        let mut size = size.max(least);
        loop {
            match Self::create_sparing(host, dir, (header, copy), (size, spare)) {
                Err(e) if is_full(&e) && size > least => size = (size / 2).max(least),
                made => return made,
            }
        }
    }

    /// How many bytes it takes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes still go in: events up to the reserve, other records to the end.
    #[must_use]
    pub fn room(&self, is_events: bool) -> u64 {
        let reserve = if is_events { RESERVE_BYTES.min(self.size / 4) } else { 0 };
        (self.size - reserve).saturating_sub(self.written)
    }

    /// Appends records in one write. After an error nothing more may be written here.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_at(records, self.written)?;
        self.written += records.len() as u64;
        Ok(())
    }

    /// Waits until the disk has everything. After an error nothing that was unsynced is known to be there.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

fn create_new<H: Host>(
    host: &H,
    dir: &Path,
    header: &SegmentHeader,
    copy: &mut u32,
) -> io::Result<(SegmentName, PathBuf, H::File)> {
    for try_copy in *copy.. {
        let name = SegmentName { first: header.first, copy: try_copy };
        let path = dir.join(name.to_string());
        match host.create_new(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            file => {
                *copy = try_copy.saturating_add(1);
                return file.map(|file| (name, path, file));
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The segments in `dir`, in the order of writing.
pub fn list(host: &impl Host, dir: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names: Vec<_> = host.names(dir)?.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Gives a segment that can't be read whole a second name in `set_aside`: there it stays when its spool goes.
pub(super) fn keep_aside(
    host: &impl Host,
    (dir, name): (&Path, SegmentName),
    set_aside: &Path,
) -> io::Result<()> {
    let spool = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = set_aside.join(format!("{spool}-{name}.bad"));
    match host.link(&dir.join(name.to_string()), &aside) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => host.sync_dir(set_aside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;
    use wire::id::{BootId, NodeId, Position};

    fn header(first: u64) -> SegmentHeader {
        SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(first), created_ms: 3 }
    }

    #[test]
    fn segments_that_begin_at_one_position_keep_the_order_of_writing() {
        let dir = TempDir::new().unwrap();
        let made: Vec<_> = [0, 7, 7, 7, 9]
            .map(|first| Segment::create(&Os, dir.path(), &header(first), ANNEX_BYTES).unwrap().name)
            .to_vec();
        fs::write(dir.path().join("lock"), b"").unwrap();
        assert_eq!(list(&Os, dir.path()).unwrap(), made);
    }

    #[test]
    fn the_reserve_is_kept_from_events_only() {
        let dir = TempDir::new().unwrap();
        for (size, reserve) in [(SEGMENT_BYTES, RESERVE_BYTES), (4096, 1024)] {
            let mut segment = Segment::create(&Os, dir.path(), &header(0), size).unwrap();
            segment.append(&[1; 208]).unwrap();
            assert_eq!(segment.room(false), size - 64 - 208);
            assert_eq!(segment.room(true), size - 64 - 208 - reserve);
            assert_eq!(fs::metadata(&segment.path).unwrap().len(), size);
        }
    }

    #[test]
    fn a_segment_that_cannot_be_made_whole_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        assert!(Segment::create(&Os, dir.path(), &header(0), u64::MAX).is_err());
        assert!(list(&Os, dir.path()).unwrap().is_empty());
    }
}
