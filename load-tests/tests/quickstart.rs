//! `liutong quickstart`: the first thing that a newcomer runs. It goes on where it was, looks after its
//! children, and leaves nothing behind however it ends.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use load_tests::client::Response;
use load_tests::harness::{SOON, STOP_LIMIT, Setup, System, alive, descendants, signal, wait_until};
use load_tests::upstream::{Options, Upstream};
use serde_json::{Value, json};

/// "Within a second", and as long again as a machine may take that is busy with other tests.
const RESTART_LIMIT: Duration = Duration::from_secs(20);

fn ask(system: &System, key: &str, alias: &str) -> Response {
    system.post("/chat/completions", key, &format!(r#"{{"model":"{alias}","max_tokens":1,"seed":1}}"#))
}

#[test]
fn the_demo_upstream_streams_the_words_of_the_prompt_back() {
    let system = System::start(&Setup::demo()).unwrap();
    assert!(system.ready.base_url.ends_with("/v1"), "{}", system.ready.base_url);
    let body = json!({
        "model": system.ready.alias, "stream": true,
        "messages": [{"role": "user", "content": "rivers flow and circulate"}],
    });
    let response = system.post("/chat/completions", system.key(), &body.to_string());
    assert_eq!(response.status(), 200, "{}", response.text());
    let events = response.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let content = |event: &String| {
        let event: Value = serde_json::from_str(event).ok()?;
        event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    };
    let said: Vec<String> = events.iter().filter_map(content).filter(|text| !text.is_empty()).collect();
    assert!(said.len() >= 4, "not word by word: {said:?}");
    assert!(said.concat().contains("rivers flow and circulate"), "{said:?}");
    let row = system.request_row(response.header("x-request-id"));
    assert_eq!((&row["usage_source"], &row["stream"]), (&json!("final"), &json!(true)), "{row}");
    // Quickstart itself has sent nothing that is metered.
    assert_eq!(system.count("SELECT count() FROM usage_events"), 1);
}

#[test]
fn a_second_start_goes_on_where_the_first_was() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let setup = Setup::for_upstream(&upstream.base_url());
    let directory = tempfile::Builder::new().prefix("liutong-test-").tempdir().unwrap();
    let mut first = System::start_in(&setup, directory.path()).unwrap();
    let key = first.key().to_owned();
    assert_eq!(ask(&first, &key, "small").status(), 200);
    // Stopped at once: the event may still be on its way, and arrives after the next start.
    assert!(first.stop(), "{}", first.logs());
    let second = System::start_in(&setup, directory.path()).unwrap();
    assert_eq!(second.ready.api_key, None);
    assert_eq!((&second.ready.key_id, &second.ready.alias), (&first.ready.key_id, &first.ready.alias));
    assert_eq!(ask(&second, &key, "small").status(), 200);
    second.wait_for_rows("status = 200 AND prompt_tokens = 1", 2);
}

#[test]
fn children_that_are_killed_come_back_on_the_same_ports() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    let mut served = 0;
    for name in ["dataplane", "controlplane", "clickhouse"] {
        let before = system.pids().unwrap();
        let pid = match name {
            "dataplane" => before.dataplane,
            "controlplane" => before.controlplane,
            _ => before.clickhouse,
        };
        let killed = Instant::now();
        signal(pid, libc::SIGKILL);
        let now = system.wait_restarted(name, pid, SOON);
        let took = killed.elapsed();
        assert!(took < RESTART_LIMIT, "{name} took {took:?} to come back");
        assert!(alive(now), "{name}");
        let after = system.pids().unwrap();
        let changed = before.all().into_iter().filter(|pid| !after.all().contains(pid)).count();
        assert_eq!(changed, 1, "only {name} was killed: {before:?}, {after:?}");
        system.wait_ready(SOON);
        system.wait_clickhouse(SOON);
        // All addresses are those of the first line.
        assert_eq!(ask(&system, system.key(), "small").status(), 200, "after {name}");
        served += 1;
        wait_until("the admin API", SOON, || system.try_cli(&["key", "list"]).ok());
        system.wait_for_rows("status = 200", served);
    }
}

/// Starts a system, ends its supervisor, and expects that no process of it is left.
fn ends_without_orphans(end: impl FnOnce(&mut System)) {
    let mut system = System::start(&Setup::demo()).unwrap();
    let mut processes: BTreeSet<i32> = descendants(system.pid()).into_iter().collect();
    processes.extend(system.pids().unwrap().all());
    assert!(processes.len() >= 3, "{processes:?}");
    end(&mut system);
    wait_until("all processes to end", STOP_LIMIT, || {
        let left: Vec<i32> = processes.iter().copied().filter(|&pid| alive(pid)).collect();
        left.is_empty().then_some(())
    });
}

#[test]
fn a_killed_quickstart_leaves_no_orphans() {
    ends_without_orphans(|system| system.kill_supervisor().unwrap());
}

#[test]
fn ctrl_c_stops_everything_in_order() {
    ends_without_orphans(|system| {
        signal(system.pid(), libc::SIGINT);
        wait_until("quickstart to end", STOP_LIMIT, || (!alive(system.pid())).then_some(()));
        assert!(system.stop(), "it did not end with success: {}", system.logs());
    });
}

#[test]
fn an_address_in_use_is_said_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("stderr");
    let mut command = std::process::Command::new(load_tests::harness::binary("liutong").unwrap());
    command.arg("quickstart").arg("--data-dir").arg(directory.path().join("data")).args(["--http", &address]);
    command.args(["--ops", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--clickhouse", "127.0.0.1:0"]);
    let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let started = Instant::now();
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if started.elapsed() > SOON => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if ended.is_none() {
        signal(i32::try_from(child.id()).unwrap(), libc::SIGTERM);
        child.wait().unwrap();
    }
    let stderr = std::fs::read_to_string(log).unwrap();
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?}: {stderr}");
    assert!(stderr.contains(&address), "{stderr}");
    // Nobody wants to read it twice a second.
    assert!(stderr.matches(&address).count() < 5, "{stderr}");
}
