//! One segment, taken apart: bytes in, what was found out.

use std::ops::Range;

use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId};
use wire::record::{self, Record, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, Step};

const MAGIC: &[u8] = b"LTSPOOL";

/// What one file holds.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its name, below the directory that was asked for.
    pub(super) file: String,
    /// What it says of itself, or why that cannot be read.
    pub(super) header: Result<SegmentHeader, String>,
    /// Its events, by position.
    pub(super) events: Vec<(u64, UsageEvent)>,
    pub(super) seals: Vec<Seal>,
    pub(super) acks: Vec<BatchSeq>,
    /// All batches up to this one are acknowledged.
    pub(super) acked_to: BatchSeq,
    pub(super) adopted: Vec<BootId>,
    /// Records of kinds that this version does not know.
    pub(super) unknown: u64,
    /// Bytes that are no record, with records behind them.
    pub(super) damage: Vec<Range<usize>>,
    /// Bytes that are no record, with none behind them.
    pub(super) torn_tail_bytes: usize,
    pub(super) bytes: usize,
}

impl Segment {
    /// The lowest and the highest position of its events.
    pub(super) fn positions(&self) -> Option<(u64, u64)> {
        let positions = || self.events.iter().map(|(position, _)| *position);
        Some((positions().min()?, positions().max()?))
    }
}

/// Takes a file apart; `None` where it is no segment at all.
pub(super) fn parse(file: String, bytes: &[u8]) -> Option<Segment> {
    let named = file.ends_with(".seg") || file.ends_with(".bad");
    if !bytes.starts_with(MAGIC) && !named {
        return None;
    }
    let mut segment = Segment {
        file,
        header: SegmentHeader::decode(bytes).map_err(|error| error.to_string()),
        events: Vec::new(),
        seals: Vec::new(),
        acks: Vec::new(),
        acked_to: BatchSeq(0),
        adopted: Vec::new(),
        unknown: 0,
        damage: Vec::new(),
        torn_tail_bytes: 0,
        bytes: bytes.len(),
    };
    records(&mut segment, bytes);
    Some(segment)
}

fn records(segment: &mut Segment, bytes: &[u8]) {
    let mut at = SEGMENT_HEADER_BYTES;
    while at < bytes.len() {
        let step = record::next(bytes, at);
        if let Step::Record { position, record, next } = step {
            keep(segment, position.0, record);
            at = next;
            continue;
        }
        // Also behind zeros: a page that was never written is a hole, if records follow it.
        match record::resync(bytes, at + 8) {
            Some(found) => {
                segment.damage.push(at..found);
                at = found;
            }
            None => {
                segment.torn_tail_bytes = written(&bytes[at..]);
                return;
            }
        }
    }
}

/// The bytes up to the last one that is not zero.
fn written(rest: &[u8]) -> usize {
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn keep(segment: &mut Segment, position: u64, record: Record) {
    match record {
        Record::Event(event) => segment.events.push((position, event)),
        Record::Seal(seal) => segment.seals.push(seal),
        Record::Ack { batch, .. } => segment.acks.push(batch),
        Record::AckedTo { batch, .. } => segment.acked_to = segment.acked_to.max(batch),
        Record::Adopted { by } => segment.adopted.push(by),
        Record::Unknown(_) => segment.unknown += 1,
    }
}
