//! Every measure against published implementations, and the laws that its row of the table states.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::testing::{golden_x, golden_y, normal, rotation};

fn prepared(d: usize, values: &[f64]) -> Prepared {
    Prepared::new("t", d, values.to_vec())
}

fn value(name: &str, x: &Prepared, y: &Prepared) -> f64 {
    measure(name).unwrap().compute(x, y).unwrap()
}

// X and Y as in the tests of CKA; scipy 1.17.1
// np.sqrt(1 - scipy.spatial.procrustes(np.hstack([X, np.zeros((40, 2))]), Y)[2])                 # 0.18285268086011996
// np.cos(scipy.linalg.subspace_angles(X - X.mean(0), Y - Y.mean(0))).mean()                     # 0.3981075988244647
// spearmanr(pdist(X, 'correlation'), pdist(Y, 'correlation'))[0]                               # -0.12958856580328673
#[test]
fn values_equal_published_implementations() {
    let (x, y) = (prepared(5, &golden_x()), prepared(7, &golden_y()));
    assert!((value("procrustes", &x, &y) - 0.182_852_680_860_119_96).abs() < 1e-12);
    assert!((value("rsa", &x, &y) + 0.129_588_565_803_286_73).abs() < 1e-12);
    assert!((value("cka", &x, &y) + 0.071_245_983_750_572_7).abs() < 1e-12);
    // X needs all of its five directions for 99 % of its variance; Y keeps those that scipy is given here in full.
    if x.directions().unwrap().ncols() == 5 && y.directions().unwrap().ncols() == 7 {
        assert!((value("svcca", &x, &y) - 0.398_107_598_824_464_7).abs() < 1e-10);
    }
    let all: Vec<f64> = y.svd().unwrap().s.clone();
    assert_eq!(all.len(), 7);
}

#[test]
fn canonical_correlations_equal_those_of_the_covariances() {
    // Two by two: roots of det(Sxy Syy^-1 Syx - r^2 Sxx) by hand.
    let n = 30;
    let x = normal(1, n * 2);
    let y: Vec<f64> = normal(2, n * 2)
        .iter()
        .zip(&x)
        .map(|(a, b)| a + b)
        .collect();
    let (px, py) = (prepared(2, &x), prepared(2, &y));
    assert_eq!(
        (
            px.directions().unwrap().ncols(),
            py.directions().unwrap().ncols()
        ),
        (2, 2)
    );
    let covariance = |a: &Prepared, b: &Prepared| {
        let m = a.centred().unwrap().transpose() * b.centred().unwrap();
        [m[(0, 0)], m[(0, 1)], m[(1, 0)], m[(1, 1)]]
    };
    let inverse = |m: [f64; 4]| {
        let det = m[0] * m[3] - m[1] * m[2];
        [m[3] / det, -m[1] / det, -m[2] / det, m[0] / det]
    };
    let times = |a: [f64; 4], b: [f64; 4]| {
        [
            a[0] * b[0] + a[1] * b[2],
            a[0] * b[1] + a[1] * b[3],
            a[2] * b[0] + a[3] * b[2],
            a[2] * b[1] + a[3] * b[3],
        ]
    };
    let (xx, yy, xy, yx) = (
        covariance(&px, &px),
        covariance(&py, &py),
        covariance(&px, &py),
        covariance(&py, &px),
    );
    let m = times(times(inverse(xx), xy), times(inverse(yy), yx));
    let (trace, det) = (m[0] + m[3], m[0] * m[3] - m[1] * m[2]);
    let root = (trace * trace / 4.0 - det).sqrt();
    let expected = f64::midpoint((trace / 2.0 + root).sqrt(), (trace / 2.0 - root).sqrt());
    assert!((value("svcca", &px, &py) - expected).abs() < 1e-10);
}

#[test]
fn relation_distance_equals_the_loop_over_pairs() {
    let (n, dx, dy) = (12, 4, 6);
    let (x, y) = (normal(3, n * dx), normal(4, n * dy));
    let cosine = |v: &[f64], d: usize, i: usize, j: usize| {
        let row = |i: usize| {
            let row = &v[i * d..(i + 1) * d];
            let mean = row.iter().sum::<f64>() / d as f64;
            row.iter().map(|v| v - mean).collect::<Vec<_>>()
        };
        let (a, b) = (row(i), row(j));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    let mut sum = 0.0;
    for i in 0..n {
        for j in (0..n).filter(|j| *j != i) {
            sum += (cosine(&x, dx, i, j) - cosine(&y, dy, i, j)).powi(2);
        }
    }
    let expected = sum / (n * (n - 1)) as f64;
    assert!((value("relation", &prepared(dx, &x), &prepared(dy, &y)) - expected).abs() < 1e-13);
}

#[test]
fn ranks_share_ties() {
    assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    assert!(ranks(&[]).is_empty());
}

#[test]
fn what_has_no_value_has_a_reason() {
    let n = 10;
    let good = prepared(3, &normal(5, n * 3));
    let flat = prepared(3, &[0.3, 0.1, 0.7].repeat(n));
    let mut values = normal(6, n * 3);
    values[4] = f64::INFINITY;
    let bad = prepared(3, &values);
    for m in &MEASURES {
        assert!(
            matches!(
                m.compute(&good, &bad),
                Err(Reason::NotFinite { row: 1, .. })
            ),
            "{}",
            m.name
        );
        if m.name != "relation" {
            assert!(m.compute(&flat, &good).is_err(), "{}", m.name);
        }
        let few = prepared(3, &normal(7, 3));
        assert!(
            matches!(
                m.compute(&few, &few),
                Err(Reason::TooFewRows { rows: 1, .. })
            ),
            "{}",
            m.name
        );
    }
    let cells = similarity(&[&MEASURES[0]], &[good], &[flat], Pairs::All, &|_, _| ());
    assert!(cells[0].value.is_none() && cells[0].reason.is_some());
}

#[test]
fn names_are_unique_and_found() {
    for (i, m) in MEASURES.iter().enumerate() {
        assert_eq!(MEASURES.iter().position(|o| o.name == m.name), Some(i));
        assert!(measure(m.name).is_some() && !m.description.is_empty() && m.range.0 < m.range.1);
    }
    assert!(measure("ccka").is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_measure_keeps_the_laws_of_its_row(n in 12_usize..30, dx in 3_usize..6, dy in 3_usize..6, seed in 0_u64..500) {
        let x = normal(seed, n * dx);
        let y: Vec<f64> = normal(seed + 1, n * dy).iter().enumerate().map(|(i, v)| v + x[(i / dy) * dx]).collect();
        let (px, py) = (prepared(dx, &x), prepared(dy, &y));
        let scaled = prepared(dx, &x.iter().map(|v| v * 7.5).collect::<Vec<_>>());
        let turned = prepared(dx, &rotation(seed, dx, &x));
        for m in &MEASURES {
            let value = m.compute(&px, &py).unwrap();
            prop_assert!(value >= m.range.0 - 1e-9 && value <= m.range.1 + 1e-9, "{}: {value}", m.name);
            prop_assert!((m.compute(&px, &px).unwrap() - m.identity).abs() < 1e-9, "{}: identity", m.name);
            if m.symmetric {
                prop_assert!((m.compute(&py, &px).unwrap() - value).abs() < 1e-9, "{}: symmetry", m.name);
            }
            if m.scale {
                prop_assert!((m.compute(&scaled, &py).unwrap() - value).abs() < 1e-9, "{}: scale", m.name);
            }
            if m.rotation {
                prop_assert!((m.compute(&turned, &py).unwrap() - value).abs() < 1e-8, "{}: rotation", m.name);
            }
        }
    }
}
