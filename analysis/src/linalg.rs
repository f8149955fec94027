//! Dense products and decompositions over `faer`, on row-major slices, in f32 and f64.
//!
//! A matrix `[n, d]` is a slice of `n * d` values, row by row. Decompositions are always in f64.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

/// What measures compute on: f32 as features are stored, f64 for references.
pub trait Real: faer::traits::ComplexField + Copy + Send + Sync + 'static {
    /// The nearest value.
    fn of(value: f64) -> Self;
    /// The value, exactly.
    fn wide(self) -> f64;
    /// The same values where they are f32.
    fn singles(values: &[Self]) -> Option<&[f32]>;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn singles(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
    fn singles(_: &[f64]) -> Option<&[f32]> {
        None
    }
}

/// A decomposition did not converge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} of a matrix did not converge")]
pub struct NoConvergence(pub &'static str);

/// `out = x^T y` on this thread: `x` `[n, p]`, `y` `[n, q]`, `out` `[p, q]`. With `lower` only the lower triangle (and what is
/// cheap beside it) is written.
pub(crate) fn cross<T: Real>(out: &mut [T], x: &[T], y: &[T], n: usize, lower: bool) {
    if n == 0 {
        out.fill(T::of(0.0));
        return;
    }
    let (p, q) = (x.len() / n, y.len() / n);
    let xm = MatRef::from_row_major_slice(x, n, p).transpose();
    let ym = MatRef::from_row_major_slice(y, n, q);
    let into = MatMut::from_row_major_slice_mut(out, p, q);
    if lower {
        let (part, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        triangular::matmul(
            into,
            part,
            Accum::Replace,
            xm,
            whole,
            ym,
            whole,
            T::of(1.0),
            Par::Seq,
        );
    } else {
        matmul(into, Accum::Replace, xm, ym, T::of(1.0), Par::Seq);
    }
}

/// `out = x y^T` on this thread: `x` `[n, d]`, `y` `[m, d]`, `out` `[n, m]`.
pub(crate) fn gram<T: Real>(out: &mut [T], x: &[T], y: &[T], d: usize) {
    let (n, m) = (x.len() / d, y.len() / d);
    let xm = MatRef::from_row_major_slice(x, n, d);
    let ym = MatRef::from_row_major_slice(y, m, d).transpose();
    matmul(
        MatMut::from_row_major_slice_mut(out, n, m),
        Accum::Replace,
        xm,
        ym,
        T::of(1.0),
        Par::Seq,
    );
}

/// `out = left right^T` over columns `range` of `left` `[p, length]` and `right` `[q, length]`, on this thread; `out` `[p, q]`.
pub(crate) fn products<T: Real>(
    out: &mut [T],
    left: &[T],
    right: &[T],
    length: usize,
    range: std::ops::Range<usize>,
) {
    let (p, q) = (left.len() / length, right.len() / length);
    let (at, n) = (range.start, range.len());
    let l = MatRef::from_row_major_slice(left, p, length).subcols(at, n);
    let r = MatRef::from_row_major_slice(right, q, length)
        .subcols(at, n)
        .transpose();
    matmul(
        MatMut::from_row_major_slice_mut(out, p, q),
        Accum::Replace,
        l,
        r,
        T::of(1.0),
        Par::Seq,
    );
}

/// Adds `x^T y` of `[n, p]` and `[n, q]` to f64 `acc` `[p, q]`, in runs of at most `run` rows that are summed in `T`.
pub(crate) fn add_cross<T: Real>(
    acc: &mut [f64],
    x: &[T],
    y: &[T],
    n: usize,
    run: usize,
    buffer: &mut Vec<T>,
    lower: bool,
) {
    let (p, q) = (x.len() / n.max(1), y.len() / n.max(1));
    buffer.resize(p * q, T::of(0.0));
    let mut at = 0;
    while at < n {
        let end = (at + run).min(n);
        cross(
            buffer,
            &x[at * p..end * p],
            &y[at * q..end * q],
            end - at,
            lower,
        );
        if lower {
            for i in 0..p {
                let row = i * q..i * q + i + 1;
                for (a, b) in acc[row.clone()].iter_mut().zip(&buffer[row]) {
                    *a += b.wide();
                }
            }
        } else {
            for (a, b) in acc.iter_mut().zip(buffer.iter()) {
                *a += b.wide();
            }
        }
        at = end;
    }
}

/// A matrix `[n, d]` as `faer` has it.
pub fn matrix(values: &[f64], n: usize, d: usize) -> Mat<f64> {
    MatRef::from_row_major_slice(values, n, d).to_owned()
}

/// Singular values, largest first.
pub fn singular_values(m: MatRef<'_, f64>) -> Result<Vec<f64>, NoConvergence> {
    m.singular_values()
        .map_err(|_| NoConvergence("singular values"))
}

/// Thin singular value decomposition: `u` `[n, r]`, `s` `[r]` largest first, `v` `[d, r]`, `r = min(n, d)`.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left singular vectors, by column.
    pub u: Mat<f64>,
    /// Singular values, largest first.
    pub s: Vec<f64>,
    /// Right singular vectors, by column.
    pub v: Mat<f64>,
}

/// The thin singular value decomposition of `m`.
pub fn svd(m: MatRef<'_, f64>) -> Result<Svd, NoConvergence> {
    let svd = m
        .thin_svd()
        .map_err(|_| NoConvergence("singular value decomposition"))?;
    let s = svd.S().column_vector().iter().copied().collect();
    Ok(Svd {
        u: svd.U().to_owned(),
        s,
        v: svd.V().to_owned(),
    })
}

/// Eigenvalues (largest first) and eigenvectors (by column) of a symmetric matrix of which the lower triangle is read.
pub fn symmetric_eigen(m: MatRef<'_, f64>) -> Result<(Vec<f64>, Mat<f64>), NoConvergence> {
    let eigen = m
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| NoConvergence("eigenvalues"))?;
    let (values, vectors) = (eigen.S().column_vector(), eigen.U());
    let (n, d) = (vectors.nrows(), vectors.ncols());
    let sorted: Vec<f64> = (0..d).rev().map(|j| values[j]).collect();
    Ok((sorted, Mat::from_fn(n, d, |i, j| vectors[(i, d - 1 - j)])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn products_equal_loops_and_triangles_agree() {
        let (n, p, q) = (7, 3, 4);
        let x: Vec<f64> = (0..n * p).map(|i| (i as f64 * 0.7).sin()).collect();
        let y: Vec<f64> = (0..n * q).map(|i| (i as f64 * 0.3).cos()).collect();
        let (mut acc, mut buffer) = (vec![0.0; p * q], Vec::new());
        add_cross(&mut acc, &x, &y, n, 2, &mut buffer, false);
        for i in 0..p {
            for j in 0..q {
                let naive: f64 = (0..n).map(|t| x[t * p + i] * y[t * q + j]).sum();
                assert!((acc[i * q + j] - naive).abs() < 1e-13);
            }
        }
        let (mut full, mut lower) = (vec![0.0; p * p], vec![0.0; p * p]);
        add_cross(&mut full, &x, &x, n, 3, &mut buffer, false);
        add_cross(&mut lower, &x, &x, n, 3, &mut buffer, true);
        for i in 0..p {
            for j in 0..=i {
                assert!((full[i * p + j] - lower[i * p + j]).abs() < 1e-13);
            }
        }
        let mut g = vec![0.0; n * n];
        gram(&mut g, &x, &x, p);
        let naive: f64 = (0..p).map(|c| x[c] * x[2 * p + c]).sum();
        assert!((g[2] - naive).abs() < 1e-13 && (g[2 * n] - naive).abs() < 1e-13);
    }

    #[test]
    fn decompositions_rebuild_their_matrix() {
        let m = matrix(&[2.0, 1.0, 0.0, 1.0, 3.0, 1.0, 0.0, 1.0, 4.0], 3, 3);
        let (values, vectors) = symmetric_eigen(m.as_ref()).unwrap();
        assert!(values[0] >= values[1] && values[1] >= values[2]);
        let diagonal = Mat::from_fn(3, 3, |i, j| if i == j { values[i] } else { 0.0 });
        let back = &vectors * &diagonal * vectors.transpose();
        assert!((&back - &m).norm_max() < 1e-12);
        let found = svd(m.as_ref()).unwrap();
        assert_eq!(found.s.len(), 3);
        assert!(
            (found.s[0] - values[0]).abs() < 1e-12,
            "positive definite: singular values are eigenvalues"
        );
        assert_eq!(singular_values(m.as_ref()).unwrap().len(), 3);
    }
}
