//! A descriptor that is kept back for when the process has no other.
//!
//! Accepting takes a descriptor before it looks whether anybody connects. Without one, clients would wait in
//! the backlog and hear nothing. With the reserve given up for a moment they can be accepted, and closed at
//! once: whoever is turned away knows, and goes elsewhere.

use std::fs::File;
use std::io;

/// The descriptor; none while it has been given up.
pub(super) struct Reserve(Option<File>);

impl Reserve {
    /// Takes one, if there is one.
    pub(super) fn new() -> Self {
        let mut reserve = Self(None);
        reserve.refill();
        reserve
    }

    /// Gives it up; false if that has been done already.
    pub(super) fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one again where it was given up; false if there is none to be had.
    pub(super) fn refill(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }
}

/// Whether the process, or the system, has no descriptor left.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
