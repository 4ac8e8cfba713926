//! How long the spool thread sleeps between two rounds.
//!
//! Eight milliseconds while there is anything to write or to sync. When nothing happens it sleeps longer each
//! time, up to the interval of syncs: an exchange that comes then waits in its slot for what a record would
//! wait for its sync, so it is on the disk no later.
//!
//! Invariant: workers that begin while it sleeps at its longest settle at most half of their slots before it
//! wakes.

use std::time::Duration;

/// While there is something to do.
const BUSY: Duration = Duration::from_millis(8);
/// The longest, with slots enough.
const IDLE_MAX: Duration = super::thread::SYNC_INTERVAL;
/// More exchanges than a worker can settle in a millisecond.
const EXCHANGES_PER_MS: usize = 200;

/// What a round of the spool thread has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It took as much as it may: more is waiting.
    FullRound,
    /// It took something, or something waits for a sync.
    Work,
    /// Nothing.
    Nothing,
}

/// The sleep, which grows while nothing happens.
#[derive(Debug)]
pub(super) struct Pause {
    longest: Duration,
    last: Duration,
}

impl Pause {
    /// For workers of so many slots each.
    pub(super) fn new(slots_per_worker: usize) -> Self {
        let half_ms = slots_per_worker / 2 / EXCHANGES_PER_MS;
        let longest = Duration::from_millis(half_ms as u64).clamp(BUSY, IDLE_MAX);
        Self { longest, last: BUSY }
    }

    /// How long to sleep now.
    pub(super) fn next(&mut self, after: After) -> Duration {
        self.last = match after {
            After::FullRound => return Duration::ZERO,
            After::Work => BUSY,
            After::Nothing => (self.last * 2).min(self.longest),
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_nothing_happens_and_begins_again_with_the_first_event() {
        let mut pause = Pause::new(65_536);
        let ms = [After::Nothing; 4].map(|after| pause.next(after).as_millis());
        assert_eq!(ms, [16, 32, 50, 50]);
        assert_eq!(pause.next(After::FullRound), Duration::ZERO);
        assert_eq!(pause.next(After::Work), BUSY);
        assert_eq!(pause.next(After::Nothing), 2 * BUSY);
    }

    #[test]
    fn slots_last_for_its_longest_sleep() {
        for (slots, longest_ms) in [(0, 8), (1024, 8), (4096, 10), (8192, 20), (32_768, 50), (1 << 20, 50)] {
            assert_eq!(Pause::new(slots).longest.as_millis(), longest_ms, "{slots} slots");
        }
    }
}
