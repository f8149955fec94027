//! Paired bootstrap between two models' predictions on the same rows (Efron and Tibshirani 1993; Koehn 2004).
//!
//! Rows are drawn with replacement, the same ones for both models, and the task's score is taken of each; the interval is that
//! of percentiles, the p-value is two-sided: twice the smaller share of draws on either side of no difference.

use rand::RngExt;
use rayon::prelude::*;
use serde::Serialize;
use thiserror::Error;

use super::metrics::Answers;
use super::predictions::Prediction;
use super::run::beside_truth;
use crate::data::glue::{Example, Metric};
use crate::seed::{Stream, rng};

/// Why two sets of predictions cannot be compared.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompareError {
    /// They are not of the same rows.
    #[error("the predictions are not of the same rows: {0}")]
    Rows(String),
    /// There is nothing to score against.
    #[error(
        "the predictions have no labels beside them: a test set with hidden labels is never scored"
    )]
    Hidden,
}

/// What a comparison finds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Rows.
    pub rows: usize,
    /// Score of the first model.
    pub first: f64,
    /// Score of the second.
    pub second: f64,
    /// Second less first.
    pub difference: f64,
    /// Lower end of the 95 % interval of the difference.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Two-sided p-value of no difference.
    pub p_value: f64,
    /// Draws.
    pub draws: usize,
    /// Draws on which a score was undefined; they are left out.
    pub undefined: usize,
}

/// Puts two models' predictions side by side, by row number.
pub fn pair(
    first: &[Prediction],
    second: &[Prediction],
) -> Result<(Answers, Answers), CompareError> {
    let sorted = |predictions: &[Prediction]| {
        let mut sorted = predictions.to_vec();
        sorted.sort_by_key(|p| p.index);
        sorted
    };
    let (first, second) = (sorted(first), sorted(second));
    if first.len() != second.len() {
        return Err(CompareError::Rows(format!(
            "{} and {}",
            first.len(),
            second.len()
        )));
    }
    let differs = first
        .iter()
        .zip(&second)
        .find(|(a, b)| a.index != b.index || a.target != b.target);
    if let Some((a, b)) = differs {
        return Err(CompareError::Rows(format!(
            "row {} beside row {}, or with another label",
            a.index, b.index
        )));
    }
    let answers = |predictions: &[Prediction]| {
        let task = predictions.first()?.task;
        let examples: Vec<Example> = predictions
            .iter()
            .map(|p| Example {
                index: p.index,
                first: String::new(),
                second: None,
                target: p.target,
            })
            .collect();
        let answers: Vec<_> = predictions.iter().map(|p| p.answer).collect();
        beside_truth(task, &answers, &examples)
    };
    match (answers(&first), answers(&second)) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(CompareError::Hidden),
    }
}

/// Compares two models by the mean of `metrics`, over `draws` draws.
pub fn compare(
    first: &Answers,
    second: &Answers,
    metrics: &[Metric],
    draws: usize,
    seed: u64,
) -> Comparison {
    let rows = first.len();
    let mut differences: Vec<f64> = (0..draws)
        .into_par_iter()
        .map(|draw| {
            let mut random = rng(seed, Stream::Data, &[0x626f_6f74, draw as u64]);
            let places: Vec<usize> = (0..rows).map(|_| random.random_range(0..rows)).collect();
            second.at(&places).mean(metrics) - first.at(&places).mean(metrics)
        })
        .filter(|difference| !difference.is_nan())
        .collect();
    differences.sort_by(f64::total_cmp);
    let share = |holds: fn(&f64) -> bool| {
        let count = differences.iter().filter(|d| holds(d)).count();
        // One more than counted, of both: no p-value is 0 (Davison and Hinkley 1997, section 4.2).
        (count + 1) as f64 / (differences.len() + 1) as f64
    };
    let (one, two) = (first.mean(metrics), second.mean(metrics));
    Comparison {
        rows,
        first: one,
        second: two,
        difference: two - one,
        low: quantile(&differences, 0.025),
        high: quantile(&differences, 0.975),
        p_value: (2.0 * share(|d| *d <= 0.0).min(share(|d| *d >= 0.0))).min(1.0),
        draws,
        undefined: draws - differences.len(),
    }
}

/// A quantile of sorted values, linear between them (numpy's default); NaN of none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q * last as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(last);
    sorted[low] + part * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(predicted: Vec<usize>, gold: &[usize]) -> Answers {
        Answers::Classes {
            predicted,
            gold: gold.to_vec(),
        }
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let gold: Vec<usize> = (0..100).map(|i| i % 2).collect();
        let same = classes(gold.iter().map(|g| 1 - g).collect(), &gold);
        let c = compare(&same, &same, &[Metric::Accuracy], 200, 1);
        assert_eq!(
            (c.difference, c.low, c.high, c.p_value),
            (0.0, 0.0, 0.0, 1.0)
        );
    }

    #[test]
    fn interval_and_p_value_are_those_of_the_normal_approximation() {
        // 400 rows; the second model is right on 40 more and wrong on 20 where the first is right: the difference of a row has
        // mean 0.05 and variance 60/400 - 0.05^2, so its mean over 400 rows has standard error 0.0192.
        let gold = vec![1usize; 400];
        let first: Vec<usize> = (0..400).map(|i| usize::from(i >= 40)).collect();
        let second: Vec<usize> = (0..400).map(|i| usize::from(i < 380)).collect();
        let (first, second) = (classes(first, &gold), classes(second, &gold));
        let c = compare(&first, &second, &[Metric::Accuracy], 4000, 7);
        assert!((c.difference - 0.05).abs() < 1e-12);
        assert!((c.low - (0.05 - 1.96 * 0.0192)).abs() < 0.004, "{c:?}");
        assert!((c.high - (0.05 + 1.96 * 0.0192)).abs() < 0.004, "{c:?}");
        // Two-sided normal: z = 2.60.
        assert!((c.p_value - 0.0093).abs() < 0.006, "{c:?}");
        assert_eq!(c, compare(&first, &second, &[Metric::Accuracy], 4000, 7));
        let back = compare(&second, &first, &[Metric::Accuracy], 4000, 7);
        assert_eq!(
            (back.low, back.high, back.p_value),
            (-c.high, -c.low, c.p_value)
        );
    }

    #[test]
    fn undefined_draws_are_counted_and_left_out() {
        // With two rows, half of the draws are one row twice, whose correlation is undefined.
        let scores = |predicted: [f64; 2]| Answers::Scores {
            predicted: predicted.to_vec(),
            gold: vec![0.0, 1.0],
        };
        let c = compare(
            &scores([0.0, 1.0]),
            &scores([1.0, 0.0]),
            &[Metric::Pearson],
            400,
            3,
        );
        assert!(c.undefined > 140 && c.undefined < 260, "{c:?}");
        assert!(
            (c.low + 2.0).abs() < 1e-12 && (c.high + 2.0).abs() < 1e-12,
            "{c:?}"
        );
    }

    /// ```python
    /// numpy.quantile([1, 2, 4, 8], [0, 0.025, 0.5, 1])  # numpy 2.4.6
    /// ```
    #[test]
    fn quantiles_are_those_of_numpy() {
        let of = |q| quantile(&[1.0, 2.0, 4.0, 8.0], q);
        assert_eq!((of(0.0), of(0.5), of(1.0)), (1.0, 3.0, 8.0));
        assert!((of(0.025) - 1.075).abs() < 1e-12);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
