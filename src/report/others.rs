//! Results without a schema of their own: parity of engines, paired differences on GLUE, speed; and what is told of GLUE results
//! and exports.

use serde::Deserialize;
use serde_json::Value;
use tcd_export::onnx::OnnxRecord;

use crate::eval::result::TaskResult;

/// What `tcd parity --json` writes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ParityRecord {
    /// The model's directory.
    pub model: String,
    /// Engines, the one first that the others are held against.
    pub engines: Vec<String>,
    /// Rows.
    pub rows: u64,
    /// Largest difference allowed.
    pub tolerance: f64,
    /// Whether everything holds.
    pub holds: bool,
    /// By engine and output.
    pub differences: Vec<ParityDifference>,
    /// Tokens of each expert, by layer.
    pub experts: Option<ParityLoad>,
}

/// One engine's difference at one output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ParityDifference {
    /// The engine.
    pub engine: String,
    /// The output.
    pub output: String,
    /// Values compared.
    pub values: u64,
    /// Largest magnitude; absent where it is infinite.
    pub max: Option<f64>,
    /// Mean magnitude.
    pub mean: Option<f64>,
    /// Predictions compared.
    pub predictions: u64,
    /// Predictions that differ.
    pub flipped: u64,
}

/// Tokens of each expert.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ParityLoad {
    /// By layer and expert.
    pub tokens: Vec<Vec<u64>>,
}

impl ParityRecord {
    /// Reads a record; nothing where it is something else.
    pub fn read(value: &Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok()
    }

    /// The command.
    pub fn command(&self) -> String {
        format!(
            "tcd parity --model {} --with {} --tolerance {}",
            self.model,
            self.engines.join(","),
            self.tolerance
        )
    }

    /// Settings.
    pub fn facts(&self) -> Vec<(String, String)> {
        vec![
            ("model".to_owned(), self.model.clone()),
            ("rows".to_owned(), self.rows.to_string()),
        ]
    }

    /// Experts that got tokens, of all.
    pub fn reached(&self) -> Option<(usize, usize)> {
        let all: Vec<u64> = self.experts.as_ref()?.tokens.concat();
        Some((all.iter().filter(|t| **t > 0).count(), all.len()))
    }
}

/// A line of what `tcd glue compare --json` writes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GlueDifference {
    /// The task.
    pub task: String,
    /// The split.
    pub split: String,
    /// Name of the first model.
    pub first_model: String,
    /// Name of the second.
    pub second_model: String,
    /// Rows.
    pub rows: u64,
    /// Score of the first.
    pub first: Option<f64>,
    /// Score of the second.
    pub second: Option<f64>,
    /// Second less first.
    pub difference: Option<f64>,
    /// Lower end of its 95 % interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Two-sided p-value.
    pub p_value: Option<f64>,
}

impl GlueDifference {
    /// Reads a list of lines; nothing where it is something else.
    pub fn read(value: &Value) -> Option<Vec<Self>> {
        let list: Vec<Self> = serde_json::from_value(value.clone()).ok()?;
        (!list.is_empty()).then_some(list)
    }
}

/// A part of what `cargo xtask bench eval` writes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BenchHeat {
    /// Model and data.
    pub title: String,
    /// Ratios with targets.
    pub verdicts: Vec<BenchRatio>,
}

/// A ratio of speeds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BenchRatio {
    /// What is divided by what.
    pub what: String,
    /// The ratio.
    pub ratio: BenchRange,
    /// What is wanted of it.
    pub target: String,
    /// Whether it is met.
    pub met: bool,
}

/// A ratio with its range over the rounds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BenchRange {
    /// Of the medians.
    pub value: Option<f64>,
    /// Smallest in a round.
    pub min: Option<f64>,
    /// Largest.
    pub max: Option<f64>,
}

impl BenchHeat {
    /// Reads a list; nothing where it is something else.
    pub fn read(value: &Value) -> Option<Vec<Self>> {
        let list: Vec<Self> = serde_json::from_value(value.clone()).ok()?;
        (!list.is_empty()).then_some(list)
    }
}

/// The command that a GLUE result is of, as far as it is recorded.
pub fn glue_command(result: &TaskResult) -> String {
    match &result.finetuning {
        Some(f) => format!(
            "tcd finetune --task {} --learning-rate {} --batch-size {} --epochs {} --seeds {}  # of model {}, scored on {}",
            result.task,
            f.learning_rate,
            f.batch_size,
            f.epochs,
            f.seed,
            result.model.name,
            result.split
        ),
        None => format!(
            "tcd eval --model {} --task {}",
            result.model.path.display(),
            result.task
        ),
    }
}

/// Hashes and settings of a GLUE result.
pub fn glue_facts(result: &TaskResult) -> Vec<(String, String)> {
    let weights = result.model.weights_blake3.clone();
    vec![
        ("model".to_owned(), result.model.path.display().to_string()),
        (
            "weights".to_owned(),
            weights.unwrap_or_else(|| "not recorded".to_owned()),
        ),
        ("tokenizer".to_owned(), result.model.tokenizer_hash.clone()),
        ("data".to_owned(), result.data.blake3.clone()),
        (
            "engine".to_owned(),
            format!("{} {}", result.runtime.name, result.runtime.version),
        ),
        ("program".to_owned(), format!("tcd {}", result.version)),
    ]
}

/// Hashes of exported files.
pub fn export_facts(record: &OnnxRecord) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    for (name, file) in &record.files {
        facts.push((name.clone(), file.blake3.clone()));
        if let Some(hash) = &file.data_blake3 {
            facts.push((format!("{name}.data"), hash.clone()));
        }
    }
    facts
}
