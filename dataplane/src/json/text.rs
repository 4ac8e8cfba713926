//! String values and keys: from their escaped form in a document to what they mean, and back.
//!
//! Escapes are read strictly (RFC 8259 §7): an escape that JSON does not have, a lone surrogate or a raw
//! control byte is refused, because a lenient reader would take it for something that we did not see.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// The longest raw key that is looked at: six bytes for each byte of the longest watched name.
pub(super) const KEY_BYTES_MAX: usize = 192;

/// Unescapes any bytes, and holds that what comes out and goes back through `escape` is the same text.
pub fn fuzz(data: &[u8]) {
    let mut out = [0; 64];
    let Ok(len) = unescape(data, &mut out) else { return };
    let Ok(text) = std::str::from_utf8(&out[..len]) else { return };
    let mut again = [0; 64];
    assert_eq!(unescape(escape(text).as_bytes(), &mut again), Ok(len));
    assert_eq!(again[..len], out[..len]);
}

/// Why a string was not unescaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is not the inside of a JSON string.
    #[error("a string has an escape or a control byte that JSON does not allow")]
    Malformed,
    /// It does not fit.
    #[error("a string is too long")]
    TooLong,
}

/// Writes what the inside of a JSON string means into `out`, and returns how many bytes that is.
///
/// Bytes that are not UTF-8 pass as they are.
///
/// # Errors
/// [`TextError::Malformed`], or [`TextError::TooLong`] once `out` is full.
pub fn unescape(raw: &[u8], out: &mut [u8]) -> Result<usize, TextError> {
    let meaning = |byte: &u8| *byte == b'\\' || *byte == b'"' || *byte < 0x20;
    if !raw.iter().any(meaning) {
        out.get_mut(..raw.len()).ok_or(TextError::TooLong)?.copy_from_slice(raw);
        return Ok(raw.len());
    }
    let (mut i, mut len) = (0, 0);
    while let Some(&byte) = raw.get(i) {
        let mut utf8 = [0; 4];
        let (taken, text): (usize, &[u8]) = match byte {
            b'\\' => {
                let (taken, symbol) = escaped_char(&raw[i + 1..]).ok_or(TextError::Malformed)?;
                (taken + 1, symbol.encode_utf8(&mut utf8).as_bytes())
            }
            0..0x20 | b'"' => return Err(TextError::Malformed),
            _ => (1, &raw[i..=i]),
        };
        out.get_mut(len..len + text.len()).ok_or(TextError::TooLong)?.copy_from_slice(text);
        len += text.len();
        i += taken;
    }
    Ok(len)
}

/// The character that stands after a backslash, and how many bytes it takes.
fn escaped_char(raw: &[u8]) -> Option<(usize, char)> {
    let symbol = match raw.first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_escape(raw),
        _ => return None,
    };
    Some((1, symbol))
}

/// `uXXXX`, or two of them that are a surrogate pair.
fn unicode_escape(raw: &[u8]) -> Option<(usize, char)> {
    let high = hex4(raw.get(1..5)?)?;
    if !(0xd800..0xe000).contains(&high) {
        return Some((5, char::from_u32(high)?));
    }
    let low = raw.get(5..11).filter(|pair| pair.starts_with(b"\\u")).and_then(|pair| hex4(&pair[2..]))?;
    if high >= 0xdc00 || !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    Some((11, char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?))
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

/// The inside of a JSON string that means `text`; borrowed where nothing has to be escaped.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for symbol in text.chars() {
        match symbol {
            '"' | '\\' => out.extend(['\\', symbol]),
            '\0'..' ' => {
                // Writing into a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(symbol));
            }
            _ => out.push(symbol),
        }
    }
    Cow::Owned(out)
}

/// The current key of a scan, as it stands in the document.
pub(super) struct RawKey {
    bytes: [u8; KEY_BYTES_MAX],
    /// More than `KEY_BYTES_MAX` means that the key did not fit, and so is none of the watched ones.
    len: usize,
}

impl fmt::Debug for RawKey {
    // A key is the client's text, which no log may have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawKey({} bytes)", self.len)
    }
}

impl Default for RawKey {
    fn default() -> Self {
        Self { bytes: [0; KEY_BYTES_MAX], len: 0 }
    }
}

impl RawKey {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        let end = self.len.saturating_add(piece.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(piece);
        }
        self.len = end;
    }

    /// Which one the key is that ends with the piece `last`, as `find` knows it, and whether it has escapes.
    pub(super) fn find<T: Default>(
        &mut self,
        last: &[u8],
        find: impl FnOnce(&[u8]) -> T,
    ) -> Result<(T, bool), TextError> {
        let raw = if self.len == 0 {
            last
        } else {
            self.push(last);
            let Some(raw) = self.bytes.get(..self.len) else { return Ok((T::default(), false)) };
            raw
        };
        if raw.len() > KEY_BYTES_MAX || !raw.contains(&b'\\') {
            return Ok((find(raw), false));
        }
        let mut key = [0; KEY_BYTES_MAX];
        let len = unescape(raw, &mut key)?;
        Ok((find(&key[..len]), true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(raw: &str) -> Result<String, TextError> {
        let mut out = [0; 64];
        let len = unescape(raw.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out[..len].to_vec()).unwrap())
    }

    #[test]
    fn escapes_mean_what_serde_json_says() {
        for raw in [
            r"plain",
            r"\u006d\u006F",
            r#"\"\\\/\b\f\n\r\t"#,
            r"\ud83d\ude00",
            r"\u00e9\uFFFF",
            "流通",
            r"\ud83d",
            r"\ude00\ud83d",
            r"\ud83dx",
            r"\ud83d\u0041",
            r"\m",
            r"\u12",
            r"\u00g0",
            r"\u+123",
            "\\",
            "a\nb",
        ] {
            let expected =
                serde_json::from_str::<String>(&format!("\"{raw}\"")).map_err(|_| TextError::Malformed);
            assert_eq!(meaning(raw), expected, "{raw}");
            fuzz(raw.as_bytes());
        }
    }

    #[test]
    fn text_that_does_not_fit_is_too_long() {
        assert_eq!(unescape(b"abc", &mut [0; 2]), Err(TextError::TooLong));
        assert_eq!(unescape(br"\ud83d\ude00", &mut [0; 3]), Err(TextError::TooLong));
    }

    #[test]
    fn escaped_text_comes_back() {
        for text in ["gpt-4o", "a\"b\\c", "\u{1}\n", "流通", "\u{7f}"] {
            let quoted = format!("\"{}\"", escape(text));
            assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
        assert!(matches!(escape("org/model:7b"), Cow::Borrowed(_)));
    }
}
