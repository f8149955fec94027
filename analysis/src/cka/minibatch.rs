//! Minibatch CKA (Nguyen, Raghu, Kornblith 2021, eq. 4 and 5): unbiased HSIC of each batch, averaged over the batches before
//! the ratio is taken.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::kernel::{Kernel, kernel_sums};
use super::{Estimator, Reason, Sums, hsic};
use crate::features::FeaturesError;
use crate::linalg::Real;
use crate::source::{Memory, TapSource};

/// Minibatch CKA of every tap of `a` with every tap of `b`, `[a, b]` row-major, over batches of `batch` rows drawn without
/// replacement in a seeded order. Rows that do not fill a batch are left out, as the paper has batches of equal size.
///
/// # Panics
/// If the numbers of rows differ.
pub fn minibatch_cka<T: Real>(
    a: &dyn TapSource<T>,
    b: &dyn TapSource<T>,
    kernel: Kernel,
    batch: usize,
    seed: u64,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Result<f64, Reason>>, FeaturesError> {
    let n = a.len();
    assert_eq!(n, b.len(), "the two sides differ in rows");
    let needed = Estimator::Debiased.min_rows();
    let (rows, columns) = (a.taps().len(), b.taps().len());
    if batch < needed || n < batch {
        let reason = Reason::TooFewRows {
            rows: n.min(batch),
            needed: batch.max(needed),
        };
        return Ok(vec![Err(reason); rows * columns]);
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let batches = n / batch;
    let mut mean = Means::new(rows, columns);
    for (index, chunk) in order.chunks_exact(batch).enumerate() {
        let mut chunk = chunk.to_vec();
        chunk.sort_unstable();
        let (x, y) = (part(a, &chunk)?, part(b, &chunk)?);
        mean.add(&kernel_sums(&x, Some(&y), kernel, seed, &|_, _| ())?);
        progress(index + 1, batches);
    }
    let name = |source: &dyn TapSource<T>, t: usize| source.taps()[t].0.clone();
    Ok((0..rows)
        .flat_map(|p| (0..columns).map(move |q| (p, q)))
        .map(|(p, q)| mean.cell(p, q, &name(a, p), &name(b, q)))
        .collect())
}

fn part<T: Real>(source: &dyn TapSource<T>, rows: &[usize]) -> Result<Memory<T>, FeaturesError> {
    let mut taps = Vec::new();
    for (tap, (name, width)) in source.taps().iter().enumerate() {
        let mut values = Vec::new();
        source.gather(tap, rows, &mut values)?;
        taps.push((name.clone(), *width, values));
    }
    Ok(Memory::new(taps))
}

/// Sums of HSIC over the batches; the common factor 1/k cancels.
struct Means {
    columns: usize,
    pairs: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Means {
    fn new(rows: usize, columns: usize) -> Self {
        Means {
            columns,
            pairs: vec![0.0; rows * columns],
            a: vec![0.0; rows],
            b: vec![0.0; columns],
        }
    }

    fn add(&mut self, sums: &Sums) {
        let of = |pair, a, b| hsic(sums.n, pair, a, b, Estimator::Debiased).unwrap_or(f64::NAN);
        for (p, (a, own)) in sums.a.iter().enumerate() {
            self.a[p] += of(own, a, a);
            for (q, (b, _)) in sums.b.iter().enumerate() {
                self.pairs[p * self.columns + q] += of(&sums.pairs[p * self.columns + q], a, b);
            }
        }
        for (q, (b, own)) in sums.b.iter().enumerate() {
            self.b[q] += of(own, b, b);
        }
    }

    fn cell(&self, p: usize, q: usize, a: &str, b: &str) -> Result<f64, Reason> {
        for (own, tap) in [(self.a[p], a), (self.b[q], b)] {
            if own.is_nan() {
                return Err(Reason::Undefined {
                    why: format!("`{tap}` is not finite"),
                });
            }
            if own <= 0.0 {
                return Err(Reason::SelfSimilarity {
                    tap: tap.to_owned(),
                });
            }
        }
        let value = self.pairs[p * self.columns + q] / (self.a[p] * self.b[q]).sqrt();
        if value.is_finite() {
            Ok(value)
        } else {
            Err(Reason::Undefined {
                why: "the sums overflow".to_owned(),
            })
        }
    }
}
