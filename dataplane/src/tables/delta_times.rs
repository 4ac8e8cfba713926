//! How long deltas take: until workers see them, and until they survive a power cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sums of microseconds; one thread adds to them.
#[derive(Default)]
pub struct DeltaTimes {
    deltas: AtomicU64,
    apply_us: AtomicU64,
    durable_us: AtomicU64,
}

impl DeltaTimes {
    /// Counts a delta: how long until it was applied, and until it was durable, both from its arrival.
    pub fn add(&self, applied: Duration, durable: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.deltas.fetch_add(1, Ordering::Relaxed);
        self.apply_us.fetch_add(micros(applied), Ordering::Relaxed);
        self.durable_us.fetch_add(micros(durable), Ordering::Relaxed);
    }

    /// Name, help and value of each counter.
    pub fn each(&self) -> [(&'static str, &'static str, u64); 3] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("liutong_deltas_total", "Changes of the registry applied.", of(&self.deltas)),
            (
                "liutong_delta_apply_microseconds_total",
                "From the arrival of changes until requests are judged by them.",
                of(&self.apply_us),
            ),
            (
                "liutong_delta_durable_microseconds_total",
                "From the arrival of changes until they are on disk.",
                of(&self.durable_us),
            ),
        ]
    }
}
