//! Clients that write down what became of each of their requests.
//!
//! Every exchange has a number of its own, which it asks for as its prompt tokens, so that an answer, a row
//! and the upstream's count can be told to be of the same one. Each client is a thread with one connection;
//! together they keep a rate, and what they could not send in time they send as soon as they can.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wire::request_id::RequestIds;

use super::ledgers::{End, Event, Exchange};
use crate::client::load::last_usage;
use crate::client::raw::End as How;
use crate::client::{Connection, Response, post};
use crate::random::Random;
use crate::upstream::Script;

/// A pause after a connection that was refused.
const REFUSED: Duration = Duration::from_millis(2);
/// No answer has more tokens.
const TOKENS_MAX: usize = 8;
/// One in so many streams takes its time.
const SLOW_STREAMS: usize = 12;
/// One in so many clients leaves in the middle of its answer.
const LEAVING: usize = 60;

/// Whom the clients ask, and how.
pub struct Clients<'a> {
    /// The data plane.
    pub address: SocketAddr,
    /// The key that they have.
    pub key: &'a str,
    /// How request ids are read.
    pub ids: RequestIds,
    /// What their choices follow from.
    pub seed: u64,
    /// How many there are.
    pub count: usize,
    /// Exchanges a second, all of them together.
    pub rate: f64,
    /// The last number that was given out.
    pub numbers: AtomicU64,
    /// Raised when they are to end.
    pub stop: AtomicBool,
}

struct Client<'a> {
    all: &'a Clients<'a>,
    random: Random,
    connection: Option<Connection>,
    seen: Vec<Exchange>,
}

impl Clients<'_> {
    /// Sends until it is told to stop; gives what was seen of every exchange that was sent.
    pub fn run(&self) -> Vec<Exchange> {
        std::thread::scope(|scope| {
            let play = |index| Client::new(self, index).play(index);
            let clients: Vec<_> = (0..self.count).map(|index| scope.spawn(move || play(index))).collect();
            clients.into_iter().flat_map(|client| client.join().expect("no client panics")).collect()
        })
    }
}

impl<'a> Client<'a> {
    fn new(all: &'a Clients<'a>, index: usize) -> Self {
        let random = Random::new(all.seed.wrapping_mul(1000).wrapping_add(index as u64));
        Self { all, random, connection: None, seen: Vec::new() }
    }

    fn play(mut self, index: usize) -> Vec<Exchange> {
        #[expect(clippy::cast_precision_loss, reason = "a few dozen clients")]
        let turn = Duration::from_secs_f64(self.all.count as f64 / self.all.rate);
        #[expect(clippy::cast_precision_loss, reason = "a few dozen clients")]
        let mut due = Instant::now() + turn.mul_f64(index as f64 / self.all.count as f64);
        while !self.all.stop.load(Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let connection = match self.connection.take() {
                Some(connection) => Ok(connection),
                None => Connection::open(self.all.address),
            };
            match connection {
                Ok(connection) => self.exchange(connection),
                Err(_) => std::thread::sleep(REFUSED),
            }
            due += turn;
        }
        self.seen
    }

    fn exchange(&mut self, mut connection: Connection) {
        let number = self.all.numbers.fetch_add(1, Relaxed) + 1;
        let (tokens, streamed) = (1 + self.random.below(TOKENS_MAX), self.random.once_in(2));
        let slow = streamed && self.random.once_in(SLOW_STREAMS);
        let leaves = self.random.once_in(LEAVING).then(|| self.random.below(600));
        let request = self.request(number, tokens, streamed, slow);
        let mut response = Response::of(&request);
        let sent = connection.send(&request);
        let read = sent.and_then(|()| {
            connection.read(&mut response, |response| {
                leaves.is_some_and(|bytes| response.status() != 0 && response.body().len() >= bytes)
            })
        });
        let end = end(&response, &read, streamed, leaves.is_some());
        let keeps = matches!(end, End::Whole { .. } | End::Refused { .. });
        if keeps && response.end == How::Framed && response.header("connection") != "close" {
            self.connection = Some(connection);
        }
        let event = self.all.ids.event(response.header("x-request-id"));
        let event = event.map(|(boot, seq)| Event { boot: boot.0, seq: seq.0 });
        let tokens = tokens as u64;
        self.seen.push(Exchange { number, tokens, event, end });
    }

    fn request(&mut self, number: u64, tokens: usize, streamed: bool, slow: bool) -> Vec<u8> {
        let mut more = String::new();
        if streamed {
            more.push_str(r#","stream":true"#);
            if self.random.once_in(2) {
                more.push_str(r#","stream_options":{"include_usage":true}"#);
            }
        }
        if slow {
            let script = Script { event_delay_ms: 20, ..Script::default() };
            let script = serde_json::to_string(&script).expect("a script becomes JSON");
            more.push_str(&format!(r#","script":{script}"#));
        }
        let body = format!(r#"{{"model":"small","seed":{number},"max_tokens":{tokens}{more}}}"#);
        post("/v1/chat/completions", self.all.key, &body)
    }
}

/// What became of an exchange, as its client saw it.
fn end(response: &Response, read: &io::Result<()>, streamed: bool, leaves: bool) -> End {
    let status = response.status();
    match read {
        // The client gave up: it must never come to that.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => End::Hung,
        Ok(()) if response.end == How::Open && leaves => End::Left,
        Ok(()) if response.is_complete() && status == 200 => whole(response, streamed),
        Ok(()) if response.is_complete() => End::Refused { status },
        _ => End::Cut,
    }
}

/// The tokens of a whole answer, as far as it tells them.
fn whole(response: &Response, streamed: bool) -> End {
    let usage = last_usage(response.body());
    if !streamed {
        let usage = usage.unwrap_or_default();
        return End::Whole { prompt: Some(usage.prompt_tokens), completion: usage.completion_tokens };
    }
    if !response.body().ends_with(b"data: [DONE]\n\n") {
        return End::Odd;
    }
    // Beside one event for each token there is the last one, and `[DONE]`.
    let events = memchr::memmem::find_iter(response.body(), b"data: ").count() as u64;
    let completion = events.saturating_sub(2 + u64::from(usage.is_some()));
    End::Whole { prompt: usage.map(|usage| usage.prompt_tokens), completion }
}
