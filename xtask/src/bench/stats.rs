//! Medians and ratios of medians.
//!
//! A ratio compares two contestants that ran in the same rounds: its value is the ratio of the medians over all steps
//! of all rounds, its range the smallest and largest ratio of medians within one round. Noise that hits a whole round
//! hits both contestants and leaves the ratio of that round alone.

use serde::Serialize;

/// A ratio of medians and its range over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Ratio of the medians over all rounds.
    pub value: f64,
    /// Smallest ratio within a round.
    pub min: f64,
    /// Largest ratio within a round.
    pub max: f64,
}

/// The median; the mean of the middle two for an even count; none for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[middle - 1], upper))
}

/// Median over all rounds together.
pub fn pooled_median(rounds: &[Vec<f64>]) -> Option<f64> {
    median(&rounds.concat())
}

/// `numerator / denominator`, both given as one list of seconds a round; none where a round is missing or empty.
pub fn ratio(numerator: &[Vec<f64>], denominator: &[Vec<f64>]) -> Option<Ratio> {
    if numerator.len() != denominator.len() {
        return None;
    }
    let value = pooled_median(numerator)? / pooled_median(denominator)?;
    let mut range = (f64::INFINITY, f64::NEG_INFINITY);
    for (top, bottom) in numerator.iter().zip(denominator) {
        let within = median(top)? / median(bottom)?;
        range = (range.0.min(within), range.1.max(within));
    }
    // The pooled ratio may fall outside the rounds' own ratios when the rounds differ much; the range holds it too.
    Some(Ratio {
        value,
        min: range.0.min(value),
        max: range.1.max(value),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_slow_round_moves_both_and_leaves_its_ratio() {
        let ours = vec![
            vec![1.0, 1.0, 1.0],
            vec![10.0, 10.0, 10.0],
            vec![1.0, 1.0, 1.0],
        ];
        let peer = vec![
            vec![2.0, 2.0, 2.0],
            vec![20.0, 20.0, 20.0],
            vec![3.0, 3.0, 3.0],
        ];
        let ratio = ratio(&peer, &ours).unwrap();
        assert_eq!(
            ratio,
            Ratio {
                value: 3.0,
                min: 2.0,
                max: 3.0
            }
        );
    }

    #[test]
    fn one_outlying_step_does_not_move_the_ratio() {
        let ours = vec![vec![1.0, 1.0, 100.0]];
        let peer = vec![vec![4.0, 4.0, 4.0]];
        assert_eq!(ratio(&peer, &ours).unwrap().value, 4.0);
    }

    #[test]
    fn missing_rounds_give_no_ratio() {
        assert_eq!(ratio(&[vec![1.0]], &[]), None);
        assert_eq!(ratio(&[vec![1.0], vec![]], &[vec![1.0], vec![1.0]]), None);
        assert_eq!(ratio(&[], &[]), None);
    }
}
