//! A real ClickHouse behind a proxy that fails as told: whatever it does, every event is stored once, and
//! none is set aside that could be stored.

use std::net::SocketAddr;

use load_tests::clickhouse_faults::{Fault, FaultProxy, Rule};
use tokio::task::JoinHandle;

use super::*;

pub(super) const EVENTS: &str = "INSERT INTO `usage_events`";
const LEDGER: &str = "INSERT INTO `batches`";
const SOON: Duration = Duration::from_secs(60);

/// Ingest, in front of an engine of its own, behind a proxy.
pub(super) struct World {
    dir: tempfile::TempDir,
    engine: EngineHandle,
    pub(super) registry: Arc<Registry>,
    pub(super) proxy: FaultProxy,
    /// Past the proxy.
    pub(super) client: Client,
    pub(super) ingest: Arc<Ingest>,
}

impl World {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path()).await;
        let engine = start_engine(dir.path()).await;
        let client = engine.endpoint().client();
        client.migrate(3650).await.unwrap();
        let proxy = FaultProxy::start(address(&engine)).unwrap();
        let (connections, store) = UsageStore::new();
        let through = through(&proxy, &engine);
        let rollup = Arc::new(Rollup::new(through.clone(), RollupOptions::default()));
        connections.send_replace(Some(Connection { client: through, rollup }));
        let ingest = Arc::new(Ingest::new(registry.clone(), store));
        Self { dir, engine, registry, proxy, client, ingest }
    }

    /// Sends a batch; what is refused, once it is stored.
    pub(super) fn send(&self, number: u64, resent: bool, events: &[UsageEvent]) -> JoinHandle<Vec<u32>> {
        let (ingest, events) = (self.ingest.clone(), encode(events));
        tokio::spawn(async move { ingest.store(&batch(number, resent, &events)).await })
    }

    pub(super) async fn stored(&self, number: u64, resent: bool, events: &[UsageEvent]) -> Vec<u32> {
        tokio::time::timeout(SOON, self.send(number, resent, events)).await.expect("it is stored").unwrap()
    }

    /// How many rows there are, how many numbers, and what the ledger counts of stored and refused ones.
    async fn sums(&self) -> [u64; 4] {
        let sql = "SELECT n, numbers, ledger, given_back FROM
            (SELECT count() AS n, uniqExact(boot, seq) AS numbers FROM liutong.usage_events) AS events,
            (SELECT sum(rows) AS ledger, sum(refused) AS given_back FROM liutong.batches FINAL) AS batches";
        let (rows, numbers, ledger, refused) = self.client.query(sql).fetch_one().await.unwrap();
        [rows, numbers, ledger, refused]
    }

    pub(super) async fn stop(self) {
        drop(self.ingest);
        self.engine.stop(Duration::from_secs(30)).await.unwrap();
        drop(self.dir);
    }
}

async fn start_engine(dir: &std::path::Path) -> EngineHandle {
    let options = EngineOptions::new(env!("CARGO_BIN_EXE_liutong"), dir.join("clickhouse"));
    EngineHandle::start(&EngineOptions { port: 0, ..options }).await.unwrap()
}

fn address(engine: &EngineHandle) -> SocketAddr {
    engine.endpoint().url.trim_start_matches("http://").parse().unwrap()
}

fn through(proxy: &FaultProxy, engine: &EngineHandle) -> Client {
    let mut endpoint = engine.endpoint().clone();
    endpoint.url = proxy.url();
    endpoint.client()
}

pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(super) fn events(from: u64, to: u64) -> Vec<UsageEvent> {
    (from..to).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_clickhouse_answers_a_batch_is_stored_once_and_nothing_is_set_aside() {
    let world = World::start().await;
    // Too many parts, no memory, read-only, no disk, timeout, no table, types that differ, a request cut
    // short.
    let codes = [252, 241, 164, 243, 159, 60, 53, 33, 27];
    let before = codes.map(Fault::Refuse);
    let after = codes.map(Fault::RefuseAfter);
    let mut faults = vec![Fault::CutBefore, Fault::CutAfter, Fault::Late(Duration::from_millis(50))];
    faults.extend(before.into_iter().chain(after));
    let mut number = 0;
    for fault in faults {
        for statement in [EVENTS, LEDGER] {
            number += 1;
            world.proxy.add(Rule::next(2, statement, fault));
            let refused = world.stored(number, false, &events(number * 100, number * 100 + 50)).await;
            assert!(refused.is_empty(), "{fault:?} {statement}");
            assert!(world.proxy.faults_left() < 2, "{fault:?} {statement}");
            world.proxy.heal();
            let all = number * 50;
            assert_eq!(world.sums().await, [all, all, all, 0], "{fault:?} {statement}");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_may_have_been_sent_before_is_asked_for_and_not_sent_again() {
    let world = World::start().await;
    let sent = events(0, 500);
    world.stored(1, false, &sent).await;
    let before = world.proxy.seen(EVENTS);
    assert!(world.stored(1, true, &sent).await.is_empty());
    assert_eq!(world.proxy.seen(EVENTS), before, "nothing was inserted");

    // Killed between the events and the ledger: the events are not sent again, the ledger is made good.
    world.proxy.add(Rule::next(1, LEDGER, Fault::CutBefore));
    let cut = world.send(2, false, &events(500, 600));
    until("the ledger's row was cut", async || world.proxy.faults_left() == 0).await;
    cut.abort();
    let before = world.proxy.seen(EVENTS);
    assert!(world.stored(2, true, &events(500, 600)).await.is_empty());
    assert!(world.proxy.seen(EVENTS) <= before + 1);
    assert_eq!(world.sums().await, [600, 600, 600, 0]);

    // Long forgotten tokens: what ClickHouse has is found in its rows.
    let forget = "ALTER TABLE liutong.usage_events MODIFY SETTING non_replicated_deduplication_window = 0";
    world.client.execute(forget).await.unwrap();
    assert!(world.stored(1, true, &sent).await.is_empty());
    assert_eq!(world.sums().await, [600, 600, 600, 0]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_are_at_fault_are_given_back_and_the_split_is_the_same_each_time() {
    let world = World::start().await;
    // What it makes of these rows is too large, which nothing that is looked at tells from a bad row.
    let refuse = "ALTER TABLE liutong.usage_events ADD INDEX odd
        length(repeat('x', if(status = 599, 10000000, 1))) TYPE minmax";
    world.client.execute(refuse).await.unwrap();
    let mut sent = events(0, 1000);
    for bad in [0, 499, 500, 999] {
        sent[bad].status = 599;
    }
    // One of the halves is cut: the split begins anew, and stores nothing twice.
    world.proxy.add(Rule { skip: 4, ..Rule::next(1, EVENTS, Fault::CutAfter) });
    assert_eq!(world.stored(1, false, &sent).await, [0, 499, 500, 999]);
    assert_eq!(world.sums().await, [996, 996, 996, 4]);
    assert_eq!(world.stored(1, true, &sent).await, [0, 499, 500, 999]);
    assert_eq!(world.sums().await, [996, 996, 996, 4]);
    // They are refused no longer: who sends the batch once more has all of it stored, and none twice.
    world.client.execute("ALTER TABLE liutong.usage_events DROP INDEX odd").await.unwrap();
    assert_eq!(world.stored(1, true, &sent).await, Vec::<u32>::new());
    assert_eq!(world.sums().await[..2], [1000, 1000]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_table_delays_and_sets_nothing_aside() {
    let world = World::start().await;
    let waits = async |(number, count): (u64, u64), alter: &str, put_back: &str| {
        world.client.execute(alter).await.unwrap();
        let first = number * 100;
        let sent = world.send(number, false, &events(first, first + count));
        let failures = || counter(&world, "liutong_ingest_failures_total");
        let before = failures();
        until("it was tried a few times", async || sent.is_finished() || failures() >= before + 3).await;
        assert!(!sent.is_finished(), "{alter}: {:?} {:?}", sent.await, world.sums().await);
        world.client.execute(put_back).await.unwrap();
        let refused = tokio::time::timeout(SOON, sent).await.expect("it is stored").unwrap();
        assert_eq!(refused, Vec::<u32>::new(), "{alter}");
    };
    let alter = |what: &str| format!("ALTER TABLE liutong.usage_events {what}");
    waits((1, 60), &alter("MODIFY COLUMN status UInt32"), &alter("MODIFY COLUMN status UInt16")).await;
    waits((2, 60), &alter("RENAME COLUMN attempts TO tries"), &alter("RENAME COLUMN tries TO attempts"))
        .await;
    // Also where it refuses only some rows, or all of a few.
    for (number, check) in [(3, "status = 0"), (5, "seq % 2 = 0"), (6, "status = 0")] {
        let count = if number == 6 { 3 } else { 60 };
        let add = format!("ADD CONSTRAINT never CHECK {check}");
        waits((number, count), &alter(&add), &alter("DROP CONSTRAINT never")).await;
    }
    let view = "CREATE MATERIALIZED VIEW liutong.theirs ENGINE = MergeTree ORDER BY n AS
        SELECT throwIf(status = 200, 'theirs', 469::Int16) AS n FROM liutong.usage_events
        SETTINGS allow_custom_error_code_in_throwif = 1";
    // A view that somebody hung on the table fails behind it: the events are stored, whatever it says.
    world.client.execute(view).await.unwrap();
    assert!(world.stored(4, false, &events(400, 460)).await.is_empty());
    let [rows, numbers, ledger, refused] = world.sums().await;
    assert_eq!([rows, numbers, ledger, refused], [303, 303, 303, 0]);
    world.stop().await;
}

fn counter(world: &World, name: &str) -> u64 {
    world.ingest.counters().each().find(|counter| counter.0 == name).unwrap().3
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_token_alone_is_remembered_is_stored_and_stands_in_the_ledger_once() {
    let world = World::start().await;
    assert!(world.stored(1, false, &events(1, 51)).await.is_empty());
    // As after a disk that lied: ClickHouse knows that it had it, and has nothing of it.
    for table in ["usage_events", "batches"] {
        let lost = format!("ALTER TABLE liutong.{table} DELETE WHERE 1 SETTINGS mutations_sync = 2");
        world.client.execute(&lost).await.unwrap();
    }
    assert_eq!(world.sums().await, [0, 0, 0, 0]);
    for _ in 0..2 {
        assert!(world.stored(1, true, &events(1, 51)).await.is_empty());
        assert_eq!(world.sums().await, [50, 50, 50, 0]);
    }
    let ledger = one(&world.client, "SELECT toString(groupArray(token)) FROM liutong.batches FINAL").await;
    assert_eq!(ledger, "['0000000000000005:1']");
    world.stop().await;
}
