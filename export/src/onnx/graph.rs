//! The graph under construction: nodes in order, and initialisers that say where their values come from.
//!
//! Names of values extend the names of parameters: the query projection of layer 0 gives
//! `bert.encoder.layer.0.attention.self.query`, its matrix product `bert.encoder.layer.0.attention.self.query/MatMul`.
//! A node is named as its first output.

use std::collections::HashSet;

use bytes::Bytes;

use super::proto::{
    AttributeProto, DataType, DimensionProto, NodeProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};

/// How the weights of matrix products are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32, as in `model.safetensors`.
    #[default]
    F32,
    /// f16, brought to f32 when the model is loaded: half the file, the same speed.
    F16,
    /// Products in integers: weights as i8 with one scale an output channel, activations quantised when the model runs.
    Int8,
}

impl Precision {
    /// Its name on the command line and in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// What becomes of a parameter on its way into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// f32 as it is.
    Same,
    /// f32, `[out, in]` to `[in, out]`.
    Transposed,
    /// f16 as it is.
    Half,
    /// f16, `[out, in]` to `[in, out]`.
    HalfTransposed,
    /// i8 with a scale for each row, `[out, in]` to `[in, out]`.
    Int8Transposed,
    /// The scales of [`Form::Int8Transposed`], f32 `[out]`.
    Int8Scales,
}

impl Form {
    /// What the parameter's name gets at its end.
    fn suffix(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Transposed => ".transposed",
            Self::Half => ".f16",
            Self::HalfTransposed => ".transposed.f16",
            Self::Int8Transposed => ".transposed.int8",
            Self::Int8Scales => ".int8.scale",
        }
    }

    /// The element type in the file.
    pub fn element(self) -> DataType {
        match self {
            Self::Same | Self::Transposed | Self::Int8Scales => DataType::Float,
            Self::Half | Self::HalfTransposed => DataType::Float16,
            Self::Int8Transposed => DataType::Int8,
        }
    }
}

/// Where the values of an initialiser come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// A constant of the graph, little-endian.
    Constant(Bytes),
    /// A parameter of the model.
    Parameter {
        /// Its name in the table.
        name: String,
        /// What becomes of it.
        form: Form,
    },
}

/// A constant of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    /// Its name in the graph.
    pub name: String,
    /// Its element type.
    pub element: DataType,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its values.
    pub values: Values,
}

impl Initializer {
    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.dims.iter().product::<usize>() * self.element.size()
    }

    /// Bytes of the parameter that it is made of, as f32; none for a constant, and for scales, whose shape does not tell.
    pub fn parameter_bytes(&self) -> Option<usize> {
        match &self.values {
            Values::Constant(_)
            | Values::Parameter {
                form: Form::Int8Scales,
                ..
            } => None,
            Values::Parameter { .. } => {
                Some(self.dims.iter().product::<usize>() * size_of::<f32>())
            }
        }
    }
}

/// An axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A length known when the model is written.
    Fixed(usize),
    /// A length known when the model runs.
    Named(&'static str),
}

/// The axis of rows.
pub const BATCH: Dim = Dim::Named("batch");
/// The axis of positions.
pub const SEQUENCE: Dim = Dim::Named("sequence");

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Graph {
    /// Nodes, each after those whose outputs it reads.
    pub nodes: Vec<NodeProto>,
    /// Constants and parameters.
    pub initializers: Vec<Initializer>,
    /// Inputs.
    pub inputs: Vec<ValueInfoProto>,
    /// Outputs.
    pub outputs: Vec<ValueInfoProto>,
    names: HashSet<String>,
}

/// An attribute of type int.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: 2,
        ..Default::default()
    }
}

/// An attribute of type float.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: 1,
        ..Default::default()
    }
}

/// An attribute of type ints.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: 7,
        ..Default::default()
    }
}

fn value_info(name: &str, element: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(length) => DimensionProto {
                dim_value: Some(*length as i64),
                dim_param: None,
            },
            Dim::Named(name) => DimensionProto {
                dim_value: None,
                dim_param: Some((*name).to_owned()),
            },
        })
        .collect();
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: element as i32,
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
    }
}

impl Graph {
    /// Whether a name has not been asked about, nor used for a constant, before.
    pub fn is_new(&mut self, name: &str) -> bool {
        self.names.insert(name.to_owned())
    }

    /// Adds an input; gives its name.
    pub fn input(&mut self, name: &str, element: DataType, dims: &[Dim]) -> String {
        self.inputs.push(value_info(name, element, dims));
        name.to_owned()
    }

    /// Declares that the value `name` is an output.
    pub fn output(&mut self, name: &str, element: DataType, dims: &[Dim]) {
        self.outputs.push(value_info(name, element, dims));
    }

    /// Adds a node of one output; gives the output's name, which is `name`.
    pub fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.nodes_with(op, &[name], inputs, attributes);
        name.to_owned()
    }

    /// Adds a node of several outputs.
    pub fn nodes_with(
        &mut self,
        op: &str,
        outputs: &[&str],
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.iter().map(|name| (*name).to_owned()).collect(),
            name: outputs[0].to_owned(),
            op_type: op.to_owned(),
            attribute: attributes,
            domain: String::new(),
        });
    }

    fn constant(
        &mut self,
        name: &str,
        element: DataType,
        dims: &[usize],
        bytes: Vec<u8>,
    ) -> String {
        // Small constants are shared: the name tells the value.
        if self.names.insert(name.to_owned()) {
            self.initializers.push(Initializer {
                name: name.to_owned(),
                element,
                dims: dims.to_vec(),
                values: Values::Constant(bytes.into()),
            });
        }
        name.to_owned()
    }

    /// A list of i64, shared between all who ask for the same values.
    pub fn i64s(&mut self, values: &[i64]) -> String {
        let words: Vec<_> = values.iter().map(ToString::to_string).collect();
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.constant(
            &format!("i64[{}]", words.join(",")),
            DataType::Int64,
            &[values.len()],
            bytes,
        )
    }

    /// An i64 without axes, shared.
    pub fn i64(&mut self, value: i64) -> String {
        let bytes = value.to_le_bytes().to_vec();
        self.constant(&format!("i64({value})"), DataType::Int64, &[], bytes)
    }

    /// An f32 without axes, shared.
    pub fn f32(&mut self, value: f32) -> String {
        let bytes = value.to_le_bytes().to_vec();
        self.constant(&format!("f32({value})"), DataType::Float, &[], bytes)
    }

    /// An f64 without axes, shared.
    pub fn f64(&mut self, value: f64) -> String {
        let bytes = value.to_le_bytes().to_vec();
        self.constant(&format!("f64({value})"), DataType::Double, &[], bytes)
    }

    /// Numbers 0 to `count - 1`, i64, shared.
    pub fn range(&mut self, count: usize) -> String {
        let bytes = (0..count as i64).flat_map(i64::to_le_bytes).collect();
        self.constant(
            &format!("i64[0..{count}]"),
            DataType::Int64,
            &[count],
            bytes,
        )
    }

    /// A parameter of the table in a form; gives its name in the graph. `shape` is the table's. Shared where asked for twice.
    pub fn parameter(&mut self, name: &str, shape: &[usize], form: Form) -> String {
        let own = format!("{name}{}", form.suffix());
        if self.names.insert(own.clone()) {
            let dims = match form {
                Form::Same | Form::Half => shape.to_vec(),
                Form::Transposed | Form::HalfTransposed | Form::Int8Transposed => {
                    shape.iter().rev().copied().collect()
                }
                Form::Int8Scales => vec![shape[0]],
            };
            self.initializers.push(Initializer {
                name: own.clone(),
                element: form.element(),
                dims,
                values: Values::Parameter {
                    name: name.to_owned(),
                    form,
                },
            });
        }
        own
    }
}
