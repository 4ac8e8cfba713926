//! Sums for reports, and single events.
//!
//! A report is read from the coarsest source that has its exact span: days, hours, or raw when the span does
//! not begin and end on an hour. Dimensions are names from a closed set, and every value a bound parameter;
//! nothing that a person typed is ever part of the SQL. Names are joined to the sums, not to the rows.

/// Rows as ClickHouse sends them, and as they are handed on.
mod answer;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::client::{ClickHouseError, Client};
use super::insert::{DAY_MS, Hex16};

pub use self::answer::{StoredEvent, UsageReport, UsageSum};
use self::answer::{SumRow, named};

const HOUR_MS: i64 = 3_600_000;

/// The most rows of one report.
pub const REPORT_ROWS_MAX: usize = 100_000;

/// What each row of a report spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    /// A minute of UTC, from single events alone.
    Minute,
    /// An hour of UTC.
    Hour,
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
    /// The whole span.
    Total,
}

/// What a report can be grouped and filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The organization, by id.
    Organization,
    /// The team, by id.
    Team,
    /// The application, by id.
    Application,
    /// The key, by id.
    Key,
    /// The alias.
    Model,
    /// The endpoint.
    Endpoint,
    /// The deployment.
    Deployment,
    /// The HTTP status, as a decimal number.
    Status,
    /// The plan.
    Plan,
    /// The cost centre.
    CostCentre,
}

/// All dimensions, in the order of a report's columns.
pub const DIMENSIONS: [Dimension; 10] = [
    Dimension::Organization,
    Dimension::Team,
    Dimension::Application,
    Dimension::Key,
    Dimension::Model,
    Dimension::Endpoint,
    Dimension::Deployment,
    Dimension::Status,
    Dimension::Plan,
    Dimension::CostCentre,
];

impl Dimension {
    /// The column that has it.
    #[must_use]
    pub fn column(self) -> &'static str {
        match self {
            Self::Organization => "organization_id",
            Self::Team => "team_id",
            Self::Application => "application_id",
            Self::Key => "key_id",
            Self::Model => "model_alias",
            Self::Endpoint => "endpoint",
            Self::Deployment => "deployment",
            Self::Status => "toString(status)",
            Self::Plan => "plan",
            Self::CostCentre => "cost_centre",
        }
    }
}

/// A question about usage. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageQuery {
    /// The beginning of the span.
    pub from_ms: i64,
    /// Its end, which is not in it.
    pub to_ms: i64,
    /// What each row spans; the whole span when nothing is said.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// One row for each combination of these.
    #[serde(default)]
    pub group_by: Vec<Dimension>,
    /// For each dimension named, only these ids or names; the same dimension twice means both must hold.
    #[serde(default)]
    pub filters: Vec<(Dimension, Vec<String>)>,
}

impl UsageQuery {
    /// Whether it is answered from single events, which expire before their sums do: its span does not begin
    /// and end on the hour.
    #[must_use]
    pub fn is_of_single_events(&self) -> bool {
        source(self) == RAW
    }

    /// Whether it is answered from sums by hour, which may expire before those by day do.
    #[must_use]
    pub fn is_of_hours(&self) -> bool {
        source(self) == HOURS
    }
}

/// Where a report is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    table: &'static str,
    time: &'static str,
    requests: &'static str,
}

const RAW: Source = Source { table: "usage_events", time: "ts", requests: "toUInt64(1)" };
const HOURS: Source = Source { table: "usage_hourly_parts", time: "hour", requests: "requests" };
const DAYS: Source = Source { table: "usage_daily_parts", time: "day", requests: "requests" };

fn source(query: &UsageQuery) -> Source {
    let aligned = |unit: i64| query.from_ms.rem_euclid(unit) == 0 && query.to_ms.rem_euclid(unit) == 0;
    if query.interval == Some(Interval::Minute) {
        RAW
    } else if aligned(DAY_MS) && query.interval != Some(Interval::Hour) {
        DAYS
    } else if aligned(HOUR_MS) {
        HOURS
    } else {
        RAW
    }
}

/// The bounds in the source's own type, so that its partitions and keys are used.
fn span(source: Source) -> &'static str {
    match source {
        DAYS => {
            "day >= toDate(fromUnixTimestamp64Milli({from:Int64}, 'UTC'))
             AND day < toDate(fromUnixTimestamp64Milli({to:Int64}, 'UTC'))"
        }
        HOURS => {
            "hour >= toDateTime(fromUnixTimestamp64Milli({from:Int64}, 'UTC'))
             AND hour < toDateTime(fromUnixTimestamp64Milli({to:Int64}, 'UTC'))"
        }
        _ => {
            "ts >= fromUnixTimestamp64Milli({from:Int64}, 'UTC')
             AND ts < fromUnixTimestamp64Milli({to:Int64}, 'UTC')"
        }
    }
}

fn sql(query: &UsageQuery) -> String {
    let source = source(query);
    let Source { table, time, requests } = source;
    let start = match query.interval.unwrap_or(Interval::Total) {
        Interval::Total => "''".to_owned(),
        Interval::Minute => format!("formatDateTime(toStartOfMinute({time}), '%Y-%m-%dT%H:%i:00Z')"),
        Interval::Hour => format!("formatDateTime(toStartOfHour({time}), '%Y-%m-%dT%H:00:00Z')"),
        Interval::Day => format!("formatDateTime(toDate({time}), '%Y-%m-%dT00:00:00Z')"),
        Interval::Month => format!("formatDateTime(toDate({time}), '%Y-%m-01T00:00:00Z')"),
    };
    let columns: Vec<String> = DIMENSIONS
        .iter()
        .enumerate()
        .map(|(index, dimension)| {
            let column = if query.group_by.contains(dimension) { dimension.column() } else { "''" };
            format!("CAST({column}, 'String') AS d{index}")
        })
        .collect();
    let keys: Vec<String> = (0..DIMENSIONS.len()).map(|index| format!("d{index}")).collect();
    let keys = keys.join(", ");
    let mut filters = String::new();
    for (index, (dimension, _)) in query.filters.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(filters, " AND {} IN {{filter{index}:Array(String)}}", dimension.column());
    }
    format!(
        "SELECT start, [{keys}] AS dimensions,
            [o.name, t.name, a.name, k.name] AS names,
            requests, errors, prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens,
            reasoning_tokens, total_tokens
         FROM
         (
            SELECT {start} AS start, {columns}, sum({requests}) AS requests,
                sumIf({requests}, status >= 400) AS errors,
                sum(s.prompt_tokens) AS prompt_tokens, sum(s.cached_tokens) AS cached_tokens,
                sum(s.cache_write_tokens) AS cache_write_tokens,
                sum(s.completion_tokens) AS completion_tokens,
                sum(s.reasoning_tokens) AS reasoning_tokens, sum(s.total_tokens) AS total_tokens
            FROM liutong.{table} AS s
            WHERE {span}{filters}
            GROUP BY start, {keys}
            HAVING requests > 0
            ORDER BY start, total_tokens DESC, {keys}
            LIMIT {{limit:UInt64}}
         ) AS sums
         {joins}
         ORDER BY start, total_tokens DESC, {keys}
         SETTINGS enable_shared_storage_snapshot_in_query = 1",
        requests = if source == RAW { requests.to_owned() } else { format!("s.{requests}") },
        columns = columns.join(", "),
        span = span(source),
        joins = joins(["d0", "d1", "d2", "d3"]),
    )
}

/// Joins of the names of an organization, a team, an application and a key, by these columns.
fn joins(columns: [&str; 4]) -> String {
    let kinds = ["organization", "team", "application", "key"];
    let aliases = ["o", "t", "a", "k"];
    kinds.iter().zip(aliases).zip(columns).fold(String::new(), |mut sql, ((kind, alias), column)| {
        let _ = write!(
            sql,
            " LEFT JOIN (SELECT id, name FROM liutong.names FINAL WHERE kind = '{kind}') AS {alias}
              ON {alias}.id = {column}"
        );
        sql
    })
}

impl Client {
    /// Answers a question about usage.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn usage(&self, query: &UsageQuery) -> Result<UsageReport, ClickHouseError> {
        let mut request = self
            .query(&sql(query))
            .param("from", query.from_ms)
            .param("to", query.to_ms)
            .param("limit", REPORT_ROWS_MAX + 1);
        for (index, (_, values)) in query.filters.iter().enumerate() {
            request = request.param(&format!("filter{index}"), values);
        }
        let mut rows: Vec<SumRow> = request.fetch_all().await?;
        let truncated = rows.len() > REPORT_ROWS_MAX;
        rows.truncate(REPORT_ROWS_MAX);
        Ok(UsageReport { rows: rows.into_iter().map(|row| named(row, query)).collect(), truncated })
    }

    /// The usage event of this number, if it is stored.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn find_event(&self, boot: Hex16, seq: u64) -> Result<Option<StoredEvent>, ClickHouseError> {
        let sql = format!(
            "SELECT formatDateTime(e.ts, '%Y-%m-%dT%H:%i:%S.')
                    || leftPad(toString(toUnixTimestamp64Milli(e.ts) % 1000), 3, '0') || 'Z' AS ts,
                node, boot, seq, spool_id, batch_seq,
                organization_id, o.name AS organization, team_id, t.name AS team,
                application_id, a.name AS application, key_id, k.name AS key,
                plan, cost_centre, model_alias AS model, deployment, endpoint, stream, status, prompt_tokens,
                cached_tokens, cache_write_tokens, completion_tokens, reasoning_tokens, total_tokens,
                toString(usage_source) AS usage_source, latency_ms, ttft_ms, attempts
             FROM
             (
                SELECT * FROM liutong.usage_events
                WHERE boot = {{boot:String}} AND seq = {{seq:UInt64}}
                LIMIT 1
             ) AS e
             {}",
            joins(["organization_id", "team_id", "application_id", "key_id"])
        );
        let event: Option<StoredEvent> =
            self.query(&sql).param("boot", boot).param("seq", seq).fetch_optional().await?;
        Ok(event.map(|mut event| {
            for (name, id) in [
                (&mut event.organization, &event.organization_id),
                (&mut event.team, &event.team_id),
                (&mut event.application, &event.application_id),
                (&mut event.key, &event.key_id),
            ] {
                if name.is_empty() {
                    name.clone_from(id);
                }
            }
            event
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(from_ms: i64, to_ms: i64, interval: Option<Interval>) -> UsageQuery {
        UsageQuery { from_ms, to_ms, interval, group_by: vec![], filters: vec![] }
    }

    #[test]
    fn the_coarsest_source_with_the_exact_span_is_read() {
        let day = 20_000 * DAY_MS;
        for (from, to, interval, expected) in [
            (day, day + DAY_MS, None, DAYS),
            (day, day + 30 * DAY_MS, Some(Interval::Month), DAYS),
            (day, day + DAY_MS, Some(Interval::Hour), HOURS),
            (day, day + HOUR_MS, Some(Interval::Day), HOURS),
            (day, day + DAY_MS, Some(Interval::Minute), RAW),
            (day + 1, day + DAY_MS, None, RAW),
            (day, day + DAY_MS - 1, Some(Interval::Hour), RAW),
        ] {
            assert_eq!(source(&query(from, to, interval)), expected);
        }
    }

    #[test]
    fn values_are_never_part_of_the_sql() {
        let mut query = query(0, DAY_MS, None);
        query.filters =
            vec![(Dimension::Team, vec!["'; DROP TABLE".into()]), (Dimension::Status, vec!["200".into()])];
        let sql = sql(&query);
        assert!(!sql.contains("DROP"));
        assert!(sql.contains("team_id IN {filter0:Array(String)}"));
        assert!(sql.contains("toString(status) IN {filter1:Array(String)}"));
    }
}
