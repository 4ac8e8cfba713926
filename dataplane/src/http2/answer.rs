//! An answer as the rest of the data plane writes it, HTTP/1.1, taken apart for a stream's frames.
//!
//! Heads come whole, in the first bytes that are written of an answer, and are our own: composed field by
//! field from values that were judged before.

use std::ops::Range;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::http::framing::{BodyDecoder, BodyFraming};

/// A head, and where in the bytes it ends.
pub struct AnswerHead {
    /// Status and fields, without those that HTTP/2 has no use for.
    pub response: Response<()>,
    /// Where the body begins.
    pub end: usize,
    framing: BodyFraming,
}

/// Takes the head at the beginning of `bytes` apart; `None` where there is none, which is a fault of ours.
pub fn head(bytes: &[u8]) -> Option<AnswerHead> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let mut lines = bytes[..end - 4].split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
    let status = lines.next()?.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(status).ok()?;
    let mut framing = BodyFraming::None;
    for line in lines {
        let colon = memchr::memchr(b':', line)?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii_start()).ok()?;
        if name == TRANSFER_ENCODING {
            framing = BodyFraming::Chunked;
        } else if name != CONNECTION {
            if name == CONTENT_LENGTH {
                framing = BodyFraming::Length(value.to_str().ok()?.parse().ok()?);
            }
            response.headers_mut().append(name, value);
        }
    }
    Some(AnswerHead { response, end, framing })
}

impl AnswerHead {
    /// Reads the body behind this head; there is none in an answer to HEAD, and none with 204 and 304.
    pub fn body(&self, to_head: bool) -> AnswerBody {
        let none = to_head || matches!(self.response.status().as_u16(), 204 | 304);
        AnswerBody(BodyDecoder::new(if none { BodyFraming::None } else { self.framing }))
    }

    /// Whether another head follows.
    pub fn is_interim(&self) -> bool {
        self.response.status().is_informational()
    }
}

/// Reads a body.
pub struct AnswerBody(BodyDecoder);

impl AnswerBody {
    /// Where the body's bytes are in what was written, and whether they are its last.
    pub fn take(&mut self, written: &mut [u8]) -> Option<(Range<usize>, bool)> {
        let decoded = self.0.decode(written).ok()?;
        (decoded.consumed == written.len()).then_some((decoded.data, decoded.done))
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &[u8], to_head: bool) -> Option<(u16, Vec<u8>, bool)> {
        let head = head(bytes)?;
        let mut body = bytes[head.end..].to_vec();
        let (data, done) = head.body(to_head).take(&mut body)?;
        Some((head.response.status().as_u16(), body[data].to_vec(), done))
    }

    #[test]
    fn an_answer_is_taken_apart_by_its_framing() {
        type Case = (&'static [u8], bool, u16, &'static [u8], bool);
        let cases: [Case; 7] = [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", false, 200, b"ab", true),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", false, 200, b"ab", false),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", false, 200, b"ab", false),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                false,
                200,
                b"abc",
                true,
            ),
            (b"HTTP/1.1 404 \r\ncontent-length: 9\r\n\r\n", true, 404, b"", true),
            (b"HTTP/1.1 204 No Content\r\n\r\n", false, 204, b"", true),
            (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", false, 304, b"", true),
        ];
        for (bytes, to_head, status, data, done) in cases {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(taken(bytes, to_head), Some((status, data.to_vec(), done)), "{text}");
        }
    }

    #[test]
    fn what_belongs_to_an_http_1_1_connection_goes_no_further() {
        let head = head(
            b"HTTP/1.1 413 Content Too Large\r\ncontent-type: a/b\r\nx-request-id: r\r\nconnection: close\r\n\
              content-length: 0\r\n\r\n",
        )
        .unwrap();
        let names: Vec<&str> = head.response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-request-id", "content-length"]);
        assert!(!head.is_interim());
    }

    #[test]
    fn bytes_beyond_the_body_and_heads_of_another_kind_are_refused() {
        assert_eq!(taken(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", false), None);
        assert_eq!(taken(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", false), None);
        assert_eq!(taken(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", false), None);
        assert_eq!(taken(b"HTTP/1.0 200 OK\r\n\r\n", false), None);
    }
}
