//! Slowing those who try credentials that are none.
//!
//! A credential has 256 random bits, so nobody guesses one; what is kept small is the work that trying makes.
//! Answers to failures leave one after the other, with a pause between them; the more of them there are, the
//! longer each waits. A failure that would wait too long is told to come back at once, and takes no place.
//! Nothing is remembered but when the next answer may leave: no addresses, and nobody is locked out, since a
//! credential that holds is found before any of this.
//!
//! Invariant: at most `WAIT_MAX / PAUSE` failures wait.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two answers to failures.
const PAUSE: Duration = Duration::from_millis(20);
/// How many answers may leave without a pause after a time without failures.
const AT_ONCE: u32 = 10;
/// The longest that a failure waits.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// There have been so many failures that this one is not even told what it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// The failures of this process.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// When the answer to the next failure leaves.
    next: Mutex<Option<Instant>>,
    failures: AtomicU64,
    turned_away: AtomicU64,
}

impl Throttle {
    /// Counts a failure, and waits for its turn to be answered.
    pub(super) async fn failed(&self) -> Result<(), TooMany> {
        self.failures.fetch_add(1, Relaxed);
        let at = self.place(Instant::now()).inspect_err(|_| {
            self.turned_away.fetch_add(1, Relaxed);
        })?;
        tokio::time::sleep_until(at).await;
        Ok(())
    }

    /// When the answer to a failure leaves that came now.
    fn place(&self, now: Instant) -> Result<Instant, TooMany> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // A place is `PAUSE` after the one before, and the first ones of a burst lie in the past.
        let earliest = now.checked_sub(PAUSE * (AT_ONCE - 1)).unwrap_or(now);
        let place = next.map_or(earliest, |next| next.max(earliest));
        if place > now + WAIT_MAX {
            return Err(TooMany);
        }
        *next = Some(place + PAUSE);
        Ok(place)
    }

    /// Name, help and value of each counter.
    pub(super) fn counters(&self) -> [(&'static str, &'static str, u64); 2] {
        [
            (
                "liutong_admin_credential_failures_total",
                "Calls of the admin API whose credential is no administrator's.",
                self.failures.load(Relaxed),
            ),
            (
                "liutong_admin_credential_turned_away_total",
                "Of those, calls that were answered 429, as too many waited.",
                self.turned_away.load(Relaxed),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(throttle: &Throttle, now: Instant, count: usize) -> Vec<Result<Duration, TooMany>> {
        let wait = |_| throttle.place(now).map(|at| at.saturating_duration_since(now));
        (0..count).map(wait).collect()
    }

    #[test]
    fn the_more_failures_there_are_the_longer_each_waits_up_to_a_bound() {
        let (throttle, now) = (Throttle::default(), Instant::now() + Duration::from_mins(1));
        let all = waits(&throttle, now, 200);
        assert!(all[..10].iter().all(|wait| *wait == Ok(Duration::ZERO)), "{all:?}");
        assert_eq!(all[10..13], [Ok(PAUSE), Ok(PAUSE * 2), Ok(PAUSE * 3)]);
        let most = all.iter().flatten().max().unwrap();
        assert_eq!(*most, WAIT_MAX);
        let waiting = all.iter().flatten().filter(|wait| !wait.is_zero()).count();
        assert_eq!(waiting, 50, "WAIT_MAX / PAUSE");
        assert!(all[60..].iter().all(|wait| *wait == Err(TooMany)), "{all:?}");
    }

    #[test]
    fn who_is_turned_away_takes_no_place_and_a_quiet_time_makes_it_good() {
        let (throttle, now) = (Throttle::default(), Instant::now() + Duration::from_mins(1));
        waits(&throttle, now, 1000);
        assert_eq!(waits(&throttle, now + PAUSE, 2), [Ok(WAIT_MAX), Err(TooMany)]);
        let later = now + WAIT_MAX + PAUSE * 12;
        assert_eq!(waits(&throttle, later, 11)[9..], [Ok(Duration::ZERO), Ok(PAUSE)]);
    }
}
