//! Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) between taps of two models over the same rows.
//!
//! With Gram matrices K = k(X, X) and L = k(Y, Y), `[n, n]`, CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). Two estimators
//! of HSIC:
//! - biased (Gretton et al. 2005): tr(K H L H) / (n-1)^2, H = I - 1/n; grows towards 1 when d is not small beside n;
//! - unbiased (Song et al. 2012, eq. 5; "debiased" CKA of Nguyen et al. 2021, arXiv 2010.15327, eq. 3): with the diagonals of
//!   K and L set to zero,
//!   `[tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n (n-3))`. Near 0 for independent features, and below 0 by
//!   chance; at most 1 where both self-terms are positive.
//!
//! All of it follows from a few sums ([`Sums`]), which two engines collect with f64 accumulation:
//! - [`feature_sums`] for the linear kernel: tr(KL) = |X'Y|^2, K1 = X (X'1), tr of the diagonals from row norms. One pass over
//!   the rows, memory independent of `n`;
//! - [`kernel_sums`] for any kernel: blocks of the Gram matrices, O(n^2 d) time, memory independent of `n` but for row sums.
//!
//! Both give the same numbers for the linear kernel. Both estimators are blind to a shift of the features, so the mean of
//! the first rows is taken off before anything is squared. Minibatch CKA (Nguyen et al. eq. 4-5) is in [`minibatch_cka`], null and
//! interval in [`resample`], the layer-by-layer table in [`matrix`](mod@matrix).

use serde::{Deserialize, Serialize};

mod feature;
mod kernel;
pub mod matrix;
mod minibatch;
pub mod resample;
#[cfg(test)]
mod tests;

pub use feature::{Budget, feature_sums};
pub use kernel::{Kernel, kernel_sums, median_distance};
pub use matrix::{CkaCell, CkaOptions, CkaResult, Form, Stage, cka};
pub use minibatch::minibatch_cka;

/// Which estimator of HSIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Unbiased HSIC of Song et al. 2012.
    Debiased,
    /// HSIC of Gretton et al. 2005.
    Biased,
}

impl Estimator {
    /// Fewest rows that it is defined on.
    pub fn min_rows(self) -> usize {
        match self {
            Estimator::Debiased => 4,
            Estimator::Biased => 2,
        }
    }
}

/// Sums over one Gram matrix K.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OneSums {
    /// 1'K1.
    pub total: f64,
    /// tr K.
    pub trace: f64,
    /// First row with a number that is not finite.
    pub bad_row: Option<usize>,
}

/// Sums over a pair of Gram matrices K, L.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairSums {
    /// tr(KL), the sum of `K_ij L_ij`.
    pub product: f64,
    /// Sum of `K_ii L_ii`.
    pub diagonal: f64,
    /// Sum of `(K1)_i (L1)_i`.
    pub rows: f64,
    /// Sum of `(K1)_i L_ii`.
    pub rows_diagonal: f64,
    /// Sum of `K_ii (L1)_i`.
    pub diagonal_rows: f64,
}

/// Everything CKA needs of `a` taps against `b` taps.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Rows.
    pub n: usize,
    /// Each tap of one side, and its pair with itself.
    pub a: Vec<(OneSums, PairSums)>,
    /// Each tap of the other side, and its pair with itself.
    pub b: Vec<(OneSums, PairSums)>,
    /// Pairs, row-major `[a, b]`.
    pub pairs: Vec<PairSums>,
}

/// HSIC of a pair, or nothing where there are too few rows.
pub fn hsic(
    n: usize,
    pair: &PairSums,
    a: &OneSums,
    b: &OneSums,
    estimator: Estimator,
) -> Option<f64> {
    if n < estimator.min_rows() {
        return None;
    }
    let n = n as f64;
    Some(match estimator {
        Estimator::Biased => {
            (pair.product - 2.0 / n * pair.rows + a.total * b.total / (n * n))
                / ((n - 1.0) * (n - 1.0))
        }
        Estimator::Debiased => {
            let product = pair.product - pair.diagonal;
            let rows = pair.rows - pair.rows_diagonal - pair.diagonal_rows + pair.diagonal;
            let totals = (a.total - a.trace) * (b.total - b.trace);
            (product + totals / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * rows) / (n * (n - 3.0))
        }
    })
}

/// Why a cell has no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// Fewer rows than the measure is defined on.
    TooFewRows {
        /// Rows there are.
        rows: usize,
        /// Rows it takes.
        needed: usize,
    },
    /// All rows of a tap are equal, so that nothing can be compared.
    NoVariance {
        /// The tap.
        tap: String,
    },
    /// A tap's unbiased self-similarity is not positive: too few rows for its dimensions.
    SelfSimilarity {
        /// The tap.
        tap: String,
    },
    /// A tap holds NaN or an infinity.
    NotFinite {
        /// The tap.
        tap: String,
        /// The first such row of the sample.
        row: usize,
    },
    /// A decomposition did not converge.
    NoConvergence {
        /// Which one.
        what: String,
    },
    /// The measure is not defined here.
    Undefined {
        /// Why.
        why: String,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::TooFewRows { rows, needed } => {
                write!(f, "too few rows: {rows}, needs {needed}")
            }
            Reason::NoVariance { tap } => write!(f, "no variance: all rows of `{tap}` are equal"),
            Reason::SelfSimilarity { tap } => {
                write!(
                    f,
                    "unbiased self-similarity of `{tap}` is not positive: too few rows for its dimensions"
                )
            }
            Reason::NotFinite { tap, row } => {
                write!(f, "`{tap}` is not finite at row {row} of the sample")
            }
            Reason::NoConvergence { what } => write!(f, "the {what} did not converge"),
            Reason::Undefined { why } => write!(f, "{why}"),
        }
    }
}

/// Share of a tap's mean square below which its centred part is rounding, not variance.
const NO_VARIANCE: f64 = 1e-12;

/// Whether a tap's rows differ at all: its biased self-term against the square of its trace.
fn varies(n: usize, one: &OneSums, own: &PairSums) -> bool {
    let n = n as f64;
    let centred = one.trace - one.total / n;
    // The sums are of shifted features, so that equal rows leave nothing but zeros.
    one.trace > 0.0 && own.product > 0.0 && centred > NO_VARIANCE * one.trace
}

/// CKA of one pair, or why there is none. `names` are the taps'.
pub fn cka_of(
    n: usize,
    pair: &PairSums,
    a: &(OneSums, PairSums),
    b: &(OneSums, PairSums),
    names: [&str; 2],
    estimator: Estimator,
) -> Result<f64, Reason> {
    let needed = estimator.min_rows();
    if n < needed {
        return Err(Reason::TooFewRows { rows: n, needed });
    }
    let mut scale = 1.0;
    for ((one, own), tap) in [(a, names[0]), (b, names[1])] {
        if let Some(row) = one.bad_row {
            return Err(Reason::NotFinite {
                tap: tap.to_owned(),
                row,
            });
        }
        if !varies(n, one, own) {
            return Err(Reason::NoVariance {
                tap: tap.to_owned(),
            });
        }
        let own = hsic(n, own, one, one, estimator).unwrap_or(0.0);
        // Nothing but a positive number passes, NaN neither.
        if own.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
            return Err(Reason::SelfSimilarity {
                tap: tap.to_owned(),
            });
        }
        scale *= own.sqrt();
    }
    let value = hsic(n, pair, &a.0, &b.0, estimator).unwrap_or(f64::NAN) / scale;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Reason::Undefined {
            why: "the sums overflow".to_owned(),
        })
    }
}
