//! What one contestant prints after one round: a JSON line with the seconds of every timed step.
//!
//! The program and the Python peers print the same line, so one reader serves all; unknown keys are allowed, since each
//! side may tell more than is compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// One round of one contestant.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sample {
    /// Whole steps: forward, backward, clipping, optimizer.
    pub step_seconds: Vec<f64>,
    /// Forward passes, the loss included.
    pub forward_seconds: Vec<f64>,
    /// Backward passes.
    pub backward_seconds: Vec<f64>,
    /// Clipping and optimizer.
    pub optimizer_seconds: Vec<f64>,
    /// Largest resident size of the process.
    pub peak_memory_bytes: u64,
    /// Trained numbers in the model.
    pub parameters: u64,
    /// Name of the optimizer, where told.
    #[serde(default)]
    pub optimizer: Option<String>,
    /// Versions of what the contestant is built on, where told.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
}

/// Reads the last line of `stdout` that is a JSON object, and checks it.
pub fn parse(stdout: &str) -> Result<Sample> {
    let sample: Sample =
        serde_json::from_str(last_object(stdout)?).context("reading the JSON line")?;
    let steps = sample.step_seconds.len();
    ensure!(steps > 0, "no timed step: `step_seconds` is empty");
    let phases = [
        ("step_seconds", &sample.step_seconds),
        ("forward_seconds", &sample.forward_seconds),
        ("backward_seconds", &sample.backward_seconds),
        ("optimizer_seconds", &sample.optimizer_seconds),
    ];
    for (name, seconds) in phases {
        ensure!(
            seconds.len() == steps,
            "`{name}` has {} values, `step_seconds` has {steps}",
            seconds.len()
        );
        if let Some(bad) = seconds.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            bail!("`{name}` holds a value that is no duration: {bad}");
        }
    }
    Ok(sample)
}

/// The last line of `stdout` that opens a JSON object: libraries may print before it.
pub fn last_object(stdout: &str) -> Result<&str> {
    stdout
        .lines()
        .map(str::trim)
        .rfind(|line| line.starts_with('{'))
        .context("no JSON line on stdout")
}

impl Sample {
    /// Forward and backward together, step by step.
    pub fn forward_backward(&self) -> Vec<f64> {
        self.forward_seconds
            .iter()
            .zip(&self.backward_seconds)
            .map(|(f, b)| f + b)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LINE: &str = r#"{"tokens_per_second":9.0,"step_seconds":[1.0,2.0],"forward_seconds":[0.25,0.5],
"backward_seconds":[0.5,1.0],"optimizer_seconds":[0.25,0.5],"peak_memory_bytes":7,"parameters":5}"#;

    fn line() -> String {
        LINE.replace('\n', "")
    }

    #[test]
    fn the_last_object_is_read_past_chatter_and_unknown_keys() {
        let text = format!("loading\n{{\"old\": true}}\n  {}\nbye\n", line());
        let sample = parse(&text).unwrap();
        assert_eq!(sample.forward_backward(), [0.75, 1.5]);
        assert_eq!((sample.peak_memory_bytes, sample.parameters), (7, 5));
        assert!(sample.optimizer.is_none() && sample.versions.is_empty());
    }

    #[test]
    fn a_peer_tells_its_optimizer_and_versions() {
        let text = line().replace(
            "\"parameters\":5",
            "\"parameters\":5,\"optimizer\":\"x\",\"versions\":{\"torch\":\"2\"}",
        );
        let sample = parse(&text).unwrap();
        assert_eq!(sample.optimizer.as_deref(), Some("x"));
        assert_eq!(sample.versions["torch"], "2");
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name() {
        let refused =
            |from: &str, to: &str| format!("{:#}", parse(&line().replace(from, to)).unwrap_err());
        assert!(refused("[0.5,1.0]", "[0.5]").contains("`backward_seconds` has 1 values"));
        assert!(refused("[1.0,2.0]", "[]").contains("`step_seconds` is empty"));
        assert!(refused("[0.25,0.5]", "[0.25,-0.5]").contains("no duration: -0.5"));
        assert!(refused("\"parameters\":5", "\"other\":5").contains("parameters"));
        assert!(format!("{:#}", parse("Killed\n").unwrap_err()).contains("no JSON line"));
    }
}
