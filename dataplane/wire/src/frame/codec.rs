//! Frames as bytes: the header, and the payload of each kind.
//!
//! Decoding passes over what stands behind the fields that it knows, so that a newer version may add some.

use super::{Certificates, Enroll, Frame, HEADER_BYTES, Hello, PAYLOAD_BYTES_MAX, VERSION, WHY_BYTES_MAX};
use crate::codec::{DecodeError, Reader, Write};
use crate::event::EVENT_BYTES;
use crate::id::{BatchSeq, BootId, Generation, KeyDigest, RegistryId};
use crate::key_use;
use crate::report::Report;
use crate::table::Change;
use crate::table_sum::TableSum;

const HELLO: u8 = 1;
pub(super) const WELCOME: u8 = 2;
const SNAPSHOT_BEGIN: u8 = 3;
const SNAPSHOT_PART: u8 = 4;
const SNAPSHOT_END: u8 = 5;
const DELTA: u8 = 6;
const APPLIED: u8 = 7;
const REVOKE: u8 = 8;
const REVOKED: u8 = 9;
const PING: u8 = 10;
const PONG: u8 = 11;
const BATCH: u8 = 12;
const STORED: u8 = 13;
const REPORT: u8 = 14;
const NOTED: u8 = 15;
const PACE: u8 = 16;
const RECALL: u8 = 17;
const KEPT: u8 = 18;
const RESEND: u8 = 19;
const ENROLL: u8 = 20;
const ENROLLED: u8 = 21;
const REFUSED: u8 = 22;
const BURIED: u8 = 23;
const KEY_USES: u8 = 24;
const KEY_USES_KEPT: u8 = 25;

impl Frame {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64(0);
        out.put_u8(VERSION);
        out.put_u8(self.kind());
        out.put_u16(0);
        self.encode_payload(out);
        let len = u32::try_from(out.len() - start - HEADER_BYTES).expect("a frame is shorter than 4 GiB");
        let crc = crc32c::crc32c(&out[start + 8..]);
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::Welcome { .. } => WELCOME,
            Self::SnapshotBegin { .. } => SNAPSHOT_BEGIN,
            Self::SnapshotPart(_) => SNAPSHOT_PART,
            Self::SnapshotEnd { .. } => SNAPSHOT_END,
            Self::Delta { .. } => DELTA,
            Self::Applied { .. } => APPLIED,
            Self::Buried(_) => BURIED,
            Self::Revoke { .. } => REVOKE,
            Self::Revoked { .. } => REVOKED,
            Self::Ping => PING,
            Self::Pong => PONG,
            Self::Batch { .. } => BATCH,
            Self::Stored { .. } => STORED,
            Self::Report(_) => REPORT,
            Self::Noted { .. } => NOTED,
            Self::Pace { .. } => PACE,
            Self::Recall => RECALL,
            Self::Kept { .. } => KEPT,
            Self::Resend { .. } => RESEND,
            Self::KeyUses(_) => KEY_USES,
            Self::KeyUsesKept => KEY_USES_KEPT,
            Self::Enroll(_) => ENROLL,
            Self::Enrolled(_) => ENROLLED,
            Self::Refused { .. } => REFUSED,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Enroll(enroll) => enroll.encode(out),
            Self::Enrolled(certificates) => certificates.encode(out),
            Self::Refused { why } => out.put_bytes(why.as_bytes()),
            Self::Welcome { registry, generation, takes_key_uses } => {
                out.put_u64(registry.0);
                out.put_u64(generation.0);
                out.put_u8(u8::from(*takes_key_uses));
            }
            Self::SnapshotBegin { registry, generation } => {
                out.put_u64(registry.0);
                out.put_u64(generation.0);
            }
            Self::Applied { registry, generation, sum } => {
                out.put_u64(registry.0);
                out.put_u64(generation.0);
                out.put_u64(sum.0);
            }
            Self::Buried(digests) => digests.iter().for_each(|digest| out.extend_from_slice(&digest.0)),
            Self::SnapshotPart(changes) => changes.iter().for_each(|change| change.encode(out)),
            Self::SnapshotEnd { generation, changes } => {
                out.put_u64(generation.0);
                out.put_u64(*changes);
            }
            Self::Delta { from, to, changes } => {
                out.put_u64(from.0);
                out.put_u64(to.0);
                changes.iter().for_each(|change| change.encode(out));
            }
            Self::Revoke { revocation, cut_streams, digests } => {
                out.put_u64(*revocation);
                out.put_u8(u8::from(*cut_streams));
                digests.iter().for_each(|digest| out.extend_from_slice(&digest.0));
            }
            Self::Revoked { revocation } => out.put_u64(*revocation),
            Self::Ping | Self::Pong | Self::Recall | Self::KeyUsesKept => {}
            Self::KeyUses(uses) => key_use::encode(uses, out),
            Self::Report(report) => report.encode(out),
            Self::Noted { boot } => out.put_u64(boot.0),
            Self::Pace { interval_ms } => out.put_u32(*interval_ms),
            Self::Kept { spool, batches } | Self::Resend { spool, batches } => {
                out.put_u64(spool.0);
                batches.iter().for_each(|batch| out.put_u64(batch.0));
            }
            Self::Batch { spool, batch, resent, events } => {
                out.put_u64(spool.0);
                out.put_u64(batch.0);
                out.put_u8(u8::from(*resent));
                out.extend_from_slice(events);
            }
            Self::Stored { spool, batch, refused } => {
                out.put_u64(spool.0);
                out.put_u64(batch.0);
                refused.iter().for_each(|index| out.put_u32(*index));
            }
        }
    }

    /// The length of the frame at the front of `bytes`, header included, once its header is there.
    ///
    /// Fails where the length is over the limit, so that a reader never waits for it.
    pub fn len_of(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Ok(len) = Reader::new(bytes).u32("len") else { return Ok(None) };
        let len = len as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(DecodeError::TooLong { field: "a frame", len, max: PAYLOAD_BYTES_MAX });
        }
        Ok(Some(HEADER_BYTES + len))
    }

    /// Takes the frame at the front of `bytes`, and how many bytes it had; `None` where it is not complete
    /// yet.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        let Some(len) = Self::len_of(bytes)? else { return Ok(None) };
        let Some(bytes) = bytes.get(..len) else { return Ok(None) };
        let mut r = Reader::new(bytes);
        r.u32("len")?;
        if r.u32("crc")? != crc32c::crc32c(&bytes[8..]) {
            return Err(DecodeError::Checksum("a frame"));
        }
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(DecodeError::Version { what: "the frames", found: version });
        }
        let kind = r.u8("kind")?;
        r.u16("zero")?;
        Ok(Some((Self::decode_payload(kind, &mut r)?, len)))
    }

    fn decode_payload(kind: u8, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            HELLO => Self::Hello(Hello::decode(r)?),
            ENROLL => Self::Enroll(Enroll::decode(r)?),
            ENROLLED => Self::Enrolled(Certificates::decode(r)?),
            REFUSED => Self::Refused { why: r.text("why", WHY_BYTES_MAX)?.to_owned() },
            WELCOME | SNAPSHOT_BEGIN | APPLIED => {
                let registry = RegistryId(r.u64("registry")?);
                let generation = Generation(r.u64("generation")?);
                match kind {
                    WELCOME => {
                        // The end of one that an older control plane wrote.
                        let takes_key_uses = !r.is_empty() && r.u8("takes_key_uses")? != 0;
                        Self::Welcome { registry, generation, takes_key_uses }
                    }
                    SNAPSHOT_BEGIN => Self::SnapshotBegin { registry, generation },
                    _ => Self::Applied { registry, generation, sum: TableSum(r.u64("sum")?) },
                }
            }
            SNAPSHOT_PART => Self::SnapshotPart(decode_changes(r)?),
            SNAPSHOT_END => {
                Self::SnapshotEnd { generation: Generation(r.u64("generation")?), changes: r.u64("changes")? }
            }
            DELTA => Self::Delta {
                from: Generation(r.u64("from")?),
                to: Generation(r.u64("to")?),
                changes: decode_changes(r)?,
            },
            REVOKE => {
                let (revocation, cut_streams) = (r.u64("revocation")?, r.u8("cut_streams")? != 0);
                Self::Revoke { revocation, cut_streams, digests: decode_digests(r)? }
            }
            BURIED => Self::Buried(decode_digests(r)?),
            REVOKED => Self::Revoked { revocation: r.u64("revocation")? },
            PING => Self::Ping,
            PONG => Self::Pong,
            BATCH => decode_batch(r)?,
            STORED => {
                let (spool, batch) = (BootId(r.u64("spool")?), BatchSeq(r.u64("batch")?));
                let (refused, rest) = r.rest().as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(DecodeError::Truncated("refused"));
                }
                let refused = refused.iter().copied().map(u32::from_le_bytes).collect();
                Self::Stored { spool, batch, refused }
            }
            REPORT => Self::Report(Report::decode(r)?),
            NOTED => Self::Noted { boot: BootId(r.u64("boot")?) },
            PACE => Self::Pace { interval_ms: r.u32("interval_ms")? },
            RECALL => Self::Recall,
            KEPT | RESEND => {
                let (spool, batches) = decode_batches(r)?;
                if kind == KEPT { Self::Kept { spool, batches } } else { Self::Resend { spool, batches } }
            }
            KEY_USES => Self::KeyUses(key_use::decode(r)?),
            KEY_USES_KEPT => Self::KeyUsesKept,
            _ => return Err(DecodeError::Value { field: "the kind of a frame", value: kind.into() }),
        })
    }
}

fn decode_changes(r: &mut Reader<'_>) -> Result<Vec<Change>, DecodeError> {
    let mut changes = Vec::new();
    while !r.is_empty() {
        changes.extend(Change::decode(r)?);
    }
    Ok(changes)
}

fn decode_digests(r: &mut Reader<'_>) -> Result<Vec<KeyDigest>, DecodeError> {
    let (digests, rest) = r.rest().as_chunks::<32>();
    if !rest.is_empty() {
        return Err(DecodeError::Truncated("digests"));
    }
    Ok(digests.iter().copied().map(KeyDigest).collect())
}

fn decode_batch(r: &mut Reader<'_>) -> Result<Frame, DecodeError> {
    let (spool, batch) = (BootId(r.u64("spool")?), BatchSeq(r.u64("batch")?));
    let resent = r.u8("resent")? != 0;
    if !r.rest().len().is_multiple_of(EVENT_BYTES) {
        return Err(DecodeError::Truncated("events"));
    }
    Ok(Frame::Batch { spool, batch, resent, events: r.rest().to_vec() })
}

fn decode_batches(r: &mut Reader<'_>) -> Result<(BootId, Vec<BatchSeq>), DecodeError> {
    let spool = BootId(r.u64("spool")?);
    let (batches, rest) = r.rest().as_chunks::<8>();
    if !rest.is_empty() {
        return Err(DecodeError::Truncated("batches"));
    }
    Ok((spool, batches.iter().copied().map(u64::from_le_bytes).map(BatchSeq).collect()))
}
