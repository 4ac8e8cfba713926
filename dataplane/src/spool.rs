//! The spool: from a worker's settled slot to a batch that the control plane has stored, across any crash.
//!
//! ```text
//! slot -> settled channel -> spool thread -> segments -> seal -> ship thread -> control plane
//!   ^------- free channel -------'  ^---------------- acks ----------'
//! ```
//!
//! `data/spool/<spool_id>/` has a `lock`, held by the process that looks after it, and the segments;
//! `data/set_aside/` has what can't be stored and what can't be read. `start.lock` is held while a process
//! takes over what others left.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use thiserror::Error;
use wire::event::BATCH_EVENTS_MAX;
use wire::id::{BatchSeq, BootId, NodeId, Position};

use crate::link::Address;
use crate::slots::pool::SlotPool;
use crate::slots::{Slots, SlotsConfig, sync_dir};
use figures::{Counters, Figures};
use ledger::Ledger;
use old::OldSpool;
use reader::{BatchReader, Sealed};
use recovery::Places;
use seal::OpenRange;
use ship::{Ship, Source};
use thread::{SpoolThread, State};
use writer::Writer;

/// What is counted.
pub mod figures;
/// Appended, synced, sealed, acked.
pub mod ledger;
mod old;
mod reader;
mod recovery;
mod seal;
/// One file.
pub mod segment;
mod ship;
mod thread;
mod writer;

/// How many answers wait for the spool thread.
const ACKS_WAITING_MAX: usize = 16;
/// How often `stop` looks whether all is stored.
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
            retention: Duration::from_secs(15 * 60),
            answer_timeout: Duration::from_secs(60),
            control,
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
}

impl Shared {
    fn new() -> Self {
        Self {
            counters: Counters::default(),
            phase: AtomicU8::new(Phase::Run as u8),
            is_finished: AtomicBool::new(false),
            sealed_last: AtomicU64::new(0),
            sealed_end: AtomicU64::new(0),
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
    /// Held for as long as the spool is this process's.
    _lock: File,
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
        self.shared.counters.figures(self.slots.admitted())
    }
}

impl Pipeline {
    /// Takes over what earlier processes left, then starts the threads. Gives a pool of slots for each
    /// worker.
    pub fn start(config: PipelineConfig) -> Result<(Self, Vec<SlotPool>), PipelineError> {
        let spools = config.data_dir.join("spool");
        let set_aside = config.data_dir.join("set_aside");
        for dir in [&spools, &set_aside, &config.runtime_dir] {
            fs::create_dir_all(dir).map_err(failed("make", dir))?;
        }
        let path = spools.join("start.lock");
        let starting = File::create(&path).map_err(failed("make", &path))?;
        starting.lock().map_err(failed("lock", &path))?;

        let places = Places { spools: &spools, set_aside: &set_aside, runtime: &config.runtime_dir };
        let (mut old, adoption) =
            recovery::find(places, config.node, config.boot).map_err(failed("recover from", &spools))?;
        // Before anything is written: it may be all the space there is.
        recovery::delete_unused(&mut old).map_err(failed("delete in", &spools))?;

        let own = spools.join(config.boot.to_string());
        let lock = make_own(&own).map_err(failed("make", &own))?;
        let writer = Writer::create(own.clone(), config.boot, config.node).map_err(failed("write", &own))?;
        let slots_config = SlotsConfig {
            node: config.node,
            boot: config.boot,
            workers: config.workers,
            per_worker: config.slots_per_worker,
        };
        let (slots, pools, lanes) = Slots::create(&config.runtime_dir, slots_config)
            .map_err(failed("make slots in", &config.runtime_dir))?;

        let events_max = config.seal_events.min(u32::try_from(BATCH_EVENTS_MAX).unwrap_or(u32::MAX));
        let (acks_tx, acks) = bounded(ACKS_WAITING_MAX);
        let (wake, wake_rx) = bounded(1);
        let shared = Arc::new(Shared::new());
        let mut spool = SpoolThread {
            spool: config.boot,
            sync: config.sync,
            retention: config.retention,
            set_aside,
            slots: Arc::clone(&slots),
            lanes,
            writer,
            ledger: Ledger::default(),
            range: OpenRange::new(events_max, config.seal_interval),
            old: Vec::new(),
            acks,
            wake,
            shared: Arc::clone(&shared),
            state: State::default(),
        };
        spool.old = old;
        recovery::take_over(&mut spool, &adoption).map_err(failed("take over events into", &own))?;
        drop(starting);

        let sources = sources(&spool.old, config.boot, own);
        let stop_ship = Arc::new(AtomicBool::new(false));
        let ship = Ship::new(
            (config.control, config.node, config.boot),
            config.answer_timeout,
            sources,
            (acks_tx, wake_rx),
            (Arc::clone(&stop_ship), Arc::clone(&shared)),
        );
        let watch = Watch { shared, slots };
        let mut this = Self { watch, stop_ship, threads: Vec::new(), _lock: lock };
        // The ship thread first in the list: it is joined first.
        this.spawn("ship", || ship.run())?;
        this.spawn("spool", || spool.run())?;
        Ok((this, pools))
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), PipelineError> {
        let builder = Builder::new().name(name.to_owned());
        self.threads.push(builder.spawn(run).map_err(PipelineError::Thread)?);
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
            // A thread that panicked has left the disk as a crash does; the next start recovers.
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

fn make_own(dir: &Path) -> io::Result<File> {
    fs::create_dir(dir)?;
    let lock = File::create_new(dir.join("lock"))?;
    lock.try_lock()?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent)?;
    }
    Ok(lock)
}

/// What is to be shipped: the batches of earlier processes as they are, then this process's own.
fn sources(old: &[OldSpool], own: BootId, own_dir: PathBuf) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for old in old {
        let Some((first, _)) = old.contents.unacked.first_key_value() else { continue };
        sources.push(Source {
            spool: old.spool,
            reader: BatchReader::new(old.dir.clone()),
            next: *first,
            acked: old.contents.acked_ahead(),
            sent: old.contents.sealed.last,
            sealed: Some(old.contents.sealed),
        });
    }
    sources.push(Source {
        spool: own,
        reader: BatchReader::new(own_dir),
        next: BatchSeq(1),
        acked: std::collections::BTreeSet::new(),
        sent: BatchSeq(0),
        sealed: None,
    });
    sources
}

#[cfg(test)]
mod tests;
