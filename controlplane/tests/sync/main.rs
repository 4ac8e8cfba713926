//! What revocation and sync are held to, on real processes: how soon a revoked key is refused on every worker
//! of two data planes under load, one of them over TLS; that a control plane which is killed again and again
//! loses nothing; how soon a fresh data plane serves, and what it keeps of each key.
//!
//! As a test it is small and judges what must hold on any machine. `make sync-figures` runs it at full size
//! on an optimised build, judges the figures, and prints them.

#![allow(clippy::unwrap_used, reason = "tests")]

/// Connections that ask until they are refused.
mod probes;
/// A registry with many keys.
mod seed;
/// The processes.
mod world;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use controlplane::registry::{Place, Registry};
use load_tests::chaos::schedule::Condition;
use load_tests::client::load::{Amount, Plan, Template};
use load_tests::client::{Connection, load, post};
use load_tests::harness::{SOON, wait_until};
use serde_json::{Value, json};

use probes::{Probes, Seen, percentile};
use world::{DataPlane, World};

/// Connections under load to each data plane.
const LOAD_CONNECTIONS: usize = 32;
/// How soon a change is tried again that the control plane did not take.
const AGAIN_AFTER: Duration = Duration::from_millis(5);

/// How much is done, and whether figures are judged.
struct Scale {
    keys: usize,
    many_keys: usize,
    revocations: usize,
    kills: usize,
    is_judged: bool,
    missed: RefCell<Vec<String>>,
}

fn scale() -> Scale {
    let is_judged = std::env::var_os("LIUTONG_SYNC_FIGURES").is_some();
    let (keys, many_keys, revocations, kills) =
        if is_judged { (100_000, 1_000_000, 200, 50) } else { (500, 20_000, 8, 3) };
    Scale { keys, many_keys, revocations, kills, is_judged, missed: RefCell::default() }
}

impl Scale {
    /// Prints a figure, and keeps it for `verdict` where it is not below its limit.
    fn judge(&self, what: &str, figure: f64, limit: f64) {
        let line = format!("{what}: {figure:.3} (< {limit})");
        let is_missed = figure >= limit;
        println!("{line}{}", if is_missed { "  MISSED" } else { "" });
        if is_missed {
            self.missed.borrow_mut().push(line);
        }
    }

    /// Fails where figures are judged and one was missed; after all of them are printed.
    fn verdict(&self) {
        let missed = self.missed.borrow();
        assert!(!self.is_judged || missed.is_empty(), "missed: {missed:#?}");
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn chat(key: &str) -> Vec<u8> {
    let body = format!(r#"{{"model":"{}","max_tokens":1,"messages":[]}}"#, seed::ALIAS);
    post("/v1/chat/completions", key, &body)
}

/// Load on a data plane with many keys, until it is told to stop; everything must be answered with 200.
fn load_on(
    plane: &DataPlane,
    keys: std::ops::Range<usize>,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<u64> {
    let step = (keys.len() / 1000).max(1);
    let template = |number| Template { label: "load".into(), request: chat(&seed::secret(number)) };
    let templates: Vec<Template> = keys.step_by(step).map(template).collect();
    let (address, stop) = (plane.http, stop.clone());
    std::thread::spawn(move || {
        world::stand_elsewhere();
        let mut served = 0;
        while !stop.load(Ordering::Relaxed) {
            let amount = Amount::For(Duration::from_millis(500));
            let report = load::run(&Plan::new(address, LOAD_CONNECTIONS, amount, templates.clone())).unwrap();
            let ok = report.statuses.get(&200).copied().unwrap_or(0);
            let (statuses, failure) = (&report.statuses, &report.first_failure);
            assert!(ok == report.responses() && report.failures == 0, "{statuses:?} {failure:?}");
            served += ok;
        }
        served
    })
}

#[test]
fn revoked_keys_are_refused_on_every_worker_of_two_data_planes_under_load() {
    let scale = scale();
    let mut world = World::start(scale.keys);
    world.start_local();
    world.start_remote();
    world.wait_connected();
    let stop = Arc::new(AtomicBool::new(false));
    // The last ones are revoked, the others are under load.
    let spare = scale.revocations + 2;
    let loads = world.planes().map(|plane| load_on(plane, 0..scale.keys - spare, &stop));
    let began = Instant::now();
    let mut probes = Probes::open(&world.planes().map(|plane| plane.http));
    let mut seen: Vec<Vec<Seen>> = Vec::new();
    for number in scale.keys - spare..scale.keys - 2 {
        let path = format!("/keys/{}/revoke", seed::id(number));
        let (receipt, each) = probes.watch(&seed::secret(number), || world.admin("POST", &path, &json!({})));
        let confirmed = receipt["nodes"].as_array().unwrap().len();
        assert_eq!((confirmed, &receipt["pending"]), (2, &json!([])), "{receipt}");
        assert!(each.iter().all(|one| one.accepted_after == 0), "accepted after the receipt: {each:?}");
        seen.push(each);
    }
    cut_off_and_back(&world, scale.keys - 2, &scale);
    stop.store(true, Ordering::Relaxed);
    let served: u64 = loads.into_iter().map(|load| load.join().unwrap()).sum();
    println!(
        "{} keys, {} revocations, {:.0} exchanges/s meanwhile",
        scale.keys,
        seen.len(),
        served as f64 / began.elapsed().as_secs_f64()
    );
    for (at, (name, limit)) in [("local", 10.0), ("TLS", 50.0)].into_iter().enumerate() {
        let refused: Vec<Duration> = seen.iter().map(|each| each[at].refused).collect();
        let of = |percent| ms(percentile(&refused, percent));
        println!("refused, {name}, ms: p50 {:.2}, p99 {:.2}, at most {:.2}", of(50), of(99), of(100));
        scale.judge(&format!("p99 of refusal, {name}, ms"), of(99), limit);
    }
    let receipts: Vec<Duration> = seen.iter().map(|each| each[0].receipt).collect();
    let of = |percent| ms(percentile(&receipts, percent));
    println!("receipt, ms: p50 {:.2}, p99 {:.2}, at most {:.2}", of(50), of(99), of(100));
    scale.verdict();
}

/// A key that is revoked while a data plane is cut off is refused within a second of its coming back.
fn cut_off_and_back(world: &World, number: usize, scale: &Scale) {
    let remote = world.planes()[1].http;
    world.line.set(Condition::Apart);
    wait_until("the data plane to be away", SOON, || {
        let nodes = world.admin("GET", "/nodes", &Value::Null);
        let away = |node: &Value| node["name"] == "remote" && node["connected"] == false;
        nodes["data"].as_array().unwrap().iter().any(away).then_some(())
    });
    let path = format!("/keys/{}/revoke", seed::id(number));
    let receipt = world.admin("POST", &path, &json!({}));
    let pending = receipt["pending"].as_array().unwrap();
    assert_eq!((pending.len(), &pending[0]["name"]), (1, &json!("remote")), "{receipt}");
    let key = seed::secret(number);
    let mut connection = Connection::open(remote).unwrap();
    assert_eq!(connection.exchange(&chat(&key)).unwrap().status(), 200, "it does not know of it yet");
    let before = number_of_connections(world);
    world.line.set(Condition::Whole);
    // It tries again within two seconds; the second counts from when it is there.
    wait_until("the data plane to come back", SOON, || (number_of_connections(world) > before).then_some(()));
    let back = Instant::now();
    wait_until("the key to be refused", SOON, || {
        (connection.exchange(&chat(&key)).unwrap().status() == 401).then_some(())
    });
    scale.judge("refused after the reconnect, ms", ms(back.elapsed()), 1000.0);
    let receipt = world.admin("POST", &path, &json!({}));
    assert_eq!(receipt["pending"], json!([]), "both confirm what is revoked already: {receipt}");
}

fn number_of_connections(world: &World) -> usize {
    let nodes = world.admin("GET", "/nodes", &Value::Null);
    nodes["data"].as_array().unwrap().iter().filter(|node| node["connected"] == true).count()
}

#[test]
fn a_data_plane_that_was_cut_off_for_longer_than_it_may_be_refuses_until_it_is_back() {
    let mut world = World::start(1);
    let control = format!("{}\nstale_limit_seconds = 3600", world.socket());
    let plane = world.spawn_data_plane("old", "127.0.0.1", &control);
    wait_until("the data plane", SOON, || plane.is_ready().then_some(()));
    let current = world.data_dir("old").join("tables/current");
    wait_until("the first ping", SOON, || current.exists().then_some(()));
    world.kill_control_plane();
    drop(plane);
    // As if it had been away for two hours, in which the control plane was never reached.
    let noted = std::fs::read_to_string(&current).unwrap();
    let (at_ms, position) = noted.split_once(' ').unwrap();
    let at_ms: u64 = at_ms.parse().unwrap();
    std::fs::write(&current, format!("{:020} {position}", at_ms - 2 * 3_600_000)).unwrap();
    let plane = world.spawn_data_plane("old", "127.0.0.1", &control);
    let refused = wait_until("an answer", SOON, || plane.ops("/readyz"));
    assert!(refused.0 == 503 && refused.1.contains("stale_limit_seconds"), "{refused:?}");
    let mut connection = Connection::open(plane.http).unwrap();
    let answer = connection.exchange(&chat(&seed::secret(0))).unwrap();
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (503, &json!("not_ready")));
    let (_, metrics) = plane.ops("/metrics").unwrap();
    let age = metrics.lines().find_map(|line| line.strip_prefix("liutong_registry_age_seconds ")).unwrap();
    assert!((7200..7300).contains(&age.parse::<u64>().unwrap()), "{age}");
    world.start_control_plane();
    wait_until("the data plane to be served again", SOON, || plane.is_ready().then_some(()));
    assert_eq!(connection.exchange(&chat(&seed::secret(0))).unwrap().status(), 200);
}

/// A change that the control plane has acknowledged.
enum Acknowledged {
    Made(String),
    Revoked(String),
}

#[test]
fn a_control_plane_that_is_killed_again_and_again_loses_no_change_and_fails_no_request() {
    let scale = scale();
    let mut world = World::start(scale.keys);
    world.start_local();
    world.start_remote();
    world.wait_connected();
    let stop = Arc::new(AtomicBool::new(false));
    let loads = world.planes().map(|plane| load_on(plane, 0..scale.keys / 2, &stop));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let changes = make_changes(&world, scale.keys / 2..scale.keys, (&stop, &acknowledged));
    for kill in 0..scale.kills {
        // In the middle of what comes after some more changes.
        let enough = acknowledged.load(Ordering::Relaxed) + 2 + kill % 5;
        wait_until("changes", SOON, || (acknowledged.load(Ordering::Relaxed) >= enough).then_some(()));
        world.kill_control_plane();
        world.start_control_plane();
    }
    stop.store(true, Ordering::Relaxed);
    let changes = changes.join().unwrap();
    let served: u64 = loads.into_iter().map(|load| load.join().unwrap()).sum();
    world.wait_connected();
    // Every data plane comes to the registry's own tables.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sum = runtime.block_on(async {
        let registry = Registry::open(Place::File(world.registry())).await.unwrap();
        registry.table_sum().await.unwrap().1.to_string()
    });
    wait_until("the sums of both data planes", SOON, || {
        let nodes = world.admin("GET", "/nodes", &Value::Null);
        let same = |node: &&Value| node["tables"] == json!(sum);
        (nodes["data"].as_array().unwrap().iter().filter(same).count() == 2).then_some(())
    });
    let (mut made, mut revoked) = (0, 0);
    for plane in world.planes() {
        let mut connection = Connection::open(plane.http).unwrap();
        for change in &changes {
            let (key, status) = match change {
                Acknowledged::Made(secret) => (secret, 200),
                Acknowledged::Revoked(secret) => (secret, 401),
            };
            assert_eq!(connection.exchange(&chat(key)).unwrap().status(), status, "{}", &key[..14]);
            if status == 200 { made += 1 } else { revoked += 1 }
        }
    }
    assert!(made > 0 && revoked > 0, "{made} made, {revoked} revoked show little");
    println!(
        "{} kills; {served} exchanges, none failed; {} changes acknowledged, none lost; sums {sum}",
        scale.kills,
        changes.len()
    );
}

/// Makes and revokes keys, one after the other, while the control plane comes and goes.
fn make_changes(
    world: &World,
    doomed: std::ops::Range<usize>,
    (stop, count): (&Arc<AtomicBool>, &Arc<AtomicUsize>),
) -> std::thread::JoinHandle<Vec<Acknowledged>> {
    let (ask, stop, count) = (world.asker(), stop.clone(), count.clone());
    std::thread::spawn(move || {
        let (mut acknowledged, mut doomed) = (Vec::new(), doomed);
        while !stop.load(Ordering::Relaxed) && !doomed.is_empty() {
            if let Ok((201, made)) = ask("POST", "/keys", &json!({"application": seed::APPLICATION})) {
                acknowledged.push(Acknowledged::Made(made["secret"].as_str().unwrap().to_owned()));
            }
            let path = format!("/keys/{}/revoke", seed::id(doomed.start));
            match ask("POST", &path, &json!({})) {
                Ok((200, _)) => {
                    acknowledged.push(Acknowledged::Revoked(seed::secret(doomed.start)));
                    doomed.start += 1;
                }
                // Not there, or it did not get to say so: the same once more.
                _ => std::thread::sleep(AGAIN_AFTER),
            }
            count.store(acknowledged.len(), Ordering::Relaxed);
        }
        acknowledged
    })
}

#[test]
fn a_fresh_data_plane_serves_soon_and_keeps_little_of_each_key() {
    let scale = scale();
    // What a data plane takes that has hardly any keys.
    let mut small = World::start(1);
    small.start_local();
    let least = resident(small.local.as_ref().unwrap());
    drop(small);
    let mut world = World::start(scale.many_keys);
    let took = world.start_local();
    let bytes = resident(world.local.as_ref().unwrap()).saturating_sub(least) as f64 / scale.many_keys as f64;
    println!(
        "{} keys: served after {:.2} s, {bytes:.0} bytes a key resident",
        scale.many_keys,
        took.as_secs_f64()
    );
    scale.judge("snapshot to a fresh data plane, s", took.as_secs_f64(), 2.0);
    scale.judge("resident for each key, bytes", bytes, 200.0);
    let mut connection = Connection::open(world.local.as_ref().unwrap().http).unwrap();
    for number in [0, scale.many_keys / 2, scale.many_keys - 1] {
        assert_eq!(connection.exchange(&chat(&seed::secret(number))).unwrap().status(), 200);
    }
    judge_deltas(&world, &scale);
    scale.verdict();
}

/// Makes keys, one change each, and asks the data plane how long it took to apply them.
fn judge_deltas(world: &World, scale: &Scale) {
    const DELTAS: u32 = 200;
    let plane = world.local.as_ref().unwrap();
    let counters = || {
        let (_, metrics) = plane.ops("/metrics").unwrap();
        ["liutong_deltas_total ", "liutong_delta_apply_micro", "liutong_delta_durable_micro"].map(|name| {
            let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
        })
    };
    let before = counters();
    for _ in 0..DELTAS {
        let (status, made) =
            world.asker()("POST", "/keys", &json!({"application": seed::APPLICATION})).unwrap();
        assert_eq!(status, 201, "{made}");
    }
    let [deltas, apply_us, durable_us] =
        wait_until("the deltas", SOON, || Some(counters()).filter(|now| now[0] >= before[0] + DELTAS));
    let mean_ms = |sum_us: u32| f64::from(sum_us) / f64::from(deltas - before[0]) / 1000.0;
    println!("a delta durable after {:.3} ms", mean_ms(durable_us - before[2]));
    scale.judge("a delta applied, ms", mean_ms(apply_us - before[1]), 1.0);
}

/// Bytes in memory.
fn resident(plane: &DataPlane) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", plane.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
