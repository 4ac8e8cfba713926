//! The upstream's loops: accept, read a request, carry out the steps of its answer.
//!
//! A request that equals the one before it on the same connection gets the answer that was prepared for that
//! one: load tests send the same bytes again and again, and an upstream that parses them each time would be
//! measured too.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use super::answer::{STAMP_DIGITS, Shaped};
use super::control;
use super::plan::{self, Step};
use super::request::{self, Ask, Request};
use super::script::{After, Delimiter};
use super::socket;
use super::state::Shared;
use crate::clock::{self, Pacer};

/// How much room a read gets at least.
const READ_BYTES: usize = 16 * 1024;
/// How often a wait for a gate, or for the peer's read, looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long `AwaitRead` waits at most: a peer that does not read is a finding of the test, not of the
/// upstream.
const READ_WAIT_MAX: Duration = Duration::from_secs(2);

/// Accepts until the upstream stops. A pending accept is never dropped: `stop` connects once to wake it.
pub(crate) async fn listen(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let pacer = Pacer::start()?;
    loop {
        let (stream, peer) = listener.accept().await?;
        socket::keep_from_children(stream.as_raw_fd());
        if shared.stopping.load(Ordering::Acquire) {
            break;
        }
        let (shared, pacer) = (Arc::clone(&shared), Rc::clone(&pacer));
        monoio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
            shared.connected(number, stream.as_raw_fd());
            let for_connection = Arc::clone(&shared);
            let mut connection =
                Connection { stream, peer, number, shared: for_connection, pacer, last: None };
            // An error is the peer's doing, or the script's.
            let _ = connection.serve().await;
            shared.disconnected(number);
        });
    }
    drop(listener);
    shared.shut_down(false);
    while shared.live_count() > 0 {
        monoio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// An answer ready to be given again.
struct Prepared {
    path: String,
    body: Vec<u8>,
    model: String,
    tokens: (u64, u64),
    steps: Rc<Vec<Step>>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    number: u64,
    shared: Arc<Shared>,
    pacer: Rc<Pacer>,
    last: Option<Prepared>,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<()> {
        let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
        let mut continued = false;
        let mut idle_limit = None;
        loop {
            let parsed =
                request::parse(&buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some(request) = parsed else {
                if !continued && request::expects_continue(&buffer) {
                    continued = true;
                    self.send(Rc::new(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())).await?;
                }
                let before = buffer.len();
                (buffer, idle_limit) = self.read(buffer, idle_limit).await?;
                if buffer.len() == before {
                    return Ok(());
                }
                continue;
            };
            continued = false;
            let used = request.bytes;
            let answer = self.answer(&request);
            buffer.drain(..used);
            self.shared.set_idle(self.number, false);
            match self.carry_out(answer).await? {
                After::Keep => {}
                After::CloseIdle(ms) => idle_limit = Some(Duration::from_millis(ms)),
                After::Close => return Ok(()),
                After::Reset | After::Abort => {
                    socket::reset_on_close(self.stream.as_raw_fd());
                    return Ok(());
                }
                After::Stall => return self.stall(buffer).await,
            }
            self.shared.set_idle(self.number, true);
        }
    }

    /// Reads once. An end of file, or the idle limit, leaves the buffer as long as it was.
    async fn read(
        &mut self,
        mut buffer: Vec<u8>,
        idle_limit: Option<Duration>,
    ) -> io::Result<(Vec<u8>, Option<Duration>)> {
        buffer.reserve(READ_BYTES);
        let filled = buffer.len();
        let reading = self.stream.read(buffer.slice_mut(filled..));
        // Idle is a connection on which nothing of a request has come.
        let (result, slice) = match idle_limit.filter(|_| filled == 0) {
            None => reading.await,
            Some(limit) => match monoio::time::timeout(limit, reading).await {
                Ok(read) => read,
                Err(_) => return Ok((Vec::new(), None)),
            },
        };
        result?;
        Ok((slice.into_inner(), None))
    }

    /// Says nothing more, and reads until the peer gives up.
    async fn stall(&mut self, mut buffer: Vec<u8>) -> io::Result<()> {
        loop {
            let (result, read) = self.stream.read(buffer).await;
            buffer = read;
            if result? == 0 {
                return Ok(());
            }
        }
    }

    /// Decides on the answer, and counts the request.
    fn answer(&mut self, request: &Request<'_>) -> Prepared {
        if let Some(answer) = control::answer(&self.shared, request) {
            return prepared(plan::usual(&answer, Delimiter::Length, Duration::ZERO));
        }
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        self.shared.record(self.number, request.head, &request.body);
        let scripts = self.shared.has_scripts();
        if let Some(last) = self.last.take_if(|_| !scripts)
            && last.path == request.path
            && last.body == *request.body
        {
            return last;
        }
        let shared = Arc::clone(&self.shared);
        let options = &shared.options;
        let path = request.path.strip_prefix(options.prefix.as_str()).unwrap_or("");
        let mut ask = Ask::read(path, &request.body);
        let own = ask.as_mut().and_then(|ask| ask.script.take());
        let model = ask.as_ref().map_or("", |ask| ask.model.as_str());
        let listed = || scripts.then(|| shared.take_script(model, request.path)).flatten();
        let script = own.map(|script| *script).or_else(listed);
        let shaped = match &ask {
            Some(ask) => Shaped::model(ask, script.as_ref().is_some_and(|script| script.stamp)),
            None if path == "/models" => Shaped::models(&options.models),
            None => Shaped::error(404, "not_found"),
        };
        let delimiter = ask.as_ref().map_or(Delimiter::Length, Ask::delimiter);
        let steps = match &script {
            Some(script) => plan::scripted(script, shaped, delimiter),
            None => plan::usual(&shaped, delimiter, options.event_interval),
        };
        let tokens = ask.as_ref().map_or((0, 0), |ask| (ask.prompt_tokens, ask.completion_tokens));
        let model = model.to_owned();
        // What a script made is for once: an empty path equals no request's.
        let path = if script.is_some() { String::new() } else { request.path.to_owned() };
        Prepared { path, body: request.body.to_vec(), model, tokens, steps: Rc::new(steps) }
    }

    async fn carry_out(&mut self, answer: Prepared) -> io::Result<After> {
        if !answer.model.is_empty() {
            self.shared.count(&answer.model, |totals| totals.requests += 1);
            self.shared.count_exchange(answer.tokens.0, |told| told.requests += 1);
        }
        let steps = Rc::clone(&answer.steps);
        let mut after = After::Keep;
        // Pauses are from one due time to the next, so that a stream keeps its rate whatever a write takes.
        let mut due = Instant::now();
        for step in steps.iter() {
            match step {
                Step::Send(bytes) => self.send(Rc::clone(bytes)).await?,
                Step::Stamp(bytes, at) => self.send(stamped(bytes, *at)).await?,
                Step::Report => self.report(&answer),
                Step::Pause(time) => {
                    due += *time;
                    self.pacer.until(due).await;
                }
                Step::AwaitRead => {
                    self.await_read().await;
                    due = Instant::now();
                }
                Step::Gate(name) => {
                    self.await_gate(name).await?;
                    due = Instant::now();
                }
                Step::End(end) => after = *end,
            }
        }
        self.last = (!answer.path.is_empty()).then_some(answer);
        Ok(after)
    }

    fn report(&self, answer: &Prepared) {
        let (prompt, completion) = answer.tokens;
        self.shared.count(&answer.model, |totals| {
            totals.reported += 1;
            totals.prompt_tokens += prompt;
            totals.completion_tokens += completion;
        });
        self.shared.count_exchange(prompt, |told| {
            told.reported += 1;
            told.completion_tokens += completion;
        });
    }

    async fn send(&mut self, bytes: Rc<Vec<u8>>) -> io::Result<()> {
        self.stream.write_all(bytes).await.0.map(drop)
    }

    async fn await_read(&self) {
        let Ok(local) = self.stream.local_addr() else { return };
        let started = Instant::now();
        while socket::unread(local, self.peer) && started.elapsed() < READ_WAIT_MAX {
            monoio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for a gate. It polls, because a waker from the test's thread would panic in monoio.
    async fn await_gate(&self, name: &str) -> io::Result<()> {
        self.shared.reach_gate(name);
        while !self.shared.gate_is_open(name) {
            if self.shared.stopping.load(Ordering::Acquire) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            monoio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

/// The bytes of an event with the present time in them.
fn stamped(bytes: &[u8], at: usize) -> Rc<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let mut rest = clock::monotonic_ns();
    for digit in bytes[at..at + STAMP_DIGITS].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    Rc::new(bytes)
}

fn prepared(steps: Vec<Step>) -> Prepared {
    let (path, model) = (String::new(), String::new());
    Prepared { path, body: Vec::new(), model, tokens: (0, 0), steps: Rc::new(steps) }
}
