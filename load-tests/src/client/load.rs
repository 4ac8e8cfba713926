//! Load: many connections driven by a plan, on monoio.
//!
//! A plan is a closed loop (each connection sends when its last response is through) or an open one (requests
//! are due at a fixed rate, and a latency counts from when the request was due, so that a stall is not left
//! out of the figures). What the clients saw is counted by label: statuses, events, and the tokens of each
//! `usage` they received.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use crate::message::ResponseDecoder;
use report::LATENCY_NS_MAX;
pub use report::{LabelTotals, Report, Usage, last_usage};

mod report;

const READ_BYTES: usize = 16 * 1024;
/// A pause after a failure: a peer that refuses must not be hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

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
    /// Connections, in all threads together.
    pub connections: usize,
    /// Threads, each with a ring.
    pub threads: usize,
    /// How much.
    pub amount: Amount,
    /// When.
    pub pace: Pace,
    /// The requests, taken in turn.
    pub templates: Vec<Template>,
    /// Whether to look for `usage` in answers.
    pub count_usage: bool,
}

impl Plan {
    /// A closed loop over these templates on one thread, counting usage.
    pub fn new(address: SocketAddr, connections: usize, amount: Amount, templates: Vec<Template>) -> Self {
        Self { address, connections, threads: 1, amount, pace: Pace::Closed, templates, count_usage: true }
    }
}

/// Carries a plan out, and returns when all of it is through.
pub fn run(plan: &Plan) -> io::Result<Report> {
    let threads = plan.threads.max(1);
    let mut report = Report::empty();
    let parts = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|index| scope.spawn(move || run_thread(plan, index))).collect();
        workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for part in parts {
        report.merge(part.map_err(|_| io::Error::other("a load thread panicked"))??);
    }
    Ok(report)
}

/// The part of thread `index` of `threads`, of `total` things.
fn share(total: u64, threads: u64, index: u64) -> u64 {
    total / threads + u64::from(index < total % threads)
}

/// What the connections of one thread share.
struct Shared {
    plan: Plan,
    started: Instant,
    /// How many requests this thread sends; `u64::MAX` if time is the limit.
    requests: u64,
    sent: Cell<u64>,
    /// Between two requests of this thread, in an open loop.
    interval: Option<Duration>,
    report: RefCell<Report>,
}

fn run_thread(plan: &Plan, index: usize) -> io::Result<Report> {
    let (threads, index) = (plan.threads.max(1) as u64, index as u64);
    let requests = match plan.amount {
        Amount::Requests(total) => share(total, threads, index),
        Amount::For(_) => u64::MAX,
    };
    let interval = match plan.pace {
        Pace::Closed => None,
        #[expect(clippy::cast_precision_loss, reason = "a thread count is small")]
        Pace::Rate(rate) => Some(Duration::from_secs_f64(threads as f64 / rate)),
    };
    let mut runtime = crate::ring::build()?;
    let shared = Rc::new(Shared {
        plan: plan.clone(),
        started: Instant::now(),
        requests,
        sent: Cell::new(0),
        interval,
        report: RefCell::new(Report::empty()),
    });
    let for_tasks = Rc::clone(&shared);
    runtime.block_on(async move {
        let connections = share(plan.connections as u64, threads, index);
        let tasks: Vec<_> = (0..connections).map(|_| monoio::spawn(drive(Rc::clone(&for_tasks)))).collect();
        for task in tasks {
            task.await;
        }
    });
    let mut report = shared.report.replace(Report::empty());
    report.elapsed = shared.started.elapsed();
    Ok(report)
}

/// One connection: sends until the plan is through, and connects again when it must.
async fn drive(shared: Rc<Shared>) {
    let mut stream = None;
    let mut buffer = Vec::with_capacity(READ_BYTES);
    while let Some((number, due)) = shared.next().await {
        let template = &shared.plan.templates[number % shared.plan.templates.len()];
        let result = match stream.take() {
            Some(open) => Ok(open),
            None => shared.connect().await,
        };
        let result = match result {
            Ok(open) => exchange(open, &template.request, due, &mut buffer).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(seen) => {
                shared.count(&template.label, &seen);
                stream = seen.stream;
            }
            Err(_) => {
                shared.report.borrow_mut().failures += 1;
                monoio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// A whole response, as one connection saw it.
struct Seen {
    decoder: ResponseDecoder,
    due: Instant,
    first_byte: Instant,
    last_byte: Instant,
    /// The connection, if it can be used again.
    stream: Option<TcpStream>,
}

async fn exchange(
    mut stream: TcpStream,
    request: &[u8],
    due: Option<Instant>,
    buffer: &mut Vec<u8>,
) -> io::Result<Seen> {
    let due = due.unwrap_or_else(Instant::now);
    stream.write_all(request.to_vec()).await.0?;
    let mut decoder = ResponseDecoder::default();
    let mut first_byte = None;
    let mut closed = false;
    while !decoder.is_done() {
        let (result, filled) = stream.read(std::mem::take(buffer)).await;
        *buffer = filled;
        if result? == 0 {
            closed = true;
            break;
        }
        let used = decoder.feed(buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if used < buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the response"));
        }
        if first_byte.is_none() && !decoder.body.is_empty() {
            first_byte = Some(Instant::now());
        }
    }
    let last_byte = Instant::now();
    let by_close = decoder.framing() == Some(crate::message::Framing::Close);
    if closed && !by_close {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let says_close =
        crate::message::header(&decoder.head, "connection").is_some_and(|value| value == b"close");
    let stream = (!closed && !says_close).then_some(stream);
    Ok(Seen { decoder, due, first_byte: first_byte.unwrap_or(last_byte), last_byte, stream })
}

impl Shared {
    /// The number of the next request and when it is due; `None` when the plan is through.
    async fn next(&self) -> Option<(usize, Option<Instant>)> {
        let number = self.sent.get();
        let ended = matches!(self.plan.amount, Amount::For(time) if self.started.elapsed() >= time);
        if number >= self.requests || ended {
            return None;
        }
        self.sent.set(number + 1);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(interval) = self.interval else { return Some((index, None)) };
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
        let due = self.started + interval.mul_f64(number as f64);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            monoio::time::sleep(early).await;
        }
        Some((index, Some(due)))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.plan.address).await?;
        stream.set_nodelay(true)?;
        self.report.borrow_mut().connects += 1;
        Ok(stream)
    }

    fn count(&self, label: &str, seen: &Seen) {
        let nanoseconds = |at: Instant| {
            let elapsed = at.saturating_duration_since(seen.due).as_nanos();
            u64::try_from(elapsed).unwrap_or(LATENCY_NS_MAX).min(LATENCY_NS_MAX)
        };
        let decoder = &seen.decoder;
        let report = &mut *self.report.borrow_mut();
        *report.statuses.entry(decoder.status).or_default() += 1;
        report.body_bytes += decoder.body.len() as u64;
        report.latency.saturating_record(nanoseconds(seen.last_byte));
        report.first_byte.saturating_record(nanoseconds(seen.first_byte));
        if !report.labels.contains_key(label) {
            report.labels.insert(label.to_owned(), LabelTotals::default());
        }
        let Some(totals) = report.labels.get_mut(label) else { return };
        totals.responses += 1;
        totals.ok += u64::from(decoder.status == 200);
        if decoder.body.starts_with(b"data:") {
            totals.events += memchr::memmem::find_iter(&decoder.body, b"data: ").count() as u64;
        }
        let usage = self.plan.count_usage.then(|| last_usage(&decoder.body)).flatten();
        if let Some(usage) = usage {
            totals.with_usage += 1;
            totals.prompt_tokens += usage.prompt_tokens;
            totals.completion_tokens += usage.completion_tokens;
            totals.total_tokens += usage.total_tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_threads_add_up() {
        for (total, threads) in [(10, 3), (2, 4), (0, 2)] {
            let sum: u64 = (0..threads).map(|index| share(total, threads, index)).sum();
            assert_eq!(sum, total);
        }
    }
}
