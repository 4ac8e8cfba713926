//! Instructions, counted by callgrind: a figure that does not depend on how busy the machine is.
//!
//! Not the same as time: a division counts as much as an addition, a cache miss nothing. But what one change
//! saves shows to the last instruction, on any machine.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use exchange::{Counted, EXCHANGES, Exchanges};

/// A whole exchange of the data plane's process.
mod exchange;
/// What callgrind writes.
mod profile;
/// Starting and commanding callgrind.
mod valgrind;

/// What to count.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Counts whole exchanges of the data plane's process.
    #[arg(long)]
    exchange: bool,
    /// Only these whole exchanges; may be given again.
    #[arg(long = "work")]
    works: Vec<String>,
    /// How many functions and files are shown of each.
    #[arg(long, default_value_t = 25)]
    top: usize,
    /// A directory to which the profiles are copied, for `callgrind_annotate --auto=yes FILE`.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Counts, and prints what came of it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.exchange {
        let works = chosen(&arguments.works)?;
        if let Some(dir) = &arguments.keep {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        let counted = exchange::count(&works, arguments.keep.as_deref())?;
        for (work, counted) in works.iter().zip(&counted) {
            println!("{}", details(work, counted, arguments.top));
        }
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Exchanges>> {
    let known: Vec<&str> = EXCHANGES.iter().map(|work| work.name).collect();
    for name in names {
        ensure!(known.contains(&name.as_str()), "--work {name} is none of {}", known.join(", "));
    }
    let wanted = |work: &&Exchanges| names.is_empty() || names.iter().any(|name| name == work.name);
    Ok(EXCHANGES.iter().filter(wanted).collect())
}

/// What took the instructions of a unit, by function and by file.
fn details(work: &Exchanges, counted: &Counted, count: usize) -> String {
    use std::fmt::Write;
    let unit = work.unit;
    let per_unit = |cost: u64| cost as f64 / counted.units as f64;
    let mut text = format!(
        "{}: {:.0} instructions per {unit}\n\
         whole process in user mode, {} {unit}s; beside the worker {:.0}; not in it: SHA-256 in software {:.0}\n",
        work.title,
        counted.per_unit(),
        counted.units,
        per_unit(counted.beside_worker),
        per_unit(counted.sha256()),
    );
    for (title, table) in [("function", &counted.all.functions), ("file", &counted.all.files)] {
        let _ = writeln!(text, "\n{:>12}  {title}", format!("per {unit}"));
        for (name, cost) in profile::top(table, count) {
            let _ = writeln!(text, "{:12.1}  {name}", per_unit(cost));
        }
    }
    text
}
