//! Sixteen bytes at once as a mask: bit `i` is set where byte `i` is one that is searched for.
//!
//! SSE2 is part of x86-64, so nothing has to be detected; other machines take the bytes one by one.

/// How many bytes a step looks at.
pub(crate) const STEP: usize = 16;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use self::portable::{
    carriage_returns, controls, json_stops, key_stops, name_stops, quotes, target_stops,
};
#[cfg(target_arch = "x86_64")]
pub(crate) use self::sse2::{
    carriage_returns, controls, json_stops, key_stops, name_stops, quotes, target_stops,
};

/// The place of the first byte that `mask` marks in a step, or else `alone` in what is left behind the last
/// whole one.
#[inline]
pub(crate) fn position(
    bytes: &[u8],
    mask: impl Fn(&[u8; STEP]) -> u32,
    alone: impl Fn(u8) -> bool,
) -> Option<usize> {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    for (index, step) in steps.iter().enumerate() {
        let found = mask(step);
        if found != 0 {
            return Some(index * STEP + found.trailing_zeros() as usize);
        }
    }
    let at = rest.iter().position(|&byte| alone(byte))?;
    Some(bytes.len() - rest.len() + at)
}

/// True for control bytes other than HTAB (RFC 9110 §5.5), CR and LF among them.
#[cfg(any(test, not(target_arch = "x86_64")))]
pub(crate) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// True for what nearly all field names are made of; other bytes of a token are rare in them.
#[inline]
pub(crate) fn is_usual_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// True for the bytes of a request target: visible ASCII but for the number sign, which begins a fragment.
#[inline]
pub(crate) fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// Whether a byte changes nothing in a nested JSON value: white space, `,`, `:`, and what numbers and
/// literals are made of.
#[inline]
pub(crate) fn is_plain_json(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'+' | b',' | b'-' | b'.' | b':' | b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the intrinsics ask for a proof that the machine has them")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8,
        _mm_or_si128, _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::STEP;

    /// Where a byte is not plain in JSON.
    #[inline]
    pub(crate) fn json_stops(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { !plain_json(load(step)) & 0xffff }
    }

    /// Where a quote is.
    #[inline]
    pub(crate) fn quotes(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { mask(equal(load(step), b'"')) }
    }

    /// Where a carriage return is.
    #[inline]
    pub(crate) fn carriage_returns(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { mask(equal(load(step), b'\r')) }
    }

    /// Where a control byte is, HTAB excepted.
    #[inline]
    pub(crate) fn controls(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let bytes = load(step);
            let low = _mm_andnot_si128(equal(bytes, b'\t'), within(bytes, 0, 0x20));
            mask(_mm_or_si128(low, equal(bytes, 0x7f)))
        }
    }

    /// Where a quote or a backslash is, or a byte beyond ASCII.
    #[inline]
    pub(crate) fn key_stops(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let bytes = load(step);
            // The mask is made of highest bits, which is what bytes beyond ASCII have.
            mask(_mm_or_si128(_mm_or_si128(equal(bytes, b'"'), equal(bytes, b'\\')), bytes))
        }
    }

    /// Where a byte is that no request target has.
    #[inline]
    pub(crate) fn target_stops(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let bytes = load(step);
            !mask(_mm_andnot_si128(equal(bytes, b'#'), within(bytes, b'!', 94))) & 0xffff
        }
    }

    /// Where a byte is not usual in a field name.
    #[inline]
    pub(crate) fn name_stops(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let bytes = load(step);
            let marks = _mm_or_si128(equal(bytes, b'-'), equal(bytes, b'_'));
            let letters = within(_mm_or_si128(bytes, all(0x20)), b'a', 26);
            let usual = _mm_or_si128(_mm_or_si128(letters, marks), within(bytes, b'0', 10));
            !mask(usual) & 0xffff
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(step: &[u8; STEP]) -> __m128i {
        // SAFETY: sixteen readable bytes; the load asks for no alignment.
        unsafe { _mm_loadu_si128(step.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn all(byte: u8) -> __m128i {
        _mm_set1_epi8(byte.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(bytes: __m128i, byte: u8) -> __m128i {
        _mm_cmpeq_epi8(bytes, all(byte))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn mask(bytes: __m128i) -> u32 {
        _mm_movemask_epi8(bytes).cast_unsigned()
    }

    /// Where `byte - from < len`: a subtraction that wraps, compared with its minimum.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn within(bytes: __m128i, from: u8, len: u8) -> __m128i {
        let offset = _mm_sub_epi8(bytes, all(from));
        _mm_cmpeq_epi8(_mm_min_epu8(offset, all(len - 1)), offset)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn plain_json(bytes: __m128i) -> u32 {
        let letter = within(_mm_or_si128(bytes, all(0x20)), b'a', 26);
        // One range for `+,-./0123456789:`, of which only the slash is not plain.
        let number = _mm_andnot_si128(equal(bytes, b'/'), within(bytes, b'+', 16));
        let blank = _mm_or_si128(equal(bytes, b' '), equal(bytes, b'\r'));
        // Tab and line feed are neighbours.
        let white = _mm_or_si128(blank, within(bytes, b'\t', 2));
        mask(_mm_or_si128(_mm_or_si128(letter, number), white))
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::{STEP, is_control, is_plain_json, is_target_byte, is_usual_in_name};

    fn mask(step: &[u8; STEP], searched: impl Fn(u8) -> bool) -> u32 {
        step.iter().rev().fold(0, |mask, &byte| mask << 1 | u32::from(searched(byte)))
    }

    /// Where a byte is not plain in JSON.
    pub(crate) fn json_stops(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| !is_plain_json(byte))
    }

    /// Where a quote is.
    pub(crate) fn quotes(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| byte == b'"')
    }

    /// Where a carriage return is.
    pub(crate) fn carriage_returns(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| byte == b'\r')
    }

    /// Where a control byte is, HTAB excepted.
    pub(crate) fn controls(step: &[u8; STEP]) -> u32 {
        mask(step, is_control)
    }

    /// Where a quote or a backslash is, or a byte beyond ASCII.
    pub(crate) fn key_stops(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| byte == b'"' || byte == b'\\' || !byte.is_ascii())
    }

    /// Where a byte is that no request target has.
    pub(crate) fn target_stops(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| !is_target_byte(byte))
    }

    /// Where a byte is not usual in a field name.
    pub(crate) fn name_stops(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| !is_usual_in_name(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_in_every_place_gives_the_same_mask_on_every_machine() {
        for byte in 0..=u8::MAX {
            for place in 0..STEP {
                let mut step = [b'x'; STEP];
                step[place] = byte;
                step[(place + 5) % STEP] = byte ^ 0x01;
                assert_eq!(json_stops(&step), portable::json_stops(&step), "{step:?}");
                assert_eq!(quotes(&step), portable::quotes(&step), "{step:?}");
                assert_eq!(carriage_returns(&step), portable::carriage_returns(&step), "{step:?}");
                assert_eq!(controls(&step), portable::controls(&step), "{step:?}");
                assert_eq!(key_stops(&step), portable::key_stops(&step), "{step:?}");
                assert_eq!(target_stops(&step), portable::target_stops(&step), "{step:?}");
                assert_eq!(name_stops(&step), portable::name_stops(&step), "{step:?}");
            }
        }
    }

    #[test]
    fn first_control_byte_is_found_in_every_place_and_nothing_else_is_one() {
        let control = |bytes: &[u8]| position(bytes, controls, is_control);
        for byte in 0..=255u8 {
            let expected = matches!(byte, 0..=8 | 10..=31 | 127);
            for place in 0..20 {
                for filler in [b'a', b'\t', b' ', b'~', 0x80, 0xff] {
                    let mut bytes = [filler; 20];
                    bytes[place] = byte;
                    assert_eq!(control(&bytes), expected.then_some(place), "{byte:#x} at {place}");
                    bytes[19] = b'\r';
                    let first = if expected { place } else { 19 };
                    assert_eq!(control(&bytes), Some(first.min(19)), "{byte:#x} at {place} before CR");
                }
            }
        }
    }
}
