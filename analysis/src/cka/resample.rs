//! How far a CKA could be chance: a null by permuted rows and an interval by resampled clusters of rows.
//!
//! Both work on one seeded subsample of `m` rows, whose Gram matrices are held (`4 m^2` bytes a tap), so that their cost does
//! not depend on the width of the features.
//!
//! - Null: the rows of one side are permuted, which breaks every relation and keeps both geometries. Its upper quantile says
//!   which values unrelated features of these shapes reach, its p-value `(1 + #{null >= value}) / (1 + permutations)` where
//!   the subsample's own value stands.
//! - Interval: CKA on random halves of the clusters, drawn without replacement. The spread of half-samples estimates the
//!   standard error of the whole (delete-half jackknife, Shao and Wu 1989; the "half-sample bootstrap"). Drawing with
//!   replacement would put equal rows beside each other, which the unbiased HSIC takes for similarity. Tokens of one sentence
//!   are one cluster. The interval is that of a sample of `m` rows: on the safe side where the value beside it is of more.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::feature::Sides;
use super::kernel::{Kernel, Rows, add_products, kernel_block, ready};
use super::{Estimator, OneSums, PairSums, cka_of};
use crate::features::FeaturesError;
use crate::source::{TapSource, draw};

/// How null and interval are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resampling {
    /// Rows of the subsample.
    pub rows: usize,
    /// Permutations of the null; 0 leaves it out.
    pub permutations: usize,
    /// Half-samples of the interval; 0 leaves it out.
    pub halves: usize,
    /// Share of the interval, 0..1.
    pub confidence: f64,
    /// Seed of subsample, permutations and halves.
    pub seed: u64,
}

impl Default for Resampling {
    fn default() -> Self {
        Resampling {
            rows: 1024,
            permutations: 100,
            halves: 200,
            confidence: 0.95,
            seed: 0,
        }
    }
}

/// The null and spread of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    /// CKA of the subsample itself.
    pub subsample: f64,
    /// Mean over permuted rows.
    pub null_mean: Option<f64>,
    /// The null's quantile at the confidence, one-sided.
    pub null_high: Option<f64>,
    /// One-sided p-value of the subsample's value under the null.
    pub p_value: Option<f64>,
    /// Lower and upper end of the spread around the subsample's value, as differences from it.
    pub spread: Option<[f64; 2]>,
}

/// Gram matrices of the subsample.
struct Held {
    m: usize,
    own: usize,
    columns: std::ops::Range<usize>,
    names: Vec<String>,
    grams: Vec<Vec<f32>>,
    diagonals: Vec<Vec<f64>>,
    bad: Vec<Option<usize>>,
    clusters: Vec<usize>,
}

/// Null and spread of every cell, `[a, b]` row-major; nothing for a cell without a value.
pub fn resample(
    a: &dyn TapSource<f32>,
    b: Option<&dyn TapSource<f32>>,
    kernel: Kernel,
    estimator: Estimator,
    options: &Resampling,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Option<Chance>>, FeaturesError> {
    let sides = Sides { a, b };
    let held = Held::new(&sides, kernel, options)?;
    let whole: Vec<usize> = (0..held.m).collect();
    let base = held.values(&whole, None, estimator);
    let total = options.permutations + options.halves;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ 0x6e75_6c6c);
    let mut nulls: Vec<Vec<f64>> = vec![Vec::new(); base.len()];
    for done in 0..options.permutations {
        let mut order = whole.clone();
        order.shuffle(&mut rng);
        collect(&mut nulls, held.values(&whole, Some(&order), estimator));
        progress(done + 1, total);
    }
    let mut halves: Vec<Vec<f64>> = vec![Vec::new(); base.len()];
    for done in 0..options.halves {
        collect(
            &mut halves,
            held.values(&held.half(&mut rng), None, estimator),
        );
        progress(options.permutations + done + 1, total);
    }
    Ok(base
        .into_iter()
        .enumerate()
        .map(|(cell, value)| Some(chance(value?, &mut nulls[cell], &mut halves[cell], options)))
        .collect())
}

fn collect(into: &mut [Vec<f64>], values: Vec<Option<f64>>) {
    for (into, value) in into.iter_mut().zip(values) {
        into.extend(value);
    }
}

fn chance(value: f64, null: &mut [f64], halves: &mut [f64], options: &Resampling) -> Chance {
    null.sort_by(f64::total_cmp);
    halves.sort_by(f64::total_cmp);
    let tail = (1.0 - options.confidence) / 2.0;
    let some = |values: &[f64], of: &dyn Fn() -> f64| (!values.is_empty()).then(of);
    let above = null.iter().filter(|v| **v >= value).count();
    Chance {
        subsample: value,
        null_mean: some(null, &|| null.iter().sum::<f64>() / null.len() as f64),
        null_high: some(null, &|| quantile(null, options.confidence)),
        p_value: some(null, &|| (1 + above) as f64 / (1 + null.len()) as f64),
        // Half-samples spread around their own mean: a smaller sample shifts the biased estimator.
        spread: (!halves.is_empty()).then(|| {
            let mean = halves.iter().sum::<f64>() / halves.len() as f64;
            [
                quantile(halves, tail) - mean,
                quantile(halves, 1.0 - tail) - mean,
            ]
        }),
    }
}

/// Quantile `q` of sorted values, linear between neighbours (type 7 of Hyndman and Fan 1996, numpy's default).
///
/// # Panics
/// If there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * (at - at.floor())
}

impl Held {
    fn new(
        sides: &Sides<f32>,
        kernel: Kernel,
        options: &Resampling,
    ) -> Result<Self, FeaturesError> {
        let n = sides.a.len();
        let chosen = draw(n, options.rows.min(n), options.seed);
        let m = chosen.len();
        let count = sides.taps();
        let own = sides.a.taps().len();
        let ready = ready(sides, kernel, options.seed)?;
        let mut grams = Vec::new();
        let mut diagonals = Vec::new();
        let mut bad = Vec::new();
        let found: Vec<Result<Rows<f32>, FeaturesError>> = (0..count)
            .into_par_iter()
            .map(|t| {
                let (source, tap) = sides.tap(t);
                let mut values = Vec::new();
                source.gather(tap, &chosen, &mut values)?;
                Ok(Rows::new(values, &ready[t]))
            })
            .collect();
        for (t, rows) in found.into_iter().enumerate() {
            let rows = rows?;
            let mut gram = vec![0.0; m * m];
            kernel_block(&mut gram, &rows, &rows, &ready[t]);
            grams.push(gram);
            diagonals.push(rows.diagonal(&ready[t]));
            bad.push(rows.bad());
        }
        let names = (0..count)
            .map(|t| {
                let (source, tap) = sides.tap(t);
                source.taps()[tap].0.clone()
            })
            .collect();
        let columns = if sides.b.is_some() {
            own..count
        } else {
            0..own
        };
        let clusters = chosen.iter().map(|&row| sides.a.cluster(row)).collect();
        Ok(Held {
            m,
            own,
            columns,
            names,
            grams,
            diagonals,
            bad,
            clusters,
        })
    }

    /// Rows of a random half of the clusters.
    fn half(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut clusters = self.clusters.clone();
        clusters.sort_unstable();
        clusters.dedup();
        // An odd one is in or out by chance, so that halves are halves on average.
        let extra = usize::from(clusters.len() % 2 == 1 && rng.random_bool(0.5));
        let size = clusters.len() / 2 + extra;
        let (kept, _) = clusters.partial_shuffle(rng, size);
        let kept: std::collections::HashSet<usize> = kept.iter().copied().collect();
        (0..self.m)
            .filter(|&i| kept.contains(&self.clusters[i]))
            .collect()
    }

    /// CKA of every cell over `rows`; `order` permutes the rows of the second side.
    fn values(
        &self,
        rows: &[usize],
        order: Option<&[usize]>,
        estimator: Estimator,
    ) -> Vec<Option<f64>> {
        let size = rows.len() * rows.len();
        let left = self.take(0..self.own, rows);
        let right = match (order, self.columns.start) {
            (Some(order), _) => Some(self.take(self.columns.clone(), order)),
            (None, 0) => None,
            (None, _) => Some(self.take(self.columns.clone(), rows)),
        };
        let right = right.as_ref().unwrap_or(&left);
        let count = self.columns.len();
        let mut products = vec![0.0; self.own * count];
        add_products(&mut products, &left.grams, &right.grams, size, 1.0);
        let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(a, b)| a * b).sum() };
        let (own, other) = (left.own(rows.len()), right.own(rows.len()));
        let mut values = Vec::with_capacity(self.own * count);
        for p in 0..self.own {
            for q in 0..count {
                let pair = PairSums {
                    product: products[p * count + q],
                    diagonal: dot(&left.diagonals[p], &right.diagonals[q]),
                    rows: dot(&left.sums[p], &right.sums[q]),
                    rows_diagonal: dot(&left.sums[p], &right.diagonals[q]),
                    diagonal_rows: dot(&left.diagonals[p], &right.sums[q]),
                };
                let names = [
                    self.names[p].as_str(),
                    self.names[self.columns.start + q].as_str(),
                ];
                let with_bad = |mut side: (OneSums, PairSums), tap: usize| {
                    side.0.bad_row = self.bad[tap];
                    side
                };
                let (a, b) = (
                    with_bad(own[p], p),
                    with_bad(other[q], self.columns.start + q),
                );
                values.push(cka_of(rows.len(), &pair, &a, &b, names, estimator).ok());
            }
        }
        values
    }

    /// Gram matrices of taps over rows, in the order given.
    fn take(&self, taps: std::ops::Range<usize>, rows: &[usize]) -> Taken {
        let size = rows.len() * rows.len();
        let mut grams = vec![0.0_f32; taps.len() * size];
        let first = taps.start;
        let sums = if size == 0 {
            vec![Vec::new(); taps.len()]
        } else {
            grams
                .par_chunks_exact_mut(size)
                .enumerate()
                .map(|(t, out)| {
                    let gram = &self.grams[first + t];
                    let mut sums = Vec::with_capacity(rows.len());
                    for (out, &i) in out.chunks_exact_mut(rows.len()).zip(rows) {
                        let row = &gram[i * self.m..(i + 1) * self.m];
                        out.iter_mut().zip(rows).for_each(|(o, &j)| *o = row[j]);
                        sums.push(out.iter().map(|v| f64::from(*v)).sum());
                    }
                    sums
                })
                .collect()
        };
        let diagonals = taps
            .map(|t| rows.iter().map(|&i| self.diagonals[t][i]).collect())
            .collect();
        Taken {
            grams,
            sums,
            diagonals,
        }
    }
}

/// Gram matrices of several taps over chosen rows.
struct Taken {
    grams: Vec<f32>,
    sums: Vec<Vec<f64>>,
    diagonals: Vec<Vec<f64>>,
}

impl Taken {
    /// Every tap's sums with itself.
    fn own(&self, n: usize) -> Vec<(OneSums, PairSums)> {
        let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(a, b)| a * b).sum() };
        (0..self.sums.len())
            .into_par_iter()
            .map(|t| {
                let gram = &self.grams[t * n * n..(t + 1) * n * n];
                let (sums, diagonal) = (&self.sums[t], &self.diagonals[t]);
                let one = OneSums {
                    total: sums.iter().sum(),
                    trace: diagonal.iter().sum(),
                    bad_row: None,
                };
                let pair = PairSums {
                    product: gram.iter().map(|v| f64::from(*v).powi(2)).sum(),
                    diagonal: dot(diagonal, diagonal),
                    rows: dot(sums, sums),
                    rows_diagonal: dot(sums, diagonal),
                    diagonal_rows: dot(sums, diagonal),
                };
                (one, pair)
            })
            .collect()
    }
}
