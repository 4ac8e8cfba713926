//! Where a body ends: every kind of framing behind one decoder.
//!
//! The relay works on body bytes and does not care how they were framed. The decoder takes what was just read
//! and tells where in it the body bytes are; nothing waits for a whole chunk or a whole body.
//!
//! ```text
//! bytes  | 5 CRLF | hello | CRLF 3 CRLF abc CRLF 0 CRLF CRLF | surplus
//!                 ^ data (hello, abc moved up behind it) ^   ^ consumed; done
//! ```
//!
//! Invariants:
//!
//!   * `data.start <= data.end <= consumed <= bytes.len()`, and `consumed == bytes.len()` until `done`
//!   * bytes from `consumed` on are left as they are: they belong to the next message, or to nobody

use std::ops::Range;

use super::chunked::ChunkedDecoder;

/// How a message's body is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// By Content-Length, in bytes; may be zero.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
    /// By the end of the connection; responses only.
    UntilClose,
}

/// Why a body cannot be read on. The connection is of no use after any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// No hexadecimal digit where a chunk's size begins, or a byte after it that no size line has.
    #[error("malformed chunk size")]
    ChunkSize,
    /// More than 16 digits.
    #[error("chunk size has more than 16 digits")]
    ChunkSizeOverflow,
    /// An extension that is not `;name`, `;name=token` or `;name="text"`.
    #[error("malformed chunk extension")]
    Extension,
    /// More than `EXTENSION_BYTES_MAX` bytes of extensions in a size line.
    #[error("chunk extensions are longer than 256 bytes")]
    ExtensionTooLong,
    /// LF without CR before it.
    #[error("line feed without carriage return in the chunked framing")]
    BareLf,
    /// CR without LF after it.
    #[error("carriage return without line feed in the chunked framing")]
    BareCr,
    /// A chunk's data goes on after its size.
    #[error("chunk data is not followed by a line end")]
    DataEnd,
    /// A line of the trailer section that is not `name: value`.
    #[error("malformed trailer field")]
    Trailer,
    /// More than `TRAILER_BYTES_MAX` bytes of trailers.
    #[error("trailer section is longer than 4 KiB")]
    TrailerTooLong,
    /// The connection ended inside the body.
    #[error("connection ended inside the body")]
    Truncated,
}

/// What was found in the bytes of one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// How many of the bytes belong to this body and its framing. If fewer than there were, the rest is
    /// surplus.
    pub consumed: usize,
    /// Where the body bytes now are, contiguous; empty if there are none.
    pub data: Range<usize>,
    /// True if the body has ended.
    pub done: bool,
}

/// Where the reading of one body stands.
#[derive(Clone, Copy, Debug)]
pub struct BodyDecoder(Inner);

#[derive(Clone, Copy, Debug)]
enum Inner {
    /// So many bytes are left; zero for no body.
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// Decodes `data` under each framing, whole, byte by byte and split in two, and panics where the results
/// differ. For fuzzing.
pub fn fuzz(data: &[u8]) {
    for framing in
        [BodyFraming::None, BodyFraming::Length(0), BodyFraming::Length(7), BodyFraming::UntilClose]
    {
        fuzz_as(framing, data);
    }
    fuzz_as(BodyFraming::Chunked, data);
}

impl BodyFraming {
    /// True if no body byte follows the head.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

impl BodyDecoder {
    /// For a body that begins with the next byte.
    pub fn new(framing: BodyFraming) -> Self {
        Self(match framing {
            BodyFraming::None => Inner::Length(0),
            BodyFraming::Length(length) => Inner::Length(length),
            BodyFraming::Chunked => Inner::Chunked(ChunkedDecoder::default()),
            BodyFraming::UntilClose => Inner::UntilClose,
        })
    }

    /// Decodes what was just read. Data is moved only where `bytes` hold more than one chunk, and then at
    /// most once.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, FramingError> {
        match &mut self.0 {
            Inner::Length(left) => {
                let consumed = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= consumed as u64;
                Ok(Decoded { consumed, data: 0..consumed, done: *left == 0 })
            }
            Inner::Chunked(decoder) => decoder.decode(bytes),
            Inner::UntilClose => Ok(Decoded { consumed: bytes.len(), data: 0..bytes.len(), done: false }),
        }
    }

    /// True if the body has ended, which for an empty one is so before anything is read.
    pub fn is_done(&self) -> bool {
        match &self.0 {
            Inner::Length(left) => *left == 0,
            Inner::Chunked(decoder) => decoder.is_done(),
            Inner::UntilClose => false,
        }
    }

    /// Judges the end of the connection: an error if the body should have gone on.
    pub fn at_eof(&self) -> Result<(), FramingError> {
        let complete = matches!(self.0, Inner::UntilClose) || self.is_done();
        if complete { Ok(()) } else { Err(FramingError::Truncated) }
    }
}

/// The body bytes, the number of bytes consumed, whether the body ended, and whether it may end here.
type Outcome = Result<(Vec<u8>, usize, bool, bool), FramingError>;

/// Decodes `data` in pieces as long as the lengths say, the last one as long as needed, and checks the
/// invariants.
fn outcome(framing: BodyFraming, data: &[u8], lengths: impl Iterator<Item = usize>) -> Outcome {
    let mut decoder = BodyDecoder::new(framing);
    let (mut body, mut consumed) = (Vec::new(), 0);
    for length in lengths.chain([data.len()]) {
        let rest = &data[consumed..];
        let mut piece = rest[..length.min(rest.len())].to_vec();
        let decoded = decoder.decode(&mut piece)?;
        assert!(decoded.data.start <= decoded.data.end && decoded.data.end <= decoded.consumed);
        assert_eq!(piece[decoded.consumed..], rest[decoded.consumed..piece.len()], "surplus was changed");
        assert!(decoded.done || decoded.consumed == piece.len(), "bytes left behind");
        assert_eq!(decoded.done, decoder.is_done());
        body.extend_from_slice(&piece[decoded.data]);
        consumed += decoded.consumed;
    }
    Ok((body, consumed, decoder.is_done(), decoder.at_eof().is_ok()))
}

/// `fuzz` for one framing.
pub(super) fn fuzz_as(framing: BodyFraming, data: &[u8]) {
    let whole = outcome(framing, data, std::iter::empty());
    assert_eq!(whole, outcome(framing, data, std::iter::repeat_n(1, data.len())), "byte by byte");
    for split in 0..data.len().min(256) {
        assert_eq!(whole, outcome(framing, data, std::iter::once(split)), "split at {split}");
    }
}

#[cfg(test)]
mod tests;
