//! Slow streams, an event a second each: what an event costs while so many are open.
//!
//! Opening ten thousand streams costs more than what they carry in some seconds. So what counts begins once
//! all are open, and ends before the first of them does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use load_tests::client::load::{self, Amount};

use super::points::SHOWN;
use super::upstream::Apart;
use super::{Chart, Effort, Series};
use crate::cpu::CpuTime;
use crate::keys::Keys;
use crate::measure::whole;
use crate::process::{LOAD_CORE, pin};
use crate::stats::Estimate;
use crate::subject::{Name, Setting, Subject};
use crate::work::{Kind, Placement, Work};

/// Files that a process has open besides its streams.
const OTHER_FILES: u64 = 100;
/// Connections beside the streams: those that see whether a proxy answers.
const PROBES: usize = 16;
/// Between the events of a stream.
const INTERVAL_MS: u64 = 1000;
/// Events of a stream: some while all are opened, those that count, and some to spare.
const EVENTS: usize = 8;
/// How many of them have come before what counts begins, for the average stream.
const BEFORE: u64 = 2;
/// How long is counted.
const WINDOW: Duration = Duration::from_millis(3000);
/// How long streams may take until all are open.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Over streams.
pub(super) fn chart(effort: Effort) -> anyhow::Result<Chart> {
    let all = if effort.small { &[10, 1000][..] } else { &[10, 100, 1000, 10_000] };
    // In a proxy a stream is two files; load and upstream have a process each.
    let most = usize::try_from(effort.files.saturating_sub(OTHER_FILES) / 2)?;
    pin(0, LOAD_CORE).context("core 1")?;
    let keys = Keys::so_many(100);
    let mut points = SHOWN.map(|_| Vec::new());
    for count in all.iter().map(|count| most.min(*count)) {
        eprintln!("{count} slow streams");
        for (name, points) in SHOWN.into_iter().zip(&mut points) {
            let cpu_us = event_us(name, count, &keys)
                .with_context(|| format!("{} at {count} slow streams", name.text()))?;
            points.push((count as f64, Estimate::of(vec![cpu_us])));
        }
    }
    Ok(Chart {
        name: "streams",
        title: "CPU µs per event over streams of an event a second",
        x_title: "streams",
        in_bytes: false,
        y_log: true,
        series: SHOWN.into_iter().zip(points).map(|(name, points)| Series::new(name, points)).collect(),
    })
}

/// CPU microseconds of an event while `count` streams are open; proxy and upstream are started for it.
fn event_us(name: Name, count: usize, keys: &Keys) -> anyhow::Result<f64> {
    let work = Work {
        connections: count,
        placement: Placement::WithLoad,
        kind: Kind::Slow { events: EVENTS, interval_ms: INTERVAL_MS },
        ..Work::chat()
    };
    let upstream = Apart::start(&work.script().unwrap_or_default())?;
    let setting = Setting { connections: count + PROBES, ..Setting::new(upstream.address, keys) };
    let subject = Subject::start(name, &setting)?;
    let seen = Arc::new(AtomicU64::new(0));
    let mut plan = work.plan(subject.address, &keys.sent, Duration::ZERO, 0.0);
    (plan.amount, plan.warm_up) = (Amount::Requests(count as u64), Duration::ZERO);
    // The events of all streams are spread over the second.
    plan.ramp = Duration::from_millis(INTERVAL_MS);
    plan.events_seen = Some(Arc::clone(&seen));
    std::thread::scope(|scope| {
        let streams = scope.spawn(|| load::run(&plan));
        let begun = Instant::now();
        while seen.load(Ordering::Relaxed) < BEFORE * count as u64 && !streams.is_finished() {
            ensure!(begun.elapsed() < OPEN_LIMIT, "{count} streams did not open in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (before, events_before) = (CpuTime::of(&subject.pids)?, seen.load(Ordering::Relaxed));
        std::thread::sleep(WINDOW);
        ensure!(!streams.is_finished(), "the streams were over before they were measured");
        let (after, events_after) = (CpuTime::of(&subject.pids)?, seen.load(Ordering::Relaxed));
        let report = streams.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        whole(&report)?;
        let events = events_after.saturating_sub(events_before);
        ensure!(events > 0, "no event came while it was measured");
        Ok((after - before).total_ns as f64 / 1e3 / events as f64)
    })
}
