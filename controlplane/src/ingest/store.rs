//! The one place that knows ClickHouse's side of ingest and reports; everything else knows `UsageStore`.
//!
//! ClickHouse may not be there yet, or may come back at another address (the embedded one on a free port), so
//! each call takes the connection as it is at that moment.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;
use wire::event::{self, UsageEvent};
use wire::id::{BatchSeq, BootId, EventSeq, NodeId};
use wire::report::Report;

use super::place::Found;
use super::{Batch, Row};
use crate::clickhouse::erasure::ErasedUsage;
use crate::clickhouse::export::Size;
use crate::clickhouse::insert::{Hex16, InsertError, UsageRow, UsageSource};
use crate::clickhouse::key_uses::{Activity, KeyMinute, KeyUseRow, UsedKey};
use crate::clickhouse::ledger::BatchId;
use crate::clickhouse::names::{Name, NameKind};
use crate::clickhouse::retention::{HeldUsage, Retention};
use crate::clickhouse::rollup::{Hour, Rollup};
use crate::clickhouse::usage_query::{StoredEvent, UsageQuery, UsageReport};
use crate::clickhouse::verify::{Boot, Held, Limit, Numbers, Spool};
use crate::clickhouse::{ClickHouseError, Client};
use crate::registry::names;

/// Why ClickHouse did not store or answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It has not been reached since the start.
    #[error("clickhouse has not been reached yet")]
    Away,
    /// It may be there the next time.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// The rows can't be stored, whenever they come.
    #[error("{0}")]
    Refused(InsertError),
    /// It is not known whether the rows are stored.
    #[error("{0}")]
    Unacknowledged(InsertError),
    /// The table is not as this version made it: every row would be refused, for nothing that it has done.
    #[error(
        "the table liutong.usage_events was altered: {0}; put it back, usage waits on the data planes until then"
    )]
    Altered(String),
    /// Rows were sent, taken, and are not there.
    #[error("clickhouse took the rows of batch {0} and does not have them")]
    Vanished(String),
}

/// What ClickHouse can say about completeness.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) boots: Vec<Boot>,
    pub(crate) numbers: Vec<Numbers>,
    pub(crate) spools: Vec<Spool>,
    pub(crate) held: Held,
    /// Events of the ledger that are in no sum.
    pub(crate) unsummed: u64,
}

/// ClickHouse, once its tables are up to date.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// What derives hours and days there.
    pub rollup: Arc<Rollup>,
}

/// ClickHouse, if it is there.
#[derive(Clone)]
pub struct UsageStore {
    current: watch::Receiver<Option<Connection>>,
}

impl UsageStore {
    /// A store that is not there yet, and what says that it is.
    #[must_use]
    pub fn new() -> (watch::Sender<Option<Connection>>, Self) {
        let (sender, current) = watch::channel(None);
        (sender, Self { current })
    }

    /// Returns whether ClickHouse has been reached.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.current.borrow().is_some()
    }

    fn connection(&self) -> Result<Connection, StoreError> {
        self.current.borrow().clone().ok_or(StoreError::Away)
    }

    /// What is there of a batch of `expected` rows.
    pub(super) async fn found(&self, batch: &Batch<'_>, expected: usize) -> Result<Found, StoreError> {
        let client = self.connection()?.client;
        let spool = Hex16::new(batch.spool.0);
        let tokens = client.batch_tokens(spool, batch.batch.0).await?;
        let tokens: HashMap<String, usize> =
            tokens.into_iter().map(|(token, rows)| (token, rows as usize)).collect();
        if tokens.get(&id(batch).token()) == Some(&expected) {
            return Ok(Found { tokens, rows: expected, numbers: HashSet::new() });
        }
        if client.batch_present(spool, batch.batch.0).await? == 0 {
            return Ok(Found { tokens, ..Found::default() });
        }
        let numbers = client.batch_numbers(spool, batch.batch.0).await?;
        Ok(Found { tokens, rows: numbers.len(), numbers })
    }

    /// Stores rows under a token; where it may have seen the token before, looks whether they are there then.
    pub(super) async fn insert(
        &self,
        batch: &Batch<'_>,
        token: &str,
        rows: &[Row],
        is_new: bool,
    ) -> Result<(), StoreError> {
        let client = self.connection()?.client;
        let rows: Vec<UsageRow<'_>> = rows.iter().map(|row| usage_row(batch, row)).collect();
        client.insert_events(token, &rows).await.map_err(insert_error)?;
        if !is_new && !self.has_as_many(batch, &rows).await? {
            // ClickHouse remembers the token, and lost the rows: that it took them says nothing.
            let again = format!("{token}~");
            tracing::warn!(
                token,
                "clickhouse knows a batch that it does not have; it is stored under another token"
            );
            client.insert_events(&again, &rows).await.map_err(insert_error)?;
            if !self.has_as_many(batch, &rows).await? {
                return Err(StoreError::Vanished(again));
            }
        }
        // Only now, since what the ledger has is not asked for again.
        client.record_batch(token, &rows).await.map_err(insert_error)
    }

    /// Whether a batch has at least as many rows as these, which went in together. Of a part of a split
    /// batch it proves little: other parts of it count, too.
    async fn has_as_many(&self, batch: &Batch<'_>, rows: &[UsageRow<'_>]) -> Result<bool, StoreError> {
        let client = self.connection()?.client;
        let there = client.batch_present(Hex16::new(batch.spool.0), batch.batch.0).await?;
        Ok(there >= rows.len() as u64)
    }

    /// Notes in the ledger that rows are stored under a token.
    pub(super) async fn record(
        &self,
        batch: &Batch<'_>,
        token: &str,
        rows: &[Row],
    ) -> Result<(), StoreError> {
        let rows: Vec<UsageRow<'_>> = rows.iter().map(|row| usage_row(batch, row)).collect();
        self.connection()?.client.record_batch(token, &rows).await.map_err(insert_error)
    }

    /// Notes in the ledger that `count` events of a batch can never be stored.
    pub(super) async fn record_refused(
        &self,
        batch: &Batch<'_>,
        count: usize,
        events: &[UsageEvent],
    ) -> Result<(), StoreError> {
        let client = self.connection()?.client;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let day = events.first().map_or(0, UsageEvent::day);
        let numbers = events.iter().map(|event| (Hex16::new(event.boot.0), event.seq.0)).collect();
        Ok(client.record_refused(id(batch), (day, count), numbers).await?)
    }

    /// How the table of events differs from what this version writes.
    pub(super) async fn schema_drift(&self) -> Result<Option<String>, StoreError> {
        Ok(self.connection()?.client.schema_drift().await?)
    }

    /// Those of a spool's batches that the ledger does not have.
    pub(crate) async fn missing(
        &self,
        spool: BootId,
        batches: &[BatchSeq],
    ) -> Result<Vec<BatchSeq>, StoreError> {
        let batches: Vec<u64> = batches.iter().map(|batch| batch.0).collect();
        let missing = self.connection()?.client.batches_missing(Hex16::new(spool.0), &batches).await?;
        Ok(missing.into_iter().map(BatchSeq).collect())
    }

    /// Writes down which numbers the processes of a data plane gave out.
    pub(crate) async fn record_boots(&self, node: NodeId, report: &Report) -> Result<(), StoreError> {
        Ok(self.connection()?.client.record_boots(node, report).await?)
    }

    /// What ClickHouse can say about completeness.
    pub(crate) async fn evidence(&self, limits: &[Limit], first_day: u16) -> Result<Evidence, StoreError> {
        let client = self.connection()?.client;
        Ok(Evidence {
            boots: client.boots().await?,
            numbers: client.ledger_numbers(limits).await?,
            spools: client.ledger_spools().await?,
            held: client.held().await?,
            unsummed: client.unsummed(first_day).await?,
        })
    }

    /// Notes that the hours of these times have new rows.
    pub(super) fn mark_dirty(&self, times_ms: impl Iterator<Item = u64>) {
        if let Ok(connection) = self.connection() {
            let hours = times_ms.map(|ts| Hour::of_ms(i64::try_from(ts).unwrap_or(i64::MAX)));
            let hours: HashSet<Hour> = hours.collect();
            connection.rollup.mark_dirty(hours);
        }
    }

    /// Brings names up to date.
    pub(super) async fn sync_names(&self, names: &[names::Name]) -> Result<(), StoreError> {
        let kind = |name: &names::Name| match name.kind {
            "organization" => Some(NameKind::Organization),
            "team" => Some(NameKind::Team),
            "application" => Some(NameKind::Application),
            "key" => Some(NameKind::Key),
            _ => None,
        };
        let named = |name| Some(Name { kind: kind(name)?, id: &name.id, name: &name.name });
        let names: Vec<Name<'_>> = names.iter().filter_map(named).collect();
        self.connection()?.client.sync_names(&names).await?;
        Ok(())
    }

    /// Waits until there is another connection (or a first one).
    pub(crate) async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Answers a question about usage.
    pub async fn usage(&self, query: &UsageQuery) -> Result<UsageReport, StoreError> {
        Ok(self.connection()?.client.usage(query).await?)
    }

    /// Brings the tables to a retention, but for what is held.
    pub(crate) async fn retain(&self, retention: &Retention, held: &[HeldUsage]) -> Result<(), StoreError> {
        Ok(self.connection()?.client.retain(retention, held).await?)
    }

    /// Erases usage; returns how many rows went.
    pub(crate) async fn erase(&self, erased: &ErasedUsage) -> Result<u64, StoreError> {
        Ok(self.connection()?.client.erase_usage(erased).await?)
    }

    /// A page of the events of an id, and where the next one goes on.
    pub(crate) async fn export_events(
        &self,
        column: &'static str,
        id: &str,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), StoreError> {
        Ok(self.connection()?.client.export_events(column, id, after).await?)
    }

    /// A page of the sums by day of an id, and where the next one goes on.
    pub(crate) async fn export_days(
        &self,
        column: &'static str,
        id: &str,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), StoreError> {
        Ok(self.connection()?.client.export_days(column, id, after).await?)
    }

    /// Stores uses of keys that were refused.
    pub(crate) async fn insert_key_uses(&self, rows: &[KeyUseRow<'_>]) -> Result<(), StoreError> {
        Ok(self.connection()?.client.insert_key_uses(rows).await?)
    }

    /// How often a key was refused in a span, in all and by minute.
    pub(crate) async fn key_uses(
        &self,
        key: &str,
        span: (i64, i64),
    ) -> Result<(u64, Vec<KeyMinute>), StoreError> {
        Ok(self.connection()?.client.key_uses(key, span).await?)
    }

    /// The keys that were refused in a span.
    pub(crate) async fn used_keys(
        &self,
        owner: Option<(&'static str, &str)>,
        span: (i64, i64),
    ) -> Result<Vec<UsedKey>, StoreError> {
        Ok(self.connection()?.client.used_keys(owner, span).await?)
    }

    /// When keys were used last, and how often they were refused in a span.
    pub(crate) async fn key_activity(
        &self,
        keys: &[&str],
        span: (i64, i64),
    ) -> Result<Vec<(String, Activity)>, StoreError> {
        Ok(self.connection()?.client.key_activity(keys, span).await?)
    }

    /// The refused uses of an id on some days, and the last of them.
    pub(crate) async fn export_key_uses(
        &self,
        column: &'static str,
        id: &str,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), StoreError> {
        Ok(self.connection()?.client.export_key_uses(column, id, after).await?)
    }

    /// How large the tables are.
    pub(crate) async fn sizes(&self) -> Result<Vec<Size>, StoreError> {
        Ok(self.connection()?.client.sizes().await?)
    }

    /// The event of an exchange, if it is stored.
    pub async fn find_event(&self, boot: BootId, seq: EventSeq) -> Result<Option<StoredEvent>, StoreError> {
        Ok(self.connection()?.client.find_event(Hex16::new(boot.0), seq.0).await?)
    }
}

fn id(batch: &Batch<'_>) -> BatchId {
    let node = Hex16::new(batch.node.0);
    BatchId { spool: Hex16::new(batch.spool.0), batch: batch.batch.0, node }
}

fn insert_error(error: InsertError) -> StoreError {
    match error {
        InsertError::Refused(_) | InsertError::Malformed(_) => StoreError::Refused(error),
        InsertError::Unacknowledged(_) => StoreError::Unacknowledged(error),
    }
}

fn usage_row<'a>(batch: &Batch<'_>, row: &'a Row) -> UsageRow<'a> {
    let (event, names) = (&row.event, &row.names);
    let (tokens, attribution) = (&event.tokens, &names.attribution);
    UsageRow {
        ts: i64::try_from(event.ts_ms).unwrap_or(i64::MAX),
        node: Hex16::new(batch.node.0),
        boot: Hex16::new(event.boot.0),
        seq: event.seq.0,
        spool_id: Hex16::new(batch.spool.0),
        batch_seq: batch.batch.0,
        organization_id: &attribution.organization_id,
        team_id: &attribution.team_id,
        application_id: &attribution.application_id,
        key_id: &attribution.key_id,
        plan: &attribution.plan,
        cost_centre: &attribution.cost_centre,
        model_alias: &names.alias,
        deployment: &names.deployment,
        endpoint: event.endpoint.name(),
        stream: event.stream,
        status: event.status,
        prompt_tokens: tokens.prompt,
        cached_tokens: tokens.cached,
        cache_write_tokens: tokens.cache_write,
        completion_tokens: tokens.completion,
        reasoning_tokens: tokens.reasoning,
        total_tokens: tokens.total,
        usage_source: match event.usage_source {
            event::UsageSource::None => UsageSource::None,
            event::UsageSource::Partial => UsageSource::Partial,
            event::UsageSource::Final => UsageSource::Final,
        },
        latency_ms: event.latency_ms,
        ttft_ms: event.ttft_ms,
        attempts: event.attempts,
    }
}
