//! What Liutong is held to, and how a table says whether a figure keeps to it.

use crate::stats::Estimate;
use crate::subject::Name;

/// A stamped event may come at most so much later than without a proxy, in microseconds, for 99 of 100.
pub(crate) const EVENT_ADDED_P99_US_MAX: f64 = 100.0;
/// Bytes of memory at start, with ten thousand keys.
pub(crate) const START_BYTES_MAX: f64 = 25.0 * 1024.0 * 1024.0;
/// Bytes of memory of an idle connection.
pub(crate) const CONNECTION_BYTES_MAX: f64 = 8.0 * 1024.0;
/// Bytes of memory of an open stream.
pub(crate) const STREAM_BYTES_MAX: f64 = 24.0 * 1024.0;

/// CPU of Liutong over that of another, at most.
const RATIOS: [(&str, Name, f64); 15] = [
    ("chat_saturated", Name::Nginx, 0.55),
    ("chat_saturated", Name::Haproxy, 0.50),
    ("chat_saturated", Name::Forwarder, 1.25),
    ("chat_saturated_512", Name::Nginx, 0.58),
    ("chat_saturated_512", Name::Haproxy, 0.45),
    ("chat_saturated_512", Name::Forwarder, 1.25),
    ("chat_half", Name::Nginx, 0.75),
    ("chat_half", Name::Haproxy, 0.68),
    ("chat_half", Name::Forwarder, 1.20),
    ("streams_slow_512", Name::Nginx, 0.90),
    ("streams_slow_512", Name::Haproxy, 0.92),
    ("streams_slow_512", Name::Forwarder, 1.10),
    ("streams_fast", Name::Nginx, 1.00),
    ("streams_fast", Name::Forwarder, 1.15),
    ("https_saturated", Name::Nginx, 0.70),
];

/// What Liutong's CPU at a work may be at most, over that of another.
pub(crate) fn ratio_max(work: &str, against: Name) -> Option<f64> {
    RATIOS.iter().find(|(name, other, _)| *name == work && *other == against).map(|(_, _, limit)| *limit)
}

/// Says whether `figure` keeps to its limit: `(≤ 0.55)`, or in bold `(> 0.55)`, and that the rounds leave
/// it open with a tilde.
pub(crate) fn judged(figure: &Estimate, limit: Option<f64>, text: impl Fn(f64) -> String) -> String {
    let value = text(figure.median);
    let Some(limit) = limit else { return value };
    let met = figure.median <= limit;
    let open = if figure.straddles(limit) { "~ " } else { "" };
    if met {
        format!("{value} ({open}≤ {})", text(limit))
    } else {
        format!("**{value} ({open}> {})**", text(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::WORKS;

    fn ratio(rounds: &[f64], limit: Option<f64>) -> String {
        judged(&Estimate::of(rounds.to_vec()), limit, |value| format!("{value:.2}"))
    }

    #[test]
    fn a_figure_says_whether_it_keeps_to_its_limit() {
        assert_eq!(ratio(&[0.51, 0.52, 0.53], Some(0.55)), "0.52 (≤ 0.55)");
        assert_eq!(ratio(&[0.60, 0.61, 0.59], Some(0.55)), "**0.60 (> 0.55)**");
        assert_eq!(ratio(&[0.50, 0.54, 0.57], Some(0.55)), "0.54 (~ ≤ 0.55)");
        assert_eq!(ratio(&[0.50], None), "0.50");
    }

    #[test]
    fn every_target_is_of_a_work() {
        for (work, _, _) in RATIOS {
            assert!(WORKS.iter().any(|known| known.name == work), "{work}");
        }
        assert_eq!(ratio_max("chat_half", Name::Haproxy), Some(0.68));
        assert_eq!(ratio_max("streams_fast", Name::Haproxy), None);
    }
}
