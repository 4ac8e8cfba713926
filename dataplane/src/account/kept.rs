//! Acknowledged batches that are still on disk: their segments stay for a while, in case ClickHouse loses
//! what it has acknowledged.
//!
//! Reads only, and beside the threads that write and delete: a segment that is gone meanwhile is none that is
//! kept. While the control plane is away a spool grows without end, so what a segment has is remembered: each
//! is read through once, however often the control plane asks, and a batch is read from the segments that it
//! stands in. One segment is in memory at a time, and before each the caller gets a turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId, Position};
use wire::record::{Record, Seal};
use wire::segment_scan::{Found, Scan, SegmentName};

use crate::spool::host::Os;
use crate::spool::segment::list;

/// What there is in the spools.
#[derive(Debug, Default)]
pub(super) struct Kept {
    spools: PathBuf,
    known: BTreeMap<BootId, Spool>,
    /// The segment that was read last: batches that follow each other often share one.
    last: Option<(PathBuf, Vec<u8>)>,
}

/// What is known of a spool.
#[derive(Debug, Default)]
struct Spool {
    /// Segments that nothing is added to any more.
    closed: BTreeMap<SegmentName, Segment>,
    /// The newest, as it was when it was last read.
    newest: Segment,
}

/// What a segment has, but for its events.
#[derive(Debug, Default)]
struct Segment {
    /// The first and the last position of its events.
    positions: Option<(Position, Position)>,
    seals: Vec<Seal>,
    acked: Vec<BatchSeq>,
    acked_to: Option<BatchSeq>,
}

impl Kept {
    pub(super) fn new(spools: PathBuf) -> Self {
        Self { spools, known: BTreeMap::new(), last: None }
    }

    /// The batches of each spool that have a seal and an acknowledgement. `turn` comes before each segment
    /// that is read, and may end it with an error.
    pub(super) fn acked(
        &mut self,
        turn: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<Vec<(BootId, Vec<BatchSeq>)>> {
        let mut spools = BTreeSet::new();
        for entry in fs::read_dir(&self.spools)? {
            spools.extend(entry?.file_name().to_str().and_then(BootId::parse));
        }
        self.known.retain(|spool, _| spools.contains(spool));
        for spool in &spools {
            let dir = self.spools.join(spool.to_string());
            self.known.entry(*spool).or_default().look(&dir, turn)?;
        }
        Ok(self.known.iter().map(|(spool, known)| (*spool, known.acked())).collect())
    }

    /// The events of a batch that `acked` named, as they were sent; `None` where not all of them are there
    /// any more.
    pub(super) fn read(
        &mut self,
        spool: BootId,
        batch: BatchSeq,
        turn: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Vec<u8>>> {
        let Some(known) = self.known.get(&spool) else { return Ok(None) };
        let mut seals = known.segments().flat_map(|segment| &segment.seals);
        let Some(seal) = seals.find(|seal| seal.batch == batch) else { return Ok(None) };
        let dir = self.spools.join(spool.to_string());
        let mut events: BTreeMap<Position, UsageEvent> = BTreeMap::new();
        for name in names(&dir)? {
            // What is not known to be elsewhere may be in it.
            if known.closed.get(&name).is_some_and(|segment| !segment.overlaps(seal)) {
                continue;
            }
            turn()?;
            each_record(read(&mut self.last, dir.join(name.to_string())), |position, record| match record {
                Record::Event(event)
                    if (seal.first..=seal.last).contains(&position) && event.day() == seal.day =>
                {
                    events.insert(position, event);
                }
                _ => {}
            });
        }
        let is_whole = events.len() == seal.count as usize;
        Ok(is_whole.then(|| events.values().flat_map(UsageEvent::encode).collect()))
    }

    /// Forgets the segment that was read last.
    pub(super) fn done(&mut self) {
        self.last = None;
    }
}

impl Spool {
    /// Reads what is not known of the segments in `dir`.
    fn look(&mut self, dir: &Path, turn: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let names = names(dir)?;
        self.closed.retain(|name, _| names.contains(name));
        self.newest = Segment::default();
        for name in &names {
            if self.closed.contains_key(name) {
                continue;
            }
            turn()?;
            let Ok(bytes) = fs::read(dir.join(name.to_string())) else { continue };
            let segment = Segment::of(&bytes);
            // Only the newest is written to.
            if Some(name) == names.last() {
                self.newest = segment;
            } else {
                self.closed.insert(*name, segment);
            }
        }
        Ok(())
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.closed.values().chain([&self.newest])
    }

    fn acked(&self) -> Vec<BatchSeq> {
        let acked: BTreeSet<_> = self.segments().flat_map(|segment| &segment.acked).collect();
        let acked_to = self.segments().filter_map(|segment| segment.acked_to).max();
        let is_acked = |batch: &BatchSeq| Some(*batch) <= acked_to || acked.contains(batch);
        let sealed = self.segments().flat_map(|segment| &segment.seals).map(|seal| seal.batch);
        let batches: BTreeSet<_> = sealed.filter(is_acked).collect();
        batches.into_iter().collect()
    }
}

impl Segment {
    fn overlaps(&self, seal: &Seal) -> bool {
        self.positions.is_some_and(|(first, last)| first <= seal.last && last >= seal.first)
    }

    fn of(bytes: &[u8]) -> Self {
        let mut this = Self::default();
        each_record(bytes, |position, record| match record {
            Record::Event(_) => {
                let (first, last) = this.positions.unwrap_or((position, position));
                this.positions = Some((first.min(position), last.max(position)));
            }
            Record::Seal(seal) => this.seals.push(seal),
            Record::Ack { batch, .. } => this.acked.push(batch),
            Record::AckedTo { batch, .. } => this.acked_to = this.acked_to.max(Some(batch)),
            _ => {}
        });
        this
    }
}

/// The segments of a spool; none where it is gone.
fn names(dir: &Path) -> io::Result<Vec<SegmentName>> {
    match list(&Os, dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// A segment's bytes, none where it is gone; it is in `last` afterwards.
fn read(last: &mut Option<(PathBuf, Vec<u8>)>, path: PathBuf) -> &[u8] {
    if last.as_ref().is_none_or(|(read, _)| *read != path) {
        // Not both in memory.
        *last = None;
        let bytes = fs::read(&path).unwrap_or_default();
        *last = Some((path, bytes));
    }
    last.as_ref().map_or(&[], |(_, bytes)| bytes)
}

fn each_record(bytes: &[u8], mut see: impl FnMut(Position, Record)) {
    for found in Scan::new(bytes) {
        if let Found::Record { position, record, .. } = found {
            see(position, record);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tempfile::TempDir;
    use wire::event::EVENT_BYTES;
    use wire::id::{EventSeq, NodeId};
    use wire::record::{SegmentHeader, append};

    use super::*;

    const SPOOL: BootId = BootId(5);
    /// Events of a batch; each segment has one batch.
    const EVENTS: u64 = 10;

    /// Writes the segment of one batch, `acked` with it.
    fn write(dir: &TempDir, batch: u64, acked: Option<Record>) {
        let first = Position((batch - 1) * EVENTS);
        let header = SegmentHeader { spool: SPOOL, node: NodeId(1), first, created_ms: 0 };
        let mut bytes = header.encode().to_vec();
        for position in first.0..first.0 + EVENTS {
            let event = UsageEvent { seq: EventSeq(position), ..UsageEvent::default() };
            append(&mut bytes, Position(position), &Record::Event(event));
        }
        let last = Position(first.0 + EVENTS - 1);
        let count = u32::try_from(EVENTS).unwrap();
        let seal = Seal { batch: BatchSeq(batch), first, last, day: 0, count };
        for record in std::iter::once(Record::Seal(seal)).chain(acked) {
            append(&mut bytes, Position(last.0 + 1), &record);
        }
        let spool = dir.path().join(SPOOL.to_string());
        fs::create_dir_all(&spool).unwrap();
        fs::write(spool.join(SegmentName { first, copy: 0 }.to_string()), bytes).unwrap();
    }

    fn acked_to(batch: u64) -> Option<Record> {
        Some(Record::AckedTo { batch: BatchSeq(batch), acked_ms: 1 })
    }

    fn count(read: &Cell<u32>) -> io::Result<()> {
        read.set(read.get() + 1);
        Ok(())
    }

    fn batches(kept: &mut Kept, read: &Cell<u32>) -> Vec<u64> {
        let all = kept.acked(&mut || count(read)).unwrap();
        all.into_iter().flat_map(|(_, batches)| batches).map(|batch| batch.0).collect()
    }

    #[test]
    fn each_segment_is_read_through_once_and_the_newest_each_time() {
        let (dir, read) = (TempDir::new().unwrap(), Cell::new(0));
        for batch in 1..=20 {
            write(&dir, batch, (batch == 20).then_some(acked_to(3)).flatten());
        }
        let mut kept = Kept::new(dir.path().to_owned());
        assert_eq!((batches(&mut kept, &read), read.take()), (vec![1, 2, 3], 20));
        assert_eq!((batches(&mut kept, &read), read.take()), (vec![1, 2, 3], 1));
        // What is added is seen: to the newest, and newer ones.
        write(&dir, 20, acked_to(4));
        write(&dir, 21, Some(Record::Ack { batch: BatchSeq(21), acked_ms: 1 }));
        assert_eq!((batches(&mut kept, &read), read.take()), (vec![1, 2, 3, 4, 21], 2));
        // And what is deleted is forgotten.
        fs::remove_dir_all(dir.path().join(SPOOL.to_string())).unwrap();
        assert_eq!((batches(&mut kept, &read), read.take()), (vec![], 0));
        assert!(kept.known.is_empty());
    }

    #[test]
    fn a_batch_is_read_from_the_segments_that_it_stands_in() {
        let (dir, read) = (TempDir::new().unwrap(), Cell::new(0));
        (1..=20).for_each(|batch| write(&dir, batch, acked_to(batch)));
        let mut kept = Kept::new(dir.path().to_owned());
        batches(&mut kept, &read);
        read.set(0);
        let events = kept.read(SPOOL, BatchSeq(7), &mut || count(&read)).unwrap().unwrap();
        let numbers: Vec<u64> = events
            .as_chunks::<EVENT_BYTES>()
            .0
            .iter()
            .map(|event| UsageEvent::decode(event).unwrap().seq.0)
            .collect();
        assert_eq!(numbers, (60..70).collect::<Vec<_>>());
        // And from the newest, which may have grown.
        assert_eq!(read.take(), 2);
        assert_eq!(kept.read(SPOOL, BatchSeq(99), &mut || Ok(())).unwrap(), None);
    }

    #[test]
    fn whoever_ends_it_ends_it_before_the_next_segment() {
        let (dir, read) = (TempDir::new().unwrap(), Cell::new(0));
        (1..=20).for_each(|batch| write(&dir, batch, acked_to(batch)));
        let mut kept = Kept::new(dir.path().to_owned());
        let ended = kept.acked(&mut || {
            count(&read)?;
            if read.get() > 3 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!((kept.known[&SPOOL].closed.len(), read.get()), (3, 4));
    }
}
