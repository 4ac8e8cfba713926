//! The form of API keys: what can be told from a key's text alone, without a look-up.
//!
//! ```text
//! data key:   sk-lt-    | public id, 8 base62 | - | secret, 43 base62 | check, 6 base62     64 bytes
//! admin key:  sk-ltadm-                           | secret, 43 base62 | check, 6 base62     58 bytes
//! ```
//!
//! The check is the CRC-32 (IEEE 802.3) of every byte before it, as a number in six base62 digits
//! (`0-9A-Za-z`), the most significant first. It refuses typing errors and garbage; it says nothing about
//! whether a key exists.

/// How a data key begins.
pub const PREFIX: &[u8] = b"sk-lt-";
/// How an admin key begins.
pub const ADMIN_PREFIX: &[u8] = b"sk-ltadm-";
/// The digits of base62, in their order.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The length of the public id.
pub const PUBLIC_ID_BYTES: usize = 8;
/// The length of the secret: 43 digits hold 256 bits.
pub const SECRET_BYTES: usize = 43;
/// The length of the check.
pub const CHECK_BYTES: usize = 6;
/// The length of a data key.
pub const KEY_BYTES: usize = PREFIX.len() + PUBLIC_ID_BYTES + 1 + SECRET_BYTES + CHECK_BYTES;
/// The length of an admin key.
pub const ADMIN_KEY_BYTES: usize = ADMIN_PREFIX.len() + SECRET_BYTES + CHECK_BYTES;

/// Where the public id of a data key ends: its prefix for display is all before.
pub const DISPLAY_BYTES: usize = PREFIX.len() + PUBLIC_ID_BYTES;

/// Whether `key` has the form of a data key and its check fits.
#[must_use]
pub fn check(key: &[u8]) -> bool {
    key.len() == KEY_BYTES
        && key.starts_with(PREFIX)
        && key[DISPLAY_BYTES] == b'-'
        && all_digits(&key[PREFIX.len()..DISPLAY_BYTES])
        && all_digits(&key[DISPLAY_BYTES + 1..])
        && check_fits(key)
}

/// Whether `key` has the form of an admin key and its check fits.
#[must_use]
pub fn check_admin(key: &[u8]) -> bool {
    key.len() == ADMIN_KEY_BYTES
        && key.starts_with(ADMIN_PREFIX)
        && all_digits(&key[ADMIN_PREFIX.len()..])
        && check_fits(key)
}

/// The prefix for display of a data key: `sk-lt-` and the public id; `None` where `key` is none.
#[must_use]
pub fn display_prefix(key: &[u8]) -> Option<&str> {
    check(key).then(|| std::str::from_utf8(&key[..DISPLAY_BYTES]).ok()).flatten()
}

/// The six digits that follow `text` in a key.
#[must_use]
pub fn check_digits(text: &[u8]) -> [u8; CHECK_BYTES] {
    let mut rest = crc32(text);
    let mut digits = [0; CHECK_BYTES];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

fn check_fits(key: &[u8]) -> bool {
    let (text, digits) = key.split_at(key.len() - CHECK_BYTES);
    check_digits(text) == digits
}

fn all_digits(bytes: &[u8]) -> bool {
    // No early exit: the branch would cost more than the rest of so short a run.
    bytes.iter().fold(true, |all, byte| all & IS_DIGIT[usize::from(*byte)])
}

/// CRC-32 as in IEEE 802.3 (reflected 0x04C11DB7), eight bytes at a step.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut crc = u32::MAX;
    for chunk in eights {
        let low = crc.to_le_bytes();
        crc = (0..4).fold(0, |sum, i| sum ^ CRC[7 - i][usize::from(chunk[i] ^ low[i])])
            ^ (4..8).fold(0, |sum, i| sum ^ CRC[7 - i][usize::from(chunk[i])]);
    }
    for byte in rest {
        crc = crc >> 8 ^ CRC[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    !crc
}

const IS_DIGIT: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        table[ALPHABET[i] as usize] = true;
        i += 1;
    }
    table
};

// CRC[n][b] is the remainder of byte b with n zero bytes after it.
static CRC: [[u32; 256]; 8] = {
    let mut table = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256; try_from is not const")]
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[0][i] = crc;
        i += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut i = 0;
        while i < 256 {
            let before = table[n - 1][i];
            table[n][i] = before >> 8 ^ table[0][(before & 255) as usize];
            i += 1;
        }
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn key(public: &str, secret: &str) -> Vec<u8> {
        let mut key = format!("sk-lt-{public}-{secret}").into_bytes();
        key.extend(check_digits(&key.clone()));
        key
    }

    fn sample() -> Vec<u8> {
        key("A1b2C3d4", &"x".repeat(SECRET_BYTES))
    }

    #[test]
    fn the_crc_is_the_one_of_ieee_802_3() {
        for (text, crc) in [
            ("", 0),
            ("a", 0xe8b7_be43),
            ("123456789", 0xcbf4_3926),
            ("The quick brown fox jumps over the lazy dog", 0x414f_a339),
        ] {
            assert_eq!(crc32(text.as_bytes()), crc, "{text}");
        }
    }

    #[test]
    fn check_digits_are_big_endian_base62_padded_with_zeros() {
        // The CRC-32 of nothing is 0; that of 123456789 is 3421780262 = 3*62^5 + 45*62^4 + 35*62^3 + ...
        assert_eq!(&check_digits(b""), b"000000");
        let digits = check_digits(b"123456789");
        let value = digits
            .iter()
            .fold(0u64, |sum, digit| sum * 62 + ALPHABET.iter().position(|a| a == digit).unwrap() as u64);
        assert_eq!(value, 0xcbf4_3926);
    }

    #[test]
    fn a_whole_key_is_taken() {
        assert!(check(&sample()));
        assert_eq!(sample().len(), 64);
        assert_eq!(display_prefix(&sample()), Some("sk-lt-A1b2C3d4"));
    }

    #[test]
    fn a_key_cut_anywhere_or_lengthened_is_refused() {
        let whole = sample();
        for len in 0..whole.len() {
            assert!(!check(&whole[..len]), "{len}");
        }
        assert!(!check(&[whole, vec![b'0']].concat()));
    }

    #[test]
    fn a_change_of_any_one_byte_is_refused() {
        for at in 0..KEY_BYTES {
            for byte in (0..=255).filter(|byte| *byte != sample()[at]) {
                let mut bad = sample();
                bad[at] = byte;
                assert!(!check(&bad), "{at} {byte}");
            }
        }
    }

    #[test]
    fn neighbours_that_changed_places_are_refused() {
        let whole = key("A1b2C3d4", "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg");
        for at in 0..KEY_BYTES - 1 {
            let mut bad = whole.clone();
            bad.swap(at, at + 1);
            assert!(bad == whole || !check(&bad), "{at}");
        }
    }

    #[test]
    fn a_right_check_does_not_make_up_for_a_wrong_form() {
        let secret = "x".repeat(SECRET_BYTES);
        for (public, secret) in
            [("A1b2C3d!", secret.as_str()), ("A1b2C3d4", &format!("{}-", "x".repeat(42))), ("A1b2C3", "xx")]
        {
            assert!(!check(&key(public, secret)), "{public} {secret}");
        }
    }

    #[test]
    fn data_keys_and_admin_keys_are_never_taken_for_each_other() {
        let mut admin = [ADMIN_PREFIX, "y".repeat(SECRET_BYTES).as_bytes()].concat();
        admin.extend(check_digits(&admin.clone()));
        assert!(check_admin(&admin) && !check(&admin));
        assert!(check(&sample()) && !check_admin(&sample()));
    }
}
