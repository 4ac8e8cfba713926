//! The points of the charts that are measured like works: each a subject, or several, at a work.

use std::time::Duration;

use anyhow::Context;
use load_tests::client::load::Order;

use super::{Chart, Effort, Series};
use crate::keys::Keys;
use crate::measure::{Meanwhile, Stand, Window};
use crate::stats::Estimate;
use crate::subject::{Name, Setting, Subject};
use crate::work::{Placement, REQUEST_BYTES, Work};

/// Whom the charts show.
pub(super) const SHOWN: [Name; 3] = [Name::Nginx, Name::Haproxy, Name::Liutong];
/// Connections that send large bodies; a few are enough to saturate anything.
const BODY_CONNECTIONS: usize = 8;

/// A subject at a work, and the samples of its rounds.
struct Point<'a> {
    name: Name,
    x: f64,
    work: Work,
    subject: &'a Subject,
    keys: &'a [String],
    cpu_us: Vec<f64>,
}

/// Over connections.
pub(super) fn connections(effort: Effort) -> anyhow::Result<Chart> {
    let all = if effort.small { &[1, 64, 1024][..] } else { &[1, 4, 16, 64, 256, 1024, 4096] };
    let upstream = Stand::upstream()?;
    let keys = Keys::invented();
    let setting = Setting { connections: 8192, ..Setting::new(upstream.address(), &keys) };
    let subjects = start(&setting)?;
    let mut stand = Stand::new(upstream, &keys.sent)?;
    let mut points = Vec::new();
    for &connections in all {
        let work = Work { connections, ..Work::chat() };
        points.extend(of_all(&subjects, connections as f64, work, &keys.sent));
    }
    measure(&mut stand, &mut points, effort, "connections")?;
    Ok(Chart {
        name: "connections",
        title: "CPU µs per exchange over connections",
        x_title: "connections",
        in_bytes: false,
        y_log: false,
        series: series(points),
    })
}

/// Over bytes of a request's body.
pub(super) fn bodies(effort: Effort) -> anyhow::Result<Chart> {
    let all = if effort.small { &[1, 128, 1024][..] } else { &[1, 16, 128, 1024, 10_240] };
    let upstream = Stand::upstream()?;
    let keys = Keys::so_many(100);
    let setting = Setting { large_bodies: true, ..Setting::new(upstream.address(), &keys) };
    let subjects = start(&setting)?;
    let mut stand = Stand::new(upstream, &keys.sent)?;
    // Each key is a request of its own in memory.
    let sent = &keys.sent[..BODY_CONNECTIONS];
    let mut points = Vec::new();
    for &kib in all {
        let work = Work { connections: BODY_CONNECTIONS, request_bytes: kib * REQUEST_BYTES, ..Work::chat() };
        points.extend(of_all(&subjects, work.request_bytes as f64, work, sent));
    }
    measure(&mut stand, &mut points, effort, "bodies")?;
    Ok(Chart {
        name: "bodies",
        title: "CPU µs per exchange over bytes of the request's body",
        x_title: "bytes of the body",
        in_bytes: true,
        y_log: true,
        series: series(points),
    })
}

/// Over keys that are known.
pub(super) fn keys(effort: Effort) -> anyhow::Result<Chart> {
    let all = if effort.small { &[100, 10_000][..] } else { &[100, 1000, 10_000, 100_000, 1_000_000] };
    let upstream = Stand::upstream()?;
    let lists: Vec<Keys> = all.iter().map(|&count| Keys::so_many(count)).collect();
    let mut running = Vec::new();
    for keys in &lists {
        let setting = Setting::new(upstream.address(), keys);
        for name in SHOWN {
            eprintln!("starting {} with {} keys", name.text(), keys.known.len());
            running.push((keys, Subject::start(name, &setting)?));
        }
    }
    let mut stand = Stand::new(upstream, &[])?;
    let mut points: Vec<Point<'_>> = Vec::new();
    for (keys, subject) in &running {
        let x = keys.known.len() as f64;
        // All of them are to be looked up, again and again.
        let work = Work { order: Order::InTurn, ..Work::chat() };
        points.extend(of_all(std::slice::from_ref(subject), x, work, &keys.sent));
    }
    measure(&mut stand, &mut points, effort, "keys")?;
    Ok(Chart {
        name: "keys",
        title: "CPU µs per exchange over keys that the proxy knows",
        x_title: "keys",
        in_bytes: false,
        y_log: false,
        series: series(points),
    })
}

/// Over workers; the second one shares its core with the load generator and the upstream.
pub(super) fn workers(effort: Effort) -> anyhow::Result<Chart> {
    let upstream = Stand::upstream()?;
    let keys = Keys::invented();
    let setting = |workers| Setting { workers, ..Setting::new(upstream.address(), &keys) };
    let running = [(1.0, start(&setting(1))?), (2.0, start(&setting(2))?)];
    let mut stand = Stand::new(upstream, &keys.sent)?;
    let work = Work { placement: Placement::WithLoad, ..Work::chat() };
    let mut points: Vec<Point<'_>> = Vec::new();
    for (workers, subjects) in &running {
        points.extend(of_all(subjects, *workers, work, &keys.sent));
    }
    measure(&mut stand, &mut points, effort, "workers")?;
    Ok(Chart {
        name: "workers",
        title: "CPU µs per exchange over workers",
        x_title: "workers",
        in_bytes: false,
        y_log: false,
        series: series(points),
    })
}

/// Starts all that are shown.
fn start(setting: &Setting<'_>) -> anyhow::Result<Vec<Subject>> {
    SHOWN.into_iter().map(|name| Subject::start(name, setting)).collect()
}

fn of_all<'a>(
    subjects: &'a [Subject],
    x: f64,
    work: Work,
    keys: &'a [String],
) -> impl Iterator<Item = Point<'a>> {
    subjects.iter().map(move |subject| Point {
        name: subject.name,
        x,
        work,
        subject,
        keys,
        cpu_us: Vec::new(),
    })
}

fn measure(
    stand: &mut Stand<'_>,
    points: &mut [Point<'_>],
    effort: Effort,
    what: &str,
) -> anyhow::Result<()> {
    let window = Window { time: Duration::from_secs_f64(effort.seconds), half: 0.0 };
    for round in 1..=effort.rounds {
        eprintln!("{what}, round {round} of {}", effort.rounds);
        for point in &mut *points {
            stand.send_keys(point.keys);
            let sample = stand
                .measure(point.subject, &point.work, window, Meanwhile::Paused)
                .with_context(|| format!("{} at {} {what}", point.name.text(), point.x))?;
            point.cpu_us.push(sample.cpu_us);
        }
    }
    Ok(())
}

fn series(points: Vec<Point<'_>>) -> Vec<Series> {
    let of = |name: Name| {
        let own = points.iter().filter(|point| point.name == name);
        Series::new(name, own.map(|point| (point.x, Estimate::of(point.cpu_us.clone()))).collect())
    };
    SHOWN.map(of).into()
}
