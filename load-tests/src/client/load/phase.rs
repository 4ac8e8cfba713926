//! The warm-up, or what counts: who sends what when, and what came of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::net::BufferPool;
use dataplane::tls::CIPHER_BYTES;

use super::connection::{Connection, Seen};
use super::report::{LATENCY_NS_MAX, LabelTotals};
use super::{Amount, Order, Pace, Plan, Report};
use crate::clock::{Pacer, monotonic_ns};

/// A pause after a failure: a peer that refuses must not be hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(5);
/// How many buffers for ciphertext are kept: no connection holds one while it waits.
const CIPHERTEXT_KEPT: usize = 16;

/// A request, ready to be written again and again without a copy.
pub(super) struct Prepared {
    label: String,
    pub(super) request: Rc<Vec<u8>>,
}

/// A phase of one thread.
pub(super) struct Phase {
    pub(super) plan: Plan,
    templates: Vec<Prepared>,
    /// Buffers that TLS connections share.
    pub(super) ciphertext: Rc<BufferPool>,
    pacer: Rc<Pacer>,
    started: Instant,
    amount: Amount,
    pace: Pace,
    /// How many requests this thread sends in a closed loop; `u64::MAX` if time is the limit.
    requests: u64,
    sent: Cell<u64>,
    /// How many each connection sends, even if time is up.
    each_at_least: u64,
    report: RefCell<Report>,
}

/// When a connection sends what.
struct Turn {
    template: usize,
    /// In an open loop.
    due: Option<Instant>,
}

/// The part of thread `index` of `threads`, of `total` things.
fn share(total: u64, threads: u64, index: u64) -> u64 {
    total / threads + u64::from(index < total % threads)
}

impl Phase {
    /// What counts.
    pub(super) fn of(plan: &Plan, thread: usize, pacer: &Rc<Pacer>) -> Rc<Self> {
        Self::new(plan, thread, pacer, (plan.amount, plan.pace), 0)
    }

    /// What does not: every connection sends for the time of the warm-up, and at least once.
    pub(super) fn warm_up(plan: &Plan, thread: usize, pacer: &Rc<Pacer>) -> Rc<Self> {
        Self::new(plan, thread, pacer, (Amount::For(plan.warm_up), Pace::Closed), 1)
    }

    fn new(
        plan: &Plan,
        thread: usize,
        pacer: &Rc<Pacer>,
        (amount, pace): (Amount, Pace),
        each_at_least: u64,
    ) -> Rc<Self> {
        let requests = match amount {
            Amount::Requests(total) => share(total, plan.threads.max(1) as u64, thread as u64),
            Amount::For(_) => u64::MAX,
        };
        let prepared = plan.templates.iter().map(|template| Prepared {
            label: template.label.clone(),
            request: Rc::new(template.request.clone()),
        });
        Rc::new(Self {
            templates: prepared.collect(),
            plan: Plan { templates: Vec::new(), ..plan.clone() },
            ciphertext: Rc::new(BufferPool::new(CIPHER_BYTES, CIPHERTEXT_KEPT)),
            pacer: Rc::clone(pacer),
            started: Instant::now(),
            amount,
            pace,
            requests,
            sent: Cell::new(0),
            each_at_least,
            report: RefCell::new(Report::empty()),
        })
    }

    /// Lets all connections of the thread send; returns them with what came of it.
    pub(super) async fn carry_out(self: Rc<Self>, connections: Vec<Connection>) -> (Vec<Connection>, Report) {
        let drive = |connection| monoio::spawn(Rc::clone(&self).drive(connection));
        let tasks: Vec<_> = connections.into_iter().map(drive).collect();
        let mut connections = Vec::with_capacity(tasks.len());
        for task in tasks {
            connections.push(task.await);
        }
        let mut report = self.report.replace(Report::empty());
        report.elapsed = self.started.elapsed();
        (connections, report)
    }

    /// One connection: sends until the phase is through, and connects again when it must.
    async fn drive(self: Rc<Self>, mut connection: Connection) -> Connection {
        let mut turns = 0;
        if !self.plan.ramp.is_zero() {
            self.pacer.until(self.started + self.ramp_of(connection.number)).await;
        }
        while let Some(turn) = self.next(connection.number, turns).await {
            turns += 1;
            let template = &self.templates[turn.template];
            match connection.exchange(&self, template, turn.due).await {
                Ok(seen) => self.count(&template.label, &connection, &seen),
                Err(error) => {
                    self.report.borrow_mut().fail(&error);
                    monoio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
        connection
    }

    fn ramp_of(&self, connection: usize) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a connection's number is small")]
        self.plan.ramp.mul_f64(connection as f64 / self.plan.connections.max(1) as f64)
    }

    /// What a connection that had so many turns sends next, once it is due; `None` when it is through.
    async fn next(&self, connection: usize, turns: u64) -> Option<Turn> {
        match self.pace {
            Pace::Closed => {
                let number = self.sent.get();
                let is_over = matches!(self.amount, Amount::For(time) if self.started.elapsed() >= time);
                if number >= self.requests || (is_over && turns >= self.each_at_least) {
                    return None;
                }
                self.sent.set(number + 1);
                Some(Turn { template: self.template(connection, number), due: None })
            }
            Pace::Rate(rate) => {
                // Connection c has the requests c, c + n, c + 2n of all n connections.
                let number = connection as u64 + turns * self.plan.connections as u64;
                #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
                let after = Duration::from_secs_f64(number as f64 / rate);
                let is_over = match self.amount {
                    Amount::Requests(total) => number >= total,
                    Amount::For(time) => after >= time,
                };
                if is_over {
                    return None;
                }
                let due = self.started + after;
                self.pacer.until(due).await;
                Some(Turn { template: self.template(connection, number), due: Some(due) })
            }
        }
    }

    /// What `connection` sends as the request of this number.
    fn template(&self, connection: usize, number: u64) -> usize {
        let number = match self.plan.order {
            Order::InTurn => usize::try_from(number).unwrap_or(usize::MAX),
            Order::OneEach => connection,
        };
        number % self.templates.len()
    }

    /// Notes a new connection, and whether it resumed a TLS session.
    pub(super) fn connected(&self, resumed: bool) {
        let mut report = self.report.borrow_mut();
        report.connects += 1;
        report.resumed += u64::from(resumed);
    }

    /// Notes an event that was sent at that time.
    pub(super) fn event(&self, sent_ns: u64) {
        let latency = monotonic_ns().saturating_sub(sent_ns).min(LATENCY_NS_MAX);
        self.report.borrow_mut().event.saturating_record(latency);
        if let Some(seen) = &self.plan.events_seen {
            count_one(seen);
        }
    }

    fn count(&self, label: &str, connection: &Connection, seen: &Seen) {
        let nanoseconds = |at: Instant| {
            let elapsed = at.saturating_duration_since(seen.due).as_nanos();
            u64::try_from(elapsed).unwrap_or(LATENCY_NS_MAX).min(LATENCY_NS_MAX)
        };
        let decoder = &connection.decoder;
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
        let usage = self.plan.count_usage.then(|| super::last_usage(&decoder.body)).flatten();
        if let Some(usage) = usage {
            totals.with_usage += 1;
            totals.prompt_tokens += usage.prompt_tokens;
            totals.completion_tokens += usage.completion_tokens;
            totals.total_tokens += usage.total_tokens;
        }
    }
}

fn count_one(counter: &Arc<AtomicU64>) {
    counter.fetch_add(1, Ordering::Relaxed);
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
