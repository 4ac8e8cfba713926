//! The spool: from a worker's settled slot to a batch that the control plane has stored, across any crash.
//!
//! ```text
//! slot -> settled channel -> spool thread -> segments -> seal -> ship thread -> control plane
//!   ^------- free channel -------'  ^---------------- acks ----------'
//! ```
//!
//! `data/spool/<spool_id>/` has a `lock`, held by the process that looks after it, and the segments;
//! `data/set_aside/` has what can't be stored and what can't be read. `start.lock` is held while a process
//! takes over what others left, however long a full disk makes it wait.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use thiserror::Error;
use wire::event::BATCH_EVENTS_MAX;
use wire::id::{BatchSeq, BootId, NodeId, Position};

use crate::guard;
use crate::link::Address;
use crate::log::{self, Entry};
use crate::slots::pool::SlotPool;
use crate::slots::{Lane, Slots, SlotsConfig};
use figures::{Counters, Figures};
use host::{Host, Os};
use ledger::Ledger;
use opening::Opening;
use reader::Sealed;
use seal::OpenRange;
use segment::SEGMENT_BYTES;
use session::Ship;
use ship::{Acked, Shipper};
use thread::{SpoolThread, State};
use writer::{Spool, Writer};

mod clean;
/// What is counted.
pub mod figures;
mod fresh;
/// Files and the time.
pub mod host;
/// Appended, synced, sealed, acked.
pub mod ledger;
mod old;
mod opening;
mod pause;
mod reader;
mod recovery;
mod seal;
/// One file.
pub mod segment;
mod session;
mod ship;
mod thread;
mod writer;

/// How many answers wait for the spool thread.
const ACKS_WAITING_MAX: usize = 16;
/// How long a start waits for another one on the same directory.
const START_LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often `stop` looks whether all is stored, and a start whether the other one is over.
const STOP_TURN: Duration = Duration::from_millis(2);

/// When written records are waited for to reach the disk. Seals and their events always are, before the first
/// send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before a slot is freed.
    Always,
    /// Every 50 ms or 1 MiB.
    #[default]
    Interval,
    /// Only with a seal.
    Never,
}

/// What the pipeline needs to know.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Holds `spool` and `set_aside`.
    pub data_dir: PathBuf,
    /// Holds the slots: tmpfs.
    pub runtime_dir: PathBuf,
    /// The node.
    pub node: NodeId,
    /// This process; also its spool.
    pub boot: BootId,
    /// How many workers there are.
    pub workers: u16,
    /// How many exchanges each worker may have in flight or not yet written.
    pub slots_per_worker: u32,
    /// When records are synced.
    pub sync: SyncPolicy,
    /// How long an event waits at most for its batch to be sealed.
    pub seal_interval: Duration,
    /// How many events a batch has at most.
    pub seal_events: u32,
    /// How large a segment is where there is room.
    pub segment_bytes: u64,
    /// How long segments stay after their events are stored.
    pub retention: Duration,
    /// How long the control plane may take to answer a batch.
    pub answer_timeout: Duration,
    /// Where the control plane is.
    pub control: Address,
}

impl PipelineConfig {
    /// The defaults for everything but places and identity.
    #[must_use]
    pub fn new(
        data_dir: PathBuf,
        runtime_dir: PathBuf,
        control: Address,
        node: NodeId,
        boot: BootId,
    ) -> Self {
        Self {
            data_dir,
            runtime_dir,
            node,
            boot,
            workers: 1,
            slots_per_worker: 4096,
            sync: SyncPolicy::Interval,
            seal_interval: Duration::from_secs(1),
            seal_events: u32::try_from(BATCH_EVENTS_MAX).unwrap_or(u32::MAX),
            segment_bytes: SEGMENT_BYTES,
            retention: Duration::from_secs(15 * 60),
            answer_timeout: Duration::from_secs(60),
            control,
        }
    }
}

impl PipelineConfig {
    fn slots(&self) -> SlotsConfig {
        SlotsConfig {
            node: self.node,
            boot: self.boot,
            workers: self.workers,
            per_worker: self.slots_per_worker,
        }
    }
}

/// Why the pipeline could not start.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// A file or directory could not be made, locked, read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("thread: {0}")]
    Thread(io::Error),
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PipelineError + 'a {
    move |source| PipelineError::Io { what, path: path.to_owned(), source }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Run,
    /// Write, seal and ship everything.
    Finish,
    /// End now, in order.
    Quit,
    /// End now, as if killed.
    Abandon,
}

/// What the threads and the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    counters: Counters,
    phase: AtomicU8,
    is_finished: AtomicBool,
    sealed_last: AtomicU64,
    sealed_end: AtomicU64,
    pace_ms: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self {
            counters: Counters::default(),
            phase: AtomicU8::new(Phase::Run as u8),
            is_finished: AtomicBool::new(false),
            sealed_last: AtomicU64::new(0),
            sealed_end: AtomicU64::new(0),
            pace_ms: AtomicU64::new(0),
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Run,
            1 => Phase::Finish,
            2 => Phase::Quit,
            _ => Phase::Abandon,
        }
    }

    fn announce(&self, sealed: Sealed) {
        self.sealed_end.store(sealed.end.0, Ordering::Release);
        self.sealed_last.store(sealed.last.0, Ordering::Release);
    }

    fn sealed(&self) -> Sealed {
        let last = BatchSeq(self.sealed_last.load(Ordering::Acquire));
        Sealed { last, end: Position(self.sealed_end.load(Ordering::Acquire)) }
    }
}

/// The running pipeline. Dropping it without `stop` leaves everything as a killed process does.
#[derive(Debug)]
pub struct Pipeline {
    watch: Watch,
    stop_ship: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A handle for those who ask how the pipeline does.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    slots: Arc<Slots>,
}

impl Watch {
    /// Whether events can't be written now, so that new requests are to be refused. One atomic load.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.counters.full.load(Ordering::Relaxed)
    }

    /// The counters.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.shared.counters.figures(|| self.slots.admitted())
    }

    /// How many exchanges each worker admitted.
    #[must_use]
    pub fn admitted_by_worker(&self) -> Vec<u64> {
        self.slots.admitted_by_worker()
    }

    /// Asks for batches to be sealed no more often than every `interval`, however short the configured one
    /// is.
    pub fn set_pace(&self, interval: Duration) {
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.shared.pace_ms.store(ms, Ordering::Relaxed);
    }
}

impl Pipeline {
    /// Takes over what earlier processes left, then starts the threads. Gives a pool of slots for each
    /// worker.
    ///
    /// Where the disk is full it starts all the same: the spool thread goes on with the taking over, and
    /// until that is done `is_full` says that no request is to be admitted.
    pub fn start(config: PipelineConfig) -> Result<(Self, Vec<SlotPool>), PipelineError> {
        let spools = config.data_dir.join("spool");
        for dir in [&spools, &config.data_dir.join("set_aside"), &config.runtime_dir] {
            fs::create_dir_all(dir).map_err(failed("make", dir))?;
        }
        let starting = lock_start(&spools)?;
        let own = spools.join(config.boot.to_string());
        if own.exists() {
            return Err(failed("make", &own)(io::ErrorKind::AlreadyExists.into()));
        }
        let (slots, pools, lanes) = Slots::create(&config.runtime_dir, config.slots())
            .map_err(failed("make slots in", &config.runtime_dir))?;
        let (wake, wake_rx) = bounded(1);
        let (mut spool, shipper) = parts(&Os, &config, (Arc::clone(&slots), lanes), starting, wake);
        if let Err(e) = spool.open() {
            if !host::is_full(&e) {
                // No exchange was let in: it would only take some of the tmpfs, at each start that fails.
                let _ = spool.slots.remove_if_free();
                return Err(failed("take over events into", &spools)(e));
            }
            log::log(&Entry::SpoolFull(&e));
            spool.shared.counters.full.store(true, Ordering::Relaxed);
            spool.shared.counters.opening.store(true, Ordering::Relaxed);
        }

        let stop_ship = Arc::new(AtomicBool::new(false));
        let ship = Ship {
            address: config.control,
            node: config.node,
            boot: config.boot,
            shipper,
            wake: wake_rx,
            stop: Arc::clone(&stop_ship),
        };
        let watch = Watch { shared: Arc::clone(&spool.shared), slots };
        let mut this = Self { watch, stop_ship, threads: Vec::new() };
        // The ship thread first in the list: it is joined first.
        this.spawn("ship", || ship.run())?;
        this.spawn("spool", || spool.run())?;
        Ok((this, pools))
    }

    fn spawn(
        &mut self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), PipelineError> {
        self.threads.push(guard::spawn(name, run).map_err(PipelineError::Thread)?);
        Ok(())
    }

    /// A handle for workers and the ops listener.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Whether events can't be written now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.watch.is_full()
    }

    /// The counters.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.watch.figures()
    }

    /// Writes, seals and syncs all that is settled, ships it until `deadline`, and lets go of the spool.
    ///
    /// The workers have ended before. What is not stored by then is shipped by the next start.
    pub fn stop(mut self, deadline: Instant) -> Figures {
        self.enter(Phase::Finish);
        let is_done = |this: &Self| {
            this.watch.shared.is_finished.load(Ordering::Relaxed) && this.figures().pending == 0
        };
        while !is_done(&self) && Instant::now() < deadline {
            sleep(STOP_TURN);
        }
        self.end(Phase::Quit);
        self.figures()
    }

    fn enter(&self, phase: Phase) {
        self.watch.shared.phase.store(phase as u8, Ordering::Release);
    }

    fn end(&mut self, phase: Phase) {
        self.stop_ship.store(true, Ordering::Relaxed);
        if phase == Phase::Abandon {
            self.enter(phase);
        }
        for thread in std::mem::take(&mut self.threads) {
            // One that panicked has said so.
            let _ = thread.join();
            // The ship thread has handed over its last answer: the spool thread may quit now.
            self.enter(phase);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.end(Phase::Abandon);
    }
}

/// Waits for its turn to start, for a while.
fn lock_start(spools: &Path) -> Result<fs::File, PipelineError> {
    let path = spools.join("start.lock");
    let deadline = Instant::now() + START_LOCK_WAIT;
    loop {
        if let Some(lock) = Os.lock(&path).map_err(failed("lock", &path))? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            let other = io::Error::other("another process is starting on this directory");
            return Err(failed("lock", &path)(other));
        }
        sleep(STOP_TURN);
    }
}

/// What the two threads work on, nothing of it begun.
fn parts<H: Host>(
    host: &H,
    config: &PipelineConfig,
    (slots, lanes): (Arc<Slots>, Vec<Lane>),
    starting: H::Lock,
    wake: Sender<()>,
) -> (SpoolThread<H>, Shipper<H>) {
    let (spools, set_aside) = (config.data_dir.join("spool"), config.data_dir.join("set_aside"));
    let own = Spool {
        dir: spools.join(config.boot.to_string()),
        id: config.boot,
        node: config.node,
        segment_bytes: config.segment_bytes,
    };
    let shared = Arc::new(Shared::new());
    let (acks_tx, acks): (Sender<Acked>, _) = bounded(ACKS_WAITING_MAX);
    // Those of earlier processes, and this one's.
    let (sources, found) = bounded(2);
    let directories = (spools, set_aside.clone(), config.runtime_dir.clone());
    let events_max = config.seal_events.min(u32::try_from(BATCH_EVENTS_MAX).unwrap_or(u32::MAX));
    let spool = SpoolThread {
        host: host.clone(),
        spool: config.boot,
        sync: config.sync,
        retention: config.retention,
        set_aside,
        slots,
        lanes,
        writer: Writer::new(host.clone(), own.clone()),
        ledger: Ledger::default(),
        range: OpenRange::new(events_max, config.seal_interval),
        old: Vec::new(),
        acks,
        wake,
        shared: Arc::clone(&shared),
        state: State::new(host.now()),
        opening: Some(Opening::new(directories, own, sources, starting)),
        own_lock: None,
    };
    let shipper = Shipper::new(host.clone(), config.answer_timeout, (found, acks_tx), shared);
    (spool, shipper)
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
