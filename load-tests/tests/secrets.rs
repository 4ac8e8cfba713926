//! Where secrets are, and that they are nowhere else: not on a command line, not in a process that has no use
//! for them, not in a log, a configuration or a file of another purpose, not in a core dump; and that the
//! control plane cannot have an upstream's credential sent to a host that the data plane does not name.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use load_tests::harness::process::{alive, files, signal};
use load_tests::harness::{SOON, Setup, System, binary, descendants, wait_until};
use load_tests::upstream::{Options, Upstream};
use memchr::memmem;

const VARIABLE: &str = "LIUTONG_TEST_UPSTREAM_KEY";
const ABORT: i32 = 6;

/// Thirty-two digits that nobody has.
fn marker() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    uuid.trim().replace('-', "")
}

fn start(upstream: &Upstream, credential: &str) -> System {
    let mut setup = Setup::for_upstream(&upstream.base_url());
    setup.credential_env = Some(VARIABLE.to_owned());
    // As talkative as an operator could make it.
    setup.environment =
        [(VARIABLE, credential), ("RUST_LOG", "trace"), ("LIUTONG_LOG", "trace"), ("RUST_BACKTRACE", "full")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    System::start(&setup).unwrap()
}

fn chat(system: &System, model: &str) -> u16 {
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hello"}}]}}"#);
    system.post("/chat/completions", system.key(), &body).status()
}

/// What a process shows of itself in `/proc`.
fn proc(pid: i32, name: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/{name}")).unwrap()
}

fn has(bytes: &[u8], secret: &str) -> bool {
    memmem::find(bytes, secret.as_bytes()).is_some()
}

#[test]
fn secrets_stay_where_they_are_needed() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let credential = marker();
    let system = start(&upstream, &credential);
    assert_eq!(chat(&system, "small"), 200);
    let (_, second_key) = system.create_key("demo");
    system.cli(&["key", "rotate", &system.ready.key_id, "--emergency"]);
    let secrets = [
        ("the upstream's credential", credential.as_str()),
        ("the administrator's key", &system.ready.admin_key),
        ("ClickHouse's password", &system.ready.clickhouse_password),
        ("the first key", system.key()),
        ("the second key", &second_key),
    ];
    let pids = system.pids().unwrap();
    let everyone: Vec<i32> = [vec![system.pid()], descendants(system.pid())].concat();
    assert!(everyone.len() >= 4, "quickstart and its children: {everyone:?}");
    let mut found = Vec::new();
    for (name, secret) in secrets {
        for pid in everyone.iter().filter(|pid| has(&proc(**pid, "cmdline"), secret)) {
            found.push(format!("{name} on the command line of {pid}"));
        }
        for pid in [pids.controlplane, pids.clickhouse] {
            if has(&proc(pid, "environ"), secret) {
                found.push(format!("{name} in the environment of {pid}"));
            }
        }
        for file in files(system.directory()) {
            let path = file.to_string_lossy();
            let is_its_place = match name {
                "the administrator's key" => path.ends_with("/admin-key"),
                "ClickHouse's password" => {
                    path.contains("/secrets/") || path.ends_with("/clickhouse/passwords.json")
                }
                _ => false,
            };
            if !is_its_place && has(&std::fs::read(&file).unwrap_or_default(), secret) {
                found.push(format!("{name} in {path}"));
            }
        }
        if has(system.ops("/metrics").unwrap().body(), secret) {
            found.push(format!("{name} in the metrics"));
        }
    }
    assert_eq!(found, [""; 0]);
    // The search does find what is there.
    let admin_key = std::fs::read(system.ready.data_dir.join("admin-key")).unwrap();
    assert!(has(&admin_key, &system.ready.admin_key));
    assert!(has(&proc(pids.dataplane, "environ"), &credential));
    assert!(has(&proc(pids.dataplane, "cmdline"), "--config"));
}

#[test]
fn a_credential_is_not_sent_to_a_host_that_the_control_plane_names() {
    let (good, evil) =
        (Upstream::start(Options::default()).unwrap(), Upstream::start(Options::default()).unwrap());
    let credential = marker();
    let system = start(&good, &credential);
    assert_eq!(chat(&system, "small"), 200);
    let sent = good.received().pop().unwrap().head.0;
    assert!(has(&sent, &format!("\r\nauthorization: Bearer {credential}\r\n")), "{sent:?}");
    system.set_model("evil", &evil.base_url(), "scripted", &["--credential", VARIABLE]);
    assert_eq!(chat(&system, "evil"), 503);
    // The alias that is known to be good, turned towards the other host.
    system.set_model("small", &evil.base_url(), "scripted", &["--credential", VARIABLE]);
    wait_until("the alias to be turned", SOON, || (chat(&system, "small") == 503).then_some(()));
    assert_eq!(evil.connections(), 0, "not even a connection is made");
    assert!(system.logs().contains("may not be sent to"), "{}", system.logs());
    // Without the credential the host is as good as any.
    system.set_model("open", &evil.base_url(), "scripted", &[]);
    assert_eq!(chat(&system, "open"), 200);
    assert!(evil.received().iter().all(|request| !has(&request.head.0, &credential)));
}

/// Starts a program that could write core dumps into `directory`, as far as the system lets it.
fn could_dump(program: &Path, arguments: &[&str], directory: &Path) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\""]).arg(program).args(arguments);
    shell.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().unwrap()
}

fn core_limit(pid: i32) -> Option<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    Some(line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

/// Aborts a process, and tells whether the kernel dumped its memory.
fn dumps(mut child: Child) -> bool {
    signal(i32::try_from(child.id()).unwrap(), ABORT);
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(ABORT), "{status}");
    status.core_dumped()
}

#[test]
fn neither_plane_leaves_its_memory_in_a_core_dump() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    let config = |name: &str, text: String| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let control = format!(
        "data_dir = '{at}/c'\n[admin]\nlisten = '127.0.0.1:0'\n[clickhouse]\nurl = 'http://127.0.0.1:1'\n"
    );
    let data = format!(
        "data_dir = '{at}/d'\nworkers = 1\n[http]\nlisten = '127.0.0.1:0'\n[ops]\nlisten = '127.0.0.1:0'\n\
         [control]\nsocket = '{at}/nobody.sock'\n"
    );
    for (name, file) in
        [("liutong-controlplane", config("c.toml", control)), ("liutong-dataplane", config("d.toml", data))]
    {
        let child = could_dump(&binary(name).unwrap(), &["--config", &file], directory.path());
        let pid = i32::try_from(child.id()).unwrap();
        wait_until(&format!("{name} to forbid core dumps"), SOON, || {
            assert!(alive(pid), "{name} ended");
            (core_limit(pid)? == "0 0").then_some(())
        });
        assert!(!dumps(child), "{name} dumped its memory");
    }
    // What forbids nothing keeps its limit, and where the system writes dumps at all, it dumps.
    let other = could_dump(Path::new("sleep"), &["1000"], directory.path());
    let pid = i32::try_from(other.id()).unwrap();
    let is_sleep =
        || std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    wait_until("sleep to run", SOON, || is_sleep().then_some(()));
    let limit = core_limit(pid).unwrap();
    assert!(dumps(other) || limit == "0 0", "sleep was to dump, with a limit of {limit}");
}
