//! Bringing changes to the data planes, and revocation with a receipt.
//!
//! One task follows the registry's generations and hands each delta to the sessions, in order. What it hands
//! on is read after the commit, so that a data plane never hears of what did not happen. A session has two
//! queues: deltas, and the urgent ones that go ahead of them. One that does not keep up, such as while it
//! sends a snapshot, misses deltas, and reads what it missed from the registry.
//!
//! A node is connected to one control plane at a time; `confirmed` is how whoever hears of a node from
//! elsewhere says how far it has come.
//!
//! Invariants:
//!
//!   * a session's deltas are in order from `published` at its attachment on; where one is missing the next
//!     one says so by where it begins
//!   * a node has at most one session; a newer one replaces it
//!   * a node stands in a receipt as confirmed only once it said so itself: for the revocation, or for its
//!     generation

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::frame::Frame;
use wire::id::{Generation, NodeId};
use wire::table_sum::TableSum;

use self::compare::Sums;
use self::peers::Others;
use self::receipt::Waiting;
use crate::authority::Authority;
use crate::registry::now_ms;
use crate::registry::tables::{Delta, Since};
use crate::registry::{Registry, Result};

/// Whether data planes hold what the registry has.
pub mod compare;
/// Other control planes on the same registry.
mod peers;
/// Revocation with a receipt.
pub mod receipt;

/// How many deltas may wait for one data plane.
pub const DELTAS_QUEUED_MAX: usize = 256;
/// How many revocations may wait for one data plane.
pub const REVOCATIONS_QUEUED_MAX: usize = 256;
/// How long a revocation waits for the data planes.
pub const REVOKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a new key waits for the data planes.
pub const APPLY_WAIT_MAX: Duration = Duration::from_secs(2);

const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long the calls that wait for data planes do so.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For the confirmations of a revocation.
    pub revoke: Duration,
    /// For those of a new key.
    pub apply: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { revoke: REVOKE_WAIT_MAX, apply: APPLY_WAIT_MAX }
    }
}

/// What a session must send.
pub struct Attached {
    /// Its number, for `detach`.
    pub session: u64,
    /// What goes ahead of everything else.
    pub urgent: mpsc::Receiver<Frame>,
    /// Deltas in order.
    pub deltas: mpsc::Receiver<Arc<Delta>>,
    /// Cancelled when the session is to end.
    pub closed: CancellationToken,
}

/// A connected data plane.
struct Session {
    node: NodeId,
    urgent: mpsc::Sender<Frame>,
    deltas: mpsc::Sender<Arc<Delta>>,
    closed: CancellationToken,
    applied: Generation,
    sums: Sums,
    heard_ms: i64,
}

impl Session {
    fn close(&self) {
        self.closed.cancel();
    }
}

#[derive(Default)]
struct State {
    published: Generation,
    sessions: HashMap<u64, Session>,
    last_session: u64,
    revocations: HashMap<u64, Waiting>,
    last_revocation: u64,
    others: Others,
    /// Whose tables turned out wrong.
    distrusted: HashSet<NodeId>,
    differed: u64,
}

impl State {
    fn is_here(&self, node: NodeId) -> bool {
        self.sessions.values().any(|session| session.node == node)
    }
}

/// A data plane that is connected now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its node.
    pub node: NodeId,
    /// How far it has come.
    pub applied: Generation,
    /// The sum of its tables, where it is connected here and has said it.
    pub sum: Option<TableSum>,
    /// When it last said anything, Unix time in milliseconds.
    pub heard_ms: i64,
}

/// Hands changes to all connected data planes.
pub struct Hub {
    registry: Arc<Registry>,
    waits: Waits,
    state: Mutex<State>,
    /// Stirred whenever a data plane confirms something or leaves.
    progress: watch::Sender<()>,
    /// Stirred whenever nodes may have been enrolled or removed.
    nodes_changed: watch::Sender<()>,
    authority: OnceLock<Arc<Authority>>,
}

impl Hub {
    /// A hub without sessions, at the registry's present generation.
    pub async fn new(registry: Arc<Registry>) -> Result<Self> {
        Self::waiting(registry, Waits::default()).await
    }

    /// The same; its calls wait as long as is said.
    pub async fn waiting(registry: Arc<Registry>, waits: Waits) -> Result<Self> {
        let state = State { published: registry.generation().await?, ..State::default() };
        let (progress, nodes_changed) = (watch::channel(()).0, watch::channel(()).0);
        let (state, authority) = (Mutex::new(state), OnceLock::new());
        Ok(Self { registry, waits, state, progress, nodes_changed, authority })
    }

    /// The registry that it publishes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// From now on nodes on other hosts can be enrolled, with certificates of this authority.
    pub fn use_authority(&self, authority: Arc<Authority>) {
        // Only the first call counts: there is one authority for each process.
        let _ = self.authority.set(authority);
    }

    /// Whose certificates nodes on other hosts have; `None` where they are not served.
    #[must_use]
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.get()
    }

    /// Publishes changes until it is told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changed = self.registry.subscribe();
        loop {
            changed.mark_unchanged();
            let retry = match self.publish_pending().await {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(%error, "changes are not published, trying again");
                    Some(RETRY_AFTER)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                done = changed.changed() => if done.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or(Duration::MAX)), if retry.is_some() => {}
            }
        }
    }

    async fn publish_pending(&self) -> Result<()> {
        loop {
            let published = self.state().published;
            match self.registry.since(published).await? {
                Since::Current => return Ok(()),
                Since::Delta(delta) => self.broadcast(&Arc::new(delta)),
                Since::Unknown => {
                    let now = self.registry.generation().await?;
                    let mut state = self.state();
                    state.published = now;
                    state.sessions.drain().for_each(|(_, session)| session.closed.cancel());
                    drop(state);
                    self.nodes_changed.send_replace(());
                }
            }
        }
    }

    fn broadcast(&self, delta: &Arc<Delta>) {
        let mut state = self.state();
        state.published = delta.to;
        for session in state.sessions.values() {
            // Who has no room for it finds a gap, and asks the registry.
            let _ = session.deltas.try_send(delta.clone());
        }
        drop(state);
        self.progress.send_replace(());
        if delta.nodes_changed {
            self.nodes_changed.send_replace(());
        }
    }

    /// The generation that was handed on last.
    pub(crate) fn published(&self) -> Generation {
        self.state().published
    }

    /// Takes in a session; what is committed from now on is in its queues.
    #[must_use]
    pub fn attach(&self, node: NodeId, applied: Generation) -> Attached {
        let (urgent, urgent_out) = mpsc::channel(REVOCATIONS_QUEUED_MAX);
        let (deltas, deltas_out) = mpsc::channel(DELTAS_QUEUED_MAX);
        let closed = CancellationToken::new();
        let (sums, heard_ms) = (Sums::default(), now_ms());
        let session = Session { node, urgent, deltas, closed: closed.clone(), applied, sums, heard_ms };
        let mut state = self.state();
        for older in state.sessions.values().filter(|other| other.node == node) {
            older.closed.cancel();
        }
        state.sessions.retain(|_, other| other.node != node);
        receipt::confirm(&mut state.revocations, node, applied);
        state.last_session += 1;
        let number = state.last_session;
        state.sessions.insert(number, session);
        drop(state);
        self.progress.send_replace(());
        Attached { session: number, urgent: urgent_out, deltas: deltas_out, closed }
    }

    /// Lets a session go.
    pub fn detach(&self, session: u64) {
        self.state().sessions.remove(&session);
        self.progress.send_replace(());
    }

    /// Notes that a data plane stands at a generation, durably, and the sum of its tables there.
    pub fn applied(&self, session: u64, generation: Generation, sum: TableSum) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(session) = state.sessions.get_mut(&session) {
            session.applied = session.applied.max(generation);
            session.sums.note(generation, sum);
            session.heard_ms = now_ms();
            receipt::confirm(&mut state.revocations, session.node, generation);
        }
        self.progress.send_replace(());
    }

    /// Notes that a data plane is there.
    pub fn heard(&self, session: u64) {
        if let Some(session) = self.state().sessions.get_mut(&session) {
            session.heard_ms = now_ms();
        }
    }

    /// Notes that a data plane refuses the keys of a revocation, durably.
    pub fn revoked(&self, session: u64, revocation: u64) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(session) = state.sessions.get_mut(&session) {
            session.heard_ms = now_ms();
            if let Some(waiting) = state.revocations.get_mut(&revocation) {
                waiting.confirm(session.node);
            }
        }
        self.progress.send_replace(());
    }

    /// Tells whenever nodes may have been enrolled or removed.
    #[must_use]
    pub fn nodes_changed(&self) -> watch::Receiver<()> {
        self.nodes_changed.subscribe()
    }

    /// The data planes that are connected now, here or to another control plane.
    #[must_use]
    pub fn connected(&self) -> Vec<Connected> {
        let state = self.state();
        let here = |one: &Session| {
            let sum = one.sums.last();
            Connected { node: one.node, applied: one.applied, sum, heard_ms: one.heard_ms }
        };
        let mut connected: Vec<Connected> = state.sessions.values().map(here).collect();
        let elsewhere = state.others.now().filter(|one| !state.is_here(one.node));
        let elsewhere = elsewhere.map(|one| {
            let (node, applied, heard_ms) = (one.node, one.applied, one.heard_ms);
            Connected { node, applied, sum: None, heard_ms }
        });
        connected.extend(elsewhere);
        connected
    }

    /// Waits until every connected data plane stands at a generation; not longer than `Waits::apply`.
    ///
    /// Returns whether they do.
    pub async fn wait_applied(&self, generation: Generation) -> bool {
        if let Err(error) = self.look_elsewhere().await {
            tracing::warn!(%error, "what other control planes serve is not known");
        }
        let all = || {
            let state = self.state();
            let here = state.sessions.values().all(|session| session.applied >= generation);
            here && state.others.all_at(generation)
        };
        self.wait(self.waits.apply, all).await
    }

    /// Sends a frame to every session, ahead of its deltas.
    fn send_urgent(&self, frame: &Frame) {
        self.state().sessions.retain(|_, session| {
            let kept = session.urgent.try_send(frame.clone()).is_ok();
            if !kept {
                tracing::warn!(node = %session.node, "a data plane does not keep up, its session is closed");
                session.closed.cancel();
            }
            kept
        });
    }

    /// Waits for a condition, looking again at each stir; returns whether it came true in time.
    async fn wait(&self, limit: Duration, condition: impl Fn() -> bool) -> bool {
        let mut stirred = self.progress.subscribe();
        let until = tokio::time::Instant::now() + limit;
        loop {
            stirred.mark_unchanged();
            if condition() {
                return true;
            }
            match tokio::time::timeout_at(until, stirred.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }

    /// How many revocations wait for confirmations, each in the queues of all its sessions.
    #[cfg(test)]
    pub(crate) fn revocations_waiting(&self) -> usize {
        self.state().revocations.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
