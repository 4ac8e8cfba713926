//! When keys were used: uses of those that are refused though they are known, minute by minute, and the last
//! use of those that are not.
//!
//! A data plane tells the sums of its run, again while they grow. So nothing here is ever added to what is
//! there: of each run the largest sum of a minute counts, whichever control plane wrote it.

use clickhouse::Row;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{ClickHouseError, Client, DATABASE};
use super::export::{DAYS_AT_ONCE, lines};
use super::insert::Hex16;

/// The most rows of one answer.
pub const USES_ROWS_MAX: usize = 1000;
/// A list of keys waits no longer for what is told beside it.
const ACTIVITY_SECONDS_MAX: &str = "3";

/// A sum of refused uses, as it is stored.
#[derive(Debug, Row, Serialize)]
pub struct KeyUseRow<'a> {
    /// Unix time in seconds, of the minute's beginning.
    pub minute: u32,
    /// Whom the key belongs to, by ids.
    pub organization_id: &'a str,
    /// Likewise.
    pub team_id: &'a str,
    /// Likewise.
    pub application_id: &'a str,
    /// The key's id.
    pub key_id: &'a str,
    /// `revoked` or `expired`.
    pub reason: &'a str,
    /// The data plane.
    pub node: Hex16,
    /// Its run.
    pub boot: Hex16,
    /// How many.
    pub uses: u64,
}

/// Refused uses of one key in one minute.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Row, Serialize, Deserialize)]
pub struct KeyMinute {
    /// The minute's beginning.
    #[schemars(extend("format" = "date-time"))]
    pub minute: String,
    /// `revoked` or `expired`.
    pub reason: String,
    /// How many requests were refused.
    pub uses: u64,
}

/// A key that was used though it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct UsedKey {
    /// Its id.
    pub key_id: String,
    /// How many requests were refused.
    pub uses: u64,
    /// The first minute, Unix time in milliseconds.
    pub first_ms: i64,
    /// The last one.
    pub last_ms: i64,
}

/// What is told beside a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// When it was used last, Unix time in milliseconds; to the minute, to the day where events have expired.
    pub last_used_ms: Option<i64>,
    /// How many uses were refused since the time asked for.
    pub refused: u64,
}

#[derive(Row, Deserialize)]
struct ActivityRow {
    key_id: String,
    last_used_ms: i64,
    refused: u64,
}

/// The refused uses of a span, a run's largest sum each.
const SUMS: &str =
    "SELECT key_id AS k, minute AS m, reason AS r, boot AS b, max(uses) AS n FROM liutong.key_uses
    WHERE minute >= toDateTime(fromUnixTimestamp64Milli({from:Int64}, 'UTC'))
      AND minute < toDateTime(fromUnixTimestamp64Milli({to:Int64}, 'UTC'))";

impl Client {
    /// Stores sums; the same again does no harm.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; to be tried again.
    pub async fn insert_key_uses(&self, rows: &[KeyUseRow<'_>]) -> Result<(), ClickHouseError> {
        let client = self.inner().clone().with_database(DATABASE).with_setting("async_insert", "0");
        let mut insert = client.insert::<KeyUseRow<'_>>("key_uses").await?;
        for row in rows {
            insert.write(row).await?;
        }
        Ok(insert.end().await?)
    }

    /// How often a key was refused in a span, in all and by minute, the latest first.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn key_uses(
        &self,
        key: &str,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<(u64, Vec<KeyMinute>), ClickHouseError> {
        let sums = format!("{SUMS} AND key_id = {{key:String}} GROUP BY k, m, r, b");
        let ask = |sql: String| self.query(&sql).param("key", key).param("from", from_ms).param("to", to_ms);
        let all = ask(format!("SELECT sum(n) FROM ({sums})")).fetch_one::<u64>().await?;
        let minutes = format!(
            "SELECT formatDateTime(m, '%Y-%m-%dT%H:%i:00Z') AS minute, CAST(r, 'String') AS reason,
                 sum(n) AS uses
             FROM ({sums}) GROUP BY m, r ORDER BY m DESC, r LIMIT {USES_ROWS_MAX}"
        );
        Ok((all, ask(minutes).fetch_all().await?))
    }

    /// The keys that were refused in a span, the latest first; of those that belong to `owner` (a column and
    /// an id), where one is named.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn used_keys(
        &self,
        owner: Option<(&'static str, &str)>,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<Vec<UsedKey>, ClickHouseError> {
        let (column, id) = owner.unwrap_or(("''", ""));
        let sql = format!(
            "SELECT CAST(k, 'String') AS key_id, sum(n) AS uses,
                 toInt64(toUnixTimestamp(min(m))) * 1000 AS first_ms,
                 toInt64(toUnixTimestamp(max(m))) * 1000 AS last_ms
             FROM ({SUMS} AND {column} = {{id:String}} GROUP BY k, m, r, b)
             GROUP BY k ORDER BY last_ms DESC, k LIMIT {}",
            USES_ROWS_MAX + 1
        );
        let query = self.query(&sql).param("id", id).param("from", from_ms).param("to", to_ms);
        Ok(query.fetch_all().await?)
    }

    /// When each of these keys was used last, and how often it was refused in a span: one question for all.
    ///
    /// # Errors
    /// When the server cannot be asked, or takes too long.
    pub async fn key_activity(
        &self,
        keys: &[&str],
        (from_ms, to_ms): (i64, i64),
    ) -> Result<Vec<(String, Activity)>, ClickHouseError> {
        let sql = format!(
            "SELECT CAST(k, 'String') AS key_id, max(used) AS last_used_ms, sum(n) AS refused FROM
             (
                SELECT key_id AS k, toInt64(toUnixTimestamp(toStartOfMinute(max(ts)))) * 1000 AS used,
                    toUInt64(0) AS n
                FROM liutong.usage_events WHERE key_id IN {{keys:Array(String)}} GROUP BY k
                UNION ALL
                SELECT key_id AS k, toInt64(toUnixTimestamp(toDateTime(max(day), 'UTC'))) * 1000 AS used,
                    toUInt64(0) AS n
                FROM liutong.usage_daily_rollup WHERE key_id IN {{keys:Array(String)}} GROUP BY k
                UNION ALL
                SELECT k, toInt64(0) AS used, n
                FROM ({SUMS} AND key_id IN {{keys:Array(String)}} GROUP BY k, m, r, b)
             )
             GROUP BY k"
        );
        let query = self.query(&sql).param("keys", keys).param("from", from_ms).param("to", to_ms);
        let query = query.with_setting("max_execution_time", ACTIVITY_SECONDS_MAX);
        let rows: Vec<ActivityRow> = query.fetch_all().await?;
        let activity = |row: ActivityRow| {
            let last_used_ms = (row.last_used_ms > 0).then_some(row.last_used_ms);
            (row.key_id, Activity { last_used_ms, refused: row.refused })
        };
        Ok(rows.into_iter().map(activity).collect())
    }

    /// The refused uses of an id on some days, a line for each key, day and reason; and the last of the days.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn export_key_uses(
        &self,
        column: &'static str,
        id: &str,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), ClickHouseError> {
        let of_id = format!("FROM liutong.key_uses WHERE {column} = {{id:String}}");
        let days = format!(
            "SELECT DISTINCT toDate(minute) AS day {of_id} AND toDate(minute) > toDate({{after:String}})
             ORDER BY day LIMIT {DAYS_AT_ONCE}"
        );
        let sql = format!(
            "SELECT 'refused_key_uses' AS object, k AS key_id, toDate(m) AS day, r AS reason,
                 arraySort(groupArray((formatDateTime(m, '%H:%i'), sum_of_minute))) AS uses
             FROM
             (
                SELECT k, m, r, sum(n) AS sum_of_minute FROM
                (
                    SELECT key_id AS k, minute AS m, reason AS r, boot AS b, max(uses) AS n
                    {of_id} AND toDate(minute) IN ({days}) GROUP BY k, m, r, b
                )
                GROUP BY k, m, r
             )
             GROUP BY k, day, r ORDER BY day, k, r"
        );
        let query = self.query(&sql).param("id", id).param("after", after.unwrap_or("1970-01-01"));
        let rows = lines(query).await?;
        let next = rows.last().and_then(|row| Some(row["day"].as_str()?.get(..10)?.to_owned()));
        Ok((rows, next))
    }
}
