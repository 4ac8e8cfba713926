//! Handshakes: connections that shake hands, ask once and are closed, in full and resumed.
//!
//! What is told of one is everything that a proxy does for it: accept, handshake, one exchange, close. The
//! clients are few, so that a session's tickets are there when the next one connects; they cost more than a
//! proxy does, so its core has time left.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use load_tests::tls::Certified;
use serde::Serialize;

use crate::keys::Keys;
use crate::measure::{Meanwhile, Stand, Window};
use crate::stats::Estimate;
use crate::subject::{Name, Setting, Subject};
use crate::tls::Tls;
use crate::work::Work;

/// Clients at a time: rustls keeps at most eight tickets of one server.
const CLIENTS: usize = 8;

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Handshakes {
    rows: Vec<Row>,
}

/// One proxy: CPU microseconds of a connection, by round.
#[derive(Debug, Serialize)]
struct Row {
    subject: &'static str,
    about: String,
    full_us: Vec<f64>,
    resumed_us: Vec<f64>,
}

fn work(name: &'static str, tls: Tls) -> Work {
    Work { name, tls, connections: CLIENTS, shipping: false, ..Work::chat() }
}

/// Measures all proxies, in turn.
pub(crate) fn measure(rounds: u16, time: Duration) -> anyhow::Result<Handshakes> {
    let upstream = Stand::upstream()?;
    let keys = Keys::invented();
    let certified = Arc::new(Certified::new()?);
    let setting = Setting { tls: Some(&certified), ..Setting::new(upstream.address(), &keys) };
    let names = Name::ALL.into_iter().filter(|name| name.speaks_tls());
    let subjects = names.map(|name| Subject::start(name, &setting)).collect::<anyhow::Result<Vec<_>>>()?;
    let stand = Stand::new(upstream, &keys.sent)?;
    let window = Window { time, half: 0.0 };
    let mut rows: Vec<Row> = subjects.iter().map(Row::of).collect();
    for round in 1..=rounds {
        eprintln!("handshakes, round {round} of {rounds}");
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for number in order {
            let cpu_us = |work: &Work| -> anyhow::Result<f64> {
                let sample = stand.measure(&subjects[number], work, window, Meanwhile::Paused);
                Ok(sample.with_context(|| format!("{} at {}", rows[number].subject, work.name))?.cpu_us)
            };
            let full_us = cpu_us(&work("handshakes_full", Tls::Full))?;
            let resumed_us = cpu_us(&work("handshakes_resumed", Tls::Resumed))?;
            rows[number].full_us.push(full_us);
            rows[number].resumed_us.push(resumed_us);
        }
    }
    Ok(Handshakes { rows })
}

impl Row {
    fn of(subject: &Subject) -> Self {
        let (subject, about) = (subject.name.text(), subject.about.clone());
        Self { subject, about, full_us: Vec::new(), resumed_us: Vec::new() }
    }
}

impl Handshakes {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| CPU of the proxy, TLS 1.3, ECDSA P-256 | µs per connection, handshake in full | handshakes per \
             CPU second | µs per connection, resumed | handshakes per CPU second |\n|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let [full, resumed] = [&row.full_us, &row.resumed_us].map(|rounds| {
                let Estimate { median, low, high } = Estimate::of(rounds.clone());
                format!("{median:.1} ({low:.1} to {high:.1}) | {:.0}", 1e6 / median)
            });
            let _ = writeln!(text, "| {} | {full} | {resumed} |", row.subject);
        }
        text.push('\n');
        for row in &self.rows {
            let _ = writeln!(text, "- {}: {}", row.subject, row.about);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_of_a_cpu_second_follow_from_the_median() {
        let (full_us, resumed_us) = (vec![250.0, 200.0, 220.0], vec![100.0; 3]);
        let row = Row { subject: "nginx", about: "1.22".to_owned(), full_us, resumed_us };
        let table = Handshakes { rows: vec![row] }.table();
        let line = "| nginx | 220.0 (200.0 to 250.0) | 4545 | 100.0 (100.0 to 100.0) | 10000 |";
        assert!(table.contains(line), "{table}");
    }
}
