//! Writes records into the segments of this process's own spool, and knows which of them the disk has.
//!
//! What is written and not synced is also kept in memory. After an error of a write or a sync nothing that is
//! unsynced counts as written to that segment (a second fsync of it would succeed and prove nothing): a new
//! segment is made, and the kept records are written there, with their positions. Until that succeeds nothing
//! else is written.
//!
//! Invariant: the kept bytes begin at position `kept_from` and end at `next`.

use std::io;
use std::path::PathBuf;

use wire::event::UsageEvent;
use wire::id::{BootId, NodeId, Position};
use wire::record::{self, Record, SegmentHeader};

use super::segment::{SEGMENT_BYTES, Segment};
use crate::slots::pool::now_ms;

/// A segment to which nothing is added any more.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) path: PathBuf,
    /// Behind the last event in it.
    pub(super) end: Position,
}

#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    spool: BootId,
    node: NodeId,
    segment: Option<Segment>,
    /// Filled and abandoned segments, for the caller to take.
    pub(super) closed: Vec<Closed>,
    next: Position,
    scratch: Vec<u8>,
    kept: Vec<u8>,
    kept_from: Position,
    is_broken: bool,
}

impl Writer {
    /// Begins the spool in `dir`; fails where its first segment can't be made.
    pub(super) fn create(dir: PathBuf, spool: BootId, node: NodeId) -> io::Result<Self> {
        let mut this = Self {
            dir,
            spool,
            node,
            segment: None,
            closed: Vec::new(),
            next: Position(0),
            scratch: Vec::new(),
            kept: Vec::new(),
            kept_from: Position(0),
            is_broken: false,
        };
        this.segment = Some(this.make_segment(Position(0))?);
        Ok(this)
    }

    /// The position of the next event.
    pub(super) fn next(&self) -> Position {
        self.next
    }

    /// How many bytes wait for a sync.
    pub(super) fn unsynced_bytes(&self) -> usize {
        self.kept.len()
    }

    /// Writes events at the next positions, all or none.
    pub(super) fn write_events(&mut self, events: &[UsageEvent]) -> io::Result<()> {
        self.scratch.clear();
        for (position, event) in (self.next.0..).zip(events) {
            record::append(&mut self.scratch, Position(position), &Record::Event(*event));
        }
        self.write_scratch(true)?;
        self.next.0 += events.len() as u64;
        Ok(())
    }

    /// Writes records that are no events.
    pub(super) fn write_records(&mut self, records: &[Record]) -> io::Result<()> {
        self.scratch.clear();
        for record in records {
            record::append(&mut self.scratch, self.next, record);
        }
        self.write_scratch(false)
    }

    fn write_scratch(&mut self, is_events: bool) -> io::Result<()> {
        if self.is_broken {
            self.rewrite()?;
        }
        if !self.segment.as_ref().is_some_and(|s| s.has_room(self.scratch.len(), is_events)) {
            // A segment is left only when the disk has all of it: what is kept is of one segment.
            self.sync()?;
            let fresh = self.make_segment(self.next)?;
            self.replace(fresh);
        }
        let Some(segment) = &mut self.segment else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(e) = segment.append(&self.scratch) {
            self.is_broken = true;
            return Err(e);
        }
        self.kept.extend_from_slice(&self.scratch);
        Ok(())
    }

    /// Waits until the disk has all that was written.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_broken {
            self.rewrite()?;
        }
        if self.kept.is_empty() {
            return Ok(());
        }
        if let Some(segment) = &self.segment
            && let Err(e) = segment.sync()
        {
            self.is_broken = true;
            return Err(e);
        }
        self.kept.clear();
        self.kept.shrink_to(1024 * 1024);
        self.kept_from = self.next;
        Ok(())
    }

    /// Writes what is kept to a new segment.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut fresh = self.make_segment(self.kept_from)?;
        if let Err(e) = fresh.append(&self.kept).and_then(|()| fresh.sync()) {
            // What is in it counts for nothing; the next try makes another.
            let _ = std::fs::remove_file(&fresh.path);
            return Err(e);
        }
        self.kept.clear();
        self.kept_from = self.next;
        self.is_broken = false;
        self.replace(fresh);
        Ok(())
    }

    fn make_segment(&self, first: Position) -> io::Result<Segment> {
        let header = SegmentHeader { spool: self.spool, node: self.node, first, created_ms: now_ms() };
        Segment::create(&self.dir, &header, SEGMENT_BYTES)
    }

    fn replace(&mut self, fresh: Segment) {
        if let Some(full) = self.segment.replace(fresh) {
            self.closed.push(Closed { path: full.path, end: self.next });
        }
    }

    /// Makes the next write or sync find the segment broken, as an error of the disk does.
    #[cfg(test)]
    pub(super) fn break_segment(&mut self) {
        self.is_broken = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::list;
    use super::*;
    use std::fs;
    use std::path::Path;
    use tempfile::TempDir;
    use wire::id::BatchSeq;
    use wire::record::EVENT_RECORD_BYTES;
    use wire::segment_scan::{Found, Scan};

    fn events(range: std::ops::Range<u64>) -> Vec<UsageEvent> {
        range.map(|ts_ms| UsageEvent { ts_ms, ..UsageEvent::default() }).collect()
    }

    fn records(dir: &Path) -> Vec<Vec<(u64, Record)>> {
        let read = |name| {
            let bytes = fs::read(dir.join(format!("{name}"))).unwrap();
            Scan::new(&bytes)
                .map(|found| match found {
                    Found::Record { position, record, .. } => (position.0, record),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        list(dir).unwrap().into_iter().map(read).collect()
    }

    #[test]
    fn after_an_error_the_unsynced_records_are_written_anew_with_their_positions() {
        let dir = TempDir::new().unwrap();
        let mut writer = Writer::create(dir.path().to_owned(), BootId(1), NodeId(2)).unwrap();
        writer.write_events(&events(0..3)).unwrap();
        writer.sync().unwrap();
        writer.write_events(&events(3..5)).unwrap();
        let ack = Record::Ack { batch: BatchSeq(1), acked_ms: 4 };
        writer.write_records(&[ack]).unwrap();
        writer.break_segment();
        writer.sync().unwrap();
        writer.write_events(&events(5..6)).unwrap();

        let segments = records(dir.path());
        let [old, new] = &segments[..] else { panic!("{segments:?}") };
        let positions = |records: &[(u64, Record)]| records.iter().map(|r| r.0).collect::<Vec<_>>();
        assert_eq!((positions(old), positions(new)), (vec![0, 1, 2, 3, 4, 5], vec![3, 4, 5, 5]));
        assert_eq!(old[3..], new[..3], "the very same records");
        assert_eq!(new[2].1, ack);
        assert_eq!(writer.closed.len(), 1);
    }

    #[test]
    fn a_full_segment_is_followed_by_one_that_begins_where_it_ended() {
        let dir = TempDir::new().unwrap();
        let mut writer = Writer::create(dir.path().to_owned(), BootId(1), NodeId(2)).unwrap();
        let step = 5000_u64;
        let per_segment = SEGMENT_BYTES / EVENT_RECORD_BYTES as u64;
        for at in (0..2 * per_segment).step_by(5000) {
            writer.write_events(&events(at..at + step)).unwrap();
        }
        let positions: Vec<u64> = records(dir.path()).concat().iter().map(|r| r.0).collect();
        assert!(positions.iter().copied().eq(0..writer.next().0));
        let names = list(dir.path()).unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(writer.closed[0].end, names[1].first);
    }

    #[test]
    fn without_the_directory_nothing_is_written_and_nothing_is_lost() {
        let parent = TempDir::new().unwrap();
        let dir = parent.path().join("spool");
        fs::create_dir(&dir).unwrap();
        let mut writer = Writer::create(dir.clone(), BootId(1), NodeId(2)).unwrap();
        writer.write_events(&events(0..2)).unwrap();
        fs::rename(&dir, parent.path().join("away")).unwrap();
        writer.break_segment();
        assert!(writer.sync().is_err());
        assert!(writer.write_events(&events(2..3)).is_err());
        assert_eq!(writer.next(), Position(2));
        fs::rename(parent.path().join("away"), &dir).unwrap();
        writer.write_events(&events(2..3)).unwrap();
        let positions: Vec<u64> = records(&dir)[1].iter().map(|r| r.0).collect();
        assert_eq!(positions, [0, 1, 2]);
    }
}
