//! The scriptable upstream itself: what it says it does to a peer, it does. Everything else stands on this.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use load_tests::client::raw::End;
use load_tests::client::{Amount, Connection, Plan, Response, Template, load, post, request};
use load_tests::upstream::{After, Answer, Cut, Delimiter, Options, Script, Upstream};
use serde_json::json;

const PATH: &str = "/v1/chat/completions";
const LIMIT: Duration = Duration::from_secs(60);

fn start() -> Upstream {
    Upstream::start(Options::default()).unwrap()
}

fn ask(model: &str, members: &str) -> Vec<u8> {
    post(PATH, "key", &format!(r#"{{"model":"{model}"{members}}}"#))
}

fn exchange(upstream: &Upstream, request: &[u8]) -> Response {
    Connection::open(upstream.address()).unwrap().exchange(request).unwrap()
}

#[test]
fn load_and_ledger_agree() {
    let upstream = start();
    let stream = r#","stream":true,"stream_options":{"include_usage":true},"seed":7,"max_tokens":3"#;
    let templates = vec![
        Template { label: "plain".to_owned(), request: ask("m", r#","seed":5,"max_tokens":2"#) },
        Template { label: "stream".to_owned(), request: ask("m", stream) },
    ];
    let report = load::run(&Plan::new(upstream.address(), 4, Amount::Requests(100), templates)).unwrap();
    assert_eq!((report.responses(), report.failures, report.connects), (100, 0, 4));
    let (plain, stream) = (report.labels["plain"], report.labels["stream"]);
    assert_eq!((plain.prompt_tokens, plain.completion_tokens, plain.total_tokens), (250, 100, 350));
    // Three tokens, the finish, the usage, and the end.
    assert_eq!((stream.prompt_tokens, stream.completion_tokens, stream.events), (350, 150, 300));
    let ledger = upstream.ledger()["m"];
    assert_eq!((ledger.requests, ledger.reported), (100, 100));
    assert_eq!((ledger.prompt_tokens, ledger.completion_tokens), (600, 250));
}

#[test]
fn scripts_apply_by_model_and_as_often_as_they_say() {
    let upstream = start();
    upstream.script(Script::for_model("broken").times(2).json(500, r#"{"error":{}}"#).header("x-extra", "1"));
    let statuses: Vec<u16> = ["broken", "other", "broken", "broken"]
        .map(|model| exchange(&upstream, &ask(model, "")).status())
        .into();
    assert_eq!(statuses, [500, 200, 500, 200]);
    let last = upstream.received().pop().unwrap();
    assert!(last.head.0.starts_with(b"POST /v1/chat/completions HTTP/1.1\r\n"));
    assert_eq!(last.body.0, br#"{"model":"broken"}"#);
}

#[test]
fn the_second_event_waits_for_its_gate() {
    let upstream = start();
    upstream.script(Script::default().events(["data: one\n\n", "data: two\n\n"]).gate(1, "second"));
    let mut connection = Connection::open(upstream.address()).unwrap();
    connection.send(&ask("m", "")).unwrap();
    let mut response = Response::of(b"");
    connection.read(&mut response, |response| !response.body().is_empty()).unwrap();
    assert!(upstream.wait_for_gate("second", 1, LIMIT));
    assert_eq!(response.body(), b"data: one\n\n");
    upstream.open_gate("second");
    connection.read(&mut response, |_| false).unwrap();
    assert_eq!((response.events(), response.end), (vec!["one".to_owned(), "two".to_owned()], End::Framed));
}

#[test]
fn an_answer_ends_as_scripted() {
    let upstream = start();
    let fixed = Script::default().times(1).json(200, "{}");
    let cut = |at, after| Script { cut: Some(Cut { at, after }), ..fixed.clone() };
    for (script, end, body) in [
        (cut(0, After::Close), End::Closed, ""),
        (cut(10, After::Reset), End::Reset, ""),
        (Script { delimiter: Delimiter::Close, ..fixed.clone() }, End::Closed, "{}"),
        (Script { delimiter: Delimiter::Chunked, chunk_bytes: Some(1), ..fixed.clone() }, End::Framed, "{}"),
        (Script { split_every: Some(1), ..fixed.clone() }, End::Framed, "{}"),
        (
            Script {
                answer: Answer::Raw("HTTP/1.1 200 OK\r\n\r\nxy".into()),
                after: After::Close,
                ..fixed.clone()
            },
            End::Closed,
            "xy",
        ),
    ] {
        upstream.script(script.clone());
        let response = exchange(&upstream, &ask("m", ""));
        assert_eq!((response.end, response.text().as_str()), (end, body), "{script:?}");
    }
}

#[test]
fn each_split_is_a_read_of_its_own() {
    let upstream = start();
    let script = Script::default().json(200, &"x".repeat(200));
    upstream.script(Script { split_every: Some(1), ..script });
    let response = exchange(&upstream, &ask("m", ""));
    // The reader may be a little late now and then, but never by so much.
    let lengths: Vec<usize> = response.reads.iter().map(|&(_, length)| length).collect();
    assert!(lengths.iter().filter(|&&length| length > 0).count() > 190, "{lengths:?}");
}

#[test]
fn surplus_interim_and_idle_close_arrive() {
    let upstream = start();
    let script = Script::default().times(1).json(200, "{}");
    upstream.script(Script {
        before_head: "HTTP/1.1 103 Early\r\n\r\n".into(),
        surplus: "more".into(),
        ..script.clone()
    });
    let mut connection = Connection::open(upstream.address()).unwrap();
    let response = connection.exchange(&ask("m", "")).unwrap();
    assert_eq!((response.interim().len(), response.text().as_str()), (1, "{}"));
    assert!(!connection.ends().unwrap());
    upstream.script(Script { after: After::CloseIdle(1), ..script });
    let mut connection = Connection::open(upstream.address()).unwrap();
    assert_eq!(connection.exchange(&ask("m", "")).unwrap().end, End::Framed);
    assert!(connection.ends().unwrap());
}

#[test]
fn idle_connections_close_when_told() {
    let upstream = start();
    let mut connection = Connection::open(upstream.address()).unwrap();
    assert_eq!(connection.exchange(&ask("m", "")).unwrap().status(), 200);
    while upstream.close_idle() == 0 {}
    assert!(connection.ends().unwrap());
}

#[test]
fn it_is_scripted_over_http_too() {
    let upstream = start();
    let fixed = json!({"status": 429, "content_type": "text/plain", "parts": ["slow"]});
    let script = json!({"model": "m", "times": 1, "answer": {"fixed": fixed}});
    let control = |method: &str, path: &str, body: &str| {
        exchange(&upstream, &request(method, path, &[], body.as_bytes()))
    };
    assert_eq!(control("POST", "/script", &script.to_string()).status(), 200);
    assert_eq!(control("POST", "/script", r#"{"typo":1}"#).status(), 400);
    assert_eq!(exchange(&upstream, &ask("m", "")).status(), 429);
    assert_eq!(exchange(&upstream, &ask("m", "")).status(), 200);
    let received = control("GET", "/received", "").json();
    assert_eq!(
        (&received["requests"], &received["last"][0]["body"]),
        (&json!(2), &json!(r#"{"model":"m"}"#))
    );
    assert_eq!(control("GET", "/ledger", "").json()["m"]["requests"], json!(2));
    assert_eq!(
        exchange(&upstream, &request("GET", "/v1/models", &[], b"")).json()["data"][0]["id"],
        json!("scripted")
    );
}
