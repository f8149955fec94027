//! Measures of similarity between two taps over the same rows, behind one interface: the rows of [`MEASURES`].
//!
//! A [`Prepared`] tap holds `[n, d]` in f64 and computes what measures share (centred features, singular vectors, ranks of
//! distances) once. Everything is exact in the rows given, O(n d^2) or O(n^2), so a sample of some thousand rows is meant.
//! CKA over any number of rows is in [`crate::cka`].
//!
//! # Schema `similarity 1`
//! JSON: [`SimilarityResult`]. CSV: `measure,a,b,value,reason`.

use std::sync::OnceLock;

use faer::{Mat, MatRef};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cka::{Estimator, Kernel, Reason, cka_of, kernel_sums};
use crate::features::FeaturesError;
use crate::linalg::{NoConvergence, Real, Svd, matrix, singular_values, svd};
use crate::provenance::{Provenance, csv, optional};
use crate::source::{Memory, TapSource};

#[cfg(test)]
mod tests;

/// Share of the variance that SVCCA and PWCCA keep (Raghu et al. 2017).
pub const KEPT_VARIANCE: f64 = 0.99;
/// Singular values below this share of the largest are rounding.
const RANK: f64 = 1e-9;

/// One tap, ready to be measured.
#[derive(Debug)]
pub struct Prepared {
    name: String,
    n: usize,
    d: usize,
    raw: Vec<f64>,
    bad_row: Option<usize>,
    centred: OnceLock<Mat<f64>>,
    svd: OnceLock<Result<Svd, NoConvergence>>,
    relations: OnceLock<Vec<f64>>,
    ranks: OnceLock<Vec<f64>>,
}

/// What a larger value of a measure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More alike.
    Similarity,
    /// Less alike.
    Distance,
}

/// One measure.
#[derive(Clone, Copy)]
pub struct Measure {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// What it is, with its source.
    pub description: &'static str,
    /// What a larger value says.
    pub direction: Direction,
    /// Value of a tap with itself.
    pub identity: f64,
    /// Least and largest value.
    pub range: (f64, f64),
    /// Whether exchanging the sides changes nothing.
    pub symmetric: bool,
    /// Whether a rotation of either side's features changes nothing.
    pub rotation: bool,
    /// Whether a positive factor on either side's features changes nothing.
    pub scale: bool,
    /// Fewest rows.
    pub min_rows: usize,
    compute: fn(&Prepared, &Prepared) -> Result<f64, Reason>,
}

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Measure({})", self.name)
    }
}

/// Every measure.
pub const MEASURES: [Measure; 8] = [
    Measure {
        name: "cka",
        description: "debiased linear CKA (Kornblith et al. 2019; unbiased HSIC of Song et al. 2012)",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (-1.0, 1.0),
        symmetric: true,
        rotation: true,
        scale: true,
        min_rows: 4,
        compute: |x, y| cka_measure(x, y, Kernel::Linear, Estimator::Debiased),
    },
    Measure {
        name: "cka-biased",
        description: "biased linear CKA (Kornblith et al. 2019)",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (0.0, 1.0),
        symmetric: true,
        rotation: true,
        scale: true,
        min_rows: 2,
        compute: |x, y| cka_measure(x, y, Kernel::Linear, Estimator::Biased),
    },
    Measure {
        name: "cka-rbf",
        description: "debiased CKA, RBF kernel of half the median distance",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (-1.0, 1.0),
        symmetric: true,
        rotation: true,
        scale: true,
        min_rows: 4,
        compute: |x, y| cka_measure(x, y, Kernel::Rbf { fraction: 0.5 }, Estimator::Debiased),
    },
    Measure {
        name: "procrustes",
        description: "|X'Y|_* / (|X|_F |Y|_F) of centred features; 1 - its square is scipy's disparity (Ding et al. 2021)",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (0.0, 1.0),
        symmetric: true,
        rotation: true,
        scale: true,
        min_rows: 2,
        compute: procrustes,
    },
    Measure {
        name: "svcca",
        description: "mean canonical correlation of the directions that hold 99 % of the variance (Raghu et al. 2017)",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (0.0, 1.0),
        symmetric: true,
        rotation: true,
        scale: true,
        min_rows: 3,
        compute: |x, y| Ok(canonical(x, y)?.mean()),
    },
    Measure {
        name: "pwcca",
        description: "canonical correlations weighted by what they explain of the first tap (Morcos et al. 2018)",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (0.0, 1.0),
        symmetric: false,
        rotation: false,
        scale: true,
        min_rows: 3,
        compute: pwcca,
    },
    Measure {
        name: "rsa",
        description: "Spearman correlation of the row dissimilarities 1 - Pearson (Kriegeskorte et al. 2008)",
        direction: Direction::Similarity,
        identity: 1.0,
        range: (-1.0, 1.0),
        symmetric: true,
        rotation: false,
        scale: true,
        min_rows: 3,
        compute: rsa,
    },
    Measure {
        name: "relation",
        description: "mean squared difference of the cosine relations that distillation aligns, off the diagonal",
        direction: Direction::Distance,
        identity: 0.0,
        range: (0.0, 4.0),
        symmetric: true,
        rotation: false,
        scale: true,
        min_rows: 2,
        compute: relation,
    },
];

/// The measure called `name`.
pub fn measure(name: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|m| m.name == name)
}

impl Measure {
    /// The value for taps `x` and `y`, or why there is none.
    ///
    /// # Panics
    /// If the taps differ in rows.
    pub fn compute(&self, x: &Prepared, y: &Prepared) -> Result<f64, Reason> {
        assert_eq!(x.n, y.n, "taps of unequal length");
        if x.n < self.min_rows {
            return Err(Reason::TooFewRows {
                rows: x.n,
                needed: self.min_rows,
            });
        }
        for side in [x, y] {
            if let Some(row) = side.bad_row {
                return Err(Reason::NotFinite {
                    tap: side.name.clone(),
                    row,
                });
            }
        }
        let value = (self.compute)(x, y)?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(Reason::Undefined {
                why: "the sums overflow".to_owned(),
            })
        }
    }
}

impl Prepared {
    /// A tap's values, `[n, d]` row-major.
    pub fn new(name: &str, d: usize, values: Vec<f64>) -> Self {
        let n = values.len() / d.max(1);
        let bad_row = values.iter().position(|v| !v.is_finite()).map(|at| at / d);
        Prepared {
            name: name.to_owned(),
            n,
            d,
            raw: values,
            bad_row,
            centred: OnceLock::new(),
            svd: OnceLock::new(),
            relations: OnceLock::new(),
            ranks: OnceLock::new(),
        }
    }

    /// Every tap of a source.
    pub fn all<T: Real>(source: &dyn TapSource<T>) -> Result<Vec<Self>, FeaturesError> {
        let taps = source.taps().iter().enumerate();
        taps.map(|(t, (name, width))| {
            let values = source.whole(t)?.into_iter().map(Real::wide).collect();
            Ok(Prepared::new(name, *width, values))
        })
        .collect()
    }

    /// Rows `n`.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// The centred features, `[n, d]`; an error where they do not vary.
    fn centred(&self) -> Result<MatRef<'_, f64>, Reason> {
        let centred = self.centred.get_or_init(|| {
            let m = matrix(&self.raw, self.n, self.d);
            let means: Vec<f64> = (0..self.d)
                .map(|j| m.col(j).sum() / self.n as f64)
                .collect();
            Mat::from_fn(self.n, self.d, |i, j| m[(i, j)] - means[j])
        });
        // The mean's rounding leaves about 1e-16 of the largest value; f32 features that differ at all leave 1e-7 of it.
        let largest = self.raw.iter().fold(0.0_f64, |a, v| a.max(v.abs()));
        if centred.norm_max() <= 1e-12 * largest {
            return Err(Reason::NoVariance {
                tap: self.name.clone(),
            });
        }
        Ok(centred.as_ref())
    }

    fn svd(&self) -> Result<&Svd, Reason> {
        let centred = self.centred()?;
        self.svd
            .get_or_init(|| svd(centred))
            .as_ref()
            .map_err(|e| Reason::NoConvergence {
                what: e.0.to_owned(),
            })
    }

    /// Left singular vectors that hold [`KEPT_VARIANCE`], `[n, k]`.
    fn directions(&self) -> Result<MatRef<'_, f64>, Reason> {
        let svd = self.svd()?;
        let total: f64 = svd.s.iter().map(|s| s * s).sum();
        let mut held = 0.0;
        let mut kept = 0;
        for s in svd.s.iter().take_while(|s| **s > RANK * svd.s[0]) {
            held += s * s;
            kept += 1;
            if held >= KEPT_VARIANCE * total {
                break;
            }
        }
        Ok(svd.u.as_ref().subcols(0, kept))
    }

    /// Rows with zero mean and unit norm, `[n, d]`; all zeros for a row that does not vary (METHOD: normalised without learned scale).
    fn normalised(&self) -> Vec<f64> {
        let mut rows = self.raw.clone();
        for row in rows.chunks_exact_mut(self.d) {
            let mean = row.iter().sum::<f64>() / self.d as f64;
            row.iter_mut().for_each(|v| *v -= mean);
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            row.iter_mut().for_each(|v| *v *= factor);
        }
        rows
    }

    /// Relations of different rows, the upper triangle of R = X X' row by row, `[n (n-1) / 2]`.
    pub fn relations(&self) -> &[f64] {
        self.relations.get_or_init(|| {
            let (rows, n) = (self.normalised(), self.n);
            let m = MatRef::from_row_major_slice(&rows, n, self.d);
            let all = m * m.transpose();
            (0..n)
                .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
                .map(|(i, j)| all[(j, i)])
                .collect()
        })
    }

    /// Ranks of the dissimilarities 1 - R, centred and of unit norm; all zeros where all are equal.
    fn ranks(&self) -> &[f64] {
        self.ranks.get_or_init(|| {
            let mut ranks = ranks(&self.relations().iter().map(|r| 1.0 - r).collect::<Vec<_>>());
            let mean = ranks.iter().sum::<f64>() / ranks.len() as f64;
            ranks.iter_mut().for_each(|r| *r -= mean);
            let norm = ranks.iter().map(|r| r * r).sum::<f64>().sqrt();
            let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            ranks.iter_mut().for_each(|r| *r *= factor);
            ranks
        })
    }
}

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let mut end = at + 1;
        while end < order.len() && values[order[end]] == values[order[at]] {
            end += 1;
        }
        let rank = (at + end + 1) as f64 / 2.0;
        order[at..end].iter().for_each(|&i| ranks[i] = rank);
        at = end;
    }
    ranks
}

fn cka_measure(
    x: &Prepared,
    y: &Prepared,
    kernel: Kernel,
    estimator: Estimator,
) -> Result<f64, Reason> {
    let source = |p: &Prepared| Memory::new(vec![(p.name.clone(), p.d, p.raw.clone())]);
    // Reading from memory does not fail.
    let sums = kernel_sums(&source(x), Some(&source(y)), kernel, 0, &|_, _| ())
        .map_err(|e| Reason::Undefined { why: e.to_string() })?;
    cka_of(
        x.n,
        &sums.pairs[0],
        &sums.a[0],
        &sums.b[0],
        [&x.name, &y.name],
        estimator,
    )
}

fn procrustes(x: &Prepared, y: &Prepared) -> Result<f64, Reason> {
    let (xc, yc) = (x.centred()?, y.centred()?);
    let cross = xc.transpose() * yc; // [dx, dy]
    let values = singular_values(cross.as_ref()).map_err(|e| Reason::NoConvergence {
        what: e.0.to_owned(),
    })?;
    Ok(values.iter().sum::<f64>() / (xc.norm_l2() * yc.norm_l2()))
}

/// Canonical correlations and, by column, the canonical directions of the first tap in row space.
struct Canonical {
    correlations: Vec<f64>,
    /// `[n, k]`, orthonormal columns.
    directions: Mat<f64>,
}

impl Canonical {
    fn mean(&self) -> f64 {
        self.correlations.iter().sum::<f64>() / self.correlations.len() as f64
    }
}

fn canonical(x: &Prepared, y: &Prepared) -> Result<Canonical, Reason> {
    let (u, v) = (x.directions()?, y.directions()?);
    let cross = u.transpose() * v; // [kx, ky]
    let found = svd(cross.as_ref()).map_err(|e| Reason::NoConvergence {
        what: e.0.to_owned(),
    })?;
    let correlations = found.s.iter().map(|s| s.clamp(0.0, 1.0)).collect();
    Ok(Canonical {
        correlations,
        directions: u * &found.u,
    })
}

fn pwcca(x: &Prepared, y: &Prepared) -> Result<f64, Reason> {
    let found = canonical(x, y)?;
    let share = found.directions.transpose() * x.centred()?; // [k, dx]
    let weights: Vec<f64> = (0..share.nrows())
        .map(|i| (0..share.ncols()).map(|j| share[(i, j)].abs()).sum())
        .collect();
    let weighted: f64 = found
        .correlations
        .iter()
        .zip(&weights)
        .map(|(r, w)| r * w)
        .sum();
    Ok(weighted / weights.iter().sum::<f64>())
}

fn rsa(x: &Prepared, y: &Prepared) -> Result<f64, Reason> {
    for side in [x, y] {
        if side.d < 2 || side.ranks().iter().all(|r| *r == 0.0) {
            return Err(Reason::NoVariance {
                tap: side.name.clone(),
            });
        }
    }
    Ok(x.ranks().iter().zip(y.ranks()).map(|(a, b)| a * b).sum())
}

fn relation(x: &Prepared, y: &Prepared) -> Result<f64, Reason> {
    let (a, b) = (x.relations(), y.relations());
    Ok(a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64)
}

/// One value of one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimilarityCell {
    /// The measure's name.
    pub measure: String,
    /// Tap of the first model.
    pub a: String,
    /// Tap of the second model.
    pub b: String,
    /// The value.
    pub value: Option<f64>,
    /// Why there is none.
    pub reason: Option<Reason>,
}

/// Which pairs of taps are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// Every tap with every tap.
    All,
    /// Taps of the same name.
    SameName,
}

/// Values of several measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimilarityResult {
    /// What made it.
    pub provenance: Provenance,
    /// Which pairs.
    pub pairs: Pairs,
    /// Measures, in order.
    pub measures: Vec<String>,
    /// Taps of the first model.
    pub taps_a: Vec<String>,
    /// Taps of the second model.
    pub taps_b: Vec<String>,
    /// Values: measure by measure, then the first model's taps, then the second's.
    pub cells: Vec<SimilarityCell>,
}

/// All measures asked for over all pairs asked for. `progress` hears pairs done and to do.
pub fn similarity(
    measures: &[&Measure],
    a: &[Prepared],
    b: &[Prepared],
    pairs: Pairs,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<SimilarityCell> {
    let mut jobs: Vec<(&Measure, &Prepared, &Prepared)> = Vec::new();
    for m in measures {
        for x in a {
            let fits = |y: &&Prepared| pairs == Pairs::All || x.name == y.name;
            jobs.extend(b.iter().filter(fits).map(|y| (*m, x, y)));
        }
    }
    let done = std::sync::atomic::AtomicUsize::new(0);
    jobs.par_iter()
        .map(|(m, x, y)| {
            let value = m.compute(x, y);
            progress(
                1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                jobs.len(),
            );
            SimilarityCell {
                measure: m.name.to_owned(),
                a: x.name.clone(),
                b: y.name.clone(),
                value: value.as_ref().ok().copied(),
                reason: value.err(),
            }
        })
        .collect()
}

impl SimilarityResult {
    /// The values as CSV; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let reason = |c: &SimilarityCell| {
            c.reason
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        csv(
            "measure,a,b,value,reason",
            self.cells.iter().map(|c| {
                vec![
                    c.measure.clone(),
                    c.a.clone(),
                    c.b.clone(),
                    optional(c.value),
                    reason(c),
                ]
            }),
        )
    }
}
