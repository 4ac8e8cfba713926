//! What clients saw: counts by status and label, latencies, and the tokens that answers told.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Deserialize;

/// Latencies are kept from 1 µs to this, in nanoseconds, with three digits.
pub(super) const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// What the clients saw under one label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelTotals {
    /// Complete responses.
    pub responses: u64,
    /// Those with status 200.
    pub ok: u64,
    /// Those that told their usage.
    pub with_usage: u64,
    /// Prompt tokens told.
    pub prompt_tokens: u64,
    /// Completion tokens told.
    pub completion_tokens: u64,
    /// Total tokens told.
    pub total_tokens: u64,
    /// Events of streams.
    pub events: u64,
}

/// What came of a plan.
#[derive(Debug, Clone)]
pub struct Report {
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole response: refused, reset, cut off.
    pub failures: u64,
    /// What the first of them was.
    pub first_failure: Option<String>,
    /// Connections made.
    pub connects: u64,
    /// Those of them that resumed a TLS session.
    pub resumed: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// Counts by label.
    pub labels: BTreeMap<String, LabelTotals>,
    /// Nanoseconds from sending (or from when it was due) to the last byte.
    pub latency: Histogram<u64>,
    /// Nanoseconds to the first byte of a body.
    pub first_byte: Histogram<u64>,
    /// Nanoseconds from when the upstream sent a stamped event to when it was here.
    pub event: Histogram<u64>,
}

impl Report {
    pub(super) fn empty() -> Self {
        let histogram = || Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3).expect("bounds are constant");
        Self {
            elapsed: Duration::ZERO,
            statuses: BTreeMap::new(),
            failures: 0,
            first_failure: None,
            connects: 0,
            resumed: 0,
            body_bytes: 0,
            labels: BTreeMap::new(),
            latency: histogram(),
            first_byte: histogram(),
            event: histogram(),
        }
    }

    /// Complete responses, whatever their status.
    pub fn responses(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Complete responses a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
        let responses = self.responses() as f64;
        responses / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Counts another's failures among these.
    pub(super) fn take_failures(&mut self, other: &Self) {
        self.failures += other.failures;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    pub(super) fn fail(&mut self, error: &std::io::Error) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| error.to_string());
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.elapsed = self.elapsed.max(other.elapsed);
        self.take_failures(&other);
        self.connects += other.connects;
        self.resumed += other.resumed;
        self.body_bytes += other.body_bytes;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (label, totals) in other.labels {
            self.labels.entry(label).or_default().add(&totals);
        }
        for (own, others) in [
            (&mut self.latency, other.latency),
            (&mut self.first_byte, other.first_byte),
            (&mut self.event, other.event),
        ] {
            own.add(others).expect("all histograms have the same bounds");
        }
    }
}

impl LabelTotals {
    fn add(&mut self, other: &Self) {
        self.responses += other.responses;
        self.ok += other.ok;
        self.with_usage += other.with_usage;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.total_tokens += other.total_tokens;
        self.events += other.events;
    }
}

/// The counts of a `usage` object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Completion tokens; embeddings have none.
    pub completion_tokens: u64,
    /// Their sum, as told.
    pub total_tokens: u64,
}

/// Finds the last `usage` that is an object in a body, plain or streamed.
pub fn last_usage(body: &[u8]) -> Option<Usage> {
    let name = br#""usage":"#;
    memchr::memmem::rfind_iter(body, name).find_map(|at| {
        let value = body[at + name.len()..].trim_ascii_start();
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Option<Usage>>();
        values.next()?.ok()?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_usage_that_is_an_object_counts() {
        let body = br#"data: {"usage":{"prompt_tokens":1}}

data: {"usage": {"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}

data: {"usage":null}"#;
        let usage = Usage { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 };
        assert_eq!(last_usage(body), Some(usage));
        assert_eq!(last_usage(br#"{"usage":null}"#), None);
    }
}
