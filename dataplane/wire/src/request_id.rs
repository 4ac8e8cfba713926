//! The number behind `x-request-id`: an event's (`boot`, `seq`) under a keyed permutation.
//!
//! Clients see `req_` and 32 hex digits, which say nothing about how many requests there are. Whoever has the
//! registry's key finds the usage event again. AES-128 of one block is the permutation; it is used as nothing
//! more. A request that was never admitted gets a number too (`EventSeq::not_admitted`); no event has it.

use aes::Aes128;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

use crate::id::{BootId, EventSeq};

/// The length of the text.
pub const REQUEST_ID_BYTES: usize = 36;

/// Turns event numbers into request ids and back.
#[derive(Clone)]
pub struct RequestIds {
    cipher: Aes128,
}

impl RequestIds {
    /// Uses the registry's key.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self { cipher: Aes128::new(&Array::from(*key)) }
    }

    /// The text of an exchange's id.
    #[must_use]
    pub fn text(&self, boot: BootId, seq: EventSeq) -> [u8; REQUEST_ID_BYTES] {
        let mut plain = [0; 16];
        plain[..8].copy_from_slice(&boot.0.to_le_bytes());
        plain[8..].copy_from_slice(&seq.0.to_le_bytes());
        let mut block = Array::from(plain);
        self.cipher.encrypt_block(&mut block);
        let mut out = *b"req_00000000000000000000000000000000";
        for (pair, byte) in out[4..].chunks_exact_mut(2).zip(block) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        out
    }

    /// The event that a text stands for; `None` where it is not of the form. Any well-formed text stands for
    /// some numbers: whether an event has them is for the table to say.
    #[must_use]
    pub fn event(&self, text: &str) -> Option<(BootId, EventSeq)> {
        let hex = text.strip_prefix("req_")?.as_bytes();
        let mut block = [0; 16];
        if hex.len() != 32 {
            return None;
        }
        for (byte, pair) in block.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        let mut block = Array::from(block);
        self.cipher.decrypt_block(&mut block);
        let (boot, seq) = block.split_at(8);
        let number = |half: &[u8]| half.try_into().ok().map(u64::from_le_bytes);
        Some((BootId(number(boot)?), EventSeq(number(seq)?)))
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_leads_back_to_its_event() {
        let ids = RequestIds::new(&[7; 16]);
        let (boot, seq) = (BootId(0x1234), EventSeq::admitted(1, 77));
        let text = ids.text(boot, seq);
        let text = std::str::from_utf8(&text).unwrap();
        assert_eq!(ids.event(text), Some((boot, seq)));
        assert_ne!(RequestIds::new(&[8; 16]).event(text), Some((boot, seq)));
    }

    #[test]
    fn text_of_another_form_is_no_request_id() {
        let ids = RequestIds::new(&[7; 16]);
        for bad in
            ["", "req_", "req_zz", &format!("req_{}", "A".repeat(32)), &format!("xxx_{}", "a".repeat(32))]
        {
            assert_eq!(ids.event(bad), None, "{bad}");
        }
    }
}
