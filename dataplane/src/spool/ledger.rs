//! The ledger of the spool: how far it has been written, synced, sealed and acknowledged.
//!
//! Workers never wait for the control plane. While it is away the spool grows, and is replayed in order once
//! it is back. Nothing of the ledger is on disk: it is what a scan of the segments finds.
//!
//! Invariants (each is the position behind the last event of its kind):
//!
//!   * `acked <= sealed <= synced <= appended`
//!   * batch numbers are contiguous from 1; `acked` moves over whole ranges only, in order

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;
use wire::id::{BatchSeq, Position};
use wire::record::Seal;

/// Why a step was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LedgerError {
    /// The batch was never sealed here, or was acknowledged before.
    #[error("batch {0} is not waiting for an acknowledgement")]
    NotWaiting(BatchSeq),
}

/// The positions of one spool.
#[derive(Debug, Default)]
pub struct Ledger {
    appended: Position,
    synced: Position,
    sealed: Position,
    acked: Position,
    last_sealed: BatchSeq,
    last_acked: BatchSeq,
    /// Acknowledged ahead of an older batch: as many as fresh ones were stored while a backlog drains.
    ahead: BTreeMap<BatchSeq, Position>,
    /// Those of them that are not noted on the disk.
    unwritten_ahead: BTreeSet<BatchSeq>,
    /// Ranges with events of several days, as (first, last) of their batches: midnights that are not acked
    /// yet.
    split: Vec<(BatchSeq, BatchSeq)>,
}

impl Ledger {
    /// Behind the last event that was written.
    #[must_use]
    pub fn appended(&self) -> Position {
        self.appended
    }

    /// Behind the last event of the oldest batches that are all acknowledged.
    #[must_use]
    pub fn acked(&self) -> Position {
        self.acked
    }

    /// The newest batch up to which all are acknowledged.
    #[must_use]
    pub fn last_acked(&self) -> BatchSeq {
        self.last_acked
    }

    /// Batches that were acknowledged ahead of an older one, and are not noted on the disk.
    pub fn unwritten_ahead(&self) -> impl Iterator<Item = BatchSeq> {
        self.unwritten_ahead.iter().copied()
    }

    /// They are written.
    pub fn write_ahead(&mut self) {
        self.unwritten_ahead.clear();
    }

    /// Behind the last event that is in a batch.
    #[must_use]
    pub fn sealed(&self) -> Position {
        self.sealed
    }

    /// The number of the newest batch.
    #[must_use]
    pub fn last_sealed(&self) -> BatchSeq {
        self.last_sealed
    }

    /// Events up to `to` are written.
    pub fn append_to(&mut self, to: Position) {
        assert!(to >= self.appended, "positions go forward");
        self.appended = to;
    }

    /// Events up to `to`, and everything written before them, are on the disk.
    pub fn sync_to(&mut self, to: Position) {
        assert!(to >= self.synced && to <= self.appended, "what is synced was written");
        self.synced = to;
    }

    /// One range is sealed in these batches, and the seals are on the disk.
    pub fn seal(&mut self, seals: &[Seal]) {
        let (Some(first), Some(last)) = (seals.first(), seals.last()) else { return };
        assert_eq!(first.first, self.sealed, "ranges are contiguous");
        assert_eq!(first.batch.0, self.last_sealed.0 + 1, "batches are contiguous");
        assert!(last.last < self.synced, "what is sealed is on the disk");
        self.sealed = Position(last.last.0 + 1);
        self.last_sealed = last.batch;
        if seals.len() > 1 {
            self.split.push((first.batch, last.batch));
        }
    }

    /// Whether a batch is sealed, with these events, and not acknowledged yet.
    #[must_use]
    pub fn is_waiting(&self, seal: &Seal) -> bool {
        let is_sealed = seal.batch <= self.last_sealed && seal.last < self.sealed;
        is_sealed && seal.batch > self.last_acked && !self.ahead.contains_key(&seal.batch)
    }

    /// A batch is stored.
    pub fn ack(&mut self, seal: &Seal) -> Result<(), LedgerError> {
        let batch = seal.batch;
        if !self.is_waiting(seal) {
            return Err(LedgerError::NotWaiting(batch));
        }
        self.ahead.insert(batch, Position(seal.last.0 + 1));
        self.unwritten_ahead.insert(batch);
        while let Some(end) = self.ahead.remove(&BatchSeq(self.last_acked.0 + 1)) {
            self.last_acked.0 += 1;
            let at = self.last_acked;
            self.split.retain(|(_, last)| *last > at);
            let is_range_done = !self.split.iter().any(|(first, last)| (first..last).contains(&&at));
            if is_range_done && end > self.acked {
                self.acked = end;
            }
        }
        self.unwritten_ahead = self.unwritten_ahead.split_off(&BatchSeq(self.last_acked.0 + 1));
        assert!(self.acked <= self.sealed, "what is acked was sealed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(batch: u64, first: u64, last: u64) -> Seal {
        Seal {
            batch: BatchSeq(batch),
            first: Position(first),
            last: Position(last),
            day: 1,
            count: u32::try_from(last - first + 1).unwrap(),
        }
    }

    fn sealed() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.append_to(Position(40));
        ledger.sync_to(Position(30));
        ledger.seal(&[seal(1, 0, 9)]);
        ledger.seal(&[seal(2, 10, 19), seal(3, 10, 19)]);
        ledger.seal(&[seal(4, 20, 29)]);
        ledger
    }

    #[test]
    fn acked_moves_in_order_whatever_the_order_of_the_acks() {
        let mut ledger = sealed();
        let acked_after: Vec<u64> = [(4, 20, 29), (1, 0, 9), (3, 10, 19), (2, 10, 19)]
            .map(|(batch, first, last)| {
                ledger.ack(&seal(batch, first, last)).unwrap();
                ledger.acked().0
            })
            .to_vec();
        assert_eq!(acked_after, [0, 10, 10, 30]);
    }

    #[test]
    fn a_range_of_two_days_is_acked_with_its_last_batch() {
        let mut ledger = sealed();
        ledger.ack(&seal(1, 0, 9)).unwrap();
        ledger.ack(&seal(2, 10, 19)).unwrap();
        assert_eq!(ledger.acked(), Position(10));
        ledger.ack(&seal(3, 10, 19)).unwrap();
        assert_eq!(ledger.acked(), Position(20));
    }

    #[test]
    fn an_ack_of_what_was_never_sealed_or_is_acked_already_is_refused() {
        let mut ledger = sealed();
        ledger.ack(&seal(1, 0, 9)).unwrap();
        ledger.ack(&seal(3, 10, 19)).unwrap();
        for batch in [0, 1, 3, 5] {
            assert_eq!(ledger.ack(&seal(batch, 0, 9)), Err(LedgerError::NotWaiting(BatchSeq(batch))));
        }
        // A batch of that number was sealed, of fewer events.
        assert_eq!(ledger.ack(&seal(4, 20, 30)), Err(LedgerError::NotWaiting(BatchSeq(4))));
    }

    #[test]
    #[should_panic(expected = "what is sealed is on the disk")]
    fn a_seal_ahead_of_the_sync_is_refused() {
        sealed().seal(&[seal(5, 30, 39)]);
    }

    #[test]
    #[should_panic(expected = "what is synced was written")]
    fn a_sync_ahead_of_the_append_is_refused() {
        sealed().sync_to(Position(41));
    }
}
