//! What `monoio-http` 0.3.12 was seen to do wrong (ARCHITECTURE.md, decisions): each input is refused here,
//! or read as RFC 9112 says.

use super::framing::{BodyDecoder, BodyFraming, Decoded, FramingError};
use super::head_end::{HEAD_BYTES_MAX, HeadEnd};
use super::head_error::HeadError;
use super::request_head::RequestHead;
use super::response_head::ResponseHead;

/// A request with these field lines besides Host, and what comes after its head.
fn request(fields: &str) -> Result<RequestHead, HeadError> {
    request_head(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes())
}

fn request_head(bytes: &[u8]) -> Result<RequestHead, HeadError> {
    let length = HeadEnd::of_request().find(bytes)?.expect("a whole head");
    RequestHead::parse(&bytes[..length])
}

fn response(head: &str, to_head: bool) -> Result<ResponseHead, HeadError> {
    let length = HeadEnd::of_response().find(head.as_bytes())?.expect("a whole head");
    ResponseHead::parse(&head.as_bytes()[..length], to_head)
}

#[test]
fn coding_identity_and_coding_chunked_in_two_lines_are_refused() {
    let fields = "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n";
    assert_eq!(request(fields), Err(HeadError::Coding));
}

#[test]
fn length_with_coding_is_refused() {
    let fields = "content-length: 5\r\ntransfer-encoding: chunked\r\n";
    assert_eq!(request(fields), Err(HeadError::LengthAndCoding));
}

#[test]
fn two_lengths_are_refused_whether_they_differ_or_not() {
    assert_eq!(request("content-length: 5\r\ncontent-length: 6\r\n"), Err(HeadError::LengthRepeated));
    assert_eq!(request("content-length: 5\r\ncontent-length: 5\r\n"), Err(HeadError::LengthRepeated));
}

#[test]
fn coding_chunked_then_gzip_is_refused() {
    assert_eq!(request("transfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n"), Err(HeadError::Coding));
    assert_eq!(request("transfer-encoding: chunked, gzip\r\n"), Err(HeadError::Coding));
}

#[test]
fn coding_in_http_1_0_is_refused() {
    let head = b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(request_head(head), Err(HeadError::CodingInOldVersion));
}

#[test]
fn head_ended_by_bare_line_feeds_is_refused_and_nothing_behind_it_is_dropped() {
    let two = b"GET / HTTP/1.1\r\nhost: a\n\nGET /admin HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(request_head(two), Err(HeadError::BareLf));
}

#[test]
fn bare_line_feeds_as_line_ends_are_refused() {
    assert_eq!(request_head(b"GET / HTTP/1.1\nhost: a\n\n"), Err(HeadError::BareLf));
}

#[test]
fn empty_chunk_size_line_is_refused_and_not_the_last_chunk() {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    assert_eq!(decoder.decode(&mut b"1\r\na\r\n\r\n\r\n".to_vec()), Err(FramingError::ChunkSize));
}

#[test]
fn request_after_two_empty_lines_is_found_at_once() {
    let head = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(HeadEnd::of_request().find(head), Ok(Some(head.len())));
    assert!(request_head(head).is_ok());
}

#[test]
fn field_name_of_70_kilobytes_is_refused_without_a_panic() {
    let name = "x".repeat(70_000);
    assert_eq!(request(&format!("{name}: y\r\n")), Err(HeadError::TooLarge));
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{name}: y\r\n\r\n");
    assert_eq!(RequestHead::parse(head.as_bytes()), Err(HeadError::TooLarge));
    assert_eq!(request(&format!("{}: y\r\n", &name[..30_000])), Err(HeadError::FieldNameTooLong));
}

#[test]
fn head_of_megabytes_is_refused_at_the_limit() {
    let value = "y".repeat(8_000_000);
    assert_eq!(request(&format!("x: {value}\r\n")), Err(HeadError::TooLarge));
    let mut end = HeadEnd::of_request();
    let head = format!("POST / HTTP/1.1\r\nx: {value}");
    let refused_at = (0..head.len()).step_by(8).find(|&length| end.find(&head.as_bytes()[..length]).is_err());
    assert_eq!(refused_at, Some(HEAD_BYTES_MAX));
}

#[test]
fn body_of_fixed_length_is_handed_on_as_it_arrives() {
    let mut decoder = BodyDecoder::new(BodyFraming::Length(u64::MAX));
    let first = decoder.decode(&mut b"he".to_vec());
    assert_eq!(first, Ok(Decoded { consumed: 2, data: 0..2, done: false }));
}

#[test]
fn chunk_is_handed_on_as_it_arrives_whatever_its_size() {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let first = decoder.decode(&mut b"fffffffffffffffd\r\nhe".to_vec());
    assert_eq!(first, Ok(Decoded { consumed: 20, data: 18..20, done: false }));
}

#[test]
fn endless_leading_zeros_of_a_chunk_size_are_refused() {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    assert_eq!(decoder.decode(&mut [b'0'; 17]), Err(FramingError::ChunkSizeOverflow));
}

#[test]
fn chunk_extension_and_trailer_are_legal_and_dropped() {
    let mut wire = b"2;a=b\r\nhe\r\n0\r\nx: y\r\n\r\n".to_vec();
    let decoded = BodyDecoder::new(BodyFraming::Chunked).decode(&mut wire).unwrap();
    assert_eq!((decoded.done, &wire[decoded.data]), (true, &b"he"[..]));
}

#[test]
fn missing_and_repeated_hosts_are_refused() {
    assert_eq!(request_head(b"GET / HTTP/1.1\r\n\r\n"), Err(HeadError::HostMissing));
    assert_eq!(request("host: b\r\n"), Err(HeadError::HostRepeated));
}

#[test]
fn what_monoio_http_refused_is_refused_here_too() {
    let cases = [
        ("x: a\r\n b\r\n", HeadError::FoldedLine),
        ("x : a\r\n", HeadError::SpaceBeforeColon),
        ("x: a\0b\r\n", HeadError::ControlByte),
        ("x: a\rb\r\n", HeadError::BareCr),
        ("content-length: +5\r\n", HeadError::Length),
        ("content-length: 5, 5\r\n", HeadError::Length),
        ("transfer-encoding: gzip, chunked\r\n", HeadError::Coding),
    ];
    for (fields, error) in cases {
        assert_eq!(request(fields), Err(error), "{fields:?}");
    }
}

#[test]
fn response_without_length_or_coding_lasts_until_close() {
    let head = response("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", false).unwrap();
    assert_eq!(head.framing, BodyFraming::UntilClose);
}

#[test]
fn responses_without_a_body_are_not_waited_for() {
    for (status, to_head) in [(204, false), (304, false), (200, true), (404, true)] {
        let head = response(&format!("HTTP/1.1 {status} x\r\ncontent-length: 5\r\n\r\n"), to_head).unwrap();
        assert!(BodyDecoder::new(head.framing).is_done(), "{status}");
    }
}

#[test]
fn interim_response_is_told_from_the_real_one_behind_it() {
    let wire = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let length = HeadEnd::of_response().find(wire.as_bytes()).unwrap().unwrap();
    assert!(response(wire, false).unwrap().is_informational());
    let real = response(&wire[length..], false).unwrap();
    assert_eq!((real.status, real.framing), (200, BodyFraming::Length(0)));
}

#[test]
fn expectation_is_told_and_unknown_ones_are_refused() {
    assert!(request("expect: 100-continue\r\ncontent-length: 5\r\n").unwrap().expect_continue);
    assert_eq!(request("expect: tea\r\n"), Err(HeadError::ExpectationFailed));
    assert_eq!(HeadError::ExpectationFailed.status(), 417);
}

#[test]
fn connect_is_refused_and_upgrade_is_ignored() {
    assert_eq!(request_head(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n"), Err(HeadError::MethodRefused));
    let upgrade = request("connection: upgrade\r\nupgrade: websocket\r\n").unwrap();
    assert_eq!((upgrade.framing, upgrade.forwarded().count()), (BodyFraming::None, 0));
}

#[test]
fn errors_can_be_copied() {
    let error = HeadError::FieldRepeated("content-type");
    assert_eq!(Clone::clone(&error), error);
    assert_eq!(Clone::clone(&FramingError::Truncated), FramingError::Truncated);
}
