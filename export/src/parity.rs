//! Whether engines agree: the same batches through each, held against the first.
//!
//! Values at padding have no meaning and are left out. A prediction is the largest value of the last axis of `logits`.

use std::path::Path;

use serde::Serialize;

use crate::runtime::{Feed, Options, Output, Runnable, Runtime, RuntimeError};

/// Flips and routes that a report lists; the rest is counted.
const LISTED: usize = 50;

/// A batch and what it is there for.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What it shows, such as `one row`.
    pub name: &'a str,
    /// The batch.
    pub feed: Feed<'a>,
}

/// How an output of one engine differs from that of the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// The engine that is held against it.
    pub engine: String,
    /// The output.
    pub output: String,
    /// Values compared.
    pub values: u64,
    /// Largest magnitude of a difference; infinite where only one of two is a number.
    pub max: f64,
    /// Mean magnitude of the differences.
    pub mean: f64,
    /// The first value beyond the tolerance.
    pub first: Option<Place>,
    /// Predictions compared.
    pub predictions: u64,
    /// Predictions that differ.
    pub flipped: u64,
    /// The first of them.
    pub flips: Vec<Flip>,
}

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// The batch's name.
    pub batch: String,
    /// Index of each axis.
    pub index: Vec<usize>,
    /// The first engine's value.
    pub expected: f32,
    /// This engine's value.
    pub got: f32,
}

/// A prediction that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flip {
    /// The batch's name.
    pub batch: String,
    /// Row of the batch, and position where predictions are per position.
    pub index: Vec<usize>,
    /// The first engine's prediction.
    pub expected: usize,
    /// This engine's prediction.
    pub got: usize,
    /// How far apart the first engine had the two.
    pub margin: f32,
}

impl Difference {
    /// Whether every value is within the tolerance.
    pub fn holds(&self, tolerance: f64) -> bool {
        self.max <= tolerance
    }

    fn add(&mut self, case: &Case<'_>, expected: &Output, got: &Output, tolerance: f64) {
        let strides = strides(&expected.shape);
        let mut sum = self.mean * self.values as f64;
        for (flat, (&wanted, &value)) in expected.values.iter().zip(&got.values).enumerate() {
            let index = || {
                strides
                    .iter()
                    .zip(&expected.shape)
                    .map(|(stride, length)| flat / stride % length)
                    .collect::<Vec<_>>()
            };
            if is_padding(&case.feed, &expected.name, &expected.shape, flat, &strides) {
                continue;
            }
            let difference = distance(wanted, value);
            self.values += 1;
            sum += difference;
            self.max = self.max.max(difference);
            if difference > tolerance && self.first.is_none() {
                self.first = Some(Place {
                    batch: case.name.to_owned(),
                    index: index(),
                    expected: wanted,
                    got: value,
                });
            }
        }
        self.mean = if self.values == 0 {
            0.0
        } else {
            sum / self.values as f64
        };
        if expected.name == "logits" {
            self.predictions(case, expected, got, &strides);
        }
    }

    fn predictions(&mut self, case: &Case<'_>, expected: &Output, got: &Output, strides: &[usize]) {
        let Some(&classes) = expected.shape.last().filter(|&&classes| classes > 1) else {
            return;
        };
        let rows = expected
            .values
            .chunks_exact(classes)
            .zip(got.values.chunks_exact(classes));
        for (row, (wanted, values)) in rows.enumerate() {
            if is_padding(
                &case.feed,
                &expected.name,
                &expected.shape,
                row * classes,
                strides,
            ) {
                continue;
            }
            self.predictions += 1;
            let (one, two) = (largest(wanted), largest(values));
            if one == two {
                continue;
            }
            self.flipped += 1;
            if self.flips.len() < LISTED {
                let outer = strides.len() - 1;
                let index = (0..outer)
                    .map(|axis| row * classes / strides[axis] % expected.shape[axis])
                    .collect();
                let margin = wanted[one] - wanted[two];
                self.flips.push(Flip {
                    batch: case.name.to_owned(),
                    index,
                    expected: one,
                    got: two,
                    margin,
                });
            }
        }
    }
}

/// Elements of one step along each axis.
fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product::<usize>().max(1))
        .collect()
}

/// Whether a value belongs to a padding position; outputs of whole rows belong to none.
fn is_padding(
    feed: &Feed<'_>,
    name: &str,
    shape: &[usize],
    flat: usize,
    strides: &[usize],
) -> bool {
    let axis = match shape.len() {
        // Heads come before positions.
        4 => 2,
        3 => 1,
        2 if name != "logits" && shape == [feed.batch, feed.sequence] => 1,
        _ => return false,
    };
    if shape[0] != feed.batch || shape[axis] != feed.sequence {
        return false;
    }
    let (row, place) = (
        flat / strides[0] % shape[0],
        flat / strides[axis] % shape[axis],
    );
    feed.attention_mask[row * feed.sequence + place] == 0
}

fn distance(wanted: f32, got: f32) -> f64 {
    if wanted == got || (wanted.is_nan() && got.is_nan()) {
        return 0.0;
    }
    let difference = (f64::from(wanted) - f64::from(got)).abs();
    if difference.is_nan() {
        f64::INFINITY
    } else {
        difference
    }
}

/// Index of the largest value, the first of equal ones.
fn largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Engines that have a model ready, the first of which the others are held against.
pub struct Contest {
    engines: Vec<(String, Box<dyn Runnable>)>,
    tolerance: f64,
    differences: Vec<Difference>,
}

impl Contest {
    /// Loads a model into every engine.
    ///
    /// # Errors
    /// The first engine that does not take it.
    pub fn new(
        engines: &[&dyn Runtime],
        model: &Path,
        options: &Options,
        tolerance: f64,
    ) -> Result<Self, RuntimeError> {
        let engines = engines
            .iter()
            .map(|engine| {
                let ready = engine.prepare(model, options)?;
                Ok((engine.name().to_owned(), ready))
            })
            .collect::<Result<_, RuntimeError>>()?;
        Ok(Self::of(engines, tolerance))
    }

    /// Of models that are ready, each with what the report calls it.
    pub fn of(engines: Vec<(String, Box<dyn Runnable>)>, tolerance: f64) -> Self {
        Self {
            engines,
            tolerance,
            differences: Vec::new(),
        }
    }

    /// Runs a batch on every engine and compares; gives what each said.
    ///
    /// # Errors
    /// An engine that fails, or outputs of other names or shapes.
    pub fn run(&mut self, case: &Case<'_>) -> Result<Vec<Vec<Output>>, RuntimeError> {
        let mut all: Vec<Vec<Output>> = Vec::new();
        for (name, engine) in &mut self.engines {
            let outputs = engine.run(&case.feed)?;
            if let Some(expected) = all.first() {
                let (tolerance, differences) = (self.tolerance, &mut self.differences);
                compare(differences, name, case, expected, &outputs, tolerance)?;
            }
            all.push(outputs);
        }
        Ok(all)
    }

    /// Runs each row of a batch without the others and without padding, and compares with the batch, engine by engine; rows are
    /// padded on the right.
    ///
    /// # Errors
    /// As [`Contest::run`].
    pub fn alone(&mut self, case: &Case<'_>) -> Result<(), RuntimeError> {
        let feed = &case.feed;
        for (name, engine) in &mut self.engines {
            let whole = engine.run(feed)?;
            let title = format!("{name}, a row alone");
            for row in 0..feed.batch {
                let span = row * feed.sequence..(row + 1) * feed.sequence;
                let length = feed.attention_mask[span.clone()]
                    .iter()
                    .filter(|mask| **mask != 0)
                    .count();
                let part = span.start..span.start + length.max(1);
                let single = Feed {
                    batch: 1,
                    sequence: part.len(),
                    input_ids: &feed.input_ids[part.clone()],
                    attention_mask: &feed.attention_mask[part.clone()],
                    token_type_ids: &feed.token_type_ids[part.clone()],
                };
                let outputs = engine.run(&single)?;
                let expected: Vec<_> = whole
                    .iter()
                    .map(|output| cut(output, feed, row, part.len()))
                    .collect();
                let case = Case {
                    name: case.name,
                    feed: single,
                };
                compare(
                    &mut self.differences,
                    &title,
                    &case,
                    &expected,
                    &outputs,
                    self.tolerance,
                )?;
            }
        }
        Ok(())
    }

    /// What was found, an entry for each engine and output.
    pub fn finish(self) -> Vec<Difference> {
        self.differences
    }
}

/// A row of an output of a batch, without the positions from `length` on.
fn cut(output: &Output, feed: &Feed<'_>, row: usize, length: usize) -> Output {
    let mut shape = output.shape.clone();
    let strides = strides(&shape);
    let axis = match shape.len() {
        4 => Some(2),
        3 => Some(1),
        2 if output.name != "logits" && shape[1] == feed.sequence => Some(1),
        _ => None,
    };
    let of_row = &output.values[row * strides[0]..(row + 1) * strides[0]];
    shape[0] = 1;
    let Some(axis) = axis else {
        return Output {
            name: output.name.clone(),
            shape,
            values: of_row.to_vec(),
        };
    };
    let values = of_row
        .chunks(strides[axis - 1])
        .flat_map(|block| &block[..length * strides[axis]])
        .copied()
        .collect();
    shape[axis] = length;
    Output {
        name: output.name.clone(),
        shape,
        values,
    }
}

/// Outputs that cannot be compared.
#[derive(Debug, thiserror::Error)]
#[error("{engine} gives {got:?}, expected {expected:?}")]
struct Unlike {
    engine: String,
    expected: Vec<(String, Vec<usize>)>,
    got: Vec<(String, Vec<usize>)>,
}

fn compare(
    all: &mut Vec<Difference>,
    engine: &str,
    case: &Case<'_>,
    expected: &[Output],
    got: &[Output],
    tolerance: f64,
) -> Result<(), RuntimeError> {
    let forms = |outputs: &[Output]| -> Vec<_> {
        outputs
            .iter()
            .map(|output| (output.name.clone(), output.shape.clone()))
            .collect()
    };
    if forms(expected) != forms(got) {
        let engine = engine.to_owned();
        return Err(Unlike {
            engine,
            expected: forms(expected),
            got: forms(got),
        }
        .into());
    }
    for (expected, got) in expected.iter().zip(got) {
        let place = all
            .iter()
            .position(|row| row.engine == engine && row.output == expected.name);
        let place = place.unwrap_or_else(|| {
            let (engine, output) = (engine.to_owned(), expected.name.clone());
            all.push(Difference {
                engine,
                output,
                ..Difference::default()
            });
            all.len() - 1
        });
        all[place].add(case, expected, got, tolerance);
    }
    Ok(())
}

/// Tokens that each expert of each layer got; outputs `expert.{layer}` of a model exported with routing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// `[layers][experts]`.
    pub tokens: Vec<Vec<u64>>,
}

impl Load {
    /// For a model of so many layers and experts.
    pub fn new(layers: usize, experts: usize) -> Self {
        Self {
            tokens: vec![vec![0; experts]; layers],
        }
    }

    /// Counts the experts of a batch's real tokens.
    pub fn add(&mut self, feed: &Feed<'_>, outputs: &[Output]) {
        for (layer, counts) in self.tokens.iter_mut().enumerate() {
            let name = format!("expert.{layer}");
            for output in outputs.iter().filter(|output| output.name == name) {
                for (expert, mask) in output.values.iter().zip(feed.attention_mask) {
                    if *mask != 0
                        && let Some(count) = counts.get_mut(*expert as usize)
                    {
                        *count += 1;
                    }
                }
            }
        }
    }

    /// Layer and number of experts that got no token.
    pub fn unreached(&self) -> Vec<(usize, usize)> {
        let layers = self.tokens.iter().enumerate();
        layers
            .flat_map(|(layer, counts)| {
                (0..counts.len())
                    .filter(|&expert| counts[expert] == 0)
                    .map(move |expert| (layer, expert))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
