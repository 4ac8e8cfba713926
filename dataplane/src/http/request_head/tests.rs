//! Request heads that are accepted, and what is found in them. What is refused: `tests/hostile/request`.

use super::{Credential, CredentialKind, Method, RequestHead, fuzz};
use crate::http::fields::Persist;
use crate::http::framing::BodyFraming;
use crate::http::head_end::HeadEnd;
use crate::http::head_error::HeadError;

fn parse(head: &str) -> Result<RequestHead, HeadError> {
    fuzz(head.as_bytes());
    let length = HeadEnd::of_request().find(head.as_bytes())?.unwrap();
    RequestHead::parse(&head.as_bytes()[..length])
}

/// A request with these field lines besides Host.
fn with(fields: &str) -> (String, RequestHead) {
    let head = format!("POST /v1/embeddings HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    let parsed = parse(&head).unwrap();
    (head, parsed)
}

#[test]
fn request_of_an_sdk_is_parsed() {
    let text = "POST /openai/v1/chat/completions?api-version=1 HTTP/1.1\r\nHost: localhost:8080\r\n\
        Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n\
        Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\n\
        Authorization: Bearer sk-lt-abc\r\nIdempotency-Key: k\r\nContent-Length: 112\r\n\r\n";
    let parsed = parse(text).unwrap();
    let head = text.as_bytes();
    assert_eq!(parsed.method, Method::Post);
    assert_eq!(parsed.path.of(head), b"/openai/v1/chat/completions");
    assert_eq!(parsed.query.unwrap().of(head), b"api-version=1");
    assert_eq!((parsed.framing, parsed.persist), (BodyFraming::Length(112), Persist::KeepAlive));
    assert_eq!((parsed.http_1_0, parsed.expect_continue), (false, false));
    assert_eq!(parsed.content_type.unwrap().of(head), b"application/json");
    let Credential { kind, token } = parsed.credential.unwrap();
    assert_eq!((kind, token.of(head)), (CredentialKind::Bearer, &b"sk-lt-abc"[..]));
    let forwarded: Vec<_> = parsed.forwarded().map(|(name, value)| (name, value.of(head))).collect();
    let expected: [(&str, &[u8]); 3] =
        [("accept", b"application/json"), ("content-type", b"application/json"), ("idempotency-key", b"k")];
    assert_eq!(forwarded, expected);
}

#[test]
fn every_method_but_the_refused_is_told() {
    let methods = [
        ("GET", Method::Get),
        ("POST", Method::Post),
        ("HEAD", Method::Head),
        ("OPTIONS", Method::Options),
        ("PUT", Method::Put),
        ("DELETE", Method::Delete),
        ("PATCH", Method::Patch),
        ("get", Method::Other),
        ("CONNECTED", Method::Other),
        ("PROPFIND", Method::Other),
    ];
    for (token, method) in methods {
        assert_eq!(parse(&format!("{token} / HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap().method, method);
    }
}

#[test]
fn framing_follows_the_fields() {
    assert_eq!(with("").1.framing, BodyFraming::None);
    assert_eq!(with("content-length: 0\r\n").1.framing, BodyFraming::Length(0));
    assert_eq!(with("content-length:  \t007 \t\r\n").1.framing, BodyFraming::Length(7));
    assert_eq!(with("content-length: 18446744073709551615\r\n").1.framing, BodyFraming::Length(u64::MAX));
    assert_eq!(with("transfer-encoding: chunked\r\n").1.framing, BodyFraming::Chunked);
    assert_eq!(with("Transfer-Encoding:Chunked\r\n").1.framing, BodyFraming::Chunked);
    assert_eq!(with("TE: trailers\r\ncontent-encoding: chunked\r\n").1.framing, BodyFraming::None);
}

#[test]
fn credentials_are_found_in_each_of_their_fields() {
    let cases = [
        ("authorization: Bearer k\r\n", CredentialKind::Bearer, "k"),
        ("Authorization: bEARER   k\r\n", CredentialKind::Bearer, "k"),
        ("api-key: k\r\n", CredentialKind::ApiKey, "k"),
        ("X-API-Key: k \r\n", CredentialKind::XApiKey, "k"),
        ("authorization: Basic azo=\r\n", CredentialKind::Malformed, "Basic azo="),
        ("authorization: Bearer\r\n", CredentialKind::Malformed, "Bearer"),
        ("authorization: Bearerk\r\n", CredentialKind::Malformed, "Bearerk"),
        ("authorization: k\r\n", CredentialKind::Malformed, "k"),
        ("authorization:\r\n", CredentialKind::Malformed, ""),
        ("api-key:\r\n", CredentialKind::Malformed, ""),
    ];
    for (fields, kind, token) in cases {
        let (head, parsed) = with(fields);
        let found = parsed.credential.unwrap();
        assert_eq!((found.kind, found.token.of(head.as_bytes())), (kind, token.as_bytes()), "{fields}");
    }
    assert_eq!(with("proxy-authorization: Bearer k\r\nx-apikey: k\r\n").1.credential, None);
}

#[test]
fn continue_is_awaited_only_with_a_body_and_in_http_1_1() {
    assert!(with("expect: 100-Continue\r\ncontent-length: 1\r\n").1.expect_continue);
    assert!(with("expect: 100-continue\r\ntransfer-encoding: chunked\r\n").1.expect_continue);
    assert!(!with("expect: 100-continue\r\n").1.expect_continue);
    assert!(!with("expect: 100-continue\r\ncontent-length: 0\r\n").1.expect_continue);
    let old = "POST / HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    assert!(!parse(old).unwrap().expect_continue);
}

#[test]
fn nothing_but_the_allow_list_is_forwarded() {
    let fields = "cookie: a\r\nuser-agent: b\r\nx-forwarded-for: c\r\nforwarded: d\r\n\
        openai-organization: e\r\nopenai-project: f\r\nauthorization: Bearer g\r\nupgrade: h\r\n\
        connection: upgrade\r\nexpect: 100-continue\r\naccept-encoding: i\r\ncontent-length: 1\r\n\
        content-encoding: j\r\ntransfer: k\r\nx-content-type: l\r\n";
    assert_eq!(with(fields).1.forwarded().count(), 0);
    let (head, parsed) = with("Anthropic-Beta: a\r\nOpenAI-Beta: b\r\nanthropic-beta: c\r\nTraceParent:\r\n");
    let forwarded: Vec<_> =
        parsed.forwarded().map(|(name, value)| (name, value.of(head.as_bytes()))).collect();
    let expected: [(&str, &[u8]); 4] =
        [("anthropic-beta", b"a"), ("openai-beta", b"b"), ("anthropic-beta", b"c"), ("traceparent", b"")];
    assert_eq!(forwarded, expected);
}

#[test]
fn empty_lines_before_the_request_change_nothing_but_offsets() {
    let text = "\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: a\r\napi-key: k\r\n\r\n";
    let parsed = parse(text).unwrap();
    assert_eq!(parsed.path.of(text.as_bytes()), b"/v1/models");
    assert_eq!(parsed.credential.unwrap().token.of(text.as_bytes()), b"k");
}

#[test]
fn limits_are_inclusive() {
    let lines = |count: usize| (0..count).map(|index| format!("x{index}: y\r\n")).collect::<String>();
    // Host is one of the hundred.
    with(&lines(99));
    with(&format!("{}: y\r\n", "x".repeat(256)));
    assert_eq!(with(&"accept: a\r\n".repeat(16)).1.forwarded().count(), 16);
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", lines(100));
    assert_eq!(parse(&head), Err(HeadError::TooManyFields));
}

#[test]
fn debug_text_holds_no_byte_of_the_head() {
    let (_, parsed) = with("authorization: Bearer secret\r\ncontent-type: secret\r\nopenai-beta: secret\r\n");
    assert!(!format!("{parsed:?}").contains("secret"));
}

#[test]
fn head_that_was_not_delimited_is_refused() {
    assert_eq!(RequestHead::parse(b""), Err(HeadError::RequestLine));
    assert_eq!(RequestHead::parse(b"GET / HTTP/1.1\r\nhost: a\r\n"), Err(HeadError::RequestLine));
    assert_eq!(RequestHead::parse(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nx"), Err(HeadError::RequestLine));
    assert_eq!(RequestHead::parse(&vec![b'a'; 40_000]), Err(HeadError::TooLarge));
}
