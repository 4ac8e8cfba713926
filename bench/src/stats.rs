//! Rounds into figures: medians, how far they can be trusted, and how one subject stands to another.
//!
//! The machine drifts, and with it all absolute figures. What two subjects needed in the same round is
//! compared round by round; only these comparisons are put in order, and their middle is what is told.

use serde::Serialize;

/// How sure the bounds of an estimate shall be.
const CONFIDENCE: f64 = 0.9;

/// A figure that was measured several times.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Estimate {
    /// The middle of the rounds.
    pub(crate) median: f64,
    /// What the true median is hardly below; of five rounds the least.
    pub(crate) low: f64,
    /// What it is hardly above; of five rounds the greatest.
    pub(crate) high: f64,
}

impl Estimate {
    /// Estimates from the rounds; without any, all is zero.
    pub(crate) fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let (Some(_), count) = (rounds.first(), rounds.len()) else { return Self::default() };
        let inward = inward(count);
        Self {
            median: f64::midpoint(rounds[(count - 1) / 2], rounds[count / 2]),
            low: rounds[inward],
            high: rounds[count - 1 - inward],
        }
    }

    /// Estimates from what `of` makes of each pair of figures of the same round.
    pub(crate) fn of_pairs(ours: &[f64], theirs: &[f64], of: impl Fn(f64, f64) -> f64) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(&ours, &theirs)| of(ours, theirs)).collect())
    }

    /// The distance of the bounds, over the median.
    pub(crate) fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / self.median.abs() }
    }

    /// Whether the rounds leave open on which side of `limit` the true median lies.
    pub(crate) fn straddles(&self, limit: f64) -> bool {
        self.low <= limit && limit < self.high
    }
}

/// How many of `count` rounds in order may be left out at each end, so that the median of what was measured
/// still lies between the others as surely as `CONFIDENCE`: each round is above it or below it, like a coin.
fn inward(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut outside = 0.0;
    for left_out in 0..count / 2 {
        outside += 2.0 * probability;
        if outside > 1.0 - CONFIDENCE {
            return left_out.saturating_sub(1);
        }
        probability *= (count - left_out) as f64 / (left_out + 1) as f64;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_round_moves_the_bounds_and_not_the_median() {
        let estimate = Estimate::of(vec![10.0, 10.2, 30.0, 9.9, 10.1]);
        assert!((estimate.median - 10.1).abs() < 1e-9);
        assert!(estimate.spread() > 1.9, "{estimate:?}");
    }

    #[test]
    fn an_even_number_of_rounds_has_the_middle_of_two() {
        assert!((Estimate::of(vec![4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert!(Estimate::of(Vec::new()).median.abs() < 1e-9);
    }

    #[test]
    fn drift_that_meets_both_does_not_show_in_their_ratio() {
        let (ours, theirs) = ([5.0, 7.5, 6.0], [10.0, 15.0, 12.0]);
        let ratio = Estimate::of_pairs(&ours, &theirs, |ours, theirs| ours / theirs);
        assert!((ratio.median - 0.5).abs() < 1e-9 && ratio.spread() < 1e-9);
    }

    #[test]
    fn many_rounds_bear_a_few_outliers() {
        // The known ranks of the 90 % interval of a median.
        for (count, left_out) in [(1, 0), (3, 0), (5, 0), (7, 0), (8, 1), (11, 2), (15, 3), (20, 5)] {
            assert_eq!(inward(count), left_out, "{count} rounds");
        }
    }

    #[test]
    fn rounds_on_both_sides_of_a_limit_leave_it_open() {
        let estimate = Estimate::of(vec![0.5, 0.54, 0.56]);
        assert!(estimate.straddles(0.55));
        assert!(!estimate.straddles(0.49) && !estimate.straddles(0.56));
    }
}
