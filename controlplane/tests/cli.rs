//! `liutong` as administrators run it: the real program against a small HTTP server that plays the admin API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

const KEY: &str = "sk-ltadm-test0123456789";

/// What the server was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    authorization: String,
    body: Value,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<(u16, String)>,
    asked: Vec<Asked>,
}

/// An admin API that gives the answers it was told to, in order.
struct Api {
    url: String,
    script: Arc<Mutex<Script>>,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    fn start(answers: &[(u16, Value)]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let answers = answers.iter().map(|(status, body)| (*status, body.to_string())).collect();
        let script = Arc::new(Mutex::new(Script { answers, asked: Vec::new() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, script, _runtime: runtime }
    }

    fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    fn run(&self, args: &[&str]) -> Output {
        liutong(args).env("LIUTONG_ADMIN_URL", &self.url).env("LIUTONG_ADMIN_KEY", KEY).output().unwrap()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
    let mut script = script.lock().unwrap();
    script.asked.push(Asked {
        method: method.to_string(),
        path: uri.to_string(),
        authorization: authorization.unwrap_or_default(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let (status, body) = script.answers.pop_front().expect("an answer for each request");
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

fn liutong(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_liutong"));
    command.args(args).stdin(Stdio::null());
    for name in ["LIUTONG_ADMIN_URL", "LIUTONG_ADMIN_KEY", "LIUTONG_ADMIN_KEY_FILE", "LIUTONG_PROFILE"] {
        command.env_remove(name);
    }
    // Whoever runs the tests may have profiles.
    command.env("LIUTONG_CONFIG", "/absent");
    command
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout_json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

fn list(rows: Value) -> Value {
    json!({"object": "list", "data": rows, "has_more": false})
}

fn created_key() -> Value {
    json!({"id": "key_7", "prefix": "sk-lt-abcdefgh", "secret": "sk-lt-abcdefgh-SECRET", "status": "active"})
}

#[test]
fn json_of_one_thing_is_the_apis_object_with_its_members_in_order() {
    let api = Api::start(&[(200, created_key())]);
    let output = api.run(&["key", "create", "--application", "demo", "-o", "json"]);
    let text = stdout(&output);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), created_key());
    let at = |name: &str| text.find(&format!("\"{name}\"")).unwrap();
    assert!(at("id") < at("prefix") && at("prefix") < at("secret") && at("secret") < at("status"), "{text}");
    let asked = api.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/admin/v1/keys"));
    assert_eq!(asked.body, json!({"application": "demo"}));
    assert_eq!(asked.authorization, format!("Bearer {KEY}"));
}

#[test]
fn json_of_a_list_is_an_array_of_all_its_pages() {
    let first = json!({"object": "list", "data": [{"id": "t1"}, {"id": "t2"}], "has_more": true});
    let api = Api::start(&[(200, first), (200, list(json!([{"id": "t3"}])))]);
    let output = api.run(&["-o", "json", "team", "list", "--organization", "a b"]);
    assert_eq!(stdout_json(&output), json!([{"id": "t1"}, {"id": "t2"}, {"id": "t3"}]));
    let paths: Vec<String> = api.asked().into_iter().map(|asked| asked.path).collect();
    let base = "/admin/v1/teams?organization=a+b";
    assert_eq!(paths, [base.to_owned(), format!("{base}&after=t2")]);
}

#[test]
fn a_list_that_does_not_end_is_an_error_and_no_endless_loop() {
    let page = json!({"object": "list", "data": [{"id": "t1"}], "has_more": true});
    let api = Api::start(&[(200, page.clone()), (200, page)]);
    assert_eq!(api.run(&["team", "list"]).status.code(), Some(1));
}

#[test]
fn tables_and_csv_show_names_and_tokens() {
    let rows = json!([
        {"team": "research", "model": "small", "requests": 3, "prompt_tokens": 10, "completion_tokens": 5},
        {"team": "ops, eu", "model": "large", "requests": 1, "prompt_tokens": 2, "completion_tokens": null},
    ]);
    let more = json!({"object": "list", "data": rows, "has_more": true});
    let api = Api::start(&[(200, list(rows)), (200, more)]);
    let args =
        ["usage", "--by", "team,model", "--from", "2026-11-01", "--interval", "day", "--model", "small"];
    let table = stdout(&api.run(&args));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].contains("team") && lines[0].contains("prompt_tokens"), "{table}");
    assert!(lines[1].contains("research") && lines[2].contains("ops, eu"), "{table}");
    // A report is not read page by page: what is missing is said.
    let output = api.run(&[&args[..], &["-o", "csv"]].concat());
    assert!(stderr(&output).contains("more rows"), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "team,model,requests,prompt_tokens,completion_tokens\nresearch,small,3,10,5\n\"ops, eu\",large,1,2,\n"
    );
    assert_eq!(
        api.asked()[0].path,
        "/admin/v1/usage?interval=day&group_by=team%2Cmodel&from=2026-11-01T00%3A00%3A00Z&model=small"
    );
}

#[test]
fn the_exit_status_says_what_kind_of_failure_it_was() {
    for (status, code) in
        [(400, 1), (401, 4), (403, 4), (404, 3), (409, 5), (412, 5), (422, 1), (500, 1), (502, 6), (503, 6)]
    {
        let problem =
            json!({"type": "about:blank", "title": "no luck", "status": status, "detail": "team x"});
        let api = Api::start(&[(status, problem)]);
        let output = api.run(&["team", "show", "x"]);
        assert_eq!(output.status.code(), Some(code), "{status}");
        assert!(output.stdout.is_empty(), "{status}");
        let said = stderr(&output);
        assert!(said.contains("showing team x") && said.contains("no luck: team x"), "{said}");
    }
}

#[test]
fn usage_errors_missing_keys_and_absent_servers_have_their_own_exit_status() {
    let code = |command: &mut Command| command.output().unwrap().status.code();
    assert_eq!(code(&mut liutong(&["team", "create"])), Some(2));
    assert_eq!(code(&mut liutong(&["key", "create", "--application", "a", "--expires-at", "soon"])), Some(2));
    let mut with_path = liutong(&["team", "list", "--admin-url", "http://127.0.0.1:1/admin"]);
    assert_eq!(code(with_path.env("LIUTONG_ADMIN_KEY", KEY)), Some(2));
    assert_eq!(code(&mut liutong(&["model", "set", "a"])), Some(2));
    assert_eq!(code(&mut liutong(&["quickstart", "-o", "csv"])), Some(2));
    assert_eq!(code(&mut liutong(&["quickstart", "--upstream", "http://h/v1"])), Some(2));
    assert_eq!(code(&mut liutong(&["team", "list"])), Some(4));
    assert_eq!(code(liutong(&["team", "list"]).env("LIUTONG_ADMIN_KEY", "two words")), Some(4));
    assert_eq!(code(liutong(&["team", "list"]).env("LIUTONG_ADMIN_KEY_FILE", "/absent")), Some(3));
    let mut absent = liutong(&["team", "list", "--admin-url", "http://127.0.0.1:1"]);
    let output = absent.env("LIUTONG_ADMIN_KEY", KEY).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(stderr(&output).contains("http://127.0.0.1:1"), "{}", stderr(&output));
}

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
fn revoking_shows_the_receipt_and_names_data_planes_that_have_not_confirmed() {
    let receipt = json!({
        "id": "key_7", "status": "revoked",
        "nodes": [{"node": "00000000000000aa", "milliseconds": 3}], "pending": [{"node": "00000000000000bb", "last_seen": "2026-11-25T00:00:00Z"}],
    });
    let api = Api::start(&[(200, receipt.clone()), (200, receipt.clone())]);
    let output = api.run(&["key", "revoke", "key_7", "-o", "json"]);
    assert_eq!(stdout_json(&output), receipt);
    assert!(stderr(&output).contains("1 data planes have not confirmed"));
    let csv = stdout(&api.run(&["key", "revoke", "key_7", "-o", "csv"]));
    assert_eq!(
        csv,
        "id,status,node,confirmed,milliseconds,last_seen\n\
         key_7,revoked,00000000000000aa,true,3,\nkey_7,revoked,00000000000000bb,false,,2026-11-25T00:00:00Z\n"
    );
    assert_eq!(api.asked()[0].path, "/admin/v1/keys/key_7/revoke");
}

#[test]
fn a_model_is_set_from_flags_or_from_a_file_and_only_what_was_given_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deployments.json");
    let two = json!({"deployments": [{"upstream": "http://a/v1"}, {"upstream": "http://b/v1"}]});
    std::fs::write(&file, two.to_string()).unwrap();
    let answer = json!({"alias": "org/small", "deployments": [{"name": "d1", "upstream": "http://h/v1"}]});
    let api = Api::start(&[(200, answer.clone()), (200, answer)]);
    let flags = [
        "--upstream",
        "http://h/v1",
        "--upstream-model",
        "m",
        "--dialect",
        "vllm",
        "--on-disconnect",
        "drain",
    ];
    let table = stdout(&api.run(&[&["model", "set", "org/small", "--weight", "2"], &flags[..]].concat()));
    assert!(table.contains("org/small") && table.contains("d1"), "{table}");
    stdout(&api.run(&["model", "set", "org/small", "--file", file.to_str().unwrap()]));
    let asked = api.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("PUT", "/admin/v1/models/org%2Fsmall"));
    assert_eq!(
        asked[0].body,
        json!({"deployments": [{
            "upstream": "http://h/v1", "upstream_model": "m", "dialect": "vllm",
            "weight": 2, "on_disconnect": "drain",
        }]})
    );
    assert_eq!(asked[1].body, two);
}

#[test]
fn applications_are_made_with_every_alias_with_some_or_with_none() {
    for (models, sent) in [("*", json!(["*"])), ("a, b", json!(["a", "b"])), ("", json!([]))] {
        let api = Api::start(&[(200, json!({"id": "app_1", "name": "x"}))]);
        stdout(&api.run(&["application", "create", "x", "--team", "t", "--models", models]));
        assert_eq!(api.asked()[0].body, json!({"name": "x", "team": "t", "models": sent}));
    }
}

#[test]
fn a_request_is_found_by_its_id_and_removing_a_model_needs_no_answer_body() {
    let api = Api::start(&[(200, json!({"request_id": "req_1", "total_tokens": 9})), (204, Value::Null)]);
    assert_eq!(stdout_json(&api.run(&["request", "show", "req_1", "-o", "json"]))["total_tokens"], 9);
    stdout(&api.run(&["model", "remove", "small"]));
    assert_eq!(api.asked()[0].path, "/admin/v1/requests/req_1");
    assert_eq!(
        (api.asked()[1].method.as_str(), api.asked()[1].path.as_str()),
        ("DELETE", "/admin/v1/models/small")
    );
}

#[test]
fn a_spool_is_inspected_and_verified_without_a_control_plane() {
    use wire::event::UsageEvent;
    use wire::id::{BootId, NodeId, Position};
    use wire::record::{Record, SegmentHeader, append};

    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("0000000000000001");
    std::fs::create_dir(&below).unwrap();
    let header = SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(0), created_ms: 3 };
    let mut bytes = header.encode().to_vec();
    for position in 0..3 {
        append(&mut bytes, Position(position), &Record::Event(UsageEvent::default()));
    }
    bytes.resize(4096, 0);
    let write = |bytes: &[u8]| std::fs::write(below.join("1.seg"), bytes).unwrap();
    let run = |command: &str, directory: &Path| {
        liutong(&["spool", command, directory.to_str().unwrap(), "-o", "json"]).output().unwrap()
    };
    write(&bytes);
    let inspected = stdout_json(&run("inspect", dir.path()));
    assert_eq!((&inspected[0]["events"], &inspected[0]["last_position"]), (&json!(3), &json!(2)));
    assert_eq!(stdout_json(&run("verify", dir.path()))[0]["ok"], json!(true));

    bytes[64 + 104 + 40] ^= 1;
    write(&bytes);
    assert_eq!(stdout_json(&run("inspect", dir.path()))[0]["damaged_ranges"], json!(1));
    let damaged = run("verify", dir.path());
    assert_eq!(damaged.status.code(), Some(1));
    assert!(stderr(&damaged).contains("positions 1..=1 are missing"), "{}", stderr(&damaged));
    assert_eq!(run("verify", &dir.path().join("absent")).status.code(), Some(3));
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(run("verify", empty.path()).status.code(), Some(3));
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

#[test]
fn json_lines_are_one_line_for_each_row() {
    let api = Api::start(&[(200, list(json!([{"id": "t1"}, {"id": "t2"}]))), (200, created_key())]);
    assert_eq!(stdout(&api.run(&["team", "list", "-o", "jsonl"])), "{\"id\":\"t1\"}\n{\"id\":\"t2\"}\n");
    let one = stdout(&api.run(&["key", "create", "--application", "demo", "-o", "jsonl"]));
    assert_eq!(one.lines().count(), 1, "{one}");
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap(), created_key());
}

#[test]
fn an_update_sends_what_was_given_and_nothing_else() {
    let api = Api::start(&[(200, json!({"id": "t1"})), (200, json!({"id": "k"}))]);
    stdout(&api.run(&["team", "update", "research", "--cost-centre", "4712", "--no-plan"]));
    stdout(&api.run(&["key", "update", "key_7", "--inherit-models", "--no-expiry", "--application", "lab"]));
    let asked = api.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("PATCH", "/admin/v1/teams/research"));
    assert_eq!(asked[0].body, json!({"plan": null, "cost_centre": "4712"}));
    assert_eq!(asked[1].path, "/admin/v1/keys/key_7");
    assert_eq!(asked[1].body, json!({"models": null, "expires_at": null, "application": "lab"}));
    assert_eq!(api.run(&["team", "update", "research"]).status.code(), Some(2));
    assert_eq!(api.run(&["team", "update", "r", "--plan", "a", "--no-plan"]).status.code(), Some(2));
}

#[test]
fn a_dry_run_is_asked_for_with_every_change_and_has_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let made = json!({"id": "key_7", "secret": null});
    let api = Api::start(&[(200, list(json!([]))), (204, Value::Null), (200, made)]);
    stdout(&api.run(&["team", "list", "--dry-run"]));
    stdout(&api.run(&["node", "remove", "n", "--force", "--dry-run"]));
    let secret = file.to_str().unwrap();
    let args = ["key", "create", "--application", "a", "--write-secret", secret, "--dry-run"];
    assert!(stdout(&api.run(&args)).contains("key_7"));
    assert!(!file.exists());
    let paths: Vec<String> = api.asked().into_iter().map(|asked| asked.path).collect();
    let base = "/admin/v1";
    assert_eq!(
        paths,
        [
            format!("{base}/teams"),
            format!("{base}/nodes/n?force=true&dry_run=true"),
            format!("{base}/keys?dry_run=true"),
        ]
    );
}

#[test]
fn administrators_are_made_with_a_role_and_a_part_and_rotate_their_own_key() {
    let made = json!({"id": "adm_1", "secret": "sk-ltadm-SECRET"});
    let api = Api::start(&[(201, made.clone()), (201, made)]);
    let args =
        ["administrator", "create", "alice", "--role", "admin", "--organization", "acme", "--secret-only"];
    assert_eq!(stdout(&api.run(&args)), "sk-ltadm-SECRET\n");
    stdout(&api.run(&["administrator", "rotate", "--emergency"]));
    let asked = api.asked();
    assert_eq!(asked[0].path, "/admin/v1/administrators");
    assert_eq!(asked[0].body, json!({"name": "alice", "role": "admin", "organization": "acme"}));
    assert_eq!(asked[1].path, "/admin/v1/administrators/me/rotate");
    assert_eq!(asked[1].body, json!({"overlap_seconds": 0}));
}
