//! The tables: what is stored, once; what is derived from it; who may see it under which name.
//!
//! The tests share one engine, so each has its own days and spool.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use controlplane::clickhouse::Client;
use controlplane::clickhouse::engine::{Endpoint, EngineHandle, EngineOptions};
use controlplane::clickhouse::insert::{DAY_MS, Hex16, InsertError, UsageRow, UsageSource};
use controlplane::clickhouse::names::{Name, NameKind};
use controlplane::clickhouse::rollup::{Hour, Rollup, RollupOptions, RollupPass};
use controlplane::clickhouse::usage_query::{Dimension, Interval, UsageQuery, UsageReport};

const HOUR_MS: i64 = 3_600_000;
const RAW_DAYS: u32 = 60;

const TEAMS: [(&str, &str, &str, &str); 4] = [
    ("org_a", "team_a", "app_a", "key_a"),
    ("org_a", "team_b", "app_b", "key_b"),
    ("org_a", "team_b", "app_c", "key_c"),
    ("org_b", "team_c", "app_d", "key_d"),
];
const MODELS: [&str; 3] = ["chat", "embed", ""];

/// An engine that stops with the last test that uses it.
struct Shared {
    endpoint: Endpoint,
    held: Option<(tokio::runtime::Runtime, EngineHandle, tempfile::TempDir)>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some((runtime, engine, dir)) = self.held.take() else { return };
        // On a thread without a runtime of its own.
        let stop = move || {
            let status = runtime.block_on(engine.stop(Duration::from_secs(30)));
            drop((status, dir));
        };
        std::thread::spawn(stop).join().unwrap();
    }
}

fn start() -> Shared {
    let start = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = EngineOptions::new(env!("CARGO_BIN_EXE_liutong"), dir.path());
        let options = EngineOptions { port: 0, ..options };
        let engine = runtime.block_on(EngineHandle::start(&options)).unwrap();
        let endpoint = engine.endpoint().clone();
        runtime.block_on(endpoint.client().migrate(RAW_DAYS)).unwrap();
        Shared { endpoint, held: Some((runtime, engine, dir)) }
    };
    std::thread::scope(|scope| scope.spawn(start).join().unwrap())
}

fn shared() -> Arc<Shared> {
    static SHARED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    if let Some(running) = shared.upgrade() {
        return running;
    }
    let running = Arc::new(start());
    *shared = Arc::downgrade(&running);
    running
}

/// xorshift64: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn day_ago(days: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (i64::try_from(now.as_millis()).unwrap() / DAY_MS - days) * DAY_MS
}

fn now_hour() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() / HOUR_MS * HOUR_MS
}

/// A batch of `count` events in hours `0..hours` of the day that begins at `day`.
fn batch(
    random: &mut Random,
    spool: u64,
    batch_seq: u64,
    day: i64,
    hours: u64,
    count: u64,
) -> Vec<UsageRow<'static>> {
    (0..count)
        .map(|index| {
            let (organization_id, team_id, application_id, key_id) =
                TEAMS[usize::try_from(random.below(4)).unwrap()];
            let tokens = |random: &mut Random| u32::try_from(random.below(2000)).unwrap();
            let (prompt, completion) = (tokens(random), tokens(random));
            UsageRow {
                ts: day + i64::try_from(random.below(hours * 3_600_000)).unwrap(),
                node: Hex16::new(1),
                boot: Hex16::new(spool),
                seq: batch_seq * 1_000_000 + index,
                spool_id: Hex16::new(spool),
                batch_seq,
                organization_id,
                team_id,
                application_id,
                key_id,
                plan: "",
                cost_centre: "cc",
                model_alias: MODELS[usize::try_from(random.below(3)).unwrap()],
                deployment: "d1",
                endpoint: "chat_completions",
                stream: random.below(2) == 0,
                status: if random.below(10) == 0 { 429 } else { 200 },
                prompt_tokens: prompt,
                cached_tokens: prompt / 2,
                cache_write_tokens: prompt / 4,
                completion_tokens: completion,
                reasoning_tokens: completion / 3,
                total_tokens: prompt + completion,
                usage_source: UsageSource::Final,
                latency_ms: 300,
                ttft_ms: 20,
                attempts: 1,
            }
        })
        .collect()
}

async fn send(client: &Client, rows: &[UsageRow<'_>]) {
    let token = format!("{}:{}", rows[0].spool_id.as_str(), rows[0].batch_seq);
    client.insert_batch(&token, rows).await.unwrap();
}

async fn number(client: &Client, sql: &str) -> u64 {
    client.query(sql).fetch_one().await.unwrap()
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

async fn assert_views_equal_raw(client: &Client, days: (i64, i64)) {
    for (view, time, raw_time) in [
        ("usage_hourly", "hour", "toStartOfHour(ts)"),
        ("usage_hourly_parts", "hour", "toStartOfHour(ts)"),
        ("usage_daily", "day", "toDate(ts)"),
        ("usage_daily_parts", "day", "toDate(ts)"),
    ] {
        assert_eq!(differences(client, view, time, raw_time, days).await, 0, "{view}");
    }
}

/// Passes until these days are rolled up; another test's pass can open them again meanwhile.
async fn roll_up(client: &Client, rollup: &Rollup, days: (i64, i64)) {
    let open = format!(
        "SELECT count() FROM liutong.usage_days_open WHERE day BETWEEN toDate({}) AND toDate({})",
        days.0 / DAY_MS,
        days.1 / DAY_MS
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    while number(client, &open).await > 0 {
        assert!(Instant::now() < deadline, "days stay open");
        rollup.pass().await.unwrap();
    }
}

fn eager(client: &Client) -> Rollup {
    let options = RollupOptions { grace: Duration::ZERO, quiet: Duration::ZERO, ..RollupOptions::default() };
    Rollup::new(client.clone(), options)
}

#[tokio::test]
async fn migrations_run_once_and_retention_can_change() {
    let shared = shared();
    let client = shared.endpoint.client();
    assert_eq!(client.migrate(RAW_DAYS + 1).await.unwrap(), 0);
    let engine: String = client
        .query("SELECT engine_full FROM system.tables WHERE database = 'liutong' AND name = 'usage_events'")
        .fetch_one()
        .await
        .unwrap();
    assert!(engine.contains("TTL toDate(ts) + toIntervalDay(61)"), "{engine}");
    let columns: Vec<String> = client
        .query(
            "SELECT name FROM system.columns WHERE database = 'liutong' AND table = 'usage_events'
             ORDER BY position",
        )
        .fetch_all()
        .await
        .unwrap();
    let expected = "ts node boot seq spool_id batch_seq organization_id team_id application_id key_id plan \
        cost_centre model_alias deployment endpoint stream status prompt_tokens cached_tokens \
        cache_write_tokens completion_tokens reasoning_tokens total_tokens usage_source latency_ms ttft_ms attempts";
    assert_eq!(columns.join(" "), expected);
}

#[tokio::test]
async fn a_batch_sent_again_is_stored_once() {
    let shared = shared();
    let client = shared.endpoint.client();
    let mut random = Random(1);
    let rows = batch(&mut random, 0x10, 7, day_ago(1), 24, 5000);
    assert_eq!(client.batch_present(Hex16::new(0x10), 7).await.unwrap(), 0);
    for _ in 0..3 {
        send(&client, &rows).await;
        assert_eq!(client.batch_present(Hex16::new(0x10), 7).await.unwrap(), 5000);
    }
    // From another connection too, as after a restart.
    send(&shared.endpoint.client(), &rows).await;
    assert_eq!(client.batch_present(Hex16::new(0x10), 7).await.unwrap(), 5000);
    assert_eq!(client.batch_present(Hex16::new(0x10), 8).await.unwrap(), 0);
    let recorded = client.batch_recorded(Hex16::new(0x10), 7).await.unwrap();
    assert_eq!((recorded.rows, recorded.tokens), (5000, 1));

    // Equal rows under another token are other rows.
    let twin: Vec<_> = rows.iter().map(|row| UsageRow { batch_seq: 8, ..row.clone() }).collect();
    send(&client, &twin).await;
    assert_eq!(client.batch_present(Hex16::new(0x10), 8).await.unwrap(), 5000);
}

#[tokio::test]
async fn a_stored_event_is_found_by_its_number_and_reads_as_it_was_sent() {
    let shared = shared();
    let client = shared.endpoint.client();
    let mut rows = batch(&mut Random(2), 0x20, 1, day_ago(2), 24, 100);
    rows[50] = UsageRow {
        ts: day_ago(2) + 1_002_003,
        organization_id: "org_found",
        team_id: "team_found",
        application_id: "app_found",
        key_id: "key_found",
        status: 499,
        usage_source: UsageSource::Partial,
        prompt_tokens: u32::MAX,
        ttft_ms: 0,
        attempts: 2,
        stream: true,
        ..rows[50].clone()
    };
    send(&client, &rows).await;
    client.upsert(NameKind::Team, "team_found", "The Found").await.unwrap();
    let event = client.find_event(Hex16::new(0x20), rows[50].seq).await.unwrap().unwrap();
    assert!(event.ts.ends_with("T00:16:42.003Z"), "{}", event.ts);
    assert_eq!((event.team.as_str(), event.team_id.as_str()), ("The Found", "team_found"));
    assert_eq!((event.key.as_str(), event.key_id.as_str()), ("key_found", "key_found"));
    assert_eq!((event.status, event.prompt_tokens, event.attempts), (499, u32::MAX, 2));
    assert_eq!((event.usage_source.as_str(), event.stream, event.ttft_ms), ("partial", true, 0));
    assert_eq!((event.node.as_str(), event.spool_id.as_str()), ("0000000000000001", "0000000000000020"));
    assert_eq!(client.find_event(Hex16::new(0x21), rows[50].seq).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_is_away_leaves_a_batch_unacknowledged() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    drop(taken);
    let rows = batch(&mut Random(3), 0x30, 1, day_ago(1), 24, 1);
    let away = Client::new(&url, "liutong", "secret-password").insert_batch("t", &rows).await;
    assert!(matches!(&away, Err(InsertError::Unacknowledged(_))), "{away:?}");
    let shared = shared();
    let refused =
        Client::new(&shared.endpoint.url, "liutong", "secret-password").insert_batch("t", &rows).await;
    let Err(InsertError::Unacknowledged(error)) = refused else { panic!("{refused:?}") };
    assert!(!error.to_string().contains("secret-password"));
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

/// Per team, the report's sums are those of the rows in its span.
fn assert_report_equals(report: &UsageReport, query: &UsageQuery, rows: &[UsageRow<'_>]) {
    for (_, team, _, _) in TEAMS {
        let sent =
            rows.iter().filter(|row| row.team_id == team && (query.from_ms..query.to_ms).contains(&row.ts));
        let of = |field: fn(&UsageRow<'_>) -> u64| sent.clone().map(field).sum::<u64>();
        let reported = report.rows.iter().filter(|sum| sum.team_id.as_deref() == Some(team));
        let got = reported.fold([0; 8], |mut got, sum| {
            let values = [
                sum.requests,
                sum.errors,
                sum.prompt_tokens,
                sum.cached_tokens,
                sum.cache_write_tokens,
                sum.completion_tokens,
                sum.reasoning_tokens,
                sum.total_tokens,
            ];
            got.iter_mut().zip(values).for_each(|(total, value)| *total += value);
            got
        });
        let expected = [
            of(|_| 1),
            of(|row| u64::from(row.status >= 400)),
            of(|row| row.prompt_tokens.into()),
            of(|row| row.cached_tokens.into()),
            of(|row| row.cache_write_tokens.into()),
            of(|row| row.completion_tokens.into()),
            of(|row| row.reasoning_tokens.into()),
            of(|row| row.total_tokens.into()),
        ];
        assert_eq!(got, expected, "{team} {query:?}");
    }
}

#[tokio::test]
async fn reports_sum_exactly_what_was_sent_from_every_source() {
    let shared = shared();
    let client = shared.endpoint.client();
    let (first, second) = (day_ago(51), day_ago(50));
    let mut random = Random(9);
    let mut rows = batch(&mut random, 0x80, 1, first, 24, 700);
    send(&client, &rows).await;
    roll_up(&client, &eager(&client), (first, first)).await;
    let late = batch(&mut random, 0x80, 2, second, 24, 300);
    send(&client, &late).await;
    rows.extend(late);
    client.sync_names(&[Name { kind: NameKind::Team, id: "team_a", name: "Alpha" }]).await.unwrap();

    let whole = UsageQuery {
        from_ms: first,
        to_ms: second + DAY_MS,
        interval: None,
        group_by: vec![Dimension::Team],
        filters: vec![],
    };
    for (from_ms, to_ms, interval) in [
        (first, second + DAY_MS, None),
        (first, second + DAY_MS, Some(Interval::Day)),
        (first, second + DAY_MS, Some(Interval::Hour)),
        (first, second + DAY_MS, Some(Interval::Month)),
        (first + HOUR_MS, second + DAY_MS - 2 * HOUR_MS, None),
        (first + 12_345, second + 67_890_123, Some(Interval::Day)),
    ] {
        let query = UsageQuery { from_ms, to_ms, interval, ..whole.clone() };
        let report = client.usage(&query).await.unwrap();
        assert_report_equals(&report, &query, &rows);
        assert!(!report.truncated);
        assert!(report.rows.iter().all(|sum| sum.start.is_some() == interval.is_some()));
        assert!(report.rows.iter().any(|sum| sum.team.as_deref() == Some("Alpha")));
        assert!(report.rows.iter().all(|sum| sum.key_id.is_none() && sum.model.is_none()));
    }

    let filtered = UsageQuery {
        group_by: vec![Dimension::Key, Dimension::Model, Dimension::Status],
        filters: vec![
            (Dimension::Team, vec!["team_b".into(), "it's \\ no team".into()]),
            (Dimension::Status, vec!["429".into()]),
        ],
        ..whole
    };
    let report = client.usage(&filtered).await.unwrap();
    let sent = rows.iter().filter(|row| row.team_id == "team_b" && row.status == 429).count();
    assert_eq!(report.rows.iter().map(|sum| sum.requests).sum::<u64>(), u64::try_from(sent).unwrap());
    assert!(report.rows.iter().all(|sum| sum.errors == sum.requests && sum.status.as_deref() == Some("429")));
    // A model that is not defined is an empty name, not an absent one.
    assert!(report.rows.iter().any(|sum| sum.model.as_deref() == Some("")));
}

#[tokio::test]
async fn people_read_names_and_the_newest_of_them() {
    let shared = shared();
    let client = shared.endpoint.client();
    let ids = ("org_named", "team_named", "app_named", "key_named");
    let rows: Vec<_> = batch(&mut Random(10), 0x90, 1, day_ago(3), 24, 20)
        .into_iter()
        .map(|row| UsageRow {
            organization_id: ids.0,
            team_id: ids.1,
            application_id: ids.2,
            key_id: ids.3,
            ..row
        })
        .collect();
    send(&client, &rows).await;
    let seen = |client: Client, team: &'static str| async move {
        let sql = "SELECT count() FROM liutong.usage WHERE organization = 'Acme' AND team = {team:String}
            AND application = 'app_named' AND key = 'nightly'";
        client.query(sql).param("team", team).fetch_one::<u64>().await.unwrap()
    };
    let names = [
        Name { kind: NameKind::Organization, id: ids.0, name: "Acme" },
        Name { kind: NameKind::Team, id: ids.1, name: "Old" },
        Name { kind: NameKind::Key, id: ids.3, name: "nightly" },
    ];
    assert_eq!(client.sync_names(&names).await.unwrap(), 3);
    assert_eq!(client.sync_names(&names).await.unwrap(), 0);
    assert_eq!(seen(shared.endpoint.analyst(), "Old").await, 20);
    client.upsert(NameKind::Team, ids.1, "流通 'new'").await.unwrap();
    assert_eq!(seen(shared.endpoint.analyst(), "流通 'new'").await, 20);
    assert_eq!(seen(shared.endpoint.analyst(), "Old").await, 0);
}
