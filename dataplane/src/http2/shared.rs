//! What the task of a connection and those of its streams share; all of them run on one worker.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::http2::pipe::Pipe;
use crate::worker::Worker;

/// How many more streams a client may cancel than it lets end.
const CANCELLED_MAX: usize = 200;
/// How many bytes may pass for each byte of a head or a body, beside `IDLE_BYTES_MAX`: frames without use
/// are a flood.
const BYTES_FOR_PAYLOAD_MAX: u64 = 8;
/// How many bytes may pass without any use.
const IDLE_BYTES_MAX: u64 = 8 << 20;

/// What a connection and its streams share.
pub struct Shared {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The plaintext on its way.
    pub pipe: Rc<RefCell<Pipe>>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    cancelled: Cell<usize>,
    payload: Cell<u64>,
    task: RefCell<Option<Waker>>,
    over: Cell<bool>,
    rests: Cell<u64>,
    awaiting_rest: RefCell<Vec<Waker>>,
}

impl Shared {
    /// For a new connection.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self {
            worker,
            pipe: Rc::default(),
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            cancelled: Cell::new(0),
            payload: Cell::new(0),
            task: RefCell::default(),
            over: Cell::new(false),
            rests: Cell::new(0),
            awaiting_rest: RefCell::default(),
        }
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Since when none is.
    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Counts bytes of heads and bodies, either way.
    pub fn add_payload(&self, bytes: usize) {
        self.payload.set(self.payload.get() + bytes as u64);
    }

    /// Whether the client only keeps us busy.
    pub fn is_flooded(&self) -> bool {
        let bytes = self.pipe.borrow().bytes();
        self.cancelled.get() > CANCELLED_MAX
            || bytes > IDLE_BYTES_MAX + self.payload.get().saturating_mul(BYTES_FOR_PAYLOAD_MAX)
    }

    /// The connection's task is polled.
    pub fn polled_by(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn wake_connection(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// All that streams have sent was taken by the kernel.
    pub fn rest(&self) {
        self.rests.set(self.rests.get() + 1);
        let waiting = std::mem::take(&mut *self.awaiting_rest.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The connection has ended: nobody needs to wait for it.
    pub fn end(&self) {
        self.over.set(true);
        self.rest();
    }

    /// Waits until all that was sent before is on its way; a reset would overtake it.
    pub async fn rested(&self) {
        let before = self.rests.get();
        self.wake_connection();
        poll_fn(|context| {
            if self.over.get() || self.rests.get() > before {
                return Poll::Ready(());
            }
            self.awaiting_rest.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A stream has begun.
    pub fn open(self: &Rc<Self>) -> OpenStream {
        self.streams.set(self.streams.get() + 1);
        OpenStream { shared: self.clone(), cancelled: Cell::new(false) }
    }
}

/// A stream counts as open until this is dropped.
pub struct OpenStream {
    shared: Rc<Shared>,
    cancelled: Cell<bool>,
}

impl OpenStream {
    /// The client has cancelled it.
    pub fn cancelled(&self) {
        self.cancelled.set(true);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let shared = &self.shared;
        let before = shared.cancelled.get();
        shared.cancelled.set(if self.cancelled.get() { before + 1 } else { before.saturating_sub(1) });
        shared.streams.set(shared.streams.get() - 1);
        if shared.streams.get() == 0 {
            shared.idle_since.set(Instant::now());
            // Its task sees then that another limit of time applies.
            shared.wake_connection();
        }
    }
}
