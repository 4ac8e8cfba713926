//! Curves over a logarithmic axis: how a cost grows.

use super::svg::Svg;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 76.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 42.0;
/// Labels of curves keep so far apart.
const LABEL_PITCH: f64 = 14.0;

/// One curve.
pub(crate) struct Curve {
    /// Its name, which stands at its end.
    pub(crate) name: String,
    /// Which colour: as in `o0` to `o3` of the bars.
    pub(crate) colour: usize,
    /// x and y, from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart of curves.
pub(crate) struct Lines {
    /// What it shows.
    pub(crate) title: String,
    /// What is along x.
    pub(crate) x_title: String,
    /// The values along x that are named, with their names.
    pub(crate) ticks: Vec<(f64, String)>,
    /// Whether y is logarithmic too.
    pub(crate) y_log: bool,
    /// The curves.
    pub(crate) curves: Vec<Curve>,
}

impl Lines {
    /// Draws it.
    pub(crate) fn svg(&self) -> String {
        let mut svg = Svg::new(WIDTH, HEIGHT, &self.title);
        svg.text(8.0, 18.0, "title", &self.title);
        let y_axis = Axis::for_values(self.values(), self.y_log);
        for value in y_axis.ticks() {
            let y = vertical(y_axis.place(value));
            svg.rule((LEFT, y), (WIDTH - RIGHT, y));
            svg.text(LEFT - 6.0, y + 4.0, "small end", &number(value));
        }
        let (least, most) = bounds(self.ticks.iter().map(|(x, _)| *x));
        let across = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * log_place(x, least, most);
        for (x, name) in &self.ticks {
            svg.text(across(*x), HEIGHT - BOTTOM + 18.0, "small middle", name);
        }
        svg.text(f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 6.0, "small middle", &self.x_title);
        let mut labels = Vec::new();
        for curve in &self.curves {
            let place = |&(x, y): &(f64, f64)| (across(x), vertical(y_axis.place(y)));
            let points: Vec<_> = curve.points.iter().map(place).collect();
            svg.curve(&points, curve.colour);
            if let Some(&(x, y)) = points.last() {
                labels.push((y, x, curve));
            }
        }
        labels.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let mut lowest = f64::MIN;
        for (y, x, curve) in labels {
            lowest = y.max(lowest + LABEL_PITCH);
            svg.text(x + 8.0, lowest + 4.0, &format!("t{}", curve.colour), &curve.name);
        }
        svg.finish()
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.curves.iter().flat_map(|curve| curve.points.iter().map(|&(_, y)| y))
    }
}

/// From bottom (0) to top (1).
fn vertical(place: f64) -> f64 {
    TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - place)
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
}

fn log_place(value: f64, least: f64, most: f64) -> f64 {
    if most <= least { 0.5 } else { (value / least).ln() / (most / least).ln() }
}

/// The vertical axis: from zero, or in powers of ten.
struct Axis {
    log: bool,
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn for_values(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let (least, most) = bounds(values.filter(|value| *value > 0.0));
        if most < least {
            return Self { log: false, low: 0.0, high: 1.0, step: 1.0 };
        }
        if log {
            let (low, high) = (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()));
            return Self { log, low, high: high.max(10.0 * low), step: 10.0 };
        }
        // Four or five lines, at round figures.
        let raw = most / 4.0;
        let power = 10_f64.powf(raw.log10().floor());
        let factor =
            [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= raw).unwrap_or(10.0);
        let step = factor * power;
        Self { log, low: 0.0, high: step * (most / step).ceil(), step }
    }

    fn place(&self, value: f64) -> f64 {
        if self.log { log_place(value, self.low, self.high) } else { value / self.high }
    }

    fn ticks(&self) -> Vec<f64> {
        let next = |value: &f64| Some(if self.log { value * self.step } else { value + self.step });
        std::iter::successors(Some(self.low), next).take_while(|value| *value <= self.high * 1.001).collect()
    }
}

/// As short as it can be told.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 10_000.0 => format!("{}k", value / 1e3),
        value => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_figures_above_the_greatest() {
        for (most, log, high, count) in
            [(37.0, false, 40.0, 5), (4.1, false, 6.0, 4), (9_000.0, true, 10_000.0, 4), (0.4, false, 0.4, 5)]
        {
            let axis = Axis::for_values([most, most / 200.0].into_iter(), log);
            assert!((axis.high - high).abs() < 1e-9, "{most}: {}", axis.high);
            assert_eq!(axis.ticks().len(), count, "{most}: {:?}", axis.ticks());
        }
    }

    #[test]
    fn labels_of_curves_that_end_together_do_not_cover_each_other() {
        let curve = |name: &str, y: f64| Curve {
            name: name.to_owned(),
            colour: 1,
            points: vec![(1.0, 9.0), (10.0, y)],
        };
        let lines = Lines {
            title: "t".to_owned(),
            x_title: "x".to_owned(),
            ticks: vec![(1.0, "1".to_owned()), (10.0, "10".to_owned())],
            y_log: false,
            curves: vec![curve("first", 5.0), curve("second", 5.01)],
        };
        let svg = lines.svg();
        let height = |name: &str| -> f64 {
            let line = svg.lines().find(|line| line.ends_with(&format!("t1\">{name}</text>"))).unwrap();
            line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        assert!((height("first") - height("second")).abs() >= LABEL_PITCH - 0.1);
    }
}
