//! The views equal raw, whatever the rollups behind them are at that moment.

use std::time::Duration;

use controlplane::clickhouse::Client;
use controlplane::clickhouse::insert::{DAY_MS, UsageRow};
use controlplane::clickhouse::rollup::{Hour, Rollup, RollupOptions, RollupPass};

use super::support::{HOUR_MS, Random, batch, day_ago, eager, number, roll_up, send, shared, start};

fn now_hour() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() / HOUR_MS * HOUR_MS
}

/// Groups in which a view and raw differ, in one query and so at one moment, over these days.
async fn differences(client: &Client, view: &str, time: &str, raw_time: &str, days: (i64, i64)) -> u64 {
    let dimensions = "organization_id, team_id, application_id, key_id, plan, cost_centre, model_alias,
        deployment, endpoint, status, usage_source";
    let sums = "sum(s.prompt_tokens) AS p, sum(s.cached_tokens) AS c, sum(s.cache_write_tokens) AS w,
        sum(s.completion_tokens) AS o, sum(s.reasoning_tokens) AS r, sum(s.total_tokens) AS t";
    let bounds = format!("BETWEEN toDate({}) AND toDate({})", days.0 / DAY_MS, days.1 / DAY_MS);
    let sql = format!(
        "SELECT count() FROM (
            SELECT time, {dimensions}, n, p, c, w, o, r, t, sum(side) AS excess FROM (
                SELECT {time} AS time, {dimensions}, sum(s.requests) AS n, {sums}, 1 AS side
                FROM liutong.{view} AS s WHERE toDate({time}) {bounds} GROUP BY time, {dimensions}
                UNION ALL
                SELECT {raw_time} AS time, {dimensions}, count() AS n, {sums}, -1 AS side
                FROM liutong.usage_events AS s WHERE toDate(ts) {bounds} GROUP BY time, {dimensions})
            GROUP BY time, {dimensions}, n, p, c, w, o, r, t HAVING excess != 0)"
    );
    number(client, &sql).await
}

pub(crate) async fn assert_views_equal_raw(client: &Client, days: (i64, i64)) {
    for (view, time, raw_time) in [
        ("usage_hourly", "hour", "toStartOfHour(ts)"),
        ("usage_hourly_parts", "hour", "toStartOfHour(ts)"),
        ("usage_daily", "day", "toDate(ts)"),
        ("usage_daily_parts", "day", "toDate(ts)"),
    ] {
        assert_eq!(differences(client, view, time, raw_time, days).await, 0, "{view}");
    }
}

#[tokio::test]
async fn views_equal_raw_with_late_duplicate_and_unordered_batches_and_interrupted_passes() {
    let shared = shared();
    let client = shared.endpoint.client();
    let rollup = eager(&client);
    let days = (day_ago(12), day_ago(10));
    let mut random = Random(4);
    let mut batches: Vec<Vec<UsageRow<'_>>> = (0..9)
        .map(|seq| batch(&mut random, 0x40, seq, day_ago(10 + i64::try_from(seq % 3).unwrap()), 24, 300))
        .collect();
    // Late: one event for an hour that is rolled up long since.
    batches.push(batch(&mut random, 0x40, 100, day_ago(11), 1, 1));
    for round in 0..batches.len() {
        let next = (round * 7) % batches.len();
        send(&client, &batches[next]).await;
        if round % 3 == 1 {
            send(&client, &batches[(next + 7 * (round / 2)) % batches.len()]).await;
        }
        // Dropped wherever it happens to be: the server may or may not go on with the statement.
        let interrupted = Duration::from_millis(random.below(120));
        let _ = tokio::time::timeout(interrupted, rollup.pass()).await;
        assert_views_equal_raw(&client, days).await;
    }
    for rows in &batches {
        send(&client, rows).await;
    }
    roll_up(&client, &rollup, days).await;
    assert_views_equal_raw(&client, days).await;
    let bounds = format!("BETWEEN toDate({}) AND toDate({})", days.0 / DAY_MS, days.1 / DAY_MS);
    let derived = format!("SELECT sum(requests) FROM liutong.usage_daily_rollup WHERE day {bounds}");
    assert_eq!(number(&client, &derived).await, 9 * 300 + 1);
}

#[tokio::test]
async fn views_equal_raw_at_every_moment_while_batches_arrive_and_hours_are_derived() {
    let shared = shared();
    let client = shared.endpoint.client();
    let rollup = eager(&client);
    let days = (day_ago(21), day_ago(20));
    let mut random = Random(5);
    let arrive = async {
        for seq in 0..30 {
            let day = day_ago(20 + i64::try_from(seq % 2).unwrap());
            send(&client, &batch(&mut random, 0x50, seq, day, 3, 200)).await;
        }
    };
    let done = std::cell::Cell::new(false);
    let derive = async {
        while !done.get() {
            rollup.pass().await.unwrap();
        }
    };
    let look = async {
        let mut looks = 0;
        while !done.get() {
            assert_views_equal_raw(&client, days).await;
            looks += 1;
        }
        looks
    };
    let arrive = async {
        arrive.await;
        done.set(true);
    };
    let ((), (), looks) = tokio::join!(arrive, derive, look);
    assert!(looks > 1);
    roll_up(&client, &rollup, days).await;
    assert_views_equal_raw(&client, days).await;
}

#[tokio::test]
async fn a_rollup_of_other_events_or_of_fewer_is_not_shown_and_expired_raw_stays() {
    let shared = shared();
    let client = shared.endpoint.client();
    let rollup = eager(&client);
    let day = day_ago(30);
    let days = (day, day);
    let date = day / DAY_MS;
    let mut random = Random(6);
    let rows = batch(&mut random, 0x60, 1, day, 2, 500);
    send(&client, &rows).await;
    roll_up(&client, &rollup, days).await;

    // Fewer, as an attempt that was overtaken would leave it; then none.
    let partition =
        number(&client, &format!("SELECT toUInt64(toYYYYMMDD(toDate({date})))")).await.to_string();
    let partition = format!("'{}-{}-{}'", &partition[..4], &partition[4..6], &partition[6..]);
    let delete = "ALTER TABLE liutong.usage_hourly_rollup DELETE WHERE";
    for condition in ["team_id = 'team_b'", "1"] {
        let sql =
            format!("{delete} toDate(hour) = toDate({date}) AND {condition} SETTINGS mutations_sync = 2");
        client.execute(&sql).await.unwrap();
        assert_views_equal_raw(&client, days).await;
    }
    roll_up(&client, &rollup, days).await;

    let total = format!(
        "SELECT sum(n) FROM
            (SELECT sum(requests) AS n FROM liutong.usage_hourly WHERE toDate(hour) = toDate({date})
             UNION ALL SELECT sum(requests) AS n FROM liutong.usage_daily WHERE day = toDate({date}))"
    );
    assert_eq!(number(&client, &total).await, 1000);
    client.execute(&format!("ALTER TABLE liutong.usage_events DROP PARTITION {partition}")).await.unwrap();
    assert_eq!(number(&client, &total).await, 1000);
    rollup.pass().await.unwrap();
    assert_eq!(number(&client, &total).await, 1000);
}

#[tokio::test]
async fn hours_that_still_receive_batches_are_left_to_raw() {
    // An engine of its own: another test's pass would take the hour.
    let shared = start();
    let client = shared.endpoint.client();
    let day = day_ago(40);
    send(&client, &batch(&mut Random(7), 0x70, 1, day, 1, 10)).await;
    let options = RollupOptions { quiet: Duration::from_hours(1), ..RollupOptions::default() };
    let rollup = Rollup::new(client.clone(), options);
    rollup.mark_dirty([Hour::of_ms(day)]);
    assert_eq!(rollup.pass().await.unwrap(), RollupPass { hours: 0, days: 0 });
    assert_views_equal_raw(&client, (day, day)).await;
    let after_restart = Rollup::new(client.clone(), RollupOptions::default());
    assert_eq!(after_restart.pass().await.unwrap(), RollupPass { hours: 1, days: 1 });
    assert_eq!(after_restart.pass().await.unwrap(), RollupPass { hours: 0, days: 0 });
    // The present hour is not over, whoever asks.
    send(&client, &batch(&mut Random(8), 0x70, 2, now_hour(), 1, 1)).await;
    assert_eq!(after_restart.pass().await.unwrap(), RollupPass { hours: 0, days: 0 });
    assert_views_equal_raw(&client, (day, day_ago(0))).await;
    let stages = "SELECT count() FROM system.tables WHERE database = 'liutong' AND name LIKE '%stage%'";
    assert_eq!(number(&client, stages).await, 0);
}
