//! What the upstream's threads and the test share: scripts, gates, what was received, the ledger.
//!
//! Workers take these locks for nanoseconds, and the usual answer takes only the ledger's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Options;
use super::script::{Blob, Script};
use super::socket;

/// A request that the upstream received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// The head, exactly.
    pub head: Blob,
    /// The body, chunks taken off.
    pub body: Blob,
}

/// The upstream's own count for one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests that named the model.
    pub requests: u64,
    /// Answers whose usage was told.
    pub reported: u64,
    /// The prompt tokens it told.
    pub prompt_tokens: u64,
    /// The completion tokens it told.
    pub completion_tokens: u64,
}

/// The upstream's own count for one exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// How often it was asked for.
    pub requests: u32,
    /// How often its usage was told, or begun to be told.
    pub reported: u32,
    /// The completion tokens that were told.
    pub completion_tokens: u64,
}

#[derive(Default)]
struct GateState {
    open: bool,
    reached: u64,
}

struct Live {
    fd: RawFd,
    idle: bool,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) stopping: AtomicBool,
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
    scripts: Mutex<Vec<Script>>,
    scripts_active: AtomicUsize,
    received: Mutex<VecDeque<Received>>,
    ledger: Mutex<BTreeMap<String, Totals>>,
    exchanges: Mutex<HashMap<u64, Told>>,
    gates: Mutex<BTreeMap<String, GateState>>,
    gate_reached: Condvar,
    live: Mutex<HashMap<u64, Live>>,
}

/// A lock whose holder panicked still holds plain counts and lists.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    pub(crate) fn add_script(&self, script: Script) {
        let mut scripts = lock(&self.scripts);
        scripts.push(script);
        self.scripts_active.store(scripts.len(), Ordering::Release);
    }

    pub(crate) fn clear_scripts(&self) {
        lock(&self.scripts).clear();
        self.scripts_active.store(0, Ordering::Release);
    }

    pub(crate) fn has_scripts(&self) -> bool {
        self.scripts_active.load(Ordering::Acquire) > 0
    }

    /// Takes the script for a request, and one of its `times`.
    pub(crate) fn take_script(&self, model: &str, path: &str) -> Option<Script> {
        let mut scripts = lock(&self.scripts);
        let script = scripts.iter_mut().find(|script| script.matches(model, path))?;
        if let Some(times) = &mut script.times {
            *times -= 1;
        }
        let script = script.clone();
        scripts.retain(|script| script.times != Some(0));
        self.scripts_active.store(scripts.len(), Ordering::Release);
        Some(script)
    }

    pub(crate) fn record(&self, connection: u64, head: &[u8], body: &[u8]) {
        if self.options.record == 0 {
            return;
        }
        let mut received = lock(&self.received);
        if received.len() == self.options.record {
            received.pop_front();
        }
        received.push_back(Received { connection, head: head.into(), body: body.into() });
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        lock(&self.received).iter().cloned().collect()
    }

    /// Counts in the ledger.
    pub(crate) fn count(&self, model: &str, add: impl FnOnce(&mut Totals)) {
        let mut ledger = lock(&self.ledger);
        if !ledger.contains_key(model) {
            ledger.insert(model.to_owned(), Totals::default());
        }
        if let Some(totals) = ledger.get_mut(model) {
            add(totals);
        }
    }

    pub(crate) fn ledger(&self) -> BTreeMap<String, Totals> {
        lock(&self.ledger).clone()
    }

    /// Counts for one exchange, where that is wanted.
    pub(crate) fn count_exchange(&self, number: u64, add: impl FnOnce(&mut Told)) {
        if self.options.keep_exchanges {
            add(lock(&self.exchanges).entry(number).or_default());
        }
    }

    pub(crate) fn exchanges(&self) -> HashMap<u64, Told> {
        lock(&self.exchanges).clone()
    }

    /// Forgets what was received and counted, and all scripts and gates.
    pub(crate) fn reset(&self) {
        self.clear_scripts();
        lock(&self.received).clear();
        lock(&self.ledger).clear();
        lock(&self.exchanges).clear();
        lock(&self.gates).clear();
        self.requests.store(0, Ordering::Relaxed);
        self.connections.store(0, Ordering::Relaxed);
    }

    pub(crate) fn open_gate(&self, name: &str) {
        lock(&self.gates).entry(name.to_owned()).or_default().open = true;
    }

    /// Notes that an answer stands before a gate.
    pub(crate) fn reach_gate(&self, name: &str) {
        lock(&self.gates).entry(name.to_owned()).or_default().reached += 1;
        self.gate_reached.notify_all();
    }

    pub(crate) fn gate_is_open(&self, name: &str) -> bool {
        lock(&self.gates).get(name).is_some_and(|gate| gate.open)
    }

    pub(crate) fn wait_for_gate(&self, name: &str, times: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut gates = lock(&self.gates);
        loop {
            if gates.get(name).is_some_and(|gate| gate.reached >= times) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.gate_reached.wait_timeout(gates, left);
            gates = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn connected(&self, connection: u64, fd: RawFd) {
        lock(&self.live).insert(connection, Live { fd, idle: true });
    }

    /// To be called before the descriptor is closed: afterwards its number may belong to something else.
    pub(crate) fn disconnected(&self, connection: u64) {
        lock(&self.live).remove(&connection);
    }

    pub(crate) fn set_idle(&self, connection: u64, idle: bool) {
        if let Some(live) = lock(&self.live).get_mut(&connection) {
            live.idle = idle;
        }
    }

    pub(crate) fn live_count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Shuts connections down, all or those that wait for a request; their tasks notice by an end of file.
    pub(crate) fn shut_down(&self, idle_only: bool) -> usize {
        let live = lock(&self.live);
        let chosen = live.values().filter(|live| live.idle || !idle_only);
        chosen.map(|live| socket::shut_down(live.fd)).count()
    }
}
