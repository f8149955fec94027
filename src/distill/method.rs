//! The table of methods: what can be transferred from teacher to student, one row each, one interface.
//!
//! Transfer capability distillation and the baselines it is compared with (METHOD: "Transfer capability distillation"). A
//! method sees both models on one masked batch and returns named groups of raw losses with a weight each; what is
//! minimised is the sum over groups of weight times mean.

use tch::Tensor;

use tcd_export::{Architecture, Init, Parameter};

use super::config::{DistillConfig, Method};
use super::relations::{QueryKey, attention_loss, linear_cka, relation_loss};
use super::sample::Sample;
use crate::model::{Store, Tap, Taps};

/// One model's side of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Its named hidden states.
    pub taps: &'a Taps,
    /// Its logits at masked positions, `[M, V]`; absent where the method does not read them.
    pub logits: Option<&'a Tensor>,
}

/// What a method sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The student, with gradient.
    pub student: Side<'a>,
    /// The teacher, without.
    pub teacher: Side<'a>,
    /// The positions that take part.
    pub sample: &'a Sample,
    /// Aligned layers `(student, teacher)`.
    pub pairs: &'a [(usize, usize)],
    /// Learned projections, where the method has any.
    pub projections: Option<&'a Projections>,
    /// Weights and settings.
    pub config: &'a DistillConfig,
}

/// Losses of one kind at several places.
#[derive(Debug)]
pub struct Group {
    /// Its name in the metrics.
    pub name: &'static str,
    /// Its weight.
    pub weight: f64,
    /// The places: `embedding`, `layer.3`, or `layer.3-7` where student layer 3 meets teacher layer 7.
    pub places: Vec<String>,
    /// The raw loss at each place, `[K]`.
    pub raw: Tensor,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its key.
    pub method: Method,
    /// Its name in the configuration.
    pub name: &'static str,
    /// What it transfers.
    pub summary: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Whether it reads the teacher's masked-LM head.
    pub needs_head: bool,
    /// Parameters that it learns beside the student's.
    pub extra: fn(&Architecture, &Architecture) -> Vec<Parameter>,
    /// Its losses.
    pub groups: fn(&View) -> Vec<Group>,
}

/// Every method.
pub const METHODS: [Row; 5] = [
    Row {
        method: Method::Relations,
        name: "relations",
        summary: "relations between features: trunk, residual inner, attention",
        source: "Lu, Zhao, Qin 2024",
        needs_head: false,
        extra: |_, _| Vec::new(),
        groups: relations,
    },
    Row {
        method: Method::Logits,
        name: "logits",
        summary: "softened predictions at masked positions",
        source: "Hinton, Vinyals, Dean 2015",
        needs_head: true,
        extra: |_, _| Vec::new(),
        groups: logits,
    },
    Row {
        method: Method::Hidden,
        name: "hidden",
        summary: "hidden states, mean squared error after a learned projection",
        source: "Jiao et al. 2020 (TinyBERT), equations 8 and 9",
        needs_head: false,
        extra: projections,
        groups: hidden,
    },
    Row {
        method: Method::MiniLm,
        name: "minilm",
        summary: "attention and value relations of the last layer, KL divergence",
        source: "Wang et al. 2020 (MiniLM), equations 5 to 8",
        needs_head: false,
        extra: |_, _| Vec::new(),
        groups: minilm,
    },
    Row {
        method: Method::Cka,
        name: "cka",
        summary: "one minus linear CKA of the trunk",
        source: "Kornblith et al. 2019, equation 3",
        needs_head: false,
        extra: |_, _| Vec::new(),
        groups: cka,
    },
];

/// A student as the experiments compare them.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    /// Its name.
    pub name: &'static str,
    /// What it learns from.
    pub what: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// The settings that choose it; `TEACHER` stands for a model directory.
    pub settings: &'static [&'static str],
}

/// Transfer capability distillation, its baselines and its controls (METHOD: "Transfer capability distillation").
pub const BASELINES: [Baseline; 8] = [
    Baseline {
        name: "none",
        what: "the masked-LM loss alone",
        source: "Fedus et al. 2022 (Switch)",
        settings: &["model.moe.num_experts=16"],
    },
    Baseline {
        name: "relations",
        what: "relations of a trained vanilla model's features",
        source: "Lu, Zhao, Qin 2024",
        settings: &["model.moe.num_experts=16", "distill.teacher=TEACHER"],
    },
    Baseline {
        name: "logits",
        what: "a trained vanilla model's softened predictions",
        source: "Hinton, Vinyals, Dean 2015",
        settings: &[
            "model.moe.num_experts=16",
            "distill.teacher=TEACHER",
            "distill.method=logits",
        ],
    },
    Baseline {
        name: "hidden",
        what: "a trained vanilla model's hidden states, through projections",
        source: "Jiao et al. 2020 (TinyBERT)",
        settings: &[
            "model.moe.num_experts=16",
            "distill.teacher=TEACHER",
            "distill.method=hidden",
        ],
    },
    Baseline {
        name: "minilm",
        what: "attention and value relations of its last layer",
        source: "Wang et al. 2020 (MiniLM)",
        settings: &[
            "model.moe.num_experts=16",
            "distill.teacher=TEACHER",
            "distill.method=minilm",
        ],
    },
    Baseline {
        name: "cka",
        what: "similarity of features as linear CKA measures it",
        source: "Kornblith et al. 2019",
        settings: &[
            "model.moe.num_experts=16",
            "distill.teacher=TEACHER",
            "distill.method=cka",
        ],
    },
    Baseline {
        name: "random-teacher",
        what: "relations of an untrained vanilla model's features",
        source: "cf. Sarnthein et al. 2023",
        settings: &["model.moe.num_experts=16", "distill.teacher=random"],
    },
    Baseline {
        name: "moe-teacher",
        what: "relations of a mixture's features, taught to a vanilla student",
        source: "Lu, Zhao, Qin 2024, reversed",
        settings: &["distill.teacher=TEACHER"],
    },
];

/// The row of a method.
pub fn row(method: Method) -> &'static Row {
    METHODS
        .iter()
        .find(|row| row.method == method)
        .expect("a row for every method")
}

/// Linear maps from the student's features to the teacher's, `[H_t, H_s]`. They are trained with the student and saved in its
/// checkpoints, never in its model directory.
#[derive(Debug)]
pub struct Projections {
    embedding: Tensor,
    hidden: Tensor,
}

const PROJECTION_EMBEDDING: &str = "distill.projection.embedding.weight";
const PROJECTION_HIDDEN: &str = "distill.projection.hidden.weight";

impl Projections {
    /// The projections in a student's store; `None` where its method has none.
    pub fn find(store: &Store) -> Option<Self> {
        store.contains(PROJECTION_HIDDEN).then(|| Projections {
            embedding: store.tensor(PROJECTION_EMBEDDING),
            hidden: store.tensor(PROJECTION_HIDDEN),
        })
    }
}

fn projections(student: &Architecture, teacher: &Architecture) -> Vec<Parameter> {
    [PROJECTION_EMBEDDING, PROJECTION_HIDDEN]
        .map(|name| Parameter {
            name: name.to_string(),
            shape: vec![teacher.hidden_size, student.hidden_size],
            init: Init::Normal,
            decay: true,
        })
        .to_vec()
}

impl View<'_> {
    fn place(pair: (usize, usize)) -> String {
        match pair {
            (s, t) if s == t => format!("layer.{s}"),
            (s, t) => format!("layer.{s}-{t}"),
        }
    }

    /// A tap of the student and its partner's of the teacher, `[n, H]` each, for the embedding and every pair.
    fn trunk(&self) -> Stacked {
        let mut stacked = Stacked::default();
        stacked.push(
            "embedding".to_string(),
            self.tokens(Tap::Embedding, Tap::Embedding),
        );
        for &(s, t) in self.pairs {
            stacked.push(
                Self::place((s, t)),
                self.tokens(Tap::Trunk(s), Tap::Trunk(t)),
            );
        }
        stacked
    }

    fn inner(&self) -> Stacked {
        let mut stacked = Stacked::default();
        for &(s, t) in self.pairs {
            let place = Self::place((s, t));
            let pair = self.tokens(Tap::AttentionInner(s), Tap::AttentionInner(t));
            stacked.push(format!("{place}.attention"), pair);
            let pair = self.tokens(Tap::FeedForwardInner(s), Tap::FeedForwardInner(t));
            stacked.push(format!("{place}.ffn"), pair);
        }
        stacked
    }

    fn values(&self) -> Stacked {
        let mut stacked = Stacked::default();
        for &(s, t) in self.pairs {
            let pair = (
                self.sample.joined(&self.student.taps[&Tap::Value(s)]),
                self.sample.joined(&self.teacher.taps[&Tap::Value(t)]),
            );
            stacked.push(Self::place((s, t)), pair);
        }
        stacked
    }

    fn tokens(&self, student: Tap, teacher: Tap) -> (Tensor, Tensor) {
        (
            self.sample.tokens(&self.student.taps[&student]),
            self.sample.tokens(&self.teacher.taps[&teacher]),
        )
    }

    fn query_key(&self, side: Side, layer: usize) -> QueryKey {
        QueryKey {
            query: self.sample.sequences(&side.taps[&Tap::Query(layer)]),
            key: self.sample.sequences(&side.taps[&Tap::Key(layer)]),
        }
    }
}

/// Rows of both models at several places.
#[derive(Default)]
struct Stacked {
    places: Vec<String>,
    student: Vec<Tensor>,
    teacher: Vec<Tensor>,
}

impl Stacked {
    fn push(&mut self, place: String, (student, teacher): (Tensor, Tensor)) {
        self.places.push(place);
        self.student.push(student);
        self.teacher.push(teacher);
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    /// `[K, n, H_s]` and `[K, n, H_t]`.
    fn tensors(&self) -> (Tensor, Tensor) {
        (
            Tensor::stack(&self.student, 0),
            Tensor::stack(&self.teacher, 0),
        )
    }
}

fn relations(view: &View) -> Vec<Group> {
    let c = &view.config.relations;
    let parts = [
        ("trunk", c.trunk, view.trunk()),
        ("inner", c.inner, view.inner()),
        ("value", c.value, view.values()),
    ];
    // All relations between rows in one stack: few large products in place of many small ones.
    let side = |pick: fn(&Stacked) -> &Vec<Tensor>| {
        let all: Vec<&Tensor> = parts.iter().flat_map(|(_, _, s)| pick(s)).collect();
        Tensor::stack(&all, 0) // [K, n, H]
    };
    let raw = relation_loss(&side(|s| &s.student), &side(|s| &s.teacher), c.center); // [K]
    let mut start = 0;
    let mut groups: Vec<Group> = Vec::with_capacity(4);
    for (name, weight, stacked) in parts {
        let len = stacked.len();
        groups.push(Group {
            name,
            weight,
            places: stacked.places,
            raw: raw.narrow(0, start as i64, len as i64),
        });
        start += len;
    }
    let attention: Vec<Tensor> = view
        .pairs
        .iter()
        .map(|&(s, t)| {
            let mask = view.sample.mask.as_ref();
            attention_loss(
                &view.query_key(view.student, s),
                &view.query_key(view.teacher, t),
                mask,
            )
        })
        .collect();
    groups.push(Group {
        name: "attention",
        weight: c.attention,
        places: view.pairs.iter().map(|p| View::place(*p)).collect(),
        raw: Tensor::stack(&attention, 0),
    });
    groups
}

/// `T^2 KL(p_t || p_s)` of the predictions at temperature `T`, mean over masked positions.
fn logits(view: &View) -> Vec<Group> {
    let c = &view.config.logits;
    let soft = |side: Side| {
        let logits = side
            .logits
            .expect("a method that reads logits is given them");
        (logits / c.temperature).log_softmax(-1, logits.kind()) // [M, V]
    };
    let (student, teacher) = (soft(view.student), soft(view.teacher));
    let raw = divergence(&teacher, &student).mean(student.kind()) * c.temperature.powi(2);
    vec![Group {
        name: "logits",
        weight: c.weight,
        places: vec!["head".to_string()],
        raw: raw.unsqueeze(0),
    }]
}

fn hidden(view: &View) -> Vec<Group> {
    let projections = view
        .projections
        .expect("the store of a run with projections holds them");
    let stacked = view.trunk();
    let losses: Vec<Tensor> = stacked
        .student
        .iter()
        .zip(&stacked.teacher)
        .enumerate()
        .map(|(i, (x, y))| {
            let weight = match i {
                0 => &projections.embedding,
                _ => &projections.hidden,
            };
            let weight = weight.to_kind(x.kind());
            (x.matmul(&weight.tr()) - y).square().mean(x.kind())
        })
        .collect();
    vec![Group {
        name: "hidden",
        weight: view.config.hidden.weight,
        places: stacked.places,
        raw: Tensor::stack(&losses, 0),
    }]
}

/// Heads as MiniLM compares them: the models' own where the numbers agree, else the vectors of all heads side by side, split
/// into as many relation heads as divide both widths evenly (MiniLM v2, Wang et al. 2021).
fn relation_heads(x: &Tensor, heads: i64) -> Tensor {
    let joined = x.transpose(1, 2); // [B', S, A, D]
    let size = joined.size();
    joined
        .reshape([size[0], size[1], heads, size[2] * size[3] / heads])
        .transpose(1, 2) // [B', R, S, H/R]
}

fn minilm(view: &View) -> Vec<Group> {
    let &(s, t) = view.pairs.last().expect("a layer map holds a pair");
    let c = &view.config.minilm;
    let tap = |side: Side, tap: Tap| view.sample.sequences(&side.taps[&tap]);
    let pair = |of: fn(usize) -> Tap| (tap(view.student, of(s)), tap(view.teacher, of(t)));
    let (query, key, value) = (pair(Tap::Query), pair(Tap::Key), pair(Tap::Value));
    let heads = gcd(query.0.size()[1], query.1.size()[1]);
    let relation = |a: &Tensor, b: &Tensor| {
        let (a, b) = (relation_heads(a, heads), relation_heads(b, heads));
        let scale = 1.0 / (a.size()[3] as f64).sqrt();
        let mut scores = (a * scale).matmul(&b.transpose(-2, -1)); // [B', R, S, S]
        if let Some(mask) = &view.sample.mask {
            let padded = mask.eq(0.0).unsqueeze(1).unsqueeze(1);
            scores = scores.masked_fill(&padded, -1e9);
        }
        scores.log_softmax(-1, scores.kind())
    };
    let loss = |student: Tensor, teacher: Tensor| {
        let rows = divergence(&teacher, &student); // [B', R, S]
        match &view.sample.mask {
            None => rows.mean(rows.kind()),
            Some(mask) => {
                let mask = mask.to_kind(rows.kind());
                (&rows * mask.unsqueeze(1)).sum(rows.kind())
                    / (mask.sum(rows.kind()) * heads as f64)
            }
        }
    };
    let group = |name, weight, raw: Tensor| Group {
        name,
        weight,
        places: vec![View::place((s, t))],
        raw: raw.unsqueeze(0),
    };
    vec![
        group(
            "attention",
            c.attention,
            loss(relation(&query.0, &key.0), relation(&query.1, &key.1)),
        ),
        group(
            "value",
            c.value,
            loss(relation(&value.0, &value.0), relation(&value.1, &value.1)),
        ),
    ]
}

fn cka(view: &View) -> Vec<Group> {
    let stacked = view.trunk();
    let (student, teacher) = stacked.tensors();
    vec![Group {
        name: "cka",
        weight: view.config.cka.weight,
        places: stacked.places,
        raw: linear_cka(&student, &teacher) * -1.0 + 1.0,
    }]
}

/// `KL(p || q)` over the last axis, of log-probabilities.
fn divergence(p: &Tensor, q: &Tensor) -> Tensor {
    (p.exp() * (p - q)).sum_dim_intlist([-1i64].as_slice(), false, p.kind())
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
