//! Charts of figures as SVG: written by hand, small, and readable in light and in dark.

use crate::report::Results;
use crate::subject::Name;
use crate::work::Work;

use svg::Svg;

/// Curves over a logarithmic axis.
mod lines;
/// Elements.
mod svg;

pub(crate) use lines::{Curve, Lines};

/// Who has a bar, from above.
const SHOWN: [Name; 4] = [Name::Forwarder, Name::Nginx, Name::Haproxy, Name::Liutong];
const WIDTH: f64 = 800.0;
/// Between a column's edge and what is in it.
const MARGIN: f64 = 10.0;
/// Room for a bar's name, and for its figure.
const NAME_WIDTH: f64 = 66.0;
const FIGURE_WIDTH: f64 = 50.0;
const BAR_HEIGHT: f64 = 14.0;
const BAR_PITCH: f64 = 18.0;
const HEADING_HEIGHT: f64 = 26.0;
const GROUP_GAP: f64 = 14.0;

/// CPU time of a unit, a group of bars for each work: exchanges on the left, events on the right.
pub(crate) fn bars(results: &Results) -> String {
    let (left, right): (Vec<&Work>, Vec<&Work>) =
        results.works.iter().partition(|work| work.unit() == "exchange");
    let group = HEADING_HEIGHT + SHOWN.len() as f64 * BAR_PITCH + GROUP_GAP;
    let height = HEADING_HEIGHT + group * left.len().max(right.len()) as f64;
    let mut svg = Svg::new(WIDTH, height, "CPU microseconds of the proxy for an exchange and for an event");
    for (column, works) in [left, right].iter().enumerate() {
        let x = MARGIN + column as f64 * WIDTH / 2.0;
        let Some(unit) = works.first().map(|work| work.unit()) else { continue };
        svg.text(x, 18.0, "small", &format!("CPU µs of the proxy per {unit}"));
        let figure = |work: &Work, name| results.row(work, name).map(|row| row.median.cpu_us);
        let figures = works.iter().flat_map(|work| SHOWN.map(|name| figure(work, name)));
        let most = figures.flatten().fold(f64::MIN_POSITIVE, f64::max);
        for (number, work) in works.iter().enumerate() {
            let top = HEADING_HEIGHT + number as f64 * group;
            svg.text(x, top + 16.0, "title", work.short);
            for (line, name) in SHOWN.into_iter().enumerate() {
                let Some(cpu_us) = figure(work, name) else { continue };
                let y = top + HEADING_HEIGHT + line as f64 * BAR_PITCH;
                let room = WIDTH / 2.0 - 2.0 * MARGIN - NAME_WIDTH - FIGURE_WIDTH;
                let length = (room * cpu_us / most).max(1.0);
                let baseline = y + BAR_HEIGHT - 3.0;
                svg.text(x + NAME_WIDTH - 6.0, baseline, "end", name.text());
                svg.bar((x + NAME_WIDTH, y), (length, BAR_HEIGHT), &format!("f{line}"));
                svg.text(x + NAME_WIDTH + length + 5.0, baseline, "small", &format!("{cpu_us:.1}"));
            }
        }
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::measure::Sample;
    use crate::report::Row;
    use crate::work::WORKS;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let row = |name, cpu_us| Row::new(&WORKS[0], name, vec![Sample { cpu_us, ..Sample::default() }]);
        let results = Results {
            machine: Machine::default(),
            subjects: Vec::new(),
            seconds: 1.0,
            rounds: 1,
            half_load: 0.0,
            rows: vec![row(Name::Nginx, 20.0), row(Name::Liutong, 5.0)],
            works: vec![WORKS[0]],
        };
        let svg = bars(&results);
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect"))
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2, "{svg}");
        assert!((widths[0] / widths[1] - 4.0).abs() < 0.01, "{widths:?}");
        assert!(svg.contains(">20.0</text>") && svg.contains(WORKS[0].short));
    }
}
