//! Three ledgers held against each other: what clients saw, what the upstream told, what ClickHouse has.
//!
//! Pure. What must hold:
//!
//!   * one event, one row; one exchange (by its prompt tokens), one row
//!   * an answer that a client received whole has its row, with the tokens that it told
//!   * an exchange that was cut has its row, and if the row is not marked as cut, it has all tokens: the
//!     exchange was settled, and what was lost were bytes on their way to the client
//!   * an exchange that was refused after its key was accepted has its row, with that status
//!   * a request that reached the upstream has a row; a row is some client's request

use std::collections::{HashMap, HashSet};

use wire::id::EventSeq;

use crate::upstream::Told;

/// How many differing exchanges are named.
pub const NAMED_MAX: usize = 20;

/// The number of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    /// The process.
    pub boot: u64,
    /// The number in it.
    pub seq: u64,
}

/// How an exchange ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answered, whole.
    Whole {
        /// As the answer told; streams tell only if they were asked to.
        prompt: Option<u64>,
        /// As the answer told, or has events for.
        completion: u64,
    },
    /// Answered whole with another status than 200.
    Refused {
        /// The status.
        status: u16,
    },
    /// Broken, before or after the head.
    Cut,
    /// The client left.
    Left,
    /// Nothing came for longer than a client waits.
    Hung,
    /// It ended as if it were whole, and is not.
    Odd,
}

/// What a client has of one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// Its number, which it asked for as prompt tokens.
    pub number: u64,
    /// The completion tokens that it asked for.
    pub tokens: u64,
    /// What its `x-request-id` stands for, if it got one.
    pub event: Option<Event>,
    /// What became of it.
    pub end: End,
}

/// A row of ClickHouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its event.
    pub event: Event,
    /// The status that was recorded.
    pub status: u16,
    /// `none`, `partial` or `final`.
    pub source: String,
    /// Prompt tokens.
    pub prompt: u64,
    /// Completion tokens.
    pub completion: u64,
}

/// What came of the comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What does not agree, in words, with the numbers that it is about.
    pub faults: Vec<String>,
    /// Exchanges that were sent.
    pub sent: u64,
    /// Answered whole.
    pub whole: u64,
    /// Broken, refused, left.
    pub cut: u64,
    /// Refused by the gateway.
    pub refused: u64,
    /// The client left.
    pub left: u64,
    /// Requests that reached the upstream.
    pub reached: u64,
    /// Rows.
    pub rows: u64,
    /// Rows that say that their exchange was not answered whole.
    pub flagged: u64,
    /// Tokens of whole answers, as clients saw them and as their rows have them.
    pub tokens: (u64, u64),
}

impl Row {
    /// Says that the exchange was not answered whole.
    fn is_flagged(&self) -> bool {
        self.status != 200 || self.source != "final"
    }

    fn has(&self, exchange: &Exchange) -> bool {
        (self.prompt, self.completion) == (exchange.number, exchange.tokens)
    }
}

/// Compares.
pub fn compare(seen: &[Exchange], told: &HashMap<u64, Told>, rows: &[Row]) -> Verdict {
    let mut judge = Judge { rows: HashMap::with_capacity(rows.len()), told, verdict: Verdict::default() };
    judge.index(rows);
    let mut claimed = HashSet::with_capacity(seen.len());
    for exchange in seen {
        judge.exchange(exchange);
        if let Some(event) = exchange.event.filter(|event| EventSeq(event.seq).is_admitted()) {
            claimed.insert(event);
        }
    }
    let unclaimed: Vec<&Row> = rows.iter().filter(|row| !claimed.contains(&row.event)).collect();
    judge.unclaimed(seen, &unclaimed);
    judge.reached(seen, rows);
    judge.verdict
}

struct Judge<'a> {
    rows: HashMap<Event, &'a Row>,
    told: &'a HashMap<u64, Told>,
    verdict: Verdict,
}

impl<'a> Judge<'a> {
    fn fault(&mut self, text: String) {
        self.verdict.faults.push(text);
    }

    /// One event, one row; one exchange, one row.
    fn index(&mut self, rows: &'a [Row]) {
        let mut numbers: HashMap<u64, Event> = HashMap::new();
        for row in rows {
            self.verdict.rows += 1;
            self.verdict.flagged += u64::from(row.is_flagged());
            if let Some(other) = self.rows.insert(row.event, row) {
                self.fault(format!("two rows of one event: {row:?}, {other:?}"));
            }
            if row.prompt > 0
                && let Some(other) = numbers.insert(row.prompt, row.event)
            {
                self.fault(format!("exchange {} has two rows: {:?}, {other:?}", row.prompt, row.event));
            }
        }
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.verdict.sent += 1;
        match exchange.end {
            End::Whole { prompt, completion } => self.whole(exchange, prompt, completion),
            End::Refused { status } => self.refused(exchange, status),
            End::Cut | End::Left => self.cut(exchange),
            End::Hung => self.fault(format!("no answer came for long: {exchange:?}")),
            End::Odd => self.fault(format!("a stream ended in order before its end: {exchange:?}")),
        }
    }

    fn row(&self, exchange: &Exchange) -> Option<&'a Row> {
        self.rows.get(&exchange.event?).copied()
    }

    fn whole(&mut self, exchange: &Exchange, prompt: Option<u64>, completion: u64) {
        self.verdict.whole += 1;
        if prompt.is_some_and(|prompt| prompt != exchange.number) || completion != exchange.tokens {
            self.fault(format!("not the answer of its request: {exchange:?}"));
        }
        let Some(row) = self.row(exchange) else {
            return self.fault(format!("an answer without a row: {exchange:?}"));
        };
        self.verdict.tokens.0 += exchange.number + completion;
        self.verdict.tokens.1 += row.prompt + row.completion;
        if row.is_flagged() || !row.has(exchange) {
            self.fault(format!("an answer whose row says otherwise: {exchange:?}, {row:?}"));
        }
        let reported = self.told.get(&exchange.number).map_or(0, |told| told.reported);
        if reported != 1 {
            self.fault(format!("an answer that the upstream told {reported} times: {exchange:?}"));
        }
    }

    fn refused(&mut self, exchange: &Exchange, status: u16) {
        self.verdict.refused += 1;
        let Some(event) = exchange.event else {
            return self.fault(format!("a refusal without a request id: {exchange:?}"));
        };
        let is_admitted = EventSeq(event.seq).is_admitted();
        match self.row(exchange) {
            Some(row) if row.status != status => {
                self.fault(format!("a refusal whose row says otherwise: {exchange:?}, {row:?}"));
            }
            None if is_admitted => self.fault(format!("a refusal without a row: {exchange:?}")),
            _ => {}
        }
    }

    fn cut(&mut self, exchange: &Exchange) {
        match exchange.end {
            End::Left => self.verdict.left += 1,
            _ => self.verdict.cut += 1,
        }
        // Without a request id it is one of those that `unclaimed` counts.
        let Some(event) = exchange.event else { return };
        match self.row(exchange) {
            None if EventSeq(event.seq).is_admitted() => {
                self.fault(format!("an exchange that was cut, without a row: {exchange:?}"));
            }
            Some(row) if !row.is_flagged() && !row.has(exchange) => {
                self.fault(format!("a row that does not say that it was cut: {exchange:?}, {row:?}"));
            }
            _ => {}
        }
    }

    /// Rows that no request id leads to belong to exchanges whose clients got no head.
    fn unclaimed(&mut self, seen: &[Exchange], rows: &[&Row]) {
        let headless: HashMap<u64, &Exchange> = seen
            .iter()
            .filter(|exchange| exchange.event.is_none())
            .map(|exchange| (exchange.number, exchange))
            .collect();
        if rows.len() > headless.len() {
            let named: Vec<_> = rows.iter().take(NAMED_MAX).collect();
            self.fault(format!(
                "{} rows that no client knows of, but {} exchanges without a request id: {named:?}",
                rows.len(),
                headless.len()
            ));
        }
        for row in rows.iter().filter(|row| row.prompt > 0) {
            if headless.get(&row.prompt).is_none_or(|exchange| !row.has(exchange)) {
                self.fault(format!("a row of no request that was sent: {row:?}"));
            }
        }
    }

    /// What reached the upstream has a row: one with its number, or one without tokens.
    fn reached(&mut self, seen: &[Exchange], rows: &[Row]) {
        self.verdict.reached = self.told.values().map(|told| u64::from(told.requests)).sum();
        let numbered: HashSet<u64> = rows.iter().filter(|row| row.prompt > 0).map(|row| row.prompt).collect();
        let by_event: HashSet<u64> =
            seen.iter().filter(|exchange| self.row(exchange).is_some()).map(|one| one.number).collect();
        let open: Vec<u64> = self
            .told
            .keys()
            .filter(|number| !numbered.contains(number) && !by_event.contains(number))
            .copied()
            .collect();
        let claimed: HashSet<Event> = seen.iter().filter_map(|exchange| exchange.event).collect();
        let free = rows.iter().filter(|row| row.prompt == 0 && !claimed.contains(&row.event)).count();
        if open.len() > free {
            let named: Vec<_> = open.iter().take(NAMED_MAX).collect();
            self.fault(format!(
                "{} requests reached the upstream and have no row, {free} rows are left: {named:?}",
                open.len()
            ));
        }
    }
}

#[cfg(test)]
mod tests;
