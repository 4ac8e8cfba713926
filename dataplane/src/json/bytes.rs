//! Byte classes, and the two loops that most bytes of a document pass through.

use std::mem;

use memchr::memchr;

use crate::step::{self, STEP, is_plain_json};

/// Whether a byte is JSON's white space (RFC 8259 §2).
#[inline]
pub(crate) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a byte may be part of a number, `true`, `false` or `null`.
pub(super) fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// How many bytes at the start of `bytes`, outside strings, are neither a bracket nor a quote nor refused.
#[inline]
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    step::position(bytes, step::json_stops, |byte| !is_plain_json(byte)).unwrap_or(bytes.len())
}

/// The first quote. Most strings are short, and their end is in the first step already.
#[inline]
pub(crate) fn find_quote(bytes: &[u8]) -> Option<usize> {
    let Some(first) = bytes.first_chunk() else { return bytes.iter().position(|&byte| byte == b'"') };
    let quotes = step::quotes(first);
    if quotes != 0 {
        return Some(quotes.trailing_zeros() as usize);
    }
    memchr(b'"', &bytes[STEP..]).map(|offset| STEP + offset)
}

/// The offset just past the closing quote of the string whose inside goes on at `bytes[0]`, if it ends in
/// there.
///
/// `escaped` carries over to the next piece whether a backslash is still open. A quote ends the string if the
/// backslashes before it are even in number; every backslash is looked at for one quote only, so this is
/// linear.
#[inline]
pub(super) fn string_end(bytes: &[u8], escaped: &mut bool) -> Option<usize> {
    if bytes.is_empty() {
        return None;
    }
    let mut from = usize::from(mem::take(escaped));
    loop {
        let quote = find_quote(&bytes[from..]).map(|offset| from + offset);
        let inside = &bytes[from..quote.unwrap_or(bytes.len())];
        let odd = inside.last() == Some(&b'\\') && backslashes_at_end(inside) % 2 == 1;
        match quote {
            Some(quote) if !odd => return Some(quote + 1),
            Some(quote) => from = quote + 1,
            None => {
                *escaped = odd;
                return None;
            }
        }
    }
}

fn backslashes_at_end(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|&&byte| byte == b'\\').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_are_exactly_white_space_separators_and_scalars() {
        for byte in 0..=u8::MAX {
            let plain = is_white(byte) || is_scalar(byte) || matches!(byte, b',' | b':');
            assert_eq!(is_plain_json(byte), plain, "{byte:#04x}");
            for len in [1, 15, 16, 17, 40] {
                let mut bytes = vec![b'1'; len];
                bytes[len - 1] = byte;
                assert_eq!(plain_run(&bytes), if plain { len } else { len - 1 });
            }
        }
    }

    #[test]
    fn escaped_quotes_do_not_end_a_string() {
        for (inside, end) in [
            (r#"""#, Some(1)),
            (r#"a\"b""#, Some(5)),
            (r#"a\\"b"#, Some(4)),
            (r#"\\\"""#, Some(5)),
            (r#"\"\"\""#, None),
            (r"abc\", None),
        ] {
            for cut in 0..inside.len() {
                let (head, tail) = inside.as_bytes().split_at(cut);
                let mut escaped = false;
                let found =
                    string_end(head, &mut escaped).or_else(|| Some(cut + string_end(tail, &mut escaped)?));
                assert_eq!(found, end, "{inside} cut at {cut}");
            }
        }
    }
}
