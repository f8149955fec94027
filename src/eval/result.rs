//! What an evaluation leaves behind: `result.json` and `predictions.jsonl` in one directory.
//!
//! `result.json` (schema `tcd-glue-result/1`, described in `docs/glue.md`) is written last, so a directory that has it is
//! complete. Fine-tuning writes the same files. Scores are fractions, not per cent; JSON has no NaN, so an undefined score is
//! the string `"nan"`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tcd_analysis::metrics::{number_from_json, number_to_json};
use thiserror::Error;

use super::labels::{Answer, LabelMap};
use super::metrics::Answers;
use super::predictions::{PREDICTIONS_FILE, Prediction};
use super::run::{Logits, RunError, beside_truth, warnings};
use crate::data::glue::{Metric, Split, SplitData, Task};
use crate::files::write_whole;

/// The schema that this program writes and reads.
pub const SCHEMA: &str = "tcd-glue-result/1";
/// Name of the file of scores.
pub const RESULT_FILE: &str = "result.json";

/// Why results cannot be written or read.
#[derive(Debug, Error)]
pub enum ResultError {
    /// A file operation failed.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("cannot use `{}`: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        what: String,
    },
    /// There is nothing.
    #[error("no `{RESULT_FILE}` under `{}`; hint: give directories that `tcd eval` or `tcd finetune` wrote", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
}

/// The model that was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// What tables call it: of a fine-tuned model, the model that it began as.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// BLAKE3 of its weights, where known.
    pub weights_blake3: Option<String>,
    /// Hash of what its tokenizer does.
    pub tokenizer_hash: String,
}

/// The rows that it was evaluated on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecord {
    /// The files.
    pub files: Vec<PathBuf>,
    /// BLAKE3 of texts and labels.
    pub blake3: String,
    /// Rows.
    pub rows: usize,
    /// Rows of the official split; where it differs, scores do not compare with published ones.
    pub official_rows: usize,
    /// Malformed rows that were left out on request.
    pub left_out: usize,
    /// Rows of each label; empty for a regression or hidden labels.
    pub label_counts: Vec<usize>,
}

impl DataRecord {
    /// The record of a split.
    pub fn new(data: &SplitData) -> DataRecord {
        DataRecord {
            files: data.files.clone(),
            blake3: data.hash.clone(),
            rows: data.examples.len(),
            official_rows: data.split.rows,
            left_out: data.left_out.len(),
            label_counts: data.label_counts(),
        }
    }
}

/// How rows became tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodingRecord {
    /// Longest row allowed, in tokens.
    pub max_length: usize,
    /// Rows that lost tokens.
    pub truncated: usize,
}

/// What ran the model, and how fast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// The engine's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Threads inside a session.
    pub threads: usize,
    /// Sessions beside each other.
    pub sessions: usize,
    /// Seconds from the first batch to the last, tokenizing left out; none in a result of fine-tuning.
    pub seconds: Option<f64>,
    /// Rows a second in that time.
    pub rows_per_second: Option<f64>,
}

/// How the model was fine-tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetuneRecord {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Rows a step.
    pub batch_size: usize,
    /// Epochs of the schedule.
    pub epochs: usize,
    /// Seed of head, order and dropout.
    pub seed: u64,
    /// Steps done.
    pub steps: u64,
    /// The epoch whose weights were kept: the best on the development set.
    pub best_epoch: usize,
    /// Whether the run ended before its last epoch, as the score no longer rose.
    pub stopped_early: bool,
    /// The task whose fine-tuned model it began as, where it did not begin as the pre-trained one.
    pub start_task: Option<String>,
    /// Seconds of training, evaluation left out.
    pub seconds: f64,
    /// Training rows.
    pub train_rows: usize,
    /// BLAKE3 of the weights of the pre-trained model; none in results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_blake3: Option<String>,
}

/// Where a score stands among others: an undefined one is below all.
pub fn rank(score: f64) -> f64 {
    if score.is_nan() {
        f64::NEG_INFINITY
    } else {
        score
    }
}

/// The content of `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program.
    pub version: String,
    /// The task's name.
    pub task: String,
    /// The split's name.
    pub split: String,
    /// The task's score, the mean of its metrics; none where labels are hidden.
    #[serde(with = "optional_number")]
    pub score: Option<f64>,
    /// Each metric by its name; empty where labels are hidden.
    #[serde(with = "numbers")]
    pub scores: BTreeMap<String, f64>,
    /// Rows that were given each label; empty for a regression.
    pub prediction_counts: Vec<usize>,
    /// What looks wrong.
    pub warnings: Vec<String>,
    /// The model.
    pub model: ModelRecord,
    /// The rows.
    pub data: DataRecord,
    /// Their encoding.
    pub encoding: EncodingRecord,
    /// The engine.
    pub runtime: RuntimeRecord,
    /// The fine-tuning, where known.
    pub finetuning: Option<FinetuneRecord>,
    /// Hash of all that decides on the predictions: with the same one, an evaluation need not be done again.
    pub key: String,
}

mod numbers {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(
        values: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let map: BTreeMap<&String, Value> = values
            .iter()
            .map(|(k, v)| (k, number_to_json(*v)))
            .collect();
        map.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        BTreeMap::<String, Value>::deserialize(deserializer)?
            .into_iter()
            .map(|(name, value)| match number_from_json(&value) {
                Some(number) => Ok((name, number)),
                None => Err(D::Error::custom(format!(
                    "`{name}` is not a number: {value}"
                ))),
            })
            .collect()
    }
}

mod optional_number {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(number_to_json).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        match Value::deserialize(d)? {
            Value::Null => Ok(None),
            value => number_from_json(&value)
                .map(Some)
                .ok_or_else(|| D::Error::custom(format!("`score` is not a number: {value}"))),
        }
    }
}

impl TaskResult {
    /// The task, as the table has it.
    pub fn task(&self) -> Option<&'static Task> {
        Task::find(&self.task)
    }

    /// The split, as the table has it.
    pub fn split(&self) -> Option<&'static Split> {
        self.task()?.split(&self.split)
    }
}

/// The score, its parts and the counts of a set of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Mean of the metrics.
    pub score: Option<f64>,
    /// Each metric.
    pub scores: BTreeMap<String, f64>,
    /// Rows given each label.
    pub prediction_counts: Vec<usize>,
    /// What looks wrong.
    pub warnings: Vec<String>,
    /// The answers.
    pub answers: Vec<Answer>,
}

impl Judged {
    /// The judgement of a model whose outputs are not numbers.
    pub fn failed(task: &Task) -> Judged {
        let undefined = |m: &Metric| (m.name().to_owned(), f64::NAN);
        Judged {
            score: Some(f64::NAN),
            scores: task.metrics.iter().map(undefined).collect(),
            prediction_counts: vec![0; task.labels.len()],
            warnings: vec!["the model's outputs are not numbers".to_owned()],
            answers: Vec::new(),
        }
    }
}

/// Scores outputs against a split's labels; a split with hidden labels gets no score.
pub fn judge(data: &SplitData, logits: &Logits, map: &LabelMap) -> Result<Judged, RunError> {
    let task = data.task;
    let answers = logits.answers(map)?;
    let mut prediction_counts = vec![0; task.labels.len()];
    for answer in &answers {
        if let Answer::Class(class) = answer {
            prediction_counts[*class] += 1;
        }
    }
    let truth = beside_truth(task, &answers, &data.examples);
    let score = |truth: &Answers| {
        let each = |m: &Metric| (m.name().to_owned(), truth.score(*m));
        task.metrics.iter().map(each).collect()
    };
    Ok(Judged {
        score: truth.as_ref().map(|truth| truth.mean(task.metrics)),
        scores: truth.as_ref().map(score).unwrap_or_default(),
        prediction_counts,
        warnings: truth
            .as_ref()
            .map(|truth| warnings(task, truth))
            .unwrap_or_default(),
        answers,
    })
}

/// Writes `predictions.jsonl` and then `result.json` into a directory, which is made if need be.
pub fn write(
    dir: &Path,
    result: &TaskResult,
    predictions: &[Prediction],
) -> Result<(), ResultError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| ResultError::Io {
            doing,
            path,
            source,
        }
    };
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let file = dir.join(PREDICTIONS_FILE);
    let lines: String = predictions
        .iter()
        .map(|p| p.to_json().to_string() + "\n")
        .collect();
    write_whole(&file, lines.as_bytes()).map_err(failed("write", &file))?;
    let file = dir.join(RESULT_FILE);
    let text = serde_json::to_string_pretty(result)
        .map_err(io::Error::other)
        .map_err(failed("write", &file))?;
    write_whole(&file, (text + "\n").as_bytes()).map_err(failed("write", &file))
}

/// Reads a `result.json`.
pub fn read(path: &Path) -> Result<TaskResult, ResultError> {
    let text = fs::read_to_string(path).map_err(|source| ResultError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    let wrong = |what: String| ResultError::Malformed {
        path: path.to_owned(),
        what,
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    match value["schema"].as_str() {
        Some(SCHEMA) => {}
        other => {
            return Err(wrong(format!(
                "its schema is {}, expected `{SCHEMA}`",
                other.map_or("absent".to_owned(), |s| format!("`{s}`"))
            )));
        }
    }
    let result: TaskResult = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
    if result.split().is_none() {
        return Err(wrong(format!(
            "there is no split `{}` of a task `{}`",
            result.split, result.task
        )));
    }
    Ok(result)
}

/// Every result under the given directories (or files), each with its directory, sorted by path; a directory with none is an
/// error.
pub fn find(paths: &[PathBuf]) -> Result<Vec<(PathBuf, TaskResult)>, ResultError> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        let file = path.join(RESULT_FILE);
        if path.is_file() {
            found.push(path.clone());
        } else if file.is_file() {
            found.push(file);
        } else {
            walk(path, &mut found)?;
        }
        if found.len() == before {
            return Err(ResultError::Nothing { path: path.clone() });
        }
    }
    found.sort();
    found.dedup();
    found
        .into_iter()
        .map(|file| {
            let dir = file.parent().unwrap_or(Path::new("")).to_owned();
            Ok((dir, read(&file)?))
        })
        .collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), ResultError> {
    let failed = |source| ResultError::Io {
        doing: "read",
        path: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        // Links are not followed: a loop would have no end.
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&path, found)?;
        } else if entry.file_name() == RESULT_FILE {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_foreign_or_damaged_result_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b").join(RESULT_FILE);
        assert!(matches!(
            find(&[dir.path().to_owned()]),
            Err(ResultError::Nothing { .. })
        ));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (text, said) in [
            ("{", "not JSON"),
            ("{}", "its schema is absent"),
            ("{\"schema\":\"other/2\"}", "`other/2`"),
            ("{\"schema\":\"tcd-glue-result/1\"}", "missing field"),
        ] {
            fs::write(&file, text).unwrap();
            let error = find(&[dir.path().to_owned()]).unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains("a/b/result.json"),
                "{error}"
            );
        }
    }
}
