//! Instructions, counted by callgrind: a figure that does not depend on how busy the machine is.
//!
//! Not the same as time: a division counts as much as an addition, a cache miss nothing. But what one change
//! saves shows to the last instruction, on any machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use exchange::{EXCHANGES, Exchanges};

use crate::write;

/// The pure parts.
mod cases;
/// A whole exchange of the data plane's process.
mod exchange;
/// What callgrind writes.
mod profile;
/// What is printed of it.
mod report;
/// Starting and commanding callgrind.
mod valgrind;

/// What to count.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Counts only whole exchanges of the data plane's process, and tells which functions and files they went
    /// through.
    #[arg(long)]
    exchange: bool,
    /// Of whole exchanges only these; may be given again.
    #[arg(long = "work")]
    works: Vec<String>,
    /// Counts only the pure parts with this in their name, and tells which functions they went through.
    #[arg(long, conflicts_with = "exchange")]
    case: Option<String>,
    /// Does the pure parts once, for callgrind.
    #[arg(long, hide = true)]
    here: bool,
    /// How many functions and files are shown of each.
    #[arg(long, default_value_t = 25)]
    top: usize,
    /// A directory to which the profiles are copied, for `callgrind_annotate --auto=yes FILE`.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Puts the table of everything into bench/README.md of the working directory.
    #[arg(long)]
    write: bool,
}

/// Counts, and prints what came of it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = arguments.case.as_deref().unwrap_or_default();
    if arguments.here {
        cases::run_all(filter);
        return Ok(());
    }
    if let Some(dir) = &arguments.keep {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let works = chosen(&arguments.works)?;
    let exchanges = || exchange::count(&works, arguments.keep.as_deref());
    if arguments.exchange {
        for (work, counted) in works.iter().zip(&exchanges()?) {
            println!("{}", report::exchange(work, counted, arguments.top));
        }
    } else if arguments.case.is_some() {
        for case in &cases::count(filter)? {
            println!("{}", report::case(case, arguments.top));
        }
    } else {
        let table = report::table(&valgrind::version()?, &works, &exchanges()?, &cases::count(filter)?);
        println!("{table}");
        if arguments.write {
            write::into_file(Path::new("bench/README.md"), "instructions", &table)?;
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
