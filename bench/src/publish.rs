//! Where everything goes: the terminal, JSON files, and, if asked, Markdown and charts of the repository.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::Arguments;
use crate::chart;
use crate::check_load::Checked;
use crate::growth::Growth;
use crate::handshakes::Handshakes;
use crate::memory::Memory;
use crate::prices::Prices;
use crate::report::Results;
use crate::write::into_file;

/// Where the bench says how to read it.
const BENCH_README: &str = "bench/README.md";

/// What came of the main run.
pub(crate) fn works(arguments: &Arguments, results: &Results) -> anyhow::Result<()> {
    let (summary, details) = (results.summary(), results.details());
    println!("{summary}\n{details}");
    json(&arguments.json, results)?;
    if arguments.write {
        into_file(Path::new(BENCH_README), "bench", &format!("{summary}\n{details}"))?;
        into_file(Path::new("README.md"), "bench", &summary)?;
        file(Path::new("bench/chart.svg"), chart::bars(results).as_bytes())?;
    }
    Ok(())
}

/// What single features cost.
pub(crate) fn prices(arguments: &Arguments, prices: &Prices) -> anyhow::Result<()> {
    part(arguments, "prices", &prices.table(), prices)
}

/// What memory proxies take.
pub(crate) fn memory(arguments: &Arguments, memory: &Memory) -> anyhow::Result<()> {
    part(arguments, "memory", &memory.table(), memory)
}

/// What handshakes cost.
pub(crate) fn handshakes(arguments: &Arguments, handshakes: &Handshakes) -> anyhow::Result<()> {
    part(arguments, "handshakes", &handshakes.table(), handshakes)
}

/// The load generator beside wrk.
pub(crate) fn checked_load(arguments: &Arguments, checked: &Checked) -> anyhow::Result<()> {
    part(arguments, "load", &checked.table(), checked)
}

/// How cost grows: a picture and a table for each chart.
pub(crate) fn growth(arguments: &Arguments, growth: &Growth) -> anyhow::Result<()> {
    for chart in &growth.charts {
        let mark = format!("growth-{}", chart.name);
        println!("{}", chart.table());
        if arguments.write {
            let picture = format!("{mark}.svg");
            file(&Path::new("bench").join(&picture), chart.svg().as_bytes())?;
            let text = format!("![{}]({picture})\n\n{}", chart.name, chart.table());
            into_file(Path::new(BENCH_README), &mark, &text)?;
        }
    }
    part(arguments, "growth", &growth.conditions(), growth)
}

/// A part has a table in the bench's README, and a JSON file of its own beside the main one.
fn part(arguments: &Arguments, name: &str, table: &str, figures: &impl Serialize) -> anyhow::Result<()> {
    println!("{table}");
    let main = arguments.json.with_extension("");
    json(Path::new(&format!("{}-{name}.json", main.display())), figures)?;
    if arguments.write {
        into_file(Path::new(BENCH_README), name, table)?;
    }
    Ok(())
}

fn json(path: &Path, figures: &impl Serialize) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    file(path, &serde_json::to_vec_pretty(figures)?)
}

fn file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
