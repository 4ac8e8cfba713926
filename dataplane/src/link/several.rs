//! Several control planes of one registry: the one in use, and the next when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Address, Link, LinkError};

/// Several addresses. All connections of the process go to the same one, for as long as it answers.
#[derive(Debug)]
pub struct Several {
    all: Vec<Address>,
    used: AtomicUsize,
}

/// Over which of them a connection goes.
pub(super) struct Over {
    several: Arc<Several>,
    at: usize,
}

impl Several {
    /// At least one address; the first is used first.
    #[must_use]
    pub fn new(all: Vec<Address>) -> Self {
        Self { all, used: AtomicUsize::new(0) }
    }

    /// Connects to the one in use, or else to the next that answers.
    pub(super) fn connect(self: &Arc<Self>, stop: &Arc<AtomicBool>) -> Result<Link, LinkError> {
        let first = self.used.load(Ordering::Relaxed);
        let mut failed = LinkError::Closed;
        for step in 0..self.all.len() {
            let at = (first + step) % self.all.len();
            match Link::connect(&self.all[at], stop.clone()) {
                Ok(link) => {
                    self.used.store(at, Ordering::Relaxed);
                    return Ok(link.over(Over { several: self.clone(), at }));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl Over {
    /// Lets the next connection go to the next address, unless another connection has seen to that.
    pub(super) fn lost(&self) {
        let next = (self.at + 1) % self.several.all.len();
        let _ = self.several.used.compare_exchange(self.at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    #[test]
    fn the_next_is_used_when_one_is_lost_and_kept_while_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        let addresses = paths.iter().cloned().map(Address::Unix).collect();
        let several = Address::Several(Arc::new(Several::new(addresses)));
        let stop = Arc::new(AtomicBool::new(false));
        assert!(Link::connect(&several, stop.clone()).is_err(), "none is there");
        let [b, c] = [&paths[1], &paths[2]].map(|path| UnixListener::bind(path).unwrap());
        c.set_nonblocking(true).unwrap();
        let mut sync = Link::connect(&several, stop.clone()).unwrap();
        let (peer, _) = b.accept().unwrap();
        // All go there, although it is not the first.
        let mut ship = Link::connect(&several, stop.clone()).unwrap();
        let (ship_peer, _) = b.accept().unwrap();
        drop((peer, ship_peer));
        // Both notice; the address moves on by one, not by two.
        for link in [&mut sync, &mut ship] {
            assert!(matches!(link.receive(Duration::from_secs(10)), Err(LinkError::Closed)));
        }
        let _again = Link::connect(&several, stop.clone()).unwrap();
        assert!(c.accept().is_ok());
        drop(c);
        std::fs::remove_file(&paths[2]).unwrap();
        // Round to the first, which is still away, and back to the second.
        let _back = Link::connect(&several, stop).unwrap();
        assert!(b.accept().is_ok());
    }
}
