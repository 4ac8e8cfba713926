//! How cost grows: CPU time of a unit over connections, bytes of a body, keys, slow streams and workers.
//!
//! Each chart is a file, and a table in bench/README.md between marks of its own, beside the sentence that
//! says why its curves are as they are.

use std::fmt::Write;

use anyhow::ensure;
use serde::Serialize;

use crate::chart::{Curve, Lines};
use crate::machine::Machine;
use crate::stats::Estimate;
use crate::subject::Name;

/// The points of each chart.
mod points;
/// Slow streams, which are measured while they are open.
mod streams;
/// An upstream in a process of its own.
mod upstream;

pub(crate) use upstream::serve as upstream;

/// How long and how often each point is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds; a point is the median of them.
    pub(crate) rounds: u16,
    /// Seconds of each.
    pub(crate) seconds: f64,
    /// Whether the most expensive points are left out.
    pub(crate) small: bool,
    /// How many files a process may have open.
    pub(crate) files: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Growth {
    machine: Machine,
    rounds: u16,
    seconds: f64,
    /// One for each thing that grows.
    pub(crate) charts: Vec<Chart>,
}

/// One chart.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    /// What grows; also the name of its file and its marks.
    pub(crate) name: &'static str,
    title: &'static str,
    x_title: &'static str,
    /// Whether x is in bytes.
    #[serde(skip)]
    in_bytes: bool,
    #[serde(skip)]
    y_log: bool,
    /// What was measured, by what it grows with.
    series: Vec<Series>,
}

#[derive(Debug, Serialize)]
struct Series {
    subject: &'static str,
    #[serde(skip)]
    colour: usize,
    points: Vec<(f64, Estimate)>,
}

/// How a chart is measured.
type Measure = fn(Effort) -> anyhow::Result<Chart>;

/// All charts, by name.
const CHARTS: [(&str, Measure); 5] = [
    ("connections", points::connections),
    ("bodies", points::bodies),
    ("keys", points::keys),
    ("streams", streams::chart),
    ("workers", points::workers),
];

/// Measures the charts of these names; without any, all.
pub(crate) fn measure(names: &[String], effort: Effort) -> anyhow::Result<Growth> {
    for name in names {
        let known = CHARTS.map(|(name, _)| name);
        ensure!(known.contains(&name.as_str()), "--chart {name} is none of {}", known.join(", "));
    }
    let machine = Machine::this();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let charts = CHARTS.iter().filter(|(name, _)| wanted(name)).map(|(_, measure)| measure(effort));
    let charts = charts.collect::<anyhow::Result<_>>()?;
    Ok(Growth { machine, rounds: effort.rounds, seconds: effort.seconds, charts })
}

impl Series {
    fn new(name: Name, points: Vec<(f64, Estimate)>) -> Self {
        let colour = Name::ALL.iter().skip(1).position(|known| *known == name).unwrap_or(0);
        Self { subject: name.text(), colour, points }
    }
}

impl Growth {
    /// Where and how it was measured.
    pub(crate) fn conditions(&self) -> String {
        let Self { machine, rounds, seconds, .. } = self;
        format!("{machine}. Medians of {rounds} rounds of {seconds} s; slow streams once.\n")
    }
}

impl Chart {
    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let curve = |series: &Series| Curve {
            name: series.subject.to_owned(),
            colour: series.colour,
            points: series.points.iter().map(|(x, y)| (*x, y.median)).collect(),
        };
        let lines = Lines {
            title: self.title.to_owned(),
            x_title: self.x_title.to_owned(),
            ticks: self.ticks().into_iter().map(|x| (x, self.named(x))).collect(),
            y_log: self.y_log,
            curves: self.series.iter().map(curve).collect(),
        };
        lines.svg()
    }

    /// The figures.
    pub(crate) fn table(&self) -> String {
        let ticks = self.ticks();
        let mut text = format!("| {}", self.x_title);
        for x in &ticks {
            let _ = write!(text, " | {}", self.named(*x));
        }
        let _ = write!(text, " |\n|---{}|\n", "|---".repeat(ticks.len()));
        for series in &self.series {
            let _ = write!(text, "| {}", series.subject);
            for tick in &ticks {
                let point = series.points.iter().find(|(x, _)| x == tick);
                let _ = match point {
                    Some((_, y)) if y.median >= 100.0 => write!(text, " | {:.0}", y.median),
                    Some((_, y)) => write!(text, " | {:.1}", y.median),
                    None => write!(text, " | -"),
                };
            }
            text.push_str(" |\n");
        }
        text
    }

    fn named(&self, x: f64) -> String {
        if self.in_bytes { bytes(x) } else { count(x) }
    }

    /// All x that anybody has, in order.
    fn ticks(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.series.iter().flat_map(|s| s.points.iter().map(|(x, _)| *x)).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        all
    }
}

/// A count as an axis has it.
fn count(x: f64) -> String {
    match x {
        x if x >= 1e6 => format!("{} M", x / 1e6),
        x if x >= 1e4 => format!("{} k", x / 1e3),
        x => format!("{x}"),
    }
}

/// Bytes as an axis has them; all are of whole kibibytes.
fn bytes(x: f64) -> String {
    let (kib, mib) = (1024.0, 1024.0 * 1024.0);
    if x >= mib { format!("{} MiB", x / mib) } else { format!("{} KiB", x / kib) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_column_for_each_point_and_a_gap_where_nothing_was_measured() {
        let point = |x, y| (x, Estimate::of(vec![y]));
        let chart = Chart {
            name: "keys",
            title: "t",
            x_title: "keys",
            in_bytes: false,
            y_log: false,
            series: vec![
                Series::new(Name::Nginx, vec![point(100.0, 12.34)]),
                Series::new(Name::Liutong, vec![point(100.0, 5.0), point(1_000_000.0, 123.4)]),
            ],
        };
        assert_eq!(
            chart.table(),
            "| keys | 100 | 1 M |\n|---|---|---|\n| nginx | 12.3 | - |\n| liutong | 5.0 | 123 |\n"
        );
        assert!(chart.svg().contains(">liutong</text>"));
    }

    #[test]
    fn axes_name_counts_and_bytes() {
        assert_eq!([1.0, 4096.0, 10_000.0, 1e6].map(count), ["1", "4096", "10 k", "1 M"]);
        assert_eq!([1024.0, 16_384.0, 10_485_760.0].map(bytes), ["1 KiB", "16 KiB", "10 MiB"]);
    }
}
