//! The embedded engine as a process: when it serves, whom, and when it ends.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use controlplane::clickhouse::engine::{EngineError, EngineHandle, EngineOptions, config};
use controlplane::clickhouse::{ClickHouseError, Client};

const LIUTONG: &str = env!("CARGO_BIN_EXE_liutong");
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const SECRET: &str = "hunter2-swordfish";
const PARENT_OF: &str = "LIUTONG_TEST_ENGINE_DIR";

fn options(dir: &Path) -> EngineOptions {
    EngineOptions { port: 0, ..EngineOptions::new(LIUTONG, dir) }
}

fn code_of(result: Result<(), ClickHouseError>) -> u32 {
    match result {
        Err(ClickHouseError::Server { code, .. }) => code,
        other => panic!("expected a server's refusal, got {other:?}"),
    }
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_running(pid: u32) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("").starts_with('Z'))
}

#[tokio::test]
async fn engine_serves_whom_it_should_and_stops_in_order() {
    const ACCESS_DENIED: u32 = 497;
    const WRONG_PASSWORD: u32 = 516;
    const READONLY: u32 = 164;
    let dir = tempfile::tempdir().unwrap();
    let engine = EngineHandle::start(&options(dir.path())).await.unwrap();
    let endpoint = engine.endpoint().clone();
    let writer = endpoint.client();
    writer.migrate(30).await.unwrap();

    // Nobody without a password, and nothing for the user that must not have one.
    assert_eq!(code_of(Client::new(&endpoint.url, "liutong", "").execute("SELECT 1").await), WRONG_PASSWORD);
    assert_eq!(code_of(Client::new(&endpoint.url, "analyst", "x").execute("SELECT 1").await), WRONG_PASSWORD);
    let default = Client::new(&endpoint.url, "default", "");
    for sql in [
        "SELECT count() FROM liutong.usage_events",
        "SELECT * FROM liutong.usage_hourly",
        "SELECT * FROM file('/etc/passwd', LineAsString)",
        "SELECT * FROM url('http://127.0.0.1:1/', LineAsString)",
        "SELECT * FROM system.query_log",
        "SELECT * FROM system.processes",
        "CREATE TABLE liutong.t (a UInt8) ENGINE = Memory",
        "DROP DATABASE liutong",
        "SYSTEM SHUTDOWN",
    ] {
        let refused = default.execute(sql).await;
        assert!(matches!(refused, Err(ClickHouseError::Server { .. })), "{sql}: {refused:?}");
    }
    assert_eq!(code_of(default.execute("SELECT count() FROM liutong.usage_events").await), ACCESS_DENIED);

    let analyst = endpoint.analyst();
    analyst.execute("SELECT count() FROM liutong.usage_events").await.unwrap();
    assert_eq!(code_of(analyst.execute("SELECT count() FROM system.users").await), ACCESS_DENIED);
    let insert = "INSERT INTO liutong.names VALUES ('team', 'team_1', 'mine', 1)";
    assert!([ACCESS_DENIED, READONLY].contains(&code_of(analyst.execute(insert).await)));

    // The format of who names none, the memory cap, and no log of queries.
    let http = reqwest::Client::new();
    let answer = http.post(&endpoint.url).header("X-ClickHouse-User", &endpoint.user);
    let answer = answer.header("X-ClickHouse-Key", &endpoint.password).body("SELECT 1, 'two'");
    assert_eq!(answer.send().await.unwrap().text().await.unwrap(), "1\ttwo\n");
    let cap: String = writer
        .query("SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(cap, config::MEMORY_BYTES_MAX_DEFAULT.to_string());

    let pid = engine.pid();
    let status = engine.stop(STOP_DEADLINE).await.unwrap();
    let log = std::fs::read_to_string(dir.path().join("engine.log")).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(!is_running(pid));
}

#[tokio::test]
async fn data_survives_a_stop_a_kill_and_a_termination() {
    let dir = tempfile::tempdir().unwrap();
    let mut port = 0;
    for round in 0..4_u64 {
        let mut engine = EngineHandle::start(&EngineOptions { port, ..options(dir.path()) }).await.unwrap();
        let client = engine.endpoint().client();
        client.migrate(30).await.unwrap();
        port = engine.endpoint().url.rsplit(':').next().unwrap().parse().unwrap();
        let rows: u64 = client.query("SELECT count() FROM liutong.names").fetch_one().await.unwrap();
        assert_eq!(rows, round);
        let insert = format!("INSERT INTO liutong.names VALUES ('team', 'team_{round}', 'name', 1)");
        client.execute(&insert).await.unwrap();
        let signal = match round {
            0 => libc::SIGKILL,
            1 => libc::SIGTERM,
            _ => 0,
        };
        if signal == 0 {
            // Dropped, and started again before it has ended: the next one waits for it.
            drop(engine);
        } else {
            let kill = Command::new("kill").arg(format!("-{signal}")).arg(engine.pid().to_string()).status();
            assert!(kill.unwrap().success());
            let status = engine.wait().await.unwrap();
            assert_eq!(status.success(), signal == libc::SIGTERM, "{status}");
        }
    }
}

#[tokio::test]
async fn engine_ends_when_its_parent_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_of_an_engine", "--nocapture", "--test-threads=1"])
        .env(PARENT_OF, dir.path())
        .env("OPENAI_API_KEY", SECRET)
        .env("LIUTONG_BOOTSTRAP_ADMIN_KEY", SECRET)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let pid: Option<u32> = lines.find_map(|line| line.split_once("engine-pid=")?.1.parse().ok());
    let pid = pid.unwrap();
    assert!(is_running(pid));
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(
        environment.contains("PATH=") && !environment.contains(SECRET),
        "of its parent's secrets it has none"
    );
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the engine outlives its parent", || !is_running(pid)).await;
}

/// Not a test by itself: the process that the test above kills.
#[tokio::test]
async fn parent_of_an_engine() {
    let Some(dir) = std::env::var_os(PARENT_OF) else { return };
    let mut engine = EngineHandle::start(&options(Path::new(&dir))).await.unwrap();
    println!("engine-pid={}", engine.pid());
    engine.wait().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_and_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let started = EngineHandle::start(&EngineOptions { port, ..options(dir.path()) }).await;
    let Err(EngineError::Ended { log, .. }) = started else { panic!("{started:?}") };
    assert!(!log.is_empty());
    drop(taken);
    // The directory is free again.
    let engine = EngineHandle::start(&EngineOptions { port, ..options(dir.path()) }).await.unwrap();
    engine.stop(STOP_DEADLINE).await.unwrap();
}

#[test]
fn engine_refuses_to_run_without_a_pipe_or_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let run = |stdin: Stdio| {
        let arguments = ["clickhouse-engine", "--http-port", "1", "--dir"];
        Command::new(LIUTONG).args(arguments).arg(dir.path()).stdin(stdin).output().unwrap()
    };
    assert_eq!(run(Stdio::null()).status.code(), Some(64));
    // ClickHouse itself would serve without passwords here.
    assert_eq!(run(Stdio::piped()).status.code(), Some(1));
}
