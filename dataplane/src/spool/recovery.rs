//! What a scan of a spool finds, and the taking over of events that no batch has.
//!
//! Each start holds `start.lock` for as long as this takes (`opening.rs` does the steps). A spool whose own
//! `lock` is free belongs to a process that is gone, and so do the slots of that process: there is one lock
//! for both. Then, in this order, so that a crash between any two steps neither loses nor doubles an event:
//!
//!   1. events never sealed, and used slots, are appended to the new process's spool and synced;
//!      one event for each (boot, seq), and none that any other spool has already
//!   2. an `Adopted` record is synced in each spool that such events came from
//!   3. the slots files are removed
//!   4. the new process's own batches are shipped: before, none of those events could have left under its
//!      number
//!
//! After a crash before 2 the next start finds the same events in both spools, and takes them once.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId, EventSeq, NodeId, Position};
use wire::record::{Record, Seal, SegmentHeader};
use wire::segment_scan::{Found, Scan, SegmentName};

use super::host::{Host, HostFile, read_around};
use super::old::OldSpool;
use super::reader::Sealed;
use super::segment::{keep_aside, list};
use crate::log::{self, Entry};
use crate::slots::adopt::{Leftover, leftovers};

/// A batch without an ack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// How many events it has; 0 where its seal is gone.
    pub(super) count: u32,
    first: Position,
}

/// One segment of a spool that is not written any more.
#[derive(Debug)]
pub(super) struct OldFile {
    pub(super) name: SegmentName,
    /// Behind the last event in it.
    pub(super) end: Position,
    bytes: u64,
}

/// What one spool holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Batches without an ack.
    pub(super) unacked: BTreeMap<BatchSeq, Waiting>,
    pub(super) sealed: Sealed,
    /// Behind the last event.
    pub(super) next: Position,
    /// When the last ack came, Unix time in milliseconds.
    pub(super) acked_ms: u64,
    /// Written, in no batch, and not taken over yet.
    unsealed: BTreeMap<Position, UsageEvent>,
    /// In the newest range that was sealed, on a day whose seal has not come by.
    range: BTreeMap<Position, UsageEvent>,
    /// Those of them that were taken over by the process that wrote the `Adopted` record.
    taken_over: BTreeSet<Position>,
    /// Positions behind the batches that damage took.
    pub(super) lost: u64,
    pub(super) damaged_bytes: u64,
    pub(super) files: VecDeque<OldFile>,
    /// What was added since.
    pub(super) annexes_bytes: u64,
    /// Whether a segment that can't be read whole has no second name in `set_aside`.
    pub(super) is_to_stay: bool,
    acked: BTreeSet<BatchSeq>,
    acked_to: BatchSeq,
    begin: Position,
    first_sealed: Option<BatchSeq>,
    adopted_to: Position,
}

/// What is to be appended to the new spool, and where it comes from.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    pub(super) events: Vec<UsageEvent>,
    pub(super) leftovers: Vec<Leftover>,
}

/// The directories that recovery looks into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    pub(super) spools: &'a Path,
    pub(super) set_aside: &'a Path,
    pub(super) runtime: &'a Path,
}

type Event = (BootId, EventSeq);

/// What a look at a spool shows.
enum Looked {
    Contents(Box<Contents>),
    OtherNode,
    /// Not now, at least.
    Unreadable(io::Error),
}

impl Contents {
    /// Scans the spool in `dir`. Damage is copied to `set_aside`; of a segment that can't be read whole the
    /// rest counts, and all of it stays there.
    fn read(host: &impl Host, dir: &Path, node: NodeId, set_aside: &Path) -> io::Result<Looked> {
        let mut this = Self::default();
        let mut bytes = Vec::new();
        let names = match list(host, dir) {
            Ok(names) => names,
            Err(e) => return Ok(Looked::Unreadable(e)),
        };
        // What came before was stored, and is deleted. One without a byte was being deleted, or made.
        let mut begin = None;
        let last = names.last().map_or(Position(0), |name| name.first);
        for name in names {
            let path = dir.join(name.to_string());
            let unread = match read_into(host, &mut bytes, &path) {
                Ok(unread) => unread,
                Err(e) if e.kind() == io::ErrorKind::IsADirectory => continue,
                Err(e) => return Ok(Looked::Unreadable(e)),
            };
            if SegmentHeader::decode(&bytes).is_ok_and(|header| header.node != node) {
                return Ok(Looked::OtherNode);
            }
            if !bytes.is_empty() {
                begin.get_or_insert(name.first);
            }
            this.next = this.next.max(name.first);
            let (damaged, is_whole) = (this.damaged_bytes, unread.is_empty());
            for found in Scan::new(&bytes) {
                if let Found::Damage { from, to } = found
                    && is_whole
                {
                    let spool = dir.file_name().unwrap_or_default().to_string_lossy();
                    let path = set_aside.join(format!("{spool}-{name}-{from:08x}.bad"));
                    // For a person to look at; that it can't be kept is no reason not to start.
                    let _ = host.create(&path).and_then(|file| file.write_at(&bytes[from..to], 0));
                }
                this.see(&found);
            }
            if !is_whole {
                // Damage has it as well where a record follows, and is not told otherwise.
                let unread: usize = unread.iter().map(Range::len).sum();
                this.damaged_bytes = this.damaged_bytes.max(damaged + unread as u64);
                this.is_to_stay |= keep_aside(host, (dir, name), set_aside).is_err();
            }
            // How far one reaches whose end can't be read is not known.
            keep(host, &path, (&bytes, &unread), !is_whole || this.next >= last)?;
            this.files.push_back(OldFile { name, end: this.next, bytes: bytes.len() as u64 });
        }
        this.begin = begin.unwrap_or(last);
        this.close();
        Ok(Looked::Contents(Box::new(this)))
    }

    fn see(&mut self, found: &Found) {
        let (position, record) = match found {
            Found::Record { position, record, .. } => (*position, record),
            Found::Damage { from, to } => {
                self.damaged_bytes += (to - from) as u64;
                return;
            }
            // Never synced, so never shipped. After a kill its events, if any, are still in slots; after a
            // power cut they are lost, as `usage.sync` allows.
            Found::Torn { .. } => return,
        };
        match record {
            Record::Event(event) => {
                self.unsealed.insert(position, *event);
                self.next = self.next.max(Position(position.0.saturating_add(1)));
            }
            Record::Seal(seal) => self.see_seal(seal),
            Record::Ack { batch, acked_ms } => {
                self.acked.insert(*batch);
                self.acked_ms = self.acked_ms.max(*acked_ms);
            }
            Record::AckedTo { batch, acked_ms } => {
                self.acked_to = self.acked_to.max(*batch);
                self.acked_ms = self.acked_ms.max(*acked_ms);
            }
            Record::Adopted { .. } => self.adopted_to = self.adopted_to.max(position),
            Record::Unknown(_) => {}
        }
    }

    fn see_seal(&mut self, seal: &Seal) {
        self.unacked.insert(seal.batch, Waiting { count: seal.count, first: seal.first });
        self.first_sealed = Some(self.first_sealed.map_or(seal.batch, |first| first.min(seal.batch)));
        self.sealed.last = self.sealed.last.max(seal.batch);
        let end = Position(seal.last.0.saturating_add(1));
        if end > self.sealed.end {
            self.sealed.end = end;
            // One that damage left without a seal is before this one's end, too: its batch was numbered and
            // may be stored.
            let rest = self.unsealed.split_off(&end);
            let events = std::mem::replace(&mut self.unsealed, rest).split_off(&seal.first);
            self.range = events;
        }
        if end == self.sealed.end {
            self.range.retain(|_, event| event.day() != seal.day);
        }
    }

    fn close(&mut self) {
        // A segment that was written anew has its events again, behind their seal.
        let open_from = self.sealed.end.max(self.adopted_to).max(self.begin);
        self.unsealed = self.unsealed.split_off(&open_from);
        self.lost = self.next.0.saturating_sub(open_from.0).saturating_sub(self.unsealed.len() as u64);
        // Seals of one range are synced together, before the first of them is sent.
        let mut taken_over = std::mem::take(&mut self.range);
        self.unsealed.append(&mut taken_over.split_off(&self.adopted_to));
        self.taken_over = taken_over.into_keys().collect();
        if let Some(first) = self.first_sealed {
            for batch in (first.0..self.sealed.last.0).map(BatchSeq) {
                self.unacked.entry(batch).or_default();
            }
        }
        self.unacked.retain(|batch, _| *batch > self.acked_to && !self.acked.contains(batch));
        self.acked = self.acked.split_off(self.unacked.keys().next().unwrap_or(&BatchSeq(u64::MAX)));
    }

    /// Whether the event at a position is in a batch.
    fn is_batched(&self, position: Position) -> bool {
        position < self.sealed.end
            && !self.unsealed.contains_key(&position)
            && !self.taken_over.contains(&position)
    }

    /// Whether an `Adopted` record has to say that what is in no batch is settled.
    pub(super) fn has_unsealed(&self) -> bool {
        !self.unsealed.is_empty() || self.lost > 0
    }

    fn is_unused(&self) -> bool {
        self.next == Position(0) && self.sealed.last == BatchSeq(0) && self.damaged_bytes == 0
    }

    /// Behind the last event before which all is stored; `is_taken_over` says that what is in no batch lives
    /// on elsewhere.
    pub(super) fn acked_end(&self, is_taken_over: bool) -> Position {
        let sealed = self.unacked.first_key_value().map_or(self.sealed.end, |(_, waiting)| waiting.first);
        let unsealed = self.unsealed.keys().next().filter(|_| !is_taken_over);
        unsealed.map_or(sealed, |unsealed| sealed.min(*unsealed))
    }

    /// How many segments there are, and what they take of the disk.
    pub(super) fn size(&self) -> (u64, u64) {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        (self.files.len() as u64, bytes + self.annexes_bytes)
    }

    /// Acknowledged batches behind the first that is not.
    pub(super) fn acked_ahead(&self) -> BTreeSet<BatchSeq> {
        self.acked.clone()
    }
}

/// Finds the spools of processes that are gone, locks them, and says what of them is to be taken over.
///
/// The caller holds `start.lock`.
pub(super) fn find<H: Host>(
    host: &H,
    places: Places<'_>,
    (node, own): (NodeId, BootId),
) -> io::Result<(Vec<OldSpool<H>>, Adoption)> {
    let all = spool_dirs(host, places.spools)?;
    let mut old = Vec::new();
    for (spool, dir) in all.iter().filter(|(spool, _)| **spool != own) {
        let Some(lock) = host.lock(&dir.join("lock"))? else { continue };
        match Contents::read(host, dir, node, places.set_aside)? {
            Looked::Contents(contents) => {
                old.push(OldSpool::new(host.clone(), (*spool, dir.clone()), node, lock, *contents));
            }
            Looked::OtherNode => log::log(&Entry::SpoolOfOtherNode(*spool)),
            // As if its process lived: what it has may be whole, and a later start takes it over.
            Looked::Unreadable(error) => log::log(&Entry::SpoolUnreadable { spool: *spool, error: &error }),
        }
    }
    let is_gone = |boot| boot != own && (old.iter().any(|o| o.spool == boot) || !all.contains_key(&boot));
    let leftovers = leftovers(places.runtime, node, is_gone)?;

    let mut wanted: HashMap<Event, UsageEvent> = HashMap::new();
    for event in leftovers.iter().flat_map(|left| &left.events) {
        wanted.insert((event.boot, event.seq), *event);
    }
    for event in old.iter().flat_map(|o| o.contents.unsealed.values()) {
        wanted.insert((event.boot, event.seq), *event);
    }
    if !wanted.is_empty() {
        for (spool, dir) in all.iter().filter(|(spool, _)| **spool != own) {
            // A living process looks after all that its spool has; of one that is gone only the batches stay
            // there.
            let gone = old.iter_mut().find(|o| o.spool == *spool);
            let is_kept = |position| gone.as_ref().is_none_or(|o| o.contents.is_batched(position));
            let found = strike_out(host, dir, is_kept, &mut wanted)?;
            if let Some(gone) = gone {
                gone.witness = found;
            }
        }
    }
    let mut events: Vec<UsageEvent> = wanted.into_values().collect();
    events.sort_unstable_by_key(|event| (event.ts_ms, event.boot, event.seq));
    Ok((old, Adoption { events, leftovers }))
}

/// Reads a file into a buffer that is used again: fresh memory for each segment would cost more than reading
/// it. Gives the places that can't be read; they are zeros.
fn read_into(host: &impl Host, bytes: &mut Vec<u8>, path: &Path) -> io::Result<Vec<Range<usize>>> {
    bytes.clear();
    let file = host.open(path)?;
    bytes.resize(usize::try_from(file.size()?).unwrap_or(usize::MAX), 0);
    let (filled, unread) = read_around(&file, bytes, 0)?;
    bytes.truncate(filled);
    Ok(unread)
}

/// Waits until what was read of a file is on the disk: a killed process may have written a seal and not
/// synced it, and it is going to be sent.
///
/// Its sync may have failed before it was killed, so that another one alone would prove nothing: where
/// `is_in_doubt` the bytes are written anew. That is where a segment reaches the place at which the last one
/// begins. Before, the process had left it for one that it made when the disk had all of this one, or for one
/// with a copy of what the disk may not have; and a copy is no sooner left than it is on the disk itself.
///
/// What could not be read is not written over: it may be readable another time.
fn keep(
    host: &impl Host,
    path: &Path,
    (bytes, unread): (&[u8], &[Range<usize>]),
    is_in_doubt: bool,
) -> io::Result<()> {
    let file = host.create(path)?;
    if is_in_doubt {
        let mut from = 0;
        for gap in unread.iter().cloned().chain(std::iter::once(bytes.len()..bytes.len())) {
            file.write_at(&bytes[from..gap.start], from as u64)?;
            from = gap.end;
        }
    }
    file.sync()
}

/// Deletes spools that never had an event: what starts left that failed, on a full disk for instance.
pub(super) fn delete_unused<H: Host>(old: &mut Vec<OldSpool<H>>) -> io::Result<()> {
    let (unused, used): (Vec<OldSpool<H>>, _) =
        std::mem::take(old).into_iter().partition(|old| old.contents.is_unused());
    *old = used;
    unused.iter().try_for_each(OldSpool::delete)
}

/// Takes out of `wanted` what the spool in `dir` keeps; gives the position of the first of it.
fn strike_out(
    host: &impl Host,
    dir: &Path,
    is_kept: impl Fn(Position) -> bool,
    wanted: &mut HashMap<Event, UsageEvent>,
) -> io::Result<Option<Position>> {
    let mut first = None;
    let mut bytes = Vec::new();
    for name in list(host, dir)? {
        // A living process may just have deleted it; one that can't be read was counted as damage.
        if read_into(host, &mut bytes, &dir.join(name.to_string())).is_err() {
            continue;
        }
        for found in Scan::new(&bytes) {
            if let Found::Record { position, record: Record::Event(event), .. } = found
                && is_kept(position)
                && wanted.remove(&(event.boot, event.seq)).is_some()
            {
                first = Some(first.map_or(position, |first: Position| first.min(position)));
            }
        }
    }
    Ok(first)
}

/// The spools in `dir`. Removes what is left of spools that were being deleted.
fn spool_dirs(host: &impl Host, dir: &Path) -> io::Result<BTreeMap<BootId, PathBuf>> {
    let mut found = BTreeMap::new();
    for name in host.names(dir)? {
        let path = dir.join(&name);
        if name.ends_with(".deleted") {
            host.remove_dir(&path)?;
        } else if let Some(spool) = BootId::parse(&name) {
            found.insert(spool, path);
        }
    }
    Ok(found)
}
