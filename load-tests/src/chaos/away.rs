//! The control plane or ClickHouse away for long, under load: no request fails, memory stays bounded, the
//! backlog drains fast, the sums are exact.
//!
//! Stopped, not killed: a peer that takes connections and never answers is the hardest one to do without.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::rows::wait_complete;
use super::schedule::Process;
use crate::client::{Amount, Pace, Plan, Report, Template, load, post};
use crate::harness::consumption::{cpu, most_resident};
use crate::harness::{Setup, System, signal};
use crate::upstream::{self, Totals, Upstream};

/// Load before, so that all is warm.
const BEFORE: Duration = Duration::from_secs(5);
/// Load after, while the backlog drains.
const AFTER: Duration = Duration::from_secs(20);
/// How long the backlog may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const CONNECTIONS: usize = 64;
const SEED: u64 = 11;
const TOKENS: u64 = 3;
/// What the backlog must drain at, for each core of the control plane.
const DRAINED_PER_CORE_MIN: f64 = 100_000.0;
/// Fewer rows say nothing of a rate.
const DRAINED_MIN: u64 = 50_000;
/// What each process may have, however long the other is away.
const MEMORY_MIB_MAX: [(&str, u64); 3] = [("dataplane", 256), ("controlplane", 512), ("clickhouse", 2048)];

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Who is away.
    pub process: Process,
    /// For how long.
    pub lasts: Duration,
    /// Exchanges a second meanwhile.
    pub rate: f64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What clients saw.
    pub report: Report,
    /// What the upstream told.
    pub told: Totals,
    /// Rows, prompt tokens and completion tokens that ClickHouse has.
    pub stored: String,
    /// The most that waited.
    pub backlog: u64,
    /// Rows that were stored while it drained.
    pub drained: u64,
    /// How long that took.
    pub drained_in: Duration,
    /// What the control plane used of a core for it.
    pub control_cpu: Duration,
    /// The most memory that each process had, in MiB.
    pub memory_mib: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// Rows that were stored, for a second of one core of the control plane.
    #[must_use]
    pub fn drained_per_core(&self) -> f64 {
        per_second(self.drained, self.control_cpu)
    }
}

/// Carries it out.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let upstream = Upstream::start(upstream::Options { record: 0, ..Default::default() })?;
    let mut system = System::start(&Setup::for_upstream(&upstream.base_url()))?;
    let plan = plan(&system, options);
    let watched = AtomicBool::new(false);
    let (report, drain, memory_mib) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| load::run(&plan));
        let watching = scope.spawn(|| most_resident(&system, &watched));
        let drain = be_away(&system, options);
        let report = sending.join().expect("the load does not panic");
        watched.store(true, Relaxed);
        let memory = watching.join().expect("looking at memory does not panic");
        anyhow::Ok((report?, drain?, memory))
    })?;
    wait_complete(&system)?;
    let sums = "SELECT count(), sum(prompt_tokens), sum(completion_tokens) FROM usage_events";
    let stored = system.try_clickhouse(sums)?;
    let told = upstream.ledger().get("scripted").copied().unwrap_or_default();
    ensure!(system.stop(), "it did not stop in order");
    let Drain { backlog, drained, drained_in, control_cpu } = drain;
    Ok(Outcome { report, told, stored, backlog, drained, drained_in, control_cpu, memory_mib })
}

fn plan(system: &System, options: &Options) -> Plan {
    let body = |more: &str| format!(r#"{{"model":"small","seed":{SEED},"max_tokens":{TOKENS}{more}}}"#);
    let template = |more: &str| Template {
        label: "all".to_owned(),
        request: post("/v1/chat/completions", system.key(), &body(more)),
    };
    let streamed = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let templates = vec![template(""), template(streamed)];
    let amount = Amount::For(BEFORE + options.lasts + AFTER);
    let plan = Plan::new(system.address(), CONNECTIONS, amount, templates);
    Plan { pace: Pace::Rate(options.rate), ..plan }
}

struct Drain {
    backlog: u64,
    drained: u64,
    drained_in: Duration,
    control_cpu: Duration,
}

fn be_away(system: &System, options: &Options) -> anyhow::Result<Drain> {
    std::thread::sleep(BEFORE);
    let pids = system.pids()?;
    let pid = match options.process {
        Process::ClickHouse => pids.clickhouse,
        _ => pids.controlplane,
    };
    signal(pid, libc::SIGSTOP);
    std::thread::sleep(options.lasts);
    let used = || cpu(pids.controlplane).context("the control plane is gone");
    let (backlog, acked, used_before) = (figure(system, "pending")?, figure(system, "acked_total")?, used()?);
    signal(pid, libc::SIGCONT);
    let began = Instant::now();
    // While traffic goes on, a second or two of it always waits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is small")]
    let usual = (3.0 * options.rate) as u64;
    while figure(system, "pending")? > usual {
        ensure!(began.elapsed() < DRAIN_LIMIT, "a backlog of {backlog} did not drain in {DRAIN_LIMIT:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
    let drained_in = began.elapsed();
    let (drained, control_cpu) = (figure(system, "acked_total")? - acked, used()? - used_before);
    Ok(Drain { backlog, drained, drained_in, control_cpu })
}

fn figure(system: &System, name: &str) -> anyhow::Result<u64> {
    let text = system.ops("/metrics")?.text();
    let full = format!("liutong_usage_{name}");
    let line = text.lines().find_map(|line| line.strip_prefix(&full)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no {full} in the metrics"))
}

/// Fails where an outcome is not as it must be.
pub fn check(outcome: &Outcome) -> anyhow::Result<()> {
    let report = &outcome.report;
    let sent = report.responses();
    ensure!(report.failures == 0, "{} requests failed: {:?}", report.failures, report.first_failure);
    ensure!(report.statuses.get(&200) == Some(&sent), "statuses: {:?}", report.statuses);
    let of_clients = format!("{sent}\t{}\t{}", sent * SEED, sent * TOKENS);
    ensure!(outcome.stored == of_clients, "stored {:?}, clients {of_clients:?}", outcome.stored);
    let totals = &report.labels["all"];
    let told = (outcome.told.prompt_tokens, outcome.told.completion_tokens);
    let seen = (totals.prompt_tokens, totals.completion_tokens);
    ensure!(told == seen, "the upstream told {told:?} tokens, clients saw {seen:?}");
    for (process, most) in MEMORY_MIB_MAX {
        let had = outcome.memory_mib.get(process).copied().unwrap_or(0);
        ensure!(had <= most, "{process} had {had} MiB, more than {most}");
    }
    let per_core = outcome.drained_per_core();
    let is_slow = outcome.drained >= DRAINED_MIN && per_core < DRAINED_PER_CORE_MIN;
    ensure!(!is_slow, "the backlog drained at {per_core:.0} rows a second and core");
    Ok(())
}

fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
    let count = count as f64;
    count / time.as_secs_f64().max(f64::EPSILON)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory: Vec<_> = self.memory_mib.iter().map(|(name, mib)| format!("{name} {mib}")).collect();
        let (sent, rate) = (self.report.responses(), self.report.rate());
        writeln!(f, "clients: {sent} answers, {rate:.0} a second, {} failures", self.report.failures)?;
        writeln!(f, "stored: {}", self.stored.replace('\t', ", "))?;
        writeln!(
            f,
            "backlog {}: {} rows in {:.1} s, {:.0} a second, {:.0} for a core of the control plane",
            self.backlog,
            self.drained,
            self.drained_in.as_secs_f64(),
            per_second(self.drained, self.drained_in),
            self.drained_per_core()
        )?;
        write!(f, "most memory in MiB: {}", memory.join(", "))
    }
}
