//! The official SDKs, unmodified, talk through Liutong to a real model, and every exchange is in ClickHouse
//! with the very counts that the SDK, or the upstream, reported.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use load_tests::harness::ask::number;
use load_tests::harness::real::{self, Llama};
use load_tests::harness::sdk::Sdk;
use load_tests::harness::{Setup, System};
use serde_json::{Value, json};

const CHAT: &str = "chat";
const EMBED: &str = "embed";

struct World {
    system: System,
    llama: Llama,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let llama = Llama::start().unwrap();
        let mut setup = Setup::for_upstream(llama.base_url());
        setup.upstream = Some((llama.base_url().to_owned(), real::MODEL.to_owned(), "llamacpp".to_owned()));
        setup.alias = CHAT.to_owned();
        let system = System::start(&setup).unwrap();
        system.set_model(EMBED, llama.base_url(), real::MODEL, &["--dialect", "llamacpp"]);
        World { system, llama }
    })
}

fn environment(system: &System) -> [(&str, &str); 4] {
    let base_url = system.ready.base_url.as_str();
    [
        ("OPENAI_BASE_URL", base_url),
        ("OPENAI_API_KEY", system.key()),
        ("LIUTONG_CHAT", CHAT),
        ("LIUTONG_EMBED", EMBED),
    ]
}

#[test]
fn openai_python_is_served_and_metered() {
    let lines =
        Sdk::openai_python_2().unwrap().run("exchanges.py", &[], &environment(&world().system)).unwrap();
    check(&lines);
}

#[test]
fn openai_node_is_served_and_metered() {
    let lines = Sdk::node().unwrap().run("exchanges.cjs", &[], &environment(&world().system)).unwrap();
    check(&lines);
}

fn check(lines: &[Value]) {
    let lines: BTreeMap<&str, &Value> =
        lines.iter().map(|line| (line["name"].as_str().unwrap(), line)).collect();
    let row = |name: &str| {
        let line = lines.get(name).unwrap_or_else(|| panic!("the SDK made no exchange {name}"));
        let id = line["request_id"].as_str().unwrap_or_else(|| panic!("{name} has no request id"));
        world().system.request_row(id)
    };
    for name in ["chat", "chat_stream_usage", "completion", "completion_stream_usage", "embedding"] {
        assert_row(name, &row(name), &lines[name]["usage"]);
        assert!(!lines[name]["text"].as_str().unwrap().is_empty(), "{name}");
    }
    check_silent_streams(&lines, &row);
    for name in ["chat_stream_usage", "completion_stream_usage"] {
        assert!(number(lines[name], "events") > 1, "{name}");
    }
    assert_eq!(number(lines["chat_stream_usage"], "empty"), 1);
    let listed = lines["models"]["models"].as_array().unwrap();
    assert!(listed.contains(&json!(CHAT)) && listed.contains(&json!(EMBED)), "{listed:?}");
    assert_eq!(lines["model"]["models"], json!([CHAT]));
    check_refusals(&lines, &row);
}

/// Without `include_usage` no event is added for the client, and the row has the counts all the same.
fn check_silent_streams(lines: &BTreeMap<&str, &Value>, row: &dyn Fn(&str) -> Value) {
    let messages = json!([{"role": "user", "content": "Name a river in Asia."}]);
    let chat = json!({"model": real::MODEL, "messages": messages, "max_tokens": 16, "temperature": 0});
    let prompt = "The longest river in Asia is";
    let completion = json!({"model": real::MODEL, "prompt": prompt, "max_tokens": 16, "temperature": 0});
    for (name, path, body) in
        [("chat_stream", "/chat/completions", chat), ("completion_stream", "/completions", completion)]
    {
        let (line, row) = (lines[name], row(name));
        assert_eq!(number(line, "empty"), 0, "{name}: an event without choices came through");
        let direct = world().llama.usage(path, &body).unwrap();
        // What was in llama.cpp's cache differs from run to run; what was asked and answered does not.
        for member in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(number(&row, member), number(&direct, member), "{name}: {member} in {row}");
        }
        let counted = lines[format!("{name}_usage").as_str()];
        assert_eq!(number(&row, "prompt_tokens"), number(&counted["usage"], "prompt_tokens"), "{name}");
        assert_eq!((&row["usage_source"], &row["stream"]), (&json!("final"), &json!(true)), "{name}");
        assert_eq!(line["text"], counted["text"], "{name}");
    }
    assert_eq!(lines["chat_stream"]["usage"], Value::Null);
}

fn check_refusals(lines: &BTreeMap<&str, &Value>, row: &dyn Fn(&str) -> Value) {
    assert_eq!(lines["unknown_model"]["code"], json!("model_not_found"));
    assert_eq!(lines["unknown_key"]["code"], json!("invalid_api_key"));
    assert!(lines["unknown_key"]["request_id"].is_string());
    let refused = row("unknown_model");
    assert_eq!((number(&refused, "status"), number(&refused, "total_tokens")), (404, 0));
    // What the client typed is recorded nowhere.
    assert_eq!(refused["model"], json!(""));
}

fn assert_row(name: &str, row: &Value, usage: &Value) {
    assert!(usage.is_object(), "{name}: the SDK shows no usage");
    for member in ["prompt_tokens", "total_tokens"] {
        assert_eq!(number(row, member), number(usage, member), "{name}: {member} in {row}");
    }
    // Embeddings have no completion.
    assert_eq!(number(row, "completion_tokens"), number(usage, "completion_tokens").max(0), "{name}");
    let cached = number(&usage["prompt_tokens_details"], "cached_tokens").max(0);
    assert_eq!(number(row, "cached_tokens"), cached, "{name}: {row}");
    assert_eq!((number(row, "status"), &row["usage_source"]), (200, &json!("final")), "{name}: {row}");
    let endpoint = match name.split('_').next() {
        Some("chat") => "chat.completions",
        Some("completion") => "completions",
        _ => "embeddings",
    };
    assert_eq!(row["endpoint"], json!(endpoint), "{name}");
}
