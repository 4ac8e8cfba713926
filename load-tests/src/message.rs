//! HTTP/1.1 messages as bytes: where a head ends, how its body is framed, what the body is.
//!
//! Just enough to look at what a peer sent without changing it. It trusts nobody's sizes but does not try to
//! be strict: strictness is the data plane's business, and a test must be able to see what came over the wire
//! even when that is wrong.

use thiserror::Error;

/// Why bytes are not an HTTP/1.1 message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// A start line without a status.
    #[error("head without a status line")]
    StatusLine,
    /// A chunk's size line that is not hexadecimal, or a chunk that does not end in CRLF.
    #[error("malformed chunk")]
    Chunk,
    /// A Content-Length that is not a number.
    #[error("malformed content-length")]
    Length,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(usize),
    /// After the chunk of size zero.
    Chunked,
    /// When the connection closes.
    Close,
}

/// Finds the end of a head: the offset just after its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Finds a header's value in a head; the name is compared without regard to case, the first one counts.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    headers(head).find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// Goes through the headers of a head, in order.
pub fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = memchr::memchr(b'\n', head).map_or(head.len(), |end| end + 1);
    let lines = std::iter::from_fn(move || {
        let rest = head.get(at..).filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        at += end + 1;
        Some(&rest[..end])
    });
    lines.filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// Reads the framing of a request or of a response's body from its head; `None` stands for no framing header.
pub fn framing(head: &[u8]) -> Result<Option<Framing>, MessageError> {
    let mut length = None;
    for (name, value) in headers(head) {
        if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            return Ok(Some(Framing::Chunked));
        }
        if length.is_none() && name.eq_ignore_ascii_case(b"content-length") {
            let text = std::str::from_utf8(value).map_err(|_| MessageError::Length)?;
            length = Some(Framing::Length(text.parse().map_err(|_| MessageError::Length)?));
        }
    }
    Ok(length)
}

/// Reads the status of a response's head.
pub fn status(head: &[u8]) -> Result<u16, MessageError> {
    let code = head.get(9..12).filter(|_| head.starts_with(b"HTTP/1.")).ok_or(MessageError::StatusLine)?;
    std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).ok_or(MessageError::StatusLine)
}

/// Takes the chunks off a body, however its bytes are cut.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    state: ChunkState,
    line: Vec<u8>,
    left: usize,
    /// How many chunks with data have come to their end.
    pub chunks: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Data,
    DataEnd,
    Trailer,
    Done,
}

impl ChunkDecoder {
    /// Takes bytes, appends what is body to `body`, and returns how many it used: fewer than given only at
    /// the end.
    pub fn feed(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<usize, MessageError> {
        let mut at = 0;
        while at < bytes.len() && self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let run = self.left.min(bytes.len() - at);
                body.extend_from_slice(&bytes[at..at + run]);
                self.left -= run;
                at += run;
                if self.left == 0 {
                    self.state = ChunkState::DataEnd;
                }
                continue;
            }
            self.line.push(bytes[at]);
            at += 1;
            if self.line.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(at)
    }

    /// Tells whether the last chunk and its trailers are through.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    fn end_line(&mut self) -> Result<(), MessageError> {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        self.state = match self.state {
            ChunkState::Size => {
                let digits = text.split(|&byte| byte == b';').next().unwrap_or_default();
                let digits = std::str::from_utf8(digits.trim_ascii()).map_err(|_| MessageError::Chunk)?;
                self.left = usize::from_str_radix(digits, 16).map_err(|_| MessageError::Chunk)?;
                if self.left == 0 { ChunkState::Trailer } else { ChunkState::Data }
            }
            ChunkState::DataEnd if text.is_empty() => {
                self.chunks += 1;
                ChunkState::Size
            }
            ChunkState::Trailer if text.is_empty() => ChunkState::Done,
            ChunkState::Trailer => ChunkState::Trailer,
            _ => return Err(MessageError::Chunk),
        };
        Ok(())
    }
}

/// A response as it arrives: fed with reads, it keeps the head and the body without its chunks.
#[derive(Debug, Default)]
pub struct ResponseDecoder {
    /// Bytes of the head so far; once it is complete, exactly the head.
    pub head: Vec<u8>,
    /// Interim (1xx) heads that came before the head.
    pub interim: Vec<Vec<u8>>,
    /// Bytes of the body so far, framing taken off.
    pub body: Vec<u8>,
    /// The status, once the head is there.
    pub status: u16,
    framing: Option<Framing>,
    chunks: ChunkDecoder,
}

impl ResponseDecoder {
    /// Forgets the response and keeps its memory, for the next one.
    pub fn clear(&mut self) {
        self.head.clear();
        self.interim.clear();
        self.body.clear();
        (self.status, self.framing, self.chunks) = (0, None, ChunkDecoder::default());
    }

    /// Takes the bytes of a read and returns how many belong to this response.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError> {
        let mut at = 0;
        while self.framing.is_none() && at < bytes.len() {
            let before = self.head.len();
            self.head.extend_from_slice(&bytes[at..]);
            let Some(end) = head_end(&self.head) else { return Ok(bytes.len()) };
            self.head.truncate(end);
            at += end - before;
            self.take_head()?;
        }
        let rest = &bytes[at..];
        let used = match self.framing {
            None => 0,
            Some(Framing::Chunked) => self.chunks.feed(rest, &mut self.body)?,
            Some(Framing::Close) => {
                self.body.extend_from_slice(rest);
                rest.len()
            }
            Some(Framing::Length(length)) => {
                let used = rest.len().min(length - self.body.len());
                self.body.extend_from_slice(&rest[..used]);
                used
            }
        };
        Ok(at + used)
    }

    fn take_head(&mut self) -> Result<(), MessageError> {
        self.status = status(&self.head)?;
        if (100..200).contains(&self.status) {
            self.interim.push(std::mem::take(&mut self.head));
            return Ok(());
        }
        self.framing = match self.status {
            204 | 304 => Some(Framing::Length(0)),
            _ => Some(framing(&self.head)?.unwrap_or(Framing::Close)),
        };
        Ok(())
    }

    /// Tells whether the head is complete.
    pub fn has_head(&self) -> bool {
        self.framing.is_some()
    }

    /// The framing of the body, once the head is there.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Says that the request was a HEAD: whatever the head announces, no body follows.
    pub fn expect_no_body(&mut self) {
        if self.framing.is_some() {
            self.framing = Some(Framing::Length(0));
        }
    }

    /// Tells whether the response is complete; one that ends with the connection never is by itself.
    pub fn is_done(&self) -> bool {
        match self.framing {
            Some(Framing::Length(length)) => self.body.len() == length,
            Some(Framing::Chunked) => self.chunks.is_done(),
            Some(Framing::Close) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";

    #[test]
    fn a_response_split_at_every_byte_reads_the_same() {
        for cut in 0..=CHUNKED.len() {
            let mut decoder = ResponseDecoder::default();
            assert_eq!(decoder.feed(&CHUNKED[..cut]), Ok(cut));
            assert_eq!(decoder.feed(&CHUNKED[cut..]), Ok(CHUNKED.len() - cut));
            assert!(decoder.is_done(), "cut at {cut}");
            assert_eq!(decoder.body, b"abcde");
        }
    }

    #[test]
    fn bytes_after_the_end_are_left_to_the_next_response() {
        let mut decoder = ResponseDecoder::default();
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1";
        assert_eq!(decoder.feed(bytes), Ok(bytes.len() - 8));
        assert!(decoder.is_done());
        assert_eq!((decoder.interim.len(), decoder.body.as_slice()), (1, b"ok".as_slice()));
    }

    #[test]
    fn a_cleared_decoder_reads_as_a_new_one() {
        let mut decoder = ResponseDecoder::default();
        assert!(decoder.feed(&CHUNKED[..CHUNKED.len() - 9]).is_ok());
        decoder.clear();
        assert_eq!(decoder.feed(CHUNKED), Ok(CHUNKED.len()));
        assert_eq!((decoder.is_done(), decoder.status, decoder.body.as_slice()), (true, 200, &b"abcde"[..]));
    }

    #[test]
    fn a_malformed_chunk_is_an_error() {
        for bytes in [&b"x\r\n"[..], b"2\r\nabc\r\n", b"\r\n"] {
            assert!(ChunkDecoder::default().feed(bytes, &mut Vec::new()).is_err());
        }
    }
}
