//! Pre-training curves: held-out masked-LM log-likelihood and accuracy over the steps of one run.
//!
//! A curve is made of the `eval` records of a run's `metrics.jsonl` (values `tokens`, `heldout_log_likelihood` in nats per
//! masked token, `heldout_accuracy` in 0..1). The training loss beside a point is the mean over the finite `loss` values of
//! the `train` records since the point before.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metrics::{Metrics, MetricsError, number, read_metrics};

/// One evaluation of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen in training.
    pub tokens: u64,
    /// Seconds at work.
    #[serde(with = "number")]
    pub wall_seconds: f64,
    /// Mean log-likelihood per masked token of the held-out text, nats.
    #[serde(with = "number")]
    pub heldout_log_likelihood: f64,
    /// Share of held-out masked tokens predicted exactly, 0..1.
    #[serde(with = "number")]
    pub heldout_accuracy: f64,
    /// Mean training loss since the point before, where it was logged.
    pub train_loss: Option<f64>,
}

/// The evaluations of one run, by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainingCurve {
    /// The run's name, as the figure's legend shows it.
    pub name: String,
    /// The points, by step.
    pub points: Vec<CurvePoint>,
}

/// Why a curve could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CurveError {
    /// The records cannot be read.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// An evaluation lacks a value.
    #[error("evaluation of run `{run}` at step {step} lacks the value: `{value}`")]
    Missing {
        /// The run.
        run: String,
        /// The step.
        step: u64,
        /// The value's name.
        value: &'static str,
    },
    /// A token count is no count.
    #[error("evaluation of run `{run}` at step {step} has an impossible token count: {tokens}")]
    Tokens {
        /// The run.
        run: String,
        /// The step.
        step: u64,
        /// What stands there.
        tokens: f64,
    },
}

impl PretrainingCurve {
    /// Makes a curve of a run's records, of which only kinds `eval` and `train` matter. Where a step was evaluated twice the
    /// later record counts.
    pub fn from_records(name: &str, records: &[Metrics]) -> Result<Self, CurveError> {
        let mut points: Vec<CurvePoint> = Vec::new();
        let mut losses: Vec<f64> = Vec::new();
        for record in records {
            match record.kind.as_str() {
                "train" => losses.extend(record.get("loss").filter(|l| l.is_finite())),
                "eval" => {
                    let value = |value: &'static str| {
                        let missing = || CurveError::Missing {
                            run: name.to_owned(),
                            step: record.step,
                            value,
                        };
                        record.get(value).ok_or_else(missing)
                    };
                    let tokens = value("tokens")?;
                    if !(0.0..=9.0e18).contains(&tokens) {
                        return Err(CurveError::Tokens {
                            run: name.to_owned(),
                            step: record.step,
                            tokens,
                        });
                    }
                    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
                    points.retain(|p| p.step != record.step);
                    points.push(CurvePoint {
                        step: record.step,
                        tokens: tokens as u64,
                        wall_seconds: record.wall_seconds,
                        heldout_log_likelihood: value("heldout_log_likelihood")?,
                        heldout_accuracy: value("heldout_accuracy")?,
                        train_loss: (!losses.is_empty()).then_some(mean),
                    });
                    losses.clear();
                }
                _ => {}
            }
        }
        points.sort_by_key(|p| p.step);
        Ok(Self {
            name: name.to_owned(),
            points,
        })
    }

    /// Reads the curve of a run directory (its `metrics.jsonl`).
    pub fn from_run(name: &str, directory: &Path) -> Result<Self, CurveError> {
        Self::from_records(name, &read_metrics(&directory.join("metrics.jsonl"))?)
    }
}

/// The curves as a JSON array; non-finite numbers are the strings of [`crate::metrics`].
pub fn to_json(curves: &[PretrainingCurve]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(curves).map(|text| text + "\n")
}

/// The curves as CSV with a header, one row a point; names are quoted where RFC 4180 asks for it.
pub fn to_csv(curves: &[PretrainingCurve]) -> String {
    let mut text = String::from(
        "run,step,tokens,wall_seconds,heldout_log_likelihood,heldout_accuracy,train_loss\n",
    );
    for curve in curves {
        let name = if curve.name.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", curve.name.replace('"', "\"\""))
        } else {
            curve.name.clone()
        };
        for p in &curve.points {
            let loss = p.train_loss.map(|l| l.to_string()).unwrap_or_default();
            let (ll, acc) = (p.heldout_log_likelihood, p.heldout_accuracy);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{name},{},{},{},{ll},{acc},{loss}",
                p.step, p.tokens, p.wall_seconds
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(kind: &str, step: u64, values: &[(&str, f64)]) -> Metrics {
        let values = values.iter().map(|&(n, v)| (n.to_owned(), v)).collect();
        Metrics {
            step,
            kind: kind.into(),
            wall_seconds: step as f64,
            values,
        }
    }

    fn eval(step: u64, ll: f64) -> Metrics {
        let tokens = step as f64 * 10.0;
        record(
            "eval",
            step,
            &[
                ("tokens", tokens),
                ("heldout_log_likelihood", ll),
                ("heldout_accuracy", 0.5),
            ],
        )
    }

    #[test]
    fn points_follow_the_steps_and_losses_are_averaged_between_them() {
        let records = [
            eval(0, -9.0),
            record("train", 1, &[("loss", 4.0)]),
            record("train", 2, &[("loss", f64::NAN)]),
            record("train", 3, &[("loss", 2.0)]),
            record("router", 3, &[("entropy", 1.0)]),
            eval(4, -5.0),
            eval(8, -4.0),
            eval(4, -4.5),
        ];
        let curve = PretrainingCurve::from_records("a", &records).unwrap();
        let steps: Vec<_> = curve
            .points
            .iter()
            .map(|p| (p.step, p.tokens, p.heldout_log_likelihood))
            .collect();
        assert_eq!(steps, [(0, 0, -9.0), (4, 40, -4.5), (8, 80, -4.0)]);
        assert_eq!(curve.points[0].train_loss, None);
        let first = PretrainingCurve::from_records("a", &records[..6]).unwrap();
        assert_eq!(first.points[1].train_loss, Some(3.0));
    }

    #[test]
    fn a_missing_value_or_impossible_count_is_named() {
        let error = PretrainingCurve::from_records("a", &[record("eval", 4, &[("tokens", 1.0)])])
            .unwrap_err();
        assert!(
            error.to_string().contains("heldout_log_likelihood")
                && error.to_string().contains("step 4")
        );
        let error =
            PretrainingCurve::from_records("a", &[record("eval", 4, &[("tokens", f64::NAN)])])
                .unwrap_err();
        assert!(matches!(error, CurveError::Tokens { step: 4, .. }));
    }

    #[test]
    fn json_goes_round_with_non_finite_numbers_and_csv_quotes_names() {
        let mut curve =
            PretrainingCurve::from_records("a, \"b\"", &[eval(4, f64::NEG_INFINITY)]).unwrap();
        let json = to_json(std::slice::from_ref(&curve)).unwrap();
        let back: Vec<PretrainingCurve> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, [curve.clone()]);
        curve.points[0].train_loss = Some(1.5);
        let csv = to_csv(&[curve]);
        assert_eq!(
            csv.lines().nth(1).unwrap(),
            "\"a, \"\"b\"\"\",4,40,4,-inf,0.5,1.5"
        );
    }
}
