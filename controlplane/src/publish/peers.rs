//! Several control planes on one registry: what each does with the words of the others.
//!
//! A change that another has committed is published here as any is. What that one waits for are
//! confirmations of data planes that are connected here: they are told to it, each once it stands at the
//! generation. Revocations that another has sent go ahead of whatever waits here, too.

use std::collections::HashMap;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use wire::frame::Frame;
use wire::id::{Generation, KeyDigest, NodeId};

use super::Hub;
use crate::registry::Result;
use crate::registry::peers::{DIGESTS_MAX, Word};
use crate::registry::serving::{Elsewhere, SAY_INTERVAL};

/// What data planes of other control planes are known to have come to.
#[derive(Default)]
pub(super) struct Others {
    /// As the registry says.
    served: Vec<Elsewhere>,
    /// As was told since.
    applied: HashMap<NodeId, Generation>,
}

impl Others {
    pub(super) fn note(&mut self, node: NodeId, applied: Generation) {
        let known = self.applied.entry(node).or_default();
        *known = applied.max(*known);
    }

    /// Whether all of them stand at a generation.
    pub(super) fn all_at(&self, generation: Generation) -> bool {
        self.now().all(|one| one.applied >= generation)
    }

    pub(super) fn now(&self) -> impl Iterator<Item = Elsewhere> + '_ {
        self.served.iter().map(|one| {
            let told = self.applied.get(&one.node).copied().unwrap_or_default();
            Elsewhere { applied: one.applied.max(told), ..*one }
        })
    }
}

impl Hub {
    /// Follows the other control planes until it is told to stop.
    pub async fn follow_peers(&self, stop: CancellationToken) {
        if !self.registry.is_shared() {
            return stop.cancelled().await;
        }
        let mut words = self.registry.listen();
        let mut progress = self.progress.subscribe();
        let mut says = tokio::time::interval(SAY_INTERVAL);
        let (mut foreign, mut told, mut here) = (Generation(0), HashMap::new(), Vec::new());
        loop {
            progress.mark_unchanged();
            self.tell_applied(foreign, &mut told).await;
            self.say_changes(&mut here).await;
            tokio::select! {
                () = stop.cancelled() => break,
                word = words.recv() => match word {
                    Ok(Word::Generation(generation)) => foreign = foreign.max(generation),
                    Ok(Word::Applied { node, generation }) => self.confirmed(node, generation),
                    Ok(Word::Revoke { cut_streams, digests }) => self.urge(cut_streams, digests),
                    // What it missed comes with the generation that it leads to.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                changed = progress.changed() => if changed.is_err() { break },
                _ = says.tick() => {
                    here.clear();
                    if let Err(error) = self.look_elsewhere().await {
                        tracing::warn!(%error, "what other control planes serve is not known");
                    }
                }
            }
        }
        for node in here {
            let _ = self.registry.say_left(node).await;
        }
    }

    /// Tells who has come to what another control plane has committed, once for each of both.
    async fn tell_applied(&self, foreign: Generation, told: &mut HashMap<NodeId, Generation>) {
        let sessions: Vec<(NodeId, Generation)> =
            self.state().sessions.values().map(|one| (one.node, one.applied)).collect();
        told.retain(|node, _| sessions.iter().any(|(here, _)| here == node));
        for (node, generation) in sessions {
            let before = told.entry(node).or_default();
            if *before < foreign && generation > *before {
                *before = generation;
                self.registry.tell(&Word::Applied { node, generation }).await;
            }
        }
    }

    /// Says who came and who left since `here`.
    async fn say_changes(&self, here: &mut Vec<NodeId>) {
        let served: Vec<(NodeId, Generation)> =
            self.state().sessions.values().map(|one| (one.node, one.applied)).collect();
        let came: Vec<_> = served.iter().copied().filter(|(node, _)| !here.contains(node)).collect();
        let left: Vec<_> = here.extract_if(.., |node| !served.iter().any(|(now, _)| now == node)).collect();
        let said = async {
            if !came.is_empty() {
                self.registry.say_served(&came).await?;
            }
            for node in left {
                self.registry.say_left(node).await?;
            }
            Ok::<_, crate::registry::RegistryError>(())
        };
        match said.await {
            Ok(()) => here.extend(came.into_iter().map(|(node, _)| node)),
            Err(error) => tracing::warn!(%error, "the other control planes do not know whom this one serves"),
        }
    }

    /// Learns whom other control planes serve.
    pub(super) async fn look_elsewhere(&self) -> Result<Vec<NodeId>> {
        let served = self.registry.served_elsewhere().await?;
        let mut state = self.state();
        state.others.applied.retain(|node, _| served.iter().any(|one| one.node == *node));
        state.others.served = served;
        Ok(state.others.served.iter().map(|one| one.node).collect())
    }

    /// Lets the other control planes send a revocation ahead of all else.
    pub(super) async fn tell_revoke(&self, cut_streams: bool, digests: &[KeyDigest]) {
        for digests in digests.chunks(DIGESTS_MAX) {
            self.registry.tell(&Word::Revoke { cut_streams, digests: digests.to_vec() }).await;
        }
    }

    /// Sends another control plane's revocation ahead of all else; nobody waits for its confirmation, but for
    /// that of its generation.
    fn urge(&self, cut_streams: bool, digests: Vec<KeyDigest>) {
        self.send_urgent(&Frame::Revoke { revocation: 0, cut_streams, digests });
    }
}
