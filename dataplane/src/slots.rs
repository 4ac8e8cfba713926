//! The slots: what is known of every exchange in flight, in a file that outlives the process.
//!
//! The file lies on tmpfs (the runtime directory) and is mapped: a worker's stores are visible to the next
//! process after `kill -9`, without a syscall for any of them. A power cut clears it.
//!
//! ```text
//!      0  header page, in words: "LTSLOTS1" | version | node | boot | kernel boot id (2) | slots | workers
//!                                | alive_ms
//!   4096  one line of 128 bytes for each worker, up to a whole page: admitted | settled | zero ..
//!    ...  slots, 128 bytes each, the first of worker 0 first
//!
//! slot:  word 0 state | words 1..=10 the usage event's 80 bytes | words 11..=15 zero
//! state: free 0 -> open 1 (worker) -> settled 2 (worker) -> free (spool thread, once the record is written)
//! ```
//!
//! Invariant: an index is in one place only: a pool's free list, an open `Slot`, the settled channel, the
//! spool thread's hands, or the free channel. So channels that hold all slots of a worker are never full.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use memmap2::{MmapOptions, MmapRaw};
use wire::codec::DecodeError;
use wire::event::{EVENT_BYTES, UsageEvent};
use wire::id::{BootId, NodeId};

use crate::spool::host::preallocate;

/// What a process that is gone left in its slots.
pub mod adopt;
/// A worker's own slots.
pub mod pool;

use pool::SlotPool;

const MAGIC: u64 = u64::from_le_bytes(*b"LTSLOTS1");
const VERSION: u64 = 1;
const PAGE_BYTES: usize = 4096;
const SLOT_WORDS: usize = 16;
const SLOT_BYTES: usize = SLOT_WORDS * 8;
const EVENT_WORDS: usize = EVENT_BYTES / 8;
/// Words of the event that name it: set when a slot is opened, never after.
const BOOT_WORD: usize = 1;
const SEQ_WORD: usize = 2;
/// The word of the event that says where its counts come from.
const SOURCE_WORD: usize = 5;
const ALIVE_WORD: usize = 8;
const ADMITTED_WORD: usize = 0;
const SETTLED_WORD: usize = 1;

const FREE: u64 = 0;
const OPEN: u64 = 1;
const SETTLED: u64 = 2;

/// Whose slots, and how many.
#[derive(Clone, Copy, Debug)]
pub struct SlotsConfig {
    /// The node.
    pub node: NodeId,
    /// This process.
    pub boot: BootId,
    /// How many workers there are.
    pub workers: u16,
    /// How many exchanges each may have in flight or not yet written.
    pub per_worker: u32,
}

/// The mapped file.
#[derive(Debug)]
pub struct Slots {
    map: MmapRaw,
    path: PathBuf,
    config: SlotsConfig,
    lines_chunk: usize,
    slots_chunk: usize,
}

/// The spool thread's ends of a worker's two channels.
#[derive(Debug)]
pub struct Lane {
    /// Indexes of slots that are settled.
    pub settled: Receiver<u32>,
    /// Indexes of slots that are free again.
    pub free: Sender<u32>,
}

impl Slots {
    /// Makes the file `<boot>.slots` in `dir`, all free, a pool for each worker, and the spool thread's ends.
    pub fn create(dir: &Path, config: SlotsConfig) -> io::Result<(Arc<Self>, Vec<SlotPool>, Vec<Lane>)> {
        let path = dir.join(format!("{}.slots", config.boot));
        let building = path.with_extension("building");
        let made = Self::build(&building, path, config);
        if made.is_err() {
            // Each start that fails would take some of the tmpfs.
            let _ = fs::remove_file(building);
        }
        let this = made?;
        let (pools, lanes) = (0..config.workers).map(|worker| lane(&this, worker)).unzip();
        Ok((this, pools, lanes))
    }

    fn build(building: &Path, path: PathBuf, config: SlotsConfig) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(building)?;
        let lines_bytes = (usize::from(config.workers) * SLOT_BYTES).next_multiple_of(PAGE_BYTES);
        let slots = usize::from(config.workers) * config.per_worker as usize;
        // All of it up front: a page that tmpfs can't give later would end the process with SIGBUS.
        preallocate(&file, (PAGE_BYTES + lines_bytes + slots * SLOT_BYTES) as u64)?;
        let map = MmapOptions::new().populate().map_raw(&file)?;
        let lines_chunk = PAGE_BYTES / SLOT_BYTES;
        let this = Arc::new(Self {
            map,
            path,
            config,
            lines_chunk,
            slots_chunk: lines_chunk + lines_bytes / SLOT_BYTES,
        });
        this.write_header(slots as u64)?;
        // Only a file with a whole header ever has the name under which it is looked for.
        fs::rename(building, &this.path)?;
        Ok(this)
    }

    fn write_header(&self, slots: u64) -> io::Result<()> {
        let (high, low) = kernel_boot_id()?;
        let SlotsConfig { node, boot, workers, .. } = self.config;
        let words = [MAGIC, VERSION, node.0, boot.0, high, low, slots, u64::from(workers)];
        for (at, word) in words.into_iter().enumerate() {
            self.words()[at].store(word, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Says that the process lives. An exchange that it leaves behind counts as ended at the last of these.
    pub fn alive(&self, now_ms: u64) {
        self.words()[ALIVE_WORD].store(now_ms, Ordering::Relaxed);
    }

    /// How many exchanges were admitted.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.sum(ADMITTED_WORD)
    }

    /// How many each worker admitted.
    #[must_use]
    pub fn admitted_by_worker(&self) -> Vec<u64> {
        let of = |worker| self.line(worker)[ADMITTED_WORD].load(Ordering::Acquire);
        (0..self.config.workers).map(of).collect()
    }

    /// How many of them were settled.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.sum(SETTLED_WORD)
    }

    fn sum(&self, word: usize) -> u64 {
        (0..self.config.workers).map(|worker| self.line(worker)[word].load(Ordering::Relaxed)).sum()
    }

    /// The event that stands in a slot.
    pub fn event(&self, index: u32) -> Result<UsageEvent, DecodeError> {
        let slot = self.slot(index);
        let mut bytes = [0; EVENT_BYTES];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&slot[1..=EVENT_WORDS]) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        UsageEvent::decode(&bytes)
    }

    /// Marks a slot free. The caller is the spool thread, and has written the slot's record.
    pub fn release(&self, index: u32) {
        self.slot(index)[0].store(FREE, Ordering::Release);
    }

    /// Whether every slot is free.
    #[must_use]
    pub fn all_free(&self) -> bool {
        let slots = u32::from(self.config.workers) * self.config.per_worker;
        (0..slots).all(|index| self.slot(index)[0].load(Ordering::Acquire) == FREE)
    }

    /// Takes the file away where no exchange stands in it. Says whether it is gone.
    pub fn remove_if_free(&self) -> io::Result<bool> {
        if !self.all_free() {
            return Ok(false);
        }
        fs::remove_file(&self.path).map(|()| true)
    }

    fn line(&self, worker: u16) -> &[AtomicU64; SLOT_WORDS] {
        &self.words().as_chunks().0[self.lines_chunk + usize::from(worker)]
    }

    fn slot(&self, index: u32) -> &[AtomicU64; SLOT_WORDS] {
        &self.words().as_chunks().0[self.slots_chunk + index as usize]
    }

    #[allow(unsafe_code, reason = "a mapping is memory that no Rust value owns")]
    fn words(&self) -> &[AtomicU64] {
        let first = self.map.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping is page aligned, readable and writable, `len` bytes long, and lives as long as
        // `self`; it is reached through atomics only, and any bytes are a valid `AtomicU64`.
        unsafe { std::slice::from_raw_parts(first, self.map.len() / size_of::<AtomicU64>()) }
    }
}

fn lane(slots: &Arc<Slots>, worker: u16) -> (SlotPool, Lane) {
    let per_worker = slots.config.per_worker;
    let (settled_tx, settled) = bounded(per_worker as usize);
    let (free, free_rx) = bounded(per_worker as usize);
    (SlotPool::new(Arc::clone(slots), worker, settled_tx, free_rx), Lane { settled, free })
}

/// The id that the kernel drew when the machine started.
fn kernel_boot_id() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let (high, low) = digits.split_at_checked(16).unwrap_or_default();
    let number = |hex| u64::from_str_radix(hex, 16).map_err(io::Error::other);
    Ok((number(high)?, number(low)?))
}

#[cfg(test)]
mod tests;
