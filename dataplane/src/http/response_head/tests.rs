//! Response heads that are accepted, and what is found in them. What is refused: `tests/hostile/response`.

use super::{ResponseHead, fuzz};
use crate::http::fields::Persist;
use crate::http::framing::BodyFraming;
use crate::http::head_end::HeadEnd;
use crate::http::head_error::HeadError;

fn parse(head: &str, to_head: bool) -> Result<ResponseHead, HeadError> {
    fuzz(head.as_bytes());
    let length = HeadEnd::of_response().find(head.as_bytes())?.unwrap();
    ResponseHead::parse(&head.as_bytes()[..length], to_head)
}

#[test]
fn streamed_response_is_parsed() {
    let text = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
        x-ratelimit-limit-requests: 5\r\nset-cookie: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let parsed = parse(text, false).unwrap();
    assert_eq!(
        (parsed.status, parsed.framing, parsed.persist),
        (200, BodyFraming::Chunked, Persist::KeepAlive)
    );
    assert_eq!(
        (parsed.is_event_stream, parsed.content_coded, parsed.is_informational()),
        (true, false, false)
    );
    let forwarded: Vec<_> =
        parsed.forwarded().map(|(name, value)| (name, value.of(text.as_bytes()))).collect();
    assert_eq!(forwarded, [("content-type", &b"text/event-stream; charset=utf-8"[..])]);
    assert_eq!(parsed.content_type.unwrap().of(text.as_bytes()), b"text/event-stream; charset=utf-8");
}

#[test]
fn framing_and_persistence_follow_status_version_and_fields() {
    use BodyFraming::{Chunked, Length, None, UntilClose};
    use Persist::{Close, KeepAlive};
    let cases = [
        ("HTTP/1.1 200 OK", "", UntilClose, Close),
        ("HTTP/1.1 200 OK", "connection: keep-alive\r\n", UntilClose, Close),
        ("HTTP/1.1 200 OK", "content-length: 5\r\n", Length(5), KeepAlive),
        ("HTTP/1.1 200 OK", "content-length: 5\r\nconnection: close\r\n", Length(5), Close),
        ("HTTP/1.1 200", "content-length: 0\r\n", Length(0), KeepAlive),
        ("HTTP/1.1 200 OK", "transfer-encoding: chunked\r\n", Chunked, KeepAlive),
        ("HTTP/1.1 500 \u{e4}", "transfer-encoding: chunked\r\n", Chunked, KeepAlive),
        ("HTTP/1.1 204 No Content", "", None, KeepAlive),
        ("HTTP/1.1 204 No Content", "content-length: 5\r\n", None, KeepAlive),
        ("HTTP/1.1 304 Not Modified", "content-length: 5\r\n", None, KeepAlive),
        ("HTTP/1.1 304 Not Modified", "transfer-encoding: chunked\r\n", None, KeepAlive),
        ("HTTP/1.1 100 Continue", "", None, KeepAlive),
        ("HTTP/1.1 103 Early Hints", "link: </a>\r\n", None, KeepAlive),
        ("HTTP/1.0 200 OK", "", UntilClose, Close),
        ("HTTP/1.0 200 OK", "connection: keep-alive\r\n", UntilClose, Close),
        ("HTTP/1.0 200 OK", "content-length: 5\r\n", Length(5), Close),
        ("HTTP/1.0 200 OK", "content-length: 5\r\nconnection: keep-alive\r\n", Length(5), KeepAlive),
    ];
    for (line, fields, framing, persist) in cases {
        let head = format!("{line}\r\n{fields}\r\n");
        let parsed = parse(&head, false).unwrap();
        assert_eq!((parsed.framing, parsed.persist), (framing, persist), "{head:?}");
        assert_eq!(parse(&head, true).unwrap().framing, None, "to HEAD: {head:?}");
    }
}

#[test]
fn every_1xx_but_101_is_informational() {
    for status in (100..200).filter(|&status| status != 101) {
        assert!(parse(&format!("HTTP/1.1 {status} x\r\n\r\n"), false).unwrap().is_informational());
    }
    assert_eq!(parse("HTTP/1.1 101 x\r\n\r\n", false), Err(HeadError::SwitchingProtocols));
    assert!(!parse("HTTP/1.1 200 x\r\n\r\n", false).unwrap().is_informational());
}

#[test]
fn event_streams_are_told_by_their_media_type() {
    let cases = [
        ("text/event-stream", true),
        ("Text/Event-Stream", true),
        ("text/event-stream;charset=utf-8", true),
        ("text/event-stream ; charset=utf-8", true),
        ("text/event-streams", false),
        ("application/json", false),
        ("application/json; a=text/event-stream", false),
        ("", false),
    ];
    for (value, expected) in cases {
        let parsed = parse(&format!("HTTP/1.1 200 OK\r\ncontent-type: {value}\r\n\r\n"), false).unwrap();
        assert_eq!(parsed.is_event_stream, expected, "{value:?}");
    }
}

#[test]
fn nothing_but_the_allow_list_is_forwarded() {
    let text = "HTTP/1.1 429 Too Many Requests\r\nserver: a\r\nset-cookie: b\r\nopenai-organization: c\r\n\
        x-ratelimit-remaining-tokens: 1\r\nx-request-id: d\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\
        keep-alive: timeout=5\r\nlocation: e\r\ntrailer: f\r\nupgrade: g\r\ncontent-encoding: identity\r\n\
        Retry-After: 1\r\nretry-after-ms: 2\r\nx-should-retry: true\r\ncache-control: no-store\r\n\r\n";
    let parsed = parse(text, false).unwrap();
    assert!(!parsed.content_coded);
    let forwarded: Vec<_> =
        parsed.forwarded().map(|(name, value)| (name, value.of(text.as_bytes()))).collect();
    let expected: [(&str, &[u8]); 4] = [
        ("retry-after", b"1"),
        ("retry-after-ms", b"2"),
        ("x-should-retry", b"true"),
        ("cache-control", b"no-store"),
    ];
    assert_eq!(forwarded, expected);
}

#[test]
fn content_coding_that_was_not_asked_for_is_forwarded_and_told() {
    let parsed =
        parse("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 9\r\n\r\n", false).unwrap();
    assert!(parsed.content_coded);
    assert_eq!(parsed.forwarded().map(|(name, _)| name).collect::<Vec<_>>(), ["content-encoding"]);
}

#[test]
fn head_that_was_not_delimited_is_refused() {
    assert_eq!(ResponseHead::parse(b"", false), Err(HeadError::StatusLine));
    assert_eq!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\n", false), Err(HeadError::StatusLine));
    assert_eq!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\n\r\nx", false), Err(HeadError::StatusLine));
}
