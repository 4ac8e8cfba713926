//! What each feature costs: the data plane with everything on beside ones that leave something out.
//!
//! They run on a snapshot without a control plane, all of the same program, which is the data plane built to
//! obey `LIUTONG_WITHOUT`. A price is the difference in the same round.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use load_tests::harness::binary;
use serde::Serialize;

use crate::keys::Keys;
use crate::measure::{Meanwhile, Stand, Window};
use crate::stats::Estimate;
use crate::subject::{Setting, Subject, Variant};
use crate::work::{WORKS, Work};

/// The data plane that can leave features out.
const PROGRAM: &str = "liutong-dataplane-priced";
/// How it is built.
const BUILD: &str =
    "cargo build --release -p liutong-dataplane --features prices --bin liutong-dataplane-priced";
/// The works that are priced.
const PRICED: [&str; 2] = ["chat_saturated", "streams_fast"];

/// What is left out, and how the table calls that; the first leaves nothing out.
const VERSIONS: [(&str, Variant); 7] = [
    ("everything on", leaving_out(&[])),
    ("without the key check", leaving_out(&["key-check"])),
    ("without rewriting requests", leaving_out(&["rewrite"])),
    ("without metering answers", leaving_out(&["metering"])),
    ("without usage events", leaving_out(&["usage-events"])),
    ("without all four", leaving_out(&["key-check", "rewrite", "metering", "usage-events"])),
    (
        "usage events never synced to disk",
        Variant { program: Some(PROGRAM), without: &[], sync: Some("never") },
    ),
];

/// The data plane that can leave features out, leaving out these.
pub(crate) const fn leaving_out(without: &'static [&'static str]) -> Variant {
    Variant { program: Some(PROGRAM), without, sync: None }
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Prices {
    works: Vec<&'static str>,
    versions: Vec<Priced>,
}

/// One version at each of the works.
#[derive(Debug, Serialize)]
struct Priced {
    title: &'static str,
    /// CPU microseconds of a unit.
    cpu_us: Vec<Estimate>,
    /// How much more everything costs.
    price_us: Vec<Estimate>,
}

/// Whether the program is built; how to build it, if it is not.
pub(crate) fn ensure_built() -> anyhow::Result<()> {
    binary(PROGRAM).map(drop).with_context(|| format!("features have no prices without {PROGRAM}: {BUILD}"))
}

/// Measures all versions.
pub(crate) fn measure(rounds: u16, time: Duration) -> anyhow::Result<Prices> {
    ensure_built()?;
    let upstream = Stand::upstream()?;
    let keys = Keys::invented();
    let setting = Setting::new(upstream.address(), &keys);
    let start =
        |(title, variant): &(&'static str, Variant)| Subject::variant(variant, &setting).context(*title);
    let subjects = VERSIONS.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let stand = Stand::new(upstream, &keys.sent)?;
    let works: Vec<Work> = WORKS.into_iter().filter(|work| PRICED.contains(&work.name)).collect();
    let window = Window { time, half: 0.0 };
    let mut cpu_us = vec![vec![Vec::new(); works.len()]; subjects.len()];
    for round in 1..=rounds {
        eprintln!("prices, round {round} of {rounds}");
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for (work_number, work) in works.iter().enumerate() {
            for &number in &order {
                let sample = stand
                    .measure(&subjects[number], work, window, Meanwhile::Paused)
                    .with_context(|| format!("{} at {}", VERSIONS[number].0, work.name))?;
                cpu_us[number][work_number].push(sample.cpu_us);
            }
        }
    }
    Ok(Prices::of(&works, &cpu_us))
}

impl Prices {
    /// Takes CPU microseconds by version, work and round.
    fn of(works: &[Work], cpu_us: &[Vec<Vec<f64>>]) -> Self {
        let versions = VERSIONS.iter().zip(cpu_us).map(|((title, _), own)| {
            let price =
                |(all, own): (&Vec<f64>, &Vec<f64>)| Estimate::of_pairs(all, own, |all, own| all - own);
            Priced {
                title,
                cpu_us: own.iter().map(|rounds| Estimate::of(rounds.clone())).collect(),
                price_us: cpu_us[0].iter().zip(own).map(price).collect(),
            }
        });
        Self { works: works.iter().map(|work| work.name).collect(), versions: versions.collect() }
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("| CPU µs of the data plane");
        for name in &self.works {
            let unit = WORKS.iter().find(|work| work.name == *name).map_or("unit", Work::unit);
            let _ = write!(text, " | {name}, per {unit} | less");
        }
        let _ = write!(text, " |\n|---{}|\n", "|---|---".repeat(self.works.len()));
        for (number, version) in self.versions.iter().enumerate() {
            let _ = write!(text, "| {}", version.title);
            for (cpu, price) in version.cpu_us.iter().zip(&version.price_us) {
                let _ = write!(text, " | {:.2} | ", cpu.median);
                if number > 0 {
                    let _ = write!(text, "{:.2} ({:.2} to {:.2})", price.median, price.low, price.high);
                }
            }
            text.push_str(" |\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_what_a_round_saves() {
        let works = [WORKS[0]];
        let cpu_us = [[10.0, 20.0, 30.0], [9.0, 18.0, 29.5]].map(|rounds| vec![rounds.to_vec()]);
        let table = Prices::of(&works, &cpu_us).table();
        let expected = "| CPU µs of the data plane | chat_saturated, per exchange | less |\n|---|---|---|\n\
                        | everything on | 20.00 |  |\n\
                        | without the key check | 18.00 | 1.00 (0.50 to 2.00) |\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn only_what_leaves_the_key_check_out_lets_unknown_keys_pass() {
        let open: Vec<&str> = VERSIONS.iter().filter(|(_, v)| !v.checks_keys()).map(|(t, _)| *t).collect();
        assert_eq!(open, ["without the key check", "without all four"]);
    }
}
