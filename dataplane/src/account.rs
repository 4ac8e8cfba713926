//! Accounting for usage events: a thread that says every second which numbers were given out and where their
//! events are, and that sends batches again which ClickHouse lost after it had acknowledged them. It also
//! tells which keys were refused though they are known (`key_uses`).
//!
//! Its connection is its own, so that nothing here delays shipping. It also keeps the numbers on disk
//! (`numbers`), whether the control plane is there or not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use wire::frame::{Frame, Hello, Role};
use wire::id::{BootId, Generation, NodeId, RegistryId};
use wire::report::{Report, Totals};

use crate::auth::minute_of;
use crate::guard;
use crate::link::{Address, Link, LinkError};
use crate::log::{self, Entry};
use crate::refused::Uses;
use crate::slots::pool::now_ms;
use crate::spool::Watch;
use crate::spool::host::is_full;
use crate::sys;
use kept::Kept;
use key_uses::KeyUses;
use numbers::NumberFiles;

/// Acknowledged batches that are still on disk.
mod kept;
/// Uses of keys that are refused though they are known.
mod key_uses;
/// The numbers that each process gave out, on disk.
pub mod numbers;

/// How often the numbers on disk are looked after.
const TURN: Duration = Duration::from_millis(100);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// One that says nothing new is sent so often all the same: it says that nothing is new.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest pace that the control plane may set.
const PACE_MAX: Duration = Duration::from_secs(60);

/// The running thread.
#[derive(Debug)]
pub struct Account {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

struct Worker {
    hello: Hello,
    control: Address,
    kept: Kept,
    watch: Watch,
    numbers: NumberFiles,
    key_uses: KeyUses,
    stop: Arc<AtomicBool>,
    admitted: Vec<u64>,
    /// When figures were last looked at.
    looked_at: Option<Instant>,
    /// The last report, and when it was sent.
    reported: Option<(Instant, Report)>,
    /// The log has it that the numbers can't be kept.
    is_told: bool,
}

impl Account {
    /// Reserves the first numbers, and starts the thread.
    pub fn start(
        (control, node, boot): (Address, NodeId, BootId),
        data_dir: &Path,
        (watch, refused): (Watch, Receiver<Uses>),
        numbers: NumberFiles,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let hello =
            Hello { role: Role::Account, node, boot, registry: RegistryId(0), generation: Generation(0) };
        let mut worker = Worker {
            hello,
            control,
            kept: Kept::new(data_dir.join("spool")),
            admitted: watch.admitted_by_worker(),
            watch,
            numbers,
            key_uses: KeyUses::new(refused),
            stop: Arc::clone(&stop),
            looked_at: None,
            reported: None,
            is_told: false,
        };
        match worker.numbers.reserve(&worker.admitted, 0) {
            // Shipping, which makes room, must not wait for it.
            Err(error) if is_full(&error) => worker.tell(&Err(error)),
            reserved => reserved?,
        }
        let thread = guard::spawn("account", move || worker.run())?;
        Ok(Self { stop, thread })
    }

    /// Writes down the last numbers; the workers have ended.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that panicked has left its file as a kill does.
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
            self.keep_numbers();
            std::thread::sleep(TURN);
        }
        if let Err(error) = self.numbers.end(&self.watch.admitted_by_worker()) {
            log::log(&Entry::NumbersNotKept(&error));
        }
    }

    fn keep_numbers(&mut self) {
        self.key_uses.take_over();
        let admitted = self.watch.admitted_by_worker();
        let grown = admitted.iter().zip(&self.admitted).map(|(now, before)| now - before).max().unwrap_or(0);
        // Twice as fast the next time, and the time after that.
        let reserved = self.numbers.reserve(&admitted, 4 * grown);
        self.tell(&reserved);
        self.admitted = admitted;
    }

    /// Logs that they can't be kept, once for each time that it begins.
    fn tell(&mut self, reserved: &io::Result<()>) {
        if let Err(error) = reserved
            && !self.is_told
        {
            log::log(&Entry::NumbersNotKept(error));
        }
        self.is_told = reserved.is_err();
    }

    fn session(&mut self) -> Result<(), LinkError> {
        let mut link = Link::connect(&self.control, Arc::clone(&self.stop))?;
        link.greet(self.hello)?;
        self.key_uses.start_over();
        loop {
            self.keep_numbers();
            if let Some(report) = self.due_report() {
                link.send(&Frame::Report(report))?;
            }
            if link.takes_key_uses()
                && let Some(uses) = self.key_uses.due(Instant::now())
            {
                link.send(&Frame::KeyUses(uses))?;
            }
            match link.receive(TURN)? {
                Some(Frame::Ping) => link.send(&Frame::Pong)?,
                Some(Frame::Pace { interval_ms }) => {
                    self.watch.set_pace(Duration::from_millis(interval_ms.into()).min(PACE_MAX));
                }
                Some(Frame::KeyUsesKept) => self.key_uses.kept(minute_of(now_ms())),
                Some(Frame::Noted { boot }) => self.numbers.noted(boot)?,
                Some(Frame::Recall) => {
                    for (spool, batches) in self.with_kept(Kept::acked)? {
                        link.send(&Frame::Kept { spool, batches })?;
                    }
                }
                Some(Frame::Resend { spool, batches }) => {
                    for batch in batches {
                        if let Some(events) = self.with_kept(|kept, turn| kept.read(spool, batch, turn))? {
                            link.send(&Frame::Batch { spool, batch, resent: true, events })?;
                        }
                    }
                    self.kept.done();
                }
                Some(Frame::Stored { .. }) | None => {}
                Some(_) => return Err(LinkError::Unexpected),
            }
        }
    }

    /// Reads what is kept. However much that is, the numbers on disk stay ahead, and a stop is heard.
    fn with_kept<T>(
        &mut self,
        read: impl FnOnce(&mut Kept, &mut dyn FnMut() -> io::Result<()>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut kept = std::mem::take(&mut self.kept);
        let found = read(&mut kept, &mut || {
            self.keep_numbers();
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
        let boots = self.numbers.report(&self.watch.admitted_by_worker());
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
