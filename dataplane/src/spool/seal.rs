//! When a range of events is sealed, and into which batches: one for each UTC day in it.
//!
//! A range holds at most as many events as a batch may, and its first event waits at most the sealing
//! interval.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::event::UsageEvent;
use wire::id::{BatchSeq, Position};
use wire::record::Seal;

/// The events that are written and in no batch yet.
#[derive(Debug)]
pub(super) struct OpenRange {
    first: Position,
    events_max: u32,
    interval: Duration,
    pace: Duration,
    began: Option<Instant>,
    days: BTreeMap<u32, u32>,
    events: u32,
}

impl OpenRange {
    pub(super) fn new(events_max: u32, interval: Duration) -> Self {
        Self {
            first: Position(0),
            events_max: events_max.max(1),
            interval,
            pace: Duration::ZERO,
            began: None,
            days: BTreeMap::new(),
            events: 0,
        }
    }

    /// Events wait for their batch at least so long, also where the configured interval is shorter.
    pub(super) fn set_pace(&mut self, pace: Duration) {
        self.pace = pace;
    }

    /// How many events it still takes.
    pub(super) fn room(&self) -> u32 {
        self.events_max - self.events
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0
    }

    pub(super) fn add(&mut self, event: &UsageEvent, now: Instant) {
        debug_assert!(self.room() > 0, "the caller looks at the room");
        self.began.get_or_insert(now);
        *self.days.entry(event.day()).or_default() += 1;
        self.events += 1;
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        let interval = self.interval.max(self.pace);
        self.room() == 0 || self.began.is_some_and(|began| now.duration_since(began) >= interval)
    }

    /// The batches of the range, numbered from `batch`.
    pub(super) fn seals(&self, batch: BatchSeq) -> Vec<Seal> {
        let last = Position(self.first.0 + u64::from(self.events) - 1);
        (batch.0..)
            .zip(&self.days)
            .map(|(batch, (day, count))| Seal {
                batch: BatchSeq(batch),
                first: self.first,
                last,
                day: *day,
                count: *count,
            })
            .collect()
    }

    /// The range is sealed; the next one begins behind it.
    pub(super) fn clear(&mut self) {
        self.first.0 += u64::from(self.events);
        self.began = None;
        self.days.clear();
        self.events = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::event::DAY_MS;

    fn on(day: u64) -> UsageEvent {
        UsageEvent { ts_ms: day * DAY_MS, ..UsageEvent::default() }
    }

    #[test]
    fn a_range_across_midnight_is_one_batch_for_each_day() {
        let now = Instant::now();
        let mut range = OpenRange::new(10, Duration::from_secs(1));
        for day in [7, 8, 7, 8, 8] {
            range.add(&on(day), now);
        }
        let seals = range.seals(BatchSeq(4));
        let seen: Vec<_> = seals.iter().map(|s| (s.batch.0, s.first.0, s.last.0, s.day, s.count)).collect();
        assert_eq!(seen, [(4, 0, 4, 7, 2), (5, 0, 4, 8, 3)]);
        range.clear();
        range.add(&on(8), now);
        assert_eq!(range.seals(BatchSeq(6))[0].first, Position(5));
    }

    #[test]
    fn a_range_is_due_when_full_or_when_its_first_event_has_waited() {
        let now = Instant::now();
        let mut range = OpenRange::new(2, Duration::from_secs(1));
        assert!(!range.is_due(now + Duration::from_secs(9)), "empty");
        range.add(&on(1), now);
        assert!(!range.is_due(now + Duration::from_millis(999)));
        assert!(range.is_due(now + Duration::from_secs(1)));
        range.set_pace(Duration::from_secs(5));
        assert!(!range.is_due(now + Duration::from_secs(4)));
        assert!(range.is_due(now + Duration::from_secs(5)));
        range.add(&on(1), now);
        assert!(range.is_due(now));
    }
}
