//! Events that were read back and whose seal has not come by.
//!
//! They come in the order of their positions, but for those that were written anew after an error of the
//! disk: of these the copy that came last counts.

use std::ops::Range;

use wire::event::UsageEvent;
use wire::id::Position;
use wire::record::Seal;

/// One for each position.
#[derive(Debug, Default)]
pub(super) struct Unsealed {
    events: Vec<(Position, UsageEvent)>,
    /// Whether they were pushed out of order, and are not put in order yet.
    is_mixed: bool,
}

impl Unsealed {
    pub(super) fn push(&mut self, position: Position, event: UsageEvent) {
        self.is_mixed |= self.events.last().is_some_and(|(last, _)| *last >= position);
        self.events.push((position, event));
    }

    /// How many of a seal's events are there.
    pub(super) fn count(&mut self, seal: &Seal) -> usize {
        let range = self.range(seal);
        self.events[range].iter().filter(|(_, event)| event.day() == seal.day).count()
    }

    /// Takes a seal's events, as they are shipped, in order.
    pub(super) fn take_encoded(&mut self, seal: &Seal) -> Vec<u8> {
        let range = self.range(seal);
        let mut bytes = Vec::with_capacity(seal.count as usize * wire::event::EVENT_BYTES);
        for (_, event) in self.events.extract_if(range, |(_, event)| event.day() == seal.day) {
            bytes.extend_from_slice(&event.encode());
        }
        bytes
    }

    /// Takes those for whose position and day `is_taken` says so, in order.
    pub(super) fn take(&mut self, is_taken: impl Fn(Position, u32) -> bool) -> Vec<(Position, UsageEvent)> {
        self.order();
        self.events.extract_if(.., |(position, event)| is_taken(*position, event.day())).collect()
    }

    /// Forgets those before `first`.
    pub(super) fn forget_before(&mut self, first: Position) {
        let start = self.start_of(first);
        self.events.drain(..start);
    }

    fn range(&mut self, seal: &Seal) -> Range<usize> {
        let from = self.start_of(seal.first);
        from..from + self.events[from..].partition_point(|(position, _)| *position <= seal.last)
    }

    fn start_of(&mut self, first: Position) -> usize {
        self.order();
        self.events.partition_point(|(position, _)| *position < first)
    }

    fn order(&mut self) {
        if std::mem::take(&mut self.is_mixed) {
            self.events.sort_by_key(|(position, _)| *position);
            self.events.dedup_by(|later, kept| {
                let is_copy = later.0 == kept.0;
                if is_copy {
                    *kept = *later;
                }
                is_copy
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::event::{DAY_MS, EVENT_BYTES};
    use wire::id::BatchSeq;

    fn filled(events: &[(u64, u64)]) -> Unsealed {
        let mut unsealed = Unsealed::default();
        for &(position, ts_ms) in events {
            unsealed.push(Position(position), UsageEvent { ts_ms, ..UsageEvent::default() });
        }
        unsealed
    }

    fn times(bytes: &[u8]) -> Vec<u64> {
        let events = bytes.as_chunks::<EVENT_BYTES>().0;
        events.iter().map(|event| UsageEvent::decode(event).unwrap().ts_ms).collect()
    }

    #[test]
    fn of_copies_the_last_counts_and_positions_are_in_order() {
        let mut unsealed = filled(&[(5, 50), (7, 70), (6, 60), (5, 51), (8, 80), (6, 61)]);
        let seal = Seal { batch: BatchSeq(1), first: Position(5), last: Position(7), day: 0, count: 3 };
        assert_eq!(unsealed.count(&seal), 3);
        assert_eq!(times(&unsealed.take_encoded(&seal)), [51, 61, 70]);
        assert_eq!(unsealed.take(|_, _| true).len(), 1, "what is behind the seal stays");
    }

    #[test]
    fn a_seal_takes_its_day_and_what_is_older_can_be_forgotten() {
        let mut unsealed = filled(&[(1, 1), (2, 2), (3, DAY_MS), (4, 4)]);
        unsealed.forget_before(Position(2));
        let seal = Seal { batch: BatchSeq(1), first: Position(1), last: Position(4), day: 0, count: 3 };
        assert_eq!((unsealed.count(&seal), times(&unsealed.take_encoded(&seal))), (2, vec![2, 4]));
        let left = unsealed.take(|position, day| position == Position(3) && day == 1);
        assert_eq!(left.len(), 1);
    }
}
