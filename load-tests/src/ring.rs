//! The io_uring runtime of the upstream and of the load generator.
//!
//! SINGLE_ISSUER ties a ring to the thread that made it, so a runtime is built on the thread that runs it.
//! There is no fall-back to epoll: a measurement that silently used something else would be worse than none.

use std::io;

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};

/// Submission entries; the completion queue gets four times as many.
const ENTRIES: u32 = 1024;

/// Builds a runtime for the calling thread.
pub(crate) fn build() -> io::Result<Runtime<TimeDriver<IoUringDriver>>> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_clamp().setup_cqsize(ENTRIES * 4).setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).with_entries(ENTRIES).enable_timer().build()
}
