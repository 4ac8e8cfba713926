//! How long usage stays in ClickHouse, and what legal holds keep there for longer.
//!
//! Without a hold each table has a TTL, which works also while no control plane runs. A hold takes the TTLs
//! away, and this module removes what is old by itself, day by day: whole partitions where nothing of them is
//! held, and by a mutation where something is. Either way a day goes at once, at the same moment in UTC.
//!
//! The ledger of batches stays: it holds numbers alone, and `usage verify` accounts by it for what has gone.
//!
//! Invariants:
//!
//!   * `raw_days <= hourly_days <= daily_days`, so that what is derived outlives what it is derived from
//!   * while a hold is in force no table with usage has a TTL

use super::client::{ClickHouseError, Client};

/// How many days usage is kept, by table; what has none is kept until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Single events, and refused uses of keys by minute.
    pub raw_days: u32,
    /// Sums by hour.
    pub hourly_days: Option<u32>,
    /// Sums by day.
    pub daily_days: Option<u32>,
}

/// What a hold keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUsage {
    /// The column that names it.
    pub column: &'static str,
    /// The id there.
    pub id: String,
}

impl HeldUsage {
    fn condition(&self) -> Result<String, ClickHouseError> {
        Ok(format!("{} = {}", self.column, literal(&self.id)?))
    }
}

/// A table, and the day of its rows.
const TABLES: [(&str, &str); 4] = [
    ("usage_events", "toDate(ts)"),
    ("usage_hourly_rollup", "toDate(hour)"),
    ("usage_daily_rollup", "day"),
    ("key_uses", "toDate(minute)"),
];

impl Retention {
    fn days(&self, table: &str) -> Option<u32> {
        match table {
            "usage_events" | "key_uses" => Some(self.raw_days),
            "usage_hourly_rollup" => self.hourly_days,
            _ => self.daily_days,
        }
    }
}

impl Client {
    /// Brings the tables to a retention, and removes beside the holds what is older. Run again at least daily
    /// while there are holds.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; to be tried again.
    pub async fn retain(&self, retention: &Retention, held: &[HeldUsage]) -> Result<(), ClickHouseError> {
        for (table, day) in TABLES {
            let days = retention.days(table);
            self.set_ttl(table, day, days.filter(|_| held.is_empty())).await?;
        }
        if !held.is_empty() {
            for (table, day) in TABLES {
                if let Some(days) = retention.days(table) {
                    self.remove_old(table, day, days, held).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes every table's TTL away, until `retain` says what it is to be.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn retain_all(&self) -> Result<(), ClickHouseError> {
        for (table, day) in TABLES {
            self.set_ttl(table, day, None).await?;
        }
        Ok(())
    }

    async fn set_ttl(&self, table: &str, day: &str, days: Option<u32>) -> Result<(), ClickHouseError> {
        let engine: String = self
            .query(
                "SELECT engine_full FROM system.tables WHERE database = 'liutong' AND name = {table:String}",
            )
            .param("table", table)
            .fetch_one()
            .await?;
        let is_so = match days {
            Some(days) => engine.contains(&format!("TTL {day} + toIntervalDay({days})")),
            None => !engine.contains(" TTL "),
        };
        if is_so {
            return Ok(());
        }
        tracing::info!(table, ?days, "keeping usage");
        let change = match days {
            Some(days) => format!("MODIFY TTL {day} + toIntervalDay({days}) DELETE"),
            None => "REMOVE TTL".to_owned(),
        };
        self.execute(&format!("ALTER TABLE liutong.{table} {change}")).await
    }

    async fn remove_old(
        &self,
        table: &str,
        day: &str,
        days: u32,
        held: &[HeldUsage],
    ) -> Result<(), ClickHouseError> {
        let conditions = held.iter().map(HeldUsage::condition).collect::<Result<Vec<_>, _>>()?;
        let kept = conditions.join(" OR ");
        // Each partition is one day.
        let sql = format!(
            "SELECT _partition_id AS id, countIf({kept}) AS held, count() AS rows FROM liutong.{table}
             WHERE {day} + {{days:UInt32}} <= toDate(now(), 'UTC') GROUP BY id ORDER BY id"
        );
        let old: Vec<(String, u64, u64)> = self.query(&sql).param("days", days).fetch_all().await?;
        for (id, held, rows) in old.into_iter().filter(|(_, held, rows)| held < rows) {
            let partition = literal(&id)?;
            tracing::info!(table, partition = id, rows, held, "usage expired beside a legal hold");
            let removal = if held == 0 {
                format!("DROP PARTITION ID {partition}")
            } else {
                format!("DELETE IN PARTITION ID {partition} WHERE NOT ({kept}) SETTINGS mutations_sync = 2")
            };
            self.execute(&format!("ALTER TABLE liutong.{table} {removal}")).await?;
        }
        Ok(())
    }
}

/// An id of ours as a literal, for statements that take no parameters.
pub(super) fn literal(id: &str) -> Result<String, ClickHouseError> {
    let is_ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match !id.is_empty() && id.bytes().all(is_ours) {
        true => Ok(format!("'{id}'")),
        false => Err(ClickHouseError::Schema("an id that is none of ours".to_owned())),
    }
}
