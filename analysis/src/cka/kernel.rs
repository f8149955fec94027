//! Any kernel in sample space, block by block: the Gram matrices are never held whole.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::feature::{Sides, column_means, shift_rows};
use super::{OneSums, PairSums, Sums};
use crate::features::FeaturesError;
use crate::linalg::{Real, gram, products};
use crate::source::TapSource;

/// Rows of a block of Gram matrices.
const BLOCK: usize = 512;
/// Products of Gram entries that are summed in the features' own type.
const RUN: usize = 4096;
/// Pairs of rows that the median distance is taken over where there are more.
const MEDIAN_PAIRS: usize = 200_000;

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kernel", rename_all = "snake_case")]
pub enum Kernel {
    /// k(x, y) = x'y.
    Linear,
    /// k(x, y) = exp(-|x-y|^2 / (2 s^2)), s this fraction of the tap's own median distance between rows (Kornblith et al.
    /// use 0.2, 0.4 and 0.8).
    Rbf {
        /// s over the median distance, above 0.
        fraction: f64,
    },
    /// The same with s itself.
    RbfWidth {
        /// s, above 0.
        width: f64,
    },
}

impl Kernel {
    /// s of a tap whose median distance is `median`, for a kernel that has one.
    fn width(
        self,
        median: impl FnOnce() -> Result<f64, FeaturesError>,
    ) -> Result<Option<f64>, FeaturesError> {
        Ok(match self {
            Kernel::Linear => None,
            Kernel::Rbf { fraction } => Some(fraction * median()?),
            Kernel::RbfWidth { width } => Some(width),
        })
    }
}

/// A tap's kernel, ready for blocks.
pub(super) struct Ready {
    shift: Vec<f64>,
    /// -1 / (2 s^2); absent for the linear kernel.
    factor: Option<f64>,
}

/// Median distance between different rows of a tap: over all pairs, or over a seeded draw of 200,000 where there are more.
pub fn median_distance<T: Real>(
    source: &dyn TapSource<T>,
    tap: usize,
    seed: u64,
) -> Result<f64, FeaturesError> {
    let n = source.len();
    let width = source.taps()[tap].1;
    if n < 2 {
        return Ok(0.0);
    }
    let distance = |values: &[T], i: usize, j: usize| -> f64 {
        let (x, y) = (
            &values[i * width..(i + 1) * width],
            &values[j * width..(j + 1) * width],
        );
        x.iter()
            .zip(y)
            .map(|(a, b)| (a.wide() - b.wide()).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let mut distances: Vec<f64> = if n * (n - 1) / 2 <= MEDIAN_PAIRS {
        let values = source.whole(tap)?;
        (0..n)
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| distance(&values, i, j))
            .collect()
    } else {
        // Few rows, all their pairs drawn from: reading costs more than distances.
        let rows = crate::source::draw(n, n.min(2000), seed);
        let mut values = Vec::new();
        source.gather(tap, &rows, &mut values)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..MEDIAN_PAIRS)
            .map(|_| {
                let i = rng.random_range(0..rows.len());
                let j = (i + rng.random_range(1..rows.len())) % rows.len();
                distance(&values, i, j)
            })
            .collect()
    };
    distances.sort_by(f64::total_cmp);
    let middle = distances.len() / 2;
    Ok(if distances.len() % 2 == 1 {
        distances[middle]
    } else {
        f64::midpoint(distances[middle - 1], distances[middle])
    })
}

/// Prepares every tap's kernel: shift by the mean of the first rows, width of the RBF.
pub(super) fn ready<T: Real>(
    sides: &Sides<T>,
    kernel: Kernel,
    seed: u64,
) -> Result<Vec<Ready>, FeaturesError> {
    (0..sides.taps())
        .into_par_iter()
        .map(|t| {
            let (source, tap) = sides.tap(t);
            let mut values = Vec::new();
            source.read(tap, 0..source.len().min(512), &mut values)?;
            let width = kernel.width(|| median_distance(source, tap, seed))?;
            let factor = width.map(|s| -1.0 / (2.0 * s * s));
            Ok(Ready {
                shift: column_means(&values, sides.width(t)),
                factor,
            })
        })
        .collect()
}

/// Shifted rows of one tap with their norms.
pub(super) struct Rows<T> {
    values: Vec<T>,
    norms: Vec<f64>,
    bad: Option<usize>,
}

impl<T: Real> Rows<T> {
    pub(super) fn new(mut values: Vec<T>, ready: &Ready) -> Self {
        let (norms, bad) = shift_rows(&mut values, &ready.shift);
        Rows { values, norms, bad }
    }

    pub(super) fn bad(&self) -> Option<usize> {
        self.bad
    }

    /// The kernel's own values k(x_i, x_i).
    pub(super) fn diagonal(&self, ready: &Ready) -> Vec<f64> {
        if ready.factor.is_some() {
            vec![1.0; self.norms.len()]
        } else {
            self.norms.clone()
        }
    }
}

/// `out = k(X_i, X_j)`, `[rows of i, rows of j]`.
pub(super) fn kernel_block<T: Real>(out: &mut [T], i: &Rows<T>, j: &Rows<T>, ready: &Ready) {
    if out.is_empty() {
        return;
    }
    gram(out, &i.values, &j.values, ready.shift.len());
    if let Some(factor) = ready.factor {
        for (row, ni) in out.chunks_exact_mut(j.norms.len()).zip(&i.norms) {
            for (value, nj) in row.iter_mut().zip(&j.norms) {
                let squared = (ni + nj - 2.0 * value.wide()).max(0.0);
                // An infinite factor stands for equal rows throughout: the kernel is 1 there.
                *value = T::of(if squared == 0.0 {
                    1.0
                } else {
                    (factor * squared).exp()
                });
            }
        }
    }
}

/// Adds `weight` times the products of every row of `left` `[p, length]` with every row of `right` `[q, length]` to `out` `[p, q]`.
pub(super) fn add_products<T: Real>(
    out: &mut [f64],
    left: &[T],
    right: &[T],
    length: usize,
    weight: f64,
) {
    if length == 0 {
        return;
    }
    let (p, q) = (left.len() / length, right.len() / length);
    let runs: Vec<usize> = (0..length).step_by(RUN).collect();
    let found = runs
        .par_iter()
        .map_init(
            || vec![T::of(0.0); p * q],
            |part, &at| {
                products(part, left, right, length, at..(at + RUN).min(length));
                part.iter().map(|v| v.wide()).collect::<Vec<f64>>()
            },
        )
        .reduce(
            || vec![0.0; p * q],
            |mut a, b| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            },
        );
    out.iter_mut()
        .zip(found)
        .for_each(|(o, f)| *o += weight * f);
}

/// Sums of every tap of `a` against every tap of `b` (against `a` itself where `b` is absent), any kernel.
///
/// # Panics
/// If the numbers of rows differ.
pub fn kernel_sums<T: Real>(
    a: &dyn TapSource<T>,
    b: Option<&dyn TapSource<T>>,
    kernel: Kernel,
    seed: u64,
    progress: &dyn Fn(usize, usize),
) -> Result<Sums, FeaturesError> {
    let n = a.len();
    assert!(
        b.is_none_or(|b| b.len() == n),
        "the two sides differ in rows"
    );
    let sides = Sides { a, b };
    let count = sides.taps();
    let own = a.taps().len();
    let columns = if b.is_some() { own..count } else { 0..own };
    let ready = ready(&sides, kernel, seed)?;
    let mut sums = GramSums::new(n, count, own, columns.len());
    let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
    let total = starts.len() * (starts.len() + 1) / 2;
    let mut done = 0;
    for &i in &starts {
        let rows_i = i..(i + BLOCK).min(n);
        let left = read(&sides, &ready, rows_i.clone())?;
        for (t, rows) in left.iter().enumerate() {
            sums.diagonal[t].extend(rows.diagonal(&ready[t]));
            sums.bad[t] = sums.bad[t].or(rows.bad.map(|bad| i + bad));
        }
        for &j in starts.iter().filter(|&&j| j <= i) {
            let rows_j = j..(j + BLOCK).min(n);
            let right = if i == j {
                None
            } else {
                Some(read(&sides, &ready, rows_j.clone())?)
            };
            let size = rows_i.len() * rows_j.len();
            let mut grams = vec![T::of(0.0); count * size];
            let right = right.as_ref().unwrap_or(&left);
            grams
                .par_chunks_exact_mut(size)
                .enumerate()
                .for_each(|(t, out)| {
                    kernel_block(out, &left[t], &right[t], &ready[t]);
                });
            sums.add(&grams, rows_i.clone(), rows_j, columns.clone());
            done += 1;
            progress(done, total);
        }
    }
    Ok(sums.finish(&sides))
}

fn read<T: Real>(
    sides: &Sides<T>,
    ready: &[Ready],
    rows: std::ops::Range<usize>,
) -> Result<Vec<Rows<T>>, FeaturesError> {
    (0..sides.taps())
        .into_par_iter()
        .map(|t| {
            let (source, tap) = sides.tap(t);
            let mut values = Vec::new();
            source.read(tap, rows.clone(), &mut values)?;
            Ok(Rows::new(values, &ready[t]))
        })
        .collect()
}

/// Sums over blocks of Gram matrices.
struct GramSums {
    n: usize,
    own: usize,
    /// tr(KL), `[a, b]`.
    pairs: Vec<f64>,
    /// tr(KK) of every tap.
    selves: Vec<f64>,
    /// K1 of every tap, `[taps][n]`.
    row_sums: Vec<Vec<f64>>,
    diagonal: Vec<Vec<f64>>,
    bad: Vec<Option<usize>>,
}

impl GramSums {
    fn new(n: usize, count: usize, own: usize, columns: usize) -> Self {
        GramSums {
            n,
            own,
            pairs: vec![0.0; own * columns],
            selves: vec![0.0; count],
            row_sums: vec![vec![0.0; n]; count],
            diagonal: vec![Vec::with_capacity(n); count],
            bad: vec![None; count],
        }
    }

    fn add<T: Real>(
        &mut self,
        grams: &[T],
        i: std::ops::Range<usize>,
        j: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) {
        let size = i.len() * j.len();
        // A block off the diagonal stands for its mirror image too.
        let mirrored = i != j;
        let weight = if mirrored { 2.0 } else { 1.0 };
        let (left, right) = (
            &grams[..self.own * size],
            &grams[columns.start * size..columns.end * size],
        );
        add_products(&mut self.pairs, left, right, size, weight);
        self.row_sums
            .par_iter_mut()
            .zip(&mut self.selves)
            .zip(grams.par_chunks_exact(size))
            .for_each(|((sums, own), gram)| {
                for (r, row) in gram.chunks_exact(j.len()).enumerate() {
                    let mut sum = 0.0;
                    let mut square = 0.0;
                    for (c, value) in row.iter().enumerate() {
                        let value = value.wide();
                        sum += value;
                        square += value * value;
                        if mirrored {
                            sums[j.start + c] += value;
                        }
                    }
                    sums[i.start + r] += sum;
                    *own += weight * square;
                }
            });
    }

    fn finish<T: Real>(self, sides: &Sides<T>) -> Sums {
        let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(a, b)| a * b).sum() };
        let one: Vec<OneSums> = (0..self.selves.len())
            .map(|t| OneSums {
                total: self.row_sums[t].iter().sum(),
                trace: self.diagonal[t].iter().sum(),
                bad_row: self.bad[t],
            })
            .collect();
        let (first, columns) = if sides.b.is_some() {
            (self.own, self.selves.len() - self.own)
        } else {
            (0, self.own)
        };
        sides.assemble(self.n, &one, |p, q| {
            // Pairs of a tap with itself are kept apart, everything else stands in the table.
            let product = if p == q {
                self.selves[p]
            } else {
                self.pairs[p.min(q) * columns + (p.max(q) - first)]
            };
            PairSums {
                product,
                diagonal: dot(&self.diagonal[p], &self.diagonal[q]),
                rows: dot(&self.row_sums[p], &self.row_sums[q]),
                rows_diagonal: dot(&self.row_sums[p], &self.diagonal[q]),
                diagonal_rows: dot(&self.diagonal[p], &self.row_sums[q]),
            }
        })
    }
}
