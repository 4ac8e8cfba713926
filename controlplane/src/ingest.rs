//! Batches of usage events on their way into ClickHouse: numbers become ids and names, rows go in under a
//! token.
//!
//! A batch is stored whole or not at all, and is acknowledged only once ClickHouse has it on disk. While
//! ClickHouse or the registry is away it is tried again, for as long as the data plane waits; whatever
//! ClickHouse answers (too many parts, no memory, read-only, nothing at all) only delays. An event that can
//! never be stored (it carries a number that this registry never gave, or ClickHouse refuses its values) is
//! refused by its index, so that the data plane sets it aside; the rest of its batch is stored.
//!
//! Invariants:
//!
//!   * one batch = one insert = one token, `spool_id:batch_seq`; only a refusal by ClickHouse splits it, in
//!     halves whose tokens are derived from it
//!   * before anything is sent a second time, ClickHouse is asked what it has of it
//!   * at most `INSERTS_MAX` inserts are under way, first come, first served: a data plane with a backlog
//!     takes turns with the others

/// What ingest counts.
pub mod counters;
/// Uses of keys that were refused though they are known.
pub(crate) mod key_uses;
/// Name tables in ClickHouse follow the registry.
pub mod names;
/// One token, or derived ones.
mod place;
/// Numbers to ids and names.
mod resolve;
/// The one place that knows ClickHouse's side.
pub mod store;
/// Batches that are being stored.
mod under_way;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wire::event::{BATCH_EVENTS_MAX, DAY_MS, EVENT_BYTES, UsageEvent};
use wire::id::{BatchSeq, BootId, NodeId};

use self::counters::{Counters, Held, add};
use self::resolve::{Resolved, Resolver};
use self::store::{StoreError, UsageStore};
use self::under_way::UnderWay;
use crate::registry::{Registry, RegistryError};

/// How many inserts are under way at once, of all data planes.
const INSERTS_MAX: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A batch as it came.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The data plane.
    pub node: NodeId,
    /// The spool.
    pub spool: BootId,
    /// The batch's number there.
    pub batch: BatchSeq,
    /// Whether it may have been sent before.
    pub resent: bool,
    /// The events, 80 bytes each.
    pub events: &'a [u8],
}

/// Stores batches.
pub struct Ingest {
    resolver: Resolver,
    store: UsageStore,
    counters: Counters,
    inserts: Semaphore,
    under_way: UnderWay,
}

/// One event of a batch that can be stored.
pub(crate) struct Row {
    index: u32,
    pub(crate) event: UsageEvent,
    pub(crate) names: Resolved,
}

impl Ingest {
    /// Resolves by `registry` and stores into `store`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, store: UsageStore) -> Self {
        let inserts = Semaphore::new(INSERTS_MAX);
        let (resolver, counters) = (Resolver::new(registry), Counters::default());
        Self { resolver, store, counters, inserts, under_way: UnderWay::default() }
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Has it learn all names anew: some were erased.
    pub fn forget_names(&self) {
        self.resolver.forget();
    }

    /// Waits until the batches that were named until now are stored; false where that takes longer.
    pub async fn named_are_stored(&self, at_most: Duration) -> bool {
        self.under_way.end(at_most).await
    }

    /// Where it stores.
    #[must_use]
    pub fn usage(&self) -> &UsageStore {
        &self.store
    }

    /// Stores a batch, however long it takes; returns the indexes of the events that can never be stored.
    ///
    /// Dropping the future leaves the batch stored or not, to be sent again.
    pub async fn store(&self, batch: &Batch<'_>) -> Vec<u32> {
        let _under_way = self.under_way.begin();
        let mut attempts = Attempts::new(&self.counters);
        let (rows, mut refused) = loop {
            match self.rows(batch).await {
                Ok(rows) => break rows,
                Err(error) => attempts.failed("resolving a batch", &error, false).await,
            }
        };
        let token = format!("{}:{}", batch.spool, batch.batch);
        // A day at a time and a token each, should a sealer ever mix days.
        let mut days: Vec<u32> = rows.iter().map(|row| row.event.day()).collect();
        days.sort_unstable();
        days.dedup();
        if days.len() < 2 {
            refused.extend(self.store_rows(batch, &token, &rows).await);
        } else {
            let mut rest = rows;
            for day in days {
                let (part, others): (Vec<_>, Vec<_>) =
                    rest.into_iter().partition(|row| row.event.day() == day);
                refused.extend(self.store_rows(batch, &format!("{token}/{day}"), &part).await);
                rest = others;
            }
        }
        refused.sort_unstable();
        self.give_back(batch, &refused).await;
        let stored = (batch.events.len() / EVENT_BYTES).saturating_sub(refused.len());
        add(&self.counters.batches, 1);
        add(&self.counters.rows, stored as u64);
        add(&self.counters.resent, u64::from(batch.resent));
        refused
    }

    /// Decodes and resolves; what is damaged or unknown goes among the refused.
    async fn rows(&self, batch: &Batch<'_>) -> Result<(Vec<Row>, Vec<u32>), RegistryError> {
        self.resolver.keep_up().await?;
        let (mut rows, mut refused) = (Vec::with_capacity(batch.events.len() / EVENT_BYTES), Vec::new());
        for (bytes, index) in batch.events.chunks(EVENT_BYTES).zip(0u32..) {
            let event = UsageEvent::decode(bytes).ok();
            // No column holds a day beyond 2149; such a clock is no clock.
            let event = event.filter(|event| event.ts_ms / DAY_MS <= u64::from(u16::MAX));
            let event = event.filter(|_| (index as usize) < BATCH_EVENTS_MAX);
            let names = match &event {
                Some(event) => self.resolver.resolve(event).await?,
                None => None,
            };
            match event.zip(names) {
                Some((event, names)) => rows.push(Row { index, event, names }),
                None => refused.push(index),
            }
        }
        Ok((rows, refused))
    }

    /// Stores rows of one day, however long it takes; returns the indexes of those that are refused.
    async fn store_rows(&self, batch: &Batch<'_>, token: &str, rows: &[Row]) -> Vec<u32> {
        if rows.is_empty() {
            return Vec::new();
        }
        let mut attempts = Attempts::new(&self.counters);
        loop {
            let is_new = !batch.resent && attempts.failures == 0;
            match self.place(batch, token, rows, is_new).await {
                Ok(refused) => return refused,
                Err(error) => {
                    let is_altered = matches!(error, StoreError::Altered(_));
                    attempts.failed("storing a batch", &error, is_altered).await;
                }
            }
        }
    }

    /// Writes down what can never be stored, so that it is accounted for.
    async fn give_back(&self, batch: &Batch<'_>, refused: &[u32]) {
        if refused.is_empty() {
            return;
        }
        tracing::error!(spool = %batch.spool, batch = %batch.batch, refused = refused.len(),
            "usage events can't be stored, the data plane sets them aside");
        let events = batch.events.as_chunks::<EVENT_BYTES>().0;
        let event =
            |index: &u32| events.get(*index as usize).and_then(|event| UsageEvent::decode(event).ok());
        let events: Vec<UsageEvent> = refused.iter().filter_map(event).collect();
        let mut attempts = Attempts::new(&self.counters);
        while let Err(error) = self.store.record_refused(batch, refused.len(), &events).await {
            attempts.failed("writing down what was refused", &error, false).await;
        }
        add(&self.counters.refused, refused.len() as u64);
    }
}

/// Tries with growing pauses; says so at the first failure and then at each tenth.
struct Attempts<'a> {
    counters: &'a Counters,
    failures: u64,
    pause: Duration,
}

impl<'a> Attempts<'a> {
    fn new(counters: &'a Counters) -> Self {
        Self { counters, failures: 0, pause: BACKOFF_MIN }
    }

    /// Waits until the next is due.
    async fn failed(&mut self, what: &'static str, error: &(dyn std::fmt::Display + Sync), is_altered: bool) {
        let _waiting = Held::new(&self.counters.waiting);
        let _altered = is_altered.then(|| Held::new(&self.counters.altered));
        if self.failures.is_multiple_of(10) {
            tracing::warn!(%error, failures = self.failures, "{what} failed, trying again");
        }
        self.failures += 1;
        add(&self.counters.failures, 1);
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
    }
}

#[cfg(test)]
mod tests;
