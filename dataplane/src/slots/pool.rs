//! A worker's own slots: opening, writing and settling one touches no lock, makes no syscall and allocates
//! nothing.
//!
//! Free indexes are taken from the end of a list, so that the slot used last, still in the cache, is used
//! next; the list is refilled from the spool thread's channel when it is empty. A `Slot` that is dropped
//! while open is settled with what it had: an exchange whose task is gone has its usage event all the same.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use wire::event::{EVENT_BYTES, UsageEvent};
use wire::id::{BootId, EventSeq};

use super::{ADMITTED_WORD, BOOT_WORD, OPEN, SEQ_WORD, SETTLED, SETTLED_WORD, SOURCE_WORD, Slots};

/// The status of an exchange whose client left, or whose process ended, before there was one.
pub const STATUS_LEFT: u16 = 499;

/// How many slots that came back are taken in with each that is given out: more than go out, so that none
/// pile up.
const RETURNED_AT_ONCE: usize = 4;

/// The words that change while an exchange goes on; what says where the counts come from is last.
const WRITTEN: [usize; 8] = [0, 3, 4, 6, 7, 8, 9, SOURCE_WORD];

/// The slots of one worker. It moves to the worker's thread once.
#[derive(Debug)]
pub struct SlotPool {
    shared: Arc<Shared>,
    free: Vec<u32>,
    returned: Receiver<u32>,
    admitted: u64,
}

#[derive(Debug)]
struct Shared {
    slots: Arc<Slots>,
    worker: u16,
    settled: Sender<u32>,
}

/// An exchange in flight.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
    index: u32,
    is_final: bool,
    /// The counters of a worker have one writer: a slot stays on its worker's thread.
    not_send: PhantomData<*const ()>,
}

impl SlotPool {
    pub(super) fn new(slots: Arc<Slots>, worker: u16, settled: Sender<u32>, returned: Receiver<u32>) -> Self {
        let per_worker = slots.config.per_worker;
        let first = u32::from(worker) * per_worker;
        let free = (first..first + per_worker).rev().collect();
        Self { shared: Arc::new(Shared { slots, worker, settled }), free, returned, admitted: 0 }
    }

    /// The process that the pool's exchanges belong to.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.shared.slots.config.boot
    }

    /// The number that the next exchange gets if it is admitted.
    #[must_use]
    pub fn next_seq(&self) -> EventSeq {
        EventSeq::admitted(self.shared.worker, self.admitted + 1)
    }

    /// Admits an exchange; `None`, and no number is used up, where no slot is free.
    ///
    /// The pool gives `boot` and `seq`, whatever stands in `event`. In `event`, as in every later state of
    /// it, `ts_ms - latency_ms` is when the exchange began.
    pub fn open(&mut self, event: &UsageEvent) -> Option<Slot> {
        let index = self.take_free()?;
        let event = UsageEvent { boot: self.boot(), seq: self.next_seq(), ..*event };
        self.admitted += 1;
        let slots = &self.shared.slots;
        let slot = Slot { shared: Arc::clone(&self.shared), index, is_final: false, not_send: PhantomData };
        let words = slots.slot(index);
        words[1 + BOOT_WORD].store(event.boot.0, Ordering::Relaxed);
        words[1 + SEQ_WORD].store(event.seq.0, Ordering::Relaxed);
        slot.write(&event);
        words[0].store(OPEN, Ordering::Release);
        slots.line(self.shared.worker)[ADMITTED_WORD].store(self.admitted, Ordering::Release);
        Some(slot)
    }

    /// The slot that was freed last: a few that are always the same stay in the caches.
    fn take_free(&mut self) -> Option<u32> {
        // Never more than its capacity: it once held every index of this worker.
        self.free.extend(self.returned.try_iter().take(RETURNED_AT_ONCE));
        self.free.pop()
    }
}

impl Slot {
    /// The exchange's number.
    #[must_use]
    pub fn seq(&self) -> EventSeq {
        EventSeq(self.shared.slots.slot(self.index)[1 + SEQ_WORD].load(Ordering::Relaxed))
    }

    /// Notes what is known so far (all of `event` but `boot` and `seq`).
    pub fn write(&self, event: &UsageEvent) {
        let words = self.shared.slots.slot(self.index);
        let [before @ .., (at, source)] = stores(event);
        for (at, word) in before {
            words[1 + at].store(word, Ordering::Relaxed);
        }
        words[1 + at].store(source, Ordering::Release);
    }

    /// Settles the exchange with its final figures.
    pub fn settle(mut self, event: &UsageEvent) {
        self.write(event);
        self.is_final = true;
    }

    fn hand_over(&self) {
        let Shared { slots, worker, settled } = &*self.shared;
        slots.slot(self.index)[0].store(SETTLED, Ordering::Release);
        let count = &slots.line(*worker)[SETTLED_WORD];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
        // Never full: it holds all indexes of this worker. Where the spool thread has gone, the slot stays
        // settled in the file, and the next start adopts it.
        let _ = settled.try_send(self.index);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_final
            && let Ok(event) = self.shared.slots.event(self.index)
        {
            self.write(&ended(event, now_ms()));
        }
        self.hand_over();
    }
}

/// Which words of an event are written, in this order: the process may be killed between any two of them, and
/// what stands in the slot then must not say of older counts, or none, that they are the final ones.
fn stores(event: &UsageEvent) -> [(usize, u64); WRITTEN.len()] {
    let bytes: [u8; EVENT_BYTES] = event.encode();
    let words = bytes.as_chunks::<8>().0;
    WRITTEN.map(|at| (at, u64::from_le_bytes(words[at])))
}

/// The event of an exchange that ended at `now_ms` without being settled: what it had, a status, and its
/// duration.
pub(super) fn ended(mut event: UsageEvent, now_ms: u64) -> UsageEvent {
    let began = event.ts_ms.saturating_sub(u64::from(event.latency_ms));
    // A clock that went back must not make the exchange end before what is known of it.
    event.ts_ms = event.ts_ms.max(now_ms);
    event.latency_ms = u32::try_from(event.ts_ms - began).unwrap_or(u32::MAX);
    if event.status == 0 {
        event.status = STATUS_LEFT;
    }
    event
}

/// Unix time in milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::EVENT_WORDS;
    use super::*;
    use wire::event::{Tokens, UsageSource};

    #[test]
    fn wherever_a_write_is_cut_final_stands_beside_the_final_counts_alone() {
        let tokens = Tokens { prompt: 1, cached: 2, cache_write: 3, completion: 4, reasoning: 5, total: 6 };
        let last = UsageEvent {
            ts_ms: 7,
            status: 200,
            usage_source: UsageSource::Final,
            tokens,
            latency_ms: 8,
            ttft_ms: 9,
            ..UsageEvent::default()
        };
        let first = UsageEvent { ts_ms: 1, usage_source: UsageSource::Partial, ..UsageEvent::default() };
        for cut in 0..=WRITTEN.len() {
            let mut bytes = first.encode();
            for (at, word) in &stores(&last)[..cut] {
                bytes.as_chunks_mut::<8>().0[*at] = word.to_le_bytes();
            }
            let event = UsageEvent::decode(&bytes).unwrap();
            let is_final = event.usage_source == UsageSource::Final;
            assert_eq!(is_final, cut == WRITTEN.len(), "{event:?}");
            assert!(!is_final || event == last, "{event:?}");
        }
        let mut all = [WRITTEN.as_slice(), &[BOOT_WORD, SEQ_WORD]].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..EVENT_WORDS), "each word once");
    }
}
