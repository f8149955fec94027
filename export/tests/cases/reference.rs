//! BERT in plain f64 loops, position by position, without looking at the graph writer: what exported files are held against.

use std::collections::HashMap;

use tcd_export::runtime::Feed;
use tcd_export::{Architecture, Head, Tap, parameters};

/// Values with their shape.
pub type Array = (Vec<usize>, Vec<f64>);

/// A model in f64.
pub struct Reference {
    architecture: Architecture,
    head: Head,
    weights: HashMap<String, Vec<f64>>,
}

/// All outputs and taps by name, and for each layer the expert of each token (none: padding or no room).
pub struct Result {
    pub values: HashMap<String, Array>,
    pub experts: Vec<Vec<Option<usize>>>,
}

impl Reference {
    /// `fetch` gives little-endian f32.
    pub fn new(architecture: &Architecture, head: Head, fetch: impl Fn(&str) -> Vec<u8>) -> Self {
        let floats = |bytes: Vec<u8>| {
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| f64::from(f32::from_le_bytes(*word)))
                .collect()
        };
        let weights = parameters(architecture, head)
            .into_iter()
            .map(|row| (row.name.clone(), floats(fetch(&row.name))));
        Self {
            architecture: architecture.clone(),
            head,
            weights: weights.collect(),
        }
    }

    fn weight(&self, name: &str) -> &[f64] {
        &self.weights[name]
    }

    /// `x W^T + b` for one vector.
    fn linear(&self, path: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (
            self.weight(&format!("{path}.weight")),
            self.weight(&format!("{path}.bias")),
        );
        bias.iter()
            .enumerate()
            .map(|(row, bias)| bias + dot(&weight[row * x.len()..(row + 1) * x.len()], x))
            .collect()
    }

    fn norm(&self, path: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (
            self.weight(&format!("{path}.weight")),
            self.weight(&format!("{path}.bias")),
        );
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let step = (variance + self.architecture.layer_norm_eps).sqrt();
        x.iter()
            .enumerate()
            .map(|(index, value)| (value - mean) / step * weight[index] + bias[index])
            .collect()
    }

    fn feed_forward(&self, path: &str, x: &[f64]) -> Vec<f64> {
        let up: Vec<f64> = self
            .linear(&format!("{path}.intermediate.dense"), x)
            .into_iter()
            .map(gelu)
            .collect();
        self.linear(&format!("{path}.output.dense"), &up)
    }

    /// The forward pass.
    pub fn run(&self, feed: &Feed<'_>) -> Result {
        let (b, s, h) = (feed.batch, feed.sequence, self.architecture.hidden_size);
        let mut values = HashMap::new();
        let mut experts = Vec::new();
        let row = |name: &str, index: usize| &self.weight(name)[index * h..(index + 1) * h];
        let mut x: Vec<Vec<f64>> = (0..b * s)
            .map(|token| {
                let word = row(
                    "bert.embeddings.word_embeddings.weight",
                    feed.input_ids[token] as usize,
                );
                let place = row("bert.embeddings.position_embeddings.weight", token % s);
                let kind = row(
                    "bert.embeddings.token_type_embeddings.weight",
                    feed.token_type_ids[token] as usize,
                );
                let sum: Vec<f64> = (0..h)
                    .map(|index| word[index] + place[index] + kind[index])
                    .collect();
                self.norm("bert.embeddings.LayerNorm", &sum)
            })
            .collect();
        values.insert(Tap::Embedding.to_string(), (vec![b, s, h], x.concat()));
        for layer in 0..self.architecture.num_hidden_layers {
            let path = format!("bert.encoder.layer.{layer}");
            let attended = self.attention(layer, &x, feed, &mut values);
            values.insert(
                Tap::AttentionInner(layer).to_string(),
                (vec![b, s, h], attended.concat()),
            );
            let middle: Vec<Vec<f64>> = x
                .iter()
                .zip(&attended)
                .map(|pair| {
                    self.norm(
                        &format!("{path}.attention.output.LayerNorm"),
                        &sum(pair.0, pair.1),
                    )
                })
                .collect();
            let inner = match self.architecture.experts() {
                None => middle.iter().map(|x| self.feed_forward(&path, x)).collect(),
                Some(_) => {
                    let (inner, chosen) = self.mixture(&path, &middle, feed);
                    experts.push(chosen);
                    inner
                }
            };
            values.insert(
                Tap::FeedForwardInner(layer).to_string(),
                (vec![b, s, h], inner.concat()),
            );
            x = middle
                .iter()
                .zip(&inner)
                .map(|pair| self.norm(&format!("{path}.output.LayerNorm"), &sum(pair.0, pair.1)))
                .collect();
            values.insert(Tap::Trunk(layer).to_string(), (vec![b, s, h], x.concat()));
        }
        let (name, array) = self.output(&x, b, s);
        values.insert(name.to_owned(), array);
        Result { values, experts }
    }

    fn output(&self, x: &[Vec<f64>], b: usize, s: usize) -> (&'static str, Array) {
        match self.head {
            Head::None => ("last_hidden_state", (vec![b, s, x[0].len()], x.concat())),
            Head::MaskedLm => {
                let v = self.architecture.vocab_size;
                let own = "cls.predictions.decoder.weight";
                let table = if self.architecture.tie_word_embeddings {
                    "bert.embeddings.word_embeddings.weight"
                } else {
                    own
                };
                let bias = self.weight("cls.predictions.bias");
                let logits = x.iter().flat_map(|x| {
                    let x: Vec<f64> = self
                        .linear("cls.predictions.transform.dense", x)
                        .into_iter()
                        .map(gelu)
                        .collect();
                    let x = self.norm("cls.predictions.transform.LayerNorm", &x);
                    let table = self.weight(table);
                    (0..v)
                        .map(move |token| {
                            bias[token] + dot(&table[token * x.len()..(token + 1) * x.len()], &x)
                        })
                        .collect::<Vec<_>>()
                });
                ("logits", (vec![b, s, v], logits.collect()))
            }
            Head::SequenceClassification { labels } => {
                let logits = (0..b).flat_map(|row| {
                    let pooled: Vec<f64> = self
                        .linear("bert.pooler.dense", &x[row * s])
                        .into_iter()
                        .map(f64::tanh)
                        .collect();
                    self.linear("classifier", &pooled)
                });
                ("logits", (vec![b, labels], logits.collect()))
            }
        }
    }

    fn attention(
        &self,
        layer: usize,
        x: &[Vec<f64>],
        feed: &Feed<'_>,
        values: &mut HashMap<String, Array>,
    ) -> Vec<Vec<f64>> {
        let path = format!("bert.encoder.layer.{layer}.attention");
        let (b, s, a) = (
            feed.batch,
            feed.sequence,
            self.architecture.num_attention_heads,
        );
        let (h, d) = (self.architecture.hidden_size, self.architecture.head_size());
        let part = |part: &str| -> Vec<Vec<f64>> {
            x.iter()
                .map(|x| self.linear(&format!("{path}.self.{part}"), x))
                .collect()
        };
        let [query, key, value] = ["query", "key", "value"].map(part);
        // [B, A, S, D]
        let heads = |x: &[Vec<f64>]| -> Array {
            let mut out = Vec::new();
            for row in 0..b {
                for head in 0..a {
                    for place in 0..s {
                        out.extend(&x[row * s + place][head * d..(head + 1) * d]);
                    }
                }
            }
            (vec![b, a, s, d], out)
        };
        values.insert(Tap::Query(layer).to_string(), heads(&query));
        values.insert(Tap::Key(layer).to_string(), heads(&key));
        values.insert(Tap::Value(layer).to_string(), heads(&value));
        (0..b * s)
            .map(|token| {
                let row = token / s * s;
                let mut joined = vec![0.0; h];
                for head in 0..a {
                    let span = head * d..(head + 1) * d;
                    let logits: Vec<f64> = (row..row + s)
                        .map(|other| {
                            let logit = dot(&query[token][span.clone()], &key[other][span.clone()])
                                / (d as f64).sqrt();
                            // As in f32, where the bias swallows the logit: a row of padding alone is uniform.
                            if feed.attention_mask[other] == 0 {
                                -1e9
                            } else {
                                logit
                            }
                        })
                        .collect();
                    for (other, weight) in softmax(&logits).into_iter().enumerate() {
                        for index in span.clone() {
                            joined[index] += weight * value[row + other][index];
                        }
                    }
                }
                self.linear(&format!("{path}.output.dense"), &joined)
            })
            .collect()
    }

    /// The Switch block, as the training side evaluates it.
    fn mixture(
        &self,
        path: &str,
        x: &[Vec<f64>],
        feed: &Feed<'_>,
    ) -> (Vec<Vec<f64>>, Vec<Option<usize>>) {
        let experts = self.architecture.experts().unwrap();
        let router = self.weight(&format!("{path}.moe.router.weight"));
        let real = feed
            .attention_mask
            .iter()
            .filter(|mask| **mask != 0)
            .count();
        let factor = self.architecture.moe.as_ref().unwrap().capacity_factor;
        let room = factor.map_or(usize::MAX, |factor| {
            ((factor * real as f64 / experts as f64).ceil() as usize).max(1)
        });
        let mut load = vec![0; experts];
        let mut chosen = Vec::new();
        let mut out = Vec::new();
        for (token, x) in x.iter().enumerate() {
            let nothing = vec![0.0; x.len()];
            let logits: Vec<f64> = (0..experts)
                .map(|expert| dot(&router[expert * x.len()..(expert + 1) * x.len()], x))
                .collect();
            let p = softmax(&logits);
            let mut best = 0;
            for expert in 1..experts {
                if p[expert] > p[best] {
                    best = expert;
                }
            }
            if feed.attention_mask[token] == 0 || load[best] == room {
                chosen.push(None);
                out.push(nothing);
                continue;
            }
            load[best] += 1;
            chosen.push(Some(best));
            let y = self.feed_forward(&format!("{path}.moe.experts.{best}"), x);
            out.push(y.into_iter().map(|y| y * p[best]).collect());
        }
        (out, chosen)
    }
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|pair| pair.0 * pair.1).sum()
}

fn sum(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().zip(right).map(|pair| pair.0 + pair.1).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / total).collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// The error function by its Taylor series, which converges everywhere and is exact enough where |x| < 5; 1 beyond.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut total) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        total += term / f64::from(2 * n + 1);
    }
    total * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn the_error_function_has_its_known_values() {
    // math.erf in Python
    for (x, wanted) in [
        (0.0, 0.0),
        (0.5, 0.5204998778130465),
        (-1.0, -0.8427007929497149),
        (2.5, 0.999593047982555),
        (4.0, 0.9999999845827421),
    ] {
        assert!((erf(x) - wanted).abs() < 1e-9, "{x}");
    }
}
