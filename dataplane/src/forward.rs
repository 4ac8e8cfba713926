//! A request on its way to an upstream, and back with the head of its answer.
//!
//! It is sent again, to another deployment, only while no byte of an answer has gone to the client, and only
//! where nothing can have been executed: there was no connection, or the upstream said that it would not
//! (429, 503). What it said is kept, for the client where no other deployment answers. A reused connection
//! that ended before the first byte of an answer may have executed the request: that is retried only where
//! the deployment says `replay_safe`.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use wire::id::DeploymentId;
use wire::table::OnDisconnect;

use crate::body::rewrite::Splice;
use crate::client::Client;
use crate::error::{Failure, RequestError};
use crate::exchange::Exchange;
use crate::http::fields::Persist;
use crate::http::framing::BodyFraming;
use crate::http::head_end::HeadEnd;
use crate::http::head_write;
use crate::http::response_head::ResponseHead;
use crate::meter::stream::StreamMode;
use crate::metrics;
use crate::net::Stream;
use crate::relay::{self, HEADROOM};
use crate::route::Chosen;
use crate::serve::Request;
use crate::upstream::connect::connect;
use crate::upstream::target::Upstream;
use crate::watch::Fired;
use crate::worker::Worker;

/// How many deployments one request is sent to at most.
const ATTEMPTS_MAX: usize = 4;
/// Interim responses before the real one.
const INTERIM_MAX: usize = 8;
/// How much of a rewritten body goes out in one write, once it does not fit a pooled buffer.
const WRITE_BYTES: usize = 256 * 1024;

/// An upstream's answer whose head has arrived.
pub struct Answer {
    /// The connection that it comes on.
    pub stream: Stream,
    /// The head; its spans count from `head_at`.
    pub head: ResponseHead,
    /// What was read: room for framing, the head, and the first bytes of the body.
    pub buffer: Vec<u8>,
    /// Where the head begins.
    pub head_at: usize,
    /// Where the body begins.
    pub body_at: usize,
}

/// Why an attempt brought no answer.
enum Attempt {
    /// Nothing was sent.
    NotSent,
    /// The reused connection ended without an answer: nobody knows whether the request was executed.
    Unclear,
    /// It was sent, and is lost.
    Lost(RequestError),
    /// The client left.
    ClientLeft,
}

/// Forwards `request` and relays the answer.
pub async fn exchange(
    client: &mut Client,
    request: &Request<'_>,
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
) -> Result<Persist, Failure> {
    let mut tried = Tried::default();
    let (mut last, mut sent_again) = (RequestError::Unavailable, 0);
    // Boxed, since it is rare.
    let mut refusal: Option<Box<(Answer, StreamMode, Chosen)>> = None;
    while tried.ids().len() + sent_again < ATTEMPTS_MAX {
        let now_ms = worker.watches.now_ms();
        let Some(chosen) = worker.balance.choose(&request.alias.upstreams, tried.ids(), now_ms) else {
            break;
        };
        let upstream = chosen.upstream.clone();
        tried.push(upstream.spec.id);
        exchange.attempt(upstream.spec.id);
        watch_client(client, &upstream);
        let (splice, mode) = request.for_upstream(&upstream);
        let attempt = attempt(client, request, (&upstream, &splice), worker).await;
        match attempt {
            Ok(answer) if is_refusal(&answer) && untried(request, tried.ids()) => {
                chosen.failed(worker.watches.now_ms());
                metrics::add(&worker.counters.upstream_failures, 1);
                refusal = Some(Box::new((answer, mode, chosen)));
            }
            Ok(answer) => {
                refusal.take();
                chosen.answered();
                return answered(client, request, (answer, mode, chosen), worker, exchange).await;
            }
            Err(Attempt::ClientLeft) => return Err(Failure::ClientLeft),
            Err(failed) => {
                chosen.failed(worker.watches.now_ms());
                metrics::add(&worker.counters.upstream_failures, 1);
                match failed {
                    Attempt::Unclear if !upstream.spec.replay_safe => {
                        client.watch.ignore_client();
                        return Err(RequestError::UpstreamBroken.into());
                    }
                    Attempt::Lost(error) => {
                        client.watch.ignore_client();
                        return Err(error.into());
                    }
                    Attempt::Unclear => {
                        // It may well serve the request on a new connection.
                        last = RequestError::UpstreamBroken;
                        tried.count -= 1;
                        sent_again += 1;
                    }
                    Attempt::NotSent | Attempt::ClientLeft => {}
                }
            }
        }
    }
    if let Some(refusal) = refusal {
        exchange.answered_by(refusal.2.upstream.spec.id);
        watch_client(client, &refusal.2.upstream);
        return Box::pin(answered(client, request, *refusal, worker, exchange)).await;
    }
    client.watch.ignore_client();
    Err(last.into())
}

/// Notices from now on when the client leaves, where that ends the request to `upstream`: where the answer is
/// read to its end in any case, it is soon enough noticed by a write.
fn watch_client(client: &Client, upstream: &Upstream) {
    match upstream.spec.on_disconnect {
        OnDisconnect::Cancel => client.watch.watch_client(client.fd()),
        OnDisconnect::Drain => client.watch.ignore_client(),
    }
}

/// The deployments that a request was sent to.
#[derive(Default)]
struct Tried {
    ids: [DeploymentId; ATTEMPTS_MAX],
    count: usize,
}

impl Tried {
    fn push(&mut self, id: DeploymentId) {
        self.ids[self.count] = id;
        self.count += 1;
    }

    fn ids(&self) -> &[DeploymentId] {
        &self.ids[..self.count]
    }
}

/// The upstream says that it did not execute the request.
fn is_refusal(answer: &Answer) -> bool {
    matches!(answer.head.status, 429 | 503)
}

fn untried(request: &Request<'_>, tried: &[DeploymentId]) -> bool {
    tried.len() < ATTEMPTS_MAX
        && request.alias.upstreams.iter().any(|u| u.spec.weight > 0 && !tried.contains(&u.spec.id))
}

/// Judges the answer's head, and relays what may be relayed.
async fn answered(
    client: &mut Client,
    request: &Request<'_>,
    (answer, mode, chosen): (Answer, StreamMode, Chosen),
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
) -> Result<Persist, Failure> {
    let refused = match answer.head.status {
        401 | 403 => {
            metrics::add(&worker.counters.upstream_credential_refused, 1);
            Some(RequestError::UpstreamCredential)
        }
        300..=399 => Some(RequestError::UpstreamBroken),
        _ => None,
    };
    if let Some(error) = refused {
        client.watch.ignore_client();
        return Err(error.into());
    }
    let relayed = relay::run(client, request, &chosen.upstream, (answer, mode), exchange).await;
    client.watch.ignore_client();
    relayed
}

/// Sends the request to `upstream` and waits for the head of its answer.
async fn attempt(
    client: &mut Client,
    request: &Request<'_>,
    (upstream, splice): (&Upstream, &Splice<'_>),
    worker: &Rc<Worker>,
) -> Result<Answer, Attempt> {
    let (mut stream, reused) = match worker.upstreams.take(upstream, worker.watches.now_ms()) {
        Some(stream) => (stream, true),
        None => {
            metrics::add(&worker.counters.upstream_connects, 1);
            // Boxed, since it is rare, and larger than all else that a connection's task holds.
            let connecting = Box::pin(connect(upstream, &worker.tls));
            (connecting.await.map_err(|_| Attempt::NotSent)?, false)
        }
    };
    metrics::add(&worker.counters.upstream_attempts, 1);
    let sent = send(&mut stream, client, request, (upstream, splice), worker).await;
    // An upstream may answer before it has read everything, and close: what it said is worth more than our
    // error.
    if let Err(Fired::Deadline) = sent {
        return Err(Attempt::Lost(RequestError::UpstreamSlow));
    }
    if let Err(Fired::ClientLeft | Fired::Draining) = sent {
        return Err(Attempt::ClientLeft);
    }
    let whole = matches!(sent, Ok(Ok(())));
    let mut answer = receive(stream, client, upstream, worker, reused).await?;
    if !whole {
        // Such a connection carries no other request.
        answer.head.persist = Persist::Close;
    }
    Ok(answer)
}

/// Writes head and body: in one write where they fit a buffer of the pool.
async fn send(
    stream: &mut Stream,
    client: &Client,
    request: &Request<'_>,
    (upstream, splice): (&Upstream, &Splice<'_>),
    worker: &Rc<Worker>,
) -> Result<io::Result<()>, Fired> {
    let limit = Duration::from_millis(upstream.spec.idle_timeout_ms.into());
    let body = &client.input()[request.body.range.clone()];
    let body_len = splice.rewritten_len(body.len());
    let mut out = worker.buffers.take();
    append_head(&mut out, client.input(), request, upstream, body_len);
    if out.len() + body_len > out.capacity() {
        out.reserve_exact(WRITE_BYTES.min(body_len));
    }
    let mut sent = 0;
    loop {
        let room = out.capacity() - out.len();
        sent += splice.append_piece(body, sent, room, &mut out);
        let len = out.len();
        let (result, buffer) = client.watch.run(limit, stream.write_all(out, 0..len)).await?;
        if result.is_err() || sent == body_len {
            worker.buffers.give(buffer);
            return Ok(result);
        }
        out = buffer;
        out.clear();
    }
}

fn append_head(out: &mut Vec<u8>, input: &[u8], request: &Request<'_>, upstream: &Upstream, body_len: usize) {
    out.extend_from_slice(upstream.head(request.endpoint));
    for (name, value) in request.received.head.forwarded() {
        head_write::header(out, name, value.of(input));
    }
    head_write::framing(out, BodyFraming::Length(body_len as u64));
    head_write::end(out);
}

/// Reads until the head of the answer is there, past interim ones.
async fn receive(
    mut stream: Stream,
    client: &Client,
    upstream: &Upstream,
    worker: &Rc<Worker>,
    reused: bool,
) -> Result<Answer, Attempt> {
    let limit_ms = u64::from(upstream.spec.first_byte_timeout_ms);
    let began_ms = worker.watches.now_ms();
    let broken = || Attempt::Lost(RequestError::UpstreamBroken);
    let mut buffer = worker.buffers.take();
    buffer.resize(HEADROOM, 0);
    let (mut head_at, mut end, mut interim) = (HEADROOM, HeadEnd::of_response(), 0);
    loop {
        if let Some(len) = end.find(&buffer[head_at..]).map_err(|_| broken())? {
            let body_at = head_at + len;
            let head = ResponseHead::parse(&buffer[head_at..body_at], false).map_err(|_| broken())?;
            if !head.is_informational() {
                return Ok(Answer { stream, head, buffer, head_at, body_at });
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(broken());
            }
            (head_at, end) = (body_at, HeadEnd::of_response());
            continue;
        }
        if buffer.capacity() == buffer.len() {
            // `HeadEnd` ends the growth.
            buffer.reserve(buffer.len());
        }
        let at = buffer.len();
        // For the whole head: an upstream that drips it is as slow as one that is silent.
        let left_ms = limit_ms.saturating_sub(worker.watches.now_ms() - began_ms);
        match client.watch.run(Duration::from_millis(left_ms), stream.read(buffer, at)).await {
            Ok((Ok(1..), filled)) => buffer = filled,
            Ok((Ok(0) | Err(_), _)) if reused && at == HEADROOM => return Err(Attempt::Unclear),
            Ok((Ok(0) | Err(_), _)) => return Err(broken()),
            Err(Fired::Deadline) => return Err(Attempt::Lost(RequestError::UpstreamSlow)),
            Err(Fired::ClientLeft | Fired::Draining) => return Err(Attempt::ClientLeft),
        }
    }
}
