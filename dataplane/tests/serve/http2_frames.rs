//! Frames and heads that RFC 9113 forbids: what ends the connection, and what ends its stream alone.

use crate::http2_peer::{Frame, FramePeer, ask, connect, field, frame, post, runtime};
use crate::path::{CHAT, WHOLE, json_answer};
use crate::plane::{GOOD, Upstream, key};
use crate::tls_peer::plane;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

const GOOD_FIELDS: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":path", CHAT), (":authority", "localhost")];

fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat())
}

/// The first frame of an error: its type, and its code.
fn refusal(peer: &mut FramePeer) -> Option<(u8, u32)> {
    let (kind, .., payload): Frame =
        std::iter::from_fn(|| peer.next()).find(|(kind, ..)| matches!(*kind, RST_STREAM | GOAWAY))?;
    let at = if kind == GOAWAY { 4 } else { 0 };
    Some((kind, u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())))
}

#[test]
fn what_breaks_the_connections_rules_ends_it_with_the_code_that_says_so() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let open = || headers(1, 0, &GOOD_FIELDS);
    // PROTOCOL_ERROR is the `h2` crate's word also where the RFC has a closer one.
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("data on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("data on an idle stream", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        ("padding longer than the frame", [open(), frame(DATA, PADDED, 1, &[9, 1])].concat(), PROTOCOL_ERROR),
        ("headers on stream 0", headers(0, 0, &GOOD_FIELDS), PROTOCOL_ERROR),
        ("headers on an even stream", headers(2, 0, &GOOD_FIELDS), PROTOCOL_ERROR),
        (
            "a stream number that goes back",
            [headers(5, 0, &GOOD_FIELDS), headers(3, 0, &GOOD_FIELDS)].concat(),
            PROTOCOL_ERROR,
        ),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        ("a reset of stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("a reset that is too short", [open(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), PROTOCOL_ERROR),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("settings of a wrong length", frame(SETTINGS, 0, 0, &[0; 5]), PROTOCOL_ERROR),
        ("an acknowledgement with settings", frame(SETTINGS, 1, 0, &[0; 6]), PROTOCOL_ERROR),
        ("push neither on nor off", setting(2, 2), PROTOCOL_ERROR),
        ("a window over 2^31", setting(4, 1 << 31), PROTOCOL_ERROR),
        ("a frame size under 2^14", setting(5, 1 << 13), PROTOCOL_ERROR),
        ("a push from a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4]), PROTOCOL_ERROR),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("a ping of a wrong length", frame(PING, 0, 0, &[0; 6]), PROTOCOL_ERROR),
        ("a goodbye on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("an update of the window by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("an update of a wrong length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), PROTOCOL_ERROR),
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            FLOW_CONTROL_ERROR,
        ),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[]), PROTOCOL_ERROR),
        (
            "another frame within a head",
            [frame(HEADERS, 0, 1, &block(&GOOD_FIELDS)), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a continuation of another head",
            [frame(HEADERS, 0, 1, &block(&GOOD_FIELDS)), frame(CONTINUATION, 4, 3, &[])].concat(),
            PROTOCOL_ERROR,
        ),
        ("an index that no table has", frame(HEADERS, END_HEADERS, 1, &[0xff, 0x7f]), PROTOCOL_ERROR),
        ("a frame over the size", frame(DATA, 0, 1, &vec![0; 16_385]), FRAME_SIZE_ERROR),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases {
        let mut peer = FramePeer::connect(&plane, &certified);
        peer.send(&bytes);
        let got = refusal(&mut peer);
        if got != Some((GOAWAY, expected)) || peer.next().is_some() {
            wrong.push(format!("{name}: {got:?}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_head_that_http_2_forbids_resets_its_stream_and_no_other() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let with = |extra: &[(&'static str, &'static str)]| [&GOOD_FIELDS[..], extra].concat();
    let without = |name| GOOD_FIELDS.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let path = |path| [&without(":path")[..], &[(":path", path)]].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("an answer's pseudo-field", with(&[(":status", "200")])),
        ("a pseudo-field behind a field", [&[("a", "b")], &GOOD_FIELDS[..]].concat()),
        ("two methods", with(&[(":method", "GET")])),
        ("two paths", with(&[(":path", "/")])),
        ("two schemes", with(&[(":scheme", "https")])),
        ("two authorities", with(&[(":authority", "localhost")])),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("an empty path", path("")),
        ("a path without its slash", path("v1/models")),
        ("a path with an authority", path("https://localhost/v1/models")),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te other than trailers", with(&[("te", "trailers, deflate")])),
        ("space around a value", with(&[("a", " b")])),
        ("a length that is none", with(&[("content-length", "+5")])),
    ];
    let (mut wrong, mut peer) = (Vec::new(), FramePeer::connect(&plane, &certified));
    for (number, (name, fields)) in (0..).zip(cases) {
        peer.send(&headers(number * 2 + 1, END_STREAM, &fields));
        let got = refusal(&mut peer);
        if got != Some((RST_STREAM, PROTOCOL_ERROR)) {
            wrong.push(format!("{name}: {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let authorization = format!("Bearer {}", key(GOOD));
    let whole = [&GOOD_FIELDS[..], &[("authorization", authorization.as_str())]].concat();
    peer.send(&[headers(101, 0, &whole), frame(DATA, END_STREAM, 101, br#"{"model":"fast"}"#)].concat());
    let data: Vec<u8> = std::iter::from_fn(|| peer.next()).find(|(kind, ..)| *kind == DATA).unwrap().3;
    assert_eq!(data, WHOLE.as_bytes());
    // A frame on a stream that is over.
    peer.send(&frame(DATA, END_STREAM, 101, b"x"));
    assert!(refusal(&mut peer).is_some_and(|(_, code)| code == STREAM_CLOSED));
}

#[test]
fn a_head_that_only_we_refuse_is_400_on_its_stream_and_reaches_nobody() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let uri = |authority: &str, path: &str| format!("https://{authority}{path}");
    let cases = [
        ("a path that is not ASCII", uri("localhost", "/v1/ch\u{e4}t/completions"), 400),
        ("another one", uri("localhost", "/v1/models?\u{1f600}"), 400),
        ("someone before the host", uri("someone@localhost", CHAT), 400),
        ("a port that is none", uri("localhost:70000", CHAT), 400),
        ("a method that must not be", uri("localhost", CHAT), 405),
    ];
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        for (name, uri, status) in cases {
            let method = if status == 405 { "TRACE" } else { "POST" };
            let request = http::Request::builder().method(method).uri(uri);
            let request = request.header("authorization", format!("Bearer {}", key(GOOD)));
            let answer = ask(&mut client, request, r#"{"model":"fast"}"#).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!((answer.status, answer.end.is_ok()), (status, true), "{name}: {text}");
            assert!(text.contains("invalid_request_error"), "{name}: {text}");
        }
        assert_eq!(upstream.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
        let good = ask(&mut client, post(CHAT), r#"{"model":"fast"}"#).await;
        assert_eq!(good.status, 200, "the connection goes on");
    });
}

#[test]
fn a_field_that_no_head_may_have_ends_the_connection() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    for (name, value) in [
        ("X-Upper", "a"),
        (":unknown", "a"),
        ("a", "b\r\nhost: c"),
        ("a", "b\0"),
        ("a b", "c"),
        ("a: b\r\nhost", "c"),
        (":path", "/ HTTP/1.1\r\nhost: c"),
    ] {
        let fields: Vec<_> = GOOD_FIELDS.into_iter().filter(|field| field.0 != name).collect();
        let mut peer = FramePeer::connect(&plane, &certified);
        peer.send(&headers(1, END_STREAM, &[&fields[..], &[(name, value)]].concat()));
        assert!(refusal(&mut peer).is_some_and(|(_, code)| code == PROTOCOL_ERROR), "{name:?}: {value:?}");
    }
    assert_eq!(upstream.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
}
