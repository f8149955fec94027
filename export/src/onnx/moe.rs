//! The Switch block in standard operators (Fedus et al. 2022): each token is computed by its own expert alone.
//!
//! As in training: the router is a softmax, ties go to the first expert, padding reaches no expert and gives zero, and with a
//! capacity factor the first `ceil(factor * R / E)` tokens of each expert are computed (`R` real tokens of the batch), the
//! rest gives zero.
//!
//! Two forms ([`MoeForm`]); in both an expert costs what its tokens cost and a few small operators.
//!
//! Shapes: `T = B * S` tokens, `R` real ones, `N` tokens of an expert, `E` experts, `H` hidden, `F` feed-forward.

use super::bert::{Context, Operand};
use super::graph::{Form, Graph, Precision, int};
use super::proto::DataType;

/// How rows come to their expert and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MoeForm {
    /// Rows are brought into the order of their experts once, and an expert computes a slice. The engines of this program run it;
    /// tract 0.23.9 by itself does not.
    #[default]
    Sorted,
    /// An expert looks for its rows, gathers them and writes its results to their places; for every engine.
    Scattered,
}

impl MoeForm {
    /// All forms.
    pub const ALL: [MoeForm; 2] = [MoeForm::Sorted, MoeForm::Scattered];

    /// Its name on the command line and in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scattered => "scattered",
            Self::Sorted => "sorted",
        }
    }
}

/// Where the tokens of a layer go.
struct Routed {
    /// The expert of each token, `E` where none computes it; i64 `[T]`.
    expert: String,
    /// Its probability, `[T, 1]`.
    gate: String,
}

/// The block of a layer, without residual. `[B, S, H]` to `[B, S, H]`.
pub(super) fn block(context: &mut Context<'_>, layer: &str, x: &str) -> String {
    let path = format!("{layer}.moe");
    let h = context.plan.architecture.hidden_size;
    let rows = context.graph.i64s(&[-1, h as i64]);
    let flat = context
        .graph
        .node("Reshape", &format!("{path}/flat"), &[x, &rows], vec![]); // [T, H]
    let routed = route(context, &path, &flat);
    let y = match context.plan.moe_form {
        MoeForm::Scattered => scattered(context, &path, &flat, &routed),
        MoeForm::Sorted => sorted(context, &path, &flat, &routed),
    }; // [T, H]
    let graph = &mut context.graph;
    let y = graph.node("Mul", &format!("{path}/gated"), &[&y, &routed.gate], vec![]);
    let shape = graph.node("Shape", &format!("{path}/shape"), &[x], vec![]);
    graph.node("Reshape", &path, &[&y, &shape], vec![])
}

/// The router: softmax, its largest probability, and whose it is.
fn route(context: &mut Context<'_>, path: &str, flat: &str) -> Routed {
    let architecture = context.plan.architecture;
    let experts = architecture.experts().unwrap_or(1);
    let shape = [experts, architecture.hidden_size];
    // In f32 whatever the precision of the experts (Fedus et al. 2022, section 2.4).
    let weight =
        context
            .graph
            .parameter(&format!("{path}.router.weight"), &shape, Form::Transposed);
    let capacity = architecture
        .moe
        .as_ref()
        .and_then(|moe| moe.capacity_factor);
    let padding = context.flat_padding();
    let graph = &mut context.graph;
    let logits = graph.node(
        "MatMul",
        &format!("{path}.router"),
        &[flat, &weight],
        vec![],
    ); // [T, E]
    let axis = vec![int("axis", -1)];
    let p = graph.node(
        "Softmax",
        &format!("{path}.router/probabilities"),
        &[&logits],
        axis,
    );
    let last = graph.i64s(&[1]);
    let keep = vec![int("keepdims", 1)];
    let gate = graph.node(
        "ReduceMax",
        &format!("{path}.router/gate"),
        &[&p, &last],
        keep,
    ); // [T, 1]
    let attributes = vec![int("axis", 1), int("keepdims", 0)];
    let first = graph.node(
        "ArgMax",
        &format!("{path}.router/ArgMax"),
        &[&p],
        attributes,
    ); // [T]
    if context.plan.routing {
        context.routing(path, &first, &gate);
    }
    let graph = &mut context.graph;
    let none = graph.i64(experts as i64);
    let real = graph.node(
        "Where",
        &format!("{path}.router/expert"),
        &[&padding, &none, &first],
        vec![],
    );
    let expert = match capacity {
        Some(factor) => limit(graph, path, &real, experts, factor),
        None => real,
    };
    Routed { expert, gate }
}

/// Which expert each token has, as i32 `[T, E + 1]` of 0 and 1; the last column stands for none.
fn one_hot(graph: &mut Graph, path: &str, expert: &str, experts: usize) -> String {
    let column = graph.i64s(&[1]);
    let columns = graph.range(experts + 1);
    let wide = graph.node(
        "Unsqueeze",
        &format!("{path}/Unsqueeze"),
        &[expert, &column],
        vec![],
    );
    let equal = graph.node(
        "Equal",
        &format!("{path}/Equal"),
        &[&wide, &columns],
        vec![],
    );
    graph.node(
        "Cast",
        path,
        &[&equal],
        vec![int("to", DataType::Int32 as i64)],
    )
}

/// Takes from each expert the tokens beyond its capacity. i64 `[T]` to `[T]`.
fn limit(graph: &mut Graph, path: &str, expert: &str, experts: usize, factor: f64) -> String {
    let path = format!("{path}.router/capacity");
    let none = graph.i64(experts as i64);
    let real = graph.node("Less", &format!("{path}/Less"), &[expert, &none], vec![]);
    let to = |kind: DataType| vec![int("to", kind as i64)];
    // The product and the quotient are taken in f64, as in training.
    let real = graph.node(
        "Cast",
        &format!("{path}/Cast"),
        &[&real],
        to(DataType::Double),
    );
    let first = graph.i64s(&[0]);
    let sum = vec![int("keepdims", 0)];
    let real = graph.node(
        "ReduceSum",
        &format!("{path}/real"),
        &[&real, &first],
        sum.clone(),
    );
    let (factor, number, one) = (graph.f64(factor), graph.f64(experts as f64), graph.f64(1.0));
    let share = graph.node("Mul", &format!("{path}/Mul"), &[&factor, &real], vec![]);
    let share = graph.node("Div", &format!("{path}/Div"), &[&share, &number], vec![]);
    let share = graph.node("Ceil", &format!("{path}/Ceil"), &[&share], vec![]);
    let share = graph.node("Max", &format!("{path}/Max"), &[&share, &one], vec![]);
    let share = graph.node("Cast", &path, &[&share], to(DataType::Int32));
    let hot = one_hot(graph, &format!("{path}/one_hot"), expert, experts); // [T, E + 1]
    let axis = graph.i64(0);
    let rank = graph.node("CumSum", &format!("{path}/CumSum"), &[&hot, &axis], vec![]);
    let rank = graph.node("Mul", &format!("{path}/rank"), &[&rank, &hot], vec![]);
    let last = graph.i64s(&[1]);
    let rank = graph.node(
        "ReduceSum",
        &format!("{path}/ReduceSum"),
        &[&rank, &last],
        sum,
    ); // [T], from 1
    let over = graph.node("Greater", &format!("{path}/over"), &[&rank, &share], vec![]);
    graph.node(
        "Where",
        &format!("{path}/expert"),
        &[&over, &none, expert],
        vec![],
    )
}

/// Rows in the order of their experts, a slice for each, and the way back by one gather.
fn sorted(context: &mut Context<'_>, path: &str, flat: &str, routed: &Routed) -> String {
    let experts = context.plan.architecture.experts().unwrap_or(1);
    let graph = &mut context.graph;
    let own = format!("{path}/sort");
    let hot = one_hot(graph, &format!("{own}/one_hot"), &routed.expert, experts); // [T, E + 1]
    let (rows, columns) = (graph.i64s(&[0]), graph.i64s(&[1]));
    let axis = graph.i64(0);
    let sum = vec![int("keepdims", 0)];
    let counts = graph.node(
        "ReduceSum",
        &format!("{own}/counts"),
        &[&hot, &rows],
        sum.clone(),
    ); // [E + 1]
    let ends = graph.node("CumSum", &format!("{own}/ends"), &[&counts, &axis], vec![]);
    let starts = graph.node("Sub", &format!("{own}/starts"), &[&ends, &counts], vec![]);
    // A token's place is where its expert starts and how many of its expert's tokens come before it.
    let before = graph.node(
        "CumSum",
        &format!("{own}/before"),
        &[&hot, &axis],
        vec![int("exclusive", 1)],
    );
    let place = graph.node("Add", &format!("{own}/place"), &[&before, &starts], vec![]);
    let place = graph.node("Mul", &format!("{own}/own_place"), &[&place, &hot], vec![]);
    let place = graph.node(
        "ReduceSum",
        &format!("{own}/ReduceSum"),
        &[&place, &columns],
        sum,
    ); // [T]
    let wide = vec![int("to", DataType::Int64 as i64)];
    let place = graph.node("Cast", &own, &[&place], wide.clone());
    let target = graph.node(
        "Unsqueeze",
        &format!("{own}/target"),
        &[&place, &columns],
        vec![],
    ); // [T, 1]
    // Places are a permutation: every row of the first argument is replaced.
    let x = graph.node(
        "ScatterND",
        &format!("{own}/rows"),
        &[flat, &target, flat],
        vec![],
    ); // [T, H]
    let ends = graph.node("Cast", &format!("{own}/ends_i64"), &[&ends], wide);
    let parts: Vec<_> = (0..=experts)
        .map(|expert| format!("{path}.experts.{expert}/end"))
        .collect();
    let names: Vec<_> = parts.iter().map(String::as_str).collect();
    let attributes = vec![int("axis", 0), int("num_outputs", experts as i64 + 1)];
    graph.nodes_with("Split", &names, &[&ends], attributes);
    let y = slices(context, path, &x, &rows, &parts); // [T, H]
    context
        .graph
        .node("Gather", &format!("{path}/unsorted"), &[&y, &place], vec![])
}

/// Every expert on its slice of the sorted rows; tokens without expert come last and give zero.
fn slices(context: &mut Context<'_>, path: &str, x: &str, zero: &str, ends: &[String]) -> String {
    let last = ends.len() - 1;
    let operand = context.operand(x);
    let cut = |graph: &mut Graph, name: &str, value: &str, index: usize| {
        let start = if index == 0 { zero } else { &ends[index - 1] };
        graph.node("Slice", name, &[value, start, &ends[index], zero], vec![])
    };
    let mut parts = Vec::new();
    for index in 0..last {
        let path = format!("{path}.experts.{index}");
        let rows = format!("{path}/rows");
        let x = match &operand {
            Operand::Float(x) => Operand::Float(cut(&mut context.graph, &rows, x, index)),
            Operand::Quantised {
                values,
                scale,
                zero,
            } => Operand::Quantised {
                values: cut(&mut context.graph, &rows, values, index),
                scale: scale.clone(),
                zero: zero.clone(),
            },
        };
        parts.push(expert(context, &path, &x)); // [N, H]
    }
    let graph = &mut context.graph;
    let rest = cut(graph, &format!("{path}/rest"), x, last);
    let none = graph.f32(0.0);
    parts.push(graph.node("Mul", &format!("{path}/nothing"), &[&rest, &none], vec![]));
    let names: Vec<_> = parts.iter().map(String::as_str).collect();
    graph.node(
        "Concat",
        &format!("{path}/sorted"),
        &names,
        vec![int("axis", 0)],
    )
}

/// Every expert gathers its rows and writes its results to their places.
fn scattered(context: &mut Context<'_>, path: &str, flat: &str, routed: &Routed) -> String {
    let experts = context.plan.architecture.experts().unwrap_or(1);
    let none = context.graph.f32(0.0);
    let mut y = context
        .graph
        .node("Mul", &format!("{path}/zeros"), &[flat, &none], vec![]);
    for index in 0..experts {
        let path = format!("{path}.experts.{index}");
        let graph = &mut context.graph;
        let number = graph.i64(index as i64);
        let mine = graph.node(
            "Equal",
            &format!("{path}/mine"),
            &[&routed.expert, &number],
            vec![],
        );
        let places = graph.node("NonZero", &format!("{path}/NonZero"), &[&mine], vec![]); // [1, N]
        let places = graph.node("Transpose", &format!("{path}/places"), &[&places], vec![]); // [N, 1]
        let x = graph.node(
            "GatherND",
            &format!("{path}/rows"),
            &[flat, &places],
            vec![],
        ); // [N, H]
        let x = context.operand(&x);
        let out = expert(context, &path, &x); // [N, H]
        y = context.graph.node(
            "ScatterND",
            &format!("{path}/scattered"),
            &[&y, &places, &out],
            vec![],
        );
    }
    y
}

/// One expert. `[N, H]` to `[N, H]`.
fn expert(context: &mut Context<'_>, path: &str, x: &Operand) -> String {
    let Operand::Float(x) = x else {
        return context.feed_forward(path, x);
    };
    let architecture = context.plan.architecture;
    let (h, f) = (architecture.hidden_size, architecture.intermediate_size);
    let up = dense(context, &format!("{path}.intermediate.dense"), x, f, h); // [N, F]
    let up = context.gelu(&format!("{path}.intermediate.gelu"), &up);
    dense(context, &format!("{path}.output.dense"), &up, h, f)
}

/// `x W^T + b` in one operator: with many small experts every operator counts. `[N, in]` to `[N, out]`.
fn dense(context: &mut Context<'_>, path: &str, x: &str, out: usize, of: usize) -> String {
    let half = context.plan.precision == Precision::F16;
    let form = if half { Form::Half } else { Form::Same };
    let parameter = format!("{path}.weight");
    let mut weight = context.graph.parameter(&parameter, &[out, of], form);
    if half {
        weight = context.cast_f32(&parameter, &weight);
    }
    let bias = context
        .graph
        .parameter(&format!("{path}.bias"), &[out], Form::Same);
    context
        .graph
        .node("Gemm", path, &[x, &weight, &bias], vec![int("transB", 1)])
}
