//! Revocation with a receipt: which enrolled data planes refuse the keys, durably, and how soon each said so.
//!
//! A confirmation is a node's word for a revocation, or for a generation that holds it; the second kind may
//! come from anywhere, also from a node that another control plane serves. Who is connected is waited for,
//! within a bound; who is not is pending, with when it was last seen.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use wire::frame::Frame;
use wire::id::{Generation, KeyDigest, NodeId};

use super::{Hub, State};
use crate::registry::revocation::{Revocation, Which};
use crate::registry::{Registry, Result};

/// A revocation that is waiting for confirmations.
pub(super) struct Waiting {
    generation: Generation,
    asked: Vec<NodeId>,
    confirmed: HashMap<NodeId, Instant>,
}

impl Waiting {
    /// Notes a node's word.
    pub(super) fn confirm(&mut self, node: NodeId) {
        self.confirmed.entry(node).or_insert_with(Instant::now);
    }
}

/// Notes that a node which stands at a generation, durably, refuses what was revoked until then.
pub(super) fn confirm(revocations: &mut HashMap<u64, Waiting>, node: NodeId, applied: Generation) {
    for waiting in revocations.values_mut().filter(|one| one.generation <= applied) {
        waiting.confirm(node);
    }
}

/// A data plane that has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// When it was last heard of, Unix time in milliseconds.
    pub last_seen_ms: i64,
}

/// What revoking came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The ids of the keys that are revoked, also of those that were before.
    pub keys: Vec<String>,
    /// What was asked for, and is no key's name.
    pub unknown: Vec<String>,
    /// The data planes that refuse them, and how many milliseconds after the call they had said so.
    pub nodes: Vec<(NodeId, u64)>,
    /// The enrolled data planes that have not said so.
    pub pending: Vec<Pending>,
}

/// The revocations of one call; the hub forgets them when this is dropped, whatever dropped it.
struct Sent<'h> {
    hub: &'h Hub,
    numbers: Vec<u64>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        self.numbers.iter().for_each(|number| drop(state.revocations.remove(number)));
    }
}

impl Hub {
    /// Revokes keys, and waits for the data planes; not longer than `Waits::revoke` after the last key.
    pub async fn revoke(&self, which: Which, cut_streams: bool) -> Result<Receipt> {
        self.revoke_as(&self.registry, which, cut_streams).await
    }

    /// Does so for whomever a handle on the registry acts; where it only tries, no data plane hears of it.
    pub async fn revoke_as(&self, registry: &Registry, which: Which, cut_streams: bool) -> Result<Receipt> {
        let start = Instant::now();
        let mut selection = registry.select_keys(which).await?;
        let mut sent = Sent { hub: self, numbers: Vec::new() };
        let mut receipt = Receipt::default();
        while let Some(Revocation { keys, digests, unknown, generation }) =
            registry.revoke_some(&mut selection).await?
        {
            receipt.keys.extend(keys);
            receipt.unknown.extend(unknown);
            if !digests.is_empty() && !registry.is_dry() {
                sent.numbers.push(self.send_revoke(generation, digests.clone(), cut_streams));
                self.tell_revoke(cut_streams, &digests).await;
            }
        }
        self.confirmations(&sent, start, &mut receipt).await?;
        Ok(receipt)
    }

    /// Tells data planes of keys that the registry has revoked already, and waits for them likewise.
    pub async fn tell_revoked(
        &self,
        generation: Generation,
        digests: Vec<KeyDigest>,
        cut_streams: bool,
    ) -> Result<Receipt> {
        let start = Instant::now();
        let numbers = vec![self.send_revoke(generation, digests.clone(), cut_streams)];
        self.tell_revoke(cut_streams, &digests).await;
        let sent = Sent { hub: self, numbers };
        let mut receipt = Receipt::default();
        self.confirmations(&sent, start, &mut receipt).await?;
        Ok(receipt)
    }

    /// Notes that a node stands at a generation, durably, however that became known.
    pub fn confirmed(&self, node: NodeId, applied: Generation) {
        let mut state = self.state();
        state.others.note(node, applied);
        confirm(&mut state.revocations, node, applied);
        drop(state);
        self.progress.send_replace(());
    }

    async fn confirmations(&self, sent: &Sent<'_>, start: Instant, receipt: &mut Receipt) -> Result<()> {
        if sent.numbers.is_empty() {
            return Ok(());
        }
        let elsewhere = self.look_elsewhere().await?;
        self.state().expect(&sent.numbers, &elsewhere);
        self.wait(self.waits.revoke, || self.state().is_complete(&sent.numbers)).await;
        let confirmed = self.state().confirmed_all(&sent.numbers);
        let milliseconds = |at: &Instant| -> u64 {
            let micros = at.saturating_duration_since(start).as_micros();
            u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX)
        };
        receipt.nodes = confirmed.iter().map(|(node, at)| (*node, milliseconds(at))).collect();
        let connected = self.connected();
        let heard = |node| connected.iter().find(|one| one.node == node).map_or(0, |one| one.heard_ms);
        let enrolled = self.registry.nodes().await?.into_iter();
        let pending = enrolled.filter(|one| !confirmed.contains_key(&one.node)).map(|one| Pending {
            node: one.node,
            last_seen_ms: one.last_seen_ms.max(heard(one.node)),
            name: one.name,
        });
        receipt.pending = pending.collect();
        Ok(())
    }

    /// Sends the frame to every session, ahead of its deltas; returns its number.
    fn send_revoke(&self, generation: Generation, digests: Vec<KeyDigest>, cut_streams: bool) -> u64 {
        let mut state = self.state();
        state.last_revocation += 1;
        let number = state.last_revocation;
        let asked = state.sessions.values().map(|session| session.node).collect();
        // The delta may have been faster than the return from the registry.
        let stand_there = state.sessions.values().filter(|session| session.applied >= generation);
        let confirmed = stand_there.map(|session| (session.node, Instant::now())).collect();
        state.revocations.insert(number, Waiting { generation, asked, confirmed });
        drop(state);
        self.send_urgent(&Frame::Revoke { revocation: number, cut_streams, digests });
        number
    }
}

impl State {
    /// Also waits for the nodes that other control planes serve, and for those connected here by now: one
    /// may have moved here after the frames were sent, and has not got one.
    fn expect(&mut self, numbers: &[u64], elsewhere: &[NodeId]) {
        let here = self.sessions.values().map(|session| session.node);
        let expected: Vec<NodeId> = here.chain(elsewhere.iter().copied()).collect();
        for number in numbers {
            if let Some(waiting) = self.revocations.get_mut(number) {
                waiting.asked.extend(&expected);
            }
        }
        // What they had come to before they were looked for.
        for one in self.others.now().collect::<Vec<_>>() {
            confirm(&mut self.revocations, one.node, one.applied);
        }
    }

    /// Whether everyone has confirmed that was asked and has not left.
    fn is_complete(&self, numbers: &[u64]) -> bool {
        let connected = |node| self.is_here(node) || self.others.now().any(|one| one.node == node);
        let done = |one: &Waiting| {
            one.asked.iter().all(|node| one.confirmed.contains_key(node) || !connected(*node))
        };
        numbers.iter().filter_map(|number| self.revocations.get(number)).all(done)
    }

    /// The nodes that have confirmed all of these revocations, and when the last of them.
    fn confirmed_all(&self, numbers: &[u64]) -> BTreeMap<NodeId, Instant> {
        let mut all = numbers.iter().filter_map(|number| self.revocations.get(number));
        let Some(first) = all.next() else { return BTreeMap::new() };
        let mut confirmed: BTreeMap<NodeId, Instant> = first.confirmed.clone().into_iter().collect();
        for other in all {
            confirmed.retain(|node, at| {
                let also = other.confirmed.get(node).copied();
                *at = also.map_or(*at, |also| also.max(*at));
                also.is_some()
            });
        }
        confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_come_here_since_a_revocation_left_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(crate::registry::place(dir.path())).await.unwrap();
        let hub = Hub::new(registry.into()).await.unwrap();
        let number = hub.send_revoke(Generation(99), Vec::new(), false);
        let _moved = hub.attach(NodeId(2), Generation(1));
        hub.state().expect(&[number], &[]);
        assert!(!hub.state().is_complete(&[number]));
        hub.confirmed(NodeId(2), Generation(99));
        assert!(hub.state().is_complete(&[number]));
    }
}
