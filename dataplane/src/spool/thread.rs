//! The spool thread: takes settled slots, writes their records, frees them, seals, notes acks, deletes.
//!
//! It polls and never blocks on a channel: waking a thread that sleeps in `recv` would cost a worker a
//! syscall for each exchange. When the disk does not take records, the settled slots are what keeps the
//! events; the thread tries again, `full` tells the workers to refuse new requests, and batches go on being
//! shipped, which is what makes room (`clean.rs`).
//!
//! Order: record written (with `sync = "always"` also synced), then slot freed. Events and seal synced, then
//! announced.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId};
use wire::record::{Record, Seal};

use super::figures::add;
use super::host::{Host, Os, is_full};
use super::ledger::Ledger;
use super::old::OldSpool;
use super::opening::Opening;
use super::pause::{After, Pause};
use super::reader::Sealed;
use super::seal::OpenRange;
use super::ship::Acked;
use super::writer::{Closed, Writer};
use super::{Phase, Shared, SyncPolicy};
use crate::log::{self, Entry};
use crate::slots::{Lane, Slots};

/// How many slots are taken in one round.
const ROUND_EVENTS_MAX: usize = 8192;
pub(super) const SYNC_INTERVAL: Duration = Duration::from_millis(50);
const SYNC_BYTES: usize = 1024 * 1024;
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the thread works on.
#[derive(Debug)]
pub(super) struct SpoolThread<H: Host = Os> {
    pub(super) host: H,
    pub(super) spool: BootId,
    pub(super) sync: SyncPolicy,
    pub(super) retention: Duration,
    pub(super) set_aside: PathBuf,
    pub(super) slots: Arc<Slots>,
    pub(super) lanes: Vec<Lane>,
    pub(super) writer: Writer<H>,
    pub(super) ledger: Ledger,
    pub(super) range: OpenRange,
    pub(super) old: Vec<OldSpool<H>>,
    pub(super) acks: Receiver<Acked>,
    pub(super) wake: Sender<()>,
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    /// What is left to do before the first event is taken.
    pub(super) opening: Option<Opening<H>>,
    /// Held for as long as the spool is this process's.
    pub(super) own_lock: Option<H::Lock>,
}

/// What it has begun.
#[derive(Debug)]
pub(super) struct State {
    /// Slots that were taken and are not free yet, by worker.
    in_hand: Vec<(usize, u32)>,
    /// Their events, and how many of them are written.
    events: Vec<UsageEvent>,
    written: usize,
    /// Seals that are not synced. Once they are made up they stay the same, whatever fails.
    sealing: Vec<Seal>,
    is_sealing_written: bool,
    /// Acks whose refused events could not be set aside yet.
    pub(super) held: VecDeque<Acked>,
    /// Whether the ledger knows of acks that are not written.
    pub(super) has_unwritten_acks: bool,
    pub(super) closed: VecDeque<(Closed, Option<Instant>)>,
    synced_at: Instant,
    pub(super) cleaned_at: Instant,
    retry: Duration,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_hand: Vec::new(),
            events: Vec::new(),
            written: 0,
            sealing: Vec::new(),
            is_sealing_written: false,
            held: VecDeque::new(),
            has_unwritten_acks: false,
            closed: VecDeque::new(),
            synced_at: now,
            cleaned_at: now,
            retry: RETRY_MIN,
        }
    }
}

impl<H: Host> SpoolThread<H> {
    /// Works until told to quit.
    pub(super) fn run(mut self) {
        let slots = self.lanes.iter().filter_map(|lane| lane.free.capacity()).min();
        let mut pause = Pause::new(slots.unwrap_or(0));
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Abandon {
                return;
            }
            let was_full = self.shared.counters.full.load(Relaxed);
            let (taken, result) = self.round(phase);
            if phase == Phase::Quit {
                return self.quit();
            }
            self.note(was_full, &result);
            let sleep = match (&result, taken) {
                (Err(_), _) => self.state.retry,
                (Ok(()), ROUND_EVENTS_MAX..) => pause.next(After::FullRound),
                (Ok(()), 0) if self.writer.unsynced_bytes() == 0 => pause.next(After::Nothing),
                (Ok(()), _) => pause.next(After::Work),
            };
            if !sleep.is_zero() {
                thread::sleep(sleep);
            }
        }
    }

    /// One turn at everything, so that an error of one part does not keep the others from making room.
    pub(super) fn round(&mut self, phase: Phase) -> (usize, io::Result<()>) {
        let now = self.host.now();
        self.slots.alive(self.host.unix_ms());
        let acks = self.note_acks();
        self.range.set_pace(Duration::from_millis(self.shared.pace_ms.load(Relaxed)));
        let (taken, written) = match self.open() {
            Ok(()) => self.write(now, phase),
            Err(e) => (0, Err(e)),
        };
        self.shared.counters.opening.store(self.opening.is_some(), Relaxed);
        self.shared.counters.full.store(written.is_err(), Relaxed);
        let cleaned = self.clean_if_due(now);
        (taken, written.and(acks).and(cleaned))
    }

    fn write(&mut self, now: Instant, phase: Phase) -> (usize, io::Result<()>) {
        let (taken, events) = match self.take_events(now) {
            Ok(taken) => (taken, Ok(())),
            Err(e) => (0, Err(e)),
        };
        let acks = self.write_acks(false);
        let synced = self.sync_if_due(now);
        let is_drained = self.state.in_hand.is_empty() && self.lanes.iter().all(|l| l.settled.is_empty());
        let has_no_room = events.as_ref().is_err_and(is_full);
        // On a full disk at once: only what is sealed can be shipped and so make room, also after a restart.
        let sealed = self.seal_if_due(now, has_no_room || phase != Phase::Run && is_drained);
        let is_finished = is_drained && self.range.is_empty() && self.state.sealing.is_empty();
        self.shared.is_finished.store(phase != Phase::Run && is_finished, Relaxed);
        (taken, events.and(acks).and(synced).and(sealed))
    }

    fn note(&mut self, was_full: bool, result: &io::Result<()>) {
        let is_full = self.shared.counters.full.load(Relaxed);
        match result {
            Ok(()) => self.state.retry = RETRY_MIN,
            Err(e) => {
                if is_full && !was_full {
                    log::log(&Entry::SpoolFull(e));
                }
                add(&self.shared.counters.disk_errors, 1);
                self.state.retry = (self.state.retry * 2).min(RETRY_MAX);
            }
        }
        if was_full && !is_full {
            log::log(&Entry::SpoolWrites);
        }
    }

    pub(super) fn quit(mut self) {
        // What fails here is found again by the next start.
        let noted = self.note_acks().and_then(|()| self.write_acks(true)).and_then(|()| self.sync());
        if noted.is_ok() && self.state.in_hand.is_empty() && self.opening.is_none() {
            let _ = self.slots.remove_if_free();
        }
    }

    /// Writes the first of these events, at least one, and says how many.
    pub(super) fn write_events(&mut self, events: &[UsageEvent], now: Instant) -> io::Result<usize> {
        let written = self.writer.write_events(events)?;
        self.ledger.append_to(self.writer.next());
        events[..written].iter().for_each(|event| self.range.add(event, now));
        add(&self.shared.counters.pending, written as u64);
        Ok(written)
    }

    fn take_events(&mut self, now: Instant) -> io::Result<usize> {
        // Behind the last event of a range stand its seals, then what comes next: a reader goes forward only.
        self.write_seals()?;
        // Also while there is nothing to write: whether a request can be admitted shows here.
        self.writer.prepare()?;
        if self.state.in_hand.is_empty() {
            self.take_slots();
        }
        let taken = self.state.events.len();
        while self.state.written < self.state.events.len() {
            let events = std::mem::take(&mut self.state.events);
            let written = self.write_events(&events[self.state.written..], now);
            self.state.events = events;
            let written = written?;
            self.state.written += written;
            add(&self.shared.counters.appended, written as u64);
            if self.sync != SyncPolicy::Always {
                self.free_written();
            }
        }
        if self.sync == SyncPolicy::Always {
            self.sync()?;
        }
        Ok(taken)
    }

    fn take_slots(&mut self) {
        let State { in_hand, events, written, .. } = &mut self.state;
        let mut room = ROUND_EVENTS_MAX.min(self.range.room() as usize);
        for (worker, lane) in self.lanes.iter().enumerate() {
            in_hand.extend(lane.settled.try_iter().take(room).map(|index| (worker, index)));
            room = ROUND_EVENTS_MAX.min(self.range.room() as usize) - in_hand.len();
        }
        events.clear();
        *written = 0;
        let taken = in_hand.len();
        in_hand.retain(|(worker, index)| match self.slots.event(*index) {
            Ok(event) => {
                events.push(event);
                true
            }
            Err(_) => {
                free_slot(&self.slots, &self.lanes[*worker], *index);
                false
            }
        });
        add(&self.shared.counters.lost_slots, (taken - events.len()) as u64);
    }

    /// Frees the slots of what is written. An event never stands in a slot when its record may be deleted:
    /// the next process would take it for one that is not stored.
    fn free_written(&mut self) {
        let State { in_hand, events, written, .. } = &mut self.state;
        for (worker, index) in in_hand.drain(..*written) {
            free_slot(&self.slots, &self.lanes[worker], index);
        }
        events.drain(..*written);
        *written = 0;
    }

    fn sync_if_due(&mut self, now: Instant) -> io::Result<()> {
        let unsynced = self.writer.unsynced_bytes();
        let is_due = now.duration_since(self.state.synced_at) >= SYNC_INTERVAL || unsynced >= SYNC_BYTES;
        if self.sync == SyncPolicy::Never || unsynced == 0 || !is_due {
            return Ok(());
        }
        self.sync()
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.writer.sync()?;
        self.ledger.sync_to(self.writer.next());
        self.state.synced_at = self.host.now();
        self.free_written();
        Ok(())
    }

    pub(super) fn seal_if_due(&mut self, now: Instant, finishing: bool) -> io::Result<()> {
        if self.state.sealing.is_empty() && !self.range.is_empty() && (finishing || self.range.is_due(now)) {
            self.state.sealing = self.range.seals(BatchSeq(self.ledger.last_sealed().0 + 1));
            self.state.is_sealing_written = false;
            self.range.clear();
        }
        if self.state.sealing.is_empty() {
            return Ok(());
        }
        self.write_seals()?;
        self.sync()?;
        let seals = std::mem::take(&mut self.state.sealing);
        self.ledger.seal(&seals);
        add(&self.shared.counters.sealed, seals.iter().map(|seal| u64::from(seal.count)).sum());
        self.shared.announce(Sealed { last: self.ledger.last_sealed(), end: self.ledger.sealed() });
        // One wake-up is enough, however many batches there are.
        let _ = self.wake.try_send(());
        Ok(())
    }

    pub(super) fn write_seals(&mut self) -> io::Result<()> {
        if self.state.sealing.is_empty() || self.state.is_sealing_written {
            return Ok(());
        }
        let records: Vec<Record> = self.state.sealing.iter().map(|seal| Record::Seal(*seal)).collect();
        self.writer.write_records(&records)?;
        self.state.is_sealing_written = true;
        Ok(())
    }

    /// Whether everything that the spool ever held is stored.
    pub(super) fn is_all_stored(&self) -> bool {
        self.range.is_empty() && self.state.sealing.is_empty() && self.ledger.acked() == self.writer.next()
    }
}

fn free_slot(slots: &Slots, lane: &Lane, index: u32) {
    slots.release(index);
    // Never full: it holds all indexes of the worker. Where the worker has gone, nobody needs the slot.
    let _ = lane.free.try_send(index);
}
