//! An HTTP/2 connection: one task that moves bytes between the socket and the `h2` crate, under the limits
//! of time and number that protect us from clients that are slow or only keep us busy.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use monoio::io::Splitable;

use crate::client::LINGER_LIMIT;
use crate::http::fields::FIELD_LINES_MAX;
use crate::http::head_end::HEAD_BYTES_MAX;
use crate::http2::pipe::PipeEnd;
use crate::http2::shared::Shared;
use crate::http2::socket::{self, Records};
use crate::http2::stream;
use crate::log::{self, Entry};
use crate::metrics;
use crate::runtime;
use crate::sys;
use crate::tls::TlsStream;
use crate::watch::{Fired, Watch};
use crate::worker::Worker;

/// How many streams a client may have open at once.
pub const STREAMS_MAX: u32 = 128;
/// How much of one body a client may send before it is read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all bodies of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// A connection without streams for so long is told goodbye in one frame.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// How much is read, and not looked at, after the goodbye: what a client may have under way.
const UNREAD_BYTES_MAX: usize = CONNECTION_WINDOW_BYTES as usize;
/// How much of an answer the `h2` crate holds before the socket takes it.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;
/// A head as HTTP/2 counts it: each field takes 32 bytes more than it has (RFC 9113 §6.5.2). What is larger
/// than `HEAD_BYTES_MAX` but not than this gets our own 431, what is larger yet the `h2` crate's, without a
/// body.
const HEADER_LIST_BYTES_MAX: usize = HEAD_BYTES_MAX + FIELD_LINES_MAX * 32;
/// How many streams that the client has reset may wait to be taken up (CVE-2023-44487).
const RESET_BEFORE_ACCEPT_MAX: usize = 20;
/// How many streams we may have to reset for errors of the client's (CVE-2025-8671).
const RESET_FOR_ERROR_MAX: usize = 100;
/// How many streams that we have reset are remembered, and for how long.
const RESET_KEPT_MAX: usize = 50;
const RESET_KEPT_TIME: Duration = Duration::from_secs(1);

/// Serves an HTTP/2 connection until it ends.
pub async fn serve(tls: TlsStream, worker: Rc<Worker>) {
    metrics::add(&worker.counters.http2_connections, 1);
    let watch = worker.watches.add();
    let (shared, phase) = (Rc::new(Shared::new(worker.clone())), Cell::new(Phase::Preface));
    let (tcp, session) = tls.into_parts();
    let fd = tcp.as_raw_fd();
    let (reading, writing) = tcp.into_split();
    let (records, buffers) = (RefCell::new(Records::new(session)), &*worker.tls.buffers);
    let receiving = pin!(socket::receive(reading, &records, &shared, buffers));
    let sending = pin!(socket::send(writing, &records, &shared.pipe, buffers));
    let streams = pin!(streams(&shared, &phase));
    let mut task = Task {
        began: Instant::now(),
        shared: &shared,
        phase: &phase,
        records: &records,
        receiving: Some(receiving),
        sending,
        streams,
    };
    let reachable = task.serve(&watch).await;
    shared.end();
    if reachable {
        task.finish(&watch, || sys::shutdown_write(fd)).await;
    }
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client has not yet said that it speaks HTTP/2.
    Preface,
    /// Streams are taken up.
    Open,
    /// The client is to be told that no more streams are.
    Leaving,
    /// It was told.
    Left,
}

/// How a turn of the task ended.
enum Turn {
    /// Another limit of time applies from here on.
    Changed,
    /// The `h2` crate is done with the connection.
    Over,
    /// The socket takes nothing more.
    Broken,
}

/// All that goes on in a connection.
struct Task<'a, R, S, H> {
    began: Instant,
    shared: &'a Shared,
    phase: &'a Cell<Phase>,
    records: &'a RefCell<Records>,
    receiving: Option<Pin<&'a mut R>>,
    sending: Pin<&'a mut S>,
    streams: Pin<&'a mut H>,
}

impl<R, S, H> Task<'_, R, S, H>
where
    R: Future<Output = ()>,
    S: Future<Output = io::Result<()>>,
    H: Future<Output = ()>,
{
    /// Until the end; whether the client can still be told anything then.
    async fn serve(&mut self, watch: &Watch) -> bool {
        loop {
            // The end of the process is waited for like the end of the idle time: both say goodbye.
            watch.set_idle(matches!(self.phase.get(), Phase::Preface | Phase::Open));
            let of = self.state();
            match watch.run(self.limit(), poll_fn(|context| self.turn(context, of))).await {
                Ok(Turn::Changed) => {}
                Ok(Turn::Over) => return true,
                Ok(Turn::Broken) | Err(Fired::ClientLeft) => return false,
                Err(Fired::Draining | Fired::Deadline) if self.phase.get() == Phase::Preface => return false,
                Err(Fired::Draining) => self.phase.set(Phase::Leaving),
                Err(Fired::Deadline) if self.records.borrow().write_under_way().is_some() => return false,
                Err(Fired::Deadline) if self.phase.get() == Phase::Open => self.phase.set(Phase::Leaving),
                // A client that does not answer the goodbye.
                Err(Fired::Deadline) => return true,
            }
        }
    }

    /// How long the present state may last.
    fn limit(&self) -> Duration {
        let limits = &self.shared.worker.limits;
        if self.records.borrow().write_under_way().is_some() {
            return limits.write;
        }
        let idle = self.shared.idle_since().elapsed();
        match self.phase.get() {
            Phase::Preface => limits.head.saturating_sub(self.began.elapsed()),
            _ if self.shared.streams() > 0 => Duration::MAX,
            Phase::Open => limits.idle.saturating_sub(idle),
            Phase::Leaving | Phase::Left => LINGER_LIMIT,
        }
    }

    /// What the limit depends on. Streams end in tasks of their own, so it also changes between two turns.
    fn state(&self) -> (Phase, bool, Option<u64>) {
        let write = self.records.borrow().write_under_way();
        (self.phase.get(), self.shared.streams() == 0, write)
    }

    /// Moves what can be moved, until the state is another one than the limit is for.
    fn turn(&mut self, context: &mut Context<'_>, of: (Phase, bool, Option<u64>)) -> Poll<Turn> {
        self.shared.polled_by(context.waker());
        loop {
            let moves = self.shared.pipe.borrow().moves();
            if self.receiving.as_mut().is_some_and(|receiving| receiving.as_mut().poll(context).is_ready()) {
                self.receiving = None;
            }
            if self.streams.as_mut().poll(context).is_ready() {
                return Poll::Ready(Turn::Over);
            }
            if self.sending.as_mut().poll(context).is_ready() {
                return Poll::Ready(Turn::Broken);
            }
            if self.shared.pipe.borrow().moves() == moves {
                break;
            }
        }
        if self.records.borrow().is_quiet() {
            if self.shared.streams() == 0 {
                self.shared.pipe.borrow_mut().rest();
            }
            self.shared.rest();
        }
        if self.state() == of { Poll::Pending } else { Poll::Ready(Turn::Changed) }
    }

    /// Sends what is left, says that nothing follows, and reads on for a while: a close with unread bytes
    /// would reset the connection, and the client would not see why it ended.
    async fn finish(&mut self, watch: &Watch, shut_down: impl FnOnce()) {
        self.records.borrow_mut().finish();
        let sent = poll_fn(|context| self.sending.as_mut().poll(context));
        if !matches!(watch.run(LINGER_LIMIT, sent).await, Ok(Ok(()))) {
            return;
        }
        shut_down();
        let Some(receiving) = &mut self.receiving else { return };
        let (pipe, mut unread) = (&self.shared.pipe, 0);
        let ended = poll_fn(|context| {
            loop {
                unread += pipe.borrow_mut().discard();
                if unread > UNREAD_BYTES_MAX {
                    return Poll::Ready(());
                }
                if receiving.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                if !pipe.borrow().is_waiting() {
                    return Poll::Pending;
                }
            }
        });
        // Whether it comes changes nothing.
        let _ = watch.run(LINGER_LIMIT, ended).await;
    }
}

/// Takes streams up until the connection ends.
async fn streams(shared: &Rc<Shared>, phase: &Cell<Phase>) {
    let end = PipeEnd(shared.pipe.clone());
    let Ok(mut connection) = settings().handshake::<_, Bytes>(end).await else { return };
    phase.set(Phase::Open);
    let mut flooded = false;
    loop {
        let accepted = poll_fn(|context| {
            if phase.get() == Phase::Leaving {
                phase.set(Phase::Left);
                if shared.streams() == 0 && shared.idle_since().elapsed() > QUIET_TIME {
                    // All was sent long ago. Python's h2 takes the ping of a graceful shutdown for an error.
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                } else {
                    connection.graceful_shutdown();
                }
            }
            if shared.is_flooded() && !std::mem::replace(&mut flooded, true) {
                metrics::add(&shared.worker.counters.http2_floods, 1);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            connection.poll_accept(context)
        });
        match accepted.await {
            Some(Ok((request, respond))) => start(request, respond, shared),
            Some(Err(error)) => {
                // What the `h2` crate itself takes for one.
                let calm = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
                metrics::add(&shared.worker.counters.http2_floods, u64::from(calm && !flooded));
                return;
            }
            None => return,
        }
    }
}

/// What clients are told, and what the `h2` crate holds them to.
pub(crate) fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(STREAM_SEND_BYTES_MAX)
        .max_header_list_size(u32::try_from(HEADER_LIST_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPT_MAX)
        .max_local_error_reset_streams(Some(RESET_FOR_ERROR_MAX))
        .max_concurrent_reset_streams(RESET_KEPT_MAX)
        .reset_stream_duration(RESET_KEPT_TIME);
    builder
}

/// Serves a stream in a task of its own: a panic costs that stream alone.
fn start(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: &Rc<Shared>) {
    let worker = &shared.worker;
    if worker.watches.live() >= worker.limits.connections_per_worker {
        // Not served at all: the client may send it again.
        metrics::add(&worker.counters.http2_streams_refused, 1);
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    metrics::add(&worker.counters.http2_streams, 1);
    let (open, told) = (shared.open(), worker.counters.clone());
    runtime::spawn_guarded(stream::serve(request, respond, shared.clone(), open), move || {
        log::log(&Entry::Panicked);
        metrics::add(&told.panics, 1);
    });
}
