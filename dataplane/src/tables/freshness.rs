//! How long ago the tables were known to be the control plane's.
//!
//! A data plane serves on while it is cut off, for as long as it takes, unless `control.stale_limit_seconds`
//! says otherwise: then it refuses everything once its tables are older than that, since keys may have been
//! revoked meanwhile. Every ping confirms them: the control plane sends it once it has sent all that was
//! committed before. Neither a delta nor a snapshot does, since more may be on its way.
//!
//! The age goes on over a restart (`TableStore::note_current`); a step of the system's clock does not change
//! it while the process runs.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::log::{self, Entry};

/// The tables' age, and whether it is too much.
pub struct Freshness {
    limit: Option<Duration>,
    began: Instant,
    /// When they were confirmed, in milliseconds since `began`; negative before it.
    confirmed_ms: AtomicI64,
    /// The confirmation that was found to be too old. A newer one makes the tables fresh whatever a look that
    /// began before it comes to.
    stale_ms: AtomicI64,
}

/// No confirmation.
const NONE: i64 = i64::MAX;

impl Freshness {
    /// Tables confirmed now, which may become `limit` old.
    #[must_use]
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, began: Instant::now(), confirmed_ms: AtomicI64::new(0), stale_ms: AtomicI64::new(NONE) }
    }

    /// The tables are the control plane's now.
    pub fn confirm(&self) {
        self.confirmed_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The tables were confirmed so long ago, by an earlier process.
    pub fn confirmed_before(&self, age: Duration) {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.confirmed_ms.store(self.now_ms().saturating_sub(age_ms), Ordering::Relaxed);
        self.look();
    }

    /// How old they are.
    pub fn age(&self) -> Duration {
        self.age_of(self.confirmed_ms.load(Ordering::Relaxed))
    }

    fn age_of(&self, confirmed_ms: i64) -> Duration {
        let age_ms = self.now_ms().saturating_sub(confirmed_ms);
        Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
    }

    /// Looks at the clock; workers do so at each sweep.
    pub fn look(&self) {
        self.judge(self.confirmed_ms.load(Ordering::Relaxed));
    }

    /// Looks at what was the last confirmation a moment ago.
    fn judge(&self, confirmed_ms: i64) {
        if let Some(limit) = self.limit
            && self.age_of(confirmed_ms) > limit
            && self.stale_ms.swap(confirmed_ms, Ordering::Relaxed) != confirmed_ms
        {
            log::log(&Entry::Stale(limit));
        }
    }

    /// Whether they were too old at the last look.
    pub fn is_stale(&self) -> bool {
        self.stale_ms.load(Ordering::Relaxed) == self.confirmed_ms.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn tables_older_than_the_limit_are_stale_until_they_are_confirmed() {
        let freshness = Freshness::new(Some(HOUR));
        freshness.confirmed_before(HOUR / 2);
        assert!(!freshness.is_stale() && freshness.age() >= HOUR / 2);
        freshness.confirmed_before(HOUR * 2);
        assert!(freshness.is_stale());
        freshness.look();
        assert!(freshness.is_stale(), "looking does not make them younger");
        freshness.confirm();
        assert!(!freshness.is_stale() && freshness.age() < HOUR);
    }

    #[test]
    fn a_confirmation_amid_a_look_is_not_undone_by_it() {
        let freshness = Freshness::new(Some(HOUR));
        freshness.confirmed_before(HOUR * 2);
        let seen = freshness.confirmed_ms.load(Ordering::Relaxed);
        freshness.confirm();
        freshness.judge(seen);
        assert!(!freshness.is_stale());
    }

    #[test]
    fn without_a_limit_nothing_is_stale() {
        let freshness = Freshness::new(None);
        freshness.confirmed_before(HOUR * 100_000);
        assert!(!freshness.is_stale() && freshness.age() > HOUR);
    }
}
