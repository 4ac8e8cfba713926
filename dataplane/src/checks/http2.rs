//! HTTP/2 requests and answers: a header block, taken up by the `h2` crate, is one HTTP/1.1 head of exactly
//! its fields, or refused; an answer in HTTP/1.1 is taken apart into what it says, however it is split.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::Connection;
use http::Request;
use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use httparse::{EMPTY_HEADER, Status};

use super::heads::request_head;
use crate::http::fields::FIELD_LINES_MAX;
use crate::http::framing::BodyFraming;
use crate::http::head_end::HeadEnd;
use crate::http::head_error::HeadError;
use crate::http::head_write::{self, CHUNK_END, LAST_CHUNK, chunk_size_line};
use crate::http::request_head::RequestHead;
use crate::http::response_head::ResponseHead;
use crate::http2::answer::{self, AnswerHead};
use crate::http2::connection::settings;
use crate::http2::pipe::{Pipe, PipeEnd};
use crate::http2::request::append_head;

/// What a client begins with: its preface, and no settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The longest block that one frame holds.
const BLOCK_BYTES_MAX: usize = 16_384;

/// A connection, and the request that it has taken up.
type TakenUp = (Connection<PipeEnd, Bytes>, Request<RecvStream>);

/// A header block; the first byte says whether a body follows.
pub fn http2_request(data: &[u8]) {
    let Some((flags, block)) = data.split_first() else { return };
    let Some((_connection, request)) = take_up(block, flags & 1 == 0) else { return };
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let mut head = Vec::new();
    let Ok(chunked) = append_head(&mut head, &parts, has_body) else { return };
    assert_eq!(chunked, has_body && !parts.headers.contains_key(CONTENT_LENGTH));
    match HeadEnd::of_request().find(&head) {
        Ok(end) => assert_eq!(end, Some(head.len()), "not one head"),
        Err(error) => return assert_eq!(error, HeadError::TooLarge, "a line that the `http` crate let pass"),
    }
    request_head(&head);
    let Ok(ours) = RequestHead::parse(&head) else { return };
    // A length of 0 may be stated with a body or without.
    let is_stated = parts.headers.contains_key(CONTENT_LENGTH);
    assert!(if has_body { is_stated || !ours.framing.is_empty() } else { ours.framing.is_empty() });
    assert_same_fields(&head, &parts, chunked);
}

/// What the `h2` crate makes of a block, with the settings that clients meet.
fn take_up(block: &[u8], has_body: bool) -> Option<TakenUp> {
    let len = u32::try_from(block.len()).ok().filter(|_| block.len() <= BLOCK_BYTES_MAX)?.to_be_bytes();
    let flags = if has_body { 4 } else { 5 };
    let frame = [&[len[1], len[2], len[3], 1, flags, 0, 0, 0, 1], block].concat();
    let pipe = Rc::new(RefCell::new(Pipe::default()));
    pipe.borrow_mut().inbound()?.extend([PREFACE, &frame].concat());
    let mut context = Context::from_waker(Waker::noop());
    let handshake = settings().handshake(PipeEnd(pipe));
    let Poll::Ready(Ok(mut connection)) = pin!(handshake).poll(&mut context) else { return None };
    match connection.poll_accept(&mut context) {
        Poll::Ready(Some(Ok((request, _)))) => Some((connection, request)),
        _ => None,
    }
}

/// Holds that `head` has the request's method and target, and its fields, each once and no others.
fn assert_same_fields(head: &[u8], parts: &Parts, chunked: bool) {
    let mut room = [EMPTY_HEADER; FIELD_LINES_MAX];
    let mut theirs = httparse::Request::new(&mut room);
    assert_eq!(theirs.parse(head), Ok(Status::Complete(head.len())));
    assert_eq!(theirs.method, Some(parts.method.as_str()));
    assert_eq!(theirs.path, parts.uri.path_and_query().map(|target| target.as_str()));
    let host = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut expected: Vec<(&str, &[u8])> = host.into_iter().map(|host| ("host", host)).collect();
    let fields = parts.headers.iter().map(|(name, value)| (name, value.as_bytes()));
    // A Host that says the same as the authority.
    let own = fields.filter(|(name, _)| host.is_none() || **name != HOST);
    expected.extend(own.map(|(name, value)| (name.as_str(), value)));
    expected.extend(chunked.then_some(("transfer-encoding", &b"chunked"[..])));
    let mut found: Vec<(&str, &[u8])> =
        theirs.headers.iter().map(|field| (field.name, field.value)).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

/// An answer in HTTP/1.1, as it is and as the body of one that is written as the relay writes them.
pub fn http2_answer(data: &[u8]) {
    if let Some(head) = answer::head(data) {
        assert_same_head(data, &head);
        for to_head in [false, true] {
            assert_splits_do_not_matter(&data[head.end..], || head.body(to_head));
        }
    }
    let Some((how, body)) = data.split_first() else { return };
    let framing = match how & 1 {
        0 => BodyFraming::Chunked,
        _ => BodyFraming::Length(body.len() as u64),
    };
    for size in [1, usize::from(how >> 1) + 1, body.len().max(1)] {
        assert_comes_back(body, framing, size);
    }
}

/// Holds that where the one parser takes the head too it says the same.
fn assert_same_head(data: &[u8], head: &AnswerHead) {
    let Ok(Some(len)) = HeadEnd::of_response().find(data) else { return };
    let Ok(ours) = ResponseHead::parse(&data[..len], false) else { return };
    assert_eq!((head.end, head.response.status().as_u16()), (len, ours.status));
    for (name, value) in ours.forwarded() {
        let mut found = head.response.headers().get_all(name).iter();
        assert!(found.any(|found| found.as_bytes() == value.of(data)), "{name} is lost");
    }
}

/// Holds that a body is the same whole and cut in two at each byte.
fn assert_splits_do_not_matter(body: &[u8], reader: impl Fn() -> answer::AnswerBody) {
    let read = |pieces: [&[u8]; 2]| {
        let (mut reader, mut found, mut ended) = (reader(), Vec::new(), false);
        for piece in pieces {
            let mut written = piece.to_vec();
            let (range, done) = reader.take(&mut written)?;
            found.extend_from_slice(&written[range]);
            ended = done;
        }
        Some((found, ended))
    };
    let whole = read([body, b""]);
    // What has an end takes time that is its square.
    for cut in 0..=body.len().min(256) {
        let (left, right) = body.split_at(cut);
        assert_eq!(read([left, right]), whole, "cut at {cut}");
    }
}

/// Writes an answer in pieces of `size`, and holds that its body comes back, and its end with the last piece.
fn assert_comes_back(body: &[u8], framing: BodyFraming, size: usize) {
    let mut head = Vec::new();
    head_write::status_line(&mut head, 200);
    head_write::header(&mut head, "x-request-id", b"r");
    head_write::framing(&mut head, framing);
    head_write::end(&mut head);
    let chunked = framing == BodyFraming::Chunked;
    let taken = answer::head(&head).expect("our own head");
    assert_eq!((taken.end, taken.is_interim()), (head.len(), false));
    let (mut reader, mut found) = (taken.body(false), Vec::new());
    for piece in body.chunks(size) {
        let mut written = piece.to_vec();
        if chunked {
            let (line, len) = chunk_size_line(piece.len());
            written = [&line[..len], piece, CHUNK_END].concat();
        }
        let (range, done) = reader.take(&mut written).expect("our own framing");
        found.extend_from_slice(&written[range]);
        assert_eq!(done, !chunked && found.len() == body.len());
    }
    if chunked {
        let (range, done) = reader.take(&mut LAST_CHUNK.to_vec()).expect("our own end");
        assert!(range.is_empty() && done);
    }
    assert!(reader.is_done() && found == body);
}
