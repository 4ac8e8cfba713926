//! The spool thread: takes settled slots, writes their records, frees them, seals, notes acks, deletes.
//!
//! It polls and never blocks on a channel: waking a thread that sleeps in `recv` would cost a worker a
//! syscall for each exchange. When the disk does not take records, the settled slots are what keeps the
//! events; the thread tries again, `full` tells the workers to refuse new requests, and batches go on being
//! shipped, which is what makes room.
//!
//! Order: record written (with `sync = "always"` also synced), then slot freed. Events and seal synced, then
//! announced.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId};
use wire::record::{self, Record, Seal};

use super::figures::{add, take};
use super::ledger::Ledger;
use super::old::OldSpool;
use super::reader::Sealed;
use super::seal::OpenRange;
use super::segment::SEGMENT_BYTES;
use super::ship::Acked;
use super::writer::{Closed, Writer};
use super::{Phase, Shared, SyncPolicy};
use crate::slots::pool::now_ms;
use crate::slots::{Lane, Slots};

/// How many slots are taken in one round.
const ROUND_EVENTS_MAX: usize = 8192;
const SYNC_INTERVAL: Duration = Duration::from_millis(50);
const SYNC_BYTES: usize = 1024 * 1024;
const CLEAN_INTERVAL: Duration = Duration::from_millis(100);
const SLEEP_MIN: Duration = Duration::from_millis(8);
const SLEEP_MAX: Duration = Duration::from_millis(10);
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the thread works on.
#[derive(Debug)]
pub(super) struct SpoolThread {
    pub(super) spool: BootId,
    pub(super) sync: SyncPolicy,
    pub(super) retention: Duration,
    pub(super) set_aside: PathBuf,
    pub(super) slots: Arc<Slots>,
    pub(super) lanes: Vec<Lane>,
    pub(super) writer: Writer,
    pub(super) ledger: Ledger,
    pub(super) range: OpenRange,
    pub(super) old: Vec<OldSpool>,
    pub(super) acks: Receiver<Acked>,
    pub(super) wake: Sender<()>,
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
}

/// What it has begun.
#[derive(Debug)]
pub(super) struct State {
    /// Slots that were taken and are not free yet, by worker.
    in_hand: Vec<(usize, u32)>,
    is_in_hand_written: bool,
    events: Vec<UsageEvent>,
    /// Seals that are written and not synced.
    sealing: Vec<Seal>,
    ack: Option<Acked>,
    closed: VecDeque<(Closed, Option<Instant>)>,
    synced_at: Instant,
    cleaned_at: Instant,
    retry: Duration,
}

impl Default for State {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            in_hand: Vec::new(),
            is_in_hand_written: false,
            events: Vec::new(),
            sealing: Vec::new(),
            ack: None,
            closed: VecDeque::new(),
            synced_at: now,
            cleaned_at: now,
            retry: RETRY_MIN,
        }
    }
}

impl SpoolThread {
    /// Works until told to quit.
    pub(super) fn run(mut self) {
        let mut sleep = SLEEP_MIN;
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Abandon {
                return;
            }
            self.slots.alive(now_ms());
            let (taken, result) = self.round(phase);
            if phase == Phase::Quit {
                return self.quit();
            }
            self.note(&result);
            sleep = match (&result, taken) {
                (Err(_), _) => self.state.retry,
                (Ok(()), 0) => (sleep + SLEEP_MIN / 4).min(SLEEP_MAX),
                (Ok(()), ..ROUND_EVENTS_MAX) => SLEEP_MIN,
                (Ok(()), _) => Duration::ZERO,
            };
            if !sleep.is_zero() {
                thread::sleep(sleep);
            }
        }
    }

    /// One turn at everything, so that an error of one part does not keep the others from making room.
    fn round(&mut self, phase: Phase) -> (usize, io::Result<()>) {
        let now = Instant::now();
        let acks = self.note_acks();
        let (taken, events) = match self.take_events(now) {
            Ok(taken) => (taken, Ok(())),
            Err(e) => (0, Err(e)),
        };
        let synced = self.sync_if_due(now);
        let is_drained = self.state.in_hand.is_empty() && self.lanes.iter().all(|l| l.settled.is_empty());
        let sealed = self.seal_if_due(now, phase != Phase::Run && is_drained);
        let is_finished = is_drained && self.range.is_empty() && self.state.sealing.is_empty();
        self.shared.is_finished.store(phase != Phase::Run && is_finished, Relaxed);
        let written = events.and(synced).and(sealed);
        self.shared.counters.full.store(written.is_err(), Relaxed);
        let cleaned = self.clean_if_due(now);
        (taken, written.and(acks).and(cleaned))
    }

    fn note(&mut self, result: &io::Result<()>) {
        match result {
            Ok(()) => self.state.retry = RETRY_MIN,
            Err(_) => {
                add(&self.shared.counters.disk_errors, 1);
                self.state.retry = (self.state.retry * 2).min(RETRY_MAX);
            }
        }
    }

    fn quit(mut self) {
        // What fails here is found again by the next start.
        let synced = self.note_acks().and_then(|()| self.sync());
        if synced.is_ok() && self.state.in_hand.is_empty() {
            let _ = self.slots.remove_if_free();
        }
    }

    /// Appends events of other processes, and waits until the disk has them.
    pub(super) fn append_adopted(&mut self, mut events: &[UsageEvent]) -> io::Result<()> {
        let now = Instant::now();
        while !events.is_empty() {
            let (some, rest) = events.split_at(events.len().min(self.range.room() as usize).min(1000));
            self.writer.write_events(some)?;
            self.ledger.append_to(self.writer.next());
            some.iter().for_each(|event| self.range.add(event, now));
            if self.range.room() == 0 {
                self.seal_if_due(now, true)?;
            }
            events = rest;
        }
        self.sync()
    }

    fn take_events(&mut self, now: Instant) -> io::Result<usize> {
        let State { in_hand, is_in_hand_written, events, .. } = &mut self.state;
        if in_hand.is_empty() {
            let mut room = ROUND_EVENTS_MAX.min(self.range.room() as usize);
            for (worker, lane) in self.lanes.iter().enumerate() {
                in_hand.extend(lane.settled.try_iter().take(room).map(|index| (worker, index)));
                room = ROUND_EVENTS_MAX.min(self.range.room() as usize) - in_hand.len();
            }
        }
        if in_hand.is_empty() {
            return Ok(0);
        }
        if !*is_in_hand_written {
            events.clear();
            events.extend(in_hand.iter().filter_map(|(_, index)| self.slots.event(*index).ok()));
            self.writer.write_events(events)?;
            *is_in_hand_written = true;
            self.ledger.append_to(self.writer.next());
            events.iter().for_each(|event| self.range.add(event, now));
            let count = events.len() as u64;
            add(&self.shared.counters.pending, count);
            add(&self.shared.counters.appended, count);
            add(&self.shared.counters.lost_slots, in_hand.len() as u64 - count);
        }
        if self.sync == SyncPolicy::Always {
            self.sync()?;
        }
        Ok(self.free_slots())
    }

    fn free_slots(&mut self) -> usize {
        let freed = self.state.in_hand.len();
        for (worker, index) in self.state.in_hand.drain(..) {
            self.slots.release(index);
            // Never full: it holds all indexes of the worker. Where the worker has gone, nobody needs the
            // slot.
            let _ = self.lanes[worker].free.try_send(index);
        }
        self.state.is_in_hand_written = false;
        freed
    }

    fn sync_if_due(&mut self, now: Instant) -> io::Result<()> {
        let unsynced = self.writer.unsynced_bytes();
        let is_due = now.duration_since(self.state.synced_at) >= SYNC_INTERVAL || unsynced >= SYNC_BYTES;
        if self.sync == SyncPolicy::Never || unsynced == 0 || !is_due {
            return Ok(());
        }
        self.sync()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.writer.sync()?;
        self.ledger.sync_to(self.writer.next());
        self.state.synced_at = Instant::now();
        Ok(())
    }

    fn seal_if_due(&mut self, now: Instant, finishing: bool) -> io::Result<()> {
        if self.state.sealing.is_empty() && !self.range.is_empty() && (finishing || self.range.is_due(now)) {
            let seals = self.range.seals(BatchSeq(self.ledger.last_sealed().0 + 1));
            let records: Vec<Record> = seals.iter().map(|seal| Record::Seal(*seal)).collect();
            self.writer.write_records(&records)?;
            self.range.clear();
            self.state.sealing = seals;
        }
        if self.state.sealing.is_empty() {
            return Ok(());
        }
        self.sync()?;
        let seals = std::mem::take(&mut self.state.sealing);
        self.ledger.seal(&seals);
        add(&self.shared.counters.sealed, seals.iter().map(|seal| u64::from(seal.count)).sum());
        self.shared.announce(Sealed { last: self.ledger.last_sealed(), end: self.ledger.sealed() });
        // One wake-up is enough, however many batches there are.
        let _ = self.wake.try_send(());
        Ok(())
    }

    fn note_acks(&mut self) -> io::Result<()> {
        while let Some(acked) = self.state.ack.take().or_else(|| self.acks.try_recv().ok()) {
            if let Err(e) = self.note_ack(&acked) {
                self.state.ack = Some(acked);
                return Err(e);
            }
        }
        Ok(())
    }

    fn note_ack(&mut self, acked: &Acked) -> io::Result<()> {
        self.set_aside(acked)?;
        let Acked { spool, seal, sent, refused, lost } = acked;
        let counters = &self.shared.counters;
        if *spool == self.spool {
            self.writer.write_records(&[Record::Ack { batch: seal.batch, acked_ms: now_ms() }])?;
            if self.ledger.ack(seal).is_err() {
                return Ok(());
            }
        } else if let Some(old) = self.old.iter_mut().find(|old| old.spool == *spool) {
            let Some(count) = old.ack(seal.batch)? else { return Ok(()) };
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

    /// Keeps what can't be stored; after a crash before the ack is noted it is kept twice.
    fn set_aside(&self, acked: &Acked) -> io::Result<()> {
        if acked.refused.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for event in &acked.refused {
            record::append(&mut bytes, acked.seal.first, &Record::Event(*event));
        }
        let path = self.set_aside.join(format!("{}.events", acked.spool));
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(&bytes)?;
        file.sync_data()
    }

    fn clean_if_due(&mut self, now: Instant) -> io::Result<()> {
        if now.duration_since(self.state.cleaned_at) < CLEAN_INTERVAL {
            return Ok(());
        }
        self.state.cleaned_at = now;
        self.clean_own(now)?;
        // A full disk needs the space more than ClickHouse may need the events again.
        let retention = if self.shared.counters.full.load(Relaxed) { Duration::ZERO } else { self.retention };
        let (over, kept) = std::mem::take(&mut self.old)
            .into_iter()
            .partition(|old: &OldSpool| old.is_over(now_ms(), retention));
        self.old = kept;
        for old in over {
            // Half a deletion is finished by the next start.
            old.delete()?;
        }
        let own = self.state.closed.len() as u64 + 1;
        let segments: u64 = self.old.iter().map(|old| old.contents.segments).sum();
        let bytes: u64 = self.old.iter().map(|old| old.contents.bytes).sum();
        self.shared.counters.segments.store(own + segments, Relaxed);
        self.shared.counters.bytes.store(own * SEGMENT_BYTES + bytes, Relaxed);
        Ok(())
    }

    fn clean_own(&mut self, now: Instant) -> io::Result<()> {
        let full = self.shared.counters.full.load(Relaxed);
        self.state.closed.extend(self.writer.closed.drain(..).map(|closed| (closed, None)));
        while let Some((closed, acked_at)) = self.state.closed.front_mut() {
            if closed.end > self.ledger.acked() {
                break;
            }
            let since = *acked_at.get_or_insert(now);
            if now.duration_since(since) < self.retention && !full {
                break;
            }
            // The acks first: a seal without ack whose events are gone would count as lost.
            self.writer.sync()?;
            fs::remove_file(&closed.path)?;
            self.state.closed.pop_front();
        }
        Ok(())
    }
}
