//! The lines of a head that `HeadEnd` has delimited: the start line, then names and values.
//!
//! ```text
//! POST /v1/embeddings HTTP/1.1 CRLF | Host : SP a SP CRLF | .. | CRLF
//! └──────── start line ───────┘       name      value
//! ```
//!
//! Sixteen bytes at a time: heads of SDKs have some seventeen lines, and reading them was once a quarter of
//! a worker's instructions for a request. `tests` hold it against `httparse`, which splits the same heads
//! the same way.
//!
//! Precondition: no bare CR or LF and no control byte is in the head. Other bytes give an error or other
//! parts, never a panic.

use super::fields::FIELD_LINES_MAX;
use super::head_error::HeadError;
use super::span::Span;
use crate::step;

/// A field line: the name as it was sent, and where the value is, without the white space around it.
#[derive(Clone, Copy)]
pub(super) struct FieldLine<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: Span,
}

/// The field lines of a head, in order.
pub(super) struct FieldLines<'a> {
    head: &'a [u8],
    at: usize,
    count: usize,
}

/// Splits a head into its start line and its field lines; `None` if it does not end with a blank line.
pub(super) fn split(head: &[u8]) -> Option<(Span, FieldLines<'_>)> {
    let mut start = 0;
    while head[start..].starts_with(b"\r\n") {
        start += 2;
    }
    if !head.ends_with(b"\r\n\r\n") || start == head.len() {
        return None;
    }
    let end = start + line_end(&head[start..])?;
    Some((Span::new(start, end), FieldLines { head, at: end + 2, count: 0 }))
}

impl<'a> FieldLines<'a> {
    /// The next line; `None` at the blank one.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<FieldLine<'a>>, HeadError> {
        let line = self.head.get(self.at..).unwrap_or_default();
        if line == b"\r\n" {
            return Ok(None);
        }
        let name = name_len(line);
        if name == 0 || line.get(name) != Some(&b':') {
            return Err(broken(line));
        }
        if self.count == FIELD_LINES_MAX {
            return Err(HeadError::TooManyFields);
        }
        self.count += 1;
        let mut start = name + 1;
        while let Some(b' ' | b'\t') = line.get(start) {
            start += 1;
        }
        let end = start + line_end(&line[start..]).ok_or(HeadError::FieldLine)?;
        let mut value_end = end;
        while value_end > start && matches!(line[value_end - 1], b' ' | b'\t') {
            value_end -= 1;
        }
        let value = Span::new(self.at + start, self.at + value_end);
        self.at += end + 2;
        if let Some(b' ' | b'\t') = self.head.get(self.at) {
            return Err(HeadError::FoldedLine);
        }
        Ok(Some(FieldLine { name: &line[..name], value }))
    }
}

#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    step::position(bytes, step::carriage_returns, |byte| byte == b'\r')
}

/// How many bytes of a token `line` begins with.
#[inline]
fn name_len(line: &[u8]) -> usize {
    let usual = step::position(line, step::name_stops, |byte| !step::is_usual_in_name(byte));
    let usual = usual.unwrap_or(line.len());
    if line.get(usual) == Some(&b':') {
        return usual;
    }
    usual + line[usual..].iter().take_while(|&&byte| is_token_byte(byte)).count()
}

/// What is wrong with a line that is no field line.
#[cold]
fn broken(line: &[u8]) -> HeadError {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return HeadError::FoldedLine;
    }
    let name = name_len(line);
    let space = line[name..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let spaced = name > 0 && space > 0 && line.get(name + space) == Some(&b':');
    if spaced { HeadError::SpaceBeforeColon } else { HeadError::FieldLine }
}

/// True for the bytes of a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
