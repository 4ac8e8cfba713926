//! Every upstream fault at every byte of an answer: the client sees what the table of errors says, nothing
//! that was cut ends as if it were whole, and the next exchange of another tenant is as if nothing had been.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::OnceLock;

use load_tests::client::{Connection, Response, post};
use load_tests::harness::ask::Tenant;
use load_tests::harness::{Setup, System};
use load_tests::message::Framing;
use load_tests::upstream::{After, Answer, Cut, Delimiter, Options, Script, Upstream};
use serde_json::json;

mod sdk;

/// How many answers are under way at once.
const AT_ONCE: usize = 40;
/// How long the upstream of `hasty` may be silent, in milliseconds: a busy machine makes it slow, which is no
/// stall.
const PATIENCE_MS: &str = "1000";

const EVENTS: [&str; 3] =
    ["data: {\"choices\":[{\"i\":1}]}\n\n", "data: {\"choices\":[{\"i\":2}]}\n\n", "data: [DONE]\n\n"];
const JSON: &str = r#"{"choices":[{"index":0}],"usage":{"total_tokens":1}}"#;

struct World {
    system: System,
    tenants: [Tenant; 2],
    _upstream: Upstream,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let upstream = Upstream::start(Options::default()).unwrap();
        let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
        let patience = ["--first-byte-timeout-ms", PATIENCE_MS, "--idle-timeout-ms", PATIENCE_MS];
        system.set_model("hasty", &upstream.base_url(), "hasty", &patience);
        let tenants = ["first", "second"].map(|name| system.tenant(name));
        World { system, tenants, _upstream: upstream }
    })
}

/// A request that brings what is to go wrong with it.
fn request(tenant: usize, model: &str, script: &Script) -> Vec<u8> {
    let script = serde_json::to_string(script).unwrap();
    // It asks for the usage itself, so that every byte of a stream is passed.
    let members = r#""stream":true,"stream_options":{"include_usage":true}"#;
    let body = format!(r#"{{"model":"{model}",{members},"script":{script}}}"#);
    post("/v1/chat/completions", &world().tenants[tenant].secret, &body)
}

/// What the answer to `script` must be like.
type Judge<'a> = &'a (dyn Fn(usize, &Response) + Sync);

/// Carries out one exchange for each script, in any order; after each, another tenant's, on a connection of
/// its own, which must be whole.
fn each(model: &str, scripts: Vec<Script>, judge: Judge<'_>) {
    let sound = Script::default().json(200, JSON);
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let (scripts, sound) = (&scripts, &sound);
            scope.spawn(move || {
                let mut other = world().system.connection();
                for (index, script) in scripts.iter().enumerate().skip(first).step_by(AT_ONCE) {
                    let mut connection: Connection = world().system.connection();
                    let response = connection.exchange(&request(0, model, script)).unwrap();
                    judge(index, &response);
                    let next = other.exchange(&request(1, "small", sound)).unwrap();
                    assert_eq!((next.status(), next.text().as_str()), (200, JSON), "after {index}");
                    assert!(next.is_complete(), "after {index}");
                }
            });
        }
    });
}

/// The upstream broke before a byte of its answer went on.
fn assert_broken(what: &str, response: &Response, status: u16, code: &str) {
    assert_eq!(response.status(), status, "{what}: {}", response.text());
    let error = &response.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!(code)), "{what}");
    assert!(response.is_complete(), "{what}");
    assert_eq!(response.header("x-should-retry"), "false", "{what}");
    assert!(!response.header("x-request-id").is_empty(), "{what}");
}

/// An answer and the bytes that it is made of: the head, and all.
struct Kind {
    name: &'static str,
    script: Script,
    head: usize,
    all: usize,
    /// As the client is to get it.
    body: String,
}

fn kinds() -> Vec<Kind> {
    let json = Script::default().json(200, JSON);
    let stream = Script::default().events(EVENTS);
    let kind = |name: &'static str, script: Script, framing: &str, body: String, framed: usize| {
        let type_ = if name.starts_with("stream") { "text/event-stream" } else { "application/json" };
        let head = format!("HTTP/1.1 200 Scripted\r\ncontent-type: {type_}\r\n{framing}\r\n\r\n").len();
        Kind { name, script, head, all: head + framed, body }
    };
    let chunk = |data: &str| format!("{:x}\r\n{data}\r\n", data.len()).len();
    let chunks = |parts: &[&str]| parts.iter().map(|part| chunk(part)).sum::<usize>() + "0\r\n\r\n".len();
    let (chunked, length) = ("transfer-encoding: chunked", format!("content-length: {}", JSON.len()));
    let until_close = |script: &Script| Script { delimiter: Delimiter::Close, ..script.clone() };
    let json_chunked = Script { delimiter: Delimiter::Chunked, ..json.clone() };
    let events = EVENTS.concat();
    vec![
        kind("whole, length", json.clone(), &length, JSON.into(), JSON.len()),
        kind("whole, chunked", json_chunked, chunked, JSON.into(), chunks(&[JSON])),
        kind("whole, until close", until_close(&json), "connection: close", JSON.into(), JSON.len()),
        kind("stream, chunked", stream.clone(), chunked, events.clone(), chunks(&EVENTS)),
        kind("stream, until close", until_close(&stream), "connection: close", events.clone(), events.len()),
    ]
}

/// Judges what a client got of an answer of which `at` bytes were sent.
fn judge_cut(kind: &Kind, at: usize, response: &Response, status: u16, code: &str) {
    let what = format!("{}, cut at {at} of {}", kind.name, kind.all);
    let stream = kind.name.starts_with("stream");
    if response.status() == status {
        // A stream's head goes on at once, since clients wait for it; a whole answer's with its first byte.
        assert!(at < kind.head || (!stream && at <= kind.all), "{what}: its head had come");
        return assert_broken(&what, response, status, code);
    }
    assert!(at >= kind.head, "{what}: {} {}", response.status(), response.text());
    assert_eq!(response.status(), 200, "{what}");
    let text = response.text();
    let told = text.find("data: {\"error\"").filter(|_| stream).unwrap_or(text.len());
    assert!(kind.body.starts_with(&text[..told]), "{what}: {text}");
    if told < text.len() {
        assert!(told == 0 || text[..told].ends_with("\n\n"), "{what}: told inside an event: {text}");
        assert!(text[told..].contains("\"upstream_error\""), "{what}: {text}");
    }
    let whole = text == kind.body;
    if kind.script.delimiter == Delimiter::Close && whole {
        // Nothing but the end of the connection was still to come.
        return;
    }
    assert!(!response.is_complete(), "{what}: it ended as if it were whole: {text}");
    assert_ne!(response.framing(), Some(Framing::Close), "{what}");
}

#[test]
fn an_answer_that_breaks_off_at_any_byte_is_never_taken_for_whole() {
    for kind in kinds() {
        for after in [After::Close, After::Reset, After::Abort] {
            let cut = |at| Script { cut: Some(Cut { at, after }), ..kind.script.clone() };
            each("small", (0..kind.all).map(cut).collect(), &|at, response| {
                judge_cut(&kind, at, response, 502, "upstream_error");
            });
        }
        each("small", vec![kind.script.clone(); AT_ONCE], &|_, response| {
            assert_eq!((response.text(), response.is_complete()), (kind.body.clone(), true), "{}", kind.name);
        });
    }
}

#[test]
fn an_answer_that_stalls_at_any_byte_is_given_up_in_time() {
    for kind in kinds() {
        let cut = |at| Script { cut: Some(Cut { at, after: After::Stall }), ..kind.script.clone() };
        // What an answer until the close has to be is known only once it is closed.
        each("hasty", (0..kind.all).map(cut).collect(), &|at, response| {
            judge_cut(&kind, at, response, 504, "upstream_timeout");
        });
    }
}

#[test]
fn an_answer_in_pieces_of_any_size_is_the_same_answer() {
    for kind in kinds() {
        let pieces = |every| Script { split_every: Some(every), ..kind.script.clone() };
        each("small", [1, 2, 3, 5, 7, 16, 17, 64].map(pieces).into(), &|_, response| {
            assert_eq!((response.text(), response.is_complete()), (kind.body.clone(), true), "{}", kind.name);
        });
    }
}

/// An answer of these bytes, and nothing else.
fn raw(bytes: &str, after: After) -> Script {
    Script { answer: Answer::Raw(bytes.into()), after, ..Script::default() }
}

/// Answers that break the rules of HTTP/1.1, or break off.
fn broken_answers() -> Vec<String> {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let chunked = head("transfer-encoding: chunked");
    let mut answers = vec![
        String::new(),
        "\0".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "HTTP/2 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\ncontent-length: 2\n\n{}".to_owned(),
        head("content-length: 2\r\ncontent-length: 3") + "{}",
        head("content-length: 2\r\ncontent-length: 2") + "{}",
        head("content-length: -2") + "{}",
        head("content-length: 2\r\ntransfer-encoding: chunked") + "{}",
        head("transfer-encoding: gzip, chunked") + "{}",
        head("transfer-encoding : chunked") + "{}",
        head("content-length: 9") + "{}",
        head(&"x: y\r\n".repeat(10_000)),
        head(&format!("x: {}", "y".repeat(1 << 20))),
        head(&format!("{}: y", "x".repeat(70_000))),
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000),
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n".to_owned(),
    ];
    for garbage in
        ["x\r\n", "-1\r\n", "\r\n", "2\r\n{}x", "2\n{}", "2 \r\n{}", "11111111111111111\r\n", "2;\r\n"]
    {
        answers.push(chunked.clone() + garbage);
    }
    answers
}

#[test]
fn what_breaks_the_rules_is_502_and_costs_nobody_else() {
    for after in [After::Close, After::Reset, After::Keep] {
        // An end that never comes is the business of the limits of time.
        let judged = |bytes: &String| after != After::Keep || bytes.len() > 1000 || bytes.contains(" : ");
        let scripts: Vec<_> =
            broken_answers().into_iter().filter(judged).map(|bytes| raw(&bytes, after)).collect();
        each("small", scripts, &|index, response| {
            // A body that breaks after bytes of it have gone on is cut instead.
            if response.status() == 200 {
                assert!(!response.is_complete(), "answer {index}: {}", response.text());
            } else {
                assert_broken(&format!("answer {index}"), response, 502, "upstream_error");
            }
        });
    }
}

#[test]
fn what_comes_behind_an_answer_is_nobodys() {
    let stolen = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";
    let json = Script::default().json(200, JSON);
    let mut scripts = Vec::new();
    for surplus in ["x", "\r\n", stolen, "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"] {
        for delimiter in [Delimiter::Length, Delimiter::Chunked] {
            for after in [After::Keep, After::Close] {
                scripts.push(Script { surplus: surplus.into(), delimiter, after, ..json.clone() });
            }
        }
    }
    let scripts = scripts.iter().cycle().take(20 * scripts.len()).cloned().collect();
    each("small", scripts, &|index, response| {
        assert_eq!((response.status(), response.text().as_str()), (200, JSON), "{index}");
        assert!(response.is_complete(), "{index}");
    });
}
