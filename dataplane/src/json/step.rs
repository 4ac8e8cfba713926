//! Sixteen bytes at once as a mask: bit `i` is set where byte `i` is one that is searched for.
//!
//! SSE2 is part of x86-64, so nothing has to be detected; other machines take the bytes one by one.

/// How many bytes a step looks at.
pub(super) const STEP: usize = 16;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use self::portable::{quotes, stops};
#[cfg(target_arch = "x86_64")]
pub(super) use self::sse2::{quotes, stops};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the intrinsics ask for a proof that the machine has them")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set_epi64x, _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::STEP;

    /// Where a byte is not plain.
    #[inline]
    pub(in super::super) fn stops(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { !plain(load(step)) & 0xffff }
    }

    /// Where a quote is.
    #[inline]
    pub(in super::super) fn quotes(step: &[u8; STEP]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { equal(load(step), b'"') }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(step: &[u8; STEP]) -> __m128i {
        let half = |at: usize| i64::from_le_bytes(std::array::from_fn(|i| step[at + i]));
        _mm_set_epi64x(half(8), half(0))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn all(byte: u8) -> __m128i {
        _mm_set1_epi8(byte.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(bytes: __m128i, byte: u8) -> u32 {
        _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, all(byte))).cast_unsigned()
    }

    /// Where `byte - from < len`: a subtraction that wraps, compared with its minimum.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn within(bytes: __m128i, from: u8, len: u8) -> __m128i {
        let offset = _mm_sub_epi8(bytes, all(from));
        _mm_cmpeq_epi8(_mm_min_epu8(offset, all(len - 1)), offset)
    }

    /// The same classes as `is_plain`.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn plain(bytes: __m128i) -> u32 {
        let letter = within(_mm_or_si128(bytes, all(0x20)), b'a', 26);
        let number = _mm_andnot_si128(_mm_cmpeq_epi8(bytes, all(b'/')), within(bytes, b'+', 16));
        let blank = _mm_or_si128(_mm_cmpeq_epi8(bytes, all(b' ')), _mm_cmpeq_epi8(bytes, all(b'\r')));
        // Tab and line feed are neighbours.
        let white = _mm_or_si128(blank, within(bytes, b'\t', 2));
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(letter, number), white)).cast_unsigned()
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::super::bytes::is_plain;
    use super::STEP;

    fn mask(step: &[u8; STEP], searched: impl Fn(u8) -> bool) -> u32 {
        step.iter().rev().fold(0, |mask, &byte| mask << 1 | u32::from(searched(byte)))
    }

    /// Where a byte is not plain.
    pub(in super::super) fn stops(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| !is_plain(byte))
    }

    /// Where a quote is.
    pub(in super::super) fn quotes(step: &[u8; STEP]) -> u32 {
        mask(step, |byte| byte == b'"')
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
                assert_eq!(stops(&step), portable::stops(&step), "{step:?}");
                assert_eq!(quotes(&step), portable::quotes(&step), "{step:?}");
            }
        }
    }
}
