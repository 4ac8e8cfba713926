//! Threads that the process can't do without: where one panics the process ends itself, to be started anew.
//!
//! Without the spool thread no slot is freed, and every request is refused while all else looks well; without
//! the sync thread no revocation arrives.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use crate::log::{self, Entry};
use crate::sys;

/// Starts such a thread.
pub fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    spawn_or(name, run, sys::end_self)
}

fn spawn_or(
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        // What the thread leaves behind is as a crash leaves it: the next start recovers.
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            log::log(&Entry::ThreadPanicked(name));
            end();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn a_thread_that_panics_ends_the_process_and_one_that_returns_does_not() {
        for (panics, expected) in [(true, Ok(())), (false, Err(()))] {
            let (tell, ended) = bounded(1);
            let end = move || tell.send(()).unwrap();
            spawn_or("test", move || assert!(!panics, "as asked for"), end).unwrap().join().unwrap();
            assert_eq!(ended.try_recv().map_err(drop), expected);
        }
    }
}
