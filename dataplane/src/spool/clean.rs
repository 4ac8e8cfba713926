//! What the spool thread does with answers, and how it makes room.
//!
//! Stages of a full disk:
//!
//!   1. no room for another segment of 16 MiB: smaller ones are made, down to 128 KiB
//!   2. no room for those: events wait in their slots, new requests get 503, streams finish; seals and acks
//!      still go into the reserve of the last segment; acks that need not be on the disk wait in memory
//!   3. what is stored goes at once, without its retention: segments oldest first, spools of the past whole;
//!      at last, once everything in it is stored, the segment that is being written
//!
//! Order: an ack on the disk, then the events that it is for are deleted. A seal without ack whose events
//! are gone would count as lost.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use wire::record::{self, Record};

use super::figures::{add, take};
use super::host::{Host, HostFile, discard};
use super::old::OldSpool;
use super::ship::Acked;
use super::thread::SpoolThread;

const CLEAN_INTERVAL: Duration = Duration::from_millis(100);
/// How many acks wait at most for their refused events to be set aside.
const HELD_MAX: usize = 16;

impl<H: Host> SpoolThread<H> {
    /// Takes answers in. One that can't be noted yet is held, and does not stop the others.
    pub(super) fn note_acks(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for acked in std::mem::take(&mut self.state.held) {
            result = self.note_ack(acked).and(result);
        }
        while self.state.held.len() < HELD_MAX
            && let Ok(acked) = self.acks.try_recv()
        {
            result = self.note_ack(acked).and(result);
        }
        self.old.iter_mut().fold(result, |result, old| old.write_acks().and(result))
    }

    fn note_ack(&mut self, acked: Acked) -> io::Result<()> {
        // An answer that comes again, or to what was never sent, changes nothing and sets nothing aside.
        if !self.is_waiting(&acked) {
            return Ok(());
        }
        if let Err(e) = set_aside(&self.host, &self.set_aside, &acked) {
            self.state.held.push_back(acked);
            return Err(e);
        }
        let Acked { spool, seal, sent, refused, lost } = &acked;
        let counters = &self.shared.counters;
        if *spool == self.spool {
            if self.ledger.ack(seal).is_err() {
                return Ok(());
            }
            self.state.has_unwritten_acks = true;
        } else if let Some(old) = self.old.iter_mut().find(|old| old.spool == *spool) {
            let Some(count) = old.ack(seal.batch) else { return Ok(()) };
            // A batch whose seal was gone was not counted when the spool was found.
            let uncounted = (sent + lost).saturating_sub(u64::from(count));
            add(&counters.found, uncounted);
            add(&counters.pending, uncounted);
        }
        let refused = refused.len() as u64;
        add(&counters.acked, sent - refused.min(*sent));
        add(&counters.set_aside, refused);
        add(&counters.lost, *lost);
        add(&counters.batches, 1);
        take(&counters.pending, sent + lost);
        Ok(())
    }

    fn is_waiting(&self, acked: &Acked) -> bool {
        if acked.spool == self.spool {
            return self.ledger.is_waiting(&acked.seal);
        }
        // Of a spool that is over, and deleted, nothing waits.
        let old = self.old.iter().find(|old| old.spool == acked.spool);
        old.is_some_and(|old| old.contents.unacked.contains_key(&acked.seal.batch))
    }

    /// Notes on the disk how far the spool is acknowledged: where `at_once` is false, only if a segment is
    /// there that events go into, too. The rest of a segment is kept for when it must be.
    pub(super) fn write_acks(&mut self, at_once: bool) -> io::Result<()> {
        if !self.state.has_unwritten_acks || !(at_once || self.writer.has_room()) {
            return Ok(());
        }
        let acked_ms = self.host.unix_ms();
        let mut records = vec![Record::AckedTo { batch: self.ledger.last_acked(), acked_ms }];
        // Each once: while a backlog drains there may be many. They stand no earlier than their seals, and go
        // with them.
        records.extend(self.ledger.unwritten_ahead().map(|batch| Record::Ack { batch, acked_ms }));
        self.writer.write_records(&records)?;
        self.ledger.write_ahead();
        self.state.has_unwritten_acks = false;
        Ok(())
    }

    pub(super) fn clean_if_due(&mut self, now: Instant) -> io::Result<()> {
        let is_full = self.shared.counters.full.load(Relaxed);
        if !is_full && now.duration_since(self.state.cleaned_at) < CLEAN_INTERVAL {
            return Ok(());
        }
        self.state.cleaned_at = now;
        // A full disk needs the space more than ClickHouse may need the events again.
        let retention = if is_full { Duration::ZERO } else { self.retention };
        let old = self.clean_old(retention, is_full);
        let mut own = self.clean_own(now, retention);
        if is_full && self.state.closed.is_empty() && self.is_all_stored() && self.writer.has_segment() {
            self.writer.give_up();
            self.state.has_unwritten_acks = false;
            own = own.and_then(|()| self.clean_own(now, retention));
        }
        self.show_sizes();
        own.and(old)
    }

    fn clean_old(&mut self, retention: Duration, is_full: bool) -> io::Result<()> {
        let now_ms = self.host.unix_ms();
        let mut result = Ok(());
        let (over, kept): (Vec<OldSpool<H>>, _) =
            std::mem::take(&mut self.old).into_iter().partition(|old| old.is_over(now_ms, retention));
        self.old = kept;
        for old in &mut self.old {
            if is_full {
                result = old.shrink().and(result);
            }
        }
        for old in over {
            // Half a deletion is finished by the next start.
            result = old.delete().and(result);
        }
        result
    }

    fn clean_own(&mut self, now: Instant, retention: Duration) -> io::Result<()> {
        self.state.closed.extend(self.writer.closed.drain(..).map(|closed| (closed, None)));
        while let Some((closed, acked_at)) = self.state.closed.front_mut() {
            if closed.end > self.ledger.acked()
                || now.duration_since(*acked_at.get_or_insert(now)) < retention
            {
                break;
            }
            let path = closed.path.clone();
            // With the last segment all seals go, too.
            if self.state.closed.len() > 1 || self.writer.has_segment() {
                self.write_acks(true)?;
                self.sync()?;
            }
            discard(&self.host, &path)?;
            self.state.closed.pop_front();
        }
        Ok(())
    }

    fn show_sizes(&self) {
        let own_bytes: u64 = self.state.closed.iter().map(|(closed, _)| closed.bytes).sum();
        let own = self.state.closed.len() as u64 + u64::from(self.writer.has_segment());
        let (segments, bytes) = self
            .old
            .iter()
            .map(|old| old.contents.size())
            .fold((own, own_bytes + self.writer.segment_bytes()), |all, old| (all.0 + old.0, all.1 + old.1));
        self.shared.counters.segments.store(segments, Relaxed);
        self.shared.counters.bytes.store(bytes, Relaxed);
    }
}

/// Keeps what can't be stored; after a crash before the ack is noted it is kept twice.
fn set_aside(host: &impl Host, dir: &Path, acked: &Acked) -> io::Result<()> {
    if acked.refused.is_empty() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    for event in &acked.refused {
        record::append(&mut bytes, acked.seal.first, &Record::Event(*event));
    }
    let file = host.create(&dir.join(format!("{}.events", acked.spool)))?;
    // Half a record may stand at the end, of a process that was killed. A scan looks for the next one at
    // multiples of eight only.
    let end = file.size()?.next_multiple_of(8);
    let kept = file.write_at(&bytes, end).and_then(|()| file.sync());
    if kept.is_err() {
        // The next try begins where this one did; what it can't cut off now it writes over.
        let _ = file.set_len(end);
    }
    kept.and_then(|()| host.sync_dir(dir))
}

#[cfg(test)]
mod tests {
    use super::super::host::Os;
    use super::*;
    use std::fs;
    use tempfile::TempDir;
    use wire::event::UsageEvent;
    use wire::id::{BatchSeq, BootId, Position};
    use wire::record::{EVENT_RECORD_BYTES, SEGMENT_HEADER_BYTES, Seal};
    use wire::segment_scan::{Found, Scan};

    #[test]
    fn what_is_set_aside_is_found_behind_half_of_what_a_killed_process_set_aside() {
        let dir = TempDir::new().unwrap();
        let event = |ts_ms| UsageEvent { ts_ms, ..UsageEvent::default() };
        let seal = Seal { batch: BatchSeq(1), first: Position(0), last: Position(1), day: 0, count: 2 };
        for half in 0..EVENT_RECORD_BYTES {
            let mut bytes = Vec::new();
            for ts_ms in [1, 2] {
                record::append(&mut bytes, seal.first, &Record::Event(event(ts_ms)));
            }
            bytes.truncate(EVENT_RECORD_BYTES + half);
            let path = dir.path().join(format!("{}.events", BootId(1)));
            fs::write(&path, bytes).unwrap();
            let acked = Acked { spool: BootId(1), seal, sent: 2, refused: vec![event(3), event(4)], lost: 0 };
            set_aside(&Os, dir.path(), &acked).unwrap();

            let bytes = [vec![0; SEGMENT_HEADER_BYTES], fs::read(path).unwrap()].concat();
            let found = Scan::new(&bytes).filter_map(|found| match found {
                // Of the half one only zeros may be missing.
                Found::Record { record: Record::Event(event), .. } if event.ts_ms != 2 => Some(event.ts_ms),
                _ => None,
            });
            assert_eq!(found.collect::<Vec<_>>(), [1, 3, 4], "{half} bytes of half a record");
        }
    }
}
