//! A worker allocates nothing for an exchange, once its connections and buffers are warm: a data plane serves
//! in this process, under an allocator that counts by thread.

// A global allocator can only be written with unsafe code; this one passes every call on.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "all of it is a test, which ends at what it does not expect")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dataplane::watch;
use in_process::exchange;

#[path = "serve/in_process.rs"]
mod in_process;
#[cfg(test)]
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/plane.rs"]
mod plane;

/// More than this process ever has.
const THREADS_MAX: usize = 256;
/// Exchanges before those that are counted, and those.
const EXCHANGES: usize = 2000;

static THREADS: AtomicUsize = AtomicUsize::new(0);
static TIDS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static COUNTS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

impl Counting {
    fn count() {
        let index = INDEX.get();
        let index = if index < THREADS_MAX { index } else { Self::new_thread() };
        COUNTS[index].fetch_add(1, Ordering::Relaxed);
    }

    fn new_thread() -> usize {
        let index = THREADS.fetch_add(1, Ordering::Relaxed).min(THREADS_MAX - 1);
        INDEX.set(index);
        // SAFETY: takes nothing, and can't fail.
        TIDS[index].store(unsafe { libc::gettid() }, Ordering::Relaxed);
        index
    }
}

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the thread called `name` has allocated.
fn allocations_of(name: &str) -> u64 {
    let known = THREADS.load(Ordering::Relaxed).min(THREADS_MAX);
    let index = (0..known).find(|index| {
        let tid = TIDS[*index].load(Ordering::Relaxed);
        let comm = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    });
    COUNTS[index.expect("the thread has allocated something")].load(Ordering::Relaxed)
}

#[test]
fn a_warm_worker_allocates_nothing_for_an_exchange() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = in_process::start(dir.path());
    let key = plane::key(plane::GOOD);
    (0..EXCHANGES).for_each(|_| exchange(&mut client, &key));
    let (before, began) = (allocations_of("worker 0"), Instant::now());
    (0..EXCHANGES).for_each(|_| exchange(&mut client, &key));
    let allocated = allocations_of("worker 0") - before;

    // The worker's sweep has a timer, which monoio allocates.
    let sweeps = watch::millis(began.elapsed()) / watch::millis(watch::SWEEP_INTERVAL) + 2;
    let allowed = 4 * sweeps;
    assert!(allowed < EXCHANGES as u64, "too slow a machine to tell: {:?}", began.elapsed());
    assert!(allocated <= allowed, "{allocated} allocations in {EXCHANGES} exchanges and {sweeps} sweeps");
}
