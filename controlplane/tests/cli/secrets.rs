//! Where secrets may come from, and where they are never seen.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn the_administrators_key_may_come_from_a_file_and_is_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admin-key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let api = Api::start(&[(200, list(json!([]))), (401, json!({"title": "unauthorized"}))]);
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let mut exposed = liutong(&["node", "list", "--admin-url", &api.url]);
    let output = exposed.env("LIUTONG_ADMIN_KEY_FILE", &file).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
    mode(0o600);
    for code in [0, 4] {
        let mut command = liutong(&["node", "list", "--admin-url", &api.url]);
        let output = command.env("LIUTONG_ADMIN_KEY_FILE", &file).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains(KEY));
    }
    assert!(api.asked().iter().all(|asked| asked.authorization == format!("Bearer {KEY}")));
}

#[test]
fn no_flag_takes_a_secret_and_help_shows_none_from_the_environment() {
    let mut commands = vec![vec![]];
    while let Some(command) = commands.pop() {
        let output =
            liutong(&[&command[..], &["--help"]].concat()).env("LIUTONG_ADMIN_KEY", KEY).output().unwrap();
        let help = stdout(&output);
        assert!(!help.contains(KEY), "{command:?}");
        for flag in ["--admin-key", "--password", "--secret ", "--token ", "--api-key", "--credential-value"]
        {
            assert!(!help.contains(flag), "{command:?} has {flag}");
        }
        let listed = help.split("Commands:").nth(1).unwrap_or_default();
        let names = listed.lines().skip(1).take_while(|line| line.starts_with("  "));
        for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            let name: &'static str = name.to_owned().leak();
            commands.push([&command[..], &[name]].concat());
        }
    }
    assert!(!stdout(&liutong(&["--help"]).output().unwrap()).contains("clickhouse-engine"));
}

#[test]
fn a_secret_is_printed_alone_or_written_to_a_private_file_and_then_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let path = file.to_str().unwrap();
    let api = Api::start(&[(200, created_key()), (200, created_key())]);
    let alone = api.run(&["key", "create", "--application", "a", "--secret-only"]);
    assert_eq!(stdout(&alone), "sk-lt-abcdefgh-SECRET\n");
    let written = api.run(&["key", "create", "--application", "a", "--write-secret", path, "-o", "json"]);
    assert_eq!(stdout_json(&written).get("secret"), None);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "sk-lt-abcdefgh-SECRET\n");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A file that is there is not overwritten, and then no key is made.
    let again = api.run(&["key", "create", "--application", "a", "--write-secret", path]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(api.asked().len(), 2);
}

#[test]
fn a_file_for_a_secret_does_not_stay_where_no_key_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let api = Api::start(&[(404, json!({"title": "not found"}))]);
    let output = api.run(&["key", "create", "--application", "a", "--write-secret", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!file.exists());
}

#[test]
fn a_profile_says_where_the_api_is_and_where_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, KEY).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let api = Api::start(&[(200, list(json!([]))), (200, list(json!([])))]);
    let config = dir.path().join("config.toml");
    let text = format!("[profiles.here]\nadmin_url = '{}'\nkey_file = '{}'\n", api.url, key_file.display());
    std::fs::write(&config, text).unwrap();
    let run = |args: &[&str]| liutong(args).env("LIUTONG_CONFIG", &config).output().unwrap();
    assert_eq!(run(&["team", "list"]).status.code(), Some(4), "no default");
    stdout(&run(&["team", "list", "--profile", "here"]));
    let mut chosen = liutong(&["team", "list"]);
    stdout(&chosen.env("LIUTONG_CONFIG", &config).env("LIUTONG_PROFILE", "here").output().unwrap());
    assert!(api.asked().iter().all(|asked| asked.authorization == format!("Bearer {KEY}")));
    assert_eq!(run(&["team", "list", "--profile", "there"]).status.code(), Some(2));
    let listed = stdout_json(&run(&["profile", "list", "-o", "json"]));
    assert_eq!((&listed[0]["name"], &listed[0]["default"]), (&json!("here"), &json!(false)));
    assert_eq!(listed[0]["key"], key_file.to_str().unwrap());
}
