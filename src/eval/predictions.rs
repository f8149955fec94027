//! Predictions, one JSON object a row: `{"index":0,"prediction":"acceptable","label":"acceptable","outputs":[-1.2,1.3]}`.
//!
//! Labels go by their names, outputs are in the task's order of labels, and `label` is left out where it is hidden.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tcd_analysis::metrics::{number_from_json, number_to_json};

use super::labels::{Answer, LabelMap};
use super::result::ResultError;
use super::run::Logits;
use crate::data::glue::{Example, Kind, Target, Task};

/// Name of the file of predictions.
pub const PREDICTIONS_FILE: &str = "predictions.jsonl";

/// A row's prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The row's number.
    pub index: u64,
    /// The answer.
    pub answer: Answer,
    /// The truth, where known.
    pub target: Option<Target>,
    /// The model's outputs, in the task's order of labels.
    pub outputs: Vec<f32>,
    /// The task.
    pub task: &'static Task,
}

/// One prediction a row.
pub fn predictions(
    task: &'static Task,
    examples: &[Example],
    answers: &[Answer],
    logits: &Logits,
    map: &LabelMap,
) -> Vec<Prediction> {
    examples
        .iter()
        .zip(answers)
        .zip(logits.rows())
        .map(|((example, answer), outputs)| Prediction {
            index: example.index,
            answer: *answer,
            target: example.target,
            outputs: map.in_task_order(outputs),
            task,
        })
        .collect()
}

impl Prediction {
    /// The row's line, without its end.
    pub(super) fn to_json(&self) -> Value {
        let name = |class: usize| json!(self.task.labels.get(class).map(|l| l.name));
        let outputs: Vec<Value> = self
            .outputs
            .iter()
            // The shortest decimal that is this f32.
            .map(|v| number_to_json(v.to_string().parse().unwrap_or(f64::NAN)))
            .collect();
        let mut line = json!({"index": self.index});
        line["prediction"] = match self.answer {
            Answer::Class(class) => name(class),
            Answer::Score(score) => number_to_json(score),
        };
        match self.target {
            Some(Target::Class(class)) => line["label"] = name(class),
            Some(Target::Score(score)) => line["label"] = number_to_json(score),
            None => {}
        }
        line["outputs"] = Value::Array(outputs);
        line
    }
}

/// Reads the `predictions.jsonl` of a result's directory.
pub fn read_predictions(dir: &Path, task: &'static Task) -> Result<Vec<Prediction>, ResultError> {
    let path = dir.join(PREDICTIONS_FILE);
    let text = fs::read_to_string(&path).map_err(|source| ResultError::Io {
        doing: "read",
        path: path.clone(),
        source,
    })?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            prediction(line, task).map_err(|what| ResultError::Malformed {
                path: path.clone(),
                what: format!("line {}: {what}", index + 1),
            })
        })
        .collect()
}

fn prediction(line: &str, task: &'static Task) -> Result<Prediction, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    let class = |value: &Value| {
        value
            .as_str()
            .and_then(|name| task.label_index(name))
            .ok_or_else(|| format!("{value} is no label of {}", task.name))
    };
    let number = |value: &Value| {
        number_from_json(value).ok_or_else(|| format!("expected a number, got: {value}"))
    };
    let label = value.get("label");
    let (answer, target) = match task.kind {
        Kind::Classification => (
            Answer::Class(class(&value["prediction"])?),
            label.map(class).transpose()?.map(Target::Class),
        ),
        Kind::Regression => (
            Answer::Score(number(&value["prediction"])?),
            label.map(number).transpose()?.map(Target::Score),
        ),
    };
    let index = value["index"]
        .as_u64()
        .ok_or_else(|| format!("`index` is not a row number: {}", value["index"]))?;
    let outputs = value["outputs"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    Ok(Prediction {
        index,
        answer,
        target,
        outputs: outputs
            .iter()
            .map(|v| number(v).map(|v| v as f32))
            .collect::<Result<_, _>>()?,
        task,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn predictions_go_round_through_their_file_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let cola = Task::find("CoLA").unwrap();
        let sts = Task::find("STS-B").unwrap();
        let row = |task, answer, target| Prediction {
            index: 3,
            answer,
            target,
            outputs: vec![0.1, -1e-20, f32::MAX],
            task,
        };
        for prediction in [
            row(cola, Answer::Class(1), Some(Target::Class(0))),
            row(cola, Answer::Class(0), None),
            row(sts, Answer::Score(0.1f32.into()), Some(Target::Score(2.5))),
        ] {
            let text = prediction.to_json().to_string() + "\n";
            fs::write(dir.path().join(PREDICTIONS_FILE), text).unwrap();
            assert_eq!(
                read_predictions(dir.path(), prediction.task).unwrap(),
                [prediction]
            );
        }
        for (line, said) in [
            ("{}", "no label"),
            ("[1]", "no label"),
            ("{\"prediction\":\"maybe\"}", "maybe"),
            ("{\"prediction\":\"acceptable\"}", "`index`"),
            (
                "{\"index\":1,\"prediction\":\"0\",\"outputs\":[\"x\"]}",
                "expected a number",
            ),
            ("{", "not JSON"),
        ] {
            fs::write(dir.path().join(PREDICTIONS_FILE), line).unwrap();
            let error = read_predictions(dir.path(), cola).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains(said), "{error}");
        }
    }
}
