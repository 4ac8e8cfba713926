//! Accounting for usage events: a thread that says every second which numbers were given out and where their
//! events are, and that sends batches again which ClickHouse lost after it had acknowledged them. It also
//! tells which keys were refused though they are known (`key_uses`).
//!
//! Its connection is its own, so that nothing here delays shipping. The numbers on disk (`numbers`) have a
//! thread of their own (`reserve`), which waits for no control plane.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use wire::frame::{Frame, Hello, Role};
use wire::id::{BatchSeq, BootId, Generation, NodeId, RegistryId};
use wire::report::{Report, Totals};

use crate::auth::minute_of;
use crate::guard;
use crate::link::{Address, Link, LinkError};
use crate::refused::Uses;
use crate::slots::pool::now_ms;
use crate::spool::Watch;
use crate::sys;
use kept::Kept;
use key_uses::KeyUses;
use numbers::NumberFiles;
use reserve::Reserve;

/// Acknowledged batches that are still on disk.
mod kept;
/// Uses of keys that are refused though they are known.
mod key_uses;
/// The numbers that each process gave out, on disk.
pub mod numbers;
/// Keeps them ahead.
mod reserve;

/// How long the thread waits for a frame before it looks for something to say.
const TURN: Duration = Duration::from_millis(100);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// One that says nothing new is sent so often all the same: it says that nothing is new.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest pace that the control plane may set.
const PACE_MAX: Duration = Duration::from_secs(60);
/// How many batches are named in one frame; a year of them is too long for one.
const KEPT_BATCHES_MAX: usize = 100_000;

/// The running thread.
#[derive(Debug)]
pub struct Account {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    reserve: Option<Reserve>,
}

struct Worker {
    hello: Hello,
    control: Address,
    kept: Kept,
    /// What the control plane wants again.
    wanted: VecDeque<(BootId, BatchSeq)>,
    /// One of them is sent and not stored.
    is_owed: bool,
    watch: Watch,
    numbers: reserve::Shared,
    key_uses: KeyUses,
    stop: Arc<AtomicBool>,
    /// When figures were last looked at.
    looked_at: Option<Instant>,
    /// The last report, and when it was sent.
    reported: Option<(Instant, Report)>,
}

impl Account {
    /// Reserves the first numbers, and starts the threads.
    pub fn start(
        (control, node, boot): (Address, NodeId, BootId),
        data_dir: &Path,
        (watch, refused): (Watch, Receiver<Uses>),
        numbers: NumberFiles,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let hello =
            Hello { role: Role::Account, node, boot, registry: RegistryId(0), generation: Generation(0) };
        let numbers = reserve::Shared::new(numbers);
        let reserve = Some(Reserve::start(numbers.clone(), watch.clone())?);
        let worker = Worker {
            hello,
            control,
            kept: Kept::new(data_dir.join("spool")),
            wanted: VecDeque::new(),
            is_owed: false,
            watch,
            numbers,
            key_uses: KeyUses::new(refused),
            stop: Arc::clone(&stop),
            looked_at: None,
            reported: None,
        };
        let thread = guard::spawn("account", move || worker.run())?;
        Ok(Self { stop, thread, reserve })
    }

    /// Writes down the last numbers; the workers have ended. While the slots are still there: once they are
    /// gone a process without this word counts as one that ended with the machine.
    pub fn end_numbers(&mut self) {
        if let Some(reserve) = self.reserve.take() {
            reserve.end();
        }
    }

    /// Ends the reports.
    pub fn stop(mut self) {
        self.end_numbers();
        self.stop.store(true, Ordering::Relaxed);
        // One that panicked has said so.
        let _ = self.thread.join();
    }
}

impl Worker {
    fn run(mut self) {
        sys::give_way();
        let mut tried: Option<Instant> = None;
        while !self.stop.load(Ordering::Relaxed) {
            if tried.is_none_or(|tried| tried.elapsed() >= RETRY_AFTER) {
                tried = Some(Instant::now());
                // The sync thread says that the control plane is away.
                let _ = self.session();
                (self.looked_at, self.reported) = (None, None);
            }
            self.key_uses.take_over();
            std::thread::sleep(TURN);
        }
    }

    fn session(&mut self) -> Result<(), LinkError> {
        let mut link = Link::connect(&self.control, Arc::clone(&self.stop))?;
        link.greet(self.hello)?;
        self.key_uses.start_over();
        (self.wanted, self.is_owed) = (VecDeque::new(), false);
        loop {
            self.key_uses.take_over();
            if let Some(report) = self.due_report() {
                link.send(&Frame::Report(report))?;
            }
            if link.takes_key_uses()
                && let Some(uses) = self.key_uses.due(Instant::now())
            {
                link.send(&Frame::KeyUses(uses))?;
            }
            self.send_again(&mut link)?;
            match link.receive(TURN)? {
                Some(Frame::Ping) => link.send(&Frame::Pong)?,
                Some(Frame::Pace { interval_ms }) => {
                    self.watch.set_pace(Duration::from_millis(interval_ms.into()).min(PACE_MAX));
                }
                Some(Frame::KeyUsesKept) => self.key_uses.kept(minute_of(now_ms())),
                Some(Frame::Noted { boot }) => self.numbers.lock().noted(boot)?,
                Some(Frame::Recall) => {
                    // What it wanted it is going to name again.
                    self.wanted.clear();
                    for (spool, batches) in self.with_kept(Kept::acked)? {
                        for batches in batches.chunks(KEPT_BATCHES_MAX) {
                            link.send(&Frame::Kept { spool, batches: batches.to_vec() })?;
                        }
                    }
                }
                Some(Frame::Resend { spool, batches }) => {
                    self.wanted.extend(batches.into_iter().map(|batch| (spool, batch)));
                }
                Some(Frame::Stored { .. }) => self.is_owed = false,
                None => {}
                Some(_) => return Err(LinkError::Unexpected),
            }
        }
    }

    /// Sends the next batch that is wanted again, once the last one is stored: reports go on between them,
    /// and no answers pile up.
    fn send_again(&mut self, link: &mut Link) -> Result<(), LinkError> {
        while !self.is_owed
            && let Some((spool, batch)) = self.wanted.pop_front()
        {
            if let Some(events) = self.with_kept(|kept, turn| kept.read(spool, batch, turn))? {
                link.send(&Frame::Batch { spool, batch, resent: true, events })?;
                self.is_owed = true;
            }
        }
        if self.wanted.is_empty() {
            self.kept.done();
        }
        Ok(())
    }

    /// Reads what is kept. However much that is, workers get rid of what they count, and a stop is heard.
    fn with_kept<T>(
        &mut self,
        read: impl FnOnce(&mut Kept, &mut dyn FnMut() -> io::Result<()>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut kept = std::mem::take(&mut self.kept);
        let found = read(&mut kept, &mut || {
            self.key_uses.take_over();
            let is_stopped = self.stop.load(Ordering::Relaxed);
            if is_stopped { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        self.kept = kept;
        found
    }

    /// A report: each second where it says something new, else every ten.
    fn due_report(&mut self) -> Option<Report> {
        if self.looked_at.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            return None;
        }
        let now = Instant::now();
        self.looked_at = Some(now);
        // Before the figures, which have how many there are last: what the control plane is to have by this
        // report is then at least under way in it, whatever is admitted meanwhile.
        let boots = self.numbers.lock().report(&self.watch.admitted_by_worker());
        let figures = self.watch.figures();
        let totals = Totals {
            admitted: figures.admitted,
            in_flight: figures.in_flight,
            appended: figures.appended,
            adopted: figures.adopted,
            found: figures.found,
            acked: figures.acked,
            // Nor is what can't be taken over yet lost.
            pending: figures.pending + figures.to_adopt,
            set_aside: figures.set_aside,
            lost: figures.lost,
            lost_slots: figures.lost_slots,
        };
        let is_told = self.reported.as_ref().is_some_and(|(at, last)| {
            at.elapsed() < REPORT_INTERVAL_MAX && last.totals == totals && last.boots == boots
        });
        if is_told {
            return None;
        }
        let report = Report { at_ms: now_ms(), totals, boots };
        self.reported = Some((now, report.clone()));
        Some(report)
    }
}

#[cfg(test)]
mod tests;
