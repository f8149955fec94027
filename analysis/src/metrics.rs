//! One record of a run's `metrics.jsonl`, and how it is read.
//!
//! A line is a JSON object: `{"step":20,"kind":"eval","wall_seconds":3.5,"tokens":81920.0,...}`. The first three keys are
//! fixed, every other key is a value. JSON has no NaN or infinity, so these are written as the strings `"nan"`, `"inf"` and
//! `"-inf"`. A last line without its line end that cannot be read is what a killed writer leaves behind; it is ignored.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value};

/// Keys that every record has; no value may take such a name.
pub const RESERVED: [&str; 3] = ["step", "kind", "wall_seconds"];

/// What a run measured at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Optimizer steps done.
    pub step: u64,
    /// What was measured: `train`, `eval`, ...
    pub kind: String,
    /// Seconds the run has been at work, over all its resumed parts.
    pub wall_seconds: f64,
    /// The values in the order in which they were logged.
    pub values: Vec<(String, f64)>,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file cannot be read.
    #[error("cannot read the metrics of a run: {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line is not a record.
    #[error("not a metrics record: {path}:{line}: {problem}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// A number as JSON: non-finite ones are strings.
pub fn number_to_json(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(n) => Value::Number(n),
        None if value.is_nan() => Value::from("nan"),
        None if value > 0.0 => Value::from("inf"),
        None => Value::from("-inf"),
    }
}

/// The number a JSON value holds, if it is one in the sense of [`number_to_json`].
pub fn number_from_json(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "nan" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// `#[serde(with = ...)]` form of [`number_to_json`].
pub(crate) mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        super::number_to_json(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        super::number_from_json(&value)
            .ok_or_else(|| D::Error::custom(format!("expected a number, got: {value}")))
    }
}

impl Metrics {
    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| n == name).map(|&(_, v)| v)
    }

    /// The record as one line of JSON, without the line end.
    pub fn to_json_line(&self) -> String {
        let mut object = Map::new();
        object.insert("step".into(), self.step.into());
        object.insert("kind".into(), self.kind.as_str().into());
        object.insert("wall_seconds".into(), number_to_json(self.wall_seconds));
        for (name, value) in &self.values {
            object.insert(name.clone(), number_to_json(*value));
        }
        Value::Object(object).to_string()
    }

    /// Reads one line; the error says what is wrong with it.
    pub fn from_json_line(line: &[u8]) -> Result<Metrics, String> {
        let object: Map<String, Value> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let fixed = |key: &str| {
            object
                .get(key)
                .ok_or_else(|| format!("lacks the key: `{key}`"))
        };
        let step = fixed("step")?
            .as_u64()
            .ok_or("`step` is not a whole number")?;
        let kind = fixed("kind")?
            .as_str()
            .ok_or("`kind` is not a string")?
            .to_owned();
        let wall_seconds =
            number_from_json(fixed("wall_seconds")?).ok_or("`wall_seconds` is not a number")?;
        let mut values = Vec::with_capacity(object.len() - RESERVED.len());
        for (name, value) in &object {
            if !RESERVED.contains(&name.as_str()) {
                let value = number_from_json(value)
                    .ok_or_else(|| format!("`{name}` is not a number: {value}"))?;
                values.push((name.clone(), value));
            }
        }
        Ok(Metrics {
            step,
            kind,
            wall_seconds,
            values,
        })
    }
}

/// Reads records from the bytes of a file, each with its own line as it stands there; `path` is for messages only.
pub fn parse_metrics<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<Vec<(Metrics, &'a [u8])>, MetricsError> {
    let mut records = Vec::new();
    for (index, whole) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let complete = whole.ends_with(b"\n");
        let line = whole.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        match Metrics::from_json_line(line) {
            Ok(record) => records.push((record, line)),
            Err(_) if !complete => break,
            Err(problem) => {
                return Err(MetricsError::Line {
                    path: path.to_owned(),
                    line: index + 1,
                    problem,
                });
            }
        }
    }
    Ok(records)
}

/// Reads a `metrics.jsonl`.
pub fn read_metrics(path: &Path) -> Result<Vec<Metrics>, MetricsError> {
    let bytes = fs::read(path).map_err(|source| MetricsError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(parse_metrics(&bytes, path)?
        .into_iter()
        .map(|(record, _)| record)
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_goes_round_through_its_line() {
        let record = Metrics {
            step: 7,
            kind: "train".into(),
            wall_seconds: 1.5,
            values: vec![
                ("loss".into(), 2.25),
                ("a".into(), f64::INFINITY),
                ("b".into(), f64::NEG_INFINITY),
            ],
        };
        let line = record.to_json_line();
        assert_eq!(
            line,
            r#"{"step":7,"kind":"train","wall_seconds":1.5,"loss":2.25,"a":"inf","b":"-inf"}"#
        );
        assert_eq!(Metrics::from_json_line(line.as_bytes()).unwrap(), record);
        let nan = Metrics {
            values: vec![("x".into(), f64::NAN)],
            ..record
        };
        assert!(
            Metrics::from_json_line(nan.to_json_line().as_bytes())
                .unwrap()
                .get("x")
                .unwrap()
                .is_nan()
        );
    }

    #[test]
    fn a_bad_line_is_named_and_a_torn_last_one_is_not_an_error() {
        let good = r#"{"step":1,"kind":"train","wall_seconds":0.0,"loss":3.0}"#;
        let path = Path::new("run/metrics.jsonl");
        let torn = format!("{good}\n{{\"step\":2,\"ki");
        assert_eq!(parse_metrics(torn.as_bytes(), path).unwrap().len(), 1);
        let bad = format!("{good}\n\nnot json\n{good}\n");
        assert!(matches!(
            parse_metrics(bad.as_bytes(), path),
            Err(MetricsError::Line { line: 3, .. })
        ));
        for (line, word) in [
            (r#"{"kind":"train","wall_seconds":0.0}"#, "step"),
            (r#"{"step":-1,"kind":"train","wall_seconds":0.0}"#, "step"),
            (
                r#"{"step":1,"kind":"train","wall_seconds":0.0,"loss":"high"}"#,
                "loss",
            ),
            (r#"[1]"#, "expected"),
        ] {
            let error = parse_metrics(format!("{line}\n").as_bytes(), path)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("run/metrics.jsonl:1") && error.contains(word),
                "{error}"
            );
        }
    }
}
