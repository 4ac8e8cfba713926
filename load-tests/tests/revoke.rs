//! Revoking a key returns when every data plane refuses it; a new key works when `create` returns.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use load_tests::client::{Connection, post};
use load_tests::harness::ask::number;
use load_tests::harness::{SOON, Setup, System, signal};
use load_tests::upstream::{Options, Upstream};
use serde_json::json;

/// Enough that the kernel gives some to each of two workers: the chance that it does not is 2^-63.
const CONNECTIONS: usize = 64;
const LIMIT: Duration = Duration::from_millis(50);
/// How often a machine with much else to do may send them later than that.
const TRIES: usize = 20;

struct World {
    system: System,
    _upstream: Upstream,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let upstream = Upstream::start(Options::default()).unwrap();
        let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
        World { system, _upstream: upstream }
    })
}

fn request(key: &str) -> Vec<u8> {
    post("/v1/chat/completions", key, r#"{"model":"small","max_tokens":1,"seed":1}"#)
}

#[test]
fn revoked_key_is_refused_on_every_worker() {
    // That bound is ours to keep, not the machine's: only what went out well within it shows anything.
    let in_time = std::iter::repeat_with(revoke_and_ask).take(TRIES).any(|sent| sent < LIMIT);
    assert!(in_time, "sending took longer than {LIMIT:?} each time, so this showed nothing");
}

/// Gives how long after the call's return the requests had gone out, all of which are refused.
fn revoke_and_ask() -> Duration {
    let system = &world().system;
    let (id, secret) = system.create_key("demo");
    let request = request(&secret);
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| system.connection()).collect();
    for connection in &mut connections {
        // Also fills the cache of each worker with the key. It works at once: `create` waited for the data
        // plane.
        assert_eq!(connection.exchange(&request).unwrap().status(), 200);
    }
    let receipt = system.cli(&["key", "revoke", &id]);
    let returned = Instant::now();
    for connection in &mut connections {
        connection.send(&request).unwrap();
    }
    let sent = returned.elapsed();
    let mut statuses = BTreeMap::new();
    for connection in &mut connections {
        *statuses.entry(connection.response().unwrap().status()).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(401, CONNECTIONS)]), "all sent {sent:?} after the return");
    assert_eq!((&receipt["id"], &receipt["status"]), (&json!(id), &json!("revoked")), "{receipt}");
    assert_eq!(receipt["pending"], json!([]), "{receipt}");
    let nodes = receipt["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 1, "{receipt}");
    assert!(nodes[0]["node"].is_string() && nodes[0]["milliseconds"].is_number(), "{receipt}");
    sent
}

#[test]
fn revocation_survives_the_data_plane_with_the_control_plane_away() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    let (id, secret) = system.create_key("demo");
    let (_, other) = system.create_key("demo");
    let status = |key: &str| system.connection().exchange(&request(key)).unwrap().status();
    assert_eq!((status(&secret), status(&other)), (200, 200));
    system.cli(&["key", "revoke", &id]);
    let pids = system.pids().unwrap();
    signal(pids.controlplane, libc::SIGSTOP);
    signal(pids.dataplane, libc::SIGKILL);
    system.wait_restarted("dataplane", pids.dataplane, SOON);
    system.wait_ready(SOON);
    let statuses = (status(&secret), status(&other));
    signal(pids.controlplane, libc::SIGCONT);
    assert_eq!(statuses, (401, 200));
}

#[test]
fn revoking_twice_says_the_same() {
    let system = &world().system;
    let (id, _) = system.create_key("demo");
    let first = system.cli(&["key", "revoke", &id]);
    let again = system.cli(&["key", "revoke", &id]);
    assert_eq!((&first["status"], &again["status"]), (&json!("revoked"), &json!("revoked")));
    let listed = system.cli(&["key", "show", &id]);
    assert_eq!(listed["status"], json!("revoked"));
    assert_eq!(number(&listed, "secret"), -1, "{listed}");
    assert!(listed.get("secret").is_none_or(serde_json::Value::is_null), "{listed}");
}
