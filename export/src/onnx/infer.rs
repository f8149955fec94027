//! Element types and shapes of values, operator by operator, from the rules of the ONNX specification.
//!
//! This is the checker's own reading of the operators that the writer uses: it knows nothing of how the writer names or orders
//! things. Lengths that are known only when the model runs keep a name; a length that an operator makes anew is
//! unknown and agrees with everything. An operator that is not in the table gives nothing, which is an error for our own
//! files and no hindrance for others'.

use std::collections::HashMap;

use super::proto::{AttributeProto, DataType, NodeProto, TensorProto};

/// A length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Length {
    /// Known.
    Is(usize),
    /// Known when the model runs, by this name.
    Named(String),
    /// Unknown.
    Any,
}

/// An element type and a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Element type.
    pub element: DataType,
    /// Shape, outermost first.
    pub shape: Vec<Length>,
}

/// Values of small integer constants, by name.
pub type Constants = HashMap<String, Vec<i64>>;

use DataType::{Bool, Double, Float, Float16, Int8, Int32, Int64, Uint8};
use Length::{Any, Is, Named};

/// What is wrong with a node, as the end of a sentence.
pub type Wrong = String;

/// One node and what is known of its inputs.
struct Site<'a> {
    node: &'a NodeProto,
    inputs: Vec<&'a Kind>,
    constants: &'a Constants,
}

/// Types of the outputs of a node; `Ok(None)` for an operator that is not in the table.
///
/// # Errors
/// What the specification forbids.
pub fn infer(
    node: &NodeProto,
    inputs: Vec<&Kind>,
    constants: &Constants,
) -> Result<Option<Vec<Kind>>, Wrong> {
    let site = Site {
        node,
        inputs,
        constants,
    };
    let one = |kind: Kind| Ok(Some(vec![kind]));
    match node.op_type.as_str() {
        "Identity" => one(site.input(0)?.clone()),
        "Gelu" | "Tanh" | "Softmax" | "Ceil" => one(site.of(0, &[Float, Double, Float16])?.clone()),
        "CumSum" => {
            site.of(1, &[Int32, Int64])?;
            one(site.of(0, &[Int32, Int64, Float, Double])?.clone())
        }
        "Add" | "Sub" | "Mul" | "Div" | "Max" => {
            one(site.broadcast(site.of(0, &[Float, Double, Int32, Int64])?.element)?)
        }
        "Equal" | "Less" | "Greater" => one(site.broadcast(Bool)?),
        "Where" => one(site.choice()?),
        "Cast" => one(site.cast()?),
        "Shape" => one(site.shape()?),
        "Reshape" => one(site.reshape()?),
        "Transpose" => one(site.transpose()?),
        "Unsqueeze" => one(site.unsqueeze()?),
        "Slice" => one(site.slice()?),
        "Split" => site.split().map(Some),
        "Concat" => one(site.concat()?),
        "Gather" => one(site.gather()?),
        "GatherND" => one(site.gather_rows()?),
        "ScatterND" => one(site.scatter_rows()?),
        "NonZero" => {
            let rank = site.input(0)?.shape.len();
            one(kind(Int64, vec![Is(rank), Any]))
        }
        "ReduceMax" | "ReduceSum" => one(site.reduce()?),
        "ArgMax" => one(site.arg_max()?),
        "LayerNormalization" => one(site.layer_norm()?),
        "MatMul" => one(site.product(Float, &[Float], &[Float])?),
        "MatMulInteger" => {
            site.of(2, &[Uint8])?;
            one(site.product(Int32, &[Uint8], &[Int8])?)
        }
        "Gemm" => one(site.gemm()?),
        "DynamicQuantizeLinear" => {
            let shape = site.of(0, &[Float])?.shape.clone();
            Ok(Some(vec![
                kind(Uint8, shape),
                kind(Float, vec![]),
                kind(Uint8, vec![]),
            ]))
        }
        _ => Ok(None),
    }
}

fn kind(element: DataType, shape: Vec<Length>) -> Kind {
    Kind { element, shape }
}

/// The length that two lengths share; none where they contradict each other.
pub fn same(left: &Length, right: &Length) -> Option<Length> {
    match (left, right) {
        (Any, other) | (other, Any) => Some(other.clone()),
        (left, right) if left == right => Some(left.clone()),
        // A named length may turn out to be any number, but never two names for one.
        _ => None,
    }
}

/// Values of an integer constant, where it is one of up to 1,024 values.
pub fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.element() != Some(Int64) || tensor.raw_data.len() > 8192 {
        return None;
    }
    if tensor.raw_data.is_empty() {
        return Some(tensor.int64_data.clone());
    }
    Some(
        tensor
            .raw_data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| i64::from_le_bytes(*word))
            .collect(),
    )
}

impl<'a> Site<'a> {
    fn input(&self, index: usize) -> Result<&'a Kind, Wrong> {
        self.inputs
            .get(index)
            .copied()
            .ok_or_else(|| format!("has no input {index}"))
    }

    fn of(&self, index: usize, allowed: &[DataType]) -> Result<&'a Kind, Wrong> {
        let input = self.input(index)?;
        if allowed.contains(&input.element) {
            Ok(input)
        } else {
            Err(format!(
                "has input {index} of type {:?}, expected {allowed:?}",
                input.element
            ))
        }
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|row| row.name == name)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name)
            .and_then(|row| row.i)
            .unwrap_or(default)
    }

    /// Values of a constant input.
    fn constant(&self, index: usize) -> Option<&'a Vec<i64>> {
        self.constants.get(self.node.input.get(index)?)
    }

    /// An axis counted from the end where it is negative.
    fn axis(&self, value: i64, rank: usize) -> Result<usize, Wrong> {
        let from_start = if value < 0 {
            value + rank as i64
        } else {
            value
        };
        usize::try_from(from_start)
            .ok()
            .filter(|axis| *axis < rank)
            .ok_or_else(|| format!("has axis {value} at rank {rank}"))
    }

    fn broadcast(&self, element: DataType) -> Result<Kind, Wrong> {
        let (left, right) = (self.input(0)?, self.input(1)?);
        if left.element != right.element {
            return Err(format!("joins {:?} and {:?}", left.element, right.element));
        }
        Ok(kind(element, broadcast(&left.shape, &right.shape)?))
    }

    fn choice(&self) -> Result<Kind, Wrong> {
        let condition = self.of(0, &[Bool])?;
        let (left, right) = (self.input(1)?, self.input(2)?);
        if left.element != right.element {
            return Err(format!(
                "chooses between {:?} and {:?}",
                left.element, right.element
            ));
        }
        let shape = broadcast(&left.shape, &right.shape)?;
        Ok(kind(left.element, broadcast(&shape, &condition.shape)?))
    }

    fn cast(&self) -> Result<Kind, Wrong> {
        let to = i32::try_from(self.int("to", 0)).unwrap_or_default();
        match DataType::try_from(to) {
            Ok(to) if to != DataType::Undefined => Ok(kind(to, self.input(0)?.shape.clone())),
            _ => Err(format!("casts to type {to}")),
        }
    }

    fn shape(&self) -> Result<Kind, Wrong> {
        let rank = self.input(0)?.shape.len() as i64;
        let bound = |value: i64| (if value < 0 { value + rank } else { value }).clamp(0, rank);
        let length = bound(self.int("end", rank)) - bound(self.int("start", 0));
        Ok(kind(Int64, vec![Is(usize::try_from(length).unwrap_or(0))]))
    }

    fn reshape(&self) -> Result<Kind, Wrong> {
        let input = self.input(0)?;
        let to = self.of(1, &[Int64])?;
        let Some(target) = self.constant(1) else {
            let Some(Is(rank)) = to.shape.first() else {
                return Err("has a shape of unknown rank".to_owned());
            };
            return Ok(kind(input.element, vec![Any; *rank]));
        };
        let mut shape = Vec::new();
        for (index, length) in target.iter().enumerate() {
            shape.push(match length {
                0 => input
                    .shape
                    .get(index)
                    .cloned()
                    .ok_or("copies an axis that is not there")?,
                -1 => Any,
                length => Is(usize::try_from(*length).map_err(|_| format!("has length {length}"))?),
            });
        }
        if target.iter().filter(|length| **length == -1).count() > 1 {
            return Err("leaves two lengths open".to_owned());
        }
        // Where all lengths are copied or known, the known ones must hold the same number of values.
        let known = |shape: &[Length]| -> usize {
            shape
                .iter()
                .map(|length| if let Is(length) = length { *length } else { 1 })
                .product()
        };
        let others = |shape: &[Length]| {
            shape
                .iter()
                .filter(|length| !matches!(length, Is(_)))
                .count()
        };
        if !target.contains(&-1)
            && others(&shape) == others(&input.shape)
            && known(&shape) != known(&input.shape)
        {
            return Err(format!("turns {:?} into {shape:?}", input.shape));
        }
        Ok(kind(input.element, shape))
    }

    fn transpose(&self) -> Result<Kind, Wrong> {
        let input = self.input(0)?;
        let rank = input.shape.len();
        let order: Vec<i64> = match self.attribute("perm") {
            Some(row) => row.ints.clone(),
            None => (0..rank as i64).rev().collect(),
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..rank as i64) {
            return Err(format!("has order {order:?} at rank {rank}"));
        }
        let shape = order
            .iter()
            .map(|&axis| input.shape[axis as usize].clone())
            .collect();
        Ok(kind(input.element, shape))
    }

    fn unsqueeze(&self) -> Result<Kind, Wrong> {
        let input = self.input(0)?;
        let axes = self.constant(1).ok_or("has axes that are no constant")?;
        let rank = input.shape.len() + axes.len();
        let mut at = axes
            .iter()
            .map(|&axis| self.axis(axis, rank))
            .collect::<Result<Vec<_>, _>>()?;
        at.sort_unstable();
        let mut shape = input.shape.clone();
        for axis in at {
            if axis > shape.len() {
                return Err(format!("has axis {axis} at rank {}", shape.len()));
            }
            shape.insert(axis, Is(1));
        }
        Ok(kind(input.element, shape))
    }

    fn slice(&self) -> Result<Kind, Wrong> {
        let input = self.input(0)?;
        let axes = self.constant(3).ok_or("has axes that are no constant")?;
        for index in [1, 2] {
            let bound = self.of(index, &[Int64])?;
            if bound.shape != [Is(axes.len())] {
                return Err(format!(
                    "has bounds {:?} for {} axes",
                    bound.shape,
                    axes.len()
                ));
            }
        }
        let mut shape = input.shape.clone();
        for &axis in axes {
            shape[self.axis(axis, input.shape.len())?] = Any;
        }
        Ok(kind(input.element, shape))
    }

    fn split(&self) -> Result<Vec<Kind>, Wrong> {
        let input = self.input(0)?;
        let axis = self.axis(self.int("axis", 0), input.shape.len())?;
        let parts = self.node.output.len();
        let length = match &input.shape[axis] {
            Is(length) if parts > 0 && length.is_multiple_of(parts) => Is(length / parts),
            Is(length) => return Err(format!("cuts {length} into {parts}")),
            _ => Any,
        };
        if self.int("num_outputs", parts as i64) != parts as i64 {
            return Err(format!("has {parts} outputs, and another `num_outputs`"));
        }
        let mut part = input.clone();
        part.shape[axis] = length;
        Ok(vec![part; parts])
    }

    fn concat(&self) -> Result<Kind, Wrong> {
        let first = self.input(0)?;
        let axis = self.axis(self.int("axis", 0), first.shape.len())?;
        let mut total = Some(0);
        let mut shape = first.shape.clone();
        for input in &self.inputs {
            if input.element != first.element || input.shape.len() != shape.len() {
                return Err("joins tensors of different types or ranks".to_owned());
            }
            for (index, length) in input.shape.iter().enumerate() {
                if index == axis {
                    total = match (total, length) {
                        (Some(sum), Is(length)) => Some(sum + length),
                        _ => None,
                    };
                } else {
                    shape[index] = same(&shape[index], length)
                        .ok_or_else(|| format!("joins {:?} and {:?}", first.shape, input.shape))?;
                }
            }
        }
        shape[axis] = total.map_or(Any, Is);
        Ok(kind(first.element, shape))
    }

    fn gather(&self) -> Result<Kind, Wrong> {
        let (table, indices) = (self.input(0)?, self.of(1, &[Int32, Int64])?);
        let axis = self.axis(self.int("axis", 0), table.shape.len())?;
        let mut shape = table.shape.clone();
        shape.splice(axis..=axis, indices.shape.iter().cloned());
        Ok(kind(table.element, shape))
    }

    fn gather_rows(&self) -> Result<Kind, Wrong> {
        let (table, indices) = (self.input(0)?, self.of(1, &[Int64])?);
        let [rows, Is(depth)] = indices.shape.as_slice() else {
            return Err(format!("has indices {:?}", indices.shape));
        };
        let rest = table
            .shape
            .get(*depth..)
            .ok_or("has deeper indices than axes")?;
        let shape = std::iter::once(rows).chain(rest).cloned().collect();
        Ok(kind(table.element, shape))
    }

    fn scatter_rows(&self) -> Result<Kind, Wrong> {
        let (table, indices, rows) = (self.input(0)?, self.of(1, &[Int64])?, self.input(2)?);
        let [number, Is(1)] = indices.shape.as_slice() else {
            return Err(format!("has indices {:?}", indices.shape));
        };
        let fits = rows.element == table.element
            && rows.shape.len() == table.shape.len()
            && !rows.shape.is_empty()
            && same(&rows.shape[0], number).is_some()
            && rows.shape[1..]
                .iter()
                .zip(&table.shape[1..])
                .all(|pair| same(pair.0, pair.1).is_some());
        if fits {
            Ok(table.clone())
        } else {
            Err(format!("writes {:?} into {:?}", rows.shape, table.shape))
        }
    }

    fn reduce(&self) -> Result<Kind, Wrong> {
        let input = self.of(0, &[Float, Double, Int32, Int64])?;
        let axes = self.constant(1).ok_or("has axes that are no constant")?;
        let rank = input.shape.len();
        let axes = axes
            .iter()
            .map(|&axis| self.axis(axis, rank))
            .collect::<Result<Vec<_>, _>>()?;
        self.without(input, &axes, input.element)
    }

    fn arg_max(&self) -> Result<Kind, Wrong> {
        let input = self.of(0, &[Float, Double])?;
        let axis = self.axis(self.int("axis", 0), input.shape.len())?;
        self.without(input, &[axis], Int64)
    }

    /// The input without some axes, or with 1 in their places.
    fn without(&self, input: &Kind, axes: &[usize], element: DataType) -> Result<Kind, Wrong> {
        let keep = self.int("keepdims", 1) != 0;
        let shape = input
            .shape
            .iter()
            .enumerate()
            .filter_map(|(index, length)| match (axes.contains(&index), keep) {
                (false, _) => Some(length.clone()),
                (true, true) => Some(Is(1)),
                (true, false) => None,
            });
        Ok(kind(element, shape.collect()))
    }

    fn layer_norm(&self) -> Result<Kind, Wrong> {
        let input = self.of(0, &[Float])?;
        let last = input.shape.last().ok_or("has no axis")?;
        for index in [1, 2] {
            let scale = self.of(index, &[Float])?;
            if scale.shape.len() != 1 || same(&scale.shape[0], last).is_none() {
                return Err(format!("has scale {:?} for {:?}", scale.shape, input.shape));
            }
        }
        Ok(input.clone())
    }

    fn product(&self, out: DataType, left: &[DataType], right: &[DataType]) -> Result<Kind, Wrong> {
        let (left, right) = (self.of(0, left)?, self.of(1, right)?);
        let wrong = || format!("multiplies {:?} by {:?}", left.shape, right.shape);
        let ([outer @ .., rows, inner], [others @ .., also, columns]) =
            (left.shape.as_slice(), right.shape.as_slice())
        else {
            return Err(wrong());
        };
        same(inner, also).ok_or_else(wrong)?;
        let mut shape = broadcast(outer, others)?;
        shape.extend([rows.clone(), columns.clone()]);
        Ok(kind(out, shape))
    }

    fn gemm(&self) -> Result<Kind, Wrong> {
        let (left, right, bias) = (
            self.of(0, &[Float])?,
            self.of(1, &[Float])?,
            self.of(2, &[Float])?,
        );
        let wrong = || {
            format!(
                "multiplies {:?} by {:?} plus {:?}",
                left.shape, right.shape, bias.shape
            )
        };
        let ([rows, inner], [first, second]) = (left.shape.as_slice(), right.shape.as_slice())
        else {
            return Err(wrong());
        };
        let (also, columns) = if self.int("transB", 0) != 0 {
            (second, first)
        } else {
            (first, second)
        };
        same(inner, also).ok_or_else(wrong)?;
        let [length] = bias.shape.as_slice() else {
            return Err(wrong());
        };
        same(length, columns).ok_or_else(wrong)?;
        Ok(kind(Float, vec![rows.clone(), columns.clone()]))
    }
}

/// The shape that two shapes are brought to.
fn broadcast(left: &[Length], right: &[Length]) -> Result<Vec<Length>, Wrong> {
    let rank = left.len().max(right.len());
    let at = |shape: &[Length], index: usize| {
        (index + shape.len())
            .checked_sub(rank)
            .map_or(Is(1), |index| shape[index].clone())
    };
    (0..rank)
        .map(|index| match (at(left, index), at(right, index)) {
            (Is(1), other) | (other, Is(1)) => Ok(other),
            (a, b) => same(&a, &b).ok_or_else(|| format!("brings {left:?} and {right:?} together")),
        })
        .collect()
}

impl std::fmt::Display for Length {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Is(length) => write!(f, "{length}"),
            Named(name) => f.write_str(name),
            Any => f.write_str("?"),
        }
    }
}
