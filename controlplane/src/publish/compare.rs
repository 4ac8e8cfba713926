//! Comparing what data planes hold with the registry, now and then.
//!
//! Each says the sum of its tables with every generation that it has come to. The registry's own takes
//! reading all of it, so it is made every few minutes, and held against what each said of that generation. A
//! data plane that differs gets all tables anew: that is a fault of ours, which is logged, counted, and shown
//! until it is over.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wire::id::{Generation, NodeId};
use wire::table_sum::TableSum;

use super::{Hub, Session};
use crate::registry::Result;

/// How often.
const INTERVAL: Duration = Duration::from_mins(5);
/// How many generations back it is remembered what a data plane said.
const REMEMBERED: usize = 256;

/// The sums that a data plane said, the newest last.
#[derive(Default)]
pub(super) struct Sums(VecDeque<(Generation, TableSum)>);

impl Sums {
    pub(super) fn note(&mut self, generation: Generation, sum: TableSum) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((generation, sum));
    }

    pub(super) fn last(&self) -> Option<TableSum> {
        self.0.back().map(|(_, sum)| *sum)
    }

    fn at(&self, generation: Generation) -> Option<TableSum> {
        self.0.iter().rev().find(|(at, _)| *at == generation).map(|(_, sum)| *sum)
    }
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Whose tables are the registry's.
    pub equal: Vec<NodeId>,
    /// Whose are not; they get a snapshot.
    pub different: Vec<NodeId>,
}

impl Hub {
    /// Compares now and then until it is told to stop.
    pub async fn keep_comparing(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if self.state().sessions.is_empty() {
                continue;
            }
            if let Err(error) = self.compare().await {
                tracing::warn!(%error, "the tables of data planes are not compared with the registry");
            }
        }
    }

    /// Compares what the data planes here hold with the registry; who differs gets a snapshot.
    pub async fn compare(&self) -> Result<Compared> {
        let mut compared = self.look().await?;
        if compared.different.is_empty() {
            return Ok(compared);
        }
        // A revocation goes ahead of its generation: who has it already differs for that moment.
        let again = self.look().await?;
        compared.different.retain(|node| again.different.contains(node));
        let mut state = self.state();
        for node in &compared.different {
            tracing::error!(%node, "a data plane's tables are not the registry's, it gets them anew");
            state.differed += 1;
            state.distrusted.insert(*node);
            state.sessions.values().filter(|one| one.node == *node).for_each(Session::close);
        }
        drop(state);
        Ok(compared)
    }

    /// Those that went past the generation without saying anything of it are left out: the next time will do.
    async fn look(&self) -> Result<Compared> {
        let (generation, sum) = self.registry.table_sum().await?;
        let all = || self.state().sessions.values().all(|session| session.applied >= generation);
        self.wait(self.waits.apply, all).await;
        let state = self.state();
        let said = state.sessions.values().filter_map(|one| Some((one.node, one.sums.at(generation)?)));
        let (equal, different): (Vec<_>, Vec<_>) = said.partition(|(_, said)| *said == sum);
        let nodes = |all: Vec<(NodeId, TableSum)>| all.into_iter().map(|(node, _)| node).collect();
        Ok(Compared { equal: nodes(equal), different: nodes(different) })
    }

    /// Whether a data plane's tables turned out wrong, and it must get them anew; asked once.
    pub fn is_distrusted(&self, node: NodeId) -> bool {
        self.state().distrusted.remove(&node)
    }

    /// How often a data plane's tables turned out wrong.
    #[must_use]
    pub fn differed(&self) -> u64 {
        self.state().differed
    }
}
