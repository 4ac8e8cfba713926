//! The chunked transfer coding (RFC 9112 §7.1), decoded in place.
//!
//! ```text
//! 5;name=value CRLF | hello | CRLF | 0 CRLF | trailer: value CRLF | CRLF
//! Size Extension SizeLf Data DataCr DataLf    TrailerStart ..       EndLf  Done
//! ```
//!
//! One state for each place between two bytes, so that a read may end anywhere. Data moves at most once, and
//! only where one read holds more than one chunk; sizes, extensions and trailers are dropped.
//!
//! Stricter than the RFC: no white space in a size line, at most 16 digits, and limits on extensions and
//! trailers.

use std::ops::Range;

use super::framing::{BodyFraming, Decoded, FramingError};
use super::lines::is_token_byte;

/// How many bytes of extensions one size line may have.
pub const EXTENSION_BYTES_MAX: u16 = 256;
/// How many bytes the trailer section may have, without its blank line.
pub const TRAILER_BYTES_MAX: u16 = 4 * 1024;

/// Hexadecimal digits that fill a u64.
const SIZE_DIGITS_MAX: u8 = 16;

/// Decodes `data` whole, byte by byte and split in two, and panics where the results differ. For fuzzing.
pub fn fuzz(data: &[u8]) {
    super::framing::fuzz_as(BodyFraming::Chunked, data);
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a size, or before its first digit.
    Size,
    /// In an extension.
    Extension(Extension),
    /// After the CR of a size line.
    SizeLf,
    /// In a chunk's data, of which `left` bytes are to come.
    Data,
    /// After the data.
    DataCr,
    /// After the CR that follows the data.
    DataLf,
    /// At the start of a line of the trailer section.
    TrailerStart,
    /// In a trailer field's name, after its first byte.
    TrailerName,
    /// After its colon.
    TrailerValue,
    /// After the CR of a trailer field line.
    TrailerLf,
    /// After the CR of the blank line that ends the body.
    EndLf,
    /// After the body.
    Done,
}

/// Where the next byte stands in `;name=value` or `;name="value"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// After the semicolon.
    Start,
    /// In the name.
    Name,
    /// After the equals sign.
    ValueStart,
    /// In a value without quotes.
    Value,
    /// In a value with quotes.
    Quoted,
    /// After a backslash in quotes.
    Escaped,
    /// After the closing quote.
    End,
}

/// Where the decoding of one body stands.
#[derive(Clone, Copy, Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// The size as read so far, then the data bytes to come.
    left: u64,
    size_digits: u8,
    /// Bytes of extensions in this size line.
    extension_bytes: u16,
    trailer_bytes: u16,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self { state: State::Size, left: 0, size_digits: 0, extension_bytes: 0, trailer_bytes: 0 }
    }
}

impl ChunkedDecoder {
    /// Decodes what was just read; see `BodyDecoder::decode`.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, FramingError> {
        let mut data: Range<usize> = 0..0;
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state != State::Data {
                self.state = self.step(bytes[at])?;
                at += 1;
                continue;
            }
            let rest = bytes.len() - at;
            let length = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
            if data.is_empty() {
                data = at..at + length;
            } else {
                bytes.copy_within(at..at + length, data.end);
                data.end += length;
            }
            at += length;
            self.left -= length as u64;
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
        Ok(Decoded { consumed: at, data, done: self.is_done() })
    }

    /// True after the blank line that ends the body.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The state after one byte that is not data.
    fn step(&mut self, byte: u8) -> Result<State, FramingError> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension(place) => self.extension(place, byte),
            State::SizeLf if self.left == 0 => expect(byte, b'\n', State::TrailerStart),
            State::SizeLf => expect(byte, b'\n', State::Data),
            State::DataCr if byte != b'\r' => Err(FramingError::DataEnd),
            State::DataCr => Ok(State::DataLf),
            State::DataLf => {
                (self.left, self.size_digits, self.extension_bytes) = (0, 0, 0);
                expect(byte, b'\n', State::Size)
            }
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf => {
                self.trailer(byte)
            }
            State::EndLf => expect(byte, b'\n', State::Done),
            // Never reached: `decode` takes data in bulk and stops after the end.
            State::Data | State::Done => Ok(self.state),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, FramingError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\n' => return Err(FramingError::BareLf),
            b'\r' if self.size_digits > 0 => return Ok(State::SizeLf),
            b';' if self.size_digits > 0 => return self.extension_after(Extension::Start),
            _ => return Err(FramingError::ChunkSize),
        };
        if self.size_digits == SIZE_DIGITS_MAX {
            return Err(FramingError::ChunkSizeOverflow);
        }
        self.size_digits += 1;
        self.left = (self.left << 4) | u64::from(digit);
        Ok(State::Size)
    }

    /// Takes a byte of an extension (RFC 9112 §7.1.1, without the white space that it calls bad).
    fn extension(&mut self, place: Extension, byte: u8) -> Result<State, FramingError> {
        use Extension::{End, Escaped, Name, Quoted, Start, Value, ValueStart};
        let next = match (place, byte) {
            (_, b'\n') => return Err(FramingError::BareLf),
            (Name | Value | End, b'\r') => return Ok(State::SizeLf),
            (Name | Value | End, b';') => Start,
            (Name, b'=') => ValueStart,
            (Start | Name, _) if is_token_byte(byte) => Name,
            (ValueStart | Value, _) if is_token_byte(byte) => Value,
            (ValueStart, b'"') => Quoted,
            (Quoted, b'"') => End,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, _) if is_text_byte(byte) => Quoted,
            _ => return Err(FramingError::Extension),
        };
        self.extension_after(next)
    }

    fn extension_after(&mut self, next: Extension) -> Result<State, FramingError> {
        if self.extension_bytes == EXTENSION_BYTES_MAX {
            return Err(FramingError::ExtensionTooLong);
        }
        self.extension_bytes += 1;
        Ok(State::Extension(next))
    }

    /// Takes a byte of the trailer section. It is dropped, and still has to be one: what looks like a trailer
    /// to one parser and like the next request to another is how requests are smuggled.
    fn trailer(&mut self, byte: u8) -> Result<State, FramingError> {
        let next = match (self.state, byte) {
            (State::TrailerStart, b'\r') => return Ok(State::EndLf),
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::TrailerLf, _) => return Err(FramingError::BareCr),
            (_, b'\n') => return Err(FramingError::BareLf),
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_text_byte(byte) => State::TrailerValue,
            _ => return Err(FramingError::Trailer),
        };
        if self.trailer_bytes == TRAILER_BYTES_MAX {
            return Err(FramingError::TrailerTooLong);
        }
        self.trailer_bytes += 1;
        Ok(next)
    }
}

/// The next state if the byte that completes a line end is there.
fn expect(byte: u8, expected: u8, next: State) -> Result<State, FramingError> {
    if byte == expected { Ok(next) } else { Err(FramingError::BareCr) }
}

/// True for the bytes of a field value or a quoted string: HTAB, SP, what is visible, and bytes over 0x7f.
fn is_text_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests;
