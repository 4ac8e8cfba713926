//! Making of keys: random secrets and their digests.
//!
//! The form is `wire::key_format`'s. A secret has 43 base62 digits drawn evenly from the kernel's generator:
//! 256 bits, which is why an unsalted SHA-256 is enough to keep. The secret itself exists once, in the answer
//! that shows it.

use sha2::{Digest, Sha256};
use thiserror::Error;
use wire::id::KeyDigest;
use wire::key_format::{self, ADMIN_PREFIX, ALPHABET, PREFIX, PUBLIC_ID_BYTES, SECRET_BYTES};
use zeroize::Zeroizing;

pub use secret::Secret;

/// The kernel gave no random bytes.
#[derive(Debug, Error)]
#[error("the kernel gave no random bytes: {0}")]
pub struct RandomError(#[from] getrandom::Error);

/// SHA-256 of a whole key.
#[must_use]
pub fn digest(key: &[u8]) -> KeyDigest {
    KeyDigest(Sha256::digest(key).into())
}

/// A new data key: its public id, and the whole.
pub fn new_key() -> Result<(String, Secret), RandomError> {
    let public_id = digits(PUBLIC_ID_BYTES)?;
    let mut text = Zeroizing::new(String::with_capacity(key_format::KEY_BYTES));
    text.push_str(std::str::from_utf8(PREFIX).expect("the prefix is ASCII"));
    text.push_str(&public_id);
    text.push('-');
    Ok((public_id.to_string(), finish(text)?))
}

/// A new admin key.
pub fn new_admin_key() -> Result<Secret, RandomError> {
    let mut text = Zeroizing::new(String::with_capacity(key_format::ADMIN_KEY_BYTES));
    text.push_str(std::str::from_utf8(ADMIN_PREFIX).expect("the prefix is ASCII"));
    finish(text)
}

/// Base62 digits, each equally likely.
pub fn digits(len: usize) -> Result<Zeroizing<String>, RandomError> {
    let mut text = Zeroizing::new(String::with_capacity(len));
    let mut random = Zeroizing::new([0u8; 64]);
    while text.len() < len {
        getrandom::fill(&mut random[..])?;
        // 248 is 4 * 62: bytes from there on would make the first digits likelier.
        let even = random.iter().filter(|byte| **byte < 248).take(len - text.len());
        for byte in even {
            text.push(char::from(ALPHABET[usize::from(byte % 62)]));
        }
    }
    Ok(text)
}

/// A random number, for ids.
pub fn random_u64() -> Result<u64, RandomError> {
    Ok(u64::from_le_bytes(random()?))
}

/// Random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn finish(mut text: Zeroizing<String>) -> Result<Secret, RandomError> {
    text.push_str(&digits(SECRET_BYTES)?);
    let check = key_format::check_digits(text.as_bytes());
    text.push_str(std::str::from_utf8(&check).expect("base62 is ASCII"));
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_have_the_form_that_the_data_plane_checks() {
        for _ in 0..1000 {
            let (public_id, key) = new_key().unwrap();
            assert!(key_format::check(key.reveal().as_bytes()));
            assert_eq!(
                key_format::display_prefix(key.reveal().as_bytes()),
                Some(format!("sk-lt-{public_id}").as_str())
            );
            assert!(key_format::check_admin(new_admin_key().unwrap().reveal().as_bytes()));
        }
    }

    #[test]
    fn every_digit_is_about_as_likely_as_any_other() {
        let text = digits(62_000).unwrap();
        for digit in ALPHABET {
            let count = text.bytes().filter(|byte| byte == digit).count();
            // 1000 is expected, the standard deviation is 32.
            assert!((750..1250).contains(&count), "{} {count}", char::from(*digit));
        }
    }

    #[test]
    fn a_digest_is_sha_256_of_the_whole_text() {
        let hex: String = digest(b"abc").0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
