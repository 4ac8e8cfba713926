//! Usage objects as servers write them, read in one pass: ASCII names without escapes, whole numbers, null,
//! and objects of these one level deep.
//!
//! Nearly every usage object is of this form, and a parser for all of JSON costs several times as much as all
//! that it has to say. Whatever is not of the form, or goes on in the next read, is left to that parser: no
//! object is read in two ways (`fuzz` in the module above holds that).

use super::{Counts, Tokens};
use crate::json::bytes::{find_quote, is_white};

/// The longest number that is read: it fits 64 bits whatever its digits are.
const DIGITS_MAX: usize = 18;

/// Reads the object that `bytes` begin with. Gives its counts and its length; `None` where it is not of the
/// plain form, or has no end.
pub(super) fn read(bytes: &[u8]) -> Option<(Counts, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let mut counts = Counts::default();
    reader.object(|reader, name| {
        match name {
            b"prompt_tokens" => counts.prompt.all = reader.number()?,
            b"input_tokens" => counts.input.all = reader.number()?,
            b"completion_tokens" => counts.completion.all = reader.number()?,
            b"output_tokens" => counts.output.all = reader.number()?,
            b"total_tokens" => counts.total = reader.number()?,
            b"prompt_tokens_details" => reader.details(&mut counts.prompt)?,
            b"input_tokens_details" => reader.details(&mut counts.input)?,
            b"completion_tokens_details" => reader.details(&mut counts.completion)?,
            b"output_tokens_details" => reader.details(&mut counts.output)?,
            _ => reader.other(name)?,
        }
        Some(())
    })?;
    Some((counts, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads an object; `member` reads the value behind each name.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.next()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.name()?;
            self.expect(b':')?;
            member(self, name)?;
            let after = self.next()?;
            self.at += 1;
            match after {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The next byte that is not white space; it is not taken.
    fn next(&mut self) -> Option<u8> {
        while is_white(*self.bytes.get(self.at)?) {
            self.at += 1;
        }
        Some(self.bytes[self.at])
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        let found = self.next()? == byte;
        self.at += usize::from(found);
        found.then_some(())
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = &self.bytes[self.at..];
        let name = &rest[..find_quote(rest)?];
        self.at += name.len() + 1;
        Some(name)
    }

    /// A member that is not ours: an object of numbers, or a number.
    fn other(&mut self, name: &[u8]) -> Option<()> {
        check(name)?;
        self.details(&mut Tokens::default())
    }

    /// A whole number, or null: `Some(None)` is one that is no count.
    #[expect(clippy::option_option, reason = "it may be unreadable, and it may be no count")]
    fn number(&mut self) -> Option<Option<u32>> {
        if self.next()? == b'n' {
            let null = self.bytes[self.at..].starts_with(b"null");
            self.at += 4;
            return (null && self.ends_value()).then_some(None);
        }
        let (start, mut number) = (self.at, 0_u64);
        while let Some(digit) =
            self.bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10)
        {
            // What this makes of more digits than fit is looked at by nobody.
            number = number.wrapping_mul(10).wrapping_add(digit.into());
            self.at += 1;
        }
        let digits = self.at - start;
        let leading_zero = digits > 1 && self.bytes[start] == b'0';
        if digits == 0 || digits > DIGITS_MAX || leading_zero {
            return None;
        }
        self.ends_value().then(|| u32::try_from(number).ok())
    }

    /// Whether a value that was read has its end here: `1.5` and `1e3` go on.
    fn ends_value(&self) -> bool {
        self.bytes.get(self.at).is_some_and(|byte| matches!(byte, b',' | b'}') || is_white(*byte))
    }

    /// An object of numbers; or a number, which then says nothing.
    fn details(&mut self, tokens: &mut Tokens) -> Option<()> {
        if self.next()? != b'{' {
            return self.number().map(drop);
        }
        self.object(|reader, name| {
            let count = reader.number()?;
            match name {
                b"cached_tokens" => tokens.cached = count,
                b"cache_write_tokens" => tokens.cache_write = count,
                b"reasoning_tokens" => tokens.reasoning = count,
                _ => check(name)?,
            }
            Some(())
        })
    }
}

/// Refuses a name in which more may be than meets the eye: an escape, a control byte, a letter beyond ASCII.
fn check(name: &[u8]) -> Option<()> {
    name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\').then_some(())
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_servers_send_is_of_the_plain_form() {
        for object in [
            r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#,
            r#"{"prompt_tokens": 9, "total_tokens": 21, "completion_tokens": 12, "prompt_tokens_details": null}"#,
            r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,
                "prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},
                "completion_tokens_details":{"reasoning_tokens":0,"rejected_prediction_tokens":0}}"#,
            r#"{"completion_tokens":2,"prompt_tokens":8,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":0}}"#,
            "{}",
            "{ }",
        ] {
            let (_, len) = read(object.as_bytes()).unwrap_or_else(|| panic!("{object}"));
            assert_eq!(len, object.len());
            // Whatever follows the object is not looked at, and an object without an end is none.
            assert_eq!(read([object, ",x"].concat().as_bytes()).map(|read| read.1), Some(len));
            for cut in 0..object.len() {
                assert!(read(&object.as_bytes()[..cut]).is_none(), "{object} cut at {cut}");
            }
        }
    }

    #[test]
    fn anything_else_is_left_to_the_parser() {
        for object in [
            r#"{"a":1.5}"#,
            r#"{"a":-1}"#,
            r#"{"a":1e3}"#,
            r#"{"a":01}"#,
            r#"{"a":nul1}"#,
            r#"{"a":nullx}"#,
            r#"{"a":true}"#,
            r#"{"a":"b"}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"b":{"c":1}}}"#,
            r#"{"\u0061":1}"#,
            "{\"ä\":1}",
            "{\"a\tb\":1}",
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":1]"#,
            r#"{"a":1234567890123456789}"#,
            "[1]",
            "1",
            "",
        ] {
            assert!(read(object.as_bytes()).is_none(), "{object}");
        }
    }
}
