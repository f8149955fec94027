//! Experts in sorted order, found in a file's graph and replaced by one operator of this engine.
//!
//! What is looked for is what the graph computes, not what its values are called: rows brought into the order of their experts by
//! counting, a slice for each expert, `Gemm`, exact GELU, `Gemm`, and one gather back (`onnx::moe` writes it). A graph that
//! differs anywhere is left as it is. The file on disk stays as it is in any case.
//!
//! Shapes: `T` tokens, `E` experts, `H` hidden, `F` feed-forward.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};
use tract_onnx::prelude::Tensor;

/// The operator that takes the place of a whole block: rows `[T, H]`, experts i64 `[T]`, then for each expert `[F, H]`, `[F]`,
/// `[H, F]`, `[H]`.
pub const EXPERTS: &str = "TcdExperts";
/// The operator that takes the place of a slice between computed ends: values, start `[1]`, end `[1]`.
pub const ROWS: &str = "TcdRows";

/// The operator that takes the place of such a slice times zero.
pub const ZEROS: &str = "TcdZeros";

const INT32: i64 = 6;
const INT64: i64 = 7;
const FLOAT: i64 = 1;
/// Constants above this are no part of a pattern.
const LARGEST_CONSTANT: i64 = 1 << 16;

/// Reads a constant of the file.
pub type Load<'a> = dyn Fn(&TensorProto) -> Option<Tensor> + 'a;

/// Replaces every block of sorted experts, and every slice whose ends the graph computes by splitting; says how many blocks.
pub fn replace(graph: &mut GraphProto, load: &Load<'_>) -> usize {
    // Graphs inside operators may read any value, so that nothing could be taken away.
    if graph.node.iter().any(|node| {
        node.attribute
            .iter()
            .any(|row| row.g.is_some() || !row.graphs.is_empty())
    }) {
        return 0;
    }
    let view = View::new(graph, load);
    let blocks: Vec<Block> = (0..graph.node.len())
        .filter_map(|index| view.block(index))
        .collect();
    for block in &blocks {
        let node = &mut graph.node[block.last];
        EXPERTS.clone_into(&mut node.op_type);
        node.domain = "tcd".to_owned();
        node.attribute.clear();
        node.input = [block.rows.clone(), block.expert.clone()]
            .into_iter()
            .chain(block.weights.iter().cloned())
            .collect();
    }
    if !blocks.is_empty() {
        prune(graph);
    }
    let view = View::new(graph, load);
    let slices: Vec<usize> = (0..graph.node.len())
        .filter(|&index| view.computed_slice(index))
        .collect();
    // tract would take the product of such rows with 0 for a constant of a length that it then does not know.
    let products: Vec<(usize, Vec<String>)> = (0..graph.node.len())
        .filter_map(|index| Some((index, view.zeroed_slice(index)?)))
        .collect();
    let zeros = products.iter().map(|row| (row.0, ZEROS));
    for (index, op) in slices.iter().map(|index| (*index, ROWS)).chain(zeros) {
        let node = &mut graph.node[index];
        op.clone_into(&mut node.op_type);
        node.domain = "tcd".to_owned();
        node.input.truncate(3);
    }
    let any = !products.is_empty();
    for (index, inputs) in products {
        graph.node[index].input = inputs;
    }
    if any {
        prune(graph);
    }
    blocks.len()
}

/// Takes away what no output needs any more.
fn prune(graph: &mut GraphProto) {
    let mut needed: HashSet<String> = graph.output.iter().map(|port| port.name.clone()).collect();
    let mut kept = Vec::new();
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|name| needed.contains(name)) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|row| needed.contains(&row.name));
}

/// One block of experts.
struct Block {
    /// The operator that gives its result.
    last: usize,
    /// The rows that enter it, `[T, H]`.
    rows: String,
    /// Each row's expert, `E` where none computes it; i64 `[T]`.
    expert: String,
    /// Four for each expert.
    weights: Vec<String>,
}

/// How rows come into order.
struct Order<'a> {
    expert: &'a str,
    /// Where each expert's rows end, `[E + 1]`.
    ends: &'a str,
}

struct View<'a> {
    graph: &'a GraphProto,
    load: &'a Load<'a>,
    producers: HashMap<&'a str, usize>,
    constants: HashMap<&'a str, &'a TensorProto>,
}

fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    let found = node.attribute.iter().find(|row| row.name == name);
    found.map_or(default, |row| row.i)
}

/// Whether a factor of a `Gemm` is 1.
fn plain(node: &NodeProto, name: &str) -> bool {
    let found = node.attribute.iter().find(|row| row.name == name);
    found.is_none_or(|row| row.f == 1.0)
}

fn inputs<const N: usize>(node: &NodeProto) -> Option<[&str; N]> {
    let names: Vec<&str> = node.input.iter().map(String::as_str).collect();
    names.try_into().ok()
}

impl<'a> View<'a> {
    fn new(graph: &'a GraphProto, load: &'a Load<'a>) -> Self {
        let mut producers = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for output in &node.output {
                producers.insert(output.as_str(), index);
            }
        }
        let constants = graph
            .initializer
            .iter()
            .map(|row| (row.name.as_str(), row))
            .collect();
        Self {
            graph,
            load,
            producers,
            constants,
        }
    }

    /// The operator that gives a value, if it is this one.
    fn node(&self, value: &str, op: &str) -> Option<&'a NodeProto> {
        let node = &self.graph.node[*self.producers.get(value)?];
        is(node, op).then_some(node)
    }

    /// A constant's values.
    fn ints(&self, value: &str) -> Option<Vec<i64>> {
        let tensor = self.constant(value)?;
        let plain = tensor.try_as_plain_ram().ok()?;
        Some(plain.as_slice::<i64>().ok()?.to_vec())
    }

    fn constant(&self, value: &str) -> Option<Tensor> {
        let row = self.constants.get(value)?;
        let size = row
            .dims
            .iter()
            .try_fold(1i64, |all, &length| all.checked_mul(length))?;
        (size <= LARGEST_CONSTANT).then(|| (self.load)(row))?
    }

    fn is_zero(&self, value: &str) -> bool {
        let zero = |tensor: Tensor| {
            let plain = tensor.try_as_plain_ram().ok()?;
            let values = plain.as_slice::<f32>().ok()?;
            Some(!values.is_empty() && values.iter().all(|value| *value == 0.0))
        };
        self.constant(value).and_then(zero) == Some(true)
    }

    /// The two inputs of an operator that does not care for their order, `first` the one that fits.
    fn pair(
        &self,
        node: &'a NodeProto,
        first: impl Fn(&str) -> bool,
    ) -> Option<(&'a str, &'a str)> {
        let [a, b] = inputs(node)?;
        match (first(a), first(b)) {
            (true, _) => Some((a, b)),
            (_, true) => Some((b, a)),
            _ => None,
        }
    }

    /// The block whose rows this operator puts back into their order.
    fn block(&self, last: usize) -> Option<Block> {
        let node = &self.graph.node[last];
        if !is(node, "Gather") || int(node, "axis", 0) != 0 {
            return None;
        }
        let [y, place] = inputs(node)?;
        let concat = self.node(y, "Concat")?;
        let count = concat.input.len();
        if int(concat, "axis", 0) != 0 || count < 2 {
            return None;
        }
        let order = self.order(place, count)?;
        let mut weights = Vec::with_capacity(4 * count);
        let mut slices = Vec::with_capacity(count);
        for (index, part) in concat.input.iter().enumerate() {
            let slice = if index + 1 < count {
                self.expert(part, &mut weights)?
            } else {
                self.nothing(part)?
            };
            slices.push(self.node(slice, "Slice")?);
        }
        let sorted = self.slices(&slices, order.ends)?;
        let scatter = self.node(sorted, "ScatterND")?;
        let [rows, target, updates] = inputs(scatter)?;
        let none = scatter
            .attribute
            .iter()
            .all(|row| row.name != "reduction" || row.s == b"none");
        let target = self.node(target, "Unsqueeze")?;
        let [own, axes] = inputs(target)?;
        if rows != updates || !none || own != place || self.ints(axes)? != [1] {
            return None;
        }
        Some(Block {
            last,
            rows: rows.to_owned(),
            expert: order.expert.to_owned(),
            weights,
        })
    }

    /// How `place` is counted from the rows' experts, of which there are `count`, the last one standing for none.
    fn order(&self, place: &str, count: usize) -> Option<Order<'a>> {
        let place = self.cast(place, &[INT64])?;
        let sum = self.node(place, "ReduceSum")?;
        let product = self.node(self.summed(sum, 1)?, "Mul")?;
        let (place, hot) = self.pair(product, |value| self.node(value, "Add").is_some())?;
        let (before, starts) = self.pair(self.node(place, "Add")?, |value| {
            self.node(value, "CumSum").is_some()
        })?;
        let before = self.cumulated(before, true)?;
        let [ends, counts] = inputs(self.node(starts, "Sub")?)?;
        let counted = self.summed(self.node(counts, "ReduceSum")?, 0)?;
        if before != hot || counted != hot || self.cumulated(ends, false)? != counts {
            return None;
        }
        let equal = self.node(self.cast(hot, &[INT32, INT64])?, "Equal")?;
        let (wide, columns) = self.pair(equal, |value| self.node(value, "Unsqueeze").is_some())?;
        let [expert, axes] = inputs(self.node(wide, "Unsqueeze")?)?;
        let all = self.ints(columns)?;
        let right = self.ints(axes)? == [1] && all.iter().copied().eq(0..count as i64);
        right.then_some(Order { expert, ends })
    }

    /// What a conversion to one of these types converts.
    fn cast(&self, value: &str, to: &[i64]) -> Option<&'a str> {
        let node = self.node(value, "Cast")?;
        let [from] = inputs(node)?;
        to.contains(&int(node, "to", 0)).then_some(from)
    }

    /// What is summed over an axis that goes.
    fn summed(&self, node: &'a NodeProto, axis: i64) -> Option<&'a str> {
        let [value, axes] = inputs(node)?;
        let right = int(node, "keepdims", 1) == 0 && self.ints(axes)? == [axis];
        right.then_some(value)
    }

    /// What is summed up along the first axis, without each place's own value or with it.
    fn cumulated(&self, value: &str, exclusive: bool) -> Option<&'a str> {
        let node = self.node(value, "CumSum")?;
        let [value, axis] = inputs(node)?;
        let right = self.ints(axis)? == [0]
            && int(node, "exclusive", 0) == i64::from(exclusive)
            && int(node, "reverse", 0) == 0;
        right.then_some(value)
    }

    /// The rows that an expert computes; adds its weights.
    fn expert(&self, value: &str, weights: &mut Vec<String>) -> Option<&'a str> {
        let [up, w2, b2] = self.gemm(value)?;
        let gelu = self.node(up, "Gelu")?;
        let exact = gelu
            .attribute
            .iter()
            .all(|row| row.name != "approximate" || row.s == b"none");
        let [inner] = inputs(gelu)?;
        let [rows, w1, b1] = self.gemm(inner)?;
        weights.extend([w1, b1, w2, b2].map(str::to_owned));
        exact.then_some(rows)
    }

    /// Rows, weight `[out, in]` and bias of a layer, both constants.
    fn gemm(&self, value: &str) -> Option<[&'a str; 3]> {
        let node = self.node(value, "Gemm")?;
        let [x, weight, bias] = inputs(node)?;
        let right = int(node, "transA", 0) == 0
            && int(node, "transB", 0) == 1
            && plain(node, "alpha")
            && plain(node, "beta");
        // Weights in f16 are brought up.
        let weight = self.cast(weight, &[FLOAT]).unwrap_or(weight);
        let constant = |name| self.constants.contains_key(name);
        (right && constant(weight) && constant(bias)).then_some([x, weight, bias])
    }

    /// The rows that are put to zero.
    fn nothing(&self, value: &str) -> Option<&'a str> {
        let node = self.node(value, "Mul")?;
        let (zero, rows) = self.pair(node, |value| self.is_zero(value))?;
        (zero != rows).then_some(rows)
    }

    /// What the slices cut, where they follow each other from 0 to each of `ends`.
    fn slices(&self, slices: &[&'a NodeProto], ends: &str) -> Option<&'a str> {
        let mut before = None;
        let mut source = None;
        let split = {
            let [_, _, end, _] = inputs(slices.first()?)?;
            self.node(end, "Split")?
        };
        let [split_ends] = inputs(split)?;
        if split.output.len() != slices.len()
            || int(split, "axis", 0) != 0
            || self.cast(split_ends, &[INT64])? != ends
        {
            return None;
        }
        for (slice, wanted) in slices.iter().zip(&split.output) {
            let [value, start, end, axes] = inputs(slice)?;
            let follows = match before {
                None => self.ints(start)? == [0],
                Some(before) => start == before,
            };
            let same = *source.get_or_insert(value) == value;
            if !follows || !same || end != wanted || self.ints(axes)? != [0] {
                return None;
            }
            before = Some(end);
        }
        source
    }

    /// The inputs of the slice that an operator puts to zero, where it is such a slice.
    fn zeroed_slice(&self, index: usize) -> Option<Vec<String>> {
        let node = &self.graph.node[index];
        if !is(node, "Mul") {
            return None;
        }
        let (_, rows) = self.pair(node, |value| self.is_zero(value))?;
        let place = *self.producers.get(rows)?;
        let slice = self.computed_slice(place);
        slice.then(|| self.graph.node[place].input[..3].to_vec())
    }

    /// Whether an operator cuts rows up to an end that is one part of a split.
    fn computed_slice(&self, index: usize) -> bool {
        let node = &self.graph.node[index];
        let Some([_, _, end, axes]) = inputs(node) else {
            return false;
        };
        is(node, "Slice")
            && self.node(end, "Split").is_some()
            && self.ints(axes).as_deref() == Some(&[0])
    }
}

fn is(node: &NodeProto, op: &str) -> bool {
    node.op_type == op && (node.domain.is_empty() || node.domain == "ai.onnx")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use prost::Message;
    use tract_onnx::pb::ModelProto;

    use super::*;
    use crate::onnx::{MoeForm, Options, Precision, export_from};
    use crate::parameters::Head;
    use crate::{ModelConfig, MoeConfig};

    /// The graph of a model of two layers, all weights 0.
    fn graph(experts: Option<usize>, options: &Options) -> GraphProto {
        let config = ModelConfig {
            moe: experts.map(MoeConfig::new),
            ..ModelConfig::new(20, 2, 8, 2, 12)
        };
        let architecture = config.validate().unwrap();
        let table = crate::parameters(&architecture, Head::None);
        let mut give = |name: &str| {
            let row = table.iter().find(|row| row.name == name).unwrap();
            Ok(vec![0; 4 * row.count()].into())
        };
        let folder = tempfile::tempdir().unwrap();
        let written = export_from(&architecture, Head::None, folder.path(), options, &mut give);
        let bytes = std::fs::read(written.unwrap().path).unwrap();
        let model = ModelProto::decode(&*bytes).unwrap();
        model.graph.unwrap()
    }

    fn found(graph: &mut GraphProto) -> usize {
        let onnx = tract_onnx::onnx();
        let load =
            |row: &TensorProto| tract_onnx::tensor::load_tensor(&*onnx.provider, row, None).ok();
        replace(graph, &load)
    }

    fn count(graph: &GraphProto, op: &str) -> usize {
        graph.node.iter().filter(|node| node.op_type == op).count()
    }

    fn sorted() -> GraphProto {
        graph(Some(3), &Options::default())
    }

    #[test]
    fn every_block_becomes_one_operator() {
        for precision in [Precision::F32, Precision::F16] {
            let options = Options {
                precision,
                ..Options::default()
            };
            for experts in [1, 3, 70] {
                let mut graph = graph(Some(experts), &options);
                assert_eq!(found(&mut graph), 2, "{experts} experts, {precision:?}");
                assert_eq!(count(&graph, EXPERTS), 2);
                // The products and slices of the experts are gone, those of embeddings stay.
                assert_eq!(
                    count(&graph, "Gemm") + count(&graph, "Split") + count(&graph, ROWS),
                    0
                );
                assert_eq!(count(&graph, "Slice"), 1);
                let block = graph
                    .node
                    .iter()
                    .find(|node| node.op_type == EXPERTS)
                    .unwrap();
                assert_eq!(block.input.len(), 2 + 4 * experts);
            }
        }
    }

    #[test]
    fn names_do_not_matter() {
        let mut graph = sorted();
        let keep: HashSet<String> = graph
            .input
            .iter()
            .chain(&graph.output)
            .map(|port| port.name.clone())
            .collect();
        let names: HashMap<String, String> = graph
            .node
            .iter()
            .flat_map(|node| node.output.clone())
            .chain(graph.initializer.iter().map(|row| row.name.clone()))
            .filter(|name| !keep.contains(name))
            .enumerate()
            .map(|(index, name)| (name, format!("v{index}")))
            .collect();
        let rename = |name: &mut String| {
            if let Some(new) = names.get(name) {
                name.clone_from(new);
            }
        };
        for node in &mut graph.node {
            node.input
                .iter_mut()
                .chain(&mut node.output)
                .for_each(rename);
            node.name.clear();
        }
        graph
            .initializer
            .iter_mut()
            .for_each(|row| rename(&mut row.name));
        assert_eq!(found(&mut graph), 2);
    }

    #[test]
    fn other_forms_are_left_as_they_are() {
        for (experts, options) in [
            (None, Options::default()),
            (
                Some(3),
                Options {
                    moe_form: MoeForm::Scattered,
                    ..Options::default()
                },
            ),
        ] {
            let mut graph = graph(experts, &options);
            let before = graph.clone();
            assert_eq!(found(&mut graph), 0);
            assert!(graph == before);
        }
        // Products in integers are computed as they stand, on slices that tract can take.
        let int8 = Options {
            precision: Precision::Int8,
            ..Options::default()
        };
        let mut graph = graph(Some(3), &int8);
        assert_eq!(found(&mut graph), 0);
        assert_eq!((count(&graph, ROWS), count(&graph, ZEROS)), (6, 2));
        assert_eq!(count(&graph, "Slice"), 1);
    }

    /// One change in each, and the block it is in computes something else.
    #[test]
    fn what_differs_anywhere_is_no_block() {
        type Change = fn(&mut GraphProto);
        fn first<'a>(graph: &'a mut GraphProto, op: &str, name: &str) -> &'a mut NodeProto {
            let found = graph
                .node
                .iter_mut()
                .find(|node| node.op_type == op && node.name.contains(name));
            found.unwrap()
        }
        let changes: [(&str, Change); 9] = [
            ("an expert with another activation", |graph| {
                first(graph, "Gelu", "experts.1").op_type = "Relu".to_owned();
            }),
            ("an expert without a factor of 1", |graph| {
                let alpha = tract_onnx::pb::AttributeProto {
                    name: "alpha".to_owned(),
                    f: 0.5,
                    ..Default::default()
                };
                first(graph, "Gemm", "experts.2.output")
                    .attribute
                    .push(alpha);
            }),
            ("two experts' rows exchanged", |graph| {
                first(graph, "Concat", "layer.0.moe").input.swap(0, 1);
            }),
            ("a slice of other rows", |graph| {
                let slice = first(graph, "Slice", "layer.0.moe.experts.1/rows");
                slice.input[0] = "bert.encoder.layer.0.moe/flat".to_owned();
            }),
            ("a slice that begins elsewhere", |graph| {
                let slice = first(graph, "Slice", "layer.0.moe.experts.2/rows");
                slice.input[1] = slice.input[2].clone();
            }),
            ("counts over the other axis", |graph| {
                first(graph, "ReduceSum", "layer.0.moe/sort/counts").input[1] = "i64[1]".to_owned();
            }),
            ("places that count the token itself", |graph| {
                first(graph, "CumSum", "layer.0.moe/sort/before")
                    .attribute
                    .clear();
            }),
            ("rows put back by other places", |graph| {
                first(graph, "Gather", "layer.0.moe/unsorted").input[1] =
                    "bert.encoder.layer.1.moe/sort".to_owned();
            }),
            ("rest that is not put to zero", |graph| {
                let rest = first(graph, "Mul", "layer.0.moe/nothing");
                rest.input[1] = "f32(-1000000000)".to_owned();
            }),
        ];
        for (what, change) in changes {
            let mut graph = sorted();
            change(&mut graph);
            assert_eq!(found(&mut graph), 1, "{what}");
        }
    }
}
