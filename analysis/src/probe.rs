//! Linear probes: what a linear model reads from a tap, on rows it was not fitted to, beside a control task.
//!
//! Classes are read by multinomial logistic regression (`linfa-logistic`, L2 penalty), numbers by least squares
//! (`linfa-linear`). Features are first rotated to their principal components on the training rows and scaled to unit
//! variance: components that hold less than 1e-6 of the largest variance are left out (a layer norm leaves one direction without
//! variance, which makes least squares singular).
//!
//! The control task (Hewitt and Liang 2019) gives every key (word type, or row) a fixed random label from the true labels'
//! distribution. What a probe reaches there it owes to memory, not to the features; selectivity is the score less that.
//! Rows are held out by group, so that no sentence is on both sides.
//!
//! # Schema `probe 1`
//! JSON: [`ProbeResult`]. CSV: `model,tap,task,metric,score,train_score,baseline,control,selectivity,train_rows,test_rows,classes,reason`.

use std::collections::{BTreeMap, HashMap};

use linfa::DatasetBase;
use linfa::traits::{Fit, Predict};
use linfa_linear::LinearRegression;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2, Axis};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::cka::Reason;
use crate::linalg::{matrix, svd};
use crate::provenance::{Provenance, csv, optional};

/// Variance of a component that is left out, as a share of the largest.
const COMPONENT_FLOOR: f64 = 1e-6;

/// What is to be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One class of several, by index.
    Classes(Vec<usize>),
    /// A number.
    Values(Vec<f64>),
}

/// One probing task over `n` rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeTask {
    /// Name in results.
    pub name: String,
    /// What is to be read, `[n]`.
    pub target: Target,
    /// Rows of one group stay on one side, `[n]`.
    pub groups: Vec<usize>,
    /// Rows of one key have one control label, `[n]`.
    pub control_keys: Vec<u64>,
}

/// How probes are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeOptions {
    /// Share of the groups held out, between 0 and 1.
    pub held_out: f64,
    /// L2 penalty of the logistic regression, above 0.
    pub penalty: f64,
    /// Most iterations of its optimiser.
    pub iterations: u64,
    /// Most principal components.
    pub components: usize,
    /// Seed of split and control labels.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        ProbeOptions {
            held_out: 0.25,
            penalty: 1.0,
            iterations: 100,
            components: 256,
            seed: 0,
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeScores {
    /// `accuracy` or `r2`.
    pub metric: String,
    /// On held-out rows.
    pub score: f64,
    /// On the rows it was fitted to.
    pub train_score: f64,
    /// The most frequent training class on held-out rows; 0 for `r2`.
    pub baseline: f64,
    /// The control task's score on held-out rows.
    pub control: f64,
    /// `score - control`.
    pub selectivity: f64,
    /// Rows fitted to.
    pub train_rows: usize,
    /// Rows held out.
    pub test_rows: usize,
    /// Classes; absent for numbers.
    pub classes: Option<usize>,
}

/// One probe: a task at a tap of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeCell {
    /// The model's name.
    pub model: String,
    /// The tap.
    pub tap: String,
    /// The task.
    pub task: String,
    /// What was found; absent where `reason` stands.
    pub scores: Option<ProbeScores>,
    /// Why there is nothing.
    pub reason: Option<Reason>,
}

/// Probes of some models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeResult {
    /// What made it.
    pub provenance: Provenance,
    /// How.
    pub options: ProbeOptions,
    /// The probes.
    pub cells: Vec<ProbeCell>,
}

fn undefined(why: impl Into<String>) -> Reason {
    Reason::Undefined { why: why.into() }
}

/// Fits and scores one probe. `features` `[n, width]` row-major.
///
/// # Panics
/// If features and task differ in rows.
pub fn probe(
    tap: &str,
    width: usize,
    features: &[f64],
    task: &ProbeTask,
    options: &ProbeOptions,
) -> Result<ProbeScores, Reason> {
    let n = task.groups.len();
    assert_eq!(
        features.len(),
        n * width,
        "features and task differ in rows"
    );
    if let Some(at) = features.iter().position(|v| !v.is_finite()) {
        return Err(Reason::NotFinite {
            tap: tap.to_owned(),
            row: at / width,
        });
    }
    let (train, test) = split(&task.groups, options);
    if train.len() < 8 || test.len() < 2 {
        return Err(Reason::TooFewRows {
            rows: n,
            needed: 10,
        });
    }
    let basis = Basis::fit(tap, features, width, &train, options.components)?;
    let (x, y) = (
        basis.apply(features, width, &train),
        basis.apply(features, width, &test),
    );
    let control = control(task, options.seed);
    let run = |target: &Target| score(target, &x, &y, &train, &test, options);
    let (found, other) = (run(&task.target)?, run(&control)?);
    Ok(ProbeScores {
        control: other.score,
        selectivity: found.score - other.score,
        ..found
    })
}

/// Groups in seeded order; the first ones are held out.
fn split(groups: &[usize], options: &ProbeOptions) -> (Vec<usize>, Vec<usize>) {
    let mut names: Vec<usize> = groups.to_vec();
    names.sort_unstable();
    names.dedup();
    names.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    let held = ((names.len() as f64 * options.held_out).round() as usize).min(names.len());
    let held: std::collections::HashSet<usize> = names[..held].iter().copied().collect();
    (0..groups.len()).partition(|&i| !held.contains(&groups[i]))
}

/// A fixed random label for every key, drawn from the true labels.
fn control(task: &ProbeTask, seed: u64) -> Target {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x636f_6e74);
    let mut drawn: HashMap<u64, usize> = HashMap::new();
    let n = task.control_keys.len();
    let sources: Vec<usize> = task
        .control_keys
        .iter()
        .map(|key| *drawn.entry(*key).or_insert_with(|| rng.random_range(0..n)))
        .collect();
    match &task.target {
        Target::Classes(labels) => Target::Classes(sources.iter().map(|&i| labels[i]).collect()),
        Target::Values(values) => Target::Values(sources.iter().map(|&i| values[i]).collect()),
    }
}

/// Principal components of the training rows, scaled to unit variance.
struct Basis {
    mean: Vec<f64>,
    /// `[width, k]` by column.
    directions: Vec<Vec<f64>>,
}

impl Basis {
    fn fit(
        tap: &str,
        features: &[f64],
        width: usize,
        train: &[usize],
        most: usize,
    ) -> Result<Self, Reason> {
        let row = |i: usize| &features[i * width..(i + 1) * width];
        let n = train.len() as f64;
        let mut mean = vec![0.0; width];
        for &i in train {
            mean.iter_mut().zip(row(i)).for_each(|(m, v)| *m += v / n);
        }
        let centred: Vec<f64> = train
            .iter()
            .flat_map(|&i| row(i).iter().zip(&mean).map(|(v, m)| v - m))
            .collect();
        let m = matrix(&centred, train.len(), width);
        // The covariance's eigenvectors where there are more rows than columns: O(n d^2) once.
        let found =
            if train.len() > width {
                let covariance = m.transpose() * &m;
                let (values, vectors) = crate::linalg::symmetric_eigen(covariance.as_ref())
                    .map_err(|e| Reason::NoConvergence {
                        what: e.0.to_owned(),
                    })?;
                (
                    values.iter().map(|v| v.max(0.0).sqrt()).collect::<Vec<_>>(),
                    vectors,
                )
            } else {
                let svd = svd(m.as_ref()).map_err(|e| Reason::NoConvergence {
                    what: e.0.to_owned(),
                })?;
                (svd.s, svd.v)
            };
        let (s, v) = found;
        let size = mean.iter().map(|m| m * m).sum::<f64>();
        if s[0] * s[0] / n <= 1e-20 * size || s[0] == 0.0 {
            return Err(Reason::NoVariance {
                tap: tap.to_owned(),
            });
        }
        // Fewer components than rows, with room, or least squares has nothing left to hold out.
        let most = most.min(train.len() / 2).max(1);
        let kept = s
            .iter()
            .take(most)
            .take_while(|x| *x * *x > COMPONENT_FLOOR * s[0] * s[0])
            .count();
        let scale = |c: usize| (n - 1.0).sqrt() / s[c];
        let directions = (0..kept)
            .map(|c| (0..width).map(|j| v[(j, c)] * scale(c)).collect())
            .collect();
        Ok(Basis { mean, directions })
    }

    fn apply(&self, features: &[f64], width: usize, rows: &[usize]) -> Array2<f64> {
        let mut out = Array2::zeros((rows.len(), self.directions.len()));
        for (mut out, &i) in out.outer_iter_mut().zip(rows) {
            let row = &features[i * width..(i + 1) * width];
            for (out, direction) in out.iter_mut().zip(&self.directions) {
                *out = row
                    .iter()
                    .zip(&self.mean)
                    .zip(direction)
                    .map(|((v, m), d)| (v - m) * d)
                    .sum();
            }
        }
        out
    }
}

fn score(
    target: &Target,
    x: &Array2<f64>,
    y: &Array2<f64>,
    train: &[usize],
    test: &[usize],
    options: &ProbeOptions,
) -> Result<ProbeScores, Reason> {
    match target {
        Target::Classes(labels) => classify(labels, x, y, train, test, options),
        Target::Values(values) => regress(values, x, y, train, test),
    }
}

fn classify(
    labels: &[usize],
    x: &Array2<f64>,
    y: &Array2<f64>,
    train: &[usize],
    test: &[usize],
    options: &ProbeOptions,
) -> Result<ProbeScores, Reason> {
    let pick = |rows: &[usize]| rows.iter().map(|&i| labels[i]).collect::<Array1<usize>>();
    let (fitted, held) = (pick(train), pick(test));
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    fitted
        .iter()
        .for_each(|l| *counts.entry(*l).or_default() += 1);
    let Some((&common, _)) = counts.iter().max_by_key(|(_, count)| **count) else {
        return Err(undefined("no training rows"));
    };
    let share = |a: &Array1<usize>, b: &Array1<usize>| {
        a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
    };
    let (predicted_fitted, predicted_held) = if counts.len() < 2 {
        // One class among the training rows: the probe can say nothing else.
        (
            Array1::from_elem(train.len(), common),
            Array1::from_elem(test.len(), common),
        )
    } else {
        let data = DatasetBase::new(x.clone(), fitted.clone());
        let model = MultiLogisticRegression::default()
            .alpha(options.penalty)
            .max_iterations(options.iterations)
            .fit(&data)
            .map_err(|e| undefined(format!("logistic regression failed: {e}")))?;
        (model.predict(x), model.predict(y))
    };
    Ok(ProbeScores {
        metric: "accuracy".to_owned(),
        score: share(&predicted_held, &held),
        train_score: share(&predicted_fitted, &fitted),
        baseline: held.iter().filter(|l| **l == common).count() as f64 / held.len() as f64,
        control: 0.0,
        selectivity: 0.0,
        train_rows: train.len(),
        test_rows: test.len(),
        classes: Some(counts.len()),
    })
}

fn regress(
    values: &[f64],
    x: &Array2<f64>,
    y: &Array2<f64>,
    train: &[usize],
    test: &[usize],
) -> Result<ProbeScores, Reason> {
    let pick = |rows: &[usize]| rows.iter().map(|&i| values[i]).collect::<Array1<f64>>();
    let (fitted, held) = (pick(train), pick(test));
    let data = DatasetBase::new(x.clone(), fitted.clone());
    let model = LinearRegression::default()
        .fit(&data)
        .map_err(|e| undefined(format!("least squares failed: {e}")))?;
    let r2 = |predicted: &Array1<f64>, true_values: &Array1<f64>| -> Result<f64, Reason> {
        let mean = true_values
            .mean_axis(Axis(0))
            .map_or(0.0, |m| m.into_scalar());
        let total: f64 = true_values.iter().map(|v| (v - mean).powi(2)).sum();
        let left: f64 = true_values
            .iter()
            .zip(predicted)
            .map(|(v, p)| (v - p).powi(2))
            .sum();
        if total > 0.0 {
            Ok(1.0 - left / total)
        } else {
            Err(undefined("the held-out values are all equal"))
        }
    };
    Ok(ProbeScores {
        metric: "r2".to_owned(),
        score: r2(&model.predict(y), &held)?,
        train_score: r2(&model.predict(x), &fitted)?,
        baseline: 0.0,
        control: 0.0,
        selectivity: 0.0,
        train_rows: train.len(),
        test_rows: test.len(),
        classes: None,
    })
}

impl ProbeResult {
    /// One line a probe; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let row = |c: &ProbeCell| {
            let s = c.scores.as_ref();
            let of = |f: fn(&ProbeScores) -> f64| optional(s.map(f));
            let count = |f: fn(&ProbeScores) -> Option<usize>| {
                s.and_then(f).map(|n| n.to_string()).unwrap_or_default()
            };
            vec![
                c.model.clone(),
                c.tap.clone(),
                c.task.clone(),
                s.map(|s| s.metric.clone()).unwrap_or_default(),
                of(|s| s.score),
                of(|s| s.train_score),
                of(|s| s.baseline),
                of(|s| s.control),
                of(|s| s.selectivity),
                count(|s| Some(s.train_rows)),
                count(|s| Some(s.test_rows)),
                count(|s| s.classes),
                c.reason
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]
        };
        let header = "model,tap,task,metric,score,train_score,baseline,control,selectivity,train_rows,test_rows,classes,reason";
        csv(header, self.cells.iter().map(row))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::normal;

    fn task(target: Target, n: usize) -> ProbeTask {
        ProbeTask {
            name: "t".into(),
            target,
            groups: (0..n).map(|i| i / 2).collect(),
            control_keys: (0..n as u64).collect(),
        }
    }

    #[test]
    fn what_is_linearly_there_is_read_and_the_control_is_not() {
        let (n, d) = (600, 10);
        let x = normal(1, n * d);
        let labels = (0..n)
            .map(|i| usize::from(x[i * d] + x[i * d + 1] > 0.0))
            .collect();
        let found = probe(
            "x",
            d,
            &x,
            &task(Target::Classes(labels), n),
            &ProbeOptions::default(),
        )
        .unwrap();
        assert!(
            found.score > 0.93 && found.control < 0.65 && found.selectivity > 0.3,
            "{found:?}"
        );
        assert!(
            (0.35..0.65).contains(&found.baseline)
                && found.test_rows == 150
                && found.classes == Some(2)
        );
        let values = (0..n)
            .map(|i| 3.0 * x[i * d] - 2.0 * x[i * d + 4] + 5.0)
            .collect();
        let found = probe(
            "x",
            d,
            &x,
            &task(Target::Values(values), n),
            &ProbeOptions::default(),
        )
        .unwrap();
        assert!(found.score > 0.999_999 && found.control < 0.1, "{found:?}");
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        let (n, d) = (600, 10);
        let x = normal(2, n * d);
        let noise = normal(3, n);
        let labels = noise.iter().map(|v| usize::from(*v > 0.0)).collect();
        let found = probe(
            "x",
            d,
            &x,
            &task(Target::Classes(labels), n),
            &ProbeOptions::default(),
        )
        .unwrap();
        assert!(
            (found.score - 0.5).abs() < 0.15 && found.selectivity.abs() < 0.15,
            "{found:?}"
        );
        let found = probe(
            "x",
            d,
            &x,
            &task(Target::Values(noise), n),
            &ProbeOptions::default(),
        )
        .unwrap();
        assert!(found.score < 0.05 && found.train_score > found.score);
    }

    #[test]
    fn a_direction_without_variance_does_no_harm() {
        let (n, d) = (300, 4);
        let mut x = normal(4, n * d);
        for row in x.chunks_exact_mut(d) {
            row[3] = -(row[0] + row[1] + row[2]);
        }
        let values = (0..n).map(|i| x[i * d] + 1.0).collect();
        assert!(
            probe(
                "x",
                d,
                &x,
                &task(Target::Values(values), n),
                &ProbeOptions::default()
            )
            .unwrap()
            .score
                > 0.999
        );
    }

    #[test]
    fn groups_stay_on_one_side_and_keys_have_one_control_label() {
        let groups: Vec<usize> = (0..100).map(|i| i / 10).collect();
        let (train, test) = split(&groups, &ProbeOptions::default());
        assert_eq!(train.len() + test.len(), 100);
        assert!(
            train
                .iter()
                .all(|i| test.iter().all(|j| groups[*i] != groups[*j]))
        );
        let mut t = task(Target::Classes((0..100).map(|i| i % 3).collect()), 100);
        t.control_keys = (0..100).map(|i| i % 7).collect();
        let Target::Classes(labels) = control(&t, 5) else {
            panic!("classes stay classes")
        };
        assert!((0..93).all(|i| labels[i] == labels[i + 7]));
    }

    #[test]
    fn what_cannot_be_probed_has_a_reason() {
        let options = ProbeOptions::default();
        let two = |n: usize| task(Target::Classes((0..n).map(|i| i % 2).collect()), n);
        assert!(matches!(
            probe("x", 1, &normal(5, 6), &two(6), &options),
            Err(Reason::TooFewRows { .. })
        ));
        assert!(matches!(
            probe("x", 1, &[0.5; 40], &two(40), &options),
            Err(Reason::NoVariance { .. })
        ));
        let mut x = normal(6, 40);
        x[3] = f64::NAN;
        assert!(matches!(
            probe("x", 1, &x, &two(40), &options),
            Err(Reason::NotFinite { row: 3, .. })
        ));
        // One class: scores without a fit, not an error of the optimiser.
        let one = task(Target::Classes(vec![4; 40]), 40);
        assert_eq!(
            probe("x", 1, &normal(7, 40), &one, &options).unwrap().score,
            1.0
        );
    }
}
