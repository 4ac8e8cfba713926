//! Erasing the usage of a team or a key, and keeping its sums under a name that says nothing.
//!
//! Single events, hours, days and refused uses of keys go, and the names of all ids that went. What stays are
//! sums by month, alias and endpoint in `usage_erased`, under a random pseudonym, so that what was spent can
//! still be added up. The ledger of batches stays, too: it has no ids but those of events.
//!
//! It can be run again at any point: sums are written once, before anything goes. What came in behind an
//! erasure that was done is summed up by itself, under a name that follows from its events. A rollup that
//! was being derived meanwhile may bring hours back, and a batch that was on its way events:
//! `erased_usage_left` finds them, and running it again removes them.
//!
//! Rows are gone when this returns; the files that held them within some ten minutes, when ClickHouse drops
//! what its mutations have replaced.

use super::client::{ClickHouseError, Client};
use super::retention::literal;

const TABLES: [&str; 4] = ["usage_events", "usage_hourly_rollup", "usage_daily_rollup", "key_uses"];

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

impl Client {
    /// Erases; returns how many rows went.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; to be run again.
    pub async fn erase_usage(&self, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        self.keep_sums(erased).await?;
        let condition = format!("{} = {}", erased.column, literal(&erased.id)?);
        let mut rows = 0;
        for table in TABLES {
            let left = self.left(table, erased).await?;
            if left > 0 {
                let sql = format!(
                    "ALTER TABLE liutong.{table} DELETE WHERE {condition} SETTINGS mutations_sync = 2"
                );
                self.execute(&sql).await?;
            }
            rows += left;
        }
        let names = erased.names.iter().map(|id| literal(id)).collect::<Result<Vec<_>, _>>()?;
        // Statements have a limit; a team may have many keys.
        for some in names.chunks(1000) {
            let some = some.join(", ");
            let left = format!("SELECT count() FROM liutong.names WHERE id IN ({some})");
            if self.query(&left).fetch_one::<u64>().await? > 0 {
                let sql = format!(
                    "ALTER TABLE liutong.names DELETE WHERE id IN ({some}) SETTINGS mutations_sync = 2"
                );
                self.execute(&sql).await?;
            }
        }
        Ok(rows)
    }

    /// How many rows of it there are.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn erased_usage_left(&self, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        let mut rows = 0;
        for table in TABLES {
            rows += self.left(table, erased).await?;
        }
        Ok(rows)
    }

    async fn left(&self, table: &str, erased: &ErasedUsage) -> Result<u64, ClickHouseError> {
        let sql = format!("SELECT count() FROM liutong.{table} WHERE {} = {{id:String}}", erased.column);
        Ok(self.query(&sql).param("id", &erased.id).fetch_one().await?)
    }

    /// Under which name sums are kept: of what came in late one of its own, made of the events that it is of,
    /// so that it is written once however often this is run again.
    async fn pseudonym(&self, erased: &ErasedUsage) -> Result<Option<String>, ClickHouseError> {
        if !erased.is_done {
            return Ok(Some(erased.pseudonym.clone()));
        }
        let sql = format!(
            "SELECT count(), lower(hex(groupBitXor(cityHash64(boot, seq)))) FROM liutong.usage_events
             WHERE {} = {{id:String}}",
            erased.column
        );
        let (rows, which): (u64, String) = self.query(&sql).param("id", &erased.id).fetch_one().await?;
        Ok((rows > 0).then(|| format!("{}_{which}", erased.pseudonym)))
    }

    async fn keep_sums(&self, erased: &ErasedUsage) -> Result<(), ClickHouseError> {
        let Some(pseudonym) = self.pseudonym(erased).await? else { return Ok(()) };
        // One INSERT of few rows is one part: all of them or none.
        let sql = format!(
            "INSERT INTO liutong.usage_erased
             SELECT {{pseudonym:String}}, toStartOfMonth(day) AS month, model_alias, endpoint, sum(d.requests),
                 sum(d.prompt_tokens), sum(d.cached_tokens), sum(d.cache_write_tokens),
                 sum(d.completion_tokens), sum(d.reasoning_tokens), sum(d.total_tokens)
             FROM liutong.usage_daily AS d
             WHERE {} = {{id:String}}
               AND (SELECT count() FROM liutong.usage_erased WHERE pseudonym = {{pseudonym:String}}) = 0
             GROUP BY month, model_alias, endpoint",
            erased.column
        );
        let query = self.query(&sql).param("pseudonym", &pseudonym).param("id", &erased.id);
        Ok(query.with_setting("async_insert", "0").execute().await?)
    }
}
