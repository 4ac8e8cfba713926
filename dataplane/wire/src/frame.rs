//! The frames that travel between the planes; the data plane's copy of the snapshot on disk is a run of them
//! too.
//!
//! ```text
//! frame:  len u32 (of the payload) | crc32c u32 of bytes 8.. | version u8 | kind u8 | zero u16 | payload
//! ```
//!
//! A data plane opens three connections. The first frame of each is `Hello`, answered by `Welcome`.
//!
//! ```text
//! sync:  Hello{sync, generation held}  ->
//!                                      <-  Welcome
//!        Buried{digests}.. Buried{}    ->      (only where another registry's tables are held, or none)
//!                                      <-  Delta.. or SnapshotBegin SnapshotPart.. SnapshotEnd
//!        Applied{generation, sum}      ->      (only once it is durable on the node)
//!                                      <-  Revoke{revocation, digests}     ahead of the deltas, any time
//!        Revoked{revocation}           ->      (likewise)
//!                                      <-  Ping;  Pong  ->      (all until now was sent)
//! ship:  Hello{ship}                   ->
//!                                      <-  Welcome
//!        Batch{spool, batch, events}   ->
//!                                      <-  Stored{spool, batch}
//! account: Hello{account}              ->
//!                                      <-  Welcome
//!        Report                        ->      (every second)
//!                                      <-  Noted{boot}    what ended is written down
//!                                      <-  Pace           how often to seal
//!                                      <-  Recall         ClickHouse was started again: what do you have?
//!        Kept{spool, batches}          ->      (those that were acknowledged)
//!                                      <-  Resend{spool, batches}
//!        Batch                         ->      (resent; its Stored is not waited for)
//!        KeyUses{uses}                 ->      (where Welcome says that it takes them)
//!                                      <-  KeyUsesKept    of the last KeyUses
//! enrol: Enroll{token, public key}     ->      (the one frame that needs no certificate; without a token
//!                                      <-  Enrolled{certificates}              it renews the one in use)
//! ```
//!
//! Instead of its first answer the control plane may say `Refused`.

use crate::codec::{DecodeError, Reader, Write};
use crate::event::{BATCH_EVENTS_MAX, EVENT_BYTES};
use crate::id::{BatchSeq, BootId, Generation, KeyDigest, RegistryId};
use crate::key_use::{self, KeyUse};
use crate::report::Report;
use crate::table::Change;
use crate::table_sum::TableSum;

pub use self::hello::{Certificates, Enroll, Hello, Role};

/// The first words of a connection.
mod hello;

/// The version that this program writes. Either plane may be one version older.
pub const VERSION: u8 = 1;
/// The length of a frame's header.
pub const HEADER_BYTES: usize = 12;
/// The longest payload: a full batch and its head.
pub const PAYLOAD_BYTES_MAX: usize = BATCH_EVENTS_MAX * EVENT_BYTES + 64;
/// The longest reason.
const WHY_BYTES_MAX: usize = 512;
/// How many changes a sender puts in one `SnapshotPart`.
pub const PART_CHANGES: usize = 4096;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a connection.
    Hello(Hello),
    /// Accepts it.
    Welcome {
        /// The registry.
        registry: RegistryId,
        /// Its generation now.
        generation: Generation,
        /// Whether `KeyUses` may be sent; an older control plane does not know them.
        takes_key_uses: bool,
    },
    /// Whole tables follow; they replace what the data plane holds once they are complete.
    SnapshotBegin {
        /// The registry.
        registry: RegistryId,
        /// The generation that the tables stand for.
        generation: Generation,
    },
    /// A part of the tables.
    SnapshotPart(Vec<Change>),
    /// The tables are complete.
    SnapshotEnd {
        /// As in `SnapshotBegin`.
        generation: Generation,
        /// How many changes all parts have.
        changes: u64,
    },
    /// What changed from one generation to another.
    Delta {
        /// The generation that it builds on; a data plane that holds an older one has missed some.
        from: Generation,
        /// The generation that it leads to.
        to: Generation,
        /// The changes.
        changes: Vec<Change>,
    },
    /// The data plane's tables stand at this generation, also after a crash.
    Applied {
        /// The registry.
        registry: RegistryId,
        /// The generation.
        generation: Generation,
        /// The sum of the tables.
        sum: TableSum,
    },
    /// Keys that this node has seen revoked, whatever a registry says that it does not know yet: they must
    /// not live again. One without any ends the list.
    Buried(Vec<KeyDigest>),
    /// These keys are unusable now. Idempotent, and independent of the order of deltas.
    Revoke {
        /// The number that the confirmation names.
        revocation: u64,
        /// Whether what is under way with these keys is to end, too.
        cut_streams: bool,
        /// The keys.
        digests: Vec<KeyDigest>,
    },
    /// Refused on every worker from now on, also after a crash.
    Revoked {
        /// As in `Revoke`.
        revocation: u64,
    },
    /// Are you there? All that was committed by now has been sent.
    Ping,
    /// Yes.
    Pong,
    /// Usage events to store.
    Batch {
        /// The spool they come from.
        spool: BootId,
        /// The batch's number there.
        batch: BatchSeq,
        /// Whether it may have been sent before.
        resent: bool,
        /// The events, 80 bytes each.
        events: Vec<u8>,
    },
    /// ClickHouse has the batch on its disk.
    Stored {
        /// As in `Batch`.
        spool: BootId,
        /// As in `Batch`.
        batch: BatchSeq,
        /// Which of its events (by index) can never be stored, so that the data plane sets them aside.
        refused: Vec<u32>,
    },
    /// Where the usage events are.
    Report(Report),
    /// How a process ended is written down: it need not be reported again.
    Noted {
        /// The process.
        boot: BootId,
    },
    /// How long events may wait for their batch, so that all data planes together do not insert too often.
    Pace {
        /// At least so long.
        interval_ms: u32,
    },
    /// ClickHouse may have lost what it acknowledged: which acknowledged batches are still on your disk?
    Recall,
    /// These are.
    Kept {
        /// The spool.
        spool: BootId,
        /// Batches.
        batches: Vec<BatchSeq>,
    },
    /// ClickHouse does not have these: send them again.
    Resend {
        /// The spool.
        spool: BootId,
        /// Batches.
        batches: Vec<BatchSeq>,
    },
    /// Uses of keys that were refused though they are known; at most `key_use::KEY_USES_MAX`.
    KeyUses(Vec<KeyUse>),
    /// Those are stored.
    KeyUsesKept,
    /// Asks for a certificate, instead of `Hello`.
    Enroll(Enroll),
    /// The certificate.
    Enrolled(Certificates),
    /// The connection ends before it began.
    Refused {
        /// Why, for the operator.
        why: String,
    },
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
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

/// Fuzz entry: decodes arbitrary bytes as a run of frames; must never panic, and must go forward.
pub fn fuzz(mut bytes: &[u8]) {
    while let Ok(Some((_, used))) = Frame::decode(bytes) {
        assert!(used >= HEADER_BYTES && used <= bytes.len(), "a frame lies within its bytes");
        bytes = &bytes[used..];
    }
}

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

#[cfg(test)]
mod tests;
