//! The tables: what is stored, once; what is derived from it; who may see it under which name.
//!
//! The tests share one engine, so each has its own days and spool.

#![allow(clippy::unwrap_used, reason = "tests")]

/// Hours and days derived from raw.
mod rollups;
/// When keys were used.
mod key_uses;
/// The control plane killed in the middle of it.
mod rollup_kills;
/// Numbers, batches and rows against the ledger.
mod completeness;
/// Retention and erasure.
mod privacy;
/// An engine, and batches.
mod support;

use controlplane::clickhouse::Client;
use controlplane::clickhouse::insert::{DAY_MS, Hex16, InsertError, UsageRow, UsageSource};
use controlplane::clickhouse::names::{Name, NameKind};
use controlplane::clickhouse::usage_query::{Dimension, Interval, UsageQuery, UsageReport};

use self::support::{
    HOUR_MS, RAW_DAYS, Random, TEAMS, batch, day_ago, eager, roll_up, send, shared, start, store,
};

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
async fn what_refuses_the_ledger_is_no_refusal_of_the_events() {
    // An engine of its own: its ledger takes nothing for a while.
    let shared = start();
    let client = shared.endpoint.client();
    let rows = batch(&mut Random(11), 0xa0, 1, day_ago(1), 24, 10);
    let refuse = "ALTER TABLE liutong.batches ADD CONSTRAINT nothing CHECK rows = 0";
    client.execute(refuse).await.unwrap();
    let outcome = store(&client, "a", &rows).await;
    // Split in halves, the rows would be stored again under other tokens.
    assert!(matches!(&outcome, Err(InsertError::Unacknowledged(error)) if error.is_refusal()), "{outcome:?}");
    client.execute("ALTER TABLE liutong.batches DROP CONSTRAINT nothing").await.unwrap();
    store(&client, "a", &rows).await.unwrap();
    assert_eq!(client.batch_present(Hex16::new(0xa0), 1).await.unwrap(), 10);
    assert_eq!(client.batch_recorded(Hex16::new(0xa0), 1).await.unwrap().rows, 10);
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
    let found = Name { kind: NameKind::Team, id: "team_found", name: "The Found" };
    assert_eq!(client.sync_names(&[found]).await.unwrap(), 1);
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
    let away = Client::new(&url, "liutong", "secret-password").insert_events("t", &rows).await;
    assert!(matches!(&away, Err(InsertError::Unacknowledged(_))), "{away:?}");
    let shared = shared();
    let refused =
        Client::new(&shared.endpoint.url, "liutong", "secret-password").insert_events("t", &rows).await;
    let Err(InsertError::Unacknowledged(error)) = refused else { panic!("{refused:?}") };
    assert!(!error.to_string().contains("secret-password"));
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
    let renamed = Name { kind: NameKind::Team, id: ids.1, name: "流通 'new'" };
    assert_eq!(client.sync_names(&[renamed]).await.unwrap(), 1);
    assert_eq!(seen(shared.endpoint.analyst(), "流通 'new'").await, 20);
    assert_eq!(seen(shared.endpoint.analyst(), "Old").await, 0);
}
