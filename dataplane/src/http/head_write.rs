//! Heads and chunk size lines for the way out, appended to a buffer that the caller keeps.
//!
//! Heads are composed field by field from values that the parsers here have judged, or that are ours; a head
//! that came in is never copied. Numbers are written without an allocation.
//!
//! ```text
//! status_line(200) header("content-type", ..) framing(Chunked) end() | chunk_size_line(n) data CHUNK_END
//! ```

use super::framing::BodyFraming;

/// How much room a chunk's size line can take: 16 digits and CRLF.
pub const CHUNK_SIZE_LINE_BYTES_MAX: usize = 18;
/// What follows a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";
/// What ends a chunked body that has no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The interim response for a client that expects it, with its blank line.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends a request line. The target is its path, and after it nothing or a question mark and the query.
pub fn request_line(out: &mut Vec<u8>, method: &str, target: &[&[u8]]) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    for part in target {
        debug_assert!(part.iter().all(u8::is_ascii_graphic), "a target would split the request line");
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Appends a status line. A status without a name here goes without a reason, as it may (RFC 9112 §4).
pub fn status_line(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a field line. The value must have no line end in it: those of parsed heads have none, others are
/// ours.
pub fn header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)), "a field value would split the head");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a field line whose value is a number.
pub fn header_number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the field that states the framing; nothing where there is no body or it lasts until the close.
pub fn framing(out: &mut Vec<u8>, framing: BodyFraming) {
    match framing {
        BodyFraming::Length(length) => header_number(out, "content-length", length),
        BodyFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyFraming::None | BodyFraming::UntilClose => {}
    }
}

/// Appends the field that announces that the connection ends after this response.
pub fn connection_close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"connection: close\r\n");
}

/// Appends the field that an HTTP/1.0 client needs to see before it sends another request on the connection.
pub fn connection_keep_alive(out: &mut Vec<u8>) {
    out.extend_from_slice(b"connection: keep-alive\r\n");
}

/// Appends the blank line that ends a head.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits.
pub fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// The size line of a chunk: its first so many bytes are `length` in hexadecimal digits and CRLF. `length`
/// must not be zero, which would end the body: an empty read has no chunk.
pub fn chunk_size_line(length: usize) -> ([u8; CHUNK_SIZE_LINE_BYTES_MAX], usize) {
    debug_assert!(length > 0, "an empty chunk would end the body");
    let mut line = [0u8; CHUNK_SIZE_LINE_BYTES_MAX];
    let digits = (length.max(1).ilog2() / 4 + 1) as usize;
    let mut rest = length;
    for place in line[..digits].iter_mut().rev() {
        *place = b"0123456789abcdef"[rest & 0xf];
        rest >>= 4;
    }
    line[digits..digits + 2].copy_from_slice(b"\r\n");
    (line, digits + 2)
}

/// The reason phrase of a status that we or the upstreams answer with (RFC 9110 §15, RFC 6585).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        424 => "Failed Dependency",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::BodyDecoder;
    use crate::http::head_end::HeadEnd;
    use crate::http::response_head::ResponseHead;

    #[test]
    fn written_heads_have_the_expected_bytes() {
        let mut out = Vec::new();
        request_line(&mut out, "POST", &[b"/openai/v1/responses", b"?", b"api-version=1"]);
        header(&mut out, "host", b"upstream:8000");
        framing(&mut out, BodyFraming::Length(312));
        end(&mut out);
        let expected = "POST /openai/v1/responses?api-version=1 HTTP/1.1\r\nhost: upstream:8000\r\n\
            content-length: 312\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn written_response_is_read_back_by_our_own_parser() {
        for (stated, status) in [
            (BodyFraming::Length(0), 200),
            (BodyFraming::Length(u64::MAX), 429),
            (BodyFraming::Chunked, 503),
            (BodyFraming::UntilClose, 599),
            (BodyFraming::None, 204),
        ] {
            let mut out = Vec::new();
            status_line(&mut out, status);
            header(&mut out, "content-type", b"text/event-stream");
            framing(&mut out, stated);
            connection_close(&mut out);
            end(&mut out);
            assert_eq!(HeadEnd::of_response().find(&out), Ok(Some(out.len())));
            let head = ResponseHead::parse(&out, false).unwrap();
            assert_eq!((head.status, head.framing), (status, stated));
        }
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        let powers = (0..20).map(|power| 10u64.pow(power)).chain((0..64).map(|bit| 1u64 << bit));
        for number in powers.flat_map(|number| [number - 1, number, number + 1]).chain([u64::MAX]) {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
            if let Ok(length @ 1..) = usize::try_from(number) {
                let (line, line_length) = chunk_size_line(length);
                assert_eq!(&line[..line_length], format!("{length:x}\r\n").as_bytes());
            }
        }
    }

    #[test]
    fn written_chunks_are_decoded_again() {
        let body: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
        let mut wire = Vec::new();
        let mut rest = &body[..];
        for length in [1, 15, 16, 17, 255, 256, 4095, 4096, 65_535 - 8751] {
            let (line, line_length) = chunk_size_line(length);
            wire.extend_from_slice(&line[..line_length]);
            wire.extend_from_slice(&rest[..length]);
            wire.extend_from_slice(CHUNK_END);
            rest = &rest[length..];
        }
        wire.extend_from_slice(LAST_CHUNK);
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        let decoded = decoder.decode(&mut wire).unwrap();
        assert!(decoded.done);
        assert_eq!(wire[decoded.data], body[..body.len() - rest.len()]);
    }
}
