//! One measurement: a subject does a work for some seconds.
//!
//! The CPU time counts from before the first request until shortly after the last response, so that what a
//! proxy puts off is charged to it, and is divided by all that was done in between.

use std::time::Duration;

use anyhow::{Context, ensure};
use load_tests::client::Report;
use load_tests::client::load;
use load_tests::harness::System;
use load_tests::upstream::{Options, Upstream};
use serde::Serialize;

use crate::cpu::{CoreTime, CpuTime, on_core_ns};
use crate::planes::{self, Paused};
use crate::process::{LOAD_CORE, PROXY_CORE, pin, thread_named};
use crate::subject::Subject;
use crate::work::{Placement, Work};

/// What a proxy does this long after its last response still counts: writing its spool, for example.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What one measurement gave.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Sample {
    /// CPU microseconds of the proxy for a unit.
    pub(crate) cpu_us: f64,
    /// The part of them in user mode.
    pub(crate) user_us: f64,
    /// Units a second.
    pub(crate) rate: f64,
    /// Median latency in microseconds of what the work says.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
    /// Median microseconds to the first byte of a body, which is the first event of a stream.
    pub(crate) first_p50_us: f64,
    /// The 99th percentile.
    pub(crate) first_p99_us: f64,
    /// The part of the time that the proxy's core had nothing to do.
    pub(crate) core_idle: f64,
    /// The part of the proxy's core that others took: neither the proxy, nor an upstream placed beside it.
    pub(crate) core_others: f64,
    /// CPU microseconds of the upstream for a unit.
    pub(crate) upstream_us: f64,
    /// Units.
    pub(crate) units: u64,
}

/// What the planes beside a data plane do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// They stand still, and store what there is afterwards.
    Paused,
    /// They store what the data plane ships, and the measurement ends when all is stored.
    Shipping,
}

/// How long, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// How long requests are sent.
    pub(crate) time: Duration,
    /// Requests a second at half load.
    pub(crate) half: f64,
}

/// What all measurements share: the upstream and its thread, the keys, and the planes that must stand still.
pub(crate) struct Stand<'a> {
    upstream: Upstream,
    tid: i32,
    keys: Vec<String>,
    /// The system whose planes stand still meanwhile, whoever is measured.
    system: Option<&'a System>,
}

impl<'a> Stand<'a> {
    /// Starts an upstream of one thread, on the load generator's core, where the calling thread goes too.
    pub(crate) fn upstream() -> anyhow::Result<Upstream> {
        pin(0, LOAD_CORE).context("core 1")?;
        Ok(Upstream::start(Options { record: 0, ..Options::default() })?)
    }

    /// Takes a running upstream of one thread, and the keys that are sent.
    pub(crate) fn new(upstream: Upstream, keys: &[String]) -> anyhow::Result<Self> {
        Ok(Self { upstream, tid: thread_named("upstream-0")?, keys: keys.to_vec(), system: None })
    }

    /// Sends other keys.
    pub(crate) fn send_keys(&mut self, keys: &[String]) {
        keys.clone_into(&mut self.keys);
    }

    /// Lets the planes of the first of these that has some stand still in every window.
    pub(crate) fn with_system_of(mut self, subjects: &'a [Subject]) -> Self {
        self.system = subjects.iter().find_map(Subject::system);
        self
    }

    /// Measures `subject` at `work`.
    pub(crate) fn measure(
        &self,
        subject: &Subject,
        work: &Work,
        window: Window,
        meanwhile: Meanwhile,
    ) -> anyhow::Result<Sample> {
        let still = self.system.filter(|_| meanwhile == Meanwhile::Paused);
        let paused = still.map(Paused::all_but_dataplane).transpose()?;
        work.set_up(&self.upstream);
        let beside_proxy = work.placement == Placement::WithProxy;
        pin(self.tid, if beside_proxy { PROXY_CORE } else { LOAD_CORE })?;

        let mut plan = work.plan(subject.address, &self.keys, window.time, window.half);
        plan.tls = subject.client(work.tls)?;
        let mut before = None;
        let report = load::run_measured(&plan, || before = Some(self.now(subject)))?;
        let before = before.context("the warm-up ended")??;
        let core_idle = CoreTime::of(PROXY_CORE)?.idle_share_since(&before.core);
        let proxy_at_end = CpuTime::of(&subject.pids)? - before.proxy;
        let upstream_ns = self.upstream_ns()?.saturating_sub(before.upstream_ns);
        match (meanwhile, subject.system()) {
            (Meanwhile::Shipping, Some(system)) => planes::drain(system)?,
            _ => std::thread::sleep(AFTERMATH),
        }
        let proxy = CpuTime::of(&subject.pids)? - before.proxy;
        drop(paused);
        subject.system().map_or(Ok(()), planes::drain)?;
        whole(&report)?;
        work.tls.check(&report)?;

        let units = work.units(&report);
        ensure!(units > 0, "nothing was done");
        let per_unit = |ns: u64| ns as f64 / 1e3 / units as f64;
        let first = |quantile| report.first_byte.value_at_quantile(quantile) as f64 / 1e3;
        let wall_ns = report.elapsed.as_nanos() as f64;
        let known_ns = proxy_at_end.total_ns + if beside_proxy { upstream_ns } else { 0 };
        Ok(Sample {
            cpu_us: per_unit(proxy.total_ns),
            user_us: per_unit(proxy.total_ns) * proxy.user_share(),
            rate: units as f64 / report.elapsed.as_secs_f64(),
            p50_us: work.latency_us(&report, 0.5),
            p99_us: work.latency_us(&report, 0.99),
            first_p50_us: first(0.5),
            first_p99_us: first(0.99),
            core_idle,
            core_others: (1.0 - core_idle - known_ns as f64 / wall_ns).max(0.0),
            upstream_us: per_unit(upstream_ns),
            units,
        })
    }

    fn now(&self, subject: &Subject) -> anyhow::Result<Before> {
        Ok(Before {
            core: CoreTime::of(PROXY_CORE)?,
            proxy: CpuTime::of(&subject.pids)?,
            upstream_ns: self.upstream_ns()?,
        })
    }

    fn upstream_ns(&self) -> anyhow::Result<u64> {
        Ok(on_core_ns(i32::try_from(std::process::id())?, self.tid)?)
    }
}

/// Counters before what is measured.
struct Before {
    core: CoreTime,
    proxy: CpuTime,
    upstream_ns: u64,
}

/// A run with errors in it is not the same work.
pub(crate) fn whole(report: &Report) -> anyhow::Result<()> {
    let ok = report.statuses.get(&200).copied().unwrap_or(0);
    ensure!(
        report.failures == 0 && ok == report.responses(),
        "{} requests without a whole response (the first: {}), statuses {:?}",
        report.failures,
        report.first_failure.as_deref().unwrap_or("-"),
        report.statuses
    );
    Ok(())
}
