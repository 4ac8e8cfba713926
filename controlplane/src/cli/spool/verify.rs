//! The invariants of a spool, checked over all of its segments.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wire::event::UsageEvent;
use wire::record::Seal;

use super::segment::Segment;

pub(super) const COLUMNS: [&str; 9] =
    ["spool", "node", "segments", "events", "sealed", "acked", "first_position", "last_position", "ok"];

/// What was found.
pub(super) struct Report {
    /// One row for each spool.
    pub(super) spools: Vec<Value>,
    /// What is wrong, in words.
    pub(super) faults: Vec<String>,
    /// Events that must have been there and are not readable.
    pub(super) events_missing: u64,
}

/// Checks all segments, spool by spool.
pub(super) fn verify(segments: &[Segment]) -> Report {
    let mut report = Report { spools: Vec::new(), faults: Vec::new(), events_missing: 0 };
    let mut spools: BTreeMap<_, Vec<&Segment>> = BTreeMap::new();
    for segment in segments {
        segment_faults(segment, &mut report.faults);
        if let Ok(header) = &segment.header {
            spools.entry(header.spool).or_default().push(segment);
        }
    }
    for (spool, segments) in spools {
        let before = report.faults.len();
        let found = Spool::collect(&segments, &mut report.faults);
        found.check(&spool.to_string(), &mut report);
        let ok =
            report.faults.len() == before && segments.iter().all(|s| s.damage.is_empty() && !set_aside(s));
        report.spools.push(found.row(&spool.to_string(), &segments, ok));
    }
    report
}

fn segment_faults(segment: &Segment, faults: &mut Vec<String>) {
    let file = &segment.file;
    if let Err(reason) = &segment.header {
        faults.push(format!("{file}: {reason}"));
    }
    for range in &segment.damage {
        faults.push(format!("{file}: bytes {}..{} are no record", range.start, range.end));
    }
    if set_aside(segment) {
        faults.push(format!("{file}: was set aside as damaged"));
    }
    if segment.torn_tail_bytes > 0 {
        eprintln!(
            "liutong: {file}: note: the last {} bytes are a record that was not finished, or not yet",
            segment.torn_tail_bytes
        );
    }
}

fn set_aside(segment: &Segment) -> bool {
    segment.file.ends_with(".bad")
}

/// The records of all segments of one spool.
struct Spool {
    events: BTreeMap<u64, UsageEvent>,
    seals: BTreeMap<u64, Seal>,
    acked: BTreeSet<u64>,
    acked_to: u64,
    /// The lowest position that the oldest segment may hold: what came before was stored and deleted.
    first: u64,
}

impl Spool {
    fn collect(segments: &[&Segment], faults: &mut Vec<String>) -> Self {
        let first = segments.iter().filter_map(|s| s.header.as_ref().ok()).map(|h| h.first.0).min();
        let mut spool = Self {
            events: BTreeMap::new(),
            seals: BTreeMap::new(),
            acked: BTreeSet::new(),
            acked_to: 0,
            first: first.unwrap_or_default(),
        };
        for segment in segments {
            for (position, event) in &segment.events {
                if spool.events.insert(*position, *event).is_some_and(|earlier| earlier != *event) {
                    faults.push(format!("{}: position {position} has two different events", segment.file));
                }
            }
            for seal in &segment.seals {
                if spool.seals.insert(seal.batch.0, *seal).is_some_and(|earlier| earlier != *seal) {
                    faults.push(format!(
                        "{}: batch {} was sealed twice, differently",
                        segment.file, seal.batch
                    ));
                }
            }
            spool.acked_to = spool.acked_to.max(segment.acked_to.0);
            spool.acked.extend(segment.acks.iter().map(|batch| batch.0));
        }
        spool
    }

    fn check(&self, name: &str, report: &mut Report) {
        let mut expected = self.first;
        for position in self.events.keys().copied() {
            if position > expected {
                report.events_missing += position - expected;
                report
                    .faults
                    .push(format!("spool {name}: positions {expected}..={} are missing", position - 1));
            }
            expected = position + 1;
        }
        for (a, b) in self.seals.keys().zip(self.seals.keys().skip(1)) {
            if b - a > 1 {
                report.faults.push(format!(
                    "spool {name}: the seals of batches {}..={} are missing",
                    a + 1,
                    b - 1
                ));
            }
        }
        // A batch whose events begin before the oldest segment was stored, and is partly deleted.
        for seal in self.seals.values().filter(|seal| seal.first.0 >= self.first) {
            self.check_seal(name, seal, report);
        }
    }

    fn check_seal(&self, name: &str, seal: &Seal, report: &mut Report) {
        let (first, last) = (seal.first.0, seal.last.0);
        if first > last {
            report.faults.push(format!("spool {name}: batch {} covers {first}..={last}", seal.batch));
            return;
        }
        let day = |event: &UsageEvent| event.ts_ms / wire::event::DAY_MS == u64::from(seal.day);
        let found = self.events.range(first..=last).filter(|(_, event)| day(event)).count() as u64;
        if found != u64::from(seal.count) {
            report.faults.push(format!(
                "spool {name}: batch {} was sealed with {} events, {found} are there",
                seal.batch, seal.count
            ));
        }
        // Events at the very end are missed by no gap between positions.
        let end = self.events.keys().next_back().map_or(self.first, |last| last + 1);
        if last >= end {
            report.events_missing += last + 1 - end;
            report.faults.push(format!("spool {name}: positions {end}..={last} are sealed and missing"));
        }
    }

    fn row(&self, name: &str, segments: &[&Segment], ok: bool) -> Value {
        let sealed: u64 = self.seals.values().map(|seal| u64::from(seal.count)).sum();
        let is_acked = |seal: &&Seal| seal.batch.0 <= self.acked_to || self.acked.contains(&seal.batch.0);
        let acked = self.seals.values().filter(is_acked);
        json!({
            "spool": name,
            "node": segments.iter().find_map(|s| s.header.as_ref().ok()).map(|h| h.node.to_string()),
            "segments": segments.len(),
            "events": self.events.len(),
            "batches": self.seals.len(),
            "sealed": sealed,
            "acked": acked.map(|seal| u64::from(seal.count)).sum::<u64>(),
            "first_position": self.events.keys().next(),
            "last_position": self.events.keys().next_back(),
            "adopted_by": segments.iter().flat_map(|s| &s.adopted).map(ToString::to_string).next(),
            "ok": ok,
        })
    }
}

#[cfg(test)]
mod tests {
    use wire::id::{BatchSeq, BootId, NodeId, Position};
    use wire::record::{Record, SegmentHeader, append};

    use super::super::segment::parse;
    use super::*;

    fn event(ts_ms: u64) -> Record {
        Record::Event(UsageEvent { ts_ms, ..UsageEvent::default() })
    }

    fn seal(batch: u64, first: u64, last: u64, count: u32) -> Record {
        let (first, last) = (Position(first), Position(last));
        Record::Seal(Seal { batch: BatchSeq(batch), first, last, day: 0, count })
    }

    fn segment(file: &str, first: u64, records: &[(u64, Record)]) -> Vec<u8> {
        let header =
            SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(first), created_ms: 3 };
        let mut bytes = header.encode().to_vec();
        for (position, record) in records {
            append(&mut bytes, Position(*position), record);
        }
        bytes.resize(bytes.len() + 256, 0);
        assert!(parse(file.to_owned(), &bytes).is_some());
        bytes
    }

    fn intact() -> Vec<(u64, Record)> {
        let ack = Record::Ack { batch: BatchSeq(1), acked_ms: 1 };
        vec![(0, event(1)), (1, event(2)), (2, seal(1, 0, 1, 2)), (2, ack), (2, event(3))]
    }

    fn check(files: &[(&str, Vec<u8>)]) -> Report {
        let segments: Vec<_> = files.iter().filter_map(|(f, b)| parse((*f).to_owned(), b)).collect();
        verify(&segments)
    }

    #[test]
    fn an_intact_spool_has_no_fault_and_a_record_written_twice_is_none() {
        let second = segment("2.seg", 2, &[(2, event(3)), (3, event(4)), (4, seal(2, 2, 3, 2))]);
        let report = check(&[("1.seg", segment("1.seg", 0, &intact())), ("2.seg", second)]);
        assert_eq!(report.faults, Vec::<String>::new());
        let row = &report.spools[0];
        assert_eq!((&row["events"], &row["sealed"], &row["acked"]), (&json!(4), &json!(4), &json!(2)));
        assert_eq!(row["ok"], json!(true));
    }

    #[test]
    fn a_flipped_bit_in_an_event_is_found_wherever_it_is() {
        let bytes = segment("1.seg", 0, &intact());
        for at in 64..64 + 104 {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            let report = check(&[("1.seg", bad)]);
            assert_eq!(report.events_missing, 1, "{at}: {:?}", report.faults);
            assert_eq!(report.spools[0]["ok"], json!(false), "{at}");
        }
    }

    #[test]
    fn a_page_of_zeros_with_records_behind_it_is_damage() {
        let mut bytes = segment("1.seg", 0, &intact());
        bytes[64..64 + 104].fill(0);
        assert!(!check(&[("1.seg", bytes)]).faults.is_empty());
    }

    #[test]
    fn a_torn_tail_is_no_fault_but_a_sealed_event_that_is_gone_is() {
        let torn = segment("1.seg", 0, &[(0, event(1)), (1, event(2))]);
        let report = check(&[("1.seg", torn[..64 + 104 + 50].to_vec())]);
        assert_eq!(report.faults, Vec::<String>::new());
        let report = check(&[("1.seg", segment("1.seg", 0, &[(0, event(1)), (1, seal(1, 0, 1, 2))]))]);
        assert_eq!((report.faults.len(), report.events_missing), (2, 1), "{:?}", report.faults);
    }

    #[test]
    fn a_gap_a_double_event_and_a_missing_seal_are_found() {
        for (records, claim) in [
            (vec![(0, event(1)), (3, event(2))], "positions 1..=2 are missing"),
            (vec![(0, event(1)), (0, event(2))], "two different events"),
            (
                vec![(0, event(1)), (1, seal(1, 0, 0, 1)), (1, event(1)), (2, seal(3, 1, 1, 1))],
                "batches 2..=2",
            ),
        ] {
            let report = check(&[("1.seg", segment("1.seg", 0, &records))]);
            assert!(report.faults.iter().any(|fault| fault.contains(claim)), "{claim}: {:?}", report.faults);
        }
    }

    #[test]
    fn a_batch_that_began_in_a_deleted_segment_is_no_fault() {
        let report = check(&[("2.seg", segment("2.seg", 5, &[(5, event(1)), (6, seal(4, 3, 5, 3))]))]);
        assert_eq!(report.faults, Vec::<String>::new());
    }

    #[test]
    fn a_damaged_header_and_a_segment_set_aside_are_faults() {
        let mut bytes = segment("1.seg", 0, &intact());
        bytes[20] ^= 1;
        assert!(!check(&[("1.seg", bytes)]).faults.is_empty());
        let report = check(&[("1.bad", segment("1.bad", 0, &intact()))]);
        assert_eq!(report.faults, ["1.bad: was set aside as damaged"]);
    }
}
