//! The ledger `batches`: which batches are stored, and which numbers they had.
//!
//! A batch's rows go first, then its row here, then the acknowledgement; both are on disk by then. So a row
//! here says that the events were stored, also after they have expired or were erased. It is written as often
//! as its batch is sent, and replaces itself: unlike events it needs no deduplication, and must have none (a
//! token that survived a crash which its row did not survive would keep the row out for ever).

use std::collections::HashSet;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::client::{ClickHouseError, Client};
use super::insert::{BATCH_ROWS_MAX, DAY_MS, Hex16, InsertError, UsageRow, now_ms};

/// What the last part of the token of a batch's refused events is.
const REFUSED: &str = "/refused";

/// Events of one boot whose numbers follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The boot.
    pub boot: Hex16,
    /// The first number.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// The numbers as runs, in order; one that is there twice makes two runs.
pub fn runs(mut numbers: Vec<(Hex16, u64)>) -> Vec<Run> {
    numbers.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for (boot, seq) in numbers {
        match runs.last_mut() {
            Some(run) if run.boot == boot && run.first + u64::from(run.count) == seq => run.count += 1,
            _ => runs.push(Run { boot, first: seq, count: 1 }),
        }
    }
    runs
}

/// A batch, as its data plane numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchId {
    /// The spool.
    pub spool: Hex16,
    /// The batch's number there.
    pub batch: u64,
    /// The data plane.
    pub node: Hex16,
}

impl BatchId {
    /// The token of the whole batch.
    #[must_use]
    pub fn token(&self) -> String {
        format!("{}:{}", self.spool.as_str(), self.batch)
    }
}

#[derive(Row, Serialize)]
pub(super) struct LedgerRow<'a> {
    spool_id: Hex16,
    batch_seq: u64,
    token: &'a str,
    node: Hex16,
    pub(super) day: u16,
    pub(super) rows: u32,
    pub(super) first_ts: i64,
    pub(super) last_ts: i64,
    inserted_at: i64,
    refused: u32,
    boots: Vec<Hex16>,
    firsts: Vec<u64>,
    counts: Vec<u32>,
}

impl<'a> LedgerRow<'a> {
    /// The row of events that are to be stored under `token`.
    pub(super) fn of_rows(token: &'a str, rows: &[UsageRow<'_>]) -> Result<Self, InsertError> {
        let first = rows.first().ok_or(InsertError::Malformed("no rows"))?;
        if rows.len() > BATCH_ROWS_MAX {
            return Err(InsertError::Malformed("more than 100,000 rows"));
        }
        if token.is_empty() {
            return Err(InsertError::Malformed("no token"));
        }
        let day = first.ts.div_euclid(DAY_MS);
        if rows.iter().any(|row| row.ts.div_euclid(DAY_MS) != day) {
            return Err(InsertError::Malformed("rows of more than one UTC day"));
        }
        let identity = |row: &UsageRow<'_>| (row.spool_id, row.batch_seq, row.node);
        if rows.iter().any(|row| identity(row) != identity(first)) {
            return Err(InsertError::Malformed("rows of more than one batch"));
        }
        let timestamps = || rows.iter().map(|row| row.ts);
        let id = BatchId { spool: first.spool_id, batch: first.batch_seq, node: first.node };
        let runs = runs(rows.iter().map(|row| (row.boot, row.seq)).collect());
        Ok(Self {
            day: u16::try_from(day).map_err(|_| InsertError::Malformed("a day that no Date can hold"))?,
            rows: u32::try_from(rows.len()).map_err(|_| InsertError::Malformed("more than 100,000 rows"))?,
            first_ts: timestamps().min().unwrap_or(first.ts),
            last_ts: timestamps().max().unwrap_or(first.ts),
            ..Self::new(id, token, &runs)
        })
    }

    fn new(id: BatchId, token: &'a str, runs: &[Run]) -> Self {
        Self {
            spool_id: id.spool,
            batch_seq: id.batch,
            token,
            node: id.node,
            day: 0,
            rows: 0,
            first_ts: 0,
            last_ts: 0,
            inserted_at: now_ms(),
            refused: 0,
            boots: runs.iter().map(|run| run.boot).collect(),
            firsts: runs.iter().map(|run| run.first).collect(),
            counts: runs.iter().map(|run| run.count).collect(),
        }
    }
}

/// What the ledger says about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct Recorded {
    /// Events inserted.
    pub rows: u64,
    /// Inserts they came in; more than one only when refused rows split the batch.
    pub tokens: u64,
}

#[derive(Row, Deserialize)]
struct Token {
    token: String,
    rows: u32,
}

#[derive(Row, Deserialize)]
struct Number {
    boot: String,
    seq: u64,
}

impl Client {
    pub(super) async fn write_ledger(&self, row: &LedgerRow<'_>) -> Result<(), ClickHouseError> {
        let client = self.inner().clone().with_database(super::client::DATABASE);
        let mut insert = super::insert::with_times(client.insert::<LedgerRow<'_>>("batches").await?)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0");
        insert.write(row).await?;
        Ok(insert.end().await?)
    }

    /// Writes the ledger's row of events that are known to be stored under `token`.
    ///
    /// # Errors
    /// When it is not known to be written.
    pub async fn record_batch(&self, token: &str, rows: &[UsageRow<'_>]) -> Result<(), InsertError> {
        let row = LedgerRow::of_rows(token, rows)?;
        // Taken for a refusal of the events it would have them split, and stored again under other tokens.
        self.write_ledger(&row).await.map_err(InsertError::Unacknowledged)
    }

    /// Writes down that `count` events of a batch can never be stored; `numbers` are those that could be
    /// read.
    ///
    /// # Errors
    /// When it is not known to be written.
    pub async fn record_refused(
        &self,
        id: BatchId,
        (day, count): (u32, u32),
        numbers: Vec<(Hex16, u64)>,
    ) -> Result<(), ClickHouseError> {
        let token = id.token() + REFUSED;
        let day = u16::try_from(day).unwrap_or(u16::MAX);
        let row = LedgerRow { day, refused: count, ..LedgerRow::new(id, &token, &runs(numbers)) };
        self.write_ledger(&row).await
    }

    /// How many rows of a batch are there: all of them or none, unless refused rows made it come in parts.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn batch_present(&self, spool_id: Hex16, batch_seq: u64) -> Result<u64, ClickHouseError> {
        // Grouped as in projection `batches`, which answers it.
        let counts: Vec<u64> = self
            .query(
                "SELECT count() FROM liutong.usage_events
                 WHERE spool_id = {spool_id:String} AND batch_seq = {batch_seq:UInt64}
                 GROUP BY spool_id, batch_seq",
            )
            .param("spool_id", spool_id)
            .param("batch_seq", batch_seq)
            .fetch_all()
            .await?;
        Ok(counts.into_iter().sum())
    }

    /// The numbers of a batch's rows that are there. Reads them all: for a batch that is there in part.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn batch_numbers(
        &self,
        spool_id: Hex16,
        batch_seq: u64,
    ) -> Result<HashSet<(Hex16, u64)>, ClickHouseError> {
        let numbers: Vec<Number> = self
            .query(
                "SELECT boot, seq FROM liutong.usage_events
                 WHERE spool_id = {spool_id:String} AND batch_seq = {batch_seq:UInt64}",
            )
            .param("spool_id", spool_id)
            .param("batch_seq", batch_seq)
            .fetch_all()
            .await?;
        let read = |number: Number| Some((Hex16::parse(&number.boot)?, number.seq));
        Ok(numbers.into_iter().filter_map(read).collect())
    }

    /// The tokens under which a batch is in the ledger, and how many events each stands for.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn batch_tokens(
        &self,
        spool_id: Hex16,
        batch_seq: u64,
    ) -> Result<Vec<(String, u32)>, ClickHouseError> {
        let tokens: Vec<Token> = self
            .query(
                "SELECT token, rows FROM liutong.batches FINAL
                 WHERE spool_id = {spool_id:String} AND batch_seq = {batch_seq:UInt64}",
            )
            .param("spool_id", spool_id)
            .param("batch_seq", batch_seq)
            .fetch_all()
            .await?;
        Ok(tokens.into_iter().map(|token| (token.token, token.rows)).collect())
    }

    /// The ledger's rows of a batch: how many events it had in all, and under how many tokens.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn batch_recorded(&self, spool_id: Hex16, batch_seq: u64) -> Result<Recorded, ClickHouseError> {
        Ok(self
            .query(
                "SELECT sum(rows) AS rows, count() AS tokens FROM liutong.batches FINAL
                 WHERE spool_id = {spool_id:String} AND batch_seq = {batch_seq:UInt64}",
            )
            .param("spool_id", spool_id)
            .param("batch_seq", batch_seq)
            .fetch_one()
            .await?)
    }

    /// Those of a spool's `batches` that are not in the ledger.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn batches_missing(
        &self,
        spool_id: Hex16,
        batches: &[u64],
    ) -> Result<Vec<u64>, ClickHouseError> {
        let there: Vec<u64> = self
            .query(
                "SELECT DISTINCT batch_seq FROM liutong.batches
                 WHERE spool_id = {spool_id:String} AND batch_seq >= {first:UInt64}",
            )
            .param("spool_id", spool_id)
            .param("first", batches.iter().min().copied().unwrap_or(0))
            .fetch_all()
            .await?;
        let there: HashSet<u64> = there.into_iter().collect();
        Ok(batches.iter().copied().filter(|batch| !there.contains(batch)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_runs_and_one_that_is_there_twice_is_seen() {
        let (a, b) = (Hex16::new(1), Hex16::new(2));
        let found = runs(vec![(a, 7), (b, 8), (a, 5), (a, 6), (b, 8), (a, 9)]);
        let seen: Vec<_> = found.iter().map(|run| (run.boot, run.first, run.count)).collect();
        assert_eq!(seen, [(a, 5, 3), (a, 9, 1), (b, 8, 1), (b, 8, 1)]);
        assert!(runs(vec![]).is_empty());
    }
}
