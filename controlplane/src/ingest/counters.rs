//! What ingest counts, for the operator.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of this process.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) altered: AtomicU64,
}

impl Counters {
    /// Name, kind, help and value of each.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> {
        [
            ("liutong_ingest_batches_total", "counter", "Batches that are stored.", &self.batches),
            ("liutong_ingest_rows_total", "counter", "Usage events that are stored.", &self.rows),
            (
                "liutong_ingest_refused_total",
                "counter",
                "Usage events that can never be stored and were given back.",
                &self.refused,
            ),
            (
                "liutong_ingest_resent_total",
                "counter",
                "Batches that were not sent for the first time.",
                &self.resent,
            ),
            (
                "liutong_ingest_failures_total",
                "counter",
                "Attempts at storing a batch that failed.",
                &self.failures,
            ),
            ("liutong_ingest_waiting", "gauge", "Batches that wait to be tried again.", &self.waiting),
            (
                "liutong_ingest_table_altered",
                "gauge",
                "Batches that wait because the table is not as it should be: see the log.",
                &self.altered,
            ),
        ]
        .map(|(name, kind, help, value)| (name, kind, help, value.load(Relaxed)))
        .into_iter()
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}

/// Counts up for as long as it lives.
pub(super) struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    pub(super) fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
