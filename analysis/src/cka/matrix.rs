//! The layer-by-layer CKA table of two models.
//!
//! # Schema `cka 1`
//! JSON: [`CkaResult`]. CSV: one line a cell with the columns
//! `a,b,cka,minibatch,interval_low,interval_high,null_mean,null_high,p_value,reason`; `a` and `b` are taps, an empty number means
//! that there is none and `reason` says why.

use serde::{Deserialize, Serialize};

use super::feature::Budget;
use super::resample::{Chance, Resampling, resample};
use super::{Estimator, Kernel, Reason, Sums, cka_of, feature_sums, kernel_sums, minibatch_cka};
use crate::features::FeaturesError;
use crate::provenance::{Provenance, csv, optional};
use crate::source::TapSource;

/// Which way the exact sums are collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Whichever takes fewer operations.
    #[default]
    Auto,
    /// Products of features; the linear kernel only.
    Feature,
    /// Blocks of Gram matrices.
    Sample,
}

/// How a table is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CkaOptions {
    /// The kernel.
    pub kernel: Kernel,
    /// The estimator of the exact values.
    pub estimator: Estimator,
    /// The way there.
    pub form: Form,
    /// Rows of a minibatch (Nguyen et al. 2021); absent leaves that column out.
    pub minibatch: Option<usize>,
    /// Null and interval.
    pub resampling: Resampling,
}

impl Default for CkaOptions {
    fn default() -> Self {
        CkaOptions {
            kernel: Kernel::Linear,
            estimator: Estimator::Debiased,
            form: Form::Auto,
            minibatch: None,
            resampling: Resampling::default(),
        }
    }
}

/// One cell: tap `a` of the first model against tap `b` of the second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CkaCell {
    /// Tap of the first model.
    pub a: String,
    /// Tap of the second.
    pub b: String,
    /// CKA over all rows.
    pub cka: Option<f64>,
    /// Why there is none.
    pub reason: Option<Reason>,
    /// Minibatch CKA, if asked for and defined.
    pub minibatch: Option<f64>,
    /// Interval around `cka` at the stated confidence, for a sample of the resampling's size.
    pub interval: Option<[f64; 2]>,
    /// Mean over permuted rows.
    pub null_mean: Option<f64>,
    /// Quantile of the null at the confidence, one-sided.
    pub null_high: Option<f64>,
    /// One-sided p-value under the null.
    pub p_value: Option<f64>,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CkaResult {
    /// What made it.
    pub provenance: Provenance,
    /// How.
    pub options: CkaOptions,
    /// Taps of the first model, by depth: the table's rows.
    pub taps_a: Vec<String>,
    /// Taps of the second model, by depth: the table's columns.
    pub taps_b: Vec<String>,
    /// Cells, row-major.
    pub cells: Vec<CkaCell>,
}

/// The parts of the work, for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Exact sums.
    Exact,
    /// Minibatches.
    Minibatch,
    /// Null and interval.
    Resampling,
}

/// Computes the cells of the table, row-major; `b` absent means `a` against itself. `progress` hears the stage, what is done and
/// what is to do.
pub fn cka(
    a: &dyn TapSource<f32>,
    b: Option<&dyn TapSource<f32>>,
    options: &CkaOptions,
    progress: &dyn Fn(Stage, usize, usize),
) -> Result<Vec<CkaCell>, FeaturesError> {
    let exact = |done, total| progress(Stage::Exact, done, total);
    let seed = options.resampling.seed;
    let sums = if use_features(a, b, options) {
        feature_sums(a, b, Budget::default(), &exact)?
    } else {
        kernel_sums(a, b, options.kernel, seed, &exact)?
    };
    let other = b.unwrap_or(a);
    let mini = match options.minibatch {
        Some(batch) => minibatch_cka(a, other, options.kernel, batch, seed, &|done, total| {
            progress(Stage::Minibatch, done, total);
        })?
        .into_iter()
        .map(Result::ok)
        .collect(),
        None => vec![None; sums.pairs.len()],
    };
    let resampling = &options.resampling;
    let chances = if resampling.permutations + resampling.halves > 0 {
        resample(
            a,
            b,
            options.kernel,
            options.estimator,
            resampling,
            &|done, total| {
                progress(Stage::Resampling, done, total);
            },
        )?
    } else {
        vec![None; sums.pairs.len()]
    };
    Ok(cells(&sums, a, other, options.estimator, &mini, &chances))
}

/// Whether the products of features cost less than blocks of Gram matrices.
fn use_features(
    a: &dyn TapSource<f32>,
    b: Option<&dyn TapSource<f32>>,
    options: &CkaOptions,
) -> bool {
    if options.kernel != Kernel::Linear {
        return false;
    }
    match options.form {
        Form::Feature => return true,
        Form::Sample => return false,
        Form::Auto => {}
    }
    let widths = |source: &dyn TapSource<f32>| {
        source
            .taps()
            .iter()
            .map(|(_, w)| *w as f64)
            .collect::<Vec<_>>()
    };
    let sum = |v: &[f64]| v.iter().sum::<f64>();
    let squares = |v: &[f64]| v.iter().map(|w| w * w).sum::<f64>();
    let (n, wa) = (a.len() as f64, widths(a));
    let wb = b.map(widths);
    let (feature, all, count) = match &wb {
        Some(wb) => (
            sum(&wa) * sum(wb) + 0.5 * (squares(&wa) + squares(wb)),
            sum(&wa) + sum(wb),
            (wa.len() * wb.len()) as f64,
        ),
        None => (
            0.5 * sum(&wa) * sum(&wa),
            sum(&wa),
            (wa.len() * wa.len()) as f64,
        ),
    };
    // Products of Gram entries run at a fraction of the speed of large matrix products.
    feature * n <= 0.5 * n * n * (all + 4.0 * count)
}

fn cells(
    sums: &Sums,
    a: &dyn TapSource<f32>,
    b: &dyn TapSource<f32>,
    estimator: Estimator,
    mini: &[Option<f64>],
    chances: &[Option<Chance>],
) -> Vec<CkaCell> {
    let mut cells = Vec::with_capacity(sums.pairs.len());
    for (p, (name_a, _)) in a.taps().iter().enumerate() {
        for (q, (name_b, _)) in b.taps().iter().enumerate() {
            let at = p * b.taps().len() + q;
            let names = [name_a.as_str(), name_b.as_str()];
            let value = cka_of(
                sums.n,
                &sums.pairs[at],
                &sums.a[p],
                &sums.b[q],
                names,
                estimator,
            );
            let chance = value.as_ref().ok().and(chances[at]);
            let around = |spread: [f64; 2], value: f64| [value + spread[0], value + spread[1]];
            cells.push(CkaCell {
                a: name_a.clone(),
                b: name_b.clone(),
                minibatch: value.as_ref().ok().and(mini[at]),
                interval: chance
                    .and_then(|c| c.spread)
                    .zip(value.as_ref().ok())
                    .map(|(s, v)| around(s, *v)),
                null_mean: chance.and_then(|c| c.null_mean),
                null_high: chance.and_then(|c| c.null_high),
                p_value: chance.and_then(|c| c.p_value),
                cka: value.as_ref().ok().copied(),
                reason: value.err(),
            });
        }
    }
    cells
}

impl CkaResult {
    /// The cells as CSV; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        csv(
            "a,b,cka,minibatch,interval_low,interval_high,null_mean,null_high,p_value,reason",
            self.cells.iter().map(|c| {
                let end = |i: usize| optional(c.interval.map(|ends| ends[i]));
                vec![
                    c.a.clone(),
                    c.b.clone(),
                    optional(c.cka),
                    optional(c.minibatch),
                    end(0),
                    end(1),
                    optional(c.null_mean),
                    optional(c.null_high),
                    optional(c.p_value),
                    c.reason
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                ]
            }),
        )
    }
}
