//! One sweep per worker instead of a timer and a pending read for each operation.
//!
//! A connection has one entry: when what it does now must be done, the key that was admitted, and, while it
//! waits for an upstream, the client's socket, so that a client that leaves is noticed. The worker sweeps all
//! entries every 50 ms; what is due is woken with the reason. `Watch::run` is how an operation is put under
//! it. The operation is dropped then, and by the rules of `runtime` its connection with it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use crate::auth::unix_ms;
use crate::sys::HangupPoll;
use crate::tables::cuts::KeyMark;

/// How often a worker sweeps: how late a deadline or a departure may be noticed.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Why an operation was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// Its time was over.
    Deadline,
    /// The client closed its connection, or the key of what goes on was revoked with the order to cut.
    ClientLeft,
    /// The process is ending, and nothing was going on, or its time is over.
    Draining,
}

struct Entry {
    deadline_ms: u64,
    client: RawFd,
    idle: bool,
    key: KeyMark,
    revoked: bool,
    fired: Option<Fired>,
    waker: Option<Waker>,
}

/// The clocks, as of a sweep.
#[derive(Clone, Copy)]
struct Swept {
    at: Instant,
    now_ms: u64,
    unix_ms: u64,
}

const NEVER: u64 = u64::MAX;
const NO_CLIENT: RawFd = -1;
/// What stands for a descriptor where the client's departure is told, not seen.
pub const DEPARTURE_TOLD: RawFd = -2;

/// Whole milliseconds; `as_millis` divides 128 bits.
pub fn millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into())
}

/// All entries of a worker.
pub struct Watches {
    began: Instant,
    swept: Cell<Swept>,
    entries: RefCell<Vec<Option<Entry>>>,
    free: RefCell<Vec<usize>>,
    poll: RefCell<HangupPoll>,
    live: Cell<usize>,
    has_ended: Cell<bool>,
}

impl Default for Watches {
    fn default() -> Self {
        let began = Instant::now();
        Self {
            began,
            swept: Cell::new(Swept { at: began, now_ms: 0, unix_ms: unix_ms() }),
            entries: RefCell::default(),
            free: RefCell::default(),
            poll: RefCell::default(),
            live: Cell::new(0),
            has_ended: Cell::new(false),
        }
    }
}

impl Watches {
    /// Makes an entry.
    pub fn add(self: &Rc<Self>) -> Watch {
        let entry = Entry {
            deadline_ms: NEVER,
            client: NO_CLIENT,
            idle: false,
            key: KeyMark::NONE,
            revoked: false,
            fired: None,
            waker: None,
        };
        let mut entries = self.entries.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            entries.push(None);
            entries.len() - 1
        });
        entries[index] = Some(entry);
        self.live.set(self.live.get() + 1);
        Watch { watches: self.clone(), index }
    }

    /// How many entries there are: the worker's connections.
    pub fn live(&self) -> usize {
        self.live.get()
    }

    /// Coarse monotonic time in milliseconds, as of the last sweep.
    pub fn now_ms(&self) -> u64 {
        self.swept.get().now_ms
    }

    /// Unix time in milliseconds at `instant`. A step of the system's clock shows from the next sweep on.
    pub fn unix_ms(&self, instant: Instant) -> u64 {
        let swept = self.swept.get();
        match instant.checked_duration_since(swept.at) {
            Some(since) => swept.unix_ms + millis(since),
            None => swept.unix_ms.saturating_sub(millis(swept.at.saturating_duration_since(instant))),
        }
    }

    /// Wakes everything, whatever goes on: the process ends now.
    pub fn end_all(&self) {
        self.has_ended.set(true);
        let mut entries = self.entries.borrow_mut();
        let fired = entries.iter_mut().flatten().filter_map(|entry| entry.fire(Fired::Draining));
        let woken: Vec<Waker> = fired.collect();
        drop(entries);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether the process ends now: what was given up was, most likely, not left by its client.
    pub fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Ends, as if its client had left, what is under way with a key that `is_cut`.
    pub fn cut(&self, is_cut: impl Fn(KeyMark) -> bool) {
        let mut woken = Vec::new();
        for entry in self.entries.borrow_mut().iter_mut().flatten() {
            if entry.key != KeyMark::NONE && !entry.revoked && is_cut(entry.key) {
                entry.revoked = true;
                woken.extend(entry.fire(Fired::ClientLeft));
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes what is due, and whose client has left; where the process is ending, also what is idle.
    pub fn sweep(&self, draining: bool) {
        let at = Instant::now();
        let now_ms = millis(at - self.began);
        self.swept.set(Swept { at, now_ms, unix_ms: unix_ms() });
        let mut poll = self.poll.borrow_mut();
        poll.clear();
        let mut woken = Vec::new();
        for (index, entry) in self.entries.borrow_mut().iter_mut().enumerate() {
            let Some(entry) = entry else { continue };
            if entry.deadline_ms <= now_ms {
                woken.extend(entry.fire(Fired::Deadline));
            } else if draining && entry.idle {
                woken.extend(entry.fire(Fired::Draining));
            } else if entry.client >= 0 {
                poll.add(entry.client, index);
            }
        }
        for index in poll.gone() {
            if let Some(entry) = &mut self.entries.borrow_mut()[index] {
                woken.extend(entry.fire(Fired::ClientLeft));
            }
        }
        // Only now: a woken task may add and drop entries.
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Entry {
    fn fire(&mut self, why: Fired) -> Option<Waker> {
        self.fired = Some(why);
        self.deadline_ms = NEVER;
        self.waker.take()
    }
}

/// A connection's entry.
pub struct Watch {
    watches: Rc<Watches>,
    index: usize,
}

impl Watch {
    fn entry<T>(&self, with: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.watches.entries.borrow_mut();
        with(entries[self.index].as_mut().expect("an entry lives as long as its watch"))
    }

    /// Runs `operation` for at most `limit`, unless it is given up for another reason first.
    pub fn run<F: Future>(&self, limit: Duration, operation: F) -> Run<'_, F> {
        // One sweep more than asked for, since the coarse clock may be that much behind.
        let limit_ms = millis(limit).saturating_add(millis(SWEEP_INTERVAL));
        let deadline_ms = self.watches.now_ms().saturating_add(limit_ms);
        Run { watch: self, deadline_ms, begun: false, operation }
    }

    /// From now on `run` also ends when the client behind `fd` has left.
    pub fn watch_client(&self, fd: RawFd) {
        self.entry(|entry| entry.client = fd);
    }

    /// The client may leave unnoticed again.
    pub fn ignore_client(&self) {
        self.entry(|entry| {
            entry.client = NO_CLIENT;
            if entry.fired == Some(Fired::ClientLeft) && !entry.revoked {
                entry.fired = None;
            }
        });
    }

    /// For whoever learns of a departure that no socket shows.
    pub fn departure(&self) -> Departure {
        Departure { watches: self.watches.clone(), index: self.index }
    }

    /// Whether nothing is going on, so that the process may end this connection when it ends itself. The key
    /// of the request before is out of the matter either way.
    pub fn set_idle(&self, idle: bool) {
        self.entry(|entry| (entry.idle, entry.key) = (idle, KeyMark::NONE));
    }

    /// What goes on from now on does so with this key.
    pub fn set_key(&self, key: KeyMark) {
        self.entry(|entry| (entry.key, entry.revoked) = (key, false));
    }

    /// Whether what went on was ended because its key was revoked.
    pub fn is_revoked(&self) -> bool {
        self.entry(|entry| entry.revoked)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.entries.borrow_mut()[self.index] = None;
        self.watches.free.borrow_mut().push(self.index);
        self.watches.live.set(self.watches.live.get() - 1);
    }
}

/// Tells a watch that its client has left. Of no use after the watch.
pub struct Departure {
    watches: Rc<Watches>,
    index: usize,
}

impl Departure {
    /// Ends the watch's wait, if it is one that a departure ends: true then.
    pub fn tell(&self) -> bool {
        let mut entries = self.watches.entries.borrow_mut();
        let watched = entries[self.index].as_mut();
        let Some(entry) = watched.filter(|entry| entry.client == DEPARTURE_TOLD) else { return false };
        entry.client = NO_CLIENT;
        entry.fired = Some(Fired::ClientLeft);
        true
    }
}

pin_project! {
    /// An operation under a watch. A type of its own, since an `async fn` would hold the operation twice.
    pub struct Run<'a, F> {
        watch: &'a Watch,
        deadline_ms: u64,
        begun: bool,
        #[pin]
        operation: F,
    }
}

impl<F: Future> Future for Run<'_, F> {
    type Output = Result<F::Output, Fired>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.operation.poll(context) {
            return Poll::Ready(Ok(done));
        }
        this.watch.entry(|entry| {
            if !*this.begun {
                *this.begun = true;
                entry.deadline_ms = *this.deadline_ms;
                // The operation before may have ended in the moment when it was to be given up.
                entry.fired = entry.fired.filter(|why| *why == Fired::ClientLeft);
            }
            if let Some(why) = entry.fired.take() {
                return Poll::Ready(Err(why));
            }
            if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                entry.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;
    use std::os::fd::AsRawFd;
    use std::pin::pin;

    fn sweeping<T>(test: impl Future<Output = T>, watches: &Rc<Watches>) -> T {
        runtime::block_on(async {
            let mut test = pin!(test);
            loop {
                watches.sweep(false);
                if let Some(done) = runtime::timeout(Duration::from_millis(5), test.as_mut()).await {
                    return done;
                }
            }
        })
        .unwrap()
    }

    #[test]
    fn an_operation_is_given_up_when_its_time_is_over() {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        let forever = std::future::pending::<()>();
        let got = sweeping(watch.run(Duration::from_millis(20), forever), &watches);
        assert_eq!(got, Err(Fired::Deadline));
    }

    #[test]
    fn what_is_done_in_time_is_done_and_leaves_no_deadline_behind() {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        let got = sweeping(
            async {
                let first = watch.run(Duration::from_millis(1), async { 7 }).await;
                watch.run(Duration::from_secs(60), runtime::sleep(Duration::from_millis(120))).await.unwrap();
                first
            },
            &watches,
        );
        assert_eq!(got, Ok(7));
    }

    #[test]
    fn a_client_that_leaves_ends_the_wait() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        watch.watch_client(server.as_raw_fd());
        drop(client);
        let got = sweeping(watch.run(Duration::from_secs(60), std::future::pending::<()>()), &watches);
        assert_eq!(got, Err(Fired::ClientLeft));
        assert_eq!(watches.live(), 1);
        drop(watch);
        assert_eq!(watches.live(), 0);
    }
}
