//! What helps when something is amiss, on a real installation: `liutong doctor` finds what is broken on
//! purpose; `liutong support bundle` has what a maintainer needs and none of the secrets that were planted.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use load_tests::harness::{SOON, Setup, System, binary, signal, wait_until};
use load_tests::upstream::{Options, Upstream};
use serde_json::Value;

const STOP: i32 = 19;
const CONTINUE: i32 = 18;
const VARIABLE: &str = "LIUTONG_TEST_UPSTREAM_KEY";

/// Runs `liutong` on the system's data directory, as its administrator.
fn liutong(system: &System, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let ready = &system.ready;
    let mut command = Command::new(binary("liutong").unwrap());
    command.args(arguments).arg("--data-dir").arg(&ready.data_dir);
    command.env("LIUTONG_ADMIN_URL", &ready.admin_url).env("LIUTONG_ADMIN_KEY", &ready.admin_key);
    command.envs(environment.iter().copied()).output().unwrap()
}

/// The findings of `liutong doctor`, and its exit status.
fn doctor(system: &System) -> (Vec<Value>, Option<i32>) {
    let output = liutong(system, &["doctor", "-o", "json"], &[]);
    let rows = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (rows, output.status.code())
}

/// What a check found; of several the worst.
fn verdict<'a>(rows: &'a [Value], check: &str) -> &'a Value {
    let of_it = || rows.iter().filter(|row| row["check"].as_str().unwrap().starts_with(check));
    let failed = of_it().find(|row| row["verdict"] == "failed");
    failed.or_else(|| of_it().next()).unwrap_or_else(|| panic!("no check {check} in {rows:#?}"))
}

fn is(rows: &[Value], check: &str, wanted: &str) {
    let row = verdict(rows, check);
    assert_eq!(row["verdict"], wanted, "{row:#}");
}

#[test]
fn the_doctor_finds_what_is_broken_on_purpose() {
    let system = System::start(&Setup::demo()).unwrap();
    // The control plane takes a moment to find ClickHouse.
    let (rows, status) = wait_until("everything to be well", SOON, || {
        let (rows, status) = doctor(&system);
        (verdict(&rows, "control plane")["verdict"] == "ok").then_some((rows, status))
    });
    for check in [
        "kernel",
        "io_uring",
        "configuration",
        "data plane",
        "control plane",
        "clickhouse",
        "secret file",
        "sync",
    ] {
        is(&rows, check, "ok");
    }
    is(&rows, "clickhouse fsync", "ok");
    is(&rows, "clock", "ok");
    // A quickstart's slots are on a disk, and this machine's limits may be low.
    assert!(!rows.iter().any(|row| row["verdict"] == "failed"), "{rows:#?}");
    assert_eq!(status, Some(0));

    let key = system.ready.data_dir.join("admin-key");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let (rows, status) = doctor(&system);
    is(&rows, "secret file", "failed");
    assert!(verdict(&rows, "secret file")["mend"].as_str().unwrap().contains("chmod 600"));
    assert_eq!(status, Some(1));
    mode(0o600);

    let pids = system.pids().unwrap();
    let frozen = [pids.dataplane, pids.clickhouse];
    frozen.iter().for_each(|pid| signal(*pid, STOP));
    let (rows, status) = doctor(&system);
    frozen.iter().for_each(|pid| signal(*pid, CONTINUE));
    is(&rows, "data plane", "failed");
    is(&rows, "clickhouse", "failed");
    is(&rows, "control plane", "ok");
    assert_eq!(status, Some(1));
}

/// Thirty-two digits that nobody has.
fn marker() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    uuid.trim().replace('-', "")
}

fn append(file: &Path, text: &str) {
    let mut file = std::fs::File::options().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_support_bundle_has_what_helps_and_no_secret() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let (credential, literal, said) = (marker(), marker(), marker());
    let mut setup = Setup::for_upstream(&upstream.base_url());
    setup.credential_env = Some(VARIABLE.to_owned());
    setup.environment = vec![(VARIABLE.to_owned(), credential.clone())];
    let system = System::start(&setup).unwrap();
    let body = r#"{"model":"small","messages":[{"role":"user","content":"hello"}]}"#;
    assert_eq!(system.post("/chat/completions", system.key(), body).status(), 200);
    system.wait_for_rows("1", 1);
    let data = &system.ready.data_dir;
    // As people leave it: a secret in a configuration, and a log of something talkative.
    append(&data.join("config/dataplane.toml"), &format!("[credentials.OTHER]\napi_key = '{literal}'\n"));
    let key = system.key();
    append(
        &data.join("log/dataplane.log"),
        &format!(
            "sent {credential} upstream\nauthorization: Bearer {said}\nkey {key} from 203.0.113.77:443\n\
             {{\"password\":\"{said}\"}}\nadmin {}\n",
            system.ready.admin_key
        ),
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bundle.tar.gz");
    let path = file.to_str().unwrap();
    let output = liutong(&system, &["support", "bundle", path], &[(VARIABLE, &credential)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let unpacked = Command::new("tar").args(["-xzf", path, "-O"]).output().unwrap();
    assert!(unpacked.status.success());
    let text = String::from_utf8(unpacked.stdout).unwrap();
    for (name, secret) in [
        ("the upstream's credential", credential.as_str()),
        ("the secret in the configuration", &literal),
        ("what a log line said", &said),
        ("a key", key),
        ("the administrator's key", &system.ready.admin_key),
        ("ClickHouse's password", &system.ready.clickhouse_password),
        ("an address", "203.0.113.77"),
    ] {
        assert!(!text.contains(secret), "{name} is in the bundle");
    }
    for helps in [
        "liutong_ready 1",
        "liutong_ingest_",
        "\"check\": \"io_uring\"",
        "\"kernel\"",
        "usage_events",
        "registry.db",
        "env = \"(a name)\"",
        "api_key = \"(removed)\"",
        "sent (removed) upstream",
        "control plane ready",
    ] {
        assert!(text.contains(helps), "{helps} is not in the bundle:\n{text}");
    }
    let again = liutong(&system, &["support", "bundle", path], &[]);
    assert_eq!(again.status.code(), Some(1), "a file that is there is not overwritten");
}
