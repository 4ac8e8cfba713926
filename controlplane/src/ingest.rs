//! Batches of usage events on their way into ClickHouse: numbers become ids and names, rows go in under a
//! token.
//!
//! A batch is stored whole or not at all, and is acknowledged only once ClickHouse has it on disk. While
//! ClickHouse or the registry is away it is tried again, for as long as the data plane waits. An event that
//! can never be stored (it carries a number that this registry never gave) is refused by its index, so that
//! the data plane sets it aside; the rest of its batch is stored.
//!
//! Invariants:
//!
//!   * one batch = one insert = one token, `spool_id:batch_seq`; only a refusal by ClickHouse splits it, in
//!     halves whose tokens are derived from it
//!   * the rows of a batch are the same whenever it is sent: what its numbers stand for never changes

/// Name tables in ClickHouse follow the registry.
pub mod names;
/// Numbers to ids and names.
mod resolve;
/// The one place that knows ClickHouse's side.
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use wire::event::{BATCH_EVENTS_MAX, DAY_MS, EVENT_BYTES, UsageEvent};
use wire::id::{BatchSeq, BootId, NodeId};

use self::resolve::{Resolved, Resolver};
use self::store::{StoreError, UsageStore};
use crate::registry::{Registry, RegistryError};

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
        Self { resolver: Resolver::new(registry), store }
    }

    /// Stores a batch, however long it takes; returns the indexes of the events that can never be stored.
    ///
    /// Dropping the future leaves the batch stored or not, to be sent again.
    pub async fn store(&self, batch: &Batch<'_>) -> Vec<u32> {
        let (rows, mut refused) = retry("resolving a batch", || self.rows(batch)).await;
        let token = format!("{}:{}", batch.spool, batch.batch);
        // A day at a time and a token each, should a sealer ever mix days.
        let mut days: Vec<u32> = rows.iter().map(|row| row.event.day()).collect();
        days.sort_unstable();
        days.dedup();
        if let [_] = days[..] {
            self.store_rows(batch, &token, rows, &mut refused).await;
        } else {
            let (mut parts, mut rest) = (Vec::new(), rows);
            for day in days {
                let (part, others): (Vec<_>, Vec<_>) =
                    rest.into_iter().partition(|row| row.event.day() == day);
                parts.push((format!("{token}/{day}"), part));
                rest = others;
            }
            for (token, part) in parts {
                self.store_rows(batch, &token, part, &mut refused).await;
            }
        }
        refused.sort_unstable();
        if !refused.is_empty() {
            tracing::error!(spool = %batch.spool, batch = %batch.batch, refused = refused.len(),
                "usage events can't be stored, the data plane sets them aside");
        }
        refused
    }

    /// Decodes and resolves; what is damaged or unknown goes among the refused.
    async fn rows(&self, batch: &Batch<'_>) -> Result<(Vec<Row>, Vec<u32>), RegistryError> {
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

    /// Stores rows under a token, halving them as long as ClickHouse refuses them for what they are.
    async fn store_rows(&self, batch: &Batch<'_>, token: &str, rows: Vec<Row>, refused: &mut Vec<u32>) {
        let mut parts = vec![(token.to_owned(), rows)];
        while let Some((token, mut rows)) = parts.pop() {
            if rows.is_empty() {
                continue;
            }
            let whole = parts.is_empty() && token == format!("{}:{}", batch.spool, batch.batch);
            let stored = retry("storing a batch", || self.store_once(batch, &token, &rows, whole)).await;
            if stored {
                self.store.mark_dirty(rows.iter().map(|row| row.event.ts_ms));
            } else if rows.len() == 1 {
                refused.extend(rows.iter().map(|row| row.index));
            } else {
                let second = rows.split_off(rows.len() / 2);
                parts.push((format!("{token}/1"), second));
                parts.push((format!("{token}/0"), rows));
            }
        }
    }

    /// Returns whether the rows are stored; `false` is a refusal of the rows themselves.
    async fn store_once(
        &self,
        batch: &Batch<'_>,
        token: &str,
        rows: &[Row],
        whole: bool,
    ) -> Result<bool, StoreError> {
        if batch.resent && whole && self.store.is_recorded(batch, rows.len() as u64).await? {
            return Ok(true);
        }
        match self.store.insert(batch, token, rows).await {
            Ok(()) => Ok(true),
            Err(StoreError::Refused(error)) => {
                tracing::warn!(token, rows = rows.len(), %error, "clickhouse refused rows");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Tries until it succeeds, with growing pauses; says so at the first failure and then at each tenth.
async fn retry<T, E, F>(what: &'static str, mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut pause = BACKOFF_MIN;
    let mut failures = 0u64;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                if failures.is_multiple_of(10) {
                    tracing::warn!(%error, failures, "{what} failed, trying again");
                }
                failures += 1;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

#[cfg(test)]
mod tests;
