//! Identifiers and counters, one type for each, so that a position can't be taken for a generation.
//!
//! Random ids (`NodeId`, `BootId`, `RegistryId`) are 64 random bits and are written as 16 lower-case hex
//! digits everywhere people or ClickHouse read them.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! random {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl $name {
            /// Reads the 16 hex digits that `Display` writes.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                hex.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
            }
        }
    };
}

random! {
    /// A data plane's data directory: made once, kept in it.
    NodeId
}
random! {
    /// One run of a data plane process; also names the spool which that process owns.
    BootId
}
random! {
    /// One history of the registry. A restore from a backup begins another.
    RegistryId
}

number! {
    /// The number of a change of the registry; every change takes the next one.
    Generation(u64)
}
number! {
    /// Where a usage event stands in a spool; contiguous from 0.
    Position(u64)
}
number! {
    /// The number of a batch within its spool; contiguous from 1.
    BatchSeq(u64)
}
number! {
    /// Who an exchange is billed to: a row that never changes (organization, team, application, key, plan,
    /// cost centre).
    AttributionId(u64)
}
number! {
    /// A key's number in the registry. Says nothing about the secret.
    KeyId(u64)
}
number! {
    /// An application's number in the registry.
    ApplicationId(u64)
}
number! {
    /// An alias's number in the registry, never reused; 0 is "no alias that we know".
    AliasId(u32)
}
number! {
    /// A deployment's number in the registry, never reused; 0 is "none was chosen".
    DeploymentId(u32)
}

/// The number of an exchange within one boot: the worker's index in the high 16 bits, its count in the low
/// 48.
///
/// The highest bit marks numbers that were handed to requests which were never admitted; no usage event
/// carries one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventSeq(pub u64);

impl EventSeq {
    const COUNT_BITS: u32 = 48;
    const NOT_ADMITTED: u64 = 1 << 63;

    /// The `count`th exchange that `worker` admitted.
    #[must_use]
    pub fn admitted(worker: u16, count: u64) -> Self {
        Self(u64::from(worker & 0x7fff) << Self::COUNT_BITS | count & ((1 << Self::COUNT_BITS) - 1))
    }

    /// The `count`th request that `worker` answered without admitting it.
    #[must_use]
    pub fn not_admitted(worker: u16, count: u64) -> Self {
        Self(Self::admitted(worker, count).0 | Self::NOT_ADMITTED)
    }

    /// The worker that gave the number.
    #[must_use]
    pub fn worker(self) -> u16 {
        // 15 bits are left.
        u16::try_from((self.0 & !Self::NOT_ADMITTED) >> Self::COUNT_BITS).unwrap_or(u16::MAX)
    }

    /// Its count among those of its worker.
    #[must_use]
    pub fn count(self) -> u64 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }

    /// Whether an exchange was admitted under this number, so that a usage event has it.
    #[must_use]
    pub fn is_admitted(self) -> bool {
        self.0 & Self::NOT_ADMITTED == 0
    }
}

/// SHA-256 of a whole API key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// Reads 64 hex digits, in lower case.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut digest = [0; 32];
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(digest))
    }
}

/// 64 hex digits.
impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_read_back_what_they_write() {
        let id = BootId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "00abcdef01234567");
        assert_eq!(BootId::parse(&id.to_string()), Some(id));
        for bad in ["", "00abcdef0123456", "00abcdef012345678", "00ABCDEF01234567", "+0abcdef01234567"] {
            assert_eq!(BootId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn digests_read_back_what_they_write() {
        let digest = KeyDigest(std::array::from_fn(|at| u8::try_from(at * 7).unwrap()));
        assert_eq!(KeyDigest::parse(&digest.to_string()), Some(digest));
        for bad in ["", &digest.to_string()[1..], &digest.to_string().to_uppercase(), &"g".repeat(64)] {
            assert_eq!(KeyDigest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_of_admitted_and_refused_requests_never_meet() {
        assert!(EventSeq::admitted(3, 9).is_admitted());
        assert!(!EventSeq::not_admitted(3, 9).is_admitted());
        assert!(EventSeq::admitted(u16::MAX, u64::MAX).is_admitted());
        assert_ne!(EventSeq::admitted(1, 5), EventSeq::admitted(2, 5));
    }
}
