//! The baselines' losses against loops written for reading, on features that the test makes, f64.

use tcd::data::batch::Batch;
use tcd::distill::config::Positions;
use tcd::distill::method::{Projections, Side, View, row};
use tcd::distill::sample::{Sample, Sampler};
use tcd::distill::{DistillConfig, Group, Method};
use tcd::model::{Initialisation, Store, StoreOptions, Tap, Taps};
use tcd_export::ModelConfig;
use tch::{Device, Kind, Tensor};

use crate::numeric::check_gradient;

const B: i64 = 2;
const S: i64 = 5;
/// Real tokens of each row.
const LENGTHS: [usize; 2] = [5, 3];

fn values(shape: &[i64], phase: f64) -> Tensor {
    let n: i64 = shape.iter().product();
    let x = Tensor::arange(n, (Kind::Double, Device::Cpu));
    ((&x * 1.3 + phase).sin() + (&x * 0.41 + 2.0 * phase).cos() * 0.5).view(shape)
}

/// Hidden states of one layer with `heads` heads of `size`.
fn taps(heads: i64, size: i64, phase: f64) -> Taps {
    let hidden = |p: f64| values(&[B, S, heads * size], phase + p);
    let split = |p: f64| values(&[B, heads, S, size], phase + p);
    Taps::from([
        (Tap::Embedding, hidden(0.1)),
        (Tap::Trunk(0), hidden(0.2)),
        (Tap::AttentionInner(0), hidden(0.3)),
        (Tap::FeedForwardInner(0), hidden(0.4)),
        (Tap::Query(0), split(0.5)),
        (Tap::Key(0), split(0.6)),
        (Tap::Value(0), split(0.7)),
    ])
}

/// The same with another tensor at one tap.
fn replaced(taps: &Taps, tap: Tap, x: &Tensor) -> Taps {
    let kept = taps.iter().map(|(t, value)| (*t, value.shallow_clone()));
    let mut taps: Taps = kept.collect();
    taps.insert(tap, x.shallow_clone());
    taps
}

fn sample() -> Sample {
    let mask = LENGTHS.map(|n| (0..S as usize).map(move |i| i64::from(i < n)));
    let batch = Batch {
        batch: B as usize,
        sequence: S as usize,
        input_ids: (0..B * S).map(|i| i + 10).collect(),
        attention_mask: mask.into_iter().flatten().collect(),
        ..Batch::default()
    };
    let sampler = Sampler {
        positions: 0,
        excluded: Vec::new(),
        seed: 0,
    };
    sampler.draw(&batch, 0, 0, Device::Cpu).unwrap().precise()
}

fn groups(
    method: Method,
    student: &Side,
    teacher: &Side,
    projections: Option<&Projections>,
) -> Vec<Group> {
    let config = DistillConfig {
        method,
        positions: Positions(0),
        ..DistillConfig::default()
    };
    (row(method).groups)(&View {
        student: *student,
        teacher: *teacher,
        sample: &sample(),
        pairs: &[(0, 0)],
        projections,
        config: &config,
    })
}

fn side(taps: &Taps) -> Side<'_> {
    Side { taps, logits: None }
}

/// The real positions' rows of a hidden state.
fn real(x: &Tensor) -> Vec<Vec<f64>> {
    let rows = (0..B).flat_map(|b| (0..LENGTHS[b as usize] as i64).map(move |i| (b, i)));
    rows.map(|(b, i)| Vec::try_from(x.get(b).get(i)).unwrap())
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|v| v.exp()).sum();
    row.iter().map(|v| v.exp() / sum).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

#[track_caller]
fn close(got: &Tensor, wanted: f64, tolerance: f64) {
    let got = got.double_value(&[]);
    assert!(
        (got - wanted).abs() < tolerance * (1.0 + wanted.abs()),
        "{got} against {wanted}"
    );
    assert!(wanted.abs() > 1e-3, "{wanted} says nothing");
}

#[test]
fn logits_equal_hinton_at_temperature_two() {
    let (x, y) = (values(&[4, 7], 0.2), values(&[4, 7], 1.9));
    let none = Taps::new();
    let side = |logits| Side {
        taps: &none,
        logits: Some(logits),
    };
    let got = groups(Method::Logits, &side(&x), &side(&y), None);
    let soft = |t: &Tensor, i: i64| softmax(&Vec::<f64>::try_from(t.get(i) / 2.0).unwrap());
    let mean = (0..4)
        .map(|i| divergence(&soft(&y, i), &soft(&x, i)))
        .sum::<f64>()
        / 4.0;
    close(&got[0].raw.get(0), 4.0 * mean, 1e-9);
}

#[test]
fn hidden_states_go_through_their_projections() {
    let arch = |hidden| ModelConfig::new(50, 1, hidden, 2, 8).validate().unwrap();
    let table = (row(Method::Hidden).extra)(&arch(4), &arch(6));
    let options = StoreOptions {
        device: Device::Cpu,
        bf16: false,
    };
    let mut store = Store::new(&table, options).unwrap();
    store.initialise(Initialisation { seed: 2, std: 0.5 });
    let (student, teacher) = (taps(2, 2, 0.0), taps(2, 3, 5.0));
    let projections = Projections::find(&store);
    let got = groups(
        Method::Hidden,
        &side(&student),
        &side(&teacher),
        projections.as_ref(),
    );
    assert_eq!(got[0].places, ["embedding", "layer.0"]);
    for (k, (tap, name)) in [(Tap::Embedding, "embedding"), (Tap::Trunk(0), "hidden")]
        .into_iter()
        .enumerate()
    {
        let name = format!("distill.projection.{name}.weight");
        let weight = store.read(store.buffer(), &name).unwrap(); // [6, 4]
        let (mut sum, mut count) = (0.0, 0.0);
        for (x, y) in real(&student[&tap]).iter().zip(real(&teacher[&tap])) {
            for (o, y) in y.iter().enumerate() {
                let row: Vec<f64> = weight[4 * o..4 * o + 4]
                    .iter()
                    .map(|w| f64::from(*w))
                    .collect();
                sum += (dot(x, &row) - y).powi(2);
                count += 1.0;
            }
        }
        close(&got[0].raw.get(k as i64), sum / count, 1e-9);
        check_gradient(&student[&tap], |x| {
            let student = replaced(&student, tap, x);
            let projections = projections.as_ref();
            let got = groups(
                Method::Hidden,
                &side(&student),
                &side(&teacher),
                projections,
            );
            got[0].raw.sum(Kind::Double)
        });
    }
}

#[test]
fn minilm_compares_distributions_of_the_last_layer() {
    // Four heads of 3 against two of 6 (two relation heads), and two against two.
    for (student, teacher, heads) in [((4, 3), (2, 6), 2), ((2, 3), (2, 5), 2)] {
        let (student, teacher) = (
            taps(student.0, student.1, 0.0),
            taps(teacher.0, teacher.1, 5.0),
        );
        let got = groups(Method::MiniLm, &side(&student), &side(&teacher), None);
        let vector = |taps: &Taps, tap: Tap, b: i64, head: i64, i: i64| -> Vec<f64> {
            let joined: Vec<f64> =
                Vec::try_from(taps[&tap].get(b).select(1, i).contiguous().view([-1])).unwrap();
            let width = joined.len() / heads;
            joined[head as usize * width..][..width].to_vec()
        };
        for (k, (a, c)) in [(Tap::Query(0), Tap::Key(0)), (Tap::Value(0), Tap::Value(0))]
            .into_iter()
            .enumerate()
        {
            let row = |taps: &Taps, b: i64, head: i64, i: i64| {
                let x = vector(taps, a, b, head, i);
                let keys = (0..LENGTHS[b as usize] as i64).map(|j| vector(taps, c, b, head, j));
                softmax(
                    &keys
                        .map(|y| dot(&x, &y) / (x.len() as f64).sqrt())
                        .collect::<Vec<_>>(),
                )
            };
            let (mut sum, mut count) = (0.0, 0.0);
            for b in 0..B {
                for head in 0..heads as i64 {
                    for i in 0..LENGTHS[b as usize] as i64 {
                        sum += divergence(&row(&teacher, b, head, i), &row(&student, b, head, i));
                        count += 1.0;
                    }
                }
            }
            close(&got[k].raw.get(0), sum / count, 1e-6);
        }
    }
}

#[test]
fn cka_is_that_of_kornblith() {
    let (student, teacher) = (taps(2, 2, 0.0), taps(2, 3, 5.0));
    let got = groups(Method::Cka, &side(&student), &side(&teacher), None);
    for (k, tap) in [Tap::Embedding, Tap::Trunk(0)].into_iter().enumerate() {
        // HSIC of the centred linear kernels.
        let kernel = |taps: &Taps| -> Vec<Vec<f64>> {
            let rows = real(&taps[&tap]);
            let n = rows.len() as f64;
            let gram: Vec<Vec<f64>> = rows
                .iter()
                .map(|a| rows.iter().map(|b| dot(a, b)).collect())
                .collect();
            let mean = |i: usize| gram[i].iter().sum::<f64>() / n;
            let all = (0..rows.len()).map(mean).sum::<f64>() / n;
            (0..rows.len())
                .map(|i| {
                    (0..rows.len())
                        .map(|j| gram[i][j] - mean(i) - mean(j) + all)
                        .collect()
                })
                .collect()
        };
        let hsic =
            |a: &[Vec<f64>], b: &[Vec<f64>]| a.iter().zip(b).map(|(a, b)| dot(a, b)).sum::<f64>();
        let (x, y) = (kernel(&student), kernel(&teacher));
        let cka = hsic(&x, &y) / (hsic(&x, &x) * hsic(&y, &y)).sqrt();
        close(&got[0].raw.get(k as i64), 1.0 - cka, 1e-9);
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let none = Taps::new();
    let teacher_logits = values(&[4, 7], 1.9);
    check_gradient(&values(&[4, 7], 0.2), |x| {
        let side = |logits| Side {
            taps: &none,
            logits: Some(logits),
        };
        let got = groups(Method::Logits, &side(x), &side(&teacher_logits), None);
        got[0].raw.sum(Kind::Double)
    });
    let teacher = taps(2, 3, 5.0);
    for (method, varied) in [
        (Method::MiniLm, Tap::Query(0)),
        (Method::MiniLm, Tap::Key(0)),
        (Method::MiniLm, Tap::Value(0)),
        (Method::Cka, Tap::Trunk(0)),
        (Method::Relations, Tap::Trunk(0)),
        (Method::Relations, Tap::FeedForwardInner(0)),
        (Method::Relations, Tap::Key(0)),
        (Method::Relations, Tap::Value(0)),
    ] {
        let student = taps(2, 4, 0.0);
        check_gradient(&student[&varied], |x| {
            let student = replaced(&student, varied, x);
            let got = groups(method, &side(&student), &side(&teacher), None);
            let sums = got.iter().map(|g| g.raw.sum(Kind::Double));
            sums.reduce(|a, b| a + b).unwrap()
        });
    }
}
