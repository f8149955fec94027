//! What made a result: the command, the models, the sample.

use serde::{Deserialize, Serialize};

use crate::features::FeaturesFile;
use crate::source::{RowKind, Selection};

/// One model and the sample its features are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// Name as figures show it.
    pub name: String,
    /// The features file.
    pub features: String,
    /// The model's directory, as the features file names it.
    pub model: String,
    /// BLAKE3 of the model's weights.
    pub model_blake3: String,
    /// BLAKE3 of its tokenizer.
    pub tokenizer_blake3: String,
    /// The data file.
    pub data: String,
    /// BLAKE3 of the data file.
    pub data_blake3: String,
    /// The command that wrote the features.
    pub features_command: String,
}

impl ModelSource {
    /// The source that a features file stands for.
    pub fn new(name: &str, file: &FeaturesFile) -> Self {
        let info = file.info();
        ModelSource {
            name: name.to_owned(),
            features: file.path().display().to_string(),
            model: info.model.clone(),
            model_blake3: info.model_blake3.clone(),
            tokenizer_blake3: info.tokenizer_blake3.clone(),
            data: info.data.clone(),
            data_blake3: info.data_blake3.clone(),
            features_command: info.command.clone(),
        }
    }
}

/// The rows of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleInfo {
    /// What counts as a row.
    pub rows: RowKind,
    /// Rows that took part.
    pub count: usize,
    /// Rows that there were, before a limit.
    pub of: usize,
    /// Whether special tokens took part.
    pub special: bool,
    /// Seed of the draw.
    pub seed: u64,
}

impl SampleInfo {
    /// The sample that a selection makes.
    pub fn new(selection: &Selection, count: usize, of: usize) -> Self {
        SampleInfo {
            rows: selection.rows,
            count,
            of,
            special: selection.special,
            seed: selection.seed,
        }
    }
}

/// What made a result. Stands as `provenance` in every result of this crate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Schema of the result: its kind and version, as in `cka 1`.
    pub schema: String,
    /// The program's version.
    pub version: String,
    /// The command line.
    pub command: String,
    /// The models, in the order of the command line.
    pub models: Vec<ModelSource>,
    /// The sample, where one was drawn.
    pub sample: Option<SampleInfo>,
}

impl Provenance {
    /// Provenance of a result of this schema.
    pub fn new(
        schema: &str,
        command: &str,
        models: Vec<ModelSource>,
        sample: Option<SampleInfo>,
    ) -> Self {
        Provenance {
            schema: schema.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
            models,
            sample,
        }
    }
}

/// One field of a CSV line, quoted where RFC 4180 asks for it.
pub fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A table as CSV: the header, then the rows, numbers in the shortest form that reads back equal.
pub fn csv(header: &str, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("{header}\n");
    for row in rows {
        let fields: Vec<String> = row.iter().map(|field| csv_field(field)).collect();
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text
}

/// A number that may be absent, as CSV has it.
pub fn optional(value: Option<f64>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}
