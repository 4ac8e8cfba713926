//! What goes in comes out, byte for byte, each event as soon as it arrives.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::OnceLock;
use std::time::Duration;

use load_tests::client::raw::End;
use load_tests::client::{Connection, Response, post};
use load_tests::harness::{Setup, System};
use load_tests::upstream::{Answer, Blob, Delimiter, Options, Script, Upstream};

const PATH: &str = "/v1/chat/completions";
const LIMIT: Duration = Duration::from_secs(20);

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

/// An alias of this name whose upstream model has the same name, so that each test scripts its own requests.
fn alias(name: &str) {
    world().system.set_model(name, &world().upstream.base_url(), name, &[]);
}

fn ask(alias: &str, members: &str) -> Vec<u8> {
    post(PATH, world().system.key(), &format!(r#"{{"model":"{alias}"{members}}}"#))
}

/// JSON that every re-serialization would change.
const ODD_JSON: &str = concat!(
    "{ \"b\" : 1e400,\r\n\t\"a\":-0, \"a\":1.10,",
    "\"id\":\"\\u00e9\u{e9}\\/\",\"usage\":{\"prompt_tokens\":1}} \n",
);
/// A stream with everything that SSE allows, and no usage event.
const ODD_STREAM: &str = concat!(
    ": comment\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"\u{6d41}\"}}]}\r\n\r\n",
    "event: x\nid: 1\ndata: {\"a\":\ndata: 1}\n\n\n",
    "data: {\"usage\":null,\"choices\":[ ]}\n\n",
    "retry: 5\n\n",
    "data: [DONE]\n\n",
);
/// An event with the usage that the gateway asked for.
const USAGE_EVENT: &str = concat!(
    "data: {\"id\":\"x\",\"choices\":[],",
    "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n",
);

struct Case {
    name: &'static str,
    content_type: &'static str,
    parts: Vec<Blob>,
    delimiter: Delimiter,
    /// Members of the request beside the model.
    members: &'static str,
    expected: String,
}

fn cases() -> Vec<Case> {
    let json = |name, delimiter| Case {
        name,
        content_type: "application/json",
        parts: vec![ODD_JSON.into()],
        delimiter,
        members: "",
        expected: ODD_JSON.to_owned(),
    };
    let stream = |name, delimiter, members, upstream: String, expected: &str| Case {
        name,
        content_type: "text/event-stream",
        parts: upstream.split_inclusive("\n\n").map(Blob::from).collect(),
        delimiter,
        members,
        expected: expected.to_owned(),
    };
    let counted = ODD_STREAM.replace("data: [DONE]", &format!("{USAGE_EVENT}data: [DONE]"));
    let silent = r#","stream":true"#;
    let asking = r#","stream":true,"stream_options":{"include_usage":true}"#;
    vec![
        json("length", Delimiter::Length),
        json("chunked", Delimiter::Chunked),
        json("close", Delimiter::Close),
        stream("stream", Delimiter::Chunked, asking, counted.clone(), &counted),
        stream("stream-close", Delimiter::Close, asking, counted.clone(), &counted),
        stream("silent", Delimiter::Chunked, silent, counted, ODD_STREAM),
        stream("silent-without", Delimiter::Chunked, silent, ODD_STREAM.to_owned(), ODD_STREAM),
    ]
}

fn script(case: &Case) -> Script {
    let content_type = case.content_type.to_owned();
    let answer = Answer::Fixed { status: 200, content_type, parts: case.parts.clone() };
    Script { delimiter: case.delimiter, ..Script::for_model(case.name).times(1).answer(answer) }
}

fn exchange(connection: &mut Connection, case: &Case, script: Script) -> Response {
    world().upstream.script(script);
    connection.exchange(&ask(case.name, case.members)).unwrap()
}

fn assert_untouched(case: &Case, response: &Response, split: &str) {
    let name = case.name;
    assert_eq!(response.status(), 200, "{name}, {split}: {}", response.text());
    assert_eq!(response.text(), case.expected, "{name}, {split}");
    assert!(response.is_complete(), "{name}, {split}: {:?}", response.end);
    assert_eq!(response.header("content-type"), case.content_type, "{name}, {split}");
}

#[test]
fn bodies_pass_byte_for_byte_however_they_are_split() {
    for case in cases() {
        alias(case.name);
        let mut connection = world().system.connection();
        let response = exchange(&mut connection, &case, script(&case));
        assert_untouched(&case, &response, "whole");
        let every = Script { split_every: Some(1), ..script(&case) };
        assert_untouched(&case, &exchange(&mut connection, &case, every), "every byte");
        // The head of the answer is shorter than this, and offsets beyond the end split nothing.
        let bytes: usize = case.parts.iter().map(|part| part.0.len() + 8).sum::<usize>() + 120;
        for at in 1..bytes {
            let split = Script { split: vec![at], ..script(&case) };
            assert_untouched(&case, &exchange(&mut connection, &case, split), &format!("split at {at}"));
        }
    }
}

#[test]
fn the_first_event_arrives_before_the_second_is_sent() {
    for (name, members) in [
        ("gate-counted", r#","stream":true,"stream_options":{"include_usage":true}"#),
        ("gate-silent", r#","stream":true"#),
    ] {
        alias(name);
        let events =
            ["data: {\"choices\":[{}]}\n\n", "data: {\"choices\":[{}],\"n\":2}\n\n", "data: [DONE]\n\n"];
        world().upstream.script(Script::for_model(name).events(events).gate(1, name));
        let mut connection = world().system.connection();
        connection.send(&ask(name, members)).unwrap();
        let mut response = Response::of(b"");
        connection.read(&mut response, |response| response.body().len() >= events[0].len()).unwrap();
        // The gate is closed: nothing of the second event has been sent.
        assert_eq!(response.text(), events[0]);
        assert!(world().upstream.wait_for_gate(name, 1, LIMIT));
        world().upstream.open_gate(name);
        connection.read(&mut response, |_| false).unwrap();
        assert_eq!((response.text(), response.end), (events.concat(), End::Framed));
    }
}

#[test]
fn requests_change_only_in_the_model() {
    alias("renamed");
    world().system.set_model("odd", &world().upstream.base_url(), "renamed", &[]);
    let members =
        "\"z\" :1e400,\t\"seed\":7,\r\n \"nested\":{\"model\":\"odd\"},\"u\":\"\\u00e9\u{e9}\\\"model\\\"\"";
    for (before, after) in [("{", ","), ("\r\n{ \"first\": -0,", " ,")] {
        let body = |model: &str| format!("{before}\"model\" : \"{model}\"{after}{members}}}\n");
        let response = world().system.post("/chat/completions", world().system.key(), &body("odd"));
        assert_eq!(response.status(), 200, "{}", response.text());
        let received = world().upstream.received();
        let wanted = body("renamed").into_bytes();
        assert!(received.iter().any(|request| request.body.0 == wanted), "{:?}", received.last());
    }
}
