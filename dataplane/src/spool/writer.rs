//! Writes records into the segments of this process's own spool, and knows which of them the disk has.
//!
//! What is written and not synced is also kept in memory. After an error of a write or a sync nothing that is
//! unsynced counts as written to that segment (a second fsync of it would succeed and prove nothing): a new
//! segment is made, and the kept records are written there, with their positions. Until that succeeds nothing
//! else is written.
//!
//! There may be no segment at all: at the start, and on a full disk once all that the last one held was
//! stored and it was given up.
//!
//! Invariant: the kept bytes begin at position `kept_from` and end at `next`.

use std::io;
use std::path::PathBuf;

use wire::event::UsageEvent;
use wire::id::{BootId, NodeId, Position};
use wire::record::{self, EVENT_RECORD_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentHeader};

use super::host::{Host, Os};
use super::segment::{ANNEX_BYTES_MIN, SEGMENT_BYTES_MIN, SPARE_BYTES, Segment};

/// A segment to which nothing is added any more.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) path: PathBuf,
    /// Behind the last event in it.
    pub(super) end: Position,
    pub(super) bytes: u64,
}

/// Whose spool is written, and in segments of what size.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    pub(super) dir: PathBuf,
    pub(super) id: BootId,
    pub(super) node: NodeId,
    pub(super) segment_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Writer<H: Host = Os> {
    host: H,
    spool: Spool,
    segment: Option<Segment<H>>,
    /// Filled and abandoned segments, for the caller to take.
    pub(super) closed: Vec<Closed>,
    next: Position,
    scratch: Vec<u8>,
    kept: Vec<u8>,
    kept_from: Position,
    is_broken: bool,
    /// Where the newest segment begins, and the first copy of that name that was not used yet. A name is
    /// never used again: a reader may still be at the end of the file that had it.
    names: (Position, u32),
}

impl<H: Host> Writer<H> {
    /// A writer that has made no segment yet. Its directory may be made later, before the first record.
    pub(super) fn new(host: H, spool: Spool) -> Self {
        Self {
            host,
            spool,
            segment: None,
            closed: Vec::new(),
            next: Position(0),
            scratch: Vec::new(),
            kept: Vec::new(),
            kept_from: Position(0),
            is_broken: false,
            names: (Position(0), 0),
        }
    }

    /// The position of the next event.
    pub(super) fn next(&self) -> Position {
        self.next
    }

    /// How many bytes wait for a sync.
    pub(super) fn unsynced_bytes(&self) -> usize {
        self.kept.len()
    }

    /// How many bytes the segment that is written takes of the disk.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment.as_ref().map_or(0, Segment::size)
    }

    /// Whether an event still goes into the segment that there is.
    pub(super) fn has_room(&self) -> bool {
        !self.is_broken && self.segment.as_ref().is_some_and(|s| s.room(true) >= EVENT_RECORD_BYTES as u64)
    }

    /// Sees to a segment that takes an event.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        self.make_room(EVENT_RECORD_BYTES, true)
    }

    /// Writes the first of these events at the next positions, as many as go into one segment, and says how
    /// many. After an error it is none of them.
    pub(super) fn write_events(&mut self, events: &[UsageEvent]) -> io::Result<usize> {
        self.prepare()?;
        let room = self.segment.as_ref().map_or(0, |segment| segment.room(true));
        let fitting = usize::try_from(room).unwrap_or(usize::MAX) / EVENT_RECORD_BYTES;
        let events = &events[..events.len().min(fitting)];
        self.scratch.clear();
        for (position, event) in (self.next.0..).zip(events) {
            record::append(&mut self.scratch, Position(position), &Record::Event(*event));
        }
        self.write_scratch()?;
        self.next.0 += events.len() as u64;
        Ok(events.len())
    }

    /// Writes records that are no events, all or none.
    pub(super) fn write_records(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record::append(&mut bytes, self.next, record));
        self.make_room(bytes.len(), false)?;
        self.scratch = bytes;
        self.write_scratch()
    }

    /// Sees to a segment that takes `bytes` more.
    fn make_room(&mut self, bytes: usize, is_events: bool) -> io::Result<()> {
        if self.is_broken {
            self.rewrite()?;
        }
        if self.segment.as_ref().is_none_or(|s| s.room(is_events) < bytes as u64) {
            // A segment is left only when the disk has all of it: what is kept is of one segment.
            self.sync()?;
            let least = if is_events { SEGMENT_BYTES_MIN } else { ANNEX_BYTES_MIN };
            let whole = (SEGMENT_HEADER_BYTES + bytes) as u64;
            let spare = if is_events { SPARE_BYTES.min(self.spool.segment_bytes / 4) } else { 0 };
            let least = least.min(self.spool.segment_bytes).max(whole);
            let fresh = self.make_segment(self.next, least, spare)?;
            self.replace(fresh);
        }
        Ok(())
    }

    fn write_scratch(&mut self) -> io::Result<()> {
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
        let whole = (SEGMENT_HEADER_BYTES + self.kept.len()) as u64;
        let least = whole.max(ANNEX_BYTES_MIN.min(self.spool.segment_bytes));
        let mut fresh = self.make_segment(self.kept_from, least, 0)?;
        if let Err(e) = fresh.append(&self.kept).and_then(|()| fresh.sync()) {
            // What is in it counts for nothing; the next try makes another.
            let _ = self.host.remove(&fresh.path);
            return Err(e);
        }
        self.kept.clear();
        self.kept_from = self.next;
        self.is_broken = false;
        self.replace(fresh);
        Ok(())
    }

    fn make_segment(&mut self, first: Position, least: u64, spare: u64) -> io::Result<Segment<H>> {
        let Spool { dir, id, node, segment_bytes } = &self.spool;
        let header = SegmentHeader { spool: *id, node: *node, first, created_ms: self.host.unix_ms() };
        if self.names.0 != first {
            self.names = (first, 0);
        }
        let sizes = (*segment_bytes, least, spare);
        Segment::create_fitting(&self.host, dir, (&header, &mut self.names.1), sizes)
    }

    fn replace(&mut self, fresh: Segment<H>) {
        if let Some(full) = self.segment.replace(fresh) {
            let bytes = full.size();
            self.closed.push(Closed { path: full.path, end: self.next, bytes });
        }
    }

    /// Ends the present segment, and forgets what of it is not synced. The caller knows that everything that
    /// the spool ever held is stored: nobody needs these records again.
    pub(super) fn give_up(&mut self) {
        if let Some(done) = self.segment.take() {
            let bytes = done.size();
            self.closed.push(Closed { path: done.path, end: self.next, bytes });
        }
        self.kept.clear();
        self.kept_from = self.next;
        self.is_broken = false;
    }

    /// Whether there is a segment to write to.
    pub(super) fn has_segment(&self) -> bool {
        self.segment.is_some()
    }

    /// Makes the next write or sync find the segment broken, as an error of the disk does.
    #[cfg(test)]
    pub(super) fn break_segment(&mut self) {
        self.is_broken = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::{SEGMENT_BYTES, list};
    use super::*;
    use std::fs;
    use std::path::Path;
    use tempfile::TempDir;
    use wire::id::BatchSeq;
    use wire::segment_scan::{Found, Scan};

    fn writer(dir: &Path) -> Writer {
        let spool =
            Spool { dir: dir.to_owned(), id: BootId(1), node: NodeId(2), segment_bytes: SEGMENT_BYTES };
        Writer::new(Os, spool)
    }

    fn write(writer: &mut Writer, mut events: &[UsageEvent]) {
        while !events.is_empty() {
            events = &events[writer.write_events(events).unwrap()..];
        }
    }

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
        list(&Os, dir).unwrap().into_iter().map(read).collect()
    }

    #[test]
    fn after_an_error_the_unsynced_records_are_written_anew_with_their_positions() {
        let dir = TempDir::new().unwrap();
        let mut writer = writer(dir.path());
        write(&mut writer, &events(0..3));
        writer.sync().unwrap();
        write(&mut writer, &events(3..5));
        let ack = Record::Ack { batch: BatchSeq(1), acked_ms: 4 };
        writer.write_records(&[ack]).unwrap();
        writer.break_segment();
        writer.sync().unwrap();
        write(&mut writer, &events(5..6));

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
        let mut writer = writer(dir.path());
        let step = 5000_u64;
        let per_segment = SEGMENT_BYTES / EVENT_RECORD_BYTES as u64;
        for at in (0..2 * per_segment).step_by(5000) {
            write(&mut writer, &events(at..at + step));
        }
        let positions: Vec<u64> = records(dir.path()).concat().iter().map(|r| r.0).collect();
        assert!(positions.iter().copied().eq(0..writer.next().0));
        let names = list(&Os, dir.path()).unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(writer.closed[0].end, names[1].first);
    }

    #[test]
    fn without_the_directory_nothing_is_written_and_nothing_is_lost() {
        let parent = TempDir::new().unwrap();
        let dir = parent.path().join("spool");
        fs::create_dir(&dir).unwrap();
        let mut writer = writer(&dir);
        write(&mut writer, &events(0..2));
        fs::rename(&dir, parent.path().join("away")).unwrap();
        writer.break_segment();
        assert!(writer.sync().is_err());
        assert!(writer.write_events(&events(2..3)).is_err());
        assert_eq!(writer.next(), Position(2));
        fs::rename(parent.path().join("away"), &dir).unwrap();
        write(&mut writer, &events(2..3));
        let positions: Vec<u64> = records(&dir)[1].iter().map(|r| r.0).collect();
        assert_eq!(positions, [0, 1, 2]);
    }
}
