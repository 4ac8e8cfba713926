//! The thread that keeps the numbers on disk ahead of those that are given out, whatever the connection to
//! the control plane waits for meanwhile.
#![allow(clippy::disallowed_types, reason = "no worker waits for it")]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::numbers::NumberFiles;
use crate::guard;
use crate::log::{self, Entry};
use crate::spool::Watch;
use crate::spool::host::is_full;

/// How often the numbers on disk are looked after.
const TURN: Duration = Duration::from_millis(100);

/// The files, for this thread and for the one that reports what they say.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<NumberFiles>>);

/// The running thread.
#[derive(Debug)]
pub(super) struct Reserve {
    over: Sender<()>,
    thread: JoinHandle<()>,
    files: Shared,
    watch: Watch,
}

struct Ahead {
    files: Shared,
    watch: Watch,
    admitted: Vec<u64>,
    /// The log has it that the numbers can't be kept.
    is_told: bool,
}

impl Shared {
    pub(super) fn new(files: NumberFiles) -> Self {
        Self(Arc::new(Mutex::new(files)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, NumberFiles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserve {
    /// Reserves the first numbers, and starts the thread.
    pub(super) fn start(files: Shared, watch: Watch) -> io::Result<Self> {
        let admitted = watch.admitted_by_worker();
        let mut ahead = Ahead { files: files.clone(), watch: watch.clone(), admitted, is_told: false };
        match ahead.keep() {
            // Shipping, which makes room, must not wait for it.
            Err(error) if !is_full(&error) => return Err(error),
            _ => {}
        }
        let (over, ends) = bounded(0);
        let thread = guard::spawn("numbers", move || ahead.run(&ends))?;
        Ok(Self { over, thread, files, watch })
    }

    /// Writes down the last numbers; the workers have ended.
    pub(super) fn end(self) {
        drop(self.over);
        // One that panicked has said so.
        let _ = self.thread.join();
        if let Err(error) = self.files.lock().end(&self.watch.admitted_by_worker()) {
            log::log(&Entry::NumbersNotKept(&error));
        }
    }
}

impl Ahead {
    fn run(mut self, ends: &Receiver<()>) {
        while ends.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout) {
            // It is in the log, and tried again.
            let _ = self.keep();
        }
    }

    fn keep(&mut self) -> io::Result<()> {
        let admitted = self.watch.admitted_by_worker();
        let grown = admitted.iter().zip(&self.admitted).map(|(now, before)| now - before).max().unwrap_or(0);
        // Twice as fast the next time, and the time after that.
        let reserved = self.files.lock().reserve(&admitted, 4 * grown);
        if let Err(error) = &reserved
            && !self.is_told
        {
            log::log(&Entry::NumbersNotKept(error));
        }
        self.is_told = reserved.is_err();
        self.admitted = admitted;
        reserved
    }
}
