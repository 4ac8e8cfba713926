//! `liutong usage verify` on a running system: it agrees with what clients saw, across kills, and sees a
//! loss.
#![allow(clippy::unwrap_used, reason = "a test")]

use load_tests::client::{Amount, Plan, Template, load, post};
use load_tests::harness::ask::http;
use load_tests::harness::{SOON, Setup, System, signal, wait_until};
use load_tests::upstream::{Options, Upstream};
use serde_json::Value;

const REQUESTS: u64 = 500;

fn send(system: &System) {
    let body = r#"{"model":"small","seed":1,"max_tokens":1}"#;
    let template =
        Template { label: "all".to_owned(), request: post("/v1/chat/completions", system.key(), body) };
    let plan = Plan::new(system.address(), 8, Amount::Requests(REQUESTS), vec![template]);
    let report = load::run(&plan).unwrap();
    assert_eq!((report.statuses.get(&200), report.failures), (Some(&REQUESTS), 0), "{report:?}");
}

/// Changes ClickHouse's data behind the back of everyone, as its own user.
fn tamper(system: &System, sql: &str) {
    let passwords = std::fs::read(system.ready.data_dir.join("clickhouse/passwords.json")).unwrap();
    let passwords: Value = serde_json::from_slice(&passwords).unwrap();
    let headers =
        [("x-clickhouse-user", "liutong"), ("x-clickhouse-key", passwords["liutong"].as_str().unwrap())];
    let response = http("POST", &system.ready.clickhouse_url, &headers, sql.as_bytes()).unwrap();
    assert_eq!(response.status(), 200, "{}", response.text());
}

/// What the command says, and its exit status.
fn verify(system: &System, more: &[&str]) -> (String, i32) {
    let output = system.command(&[&["usage", "verify"], more].concat()).unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

/// The verdict on all that was `sent`: a data plane reports once a second, and what it has given out since
/// does not count yet.
fn until_verdict(system: &System, expected: &str, sent: u64) -> Value {
    wait_until(expected, SOON, || {
        let (text, _) = verify(system, &["-o", "json"]);
        let found: Value = serde_json::from_str(&text).ok()?;
        (found["verdict"] == expected && found["admitted"] == sent).then_some(found)
    })
}

#[test]
fn every_exchange_is_accounted_for_across_kills_and_a_loss_is_seen() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    let mut sent = 0;
    for name in ["dataplane", "controlplane", "clickhouse"] {
        send(&system);
        sent += REQUESTS;
        let pids = system.pids().unwrap();
        let pid = match name {
            "controlplane" => pids.controlplane,
            "clickhouse" => pids.clickhouse,
            _ => pids.dataplane,
        };
        signal(pid, libc::SIGKILL);
        system.wait_restarted(name, pid, SOON);
        system.wait_ready(SOON);
    }
    system.wait_clickhouse(SOON);
    send(&system);
    sent += REQUESTS;
    system.wait_for_rows("status = 200", sent);
    let found = until_verdict(&system, "complete", sent);
    for (field, expected) in [("stored", sent), ("lost", 0), ("doubled", 0), ("rows_held", sent)] {
        assert_eq!(found[field], expected, "{field}: {found}");
    }
    assert_eq!(found["nodes"][0]["processes_killed"], 1, "{found}");
    let (text, status) = verify(&system, &[]);
    assert_eq!(status, 0, "{text}");
    assert!(text.ends_with("Every admitted exchange is stored once or set aside.\n"), "{text}");

    // Every row goes before anything was made of them: ClickHouse has lost what it had acknowledged.
    tamper(&system, "TRUNCATE TABLE liutong.usage_events");
    let found = until_verdict(&system, "lost", sent);
    assert_eq!((&found["rows_lost"], &found["lost"]), (&sent.into(), &sent.into()), "{found}");
    // Or they are in the sums of their day, as when retention takes them: the ledger still accounts for them.
    let insert = "INSERT INTO liutong.usage_daily_rollup (day, requests)
        SELECT day, sum(rows) FROM liutong.batches FINAL GROUP BY day";
    tamper(&system, insert);
    let found = until_verdict(&system, "complete", sent);
    assert_eq!((&found["rows_gone"], &found["stored"]), (&sent.into(), &sent.into()));

    // A batch that nobody has any more.
    let lost: u64 = system
        .clickhouse("SELECT rows FROM liutong.batches FINAL ORDER BY inserted_at, batch_seq LIMIT 1")
        .parse()
        .unwrap();
    tamper(
        &system,
        "DELETE FROM liutong.batches WHERE (spool_id, batch_seq) IN
         (SELECT spool_id, batch_seq FROM liutong.batches FINAL ORDER BY inserted_at, batch_seq LIMIT 1)",
    );
    let found = until_verdict(&system, "lost", sent);
    assert_eq!(found["lost"], lost, "{found}");
    let (text, status) = verify(&system, &[]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("missing: numbers ") && text.contains("LOST: "), "{text}");
}

#[test]
fn what_clickhouse_lost_after_it_had_acknowledged_it_is_sent_again() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    send(&system);
    // Some of it in a spool of a process that is gone.
    let pids = system.pids().unwrap();
    system.wait_for_rows("status = 200", REQUESTS);
    signal(pids.dataplane, libc::SIGKILL);
    system.wait_restarted("dataplane", pids.dataplane, SOON);
    system.wait_ready(SOON);
    send(&system);
    until_verdict(&system, "complete", 2 * REQUESTS);
    // As a server that came back without its disk.
    tamper(&system, "DROP DATABASE liutong SYNC");
    wait_until("the rows are there again", SOON, || {
        let found = system
            .try_clickhouse("SELECT count(), uniqExact(boot, seq) FROM usage_events WHERE status = 200");
        (found.ok()? == format!("{}\t{}", 2 * REQUESTS, 2 * REQUESTS)).then_some(())
    });
    let found = until_verdict(&system, "complete", 2 * REQUESTS);
    assert_eq!((&found["stored"], &found["doubled"]), (&(2 * REQUESTS).into(), &0.into()), "{found}");
}
