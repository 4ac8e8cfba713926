//! Two control planes on one PostgreSQL, as processes, with two data planes and a ClickHouse: when one is
//! killed, keys, revocations and ingest go on.

#![allow(clippy::unwrap_used, reason = "tests")]

/// The processes, and questions to them.
mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use system::{CONTROL_PLANES, DATA_PLANES, System};

/// How soon a data plane has found the other control plane.
const SOON: Duration = Duration::from_secs(60);

/// Requests with one key, one after the other, until it is told to stop; every one must be answered.
fn load(
    system: &Arc<System>,
    plane: usize,
    key: &str,
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<u64> {
    let (system, key, stop) = (system.clone(), key.to_owned(), stop.clone());
    tokio::spawn(async move {
        let mut served = 0;
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(system.chat(plane, &key).await, 200, "request {served} at data plane {plane}");
            served += 1;
        }
        served
    })
}

/// Waits until a request with a key has a status at each data plane; returns how many it took to be served.
async fn until(system: &System, key: &str, status: u16, served: &AtomicU64) {
    let begun = Instant::now();
    for plane in 0..DATA_PLANES {
        loop {
            let now = system.chat(plane, key).await;
            if now == 200 {
                served.fetch_add(1, Ordering::Relaxed);
            }
            if now == status {
                break;
            }
            assert!(begun.elapsed() < SOON, "data plane {plane} says {now}, not {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_control_planes_is_killed_and_keys_revocations_and_ingest_go_on() {
    let mut system = System::start().await;
    let served = AtomicU64::new(0);
    let steady = system.create_key(0).await;
    let doomed = [system.create_key(0).await, system.create_key(1).await];
    // A key that one makes works at the data planes of both when the call returns.
    for (_, secret) in [&steady, &doomed[0], &doomed[1]] {
        for plane in 0..DATA_PLANES {
            assert_eq!(system.chat(plane, secret).await, 200);
            served.fetch_add(1, Ordering::Relaxed);
        }
    }
    // And a receipt has both, whichever is asked.
    let receipt = system.revoke(0, &doomed[0].0).await;
    assert_eq!(
        (receipt["nodes"].as_array().unwrap().len(), &receipt["pending"]),
        (2, &json!([])),
        "{receipt}"
    );
    for plane in 0..DATA_PLANES {
        for _ in 0..5 {
            assert_eq!(system.chat(plane, &doomed[0].1).await, 401);
        }
    }

    let victim = system.take_control_plane(0);
    let system = Arc::new(system);
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..DATA_PLANES).map(|plane| load(&system, plane, &steady.1, &stop)).collect();
    victim.kill();

    // A new key, by the one that is left, reaches the data plane of the one that is gone.
    let fresh = system.create_key(1).await;
    until(&system, &fresh.1, 200, &served).await;
    let receipt = system.revoke(1, &doomed[1].0).await;
    assert_eq!(
        (receipt["nodes"].as_array().unwrap().len(), &receipt["pending"]),
        (2, &json!([])),
        "{receipt}"
    );
    for plane in 0..DATA_PLANES {
        assert_eq!(system.chat(plane, &doomed[1].1).await, 401, "nothing is accepted after the receipt");
    }
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        served.fetch_add(load.await.unwrap(), Ordering::Relaxed);
    }

    // What either data plane refused is told by whichever control plane is left, once.
    system.wait_for_uses(1, &doomed[0].0, 5 * DATA_PLANES as u64).await;
    system.wait_for_uses(1, &doomed[1].0, DATA_PLANES as u64).await;

    // Every request is in ClickHouse, once.
    let served = served.load(Ordering::Relaxed);
    assert!(served > 100, "{served} requests show little");
    system.wait_for_events(served).await;
    assert_eq!(CONTROL_PLANES, 2);
}
