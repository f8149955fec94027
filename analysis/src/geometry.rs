//! The geometry of one tap: spectrum, effective rank, participation ratio, anisotropy. One pass over the rows in f64.
//!
//! - spectrum: eigenvalues of the covariance (denominator n - 1), largest first: s_k^2 / (n - 1) of the centred features;
//! - effective rank: exp of the entropy of s_k / sum s (Roy and Vetterli 2007);
//! - participation ratio: (sum l)^2 / sum l^2 of the eigenvalues l;
//! - anisotropy: mean cosine between different rows, not centred (Ethayarajh 2019), from the sum of the rows' directions.
//!
//! # Schema `geometry 1`
//! JSON: [`GeometryResult`]. CSV: `model,tap,rows,width,effective_rank,participation_ratio,anisotropy,mean_norm,top_share,reason`, and for the
//! spectra ([`GeometryResult::spectra_csv`]) `model,tap,k,eigenvalue,share,cumulative`, `k` from 1.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cka::Reason;
use crate::features::FeaturesError;
use crate::linalg::{Real, add_cross, matrix, symmetric_eigen};
use crate::provenance::{Provenance, csv, optional};
use crate::source::TapSource;

/// Rows read at once.
const BLOCK: usize = 4096;
/// Eigenvalues below this share of the largest are rounding of f32 features.
const FLOOR: f64 = 1e-12;

/// Geometry of one tap of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapGeometry {
    /// The model's name.
    pub model: String,
    /// The tap.
    pub tap: String,
    /// Rows.
    pub rows: usize,
    /// Width.
    pub width: usize,
    /// The measures; absent where `reason` stands.
    pub measures: Option<Measures>,
    /// Why there are none.
    pub reason: Option<Reason>,
}

/// What is measured of a tap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// Eigenvalues of the covariance, largest first.
    pub spectrum: Vec<f64>,
    /// exp of the entropy of the singular values' shares; 1 to the width.
    pub effective_rank: f64,
    /// (sum l)^2 / sum l^2; 1 to the width.
    pub participation_ratio: f64,
    /// Mean cosine between different rows, -1 to 1; absent where a row is zero.
    pub anisotropy: Option<f64>,
    /// Mean norm of the rows.
    pub mean_norm: f64,
    /// Share of the variance along the first direction, 0..1.
    pub top_share: f64,
}

/// Geometry of every tap of some models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeometryResult {
    /// What made it.
    pub provenance: Provenance,
    /// The taps, by model and depth.
    pub taps: Vec<TapGeometry>,
}

/// Means, covariance and directions of a tap.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Rows.
    pub n: usize,
    /// Mean of each column.
    pub mean: Vec<f64>,
    /// Covariance `[d, d]` row-major, denominator n - 1; both triangles.
    pub covariance: Vec<f64>,
    /// Sum of the rows' unit vectors.
    directions: Vec<f64>,
    norms: f64,
    zero_row: bool,
    bad_row: Option<usize>,
}

/// Reads a tap once. The products are summed in f64 throughout.
pub fn moments<T: Real>(source: &dyn TapSource<T>, tap: usize) -> Result<Moments, FeaturesError> {
    let (n, d) = (source.len(), source.taps()[tap].1);
    let mut found = Moments {
        n,
        mean: vec![0.0; d],
        covariance: vec![0.0; d * d],
        directions: vec![0.0; d],
        norms: 0.0,
        zero_row: false,
        bad_row: None,
    };
    let (mut values, mut buffer) = (Vec::new(), Vec::new());
    let mut shift: Vec<f64> = Vec::new();
    let mut at = 0;
    while at < n {
        let end = (at + BLOCK).min(n);
        source.read(tap, at..end, &mut values)?;
        let mut wide: Vec<f64> = values.iter().map(|v| v.wide()).collect();
        if shift.is_empty() {
            shift = wide[..d]
                .iter()
                .map(|v| if v.is_finite() { *v } else { 0.0 })
                .collect();
        }
        for (index, row) in wide.chunks_exact_mut(d).enumerate() {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            if !norm.is_finite() {
                found.bad_row = found.bad_row.or(Some(at + index));
            }
            found.zero_row |= norm == 0.0;
            found.norms += norm;
            for ((v, s), (direction, mean)) in row
                .iter_mut()
                .zip(&shift)
                .zip(found.directions.iter_mut().zip(&mut found.mean))
            {
                *direction += *v / norm;
                *v -= s;
                *mean += *v;
            }
        }
        add_cross(
            &mut found.covariance,
            &wide,
            &wide,
            end - at,
            BLOCK,
            &mut buffer,
            true,
        );
        at = end;
    }
    let count = n as f64;
    for i in 0..d {
        for j in 0..=i {
            let centred = found.covariance[i * d + j] - found.mean[i] * found.mean[j] / count;
            let value = centred / (count - 1.0).max(1.0);
            found.covariance[i * d + j] = value;
            found.covariance[j * d + i] = value;
        }
    }
    for (mean, shift) in found.mean.iter_mut().zip(&shift) {
        *mean = *mean / count + shift;
    }
    Ok(found)
}

impl Moments {
    /// The measures, or why there are none. `tap` is for messages.
    pub fn measures(&self, tap: &str) -> Result<Measures, Reason> {
        let spectrum = self.spectrum(tap)?;
        let total: f64 = spectrum.iter().sum();
        let singular: Vec<f64> = spectrum.iter().map(|l| l.sqrt()).collect();
        let sum: f64 = singular.iter().sum();
        let entropy: f64 = singular
            .iter()
            .map(|s| s / sum)
            .filter(|p| *p > 0.0)
            .map(|p| -p * p.ln())
            .sum();
        let n = self.n as f64;
        let square: f64 = self.directions.iter().map(|v| v * v).sum();
        Ok(Measures {
            effective_rank: entropy.exp(),
            participation_ratio: total * total / spectrum.iter().map(|l| l * l).sum::<f64>(),
            anisotropy: (!self.zero_row).then(|| (square - n) / (n * (n - 1.0))),
            mean_norm: self.norms / n,
            top_share: spectrum[0] / total,
            spectrum,
        })
    }

    /// Eigenvalues of the covariance, largest first, rounding below zero taken away.
    pub fn spectrum(&self, tap: &str) -> Result<Vec<f64>, Reason> {
        Ok(self.eigen(tap)?.0)
    }

    /// Eigenvalues, largest first, and eigenvectors by column.
    pub fn eigen(&self, tap: &str) -> Result<(Vec<f64>, faer::Mat<f64>), Reason> {
        if self.n < 2 {
            return Err(Reason::TooFewRows {
                rows: self.n,
                needed: 2,
            });
        }
        if let Some(row) = self.bad_row {
            return Err(Reason::NotFinite {
                tap: tap.to_owned(),
                row,
            });
        }
        let d = self.mean.len();
        let m = matrix(&self.covariance, d, d);
        let (mut values, vectors) =
            symmetric_eigen(m.as_ref()).map_err(|e| Reason::NoConvergence {
                what: e.0.to_owned(),
            })?;
        let size: f64 = self.mean.iter().map(|m| m * m).sum::<f64>() / d as f64;
        if values[0].is_nan() || values[0] <= 1e-24 * size {
            return Err(Reason::NoVariance {
                tap: tap.to_owned(),
            });
        }
        let floor = FLOOR * values[0];
        values
            .iter_mut()
            .filter(|v| **v < floor)
            .for_each(|v| *v = 0.0);
        Ok((values, vectors))
    }
}

/// Geometry of every tap of a source. `progress` hears taps done and to do.
pub fn geometry<T: Real>(
    model: &str,
    source: &dyn TapSource<T>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<TapGeometry>, FeaturesError> {
    let done = std::sync::atomic::AtomicUsize::new(0);
    let count = source.taps().len();
    (0..count)
        .into_par_iter()
        .map(|t| {
            let (tap, width) = &source.taps()[t];
            let measures = moments(source, t)?.measures(tap);
            progress(
                1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                count,
            );
            Ok(TapGeometry {
                model: model.to_owned(),
                tap: tap.clone(),
                rows: source.len(),
                width: *width,
                measures: measures.as_ref().ok().cloned(),
                reason: measures.err(),
            })
        })
        .collect()
}

impl GeometryResult {
    /// One line a tap; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let row = |t: &TapGeometry| {
            let of = |f: fn(&Measures) -> f64| optional(t.measures.as_ref().map(f));
            vec![
                t.model.clone(),
                t.tap.clone(),
                t.rows.to_string(),
                t.width.to_string(),
                of(|m| m.effective_rank),
                of(|m| m.participation_ratio),
                optional(t.measures.as_ref().and_then(|m| m.anisotropy)),
                of(|m| m.mean_norm),
                of(|m| m.top_share),
                t.reason
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]
        };
        csv(
            "model,tap,rows,width,effective_rank,participation_ratio,anisotropy,mean_norm,top_share,reason",
            self.taps.iter().map(row),
        )
    }

    /// One line an eigenvalue; the module's documentation names the columns.
    pub fn spectra_csv(&self) -> String {
        let mut rows = Vec::new();
        for (t, m) in self
            .taps
            .iter()
            .filter_map(|t| Some((t, t.measures.as_ref()?)))
        {
            let total: f64 = m.spectrum.iter().sum();
            let mut cumulative = 0.0;
            for (k, value) in m.spectrum.iter().enumerate() {
                cumulative += value / total;
                rows.push(vec![
                    t.model.clone(),
                    t.tap.clone(),
                    (k + 1).to_string(),
                    value.to_string(),
                    (value / total).to_string(),
                    cumulative.to_string(),
                ]);
            }
        }
        csv("model,tap,k,eigenvalue,share,cumulative", rows)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::source::Memory;
    use crate::testing::{golden_x, normal, rotation};

    fn of(d: usize, values: Vec<f64>) -> Result<Measures, Reason> {
        moments(&Memory::new(vec![("t".into(), d, values)]), 0)
            .unwrap()
            .measures("t")
    }

    // X as in the tests of CKA
    // PCA().fit(X).explained_variance_                      # scikit-learn 1.9.1
    // s = np.linalg.svd(X - X.mean(0), compute_uv=False); np.exp(scipy.stats.entropy(s)); (s**2).sum()**2 / (s**4).sum()
    // C = sklearn.metrics.pairwise.cosine_similarity(X); (C.sum() - 40) / (40*39)
    #[test]
    fn values_equal_published_implementations() {
        let m = of(5, golden_x()).unwrap();
        let expected = [
            0.732_244_984_321_267,
            0.725_209_872_754_991_9,
            0.641_365_993_805_047,
            0.358_660_773_073_374_13,
            0.103_245_444_171_052_73,
        ];
        for (found, expected) in m.spectrum.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12);
        }
        assert!((m.effective_rank - 4.752_738_055_067_748_5).abs() < 1e-12);
        assert!((m.participation_ratio - 4.065_902_427_323_294).abs() < 1e-12);
        assert!((m.anisotropy.unwrap() - 0.328_968_940_555_121_4).abs() < 1e-12);
    }

    #[test]
    fn ranks_are_the_width_for_round_clouds_and_one_for_a_line() {
        let d = 6;
        let round: Vec<f64> = (0..2 * d)
            .flat_map(|i| {
                (0..d).map(move |j| {
                    if i / 2 == j {
                        if i % 2 == 0 { 1.0 } else { -1.0 }
                    } else {
                        0.0
                    }
                })
            })
            .collect();
        let m = of(d, round).unwrap();
        assert!(
            (m.effective_rank - 6.0).abs() < 1e-9 && (m.participation_ratio - 6.0).abs() < 1e-9
        );
        let line: Vec<f64> = (0..20)
            .flat_map(|i| [f64::from(i), 2.0 * f64::from(i), -f64::from(i)])
            .collect();
        let m = of(3, line).unwrap();
        assert!(
            (m.effective_rank - 1.0).abs() < 1e-5 && (m.participation_ratio - 1.0).abs() < 1e-9
        );
        assert!(
            (m.top_share - 1.0).abs() < 1e-12 && m.anisotropy.is_none(),
            "the first row is zero"
        );
    }

    #[test]
    fn rotation_changes_nothing_and_a_far_origin_only_the_anisotropy() {
        let (n, d) = (5000, 8);
        let x = normal(1, n * d);
        let (plain, turned) = (
            of(d, x.clone()).unwrap(),
            of(d, rotation(3, d, &x)).unwrap(),
        );
        let far = of(d, x.iter().map(|v| v + 1e4).collect()).unwrap();
        for (a, b) in plain
            .spectrum
            .iter()
            .zip(&turned.spectrum)
            .chain(plain.spectrum.iter().zip(&far.spectrum))
        {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        assert!((plain.anisotropy.unwrap() - turned.anisotropy.unwrap()).abs() < 1e-10);
        assert!(plain.anisotropy.unwrap().abs() < 0.01 && far.anisotropy.unwrap() > 0.999);
    }

    #[test]
    fn what_has_no_spectrum_has_a_reason() {
        assert!(matches!(
            of(3, [0.1, 0.2, 0.7].repeat(9)),
            Err(Reason::NoVariance { .. })
        ));
        assert!(matches!(
            of(3, vec![1.0, 2.0, 3.0]),
            Err(Reason::TooFewRows { rows: 1, needed: 2 })
        ));
        let mut values = normal(2, 12);
        values[7] = f64::NAN;
        assert!(matches!(
            of(3, values),
            Err(Reason::NotFinite { row: 2, .. })
        ));
    }
}
