//! The seam to monoio: how a worker's ring is built, and the few types of monoio's that the rest names.
//!
//! Rules that hold throughout (monoio 0.2.4 breaks where they are not kept): the runtime is built on the
//! worker's own thread; a pending `accept` is never dropped, since that leaks the descriptor; after a dropped
//! read what comes is thrown away and the connection closed, as it is after a dropped write; no waker crosses
//! threads; no two tasks wake each other in a loop, since with DEFER_TASKRUN completions then never arrive;
//! `write_vectored_all` and `read_vectored_exact` are not used, for they free memory that the kernel still
//! reads.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

pub(crate) use monoio::net::{TcpListener, TcpStream};

/// Entries of a worker's submission queue; the completion queue has four times as many.
const RING_ENTRIES: u32 = 1024;

/// Why a worker has no ring.
#[derive(Debug, thiserror::Error)]
#[error(
    "io_uring is refused ({0}); allow it (sysctl kernel.io_uring_disabled=0, and no seccomp filter on \
     io_uring_setup; a container needs its profile to allow it) and use Linux 6.1 or later"
)]
pub struct RingRefused(#[source] io::Error);

/// Runs `main` on this thread with a ring of its own, until it is done.
pub fn block_on<F: Future>(main: F) -> Result<F::Output, RingRefused> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_clamp()
        .setup_submit_all()
        .setup_cqsize(RING_ENTRIES * 4);
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(ring)
        .enable_timer()
        .build()
        .map_err(RingRefused)?;
    Ok(runtime.block_on(main))
}

/// Starts a task whose panic ends that task alone; `panicked` hears of it.
pub fn spawn_guarded(task: impl Future<Output = ()> + 'static, panicked: impl FnOnce() + 'static) {
    // The handle is not needed: a task ends by itself.
    drop(monoio::spawn(Guarded { task: catch(task), panicked: Some(panicked) }));
}

/// Lets other tasks run for at least `time`; also what long work yields through.
pub async fn sleep(time: Duration) {
    monoio::time::sleep(time).await;
}

/// Gives up on `task` after `time`.
pub async fn timeout<F: Future>(time: Duration, task: F) -> Option<F::Output> {
    monoio::time::timeout(time, task).await.ok()
}

/// Something panicked. The message has gone to stderr, from where it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Runs `part`, and says so where it panics: what it was given to work on goes on from there.
pub fn catch<F: Future>(part: F) -> Caught<F> {
    Caught { part }
}

pin_project! {
    /// The panic of a future ends here. A type of its own, since an `async` block would have room for the
    /// future twice, before its first poll and from then on.
    pub struct Caught<F> {
        #[pin]
        part: F,
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // What is shared with others are cells that each operation leaves whole.
        match catch_unwind(AssertUnwindSafe(|| self.project().part.poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

pin_project! {
    /// A task whose panic ends here: a worker's other connections go on.
    struct Guarded<T, P> {
        #[pin]
        task: Caught<T>,
        panicked: Option<P>,
    }
}

impl<T: Future<Output = ()>, P: FnOnce()> Future for Guarded<T, P> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.task.poll(context).map(|ended| {
            if ended == Err(Panicked) {
                this.panicked.take().into_iter().for_each(|panicked| panicked());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn a_panic_in_a_task_leaves_the_worker_running() {
        let seen = Rc::new(Cell::new(false));
        let told = seen.clone();
        block_on(async move {
            spawn_guarded(async { panic!("on purpose") }, move || told.set(true));
            sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
        assert!(seen.get());
    }

    #[test]
    fn a_task_is_held_once() {
        let task = async {
            let large = [1_u8; 4096];
            sleep(Duration::ZERO).await;
            assert_eq!(large[4095], 1);
        };
        let bytes = size_of_val(&task);
        assert!(bytes > 4096);
        let spawned = size_of_val(&Guarded { task: catch(task), panicked: Some(|| ()) });
        assert!(spawned < 2 * bytes, "{spawned} bytes for a task of {bytes}");
    }
}
