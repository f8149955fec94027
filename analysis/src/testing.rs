//! Data for the tests of this crate.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Independent standard normal numbers (Box and Muller).
pub fn normal(seed: u64, count: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        })
        .collect()
}

/// `[40, 5]`: `sin(1 + 0.7 i + 1.3 j + 0.11 i j) + 0.5`.
pub fn golden_x() -> Vec<f64> {
    let value = |i: f64, j: f64| (1.0 + 0.7 * i + 1.3 * j + 0.11 * i * j).sin() + 0.5;
    (0..40)
        .flat_map(|i| (0..5).map(move |j| value(f64::from(i), f64::from(j))))
        .collect()
}

/// `[40, 7]`: `cos(0.3 i + 0.9 j + 0.05 i j) + 0.2 x_i0`.
pub fn golden_y() -> Vec<f64> {
    let x = golden_x();
    let value = |i: f64, j: f64| (0.3 * i + 0.9 * j + 0.05 * i * j).cos();
    let x = &x;
    (0..40_usize)
        .flat_map(|i| (0..7).map(move |j| value(i as f64, f64::from(j)) + 0.2 * x[i * 5]))
        .collect()
}

/// Rows of `x` `[n, d]` under a random rotation (or reflection): a product of Householder reflections.
pub fn rotation(seed: u64, d: usize, x: &[f64]) -> Vec<f64> {
    let mut out = x.to_vec();
    for k in 0..d as u64 {
        let v = normal(seed * 31 + k, d);
        let square: f64 = v.iter().map(|v| v * v).sum();
        for row in out.chunks_exact_mut(d) {
            let dot: f64 = row.iter().zip(&v).map(|(r, v)| r * v).sum();
            row.iter_mut()
                .zip(&v)
                .for_each(|(r, v)| *r -= 2.0 * dot / square * v);
        }
    }
    out
}
