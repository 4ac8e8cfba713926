//! The load generator beside wrk: the same upstream, the same connections, the same request, in turn.
//!
//! A load generator that is slow, or that looks away while it waits, makes every proxy look alike.

use std::fmt::Write;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use load_tests::client::load;
use load_tests::message;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::keys::Keys;
use crate::measure::{Stand, whole};
use crate::process::{PROXY_CORE, pin, thread_named};
use crate::stats::Estimate;
use crate::subject::{installed, version};
use crate::work::Work;

/// One measurement of either.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    wrk_version: String,
    connections: usize,
    ours: Vec<Figures>,
    wrks: Vec<Figures>,
}

/// Lets both work for `time`, in turn. The upstream has the proxy's core, they have the other one.
pub(crate) fn measure(rounds: u16, time: Duration) -> anyhow::Result<Checked> {
    let wrk = installed("wrk", "wrk")?;
    let upstream = Stand::upstream()?;
    pin(thread_named("upstream-0")?, PROXY_CORE)?;
    let keys = Keys::so_many(1);
    let work = Work::chat();
    work.set_up(&upstream);
    let plan = work.plan(upstream.address(), &keys.sent, time, 0.0);
    let script = script(&plan.templates[0].request)?;
    let (mut ours, mut wrks) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("load generators, round {round} of {rounds}");
        let report = load::run(&plan)?;
        whole(&report)?;
        let us = |quantile| report.latency.value_at_quantile(quantile) as f64 / 1e3;
        ours.push(Figures { rate: report.rate(), p50_us: us(0.5), p99_us: us(0.99) });
        let mut command = Command::new(&wrk);
        command.args(["--threads", "1", "--latency", "--connections", &work.connections.to_string()]);
        command.args(["--duration", &format!("{}s", time.as_secs().max(1)), "--script"]).arg(script.path());
        wrks.push(run_wrk(command, upstream.address())?);
    }
    Ok(Checked { wrk_version: version(&wrk, "--version")?, connections: work.connections, ours, wrks })
}

/// Tells wrk the headers and the body of our request, which it then puts together once: a script with a
/// function of its own would be called for each request, and measured.
fn script(request: &[u8]) -> anyhow::Result<NamedTempFile> {
    let end = message::head_end(request).context("a request has a head")?;
    let mut file = tempfile::Builder::new().suffix(".lua").tempfile()?;
    writeln!(file, "wrk.method = 'POST'\nwrk.body = {}", quoted(&request[end..]))?;
    for (name, value) in message::headers(&request[..end]) {
        // It adds these itself.
        if name != b"host" && name != b"content-length" && !name.is_empty() {
            writeln!(file, "wrk.headers[{}] = {}", quoted(name), quoted(value))?;
        }
    }
    Ok(file)
}

/// Bytes as a string of Lua's.
fn quoted(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("\\{byte:03}")).collect();
    format!("\"{digits}\"")
}

fn run_wrk(mut command: Command, address: SocketAddr) -> anyhow::Result<Figures> {
    let output = command
        .arg(format!("http://{address}/v1/chat/completions"))
        .output()
        .context("wrk can't be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "wrk met errors:\n{text}");
    parsed(&text).with_context(|| format!("wrk prints no figures:\n{text}"))
}

fn parsed(text: &str) -> Option<Figures> {
    let behind = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    Some(Figures {
        rate: behind("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(behind("50%")?)?,
        p99_us: microseconds(behind("99%")?)?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

impl Checked {
    /// Both side by side.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| | exchanges/s | p50 µs | p99 µs | connections / rate, µs |\n|---|---|---|---|---|\n",
        );
        let wrk = format!("wrk {}", self.wrk_version);
        for (name, all) in [("load generator", &self.ours), (wrk.as_str(), &self.wrks)] {
            let median = |figure: fn(&Figures) -> f64| Estimate::of(all.iter().map(figure).collect()).median;
            let _ = writeln!(
                text,
                "| {name}, {} connections | {:.0} | {:.0} | {:.0} | {:.0} |",
                self.connections,
                median(|f| f.rate),
                median(|f| f.p50_us),
                median(|f| f.p99_us),
                self.connections as f64 * 1e6 / median(|f| f.rate)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Running 2s test @ http://127.0.0.1:18300\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   402.67us  200.10us   4.01ms   91.30%\n  \
        Latency Distribution\n     50%  376.00us\n     75%  420.00us\n     90%  500.00us\n     99%    1.25ms\n  \
        327680 requests in 2.00s, 250.00MB read\nRequests/sec: 163840.00\nTransfer/sec:    125.00MB\n";

    #[test]
    fn what_wrk_prints_is_read() {
        let figures = parsed(PRINTED).unwrap();
        assert!((figures.rate - 163_840.0).abs() < 1e-6);
        assert!((figures.p50_us - 376.0).abs() < 1e-6 && (figures.p99_us - 1250.0).abs() < 1e-6);
        assert!(parsed("nothing").is_none());
    }

    #[test]
    fn wrk_is_told_the_whole_request() {
        let request = crate::work::request("k", "{}");
        let script = std::fs::read_to_string(script(&request).unwrap().path()).unwrap();
        assert!(script.contains(&format!("wrk.body = {}\n", quoted(b"{}"))));
        let authorization = format!("wrk.headers[{}] = {}\n", quoted(b"authorization"), quoted(b"Bearer k"));
        assert!(script.contains(&authorization), "{script}");
        // All but host and content-length.
        assert_eq!(script.matches("wrk.headers[").count(), 14);
    }

    #[test]
    fn both_stand_in_the_table() {
        let figures = |rate| Figures { rate, p50_us: 10.0, p99_us: 20.0 };
        let (ours, wrks) = (vec![figures(3e6), figures(1e6), figures(2e6)], vec![figures(5e6)]);
        let table = Checked { wrk_version: "4.1.0".to_owned(), connections: 64, ours, wrks }.table();
        assert!(table.contains("| load generator, 64 connections | 2000000 | 10 | 20 | 32 |"), "{table}");
        assert!(table.contains("| wrk 4.1.0, 64 connections | 5000000 | 10 | 20 | 13 |"), "{table}");
    }
}
