//! `liutong-bench`: CPU per request and per streamed event of the data plane beside nginx and HAProxy.
//!
//! All subjects run at once before the same upstream and do the same works in turn, round after round, so
//! that whatever the machine goes through meets them all. bench/README.md says how to read what it prints.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use load_tests::harness::{Setup, System};
use load_tests::upstream::{Options, Upstream};

use keys::Keys;
use machine::Machine;
use measure::{Sample, Upstreams};
use process::LOAD_CORE;
use report::{Results, Row};
use subject::{Name, Subject};
use work::{ALIAS, WORKS, Work};

/// The works: what is sent, and how it is counted.
mod work;
/// What is measured.
mod subject;
/// The keys that clients send.
mod keys;
/// One measurement.
mod measure;
/// CPU time as the kernel accounts it.
mod cpu;
/// Processes and the cores that they run on.
mod process;
/// Medians and tables.
mod report;
/// Where it was measured.
mod machine;
/// Instructions, counted by callgrind.
mod instructions;
/// Tables into Markdown files.
mod write;

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
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Three rounds of one second: to see whether it works.
    #[arg(long)]
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
    #[arg(long)]
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
    /// Counts instructions under callgrind, which do not depend on how busy the machine is.
    Instructions(instructions::Arguments),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Forward { listen, to }) => subject::forward(listen, to),
        Some(Role::Instructions(arguments)) => instructions::run(&arguments),
        None => bench(&arguments),
    }
}

fn bench(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(process::has_two_cores(), "needs cores 0 and 1: the proxy has one of them to itself");
    let works = chosen_works(&arguments.works)?;
    let (rounds, seconds) = if arguments.quick { (3, 1.0) } else { (arguments.rounds, arguments.seconds) };
    ensure!((0.1..=3600.0).contains(&seconds), "--seconds is between 0.1 and 3600");
    let machine = Machine::this();
    process::pin(0, LOAD_CORE).context("core 1")?;

    let upstream = Upstream::start(Options { record: 0, ..Options::default() })?;
    let (subjects, keys) = start_subjects(arguments, &upstream)?;
    let upstream = Upstreams::new(upstream)?;
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); works.len() * subjects.len()];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let cells = works.iter().flat_map(|work| subjects.iter().map(move |subject| (work, subject)));
        for ((work, subject), samples) in cells.zip(&mut samples) {
            let sample = upstream
                .measure(subject, work, &keys.sent, Duration::from_secs_f64(seconds))
                .with_context(|| format!("{} at {}", subject.name.text(), work.name))?;
            let (name, cpu, rate) = (subject.name.text(), sample.cpu_us, sample.rate);
            eprintln!("  {:<15} {name:<10} {cpu:7.2} µs of CPU, {rate:8.0} {}s/s", work.name, work.unit());
            samples.push(sample);
        }
    }
    let cells = works.iter().flat_map(|work| subjects.iter().map(move |subject| (work, subject)));
    let rows = cells.zip(samples).map(|((work, subject), samples)| Row::new(work, subject.name, samples));
    let results = Results {
        rows: rows.collect(),
        machine,
        subjects: subjects.iter().map(|subject| (subject.name.text(), subject.about.clone())).collect(),
        seconds,
        rounds: rounds.into(),
    };
    publish(arguments, &works, &results)
}

fn chosen_works(names: &[String]) -> anyhow::Result<Vec<Work>> {
    let known: Vec<&str> = WORKS.iter().map(|work| work.name).collect();
    for name in names {
        ensure!(known.contains(&name.as_str()), "--work {name} is none of {}", known.join(", "));
    }
    Ok(WORKS
        .into_iter()
        .filter(|work| names.is_empty() || names.iter().any(|name| name == work.name))
        .collect())
}

fn start_subjects(arguments: &Arguments, upstream: &Upstream) -> anyhow::Result<(Vec<Subject>, Keys)> {
    let wanted = |name: &Name| arguments.subjects.is_empty() || arguments.subjects.contains(name);
    let whole = wanted(&Name::Liutong) && !arguments.dataplane_only && keys::whole_system_is_built();
    let mut system = whole.then(|| start_system(upstream)).transpose()?;
    let keys = system.as_ref().map_or_else(|| Ok(Keys::invented()), Keys::of)?;
    let mut subjects = Vec::new();
    for name in Name::ALL.into_iter().filter(wanted) {
        subjects.push(match system.take_if(|_| name == Name::Liutong) {
            Some(system) => Subject::whole_system(system, &keys)?,
            None => Subject::start(name, upstream.address(), &keys)?,
        });
    }
    Ok((subjects, keys))
}

fn start_system(upstream: &Upstream) -> anyhow::Result<System> {
    eprintln!("starting the whole system (the first time it fetches ClickHouse)");
    let mut setup = Setup::for_upstream(&upstream.base_url());
    (setup.alias, setup.workers) = (ALIAS.to_owned(), 1);
    System::start(&setup)
}

fn publish(arguments: &Arguments, works: &[Work], results: &Results) -> anyhow::Result<()> {
    let (summary, details) = (results.summary(works), results.details(works));
    println!("{summary}\n{details}");
    if let Some(dir) = arguments.json.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = arguments.json.display().to_string();
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(results)?).context(file)?;
    if arguments.write {
        write::into_file(Path::new("bench/README.md"), "bench", &format!("{summary}\n{details}"))?;
        write::into_file(Path::new("README.md"), "bench", &summary)?;
    }
    Ok(())
}
