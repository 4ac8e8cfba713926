//! Bringing changes to the data planes, and revocation with a receipt.
//!
//! One task follows the registry's generations and hands each delta to the sessions, in order. What it hands
//! on is read after the commit, so that a data plane never hears of what did not happen. A session has two
//! queues: deltas, and the urgent ones that go ahead of them. One that does not keep up is closed: on coming
//! back it gets what it missed.
//!
//! Invariants:
//!
//!   * a session's deltas are contiguous from `published` at its attachment on
//!   * a node has at most one session; a newer one replaces it
//!   * a node stands in a receipt as confirmed only once it said so itself: for the revocation, or for its
//!     generation

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::frame::Frame;
use wire::id::{Generation, NodeId};

use crate::registry::key::Key;
use crate::registry::tables::{Delta, Since};
use crate::registry::{Registry, Result};

/// How many deltas may wait for one data plane.
pub const DELTAS_QUEUED_MAX: usize = 256;
/// How many revocations may wait for one data plane.
pub const REVOCATIONS_QUEUED_MAX: usize = 256;
/// How long a revocation waits for the data planes.
pub const REVOKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a new key waits for the data planes.
pub const APPLY_WAIT_MAX: Duration = Duration::from_secs(2);

const RETRY_AFTER: Duration = Duration::from_millis(500);

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
}

/// A revocation that is waiting for confirmations.
struct Waiting {
    generation: Generation,
    confirmed: HashMap<NodeId, Instant>,
}

#[derive(Default)]
struct State {
    published: Generation,
    sessions: HashMap<u64, Session>,
    last_session: u64,
    revocations: HashMap<u64, Waiting>,
    last_revocation: u64,
}

/// What revoking came to.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The keys, as they are now.
    pub keys: Vec<Key>,
    /// The data planes that refuse them, and how many milliseconds after the call they had said so.
    pub nodes: Vec<(NodeId, u64)>,
    /// The enrolled data planes that have not said so.
    pub pending: Vec<NodeId>,
}

/// A data plane that is connected now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its node.
    pub node: NodeId,
    /// How far it has come.
    pub applied: Generation,
}

/// Hands changes to all connected data planes.
pub struct Hub {
    registry: Arc<Registry>,
    state: Mutex<State>,
    /// Stirred whenever a data plane confirms something or leaves.
    progress: watch::Sender<()>,
}

impl Hub {
    /// A hub without sessions, at the registry's present generation.
    pub async fn new(registry: Arc<Registry>) -> Result<Self> {
        let state = State { published: registry.generation().await?, ..State::default() };
        Ok(Self { registry, state: Mutex::new(state), progress: watch::channel(()).0 })
    }

    /// The registry that it publishes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
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
                }
            }
        }
    }

    fn broadcast(&self, delta: &Arc<Delta>) {
        let mut state = self.state();
        state.published = delta.to;
        state.sessions.retain(|_, session| {
            let kept = session.deltas.try_send(delta.clone()).is_ok();
            if !kept {
                tracing::warn!(node = %session.node, "a data plane does not keep up, its session is closed");
                session.closed.cancel();
            }
            kept
        });
        drop(state);
        self.progress.send_replace(());
    }

    /// Takes in a session; what is committed from now on is in its queues.
    #[must_use]
    pub fn attach(&self, node: NodeId, applied: Generation) -> Attached {
        let (urgent, urgent_out) = mpsc::channel(REVOCATIONS_QUEUED_MAX);
        let (deltas, deltas_out) = mpsc::channel(DELTAS_QUEUED_MAX);
        let closed = CancellationToken::new();
        let session = Session { node, urgent, deltas, closed: closed.clone(), applied };
        let mut state = self.state();
        for older in state.sessions.values().filter(|other| other.node == node) {
            older.closed.cancel();
        }
        state.sessions.retain(|_, other| other.node != node);
        confirm_applied(&mut state.revocations, node, applied);
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

    /// Notes that a data plane stands at a generation, durably.
    pub fn applied(&self, session: u64, generation: Generation) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(session) = state.sessions.get_mut(&session) {
            session.applied = session.applied.max(generation);
            confirm_applied(&mut state.revocations, session.node, generation);
        }
        self.progress.send_replace(());
    }

    /// Notes that a data plane refuses the keys of a revocation, durably.
    pub fn revoked(&self, session: u64, revocation: u64) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(session) = state.sessions.get(&session)
            && let Some(waiting) = state.revocations.get_mut(&revocation)
        {
            waiting.confirmed.entry(session.node).or_insert_with(Instant::now);
        }
        self.progress.send_replace(());
    }

    /// The data planes that are connected now.
    #[must_use]
    pub fn connected(&self) -> Vec<Connected> {
        let state = self.state();
        let sessions = state.sessions.values();
        sessions.map(|one| Connected { node: one.node, applied: one.applied }).collect()
    }

    /// Waits until every connected data plane stands at a generation; not longer than `APPLY_WAIT_MAX`.
    ///
    /// Returns whether they do.
    pub async fn wait_applied(&self, generation: Generation) -> bool {
        let all = || self.state().sessions.values().all(|session| session.applied >= generation);
        self.wait(APPLY_WAIT_MAX, all).await
    }

    /// Revokes keys by id, prefix or description, and waits for the data planes; not longer than
    /// `REVOKE_WAIT_MAX`.
    pub async fn revoke(&self, wanted: &[String]) -> Result<Receipt> {
        let start = Instant::now();
        let revocation = self.registry.revoke_keys(wanted).await?;
        let (number, asked) = self.send_revoke(revocation.generation, revocation.digests);
        let done = || {
            let state = self.state();
            let Some(waiting) = state.revocations.get(&number) else { return true };
            let connected = |node| state.sessions.values().any(|session| session.node == node);
            asked.iter().all(|node| waiting.confirmed.contains_key(node) || !connected(*node))
        };
        self.wait(REVOKE_WAIT_MAX, done).await;
        let confirmed = self.state().revocations.remove(&number).map(|one| one.confirmed).unwrap_or_default();
        let milliseconds = |at: &Instant| -> u64 {
            let micros = at.saturating_duration_since(start).as_micros();
            u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX)
        };
        let nodes: BTreeMap<NodeId, u64> =
            confirmed.iter().map(|(node, at)| (*node, milliseconds(at))).collect();
        let enrolled = self.registry.nodes().await?.into_iter().map(|node| node.node);
        let pending = enrolled.filter(|node| !nodes.contains_key(node)).collect();
        Ok(Receipt { keys: revocation.keys, nodes: nodes.into_iter().collect(), pending })
    }

    /// Sends the frame to every session, ahead of its deltas; returns its number and who was asked.
    fn send_revoke(&self, generation: Generation, digests: Vec<wire::id::KeyDigest>) -> (u64, Vec<NodeId>) {
        let mut state = self.state();
        state.last_revocation += 1;
        let number = state.last_revocation;
        state.revocations.insert(number, Waiting { generation, confirmed: HashMap::new() });
        let frame = Frame::Revoke { revocation: number, digests };
        let asked = state.sessions.values().map(|session| session.node).collect();
        state.sessions.retain(|_, session| {
            let kept = session.urgent.try_send(frame.clone()).is_ok();
            if !kept {
                tracing::warn!(node = %session.node, "a data plane does not keep up, its session is closed");
                session.closed.cancel();
            }
            kept
        });
        (number, asked)
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

/// Notes that a node which stands at a generation, durably, refuses what was revoked until then.
fn confirm_applied(revocations: &mut HashMap<u64, Waiting>, node: NodeId, applied: Generation) {
    for waiting in revocations.values_mut().filter(|one| one.generation <= applied) {
        waiting.confirmed.entry(node).or_insert_with(Instant::now);
    }
}
