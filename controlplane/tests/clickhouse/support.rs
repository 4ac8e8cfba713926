//! An engine with the tables, shared by the tests that run at once, and batches to put into it.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use controlplane::clickhouse::Client;
use controlplane::clickhouse::engine::{Endpoint, EngineHandle, EngineOptions};
use controlplane::clickhouse::insert::{DAY_MS, Hex16, InsertError, UsageRow, UsageSource};
use controlplane::clickhouse::rollup::{Rollup, RollupOptions};

pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const RAW_DAYS: u32 = 60;

pub(crate) const TEAMS: [(&str, &str, &str, &str); 4] = [
    ("org_a", "team_a", "app_a", "key_a"),
    ("org_a", "team_b", "app_b", "key_b"),
    ("org_a", "team_b", "app_c", "key_c"),
    ("org_b", "team_c", "app_d", "key_d"),
];
pub(crate) const MODELS: [&str; 3] = ["chat", "embed", ""];

/// An engine that stops with the last test that uses it.
pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
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

pub(crate) fn start() -> Shared {
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

pub(crate) fn shared() -> Arc<Shared> {
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
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(crate) fn day_ago(days: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (i64::try_from(now.as_millis()).unwrap() / DAY_MS - days) * DAY_MS
}

/// A batch of `count` events in hours `0..hours` of the day that begins at `day`.
pub(crate) fn batch(
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

pub(crate) async fn send(client: &Client, rows: &[UsageRow<'_>]) {
    let token = format!("{}:{}", rows[0].spool_id.as_str(), rows[0].batch_seq);
    store(client, &token, rows).await.unwrap();
}

/// Events, then their row of the ledger.
pub(crate) async fn store(client: &Client, token: &str, rows: &[UsageRow<'_>]) -> Result<(), InsertError> {
    client.insert_events(token, rows).await?;
    client.record_batch(token, rows).await
}

pub(crate) async fn number(client: &Client, sql: &str) -> u64 {
    client.query(sql).fetch_one().await.unwrap()
}

/// Passes until these days are rolled up; another test's pass can open them again meanwhile.
pub(crate) async fn roll_up(client: &Client, rollup: &Rollup, days: (i64, i64)) {
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

pub(crate) fn eager(client: &Client) -> Rollup {
    let options = RollupOptions { grace: Duration::ZERO, quiet: Duration::ZERO, ..RollupOptions::default() };
    Rollup::new(client.clone(), options)
}
