//! The files under `tests/hostile`: what must be refused, byte for byte as it would come over the wire.
//!
//! A file's extension names the rule that it breaks, so adding a file adds a case. They can be sent to a
//! running data plane as they are.

use std::path::Path;

use super::framing::{BodyDecoder, BodyFraming, FramingError};
use super::head_end::HeadEnd;
use super::head_error::HeadError;
use super::request_head::RequestHead;
use super::response_head::ResponseHead;
use super::{chunked, request_head, response_head};

/// Each file of a folder: its name, the rule it breaks, its bytes.
fn files(folder: &str) -> Vec<(String, String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(folder);
    let read = |path: &Path| {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap().to_str().unwrap().to_owned();
        (part(path.file_stem()), part(path.extension()), std::fs::read(path).unwrap())
    };
    let files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
    assert!(files.len() >= 20, "the hostile inputs are missing");
    files
}

/// The variant's name, without what it carries.
fn rule(error: &dyn std::fmt::Debug) -> String {
    format!("{error:?}").chars().take_while(|char| char.is_alphanumeric()).collect()
}

fn request(bytes: &[u8]) -> Result<RequestHead, HeadError> {
    let length = HeadEnd::of_request().find(bytes)?.expect("the file holds a whole head");
    RequestHead::parse(&bytes[..length])
}

fn response(bytes: &[u8]) -> Result<ResponseHead, HeadError> {
    let length = HeadEnd::of_response().find(bytes)?.expect("the file holds a whole head");
    ResponseHead::parse(&bytes[..length], false)
}

fn body(bytes: &[u8]) -> Result<(), FramingError> {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    decoder.decode(&mut bytes.to_vec())?;
    decoder.at_eof()
}

#[test]
fn hostile_requests_are_refused_by_the_rule_they_break() {
    let mut otherwise = Vec::new();
    for (name, expected, bytes) in files("request") {
        let error = request(&bytes).expect_err(&name);
        if rule(&error) != expected {
            otherwise.push(format!("{name}: {error:?} instead of {expected}"));
        }
        assert!((400..500).contains(&error.status()), "{name}");
        request_head::fuzz(&bytes);
    }
    assert!(otherwise.is_empty(), "{otherwise:#?}");
}

#[test]
fn hostile_responses_are_refused_by_the_rule_they_break() {
    for (name, expected, bytes) in files("response") {
        assert_eq!(rule(&response(&bytes).expect_err(&name)), expected, "{name}");
        response_head::fuzz(&bytes);
    }
}

#[test]
fn hostile_chunked_bodies_are_refused_by_the_rule_they_break_however_they_are_split() {
    for (name, expected, bytes) in files("chunked") {
        assert_eq!(rule(&body(&bytes).expect_err(&name)), expected, "{name}");
        chunked::fuzz(&bytes);
    }
}

/// Every byte of a valid head, replaced by each of those that mean something to a parser.
fn mutants(head: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let bytes = b"\0\x01\t\n\r\x0b \"#,/0:;?@Aa\x7f\x80\xff";
    (0..head.len()).flat_map(move |place| {
        bytes.iter().map(move |&byte| [&head[..place], &[byte], &head[place + 1..]].concat())
    })
}

#[test]
fn heads_with_one_byte_replaced_never_panic_and_never_yield_a_line_end() {
    let fields = "host: a.b:80\r\ncontent-length: 5\r\nauthorization: Bearer k\r\nconnection: close\r\n\
        expect: 100-continue";
    let mut accepted = 0;
    for head in mutants(format!("POST http://a.b:80/v1?q HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()) {
        request_head::fuzz(&head);
        accepted += usize::from(HeadEnd::of_request().find(&head).is_ok_and(|end| end.is_some()));
    }
    assert!(accepted > 1000, "hardly any mutant got as far as the parser");
    for head in
        mutants(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n")
    {
        response_head::fuzz(&head);
    }
}
