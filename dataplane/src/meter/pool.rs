//! Meters that a worker keeps from one answer to the next: their buffers are the only ones that metering
//! needs.

use std::cell::RefCell;

use super::stream::{StreamMeter, StreamMode};
use super::whole::WholeMeter;

/// How many of each kind are kept.
const KEPT_MAX: usize = 1024;

/// Free meters. They are boxed, so that handing one over moves a pointer.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "they move between here and the relays, and are large")]
pub struct MeterPool {
    whole: RefCell<Vec<Box<WholeMeter>>>,
    stream: RefCell<Vec<Box<StreamMeter>>>,
}

impl MeterPool {
    /// A meter for an answer that is one document; `until_close` where only the connection's end delimits it.
    pub fn whole(&self, until_close: bool) -> Box<WholeMeter> {
        let mut meter = self.whole.borrow_mut().pop().unwrap_or_default();
        meter.start(until_close);
        meter
    }

    /// A meter for an event stream.
    pub fn stream(&self, mode: StreamMode) -> Box<StreamMeter> {
        let Some(mut meter) = self.stream.borrow_mut().pop() else { return Box::new(StreamMeter::new(mode)) };
        meter.restart(mode);
        meter
    }

    /// Takes a meter back.
    pub fn give_whole(&self, meter: Box<WholeMeter>) {
        keep(&self.whole, meter);
    }

    /// Takes a meter back.
    pub fn give_stream(&self, meter: Box<StreamMeter>) {
        keep(&self.stream, meter);
    }
}

fn keep<T>(free: &RefCell<Vec<Box<T>>>, meter: Box<T>) {
    let mut free = free.borrow_mut();
    if free.len() < KEPT_MAX {
        free.push(meter);
    }
}
