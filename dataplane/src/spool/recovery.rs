//! What a scan of a spool finds, and the taking over of events that no batch has.
//!
//! Each start holds `start.lock` for as long as this takes. A spool whose own `lock` is free belongs to a
//! process that is gone, and so do the slots of that process: there is one lock for both. Then, in this
//! order, so that a crash between any two steps neither loses nor doubles an event:
//!
//!   1. events never sealed, and used slots, are appended to the new process's spool and synced;
//!      one event for each (boot, seq), and none that any other spool has already
//!   2. an `Adopted` record is synced in each spool that such events came from
//!   3. the slots files are removed
//!   4. shipping begins: before, none of those events could have left under the new process's number
//!
//! After a crash before 2 the next start finds the same events in both spools, and takes them once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId, EventSeq, NodeId, Position};
use wire::record::{Record, Seal, SegmentHeader};
use wire::segment_scan::{Found, Scan};

use super::figures::add;
use super::old::OldSpool;
use super::reader::Sealed;
use super::segment::list;
use super::thread::SpoolThread;
use crate::slots::adopt::{Leftover, leftovers};

/// What one spool holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Batches without an ack, and how many events each has.
    pub(super) unacked: BTreeMap<BatchSeq, u32>,
    pub(super) sealed: Sealed,
    /// Behind the last event.
    pub(super) next: Position,
    /// When the last ack came, Unix time in milliseconds.
    pub(super) acked_ms: u64,
    /// Written, in no batch, and not taken over yet.
    unsealed: BTreeMap<Position, UsageEvent>,
    /// Positions behind the batches that damage took.
    pub(super) lost: u64,
    pub(super) damaged_bytes: u64,
    pub(super) segments: u64,
    pub(super) bytes: u64,
    acked: BTreeSet<BatchSeq>,
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

impl Contents {
    /// Scans the spool in `dir`. `None` where it is another node's. Damage is copied to `set_aside`.
    fn read(dir: &Path, node: NodeId, set_aside: &Path) -> io::Result<Option<Self>> {
        let mut this = Self::default();
        let mut bytes = Vec::new();
        for name in list(dir)? {
            let path = dir.join(name.to_string());
            if read_into(&mut bytes, &path).is_err() {
                this.damaged_bytes += fs::metadata(&path).map_or(0, |file| file.len());
                continue;
            }
            if SegmentHeader::decode(&bytes).is_ok_and(|header| header.node != node) {
                return Ok(None);
            }
            this.segments += 1;
            this.bytes += bytes.len() as u64;
            this.next = this.next.max(name.first);
            for found in Scan::new(&bytes) {
                if let Found::Damage { from, to } = found {
                    let spool = dir.file_name().unwrap_or_default().to_string_lossy();
                    // For a person to look at; that it can't be kept is no reason not to start.
                    let _ =
                        fs::write(set_aside.join(format!("{spool}-{name}-{from:08x}.bad")), &bytes[from..to]);
                }
                this.see(&found);
            }
        }
        this.close();
        Ok(Some(this))
    }

    fn see(&mut self, found: &Found) {
        let (position, record) = match found {
            Found::Record { position, record, .. } => (*position, record),
            Found::Damage { from, to } => {
                self.damaged_bytes += (to - from) as u64;
                return;
            }
            // Never synced, so never shipped: its events, if any, are in slots.
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
            Record::Adopted { .. } => self.adopted_to = self.adopted_to.max(position),
            Record::Unknown(_) => {}
        }
    }

    fn see_seal(&mut self, seal: &Seal) {
        self.unacked.insert(seal.batch, seal.count);
        self.first_sealed = Some(self.first_sealed.map_or(seal.batch, |first| first.min(seal.batch)));
        self.sealed.last = self.sealed.last.max(seal.batch);
        self.sealed.end = self.sealed.end.max(Position(seal.last.0.saturating_add(1)));
        // One that damage left without a seal is before this one's end, too: its batch was numbered and may
        // be stored.
        self.unsealed = self.unsealed.split_off(&self.sealed.end);
    }

    fn close(&mut self) {
        // A segment that was written anew has its events again, behind their seal.
        self.unsealed = self.unsealed.split_off(&self.sealed.end.max(self.adopted_to));
        if let Some(first) = self.first_sealed {
            for batch in (first.0..self.sealed.last.0).map(BatchSeq) {
                self.unacked.entry(batch).or_default();
            }
        }
        self.unacked.retain(|batch, _| !self.acked.contains(batch));
        let open_from = self.sealed.end.max(self.adopted_to);
        self.lost = self.next.0.saturating_sub(open_from.0).saturating_sub(self.unsealed.len() as u64);
        self.acked = self.acked.split_off(self.unacked.keys().next().unwrap_or(&BatchSeq(u64::MAX)));
    }

    /// Whether an `Adopted` record has to say that what is in no batch is settled.
    pub(super) fn has_unsealed(&self) -> bool {
        !self.unsealed.is_empty() || self.lost > 0
    }

    fn is_unused(&self) -> bool {
        self.next == Position(0) && self.sealed.last == BatchSeq(0) && self.damaged_bytes == 0
    }

    /// Acknowledged batches behind the first that is not.
    pub(super) fn acked_ahead(&self) -> BTreeSet<BatchSeq> {
        self.acked.clone()
    }
}

/// Finds the spools of processes that are gone, locks them, and says what of them is to be taken over.
///
/// The caller holds `start.lock`.
pub(super) fn find(places: Places<'_>, node: NodeId, own: BootId) -> io::Result<(Vec<OldSpool>, Adoption)> {
    let all = spool_dirs(places.spools)?;
    let mut old = Vec::new();
    for (spool, dir) in all.iter().filter(|(spool, _)| **spool != own) {
        let lock = File::create(dir.join("lock"))?;
        if lock.try_lock().is_ok()
            && let Some(contents) = Contents::read(dir, node, places.set_aside)?
        {
            old.push(OldSpool::new(*spool, dir.clone(), node, lock, contents));
        }
    }
    let is_gone = |boot| boot != own && old.iter().any(|o| o.spool == boot) || !all.contains_key(&boot);
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
            let gone = old.iter().find(|o| o.spool == *spool);
            let end = gone.map_or(Position(u64::MAX), |o| o.contents.sealed.end);
            strike_out(dir, end, &mut wanted)?;
        }
    }
    let mut events: Vec<UsageEvent> = wanted.into_values().collect();
    events.sort_unstable_by_key(|event| (event.ts_ms, event.boot, event.seq));
    Ok((old, Adoption { events, leftovers }))
}

/// Reads a file into a buffer that is used again: fresh memory for each segment would cost more than reading
/// it.
fn read_into(bytes: &mut Vec<u8>, path: &Path) -> io::Result<()> {
    bytes.clear();
    File::open(path)?.read_to_end(bytes).map(|_| ())
}

/// Deletes spools that never had an event: what starts left that failed, on a full disk for instance.
pub(super) fn delete_unused(old: &mut Vec<OldSpool>) -> io::Result<()> {
    let (unused, used) = std::mem::take(old).into_iter().partition(|old: &OldSpool| old.contents.is_unused());
    *old = used;
    unused.iter().try_for_each(OldSpool::delete)
}

/// Does the steps 1 to 3. Shipping has not begun.
pub(super) fn take_over(thread: &mut SpoolThread, adoption: &Adoption) -> io::Result<()> {
    thread.append_adopted(&adoption.events)?;
    let shared = Arc::clone(&thread.shared);
    let counters = &shared.counters;
    add(&counters.adopted, adoption.events.len() as u64);
    add(&counters.pending, adoption.events.len() as u64);
    let by = thread.spool;
    for old in &mut thread.old {
        let found: u64 = old.contents.unacked.values().map(|count| u64::from(*count)).sum();
        add(&counters.found, found + old.contents.lost);
        add(&counters.pending, found);
        add(&counters.lost, old.contents.lost);
        add(&counters.damaged, old.contents.damaged_bytes);
        if old.contents.has_unsealed() {
            old.adopted(by)?;
        }
    }
    for leftover in &adoption.leftovers {
        add(&counters.found, leftover.unreadable);
        add(&counters.lost, leftover.unreadable);
        fs::remove_file(&leftover.path)?;
    }
    Ok(())
}

/// Takes out of `wanted` what the spool in `dir` has before `end`.
fn strike_out(dir: &Path, end: Position, wanted: &mut HashMap<Event, UsageEvent>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for name in list(dir)? {
        // A living process may just have deleted it; one that can't be read was counted as damage.
        if read_into(&mut bytes, &dir.join(name.to_string())).is_err() {
            continue;
        }
        for found in Scan::new(&bytes) {
            if let Found::Record { position, record: Record::Event(event), .. } = found
                && position < end
            {
                wanted.remove(&(event.boot, event.seq));
            }
        }
    }
    Ok(())
}

/// The spools in `dir`. Removes what is left of spools that were being deleted.
fn spool_dirs(dir: &Path) -> io::Result<BTreeMap<BootId, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".deleted") {
            fs::remove_dir_all(&path)?;
        } else if let Some(spool) = BootId::parse(name) {
            found.insert(spool, path);
        }
    }
    Ok(found)
}
