//! Batches from the wire's bytes to ClickHouse's rows: stored once, with ids and names, whatever is away
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "tests")]

/// Usage on its way while it is erased.
mod erasure;
/// ClickHouse that fails, before and after it has done what it was asked.
mod faults;

use std::sync::Arc;
use std::time::Duration;

use controlplane::clickhouse::Client;
use controlplane::clickhouse::engine::{EngineHandle, EngineOptions};
use controlplane::clickhouse::rollup::{Rollup, RollupOptions};
use controlplane::ingest::store::{Connection, UsageStore};
use controlplane::ingest::{Batch, Ingest, names};
use controlplane::keys::Secret;
use controlplane::registry::application::NewApplication;
use controlplane::registry::key::NewKey;
use controlplane::registry::model::Deployment;
use controlplane::registry::organization::NewOrganization;
use controlplane::registry::team::{NewTeam, TeamPatch};
use controlplane::registry::{Place, Registry};
use tokio_util::sync::CancellationToken;
use wire::event::{Endpoint, Tokens, UsageEvent, UsageSource};
use wire::id::{AliasId, AttributionId, BatchSeq, BootId, DeploymentId, EventSeq, NodeId};
use wire::table::{Dialect, OnDisconnect};

const TS_MS: u64 = 1_795_000_000_000;

async fn registry(dir: &std::path::Path) -> Arc<Registry> {
    let place = match load_tests::postgres::database_if_chosen() {
        Some(url) => Place::Postgres(Secret::new(url)),
        None => Place::File(dir.join("registry.db")),
    };
    let registry = Registry::open(place).await.unwrap();
    let name = || "demo".to_owned();
    registry.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
    let team =
        NewTeam { name: name(), organization: name(), plan: Some("gold".into()), ..Default::default() };
    registry.create_team(team).await.unwrap();
    let application = NewApplication { name: name(), team: name(), ..Default::default() };
    registry.create_application(application).await.unwrap();
    registry.create_key(NewKey { application: name(), ..Default::default() }).await.unwrap();
    let deployment = Deployment {
        name: "served-by".into(),
        upstream: "http://127.0.0.1:1/v1".into(),
        upstream_model: String::new(),
        dialect: Dialect::Openai,
        credential: String::new(),
        api_version: String::new(),
        weight: 1,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 1,
        first_byte_timeout_ms: 1,
        idle_timeout_ms: 1,
    };
    registry.set_model("chat", &[deployment]).await.unwrap();
    Arc::new(registry)
}

fn event(count: u64) -> UsageEvent {
    UsageEvent {
        ts_ms: TS_MS + count,
        boot: BootId(5),
        seq: EventSeq::admitted(0, count),
        attribution: AttributionId(1),
        alias: AliasId(1),
        deployment: DeploymentId(1),
        status: 200,
        endpoint: Endpoint::ChatCompletions,
        stream: true,
        usage_source: UsageSource::Final,
        attempts: 1,
        tokens: Tokens { prompt: 1, cached: 2, cache_write: 3, completion: 4, reasoning: 5, total: 6 },
        latency_ms: 7,
        ttft_ms: 8,
    }
}

fn encode(events: &[UsageEvent]) -> Vec<u8> {
    events.iter().flat_map(UsageEvent::encode).collect()
}

fn batch(number: u64, resent: bool, events: &[u8]) -> Batch<'_> {
    Batch { node: NodeId(9), spool: BootId(5), batch: BatchSeq(number), resent, events }
}

async fn one(client: &Client, sql: &str) -> String {
    client.query(sql).fetch_one().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_become_rows_once_with_ids_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path()).await;
    let (connections, store) = UsageStore::new();
    let ingest = Arc::new(Ingest::new(registry.clone(), store.clone()));
    let stop = CancellationToken::new();
    let following = tokio::spawn(names::run(registry.clone(), store, stop.clone()));

    // The first batch comes while ClickHouse is away, and waits.
    let waiting = ingest.clone();
    let first = tokio::spawn(async move {
        let mixed = [event(1), UsageEvent { alias: AliasId(77), ..event(2) }, event(3)];
        waiting.store(&batch(1, false, &encode(&mixed))).await
    });
    let options = EngineOptions::new(env!("CARGO_BIN_EXE_liutong"), dir.path().join("clickhouse"));
    let engine = EngineHandle::start(&EngineOptions { port: 0, ..options }).await.unwrap();
    let client = engine.endpoint().client();
    client.migrate(3650).await.unwrap();
    assert!(!first.is_finished());
    let rollup = Arc::new(Rollup::new(client.clone(), RollupOptions::default()));
    connections.send_replace(Some(Connection { client: client.clone(), rollup }));
    assert_eq!(first.await.unwrap(), [1], "the unknown alias is refused, the others are stored");

    // Sent again, and again with the next: one row each.
    let mixed = encode(&[event(1), UsageEvent { alias: AliasId(77), ..event(2) }, event(3)]);
    assert_eq!(ingest.store(&batch(1, true, &mixed)).await, [1]);
    assert_eq!(ingest.store(&batch(1, false, &mixed)).await, [1]);
    let many: Vec<UsageEvent> = (10..2010).map(event).collect();
    assert!(ingest.store(&batch(2, false, &encode(&many))).await.is_empty());
    assert!(ingest.store(&batch(2, true, &encode(&many))).await.is_empty());
    let counted = one(
        &client,
        "SELECT toString((count(), uniqExact(boot, seq), sum(total_tokens))) FROM liutong.usage_events",
    );
    assert_eq!(counted.await, "(2002,2002,12012)");

    let key = registry.keys(None, None, &Default::default()).await.unwrap().rows.remove(0);
    let row = one(
        &client,
        "SELECT toString(tuple(node, spool_id, batch_seq, key_id, plan, model_alias, deployment, endpoint, stream, \
         status, prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens, reasoning_tokens, \
         usage_source, latency_ms, ttft_ms, attempts)) FROM liutong.usage_events WHERE seq = 3",
    );
    let expected = format!(
        "('0000000000000009','0000000000000005',1,'{}','gold','chat','served-by','chat.completions',true,200,1,2,3,4,5,\
         'final',7,8,1)",
        key.id
    );
    assert_eq!(row.await, expected);

    // Names arrive by themselves, and follow a rename.
    registry
        .update_team("demo", TeamPatch { name: Some("renamed".into()), ..Default::default() })
        .await
        .unwrap();
    let named = async {
        let sql = "SELECT toString(groupArray(name)) FROM \
                   (SELECT name FROM liutong.names FINAL WHERE kind = 'team')";
        while one(&client, sql).await != "['renamed']" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), named).await.expect("names are pushed");
    stop.cancel();
    following.await.unwrap();
    engine.stop(Duration::from_secs(30)).await.unwrap();
}
