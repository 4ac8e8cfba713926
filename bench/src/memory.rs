//! Memory of each proxy: at start, for an idle connection, for an open stream.
//!
//! What is counted is the process's proportional share (Pss): its own pages, those of its program that it has
//! touched, its part of what it shares with others. The kernel's buffers of sockets are not in it, for any.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use load_tests::client::load::Amount;
use load_tests::client::{Connection, load};
use load_tests::upstream::Upstream;
use serde::Serialize;

use crate::keys::Keys;
use crate::measure::{Stand, whole};
use crate::stats::Estimate;
use crate::subject::{Name, Setting, Subject};
use crate::targets::{CONNECTION_BYTES_MAX, START_BYTES_MAX, STREAM_BYTES_MAX, judged};
use crate::work::{Kind, Work, probe};

/// Keys that each proxy knows.
const KEYS: usize = 10_000;
/// How many of them are sent.
const SENT: usize = 32;
/// Those with something to measure.
const PROXIES: [Name; 4] = [Name::Forwarder, Name::Nginx, Name::Haproxy, Name::Liutong];
/// What a proxy does once it has nothing more to do, such as giving memory back, it does in this time.
const SETTLE: Duration = Duration::from_millis(500);
/// How long streams may take until all are open.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// How many are opened.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Scale {
    connections: usize,
    streams: usize,
}

impl Scale {
    /// What the figures are made with.
    pub(crate) fn usual() -> Self {
        Self { connections: 2000, streams: 1000 }
    }

    /// To see whether it works.
    pub(crate) fn quick() -> Self {
        Self { connections: 200, streams: 100 }
    }
}

/// Bytes of a process, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Bytes {
    /// All that is in memory, shared pages counted whole in each process.
    rss: f64,
    /// The proportional share.
    pss: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    scale: Scale,
    keys: usize,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    subject: &'static str,
    start: Bytes,
    /// For each idle connection.
    connection: f64,
    /// For each open stream.
    stream: f64,
}

/// Measures all proxies, one after the other.
pub(crate) fn measure(scale: Scale) -> anyhow::Result<Memory> {
    let upstream = Stand::upstream()?;
    let mut keys = Keys::so_many(KEYS);
    keys.sent.truncate(SENT);
    let rows = PROXIES.into_iter().map(|name| {
        eprintln!("memory of {}", name.text());
        row(name, scale, &upstream, &keys).with_context(|| name.text())
    });
    Ok(Memory { scale, keys: KEYS, rows: rows.collect::<anyhow::Result<_>>()? })
}

/// Each figure is of a process that has done nothing else before: memory once used is used again.
fn row(name: Name, scale: Scale, upstream: &Upstream, keys: &Keys) -> anyhow::Result<Row> {
    let setting = Setting::new(upstream.address(), keys);
    let idle = Subject::start(name, &setting)?;
    std::thread::sleep(SETTLE);
    let start = bytes(&idle.pids)?;
    let connections = open_idle(&idle, scale.connections, &keys.sent)?;
    std::thread::sleep(SETTLE);
    let connection = (bytes(&idle.pids)?.pss - start.pss) / scale.connections as f64;
    drop((connections, idle));

    let streaming = Subject::start(name, &setting)?;
    std::thread::sleep(SETTLE);
    let before = bytes(&streaming.pids)?;
    let during = while_streaming(&streaming, scale.streams, upstream, &keys.sent)?;
    let stream = (during.pss - before.pss) / scale.streams as f64;
    Ok(Row { subject: name.text(), start, connection, stream })
}

/// Opens connections, each of which has had one exchange.
fn open_idle(subject: &Subject, count: usize, keys: &[String]) -> anyhow::Result<Vec<Connection>> {
    let one = |number: usize| {
        let mut connection = Connection::open(subject.address)?;
        let response = connection.exchange(&probe(&keys[number % keys.len()]))?;
        ensure!(response.status() == 200, "connection {number} was answered {}", response.status());
        Ok(connection)
    };
    (0..count).map(one).collect()
}

/// Looks at the memory while so many streams are open and each has had some events.
fn while_streaming(
    subject: &Subject,
    count: usize,
    upstream: &Upstream,
    keys: &[String],
) -> anyhow::Result<Bytes> {
    let work = Work {
        connections: count,
        kind: Kind::Slow { events: 40, interval_ms: 100 },
        half_load: false,
        ..Work::chat()
    };
    work.set_up(upstream);
    let seen = Arc::new(AtomicU64::new(0));
    let mut plan = work.plan(subject.address, keys, Duration::ZERO, 0.0);
    (plan.amount, plan.warm_up) = (Amount::Requests(count as u64), Duration::ZERO);
    plan.events_seen = Some(Arc::clone(&seen));
    std::thread::scope(|scope| {
        let streams = scope.spawn(|| load::run(&plan));
        let begun = Instant::now();
        while seen.load(Ordering::Relaxed) < 10 * count as u64 && !streams.is_finished() {
            ensure!(begun.elapsed() < OPEN_LIMIT, "{count} streams did not open in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        let during = bytes(&subject.pids)?;
        let report = streams.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        whole(&report)?;
        Ok(during)
    })
}

fn bytes(pids: &[i32]) -> anyhow::Result<Bytes> {
    let mut sum = Bytes::default();
    for pid in pids {
        let file = format!("/proc/{pid}/smaps_rollup");
        let one = parsed(&std::fs::read_to_string(&file).context(file)?);
        sum = Bytes { rss: sum.rss + one.rss, pss: sum.pss + one.pss };
    }
    Ok(sum)
}

fn parsed(smaps: &str) -> Bytes {
    let kib = |name: &str| -> f64 {
        let line = smaps.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    Bytes { rss: kib("Rss:") * 1024.0, pss: kib("Pss:") * 1024.0 }
}

impl Memory {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let Self { scale: Scale { connections, streams }, keys, rows } = self;
        let mut text = format!(
            "| | at start, {keys} keys: MiB (Rss) | idle connection, of {connections}: KiB | \
             open stream, of {streams}: KiB |\n|---|---|---|---|\n"
        );
        for row in rows {
            let limits = match row.subject == Name::Liutong.text() {
                true => [START_BYTES_MAX, CONNECTION_BYTES_MAX, STREAM_BYTES_MAX].map(Some),
                false => [None; 3],
            };
            let figure = |bytes: f64, limit: Option<f64>, unit: f64| {
                judged(&Estimate::of(vec![bytes]), limit, |bytes| format!("{:.1}", bytes / unit))
            };
            let (mib, kib) = (1024.0 * 1024.0, 1024.0);
            let _ = writeln!(
                text,
                "| {} | {} ({:.1}) | {} | {} |",
                row.subject,
                figure(row.start.pss, limits[0], mib),
                row.start.rss / mib,
                figure(row.connection, limits[1], kib),
                figure(row.stream, limits[2], kib),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_read_and_not_its_parts() {
        let smaps = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    2048 kB\nPss:    1024 kB\n\
                     Pss_Anon:  7 kB\nShared_Clean: 3 kB\n";
        assert_eq!(parsed(smaps), Bytes { rss: 2_097_152.0, pss: 1_048_576.0 });
        let own = bytes(&[i32::try_from(std::process::id()).unwrap()]).unwrap();
        assert!(own.pss > 0.0 && own.pss <= own.rss, "{own:?}");
    }

    #[test]
    fn liutong_is_held_to_its_targets_and_others_are_not() {
        let start = Bytes { rss: 30.0 * 1024.0 * 1024.0, pss: 26.0 * 1024.0 * 1024.0 };
        let row = |name: Name| Row { subject: name.text(), start, connection: 4096.0, stream: 20_480.0 };
        let rows = vec![row(Name::Nginx), row(Name::Liutong)];
        let table = Memory { scale: Scale::usual(), keys: KEYS, rows }.table();
        assert!(table.contains("| nginx | 26.0 (30.0) | 4.0 | 20.0 |"), "{table}");
        assert!(
            table.contains("| liutong | **26.0 (> 25.0)** (30.0) | 4.0 (≤ 8.0) | 20.0 (≤ 24.0) |"),
            "{table}"
        );
    }
}
