//! A resumable scan of one JSON document for a few members of its top-level object.
//!
//! A request body arrives in pieces and may be 32 MiB long; all that we want of it is where three members
//! are. So nothing is deserialized: strings are crossed by `memchr`, nested values are crossed by counting
//! brackets, and only the top level is read as grammar. Keys are compared unescaped (`"\u006dodel"` is
//! `model`), since every upstream does that. Some also take `Model` for `model` (Go's encoding/json, as in
//! Ollama); where that matters, keys that differ only so are found as well, and marked.
//!
//! The scan is strict where another reader could see another document than we did:
//!
//!   * the document is exactly one object, with nothing but white space around it
//!   * at the top level: key, colon, value, comma, and no comma before the closing brace
//!   * brackets match by kind, at most [`DEPTH_MAX`] deep
//!   * outside strings: only white space, `{}[]:,"` and `[-+.0-9A-Za-z]`, so no comment or byte order mark
//!
//! What is inside a nested value, or whether a number is well formed, is for the upstream to judge.

/// Byte classes, and the two loops that most bytes pass through.
pub(crate) mod bytes;
/// Bracket kinds as a stack of bits.
mod nesting;
/// Escapes of string values and keys.
pub mod text;

#[cfg(test)]
mod tests;

use std::ops::Range;

use self::bytes::{is_scalar, is_white, plain_run, string_end};
use self::nesting::Nesting;
use self::text::RawKey;
use crate::step;

/// The deepest nesting that is followed, the top-level object included.
pub const DEPTH_MAX: usize = 512;

/// Scans a document whole and in pieces, and holds that both ways say the same.
pub fn fuzz(data: &[u8]) {
    const WATCHED: &[&str] = &["model", "stream", "usage"];
    let scan = |any_case: bool, size: usize| {
        let mut scan = if any_case { MemberScan::in_any_case(WATCHED) } else { MemberScan::new(WATCHED) };
        let mut members = Vec::new();
        let fed = data.chunks(size).try_for_each(|piece| scan.feed(piece, |member| members.push(member)));
        (fed.and_then(|()| scan.finish()), members)
    };
    let whole = scan(false, data.len().max(1));
    let mut any_case = scan(true, data.len().max(1));
    for size in [1, 2, 3, 7, 16, 33] {
        assert_eq!(scan(false, size), whole, "pieces of {size}");
        assert_eq!(scan(true, size), any_case, "pieces of {size}, in any case");
    }
    any_case.1.retain(|member| !member.other_case);
    assert_eq!(any_case, whole);
    for member in &whole.1 {
        assert!(member.key < member.value.start && member.value.end <= data.len());
        assert_eq!(data[member.key], b'"');
    }
    if let Ok(end) = whole.0 {
        assert_eq!(data[end.at], b'}');
    }
}

/// Why a document was refused; offsets count from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A byte stands where the grammar has no place for it.
    #[error("byte {at} is not what JSON allows there")]
    Unexpected {
        /// Offset of the byte.
        at: usize,
    },
    /// Brackets are nested deeper than [`DEPTH_MAX`].
    #[error("byte {at} nests deeper than {DEPTH_MAX}")]
    TooDeep {
        /// Offset of the bracket.
        at: usize,
    },
    /// The document ended before its object did.
    #[error("the document ends after {at} bytes, inside its object")]
    Incomplete {
        /// Length of the document.
        at: usize,
    },
}

/// A watched member of the top-level object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Index of the key in the watched list.
    pub name: usize,
    /// Offset of the key's opening quote.
    pub key: usize,
    /// The value, with its quotes or brackets and without white space around it.
    pub value: Range<usize>,
    /// Whether the key was written with escapes.
    pub escaped: bool,
    /// Whether the key is the watched one only where case is ignored.
    pub other_case: bool,
}

/// Where the top-level object ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectEnd {
    /// Offset of its closing brace.
    pub at: usize,
    /// Whether it has any member.
    pub has_members: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// After the opening brace: a key or the closing brace.
    FirstKey,
    /// After a comma: a key.
    NextKey,
    Key,
    Colon,
    Value,
    Scalar,
    /// Inside a string that is a top-level member's value.
    Text,
    Nested,
    NestedText,
    AfterValue,
    End,
    Failed,
}

/// A scan of one document, fed in pieces of any size.
#[derive(Debug)]
pub struct MemberScan {
    watched: &'static [&'static str],
    any_case: bool,
    state: State,
    /// Offset of the next piece's first byte.
    at: usize,
    nesting: Nesting,
    /// Whether the next byte of the current string is escaped by the last one.
    escaped: bool,
    key: RawKey,
    key_escaped: bool,
    key_start: usize,
    value_start: usize,
    /// The current member's index in the watched list, if it is in there.
    name: Option<usize>,
    other_case: bool,
    end: ObjectEnd,
}

impl MemberScan {
    /// Starts a scan for the members named in `watched`: ASCII names of at most 32 bytes.
    #[must_use]
    pub fn new(watched: &'static [&'static str]) -> Self {
        debug_assert!(watched.iter().all(|name| name.len() * 6 <= text::KEY_BYTES_MAX && name.is_ascii()));
        Self {
            watched,
            any_case: false,
            state: State::Start,
            at: 0,
            nesting: Nesting::default(),
            escaped: false,
            key: RawKey::default(),
            key_escaped: false,
            key_start: 0,
            value_start: 0,
            name: None,
            other_case: false,
            end: ObjectEnd { at: 0, has_members: false },
        }
    }

    /// The same, also for members whose names differ from those only in case.
    #[must_use]
    pub fn in_any_case(watched: &'static [&'static str]) -> Self {
        Self { any_case: true, ..Self::new(watched) }
    }

    /// Starts a scan in the middle of a top-level object, at the key of a member.
    #[must_use]
    pub fn at_key(watched: &'static [&'static str]) -> Self {
        Self { state: State::NextKey, ..Self::new(watched) }
    }

    /// Starts a scan in the middle of a top-level object, behind a member's value.
    #[must_use]
    pub fn behind_member(watched: &'static [&'static str]) -> Self {
        Self { state: State::AfterValue, ..Self::new(watched) }
    }

    /// How many bytes have been scanned.
    #[must_use]
    pub fn scanned(&self) -> usize {
        self.at
    }

    /// Scans the next piece and calls `found` for every watched member whose value ends in it, duplicates
    /// too.
    ///
    /// # Errors
    /// The document is not one that this scan accepts. Every later call fails as well.
    pub fn feed(&mut self, piece: &[u8], mut found: impl FnMut(Member)) -> Result<(), JsonError> {
        let mut i = 0;
        while i < piece.len() {
            let next = match self.state {
                State::FirstKey | State::NextKey => match self.usual_key(piece, i) {
                    Some(at) => self.value(piece[at], at),
                    None => self.between(piece, i),
                },
                State::Key => self.key(piece, i),
                State::Scalar => Ok(self.scalar(piece, i, &mut found)),
                State::Text => Ok(self.text(piece, i, &mut found)),
                State::Nested | State::NestedText => self.nested(piece, i, &mut found),
                _ => self.between(piece, i),
            };
            i = next.inspect_err(|_| self.state = State::Failed)?;
        }
        self.at += piece.len();
        Ok(())
    }

    /// Ends the document.
    ///
    /// # Errors
    /// The object is not complete, or a piece was refused before.
    pub fn finish(&self) -> Result<ObjectEnd, JsonError> {
        match self.state {
            State::End => Ok(self.end),
            State::Failed => Err(JsonError::Unexpected { at: self.at }),
            _ => Err(JsonError::Incomplete { at: self.at }),
        }
    }

    /// Where the value of a watched member began that goes on in the next piece.
    #[must_use]
    pub fn open_value(&self) -> Option<usize> {
        let inside = matches!(self.state, State::Scalar | State::Text | State::Nested | State::NestedText);
        self.name.filter(|_| inside).map(|_| self.value_start)
    }

    /// Whether the document was refused.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.state == State::Failed
    }

    /// A short key in ASCII without escapes, its colon, and at most one space on either side: `None` where it
    /// is not of this form, else where its value begins, which is in `piece`.
    fn usual_key(&mut self, piece: &[u8], from: usize) -> Option<usize> {
        let quote = from + usize::from(piece[from] == b' ');
        let inside = piece.get(quote + 1..).filter(|_| piece[quote] == b'"')?;
        let stops = step::key_stops(inside.first_chunk()?);
        // Without any, the key is longer, and nothing is known of where it ends.
        let len = Some(stops).filter(|stops| *stops != 0)?.trailing_zeros() as usize;
        let key = inside.get(..len).filter(|_| inside.get(len..len + 2) == Some(b"\":"))?;
        let colon = quote + 1 + len + 1;
        let start = colon + 1 + usize::from(*piece.get(colon + 1)? == b' ');
        if start >= piece.len() || is_white(piece[start]) {
            return None;
        }
        (self.name, self.other_case) = find_ascii(self.watched, self.any_case, key);
        self.key_escaped = false;
        self.key_start = self.at + quote;
        self.end.has_members = true;
        Some(start)
    }

    /// One byte of the top level's grammar, after any white space.
    fn between(&mut self, piece: &[u8], from: usize) -> Result<usize, JsonError> {
        let white = piece[from..].iter().take_while(|&&byte| is_white(byte)).count();
        let i = from + white;
        let Some(&byte) = piece.get(i) else { return Ok(i) };
        let at = self.at + i;
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::FirstKey,
            (State::FirstKey | State::NextKey, b'"') => {
                self.key.clear();
                self.key_start = at;
                self.end.has_members = true;
                State::Key
            }
            (State::FirstKey | State::AfterValue, b'}') => {
                self.end.at = at;
                State::End
            }
            (State::Colon, b':') => State::Value,
            (State::AfterValue, b',') => State::NextKey,
            (State::Value, _) => return self.value(byte, i),
            _ => return Err(JsonError::Unexpected { at }),
        };
        Ok(i + 1)
    }

    /// The first byte of a top-level member's value.
    fn value(&mut self, byte: u8, i: usize) -> Result<usize, JsonError> {
        let at = self.at + i;
        self.value_start = at;
        self.state = match byte {
            b'"' => State::Text,
            b'{' | b'[' => {
                self.nesting.push(byte).ok_or(JsonError::TooDeep { at })?;
                State::Nested
            }
            byte if is_scalar(byte) => State::Scalar,
            _ => return Err(JsonError::Unexpected { at }),
        };
        Ok(i + 1)
    }

    fn key(&mut self, piece: &[u8], from: usize) -> Result<usize, JsonError> {
        let Some(len) = string_end(&piece[from..], &mut self.escaped) else {
            self.key.push(&piece[from..]);
            return Ok(piece.len());
        };
        let end = from + len;
        let (watched, any_case) = (self.watched, self.any_case);
        let found = self.key.find(&piece[from..end - 1], |key| find(watched, any_case, key));
        ((self.name, self.other_case), self.key_escaped) =
            found.map_err(|_| JsonError::Unexpected { at: self.key_start })?;
        self.state = State::Colon;
        Ok(end)
    }

    fn scalar(&mut self, piece: &[u8], from: usize, found: &mut impl FnMut(Member)) -> usize {
        let end = from + piece[from..].iter().take_while(|&&byte| is_scalar(byte)).count();
        if end < piece.len() {
            self.value_end(end, found);
        }
        end
    }

    fn text(&mut self, piece: &[u8], from: usize, found: &mut impl FnMut(Member)) -> usize {
        let Some(len) = string_end(&piece[from..], &mut self.escaped) else { return piece.len() };
        self.value_end(from + len, found);
        from + len
    }

    fn nested(
        &mut self,
        piece: &[u8],
        from: usize,
        found: &mut impl FnMut(Member),
    ) -> Result<usize, JsonError> {
        let mut i = from;
        let mut inside_text = self.state == State::NestedText;
        loop {
            if inside_text {
                let Some(len) = string_end(&piece[i..], &mut self.escaped) else {
                    self.state = State::NestedText;
                    return Ok(piece.len());
                };
                i += len;
                inside_text = false;
            }
            i += plain_run(&piece[i..]);
            let Some(&byte) = piece.get(i) else { break };
            let at = self.at + i;
            i += 1;
            match byte {
                b'"' => inside_text = true,
                b'{' | b'[' => self.nesting.push(byte).ok_or(JsonError::TooDeep { at })?,
                b'}' | b']' => {
                    self.nesting.pop(byte).ok_or(JsonError::Unexpected { at })?;
                    if self.nesting.is_empty() {
                        self.value_end(i, found);
                        return Ok(i);
                    }
                }
                _ => return Err(JsonError::Unexpected { at }),
            }
        }
        self.state = State::Nested;
        Ok(i)
    }

    /// The current member's value ends before `piece[i]`.
    fn value_end(&mut self, i: usize, found: &mut impl FnMut(Member)) {
        self.state = State::AfterValue;
        if let Some(name) = self.name.take() {
            let value = self.value_start..self.at + i;
            let (key, escaped, other_case) = (self.key_start, self.key_escaped, self.other_case);
            found(Member { name, key, value, escaped, other_case });
        }
    }
}

/// The index of `key` in `watched`, and whether it is that one only in another case.
fn find(watched: &[&str], any_case: bool, key: &[u8]) -> (Option<usize>, bool) {
    if any_case && !key.is_ascii() {
        find_in_any_case(watched, key)
    } else {
        find_ascii(watched, any_case, key)
    }
}

/// The same for a key in ASCII: it is compared only with names of its length.
#[inline]
fn find_ascii(watched: &[&str], any_case: bool, key: &[u8]) -> (Option<usize>, bool) {
    let mut again = false;
    for (index, name) in watched.iter().enumerate() {
        if name.len() == key.len() {
            if name.as_bytes() == key {
                return (Some(index), false);
            }
            again = any_case;
        }
    }
    if again { find_in_any_case(watched, key) } else { (None, false) }
}

/// The same for a key that is none of `watched` as it stands.
#[cold]
fn find_in_any_case(watched: &[&str], key: &[u8]) -> (Option<usize>, bool) {
    (watched.iter().position(|name| differs_in_case(key, name.as_bytes())), true)
}

/// Whether `key` is `name`, which is in lower case, but for case. Besides those of ASCII there are two
/// letters whose other case is in it: U+017F is an s, U+212A a k.
fn differs_in_case(key: &[u8], name: &[u8]) -> bool {
    let mut rest = key;
    let alike = name.iter().all(|&byte| {
        let taken = match (byte, rest) {
            (_, [first, ..]) if first.to_ascii_lowercase() == byte => 1,
            (b's', [0xc5, 0xbf, ..]) => 2,
            (b'k', [0xe2, 0x84, 0xaa, ..]) => 3,
            _ => return false,
        };
        rest = &rest[taken..];
        true
    });
    alike && rest.is_empty()
}
