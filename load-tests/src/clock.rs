//! Time to the microsecond on a ring: waiting until something is due, and stamps of when it was sent.
//!
//! monoio's timers count whole milliseconds, so that whatever waits for one wakes in bunches: at twenty
//! thousand requests a second, twenty at once. Here each ring has one timerfd, set to the earliest moment
//! that anybody waits for, and read through the ring like any other file.
#![allow(unsafe_code, reason = "timerfd and clock_gettime are system calls that std does not wrap")]

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use monoio::fs::File;

/// Wakes the tasks of one ring when they are due.
pub(crate) struct Pacer {
    timer: RawFd,
    waiting: RefCell<BinaryHeap<Reverse<Waiting>>>,
}

/// A task that waits; those that are due earlier are less.
struct Waiting {
    due: Instant,
    waker: Waker,
}

impl Pacer {
    /// Starts one on the calling thread's runtime; it ends with it.
    pub(crate) fn start() -> io::Result<Rc<Self>> {
        let timer = timer()?;
        let pacer = Rc::new(Self { timer: timer.as_raw_fd(), waiting: RefCell::default() });
        let file = File::from_std(timer.into())?;
        let for_task = Rc::clone(&pacer);
        monoio::spawn(async move {
            let mut count = vec![0; size_of::<u64>()];
            loop {
                let (result, read) = file.read_at(count, 0).await;
                count = read;
                match result {
                    Ok(_) => for_task.wake_due(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return eprintln!("timerfd: {error}"),
                }
            }
        });
        Ok(pacer)
    }

    /// Waits until it is `due`; returns at once when it was before now.
    pub(crate) async fn until(&self, due: Instant) {
        let mut is_waiting = false;
        poll_fn(|context| {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            if !is_waiting {
                is_waiting = true;
                self.wait(Waiting { due, waker: context.waker().clone() });
            }
            Poll::Pending
        })
        .await;
    }

    fn wait(&self, one: Waiting) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.peek().is_none_or(|Reverse(first)| one.due < first.due) {
            self.set(one.due);
        }
        waiting.push(Reverse(one));
    }

    fn wake_due(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(Reverse(first)) = waiting.peek() {
            if first.due > Instant::now() {
                return self.set(first.due);
            }
            if let Some(Reverse(first)) = waiting.pop() {
                first.waker.wake();
            }
        }
    }

    fn set(&self, due: Instant) {
        // Zero would switch the timer off.
        let left = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let at = libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::itimerspec { it_interval: never, it_value: at };
        // SAFETY: the descriptor is open for as long as the pacer's task, which ends with the runtime; after
        // that no task is left to call this. `value` is valid, and no old value is asked for.
        let result = unsafe { libc::timerfd_settime(self.timer, 0, &raw const value, std::ptr::null_mut()) };
        assert_eq!(result, 0, "a timer can be set: {}", io::Error::last_os_error());
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

fn timer() -> io::Result<OwnedFd> {
    // Without TFD_NONBLOCK: with it the ring would hand EAGAIN through instead of waiting.
    // SAFETY: a plain system call.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Nanoseconds of CLOCK_MONOTONIC, which is the same for all processes of a machine.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_wait_neither_delays_an_earlier_one_nor_is_hastened_by_it() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        crate::ring::build().unwrap().block_on(async move {
            let (pacer, begun) = (Pacer::start().unwrap(), Instant::now());
            let waits = [30, 5, 0, 17].map(|ms| {
                let (pacer, seen) = (Rc::clone(&pacer), Rc::clone(&seen));
                let due = begun + Duration::from_millis(ms);
                monoio::spawn(async move {
                    pacer.until(due).await;
                    assert!(Instant::now() >= due);
                    seen.borrow_mut().push(ms);
                })
            });
            for wait in waits {
                wait.await;
            }
        });
        assert_eq!(*order.borrow(), [0, 5, 17, 30]);
    }

    #[test]
    fn waits_of_microseconds_are_not_rounded_to_milliseconds() {
        const WAITS: u32 = 100;
        let begun = Instant::now();
        crate::ring::build().unwrap().block_on(async {
            let (pacer, begun) = (Pacer::start().unwrap(), Instant::now());
            for number in 1..=WAITS {
                pacer.until(begun + number * Duration::from_micros(50)).await;
            }
        });
        // In milliseconds they would take at least a hundred of them; a busy machine may take some.
        assert!(begun.elapsed() < Duration::from_millis(80), "{:?}", begun.elapsed());
    }
}
