//! The short tables: CPU time of a unit, added latency, and how Liutong stands to the others and to what it
//! is held to.

use std::fmt::Write;

use super::{Results, Row, SPREAD_MAX};
use crate::measure::Sample;
use crate::stats::Estimate;
use crate::subject::Name;
use crate::targets::{EVENT_ADDED_P99_US_MAX, judged, ratio_max};
use crate::work::Work;

/// Whom Liutong is held against, in the order of the columns of figures.
const OTHERS: [Name; 3] = [Name::Forwarder, Name::Nginx, Name::Haproxy];
/// And in the order of the columns of ratios.
const AGAINST: [Name; 3] = [Name::Nginx, Name::Haproxy, Name::Forwarder];
/// Stands behind a figure that is not to be trusted.
const STAR: &str = " \\*";

impl Results {
    /// Both short tables, and what was measured where.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.cpu();
        if self.works.iter().any(|work| work.adds_latency) {
            let _ = write!(text, "\n{}", self.latency());
        }
        let _ = write!(text, "\n{}", self.conditions());
        if text.contains(STAR) {
            text.push_str(
                "\n\\* noisy: the rounds lie far apart, other programs used the proxy's core, or it was to be \
                 saturated and was not. ~ the rounds lie on both sides of the target.\n",
            );
        }
        text
    }

    fn cpu(&self) -> String {
        let mut text = String::from(
            "| CPU µs of the proxy (in user mode) | per | forwarder | nginx | haproxy | **liutong** | \
             liutong / nginx | / haproxy | / forwarder |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for work in &self.works {
            let [forwarder, nginx, haproxy] = OTHERS.map(|name| self.cpu_cell(work, name));
            let ours = self.cpu_cell(work, Name::Liutong);
            let ratio = |name| self.ratio_cell(work, Name::Liutong, name, ratio_max(work.name, name));
            let ratios = AGAINST.map(ratio).join(" | ");
            let (title, unit) = (work.title, work.unit());
            let _ = writeln!(
                text,
                "| {title} | {unit} | {forwarder} | {nginx} | {haproxy} | **{ours}** | {ratios} |"
            );
            if self.row(work, Name::Shipping).is_some() {
                let ours = self.cpu_cell(work, Name::Shipping);
                let ratios =
                    AGAINST.map(|name| self.ratio_cell(work, Name::Shipping, name, None)).join(" | ");
                let _ = writeln!(
                    text,
                    "| &nbsp; usage shipped and stored meanwhile | {unit} | - | - | - | **{ours}** | {ratios} |"
                );
            }
        }
        text
    }

    fn cpu_cell(&self, work: &Work, name: Name) -> String {
        let cell = |row: &Row| {
            let star = if row.noise.is_empty() { "" } else { STAR };
            format!("{:.2} ({:.2}){star}", row.median.cpu_us, row.median.user_us)
        };
        self.row(work, name).map_or("-".to_owned(), cell)
    }

    fn ratio_cell(&self, work: &Work, ours: Name, other: Name, limit: Option<f64>) -> String {
        let Some(ratio) = self.ratio(work, ours, other) else { return "-".to_owned() };
        let star = if ratio.spread() > SPREAD_MAX { STAR } else { "" };
        format!("{}{star}", judged(&ratio, limit, |value| format!("{value:.2}")))
    }

    fn latency(&self) -> String {
        let mut text = String::from(
            "| Added latency in µs, p50 / p99 | without a proxy | forwarder | nginx | haproxy | **liutong** |\n\
             |---|---|---|---|---|---|\n",
        );
        for work in self.works.iter().filter(|work| work.adds_latency) {
            let direct = self
                .row(work, Name::Direct)
                .map_or("-".to_owned(), |row| format!("{:.0} / {:.0}", row.median.p50_us, row.median.p99_us));
            let others = OTHERS.map(|name| self.added_cell(work, name, [None, None])).join(" | ");
            let limits = match work.half_load {
                true => [p50, p99].map(|figure| Some(self.added(work, Name::Nginx, figure)?.median)),
                false => [None, Some(EVENT_ADDED_P99_US_MAX)],
            };
            let ours = self.added_cell(work, Name::Liutong, limits);
            let rate = if work.half_load {
                format!("chat at half load, {:.0} exchanges/s", self.half_load)
            } else {
                work.title.to_owned()
            };
            let _ = writeln!(text, "| {}: {rate} | {direct} | {others} | {ours} |", work.latency_of());
        }
        text
    }

    fn added_cell(&self, work: &Work, name: Name, limits: [Option<f64>; 2]) -> String {
        let added = [p50, p99].map(|figure| self.added(work, name, figure));
        let [Some(p50), Some(p99)] = added else { return "-".to_owned() };
        let cell = |added: &Estimate, limit| judged(added, limit, |value| format!("{value:+.0}"));
        format!("{} / {}", cell(&p50, limits[0]), cell(&p99, limits[1]))
    }

    /// What was measured where.
    fn conditions(&self) -> String {
        let mut text = format!(
            "{}. Medians of {} rounds of {} s, subjects in turn; ratios and differences are of the same round. \
             The proxy on core 0 with one worker, the load generator (and, unless the core is to be saturated, \
             the upstream) on core 1, all on loopback.\n\n",
            self.machine, self.rounds, self.seconds
        );
        if self.works.iter().any(|work| work.tls.is_on()) {
            text.push_str(
                "https: TLS 1.3 with ECDSA P-256, X25519 and AES-256-GCM on connections that are open already; \
                 liutong is there its data plane on a snapshot, without a control plane.\n\n",
            );
        }
        for (name, about) in &self.subjects {
            let _ = writeln!(text, "- {name}: {about}");
        }
        text
    }
}

fn p50(sample: &Sample) -> f64 {
    sample.p50_us
}

fn p99(sample: &Sample) -> f64 {
    sample.p99_us
}
