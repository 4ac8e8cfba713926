//! Walks a whole segment: its records, the damage between them, and what was torn off at its end.
//!
//! Recovery and `liutong spool inspect` both read segments with this, so that they see the same thing. Bytes
//! that are no record are *damage* where a whole record follows them (zeros too: a page that never reached
//! the disk), and a *torn tail* where none does. Only a tail may be cut; damage is stepped over.
//!
//! A segment is called after its first position, `00000000000003e8.seg`; where one of that name exists
//! already (its records were written anew after an error), `00000000000003e8-1.seg`. That order is the order
//! of writing.

use std::fmt;

use crate::id::Position;
use crate::record::{self, Record, SEGMENT_HEADER_BYTES, Step};

/// The name of a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The position of the first event in it.
    pub first: Position,
    /// 0, or how many segments that begin there were written before.
    pub copy: u32,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copy {
            0 => write!(f, "{:016x}.seg", self.first.0),
            copy => write!(f, "{:016x}-{copy}.seg", self.first.0),
        }
    }
}

impl SegmentName {
    /// Reads the name that `Display` writes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".seg")?;
        let (first, copy) = match stem.split_once('-') {
            Some((first, copy)) => (first, copy.parse().ok()?),
            None => (stem, 0),
        };
        let name_of = Self { first: Position(u64::from_str_radix(first, 16).ok()?), copy };
        (name_of.to_string() == name).then_some(name_of)
    }
}

/// What a walk comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record {
        /// Where it begins.
        at: usize,
        /// Its position.
        position: Position,
        /// What it says.
        record: Record,
    },
    /// Bytes that are no record, with a record behind them.
    Damage {
        /// Where they begin.
        from: usize,
        /// Where the next record begins.
        to: usize,
    },
    /// Bytes at the end that are no record.
    Torn {
        /// Where they begin.
        from: usize,
        /// Behind the last byte that is not zero.
        to: usize,
    },
}

/// The walk itself.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Walks the records of a segment, header included in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: SEGMENT_HEADER_BYTES }
    }
}

impl Iterator for Scan<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let at = self.at;
        if let Step::Record { position, record, next } = record::next(self.bytes, at) {
            self.at = next;
            return Some(Found::Record { at, position, record });
        }
        if let Some(to) = next_record(self.bytes, at) {
            self.at = to;
            return Some(Found::Damage { from: at, to });
        }
        self.at = self.bytes.len();
        let rest = self.bytes.get(at..).unwrap_or_default();
        first_not_zero(rest)?;
        let last = rest.iter().rposition(|byte| *byte != 0)?;
        Some(Found::Torn { from: at, to: at + last + 1 })
    }
}

/// Where the next whole record behind `at` begins, across zeros and damage; `None` where there is none.
#[must_use]
pub fn next_record(bytes: &[u8], at: usize) -> Option<usize> {
    let from = at.saturating_add(8);
    // Preallocated space is mostly zeros: going over them is much cheaper than trying each place for a
    // record.
    let zeros = first_not_zero(bytes.get(from..)?)?;
    record::resync(bytes, (from + zeros) & !7)
}

fn first_not_zero(bytes: &[u8]) -> Option<usize> {
    let is_zero = |chunk: &[u8; 64]| chunk.iter().fold(0, |all, byte| all | byte) == 0;
    let zeros = bytes.as_chunks().0.iter().take_while(|chunk| is_zero(chunk)).count() * 64;
    bytes[zeros..].iter().position(|byte| *byte != 0).map(|at| zeros + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::UsageEvent;
    use crate::id::BatchSeq;
    use crate::record::EVENT_RECORD_BYTES;

    fn segment(events: u64) -> Vec<u8> {
        let mut bytes = vec![1; SEGMENT_HEADER_BYTES];
        for position in 0..events {
            let event = UsageEvent { ts_ms: position, ..UsageEvent::default() };
            record::append(&mut bytes, Position(position), &Record::Event(event));
        }
        record::append(&mut bytes, Position(events), &Record::Ack { batch: BatchSeq(1), acked_ms: 2 });
        bytes
    }

    fn positions(bytes: &[u8]) -> Vec<u64> {
        Scan::new(bytes)
            .filter_map(|found| match found {
                Found::Record { position, .. } => Some(position.0),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn preallocated_zeros_are_neither_damage_nor_torn() {
        let mut bytes = segment(3);
        bytes.resize(1 << 20, 0);
        assert_eq!(positions(&bytes), [0, 1, 2, 3]);
        assert!(Scan::new(&bytes).all(|found| matches!(found, Found::Record { .. })));
    }

    #[test]
    fn a_page_of_zeros_in_the_middle_is_damage_and_what_follows_is_found() {
        let mut bytes = segment(100);
        let (from, to) = (SEGMENT_HEADER_BYTES + 10 * EVENT_RECORD_BYTES, 64 + 50 * EVENT_RECORD_BYTES);
        bytes[from..to - 8].fill(0);
        let expected: Vec<u64> = (0..10).chain(50..=100).collect();
        assert_eq!(positions(&bytes), expected);
        assert!(Scan::new(&bytes).any(|found| found == Found::Damage { from, to }));
    }

    #[test]
    fn a_torn_tail_is_told_from_damage() {
        let whole = segment(3);
        for cut in whole.len() - 39..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            bytes.resize(4096, 0);
            let found: Vec<_> = Scan::new(&bytes).skip(3).collect();
            assert!(
                found.iter().all(|f| matches!(f, Found::Torn { .. } | Found::Record { .. })),
                "{found:?}"
            );
            assert_eq!(found.len(), 1, "{cut} {found:?}");
        }
    }

    #[test]
    fn names_read_back_and_sort_in_the_order_of_writing() {
        let name = |first, copy| SegmentName { first: Position(first), copy };
        assert_eq!(name(0x3e8, 0).to_string(), "00000000000003e8.seg");
        for name in [name(0, 0), name(0x3e8, 0), name(0x3e8, 12), name(u64::MAX, 1)] {
            assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        }
        for bad in ["", ".seg", "3e8.seg", "00000000000003e8-0.seg", "00000000000003E8.seg", "lock"] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
        assert!(name(1, 9) < name(1, 10) && name(1, 10) < name(2, 0));
    }
}
