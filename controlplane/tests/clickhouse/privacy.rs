//! Retention and erasure: what expires, what a hold keeps, what is left of what is erased; and that reports
//! and the ledger go on being right.

use std::time::Duration;

use controlplane::clickhouse::erasure::ErasedUsage;
use controlplane::clickhouse::insert::DAY_MS;
use controlplane::clickhouse::retention::{HeldUsage, Retention};
use controlplane::clickhouse::usage_query::{Interval, UsageQuery};
use controlplane::privacy::inventory;
use load_tests::clickhouse_faults::{Fault, FaultProxy, Rule};

use super::support::{Random, batch, day_ago, eager, number, roll_up, send, start};

async fn rows(client: &controlplane::clickhouse::Client, table: &str, condition: &str) -> u64 {
    number(client, &format!("SELECT count() FROM liutong.{table} WHERE {condition}")).await
}

#[tokio::test]
async fn usage_expires_by_the_day_but_for_what_is_held() {
    let shared = start();
    let client = shared.endpoint.client();
    for (number, days) in [(1, 50), (2, 50), (3, 20), (4, 2)] {
        send(&client, &batch(&mut Random(number), 3, number, day_ago(days), 24, 1000)).await;
    }
    roll_up(&client, &eager(&client), (day_ago(50), day_ago(2))).await;
    let held = HeldUsage { column: "team_id", id: "team_b".into() };
    let old = format!("toDate(ts) = toDate({})", day_ago(50) / DAY_MS);
    let (of_held, all) =
        (rows(&client, "usage_events", &format!("{old} AND team_id = 'team_b'")).await, 2000);
    assert!(of_held > 0 && of_held < all);
    let retention = Retention { raw_days: 30, hourly_days: Some(40), daily_days: Some(60) };
    client.retain(&retention, std::slice::from_ref(&held)).await.unwrap();
    // Of the old day what is held stays, of the others everything does.
    assert_eq!(rows(&client, "usage_events", &old).await, of_held);
    assert_eq!(rows(&client, "usage_events", "team_id = 'team_b'").await, rows_of_held(&client).await);
    assert_eq!(rows(&client, "usage_events", "1").await, of_held + 2000);
    assert_eq!(
        rows(&client, "usage_hourly_rollup", "team_id != 'team_b' AND hour < now() - 3888000").await,
        0
    );
    assert_ne!(
        rows(&client, "usage_hourly_rollup", "team_id = 'team_b' AND hour < now() - 3888000").await,
        0
    );
    // Days are kept for longer, and reports still have all of it.
    assert_eq!(number(&client, "SELECT sum(requests) FROM liutong.usage_daily").await, 4000);
    let ledger = client.held().await.unwrap();
    assert_eq!((ledger.gone, ledger.surplus), (2000 - of_held, 0));
    // No table expires by itself meanwhile, also after a start.
    client.migrate(30).await.unwrap();
    let ttls = "SELECT count() FROM system.tables WHERE database = 'liutong' AND engine_full LIKE '% TTL %'";
    assert_eq!(number(&client, ttls).await, 0);
    client.retain(&retention, &[]).await.unwrap();
    assert_eq!(number(&client, ttls).await, 4);
    client.execute("OPTIMIZE TABLE liutong.usage_events FINAL").await.unwrap();
    assert_eq!(rows(&client, "usage_events", &old).await, 0, "released, it expires");
    // And a shorter one takes effect.
    client.retain(&Retention { raw_days: 10, ..retention }, &[]).await.unwrap();
    client.execute("OPTIMIZE TABLE liutong.usage_events FINAL").await.unwrap();
    assert_eq!(rows(&client, "usage_events", "1").await, 1000);
}

async fn rows_of_held(client: &controlplane::clickhouse::Client) -> u64 {
    // From the days, which have not expired.
    number(client, "SELECT sum(requests) FROM liutong.usage_daily WHERE team_id = 'team_b'").await
}

#[tokio::test]
async fn an_erased_team_leaves_sums_under_a_random_name_and_nothing_else() {
    let shared = start();
    let client = shared.endpoint.client();
    for number in 1..=3 {
        send(
            &client,
            &batch(&mut Random(number), 4, number, day_ago(i64::try_from(number).unwrap()), 24, 1000),
        )
        .await;
    }
    let rollup = eager(&client);
    roll_up(&client, &rollup, (day_ago(3), day_ago(2))).await;
    let sums = "SELECT sum(requests), sum(total_tokens) FROM liutong.usage_daily";
    let of = async |sql: String| client.query(&sql).fetch_one::<(u64, u64)>().await.unwrap();
    let (all, theirs) = (of(sums.into()).await, of(format!("{sums} WHERE team_id = 'team_b'")).await);
    assert!(theirs.0 > 0 && theirs.0 < all.0);
    let erased = ErasedUsage {
        column: "team_id",
        id: "team_b".into(),
        pseudonym: "erased_x".into(),
        names: vec!["team_b".into(), "app_b".into()],
        is_done: false,
    };
    assert!(client.erase_usage(&erased).await.unwrap() >= theirs.0);
    // Again, as after a crash: nothing is counted twice.
    assert_eq!(client.erase_usage(&erased).await.unwrap(), 0);
    for table in ["usage_events", "usage_hourly_rollup", "usage_daily_rollup", "usage_hourly", "usage_daily"]
    {
        assert_eq!(rows(&client, table, "team_id = 'team_b'").await, 0, "{table}");
    }
    let left = of("SELECT sum(requests), sum(total_tokens) FROM liutong.usage_erased".into()).await;
    assert_eq!(left, theirs);
    // Reports are right for the others, before the rollup comes round and after it.
    for _ in 0..2 {
        assert_eq!(of(sums.into()).await, (all.0 - theirs.0, all.1 - theirs.1));
        rollup.pass().await.unwrap();
    }
    let ledger = client.held().await.unwrap();
    assert_eq!((ledger.gone, ledger.surplus), (theirs.0, 0));
    let numbers = client.ledger_numbers(&[]).await.unwrap();
    assert_eq!((numbers[0].stored, numbers[0].doubled), (3000, 0), "all are accounted for");
    let bad = ErasedUsage { id: "x' OR 1 = 1 --".into(), ..erased };
    client.erase_usage(&bad).await.unwrap_err();
}

#[tokio::test]
async fn usage_that_comes_in_behind_an_erasure_goes_too_and_its_sums_are_kept_once() {
    let shared = start();
    let client = shared.endpoint.client();
    let id = |is_done| ErasedUsage {
        column: "team_id",
        id: "team_b".into(),
        pseudonym: "erased_late".into(),
        names: vec!["team_b".into()],
        is_done,
    };
    let sums = "SELECT sum(requests) FROM liutong.usage_erased WHERE startsWith(pseudonym, 'erased_late')";
    let mut expected = 0;
    for number_of in [1, 2, 3] {
        let batch = batch(&mut Random(number_of), 6, number_of, day_ago(2), 24, 500);
        send(&client, &batch).await;
        expected += rows(&client, "usage_events", "team_id = 'team_b'").await;
        for again in [false, true] {
            client.erase_usage(&id(number_of > 1 || again)).await.unwrap();
        }
        assert_eq!(number(&client, sums).await, expected, "after batch {number_of}");
        assert_eq!(rows(&client, "usage_daily", "team_id = 'team_b'").await, 0);
    }
    assert!(expected > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_erasure_of_late_usage_ends_and_whatever_comes_meanwhile_each_event_is_summed_once() {
    let engine = start();
    let client = engine.endpoint.client();
    let target = engine.endpoint.url.trim_start_matches("http://").parse().unwrap();
    let proxy = FaultProxy::start(target).unwrap();
    let mut endpoint = engine.endpoint.clone();
    endpoint.url = proxy.url();
    let through = endpoint.client();
    let erased = ErasedUsage {
        column: "team_id",
        id: "team_b".into(),
        pseudonym: "erased_cut".into(),
        names: vec!["team_b".into()],
        is_done: true,
    };
    let sums = "SELECT sum(requests) FROM liutong.usage_erased WHERE startsWith(pseudonym, 'erased_cut')";
    let (mut number_of, mut expected) = (0, 0);
    let mut arrive = async || {
        number_of += 1;
        let batch = batch(&mut Random(number_of), 8, number_of, day_ago(2), 24, 300);
        expected += batch.iter().filter(|row| row.team_id == "team_b").count() as u64;
        send(&client, &batch).await;
        expected
    };
    for statement in ["INSERT INTO liutong.usage_erased", "ALTER TABLE liutong.usage_events DELETE"] {
        for fault in [Fault::CutBefore, Fault::CutAfter] {
            arrive().await;
            proxy.add(Rule::next(1, statement, fault));
            through.erase_usage(&erased).await.unwrap_err();
            let expected = arrive().await;
            through.erase_usage(&erased).await.unwrap();
            assert_eq!(number(&client, sums).await, expected, "{fault:?} {statement}");
            assert_eq!(client.erased_usage_left(&erased).await.unwrap(), 0, "{fault:?} {statement}");
        }
        // One comes while that statement is carried out and not answered yet.
        arrive().await;
        proxy.add(Rule::next(1, statement, Fault::LateAnswer(Duration::from_secs(2))));
        let meanwhile = async {
            while proxy.faults_left() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            arrive().await
        };
        let (ended, expected) = tokio::join!(through.erase_usage(&erased), meanwhile);
        ended.unwrap();
        through.erase_usage(&erased).await.unwrap();
        assert_eq!(number(&client, sums).await, expected, "late answer, {statement}");
        assert_eq!(client.erased_usage_left(&erased).await.unwrap(), 0, "late answer, {statement}");
    }
}

#[tokio::test]
async fn days_are_exported_page_by_page_and_minutes_are_reported_from_single_events() {
    let shared = start();
    let client = shared.endpoint.client();
    let mut sent = 0;
    for number in 1..=40 {
        let days = i64::try_from(number).unwrap();
        let batch = batch(&mut Random(number), 7, number, day_ago(days), 24, 20);
        sent += batch.iter().filter(|row| row.team_id == "team_b").count();
        send(&client, &batch).await;
    }
    let (mut requests, mut pages, mut after) = (0, 0, None::<String>);
    loop {
        let (rows, next) = client.export_days("team_id", "team_b", after.as_deref()).await.unwrap();
        if rows.is_empty() {
            break;
        }
        pages += 1;
        requests += rows.iter().filter_map(|row| row["requests"].as_u64()).sum::<u64>();
        after = next;
    }
    assert_eq!((requests, pages), (sent as u64, 2));
    let query = UsageQuery {
        from_ms: day_ago(3),
        to_ms: day_ago(2),
        interval: Some(Interval::Minute),
        group_by: Vec::new(),
        filters: Vec::new(),
    };
    let report = client.usage(&query).await.unwrap();
    assert_eq!(report.rows.iter().map(|row| row.requests).sum::<u64>(), 20);
    for row in &report.rows {
        let start: jiff::Timestamp = row.start.as_deref().unwrap().parse().unwrap();
        assert!(start.as_second() % 60 == 0 && (day_ago(3)..day_ago(2)).contains(&start.as_millisecond()));
    }
    assert!(report.rows.len() > 5, "not all of them in one minute");
}

#[tokio::test]
async fn every_table_is_in_the_inventory_of_what_is_stored() {
    let shared = super::support::shared();
    let client = shared.endpoint.client();
    let retention = Retention { raw_days: 1, hourly_days: None, daily_days: None };
    let known: Vec<&str> = inventory::all(&retention, 30)
        .iter()
        .filter(|one| one.place == "clickhouse")
        .flat_map(|one| one.names.iter().copied())
        .collect();
    let sql = "SELECT name FROM system.tables WHERE database = 'liutong' AND engine LIKE '%MergeTree'
         AND NOT match(name, '_stage_')";
    for table in client.query(sql).fetch_all::<String>().await.unwrap() {
        assert!(known.contains(&table.as_str()), "{table} is stored, and nobody says so");
    }
}
