//! Reads sealed batches back from a spool's segments, in order, with bounded memory: at most one range of
//! events.
//!
//! A range's events stand before its seals, so one pass forward is enough. A batch read twice has the same
//! bytes, which is what makes a resend the same batch. Records that were written anew after an error of the
//! disk appear twice; there is one event for each position, and a seal whose number has been passed is
//! skipped.
//!
//! Where damage took a seal, the events between its neighbours' ranges are its batch, if there are as many
//! days among them as seals missing. Else they are counted as lost: it is not known whether they were stored
//! under that number.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use wire::event::UsageEvent;
use wire::id::{BatchSeq, Position};
use wire::record::{self, Record, SEGMENT_HEADER_BYTES, Seal, Step};
use wire::segment_scan::{SegmentName, next_record};

use super::segment::list;

/// How much is read at first; doubled while no seal is in it.
const WINDOW_BYTES: usize = 256 * 1024;

/// A place in a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    name: SegmentName,
    offset: u64,
}

/// How far a spool is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The newest batch.
    pub(super) last: BatchSeq,
    /// Behind its last event.
    pub(super) end: Position,
}

/// A batch as it is shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) seal: Seal,
    /// 80 bytes each; empty where all of it is lost.
    pub(super) events: Vec<u8>,
    /// How many events are known to have been in it and can't be read.
    pub(super) lost: u64,
    /// Where to read it again.
    pub(super) cursor: Option<Cursor>,
}

#[derive(Debug)]
pub(super) struct BatchReader {
    dir: PathBuf,
    window: Option<Window>,
    /// Events whose seal has not come by.
    events: BTreeMap<Position, UsageEvent>,
    ready: VecDeque<Batch>,
    /// The first position of the range that is being passed, and where its events begin.
    range: Option<Position>,
    range_from: Option<Cursor>,
    after_seal: Option<Cursor>,
}

#[derive(Debug)]
struct Window {
    name: SegmentName,
    file: File,
    base: u64,
    bytes: Vec<u8>,
    at: usize,
    len: usize,
    is_to_end: bool,
}

impl BatchReader {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            window: None,
            events: BTreeMap::new(),
            ready: VecDeque::new(),
            range: None,
            range_from: None,
            after_seal: None,
        }
    }

    /// A second reader of the same spool.
    pub(super) fn beside(&self) -> Self {
        Self::new(self.dir.clone())
    }

    /// Goes back to where a batch was read.
    pub(super) fn seek(&mut self, cursor: Option<Cursor>) -> io::Result<()> {
        *self = Self::new(std::mem::take(&mut self.dir));
        if let Some(cursor) = cursor {
            self.window = Some(Window::open(&self.dir, cursor.name, cursor.offset)?);
        }
        self.range_from = cursor;
        self.after_seal = cursor;
        Ok(())
    }

    /// Reads batch `batch`, where those up to `sealed` are known to be on the disk.
    pub(super) fn read(&mut self, batch: BatchSeq, sealed: Sealed) -> io::Result<Batch> {
        while self.ready.front().is_some_and(|ready| ready.seal.batch < batch) {
            self.ready.pop_front();
        }
        if let Some(ready) = self.ready.pop_front() {
            return Ok(ready);
        }
        if let Some(window) = &mut self.window {
            // What was read before may have been zeros that are records now.
            window.refill(WINDOW_BYTES)?;
        }
        while let Some((position, record)) = self.step()? {
            match record {
                Record::Event(event) => {
                    self.events.insert(position, event);
                }
                Record::Seal(seal) if self.see(seal, batch) => break,
                _ => {}
            }
        }
        if self.ready.is_empty() {
            self.infer(batch, BatchSeq(sealed.last.0 + 1), |position, _| position < sealed.end);
        }
        self.ready.pop_front().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Comes by a seal; says whether the batch that is wanted is ready.
    fn see(&mut self, seal: Seal, wanted: BatchSeq) -> bool {
        if self.range.is_none_or(|range| range < seal.first) {
            self.range = Some(seal.first);
            self.range_from = self.after_seal;
        }
        if self.range == Some(seal.first) {
            self.after_seal = self.window.as_ref().map(Window::cursor);
        }
        if seal.batch > wanted {
            // The seals of a range are in the order of their days.
            let is_before = |at, day| at < seal.first || (at <= seal.last && day < seal.day);
            self.infer(wanted, seal.batch, is_before);
        }
        let events = self.take(|at, day| (seal.first..=seal.last).contains(&at) && day == seal.day);
        if seal.batch >= wanted {
            self.ready.push_back(self.batch(seal, &events));
        }
        self.events = self.events.split_off(&seal.first);
        seal.batch >= wanted
    }

    fn take(&mut self, is_taken: impl Fn(Position, u32) -> bool) -> Vec<(Position, UsageEvent)> {
        self.events.extract_if(.., |position, event| is_taken(*position, event.day())).collect()
    }

    fn batch(&self, seal: Seal, events: &[(Position, UsageEvent)]) -> Batch {
        let bytes: Vec<u8> = events.iter().flat_map(|(_, event)| event.encode()).collect();
        let lost = u64::from(seal.count).saturating_sub(events.len() as u64);
        Batch { seal, events: bytes, lost, cursor: self.range_from }
    }

    /// Makes the batches `from..to`, whose seals are gone, of those events that must have been in them.
    fn infer(&mut self, from: BatchSeq, to: BatchSeq, is_taken: impl Fn(Position, u32) -> bool) {
        let mut days: BTreeMap<u32, Vec<(Position, UsageEvent)>> = BTreeMap::new();
        for (position, event) in self.take(is_taken) {
            days.entry(event.day()).or_default().push((position, event));
        }
        let is_clear = days.len() as u64 == to.0 - from.0;
        let mut lost: u64 = days.values().map(|events| events.len() as u64).sum();
        let mut days = days.into_iter();
        for batch in (from.0..to.0).map(BatchSeq) {
            let ready = match days.next() {
                Some((day, events)) if is_clear => {
                    let at = |end: Option<&(Position, _)>| end.map_or(Position(0), |(position, _)| *position);
                    let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
                    let (first, last) = (at(events.first()), at(events.last()));
                    self.batch(Seal { batch, first, last, day, count }, &events)
                }
                _ => {
                    let seal = Seal { batch, first: Position(0), last: Position(0), day: 0, count: 0 };
                    Batch { seal, events: Vec::new(), lost: std::mem::take(&mut lost), cursor: None }
                }
            };
            self.ready.push_back(ready);
        }
    }

    /// The next record, across damage and segments; `None` at the end of what was written.
    fn step(&mut self) -> io::Result<Option<(Position, Record)>> {
        loop {
            let Some(window) = &mut self.window else {
                let Some(first) = list(&self.dir)?.first().copied() else { return Ok(None) };
                self.window = Some(Window::open(&self.dir, first, SEGMENT_HEADER_BYTES as u64)?);
                continue;
            };
            if let Some(found) = window.step()? {
                return Ok(Some(found));
            }
            let name = window.name;
            let Some(next) = list(&self.dir)?.into_iter().find(|other| *other > name) else {
                return Ok(None);
            };
            self.window = Some(Window::open(&self.dir, next, SEGMENT_HEADER_BYTES as u64)?);
        }
    }
}

impl Window {
    fn open(dir: &std::path::Path, name: SegmentName, offset: u64) -> io::Result<Self> {
        let file = File::open(dir.join(name.to_string()))?;
        let mut this = Self { name, file, base: offset, bytes: Vec::new(), at: 0, len: 0, is_to_end: false };
        this.refill(WINDOW_BYTES)?;
        Ok(this)
    }

    fn cursor(&self) -> Cursor {
        Cursor { name: self.name, offset: self.base + self.at as u64 }
    }

    /// Reads `len` bytes from where the window stands.
    fn refill(&mut self, len: usize) -> io::Result<()> {
        self.base += self.at as u64;
        self.at = 0;
        self.len = len;
        self.bytes.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut self.bytes[filled..], self.base + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.is_to_end = filled < len;
        self.bytes.truncate(filled);
        Ok(())
    }

    fn step(&mut self) -> io::Result<Option<(Position, Record)>> {
        loop {
            if let Step::Record { position, record, next } = record::next(&self.bytes, self.at) {
                self.at = next.min(self.bytes.len());
                return Ok(Some((position, record)));
            }
            if self.is_to_end {
                let Some(found) = next_record(&self.bytes, self.at) else { return Ok(None) };
                self.at = found;
                continue;
            }
            // The record may only be cut by the window: read on from here, and more where that was done
            // already.
            let len = if self.at == 0 { self.len.saturating_mul(2) } else { self.len };
            self.refill(len)?;
        }
    }
}

#[cfg(test)]
mod tests;
