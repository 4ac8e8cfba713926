//! Heads and chunks beside `httparse`: what we take, it takes too, and reads as the same message.
//!
//! The other way round it need not hold: we refuse much that `httparse` lets pass. Which fields decide the
//! framing is counted here again, from what `httparse` found.

use httparse::{EMPTY_HEADER, Header, Status};

use crate::http::fields::FIELD_LINES_MAX;
use crate::http::framing::{BodyDecoder, BodyFraming};
use crate::http::head_end::HeadEnd;
use crate::http::request_head::RequestHead;
use crate::http::response_head::ResponseHead;
use crate::http::{chunked, request_head, response_head};

/// A client's request head.
pub fn request_head(data: &[u8]) {
    request_head::fuzz(data);
    let Ok(Some(length)) = HeadEnd::of_request().find(data) else { return };
    let head = &data[..length];
    let Ok(ours) = RequestHead::parse(head) else { return };
    let mut room = [EMPTY_HEADER; FIELD_LINES_MAX];
    let mut theirs = httparse::Request::new(&mut room);
    assert_eq!(theirs.parse(head), Ok(Status::Complete(length)), "httparse takes another head");
    assert_eq!(theirs.version, Some(u8::from(!ours.http_1_0)));
    let target = theirs.path.unwrap_or_default().as_bytes();
    let path = ours.path.of(head);
    assert!(target.starts_with(path) || target.windows(path.len()).any(|part| part == path));
    let named = |name: &str| fields_named(theirs.headers, name);
    assert_eq!(named("host").len(), 1);
    assert_framing(theirs.headers, ours.framing, BodyFraming::None);
    let credentials = ["authorization", "api-key", "x-api-key"].iter().map(|name| named(name).len());
    assert_eq!(credentials.sum::<usize>(), usize::from(ours.credential.is_some()));
    for (name, value) in ours.forwarded() {
        assert!(named(name).contains(&value.of(head)), "a value that httparse does not see");
    }
}

/// An upstream's response head.
pub fn response_head(data: &[u8]) {
    response_head::fuzz(data);
    let Ok(Some(length)) = HeadEnd::of_response().find(data) else { return };
    let head = &data[..length];
    let Ok(ours) = ResponseHead::parse(head, false) else { return };
    let mut room = [EMPTY_HEADER; FIELD_LINES_MAX];
    let mut theirs = httparse::Response::new(&mut room);
    assert_eq!(theirs.parse(head), Ok(Status::Complete(length)), "httparse takes another head");
    assert_eq!(theirs.code, Some(ours.status));
    if ours.status >= 200 && !matches!(ours.status, 204 | 304) {
        assert_framing(theirs.headers, ours.framing, BodyFraming::UntilClose);
    }
    for (name, value) in ours.forwarded() {
        assert!(
            fields_named(theirs.headers, name).contains(&value.of(head)),
            "a value that httparse does not see"
        );
    }
}

/// A chunked body.
pub fn chunked(data: &[u8]) {
    chunked::fuzz(data);
    let mut decoded = data.to_vec();
    let Ok(ours) = BodyDecoder::new(BodyFraming::Chunked).decode(&mut decoded) else { return };
    if !ours.done {
        return;
    }
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Ok(Status::Complete((line, size))) = httparse::parse_chunk_size(&data[at..]) else {
            panic!("httparse refuses a size line");
        };
        at += line;
        let size = usize::try_from(size).expect("a chunk that is there fits memory");
        if size == 0 {
            break;
        }
        body.extend_from_slice(&data[at..at + size]);
        assert_eq!(&data[at + size..at + size + 2], b"\r\n");
        at += size + 2;
    }
    // As many as fit in the limit of the section: a name, a colon, a line end.
    let mut room = vec![EMPTY_HEADER; usize::from(chunked::TRAILER_BYTES_MAX) / 4];
    match httparse::parse_headers(&data[at..], &mut room) {
        Ok(Status::Complete((len, _))) => at += len,
        other => panic!("httparse refuses the trailers: {other:?}"),
    }
    assert_eq!((at, &body[..]), (ours.consumed, &decoded[ours.data]));
}

/// The values of all fields of this name.
fn fields_named<'a>(fields: &[Header<'a>], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
}

/// Holds that the fields say `framing`, and nothing else; `unstated` where they say nothing.
fn assert_framing(fields: &[Header<'_>], framing: BodyFraming, unstated: BodyFraming) {
    let lengths = fields_named(fields, "content-length");
    let codings = fields_named(fields, "transfer-encoding");
    let stated = match (&lengths[..], &codings[..]) {
        ([], []) => unstated,
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit));
            let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            BodyFraming::Length(length.expect("a length that was taken is a number"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => BodyFraming::Chunked,
        ambiguous => panic!("an ambiguous framing was taken: {ambiguous:?}"),
    };
    assert_eq!(framing, stated);
}
