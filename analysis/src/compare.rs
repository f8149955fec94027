//! Two models on the same labelled rows: where one is right and the other wrong, and whether those rows' features differ more.
//!
//! - Counts: both right, only `a`, only `b`, both wrong; McNemar's exact test on the two middle ones.
//! - Features: a row's relation difference at a tap is its share of the relation distance (METHOD.md), the mean over all other rows
//!   j of (R_a(i, j) - R_b(i, j))^2 with cosine relations R of centred rows; it needs no common feature space. Its mean over the rows on which
//!   the models differ is set against the mean over the rest, with the probability that a differing row has the larger value (AUC of Mann and
//!   Whitney) and a permutation p-value of the difference of means, two-sided.
//!
//! # Schema `compare 1`
//! JSON: [`CompareResult`]. CSV of rows: `row,label,prediction_a,prediction_b,outcome`; of taps ([`CompareResult::taps_csv`])
//! `tap,differing,agreeing,auc,p_value,reason`.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::cka::Reason;
use crate::provenance::{Provenance, csv, optional};
use crate::similarity::{Prepared, ranks};

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Both models are right.
    Both,
    /// Only the first is.
    OnlyA,
    /// Only the second is.
    OnlyB,
    /// Neither is.
    Neither,
}

impl Outcome {
    /// Name in results.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Both => "both",
            Outcome::OnlyA => "only_a",
            Outcome::OnlyB => "only_b",
            Outcome::Neither => "neither",
        }
    }

    fn of(a: bool, b: bool) -> Self {
        match (a, b) {
            (true, true) => Outcome::Both,
            (true, false) => Outcome::OnlyA,
            (false, true) => Outcome::OnlyB,
            (false, false) => Outcome::Neither,
        }
    }
}

/// One row under both models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparedRow {
    /// The row's number in the data file.
    pub row: u32,
    /// Gold label: class index.
    pub label: usize,
    /// What the first model says.
    pub prediction_a: usize,
    /// What the second model says.
    pub prediction_b: usize,
    /// How it came out.
    pub outcome: Outcome,
}

/// Feature differences at one tap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapDifference {
    /// The tap, of both models.
    pub tap: String,
    /// Mean relation difference of rows on which exactly one model is right.
    pub differing: Option<f64>,
    /// Mean over the other rows.
    pub agreeing: Option<f64>,
    /// Probability that a differing row has a larger value than another; 0.5 for no relation.
    pub auc: Option<f64>,
    /// Two-sided permutation p-value of the difference of means.
    pub p_value: Option<f64>,
    /// Why there is nothing.
    pub reason: Option<Reason>,
}

/// The comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareResult {
    /// What made it.
    pub provenance: Provenance,
    /// Names of the classes, where known.
    pub labels: Vec<String>,
    /// Rows both right, only `a`, only `b`, neither.
    pub counts: [usize; 4],
    /// Share of right rows of each model.
    pub accuracy: [f64; 2],
    /// McNemar's exact two-sided p-value; 1 where the models never differ.
    pub mcnemar_p: f64,
    /// Every row.
    pub rows: Vec<ComparedRow>,
    /// Every tap that both models have.
    pub taps: Vec<TapDifference>,
}

/// Index of the largest of each row of logits `[R, C]`; the first of equal ones.
pub fn predictions(logits: &[f32], classes: usize) -> Vec<usize> {
    let largest =
        |row: &[f32]| (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
    logits.chunks_exact(classes.max(1)).map(largest).collect()
}

/// Pairs predictions with labels.
///
/// # Panics
/// If the lists differ in length.
pub fn compare_rows(ids: &[u32], labels: &[usize], a: &[usize], b: &[usize]) -> Vec<ComparedRow> {
    assert!(
        labels.len() == ids.len() && a.len() == ids.len() && b.len() == ids.len(),
        "lists of unequal length"
    );
    (0..ids.len())
        .map(|i| ComparedRow {
            row: ids[i],
            label: labels[i],
            prediction_a: a[i],
            prediction_b: b[i],
            outcome: Outcome::of(a[i] == labels[i], b[i] == labels[i]),
        })
        .collect()
}

/// Rows both right, only `a`, only `b`, neither.
pub fn counts(rows: &[ComparedRow]) -> [usize; 4] {
    let of = |outcome| rows.iter().filter(|r| r.outcome == outcome).count();
    [
        of(Outcome::Both),
        of(Outcome::OnlyA),
        of(Outcome::OnlyB),
        of(Outcome::Neither),
    ]
}

/// McNemar's exact test: two-sided binomial p-value of `only_a` against `only_b` at 1/2.
pub fn mcnemar(only_a: usize, only_b: usize) -> f64 {
    let n = only_a + only_b;
    let least = only_a.min(only_b);
    // Terms in logarithms: 2^-n underflows for a thousand rows and more.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=least {
        sum += log_term.exp();
        log_term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

/// Each row's mean squared difference of relations to all other rows.
///
/// # Panics
/// If the taps differ in rows.
pub fn relation_differences(a: &Prepared, b: &Prepared) -> Vec<f64> {
    let n = a.rows();
    assert_eq!(n, b.rows(), "taps of unequal length");
    let mut sums = vec![0.0; n];
    let mut pairs = a.relations().iter().zip(b.relations());
    for i in 0..n {
        for j in i + 1..n {
            if let Some((x, y)) = pairs.next() {
                let apart = (x - y).powi(2);
                sums[i] += apart;
                sums[j] += apart;
            }
        }
    }
    sums.iter().map(|s| s / (n.max(2) - 1) as f64).collect()
}

/// Sets the values of differing rows against the others.
///
/// # Panics
/// If the lists differ in length.
pub fn tap_difference(
    tap: &str,
    values: &[f64],
    differing: &[bool],
    permutations: usize,
    seed: u64,
) -> TapDifference {
    assert_eq!(values.len(), differing.len());
    let mut found = TapDifference {
        tap: tap.to_owned(),
        differing: None,
        agreeing: None,
        auc: None,
        p_value: None,
        reason: None,
    };
    let inside = differing.iter().filter(|d| **d).count();
    let outside = differing.len() - inside;
    if let Some(row) = values.iter().position(|v| !v.is_finite()) {
        found.reason = Some(Reason::NotFinite {
            tap: tap.to_owned(),
            row,
        });
        return found;
    }
    if inside == 0 || outside == 0 {
        let why =
            format!("{inside} rows differ and {outside} do not: there is nothing to set against");
        found.reason = Some(Reason::Undefined { why });
        return found;
    }
    let total: f64 = values.iter().sum();
    let sum = |flags: &[bool]| {
        values
            .iter()
            .zip(flags)
            .filter(|(_, d)| **d)
            .map(|(v, _)| v)
            .sum::<f64>()
    };
    let apart = |sum: f64| sum / inside as f64 - (total - sum) / outside as f64;
    let own = sum(differing);
    let mut flags = differing.to_vec();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tolerance = 1e-12 * total.abs();
    let reached = (0..permutations)
        .filter(|_| {
            flags.shuffle(&mut rng);
            apart(sum(&flags)).abs() >= apart(own).abs() - tolerance
        })
        .count();
    let rank_sum: f64 = ranks(values)
        .iter()
        .zip(differing)
        .filter(|(_, d)| **d)
        .map(|(r, _)| r)
        .sum();
    let (m, k) = (inside as f64, outside as f64);
    found.differing = Some(own / m);
    found.agreeing = Some((total - own) / k);
    found.auc = Some((rank_sum - m * (m + 1.0) / 2.0) / (m * k));
    found.p_value = (permutations > 0).then(|| (1 + reached) as f64 / (1 + permutations) as f64);
    found
}

impl CompareResult {
    /// The rows as CSV; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let name = |c: usize| self.labels.get(c).cloned().unwrap_or_else(|| c.to_string());
        let row = |r: &ComparedRow| {
            let said = [name(r.label), name(r.prediction_a), name(r.prediction_b)];
            [
                vec![r.row.to_string()],
                said.to_vec(),
                vec![r.outcome.name().to_owned()],
            ]
            .concat()
        };
        csv(
            "row,label,prediction_a,prediction_b,outcome",
            self.rows.iter().map(row),
        )
    }

    /// The taps as CSV; the module's documentation names the columns.
    pub fn taps_csv(&self) -> String {
        let row = |t: &TapDifference| {
            vec![
                t.tap.clone(),
                optional(t.differing),
                optional(t.agreeing),
                optional(t.auc),
                optional(t.p_value),
                t.reason
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]
        };
        csv(
            "tap,differing,agreeing,auc,p_value,reason",
            self.taps.iter().map(row),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::similarity::measure;
    use crate::testing::normal;

    // scipy.stats.binomtest(3, 15).pvalue, (40, 100), (0, 4), (5, 10)     # scipy 1.17.1
    #[test]
    fn mcnemar_equals_the_binomial_test() {
        for (a, b, expected) in [
            (3, 12, 0.035_156_25),
            (12, 3, 0.035_156_25),
            (40, 60, 0.056_887_933_640_980_8),
            (0, 4, 0.125),
            (5, 5, 1.0),
        ] {
            assert!(
                (mcnemar(a, b) - expected).abs() < 1e-12,
                "{a} {b}: {}",
                mcnemar(a, b)
            );
        }
        assert_eq!(mcnemar(0, 0), 1.0);
        assert!(mcnemar(3000, 3100) > 0.1 && mcnemar(0, 5000) < 1e-300);
    }

    #[test]
    fn rows_are_counted_by_outcome() {
        let rows = compare_rows(&[4, 7, 9, 1], &[0, 1, 1, 0], &[0, 1, 0, 1], &[0, 0, 1, 1]);
        assert_eq!(counts(&rows), [1, 1, 1, 1]);
        assert_eq!((rows[1].outcome, rows[1].row), (Outcome::OnlyA, 7));
        assert_eq!(predictions(&[0.1, 0.9, 0.5, 0.5, 0.3, -1.0], 2), [1, 0, 0]);
    }

    #[test]
    fn the_rows_differences_average_to_the_relation_distance() {
        let (n, d) = (20, 4);
        let (a, b) = (
            Prepared::new("t", d, normal(1, n * d)),
            Prepared::new("t", d, normal(2, n * d)),
        );
        let mean = relation_differences(&a, &b).iter().sum::<f64>() / n as f64;
        assert!((mean - measure("relation").unwrap().compute(&a, &b).unwrap()).abs() < 1e-12);
    }

    #[test]
    fn rows_that_moved_stand_out() {
        let (n, d) = (60, 6);
        let x = normal(3, n * d);
        let noise = normal(4, n * d);
        let differing: Vec<bool> = (0..n).map(|i| i % 6 == 0).collect();
        let moved = (0..n * d)
            .map(|i| {
                x[i] + if differing[i / d] {
                    2.0 * noise[i]
                } else {
                    0.05 * noise[i]
                }
            })
            .collect();
        let values = relation_differences(
            &Prepared::new("t", d, x.clone()),
            &Prepared::new("t", d, moved),
        );
        let found = tap_difference("t", &values, &differing, 500, 0);
        assert!(
            found.differing > found.agreeing
                && found.auc.unwrap() > 0.9
                && found.p_value.unwrap() < 0.01
        );
        let all_equal = tap_difference("t", &vec![1.0; n], &differing, 200, 0);
        assert_eq!((all_equal.auc, all_equal.p_value), (Some(0.5), Some(1.0)));
        let none = tap_difference("t", &values, &vec![false; n], 10, 0);
        assert!(none.auc.is_none() && none.reason.is_some());
    }
}
