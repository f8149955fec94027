//! The checker: structure of a graph, types and shapes of its values, and its constants against the table of parameters.
//!
//! [`structure`] holds for every ONNX file: each value has one source, which comes before its readers; nothing is empty or
//! twice; constants hold as many bytes as type and shape say. [`whole`] holds for files of our own: every
//! operator's types and shapes fit, declared outputs are what the graph gives, no constant is unused, and every
//! parameter of the table is there, in a form that keeps its shape.

use std::collections::{HashMap, HashSet};

use crate::parameters::Parameter;

use super::graph::{Form, Graph, Values};
use super::infer::{self, Constants, Kind, Length};
use super::proto::{EXTERNAL, GraphProto, TensorProto, ValueInfoProto};

/// What is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Faults(pub Vec<String>);

/// Faults named in one message.
const LISTED: usize = 10;

impl Faults {
    fn result(mut faults: Vec<String>) -> Result<(), Faults> {
        if faults.is_empty() {
            return Ok(());
        }
        let more = faults.len().saturating_sub(LISTED);
        faults.truncate(LISTED);
        if more > 0 {
            faults.push(format!("and {more} more"));
        }
        Err(Faults(faults))
    }
}

/// What holds for every graph.
///
/// # Errors
/// All that is wrong.
pub fn structure(graph: &GraphProto) -> Result<(), Faults> {
    let mut faults = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for tensor in &graph.initializer {
        if !known.insert(&tensor.name) {
            faults.push(format!("constant `{}` is there twice", tensor.name));
        }
        faults.extend(constant(tensor));
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        // Old files list constants among the inputs.
        known.insert(&input.name);
        if !inputs.insert(&input.name) {
            faults.push(format!("input `{}` is there twice", input.name));
        }
    }
    for node in &graph.node {
        let title = || format!("node `{}` ({})", node.name, node.op_type);
        for input in node.input.iter().filter(|name| !name.is_empty()) {
            if !known.contains(input.as_str()) {
                faults.push(format!(
                    "{} reads `{input}`, which nothing before it gives",
                    title()
                ));
            }
        }
        if node.op_type.is_empty() || node.output.iter().all(String::is_empty) {
            faults.push(format!("{} has no operator or no output", title()));
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !known.insert(output) {
                faults.push(format!(
                    "{} gives `{output}`, which is there already",
                    title()
                ));
            }
        }
    }
    if graph.output.is_empty() {
        faults.push("no output".to_owned());
    }
    for output in &graph.output {
        if !known.contains(output.name.as_str()) {
            faults.push(format!("output `{}` is given by nothing", output.name));
        }
    }
    Faults::result(faults)
}

/// Whether a constant's values are as many as its type and shape say.
fn constant(tensor: &TensorProto) -> Option<String> {
    let name = &tensor.name;
    if tensor.dims.iter().any(|&dim| dim < 0) {
        return Some(format!("constant `{name}` has shape {:?}", tensor.dims));
    }
    if tensor.data_location == EXTERNAL || tensor.raw_data.is_empty() {
        return None;
    }
    let got = tensor.raw_data.len();
    match tensor.expected_bytes() {
        Some(expected) if expected != got => Some(format!(
            "constant `{name}` has {got} bytes, expected {expected}"
        )),
        _ => None,
    }
}

/// What holds for a graph of our own with the parameters of `table`.
///
/// # Errors
/// All that is wrong.
pub fn whole(graph: &Graph, table: &[Parameter]) -> Result<(), Faults> {
    let body = GraphProto {
        node: graph.nodes.clone(),
        input: graph.inputs.clone(),
        output: graph.outputs.clone(),
        initializer: super::encode::headers(graph),
        ..Default::default()
    };
    structure(&body)?;
    let mut faults = Vec::new();
    types(graph, &body, &mut faults);
    usage(graph, &mut faults);
    against(graph, table, &mut faults);
    Faults::result(faults)
}

/// Types and shapes of all values, and whether the outputs are as declared.
fn types(graph: &Graph, body: &GraphProto, faults: &mut Vec<String>) {
    let mut kinds: HashMap<&str, Kind> = HashMap::new();
    let mut constants = Constants::new();
    for (tensor, row) in body.initializer.iter().zip(&graph.initializers) {
        let shape = row.dims.iter().map(|&dim| Length::Is(dim)).collect();
        kinds.insert(
            &tensor.name,
            Kind {
                element: row.element,
                shape,
            },
        );
        if let Values::Constant(bytes) = &row.values {
            let filled = TensorProto {
                raw_data: bytes.clone(),
                ..tensor.clone()
            };
            faults.extend(constant(&filled));
            constants.extend(infer::integers(&filled).map(|values| (tensor.name.clone(), values)));
        }
    }
    for input in &body.input {
        match declared(input) {
            Some(kind) => drop(kinds.insert(&input.name, kind)),
            None => faults.push(format!("input `{}` has no type", input.name)),
        }
    }
    for node in &body.node {
        let title = || format!("node `{}` ({})", node.name, node.op_type);
        let inputs: Vec<_> = node
            .input
            .iter()
            .filter_map(|name| kinds.get(name.as_str()))
            .collect();
        if inputs.len() < node.input.len() {
            // The node before it was reported.
            continue;
        }
        match infer::infer(node, inputs, &constants) {
            Ok(Some(found)) if found.len() == node.output.len() => {
                kinds.extend(node.output.iter().map(String::as_str).zip(found));
            }
            Ok(Some(found)) => faults.push(format!("{} gives {} outputs", title(), found.len())),
            Ok(None) => faults.push(format!("{}: unknown operator", title())),
            Err(wrong) => faults.push(format!("{} {wrong}", title())),
        }
    }
    for output in &body.output {
        let (Some(wanted), Some(got)) = (declared(output), kinds.get(output.name.as_str())) else {
            faults.push(format!("output `{}` has no type", output.name));
            continue;
        };
        let fits = wanted.element == got.element
            && wanted.shape.len() == got.shape.len()
            && wanted
                .shape
                .iter()
                .zip(&got.shape)
                .all(|pair| infer::same(pair.0, pair.1).is_some());
        if !fits {
            faults.push(format!(
                "output `{}` is {got:?}, declared as {wanted:?}",
                output.name
            ));
        }
    }
}

/// The declared type of an input or output; none where it is not known here.
pub fn declared(info: &ValueInfoProto) -> Option<Kind> {
    let tensor = info.r#type.as_ref()?.tensor_type.as_ref()?;
    let shape =
        tensor
            .shape
            .as_ref()?
            .dim
            .iter()
            .map(|dim| match (&dim.dim_value, &dim.dim_param) {
                (Some(length), _) => usize::try_from(*length).map_or(Length::Any, Length::Is),
                (None, Some(name)) if !name.is_empty() => Length::Named(name.clone()),
                _ => Length::Any,
            });
    Some(Kind {
        element: tensor.elem_type.try_into().ok()?,
        shape: shape.collect(),
    })
}

/// Constants that nothing reads.
fn usage(graph: &Graph, faults: &mut Vec<String>) {
    let read: HashSet<&str> = graph
        .nodes
        .iter()
        .flat_map(|node| &node.input)
        .map(String::as_str)
        .collect();
    for row in &graph.initializers {
        if !read.contains(row.name.as_str()) {
            faults.push(format!("constant `{}` is not used", row.name));
        }
    }
    let outputs = graph.outputs.iter().map(|output| output.name.as_str());
    let read: HashSet<&str> = read.into_iter().chain(outputs).collect();
    for node in &graph.nodes {
        if !node.output.iter().any(|name| read.contains(name.as_str())) {
            faults.push(format!(
                "node `{}` ({}) is not used",
                node.name, node.op_type
            ));
        }
    }
}

/// The table of parameters against the constants made of parameters.
fn against(graph: &Graph, table: &[Parameter], faults: &mut Vec<String>) {
    let table: HashMap<&str, &Parameter> =
        table.iter().map(|row| (row.name.as_str(), row)).collect();
    let mut found = HashSet::new();
    for row in &graph.initializers {
        let Values::Parameter { name, form } = &row.values else {
            continue;
        };
        let Some(parameter) = table.get(name.as_str()) else {
            faults.push(format!(
                "constant `{}` is made of `{name}`, which is no parameter",
                row.name
            ));
            continue;
        };
        let mut shape = parameter.shape.clone();
        match form {
            Form::Same | Form::Half => {}
            Form::Transposed | Form::HalfTransposed | Form::Int8Transposed => shape.reverse(),
            Form::Int8Scales => shape.truncate(1),
        }
        if row.dims != shape {
            faults.push(format!(
                "constant `{}` has shape {:?}, expected {shape:?}",
                row.name, row.dims
            ));
        }
        if *form != Form::Int8Scales && !found.insert(name.as_str()) {
            faults.push(format!("parameter `{name}` is stored twice"));
        }
    }
    let mut missing: Vec<_> = table.keys().filter(|name| !found.contains(*name)).collect();
    missing.sort_unstable();
    faults.extend(
        missing
            .into_iter()
            .map(|name| format!("parameter `{name}` is missing")),
    );
}
