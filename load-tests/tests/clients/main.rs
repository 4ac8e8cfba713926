//! The clients that people use, unmodified, against every kind of answer: what each shows is what was sent,
//! it tries again when and only when it is told to, and its rows in ClickHouse say the same.
//!
//! The name of a case is the alias that it asks for, and the upstream's model; `sdk/*/cases.*` has the cases.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use load_tests::harness::ask::{Tenant, number};
use load_tests::harness::sdk::Sdk;
use serde_json::{Value, json};

use crate::world::{WAIT_MS, turn, world};

mod curl;
mod world;

/// A case: how often the upstream is asked, and the status of each row.
struct Case {
    name: &'static str,
    asked: u64,
    rows: &'static [u16],
    /// Prompt and completion tokens of the last row.
    tokens: (i64, i64),
}

const fn case(name: &'static str, asked: u64, rows: &'static [u16], tokens: (i64, i64)) -> Case {
    Case { name, asked, rows, tokens }
}

const CASES: [Case; 14] = [
    case("chat", 1, &[200], (5, 16)),
    case("stream", 1, &[200], (5, 16)),
    case("stream-usage", 1, &[200], (5, 16)),
    case("tools", 1, &[200], (21, 9)),
    case("tools-stream", 1, &[200], (21, 9)),
    case("embeddings", 1, &[200], (6, 0)),
    case("unknown-model", 0, &[404], (0, 0)),
    case("limited", 2, &[429, 200], (5, 16)),
    case("busy", 2, &[503, 200], (5, 16)),
    case("hopeless", 1, &[503], (0, 0)),
    case("broken", 1, &[502], (0, 0)),
    case("broken-stream", 1, &[502], (0, 0)),
    case("slow", 1, &[499], (0, 0)),
    case("cancelled", 1, &[499], (0, 0)),
];

/// What a client is like.
#[derive(Clone, Copy)]
struct Client {
    name: &'static str,
    /// Cases that it cannot do.
    lacks: &'static [&'static str],
    /// Whether it knows `x-should-retry`; else it asks twice.
    obeys: bool,
    /// Whether it knows `retry-after-ms`.
    waits: bool,
    /// Whether it always asks for usage.
    always_counts: bool,
    /// Whether it shows an error's code.
    codes: bool,
    /// Whether it calls tools by itself.
    calls: bool,
}

impl Client {
    const fn new(name: &'static str) -> Self {
        Self { name, lacks: &[], obeys: true, waits: true, always_counts: false, codes: true, calls: false }
    }

    fn cases(&self) -> impl Iterator<Item = &'static Case> {
        CASES.iter().filter(|case| !self.lacks.contains(&case.name))
    }

    /// Whether it asks once more in a case where it is told not to.
    fn insists(&self, case: &Case) -> bool {
        !self.obeys && ["hopeless", "broken"].contains(&case.name)
    }
}

/// What `run` gets to do a client's cases with.
struct Told<'a> {
    origin: &'a str,
    key: &'a str,
}

/// Lets a client do its cases, and compares what it shows, what the upstream saw, and the rows.
fn check(client: Client, run: impl FnOnce(&Told<'_>) -> Vec<Value>) {
    let _turn = turn();
    let tenant = world().system.tenant(client.name);
    let origin = world().system.ready.base_url.trim_end_matches("/v1");
    let lines = run(&Told { origin, key: &tenant.secret });
    let lines: BTreeMap<_, _> = lines.iter().map(|line| (line["case"].as_str().unwrap(), line)).collect();
    for case in client.cases() {
        check_shown(client, case.name, lines[case.name]);
    }
    let refused = error(lines["unknown-key"]);
    assert_eq!(refused.0, 401, "{}", client.name);
    assert!(!client.codes || refused.1 == "invalid_api_key", "{}", client.name);
    check_asked(client);
    check_rows(client, &tenant, &lines);
}

/// The same with a script of `sdk/`.
fn check_script(sdk: &Sdk, client: Client, script: &str, arguments: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    check(client, |told| {
        let environment = [
            ("LIUTONG_ORIGIN", told.origin),
            ("OPENAI_API_KEY", told.key),
            ("LLM_USER_PATH", home.path().to_str().unwrap()),
        ];
        sdk.run(script, arguments, &environment).unwrap()
    });
}

/// Status and code of the error that a client shows; -1 and nothing where it shows none.
fn error(line: &Value) -> (i64, &str) {
    (number(&line["failed"], "status"), line["failed"]["code"].as_str().unwrap_or_default())
}

/// What the client's user sees.
fn check_shown(client: Client, name: &str, line: &Value) {
    let what = format!("{}, {name}: {line}", client.name);
    let text = line["text"].as_str().unwrap();
    let failed =
        |status, code| assert_eq!(error(line), (status, if client.codes { code } else { "" }), "{what}");
    match name {
        "unknown-model" => failed(404, "model_not_found"),
        "hopeless" => failed(503, "hopeless"),
        "broken" => failed(502, "upstream_error"),
        "broken-stream" | "slow" => assert!(line["failed"].is_object(), "{what}"),
        _ => assert_eq!(line["failed"], Value::Null, "{what}"),
    }
    match name {
        "chat" | "stream" | "stream-usage" | "limited" | "busy" => {
            assert!(text.starts_with("t0 t1 ") && text.trim_end().ends_with("t15"), "{what}");
        }
        "embeddings" => assert_eq!(text.replace(".0", "").replace(' ', ""), "[[1,0.5],[1,0.5]]", "{what}"),
        // It has called the tool, and asked again with what that returned.
        "tools-stream" if client.calls => assert!(text.contains("t0 t1 "), "{what}"),
        "tools" | "tools-stream" => {
            let [name, arguments] = &line["tools"][0].as_array().unwrap()[..] else { panic!("{what}") };
            let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            let arguments = arguments.as_str().map_or_else(|| arguments.clone(), read);
            assert_eq!((name, arguments), (&json!("longest_river"), json!({"place": "Asia"})), "{what}");
        }
        _ => {}
    }
    if name == "limited" && client.waits {
        assert!(number(line, "took_ms") >= WAIT_MS, "{what}: it did not wait as long as it was told");
    }
}

/// How often the upstream was asked.
fn check_asked(client: Client) {
    let ledger = world().upstream.ledger();
    for case in client.cases() {
        let again = client.insists(case) || (client.calls && case.name == "tools-stream");
        let asked = ledger.get(case.name).map_or(0, |totals| totals.requests);
        assert_eq!(asked, case.asked + u64::from(again), "{}: {}", client.name, case.name);
    }
}

/// The rows of the client's key, beside what it was told.
fn check_rows(client: Client, tenant: &Tenant, lines: &BTreeMap<&str, &Value>) {
    let mine = format!("application_id = '{}'", tenant.application);
    let expected = |case: &Case| {
        let again = client.insists(case) || (client.calls && case.name == "tools-stream");
        case.rows.iter().copied().chain(again.then_some(case.rows[0])).collect::<Vec<_>>()
    };
    let count: usize = client.cases().map(|case| expected(case).len()).sum();
    world().system.wait_for_rows(&mine, count as u64);
    for case in client.cases() {
        let (name, line) = (case.name, lines[case.name]);
        let alias = if name == "unknown-model" { "" } else { name };
        let sql = format!(
            "SELECT status, prompt_tokens, completion_tokens, total_tokens, stream, endpoint, usage_source \
             FROM usage_events WHERE {mine} AND model_alias = '{alias}' ORDER BY ts, seq FORMAT JSONEachRow"
        );
        let rows: Vec<Value> =
            world().system.clickhouse(&sql).lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        let what = format!("{}, {name}: {rows:?}, {line}", client.name);
        let statuses: Vec<_> = rows.iter().map(|row| number(row, "status")).collect();
        assert_eq!(statuses, expected(case).into_iter().map(i64::from).collect::<Vec<_>>(), "{what}");
        let called = client.calls && name == "tools-stream";
        let row = if called { &rows[0] } else { rows.last().unwrap() };
        let counted = (number(row, "prompt_tokens"), number(row, "completion_tokens"));
        assert_eq!(counted, case.tokens, "{what}");
        if line["told"].is_object() && !called {
            assert_eq!(number(&line["told"], "prompt_tokens"), case.tokens.0, "{what}");
            for member in ["prompt_tokens", "completion_tokens", "total_tokens"] {
                let told = number(&line["told"], member);
                assert!(told == number(row, member) || told == -1, "{what}: {member}");
            }
        }
        let silent = name == "stream" && !client.always_counts;
        assert!(!silent || line["told"].is_null(), "{what}: it was told what it did not ask for");
        let stream = name.ends_with("stream") || ["stream-usage", "cancelled"].contains(&name);
        assert_eq!(row["stream"], json!(stream), "{what}");
    }
}

#[test]
fn openai_python_is_served_whichever_of_its_clients_asks() {
    let sdk = Sdk::python_3().unwrap();
    for kind in ["sync", "async", "azure", "azure-async", "azure-v1"] {
        check_script(&sdk, Client::new(kind), "openai_cases.py", &[kind]);
    }
}

#[test]
fn langchain_for_python_is_served() {
    check_script(&Sdk::python_3().unwrap(), Client::new("langchain-py"), "langchain_cases.py", &[]);
}

#[test]
fn the_command_llm_is_served() {
    let lacks = &["stream", "tools", "embeddings", "slow", "cancelled"];
    let client = Client { lacks, codes: false, calls: true, ..Client::new("llm") };
    check_script(&Sdk::python_3().unwrap(), client, "llm_cases.py", &[]);
}

#[test]
fn openai_node_is_served_whichever_of_its_clients_asks() {
    let sdk = Sdk::node().unwrap();
    for (kind, name) in [("openai", "node-openai"), ("azure", "node-azure")] {
        check_script(&sdk, Client::new(name), "openai_cases.cjs", &[kind]);
    }
}

#[test]
fn the_vercel_ai_sdk_is_served_whichever_of_its_providers_asks() {
    let sdk = Sdk::node().unwrap();
    for (kind, name) in [("openai", "ai-openai"), ("compatible", "ai-compatible")] {
        let client = Client { obeys: false, always_counts: kind == "openai", ..Client::new(name) };
        check_script(&sdk, client, "ai_cases.cjs", &[kind]);
    }
}

#[test]
fn langchain_for_javascript_is_served() {
    let client = Client { obeys: false, waits: false, ..Client::new("langchain-js") };
    check_script(&Sdk::node().unwrap(), client, "langchain_cases.cjs", &[]);
}
