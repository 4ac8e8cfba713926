//! What came of all rounds: a row for each subject at each work, and how rows stand to each other.

use serde::{Serialize, Serializer};

use crate::machine::Machine;
use crate::measure::Sample;
use crate::stats::Estimate;
use crate::subject::Name;
use crate::work::{Placement, Work};

/// The long tables.
mod details;
/// The short tables, with the targets beside the figures.
mod summary;

/// Rounds may lie so far apart, over their median, before they are called noisy.
pub(crate) const SPREAD_MAX: f64 = 0.15;
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
    #[serde(serialize_with = "as_text")]
    pub(crate) subject: Name,
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
    /// Exchanges a second at half load.
    pub(crate) half_load: f64,
    /// What came of them.
    pub(crate) rows: Vec<Row>,
    /// The works, for titles.
    #[serde(skip)]
    pub(crate) works: Vec<Work>,
}

fn as_text<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.text())
}

impl Row {
    /// Sums up the rounds; there is at least one.
    pub(crate) fn new(work: &Work, subject: Name, rounds: Vec<Sample>) -> Self {
        let median = median(&rounds);
        let spread = Estimate::of(rounds.iter().map(|sample| sample.cpu_us).collect()).spread();
        let mut row = Self { work: work.name, subject, median, spread, noise: String::new(), rounds };
        row.noise = row.noise_at(work);
        row
    }

    fn noise_at(&self, work: &Work) -> String {
        let mut noise = Vec::new();
        if self.subject == Name::Direct {
            return String::new();
        }
        if self.spread > SPREAD_MAX {
            noise.push(format!("rounds differ by {:.0} %", self.spread * 100.0));
        }
        if self.median.core_others > OTHERS_MAX {
            noise.push(format!("others took {:.0} % of the core", self.median.core_others * 100.0));
        }
        if work.placement == Placement::WithProxy && self.median.core_idle > IDLE_SATURATED_MAX {
            noise.push("the core was not saturated".to_owned());
        }
        noise.join(", ")
    }

    /// Whether the proxy's core had nothing left to give, to the proxy and not to others.
    fn is_saturated(&self) -> bool {
        self.median.core_idle <= IDLE_SATURATED_MAX && self.median.core_others <= OTHERS_MAX
    }

    fn each(&self, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }
}

/// The median of each figure by itself.
fn median(rounds: &[Sample]) -> Sample {
    let of = |figure: fn(&Sample) -> f64| Estimate::of(rounds.iter().map(figure).collect()).median;
    Sample {
        cpu_us: of(|s| s.cpu_us),
        user_us: of(|s| s.user_us),
        rate: of(|s| s.rate),
        p50_us: of(|s| s.p50_us),
        p99_us: of(|s| s.p99_us),
        first_p50_us: of(|s| s.first_p50_us),
        first_p99_us: of(|s| s.first_p99_us),
        core_idle: of(|s| s.core_idle),
        core_others: of(|s| s.core_others),
        upstream_us: of(|s| s.upstream_us),
        units: rounds.iter().map(|s| s.units).sum::<u64>() / rounds.len().max(1) as u64,
    }
}

impl Results {
    /// The row of a subject at a work.
    pub(crate) fn row(&self, work: &Work, name: Name) -> Option<&Row> {
        self.rows.iter().find(|row| row.work == work.name && row.subject == name)
    }

    /// How many times the CPU of `other` this subject takes, in the same rounds.
    fn ratio(&self, work: &Work, subject: Name, other: Name) -> Option<Estimate> {
        let theirs = self.row(work, other)?.each(|sample| sample.cpu_us);
        let ours = self.row(work, subject)?.each(|sample| sample.cpu_us);
        let ratio = Estimate::of_pairs(&ours, &theirs, |ours, theirs| ours / theirs);
        ratio.median.is_finite().then_some(ratio)
    }

    /// What a subject adds to a figure of no proxy at all, in the same rounds.
    fn added(&self, work: &Work, subject: Name, figure: fn(&Sample) -> f64) -> Option<Estimate> {
        let direct = self.row(work, Name::Direct)?.each(figure);
        let with = self.row(work, subject)?.each(figure);
        Some(Estimate::of_pairs(&with, &direct, |with, direct| with - direct))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::WORKS;

    fn sample(cpu_us: f64, p99_us: f64) -> Sample {
        let (user_us, rate) = (cpu_us / 4.0, 1e6 / cpu_us);
        let (p50_us, core_idle, upstream_us, units) = (p99_us / 2.0, 0.01, 2.0, 1000);
        Sample { cpu_us, user_us, rate, p50_us, p99_us, core_idle, upstream_us, units, ..Sample::default() }
    }

    fn results(rows: Vec<Row>, work: &Work) -> Results {
        Results {
            machine: Machine::default(),
            subjects: vec![("nginx", "1".into())],
            seconds: 1.0,
            rounds: 3,
            half_load: 12_300.0,
            rows,
            works: vec![*work],
        }
    }

    fn row(work: &Work, name: Name, figures: [(f64, f64); 3]) -> Row {
        Row::new(work, name, figures.map(|(cpu_us, p99_us)| sample(cpu_us, p99_us)).to_vec())
    }

    #[test]
    fn ratios_are_of_rounds_and_say_whether_the_target_is_met() {
        let work = &WORKS[0];
        let results = results(
            vec![
                row(work, Name::Nginx, [(10.0, 1.0), (20.0, 1.0), (11.0, 1.0)]),
                row(work, Name::Liutong, [(5.0, 1.0), (10.0, 1.0), (6.6, 1.0)]),
                row(work, Name::Shipping, [(7.0, 1.0), (14.0, 1.0), (7.7, 1.0)]),
            ],
            work,
        );
        let text = results.summary();
        let line = "| - | 11.00 (2.75) \\* | - | **6.60 (1.65) \\*** | 0.50 (~ ≤ 0.55) \\* | - | - |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| - | - | - | **7.70 (1.93) \\*** | 0.70 | - | - |"), "{text}");
        assert!(text.contains("\\* noisy"));
    }

    #[test]
    fn what_a_proxy_adds_is_held_against_nginx() {
        let work = &WORKS[2];
        let results = results(
            vec![
                row(work, Name::Direct, [(1.0, 100.0), (1.0, 200.0), (1.0, 300.0)]),
                row(work, Name::Nginx, [(1.0, 140.0), (1.0, 240.0), (1.0, 340.0)]),
                row(work, Name::Liutong, [(1.0, 160.0), (1.0, 260.0), (1.0, 360.0)]),
            ],
            work,
        );
        let text = results.summary();
        assert!(
            text.contains("| 100 / 200 | - | +20 / +40 | - | **+30 (> +20)** / **+60 (> +40)** |"),
            "{text}"
        );
        assert!(text.contains("12300 exchanges/s"), "{text}");
    }

    #[test]
    fn a_core_with_time_left_is_not_called_saturated() {
        let work = &WORKS[0];
        let lazy = Sample { core_idle: 0.06, ..sample(10.0, 1.0) };
        let row = Row::new(work, Name::Nginx, vec![lazy; 3]);
        assert_eq!(row.noise, "the core was not saturated");
    }
}
