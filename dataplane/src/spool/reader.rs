//! Reads sealed batches back from a spool's segments, in order, with bounded memory: at most one range of
//! events.
//!
//! A range's events stand before its seals, so one pass forward is enough. A batch read twice has the same
//! bytes, which is what makes a resend the same batch. Records that were written anew after an error of the
//! disk appear twice: there is one event for each position, a seal whose number has been passed is skipped,
//! and one whose events are not all there waits for its copy.
//!
//! Where damage took a seal, the events between its neighbours' ranges are its batch, if there are as many
//! days among them as seals missing. Else they are counted as lost: it is not known whether they were stored
//! under that number. What the disk doesn't give is damage like any other, and its segment stays in
//! `set_aside`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use wire::event::{EVENT_BYTES, UsageEvent};
use wire::id::{BatchSeq, Position};
use wire::record::{self, Record, SEGMENT_HEADER_BYTES, Seal, Step};
use wire::segment_scan::{SegmentName, next_record};

use super::host::{Host, Os, read_around};
use super::segment::{keep_aside, list};
use unsealed::Unsealed;

mod unsealed;

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
pub(super) struct BatchReader<H: Host = Os> {
    pub(super) host: H,
    pub(super) dir: PathBuf,
    set_aside: PathBuf,
    window: Option<Window<H>>,
    /// Events whose seal has not come by.
    events: Unsealed,
    ready: VecDeque<Batch>,
    /// Seals that have come by, of batches that are not ready.
    short: VecDeque<Seal>,
    /// The first position of the range that is being passed, and where its events begin.
    range: Option<Position>,
    range_from: Option<Cursor>,
    after_seal: Option<Cursor>,
}

#[derive(Debug)]
struct Window<H: Host> {
    name: SegmentName,
    file: H::File,
    base: u64,
    bytes: Vec<u8>,
    at: usize,
    len: usize,
    is_to_end: bool,
    has_unread: bool,
}

impl Cursor {
    pub(super) fn new(name: SegmentName, offset: u64) -> Self {
        Self { name, offset }
    }
}

impl<H: Host> BatchReader<H> {
    pub(super) fn new(host: H, dir: PathBuf, set_aside: PathBuf) -> Self {
        Self {
            host,
            dir,
            set_aside,
            window: None,
            events: Unsealed::default(),
            ready: VecDeque::new(),
            short: VecDeque::new(),
            range: None,
            range_from: None,
            after_seal: None,
        }
    }

    /// A second reader of the same spool.
    pub(super) fn beside(&self) -> Self {
        Self::new(self.host.clone(), self.dir.clone(), self.set_aside.clone())
    }

    /// Goes back to where a batch was read. Where that segment is gone, only what was stored was in it: the
    /// batch begins in the one behind it.
    pub(super) fn seek(&mut self, cursor: Option<Cursor>) -> io::Result<()> {
        *self = self.beside();
        if let Some(cursor) = cursor {
            self.window = match self.window_at(cursor.name, cursor.offset) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.window_behind(cursor.name)?,
                window => Some(window?),
            };
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
            self.keep_unread();
        }
        while let Some((position, record)) = self.step()? {
            match record {
                Record::Event(event) => self.events.push(position, event),
                Record::Seal(seal) if self.see(seal, batch) => break,
                _ => {}
            }
        }
        if self.ready.is_empty() {
            self.give(true);
        }
        if self.ready.is_empty() {
            self.infer(batch, BatchSeq(sealed.last.0 + 1), |position, _| position < sealed.end);
        }
        self.ready.pop_front().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Comes by a seal; says whether the batch that is wanted is ready.
    fn see(&mut self, seal: Seal, wanted: BatchSeq) -> bool {
        let of_range = |at, day| (seal.first..=seal.last).contains(&at) && day == seal.day;
        if self.short.front().is_some_and(|short| short.first < seal.first) {
            self.give(true);
        }
        if self.range.is_none_or(|range| range < seal.first) {
            self.range = Some(seal.first);
            self.range_from = self.after_seal;
        }
        if self.range == Some(seal.first) {
            self.after_seal = self.window.as_ref().map(Window::cursor);
        }
        let next = self.short.back().map(|short| short.batch);
        let next = next.or(self.ready.back().map(|ready| ready.seal.batch));
        let next = next.map_or(wanted, |last| BatchSeq(last.0 + 1).max(wanted));
        if seal.batch > next {
            self.give(true);
            // The seals of a range are in the order of their days.
            let is_before = |at, day| at < seal.first || (at <= seal.last && day < seal.day);
            self.infer(next, seal.batch, is_before);
        }
        if seal.batch >= next {
            self.short.push_back(seal);
        } else if !self.short.contains(&seal) {
            self.events.take(of_range);
        }
        self.give(false);
        if self.short.is_empty() {
            self.events.forget_before(seal.first);
        }
        self.ready.front().is_some_and(|ready| ready.seal.batch >= wanted)
    }

    /// Makes batches of the seals that have come by. One whose events are not all there waits for its copy:
    /// after an error of the disk the same records were written anew, and only those are known to be whole.
    fn give(&mut self, at_once: bool) {
        while let Some(seal) = self.short.front().copied() {
            if !at_once && self.events.count(&seal) < seal.count as usize {
                return;
            }
            let events = self.events.take_encoded(&seal);
            self.ready.push_back(self.batch(seal, events));
            self.short.pop_front();
        }
    }

    fn batch(&self, seal: Seal, events: Vec<u8>) -> Batch {
        let lost = u64::from(seal.count).saturating_sub((events.len() / EVENT_BYTES) as u64);
        Batch { seal, events, lost, cursor: self.range_from }
    }

    /// Makes the batches `from..to`, whose seals are gone, of those events that must have been in them.
    fn infer(&mut self, from: BatchSeq, to: BatchSeq, is_taken: impl Fn(Position, u32) -> bool) {
        let mut days: BTreeMap<u32, Vec<(Position, UsageEvent)>> = BTreeMap::new();
        for (position, event) in self.events.take(is_taken) {
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
                    let bytes = events.iter().flat_map(|(_, event)| event.encode()).collect();
                    self.batch(Seal { batch, first, last, day, count }, bytes)
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
    pub(super) fn step(&mut self) -> io::Result<Option<(Position, Record)>> {
        loop {
            let behind = match &mut self.window {
                Some(window) => {
                    let (found, name) = (window.step()?, window.name);
                    self.keep_unread();
                    if let Some(found) = found {
                        return Ok(Some(found));
                    }
                    self.window_behind(name)?
                }
                None => self.first_window()?,
            };
            let Some(window) = behind else { return Ok(None) };
            self.window = Some(window);
        }
    }

    fn first_window(&self) -> io::Result<Option<Window<H>>> {
        let names = list(&self.host, &self.dir)?;
        names.first().map(|name| self.window_at(*name, SEGMENT_HEADER_BYTES as u64)).transpose()
    }

    fn window_behind(&self, name: SegmentName) -> io::Result<Option<Window<H>>> {
        let next = list(&self.host, &self.dir)?.into_iter().find(|other| *other > name);
        next.map(|name| self.window_at(name, SEGMENT_HEADER_BYTES as u64)).transpose()
    }

    fn window_at(&self, name: SegmentName, offset: u64) -> io::Result<Window<H>> {
        Window::open(&self.host, &self.dir, name, offset)
    }

    /// Where something could not be read that may be another time, its segment outlives the spool.
    fn keep_unread(&mut self) {
        if let Some(window) = &mut self.window
            && std::mem::take(&mut window.has_unread)
        {
            // For a person to look at; that it can't be kept is no reason not to ship the rest.
            let _ = keep_aside(&self.host, (&self.dir, window.name), &self.set_aside);
        }
    }
}

impl<H: Host> Window<H> {
    fn open(host: &H, dir: &Path, name: SegmentName, offset: u64) -> io::Result<Self> {
        let file = host.open(&dir.join(name.to_string()))?;
        let (bytes, is_to_end, has_unread) = (Vec::new(), false, false);
        let mut this = Self { name, file, base: offset, bytes, at: 0, len: 0, is_to_end, has_unread };
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
        let (filled, unread) = read_around(&self.file, &mut self.bytes, self.base)?;
        self.has_unread |= !unread.is_empty();
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
