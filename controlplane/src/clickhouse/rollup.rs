//! Hours and days derived from raw, and why the views that use them always equal raw.
//!
//! For each hour H let raw(H) be its set of events, and rollup(H) the rows of `usage_hourly_rollup` for it.
//! The rollup carries, in the rows themselves, how many events it was made of and the sum of their hashes
//! (`fingerprint`); raw has the same two numbers for each hour in projection `hours`, which is written with
//! each part.
//!
//!   1. rollup(H) is the aggregate of raw(H) as it was at some moment, or empty: it is computed by one SELECT
//!      (one snapshot of raw) into a stage table of its own name, and gets into the rollup by REPLACE
//!      PARTITION alone, which is atomic. An attempt that dies leaves a stage table that nobody reads, or a
//!      partition that is true.
//!   2. raw(H) only grows, by whole batches, until it expires, and then only shrinks. So if rollup(H) was
//!      made of other events than raw(H) holds now, raw has more of them (or as many with another
//!      fingerprint), unless it expired.
//!   3. `usage_hours_open` is exactly the hours for which 2 holds. The views take those from raw, all others
//!      from the rollup: either way the aggregate of raw(H), and of an expired hour the last one there was.
//!   4. A query sees one snapshot of each table however often it names it
//!      (`enable_shared_storage_snapshot_in_query`, on by default since 26.x), so that an hour cannot change
//!      sides between the two halves of a view.
//!
//! Nothing depends on when this task runs, whether it is killed, or on two of them: a batch that comes late,
//! twice or out of order makes its hour open, by itself, until the task comes round. `mark_dirty` only says
//! when to wait: an hour that still receives batches is left alone for a while. Days are derived from
//! `usage_hourly_rollup` by the same argument, once none of their hours is open. An insert that an older
//! attempt left running may still replace a partition by an older truth: its hours are then open again.
//!
//! What this does not cover: events that arrive after their hour's raw has expired are not added to its
//! rollup (raw must be kept for longer than a data plane can be away); who erases raw rows rebuilds their
//! hours.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::Row;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::client::{ClickHouseError, Client};
use super::insert::now_ms;

const HOUR_MS: i64 = 3_600_000;
const HOUR_S: u32 = 3600;
const DAY_S: u32 = 86_400;

const DIMENSIONS: &str = "organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias, \
    deployment, endpoint, status, usage_source";
/// The token sums of a group, of what is called `s`.
pub(super) const SUMS: &str = "sum(s.prompt_tokens), sum(s.cached_tokens), sum(s.cache_write_tokens), \
    sum(s.completion_tokens), sum(s.reasoning_tokens), sum(s.total_tokens)";

/// When hours are rolled up; none of it matters to what the views show.
#[derive(Debug, Clone)]
pub struct RollupOptions {
    /// How often open hours are looked for.
    pub interval: Duration,
    /// How long after its end an hour is still left to raw: sealing and shipping take a second or two.
    pub grace: Duration,
    /// How long an hour must have been without a new batch.
    pub quiet: Duration,
    /// Stage tables of attempts that died are dropped once they are this old.
    pub stage_age_max: Duration,
}

impl Default for RollupOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            grace: Duration::from_mins(1),
            quiet: Duration::from_secs(20),
            stage_age_max: Duration::from_hours(6),
        }
    }
}

/// An hour in UTC: hours since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(pub u32);

impl Hour {
    /// The hour of a timestamp in milliseconds since 1970.
    #[must_use]
    pub fn of_ms(ts: i64) -> Self {
        Self(u32::try_from(ts.div_euclid(HOUR_MS).max(0)).unwrap_or(u32::MAX))
    }
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RollupPass {
    /// Hours derived anew.
    pub hours: usize,
    /// Days derived anew.
    pub days: usize,
}

/// Derives hours and days; one of it for each control plane.
pub struct Rollup {
    client: Client,
    options: RollupOptions,
    /// When each hour last received a batch; hours that are long quiet are taken out.
    touched: Mutex<HashMap<Hour, Instant>>,
}

#[derive(Row, Deserialize)]
struct OpenHour {
    hour: u32,
}

#[derive(Row, Deserialize)]
struct OpenDay {
    day: u16,
}

impl Rollup {
    /// A rollup that has not run yet.
    #[must_use]
    pub fn new(client: Client, options: RollupOptions) -> Self {
        Self { client, options, touched: Mutex::new(HashMap::new()) }
    }

    /// Notes that hours have just received a batch, so that they are not derived over and over meanwhile.
    pub fn mark_dirty(&self, hours: impl IntoIterator<Item = Hour>) {
        let now = Instant::now();
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.extend(hours.into_iter().map(|hour| (hour, now)));
    }

    /// Runs until it is told to stop. What fails is tried again at the next round.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.options.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let pass = tokio::select! {
                () = stop.cancelled() => return,
                pass = self.pass() => pass,
            };
            match pass {
                Ok(pass) if pass == RollupPass::default() => {}
                Ok(RollupPass { hours, days }) => tracing::debug!(hours, days, "usage rolled up"),
                Err(error) => tracing::warn!(%error, "usage is not rolled up; reports read raw"),
            }
        }
    }

    /// Derives every hour that is over, quiet and open, then every day that has no open hour left.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; what was derived until then stands.
    pub async fn pass(&self) -> Result<RollupPass, ClickHouseError> {
        self.drop_old_stages().await?;
        let mut pass = RollupPass::default();
        for (day, hours) in self.due_hours().await? {
            self.derive_hours(day, &hours).await?;
            pass.hours += hours.len();
        }
        for day in self.due_days().await? {
            self.derive_day(day).await?;
            pass.days += 1;
        }
        Ok(pass)
    }

    /// Open hours that are due, as seconds since 1970, by day.
    async fn due_hours(&self) -> Result<BTreeMap<u16, Vec<u32>>, ClickHouseError> {
        let open: Vec<OpenHour> = self
            .client
            .query("SELECT toUInt32(hour) AS hour FROM liutong.usage_hours_open ORDER BY hour")
            .fetch_all()
            .await?;
        let closed_ms = now_ms() - i64::try_from(self.options.grace.as_millis()).unwrap_or(i64::MAX);
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.retain(|_, at| at.elapsed() < self.options.quiet);
        let mut due: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for OpenHour { hour } in open {
            let over = i64::from(hour) * 1000 + HOUR_MS <= closed_ms;
            if over
                && !touched.contains_key(&Hour(hour / HOUR_S))
                && let Ok(day) = u16::try_from(hour / DAY_S)
            {
                due.entry(day).or_default().push(hour);
            }
        }
        Ok(due)
    }

    /// Days whose hourly rollup has moved on and is complete.
    async fn due_days(&self) -> Result<Vec<u16>, ClickHouseError> {
        let open: Vec<OpenDay> = self
            .client
            .query(
                "SELECT toUInt16(day) AS day FROM liutong.usage_days_open
                 WHERE day NOT IN (SELECT toDate(hour) FROM liutong.usage_hours_open) ORDER BY day",
            )
            .fetch_all()
            .await?;
        let today = now_ms() / HOUR_MS / 24;
        Ok(open.into_iter().map(|open| open.day).filter(|day| i64::from(*day) < today).collect())
    }

    /// Replaces a day's partition by itself with these hours derived anew from raw.
    async fn derive_hours(&self, day: u16, hours: &[u32]) -> Result<(), ClickHouseError> {
        let stage = self.make_stage("usage_hourly").await?;
        // The other hours are copied as they are: still aggregates of raw at some moment.
        let others = format!(
            "INSERT INTO {stage} SELECT * FROM liutong.usage_hourly_rollup
             WHERE toDate(hour) = toDate({{day:UInt16}}) AND toUInt32(hour) NOT IN {{hours:Array(UInt32)}}"
        );
        let derived = format!(
            "INSERT INTO {stage}
             SELECT toStartOfHour(ts) AS hour, {DIMENSIONS}, count(), {SUMS}, sum(cityHash64(boot, seq))
             FROM liutong.usage_events AS s
             WHERE toDate(ts) = toDate({{day:UInt16}}) AND toUInt32(hour) IN {{hours:Array(UInt32)}}
             GROUP BY hour, {DIMENSIONS}"
        );
        for sql in [others, derived] {
            let query = self.client.query(&sql).param("day", day).param("hours", hours);
            query.with_setting("async_insert", "0").execute().await?;
        }
        self.replace("usage_hourly_rollup", day, &stage).await
    }

    /// Replaces a day of the daily rollup by the sum of its hours.
    async fn derive_day(&self, day: u16) -> Result<(), ClickHouseError> {
        let stage = self.make_stage("usage_daily").await?;
        let derived = format!(
            "INSERT INTO {stage}
             SELECT toDate(hour) AS day, {DIMENSIONS}, sum(s.requests), {SUMS}, sum(s.fingerprint)
             FROM liutong.usage_hourly_rollup AS s
             WHERE toDate(hour) = toDate({{day:UInt16}})
             GROUP BY day, {DIMENSIONS}"
        );
        let query = self.client.query(&derived).param("day", day);
        query.with_setting("async_insert", "0").execute().await?;
        self.replace("usage_daily_rollup", day, &stage).await
    }

    /// Makes a stage table of its own for one attempt: what an attempt before may still be writing cannot get
    /// in.
    async fn make_stage(&self, prefix: &str) -> Result<String, ClickHouseError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| ClickHouseError::Unavailable(error.to_string()))?;
        let stage = format!("liutong.{prefix}_stage_{:016x}", u64::from_be_bytes(random));
        self.client.execute(&format!("CREATE TABLE {stage} AS liutong.{prefix}_rollup")).await?;
        Ok(stage)
    }

    async fn replace(&self, table: &str, day: u16, stage: &str) -> Result<(), ClickHouseError> {
        let date: String =
            self.client.query("SELECT toString(toDate({day:UInt16}))").param("day", day).fetch_one().await?;
        let sql = format!("ALTER TABLE liutong.{table} REPLACE PARTITION '{date}' FROM {stage}");
        self.client.execute(&sql).await?;
        self.client.execute(&format!("DROP TABLE {stage} SYNC")).await
    }

    async fn drop_old_stages(&self) -> Result<(), ClickHouseError> {
        let old: Vec<String> = self
            .client
            .query(
                "SELECT name FROM system.tables
                 WHERE database = 'liutong' AND match(name, '^usage_(hourly|daily)_stage_[0-9a-f]{16}$')
                   AND metadata_modification_time < now() - {age:UInt64}",
            )
            .param("age", self.options.stage_age_max.as_secs())
            .fetch_all()
            .await?;
        for name in old {
            self.client.execute(&format!("DROP TABLE IF EXISTS liutong.{name} SYNC")).await?;
        }
        Ok(())
    }
}
