//! What ClickHouse can say about completeness: which numbers and batches it has, from the ledger, which
//! outlives the events; and whether the events that are still there are those of the ledger.

use clickhouse::Row;
use serde::{Deserialize, Serialize};
use wire::id::{BootId, NodeId};
use wire::report::{Ended, Report};

use super::client::{ClickHouseError, Client, DATABASE};
use super::insert::{Hex16, with_times};

/// The version of a row about a process that ended: 2200-01-01, later than any clock.
const ENDED_MS: i64 = 7_258_118_400_000;

/// How many faults are named of each kind.
pub const NAMED_MAX: u64 = 20;

/// A process whose numbers are written down.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Boot {
    /// The data plane.
    pub node: String,
    /// The process.
    pub boot: String,
    /// As in `wire::report::Ended`.
    pub ended: u8,
    /// How many exchanges each worker admitted, as far as is known.
    pub admitted: Vec<u64>,
    /// The numbers that they cannot have passed.
    pub reserved: Vec<u64>,
}

/// How far numbers are counted: those behind it were given out after what they are held against was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The process.
    pub boot: BootId,
    /// The worker.
    pub worker: usize,
    /// The last number that counts.
    pub last: u64,
}

/// The numbers of one worker of a process that are in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Numbers {
    /// The data plane that sent them.
    pub node: String,
    /// The process.
    pub boot: String,
    /// The worker.
    pub worker: u64,
    /// The highest.
    pub last: u64,
    /// How many are stored, each counted once.
    pub stored: u64,
    /// How many were given back, to be set aside.
    pub refused: u64,
    /// How many are there more than once.
    pub doubled: u64,
    /// How many are stored beyond the limit: they came later, and are not judged.
    pub newer: u64,
    /// Runs below `last` that are not there, as first and last, some of them.
    pub gaps: Vec<(u64, u64)>,
    /// Runs that are there more than once, some of them.
    pub doubles: Vec<(u64, u64)>,
}

/// The batches of one spool that are in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize, Serialize)]
pub struct Spool {
    /// The data plane.
    pub node: String,
    /// The spool.
    pub spool: String,
    /// How many batches.
    pub batches: u64,
    /// The highest number.
    pub last: u64,
    /// Events stored.
    pub stored: u64,
    /// Events given back.
    pub refused: u64,
    /// Events given back whose numbers could not be read.
    pub unnumbered: u64,
    /// Numbers below `last` that are not there, some of them.
    pub missing: Vec<u64>,
}

/// Events against the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Row, Deserialize, Serialize)]
pub struct Held {
    /// Events that are there as rows.
    pub rows: u64,
    /// Events of the ledger that are not: expired, erased or lost.
    pub gone: u64,
    /// Rows beyond what the ledger has of their batches.
    pub surplus: u64,
    /// Batches with such rows, as `spool:batch`, some of them.
    pub surplus_batches: Vec<String>,
}

#[derive(Row, Deserialize)]
struct DayCount {
    number: u16,
    count: u64,
}

#[derive(Row, Serialize)]
struct BootRow {
    node: Hex16,
    boot: Hex16,
    reported_at: i64,
    ended: u8,
    admitted: Vec<u64>,
    reserved: Vec<u64>,
}

impl Client {
    /// Writes down which numbers the processes of a report gave out.
    ///
    /// # Errors
    /// When it is not known to be written.
    pub async fn record_boots(&self, node: NodeId, report: &Report) -> Result<(), ClickHouseError> {
        let client = self.inner().clone().with_database(DATABASE);
        let mut insert = with_times(client.insert::<BootRow>("boots").await?)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0");
        for one in &report.boots {
            let (admitted, reserved) = one.workers.iter().copied().unzip();
            let row = BootRow {
                node: Hex16::new(node.0),
                boot: Hex16::new(one.boot.0),
                // What ended stays so, whoever reports a process as running afterwards or before, and
                // whatever the data plane's clock said then.
                reported_at: match one.ended {
                    Ended::Runs => i64::try_from(report.at_ms).unwrap_or(0).min(ENDED_MS),
                    ended => ENDED_MS + i64::from(ended as u8),
                },
                ended: one.ended as u8,
                admitted,
                reserved,
            };
            insert.write(&row).await?;
        }
        Ok(insert.end().await?)
    }

    /// The processes whose numbers are written down.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn boots(&self) -> Result<Vec<Boot>, ClickHouseError> {
        let sql = "SELECT node, boot, ended, admitted, reserved FROM liutong.boots FINAL ORDER BY node, boot";
        Ok(self.query(sql).fetch_all().await?)
    }

    /// The numbers that are in the ledger, up to their limits.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn ledger_numbers(&self, limits: &[Limit]) -> Result<Vec<Numbers>, ClickHouseError> {
        let keys: Vec<String> =
            limits.iter().map(|limit| format!("{}:{}", limit.boot, limit.worker)).collect();
        let lasts: Vec<u64> = limits.iter().map(|limit| limit.last).collect();
        // `before` is how far the runs before this one reach: what lies between is a gap, what lies below is
        // double.
        let sql = "
            WITH runs AS (
                SELECT node, run.1 AS boot, toUInt64(bitShiftRight(run.2, 48)) AS worker,
                    toUInt64(bitAnd(run.2, 281474976710655)) AS first,
                    indexOf({keys:Array(String)}, concat(boot, ':', toString(worker))) AS limit,
                    toUInt64(first + run.3 - 1) AS end,
                    toUInt64(least(end, if(limit = 0, 281474976710655, {lasts:Array(UInt64)}[limit]))) AS reach,
                    refused > 0 AS is_refused
                FROM (
                    SELECT node, refused, arrayJoin(arrayZip(boots, firsts, counts)) AS run
                    FROM liutong.batches FINAL)
            ), seen AS (
                SELECT *, max(reach) OVER (PARTITION BY boot, worker ORDER BY first, reach, is_refused
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                FROM runs
            )
            SELECT any(seen.node) AS node, boot, worker, maxIf(reach, first <= reach) AS last,
                toUInt64(sumIf(greatest(toInt64(reach) - greatest(toInt64(first) - 1, toInt64(before)), 0), NOT is_refused))
                    AS stored,
                toUInt64(sumIf(greatest(toInt64(reach) - greatest(toInt64(first) - 1, toInt64(before)), 0), is_refused))
                    AS refused,
                toUInt64(sum(greatest(least(toInt64(reach), toInt64(before)) - toInt64(first) + 1, 0))) AS doubled,
                toUInt64(sumIf(end - greatest(reach, first - 1), NOT is_refused)) AS newer,
                groupArrayIf({named})((toUInt64(before + 1), toUInt64(first - 1)),
                    first > before + 1 AND first <= reach) AS gaps,
                groupArrayIf({named})((toUInt64(first), toUInt64(least(reach, before))),
                    before >= first AND first <= reach) AS doubles
            FROM seen GROUP BY boot, worker ORDER BY node, boot, worker";
        let sql = sql.replace("{named}", &NAMED_MAX.to_string());
        Ok(self.query(&sql).param("keys", keys).param("lasts", lasts).fetch_all().await?)
    }

    /// The spools whose batches are in the ledger.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn ledger_spools(&self) -> Result<Vec<Spool>, ClickHouseError> {
        let sql = "
            WITH one AS (
                SELECT spool_id, batch_seq, any(b.node) AS node, sum(rows) AS stored, sum(refused) AS given_back,
                    sum(if(refused > 0, refused - arraySum(counts), 0)) AS unnumbered
                FROM liutong.batches AS b FINAL GROUP BY spool_id, batch_seq
            ), seen AS (
                SELECT *, max(batch_seq) OVER (PARTITION BY spool_id ORDER BY batch_seq
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                FROM one
            )
            SELECT any(seen.node) AS node, spool_id AS spool, count() AS batches, max(batch_seq) AS last,
                sum(seen.stored) AS stored, sum(given_back) AS refused, toUInt64(sum(seen.unnumbered)) AS unnumbered,
                arraySlice(arrayFlatten(groupArrayIf({named})(
                    range(before + 1, least(batch_seq, before + 1 + {named})), batch_seq > before + 1)), 1, {named})
                    AS missing
            FROM seen GROUP BY spool_id ORDER BY node, spool";
        Ok(self.query(&sql.replace("{named}", &NAMED_MAX.to_string())).fetch_all().await?)
    }

    /// Compares the events that are there as rows with the ledger.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn held(&self) -> Result<Held, ClickHouseError> {
        let sql = "
            SELECT sum(held) AS rows, toUInt64(sum(if(held < ledger, ledger - held, 0))) AS gone,
                toUInt64(sum(if(known AND held > ledger, held - ledger, 0))) AS surplus,
                groupArrayIf({named})(concat(spool_id, ':', toString(batch_seq)), known AND held > ledger)
                    AS surplus_batches
            FROM (
                SELECT spool_id, batch_seq, sum(n) AS held, sum(m) AS ledger, max(is_ledger) AS known FROM (
                    SELECT toString(spool_id) AS spool_id, batch_seq, count() AS n, toUInt64(0) AS m, 0 AS is_ledger
                    FROM liutong.usage_events GROUP BY spool_id, batch_seq
                    UNION ALL
                    SELECT toString(spool_id) AS spool_id, batch_seq, toUInt64(0) AS n, sum(rows) AS m, 1 AS is_ledger
                    FROM liutong.batches FINAL GROUP BY spool_id, batch_seq)
                GROUP BY spool_id, batch_seq)";
        Ok(self.query(&sql.replace("{named}", &NAMED_MAX.to_string())).fetch_one().await?)
    }

    /// How many events of the ledger are in no sum, be it by day or of what was erased: their rows were lost
    /// before anything was made of them. Counted are days from `first` on, in days since 1970, whose single
    /// events have not expired; later sums may have been removed.
    ///
    /// Sums of what was erased tell no day. So a loss may show as too small where much was erased.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn unsummed(&self, first: u16) -> Result<u64, ClickHouseError> {
        // In this order: an event is stored before it is in the ledger, and is among the erased sums before
        // it leaves those of its day.
        let ledger = self.by_day("sum(rows) AS count FROM liutong.batches FINAL", first).await?;
        let summed = self.by_day("sum(requests) AS count FROM liutong.usage_daily_parts", first).await?;
        let erased: u64 = self.query("SELECT sum(requests) FROM liutong.usage_erased").fetch_one().await?;
        let of = |day: u16| summed.iter().find(|(other, _)| *other == day).map_or(0, |(_, count)| *count);
        let missing: u64 = ledger.iter().map(|(day, count)| count.saturating_sub(of(*day))).sum();
        Ok(missing.saturating_sub(erased))
    }

    async fn by_day(&self, what: &str, first: u16) -> Result<Vec<(u16, u64)>, ClickHouseError> {
        let sql = format!(
            "SELECT toUInt16(day) AS number, {what} WHERE day >= toDate({{first:UInt16}}) GROUP BY day"
        );
        let days: Vec<DayCount> = self.query(&sql).param("first", first).fetch_all().await?;
        Ok(days.into_iter().map(|one| (one.number, one.count)).collect())
    }
}
