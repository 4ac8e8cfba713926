//! The long tables, one for each work: every subject with all its figures, and the bounds of the ratios.

use std::fmt::Write;

use super::{Results, Row};
use crate::subject::Name;
use crate::work::{Kind, Work};

impl Results {
    /// All of them.
    pub(crate) fn details(&self) -> String {
        let mut text = String::new();
        for work in &self.works {
            let (unit, latency) = (work.unit(), work.latency_of());
            let and_first = if is_slow(work) { ", of a stream's first" } else { "" };
            let _ = writeln!(text, "### {}\n", work.title);
            let _ = writeln!(
                text,
                "| | CPU µs per {unit} | user + system | {unit}s/s | p50 / p99 µs of the {latency}{and_first} | \
                 core idle / others | upstream µs | spread | |\n|---|---|---|---|---|---|---|---|---|"
            );
            for row in self.rows.iter().filter(|row| row.work == work.name) {
                let _ = writeln!(text, "{}", line(work, row));
            }
            let _ = writeln!(text, "{}", self.bounds(work));
        }
        text
    }

    /// Between what Liutong's ratios lie.
    fn bounds(&self, work: &Work) -> String {
        let bounds = |name: Name| {
            let ratio = self.ratio(work, Name::Liutong, name)?;
            Some(format!("{} {:.2} ({:.2} to {:.2})", name.text(), ratio.median, ratio.low, ratio.high))
        };
        let all: Vec<_> =
            [Name::Nginx, Name::Haproxy, Name::Forwarder].into_iter().filter_map(bounds).collect();
        if all.is_empty() { String::new() } else { format!("\nliutong over {}\n", all.join(", ")) }
    }
}

fn is_slow(work: &Work) -> bool {
    matches!(work.kind, Kind::Slow { .. })
}

fn line(work: &Work, row: &Row) -> String {
    let median = &row.median;
    let mut latency = format!("{:.0} / {:.0}", median.p50_us, median.p99_us);
    if is_slow(work) {
        let _ = write!(latency, ", {:.0} / {:.0}", median.first_p50_us, median.first_p99_us);
    }
    let (name, rate, upstream_us) = (row.subject.text(), median.rate, median.upstream_us);
    if row.subject == Name::Direct {
        return format!("| {name} | - | - | {rate:.0} | {latency} | - | {upstream_us:.2} | - | |");
    }
    // Where others fill the core, its being busy says nothing of the proxy.
    let saturated = if row.is_saturated() { " (saturated)" } else { "" };
    format!(
        "| {name} | {:.2} | {:.2} + {:.2} | {rate:.0} | {latency} | \
         {:.0} / {:.0} %{saturated} | {upstream_us:.2} | {:.0} % | {} |",
        median.cpu_us,
        median.user_us,
        median.cpu_us - median.user_us,
        median.core_idle * 100.0,
        median.core_others * 100.0,
        row.spread * 100.0,
        row.noise
    )
}
