//! What evaluation must know of a model: its `config.json` and tokenizer, whoever wrote them.
//!
//! Weights are the runtime's business, so a directory with only `model.onnx` beside these two files serves as well.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tcd_export::CONFIG_FILE;
use thiserror::Error;

use super::labels::LabelMap;
use crate::data::glue::{Kind, Task};
use crate::data::tokenizer::{Tokenizer, TokenizerError};

/// Why a model cannot be evaluated.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read `{}`; hint: give a model directory with `config.json` and `tokenizer.json`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `config.json` is not what it should be.
    #[error("cannot use `{}`: {what}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The tokenizer is not usable.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model's classes are not the task's.
    #[error("model `{}` does not fit {task}: {what}", path.display())]
    Labels {
        /// The model.
        path: PathBuf,
        /// The task.
        task: &'static str,
        /// Why, and the mend.
        what: String,
    },
}

/// A model directory as evaluation sees it.
#[derive(Debug)]
pub struct Model {
    /// The directory.
    pub path: PathBuf,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Names of its outputs by index; empty where `config.json` has none.
    pub labels: Vec<String>,
    /// The task it was fine-tuned for, as `config.json` says (`finetuning_task`).
    pub task: Option<String>,
    /// Longest row that it takes.
    pub max_positions: usize,
    /// Longest row that it was fine-tuned with, where known.
    pub max_length: Option<usize>,
    /// Whether it is a mixture of experts, as `config.json` says (`moe`).
    pub mixture: bool,
    /// Hash of its weights, where recorded.
    pub weights_hash: Option<String>,
    /// `tcd.notes` of `config.json`.
    pub notes: Map<String, Value>,
}

impl Model {
    /// Reads `config.json` and the tokenizer of a directory.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        let file = path.join(CONFIG_FILE);
        let text = fs::read_to_string(&file).map_err(|source| ModelError::Io {
            path: file.clone(),
            source,
        })?;
        let wrong = |what: String| ModelError::Config {
            path: file.clone(),
            what,
        };
        let config: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| wrong(format!("not a JSON object: {e}")))?;
        let tokenizer = Tokenizer::load(path)?;
        if let Some(size) = config.get("vocab_size").and_then(Value::as_u64)
            && tokenizer.vocab_size() as u64 > size
        {
            return Err(wrong(format!(
                "`vocab_size` is {size}, but the tokenizer beside it has ids up to {}; hint: copy the model's own tokenizer there",
                tokenizer.vocab_size() - 1
            )));
        }
        let max_positions = match config.get("max_position_embeddings") {
            None => 512,
            Some(value) => value.as_u64().filter(|&n| n >= 5).ok_or_else(|| {
                wrong(format!(
                    "`max_position_embeddings` is {value}, expected a number of at least 5"
                ))
            })? as usize,
        };
        let notes = config
            .get("tcd")
            .and_then(|tcd| tcd.get("notes")?.as_object())
            .cloned()
            .unwrap_or_default();
        let text = |value: Option<&Value>| Some(value?.as_str()?.to_owned());
        Ok(Model {
            path: path.to_owned(),
            tokenizer,
            labels: labels(&config).map_err(wrong)?,
            task: text(config.get("finetuning_task")),
            max_positions,
            mixture: config.get("moe").is_some_and(|moe| !moe.is_null()),
            max_length: notes
                .get("max_length")
                .and_then(Value::as_u64)
                .map(|n| n as usize),
            weights_hash: text(config.get("tcd").and_then(|tcd| tcd.get("weights_blake3"))),
            notes,
        })
    }

    /// The last part of its path, or the two last where that is `model`: what tables call it.
    pub fn name(&self) -> String {
        let full = self
            .path
            .canonicalize()
            .unwrap_or_else(|_| self.path.clone());
        let part = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        match (part(&full), full.parent().and_then(part)) {
            (Some(name), Some(parent)) if name == "model" => parent,
            (Some(name), _) => name,
            (None, _) => full.display().to_string(),
        }
    }

    /// Longest row to encode: what was asked for, what it was fine-tuned with, or what it takes.
    pub fn row_length(&self, asked: Option<usize>) -> usize {
        asked
            .or(self.max_length)
            .unwrap_or(self.max_positions)
            .min(self.max_positions)
            .max(5)
    }

    /// How its outputs become answers of the task. `order` names the task's labels in the order of the outputs, for models
    /// whose own names say nothing.
    pub fn label_map(
        &self,
        task: &'static Task,
        order: Option<&[String]>,
    ) -> Result<LabelMap, ModelError> {
        let refused = |what| ModelError::Labels {
            path: self.path.clone(),
            task: task.name,
            what,
        };
        if let Some(trained) = self.task.as_deref().and_then(Task::find) {
            let wanted = task.answered_by.unwrap_or(task.name);
            if trained.name != wanted && order.is_none() {
                return Err(refused(format!(
                    "it was fine-tuned for {}; hint: if its labels mean the same, name their order with `--label-order`",
                    trained.name
                )));
            }
        }
        match task.kind {
            Kind::Regression => LabelMap::regression(&self.labels),
            Kind::Classification => LabelMap::classes(task, &self.labels, order),
        }
        .map_err(refused)
    }
}

/// `id2label`, which must count from 0 without gaps.
fn labels(config: &Map<String, Value>) -> Result<Vec<String>, String> {
    let names = match config.get("id2label") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(names)) => names,
        Some(_) => return Err("`id2label` is not an object".to_owned()),
    };
    (0..names.len())
        .map(|index| {
            let name = names.get(&index.to_string());
            name.and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| format!("`id2label` has no name for output {index}"))
        })
        .collect()
}
