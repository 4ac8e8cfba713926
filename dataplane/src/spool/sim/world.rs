//! One schedule: processes on one disk, one after the other, and what each exchange is owed.
//!
//! Everything runs on one thread; a random number says who goes on. Slots are real ones, in a real file that
//! outlives a killed process and not a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use wire::event::{DAY_MS, Tokens, UsageEvent, UsageSource};
use wire::id::{BootId, EventSeq, NodeId};

use super::super::host::Host;
use super::super::ship::Shipper;
use super::super::thread::SpoolThread;
use super::super::{Phase, PipelineConfig, SyncPolicy, parts};
use super::control::{Control, SimLink, Token};
use super::disk::{Killed, SimHost};
use super::random::Random;
use crate::link::Address;
use crate::slots::Slots;
use crate::slots::pool::{Slot, SlotPool};

const NODE: NodeId = NodeId(7);
/// How long a turn of the spool thread takes.
pub(super) const ROUND: Duration = Duration::from_millis(9);
/// As the spool thread has it.
pub(super) const SYNC_INTERVAL: Duration = super::super::thread::SYNC_INTERVAL;
/// A bit before midnight.
const BEGIN_MS: u64 = 20_000 * DAY_MS - 1500;
/// How many turns all of it takes at most to come to rest.
const TURNS_MAX: u32 = 20_000;

type Key = (BootId, EventSeq);

pub(super) struct World {
    pub(super) random: Random,
    pub(super) host: SimHost,
    pub(super) control: Control,
    run: PathBuf,
    config: PipelineConfig,
    boots: u64,
    process: Option<Process>,
    /// Exchanges that were settled, as they were.
    settled: BTreeMap<Key, UsageEvent>,
    admitted: BTreeSet<Key>,
    /// On the disk for good, by what the sync policy says.
    promised: BTreeSet<Key>,
    /// Not promised when the power was cut: stored once or not at all.
    excused: BTreeSet<Key>,
    power_cuts: u32,
    last_number: u32,
    /// What happens is told, for a person who looks for the reason of a failure.
    pub(super) is_told: bool,
}

struct Process {
    boot: BootId,
    spool: SpoolThread<SimHost>,
    shipper: Shipper<SimHost>,
    pools: Vec<SlotPool>,
    open: Vec<(Slot, UsageEvent)>,
    link: Option<u64>,
    connect_at: Instant,
    _wake: Receiver<()>,
}

impl World {
    pub(super) fn new(seed: u64, run: &Path) -> Self {
        let mut random = Random(seed);
        let host = SimHost::new(random.next(), BEGIN_MS);
        for dir in ["/data", "/data/spool", "/data/set_aside"] {
            host.create_dir(Path::new(dir)).unwrap();
            host.sync_dir(Path::new(dir).parent().unwrap()).unwrap();
        }
        let sync = [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Interval, SyncPolicy::Never];
        let retention = [0, 100, 900_000][pick(&mut random, 3)];
        let config = PipelineConfig {
            workers: 2,
            slots_per_worker: 12,
            sync: sync[pick(&mut random, sync.len())],
            seal_interval: Duration::from_millis(1 + random.below(300)),
            seal_events: 1 + u32::try_from(random.below(30)).unwrap(),
            segment_bytes: 2048 + random.below(6000),
            retention: Duration::from_millis(retention),
            answer_timeout: Duration::from_millis(500),
            ..PipelineConfig::new(
                PathBuf::from("/data"),
                run.to_owned(),
                Address::Unix(PathBuf::new()),
                NODE,
                BootId(0),
            )
        };
        let mut control = Control::default();
        control.refuses = random.one_in(4).then_some(17);
        Self {
            random,
            host,
            control,
            run: run.to_owned(),
            config,
            boots: 0,
            process: None,
            settled: BTreeMap::new(),
            admitted: BTreeSet::new(),
            promised: BTreeSet::new(),
            excused: BTreeSet::new(),
            power_cuts: 0,
            last_number: 0,
            is_told: false,
        }
    }

    /// Chooses the sync policy, which the seed does otherwise. Before the first process starts.
    pub(super) fn keep_to(&mut self, sync: SyncPolicy) {
        self.config.sync = sync;
    }

    /// What can never be stored, and is kept.
    pub(super) fn set_aside(&self) -> BTreeSet<Key> {
        self.host.events_below(Path::new("/data/set_aside"))
    }

    pub(super) fn tell(&self, what: impl std::fmt::Display) {
        if self.is_told {
            eprintln!("{:>9} boot {}: {what}", self.host.unix_ms() - BEGIN_MS, self.boots);
        }
    }

    /// Runs something of the process's, which may be killed in the middle of it.
    fn as_process<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| run(self))) {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<Killed>() => {
                self.kill();
                None
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    fn start(&mut self) {
        self.boots += 1;
        let boot = BootId(self.boots);
        self.config.boot = boot;
        let path = Path::new("/data/spool/start.lock");
        let Some(Ok(Some(starting))) = self.as_process(|this| this.host.lock(path)) else { return };
        let (slots, pools, lanes) = Slots::create(&self.run, self.config.slots()).unwrap();
        let (wake, wake_rx) = bounded(1);
        let (spool, shipper) = parts(&self.host, &self.config, (slots, lanes), starting, wake);
        self.process = Some(Process {
            boot,
            spool,
            shipper,
            pools,
            open: Vec::new(),
            link: None,
            connect_at: self.host.now(),
            _wake: wake_rx,
        });
        // Refused until the first round has shown that events can be written.
        self.round(Phase::Run);
    }

    /// `kill -9`: what stands in the slots stays.
    pub(super) fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.tell(format_args!("killed; {:?}", figures(&process)));
        let path = self.run.join(format!("{}.slots", process.boot));
        let slots = fs::read(&path).ok();
        self.hang_up(process.link);
        drop(process);
        self.host.state().unlock_all();
        if let Some(slots) = slots {
            fs::write(path, slots).unwrap();
        }
    }

    /// The machine goes down: no slots, and of the disk what was synced.
    pub(super) fn cut_power(&mut self) {
        self.kill();
        for entry in fs::read_dir(&self.run).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.host.state().cut_power();
        self.power_cuts += 1;
        self.tell("power cut");
        self.promised.extend(&self.control.received);
        self.excused.extend(self.admitted.difference(&self.promised));
    }

    fn hang_up(&mut self, link: Option<u64>) {
        if let Some(id) = link {
            self.control.leave(id);
        }
    }

    pub(super) fn stop(&mut self) {
        let Some(process) = &mut self.process else { return };
        for (slot, event) in std::mem::take(&mut process.open) {
            self.settled.insert((process.boot, slot.seq()), event);
            slot.settle(&event);
        }
        for _ in 0..self.random.below(30) {
            self.round(Phase::Finish);
            self.ship();
            self.bustle();
        }
        self.tell("stopped");
        let Some(Process { spool, link, .. }) = self.process.take() else { return };
        self.hang_up(link);
        self.as_process(|_| spool.quit());
        self.host.state().unlock_all();
    }

    /// A worker admits an exchange, learns of tokens, or settles one.
    pub(super) fn serve(&mut self) {
        let Some(process) = &mut self.process else { return };
        let counters = &process.spool.shared.counters;
        let is_full = counters.full.load(std::sync::atomic::Ordering::Relaxed);
        if self.random.one_in(2) && !is_full {
            self.last_number += 1;
            let tokens = Tokens { prompt: self.last_number, ..Tokens::default() };
            let event = UsageEvent { ts_ms: self.host.unix_ms(), tokens, ..UsageEvent::default() };
            let worker = pick(&mut self.random, process.pools.len());
            if let Some(slot) = process.pools[worker].open(&event) {
                self.admitted.insert((process.boot, slot.seq()));
                process.open.push((slot, event));
            }
        } else if !process.open.is_empty() {
            let at = pick(&mut self.random, process.open.len());
            let (slot, mut event) = process.open.swap_remove(at);
            (event.ts_ms, event.status) = (self.host.unix_ms(), 200);
            event.usage_source = UsageSource::Final;
            event.boot = process.boot;
            event.seq = slot.seq();
            self.settled.insert((process.boot, event.seq), event);
            slot.settle(&event);
        }
    }

    /// A turn of the spool thread, and whether its figures add up.
    pub(super) fn round(&mut self, phase: Phase) {
        if self.process.is_none() {
            return self.start();
        }
        self.host.pass(ROUND);
        let run = |this: &mut Self| this.process.as_mut().map(|process| process.spool.round(phase).1);
        let Some(Some(result)) = self.as_process(run) else { return };
        if let Err(e) = &result {
            self.tell(format_args!("round: {e}"));
        }
        let Some(process) = &self.process else { return };
        let figures = figures(process);
        let before = figures.appended + figures.adopted + figures.found;
        let after = figures.acked + figures.pending + figures.set_aside + figures.lost;
        assert_eq!(before, after, "{figures:?}");
        assert!(self.power_cuts > 0 || figures.lost == 0 && figures.lost_slots == 0, "{figures:?}");
        self.check_way(process);
        if result.is_ok() {
            self.promise();
        }
    }

    /// What is admitted and not stored is under way, by what accounting reports: else `usage verify` would
    /// say that it is lost.
    fn check_way(&self, process: &Process) {
        let has_looked = process.spool.opening.as_ref().is_none_or(|opening| opening.adoption.is_some());
        if self.power_cuts > 0 || !has_looked {
            return;
        }
        let figures = figures(process);
        let way = figures.in_flight + figures.pending + figures.to_adopt;
        let missing = (self.admitted.len() - self.control.rows.len()) as u64;
        // Looked up only where it matters: it is a scan of files.
        assert!(
            missing <= way || missing <= way + self.set_aside().len() as u64,
            "{missing} missing, {figures:?}"
        );
    }

    /// A round came to its end: what was written long enough ago is on the disk, by the policy.
    fn promise(&mut self) {
        let state = self.host.state();
        let age = match self.config.sync {
            SyncPolicy::Always => Duration::ZERO,
            SyncPolicy::Interval => SYNC_INTERVAL + ROUND,
            SyncPolicy::Never => return,
        };
        let old = state.written.iter().filter(|(_, at)| state.now.duration_since(**at) >= age);
        self.promised.extend(old.map(|(key, _)| *key));
    }

    /// A turn of the ship thread.
    pub(super) fn ship(&mut self) {
        self.as_process(|this| {
            let Some(process) = &mut this.process else { return };
            let Some(id) = process.link else {
                if this.host.now() >= process.connect_at && process.shipper.rewind().is_ok() {
                    process.link = this.control.connect();
                }
                return;
            };
            let Process { shipper, .. } = process;
            let mut link = SimLink { id, control: &mut this.control, random: &mut this.random };
            let turn = shipper.fill(&mut link).and_then(|()| shipper.check_patience()).and_then(|()| {
                match link.control.answer(id)? {
                    Some(frame) => shipper.hear(frame, &mut link).map(|_| ()),
                    None => Ok(()),
                }
            });
            if turn.is_err() {
                process.link = None;
                process.connect_at = this.host.now() + Duration::from_millis(50);
                this.control.leave(id);
            }
        });
    }

    /// Things move on outside of the data plane.
    pub(super) fn bustle(&mut self) {
        self.control.deliver(&mut self.random);
        self.control.work(&mut self.random);
    }

    /// The connection is cut on the data plane's side.
    pub(super) fn cut_connection(&mut self) {
        let link = self.process.as_mut().and_then(|process| process.link.take());
        self.hang_up(link);
    }

    /// All troubles end; once everything has come to rest, each exchange has what it is owed.
    pub(super) fn settle_up(&mut self) {
        self.host.state().failing = (0, 0);
        self.host.state().capacity = u64::MAX;
        self.host.state().kill_in = None;
        (self.control.is_away, self.control.failing) = (false, (0, 0));
        for _ in 0..2 {
            let mut turns = 0;
            while !self.is_at_rest() {
                self.round(Phase::Finish);
                self.ship();
                self.bustle();
                turns += 1;
                assert!(turns < TURNS_MAX, "never at rest: {:?}", self.process.as_ref().map(figures));
            }
            // And nothing more comes from another start.
            self.kill();
        }
        self.check();
    }

    fn is_at_rest(&mut self) -> bool {
        let is_idle = self.control.is_idle();
        let Some(process) = &mut self.process else { return false };
        for (slot, event) in std::mem::take(&mut process.open) {
            self.settled.insert((process.boot, slot.seq()), event);
            slot.settle(&event);
        }
        let figures = figures(process);
        let is_finished = process.spool.shared.is_finished.load(std::sync::atomic::Ordering::Relaxed);
        is_idle && is_finished && figures.pending == 0 && !figures.full
    }

    fn check(&self) {
        let mut stored: BTreeMap<Key, Vec<&(Token, UsageEvent)>> = BTreeMap::new();
        for row in &self.control.rows {
            stored.entry((row.1.boot, row.1.seq)).or_default().push(row);
        }
        let set_aside = self.set_aside();
        for key in &self.admitted {
            let rows = stored.remove(key).unwrap_or_default();
            let is_kept = rows.len() == 1 || set_aside.contains(key);
            assert!(rows.len() <= 1, "{key:?} is stored {} times: {rows:?}", rows.len());
            assert!(is_kept || self.excused.contains(key), "{key:?} is lost");
            if let (Some(row), Some(settled)) = (rows.first(), self.settled.get(key)) {
                assert_eq!(row.1.tokens, settled.tokens, "{key:?}");
            }
        }
        assert!(stored.is_empty(), "rows of exchanges that never were: {stored:?}");
    }
}

fn figures(process: &Process) -> super::super::figures::Figures {
    process.spool.shared.counters.figures(|| process.spool.slots.admitted())
}

pub(super) fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).unwrap_or(0)
}
