//! GLUE's metrics, each once, in f64, with the conventions of scikit-learn and scipy for what is undefined.
//!
//! Matthews correlation is the multi-class form (Gorodkin 2004), which for two classes is the usual one; it and F1 are 0 where
//! their denominator is. Correlations of a constant or of anything with a NaN are NaN, and so is every metric of no rows.

use crate::data::glue::Metric;

/// Predictions beside the truth, `N` of each.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// Label indices.
    Classes {
        /// What the model says.
        predicted: Vec<usize>,
        /// What is true.
        gold: Vec<usize>,
    },
    /// Numbers.
    Scores {
        /// What the model says.
        predicted: Vec<f64>,
        /// What is true.
        gold: Vec<f64>,
    },
}

impl Answers {
    /// Rows.
    pub fn len(&self) -> usize {
        match self {
            Answers::Classes { gold, .. } => gold.len(),
            Answers::Scores { gold, .. } => gold.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows at these places, in this order; a place may come more than once.
    pub fn at(&self, places: &[usize]) -> Answers {
        fn take<T: Copy>(values: &[T], places: &[usize]) -> Vec<T> {
            places.iter().map(|&p| values[p]).collect()
        }
        match self {
            Answers::Classes { predicted, gold } => Answers::Classes {
                predicted: take(predicted, places),
                gold: take(gold, places),
            },
            Answers::Scores { predicted, gold } => Answers::Scores {
                predicted: take(predicted, places),
                gold: take(gold, places),
            },
        }
    }

    /// Whether every prediction is the same.
    pub fn is_constant(&self) -> bool {
        fn same<T: PartialEq>(values: &[T]) -> bool {
            values.windows(2).all(|pair| pair[0] == pair[1])
        }
        match self {
            Answers::Classes { predicted, .. } => same(predicted),
            Answers::Scores { predicted, .. } => same(predicted),
        }
    }

    /// The metric's value; NaN where the kind of answers does not have it.
    pub fn score(&self, metric: Metric) -> f64 {
        match (self, metric) {
            (Answers::Classes { predicted, gold }, Metric::Matthews) => matthews(predicted, gold),
            (Answers::Classes { predicted, gold }, Metric::Accuracy) => accuracy(predicted, gold),
            (Answers::Classes { predicted, gold }, Metric::F1) => f1(predicted, gold),
            (Answers::Scores { predicted, gold }, Metric::Pearson) => pearson(predicted, gold),
            (Answers::Scores { predicted, gold }, Metric::Spearman) => spearman(predicted, gold),
            _ => f64::NAN,
        }
    }

    /// The mean of the metrics: a task's score.
    pub fn mean(&self, metrics: &[Metric]) -> f64 {
        metrics.iter().map(|&m| self.score(m)).sum::<f64>() / metrics.len() as f64
    }
}

/// Share of equal pairs.
pub fn accuracy(predicted: &[usize], gold: &[usize]) -> f64 {
    let right = predicted.iter().zip(gold).filter(|(p, g)| p == g).count();
    right as f64 / gold.len() as f64
}

/// F1 of class 1: `2 tp / (2 tp + fp + fn)`, 0 where that is 0 / 0.
pub fn f1(predicted: &[usize], gold: &[usize]) -> f64 {
    if gold.is_empty() {
        return f64::NAN;
    }
    let count = |p: bool, g: bool| {
        predicted
            .iter()
            .zip(gold)
            .filter(|(a, b)| ((**a == 1), (**b == 1)) == (p, g))
            .count() as f64
    };
    let (hit, false_alarm, miss) = (count(true, true), count(true, false), count(false, true));
    match 2.0 * hit + false_alarm + miss {
        0.0 => 0.0,
        all => 2.0 * hit / all,
    }
}

/// Matthews correlation of any number of classes, 0 where it is undefined.
pub fn matthews(predicted: &[usize], gold: &[usize]) -> f64 {
    if gold.is_empty() {
        return f64::NAN;
    }
    let classes = predicted.iter().chain(gold).max().map_or(0, |c| c + 1);
    let mut counts = vec![(0.0f64, 0.0f64); classes];
    let mut right = 0.0;
    for (&p, &g) in predicted.iter().zip(gold) {
        counts[p].0 += 1.0;
        counts[g].1 += 1.0;
        right += f64::from(u8::from(p == g));
    }
    let n = gold.len() as f64;
    let sum = |f: fn(&(f64, f64)) -> f64| counts.iter().map(f).sum::<f64>();
    let covariance = right * n - sum(|c| c.0 * c.1);
    let spread = (n * n - sum(|c| c.0 * c.0)) * (n * n - sum(|c| c.1 * c.1));
    if spread == 0.0 {
        0.0
    } else {
        covariance / spread.sqrt()
    }
}

/// Pearson's correlation.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let constant = |v: &[f64]| v.windows(2).all(|pair| pair[0] == pair[1]);
    // Rounding in the mean can give a constant a spread.
    if x.len() < 2 || constant(x) || constant(y) {
        return f64::NAN;
    }
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (&a, &b) in x.iter().zip(y) {
        xx += (a - mx) * (a - mx);
        yy += (b - my) * (b - my);
        xy += (a - mx) * (b - my);
    }
    // Two roots: the product of the sums could leave the range.
    let r = xy / xx.sqrt() / yy.sqrt();
    if r.is_nan() { r } else { r.clamp(-1.0, 1.0) }
}

/// Spearman's correlation: Pearson's of the ranks, ties at their mean rank.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    if x.iter().chain(y).any(|v| v.is_nan()) {
        return f64::NAN;
    }
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1, equal values at the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        let mean = (start + end + 1) as f64 / 2.0;
        order[start..end].iter().for_each(|&i| ranks[i] = mean);
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) -> bool {
        (got.is_nan() && want.is_nan()) || (got - want).abs() < 1e-12
    }

    /// Predicted, gold, Matthews, accuracy, F1 (NaN where the classes are more than two).
    type ClassRow = (&'static [usize], &'static [usize], f64, f64, f64);

    /// ```python
    /// # scikit-learn 1.9.1; p, g: predicted, gold
    /// from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    /// print(matthews_corrcoef(g, p), accuracy_score(g, p), f1_score(g, p, zero_division=0))
    /// ```
    const CLASSES: [ClassRow; 9] = [
        (
            &[1, 0, 1, 1, 0, 1, 0, 0],
            &[1, 0, 0, 1, 0, 1, 1, 0],
            0.5,
            0.75,
            0.75,
        ),
        (
            &[1, 1, 1, 1, 1, 1],
            &[1, 0, 1, 1, 0, 1],
            0.0,
            0.6666666666666666,
            0.8,
        ),
        (&[0, 0, 0, 0], &[1, 0, 1, 1], 0.0, 0.25, 0.0),
        (&[1, 1, 1], &[1, 1, 1], 0.0, 1.0, 1.0),
        (&[0, 0, 0], &[0, 0, 0], 0.0, 1.0, 0.0),
        (&[0, 1, 0, 1], &[1, 1, 1, 1], 0.0, 0.5, 0.6666666666666666),
        (&[0, 1, 0, 1], &[1, 0, 1, 0], -1.0, 0.0, 0.0),
        (
            &[0, 1, 2, 2, 1, 0, 1, 2, 0, 0],
            &[0, 2, 2, 1, 1, 0, 1, 0, 0, 2],
            0.3939393939393939,
            0.6,
            f64::NAN,
        ),
        (&[2, 2, 2, 2], &[0, 1, 2, 2], 0.0, 0.5, f64::NAN),
    ];

    #[test]
    fn class_metrics_are_those_of_scikit_learn() {
        for (p, g, matthews, accuracy, f1) in CLASSES {
            let answers = Answers::Classes {
                predicted: p.to_vec(),
                gold: g.to_vec(),
            };
            assert!(
                close(answers.score(Metric::Matthews), matthews),
                "{p:?} {g:?}"
            );
            assert!(
                close(answers.score(Metric::Accuracy), accuracy),
                "{p:?} {g:?}"
            );
            if !f1.is_nan() {
                assert!(close(answers.score(Metric::F1), f1), "{p:?} {g:?}");
            }
            assert!(answers.score(Metric::Pearson).is_nan());
        }
    }

    /// Predicted, gold, Pearson, Spearman.
    type ScoreRow = (&'static [f64], &'static [f64], f64, f64);

    /// ```python
    /// # scipy 1.17.1
    /// from scipy.stats import pearsonr, spearmanr
    /// print(pearsonr(p, g)[0], spearmanr(p, g)[0])
    /// ```
    const SCORES: [ScoreRow; 9] = [
        (
            &[1.0, 2.0, 3.5, 3.0, 5.0],
            &[0.5, 2.5, 3.0, 3.2, 4.8],
            0.95866272475885,
            0.8999999999999998,
        ),
        // Ties on both sides.
        (
            &[1.0, 2.0, 2.0, 2.0, 5.0, 1.0],
            &[0.0, 3.0, 3.0, 2.5, 4.0, 0.0],
            0.799306037832787,
            0.9534625892455922,
        ),
        (&[2.0, 2.0, 2.0], &[1.0, 2.0, 3.0], f64::NAN, f64::NAN),
        (&[1.0, 2.0, 3.0], &[4.0, 4.0, 4.0], f64::NAN, f64::NAN),
        (
            &[0.1, 0.1, 0.1, 0.1],
            &[1.0, 2.0, 3.0, 4.0],
            f64::NAN,
            f64::NAN,
        ),
        (
            &[3.0, 2.0, 1.0],
            &[1.0, 2.0, 3.0],
            -0.9999999999999998,
            -1.0,
        ),
        (&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0], f64::NAN, f64::NAN),
        (&[1.0, 2.0], &[1.0, 3.0], 1.0, 0.9999999999999999),
        (
            &[1e10, 1e10 + 1.0, 1e10 + 3.0],
            &[0.0, 1.0, 2.0],
            0.981980506061838,
            1.0,
        ),
    ];

    #[test]
    fn correlations_are_those_of_scipy() {
        for (p, g, pearson, spearman) in SCORES {
            let answers = Answers::Scores {
                predicted: p.to_vec(),
                gold: g.to_vec(),
            };
            assert!(
                close(answers.score(Metric::Pearson), pearson),
                "{p:?} {g:?}"
            );
            assert!(
                close(answers.score(Metric::Spearman), spearman),
                "{p:?} {g:?}"
            );
            assert!(answers.score(Metric::F1).is_nan());
        }
    }

    #[test]
    fn of_no_rows_every_metric_is_nan() {
        let classes = Answers::Classes {
            predicted: vec![],
            gold: vec![],
        };
        for metric in [Metric::Matthews, Metric::Accuracy, Metric::F1] {
            assert!(classes.score(metric).is_nan(), "{}", metric.name());
        }
        assert!(pearson(&[], &[]).is_nan() && spearman(&[1.0], &[1.0]).is_nan());
    }

    #[test]
    fn a_score_is_the_mean_of_its_metrics_and_rows_can_be_drawn_again() {
        let answers = Answers::Classes {
            predicted: vec![1, 0, 1],
            gold: vec![1, 0, 0],
        };
        assert!(close(
            answers.mean(&[Metric::F1, Metric::Accuracy]),
            2.0 / 3.0
        ));
        let drawn = answers.at(&[2, 2, 0]);
        assert_eq!(drawn.len(), 3);
        assert!(close(drawn.score(Metric::Accuracy), 1.0 / 3.0));
        assert!(drawn.is_constant() && !answers.is_constant());
    }
}
