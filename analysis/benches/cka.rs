//! Criterion benches of CKA: `cargo bench -p tcd-analysis`.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;
use tcd_analysis::cka::{Budget, Kernel, feature_sums, kernel_sums};
use tcd_analysis::similarity::{MEASURES, Prepared};
use tcd_analysis::source::Memory;

fn source(seed: u64, rows: usize, width: usize, layers: usize) -> Memory<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tap = |l: usize| {
        (
            format!("layer.{l}.trunk"),
            width,
            (0..rows * width).map(|_| rng.random::<f32>()).collect(),
        )
    };
    Memory::new((0..layers).map(&mut tap).collect())
}

fn cka(c: &mut Criterion) {
    let mut group = c.benchmark_group("cka");
    group.sample_size(10);
    for (rows, width, layers) in [(4096, 128, 4), (1024, 768, 4)] {
        let (a, b) = (
            source(1, rows, width, layers),
            source(2, rows, width, layers),
        );
        group.throughput(Throughput::Elements((layers * layers) as u64));
        let id = format!("{rows}x{width}x{layers}");
        group.bench_with_input(BenchmarkId::new("feature", &id), &(), |bencher, ()| {
            bencher.iter(|| {
                black_box(feature_sums(&a, Some(&b), Budget::default(), &|_, _| ()).unwrap())
            });
        });
        for (name, kernel) in [
            ("sample", Kernel::Linear),
            ("rbf", Kernel::RbfWidth { width: 8.0 }),
        ] {
            group.bench_with_input(BenchmarkId::new(name, &id), &kernel, |bencher, &kernel| {
                bencher
                    .iter(|| black_box(kernel_sums(&a, Some(&b), kernel, 0, &|_, _| ()).unwrap()));
            });
        }
    }
    group.finish();
}

fn measures(c: &mut Criterion) {
    let mut group = c.benchmark_group("measures");
    group.sample_size(10);
    let (rows, width) = (512, 128);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut values = || {
        (0..rows * width)
            .map(|_| rng.random::<f64>())
            .collect::<Vec<f64>>()
    };
    let (x, y) = (values(), values());
    for m in &MEASURES {
        group.bench_function(
            BenchmarkId::new(m.name, format!("{rows}x{width}")),
            |bencher| {
                // Prepared anew each time: what measures share is part of the cost of the first.
                bencher.iter(|| {
                    let (x, y) = (
                        Prepared::new("x", width, x.clone()),
                        Prepared::new("y", width, y.clone()),
                    );
                    black_box(m.compute(&x, &y).unwrap())
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, cka, measures);
criterion_main!(benches);
