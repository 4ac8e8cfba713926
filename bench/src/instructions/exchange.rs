//! Instructions in user mode of the data plane's whole process, for an exchange and for a streamed event.
//!
//! The data plane runs under callgrind on a snapshot, as in the bench; the load generator and the upstream
//! run as they are. What is counted begins after a warm-up and ends a little after the last response: all
//! threads, also those that write and seal the spool. The kernel's work is not in it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use load_tests::client::load::{self, Order};
use load_tests::client::{Amount, Plan, Report, Template};
use load_tests::upstream::{Options, Script, Upstream};
use pure::texts::{ModelAt, chat_body};

use super::profile::{Profile, SHA256};
use super::valgrind::Callgrind;
use crate::keys::Keys;
use crate::prices;
use crate::process::{LOAD_CORE, pin};
use crate::subject::{Setting, Subject, Variant};
use crate::work::{ALIAS, request};

/// How many keys are sent; the table has a thousand.
const SENT_KEYS: usize = 32;
/// Bytes of a request's body.
const REQUEST_BYTES: usize = 1024;
/// The member `user` of streams.
const USER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// What is done later than the last response and still counts: events are sealed after a second.
const AFTERMATH: Duration = Duration::from_millis(1200);
/// Instrumentation begins with the warm-up. `vgdb-poll` lets the process look for commands even when it has
/// next to nothing to do.
const OPTIONS: [&str; 3] = ["--instr-atstart=no", "--separate-threads=yes", "--vgdb-poll=200"];

/// What is done, and what its instructions are divided by.
pub(crate) struct Exchanges {
    /// What `--work` calls it.
    pub(crate) name: &'static str,
    /// What tables call it.
    pub(crate) title: &'static str,
    /// What is counted: `exchange` or `event`.
    pub(crate) unit: &'static str,
    connections: usize,
    /// Exchanges that are counted.
    count: u64,
    /// Completion tokens; in a stream, its events.
    tokens: usize,
    stream: bool,
    /// Between the events of a stream.
    interval_ms: u64,
    /// What the data plane leaves out.
    without: &'static [&'static str],
}

/// All works. The slow streams are few: under callgrind everything takes many times as long, and each event
/// is to have come, and gone, alone.
pub(crate) const EXCHANGES: [Exchanges; 4] = [
    Exchanges {
        name: "chat",
        title: "Non-streamed chat, 1 KiB request, 600 B answer, 64 connections",
        unit: "exchange",
        connections: 64,
        count: 4000,
        tokens: 67,
        stream: false,
        interval_ms: 0,
        without: &[],
    },
    Exchanges {
        name: "chat_unaccounted",
        title: "&nbsp; the same without usage events: what durable accounting costs is the difference",
        unit: "exchange",
        connections: 64,
        count: 4000,
        tokens: 67,
        stream: false,
        interval_ms: 0,
        without: &["usage-events"],
    },
    Exchanges {
        name: "streams_fast",
        title: "64 streams of 250 B events as fast as they come",
        unit: "event",
        connections: 64,
        count: 128,
        tokens: 200,
        stream: true,
        interval_ms: 0,
        without: &[],
    },
    Exchanges {
        name: "streams_slow",
        title: "Streams of 250 B events that come one by one",
        unit: "event",
        connections: 32,
        count: 32,
        tokens: 100,
        stream: true,
        interval_ms: 20,
        without: &[],
    },
];

/// What was counted.
pub(crate) struct Counted {
    /// Exchanges, or events.
    pub(crate) units: u64,
    /// All threads together.
    pub(crate) all: Profile,
    /// Instructions of the threads beside the busiest one, which is the worker.
    pub(crate) beside_worker: u64,
}

impl Counted {
    /// Adds up what the threads did.
    fn new(units: u64, threads: Vec<Profile>) -> Self {
        let worker = threads.iter().map(|thread| thread.total).max().unwrap_or(0);
        let mut all = Profile::default();
        threads.into_iter().for_each(|thread| all.merge(thread));
        Self { units, beside_worker: all.total - worker, all }
    }

    /// Instructions of one unit, SHA-256 taken out.
    pub(crate) fn per_unit(&self) -> f64 {
        self.of_unit(self.all.total - self.sha256())
    }

    /// The share of one unit.
    pub(crate) fn of_unit(&self, instructions: u64) -> f64 {
        instructions as f64 / self.units as f64
    }

    /// Instructions of SHA-256, which valgrind makes the data plane do in software.
    pub(crate) fn sha256(&self) -> u64 {
        self.all.of_functions(SHA256)
    }
}

/// Counts these works, one after the other, in one process as long as they leave out the same. Profiles are
/// copied to the directory `keep`.
pub(crate) fn count(works: &[&Exchanges], keep: Option<&Path>) -> anyhow::Result<Vec<Counted>> {
    pin(0, LOAD_CORE).context("core 1")?;
    let processes = works.chunk_by(|one, next| one.without == next.without);
    let counted: Vec<_> = processes.map(|works| count_in_one(works, keep)).collect::<anyhow::Result<_>>()?;
    Ok(counted.into_iter().flatten().collect())
}

fn count_in_one(works: &[&Exchanges], keep: Option<&Path>) -> anyhow::Result<Vec<Counted>> {
    let left_out = works.iter().find(|work| !work.without.is_empty());
    let variant = left_out.map_or_else(Variant::default, |work| prices::leaving_out(work.without));
    let upstream = Upstream::start(Options { record: 0, ..Options::default() })?;
    let callgrind = Callgrind::new()?;
    let mut keys = Keys::invented();
    keys.sent.truncate(SENT_KEYS);
    let setting = Setting::new(upstream.address(), &keys);
    let subject = Subject::dataplane_under(&variant, &callgrind.launcher(&OPTIONS), &setting)?;
    let pid = *subject.pids.last().context("the data plane has a process")?;
    let tell = |words: &[&str]| callgrind.tell(pid, words);
    tell(&["instrumentation", "on"])?;
    let count = |work: &&Exchanges| {
        upstream.clear_scripts();
        if work.interval_ms > 0 {
            upstream.script(Script { event_delay_ms: work.interval_ms, ..Script::default() });
        }
        let plan = work.plan(&subject, &keys);
        run(&Plan { amount: Amount::Requests(work.connections as u64), ..plan.clone() })?;
        tell(&["zero"])?;
        let units = work.units(&run(&plan)?);
        tell(&["dump"])?;
        let threads = callgrind.take(keep.map(|dir| dir.join(work.name)).as_deref())?;
        let counted = Counted::new(units, threads);
        ensure!(counted.units > 0 && counted.all.total > 0, "{}: nothing was counted", work.name);
        Ok(counted)
    };
    let counted = works.iter().map(count).collect();
    // What it has counted is here; ending in order would take longer than all the rest.
    load_tests::harness::signal(pid, libc::SIGKILL);
    counted
}

/// Carries a plan out, and waits for what the data plane does afterwards.
fn run(plan: &Plan) -> anyhow::Result<Report> {
    let report = load::run(plan)?;
    let ok = report.statuses.get(&200).copied().unwrap_or(0);
    ensure!(
        report.failures == 0 && ok == report.responses(),
        "{} requests without a whole response, statuses {:?}",
        report.failures,
        report.statuses
    );
    std::thread::sleep(AFTERMATH);
    Ok(report)
}

impl Exchanges {
    fn plan(&self, subject: &Subject, keys: &Keys) -> Plan {
        let body = self.body();
        let template = |key: &String| Template { label: String::new(), request: request(key, &body) };
        let templates = keys.sent.iter().map(template).collect();
        let mut plan = Plan::new(subject.address, self.connections, Amount::Requests(self.count), templates);
        (plan.order, plan.count_usage) = (Order::OneEach, false);
        plan
    }

    fn body(&self) -> String {
        let (tokens, stream) = (self.tokens, self.stream);
        // It comes back in the answer's id, and makes each event about 250 bytes long.
        let user = if stream { USER } else { "bench" };
        let members = format!(r#""max_tokens":{tokens},"stream":{stream},"user":"{user}""#);
        chat_body(REQUEST_BYTES, ALIAS, ModelAt::Last, &members)
    }

    fn units(&self, report: &Report) -> u64 {
        if self.stream {
            report.labels.values().map(|totals| totals.events).sum()
        } else {
            report.responses()
        }
    }
}
