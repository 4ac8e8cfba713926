//! The spool's file format: a segment is a header and records, in preallocated (zeroed) space.
//!
//! ```text
//! segment header, 64 bytes
//!   0  "LTSPOOL1"         8  spool u64          16  node u64           24  first position u64
//!  32  created_ms u64    40  zero (20 bytes)    60  crc32c u32 of bytes 0..60
//!
//! record, a multiple of 8 bytes
//!   0  len u32 (payload)  4  crc32c u32 of len and of bytes 8..24+len
//!   8  position u64      16  kind u8            17  zero (7 bytes)     24  payload, zeros to a multiple of 8
//! ```
//!
//! An event's record carries the event's own position; any other record carries the position of the next
//! event. A header of zeros is the end of what was written. Anything else whose checksum fails is damage:
//! `next` says so, and `resync` finds the next whole record behind it.

use crate::codec::{DecodeError, Reader, Write};
use crate::event::{EVENT_BYTES, UsageEvent};
use crate::id::{BatchSeq, BootId, NodeId, Position};

/// The length of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// The length of a record's header.
pub const RECORD_HEADER_BYTES: usize = 24;
/// The longest payload of a record.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// The length of an event's record.
pub const EVENT_RECORD_BYTES: usize = RECORD_HEADER_BYTES + EVENT_BYTES;

const MAGIC: &[u8; 8] = b"LTSPOOL1";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The spool that the segment belongs to.
    pub spool: BootId,
    /// The node that wrote it.
    pub node: NodeId,
    /// The position of the first event in it, or of the next one where it holds none.
    pub first: Position,
    /// When it was made, Unix time in milliseconds.
    pub created_ms: u64,
}

impl SegmentHeader {
    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.spool.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.node.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header. Fails where it is cut, of another format, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let header: [u8; SEGMENT_HEADER_BYTES] = r.array("segment header")?;
        let mut r = Reader::new(&header);
        if r.take(8, "magic")? != MAGIC {
            return Err(DecodeError::Version { what: "the spool", found: header[7] });
        }
        let decoded = Self {
            spool: BootId(r.u64("spool")?),
            node: NodeId(r.u64("node")?),
            first: Position(r.u64("first")?),
            created_ms: r.u64("created_ms")?,
        };
        r.take(20, "zero")?;
        if r.u32("crc")? != crc32c::crc32c(&header[..60]) {
            return Err(DecodeError::Checksum("the segment's header"));
        }
        Ok(decoded)
    }
}

/// A run of events that is shipped, stored and acknowledged as one: those of `first..=last` that fall on
/// `day`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The batch's number in its spool.
    pub batch: BatchSeq,
    /// The first position that was looked at.
    pub first: Position,
    /// The last one.
    pub last: Position,
    /// The UTC day of the batch's events, in days since 1970.
    pub day: u32,
    /// How many events it has.
    pub count: u32,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An exchange was settled.
    Event(UsageEvent),
    /// A batch was sealed: it never changes from here on.
    Seal(Seal),
    /// A batch is stored.
    Ack {
        /// The batch.
        batch: BatchSeq,
        /// When the acknowledgement came, Unix time in milliseconds.
        acked_ms: u64,
    },
    /// All batches up to this one are stored. Also where there is no record of each: acks for which a full
    /// disk has no room are noted later, by one.
    AckedTo {
        /// The newest of them.
        batch: BatchSeq,
        /// When its acknowledgement came, Unix time in milliseconds.
        acked_ms: u64,
    },
    /// The events that were never sealed here, from this record's position back, live on in another spool.
    Adopted {
        /// That spool.
        by: BootId,
    },
    /// Written by a newer version.
    Unknown(u8),
}

const EVENT: u8 = 1;
const SEAL: u8 = 2;
const ACK: u8 = 3;
const ADOPTED: u8 = 4;
const ACKED_TO: u8 = 5;

/// Appends a record.
pub fn append(out: &mut Vec<u8>, position: Position, record: &Record) {
    let start = out.len();
    out.put_u64(0);
    out.put_u64(position.0);
    let kind = match record {
        Record::Event(_) => EVENT,
        Record::Seal(_) => SEAL,
        Record::Ack { .. } => ACK,
        Record::Adopted { .. } => ADOPTED,
        Record::AckedTo { .. } => ACKED_TO,
        Record::Unknown(kind) => *kind,
    };
    out.put_u64(u64::from(kind));
    match record {
        Record::Event(event) => out.extend_from_slice(&event.encode()),
        Record::Seal(seal) => {
            out.put_u64(seal.batch.0);
            out.put_u64(seal.first.0);
            out.put_u64(seal.last.0);
            out.put_u32(seal.day);
            out.put_u32(seal.count);
        }
        Record::Ack { batch, acked_ms } | Record::AckedTo { batch, acked_ms } => {
            out.put_u64(batch.0);
            out.put_u64(*acked_ms);
        }
        Record::Adopted { by } => out.put_u64(by.0),
        Record::Unknown(_) => {}
    }
    let len = u32::try_from(out.len() - start - RECORD_HEADER_BYTES).expect("a record is short");
    let crc = checksum(len, &out[start + 8..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
}

fn checksum(len: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), rest)
}

/// What stands at a place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record.
    Record {
        /// Its position.
        position: Position,
        /// What it says.
        record: Record,
        /// Where the next one begins.
        next: usize,
    },
    /// Nothing was written from here on.
    End,
    /// Bytes that are no record.
    Damaged,
}

/// Fuzz entry: walks arbitrary bytes as a segment's records; must end, and must never panic.
pub fn fuzz(bytes: &[u8]) {
    let mut at = 0;
    loop {
        match next(bytes, at) {
            Step::Record { next, .. } => {
                assert!(next > at, "a step goes forward");
                at = next;
            }
            Step::End => break,
            Step::Damaged => match resync(bytes, at + 8) {
                Some(found) => at = found,
                None => break,
            },
        }
    }
    let _ = SegmentHeader::decode(bytes);
}

/// Reads the record at `at` (which counts from the start of `bytes`, header of the segment included or not).
#[must_use]
pub fn next(bytes: &[u8], at: usize) -> Step {
    let Some(header) = bytes.get(at..at + RECORD_HEADER_BYTES) else {
        return if bytes.get(at..).is_none_or(|rest| rest.iter().all(|b| *b == 0)) {
            Step::End
        } else {
            Step::Damaged
        };
    };
    if header.iter().all(|b| *b == 0) {
        return Step::End;
    }
    read(bytes, at).unwrap_or(Step::Damaged)
}

fn read(bytes: &[u8], at: usize) -> Option<Step> {
    let mut r = Reader::new(&bytes[at..]);
    let len = r.u32("len").ok()?;
    let crc = r.u32("crc").ok()?;
    let end = RECORD_HEADER_BYTES.checked_add(len as usize)?;
    if len as usize > PAYLOAD_BYTES_MAX || checksum(len, bytes[at..].get(8..end)?) != crc {
        return None;
    }
    let position = Position(r.u64("position").ok()?);
    let kind = r.u8("kind").ok()?;
    r.take(7, "zero").ok()?;
    let record = match kind {
        EVENT => Record::Event(UsageEvent::decode(r.rest()).ok()?),
        SEAL => Record::Seal(Seal {
            batch: BatchSeq(r.u64("batch").ok()?),
            first: Position(r.u64("first").ok()?),
            last: Position(r.u64("last").ok()?),
            day: r.u32("day").ok()?,
            count: r.u32("count").ok()?,
        }),
        ACK => Record::Ack { batch: BatchSeq(r.u64("batch").ok()?), acked_ms: r.u64("acked_ms").ok()? },
        ACKED_TO => {
            Record::AckedTo { batch: BatchSeq(r.u64("batch").ok()?), acked_ms: r.u64("acked_ms").ok()? }
        }
        ADOPTED => Record::Adopted { by: BootId(r.u64("by").ok()?) },
        other => Record::Unknown(other),
    };
    Some(Step::Record { position, record, next: at + end.next_multiple_of(8) })
}

/// Finds the first whole record at or behind `at`, in steps of 8 bytes.
#[must_use]
pub fn resync(bytes: &[u8], at: usize) -> Option<usize> {
    (at.next_multiple_of(8)..bytes.len())
        .step_by(8)
        .find(|at| matches!(next(bytes, *at), Step::Record { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(Position, Record)> {
        let event = UsageEvent { ts_ms: 5, ..UsageEvent::default() };
        let seal = Seal { batch: BatchSeq(1), first: Position(0), last: Position(1), day: 20_000, count: 2 };
        vec![
            (Position(0), Record::Event(event)),
            (Position(1), Record::Event(UsageEvent { ts_ms: 6, ..event })),
            (Position(2), Record::Seal(seal)),
            (Position(2), Record::Ack { batch: BatchSeq(1), acked_ms: 9 }),
            (Position(2), Record::AckedTo { batch: BatchSeq(1), acked_ms: 9 }),
            (Position(2), Record::Adopted { by: BootId(4) }),
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (position, record) in sample() {
            append(&mut bytes, position, &record);
        }
        bytes
    }

    fn walk(bytes: &[u8]) -> (Vec<(Position, Record)>, Step) {
        let (mut found, mut at) = (Vec::new(), 0);
        loop {
            match next(bytes, at) {
                Step::Record { position, record, next } => {
                    found.push((position, record));
                    at = next;
                }
                end => return (found, end),
            }
        }
    }

    #[test]
    fn records_read_back_up_to_the_zeroed_space() {
        let mut bytes = encoded();
        bytes.resize(bytes.len() + 4096, 0);
        assert_eq!(walk(&bytes), (sample(), Step::End));
    }

    #[test]
    fn a_segment_cut_at_any_byte_keeps_its_whole_records() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            let (found, _) = walk(&bytes[..len]);
            assert_eq!(found, sample()[..found.len()], "{len}");
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_and_the_next_record_is_found() {
        let bytes = encoded();
        for at in 0..EVENT_RECORD_BYTES {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let (found, end) = walk(&bad);
            assert_eq!((found.len(), end), (0, Step::Damaged), "{at}");
            assert_eq!(resync(&bad, 8), Some(EVENT_RECORD_BYTES), "{at}");
        }
    }

    #[test]
    fn a_segment_header_reads_back_and_damage_is_refused() {
        let header = SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(3), created_ms: 4 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for at in 0..SEGMENT_HEADER_BYTES {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(SegmentHeader::decode(&bad).is_err(), "{at}");
            assert!(SegmentHeader::decode(&bytes[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 1_u64;
        for len in 0..600 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            fuzz(&bytes);
        }
    }
}
