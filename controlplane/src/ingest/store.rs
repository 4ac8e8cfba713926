//! The one place that knows ClickHouse's side of ingest and reports; everything else knows `UsageStore`.
//!
//! ClickHouse may not be there yet, or may come back at another address (the embedded one on a free port), so
//! each call takes the connection as it is at that moment.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use wire::event;
use wire::id::{BootId, EventSeq};

use super::{Batch, Row};
use crate::clickhouse::insert::{Hex16, InsertError, UsageRow, UsageSource};
use crate::clickhouse::names::{Name, NameKind};
use crate::clickhouse::rollup::{Hour, Rollup};
use crate::clickhouse::usage_query::{StoredEvent, UsageQuery, UsageReport};
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

    /// Whether a batch of `expected` rows is there with its ledger's row, so that it need not be sent again.
    pub(super) async fn is_recorded(&self, batch: &Batch<'_>, expected: u64) -> Result<bool, StoreError> {
        let client = self.connection()?.client;
        let spool = Hex16::new(batch.spool.0);
        let found = client.batch_present(spool, batch.batch.0).await?;
        if found != 0 && found != expected {
            // Some of its rows were refused, or it is not the same batch: its tokens tell.
            tracing::warn!(spool = %batch.spool, batch = %batch.batch, expected, found, "a batch is there in part");
        }
        Ok(found == expected && client.batch_recorded(spool, batch.batch.0).await?.rows == expected)
    }

    /// Stores rows under a token.
    pub(super) async fn insert(
        &self,
        batch: &Batch<'_>,
        token: &str,
        rows: &[Row],
    ) -> Result<(), StoreError> {
        let client = self.connection()?.client;
        let rows: Vec<UsageRow<'_>> = rows.iter().map(|row| usage_row(batch, row)).collect();
        client.insert_batch(token, &rows).await.map_err(|error| match error {
            InsertError::Refused(_) | InsertError::Malformed(_) => StoreError::Refused(error),
            InsertError::Unacknowledged(_) => StoreError::Unacknowledged(error),
        })
    }

    /// Notes that the hours of these times have new rows.
    pub(super) fn mark_dirty(&self, times_ms: impl Iterator<Item = u64>) {
        if let Ok(connection) = self.connection() {
            let hours = times_ms.map(|ts| Hour::of_ms(i64::try_from(ts).unwrap_or(i64::MAX)));
            let hours: std::collections::HashSet<Hour> = hours.collect();
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
    pub(super) async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Answers a question about usage.
    pub async fn usage(&self, query: &UsageQuery) -> Result<UsageReport, StoreError> {
        Ok(self.connection()?.client.usage(query).await?)
    }

    /// The event of an exchange, if it is stored.
    pub async fn find_event(&self, boot: BootId, seq: EventSeq) -> Result<Option<StoredEvent>, StoreError> {
        Ok(self.connection()?.client.find_event(Hex16::new(boot.0), seq.0).await?)
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
