//! `liutong-controlplane` as a process: what it says of a bad configuration, and that it is its own engine.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_liutong-controlplane");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).env_remove("LIUTONG_BOOTSTRAP_ADMIN_KEY").output().unwrap()
}

fn configured(dir: &Path, text: &str) -> String {
    let file = dir.join("controlplane.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_bad_configuration_is_one_line_on_stderr_and_status_64() {
    let dir = tempfile::tempdir().unwrap();
    for (text, says) in [
        ("data_dir = '/d'\ncolour = 'red'", ":2: unknown field `colour`"),
        ("data_dir = ", ":1: "),
        ("data_dir = '/d'\n[clickhouse]\npassword = 'hunter2'", "clickhouse.password: a secret"),
    ] {
        let file = configured(dir.path(), text);
        let output = run(&["--config", &file]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(&file) && stderr.contains(says) && !stderr.contains("hunter2"), "{stderr}");
    }
    let missing = run(&["--config", "/no/such/file.toml"]);
    assert_eq!(missing.status.code(), Some(64));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("/no/such/file.toml"));
    assert_eq!(run(&[]).status.code(), Some(64));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[tokio::test]
async fn without_a_server_it_starts_its_own_engine_which_gets_no_admin_key_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = configured(
        dir.path(),
        &format!(
            "data_dir = '{}'\n[admin]\nlisten = '{admin}'\n[clickhouse.embedded]\nlisten = '127.0.0.1:0'",
            dir.path().join("data").display()
        ),
    );
    let key = run(&["--new-admin-key"]).stdout;
    let key = std::str::from_utf8(&key).unwrap().trim();
    let mut process = Command::new(PROGRAM)
        .args(["--config", &file, "--stop-on-stdin-eof"])
        .env("LIUTONG_BOOTSTRAP_ADMIN_KEY", key)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ready = async {
        let url = format!("http://{admin}/readyz");
        loop {
            if let Ok(answer) = reqwest::get(&url).await
                && answer.text().await.unwrap() == "ready\n"
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), ready).await.expect("clickhouse is reached");

    let of_threads = || -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
        let read = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
        let lists: Vec<String> = tasks.flatten().filter_map(|task| read(task).ok()).collect();
        lists.iter().flat_map(|list| list.split_whitespace()).map(|pid| pid.parse().unwrap()).collect()
    };
    let engines = of_threads();
    let [engine] = engines[..] else { panic!("{engines:?}") };
    let command = std::fs::read_to_string(format!("/proc/{engine}/cmdline")).unwrap();
    assert!(command.starts_with(PROGRAM) && command.contains("clickhouse-engine"), "{command}");
    let environment = std::fs::read(format!("/proc/{engine}/environ")).unwrap();
    assert!(!environment.windows(key.len()).any(|window| window == key.as_bytes()));

    drop(process.stdin.take());
    assert!(tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap().success());
    assert!(!Path::new(&format!("/proc/{engine}")).exists(), "the engine ended before it");
}
