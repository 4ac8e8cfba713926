//! Meters an answer that is one JSON document, as its pieces pass.
//!
//! Only the top-level `usage` counts. How deep a member lies is told by what comes *behind* it: a member of
//! the top-level object is followed by members and one closing brace, and then by nothing. So the bytes
//! before a `"usage"`, which are nearly all of the answer, are only searched, and what follows it is read as
//! JSON; where that turns out to be no end of a document, the member lay deeper, and the search goes on
//! behind it.
//!
//! ```text
//! {"id":..,"choices":[..] , "usage" : {..} , "system_fingerprint":"fp_1" }
//! +---------- searched ---------++--- read --++-- must end the document --+
//! ```
//!
//! A quote inside a string has a backslash before it, so text that speaks of usage is not found.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::usage::{USAGE_BYTES_MAX, Usage, UsageParser, read_plain};
use crate::json::bytes::is_white;
use crate::json::{JsonError, Member, MemberScan};

const WATCHED: &[&str] = &["usage"];
const KEY: &[u8; 7] = b"\"usage\"";
/// How much of a key may have come with the pieces before.
const TORN_MAX: usize = KEY.len() - 1;

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));

/// Meters an answer whole and in pieces, and holds that both ways say the same.
pub fn fuzz(data: &[u8]) {
    let mut meter = WholeMeter::default();
    meter.start(false);
    meter.observe(data);
    let whole = meter.usage();
    for size in [1, 2, 3, 7, 64] {
        meter.start(true);
        data.chunks(size).for_each(|piece| meter.observe(piece));
        assert_eq!(meter.usage(), whole, "pieces of {size}");
    }
}

/// The meter of one answer after the other.
pub struct WholeMeter {
    parser: UsageParser,
    /// Reads on from the last `"usage"` that was found, for as long as it may be of the top level.
    tail: Option<MemberScan>,
    /// The beginning of a usage object that goes on in the next piece.
    begun: Vec<u8>,
    usage: Option<Usage>,
    /// Where in the present piece the search has begun; 0 where it goes on from the piece before.
    from: usize,
    /// The last bytes of the pieces before, and how many of them may be the beginning of a key.
    last: [u8; KEY.len()],
    torn: usize,
    /// The whole document, where only its own end says that it is complete.
    document: Option<Box<MemberScan>>,
}

impl Default for WholeMeter {
    fn default() -> Self {
        Self {
            parser: UsageParser::default(),
            tail: None,
            begun: Vec::new(),
            usage: None,
            from: 0,
            last: [0; KEY.len()],
            torn: 0,
            document: None,
        }
    }
}

impl WholeMeter {
    /// Starts with the next answer; `until_close` where nothing but the close of the connection delimits it.
    pub fn start(&mut self, until_close: bool) {
        self.tail = None;
        self.usage = None;
        self.last = [0; KEY.len()];
        self.torn = 0;
        self.document = until_close.then(|| Box::new(MemberScan::new(&[])));
    }

    /// Looks at the next piece of the body.
    pub fn observe(&mut self, piece: &[u8]) {
        if let Some(document) = &mut self.document {
            // An answer that is no document is never open, and no error of ours.
            let _ = document.feed(piece, |_| {});
        }
        let mut at = 0;
        self.from = 0;
        while at < piece.len() {
            at = if self.tail.is_some() { self.read(piece, at) } else { self.search(piece, at) };
        }
        self.keep_last(piece);
    }

    /// Whether the answer is a JSON object of which the end has not been seen.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.document.as_ref().is_some_and(|document| {
            document.scanned() > 0 && !document.failed() && document.finish().is_err()
        })
    }

    /// The last usage that was seen. It may be taken back as long as the answer goes on: only its end tells
    /// that it was of the top level.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Looks for the key from `piece[at..]` on; gives where to go on.
    fn search(&mut self, piece: &[u8], at: usize) -> usize {
        if at == 0
            && let Some(torn) = self.find_torn(piece)
        {
            // What was torn off is fed first, so that offsets count from the key's quote.
            let mut tail = MemberScan::at_key(WATCHED);
            if tail.feed(&KEY[..torn], |_| {}).is_ok() {
                self.tail = Some(tail);
            }
            self.torn = 0;
            return 0;
        }
        let Some(found) = FINDER.find(&piece[at..]).map(|found| at + found) else { return piece.len() };
        let before = if found == 0 { self.last[TORN_MAX] } else { piece[found - 1] };
        if before == b'\\' {
            self.from = found + KEY.len();
            return self.from;
        }
        match read_member(&piece[found + KEY.len()..]) {
            Some((usage, len)) => {
                self.usage = usage;
                self.tail = Some(MemberScan::behind_member(WATCHED));
                found + KEY.len() + len
            }
            None => {
                self.tail = Some(MemberScan::at_key(WATCHED));
                found
            }
        }
    }

    /// How much of a key stands at the end of the pieces before, if the rest of it is here.
    fn find_torn(&self, piece: &[u8]) -> Option<usize> {
        let ends_with_key = |torn: &usize| {
            let start = KEY.len() - torn;
            self.last[start..] == KEY[..*torn]
                && piece.starts_with(&KEY[*torn..])
                && self.last[start - 1] != b'\\'
        };
        (1..=self.torn).rev().find(ends_with_key)
    }

    /// Reads `piece[from..]` as what follows a key of the top level; gives where to go on.
    fn read(&mut self, piece: &[u8], from: usize) -> usize {
        let Self { tail: Some(tail), parser, begun, usage, .. } = self else { return piece.len() };
        // Offsets of the scan are those of the piece, plus this.
        let base = tail.scanned();
        let place = |offset: usize| offset.checked_sub(base).map(|offset| from + offset);
        let fed = tail.feed(&piece[from..], |member: Member| {
            // The search does not know escapes, and what is found must not depend on how the body is split.
            if member.escaped {
                return;
            }
            let end = from + member.value.end - base;
            let parsed = match place(member.value.start) {
                Some(start) => parser.parse(&piece[start..end]),
                None => {
                    extend_bounded(begun, &piece[from..end]);
                    parser.parse(begun)
                }
            };
            *usage = parsed.or(*usage);
        });
        if let Err(JsonError::Unexpected { at } | JsonError::TooDeep { at } | JsonError::Incomplete { at }) =
            fed
        {
            self.from = place(at).unwrap_or(from);
            self.tail = None;
            self.usage = None;
            self.torn = 0;
            return self.from;
        }
        if let Some(start) = tail.open_value() {
            if start >= base {
                begun.clear();
            }
            extend_bounded(begun, &piece[place(start).unwrap_or(from)..]);
        }
        piece.len()
    }

    /// Keeps what of a key may be torn off at the end of `piece`.
    fn keep_last(&mut self, piece: &[u8]) {
        let len = KEY.len();
        if let Some(last) = piece.last_chunk() {
            self.last = *last;
        } else {
            self.last.rotate_left(piece.len());
            self.last[len - piece.len()..].copy_from_slice(piece);
        }
        self.torn = match self.tail {
            Some(_) => 0,
            None if self.from > 0 => (piece.len() - self.from).min(TORN_MAX),
            None => (self.torn + piece.len()).min(TORN_MAX),
        };
    }
}

/// Reads the colon and the value behind a key, where the value is a plain usage object: its counts, and the
/// length of both.
fn read_member(bytes: &[u8]) -> Option<(Option<Usage>, usize)> {
    let white = |from: usize| bytes[from..].iter().take_while(|byte| is_white(**byte)).count();
    let colon = white(0);
    if bytes.get(colon) != Some(&b':') {
        return None;
    }
    let start = colon + 1 + white(colon + 1);
    let (usage, len) = read_plain(&bytes[start..])?;
    Some((usage, start + len))
}

/// Appends up to one byte more than the parser takes.
fn extend_bounded(begun: &mut Vec<u8>, bytes: &[u8]) {
    let room = (USAGE_BYTES_MAX + 1).saturating_sub(begun.len());
    begun.extend_from_slice(&bytes[..room.min(bytes.len())]);
}

#[cfg(test)]
mod tests;
