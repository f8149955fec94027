//! Encoding of a graph into a file, tensor by tensor: never more than one tensor is in memory.
//!
//! The sizes of all tensors are known from their types and shapes, so that every length that comes before its content in
//! protocol buffers can be written first. Values go into the file itself or, at 64-byte boundaries, into a second one.

use std::borrow::Cow;
use std::io::{self, Write};

use half::f16;
use prost::Message;

use crate::model_dir::BoxError;

use super::graph::{Form, Graph, Initializer, Values};
use super::proto::{EXTERNAL, GraphProto, ModelProto, StringStringEntryProto, TensorProto};

/// Bytes at whose multiples tensors begin in a second file.
const ALIGNMENT: u64 = 64;
/// Protocol buffers end at 2 GiB; some readers count in signed 32 bits.
pub const MAX_INLINE: u64 = 1_900_000_000;
/// Constants up to this size stay in the model file: readers look at them for shapes.
const SMALL: usize = 1024;

const TAG_GRAPH: u8 = 7 << 3 | 2;
const TAG_INITIALIZER: u8 = 5 << 3 | 2;
const TAG_RAW_DATA: u8 = 9 << 3 | 2;

/// Gives a parameter's values, little-endian f32 in the table's shape, by its name in the table.
pub type Fetch<'a> = dyn FnMut(&str) -> Result<Cow<'a, [u8]>, BoxError> + 'a;

/// Bytes of all values.
pub fn data_bytes(graph: &Graph) -> u64 {
    graph
        .initializers
        .iter()
        .map(|row| row.bytes() as u64)
        .sum()
}

/// What a tensor's message holds beside the values; with `external`, the file and the place that hold them.
fn header(row: &Initializer, external: Option<(&str, u64)>) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.to_owned(),
        value,
    };
    let mut tensor = TensorProto {
        dims: row.dims.iter().map(|&dim| dim as i64).collect(),
        data_type: row.element as i32,
        name: row.name.clone(),
        ..Default::default()
    };
    if let Some((location, offset)) = external {
        tensor.data_location = EXTERNAL;
        tensor.external_data = vec![
            entry("location", location.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", row.bytes().to_string()),
        ];
    }
    tensor
}

/// The initialisers as messages without values, for checking.
pub fn headers(graph: &Graph) -> Vec<TensorProto> {
    graph
        .initializers
        .iter()
        .map(|row| header(row, None))
        .collect()
}

/// Writes the file: `model` without graph, then the graph. With `external` (the name of the second file), larger values go
/// to `data`.
///
/// # Errors
/// A parameter that cannot be had or has another size, or a failure of the system.
pub fn encode(
    model: &ModelProto,
    graph: &Graph,
    fetch: &mut Fetch<'_>,
    out: &mut dyn Write,
    external: Option<(&str, &mut dyn Write)>,
) -> Result<(), EncodeError> {
    let (location, mut data) = external.map_or((None, None), |row| (Some(row.0), Some(row.1)));
    let mut offset = 0;
    // Each tensor: its header, its place in the second file if it goes there.
    let mut plan = Vec::with_capacity(graph.initializers.len());
    for row in &graph.initializers {
        let place = location.filter(|_| row.bytes() > SMALL).map(|location| {
            let start = u64::next_multiple_of(offset, ALIGNMENT);
            offset = start + row.bytes() as u64;
            (location, start)
        });
        plan.push((header(row, place), place.map(|place| place.1)));
    }
    let body = GraphProto {
        node: graph.nodes.clone(),
        name: "bert".to_owned(),
        input: graph.inputs.clone(),
        output: graph.outputs.clone(),
        ..Default::default()
    };
    let message = |index: usize| {
        let (header, place) = &plan[index];
        let inline = match place {
            Some(_) => 0,
            None => {
                let bytes = graph.initializers[index].bytes();
                1 + prost::length_delimiter_len(bytes) + bytes
            }
        };
        header.encoded_len() + inline
    };
    let tensors: usize = (0..plan.len())
        .map(|index| 1 + prost::length_delimiter_len(message(index)) + message(index))
        .sum();
    write(out, &model.encode_to_vec())?;
    tagged(out, TAG_GRAPH, body.encoded_len() + tensors)?;
    write(out, &body.encode_to_vec())?;
    let mut written = 0;
    for (index, row) in graph.initializers.iter().enumerate() {
        tagged(out, TAG_INITIALIZER, message(index))?;
        write(out, &plan[index].0.encode_to_vec())?;
        let bytes = values(row, fetch)?;
        match (plan[index].1, data.as_mut()) {
            (Some(start), Some(data)) => {
                write(
                    *data,
                    &[0; ALIGNMENT as usize][..(start - written) as usize],
                )?;
                write(*data, &bytes)?;
                written = start + bytes.len() as u64;
            }
            _ => {
                tagged(out, TAG_RAW_DATA, bytes.len())?;
                write(out, &bytes)?;
            }
        }
    }
    Ok(())
}

/// Why a model cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The system refuses.
    #[error("cannot write the model")]
    Io(#[from] io::Error),
    /// A parameter cannot be had.
    #[error("cannot get parameter `{name}`")]
    Parameter {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A parameter has another size than the table says.
    #[error("parameter `{name}` has {got} bytes, expected {expected}")]
    Size {
        /// Its name.
        name: String,
        /// Bytes by the table.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// A value that f16 cannot hold.
    #[error("parameter `{name}` has the value {value}, beyond f16; hint: export it as f32")]
    Range {
        /// Its name.
        name: String,
        /// The value.
        value: f32,
    },
}

fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<(), EncodeError> {
    Ok(out.write_all(bytes)?)
}

/// A field's tag and the length of its content.
fn tagged(out: &mut dyn Write, tag: u8, length: usize) -> Result<(), EncodeError> {
    let mut bytes = vec![tag];
    prost::encode_length_delimiter(length, &mut bytes).map_err(io::Error::other)?;
    write(out, &bytes)
}

/// The values of an initialiser as they stand in the file.
fn values<'c, 'a: 'c>(
    row: &'c Initializer,
    fetch: &mut Fetch<'a>,
) -> Result<Cow<'c, [u8]>, EncodeError> {
    let (name, form) = match &row.values {
        Values::Constant(bytes) => return Ok(Cow::Borrowed(bytes)),
        Values::Parameter { name, form } => (name, *form),
    };
    let bytes = fetch(name).map_err(|source| EncodeError::Parameter {
        name: name.clone(),
        source,
    })?;
    let expected = row.parameter_bytes();
    if expected.is_some_and(|expected| expected != bytes.len()) || !bytes.len().is_multiple_of(4) {
        return Err(EncodeError::Size {
            name: name.clone(),
            expected: expected.unwrap_or_default(),
            got: bytes.len(),
        });
    }
    if matches!(form, Form::Half | Form::HalfTransposed)
        && let Some(value) = floats(&bytes)
            .into_iter()
            .find(|value| value.abs() > f16::MAX.to_f32())
    {
        return Err(EncodeError::Range {
            name: name.clone(),
            value,
        });
    }
    Ok(convert(bytes, form, &row.dims))
}

/// Brings f32 values of the table's shape into a form; `dims` is the shape in the file.
pub fn convert<'a>(bytes: Cow<'a, [u8]>, form: Form, dims: &[usize]) -> Cow<'a, [u8]> {
    let half = |value: [u8; 4]| f16::from_f32(f32::from_le_bytes(value)).to_le_bytes();
    // In the file the shape is [in, out].
    let (inputs, outputs) = match dims {
        [inputs, outputs] => (*inputs, *outputs),
        _ => (0, 0),
    };
    match form {
        Form::Same => bytes,
        Form::Transposed => transposed(&words(&bytes), outputs, inputs)
            .into_flattened()
            .into(),
        Form::Half => words(&bytes).iter().flat_map(|&word| half(word)).collect(),
        Form::HalfTransposed => {
            let halves: Vec<_> = words(&bytes).iter().map(|&word| half(word)).collect();
            transposed(&halves, outputs, inputs).into_flattened().into()
        }
        Form::Int8Transposed => {
            let values = floats(&bytes);
            let mut whole = Vec::with_capacity(values.len());
            for row in values.chunks_exact(inputs.max(1)) {
                let scale = scale(row);
                whole.extend(
                    row.iter()
                        .map(|value| (value / scale).round().clamp(-127.0, 127.0) as i8 as u8),
                );
            }
            transposed(&whole, outputs, inputs).into()
        }
        Form::Int8Scales => {
            let values = floats(&bytes);
            let outputs = dims.first().copied().unwrap_or(1).max(1);
            let inputs = (values.len() / outputs).max(1);
            values
                .chunks_exact(inputs)
                .flat_map(|row| scale(row).to_le_bytes())
                .collect()
        }
    }
}

/// The step between two i8 values of a row: its largest magnitude is 127.
fn scale(row: &[f32]) -> f32 {
    let largest = row
        .iter()
        .fold(0.0, |largest: f32, value| largest.max(value.abs()));
    // A row of zeros is exact at any scale.
    if largest > 0.0 { largest / 127.0 } else { 1.0 }
}

fn words(bytes: &[u8]) -> Vec<[u8; 4]> {
    bytes.as_chunks::<4>().0.to_vec()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| f32::from_le_bytes(*word))
        .collect()
}

/// `[rows, columns]` to `[columns, rows]`, in blocks that fit the first cache.
fn transposed<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    let mut out = vec![T::default(); values.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for column in left..columns.min(left + BLOCK) {
                for row in top..rows.min(top + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bytes(values: &[f32]) -> Cow<'static, [u8]> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn transposition_reaches_every_place_in_every_shape() {
        for (rows, columns) in [(1, 1), (1, 70), (33, 31), (64, 65), (100, 3)] {
            let values: Vec<u32> = (0..rows * columns).map(|index| index as u32).collect();
            let out = transposed(&values, rows as usize, columns as usize);
            for row in 0..rows {
                for column in 0..columns {
                    assert_eq!(
                        out[(column * rows + row) as usize],
                        row as u32 * columns as u32 + column as u32
                    );
                }
            }
        }
    }

    #[test]
    fn integers_are_within_half_a_step_and_each_row_has_its_scale() {
        let values = [0.5, -1.0, 0.25, 0.0, 0.0, 0.0, 100.0, -3.0, 49.9];
        let scales = convert(bytes(&values), Form::Int8Scales, &[3]);
        let scales: Vec<f32> = floats(&scales);
        assert_eq!(scales, [1.0 / 127.0, 1.0, 100.0 / 127.0]);
        let whole = convert(bytes(&values), Form::Int8Transposed, &[3, 3]);
        for (row, scale) in scales.iter().enumerate() {
            for column in 0..3 {
                let got = f32::from(whole[column * 3 + row] as i8) * scale;
                let wanted = values[row * 3 + column];
                assert!((got - wanted).abs() <= scale / 2.0 + 1e-6, "{got} {wanted}");
            }
        }
        assert!(whole.contains(&((-127i8) as u8)) && whole.contains(&127));
    }

    #[test]
    fn halves_are_the_nearest_and_transposed_alike() {
        let values = [1.0, 1e-9, 70000.0, 1.0 + 1e-4, -2.5, 0.1];
        let half: Vec<f32> = convert(bytes(&values), Form::HalfTransposed, &[3, 2])
            .as_chunks::<2>()
            .0
            .iter()
            .map(|word| f16::from_le_bytes(*word).to_f32())
            .collect();
        let near = |value: f32| f16::from_f32(value).to_f32();
        assert_eq!(
            half,
            [1.0, near(1.0 + 1e-4), 0.0, -2.5, f32::INFINITY, near(0.1)]
        );
    }
}
