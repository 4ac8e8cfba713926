//! Refused uses of keys, which are told again and again; and when keys were used last.

use controlplane::clickhouse::Client;
use controlplane::clickhouse::erasure::ErasedUsage;
use controlplane::clickhouse::insert::Hex16;
use controlplane::clickhouse::key_uses::{Activity, KeyUseRow};
use controlplane::clickhouse::retention::{HeldUsage, Retention};

use super::support::{Random, batch, day_ago, eager, number, roll_up, send, start};

const MINUTE_MS: i64 = 60_000;

/// A sum of a run, `minutes` after the beginning of a day.
fn row(
    key: &'static str,
    team: &'static str,
    day: i64,
    minutes: i64,
    run: u64,
    uses: u64,
) -> KeyUseRow<'static> {
    KeyUseRow {
        minute: u32::try_from((day + minutes * MINUTE_MS) / 1000).unwrap(),
        organization_id: "org_a",
        team_id: team,
        application_id: "app_x",
        key_id: key,
        reason: "revoked",
        node: Hex16::new(1),
        boot: Hex16::new(run),
        uses,
    }
}

async fn sum(client: &Client, key: &str, span: (i64, i64)) -> u64 {
    let (all, minutes) = client.key_uses(key, span).await.unwrap();
    assert_eq!(minutes.iter().map(|one| one.uses).sum::<u64>(), all);
    all
}

#[tokio::test]
async fn what_is_told_again_counts_once_and_runs_add_up() {
    let shared = start();
    let client = shared.endpoint.client();
    let day = day_ago(1);
    let span = (day, day + 24 * 60 * MINUTE_MS);
    let tell = async |rows: &[KeyUseRow<'_>]| client.insert_key_uses(rows).await.unwrap();
    tell(&[row("key_x", "team_a", day, 5, 1, 3)]).await;
    tell(&[row("key_x", "team_a", day, 5, 1, 3), row("key_x", "team_a", day, 6, 1, 1)]).await;
    // An older sum that comes late, another run, and the key in another team meanwhile.
    tell(&[row("key_x", "team_a", day, 5, 1, 2), row("key_x", "team_a", day, 5, 2, 4)]).await;
    tell(&[row("key_x", "team_b", day, 5, 1, 5), row("key_y", "team_b", day, 9, 1, 1)]).await;
    for _ in 0..2 {
        let (all, minutes) = client.key_uses("key_x", span).await.unwrap();
        let shown: Vec<_> =
            minutes.iter().map(|one| (&one.minute[11..], one.reason.as_str(), one.uses)).collect();
        assert_eq!((all, shown), (10, vec![("00:06:00Z", "revoked", 1), ("00:05:00Z", "revoked", 9)]));
        client.execute("OPTIMIZE TABLE liutong.key_uses FINAL").await.unwrap();
    }
    let used = client.used_keys(None, span).await.unwrap();
    let shown: Vec<_> = used.iter().map(|one| (one.key_id.as_str(), one.uses, one.last_ms - day)).collect();
    assert_eq!(shown, [("key_y", 1, 9 * MINUTE_MS), ("key_x", 10, 6 * MINUTE_MS)]);
    let of_team = client.used_keys(Some(("team_id", "team_a")), span).await.unwrap();
    assert_eq!(of_team.iter().map(|one| (one.key_id.as_str(), one.uses)).collect::<Vec<_>>(), [("key_x", 8)]);
    assert_eq!(sum(&client, "key_x", (day, day + 6 * MINUTE_MS)).await, 9, "the end is not in a span");
    let (exported, next) = client.export_key_uses("key_id", "key_x", None).await.unwrap();
    let (rest, end) = client.export_key_uses("key_id", "key_x", next.as_deref()).await.unwrap();
    assert_eq!((rest.len(), end), (0, None));
    assert_eq!(exported.len(), 1, "{exported:?}");
    assert_eq!(exported[0]["uses"], serde_json::json!([["00:05", 9], ["00:06", 1]]));
}

#[tokio::test]
async fn refused_uses_expire_with_single_events_stay_while_held_and_go_when_erased() {
    let shared = start();
    let client = shared.endpoint.client();
    let (old, new) = (day_ago(50), day_ago(2));
    client
        .insert_key_uses(&[row("key_x", "team_a", old, 1, 1, 1), row("key_y", "team_b", old, 1, 1, 1)])
        .await
        .unwrap();
    client
        .insert_key_uses(&[row("key_x", "team_a", new, 1, 1, 1), row("key_y", "team_b", new, 1, 1, 1)])
        .await
        .unwrap();
    let held = HeldUsage { column: "team_id", id: "team_b".into() };
    let retention = Retention { raw_days: 30, hourly_days: None, daily_days: None };
    client.retain(&retention, &[held]).await.unwrap();
    let all = (0, day_ago(-1));
    assert_eq!((sum(&client, "key_x", all).await, sum(&client, "key_y", all).await), (1, 2));
    client.retain(&retention, &[]).await.unwrap();
    client.execute("OPTIMIZE TABLE liutong.key_uses FINAL").await.unwrap();
    assert_eq!((sum(&client, "key_x", all).await, sum(&client, "key_y", all).await), (1, 1));
    let (column, id, pseudonym) = ("key_id", "key_y".to_owned(), "erased_y".to_owned());
    let erased = ErasedUsage { column, names: vec![id.clone()], id, pseudonym, is_done: false };
    assert_eq!(client.erase_usage(&erased).await.unwrap(), 1);
    assert_eq!((sum(&client, "key_x", all).await, sum(&client, "key_y", all).await), (1, 0));
    assert_eq!(client.erased_usage_left(&erased).await.unwrap(), 0);
}

#[tokio::test]
async fn the_last_use_of_many_keys_is_one_question_that_reads_no_rows_of_events() {
    let shared = start();
    let client = shared.endpoint.client();
    let (day, older) = (day_ago(1), day_ago(55));
    for (spool, day) in [(1, older), (2, day)] {
        send(&client, &batch(&mut Random(spool), spool, 1, day, 24, 20_000)).await;
    }
    roll_up(&client, &eager(&client), (older, day)).await;
    client.insert_key_uses(&[row("key_b", "team_b", day, 1, 1, 6)]).await.unwrap();
    let keys = ["key_a", "key_b", "key_none"];
    let span = (day, day + 24 * 60 * MINUTE_MS);
    let activity = async || {
        let mut found = client.key_activity(&keys, span).await.unwrap();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let sql =
        "SELECT toUInt64(max(toUnixTimestamp64Milli(ts))) FROM liutong.usage_events WHERE key_id = 'key_b'";
    let last_ms = i64::try_from(number(&client, sql).await).unwrap();
    let found = activity().await;
    let names: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["key_a", "key_b"]);
    let last_used_ms = Some(last_ms / MINUTE_MS * MINUTE_MS);
    assert_eq!(found[1].1, Activity { last_used_ms, refused: 6 });
    assert_eq!(found[0].1.refused, 0);
    let plan: Vec<String> = client
        .query(
            "EXPLAIN SELECT key_id AS k, max(ts) FROM liutong.usage_events
             WHERE key_id IN ['key_a', 'key_b'] GROUP BY k",
        )
        .fetch_all()
        .await
        .unwrap();
    assert!(plan.iter().any(|line| line.contains("last_used")), "{plan:#?}");
    // Once the events are gone it is the day.
    client.execute("TRUNCATE TABLE liutong.usage_events").await.unwrap();
    assert_eq!(activity().await[1].1, Activity { last_used_ms: Some(day), refused: 6 });
}
