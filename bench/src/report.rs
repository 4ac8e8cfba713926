//! What came of all rounds: medians, how far the rounds lie apart, and the tables.

use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::measure::Sample;
use crate::subject::Name;
use crate::work::Work;

/// Rounds may lie so far apart, (largest - smallest) / median, before they are called noisy.
const SPREAD_MAX: f64 = 0.15;
/// Others may take so much of the proxy's core before a row is called noisy.
const OTHERS_MAX: f64 = 0.10;
/// A core that is idle for at most this part of the time is saturated.
const IDLE_SATURATED_MAX: f64 = 0.02;

/// All samples of one subject at one work.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The work.
    pub(crate) work: &'static str,
    /// The subject.
    pub(crate) subject: &'static str,
    /// Medians of the rounds, each figure by itself.
    pub(crate) median: Sample,
    /// How far the rounds' CPU times lie apart.
    pub(crate) spread: f64,
    /// Why the figures deserve no trust; empty if they do.
    pub(crate) noise: String,
    /// The rounds.
    pub(crate) rounds: Vec<Sample>,
}

/// All of it; also what the JSON file has.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// Where and when.
    pub(crate) machine: Machine,
    /// What was measured: name and description.
    pub(crate) subjects: Vec<(&'static str, String)>,
    /// Seconds of one measurement.
    pub(crate) seconds: f64,
    /// Rounds.
    pub(crate) rounds: usize,
    /// What came of them.
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// Sums up the rounds; there is at least one.
    pub(crate) fn new(work: &Work, name: Name, rounds: Vec<Sample>) -> Self {
        let of = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure).collect());
        let sample = Sample {
            cpu_us: of(|s| s.cpu_us),
            user_us: of(|s| s.user_us),
            rate: of(|s| s.rate),
            p50_us: of(|s| s.p50_us),
            p99_us: of(|s| s.p99_us),
            core_idle: of(|s| s.core_idle),
            core_others: of(|s| s.core_others),
            upstream_us: of(|s| s.upstream_us),
            units: rounds.iter().map(|s| s.units).sum::<u64>() / rounds.len().max(1) as u64,
        };
        let spread = spread(rounds.iter().map(|s| s.cpu_us).collect());
        let noise = noise(name, &sample, spread);
        Self { work: work.name, subject: name.text(), median: sample, spread, noise, rounds }
    }
}

fn noise(name: Name, median: &Sample, spread: f64) -> String {
    let mut noise = Vec::new();
    if name != Name::Direct && spread > SPREAD_MAX {
        noise.push(format!("rounds differ by {:.0} %", spread * 100.0));
    }
    if name != Name::Direct && median.core_others > OTHERS_MAX {
        noise.push(format!("others took {:.0} % of the core", median.core_others * 100.0));
    }
    noise.join(", ")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.len() % 2) {
        (Some(upper), 0) => f64::midpoint(values[values.len() / 2 - 1], *upper),
        (Some(middle), _) => *middle,
        (None, _) => 0.0,
    }
}

fn spread(values: Vec<f64>) -> f64 {
    let (least, most) = values.iter().fold((f64::MAX, 0.0_f64), |(a, b), v| (a.min(*v), b.max(*v)));
    let middle = median(values);
    if middle > 0.0 { (most - least) / middle } else { 0.0 }
}

impl Results {
    fn row(&self, work: &Work, name: Name) -> Option<&Row> {
        self.rows.iter().find(|row| row.work == work.name && row.subject == name.text())
    }

    /// How many times the CPU of `other` Liutong takes.
    fn ratio(&self, work: &Work, other: Name) -> Option<f64> {
        let theirs = self.row(work, other)?.median.cpu_us;
        let ours = self.row(work, Name::Liutong)?.median.cpu_us;
        (theirs > 0.0).then(|| ours / theirs)
    }

    /// The short table: CPU time of a unit, and what Liutong takes against each.
    pub(crate) fn summary(&self, works: &[Work]) -> String {
        const OTHERS: [Name; 3] = [Name::Forwarder, Name::Nginx, Name::Haproxy];
        let mut text = String::from(
            "| CPU µs of the proxy (in user mode) | per | forwarder | nginx | haproxy | **liutong** | \
             liutong / nginx | / haproxy | / forwarder |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        let mut noisy = false;
        for work in works {
            let cell = |name: Name| self.row(work, name).map_or("-".to_owned(), cpu_cell);
            let ratio = |name| self.ratio(work, name).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let [forwarder, nginx, haproxy] = OTHERS.map(cell);
            let ours = cell(Name::Liutong);
            let (title, unit) = (work.title, work.unit());
            let [by_forwarder, by_nginx, by_haproxy] = OTHERS.map(ratio);
            let _ = writeln!(
                text,
                "| {title} | {unit} | {forwarder} | {nginx} | {haproxy} | **{ours}** | \
                 {by_nginx} | {by_haproxy} | {by_forwarder} |"
            );
            noisy |= self.rows.iter().any(|row| row.work == work.name && !row.noise.is_empty());
        }
        let _ = writeln!(text, "\n{}", self.conditions());
        if noisy {
            text.push_str(
                "\n\\* noisy: the rounds lie far apart, or other programs used the proxy's core.\n",
            );
        }
        text
    }

    /// The long tables, one for each work.
    pub(crate) fn details(&self, works: &[Work]) -> String {
        let mut text = String::new();
        for work in works {
            let (unit, latency) = (work.unit(), work.latency_of());
            let _ = writeln!(text, "### {}\n", work.title);
            let _ = writeln!(
                text,
                "| | CPU µs per {unit} | user + system | {unit}s/s | p50 / p99 µs of the {latency} | \
                 core idle / others | upstream µs | spread | |\n|---|---|---|---|---|---|---|---|---|"
            );
            for row in self.rows.iter().filter(|row| row.work == work.name) {
                let _ = writeln!(text, "{}", detail(row));
            }
            text.push('\n');
        }
        text
    }

    /// What was measured where.
    pub(crate) fn conditions(&self) -> String {
        let mut text = format!(
            "{}. Medians of {} rounds of {} s, subjects in turn; the proxy on core 0 with one worker, \
             the load generator (and, unless the core is to be saturated, the upstream) on core 1, all on \
             loopback.\n\n",
            self.machine, self.rounds, self.seconds
        );
        for (name, about) in &self.subjects {
            let _ = writeln!(text, "- {name}: {about}");
        }
        text
    }
}

fn cpu_cell(row: &Row) -> String {
    let star = if row.noise.is_empty() { "" } else { " \\*" };
    format!("{:.2} ({:.2}){star}", row.median.cpu_us, row.median.user_us)
}

fn detail(row: &Row) -> String {
    let Sample { cpu_us, user_us, rate, p50_us, p99_us, core_idle, core_others, upstream_us, .. } =
        row.median;
    let latency = format!("{rate:.0} | {p50_us:.0} / {p99_us:.0}");
    if row.subject == Name::Direct.text() {
        return format!("| {} | - | - | {latency} | - | {upstream_us:.2} | - | |", row.subject);
    }
    // Where others fill the core, its being busy says nothing of the proxy.
    let is_saturated = core_idle <= IDLE_SATURATED_MAX && core_others <= OTHERS_MAX;
    let saturated = if is_saturated { " (saturated)" } else { "" };
    format!(
        "| {} | {cpu_us:.2} | {user_us:.2} + {:.2} | {latency} | \
         {:.0} / {:.0} %{saturated} | {upstream_us:.2} | {:.0} % | {} |",
        row.subject,
        cpu_us - user_us,
        core_idle * 100.0,
        core_others * 100.0,
        row.spread * 100.0,
        row.noise
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::WORKS;

    fn sample(cpu_us: f64) -> Sample {
        let (user_us, rate, units) = (cpu_us / 4.0, 1e6 / cpu_us, 1000);
        let (p50_us, p99_us, core_idle, core_others, upstream_us) = (100.0, 200.0, 0.01, 0.0, 2.0);
        Sample { cpu_us, user_us, rate, p50_us, p99_us, core_idle, core_others, upstream_us, units }
    }

    #[test]
    fn one_bad_round_moves_the_spread_and_not_the_median() {
        let row = Row::new(&WORKS[0], Name::Nginx, [10.0, 10.2, 30.0, 9.9, 10.1].map(sample).to_vec());
        assert!((row.median.cpu_us - 10.1).abs() < 1e-9);
        assert!(row.spread > 1.9, "{}", row.spread);
        assert_eq!(row.noise, "rounds differ by 199 %");
    }

    #[test]
    fn an_even_number_of_rounds_has_the_middle_of_two() {
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_of_medians() {
        let results = Results {
            machine: Machine::default(),
            subjects: vec![("nginx", "1".into())],
            seconds: 1.0,
            rounds: 1,
            rows: vec![
                Row::new(&WORKS[0], Name::Nginx, vec![sample(10.0)]),
                Row::new(&WORKS[0], Name::Liutong, vec![sample(5.0)]),
            ],
        };
        let text = results.summary(&WORKS[..1]);
        assert!(text.contains("| - | 10.00 (2.50) | - | **5.00 (1.25)** | 0.50 | - | - |"), "{text}");
        assert!(!text.contains("noisy"));
    }
}
