//! One measurement: a subject does a work for some seconds.
//!
//! The CPU time counts from before the first request until shortly after the last response, so that what a
//! proxy puts off is charged to it, and is divided by all that was done in between.

use std::time::Duration;

use anyhow::{Context, ensure};
use load_tests::client::Report;
use load_tests::client::load;
use load_tests::upstream::Upstream;
use serde::Serialize;

use crate::cpu::{CoreTime, CpuTime, on_core_ns};
use crate::process::{LOAD_CORE, PROXY_CORE, pin, thread_named};
use crate::subject::Subject;
use crate::work::{Placement, Work};

/// How long a work is done before it is measured: connections and caches are as in the middle of a day.
const WARM_UP: Duration = Duration::from_millis(300);
/// What a proxy does this long after its last response still counts: writing its spool, for example.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What one measurement gave.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// CPU microseconds of the proxy for a unit.
    pub(crate) cpu_us: f64,
    /// The part of them in user mode.
    pub(crate) user_us: f64,
    /// Units a second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
    /// The part of the time that the proxy's core had nothing to do.
    pub(crate) core_idle: f64,
    /// The part of the proxy's core that others took: neither the proxy, nor an upstream placed beside it.
    pub(crate) core_others: f64,
    /// CPU microseconds of the upstream for a unit.
    pub(crate) upstream_us: f64,
    /// Units.
    pub(crate) units: u64,
}

/// The upstream and its thread.
pub(crate) struct Upstreams {
    upstream: Upstream,
    tid: i32,
}

impl Upstreams {
    /// Takes a running upstream of one thread.
    pub(crate) fn new(upstream: Upstream) -> anyhow::Result<Self> {
        Ok(Self { upstream, tid: thread_named("upstream-0")? })
    }

    /// Measures `subject` at `work` for `time`.
    pub(crate) fn measure(
        &self,
        subject: &Subject,
        work: &Work,
        keys: &[String],
        time: Duration,
    ) -> anyhow::Result<Sample> {
        work.set_up(&self.upstream);
        let beside_proxy = work.placement == Placement::WithProxy;
        pin(self.tid, if beside_proxy { PROXY_CORE } else { LOAD_CORE })?;
        whole(&load::run(&work.plan(subject.address, keys, WARM_UP))?)?;

        let core = CoreTime::of(PROXY_CORE)?;
        let (proxy, upstream) = (CpuTime::of(&subject.pids)?, self.cpu_ns()?);
        let report = load::run(&work.plan(subject.address, keys, time))?;
        let core_idle = CoreTime::of(PROXY_CORE)?.idle_share_since(&core);
        let proxy_at_end = CpuTime::of(&subject.pids)? - proxy;
        let upstream = self.cpu_ns()?.saturating_sub(upstream);
        std::thread::sleep(AFTERMATH);
        let proxy = CpuTime::of(&subject.pids)? - proxy;
        whole(&report)?;

        let units = work.units(&report);
        ensure!(units > 0, "nothing was done");
        let per_unit = |ns: u64| ns as f64 / 1e3 / units as f64;
        let wall_ns = report.elapsed.as_nanos() as f64;
        let known_ns = proxy_at_end.total_ns + if beside_proxy { upstream } else { 0 };
        Ok(Sample {
            cpu_us: per_unit(proxy.total_ns),
            user_us: per_unit(proxy.total_ns) * proxy.user_share(),
            rate: units as f64 / report.elapsed.as_secs_f64(),
            p50_us: work.latency_us(&report, 0.5),
            p99_us: work.latency_us(&report, 0.99),
            core_idle,
            core_others: (1.0 - core_idle - known_ns as f64 / wall_ns).max(0.0),
            upstream_us: per_unit(upstream),
            units,
        })
    }

    fn cpu_ns(&self) -> anyhow::Result<u64> {
        Ok(on_core_ns(i32::try_from(std::process::id())?, self.tid)?)
    }
}

/// A run with errors in it is not the same work.
fn whole(report: &Report) -> anyhow::Result<()> {
    let ok = report.statuses.get(&200).copied().unwrap_or(0);
    (report.failures == 0 && ok == report.responses()).then_some(()).with_context(|| {
        format!("{} requests without a whole response, statuses {:?}", report.failures, report.statuses)
    })
}
