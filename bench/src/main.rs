//! `liutong-bench`: CPU per request and per streamed event of the data plane beside nginx and HAProxy.
//!
//! All subjects run at once before the same upstream and do the same works in turn, round after round, so
//! that whatever the machine goes through meets them all. bench/README.md says how to read what it prints.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};

use growth::Effort;
use memory::Scale;
use subject::Name;

/// The main run, in rounds.
mod run;
/// The works: what is sent, and how it is counted.
mod work;
/// What is measured.
mod subject;
/// The keys that clients send.
mod keys;
/// One measurement.
mod measure;
/// The planes beside the data plane, held still meanwhile.
mod planes;
/// CPU time as the kernel accounts it.
mod cpu;
/// Processes and the cores that they run on.
mod process;
/// What single features cost.
mod prices;
/// How connections shake hands.
mod tls;
/// What handshakes cost.
mod handshakes;
/// Memory of each proxy.
mod memory;
/// What storing usage costs.
mod ingest;
/// How cost grows.
mod growth;
/// The load generator beside wrk.
mod check_load;
/// Rounds into figures.
mod stats;
/// What Liutong is held to.
mod targets;
/// Rows and tables.
mod report;
/// Charts as SVG.
mod chart;
/// Where it was measured.
mod machine;
/// Instructions, counted by callgrind.
mod instructions;
/// Where everything goes: the terminal, JSON, Markdown, charts.
mod publish;
/// Tables into Markdown files.
mod write;

/// Files that a process of a run has open at most: two for each of ten thousand connections, and some.
const FILES: u64 = 24_576;
/// What is too few for 2,000 connections, the greatest number outside of `growth`.
const FILES_MIN: u64 = 8192;

/// Measures Liutong's data plane beside nginx and HAProxy, on two cores of this machine.
#[derive(Parser)]
#[command(name = "liutong-bench", version)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Rounds; every figure is the median of them.
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of each measurement.
    #[arg(long, global = true, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Three rounds of half a second: to see whether it works.
    #[arg(long, global = true)]
    quick: bool,
    /// Only this work, without prices, memory and handshakes; may be given again. Names are as in the JSON.
    #[arg(long = "work")]
    works: Vec<String>,
    /// Only this subject, without prices, memory and handshakes; may be given again.
    #[arg(long = "subject")]
    subjects: Vec<Name>,
    /// Measures the data plane without a control plane, even if the whole system is built.
    #[arg(long)]
    dataplane_only: bool,
    /// Where all figures of all rounds go, as JSON.
    #[arg(long, global = true, default_value = "target/bench.json")]
    json: PathBuf,
    /// Puts tables and charts into README.md and bench/ of the working directory.
    #[arg(long, global = true)]
    write: bool,
}

#[derive(Subcommand)]
enum Role {
    /// Measures only what single features cost.
    Prices,
    /// Measures only memory.
    Memory,
    /// Measures only what TLS handshakes cost.
    Handshakes,
    /// Measures how cost grows with connections, bodies, keys, streams and workers.
    Growth {
        /// Only this chart; may be given again.
        #[arg(long = "chart")]
        charts: Vec<String>,
    },
    /// Checks the load generator against wrk.
    CheckLoad,
    /// Measures what storing usage costs.
    Ingest,
    /// Is the byte forwarder.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
    },
    /// Is the upstream.
    #[command(hide = true)]
    Upstream {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Counts instructions under callgrind, which do not depend on how busy the machine is.
    Instructions(instructions::Arguments),
}

impl Arguments {
    fn rounds(&self) -> u16 {
        if self.quick { 3 } else { self.rounds }
    }

    fn seconds(&self) -> f64 {
        if self.quick { 0.5 } else { self.seconds }
    }

    /// Whether everything is to be measured, and not only what the arguments name.
    fn is_whole(&self) -> bool {
        self.works.is_empty() && self.subjects.is_empty()
    }

    fn prices(&self) -> anyhow::Result<prices::Prices> {
        // What differs in little is measured often, rather than long.
        prices::measure(2 * self.rounds(), Duration::from_secs_f64(self.seconds() / 4.0))
    }

    fn handshakes(&self) -> anyhow::Result<handshakes::Handshakes> {
        handshakes::measure(self.rounds(), Duration::from_secs_f64(self.seconds() / 2.0))
    }

    fn growth(&self, charts: &[String], files: u64) -> anyhow::Result<growth::Growth> {
        let effort = match self.quick {
            true => Effort { rounds: 1, seconds: 0.2, small: true, files },
            false => Effort { rounds: 3, seconds: 0.6, small: false, files },
        };
        growth::measure(charts, effort)
    }

    fn checked_load(&self) -> anyhow::Result<check_load::Checked> {
        check_load::measure(self.rounds(), Duration::from_secs_f64(self.seconds()))
    }

    fn memory(&self) -> anyhow::Result<memory::Memory> {
        memory::measure(if self.quick { Scale::quick() } else { Scale::usual() })
    }
}

fn seconds(text: &str) -> anyhow::Result<f64> {
    let seconds: f64 = text.parse()?;
    ensure!((0.1..=3600.0).contains(&seconds), "is between 0.1 and 3600");
    Ok(seconds)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Forward { listen, to }) => return subject::forward(listen, to),
        Some(Role::Upstream { listen }) => return growth::upstream(listen),
        Some(Role::Instructions(arguments)) => return instructions::run(&arguments),
        _ => {}
    }
    ensure!(process::has_two_cores(), "needs cores 0 and 1: the proxy has one of them to itself");
    if matches!(arguments.role, Some(Role::Ingest)) {
        return ingest::run(arguments.rounds(), arguments.quick);
    }
    let files = process::raise_file_limit(FILES);
    ensure!(files >= FILES_MIN, "{files} open files are too few: ulimit -n {FILES}");
    match &arguments.role {
        Some(Role::Prices) => publish::prices(&arguments, &arguments.prices()?),
        Some(Role::Memory) => publish::memory(&arguments, &arguments.memory()?),
        Some(Role::Handshakes) => publish::handshakes(&arguments, &arguments.handshakes()?),
        Some(Role::Growth { charts }) => publish::growth(&arguments, &arguments.growth(charts, files)?),
        Some(Role::CheckLoad) => publish::checked_load(&arguments, &arguments.checked_load()?),
        Some(Role::Forward { .. } | Role::Upstream { .. } | Role::Instructions(_) | Role::Ingest) => Ok(()),
        None => main_run(&arguments),
    }
}

fn main_run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Err(error) = prices::ensure_built()
        && arguments.is_whole()
    {
        eprintln!("{error:#}");
    }
    publish::works(arguments, &run::measure(arguments)?)?;
    if !arguments.is_whole() {
        return Ok(());
    }
    publish::memory(arguments, &arguments.memory()?)?;
    publish::handshakes(arguments, &arguments.handshakes()?)?;
    if prices::ensure_built().is_ok() {
        publish::prices(arguments, &arguments.prices()?)?;
    }
    Ok(())
}
