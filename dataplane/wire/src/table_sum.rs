//! A sum over the entries of the tables: the same wherever the same entries are, whatever order they came in.
//!
//! Each entry is hashed by itself, and the hashes are added up modulo 2^64, so that whoever holds the tables
//! takes an entry that changes out of the sum and puts it in again. It is to find faults of our own, not
//! a liar: FNV-1a by words, mixed once more at the end. Settings and the numbers of keys, which data planes
//! do not keep, are not in it.

use crate::codec::Write as _;
use crate::id::{ApplicationId, AttributionId, KeyDigest};
use crate::table::{Allow, Application, Change, encode_allow};

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The sum; 0 of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSum(pub u64);

impl TableSum {
    /// Adds an entry's hash.
    pub fn add(&mut self, hash: u64) {
        self.0 = self.0.wrapping_add(hash);
    }

    /// Takes an entry's hash out again.
    pub fn remove(&mut self, hash: u64) {
        self.0 = self.0.wrapping_sub(hash);
    }
}

impl std::fmt::Display for TableSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The hash of a key.
#[must_use]
pub fn key(
    digest: &KeyDigest,
    (application, attribution): (ApplicationId, AttributionId),
    not_after_ms: u64,
    allow: Option<&Allow>,
) -> u64 {
    // Longer for keys with lists of their own; else this is all of it.
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&digest.0);
    bytes.put_u64(application.0);
    bytes.put_u64(attribution.0);
    bytes.put_u64(not_after_ms);
    encode_allow(allow, &mut bytes);
    hash(1, &bytes)
}

/// The hash of an application.
#[must_use]
pub fn application(application: &Application) -> u64 {
    let mut bytes = Vec::with_capacity(64);
    bytes.put_u64(application.id.0);
    encode_allow(Some(&application.allow), &mut bytes);
    hash(2, &bytes)
}

/// The hash of an entry; `None` of what is in no sum, and of what is gone.
#[must_use]
pub fn of(change: &Change) -> Option<u64> {
    match change {
        Change::Key(it) => {
            Some(key(&it.digest, (it.application, it.attribution), it.not_after_ms, it.allow.as_ref()))
        }
        Change::Application(it) => Some(application(it)),
        Change::Alias(_) | Change::Deployment(_) => {
            let mut bytes = Vec::with_capacity(256);
            change.encode(&mut bytes);
            Some(hash(3, &bytes))
        }
        Change::Settings(_)
        | Change::NoKey(_)
        | Change::NoApplication(_)
        | Change::NoAlias(_)
        | Change::NoDeployment(_) => None,
    }
}

fn hash(kind: u64, bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FNV_PRIME).rotate_left(23);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // With the length, so that zeros at the end are told from none.
    let begin = FNV_BASIS ^ kind ^ (bytes.len() as u64) << 8;
    let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
    let mut hash = words.fold(begin, fnv);
    for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
        hash = (hash ^ hash >> shift).wrapping_mul(factor);
    }
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{AliasId, KeyId};
    use crate::table::Key;

    fn example(number: u8) -> Key {
        Key {
            digest: KeyDigest([number; 32]),
            id: KeyId(1),
            application: ApplicationId(2),
            attribution: AttributionId(3),
            not_after_ms: 4,
            allow: None,
        }
    }

    #[test]
    fn every_member_of_a_key_but_its_number_is_in_its_hash() {
        let hash = |key: Key| of(&Change::Key(key)).unwrap();
        let same = hash(example(1));
        assert_eq!(hash(Key { id: KeyId(9), ..example(1) }), same);
        let others = [
            example(2),
            Key { application: ApplicationId(9), ..example(1) },
            Key { attribution: AttributionId(9), ..example(1) },
            Key { not_after_ms: 0, ..example(1) },
            Key { allow: Some(Allow::Nothing), ..example(1) },
            Key { allow: Some(Allow::Only(vec![AliasId(1)])), ..example(1) },
        ];
        let mut hashes: Vec<u64> = others.into_iter().map(hash).chain([same]).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 7);
    }

    #[test]
    fn the_order_does_not_matter_and_what_is_taken_out_leaves_nothing() {
        let hashes: Vec<u64> = (0..9).map(|n| of(&Change::Key(example(n))).unwrap()).collect();
        let (mut one, mut two) = (TableSum::default(), TableSum::default());
        hashes.iter().for_each(|hash| one.add(*hash));
        hashes.iter().rev().for_each(|hash| two.add(*hash));
        assert_eq!(one, two);
        hashes.iter().for_each(|hash| one.remove(*hash));
        assert_eq!(one, TableSum::default());
    }
}
