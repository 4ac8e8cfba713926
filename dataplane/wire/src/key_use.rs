//! Uses of keys that a data plane refuses though it knows them: revoked ones, and those whose time is over.
//! It is how a leak is noticed.
//!
//! ```text
//! key use:  digest [32] | minute u32 | reason u8 | uses u64
//! ```
//!
//! `uses` is the sum of what this run of the data plane counted in that minute, so that a sum which is told
//! twice, or told again when it has grown, stands for itself: the largest counts.

use crate::codec::{DecodeError, Reader, Write};
use crate::id::KeyDigest;

/// How many of them one frame has at most.
pub const KEY_USES_MAX: usize = 1024;

/// Why a known key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It was revoked.
    Revoked = 1,
    /// Its time is over, or that of giving way to its successor.
    Expired = 2,
}

impl Reason {
    /// The word for it, in metrics, in ClickHouse and in the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UseOf {
    /// Unix time in minutes.
    pub minute: u32,
    /// SHA-256 of the key.
    pub digest: KeyDigest,
    /// Why it was refused.
    pub reason: Reason,
}

/// A sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// Of what.
    pub of: UseOf,
    /// How many requests were refused.
    pub uses: u64,
}

pub(crate) fn encode(uses: &[KeyUse], out: &mut Vec<u8>) {
    for KeyUse { of, uses } in uses {
        out.extend_from_slice(&of.digest.0);
        out.put_u32(of.minute);
        out.put_u8(of.reason as u8);
        out.put_u64(*uses);
    }
}

/// Reads all that there are; one whose reason is a newer version's is passed over.
pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Vec<KeyUse>, DecodeError> {
    let mut all = Vec::new();
    while !r.is_empty() {
        let (digest, minute) = (KeyDigest(r.array("digest")?), r.u32("minute")?);
        let reason = match r.u8("reason")? {
            1 => Some(Reason::Revoked),
            2 => Some(Reason::Expired),
            _ => None,
        };
        let uses = r.u64("uses")?;
        all.extend(reason.map(|reason| KeyUse { of: UseOf { minute, digest, reason }, uses }));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(reason: Reason) -> KeyUse {
        KeyUse { of: UseOf { minute: 7, digest: KeyDigest([3; 32]), reason }, uses: 5 }
    }

    #[test]
    fn uses_read_back_and_a_newer_reason_is_passed_over() {
        let uses = [one(Reason::Revoked), one(Reason::Expired)];
        let mut bytes = Vec::new();
        encode(&uses, &mut bytes);
        assert_eq!(decode(&mut Reader::new(&bytes)).unwrap(), uses);
        assert!(decode(&mut Reader::new(&bytes[..bytes.len() - 1])).is_err());
        bytes[36] = 77;
        assert_eq!(decode(&mut Reader::new(&bytes)).unwrap(), uses[1..]);
    }
}
