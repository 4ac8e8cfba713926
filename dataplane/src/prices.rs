//! Features left out to learn what they cost.
//!
//! Only the program `liutong-dataplane-priced` can leave anything out, which the cargo feature `prices`
//! builds for the bench: without that feature `without` is a constant and nothing of this is in a program. It
//! is no gateway for use: it lets anybody in where keys are not checked.

/// A feature with a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The key's hash and look-up; every key then is that of one caller who may use everything.
    KeyCheck,
    /// The edits of the request's body.
    Rewrite,
    /// Reading the usage out of answers.
    Metering,
    /// The slot and the usage event of an exchange.
    UsageEvents,
}

/// Whether `feature` is left out.
#[cfg(not(feature = "prices"))]
#[inline]
#[must_use]
pub const fn without(_: Feature) -> bool {
    false
}

#[cfg(feature = "prices")]
pub use self::priced::{allow, without};

#[cfg(feature = "prices")]
mod priced {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::Feature;

    /// Only the program for the bench sets it: others leave nothing out, even where built with `prices`.
    static ALLOWED: AtomicBool = AtomicBool::new(false);

    /// Lets this process leave features out; before it serves.
    pub fn allow() {
        ALLOWED.store(true, Ordering::Relaxed);
    }

    /// A bit for each feature.
    static LEFT_OUT: LazyLock<u8> = LazyLock::new(|| {
        if !ALLOWED.load(Ordering::Relaxed) {
            return 0;
        }
        let names = std::env::var("LIUTONG_WITHOUT").unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        names.map(feature).fold(0, |bits, feature| bits | 1 << feature as u8)
    });

    fn feature(name: &str) -> Feature {
        match name {
            "key-check" => Feature::KeyCheck,
            "rewrite" => Feature::Rewrite,
            "metering" => Feature::Metering,
            "usage-events" => Feature::UsageEvents,
            _ => panic!("LIUTONG_WITHOUT: {name} is none of key-check, rewrite, metering, usage-events"),
        }
    }

    /// Whether `LIUTONG_WITHOUT` names `feature`.
    #[must_use]
    pub fn without(feature: Feature) -> bool {
        *LEFT_OUT & 1 << feature as u8 != 0
    }
}
