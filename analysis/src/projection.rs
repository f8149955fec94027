//! Rows in two or three dimensions: principal components and t-SNE (van der Maaten and Hinton 2008; Barnes-Hut form of 2014 through
//! `linfa-tsne`).
//!
//! Components come from the covariance, and the variance explained from its eigenvalues s^2 / (n - 1) over the total variance.
//! t-SNE runs on the leading principal components, with a seeded start.
//!
//! # Schema `projection 1`
//! JSON: [`ProjectionResult`]. CSV: `tap,row,label,x1,x2[,x3]`.

use linfa::traits::Transformer;
use linfa_tsne::TSneParams;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::cka::Reason;
use crate::features::FeaturesError;
use crate::geometry::moments;
use crate::linalg::Real;
use crate::provenance::{Provenance, csv};
use crate::source::TapSource;

/// The way to few dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Projection {
    /// Principal components.
    Pca,
    /// t-SNE.
    Tsne {
        /// Effective number of neighbours; above 1 and at most (rows - 1) / 3.
        perplexity: f64,
        /// Iterations of the descent.
        iterations: usize,
        /// Principal components it starts from.
        components: usize,
        /// Seed of the start.
        seed: u64,
    },
}

/// Why a projection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] FeaturesError),
    /// The tap has no principal components.
    #[error("cannot project `{tap}`: {reason}")]
    Tap {
        /// The tap.
        tap: String,
        /// Why.
        reason: Reason,
    },
    /// More dimensions than the features have, or none.
    #[error("cannot project `{tap}` to {dims} dimensions: it has {width}\nhint: ask for 1 to 3")]
    Dimensions {
        /// The tap.
        tap: String,
        /// What was asked for.
        dims: usize,
        /// The width of the tap.
        width: usize,
    },
    /// The perplexity does not fit the rows.
    #[error(
        "a perplexity of {perplexity} does not fit {rows} rows: it must be above 1 and at most {most}"
    )]
    Perplexity {
        /// What was asked for.
        perplexity: f64,
        /// Rows.
        rows: usize,
        /// Largest that fits.
        most: f64,
    },
    /// t-SNE gave up.
    #[error("t-SNE failed")]
    Tsne(#[source] linfa_tsne::TSneError),
}

/// One tap's rows in few dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projected {
    /// The tap.
    pub tap: String,
    /// Coordinates, one list of `dims` a row.
    pub points: Vec<Vec<f64>>,
    /// Variance along each component (PCA), of `total_variance`.
    pub variance: Option<Vec<f64>>,
    /// Sum of all eigenvalues of the covariance.
    pub total_variance: f64,
    /// Share of the total variance along each component (PCA).
    pub variance_share: Option<Vec<f64>>,
}

/// Projections of one model's taps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectionResult {
    /// What made it.
    pub provenance: Provenance,
    /// How.
    pub projection: Projection,
    /// What the labels are: `row`, `token_class`, `label`, ...
    pub label_kind: String,
    /// Label of each row.
    pub labels: Vec<String>,
    /// The taps.
    pub taps: Vec<Projected>,
}

/// Principal components: scores `[n, k]`, eigenvalues of the first `k`, total variance.
struct Components {
    scores: Vec<Vec<f64>>,
    variance: Vec<f64>,
    total: f64,
}

fn components<T: Real>(
    source: &dyn TapSource<T>,
    tap: usize,
    k: usize,
) -> Result<Components, ProjectionError> {
    let (name, d) = &source.taps()[tap];
    let fail = |reason| ProjectionError::Tap {
        tap: name.clone(),
        reason,
    };
    let found = moments(source, tap)?;
    let (values, vectors) = found.eigen(name).map_err(fail)?;
    let k = k.min(*d);
    // An eigenvector's sign is free: its largest loading is positive, so that two runs agree.
    let sign: Vec<f64> = (0..k)
        .map(|c| {
            let largest = (0..*d)
                .map(|j| vectors[(j, c)])
                .fold(0.0_f64, |a, b| if b.abs() > a.abs() { b } else { a });
            if largest < 0.0 { -1.0 } else { 1.0 }
        })
        .collect();
    let rows = source.whole(tap)?;
    let score = |row: &[T], c: usize| -> f64 {
        sign[c]
            * row
                .iter()
                .enumerate()
                .map(|(j, v)| (v.wide() - found.mean[j]) * vectors[(j, c)])
                .sum::<f64>()
    };
    let scores = rows
        .chunks_exact(*d)
        .map(|row| (0..k).map(|c| score(row, c)).collect())
        .collect();
    Ok(Components {
        scores,
        variance: values[..k].to_vec(),
        total: values.iter().sum(),
    })
}

/// Projects one tap to `dims` dimensions.
pub fn project<T: Real>(
    source: &dyn TapSource<T>,
    tap: usize,
    dims: usize,
    projection: &Projection,
) -> Result<Projected, ProjectionError> {
    let (name, width) = &source.taps()[tap];
    if !(1..=3).contains(&dims) || dims > *width {
        return Err(ProjectionError::Dimensions {
            tap: name.clone(),
            dims,
            width: *width,
        });
    }
    match *projection {
        Projection::Pca => {
            let found = components(source, tap, dims)?;
            Ok(Projected {
                tap: name.clone(),
                points: found.scores,
                variance_share: Some(found.variance.iter().map(|v| v / found.total).collect()),
                variance: Some(found.variance),
                total_variance: found.total,
            })
        }
        Projection::Tsne {
            perplexity,
            iterations,
            components: k,
            seed,
        } => {
            let (rows, most) = (source.len(), (source.len() as f64 - 1.0) / 3.0);
            // linfa-tsne takes NaN and 0 as they come.
            if !(perplexity > 1.0 && perplexity <= most) {
                return Err(ProjectionError::Perplexity {
                    perplexity,
                    rows,
                    most,
                });
            }
            let found = components(source, tap, k.max(dims))?;
            let points = tsne(&found.scores, dims, perplexity, iterations, seed)?;
            Ok(Projected {
                tap: name.clone(),
                points,
                variance: None,
                total_variance: found.total,
                variance_share: None,
            })
        }
    }
}

fn tsne(
    scores: &[Vec<f64>],
    dims: usize,
    perplexity: f64,
    iterations: usize,
    seed: u64,
) -> Result<Vec<Vec<f64>>, ProjectionError> {
    let k = scores.first().map_or(0, Vec::len);
    // One scale for all components: t-SNE looks at ratios of distances, its descent at their size.
    let size = scores.iter().flatten().fold(0.0_f64, |a, b| a.max(b.abs()));
    let data = Array2::from_shape_fn((scores.len(), k), |(i, j)| scores[i][j] / size);
    let rng = linfa_rng(seed);
    let found = TSneParams::embedding_size_with_rng(dims, rng)
        .perplexity(perplexity)
        .approx_threshold(0.5)
        .max_iter(iterations)
        .transform(data)
        .map_err(ProjectionError::Tsne)?;
    Ok(found.outer_iter().map(|row| row.to_vec()).collect())
}

/// A generator of the `rand` release that linfa is built on.
fn linfa_rng(seed: u64) -> linfa_rand::rngs::SmallRng {
    <linfa_rand::rngs::SmallRng as linfa_rand::SeedableRng>::seed_from_u64(seed)
}

impl ProjectionResult {
    /// One line a point; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let dims = self
            .taps
            .first()
            .and_then(|t| t.points.first())
            .map_or(2, Vec::len);
        let axes: Vec<String> = (1..=dims).map(|k| format!("x{k}")).collect();
        let mut rows = Vec::new();
        for tap in &self.taps {
            for (i, point) in tap.points.iter().enumerate() {
                let mut row = vec![
                    tap.tap.clone(),
                    i.to_string(),
                    self.labels.get(i).cloned().unwrap_or_default(),
                ];
                row.extend(point.iter().map(ToString::to_string));
                rows.push(row);
            }
        }
        csv(&format!("tap,row,label,{}", axes.join(",")), rows)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::source::Memory;
    use crate::testing::{golden_x, normal};

    fn source(d: usize, values: Vec<f64>) -> Memory<f64> {
        Memory::new(vec![("t".into(), d, values)])
    }

    // PCA().fit(X).explained_variance_ratio_   # scikit-learn 1.9.1, X as in the tests of CKA
    #[test]
    fn variance_shares_equal_those_of_scikit_learn_for_any_number_of_components() {
        let expected = [
            0.285_951_983_495_538,
            0.283_204_673_306_239_2,
            0.250_462_457_240_505_75,
        ];
        for dims in 1..=3 {
            let found = project(&source(5, golden_x()), 0, dims, &Projection::Pca).unwrap();
            for (share, expected) in found.variance_share.as_ref().unwrap().iter().zip(expected) {
                assert!((share - expected).abs() < 1e-12);
            }
            // The scores have the variance that is claimed, and none of them a mean.
            for c in 0..dims {
                let column: Vec<f64> = found.points.iter().map(|p| p[c]).collect();
                let variance = column.iter().map(|v| v * v).sum::<f64>() / 39.0;
                assert!((variance - found.variance.as_ref().unwrap()[c]).abs() < 1e-12);
                assert!(column.iter().sum::<f64>().abs() < 1e-10);
            }
        }
        assert!(project(&source(5, golden_x()), 0, 4, &Projection::Pca).is_err());
    }

    #[test]
    fn tsne_keeps_far_clusters_apart_and_repeats_under_its_seed() {
        let (n, d) = (60, 5);
        let values: Vec<f64> = normal(1, n * d)
            .iter()
            .enumerate()
            .map(|(i, v)| v + if i / d < n / 2 { 0.0 } else { 40.0 })
            .collect();
        let how = |seed| Projection::Tsne {
            perplexity: 8.0,
            iterations: 400,
            components: 5,
            seed,
        };
        let found = project(&source(d, values.clone()), 0, 2, &how(3)).unwrap();
        let nearest = |i: usize| {
            let distance = |j: usize| {
                found.points[i]
                    .iter()
                    .zip(&found.points[j])
                    .map(|(a, b)| (a - b).powi(2))
                    .sum::<f64>()
            };
            (0..n)
                .filter(|&j| j != i)
                .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
                .unwrap()
        };
        let right = (0..n)
            .filter(|&i| (i < n / 2) == (nearest(i) < n / 2))
            .count();
        assert!(right >= n - 2, "{right} of {n}");
        assert_eq!(project(&source(d, values), 0, 2, &how(3)).unwrap(), found);
    }

    #[test]
    fn a_perplexity_that_does_not_fit_is_refused() {
        for perplexity in [f64::NAN, 0.0, 1.0, -3.0, 13.1, f64::INFINITY] {
            let how = Projection::Tsne {
                perplexity,
                iterations: 10,
                components: 3,
                seed: 0,
            };
            let error = project(&source(5, golden_x()), 0, 2, &how).unwrap_err();
            assert!(
                matches!(error, ProjectionError::Perplexity { rows: 40, .. }),
                "{error}"
            );
        }
    }
}
