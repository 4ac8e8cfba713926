//! What of a batch can be stored, and that nothing is acknowledged that is not. `tests/ingest/main.rs`
//! stores for real.

use wire::event::{Endpoint, Tokens, UsageSource};
use wire::id::{AliasId, AttributionId, DeploymentId, EventSeq};

use super::*;
use crate::registry;
use crate::registry::application::NewApplication;
use crate::registry::key::NewKey;
use crate::registry::organization::NewOrganization;
use crate::registry::team::NewTeam;

async fn ingest() -> (Ingest, Arc<Registry>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(Registry::open(registry::place(dir.path())).await.unwrap());
    let name = || "demo".to_owned();
    registry.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
    let team =
        NewTeam { name: name(), organization: name(), plan: Some("gold".into()), ..Default::default() };
    registry.create_team(team).await.unwrap();
    let application = NewApplication { name: name(), team: name(), ..Default::default() };
    registry.create_application(application).await.unwrap();
    registry.create_key(NewKey { application: name(), ..Default::default() }).await.unwrap();
    (Ingest::new(registry.clone(), UsageStore::new().1), registry, dir)
}

fn event(attribution: u64) -> UsageEvent {
    UsageEvent {
        ts_ms: 1_795_000_000_000,
        boot: BootId(1),
        seq: EventSeq::admitted(0, 1),
        attribution: AttributionId(attribution),
        status: 400,
        endpoint: Endpoint::ChatCompletions,
        usage_source: UsageSource::None,
        tokens: Tokens::default(),
        ..UsageEvent::default()
    }
}

fn batch(events: &[u8]) -> Batch<'_> {
    Batch { node: NodeId(1), spool: BootId(2), batch: BatchSeq(3), resent: false, events }
}

fn encode(events: &[UsageEvent]) -> Vec<u8> {
    events.iter().flat_map(UsageEvent::encode).collect()
}

#[tokio::test]
async fn only_events_whose_numbers_were_given_can_be_stored() {
    let (ingest, _, _dir) = ingest().await;
    let mut damaged = encode(&[event(1)]);
    damaged[42] = 200;
    let far = UsageEvent { ts_ms: u64::MAX, ..event(1) };
    let alias = UsageEvent { alias: AliasId(7), ..event(1) };
    let deployment = UsageEvent { deployment: DeploymentId(7), ..event(1) };
    let mut events = encode(&[event(1), event(77), alias, deployment, far, event(1)]);
    events.extend(damaged);
    let (rows, refused) = ingest.rows(&batch(&events)).await.unwrap();
    assert_eq!(refused, [1, 2, 3, 4, 6]);
    assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), [0, 5]);
    let names = &rows[0].names;
    assert!(names.attribution.key_id.starts_with("key_"));
    assert_eq!((&*names.alias, &*names.deployment, names.attribution.plan.as_str()), ("", "", "gold"));
}

#[tokio::test]
async fn a_number_that_is_given_later_is_not_remembered_as_unknown() {
    let (ingest, registry, _dir) = ingest().await;
    let events = encode(&[event(2)]);
    assert_eq!(ingest.rows(&batch(&events)).await.unwrap().1, [0]);
    registry.create_key(NewKey { application: "demo".into(), ..Default::default() }).await.unwrap();
    assert_eq!(ingest.rows(&batch(&events)).await.unwrap().1, Vec::<u32>::new());
}

#[tokio::test]
async fn a_batch_is_not_acknowledged_while_clickhouse_is_away() {
    let (ingest, _, _dir) = ingest().await;
    let events = encode(&[event(1)]);
    let stored = tokio::time::timeout(Duration::from_millis(300), ingest.store(&batch(&events))).await;
    assert!(stored.is_err());
}

#[tokio::test]
async fn what_can_never_be_stored_is_given_back_only_once_the_ledger_says_so() {
    let (ingest, _, _dir) = ingest().await;
    let events = encode(&[event(77), event(78)]);
    let given_back = tokio::time::timeout(Duration::from_millis(300), ingest.store(&batch(&events))).await;
    assert!(given_back.is_err());
    assert_eq!(ingest.store(&batch(&[])).await, Vec::<u32>::new());
}
