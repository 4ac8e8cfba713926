//! Erasing the usage of a team or a key, and keeping its sums under a name that says nothing.
//!
//! Single events, hours, days and refused uses of keys go, and the names of all ids that went. What stays are
//! sums by month, alias and endpoint in `usage_erased`, under a random pseudonym, so that what was spent can
//! still be added up. The ledger of batches stays, too: it has no ids but those of events.
//!
//! It can be run again at any point: sums are written once, before anything goes. A rollup that was being
//! derived meanwhile may bring hours back, and a batch that was on its way events: `erased_usage_left` finds
//! them, and running it again removes them. What came in behind an erasure that was done is summed up batch
//! by batch, each under a name that follows from its events, and no batch goes that was not summed: so what
//! comes in between is left for the next time, and what was summed before a crash is not summed again. The
//! first time all goes at once, without the batches' names, so nothing may come in between: this process
//! waits for what it has named before (`ingest/under_way.rs`). What another control plane has named and
//! brings just then goes unsummed.
//!
//! Rows are gone when this returns; the files that held them within some ten minutes, when ClickHouse drops
//! what its mutations have replaced.

use clickhouse::Row;
use serde::Deserialize;

use super::client::{ClickHouseError, Client};
use super::retention::literal;
use super::rollup::SUMS;

/// What has usage beside `usage_events`.
const DERIVED: [&str; 3] = ["usage_hourly_rollup", "usage_daily_rollup", "key_uses"];

/// Whose usage goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedUsage {
    /// The column that names it.
    pub column: &'static str,
    /// The id there.
    pub id: String,
    /// Under which name its sums stay.
    pub pseudonym: String,
    /// All ids whose names go.
    pub names: Vec<String>,
    /// It was erased once already: what is there now came in behind it.
    pub is_done: bool,
}

/// How many late batches are summed and removed together.
const LATE_BATCHES: usize = 1000;

/// A batch that came in behind an erasure.
#[derive(Row, Deserialize)]
struct Late {
    spool_id: String,
    batch_seq: u64,
}

impl Client {
    /// Erases; returns how many rows went.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; to be run again.
    pub async fn erase_usage(&self, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        let mut rows = match erased.is_done {
            true => self.erase_late(erased).await?,
            false => {
                self.keep_sums(erased).await?;
                self.delete_from("usage_events", erased, "1").await?
            }
        };
        for table in DERIVED {
            rows += self.delete_from(table, erased, "1").await?;
        }
        // Statements have a limit; a team may have many keys.
        for some in erased.names.chunks(1000) {
            let some = some.iter().map(|id| literal(id)).collect::<Result<Vec<_>, _>>()?;
            self.delete("names", &format!("id IN ({})", some.join(", "))).await?;
        }
        Ok(rows)
    }

    /// How many rows of it there are.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn erased_usage_left(&self, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        let mut rows = 0;
        for table in ["usage_events"].into_iter().chain(DERIVED) {
            rows += self.left(table, erased).await?;
        }
        Ok(rows)
    }

    async fn left(&self, table: &str, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        let sql = format!("SELECT count() FROM liutong.{table} WHERE {} = {{id:String}}", erased.column);
        Ok(self.query(&sql).param("id", &erased.id).fetch_one().await?)
    }

    /// Deletes what is erased and meets a condition, too.
    async fn delete_from(
        &self,
        table: &str,
        erased: &ErasedUsage,
        also: &str,
    ) -> Result<u64, ClickHouseError> {
        self.delete(table, &format!("{} = {} AND {also}", erased.column, literal(&erased.id)?)).await
    }

    /// Deletes rows; returns how many there were.
    async fn delete(&self, table: &str, condition: &str) -> Result<u64, ClickHouseError> {
        let count = format!("SELECT count() FROM liutong.{table} WHERE {condition}");
        let rows = self.query(&count).fetch_one().await?;
        if rows > 0 {
            let sql =
                format!("ALTER TABLE liutong.{table} DELETE WHERE {condition} SETTINGS mutations_sync = 2");
            self.execute(&sql).await?;
        }
        Ok(rows)
    }

    async fn keep_sums(&self, erased: &ErasedUsage) -> Result<(), ClickHouseError> {
        // One INSERT of few rows is one part: all of them or none.
        let sql = format!(
            "INSERT INTO liutong.usage_erased
             SELECT {{pseudonym:String}}, toStartOfMonth(day) AS month, model_alias, endpoint,
                 sum(s.requests), {SUMS}
             FROM liutong.usage_daily AS s
             WHERE {} = {{id:String}}
               AND (SELECT count() FROM liutong.usage_erased WHERE pseudonym = {{pseudonym:String}}) = 0
             GROUP BY month, model_alias, endpoint",
            erased.column
        );
        let query = self.query(&sql).param("pseudonym", &erased.pseudonym).param("id", &erased.id);
        Ok(query.with_setting("async_insert", "0").execute().await?)
    }

    async fn erase_late(&self, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        let mut rows = 0;
        loop {
            let late = self.late_batches(erased).await?;
            if late.is_empty() {
                return Ok(rows);
            }
            let ids = late.iter().map(|one| Ok(format!("({}, {})", literal(&one.spool_id)?, one.batch_seq)));
            let ids = ids.collect::<Result<Vec<_>, ClickHouseError>>()?.join(", ");
            let of_these = format!("(spool_id, batch_seq) IN ({ids})");
            self.keep_late_sums(erased, &of_these).await?;
            rows += self.delete_from("usage_events", erased, &of_these).await?;
        }
    }

    async fn late_batches(&self, erased: &ErasedUsage) -> Result<Vec<Late>, ClickHouseError> {
        let sql = format!(
            "SELECT DISTINCT spool_id, batch_seq FROM liutong.usage_events WHERE {} = {{id:String}}
             LIMIT {LATE_BATCHES}",
            erased.column
        );
        Ok(self.query(&sql).param("id", &erased.id).fetch_all().await?)
    }

    /// Sums up each of some late batches, but for those that are summed already.
    async fn keep_late_sums(&self, erased: &ErasedUsage, of_these: &str) -> Result<(), ClickHouseError> {
        let sql = format!(
            "INSERT INTO liutong.usage_erased
             SELECT names.pseudonym, toStartOfMonth(ts) AS month, model_alias, endpoint, count(), {SUMS}
             FROM liutong.usage_events AS s
             INNER JOIN
             (
                 SELECT spool_id, batch_seq,
                     concat({{pseudonym:String}}, '_', lower(hex(groupBitXor(cityHash64(boot, seq))))) AS pseudonym
                 FROM liutong.usage_events
                 WHERE {column} = {{id:String}} AND {of_these}
                 GROUP BY spool_id, batch_seq
             ) AS names ON s.spool_id = names.spool_id AND s.batch_seq = names.batch_seq
             WHERE {column} = {{id:String}}
               AND names.pseudonym NOT IN (SELECT pseudonym FROM liutong.usage_erased)
             GROUP BY names.pseudonym, month, model_alias, endpoint",
            column = erased.column
        );
        let query = self.query(&sql).param("pseudonym", &erased.pseudonym).param("id", &erased.id);
        Ok(query.with_setting("async_insert", "0").execute().await?)
    }
}
