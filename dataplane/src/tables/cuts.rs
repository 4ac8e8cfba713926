//! Keys that were revoked with the order to end what is under way with them.
//!
//! A request pays nothing for it but one store: its connection's entry in the worker's sweep carries the
//! key's mark. The sweep, every 50 ms, compares one number, and looks at the marks only when that moved.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use wire::id::KeyDigest;

/// The first eight bytes of a key's digest; 0 is no key. Two keys of one mark do not occur: it is SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyMark(u64);

impl KeyMark {
    /// No key.
    pub const NONE: Self = Self(0);
}

impl From<&KeyDigest> for KeyMark {
    fn from(digest: &KeyDigest) -> Self {
        Self(u64::from_le_bytes(*digest.0.first_chunk().expect("a digest has 32 bytes")))
    }
}

/// The marks of all such keys of this process's life; a revoked key never comes back.
#[derive(Default)]
pub struct Cuts {
    marks: DashMap<KeyMark, ()>,
    times: AtomicU64,
}

impl Cuts {
    /// Adds keys. Not before they are refused: what is admitted afterwards would escape.
    pub(super) fn add(&self, digests: &[KeyDigest]) {
        for digest in digests {
            self.marks.insert(digest.into(), ());
        }
        self.times.fetch_add(1, Ordering::Release);
    }

    /// Moves with each addition.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    /// Whether what is under way with this key is to end.
    pub fn has(&self, mark: KeyMark) -> bool {
        self.marks.contains_key(&mark)
    }
}
