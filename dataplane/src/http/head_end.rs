//! Finds the blank line that ends a head, in a buffer that grows.
//!
//! It remembers how far it has looked, so that a head that arrives one byte at a time costs no more than one
//! that arrives at once. On its way it refuses what no head may contain anywhere: bare CR, bare LF, control
//! bytes. The parsers behind it (`request_head`, `response_head`) rely on that.
//!
//! ```text
//! CRLF CRLF | GET / HTTP/1.1 CRLF | host: a CRLF | CRLF | body or next head
//! 0         start                 line           |<- find() = here, counted from 0
//! ```
//!
//! Invariants:
//!
//!   * `start <= line <= scanned <= buf.len()`, and `scanned <= HEAD_BYTES_MAX`
//!   * bytes after the end of the head are never looked at

use super::head_error::HeadError;
use crate::step::{self, STEP};

/// The largest head, with its blank line and any empty lines before it.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How many empty lines may come before a request line (RFC 9112 §2.2 asks for at least one).
const EMPTY_LINES_MAX: usize = 2;

/// Where the search stands. One for each head; a new one for the next.
#[derive(Clone, Copy, Debug)]
pub struct HeadEnd {
    /// Empty lines that may still come before the start line.
    empty_lines_left: usize,
    /// Offset of the start line.
    start: usize,
    /// Offset of the line that is being looked at.
    line: usize,
    /// Offset of the first byte that has not been looked at.
    scanned: usize,
}

/// Finds the head whole and split at every byte, and panics where the results differ. For fuzzing.
pub fn fuzz(data: &[u8]) {
    for new in [HeadEnd::of_request, HeadEnd::of_response] {
        let whole = new().find(data);
        let mut drip = new();
        let dripped = (0..=data.len()).find_map(|end| drip.find(&data[..end]).transpose()).transpose();
        assert_eq!(whole, dripped, "byte by byte");
        for split in 0..data.len().min(256) {
            let mut halves = new();
            let first = halves.find(&data[..split]);
            let both = if first == Ok(None) { halves.find(data) } else { first };
            assert_eq!(whole, both, "split at {split}");
        }
    }
}

impl HeadEnd {
    /// For a client's request: tolerates empty lines before it, which `RequestHead::parse` skips as well.
    pub fn of_request() -> Self {
        Self { empty_lines_left: EMPTY_LINES_MAX, start: 0, line: 0, scanned: 0 }
    }

    /// For an upstream's response, which begins with its first byte.
    pub fn of_response() -> Self {
        Self { empty_lines_left: 0, start: 0, line: 0, scanned: 0 }
    }

    /// Looks at the bytes that `buf` has gained since the last call; the ones before must be the same. Gives
    /// the length of the head with its blank line, counted from the start of `buf`; `None` if it is not
    /// complete.
    pub fn find(&mut self, buf: &[u8]) -> Result<Option<usize>, HeadError> {
        let window = &buf[..buf.len().min(HEAD_BYTES_MAX)];
        let mut at = self.scanned;
        while at < window.len() {
            let mut controls = step::controls(&step_at(window, at));
            while controls != 0 {
                let place = at + controls.trailing_zeros() as usize;
                controls &= controls - 1;
                // Not the LF of a line end that was stepped over.
                if place >= self.scanned {
                    self.scanned = place;
                    if !is_line_end(&window[place..])? {
                        return if_room(window);
                    }
                    if self.end_line()? {
                        return Ok(Some(self.scanned));
                    }
                }
            }
            at += STEP;
        }
        self.scanned = window.len();
        if_room(window)
    }

    /// Steps over the CRLF at `scanned`; true if the line it ends is the blank one after a start line.
    fn end_line(&mut self) -> Result<bool, HeadError> {
        let blank = self.line == self.scanned;
        let started = self.line > self.start;
        self.scanned += 2;
        self.line = self.scanned;
        if blank && !started {
            self.empty_lines_left = self.empty_lines_left.checked_sub(1).ok_or(HeadError::EmptyLines)?;
            self.start = self.scanned;
        }
        Ok(blank && started)
    }
}

/// The sixteen bytes from `at` on; what is missing of them is filled up with a byte that is no control.
#[inline]
fn step_at(window: &[u8], at: usize) -> [u8; STEP] {
    let rest = &window[at..];
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut step = [b'x'; STEP];
        step[..rest.len()].copy_from_slice(rest);
        step
    })
}

/// Whether `bytes`, which begin with a control byte, begin with CRLF; false if the LF may be yet to come.
#[inline]
fn is_line_end(bytes: &[u8]) -> Result<bool, HeadError> {
    match bytes {
        [b'\r', b'\n', ..] => Ok(true),
        [b'\r'] => Ok(false),
        [b'\r', ..] => Err(HeadError::BareCr),
        [b'\n', ..] => Err(HeadError::BareLf),
        _ => Err(HeadError::ControlByte),
    }
}

/// No end yet, which is an error once none can come.
fn if_room(window: &[u8]) -> Result<Option<usize>, HeadError> {
    if window.len() == HEAD_BYTES_MAX { Err(HeadError::TooLarge) } else { Ok(None) }
}

#[cfg(test)]
mod tests;
