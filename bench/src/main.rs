//! `liutong-bench`: CPU per request and per streamed event of the data plane beside nginx and HAProxy.
//!
//! All subjects run at once before the same upstream and do the same works in turn, round after round, so
//! that whatever the machine goes through meets them all. bench/README.md says how to read what it prints.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

use report::Results;
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
/// Rounds into figures.
mod stats;
/// What Liutong is held to.
mod targets;
/// Rows and tables.
mod report;
/// Where it was measured.
mod machine;
/// Tables into Markdown files.
mod write;

/// Files that a run has open at most, but for the growth of cost: two for each connection, and some.
const FILES: u64 = 16_384;

/// Measures Liutong's data plane beside nginx and HAProxy, on two cores of this machine.
#[derive(Parser)]
#[command(name = "liutong-bench", version)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Rounds; every figure is the median of them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Three rounds of half a second: to see whether it works.
    #[arg(long, global = true)]
    quick: bool,
    /// Only this work; may be given again. Names are as in the JSON.
    #[arg(long = "work")]
    works: Vec<String>,
    /// Only this subject; may be given again.
    #[arg(long = "subject")]
    subjects: Vec<Name>,
    /// Measures the data plane without a control plane, even if the whole system is built.
    #[arg(long)]
    dataplane_only: bool,
    /// Where all figures of all rounds go, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Puts the tables into README.md and bench/README.md of the working directory.
    #[arg(long, global = true)]
    write: bool,
}

#[derive(Subcommand)]
enum Role {
    /// Is the byte forwarder.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
    },
}

impl Arguments {
    fn rounds(&self) -> u16 {
        if self.quick { 3 } else { self.rounds }
    }

    fn seconds(&self) -> f64 {
        if self.quick { 0.5 } else { self.seconds }
    }
}

fn seconds(text: &str) -> anyhow::Result<f64> {
    let seconds: f64 = text.parse()?;
    ensure!((0.1..=3600.0).contains(&seconds), "is between 0.1 and 3600");
    Ok(seconds)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Role::Forward { listen, to }) = arguments.role {
        return subject::forward(listen, to);
    }
    process::raise_file_limit(FILES)?;
    publish(&arguments, &run::measure(&arguments)?)
}

fn publish(arguments: &Arguments, results: &Results) -> anyhow::Result<()> {
    let (summary, details) = (results.summary(), results.details());
    println!("{summary}\n{details}");
    if let Some(dir) = arguments.json.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = arguments.json.display().to_string();
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(results)?).context(file)?;
    if arguments.write {
        write::into_file(Path::new("bench/README.md"), &format!("{summary}\n{details}"))?;
        write::into_file(Path::new("README.md"), &summary)?;
    }
    Ok(())
}
