//! What the pipeline counts, for the operator: every event is somewhere, and these say where.
//!
//! Of one process: `admitted = in_flight + appended` (+ what no slot could keep: `lost_slots`);
//! `appended + adopted + found = acked + pending + set_aside + lost`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// The counters, written by the pipeline's threads and read by anyone.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) appended: AtomicU64,
    pub(super) adopted: AtomicU64,
    pub(super) to_adopt: AtomicU64,
    pub(super) found: AtomicU64,
    pub(super) sealed: AtomicU64,
    pub(super) acked: AtomicU64,
    pub(super) pending: AtomicU64,
    pub(super) set_aside: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) lost_slots: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) disk_errors: AtomicU64,
    pub(super) full: AtomicBool,
    pub(super) opening: AtomicBool,
    pub(super) connected: AtomicBool,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Exchanges admitted by this process.
    pub admitted: u64,
    /// Of those, admitted and not yet in the spool: running, or settled and waiting in a slot.
    pub in_flight: u64,
    /// Of those, events in this process's spool.
    pub appended: u64,
    /// Events of processes that are gone, taken over into this process's spool.
    pub adopted: u64,
    /// Events of processes that are gone, found and not taken over yet: there is no room.
    pub to_adopt: u64,
    /// Events in batches that earlier processes sealed and that were not acked when this one started.
    pub found: u64,
    /// Events in batches of this process's spool.
    pub sealed: u64,
    /// Events that are stored.
    pub acked: u64,
    /// Events that are on the disk and not acked.
    pub pending: u64,
    /// Events that can never be stored; kept in `set_aside`.
    pub set_aside: u64,
    /// Events that were in a batch and can't be read any more.
    pub lost: u64,
    /// Slots whose event couldn't be read.
    pub lost_slots: u64,
    /// Damaged stretches that were stepped over, in bytes.
    pub damaged_bytes: u64,
    /// Batches that are stored.
    pub batches: u64,
    /// Batches that were sent again.
    pub resent: u64,
    /// Segments of all spools that this process looks after.
    pub segments: u64,
    /// Their size.
    pub bytes: u64,
    /// Errors of writing or syncing.
    pub disk_errors: u64,
    /// Whether events can't be written now: new requests are to be refused.
    pub full: bool,
    /// Whether what earlier processes left is still to be taken over; no event is written before.
    pub opening: bool,
    /// Whether the control plane takes batches.
    pub connected: bool,
}

impl Counters {
    /// Reads all counters; `admitted` comes from the slots, and is read last.
    ///
    /// Events move on meanwhile: from slots to what is appended and pending, from there to what is acked.
    /// Where they come from is read before where they go, so that none is in neither and looks lost; what is
    /// admitted meanwhile is in flight.
    pub(super) fn figures(&self, admitted: impl FnOnce() -> u64) -> Figures {
        let appended = self.appended.load(Acquire);
        let lost_slots = self.lost_slots.load(Acquire);
        let (to_adopt, adopted) = (self.to_adopt.load(Acquire), self.adopted.load(Acquire));
        let pending = self.pending.load(Acquire);
        let admitted = admitted();
        Figures {
            admitted,
            in_flight: admitted.saturating_sub(appended + lost_slots),
            appended,
            adopted,
            to_adopt,
            found: self.found.load(Relaxed),
            sealed: self.sealed.load(Relaxed),
            acked: self.acked.load(Relaxed),
            pending,
            set_aside: self.set_aside.load(Relaxed),
            lost: self.lost.load(Relaxed),
            lost_slots,
            damaged_bytes: self.damaged.load(Relaxed),
            batches: self.batches.load(Relaxed),
            resent: self.resent.load(Relaxed),
            segments: self.segments.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            disk_errors: self.disk_errors.load(Relaxed),
            full: self.full.load(Relaxed),
            opening: self.opening.load(Relaxed),
            connected: self.connected.load(Relaxed),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Release);
}

/// Takes from a counter, down to 0.
pub(super) fn take(counter: &AtomicU64, count: u64) {
    let _ = counter.fetch_update(Release, Relaxed, |value| Some(value.saturating_sub(count)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_admitted_and_appended_while_figures_are_read_looks_in_flight() {
        let counters = Counters::default();
        let figures = counters.figures(|| {
            add(&counters.pending, 1);
            add(&counters.appended, 1);
            1
        });
        assert_eq!((figures.admitted, figures.in_flight, figures.appended), (1, 1, 0));
    }
}
