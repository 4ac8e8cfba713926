//! A team is erased while a batch of its usage, named already, does not get into ClickHouse.

use controlplane::clickhouse::retention::Retention;
use controlplane::privacy::Privacy;
use controlplane::publish::Hub;
use controlplane::registry::hold::SubjectKind;
use load_tests::clickhouse_faults::{Fault, Rule};

use super::faults::{EVENTS, World, events, until};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_was_named_before_an_erasure_is_in_its_sums() {
    let world = World::start().await;
    let hub = Arc::new(Hub::new(world.registry.clone()).await.unwrap());
    let retention = Retention { raw_days: 3650, hourly_days: None, daily_days: None };
    let privacy = Privacy::new(world.registry.clone(), hub, world.ingest.clone(), retention);
    assert!(world.stored(1, false, &events(1, 11)).await.is_empty());
    // Named, sent, refused, and to be tried again.
    world.proxy.add(Rule::next(3, EVENTS, Fault::Refuse(252)));
    let on_its_way = world.send(2, false, &events(11, 31));
    until("the batch to be under way", async || world.proxy.faults_left() < 3).await;
    let erased = privacy.erase(&world.registry, (SubjectKind::Team, "demo"), false).await.unwrap();
    assert_eq!(erased.rows, Some(30), "those of the batch, too");
    assert!(on_its_way.await.unwrap().is_empty());
    let sums = one(&world.client, "SELECT toString(sum(requests)) FROM liutong.usage_erased");
    assert_eq!(sums.await, "30");
    // What is named from now on is somebody's of whom nobody can tell anything.
    assert!(world.stored(3, false, &events(31, 36)).await.is_empty());
    let left = format!(
        "SELECT toString((count(), countIf(team_id = '{}'))) FROM liutong.usage_events",
        erased.due.subject
    );
    assert_eq!(one(&world.client, &left).await, "(5,0)");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_does_not_go_on_before_what_was_named_is_stored() {
    let world = World::start().await;
    let hub = Arc::new(Hub::new(world.registry.clone()).await.unwrap());
    let retention = Retention { raw_days: 3650, hourly_days: None, daily_days: None };
    let privacy = Arc::new(Privacy::new(world.registry.clone(), hub, world.ingest.clone(), retention));
    world.proxy.add(Rule::next(u64::MAX, EVENTS, Fault::Refuse(252)));
    let stop = CancellationToken::new();
    let (looking, stopped) = (privacy.clone(), stop.clone());
    let after = tokio::spawn(async move { looking.run(stopped).await });
    // It looks twice, at its start and at the first connection, at each of four tables; then it sleeps.
    until("two looks", async || world.proxy.seen("engine_full") >= 8).await;
    let on_its_way = world.send(1, false, &events(1, 11));
    until("the batch to be under way", async || world.proxy.faults_left() < u64::MAX).await;
    let erased = privacy.erase(&world.registry, (SubjectKind::Team, "demo"), false).await.unwrap();
    assert_eq!(erased.rows, None, "not yet");
    let sums = "SELECT toString(sum(requests)) FROM liutong.usage_erased";
    assert_eq!(one(&world.client, sums).await, "0");
    world.proxy.heal();
    assert!(on_its_way.await.unwrap().is_empty());
    until("the erasure to be done", async || one(&world.client, sums).await == "10").await;
    stop.cancel();
    after.await.unwrap();
    world.stop().await;
}
