//! Secrets within a process: how they are held, where they may come from, and what keeps them inside.
//!
//! Both planes and the command use it, so that there is one type to look for where a secret might get out.
//!
//! Invariants:
//!
//!   * a `Secret` is wiped when it is dropped, prints as nothing, and is compared in constant time
//!   * no error repeats what was written where a place belongs: it may be the secret itself

/// Messages of the TOML parser, without the values that they repeat.
mod message;
/// Where a secret is.
mod source;

use std::fmt;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use wire::id::KeyDigest;
use zeroize::Zeroizing;

pub use message::without_values;
pub use source::{Source, SourceError, read_private};

/// A text that nobody but its user may see. Wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes charge of a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that shows or sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the text: what may be kept of it.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// Keeps this process's memory out of core dumps, and away from debuggers of the same user. Its children
/// write no core dumps either.
pub fn keep_memory_inside() -> std::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(..) Some(Secret(..))");
    }

    #[test]
    fn secrets_are_equal_when_their_texts_are() {
        let secret = |text: &str| Secret::new(text.to_owned());
        assert_eq!(secret("same"), secret("same"));
        assert_ne!(secret("same"), secret("sama"));
        assert_ne!(secret("same"), secret("same again"));
    }
}
