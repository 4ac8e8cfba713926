//! An upstream's answer on its way to the client: each read goes on at once, in the buffer that it came in.
//!
//! ```text
//! buffer  | headroom | held back | read ......................... | tailroom |
//!                ^ chunk size line                                ^ CRLF, last chunk
//! ```
//!
//! The kernel fills the buffer, the meter looks at it, the framing for the client is written around it, and
//! the kernel drains it. Only the first bytes of a body are copied, behind the head, so that both leave in
//! one write.
//!
//! Invariants:
//!
//!   * the exchange is settled before the bytes that complete the answer are submitted
//!   * an answer that broke off never ends as a whole one would
//!   * the connection goes back to the pool only after an answer read to its end, with nothing behind it

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use wire::event::Tokens;
use wire::table::OnDisconnect;

use crate::client::{Client, Gone};
use crate::error::{Failure, RequestError, STREAM_ENDING_EVENT, STREAM_ERROR_EVENT, STREAM_REVOKED_EVENT};
use crate::exchange::{CLIENT_LEFT, Exchange};
use crate::forward::Answer;
use crate::http::fields::Persist;
use crate::http::framing::{BodyDecoder, BodyFraming};
use crate::http::head_write::{self, CHUNK_END, CHUNK_SIZE_LINE_BYTES_MAX, LAST_CHUNK};
use crate::http::response_head::ResponseHead;
use crate::meter::pool::MeterPool;
use crate::meter::stream::{StreamMeter, StreamMode};
use crate::meter::whole::WholeMeter;
use crate::net::Stream;
use crate::prices::{Feature, without};
use crate::serve::{Request, append_closing_lines};
use crate::sys;
use crate::upstream::target::Upstream;
use crate::watch::Fired;
use crate::worker::Worker;

/// Room before the body for a chunk's size line.
pub const HEADROOM: usize = CHUNK_SIZE_LINE_BYTES_MAX;
/// Room behind it for what ends a chunk and a body.
pub const TAILROOM: usize = CHUNK_END.len() + LAST_CHUNK.len();
/// How much one read takes.
pub const READ_BYTES: usize = 16 * 1024;
/// How long an answer whose client has left is read on for its usage.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// Why the answer can't go on.
enum Broken {
    /// The upstream's fault.
    Upstream(RequestError),
    /// The client left.
    ClientLeft,
    /// The client has left, or a write to it was given up: it lacks some of what came.
    Unwritten,
    /// The key was revoked, and what is under way with it is to end.
    Revoked,
    /// The process ends.
    Ending,
}

/// Looks at the body for usage.
enum Meter {
    Whole(Box<WholeMeter>),
    Stream(Box<StreamMeter>, StreamMode),
    /// The bytes are coded; there is nothing to see.
    Blind,
}

struct Relay<'a> {
    client: &'a mut Client,
    exchange: &'a mut Exchange,
    worker: &'a Rc<Worker>,
    upstream: &'a Upstream,
    stream: Stream,
    persist_upstream: Persist,
    decoder: BodyDecoder,
    meter: Meter,
    framing: BodyFraming,
    persist: Persist,
    status: u16,
    buffer: Vec<u8>,
    held: Vec<u8>,
    head_sent: bool,
    done: bool,
    /// When the first or the last bytes came, whichever was later.
    now: Instant,
}

/// Relays `answer` to its end. The request's bytes are released.
pub async fn run(
    client: &mut Client,
    request: &Request<'_>,
    upstream: &Upstream,
    (answer, mode): (Answer, StreamMode),
    exchange: &mut Exchange,
) -> Result<Persist, Failure> {
    let Answer { stream, head, buffer, head_at, body_at } = answer;
    let worker = &client.worker().clone();
    let meter = Meter::new(&head, mode, &worker.meters);
    client.release(request.body.end);
    let framing = client_framing(&head, &meter, request.received.head.http_1_0);
    let may_persist = framing != BodyFraming::UntilClose && !worker.is_draining();
    let mut relay = Relay {
        client,
        exchange,
        worker,
        upstream,
        stream,
        persist_upstream: head.persist,
        decoder: BodyDecoder::new(head.framing),
        meter,
        framing,
        persist: if may_persist { request.received.head.persist } else { Persist::Close },
        status: head.status,
        buffer,
        held: Vec::new(),
        head_sent: false,
        done: false,
        now: request.received.at,
    };
    relay.exchange.set_status(head.status);
    let mut out = relay.worker.buffers.take();
    relay.append_head(&mut out, &head, head_at, request.received.head.http_1_0);
    let result = match relay.relay(out, body_at, head.is_event_stream).await {
        Ok(()) => Ok(relay.persist),
        // Boxed, since it is rare: a connection's task need not have room for it.
        Err(broken) => Err(Box::pin(relay.break_off(broken)).await),
    };
    relay.worker.buffers.give(relay.buffer);
    match relay.meter {
        Meter::Whole(meter) => worker.meters.give_whole(meter),
        Meter::Stream(meter, _) => worker.meters.give_stream(meter),
        Meter::Blind => {}
    }
    result
}

/// How the body is framed for the client: its length where it is known, else chunks, or, for HTTP/1.0, the
/// close.
fn client_framing(head: &ResponseHead, meter: &Meter, http_1_0: bool) -> BodyFraming {
    match head.framing {
        BodyFraming::Length(_) if meter.may_shorten() && http_1_0 => BodyFraming::UntilClose,
        BodyFraming::Length(_) if meter.may_shorten() => BodyFraming::Chunked,
        same @ (BodyFraming::None | BodyFraming::Length(_)) => same,
        _ if http_1_0 => BodyFraming::UntilClose,
        _ => BodyFraming::Chunked,
    }
}

impl Relay<'_> {
    fn append_head(&self, out: &mut Vec<u8>, head: &ResponseHead, head_at: usize, http_1_0: bool) {
        head_write::status_line(out, head.status);
        for (name, value) in head.forwarded() {
            head_write::header(out, name, value.of(&self.buffer[head_at..]));
        }
        head_write::framing(out, self.framing);
        append_closing_lines(out, self.exchange.request_id(), http_1_0, self.persist);
    }

    async fn relay(&mut self, head: Vec<u8>, body_at: usize, event_stream: bool) -> Result<(), Broken> {
        let mut data = self.take_in(body_at..self.buffer.len())?;
        // Until a whole answer's body begins to come, its failure can still be told properly.
        while data.is_empty() && !self.done && !event_stream {
            data = self.read().await?;
        }
        self.send_first(head, data).await?;
        while !self.done {
            let data = self.read().await?;
            self.send(data).await?;
        }
        Ok(())
    }

    /// Reads once, with the upstream's limit; what may go on is in the returned range of the buffer.
    fn read(&mut self) -> impl Future<Output = Result<Range<usize>, Broken>> {
        self.read_within(Duration::MAX)
    }

    /// The same, with a limit that may be less.
    async fn read_within(&mut self, limit: Duration) -> Result<Range<usize>, Broken> {
        // Where every read has something at once, none of them is ever found waiting and given up.
        if self.worker.watches.has_ended() {
            return Err(Broken::Ending);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(HEADROOM, 0);
        buffer.extend_from_slice(&self.held);
        buffer.reserve(READ_BYTES / 2);
        let at = buffer.len();
        let limit = limit.min(Duration::from_millis(self.upstream.spec.idle_timeout_ms.into()));
        let (result, buffer) = match self.client.watch.run(limit, self.stream.read(buffer, at)).await {
            Ok(done) => done,
            Err(Fired::Deadline) => return Err(Broken::Upstream(RequestError::UpstreamSlow)),
            Err(Fired::ClientLeft) if self.client.watch.is_revoked() => return Err(Broken::Revoked),
            Err(Fired::ClientLeft) => return Err(Broken::ClientLeft),
            Err(Fired::Draining) => return Err(Broken::Ending),
        };
        self.buffer = buffer;
        match result {
            Ok(1..) => self.take_in(at..self.buffer.len()),
            Ok(0) if self.decoder.at_eof().is_ok() && !self.is_cut() => {
                self.persist_upstream = Persist::Close;
                self.done = true;
                Ok(self.observe(at..at))
            }
            _ => Err(Broken::Upstream(RequestError::UpstreamBroken)),
        }
    }

    /// Whether an answer that lasts until the close has ended before its end: a server that dies closes too.
    fn is_cut(&self) -> bool {
        match &self.meter {
            // Nothing at all is no answer either.
            Meter::Whole(meter) => meter.is_open() || (self.status < 300 && !self.exchange.has_body()),
            Meter::Stream(meter, _) => self.status < 300 && !meter.saw_done(),
            Meter::Blind => false,
        }
    }

    /// Takes the framing off what was read, and shows the rest to the meter.
    fn take_in(&mut self, read: Range<usize>) -> Result<Range<usize>, Broken> {
        let decoded = self
            .decoder
            .decode(&mut self.buffer[read.clone()])
            .map_err(|_| Broken::Upstream(RequestError::UpstreamBroken))?;
        if decoded.consumed < read.len() {
            // Bytes that no request asked for: this connection is never used again.
            self.persist_upstream = Persist::Close;
        }
        self.done = decoded.done;
        Ok(self.observe(read.start + decoded.data.start..read.start + decoded.data.end))
    }

    /// Meters body bytes; what may go to the client now is in the returned range.
    fn observe(&mut self, data: Range<usize>) -> Range<usize> {
        let first = !data.is_empty() && !self.exchange.has_body();
        if first || self.done {
            self.now = Instant::now();
        }
        if first {
            self.exchange.first_byte(self.now);
        }
        let range = match &mut self.meter {
            Meter::Whole(meter) => {
                meter.observe(&self.buffer[data.clone()]);
                data
            }
            Meter::Stream(meter, _) => {
                let start = data.start - self.held.len();
                self.buffer[start..data.start].copy_from_slice(&self.held);
                self.held.clear();
                let passed = meter.observe(&mut self.buffer[start..data.end]);
                let held = start + passed.forward..start + passed.forward + passed.held;
                if self.done {
                    start..held.start + meter.finish(&mut self.buffer[held])
                } else {
                    self.held.extend_from_slice(&self.buffer[held.clone()]);
                    start..held.start
                }
            }
            Meter::Blind => data,
        };
        let complete = self.done || self.meter.saw_done();
        self.exchange.set_tokens(self.meter.tokens(), complete);
        range
    }

    /// Sends the head, and behind it what of the body came with it.
    async fn send_first(&mut self, mut head: Vec<u8>, data: Range<usize>) -> Result<(), Broken> {
        let range = self.framed(data);
        head.extend_from_slice(&self.buffer[range]);
        self.head_sent = true;
        let len = head.len();
        self.complete();
        let head = self.client.write(head, 0..len).await.map_err(|Gone| Broken::Unwritten)?;
        self.worker.buffers.give(head);
        Ok(())
    }

    async fn send(&mut self, data: Range<usize>) -> Result<(), Broken> {
        let range = self.framed(data);
        if range.is_empty() && !self.done {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        self.complete();
        self.buffer = self.client.write(buffer, range).await.map_err(|Gone| Broken::Unwritten)?;
        Ok(())
    }

    /// Puts the client's framing around `data`, and the end of the body where it is done.
    fn framed(&mut self, data: Range<usize>) -> Range<usize> {
        self.buffer.truncate(data.end);
        if self.framing != BodyFraming::Chunked {
            return data;
        }
        let mut start = data.start;
        if !data.is_empty() {
            let (line, len) = head_write::chunk_size_line(data.len());
            start -= len;
            self.buffer[start..data.start].copy_from_slice(&line[..len]);
            self.buffer.extend_from_slice(CHUNK_END);
        }
        if self.done {
            self.buffer.extend_from_slice(LAST_CHUNK);
        }
        start..self.buffer.len()
    }

    /// Where the answer is whole: settles the exchange and gives the upstream's connection back, before the
    /// last bytes go out.
    fn complete(&mut self) {
        if !self.done {
            return;
        }
        self.exchange.settle_at(self.status, self.now);
        if self.persist_upstream == Persist::KeepAlive {
            let closed = std::mem::replace(&mut self.stream, Stream::Closed);
            self.worker.upstreams.give(self.upstream, closed, self.worker.watches.now_ms());
        }
    }

    /// Ends what can't go on.
    async fn break_off(&mut self, broken: Broken) -> Failure {
        if matches!(broken, Broken::Unwritten) {
            // It may only be slow, or have closed one direction, and reads on to the end.
            self.reset_where_a_close_ends();
        }
        match broken {
            Broken::Revoked => self.cut(RequestError::BadKey, Some(STREAM_REVOKED_EVENT)).await,
            Broken::Ending => self.cut(RequestError::Ending, Some(STREAM_ENDING_EVENT)).await,
            // It was being written to: whatever would be said now could stand inside an event.
            Broken::Unwritten if self.client.watch.is_revoked() => self.cut(RequestError::BadKey, None).await,
            Broken::ClientLeft | Broken::Unwritten if self.worker.watches.has_ended() => {
                self.cut(RequestError::Ending, None).await
            }
            Broken::ClientLeft | Broken::Unwritten => {
                // A client that leaves after the last event has all of its answer.
                let had_all = self.head_sent && self.meter.saw_done();
                if !had_all {
                    self.reset_where_a_close_ends();
                }
                if !self.exchange.is_settled() && self.upstream.spec.on_disconnect == OnDisconnect::Drain {
                    self.drain().await;
                }
                self.exchange.settle(if had_all { self.status } else { CLIENT_LEFT });
                Failure::ClientLeft
            }
            Broken::Upstream(error) => self.cut(error, Some(STREAM_ERROR_EVENT)).await,
        }
    }

    /// Cuts an answer off, and settles its exchange with the status of `error`; tells the client by `event`,
    /// where something can be told. Where nothing has gone out the client is told by the error itself.
    async fn cut(&mut self, error: RequestError, event: Option<&[u8]>) -> Failure {
        if !self.head_sent && event.is_some() {
            return Failure::Refused(error);
        }
        if self.meter.saw_done() {
            // Nothing but the end of the framing is missing: the client has its answer.
            self.exchange.settle(self.status);
            return Failure::Cut;
        }
        self.exchange.settle(error.reply().status);
        if let Some(event) = event {
            self.tell_in_stream(event).await;
        }
        self.reset_where_a_close_ends();
        Failure::Cut
    }

    /// Breaks the connection off where an orderly close would be the end of a whole answer.
    fn reset_where_a_close_ends(&self) {
        if self.framing == BodyFraming::UntilClose {
            sys::reset_on_close(self.client.fd());
        }
    }

    /// Reads the rest of the answer for its usage, bounded in time.
    async fn drain(&mut self) {
        self.client.watch.ignore_client();
        let began = Instant::now();
        while !self.done {
            let left = DRAIN_LIMIT.saturating_sub(began.elapsed());
            if left.is_zero() || self.read_within(left).await.is_err() {
                return;
            }
        }
    }

    /// Between two events of a stream, says why it broke; inside one, nothing can be said.
    async fn tell_in_stream(&mut self, event: &[u8]) {
        let Meter::Stream(meter, _) = &self.meter else { return };
        if !meter.at_boundary() || matches!(self.framing, BodyFraming::Length(_)) {
            return;
        }
        self.buffer = vec![0; HEADROOM];
        self.buffer.extend_from_slice(event);
        let range = self.framed(HEADROOM..self.buffer.len());
        let buffer = std::mem::take(&mut self.buffer);
        // Whether it arrives changes nothing: the connection is cut either way.
        let _ = self.client.write(buffer, range).await;
    }
}

impl Meter {
    fn new(head: &ResponseHead, mode: StreamMode, meters: &MeterPool) -> Self {
        if head.content_coded || without(Feature::Metering) {
            return Self::Blind;
        }
        if head.is_event_stream {
            return Self::Stream(meters.stream(mode), mode);
        }
        Self::Whole(meters.whole(head.framing == BodyFraming::UntilClose))
    }

    fn tokens(&self) -> Option<Tokens> {
        let usage = match self {
            Self::Whole(meter) => meter.usage(),
            Self::Stream(meter, _) => meter.usage(),
            Self::Blind => None,
        }?;
        Some(Tokens {
            prompt: usage.prompt,
            cached: usage.cached,
            cache_write: usage.cache_write,
            completion: usage.completion,
            reasoning: usage.reasoning,
            total: usage.total,
        })
    }

    fn saw_done(&self) -> bool {
        matches!(self, Self::Stream(meter, _) if meter.saw_done())
    }

    /// Whether something may be taken out of the body.
    fn may_shorten(&self) -> bool {
        matches!(self, Self::Stream(_, mode) if *mode != StreamMode::Observe)
    }
}
