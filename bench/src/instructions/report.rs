//! What is printed: one table of everything, or what one thing went through.

use std::collections::HashMap;
use std::fmt::Write;

use super::cases::CountedCase;
use super::exchange::{Counted, Exchanges};
use super::profile;
use crate::machine::commit;

/// Everything, in Markdown.
pub(crate) fn table(
    valgrind: &str,
    works: &[&Exchanges],
    counted: &[Counted],
    cases: &[CountedCase],
) -> String {
    let mut text = String::from(
        "| the data plane's process | per | instructions | of them not the worker's | SHA-256 in software |\n\
         |---|---|---|---|---|\n",
    );
    for (work, counted) in works.iter().zip(counted) {
        let (all, beside) = (counted.per_unit(), counted.of_unit(counted.beside_worker));
        let sha256 = software(counted.of_unit(counted.sha256()));
        let _ = writeln!(text, "| {} | {} | **{all:.0}** | {beside:.0} | {sha256} |", work.title, work.unit);
    }
    text.push_str("\n| pure part | | instructions | bytes | per byte | SHA-256 in software |\n|---|---|---|---|---|---|\n");
    for case in cases {
        let CountedCase { group, name, bytes, instructions, .. } = case;
        let per_byte = *instructions as f64 / (*bytes).max(1) as f64;
        let sha256 = software(case.sha256 as f64);
        let _ = writeln!(text, "| {group} | {name} | {instructions} | {bytes} | {per_byte:.2} | {sha256} |");
    }
    let commit = commit().unwrap_or_else(|| "unknown".to_owned());
    let _ = writeln!(text, "\n{valgrind}, commit {commit}.");
    text
}

/// SHA-256's instructions, where there are any.
fn software(count: f64) -> String {
    if count == 0.0 { String::new() } else { format!("+ {count:.0}") }
}

/// What the instructions of a unit went into, by function and by file.
pub(crate) fn exchange(work: &Exchanges, counted: &Counted, count: usize) -> String {
    let unit = work.unit;
    let mut text = format!(
        "{}: {:.0} instructions per {unit}\n\
         whole process in user mode, {} {unit}s; beside the worker {:.0}; not in it: SHA-256 in software {:.0}\n",
        work.title,
        counted.per_unit(),
        counted.units,
        counted.of_unit(counted.beside_worker),
        counted.of_unit(counted.sha256()),
    );
    for (title, costs) in [("function", &counted.all.functions), ("file", &counted.all.files)] {
        let _ = writeln!(text, "\n{:>12}  {title}", format!("per {unit}"));
        for (name, cost) in profile::top(costs, count) {
            let _ = writeln!(text, "{:12.1}  {name}", counted.of_unit(cost));
        }
    }
    text
}

/// What the instructions of a case went into, by function and by file.
pub(crate) fn case(case: &CountedCase, count: usize) -> String {
    let CountedCase { group, name, bytes, instructions, sha256, profile } = case;
    let mut text = format!("{group}: {name}: {instructions} instructions, {bytes} bytes");
    if *sha256 > 0 {
        let _ = write!(text, "; not in it: SHA-256 in software {sha256}");
    }
    let mut list = |costs: &HashMap<String, u64>| {
        text.push('\n');
        for (name, cost) in profile::top(costs, count) {
            let _ = write!(text, "\n{cost:12}  {name}");
        }
    };
    list(&profile.functions);
    list(&profile.files);
    text + "\n"
}
