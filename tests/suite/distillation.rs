//! Distillation losses: against loops written for reading, by finite differences, and by their laws.

use tcd::data::batch::Batch;
use tcd::data::tokenizer::Tokenizer;
use tcd::distill::config::{LayerMap, NamedMap, Positions, RelationsConfig};
use tcd::distill::relations::{QueryKey, attention_loss, linear_cka, relation_loss, unit_rows};
use tcd::distill::{DistillConfig, Guide, METHODS, Method, Pupil, Teacher, TeacherModel, When};
use tcd::model::{Initialisation, Mode, Noise, StoreOptions};
use tcd::train::step::Model;
use tcd_export::{Architecture, ModelConfig, MoeConfig};
use tch::{Device, Kind, Tensor};

use crate::numeric::check_gradient;

const CPU: StoreOptions = StoreOptions {
    device: Device::Cpu,
    bf16: false,
};

/// Values of a smooth function that no law holds for by accident, f64.
fn values(shape: &[i64], phase: f64) -> Tensor {
    let n: i64 = shape.iter().product();
    let x = Tensor::arange(n, (Kind::Double, Device::Cpu));
    ((&x * 1.7 + phase).sin() + (&x * 0.37 + 2.0 * phase).cos() * 0.5 + 0.1).view(shape)
}

fn rows(x: &Tensor) -> Vec<Vec<f64>> {
    Vec::<Vec<f64>>::try_from(x).unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn value(x: &Tensor) -> f64 {
    x.double_value(&[])
}

#[track_caller]
fn close(a: f64, b: f64, tolerance: f64) {
    assert!(
        (a - b).abs() <= tolerance * (1.0 + b.abs()),
        "{a} against {b}"
    );
}

/// The relation loss as METHOD writes it, for one pair of `[n, H]`.
fn naive_relation(x: &Tensor, y: &Tensor, center: bool) -> f64 {
    let unit = |x: &Tensor| -> Vec<Vec<f64>> {
        rows(x)
            .into_iter()
            .map(|row| {
                let mean = match center {
                    true => row.iter().sum::<f64>() / row.len() as f64,
                    false => 0.0,
                };
                let row: Vec<f64> = row.iter().map(|v| v - mean).collect();
                let norm = dot(&row, &row).sqrt();
                row.iter().map(|v| v / norm).collect()
            })
            .collect()
    };
    let (x, y) = (unit(x), unit(y));
    let n = x.len();
    let mut sum = 0.0;
    for i in 0..n {
        for j in 0..n {
            if i != j {
                sum += (dot(&x[i], &x[j]) - dot(&y[i], &y[j])).powi(2);
            }
        }
    }
    sum / (n * (n - 1)) as f64
}

#[test]
fn relations_equal_a_loop_in_both_forms() {
    // n = 5 takes the products of size n x n, n = 40 those of size H x H.
    for n in [5, 40] {
        for (hs, ht) in [(6, 6), (6, 9), (8, 3)] {
            for center in [true, false] {
                let (x, y) = (values(&[2, n, hs], 0.3), values(&[2, n, ht], 1.1));
                let loss = relation_loss(&x, &y, center);
                for k in 0..2 {
                    let naive = naive_relation(&x.get(k), &y.get(k), center);
                    close(loss.double_value(&[k]), naive, 1e-9);
                    assert!(naive > 1e-3, "{naive} says nothing");
                }
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for n in [4, 14] {
        let teacher = values(&[2, n, 4], 1.1);
        for center in [true, false] {
            check_gradient(&values(&[2, n, 3], 0.3), |x| {
                relation_loss(x, &teacher, center).sum(Kind::Double)
            });
        }
        check_gradient(&values(&[2, n, 3], 0.3), |x| {
            linear_cka(x, &teacher).sum(Kind::Double)
        });
    }
    let mask = Tensor::from_slice2(&[[1f32, 1., 1.], [1., 1., 0.]]);
    for heads in [2, 1] {
        let teacher = QueryKey {
            query: values(&[2, heads, 3, 2], 0.7),
            key: values(&[2, heads, 3, 2], 1.9),
        };
        for mask in [None, Some(&mask)] {
            check_gradient(&values(&[2, 2, 2, 3, 2], 0.3), |x| {
                let student = QueryKey {
                    query: x.get(0),
                    key: x.get(1),
                };
                attention_loss(&student, &teacher, mask)
            });
        }
    }
}

/// The attention loss as METHOD writes it: centred rows of scaled logits over real positions.
fn naive_attention(student: &QueryKey, teacher: &QueryKey, mask: &[Vec<f64>]) -> f64 {
    let size = |q: &QueryKey| q.query.size();
    let average = size(student)[1] != size(teacher)[1];
    let logits = |m: &QueryKey| -> Vec<Vec<Vec<Vec<f64>>>> {
        let [b, a, s, d] = size(m)[..] else { panic!() };
        let vector = |t: &Tensor, b: i64, a: i64, i: i64| -> Vec<f64> {
            Vec::try_from(t.get(b).get(a).get(i)).unwrap()
        };
        (0..b)
            .map(|b| {
                let real: Vec<i64> = (0..s)
                    .filter(|i| mask[b as usize][*i as usize] > 0.0)
                    .collect();
                let heads: Vec<Vec<Vec<f64>>> = (0..a)
                    .map(|a| {
                        real.iter()
                            .map(|&i| {
                                let q = vector(&m.query, b, a, i);
                                let row: Vec<f64> = real
                                    .iter()
                                    .map(|&j| dot(&q, &vector(&m.key, b, a, j)) / (d as f64).sqrt())
                                    .collect();
                                let mean = row.iter().sum::<f64>() / row.len() as f64;
                                row.iter().map(|v| v - mean).collect()
                            })
                            .collect()
                    })
                    .collect();
                if !average {
                    return heads;
                }
                let mean = |i: usize, j: usize| {
                    heads.iter().map(|h| h[i][j]).sum::<f64>() / heads.len() as f64
                };
                let n = real.len();
                vec![
                    (0..n)
                        .map(|i| (0..n).map(|j| mean(i, j)).collect())
                        .collect(),
                ]
            })
            .collect()
    };
    let (x, y) = (logits(student), logits(teacher));
    let (mut sum, mut count) = (0.0, 0.0);
    for (x, y) in x
        .iter()
        .flatten()
        .flatten()
        .flatten()
        .zip(y.iter().flatten().flatten().flatten())
    {
        sum += (x - y).powi(2);
        count += 1.0;
    }
    sum / count
}

#[test]
fn attention_relations_equal_a_loop() {
    let full = vec![vec![1.0; 4]; 3];
    let ragged = vec![
        vec![1., 1., 1., 1.],
        vec![1., 1., 0., 0.],
        vec![1., 1., 1., 0.],
    ];
    for (heads, head_size) in [(2, 3), (4, 2), (1, 5)] {
        let student = QueryKey {
            query: values(&[3, 2, 4, 3], 0.3),
            key: values(&[3, 2, 4, 3], 1.3),
        };
        let teacher = QueryKey {
            query: values(&[3, heads, 4, head_size], 2.3),
            key: values(&[3, heads, 4, head_size], 0.9),
        };
        close(
            value(&attention_loss(&student, &teacher, None)),
            naive_attention(&student, &teacher, &full),
            1e-9,
        );
        let flat: Vec<f32> = ragged.iter().flatten().map(|v| *v as f32).collect();
        let mask = Tensor::from_slice(&flat).view([3, 4]);
        close(
            value(&attention_loss(&student, &teacher, Some(&mask))),
            naive_attention(&student, &teacher, &ragged),
            1e-6,
        );
    }
}

/// An orthogonal matrix `[H, H]`; with `fix_mean` one that keeps the direction of all ones.
fn rotation(h: i64, fix_mean: bool) -> Tensor {
    let basis = values(&[h, h], 0.77);
    if fix_mean {
        let _ = basis.select(1, 0).fill_(1.0);
    }
    let (q, _) = Tensor::linalg_qr(&basis, "reduced");
    if !fix_mean {
        return q;
    }
    // In the basis `q`, whose first vector is the mean direction, rotate all others.
    let inner = Tensor::eye(h, (Kind::Double, Device::Cpu));
    let (turn, _) = Tensor::linalg_qr(&values(&[h - 1, h - 1], 1.3), "reduced");
    inner.narrow(0, 1, h - 1).narrow(1, 1, h - 1).copy_(&turn);
    q.matmul(&inner).matmul(&q.tr())
}

#[test]
fn relations_do_not_see_rotations_or_the_scale_of_rows() {
    let (x, y) = (values(&[1, 7, 6], 0.3), values(&[1, 7, 6], 1.1));
    for center in [true, false] {
        let plain = value(&relation_loss(&x, &y, center));
        let turned = x.matmul(&rotation(6, center));
        close(value(&relation_loss(&turned, &y, center)), plain, 1e-9);
        assert!(
            (&turned - &x).abs().max().double_value(&[]) > 0.1,
            "nothing was turned"
        );
        let scales = values(&[1, 7, 1], 0.2).abs() + 0.5;
        close(
            value(&relation_loss(&(&x * scales), &y, center)),
            plain,
            1e-7,
        );
    }
    let norms =
        unit_rows(&x, true)
            .square()
            .sum_dim_intlist([-1i64].as_slice(), false, Kind::Double);
    close(value(&norms.min()), 1.0, 1e-8);
    close(
        value(
            &unit_rows(&x, true)
                .mean_dim([-1i64].as_slice(), false, Kind::Double)
                .abs()
                .max(),
        ),
        0.0,
        1e-12,
    );
    // Turning the vectors of queries and keys together leaves their products.
    let pair = |turn: Option<&Tensor>| {
        let q = values(&[2, 2, 4, 6], 0.4);
        let k = values(&[2, 2, 4, 6], 1.4);
        match turn {
            None => QueryKey { query: q, key: k },
            Some(t) => QueryKey {
                query: q.matmul(t),
                key: k.matmul(t),
            },
        }
    };
    let teacher = QueryKey {
        query: values(&[2, 2, 4, 6], 2.4),
        key: values(&[2, 2, 4, 6], 3.4),
    };
    close(
        value(&attention_loss(
            &pair(Some(&rotation(6, false))),
            &teacher,
            None,
        )),
        value(&attention_loss(&pair(None), &teacher, None)),
        1e-9,
    );
}

#[test]
fn the_order_of_positions_does_not_matter() {
    let (x, y) = (values(&[1, 6, 5], 0.3), values(&[1, 6, 4], 1.1));
    let order = Tensor::from_slice(&[3i64, 0, 5, 1, 4, 2]);
    let permuted = relation_loss(&x.index_select(1, &order), &y.index_select(1, &order), true);
    close(value(&permuted), value(&relation_loss(&x, &y, true)), 1e-10);
    let mismatched = relation_loss(&x.index_select(1, &order), &y, true);
    assert!((value(&mismatched) - value(&permuted)).abs() > 1e-4);
}

// Whole models.

fn tokenizer() -> Tokenizer {
    let vocab: String = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .iter()
        .map(|t| (*t).to_string())
        .chain((0..45).map(|i| format!("w{i}")))
        .map(|t| t + "\n")
        .collect();
    Tokenizer::from_vocab(&vocab, std::path::Path::new("vocab.txt")).unwrap()
}

fn arch(layers: usize, hidden: usize, heads: usize, moe: Option<MoeConfig>) -> Architecture {
    let mut config = ModelConfig::new(50, layers, hidden, heads, 2 * hidden);
    config.max_position_embeddings = 12;
    config.moe = moe;
    config.validate().unwrap()
}

/// Rows of 8, 5 and 7 tokens of 8; `pad` stands behind them.
fn batch(pad: i64) -> Batch {
    let lengths = [8, 5, 7];
    let mut batch = Batch {
        batch: 3,
        sequence: 8,
        ..Batch::default()
    };
    for (row, length) in lengths.iter().enumerate() {
        for i in 0..8usize {
            let real = i < *length;
            let id = ((row * 17 + i * 7) % 45 + 5) as i64;
            batch.input_ids.push(if real { id } else { pad });
            batch.attention_mask.push(i64::from(real));
        }
    }
    batch.masked_positions = vec![1, 6, 10, 17, 20];
    batch.labels = vec![7, 12, 30, 9, 44];
    batch.real_tokens = 20;
    batch
}

fn config(method: Method) -> DistillConfig {
    DistillConfig {
        teacher: Teacher::Random,
        method,
        positions: Positions(0),
        ..DistillConfig::default()
    }
}

struct Pair {
    model: Model,
    guide: Guide,
}

/// A student and a random teacher of these sizes, under a method.
fn pair(student: &Architecture, teacher: &Architecture, config: &DistillConfig) -> Pair {
    let tokenizer = tokenizer();
    let pupil = Pupil {
        arch: student,
        tokenizer: &tokenizer,
        sequence_length: 8,
        options: CPU,
    };
    let mut config = config.clone();
    config.random.seed = 77;
    let section = tcd::train::config::ModelSection {
        layers: Some(teacher.num_hidden_layers),
        hidden: Some(teacher.hidden_size),
        heads: Some(teacher.num_attention_heads),
        intermediate: Some(teacher.intermediate_size),
        max_positions: Some(12),
        moe: teacher.moe.clone(),
        ..Default::default()
    };
    config.random.model = Some(section);
    let teacher = TeacherModel::open(&config, &pupil).unwrap();
    let extra = Guide::extra(&config, student, &teacher);
    let mut model = Model::new(student, &extra, CPU).unwrap();
    model.store.initialise(Initialisation { seed: 3, std: 0.3 });
    let guide = Guide::new(&config, teacher, &model.store, &pupil, 5).unwrap();
    Pair { model, guide }
}

const STEP: When = When::Train { step: 4, micro: 0 };

#[test]
fn every_method_reaches_the_student_and_never_the_teacher() {
    let moe = || Some(MoeConfig::new(3));
    let sizes = [
        (arch(2, 16, 2, moe()), arch(2, 16, 2, None)),
        (arch(2, 16, 2, moe()), arch(3, 24, 4, None)),
        (arch(3, 16, 4, None), arch(2, 16, 2, moe())),
    ];
    for row in METHODS {
        for (student, teacher) in &sizes {
            let Pair { model, guide } = pair(student, teacher, &config(row.method));
            let before: Vec<f32> = Vec::try_from(guide.teacher().store().buffer()).unwrap();
            let noise = Noise::new(1, 4, 0);
            let losses = model.losses(&batch(0), Mode::Train(&noise), Some((&guide, STEP)));
            let terms = losses.terms.as_ref().unwrap();
            let distilled = terms.total().unwrap();
            let leaves: Vec<&Tensor> = model.store.leaves().iter().map(|l| &l.tensor).collect();
            let gradients = Tensor::run_backward(&[distilled], &leaves, false, false);
            for (leaf, gradient) in model.store.leaves().iter().zip(&gradients) {
                let reached = gradient.defined() && gradient.abs().max().double_value(&[]) > 0.0;
                assert_eq!(
                    reached,
                    should_reach(row.method, &leaf.name, student, guide.pairs()),
                    "{}: {}",
                    row.name,
                    leaf.name
                );
            }
            for leaf in guide.teacher().store().leaves() {
                assert!(!leaf.tensor.requires_grad() && !leaf.tensor.grad().defined());
            }
            let after: Vec<f32> = Vec::try_from(guide.teacher().store().buffer()).unwrap();
            assert_eq!(before, after);
            for group in &terms.groups {
                assert_eq!(
                    group.places.len() as i64,
                    group.raw.size()[0],
                    "{}",
                    group.name
                );
                let raw = Vec::<f64>::try_from(group.raw.to_kind(Kind::Double)).unwrap();
                assert!(
                    raw.iter().all(|v| v.is_finite() && *v > 0.0),
                    "{} {raw:?}",
                    group.name
                );
            }
        }
    }
}

/// What the distillation losses alone should move.
fn should_reach(
    method: Method,
    leaf: &str,
    student: &Architecture,
    pairs: &[(usize, usize)],
) -> bool {
    let last = student.num_hidden_layers - 1;
    // A layer norm's shift and scale, biases and all: everything below the last tap.
    let in_layer =
        |l: usize, part: &str| leaf.starts_with(&format!("bert.encoder.layer.{l}.{part}"));
    let top = pairs.last().unwrap().0;
    if (top + 1..=last).any(|l| in_layer(l, "")) {
        return false;
    }
    if leaf.starts_with("cls.") {
        return method == Method::Logits;
    }
    match method {
        // Values' relations and blocks' outputs see everything but the last norm's, which the trunk sees.
        Method::Relations | Method::Cka | Method::Hidden | Method::Logits => true,
        // Queries, keys and values of the last layer: nothing after them.
        Method::MiniLm => {
            !in_layer(top, "attention.output")
                && !in_layer(top, "moe")
                && !in_layer(top, "output")
                && !in_layer(top, "intermediate")
        }
    }
}

/// Copies the vanilla model's weights into the mixture's every expert, with a router so sharp that each gate is 1.
fn copied(vanilla: &TeacherModel, student: &Architecture, extra: Model) -> Model {
    let mut model = extra;
    assert!(student.moe.is_some());
    let source = vanilla.store();
    let sharp = |count: usize| {
        (0..count)
            .map(|i| 1e4 * ((i * i) as f32 * 0.7).sin())
            .collect()
    };
    model
        .store
        .load::<tcd::model::ModelError>(|p| {
            if p.name.contains("moe.router") {
                return Ok(sharp(p.count()));
            }
            let name = match p.name.split_once("moe.experts.") {
                Some((path, rest)) => format!("{path}{}", rest.split_once('.').unwrap().1),
                None => p.name.clone(),
            };
            Ok(source
                .read(source.buffer(), &name)
                .unwrap_or_else(|| vec![0.0; p.count()]))
        })
        .unwrap();
    model
}

#[test]
fn a_copy_of_the_teacher_has_no_loss() {
    let student = arch(2, 16, 2, Some(MoeConfig::new(3)));
    let teacher = arch(2, 16, 2, None);
    for method in [Method::Relations, Method::MiniLm, Method::Cka] {
        let Pair { model, guide } = pair(&student, &teacher, &config(method));
        let model = copied(guide.teacher(), &student, model);
        let losses = tch::no_grad(|| model.losses(&batch(0), Mode::Eval, Some((&guide, STEP))));
        for group in losses.terms.unwrap().groups {
            let worst = group.raw.abs().max().double_value(&[]);
            assert!(worst < 2e-6, "{method:?} {}: {worst}", group.name);
        }
        for routing in losses.routing {
            assert!(routing.gate.min().double_value(&[]) > 0.999_99);
        }
    }
}

#[test]
fn padding_never_matters() {
    let student = arch(2, 16, 2, Some(MoeConfig::new(3)));
    let teacher = arch(2, 24, 4, None);
    for row in METHODS {
        let Pair { model, guide } = pair(&student, &teacher, &config(row.method));
        let losses = |pad| {
            let losses =
                tch::no_grad(|| model.losses(&batch(pad), Mode::Eval, Some((&guide, STEP))));
            let raw: Vec<Vec<f64>> = losses
                .terms
                .unwrap()
                .groups
                .iter()
                .map(|g| Vec::try_from(g.raw.to_kind(Kind::Double)).unwrap())
                .collect();
            raw
        };
        let (a, b) = (losses(0), losses(33));
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            close(*a, *b, 1e-6);
        }
    }
}

#[test]
fn maps_and_positions_decide_what_is_compared() {
    let (student, teacher) = (arch(3, 16, 2, None), arch(2, 16, 2, None));
    let mut c = config(Method::Relations);
    c.layers = LayerMap::List(vec![(2, 0)]);
    c.relations = RelationsConfig {
        trunk: 2.0,
        inner: 0.0,
        attention: 0.0,
        value: 0.0,
        ..RelationsConfig::default()
    };
    let Pair { model, guide } = pair(&student, &teacher, &c);
    let losses = tch::no_grad(|| model.losses(&batch(0), Mode::Eval, Some((&guide, STEP))));
    let terms = losses.terms.unwrap();
    assert_eq!(terms.groups[0].places, ["embedding", "layer.2-0"]);
    let by_hand = 2.0 * terms.groups[0].raw.mean(Kind::Float);
    close(value(&terms.total().unwrap()), value(&by_hand), 1e-6);
    close(
        value(&losses.total),
        value(&losses.mlm) + value(&by_hand),
        1e-5,
    );
    c.layers = LayerMap::Named(NamedMap::Identity);
    let tokenizer = tokenizer();
    let pupil = Pupil {
        arch: &student,
        tokenizer: &tokenizer,
        sequence_length: 8,
        options: CPU,
    };
    c.random.model = Some(tcd::train::config::ModelSection {
        layers: Some(2),
        hidden: Some(16),
        max_positions: Some(12),
        ..Default::default()
    });
    let teacher = TeacherModel::open(&c, &pupil).unwrap();
    let error = Guide::new(&c, teacher, &model.store, &pupil, 5).unwrap_err();
    assert!(error.to_string().contains("equal depths"), "{error}");
}
