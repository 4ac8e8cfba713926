//! Load: many connections driven by a plan, on monoio.
//!
//! A plan is a closed loop (each connection sends when its last response is through) or an open one: requests
//! are due at a fixed rate, spread evenly over the connections, and a latency counts from when the request
//! was due, so that a stall is not left out of the figures. What the clients saw is counted by label:
//! statuses, events, and the tokens of each `usage` they received.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use connection::Connection;
use phase::Phase;
pub use report::{LabelTotals, Report, Usage, last_usage};
use rustls::ClientConfig;

use crate::clock::Pacer;

mod connection;
mod phase;
mod report;
mod stamps;
mod transport;

/// How long a ring gets to close its connections.
const CLOSING: Duration = Duration::from_millis(1);

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// So many requests.
    Requests(u64),
    /// As many as fit into this time.
    For(Duration),
}

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each connection sends when its last response is through.
    Closed,
    /// So many requests a second in all, whether or not responses come.
    Rate(f64),
}

/// A request to send, again and again.
#[derive(Debug, Clone)]
pub struct Template {
    /// Under what it is counted: a key, a team.
    pub label: String,
    /// The request, exactly.
    pub request: Vec<u8>,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom to ask.
    pub address: SocketAddr,
    /// How to speak TLS to it; without, plain.
    pub tls: Option<Arc<ClientConfig>>,
    /// Connections, in all threads together.
    pub connections: usize,
    /// Threads, each with a ring.
    pub threads: usize,
    /// How long the connections send before anything counts; each of them at least once, unless it is zero.
    pub warm_up: Duration,
    /// How much.
    pub amount: Amount,
    /// When.
    pub pace: Pace,
    /// In a closed loop, the time in which the connections begin, one after the other.
    pub ramp: Duration,
    /// The requests.
    pub templates: Vec<Template>,
    /// Which of them a connection sends.
    pub order: Order,
    /// Whether to look for `usage` in answers.
    pub count_usage: bool,
    /// Counts stamped events as they come, for whoever wants to know while it runs.
    pub events_seen: Option<Arc<AtomicU64>>,
}

impl Plan {
    /// A closed loop over these templates on one thread, counting usage.
    pub fn new(address: SocketAddr, connections: usize, amount: Amount, templates: Vec<Template>) -> Self {
        Self {
            address,
            tls: None,
            connections,
            threads: 1,
            warm_up: Duration::ZERO,
            amount,
            pace: Pace::Closed,
            ramp: Duration::ZERO,
            templates,
            order: Order::InTurn,
            count_usage: true,
            events_seen: None,
        }
    }
}

/// Which template a connection sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All connections together take one after the other: clients behind a balancer that mixes them.
    InTurn,
    /// The same one each time: a connection is a client with one key.
    OneEach,
}

/// Carries a plan out, and returns when all of it is through.
pub fn run(plan: &Plan) -> io::Result<Report> {
    run_measured(plan, || ())
}

/// The same; `begin` is called once all connections are warm, before the first request that counts, while
/// nothing is under way.
pub fn run_measured(plan: &Plan, begin: impl FnOnce()) -> io::Result<Report> {
    let threads = plan.threads.max(1);
    let mut report = Report::empty();
    let parts = std::thread::scope(|scope| {
        let (warm, all_warm) = mpsc::channel();
        let mut workers = Vec::new();
        let mut starts = Vec::new();
        for index in 0..threads {
            let (start, started) = mpsc::channel();
            let gate = Gate { warm: warm.clone(), started };
            starts.push(start);
            workers.push(scope.spawn(move || run_thread(plan, index, gate)));
        }
        drop(warm);
        // It ends when each thread has spoken, or has ended.
        all_warm.iter().for_each(drop);
        begin();
        drop(starts);
        workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for part in parts {
        report.merge(part.map_err(|_| io::Error::other("a load thread panicked"))??);
    }
    Ok(report)
}

/// Where a thread waits between its warm-up and what counts.
struct Gate {
    warm: Sender<()>,
    started: Receiver<()>,
}

impl Gate {
    fn pass(self) {
        drop(self.warm);
        // Nothing is ever sent: it opens when the other end is gone.
        let _ = self.started.recv();
    }
}

fn run_thread(plan: &Plan, index: usize, gate: Gate) -> io::Result<Report> {
    let threads = plan.threads.max(1);
    crate::ring::build()?.block_on(async {
        let pacer = Pacer::start()?;
        let mut connections: Vec<_> =
            (index..plan.connections).step_by(threads).map(Connection::new).collect();
        let mut warmed = Report::empty();
        if !plan.warm_up.is_zero() {
            let phase = Phase::warm_up(plan, index, &pacer);
            (connections, warmed) = phase.carry_out(connections).await;
        }
        // Blocks the ring; nothing is under way on it.
        gate.pass();
        let (connections, mut report) = Phase::of(plan, index, &pacer).carry_out(connections).await;
        report.take_failures(&warmed);
        drop(connections);
        // The ring closes them, and what it has not been told when it ends stays open for ever.
        monoio::time::sleep(CLOSING).await;
        Ok(report)
    })
}
