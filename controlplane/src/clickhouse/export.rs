//! What there is: all usage of one id, page by page, and how large the tables are.

use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;
use serde_json::Value;

use super::client::{ClickHouseError, Client};

/// How many events one page has.
const EVENTS_AT_ONCE: usize = 5000;

/// How many days one page has.
pub(super) const DAYS_AT_ONCE: usize = 31;

/// How large a table is.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Size {
    /// The table.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes on disk.
    pub bytes: u64,
}

impl Client {
    /// A page of the events of an id, oldest first, as the rows are; and where the next one goes on.
    ///
    /// # Errors
    /// When the server cannot be asked, or `after` is none that an earlier page ended with.
    pub async fn export_events(
        &self,
        column: &'static str,
        id: &str,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), ClickHouseError> {
        let sql = format!(
            "SELECT 'usage_event' AS object, * FROM liutong.usage_events
             WHERE {column} = {{id:String}}
               AND (toUnixTimestamp64Milli(ts), toString(boot), seq) > ({{ts:Int64}}, {{boot:String}}, {{seq:UInt64}})
             ORDER BY ts, toString(boot), seq LIMIT {EVENTS_AT_ONCE}"
        );
        let (ts, boot, seq) = position(after)?;
        let query = self.query(&sql).param("id", id).param("ts", ts).param("boot", boot).param("seq", seq);
        let rows = lines(query).await?;
        let full = rows.len() == EVENTS_AT_ONCE;
        let next = rows.last().filter(|_| full).and_then(cursor);
        Ok((rows, next))
    }

    /// The sums of some days of an id, which also stand for events that have expired; and the last of the
    /// days.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn export_days(
        &self,
        column: &'static str,
        id: &str,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), ClickHouseError> {
        let days = format!(
            "SELECT DISTINCT day FROM liutong.usage_daily
             WHERE {column} = {{id:String}} AND day > toDate({{after:String}})
             ORDER BY day LIMIT {DAYS_AT_ONCE}"
        );
        let sql = format!(
            "SELECT 'usage_day' AS object, * FROM liutong.usage_daily
             WHERE {column} = {{id:String}} AND day IN ({days}) ORDER BY day"
        );
        let query = self.query(&sql).param("id", id).param("after", after.unwrap_or("1970-01-01"));
        let rows = lines(query).await?;
        let next = rows.last().and_then(|row| Some(row["day"].as_str()?.get(..10)?.to_owned()));
        Ok((rows, next))
    }

    /// How large the tables are.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn sizes(&self) -> Result<Vec<Size>, ClickHouseError> {
        let sql = "SELECT name, ifNull(total_rows, 0) AS rows, ifNull(total_bytes, 0) AS bytes
             FROM system.tables WHERE database = 'liutong' AND engine LIKE '%MergeTree' ORDER BY name";
        Ok(self.query(sql).fetch_all().await?)
    }
}

pub(super) async fn lines(query: Query) -> Result<Vec<Value>, ClickHouseError> {
    let settings = [("output_format_json_quote_64bit_integers", "0"), ("date_time_output_format", "iso")];
    let query = settings.into_iter().fold(query, |query, (name, value)| query.with_setting(name, value));
    let text = query.fetch_bytes("JSONEachRow")?.collect().await?;
    let each = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = each.map(serde_json::from_slice).collect::<Result<_, _>>();
    read.map_err(|error| ClickHouseError::Schema(error.to_string()))
}

/// Where a page goes on: milliseconds, boot and number of its last event.
fn cursor(row: &Value) -> Option<String> {
    let ts: jiff::Timestamp = row["ts"].as_str()?.parse().ok()?;
    Some(format!("{}.{}.{}", ts.as_millisecond(), row["boot"].as_str()?, row["seq"].as_u64()?))
}

/// Whether a page can have ended with this.
#[must_use]
pub fn is_cursor(text: &str) -> bool {
    position(Some(text)).is_ok()
}

/// Whether it is a day, such as 2026-11-01.
#[must_use]
pub fn is_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn position(after: Option<&str>) -> Result<(i64, String, u64), ClickHouseError> {
    let Some(after) = after else { return Ok((i64::MIN, String::new(), 0)) };
    let mut parts = after.split('.');
    let mut read =
        || Some((parts.next()?.parse().ok()?, parts.next()?.to_owned(), parts.next()?.parse().ok()?));
    read().ok_or_else(|| ClickHouseError::Schema("after: none that a page has ended with".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        let row =
            serde_json::json!({"ts": "2026-11-01T00:00:00.123Z", "boot": "0a", "seq": 281474976710657_u64});
        let after = cursor(&row).unwrap();
        assert_eq!(
            position(Some(&after)).unwrap(),
            (1_793_491_200_123, "0a".to_owned(), 281_474_976_710_657)
        );
        assert!(is_cursor(&after) && !is_cursor("x") && !is_cursor("1.a"));
        assert_eq!(position(None).unwrap().0, i64::MIN);
    }
}
