//! The keys that clients send and that every subject with a key check knows.

use std::path::Path;

use anyhow::Context;
use load_tests::harness::System;

/// How many keys a subject knows at least.
const KNOWN: usize = 1000;
/// How many of a whole system's keys are sent: each is made by the command, one after the other.
const MADE: usize = 32;
/// How many invented keys are sent at most: each is a whole request in memory.
const SENT_MAX: usize = 10_000;
/// A key of the right form that nobody knows.
pub(crate) const UNKNOWN_KEY: &str = "sk-lt-Unknown0-kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk000000";

/// The keys of a run.
pub(crate) struct Keys {
    /// Those that clients send, in turn.
    pub(crate) sent: Vec<String>,
    /// All that the peers' lists have; those that are sent are among them.
    pub(crate) known: Vec<String>,
}

impl Keys {
    /// As many as a subject knows at least, made up here.
    pub(crate) fn invented() -> Self {
        Self::so_many(KNOWN)
    }

    /// Keys made up here; some of them are sent, from all over the list.
    pub(crate) fn so_many(count: usize) -> Self {
        let known: Vec<String> = (0..count).map(key).collect();
        let sent = known.iter().step_by(count.div_ceil(SENT_MAX)).cloned().collect();
        Self { sent, known }
    }

    /// Keys that a running system's registry made; the rest of the peers' lists is invented.
    pub(crate) fn of(system: &System) -> anyhow::Result<Self> {
        let application = "bench";
        system.try_cli(&["organization", "create", application])?;
        system.try_cli(&["team", "create", application, "--organization", application])?;
        system.try_cli(&["application", "create", application, "--team", application, "--models", "*"])?;
        let make = |_| {
            let made = system.try_cli(&["key", "create", "--application", application])?;
            let secret = made["secret"].as_str().context("key create prints no secret")?;
            Ok(secret.to_owned())
        };
        let sent = (0..MADE).map(make).collect::<anyhow::Result<Vec<_>>>()?;
        let known = sent.iter().cloned().chain((MADE..KNOWN).map(key)).collect();
        Ok(Self { sent, known })
    }
}

/// A well-formed key; `number` tells it from others.
fn key(number: usize) -> String {
    let text = format!("sk-lt-B{number:07}-{:0>43}", number * 7_919);
    let check = wire::key_format::check_digits(text.as_bytes());
    text + &String::from_utf8_lossy(&check)
}

/// Whether the whole system is built: beside this program, or where `LIUTONG_BIN_DIR` says.
pub(crate) fn whole_system_is_built() -> bool {
    let built = |name| load_tests::harness::binary(name).is_ok_and(|file| Path::new(&file).exists());
    built("liutong") && built("liutong-controlplane") && built("liutong-dataplane")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_keys_are_well_formed_and_all_different() {
        let keys = Keys::invented();
        assert!(keys.known.iter().all(|key| wire::key_format::check(key.as_bytes())));
        assert_eq!(keys.known.iter().collect::<std::collections::HashSet<_>>().len(), KNOWN);
        assert!(!keys.known.contains(&UNKNOWN_KEY.to_owned()));
        assert_eq!(keys.sent, keys.known);
        let many = Keys::so_many(25_000);
        assert_eq!((many.known.len(), many.sent.len()), (25_000, 8334));
        assert_eq!(many.sent.last(), Some(&many.known[24_999]));
    }
}
