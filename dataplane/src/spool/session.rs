//! The ship thread: one connection to the control plane after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use wire::frame::{Hello, Role};
use wire::id::{BootId, Generation, NodeId, RegistryId};

use super::ship::{ShipError, Shipper};
use crate::link::{Address, Link};
use crate::sys;

/// How long the thread waits for an answer, or for a new batch, before it looks for the other.
const TURN: Duration = Duration::from_millis(20);
/// How often an idle connection is looked at.
const IDLE_LOOK: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The thread's state.
#[derive(Debug)]
pub(super) struct Ship {
    pub(super) address: Address,
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) shipper: Shipper,
    /// Something was sealed.
    pub(super) wake: Receiver<()>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Ship {
    /// Ships until the stop flag is raised.
    pub(super) fn run(mut self) {
        // A batch is a second's work of a core full of requests: they wait for none of it.
        sys::give_way();
        let mut backoff = BACKOFF_MIN;
        while !self.stopped() {
            let result = self.session(&mut backoff);
            self.shipper.shared.counters.connected.store(false, Relaxed);
            if result.is_err() && !self.stopped() {
                self.rest(jittered(backoff));
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopped() && Instant::now() < until {
            thread::sleep(TURN.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// One connection, from greeting to its end.
    fn session(&mut self, backoff: &mut Duration) -> Result<(), ShipError> {
        self.shipper.rewind()?;
        let mut link = Link::connect(&self.address, Arc::clone(&self.stop))?;
        link.greet(Hello {
            role: Role::Ship,
            node: self.node,
            boot: self.boot,
            registry: RegistryId(0),
            generation: Generation(0),
        })?;
        self.shipper.shared.counters.connected.store(true, Relaxed);
        let mut looked = Instant::now();
        while !self.stopped() {
            self.shipper.fill(&mut link)?;
            if self.shipper.is_held_up() {
                thread::sleep(TURN);
            } else if self.shipper.has_sent() {
                self.shipper.check_patience()?;
                self.hear(&mut link, TURN, backoff)?;
            } else {
                let _ = self.wake.recv_timeout(TURN);
                // A peer that has gone is noticed also while there is nothing to send.
                if looked.elapsed() > IDLE_LOOK {
                    looked = Instant::now();
                    self.hear(&mut link, Duration::from_nanos(1), backoff)?;
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, link: &mut Link, timeout: Duration, backoff: &mut Duration) -> Result<(), ShipError> {
        if let Some(frame) = link.receive(timeout)?
            && self.shipper.hear(frame, link)?
        {
            *backoff = BACKOFF_MIN;
        }
        Ok(())
    }
}

/// Between half of `time` and all of it, so that the nodes of a fleet do not come back at once.
fn jittered(time: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    time / 2 + (time / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
