//! Uses of keys that are refused though they are known (revoked, or over): counted here, told by `account`.
//!
//! A worker adds up what it refuses in a map of its own, and at each of its sweeps hands the map over by a
//! channel. What is counted costs a request that is accepted nothing, not a branch: all of it hangs on the
//! error. A key that is not known leaves nothing here, and of a request nothing but its minute.
//!
//! What there is no room for is not counted: more than `HELD_MAX` keys at once in a worker whose channel is
//! full. `liutong_refused_key_uses_total` has it all the same.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use wire::key_use::UseOf;

/// How many sums a worker holds while nobody takes them over.
const HELD_MAX: usize = 1024;
/// How many maps wait to be taken over.
const WAITING_MAX: usize = 64;

/// Sums.
pub type Uses = BTreeMap<UseOf, u64>;

/// Where workers hand over what they counted, and where it comes out.
#[must_use]
pub fn channel() -> (Sender<Uses>, Receiver<Uses>) {
    bounded(WAITING_MAX)
}

/// What a worker has counted and not handed over yet.
pub struct RefusedUses {
    held: RefCell<Uses>,
    out: Sender<Uses>,
}

impl RefusedUses {
    /// Nothing yet; `out` is where it goes.
    #[must_use]
    pub fn new(out: Sender<Uses>) -> Self {
        Self { held: RefCell::default(), out }
    }

    /// Counts a use.
    pub fn note(&self, of: UseOf) {
        let mut held = self.held.borrow_mut();
        if held.len() < HELD_MAX || held.contains_key(&of) {
            *held.entry(of).or_default() += 1;
        }
    }

    /// Hands over what was counted since the last time; where there is no room it stays.
    pub fn hand_over(&self) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) =
            self.out.try_send(std::mem::take(&mut held))
        {
            *held = back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::id::KeyDigest;
    use wire::key_use::Reason;

    fn of(key: usize) -> UseOf {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&key.to_le_bytes());
        UseOf { minute: 1, digest: KeyDigest(digest), reason: Reason::Revoked }
    }

    #[test]
    fn what_nobody_takes_over_stays_and_is_bounded() {
        let (out, taken) = bounded(1);
        let uses = RefusedUses::new(out);
        uses.note(of(0));
        uses.hand_over();
        for key in 0..HELD_MAX + 5 {
            uses.note(of(key));
            uses.hand_over();
        }
        uses.note(of(7));
        assert_eq!(taken.recv().unwrap(), Uses::from([(of(0), 1)]));
        uses.hand_over();
        let rest = taken.recv().unwrap();
        assert_eq!((rest.len(), rest[&of(7)], rest[&of(8)]), (HELD_MAX, 2, 1));
        uses.hand_over();
        assert!(taken.try_recv().is_err(), "nothing was counted since");
    }
}
