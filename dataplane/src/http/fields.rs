//! What requests' and responses' field lines have in common: limits, framing, persistence, what is forwarded.
//!
//! Which fields decide where a body ends is asked here once for both directions, so that they cannot
//! disagree. A field that is not named in an allow-list goes no further, whatever it is.

use super::framing::BodyFraming;
use super::head_error::HeadError;
use super::span::Span;

/// How many field lines a head may have.
pub const FIELD_LINES_MAX: usize = 100;
/// How long a field's name may be.
pub const FIELD_NAME_BYTES_MAX: usize = 256;
/// How many field lines of a head may be forwarded.
pub const FORWARDED_LINES_MAX: usize = 16;

/// Whether the connection can carry another exchange after this one (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Another may follow.
    KeepAlive,
    /// This was the last one.
    Close,
}

/// The Connection field, gathered from all of its lines. Options other than these two ask for nothing here,
/// since a field that they could name is forwarded only by allow-list.
#[derive(Default)]
pub(super) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
}

impl ConnectionOptions {
    /// Adds the options of one line.
    pub(super) fn add(&mut self, value: &[u8]) {
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// What the options mean in this version (RFC 9112 §9.3).
    pub(super) fn persist(&self, http_1_0: bool) -> Persist {
        if self.close || (http_1_0 && !self.keep_alive) { Persist::Close } else { Persist::KeepAlive }
    }
}

/// Content-Length and Transfer-Encoding, gathered from all of their lines.
#[derive(Default)]
pub(super) struct FramingFields {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    /// Adds a Content-Length line. A list (`5, 5`) is refused even where RFC 9112 §6.3 would let it pass.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.length.is_some() {
            return Err(HeadError::LengthRepeated);
        }
        self.length = Some(decimal(value).ok_or(HeadError::Length)?);
        Ok(())
    }

    /// Adds a Transfer-Encoding line.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::Coding);
        }
        self.chunked = true;
        Ok(())
    }

    /// The framing that the fields state; `None` if there are none of them (RFC 9112 §6.3).
    pub(super) fn stated(&self, http_1_0: bool) -> Result<Option<BodyFraming>, HeadError> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(HeadError::LengthAndCoding),
            (None, true) if http_1_0 => Err(HeadError::CodingInOldVersion),
            (None, true) => Ok(Some(BodyFraming::Chunked)),
            (Some(length), false) => Ok(Some(BodyFraming::Length(length))),
            (None, false) => Ok(None),
        }
    }
}

/// A number in decimal digits and nothing else; `None` if it is not one, or not below 2^64.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Whether a field's name is `known`, which is in lower case; names know no case (RFC 9110 §5.1).
///
/// `name` must be a token. The bit that tells upper from lower case is set in eight bytes at a time: the only
/// other byte that this makes equal to one of `known`'s is CR to a hyphen, and no token has that.
#[inline]
pub(super) fn is_name(name: &[u8], known: &str) -> bool {
    const CASE: u64 = u64::from_ne_bytes([0x20; 8]);
    let (words, rest) = name.as_chunks::<8>();
    let (known_words, known_rest) = known.as_bytes().as_chunks::<8>();
    let same = |(word, known): (&[u8; 8], &[u8; 8])| {
        u64::from_ne_bytes(*word) | CASE == u64::from_ne_bytes(*known) | CASE
    };
    name.len() == known.len()
        && words.iter().zip(known_words).all(same)
        && rest.iter().zip(known_rest).all(|(byte, known)| byte | 0x20 == *known)
}

/// How long the names of an allow-list may be.
const ALLOWED_NAME_BYTES_MAX: usize = 31;

/// The names of the fields that go on: at most eight.
#[derive(Debug, PartialEq, Eq)]
pub struct AllowList {
    /// In lower case.
    names: &'static [&'static str],
    /// For each length a bit for each name that is so long: most of what comes is told by its length.
    by_length: [u8; ALLOWED_NAME_BYTES_MAX + 1],
}

impl AllowList {
    /// Allows `names`, which are in lower case.
    pub(super) const fn new(names: &'static [&'static str]) -> Self {
        let (mut by_length, mut index) = ([0; ALLOWED_NAME_BYTES_MAX + 1], 0);
        while index < names.len() {
            by_length[names[index].len()] |= 1 << index;
            index += 1;
        }
        Self { names, by_length }
    }

    /// The index of `name` among them.
    #[inline]
    fn find(&self, name: &[u8]) -> Option<u8> {
        let mut candidates = *self.by_length.get(name.len())?;
        while candidates != 0 {
            let index = candidates.trailing_zeros();
            if is_name(name, self.names[index as usize]) {
                return u8::try_from(index).ok();
            }
            candidates &= candidates - 1;
        }
        None
    }
}

/// The field lines of a head that an allow-list names, in the order of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    allowed: &'static AllowList,
    /// Index into the list's names, and the value.
    lines: [(u8, Span); FORWARDED_LINES_MAX],
    count: u8,
}

impl Forwarded {
    /// Keeps what `allowed` names.
    pub(super) fn new(allowed: &'static AllowList) -> Self {
        Self { allowed, lines: [(0, Span::default()); FORWARDED_LINES_MAX], count: 0 }
    }

    /// Keeps a line whose name is in the allow-list, and drops others.
    #[inline]
    pub(super) fn offer(&mut self, name: &[u8], value: Span) -> Result<(), HeadError> {
        let Some(index) = self.allowed.find(name) else { return Ok(()) };
        let line = self.lines.get_mut(usize::from(self.count)).ok_or(HeadError::TooManyFields)?;
        *line = (index, value);
        self.count += 1;
        Ok(())
    }

    /// The kept lines: name in lower case, and value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Span)> + '_ {
        self.lines[..usize::from(self.count)]
            .iter()
            .map(|&(index, value)| (self.allowed.names[usize::from(index)], value))
    }
}

/// Refuses names that are longer than any field has.
pub(super) fn check_name(name: &[u8]) -> Result<(), HeadError> {
    if name.len() > FIELD_NAME_BYTES_MAX { Err(HeadError::FieldNameTooLong) } else { Ok(()) }
}

/// Sets a field that there can be only one of.
pub(super) fn set_once(slot: &mut Option<Span>, value: Span, name: &'static str) -> Result<(), HeadError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeadError::FieldRepeated(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionOptions, Persist, decimal, is_name};

    #[test]
    fn a_token_is_a_known_name_in_any_case_and_in_no_other_way() {
        let known = "x-stainless-lang";
        for len in 0..=known.len() {
            let known = &known[..len];
            assert!(
                is_name(known.as_bytes(), known) && is_name(known.to_ascii_uppercase().as_bytes(), known)
            );
            assert!(!is_name(format!("{known}a").as_bytes(), known));
            for place in 0..len {
                for byte in (0..=u8::MAX).filter(|byte| super::super::lines::is_token_byte(*byte)) {
                    let mut name = known.as_bytes().to_vec();
                    name[place] = byte;
                    assert_eq!(
                        is_name(&name, known),
                        name.eq_ignore_ascii_case(known.as_bytes()),
                        "{byte:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_plain_decimal_numbers_below_two_to_the_64_are_lengths() {
        for (text, number) in [("0", 0), ("007", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(decimal(text.as_bytes()), Some(number));
        }
        for text in [
            "",
            "+5",
            "-5",
            " 5",
            "5 ",
            "5, 5",
            "5,5",
            "0x5",
            "5_0",
            "5.0",
            "1e3",
            "18446744073709551616",
            "٥",
        ] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn close_wins_over_keep_alive_and_version_decides_without_either() {
        let cases: &[(&[&str], Persist, Persist)] = &[
            (&[], Persist::KeepAlive, Persist::Close),
            (&["keep-alive"], Persist::KeepAlive, Persist::KeepAlive),
            (&["Keep-Alive, TE"], Persist::KeepAlive, Persist::KeepAlive),
            (&["close"], Persist::Close, Persist::Close),
            (&["keep-alive", "x ,\tCLOSE"], Persist::Close, Persist::Close),
            (&["closed", "not-close"], Persist::KeepAlive, Persist::Close),
        ];
        for (lines, http_1_1, http_1_0) in cases {
            let mut options = ConnectionOptions::default();
            lines.iter().for_each(|line| options.add(line.as_bytes()));
            assert_eq!((options.persist(false), options.persist(true)), (*http_1_1, *http_1_0), "{lines:?}");
        }
    }
}
