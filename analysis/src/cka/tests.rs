//! CKA against O(n^2) textbook loops, numbers of published implementations, and laws.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::resample::{Resampling, resample};
use super::*;
use crate::source::{Memory, TapSource};
use crate::testing::{golden_x, golden_y, normal, rotation};

fn quiet(_: usize, _: usize) {}

fn memory(taps: &[(&str, usize, &[f64])]) -> Memory<f64> {
    Memory::new(
        taps.iter()
            .map(|(name, width, values)| ((*name).to_owned(), *width, values.to_vec()))
            .collect(),
    )
}

/// Both engines' linear CKA of two matrices.
fn linear(
    x: &[f64],
    dx: usize,
    y: &[f64],
    dy: usize,
    estimator: Estimator,
) -> [Result<f64, Reason>; 2] {
    let (a, b) = (memory(&[("x", dx, x)]), memory(&[("y", dy, y)]));
    let budget = Budget {
        block_bytes: 100,
        product_bytes: 8,
    };
    let of = |sums: Sums| {
        cka_of(
            sums.n,
            &sums.pairs[0],
            &sums.a[0],
            &sums.b[0],
            ["x", "y"],
            estimator,
        )
    };
    [
        of(feature_sums(&a, Some(&b), budget, &quiet).unwrap()),
        of(kernel_sums(&a, Some(&b), Kernel::Linear, 0, &quiet).unwrap()),
    ]
}

fn both(x: &[f64], dx: usize, y: &[f64], dy: usize, estimator: Estimator) -> f64 {
    let [feature, sample] = linear(x, dx, y, dy, estimator).map(Result::unwrap);
    assert!((feature - sample).abs() < 1e-10, "{feature} {sample}");
    feature
}

/// The textbook: whole Gram matrices, explicit centring or explicit sums.
fn oracle(k: &[Vec<f64>], l: &[Vec<f64>], estimator: Estimator) -> f64 {
    let n = k.len();
    let nf = n as f64;
    let hsic = |k: &[Vec<f64>], l: &[Vec<f64>]| -> f64 {
        let centre = |m: &[Vec<f64>]| -> Vec<Vec<f64>> {
            let rows: Vec<f64> = m.iter().map(|r| r.iter().sum::<f64>() / nf).collect();
            let all = rows.iter().sum::<f64>() / nf;
            (0..n)
                .map(|i| (0..n).map(|j| m[i][j] - rows[i] - rows[j] + all).collect())
                .collect()
        };
        let product = |k: &[Vec<f64>], l: &[Vec<f64>]| -> f64 {
            (0..n)
                .flat_map(|i| (0..n).map(move |j| (i, j)))
                .map(|(i, j)| k[i][j] * l[i][j])
                .sum()
        };
        match estimator {
            Estimator::Biased => product(&centre(k), &centre(l)) / (nf - 1.0).powi(2),
            Estimator::Debiased => {
                let hollow = |m: &[Vec<f64>]| -> Vec<Vec<f64>> {
                    (0..n)
                        .map(|i| (0..n).map(|j| if i == j { 0.0 } else { m[i][j] }).collect())
                        .collect()
                };
                let (k, l) = (hollow(k), hollow(l));
                let sum = |m: &[Vec<f64>]| -> f64 { m.iter().flatten().sum() };
                let kl: f64 = (0..n)
                    .map(|i| k[i].iter().sum::<f64>() * l[i].iter().sum::<f64>())
                    .sum();
                (product(&k, &l) + sum(&k) * sum(&l) / ((nf - 1.0) * (nf - 2.0))
                    - 2.0 / (nf - 2.0) * kl)
                    / (nf * (nf - 3.0))
            }
        }
    };
    hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()
}

fn gram_of(x: &[f64], d: usize, width: Option<f64>) -> Vec<Vec<f64>> {
    let rows: Vec<&[f64]> = x.chunks_exact(d).collect();
    let entry = |a: &[f64], b: &[f64]| match width {
        None => a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>(),
        Some(s) => {
            (-a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / (2.0 * s * s)).exp()
        }
    };
    rows.iter()
        .map(|a| rows.iter().map(|b| entry(a, b)).collect())
        .collect()
}

// import numpy as np
// i = np.arange(40)[:, None]
// X = np.sin(1 + 0.7*i + 1.3*np.arange(5) + 0.11*i*np.arange(5)) + 0.5
// Y = np.cos(0.3*i + 0.9*np.arange(7) + 0.05*i*np.arange(7)) + 0.2*X[:, :1]
// K, L = X@X.T, Y@Y.T
// # scikit-learn 1.9.1: c = lambda M: KernelCenterer().fit_transform(M)
// (c(K)*c(L)).sum() / np.sqrt((c(K)**2).sum() * (c(L)**2).sum())                       # 0.05666590070699239
// # the same with K = rbf_kernel(X, gamma=1/(2*1.5**2)), L = rbf_kernel(Y, gamma=1/(2*1.2**2)): 0.423753583506354
// # dcor 0.7: h = lambda a, b: u_product(u_centered(a), u_centered(b)), diagonals of K and L set to 0
// h(K, L) / np.sqrt(h(K, K) * h(L, L))               # linear -0.0712459837505727, rbf 0.19002733320755516
// np.median(scipy.spatial.distance.pdist(X))         # 2.241246747297665
#[test]
fn values_equal_published_implementations() {
    let (x, y) = (golden_x(), golden_y());
    assert!((both(&x, 5, &y, 7, Estimator::Biased) - 0.056_665_900_706_992_39).abs() < 1e-12);
    assert!((both(&x, 5, &y, 7, Estimator::Debiased) + 0.071_245_983_750_572_7).abs() < 1e-12);
    // Two widths: each side by its own sums, the pair's product by hand.
    for (estimator, expected) in [
        (Estimator::Biased, 0.423_753_583_506_354),
        (Estimator::Debiased, 0.190_027_333_207_555_16),
    ] {
        let (k, l) = (gram_of(&x, 5, Some(1.5)), gram_of(&y, 7, Some(1.2)));
        assert!((oracle(&k, &l, estimator) - expected).abs() < 1e-12);
        // Features over their width have the same kernel at width 1.
        let scaled = |v: &[f64], s: f64| v.iter().map(|v| v / s).collect::<Vec<_>>();
        let (a, b) = (
            memory(&[("x", 5, &scaled(&x, 1.5))]),
            memory(&[("y", 7, &scaled(&y, 1.2))]),
        );
        let sums = kernel_sums(&a, Some(&b), Kernel::RbfWidth { width: 1.0 }, 0, &quiet).unwrap();
        let value = cka_of(
            40,
            &sums.pairs[0],
            &sums.a[0],
            &sums.b[0],
            ["x", "y"],
            estimator,
        )
        .unwrap();
        assert!((value - expected).abs() < 1e-12, "{value}");
    }
    let median = median_distance(&memory(&[("x", 5, &x)]), 0, 0).unwrap();
    assert!((median - 2.241_246_747_297_665).abs() < 1e-12);
}

#[test]
fn blocks_of_the_gram_matrix_equal_the_whole() {
    // More rows than one block holds, and a rest.
    let (n, dx, dy) = (1100, 3, 2);
    let x = normal(1, n * dx);
    let y: Vec<f64> = normal(2, n * dy)
        .iter()
        .enumerate()
        .map(|(i, v)| v + 3.0 + x[(i / dy) * dx])
        .collect();
    for estimator in [Estimator::Biased, Estimator::Debiased] {
        let expected = oracle(&gram_of(&x, dx, None), &gram_of(&y, dy, None), estimator);
        assert!((both(&x, dx, &y, dy, estimator) - expected).abs() < 1e-10);
        let (a, b) = (memory(&[("x", dx, &x)]), memory(&[("y", dy, &y)]));
        let sums = kernel_sums(&a, Some(&b), Kernel::RbfWidth { width: 1.7 }, 0, &quiet).unwrap();
        let value = cka_of(
            n,
            &sums.pairs[0],
            &sums.a[0],
            &sums.b[0],
            ["x", "y"],
            estimator,
        )
        .unwrap();
        let expected = oracle(
            &gram_of(&x, dx, Some(1.7)),
            &gram_of(&y, dy, Some(1.7)),
            estimator,
        );
        assert!((value - expected).abs() < 1e-10, "{value} {expected}");
    }
}

#[test]
fn f32_features_give_the_values_of_f64_even_far_from_the_origin() {
    let (n, d) = (3000, 16);
    let x: Vec<f32> = normal(3, n * d)
        .iter()
        .map(|v| (*v + 30.0) as f32)
        .collect();
    let y: Vec<f32> = normal(4, n * d)
        .iter()
        .zip(&x)
        .map(|(v, x)| (*v + f64::from(*x)) as f32)
        .collect();
    let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let exact = both(&wide(&x), d, &wide(&y), d, Estimator::Debiased);
    let narrow = |name: &str, v: &[f32]| Memory::new(vec![(name.to_owned(), d, v.to_vec())]);
    let (a, b) = (narrow("x", &x), narrow("y", &y));
    for sums in [
        feature_sums(&a, Some(&b), Budget::default(), &quiet).unwrap(),
        kernel_sums(&a, Some(&b), Kernel::Linear, 0, &quiet).unwrap(),
    ] {
        let value = cka_of(
            n,
            &sums.pairs[0],
            &sums.a[0],
            &sums.b[0],
            ["x", "y"],
            Estimator::Debiased,
        )
        .unwrap();
        assert!((value - exact).abs() < 2e-6, "{value} {exact}");
    }
}

#[test]
fn a_table_against_itself_equals_the_table_of_two() {
    let n = 60;
    let taps = [normal(5, n * 4), normal(6, n * 3), normal(7, n * 5)];
    let a = memory(&[("p", 4, &taps[0]), ("q", 3, &taps[1]), ("r", 5, &taps[2])]);
    for kernel in [Kernel::Linear, Kernel::Rbf { fraction: 0.8 }] {
        let two = kernel_sums(&a, Some(&a), kernel, 0, &quiet).unwrap();
        let mut ones = vec![kernel_sums(&a, None, kernel, 0, &quiet).unwrap()];
        if kernel == Kernel::Linear {
            // Passes that hold one product at a time.
            ones.push(
                feature_sums(
                    &a,
                    None,
                    Budget {
                        block_bytes: 1,
                        product_bytes: 1,
                    },
                    &quiet,
                )
                .unwrap(),
            );
            ones.push(feature_sums(&a, Some(&a), Budget::default(), &quiet).unwrap());
        }
        for one in ones {
            for at in 0..9 {
                let value = |sums: &Sums| {
                    let (p, q) = (&sums.a[at / 3], &sums.b[at % 3]);
                    cka_of(n, &sums.pairs[at], p, q, ["", ""], Estimator::Debiased).unwrap()
                };
                assert!((value(&two) - value(&one)).abs() < 1e-10, "{at}");
            }
        }
    }
}

#[test]
fn what_cannot_be_compared_has_a_reason_and_the_rest_a_value() {
    let n = 50;
    let (x, mut bad, flat) = (normal(8, n * 3), normal(9, n * 3), vec![0.1; n * 2]);
    bad[17 * 3 + 1] = f64::NAN;
    let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<f32>>();
    let source = |rows: usize| {
        let cut = |v: &[f64], d: usize| narrow(&v[..rows * d]);
        Memory::new(vec![
            ("good".into(), 3, cut(&x, 3)),
            ("flat".into(), 2, cut(&flat, 2)),
            ("bad".into(), 3, cut(&bad, 3)),
        ])
    };
    for kernel in [Kernel::Linear, Kernel::Rbf { fraction: 0.5 }] {
        for estimator in [Estimator::Biased, Estimator::Debiased] {
            let options = CkaOptions {
                kernel,
                estimator,
                minibatch: Some(10),
                ..CkaOptions::default()
            };
            let cells = matrix::cka(&source(n), None, &options, &|_, _, _| ()).unwrap();
            assert!((cells[0].cka.unwrap() - 1.0).abs() < 1e-6, "{:?}", cells[0]);
            assert_eq!(
                cells[1].reason,
                Some(Reason::NoVariance { tap: "flat".into() }),
                "{kernel:?} {estimator:?}"
            );
            assert_eq!(
                cells[2].reason,
                Some(Reason::NotFinite {
                    tap: "bad".into(),
                    row: 17
                })
            );
            assert!(
                cells[1..]
                    .iter()
                    .all(|c| c.cka.is_none() && c.interval.is_none() && c.reason.is_some())
            );
            let few = matrix::cka(&source(1), None, &options, &|_, _, _| ()).unwrap();
            assert!(matches!(
                few[0].reason,
                Some(Reason::TooFewRows { rows: 1, .. })
            ));
            let none = matrix::cka(&source(0), None, &options, &|_, _, _| ()).unwrap();
            assert!(matches!(
                none[0].reason,
                Some(Reason::TooFewRows { rows: 0, .. })
            ));
        }
    }
}

#[test]
fn one_minibatch_of_all_rows_is_the_whole_and_many_come_near() {
    let (n, d) = (400, 4);
    let x = normal(10, n * d);
    let y: Vec<f64> = normal(11, n * d)
        .iter()
        .zip(&x)
        .map(|(v, x)| v + x)
        .collect();
    let (a, b) = (memory(&[("x", d, &x)]), memory(&[("y", d, &y)]));
    let whole = both(&x, d, &y, d, Estimator::Debiased);
    let mini = |batch| {
        minibatch_cka(&a, &b, Kernel::Linear, batch, 0, &quiet)
            .unwrap()
            .remove(0)
    };
    assert!((mini(n).unwrap() - whole).abs() < 1e-10);
    assert!(
        (mini(50).unwrap() - whole).abs() < 0.1,
        "{:?} {whole}",
        mini(50)
    );
    assert!(matches!(
        mini(401),
        Err(Reason::TooFewRows {
            rows: 400,
            needed: 401
        })
    ));
    assert!(matches!(
        mini(3),
        Err(Reason::TooFewRows { rows: 3, needed: 4 })
    ));
    // Nguyen et al., eq. 4: means of unbiased HSIC over the batches, here of equal halves by hand.
    let halves = minibatch_cka(&a, &a, Kernel::Linear, n / 2, 0, &quiet)
        .unwrap()
        .remove(0)
        .unwrap();
    assert!((halves - 1.0).abs() < 1e-12);
}

#[test]
fn independent_features_are_near_zero_debiased_and_far_from_it_biased() {
    let (n, d) = (64, 768);
    let (x, y) = (normal(12, n * d), normal(13, n * d));
    assert!(both(&x, d, &y, d, Estimator::Debiased).abs() < 0.06);
    assert!(both(&x, d, &y, d, Estimator::Biased) > 0.85);
}

#[test]
fn null_and_interval_tell_chance_from_similarity() {
    let (n, d) = (300, 8);
    let x: Vec<f32> = normal(14, n * d).iter().map(|v| *v as f32).collect();
    let y: Vec<f32> = normal(15, n * d)
        .iter()
        .zip(&x)
        .map(|(v, x)| *v as f32 + 0.7 * x)
        .collect();
    let z: Vec<f32> = normal(16, n * d).iter().map(|v| *v as f32).collect();
    let a = Memory::new(vec![("x".into(), d, x)]);
    let b = Memory::new(vec![("y".into(), d, y), ("z".into(), d, z)]);
    let options = Resampling {
        rows: 200,
        ..Resampling::default()
    };
    let found = resample(
        &a,
        Some(&b),
        Kernel::Linear,
        Estimator::Debiased,
        &options,
        &quiet,
    )
    .unwrap();
    let [related, unrelated] = [found[0].unwrap(), found[1].unwrap()];
    assert!(related.p_value.unwrap() < 0.02 && unrelated.p_value.unwrap() > 0.02);
    assert!(related.null_mean.unwrap().abs() < 0.02, "{related:?}");
    assert!(related.subsample > related.null_high.unwrap());
    let [low, high] = related.spread.unwrap();
    assert!(low < 0.0 && high > 0.0 && high - low < 0.3);
    // All rows, unpermuted: the subsample is the sample.
    let all = Resampling {
        rows: 300,
        permutations: 0,
        halves: 0,
        ..options
    };
    let whole = resample(
        &a,
        Some(&b),
        Kernel::Linear,
        Estimator::Debiased,
        &all,
        &quiet,
    )
    .unwrap()[0]
        .unwrap();
    let sums = feature_sums(&a, Some(&b), Budget::default(), &quiet).unwrap();
    let exact = cka_of(
        n,
        &sums.pairs[0],
        &sums.a[0],
        &sums.b[0],
        ["x", "y"],
        Estimator::Debiased,
    )
    .unwrap();
    assert!((whole.subsample - exact).abs() < 1e-5 && whole.p_value.is_none());
}

#[test]
fn intervals_widen_with_fewer_clusters_and_cover_the_spread_of_samples() {
    // The standard error that half-samples give beside the spread of independent samples.
    let (n, d) = (200, 4);
    let sample = |seed: u64| {
        let x: Vec<f32> = normal(seed, n * d).iter().map(|v| *v as f32).collect();
        let y: Vec<f32> = normal(seed + 1000, n * d)
            .iter()
            .zip(&x)
            .map(|(v, x)| *v as f32 + x)
            .collect();
        (
            Memory::new(vec![("x".into(), d, x)]),
            Memory::new(vec![("y".into(), d, y)]),
        )
    };
    let options = Resampling {
        rows: n,
        permutations: 0,
        halves: 200,
        ..Resampling::default()
    };
    let of = |seed: u64| {
        let (a, b) = sample(seed);
        resample(
            &a,
            Some(&b),
            Kernel::Linear,
            Estimator::Debiased,
            &options,
            &quiet,
        )
        .unwrap()[0]
            .unwrap()
    };
    let found: Vec<_> = (0..40).map(|seed| of(20 + seed)).collect();
    let mean = found.iter().map(|c| c.subsample).sum::<f64>() / 40.0;
    let deviation = (found
        .iter()
        .map(|c| (c.subsample - mean).powi(2))
        .sum::<f64>()
        / 39.0)
        .sqrt();
    let width = found
        .iter()
        .map(|c| c.spread.unwrap())
        .map(|[low, high]| high - low)
        .sum::<f64>()
        / 40.0;
    let ratio = width / (2.0 * 1.96 * deviation);
    assert!((0.6..1.6).contains(&ratio), "{ratio}");
    // Ten clusters of equal rows say less than two hundred rows.
    let few: Vec<f32> = normal(90, 10 * d).iter().map(|v| *v as f32).collect();
    let repeated: Vec<f32> = (0..n)
        .flat_map(|i| few[(i / 20) * d..(i / 20 + 1) * d].to_vec())
        .collect();
    let noisy: Vec<f32> = normal(91, n * d)
        .iter()
        .zip(&repeated)
        .map(|(v, x)| 0.1 * *v as f32 + x)
        .collect();
    let b = Memory::new(vec![("y".into(), d, noisy)]);
    let spread = |clusters: Vec<usize>| {
        let a = Memory::new(vec![("x".into(), d, repeated.clone())]).with_clusters(clusters);
        let c = resample(
            &a,
            Some(&b),
            Kernel::Linear,
            Estimator::Debiased,
            &options,
            &quiet,
        )
        .unwrap()[0]
            .unwrap();
        let [low, high] = c.spread.unwrap();
        high - low
    };
    assert!(spread((0..n).map(|i| i / 20).collect()) > 0.0 && a_is_cluster(&b));
    assert!(spread((0..n).map(|i| i / 20).collect()) >= spread((0..n).collect()));
}

fn a_is_cluster(source: &Memory<f32>) -> bool {
    source.cluster(3) == 3
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn laws(n in 8_usize..40, dx in 1_usize..6, dy in 1_usize..6, seed in 0_u64..1000, scale in 0.01_f64..100.0) {
        let x = normal(seed, n * dx);
        let y: Vec<f64> = normal(seed + 1, n * dy)
            .iter()
            .enumerate()
            .map(|(i, v)| v + x[(i / dy) * dx])
            .collect();
        for estimator in [Estimator::Biased, Estimator::Debiased] {
            let Ok(value) = linear(&x, dx, &y, dy, estimator)[0].clone() else { continue };
            let expected = oracle(&gram_of(&x, dx, None), &gram_of(&y, dy, None), estimator);
            prop_assert!((value - expected).abs() < 1e-10 * expected.abs().max(1.0), "{value} {expected}");
            prop_assert!((both(&y, dy, &x, dx, estimator) - value).abs() < 1e-10);
            prop_assert!((both(&x, dx, &x, dx, estimator) - 1.0).abs() < 1e-10);
            // The inner product of U-centred matrices obeys Cauchy-Schwarz too: -1 to 1; centred ones are never below 0.
            let least = if estimator == Estimator::Biased { 0.0 } else { -1.0 };
            prop_assert!(value <= 1.0 + 1e-10 && value >= least - 1e-10);
            let moved: Vec<f64> = rotation(seed, dx, &x).iter().enumerate().map(|(i, v)| v * scale + (i % dx) as f64).collect();
            prop_assert!((both(&moved, dx, &y, dy, estimator) - value).abs() < 1e-7, "rotation, scale and shift");
        }
    }
}
