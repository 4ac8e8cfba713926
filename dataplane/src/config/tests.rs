//! What may be written, and what the errors say.

use super::*;

fn load(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dataplane.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(&file).map_err(|error| error.to_string())
}

const LEAST: &str = "data_dir = '/d'\n[control]\nsocket = '/r/control.sock'\n";

#[test]
fn what_is_not_written_has_its_default() {
    let config = load(LEAST).unwrap();
    assert_eq!(config.http.to_string(), "127.0.0.1:8080");
    assert_eq!(config.limits.body_bytes_max, 32 << 20);
    let limits = [config.limits.idle, config.limits.head, config.limits.body, config.limits.write];
    assert_eq!(limits.map(|limit| limit.as_secs()), [75, 10, 30, 60]);
    assert_eq!(config.spool_sync, SyncPolicy::Interval);
    assert_eq!(config.runtime_dir, Path::new("/d/run"));
}

#[test]
fn control_planes_are_one_or_a_list() {
    let control = |text: &str| load(&format!("data_dir = '/d'\n[control]\n{text}\n")).map(|c| c.control);
    let sockets = |all: &[&str]| Ok(Control::Sockets(all.iter().map(PathBuf::from).collect()));
    assert_eq!(control("socket = '/a'"), sockets(&["/a"]));
    assert_eq!(control("socket = ['/a', '/b']"), sockets(&["/a", "/b"]));
    let addresses = vec!["a:1".to_owned(), "b:2".to_owned()];
    assert_eq!(control("address = ['a:1', 'b:2']"), Ok(Control::Remote(addresses)));
    for bad in ["socket = []", "address = []", "address = ['a:1', 'b']", "socket = ['/a']\naddress = 'a:1'"] {
        assert!(control(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    let cases = [
        (format!("workers = 0\n{LEAST}"), "workers: 0 is not between 1 and 1024"),
        (format!("{LEAST}[usage]\nsync = 'often'\n"), "usage.sync: is none of always, interval, never"),
        (format!("{LEAST}[credentials.A]\nhosts = ['h:1']\n"), "credentials.A: give one of env"),
        (
            format!("{LEAST}[credentials.A]\nenv = 'LIUTONG_NOT_SET'\nhosts = ['h:1']\n"),
            "credentials.A.env: the environment variable that is named here is not set",
        ),
        (format!("{LEAST}[credentials.A]\nenv = 'PATH'\nhosts = ['h']\n"), "A.hosts: each is host:port"),
        (format!("{LEAST}[credentials.A]\nenv = 'PATH'\nhosts = []\n"), "A.hosts: name the host:port"),
        (format!("{LEAST}address = 'h:1'\n"), "either socket"),
        ("data_dir = '/d'\n[control]\naddress = 'h'\n".to_owned(), "host:port"),
        (format!("{LEAST}stale_limit_seconds = 1\n"), "control.stale_limit_seconds: 1 is not between"),
        (format!("{LEAST}[limits]\nidle_seconds = 0\n"), "limits.idle_seconds: 0 is not between 1 and"),
        (format!("{LEAST}[limits]\nconnections = 0\n"), "limits.connections: 0 is not between 1 and"),
        (format!("{LEAST}[limits]\ndrain_seconds = 86401\n"), "limits.drain_seconds: 86401 is not between 0"),
        (
            format!("{LEAST}[usage]\nretention_minutes = 307445734561825861\n"),
            "usage.retention_minutes: 307445734561825861 is not between 0 and 527040",
        ),
        (format!("colour = 1\n{LEAST}"), "line 1: unknown field `colour`"),
    ];
    for (text, expected) in cases {
        let error = load(&text).err().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("dataplane.toml"), "{error}");
    }
}

#[test]
fn a_secret_that_stands_in_the_file_is_refused_and_not_repeated() {
    const MARKER: &str = "sk-proj-hunter2";
    for written in [
        format!("[credentials.A]\nsecret = '{MARKER}'\nhosts = ['h:1']"),
        format!("[credentials.A]\napi_key = '{MARKER}'\nenv = 'PATH'\nhosts = ['h:1']"),
        format!("[credentials.A]\nenv = '{MARKER}'\nhosts = ['h:1']"),
        format!("[credentials.A]\nfile = '{MARKER}'\nhosts = ['h:1']"),
        format!("[credentials.A]\nsystemd_credential = '{MARKER}'\nhosts = ['h:1']"),
        format!("[credentials.A]\nenv = 'PATH'\nhosts = ['{MARKER}']"),
        format!("[credentials.A]\nenv = 'PATH'\nhosts = '{MARKER}'"),
        format!("[credentials]\nA = '{MARKER}'"),
        format!("[usage]\nsync = '{MARKER}'"),
    ] {
        let error = load(&format!("{LEAST}{written}\n")).err().unwrap();
        assert!(!error.contains("hunter2") && error.lines().count() == 1, "{written}: {error}");
    }
}

#[test]
fn every_key_is_in_the_document() {
    /// Refused by name.
    const LITERALS: [&str; 6] = ["secret", "value", "key", "api_key", "token", "password"];
    let document = include_str!("../../../CONFIGURATION.md");
    for section in ["", "http", "http.tls", "ops", "control", "limits", "usage", "credentials.NAME"] {
        let (name, head) = match section {
            "" => (String::new(), String::new()),
            _ => (format!("{section}."), format!("[{section}]\n")),
        };
        let error = load(&format!("{head}zzz = 1\n")).err().unwrap();
        let known = error.split("expected").nth(1).unwrap_or_else(|| panic!("{section}: {error}"));
        let mut keys = known.split('`').skip(1).step_by(2).peekable();
        assert!(keys.peek().is_some(), "{section}: {error}");
        for key in keys.filter(|key| !LITERALS.contains(key)).map(|key| format!("{name}{key}")) {
            let is_there =
                [format!("`{key}`"), format!("`{key}.")].iter().any(|text| document.contains(text));
            assert!(is_there, "{key} is not in CONFIGURATION.md");
        }
    }
}
