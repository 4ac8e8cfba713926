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
//!        Report                        ->      (each second that has news, else every ten)
//!                                      <-  Noted{boot}    what ended is written down
//!                                      <-  Pace           how often to seal
//!                                      <-  Recall         ClickHouse was started again: what do you have?
//!        Kept{spool, batches}..        ->      (those that were acknowledged)
//!                                      <-  Resend{spool, batches}
//!        Batch                         ->      (resent, one at a time)
//!                                      <-  Stored         to be read, or both sides come to block
//!        KeyUses{uses}                 ->      (where Welcome says that it takes them)
//!                                      <-  KeyUsesKept    of the last KeyUses
//! enrol: Enroll{token, public key}     ->      (the one frame that needs no certificate; without a token
//!                                      <-  Enrolled{certificates}              it renews the one in use)
//! ```
//!
//! Instead of its first answer the control plane may say `Refused`.

use crate::event::{BATCH_EVENTS_MAX, EVENT_BYTES};
use crate::id::{BatchSeq, BootId, Generation, KeyDigest, RegistryId};
use crate::key_use::KeyUse;
use crate::report::Report;
use crate::table::Change;
use crate::table_sum::TableSum;

pub use self::hello::{Certificates, Enroll, Hello, Role};

/// Frames as bytes.
mod codec;
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

/// Fuzz entry: decodes arbitrary bytes as a run of frames; must never panic, and must go forward.
pub fn fuzz(mut bytes: &[u8]) {
    while let Ok(Some((_, used))) = Frame::decode(bytes) {
        assert!(used >= HEADER_BYTES && used <= bytes.len(), "a frame lies within its bytes");
        bytes = &bytes[used..];
    }
}

#[cfg(test)]
mod tests;
