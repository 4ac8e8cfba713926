//! Which numbers stand in a segment, by the process and the worker that gave them, and how many of its events
//! are in a batch.

use std::collections::{BTreeMap, BTreeSet};

use wire::event::UsageEvent;
use wire::id::BootId;

use super::segment::Segment;

/// The batches of all spools: which range of positions, and which days of it.
pub(super) struct Sealed(BTreeMap<(BootId, u64), (u64, BTreeSet<u32>)>);

impl Sealed {
    /// The batches that these segments have seals of.
    pub(super) fn of(segments: &[Segment]) -> Self {
        let mut all: BTreeMap<_, (u64, BTreeSet<u32>)> = BTreeMap::new();
        for segment in segments {
            let Ok(header) = &segment.header else { continue };
            for seal in &segment.seals {
                let (last, days) = all.entry((header.spool, seal.first.0)).or_default();
                *last = seal.last.0;
                days.insert(seal.day);
            }
        }
        Self(all)
    }

    /// How many events of a segment are in a batch.
    pub(super) fn count(&self, segment: &Segment) -> usize {
        let Ok(header) = &segment.header else { return 0 };
        let is_sealed = |position: u64, event: &UsageEvent| {
            let of_spool = self.0.range((header.spool, 0)..=(header.spool, position));
            let (_, (last, days)) = of_spool.last()?;
            (position <= *last && days.contains(&event.day())).then_some(())
        };
        segment.events.iter().filter(|(position, event)| is_sealed(*position, event).is_some()).count()
    }
}

/// The numbers of a segment's events, as `PROCESS/WORKER FIRST..=LAST`; with how many there are, where some
/// in between are not.
pub(super) fn given(segment: &Segment) -> Option<String> {
    let mut all: BTreeMap<(BootId, u16), BTreeSet<u64>> = BTreeMap::new();
    for (_, event) in &segment.events {
        all.entry((event.boot, event.seq.worker())).or_default().insert(event.seq.count());
    }
    let run = |((boot, worker), counts): (&(BootId, u16), &BTreeSet<u64>)| {
        let (first, last) = (counts.first()?, counts.last()?);
        let there = counts.len() as u64;
        let some = if there == last - first + 1 { String::new() } else { format!(" ({there} of them)") };
        Some(format!("{boot}/{worker} {first}..={last}{some}"))
    };
    let runs: Vec<String> = all.iter().filter_map(run).collect();
    (!runs.is_empty()).then(|| runs.join(", "))
}

#[cfg(test)]
mod tests {
    use wire::event::DAY_MS;
    use wire::id::{BatchSeq, EventSeq, NodeId, Position};
    use wire::record::{Record, Seal, SegmentHeader, append};

    use super::super::segment::parse;
    use super::*;

    #[test]
    fn numbers_are_told_by_worker_and_events_of_a_batch_are_counted() {
        let header = SegmentHeader { spool: BootId(7), node: NodeId(2), first: Position(0), created_ms: 3 };
        let mut bytes = header.encode().to_vec();
        let event = |boot, worker, count, day| {
            let seq = EventSeq::admitted(worker, count);
            Record::Event(UsageEvent {
                boot: BootId(boot),
                seq,
                ts_ms: day * DAY_MS,
                ..UsageEvent::default()
            })
        };
        let events = [event(7, 0, 4, 1), event(7, 0, 6, 1), event(7, 3, 1, 2), event(5, 0, 9, 1)];
        for (position, record) in (0..).zip(events) {
            append(&mut bytes, Position(position), &record);
        }
        // The second day of the range has no seal yet, and the last event is in no range.
        let seal = Seal { batch: BatchSeq(1), first: Position(0), last: Position(2), day: 1, count: 2 };
        append(&mut bytes, Position(4), &Record::Seal(seal));
        let segment = parse("1.seg".to_owned(), &bytes).unwrap();
        let [own, other] = [7, 5].map(BootId);
        let expected = format!("{other}/0 9..=9, {own}/0 4..=6 (2 of them), {own}/3 1..=1");
        assert_eq!(given(&segment), Some(expected));
        assert_eq!(Sealed::of(&[segment]).count(&parse("1.seg".to_owned(), &bytes).unwrap()), 2);
    }
}
