//! A control plane that is killed in the middle of a rebuild, at each of its statements, before ClickHouse
//! has carried it out and after: the views equal raw all the while, and the next process finishes it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use load_tests::clickhouse_faults::{Fault, FaultProxy, Rule};

use super::rollups::assert_views_equal_raw;
use super::support::{Random, batch, day_ago, number, send, start};
use controlplane::clickhouse::insert::DAY_MS;

const PROGRAM: &str = env!("CARGO_BIN_EXE_liutong-controlplane");
const SPOOL: u64 = 0x77;
const EVENTS: u64 = 60;
/// How long a process may take to get somewhere, beside builds on the same machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test lasts: whoever sent the statement is killed first.
const NEVER: Duration = Duration::from_secs(3600);

/// The statements of a rebuild, and how many of the same kind pass before.
const STATEMENTS: [(&str, u64); 9] = [
    ("CREATE TABLE liutong.usage_hourly_stage", 0),
    // The hours that stay as they are, then those derived anew.
    ("INSERT INTO liutong.usage_hourly_stage", 0),
    ("INSERT INTO liutong.usage_hourly_stage", 1),
    ("ALTER TABLE liutong.usage_hourly_rollup REPLACE PARTITION", 0),
    ("DROP TABLE liutong.usage_hourly_stage", 0),
    ("CREATE TABLE liutong.usage_daily_stage", 0),
    ("INSERT INTO liutong.usage_daily_stage", 0),
    ("ALTER TABLE liutong.usage_daily_rollup REPLACE PARTITION", 0),
    ("DROP TABLE liutong.usage_daily_stage", 0),
];

/// A control plane that is killed when it is dropped.
struct Killed(Child);

impl Killed {
    fn start(config: &Path, key: &str) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(config).env("LIUTONG_BOOTSTRAP_ADMIN_KEY", key);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_killed_at_any_statement_of_a_rebuild_leaves_rollups_equal_to_raw() {
    let engine = start();
    let client = engine.endpoint.client();
    let proxy =
        FaultProxy::start(engine.endpoint.url.trim_start_matches("http://").parse().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("controlplane.toml");
    let at = dir.path().display();
    load_tests::harness::write_secret(&dir.path().join("password"), &engine.endpoint.password);
    let text = format!(
        "data_dir = '{at}/data'\n[admin]\nlisten = '127.0.0.1:0'\n[sync]\nsocket = '{at}/control.sock'\n\
         [clickhouse]\nurl = '{}'\nuser = '{}'\npassword_file = '{at}/password'\n",
        proxy.url(),
        engine.endpoint.user
    );
    std::fs::write(&config, text).unwrap();
    let key = Command::new(PROGRAM).arg("--new-admin-key").output().unwrap().stdout;
    let key = std::str::from_utf8(&key).unwrap().trim();

    let days = (day_ago(12), day_ago(11));
    let (mut random, mut sent) = (Random(9), 0);
    for (statement, skip) in STATEMENTS {
        for fault in [Fault::Late(NEVER), Fault::LateAnswer(NEVER)] {
            // It comes late, for hours that were rolled up before.
            for day in [days.0, days.1] {
                sent += 1;
                send(&client, &batch(&mut random, SPOOL, sent, day, 24, EVENTS)).await;
            }
            proxy.add(Rule { skip, ..Rule::next(1, statement, fault) });
            let process = Killed::start(&config, key);
            until(statement, async || proxy.faults_left() == 0).await;
            drop(process);
            proxy.heal();
            assert_views_equal_raw(&client, days).await;
        }
    }

    let _process = Killed::start(&config, key);
    let bounds = format!("BETWEEN toDate({}) AND toDate({})", days.0 / DAY_MS, days.1 / DAY_MS);
    let open = format!("SELECT count() FROM liutong.usage_days_open WHERE day {bounds}");
    until("all days rolled up", async || number(&client, &open).await == 0).await;
    assert_views_equal_raw(&client, days).await;
    let derived = format!("SELECT sum(requests) FROM liutong.usage_daily_rollup WHERE day {bounds}");
    assert_eq!(number(&client, &derived).await, sent * EVENTS);
}
