//! The graph of BERT: embeddings, attention, feed-forward or experts, heads (Devlin et al. 2019).
//!
//! Every function adds what one part of the model computes, with the names of its parameters. Sums are taken in the order
//! in which the training side takes them.
//!
//! Shapes: `B` rows, `S` positions, `H` hidden, `A` heads, `D` head size, `F` feed-forward, `V` vocabulary, `C` classes.

use crate::config::Architecture;
use crate::parameters::{DECODER_BIAS, DECODER_WEIGHT, Head, WORD_EMBEDDINGS};
use crate::taps::Tap;

use super::graph::{BATCH, Dim, Form, Graph, Precision, SEQUENCE, float, int, ints};
use super::moe;
use super::proto::DataType;

/// Added to attention logits at padding: finite, so that a row of padding alone stays finite.
const MASKED: f32 = -1e9;

/// What the graph is to compute and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<'a> {
    /// The model.
    pub architecture: &'a Architecture,
    /// Its head.
    pub head: Head,
    /// Taps that become outputs, in their order.
    pub taps: &'a [Tap],
    /// How weights of matrix products are stored.
    pub precision: Precision,
    /// Whether each token's expert and gate become outputs.
    pub routing: bool,
    /// How rows come to their expert.
    pub moe_form: super::MoeForm,
}

/// What goes from layer to layer beside the hidden state.
pub(super) struct Context<'a> {
    pub(super) graph: Graph,
    pub(super) plan: &'a Plan<'a>,
    /// Added to attention logits, `[B, 1, 1, S]`.
    bias: String,
    /// Which tokens are padding, bool `[B, S]`.
    padding: String,
}

/// The graph of a model.
pub fn build(plan: &Plan<'_>) -> Graph {
    let mut graph = Graph::default();
    let axes = [BATCH, SEQUENCE];
    let [ids, mask, types] = ["input_ids", "attention_mask", "token_type_ids"]
        .map(|name| graph.input(name, DataType::Int64, &axes));
    let zero = graph.i64(0);
    let padding = graph.node("Equal", "padding", &[&mask, &zero], vec![]); // [B, S]
    let axes = graph.i64s(&[1, 2]);
    let wide = graph.node("Unsqueeze", "padding/Unsqueeze", &[&padding, &axes], vec![]); // [B, 1, 1, S]
    let (masked, kept) = (graph.f32(MASKED), graph.f32(0.0));
    let bias = graph.node("Where", "attention_bias", &[&wide, &masked, &kept], vec![]);
    let mut context = Context {
        graph,
        plan,
        bias,
        padding,
    };
    let mut x = context.embeddings(&ids, &types); // [B, S, H]
    context.tap(Tap::Embedding, &x);
    for layer in 0..plan.architecture.num_hidden_layers {
        x = context.layer(layer, &x);
    }
    context.head(&x);
    context.graph
}

impl Context<'_> {
    /// Makes a value an output if its tap is asked for.
    fn tap(&mut self, tap: Tap, value: &str) {
        if !self.plan.taps.contains(&tap) {
            return;
        }
        let architecture = self.plan.architecture;
        let hidden = Dim::Fixed(architecture.hidden_size);
        let dims = if tap.per_head() {
            let (heads, size) = (architecture.num_attention_heads, architecture.head_size());
            vec![BATCH, Dim::Fixed(heads), SEQUENCE, Dim::Fixed(size)]
        } else {
            vec![BATCH, SEQUENCE, hidden]
        };
        let name = self
            .graph
            .node("Identity", &tap.to_string(), &[value], vec![]);
        self.graph.output(&name, DataType::Float, &dims);
    }

    /// Word, position and token-type embeddings, summed and normalised. `[B, S]` to `[B, S, H]`.
    fn embeddings(&mut self, ids: &str, types: &str) -> String {
        let path = "bert.embeddings";
        let architecture = self.plan.architecture;
        let h = architecture.hidden_size;
        let words = self.lookup(
            &format!("{path}.word_embeddings"),
            architecture.vocab_size,
            ids,
        ); // [B, S, H]
        let types = self.lookup(
            &format!("{path}.token_type_embeddings"),
            architecture.type_vocab_size,
            types,
        ); // [B, S, H]
        let graph = &mut self.graph;
        let positions = graph.parameter(
            &format!("{path}.position_embeddings.weight"),
            &[architecture.max_position_embeddings, h],
            Form::Same,
        );
        let length = graph.node(
            "Shape",
            "sequence_length",
            &[ids],
            vec![int("start", 1), int("end", 2)],
        );
        let zeros = graph.i64s(&[0]);
        let positions = graph.node(
            "Slice",
            &format!("{path}.position_embeddings"),
            &[&positions, &zeros, &length, &zeros],
            vec![],
        ); // [S, H]
        let places = graph.node(
            "Add",
            &format!("{path}/places"),
            &[&positions, &types],
            vec![],
        );
        let sum = graph.node("Add", &format!("{path}/sum"), &[&words, &places], vec![]);
        self.norm(&format!("{path}.LayerNorm"), &sum)
    }

    /// Makes the choice of a router outputs, before padding and capacity: `expert.{layer}` i64 and `gate.{layer}` f32, `[B, S]`.
    pub(super) fn routing(&mut self, path: &str, expert: &str, gate: &str) {
        let layer = path.split('.').nth(3).unwrap_or_default().to_owned();
        let shape = "batch_shape";
        if self.graph.is_new(shape) {
            self.graph.node("Shape", shape, &["input_ids"], vec![]);
        }
        let outputs = [
            ("expert", expert, DataType::Int64),
            ("gate", gate, DataType::Float),
        ];
        for (name, value, kind) in outputs {
            let name = format!("{name}.{layer}");
            self.graph.node("Reshape", &name, &[value, shape], vec![]);
            self.graph.output(&name, kind, &[BATCH, SEQUENCE]);
        }
    }

    /// Rows of a table, f32. `[..]` to `[.., H]`.
    fn lookup(&mut self, path: &str, rows: usize, ids: &str) -> String {
        let shape = [rows, self.plan.architecture.hidden_size];
        let parameter = format!("{path}.weight");
        if self.plan.precision != Precision::F16 {
            let table = self.graph.parameter(&parameter, &shape, Form::Same);
            return self.graph.node("Gather", path, &[&table, ids], vec![]);
        }
        // Rows are gathered first, so that the table stays small in memory too.
        let table = self.graph.parameter(&parameter, &shape, Form::Half);
        let rows = self
            .graph
            .node("Gather", &format!("{path}/Gather"), &[&table, ids], vec![]);
        self.cast_f32(path, &rows)
    }

    /// Which tokens are padding, bool `[T]`.
    pub(super) fn flat_padding(&mut self) -> String {
        let name = "padding/flat";
        if self.graph.is_new(name) {
            let all = self.graph.i64s(&[-1]);
            self.graph
                .node("Reshape", name, &[&self.padding, &all], vec![]);
        }
        name.to_owned()
    }

    pub(super) fn cast_f32(&mut self, name: &str, value: &str) -> String {
        self.graph.node(
            "Cast",
            name,
            &[value],
            vec![int("to", DataType::Float as i64)],
        )
    }

    fn norm(&mut self, path: &str, x: &str) -> String {
        let h = [self.plan.architecture.hidden_size];
        let weight = self
            .graph
            .parameter(&format!("{path}.weight"), &h, Form::Same);
        let bias = self
            .graph
            .parameter(&format!("{path}.bias"), &h, Form::Same);
        let epsilon = self.plan.architecture.layer_norm_eps as f32;
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        self.graph
            .node("LayerNormalization", path, &[x, &weight, &bias], attributes)
    }

    /// `x W^T + b` under the names of a dense layer. `[.., in]` to `[.., out]`.
    pub(super) fn linear(&mut self, path: &str, x: &Operand, out: usize, of: usize) -> String {
        let product = self.product(path, x, out, of);
        let bias = self
            .graph
            .parameter(&format!("{path}.bias"), &[out], Form::Same);
        self.graph.node("Add", path, &[&product, &bias], vec![])
    }

    /// `x W^T`. `[.., in]` to `[.., out]`.
    pub(super) fn product(&mut self, path: &str, x: &Operand, out: usize, of: usize) -> String {
        let (parameter, shape) = (format!("{path}.weight"), [out, of]);
        let name = format!("{path}/MatMul");
        match x {
            Operand::Float(x) => {
                let weight = self.weight(&parameter, &shape);
                self.graph.node("MatMul", &name, &[x, &weight], vec![])
            }
            Operand::Quantised {
                values,
                scale,
                zero,
            } => {
                let weight = self
                    .graph
                    .parameter(&parameter, &shape, Form::Int8Transposed);
                let scales = self.graph.parameter(&parameter, &shape, Form::Int8Scales);
                let sums = format!("{path}/MatMulInteger");
                let sums =
                    self.graph
                        .node("MatMulInteger", &sums, &[values, &weight, zero], vec![]);
                let sums = self.cast_f32(&format!("{path}/Cast"), &sums);
                let scale =
                    self.graph
                        .node("Mul", &format!("{path}/scale"), &[scale, &scales], vec![]);
                self.graph.node("Mul", &name, &[&sums, &scale], vec![])
            }
        }
    }

    /// The weight of a matrix product, f32 `[in, out]`.
    pub(super) fn weight(&mut self, parameter: &str, shape: &[usize]) -> String {
        if self.plan.precision == Precision::F16 {
            let half = self.graph.parameter(parameter, shape, Form::HalfTransposed);
            return self.cast_f32(&format!("{parameter}.transposed"), &half);
        }
        self.graph.parameter(parameter, shape, Form::Transposed)
    }

    /// Prepares `x` for products: quantised where products are in integers.
    pub(super) fn operand(&mut self, x: &str) -> Operand {
        if self.plan.precision != Precision::Int8 {
            return Operand::Float(x.to_owned());
        }
        let [values, scale, zero] =
            ["quantised", "quantised.scale", "quantised.zero"].map(|part| format!("{x}/{part}"));
        self.graph.nodes_with(
            "DynamicQuantizeLinear",
            &[&values, &scale, &zero],
            &[x],
            vec![],
        );
        Operand::Quantised {
            values,
            scale,
            zero,
        }
    }

    /// Post-layer-norm layer. `[B, S, H]` to `[B, S, H]`.
    fn layer(&mut self, index: usize, x: &str) -> String {
        let path = format!("bert.encoder.layer.{index}");
        let attended = self.attention(index, &path, x);
        self.tap(Tap::AttentionInner(index), &attended);
        let sum = format!("{path}.attention/residual");
        let sum = self.graph.node("Add", &sum, &[x, &attended], vec![]);
        let middle = self.norm(&format!("{path}.attention.output.LayerNorm"), &sum);
        let inner = if self.plan.architecture.experts().is_some() {
            moe::block(self, &path, &middle)
        } else {
            let x = self.operand(&middle);
            self.feed_forward(&path, &x)
        };
        self.tap(Tap::FeedForwardInner(index), &inner);
        let sum = self.graph.node(
            "Add",
            &format!("{path}/residual"),
            &[&middle, &inner],
            vec![],
        );
        let out = self.norm(&format!("{path}.output.LayerNorm"), &sum);
        self.tap(Tap::Trunk(index), &out);
        out
    }

    /// Multi-head self-attention with its output projection. `[B, S, H]` to `[B, S, H]`.
    fn attention(&mut self, index: usize, layer: &str, x: &str) -> String {
        let path = format!("{layer}.attention.self");
        let architecture = self.plan.architecture;
        let (h, a, d) = (
            architecture.hidden_size,
            architecture.num_attention_heads,
            architecture.head_size(),
        );
        let tapped = self.plan.taps.contains(&Tap::Key(index));
        let operand = self.operand(x);
        let split = self.graph.i64s(&[0, 0, a as i64, d as i64]);
        let mut heads = |part: &str, order: &[i64]| {
            let path = format!("{path}.{part}");
            let all = self.linear(&path, &operand, h, h); // [B, S, H]
            let split = self.graph.node(
                "Reshape",
                &format!("{path}/Reshape"),
                &[&all, &split],
                vec![],
            );
            self.graph.node(
                "Transpose",
                &format!("{path}/heads"),
                &[&split],
                vec![ints("perm", order)],
            )
        };
        let query = heads("query", &[0, 2, 1, 3]); // [B, A, S, D]
        let key_columns = heads("key", &[0, 2, 3, 1]); // [B, A, D, S]
        let value = heads("value", &[0, 2, 1, 3]); // [B, A, S, D]
        self.tap(Tap::Query(index), &query);
        if tapped {
            let order = vec![ints("perm", &[0, 1, 3, 2])];
            let key = format!("{path}.key/rows");
            let key = self.graph.node("Transpose", &key, &[&key_columns], order); // [B, A, S, D]
            self.tap(Tap::Key(index), &key);
        }
        self.tap(Tap::Value(index), &value);
        let graph = &mut self.graph;
        let scale = graph.f32(1.0 / (d as f32).sqrt());
        let query = graph.node(
            "Mul",
            &format!("{path}.query/scaled"),
            &[&query, &scale],
            vec![],
        );
        let logits = graph.node(
            "MatMul",
            &format!("{path}/logits"),
            &[&query, &key_columns],
            vec![],
        ); // [B, A, S, S]
        let logits = graph.node(
            "Add",
            &format!("{path}/masked"),
            &[&logits, &self.bias],
            vec![],
        );
        let weights = graph.node(
            "Softmax",
            &format!("{path}/weights"),
            &[&logits],
            vec![int("axis", -1)],
        );
        let attended = graph.node(
            "MatMul",
            &format!("{path}/attended"),
            &[&weights, &value],
            vec![],
        ); // [B, A, S, D]
        let order = vec![ints("perm", &[0, 2, 1, 3])];
        let attended = graph.node(
            "Transpose",
            &format!("{path}/Transpose"),
            &[&attended],
            order,
        ); // [B, S, A, D]
        let joined = graph.i64s(&[0, 0, h as i64]);
        let joined = graph.node("Reshape", &path, &[&attended, &joined], vec![]); // [B, S, H]
        let joined = self.operand(&joined);
        self.linear(&format!("{layer}.attention.output.dense"), &joined, h, h)
    }

    /// `W_2 gelu(W_1 x + b_1) + b_2`. `[.., H]` to `[.., H]`.
    pub(super) fn feed_forward(&mut self, path: &str, x: &Operand) -> String {
        let architecture = self.plan.architecture;
        let (h, f) = (architecture.hidden_size, architecture.intermediate_size);
        let up = self.linear(&format!("{path}.intermediate.dense"), x, f, h);
        let up = self.gelu(&format!("{path}.intermediate.gelu"), &up);
        let up = self.operand(&up);
        self.linear(&format!("{path}.output.dense"), &up, h, f)
    }

    /// The exact GELU, with erf.
    pub(super) fn gelu(&mut self, name: &str, x: &str) -> String {
        self.graph.node("Gelu", name, &[x], vec![])
    }

    /// The head's outputs, under Hugging Face's names.
    fn head(&mut self, x: &str) {
        let architecture = self.plan.architecture;
        let (h, v) = (architecture.hidden_size, architecture.vocab_size);
        match self.plan.head {
            Head::None => {
                let out = self
                    .graph
                    .node("Identity", "last_hidden_state", &[x], vec![]);
                self.graph
                    .output(&out, DataType::Float, &[BATCH, SEQUENCE, Dim::Fixed(h)]);
            }
            Head::MaskedLm => {
                let path = "cls.predictions";
                let x = self.operand(x);
                let x = self.linear(&format!("{path}.transform.dense"), &x, h, h);
                let x = self.gelu(&format!("{path}.transform.gelu"), &x);
                let x = self.norm(&format!("{path}.transform.LayerNorm"), &x);
                let decoder = self.decoder(h, v);
                let product =
                    self.graph
                        .node("MatMul", &format!("{path}/MatMul"), &[&x, &decoder], vec![]);
                let bias = self.graph.parameter(DECODER_BIAS, &[v], Form::Same);
                self.graph.node("Add", "logits", &[&product, &bias], vec![]);
                self.graph
                    .output("logits", DataType::Float, &[BATCH, SEQUENCE, Dim::Fixed(v)]);
            }
            Head::SequenceClassification { labels } => {
                let first = self.graph.i64(0);
                let first = self.graph.node(
                    "Gather",
                    "bert.pooler/first",
                    &[x, &first],
                    vec![int("axis", 1)],
                ); // [B, H]
                // One position a row: integers would gain nothing here.
                let pooled = Operand::Float(first);
                let pooled = self.linear("bert.pooler.dense", &pooled, h, h);
                let pooled = self.graph.node("Tanh", "bert.pooler", &[&pooled], vec![]);
                let logits = self.linear("classifier", &Operand::Float(pooled), labels, h); // [B, C]
                self.graph.node("Identity", "logits", &[&logits], vec![]);
                self.graph
                    .output("logits", DataType::Float, &[BATCH, Dim::Fixed(labels)]);
            }
        }
    }

    /// The masked-LM decoder as f32 `[H, V]`; the table of words itself where the two are tied.
    fn decoder(&mut self, h: usize, v: usize) -> String {
        if !self.plan.architecture.tie_word_embeddings {
            return self.weight(DECODER_WEIGHT, &[v, h]);
        }
        let half = self.plan.precision == Precision::F16;
        let form = if half { Form::Half } else { Form::Same };
        let mut table = self.graph.parameter(WORD_EMBEDDINGS, &[v, h], form);
        if half {
            table = self.cast_f32("cls.predictions.decoder/f32", &table);
        }
        let order = vec![ints("perm", &[1, 0])];
        self.graph.node(
            "Transpose",
            "cls.predictions.decoder/Transpose",
            &[&table],
            order,
        )
    }
}

/// The left side of products.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// f32.
    Float(String),
    /// u8 with one scale and one zero point.
    Quantised {
        /// u8 values.
        values: String,
        /// f32, no axes.
        scale: String,
        /// u8, no axes.
        zero: String,
    },
}
