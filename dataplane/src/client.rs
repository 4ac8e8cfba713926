//! A client's connection: what it sent, and writing to it, under the limits of time that protect us from slow
//! ones.
//!
//! ```text
//! input:  | head | body | the next request, if it is pipelined |
//! ```
//!
//! What a request occupies stays in `input` until its answer's head has come (another deployment may need
//! it), then `release` drops it.

use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use wire::id::KeyDigest;

use crate::error::{Failure, Overload, Reply, RequestError};
use crate::http::fields::Persist;
use crate::http::framing::{BodyDecoder, BodyFraming};
use crate::http::head_end::HeadEnd;
use crate::http::head_write;
use crate::http::known_head::{self, KnownHead};
use crate::http::request_head::{Method, RequestHead};
use crate::net::Stream;
use crate::sys;
use crate::watch::{Fired, Watch};
use crate::worker::Worker;

/// The least rate of a body, in bytes a second, beyond what `limits.body` allows any.
pub const BODY_RATE_MIN: usize = 4096;
/// How long we read on after an answer that came before the end of its request.
pub const LINGER_LIMIT: Duration = Duration::from_secs(2);
/// How much of a request's body is read after its answer, to keep the connection.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// The input buffer at first; a head and a small body fit, and an idle connection holds no more.
const INPUT_BYTES: usize = 2048;
/// What the input buffer may keep between requests.
const INPUT_KEEP_BYTES_MAX: usize = 16 * 1024;
/// How much one read takes at most, so that the scan of a body never holds up the worker.
const READ_BYTES_MAX: usize = 64 * 1024;

/// The client is not there any more, or writing to it was given up: it took too long, its key was revoked
/// with the order to cut, or the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

/// A request's head, and how many bytes of the input it takes.
pub struct Received {
    /// The head; its spans count from the start of the input.
    pub head: RequestHead,
    /// Its length.
    pub len: usize,
    /// When it was complete.
    pub at: Instant,
}

/// Where a request's body is in the input.
pub struct Body {
    /// The body, without framing.
    pub range: Range<usize>,
    /// Where the next request begins.
    pub end: usize,
}

/// A client's connection.
pub struct Client {
    stream: Stream,
    input: Vec<u8>,
    /// The head that was read last.
    known: Option<Box<KnownHead>>,
    /// Where the next request begins, once all of this one is here.
    complete: Option<usize>,
    /// Whether a read is under way, or was given up: what that one took is lost, and with it where the next
    /// request begins.
    reading: bool,
    /// Whether anything of an answer to this request may have gone out.
    answering: bool,
    permit: BodyPermit,
    /// Its entry in the worker's sweep.
    pub watch: Watch,
    worker: Rc<Worker>,
}

impl Client {
    /// Takes an accepted connection.
    pub fn new(stream: Stream, worker: Rc<Worker>) -> Self {
        let watch = worker.watches.add();
        let permit = BodyPermit::new(&worker);
        let input = Vec::with_capacity(INPUT_BYTES);
        let (known, complete, reading, answering) = (None, None, false, false);
        Self { stream, input, known, complete, reading, answering, permit, watch, worker }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.stream.fd()
    }

    /// The worker that serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The digest of the key in the head that was read last, if it was accepted before.
    pub fn known_digest(&self) -> Option<KeyDigest> {
        self.known.as_ref().and_then(|known| known.digest())
    }

    /// The key in the head that was read last was accepted, and has this digest.
    pub fn key_accepted(&mut self, digest: KeyDigest) {
        self.watch.set_key((&digest).into());
        if let Some(known) = &mut self.known {
            known.accepted(digest);
        }
    }

    /// What the client sent and was not released yet.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Reads a head. `None` where the client is done, or was silent for too long.
    pub async fn read_head(&mut self) -> Result<Option<Received>, RequestError> {
        let mut end = HeadEnd::of_request();
        let mut began = None;
        (self.complete, self.answering) = (None, false);
        loop {
            if !self.input.is_empty() {
                let first = began.is_none();
                let at = *began.get_or_insert_with(Instant::now);
                let again = self.known.as_ref().filter(|_| first);
                if let Some((head, len)) = again.and_then(|known| known.recognise(&self.input)) {
                    return Ok(Some(Received { head, len, at }));
                }
                if let Some(len) = end.find(&self.input)? {
                    let head = RequestHead::parse(&self.input[..len])?;
                    if self.stream.carries_requests() {
                        known_head::remember(&mut self.known, &self.input[..len], &head);
                    }
                    return Ok(Some(Received { head, len, at }));
                }
            }
            let idle = began.is_none();
            let limits = &self.worker.limits;
            let limit = began.map_or(limits.idle, |began| limits.head.saturating_sub(began.elapsed()));
            self.watch.set_idle(idle);
            let got = self.read_more(INPUT_BYTES, limit).await;
            self.watch.set_idle(false);
            match got {
                Ok(0) | Err(Fired::ClientLeft | Fired::Draining) => return Ok(None),
                Ok(_) => {}
                Err(Fired::Deadline) if idle => return Ok(None),
                Err(Fired::Deadline) => return Err(RequestError::Slow),
            }
        }
    }

    /// Reads the body of `received`, and shows each new part of it to `scan`.
    pub async fn read_body(
        &mut self,
        received: &Received,
        mut scan: impl FnMut(&[u8]) -> Result<(), RequestError>,
    ) -> Result<Body, Failure> {
        let (framing, start) = (received.head.framing, received.len);
        let max = self.worker.limits.body_bytes_max;
        if let BodyFraming::Length(length) = framing {
            // Nothing is set aside for what a client only announces.
            if usize::try_from(length).map_or(true, |length| length > max) {
                return Err(RequestError::BodyTooLarge(max).into());
            }
        }
        let mut decoder = BodyDecoder::new(framing);
        let began_ms = self.worker.watches.now_ms();
        let (mut body_end, mut raw) = (start, start);
        let mut continued = !received.head.expect_continue;
        loop {
            let decoded = decoder.decode(&mut self.input[raw..]).map_err(|_| RequestError::BodyFraming)?;
            let data = raw + decoded.data.start..raw + decoded.data.end;
            // Chunks leave gaps where their size lines were.
            self.input.copy_within(data.clone(), body_end);
            let fresh = body_end..body_end + data.len();
            body_end = fresh.end;
            if body_end - start > max {
                return Err(RequestError::BodyTooLarge(max).into());
            }
            self.permit.grow_to(body_end - start)?;
            scan(&self.input[fresh])?;
            if decoded.done {
                let end = raw + decoded.consumed;
                self.complete = Some(end);
                return Ok(Body { range: start..body_end, end });
            }
            self.input.truncate(body_end);
            raw = body_end;
            if !continued {
                continued = true;
                let interim = head_write::CONTINUE.to_vec();
                self.write_out(interim, 0..head_write::CONTINUE.len())
                    .await
                    .map_err(|Gone| Failure::ClientLeft)?;
            }
            let for_bytes = Duration::from_secs(((body_end - start) / BODY_RATE_MIN) as u64);
            let took = Duration::from_millis(self.worker.watches.now_ms() - began_ms);
            let limit = (self.worker.limits.body + for_bytes).saturating_sub(took);
            match self.read_more(READ_BYTES_MAX.min(self.input.len().max(INPUT_BYTES)), limit).await {
                Ok(1..) => {}
                Err(Fired::Deadline) => return Err(RequestError::Slow.into()),
                Ok(0) | Err(_) => return Err(Failure::ClientLeft),
            }
        }
    }

    /// Drops what a request occupied, up to `end`.
    pub fn release(&mut self, end: usize) {
        self.complete = Some(0);
        self.permit.give_back();
        if self.input.capacity() > INPUT_KEEP_BYTES_MAX {
            let rest = self.input.split_off(end);
            self.input = rest;
            self.input.reserve(INPUT_BYTES.saturating_sub(self.input.len()));
        } else {
            self.input.drain(..end);
        }
    }

    async fn read_more(&mut self, room: usize, limit: Duration) -> Result<usize, Fired> {
        self.input.reserve(room);
        let buffer = std::mem::take(&mut self.input);
        let at = buffer.len();
        self.reading = true;
        let (result, buffer) =
            self.watch.run(limit, self.stream.read_at_most(buffer, at, READ_BYTES_MAX)).await?;
        self.reading = false;
        self.input = buffer;
        // A reset is an end like another: nothing can be said to this client.
        Ok(result.unwrap_or(0))
    }

    /// Whether anything of an answer to the request at hand may have gone out.
    pub fn is_answering(&self) -> bool {
        self.answering
    }

    /// Writes `buffer[range]`, a part of the answer, whole and gives the buffer back.
    pub async fn write(&mut self, buffer: Vec<u8>, range: Range<usize>) -> Result<Vec<u8>, Gone> {
        self.answering = true;
        self.write_out(buffer, range).await
    }

    async fn write_out(&mut self, buffer: Vec<u8>, range: Range<usize>) -> Result<Vec<u8>, Gone> {
        match self.watch.run(self.worker.limits.write, self.stream.write_all(buffer, range)).await {
            Ok((Ok(()), buffer)) => Ok(buffer),
            Ok((Err(_), _)) | Err(_) => Err(Gone),
        }
    }

    /// Tells the client why its request is not served. `received` is `None` where not even a head could be
    /// read. The connection goes on where the rest of the request can be skipped.
    pub async fn refuse(&mut self, reply: &Reply, request_id: &[u8], received: Option<&Received>) -> Persist {
        let unread = received.map_or(Unread::Unknown, |received| self.unread(received));
        let close = reply.close
            || self.worker.is_draining()
            || unread == Unread::Unknown
            || received.is_none_or(|received| received.head.persist == Persist::Close);
        let mut out = self.worker.buffers.take();
        let headless = received.is_some_and(|received| received.head.method == Method::Head);
        write_refusal(&mut out, reply, request_id, close, headless);
        let len = out.len();
        let Ok(out) = self.write(out, 0..len).await else { return Persist::Close };
        self.worker.buffers.give(out);
        if close {
            self.linger().await;
            return Persist::Close;
        }
        self.skip(unread).await
    }

    /// What of a request whose head was read is still to come.
    fn unread(&self, received: &Received) -> Unread {
        if self.reading {
            return Unread::Unknown;
        }
        if let Some(end) = self.complete {
            return Unread::Known { end, missing: 0 };
        }
        let buffered = (self.input.len() - received.len.min(self.input.len())) as u64;
        match received.head.framing {
            BodyFraming::None | BodyFraming::Length(0) => Unread::Known { end: received.len, missing: 0 },
            BodyFraming::Length(length) if length <= buffered => {
                Unread::Known { end: received.len + usize::try_from(length).unwrap_or(0), missing: 0 }
            }
            // A client that waits for 100 Continue may or may not send its body now.
            BodyFraming::Length(length) if length <= DRAIN_BYTES_MAX && !received.head.expect_continue => {
                Unread::Known { end: self.input.len(), missing: length - buffered }
            }
            _ => Unread::Unknown,
        }
    }

    async fn skip(&mut self, unread: Unread) -> Persist {
        let Unread::Known { end, mut missing } = unread else { return Persist::Close };
        self.release(end);
        let began = Instant::now();
        while missing > 0 {
            match self.read_more(INPUT_BYTES, LINGER_LIMIT.saturating_sub(began.elapsed())).await {
                Ok(len @ 1..) => {
                    let skipped = missing.min(len as u64);
                    missing -= skipped;
                    self.input.drain(..usize::try_from(skipped).unwrap_or(0));
                }
                _ => return Persist::Close,
            }
        }
        Persist::KeepAlive
    }

    /// Ends the connection in order: over TLS the client is told that it has all.
    pub async fn close(&mut self) {
        // Whether it arrives changes nothing.
        let _ = self.watch.run(LINGER_LIMIT, self.stream.close()).await;
    }

    /// An answer broke off: `close` says nothing, so that it can't be taken for whole.
    pub fn cut(&mut self) {
        self.stream.cut();
    }

    /// Ends the connection so that the client can still read what was written: a close with unread bytes
    /// would reset it (RFC 9112 §9.6). Nothing that comes is looked at, so a read may have been given up
    /// before.
    async fn linger(&mut self) {
        self.close().await;
        sys::shutdown_write(self.fd());
        let began = Instant::now();
        while began.elapsed() < LINGER_LIMIT {
            self.input.clear();
            if !matches!(
                self.read_more(INPUT_BYTES, LINGER_LIMIT.saturating_sub(began.elapsed())).await,
                Ok(1..)
            ) {
                return;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    Known { end: usize, missing: u64 },
    Unknown,
}

fn write_refusal(out: &mut Vec<u8>, reply: &Reply, request_id: &[u8], close: bool, headless: bool) {
    let mut body = Vec::with_capacity(256);
    reply.append_body(&mut body);
    head_write::status_line(out, reply.status);
    head_write::header(out, "content-type", b"application/json");
    head_write::header(out, "x-request-id", request_id);
    out.extend_from_slice(reply.headers.as_bytes());
    head_write::framing(out, BodyFraming::Length(body.len() as u64));
    if close {
        head_write::connection_close(out);
    }
    head_write::end(out);
    if !headless {
        out.extend_from_slice(&body);
    }
}

/// A body's share of the process's budget.
struct BodyPermit {
    worker: Rc<Worker>,
    held: usize,
}

/// Bodies up to this size are not counted: the input buffers hold them anyway.
const UNCOUNTED_BYTES_MAX: usize = 16 * 1024;

impl BodyPermit {
    fn new(worker: &Rc<Worker>) -> Self {
        Self { worker: worker.clone(), held: 0 }
    }

    fn grow_to(&mut self, bytes: usize) -> Result<(), RequestError> {
        if bytes <= self.held.max(UNCOUNTED_BYTES_MAX) {
            return Ok(());
        }
        // In steps, so that a chunked body does not touch the shared counter for each chunk.
        let wanted = bytes.next_multiple_of(READ_BYTES_MAX);
        if !self.worker.bodies.take(wanted - self.held) {
            return Err(RequestError::Overloaded(Overload::Bodies));
        }
        self.held = wanted;
        Ok(())
    }

    fn give_back(&mut self) {
        self.worker.bodies.give(std::mem::take(&mut self.held));
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.give_back();
    }
}
