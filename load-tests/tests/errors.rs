//! Every error that a client can be given: status, body, headers, as in the table of errors.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::OnceLock;
use std::time::Duration;

use load_tests::client::raw::End;
use load_tests::client::{Connection, Response, post, request};
use load_tests::harness::ask::{number, unknown_key};
use load_tests::harness::{SOON, Setup, System, wait_until};
use load_tests::message;
use load_tests::upstream::{After, Answer, Cut, Options, Script, Upstream};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const BODY_BYTES_MAX: usize = 32 << 20;

struct World {
    system: System,
    upstream: Upstream,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let upstream = Upstream::start(Options::default()).unwrap();
        let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
        World { system, upstream }
    })
}

fn exchange(request: &[u8]) -> Response {
    world().system.connection().exchange(request).unwrap()
}

fn with_key(path: &str, body: &str) -> Vec<u8> {
    post(path, world().system.key(), body)
}

fn chat(alias: &str) -> Vec<u8> {
    with_key(CHAT, &format!(r#"{{"model":"{alias}","max_tokens":1,"seed":1}}"#))
}

/// Makes an alias whose upstream model has the same name, with these options.
fn alias(name: &str, more: &[&str]) {
    world().system.set_model(name, &world().upstream.base_url(), name, more);
}

/// Checks the envelope: all four members, the type and code, and an id.
fn assert_error(what: &str, response: &Response, status: u16, kind: &str, code: Value) {
    let error = response.json()["error"].take();
    assert_eq!(response.status(), status, "{what}: {}", response.text());
    assert_eq!((&error["type"], &error["code"]), (&json!(kind), &code), "{what}: {error}");
    let members = error.as_object().unwrap();
    for name in ["message", "type", "param", "code"] {
        assert!(members.contains_key(name), "{what}: no {name} in {error}");
    }
    assert_eq!(members.len(), 4, "{what}: {error}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {error}");
    assert!(response.header("content-type").starts_with("application/json"), "{what}");
    assert!(!response.header("x-request-id").is_empty(), "{what}: no x-request-id");
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

#[test]
fn a_missing_key_is_asked_for() {
    let response = exchange(&request("POST", CHAT, &[("content-type", "application/json")], b"{}"));
    assert_error("no key", &response, 401, INVALID, Value::Null);
    assert_eq!(response.header("www-authenticate"), "Bearer");
}

#[test]
fn refused_keys_cannot_be_told_apart() {
    let system = &world().system;
    let (revoked_id, revoked) = system.create_key("demo");
    system.cli(&["key", "revoke", &revoked_id]);
    let soon = system.clickhouse("SELECT formatDateTime(now() + 2, '%FT%TZ', 'UTC')");
    let key = system.cli(&["key", "create", "--application", "demo", "--expires-at", &soon]);
    let expired = key["secret"].as_str().unwrap().to_owned();
    let ask = |key: &str| exchange(&post(CHAT, key, r#"{"model":"small","max_tokens":1}"#));
    wait_until("the key to expire", SOON, || (ask(&expired).status() == 401).then_some(()));

    let mut mistyped = system.key().to_owned();
    mistyped.replace_range(30..31, if &mistyped[30..31] == "A" { "B" } else { "A" });
    let unknown = unknown_key();
    let keys =
        [unknown.as_str(), "nonsense", "sk-lt-", &mistyped, &revoked, &expired, &system.ready.admin_key];
    let first = ask(keys[0]);
    assert_error("unknown key", &first, 401, INVALID, json!("invalid_api_key"));
    let constant = |response: &Response| {
        let headers = message::headers(response.head());
        let kept = headers.filter(|(name, _)| !name.eq_ignore_ascii_case(b"x-request-id"));
        let kept = kept.filter(|(name, _)| !name.eq_ignore_ascii_case(b"date"));
        kept.map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>()
    };
    for (index, key) in keys.iter().enumerate() {
        let response = ask(key);
        assert_eq!(response.status(), 401, "key {index}");
        assert_eq!(response.body(), first.body(), "key {index}");
        assert_eq!(constant(&response), constant(&first), "key {index}");
        assert!(
            !response.text().contains(&key[..key.len().min(6)]) || key.len() < 6,
            "key {index} is echoed"
        );
    }
    for header in ["api-key", "x-api-key"] {
        let response = exchange(&request("POST", CHAT, &[(header, &unknown)], b"{}"));
        assert_eq!((response.status(), response.body()), (401, first.body()), "{header}");
    }
}

#[test]
fn more_than_one_credential_is_ambiguous() {
    let key = world().system.key();
    let bearer = format!("Bearer {key}");
    let both = [("authorization", bearer.as_str()), ("api-key", key)];
    let mut connection = world().system.connection();
    let response = connection.exchange(&request("POST", CHAT, &both, b"{}")).unwrap();
    assert_eq!(response.status(), 400, "{}", response.text());
    assert!(connection.ends().unwrap());
}

#[test]
fn aliases_that_a_key_may_not_use_do_not_exist() {
    let system = &world().system;
    system.cli(&["application", "create", "narrow", "--team", "demo", "--models", ""]);
    let (_, narrow) = system.create_key("narrow");
    let body = |alias: &str| format!(r#"{{"model":"{alias}"}}"#);
    let unknown = exchange(&with_key(CHAT, &body("no-such-model")));
    let forbidden = exchange(&post(CHAT, &narrow, &body("small")));
    for (what, response) in [("unknown alias", &unknown), ("forbidden alias", &forbidden)] {
        assert_error(what, response, 404, INVALID, json!("model_not_found"));
        assert_eq!(response.json()["error"]["param"], json!("model"), "{what}");
    }
    let bearer = format!("Bearer {narrow}");
    let listed = exchange(&request("GET", "/v1/models", &[("authorization", &bearer)], b""));
    assert_eq!(listed.json()["data"], json!([]), "{}", listed.text());
    // Both were admitted, so both are recorded, without a token and without what was typed.
    let row = system.request_row(unknown.header("x-request-id"));
    assert_eq!((number(&row, "status"), number(&row, "total_tokens")), (404, 0), "{row}");
    assert_eq!(row["model"], json!(""), "{row}");
}

#[test]
fn endpoints_with_state_and_wrong_methods_are_refused() {
    let bearer = format!("Bearer {}", world().system.key());
    let key = [("authorization", bearer.as_str())];
    for (method, path) in [
        ("GET", "/v1/files"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/chat/completions/abc"),
        ("GET", "/v1/vector_stores"),
        ("GET", "/"),
    ] {
        let response = exchange(&request(method, path, &key, b""));
        assert_error(path, &response, 404, INVALID, json!("unsupported_endpoint"));
    }
    let response = exchange(&request("GET", CHAT, &key, b""));
    assert_error("GET chat", &response, 405, INVALID, json!("method_not_supported"));
    assert_eq!(response.header("allow"), "POST");
    let response = exchange(&request("DELETE", "/v1/models", &key, b""));
    assert_error("DELETE models", &response, 405, INVALID, json!("method_not_supported"));
    assert_eq!(response.header("allow"), "GET");
}

#[test]
fn bodies_that_cannot_be_routed_are_refused() {
    for (body, code) in [
        ("", "invalid_json"),
        ("[]", "invalid_json"),
        (r#"{"model":"small""#, "invalid_json"),
        (r#"{"model":"small"} x"#, "invalid_json"),
        (r#"{"messages":[]}"#, "missing_model"),
        (r#"{"model":"small","model":"small"}"#, "duplicate_model"),
        (r#"{"model":"small","m\u006fdel":"other"}"#, "duplicate_model"),
    ] {
        assert_error(body, &exchange(&with_key(CHAT, body)), 400, INVALID, json!(code));
    }
}

#[test]
fn what_is_too_large_or_too_slow_is_refused_and_closed() {
    let mut connection = world().system.connection();
    let long = "x".repeat(33 << 10);
    let response = connection.exchange(&request("GET", "/v1/models", &[("x-long", &long)], b"")).unwrap();
    assert_error("head", &response, 431, INVALID, json!("request_too_large"));
    assert_eq!(response.header("connection"), "close");

    // Only announced: the refusal must not wait for 32 MiB to arrive.
    let mut connection = world().system.connection();
    let bearer = format!("Bearer {}", world().system.key());
    let length = (BODY_BYTES_MAX + 1).to_string();
    let headers = [("authorization", bearer.as_str()), ("content-length", length.as_str())];
    let head = request("PUT", CHAT, &headers, b"");
    let head = String::from_utf8(head).unwrap().replacen("PUT", "POST", 1);
    let response = connection.exchange(head.as_bytes()).unwrap();
    assert_error("body", &response, 413, INVALID, json!("request_too_large"));
    assert_eq!(response.header("connection"), "close");

    let mut connection = world().system.connection();
    connection.stream().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let response = connection.exchange(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n").unwrap();
    assert_error("slow head", &response, 408, INVALID, json!("request_timeout"));
    assert_eq!(response.header("connection"), "close");
}

#[test]
fn ambiguous_framing_is_refused_and_closed() {
    let key = world().system.key();
    for head in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity, chunked\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 2\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 2\r\n",
        "POST / HTTP/1.1\r\nhost : a\r\ncontent-length: 2\r\n",
        "POST / HTTP/1.1\nhost: a\r\ncontent-length: 2\r\n",
    ] {
        let mut connection = world().system.connection();
        let response =
            connection.exchange(format!("{head}authorization: Bearer {key}\r\n\r\n{{}}").as_bytes()).unwrap();
        assert_eq!(response.status(), 400, "{head}");
        assert!(!response.header("x-request-id").is_empty(), "{head}");
        assert!(connection.ends().unwrap(), "{head}");
    }
}

#[test]
fn an_upstream_that_refuses_connections_is_unavailable() {
    // Bound and dropped: nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world().system.set_model("closed", &format!("http://{closed}/v1"), "m", &[]);
    let response = exchange(&chat("closed"));
    assert_error("refused", &response, 503, SERVER, json!("upstream_unavailable"));
    assert_eq!(response.header("retry-after"), "1");
}

#[test]
fn an_upstream_that_breaks_is_a_bad_gateway() {
    let raw =
        |text: &str| Script { after: After::Close, ..Script::default().answer(Answer::Raw(text.into())) };
    let cut = |at, after| Script { cut: Some(Cut { at, after }), ..Script::default().json(200, "{}") };
    let redirect = Script::default().json(302, "{}").header("location", "http://127.0.0.1:1/");
    for (name, script) in [
        ("cut-close", cut(0, After::Close)),
        ("cut-reset", cut(0, After::Reset)),
        ("cut-in-head", cut(9, After::Close)),
        ("garbage", raw("\u{0}\u{1}garbage\r\n\r\n")),
        ("desync", raw("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        ("redirect", redirect),
    ] {
        alias(name, &[]);
        world().upstream.script(Script { model: Some(name.to_owned()), ..script });
        let response = exchange(&chat(name));
        assert_error(name, &response, 502, SERVER, json!("upstream_error"));
        if name != "redirect" {
            assert_eq!(response.header("x-should-retry"), "false", "{name}");
        }
    }
}

#[test]
fn an_upstream_that_is_too_slow_times_out() {
    alias("slow", &["--first-byte-timeout-ms", "300"]);
    world().upstream.script(Script::for_model("slow").answer(Answer::Never));
    let response = exchange(&chat("slow"));
    assert_error("slow", &response, 504, SERVER, json!("upstream_timeout"));
    assert_eq!(response.header("x-should-retry"), "false");
}

#[test]
fn an_upstream_that_refuses_our_credential_is_our_trouble() {
    for (name, status) in [("denied-401", 401), ("denied-403", 403)] {
        alias(name, &[]);
        world()
            .upstream
            .script(Script::for_model(name).json(status, r#"{"error":{"message":"sk-upstream"}}"#));
        let response = exchange(&chat(name));
        assert_error(name, &response, 503, SERVER, json!("upstream_unavailable"));
        assert_eq!(response.header("x-should-retry"), "false", "{name}");
        assert!(!response.text().contains("sk-upstream"), "{name}");
    }
}

#[test]
fn other_answers_of_the_upstream_pass_as_they_are() {
    let body = "{ \"error\": {\"message\": \"too long\", \"code\":\"context_length_exceeded\"} }\n";
    for (name, status) in [("plain-400", 400), ("plain-429", 429), ("plain-500", 500), ("plain-503", 503)] {
        alias(name, &[]);
        let script = Script::for_model(name).json(status, body).header("retry-after", "7");
        world().upstream.script(script.header("set-cookie", "a=b").header("x-ratelimit-limit-requests", "9"));
        let response = exchange(&chat(name));
        assert_eq!((response.status(), response.text().as_str()), (status, body), "{name}");
        assert_eq!(response.header("retry-after"), "7", "{name}");
        // The shared account's cookies and quota are nobody's business.
        assert_eq!(response.header("set-cookie"), "", "{name}");
        assert_eq!(response.header("x-ratelimit-limit-requests"), "", "{name}");
        assert!(!response.header("x-request-id").is_empty(), "{name}");
    }
}

#[test]
fn a_failed_stream_never_ends_cleanly() {
    let event = "data: {\"choices\":[{}]}\n\n";
    let head =
        "HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    // A chunk is its size in hexadecimal, the event, and two line ends.
    let first = head.len() + format!("{:x}\r\n\r\n", event.len()).len() + event.len();
    for (name, at, at_boundary) in [("stream-boundary", first, true), ("stream-inside", first + 12, false)] {
        for after in [After::Close, After::Reset] {
            alias(name, &[]);
            let script = Script::for_model(name).times(1).events([event, event, "data: [DONE]\n\n"]);
            // The peer has read the first event before the connection breaks, so that it must be passed on.
            world().upstream.script(Script { cut: Some(Cut { at, after }), split: vec![first], ..script });
            let members = r#""stream":true,"stream_options":{"include_usage":true}"#;
            let response = exchange(&with_key(CHAT, &format!(r#"{{"model":"{name}",{members}}}"#)));
            assert_eq!(response.status(), 200, "{name}");
            assert!(!response.is_complete(), "{name}, {after:?}: it ended cleanly: {:?}", response.text());
            assert_ne!(response.end, End::Open, "{name}");
            assert!(response.text().starts_with(event), "{name}, {after:?}: {:?}", response.text());
            assert!(!response.text().contains("[DONE]"), "{name}");
            let events = response.events();
            let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
            assert_eq!(last["error"]["type"] == json!(SERVER), at_boundary, "{name}, {after:?}: {events:?}");
        }
    }
}

#[test]
fn errors_leave_the_connection_usable_where_they_may() {
    let mut connection: Connection = world().system.connection();
    for (request, status) in [
        (with_key(CHAT, "[]"), 400),
        (chat("no-such-model"), 404),
        (post(CHAT, "nonsense", "{}"), 401),
        (chat("small"), 200),
    ] {
        let response = connection.exchange(&request).unwrap();
        assert_eq!((response.status(), response.end), (status, End::Framed), "{}", response.text());
        if response.header("connection") == "close" {
            connection = world().system.connection();
        }
    }
}
