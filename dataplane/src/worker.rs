//! A worker: one thread, one core, one ring, and everything that its connections share.
//!
//! Nothing here can block: what other threads also touch are atomics, the tables (a DashMap shard's lock on a
//! miss of the worker's own cache), and channels that are never full.

use std::cell::{Cell, Ref, RefCell};
use std::net::TcpListener as StdListener;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustls::ClientConfig;
use wire::id::{BootId, EventSeq};
use wire::key_use::{Reason, UseOf};
use wire::request_id::REQUEST_ID_BYTES;

use self::reserve::{Reserve, is_exhausted};
use crate::auth::{self, AuthCache};
use crate::client::Client;
use crate::config::Limits;
use crate::http::request_head::RequestHead;
use crate::http2;
use crate::log::{self, Entry};
use crate::meter::pool::MeterPool;
use crate::metrics::{self, Counters};
use crate::net::{BufferPool, Stream};
use crate::refused::{RefusedUses, Uses};
use crate::relay::{HEADROOM, READ_BYTES, TAILROOM};
use crate::route::Balance;
use crate::runtime::{self, RingRefused, TcpListener};
use crate::serve;
use crate::slots::pool::SlotPool;
use crate::spool;
use crate::sys;
use crate::tables::{Routes, Tables};
use crate::tls::clients::ClientTls;
use crate::tls::{CIPHER_BYTES, TlsStream};
use crate::upstream::pool::UpstreamPool;
use crate::upstream::tls::Connector;
use crate::watch::{SWEEP_INTERVAL, Watches};

/// The last descriptor.
mod reserve;

/// How many buffers a worker keeps.
const BUFFERS_KEPT: usize = 1024;
/// How many buffers for ciphertext: one is out only while an operation lasts, or holds a torn record.
const CIPHER_BUFFERS_KEPT: usize = 256;
/// How long accepting rests after it failed: descriptors run out for longer than a moment.
pub const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How long what is cut at the end has to settle its exchange; the next start records what has not.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// What all workers share with the rest of the process.
pub struct Shared {
    /// What is known of the registry.
    pub tables: Arc<Tables>,
    /// Settings of TLS towards upstreams.
    pub upstream_tls: Arc<ClientConfig>,
    /// TLS towards clients, where they are to speak it.
    pub client_tls: Option<Arc<ClientTls>>,
    /// Limits.
    pub limits: Limits,
    /// Bytes of bodies that are held.
    pub bodies: BodyBudget,
    /// How the usage pipeline does.
    pub usage: spool::Watch,
    /// Takes what workers count of known keys that they refuse.
    pub refused_uses: Sender<Uses>,
    /// The process was told to end.
    pub draining: AtomicBool,
    /// This process.
    pub boot: BootId,
}

/// Bytes of bodies that all workers hold, against their limit.
pub struct BodyBudget {
    held: AtomicUsize,
    max: usize,
}

impl BodyBudget {
    /// Allows `max` bytes at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { held: AtomicUsize::new(0), max }
    }

    /// Takes `bytes`, if they are to be had.
    pub fn take(&self, bytes: usize) -> bool {
        if self.held.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.max {
            return true;
        }
        self.give(bytes);
        false
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A worker.
pub struct Worker {
    shared: Arc<Shared>,
    index: u16,
    /// What it has looked up.
    pub cache: AuthCache,
    /// Its slots.
    pub slots: RefCell<SlotPool>,
    /// Its connections.
    pub watches: Rc<Watches>,
    /// Its free buffers.
    pub buffers: BufferPool,
    /// How it speaks TLS to upstreams; clients' ciphertext is in the same buffers.
    pub tls: Connector,
    /// Its free meters.
    pub meters: MeterPool,
    /// Its idle upstream connections.
    pub upstreams: UpstreamPool,
    /// Its view of the deployments.
    pub balance: Balance,
    /// Its counters.
    pub counters: Arc<Counters>,
    seen: RefCell<(u64, Arc<Routes>)>,
    cuts_seen: Cell<u64>,
    refused: Cell<u64>,
    refused_uses: RefusedUses,
}

impl std::ops::Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Worker {
    /// Makes worker `index`; on its own thread.
    #[must_use]
    pub fn new(shared: Arc<Shared>, index: u16, slots: SlotPool, counters: Arc<Counters>) -> Self {
        // The revision before what it stands for: if it moves in between, the next request looks again.
        let seen = (shared.tables.revision(), shared.tables.routes());
        Self {
            tls: Connector {
                config: shared.upstream_tls.clone(),
                buffers: Rc::new(BufferPool::new(CIPHER_BYTES, CIPHER_BUFFERS_KEPT)),
            },
            refused_uses: RefusedUses::new(shared.refused_uses.clone()),
            balance: Balance::new(shared.boot.0.rotate_left(u32::from(index)) ^ u64::from(index)),
            shared,
            index,
            cache: AuthCache::default(),
            slots: RefCell::new(slots),
            watches: Rc::default(),
            buffers: BufferPool::new(HEADROOM + READ_BYTES + TAILROOM, BUFFERS_KEPT),
            meters: MeterPool::default(),
            upstreams: UpstreamPool::default(),
            counters,
            seen: RefCell::new(seen),
            cuts_seen: Cell::new(0),
            refused: Cell::new(0),
        }
    }

    /// Forgets what was looked up if the tables have changed since; gives their revision.
    pub fn catch_up(&self) -> u64 {
        let revision = self.tables.revision();
        let mut seen = self.seen.borrow_mut();
        if seen.0 != revision {
            self.cache.clear();
            *seen = (revision, self.tables.routes());
        }
        revision
    }

    /// What requests are routed by, as of the last `catch_up`. Not to be held while anything is awaited.
    pub fn routes(&self) -> Ref<'_, Routes> {
        Ref::map(self.seen.borrow(), |seen| &*seen.1)
    }

    /// Ends what is under way with keys that were revoked with that order since the last look.
    fn cut_revoked(&self) {
        let times = self.tables.cuts.times();
        if self.cuts_seen.replace(times) != times {
            self.watches.cut(|key| self.tables.cuts.has(key));
        }
    }

    /// Whether the process was told to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether usage can't be written at present.
    pub fn spool_full(&self) -> bool {
        self.usage.is_full()
    }

    /// Counts a request whose key was refused, where the key is known.
    #[cold]
    pub fn note_refused_key(&self, head: &RequestHead, head_bytes: &[u8]) {
        let now_ms = auth::unix_ms();
        let Some((digest, reason)) = auth::refused_key(head, head_bytes, &self.tables, now_ms) else {
            return;
        };
        let counter = match reason {
            Reason::Revoked => &self.counters.revoked_key_uses,
            Reason::Expired => &self.counters.expired_key_uses,
        };
        metrics::add(counter, 1);
        self.refused_uses.note(UseOf { minute: auth::minute_of(now_ms), digest, reason });
    }

    /// An id for a request that is not admitted.
    pub fn refused_request_id(&self) -> [u8; REQUEST_ID_BYTES] {
        let count = self.refused.get();
        self.refused.set(count + 1);
        self.routes().request_ids.text(self.boot, EventSeq::not_admitted(self.index, count))
    }
}

/// Serves `listener` on this thread until the process was told to end and the last stream is over, or its
/// time is.
pub fn run(worker: Worker, listener: StdListener) -> Result<(), RingRefused> {
    runtime::block_on(async move {
        let worker = Rc::new(worker);
        let fd = listener.as_raw_fd();
        let accepting = Rc::new(Cell::new(true));
        match TcpListener::from_std(listener) {
            Ok(listener) => drop(monoio::spawn(accept(listener, worker.clone(), accepting.clone()))),
            Err(error) => log::log(&Entry::Accept(&error)),
        }
        let mut draining_since: Option<Instant> = None;
        loop {
            runtime::sleep(SWEEP_INTERVAL).await;
            let draining = worker.is_draining();
            worker.watches.sweep(draining);
            worker.cut_revoked();
            worker.refused_uses.hand_over();
            worker.tables.freshness.look();
            let now_ms = worker.watches.now_ms();
            worker.upstreams.sweep(now_ms);
            worker.buffers.sweep(now_ms);
            worker.tls.buffers.sweep(now_ms);
            if !draining {
                continue;
            }
            let since = *draining_since.get_or_insert_with(|| {
                // Ends the pending accept, which must not be dropped.
                sys::shutdown(fd);
                Instant::now()
            });
            if since.elapsed() > worker.limits.drain {
                worker.watches.end_all();
            }
            let over = since.elapsed() > worker.limits.drain + SETTLE_LIMIT;
            if over || (!accepting.get() && worker.watches.live() == 0) {
                return;
            }
        }
    })
}

async fn accept(listener: TcpListener, worker: Rc<Worker>, accepting: Rc<Cell<bool>>) {
    let (mut reserve, mut told) = (Reserve::new(), false);
    loop {
        match listener.accept().await {
            _ if worker.is_draining() => break,
            // The peer's address is dropped unseen.
            Ok((tcp, _)) if reserve.refill() => {
                told = false;
                open(tcp, &worker);
            }
            // It has the last descriptor, which is the reserve's again once it is closed.
            Ok((tcp, _)) => {
                turn_away(tcp, &worker);
                reserve.refill();
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    log::log(&Entry::Accept(&error));
                }
                if !(is_exhausted(&error) && reserve.give_up()) {
                    runtime::sleep(ACCEPT_REST).await;
                }
            }
        }
    }
    accepting.set(false);
}

/// Closes a connection at once, without a word: an answer would take what there is none of.
fn turn_away(tcp: runtime::TcpStream, worker: &Worker) {
    drop(tcp);
    metrics::add(&worker.counters.connections_accepted, 1);
    metrics::add(&worker.counters.connections_refused, 1);
    metrics::add(&worker.counters.connections_closed, 1);
}

fn open(tcp: runtime::TcpStream, worker: &Rc<Worker>) {
    if worker.watches.live() >= worker.limits.connections_per_worker || tcp.set_nodelay(true).is_err() {
        return turn_away(tcp, worker);
    }
    metrics::add(&worker.counters.connections_accepted, 1);
    let told = worker.counters.clone();
    runtime::spawn_guarded(serve_connection(tcp, worker.clone()), move || {
        log::log(&Entry::Panicked);
        metrics::add(&told.panics, 1);
        metrics::add(&told.connections_closed, 1);
    });
}

/// A connection's task, from its first byte to its last.
async fn serve_connection(tcp: runtime::TcpStream, worker: Rc<Worker>) {
    let counters = worker.counters.clone();
    if let Some(stream) = shake_hands(tcp, &worker).await {
        match stream {
            // Boxed, since all that goes on in it is in one task.
            Stream::Tls(tls) if tls.speaks_http2() => Box::pin(http2::connection::serve(*tls, worker)).await,
            stream => serve::connection(&mut Client::new(stream, worker)).await,
        }
    }
    metrics::add(&counters.connections_closed, 1);
}

/// Shakes hands with a client where it is to speak TLS, under the limit of a head. One that fails is counted
/// and closed.
async fn shake_hands(tcp: runtime::TcpStream, worker: &Worker) -> Option<Stream> {
    let Some(tls) = &worker.client_tls else { return Some(Stream::Plain(tcp)) };
    // The connection counts as one from here on.
    let watch = worker.watches.add();
    watch.set_idle(true);
    let accepting = TlsStream::accept(tcp, tls.config(), worker.tls.buffers.clone());
    let Ok(Ok(stream)) = watch.run(worker.limits.head, accepting).await else {
        metrics::add(&worker.counters.tls_failed, 1);
        return None;
    };
    metrics::add(&worker.counters.tls_handshakes, 1);
    metrics::add(&worker.counters.tls_resumed, u64::from(stream.was_resumed()));
    Some(Stream::Tls(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of_future<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_takes_less_than_four_kilobytes() {
        let bytes = bytes_of_future(serve_connection);
        assert!(bytes < 4096, "{bytes} bytes");
    }
}
