//! `[data]` and `[evaluation]`: the rows a run trains on and those it is measured on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The corpus and the batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Corpus directory, from `tcd corpus build`. Required.
    pub corpus: PathBuf,
    /// Rows of a micro-batch. Default 32.
    pub batch_size: usize,
    /// Micro-batches of a step. Default 1.
    pub accumulation: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            corpus: PathBuf::new(),
            batch_size: 32,
            accumulation: 1,
        }
    }
}

impl DataConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (key, value) in [
            ("batch_size", self.batch_size),
            ("accumulation", self.accumulation),
        ] {
            if value == 0 {
                violations.push(format!("`data.{key}` must be at least 1: 0"));
            }
        }
        violations
    }
}

/// Held-out evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations; 0 for the end only. Default 500.
    pub every_steps: u64,
    /// Held-out rows, the first ones; 0 for all. Default 0.
    pub rows: usize,
    /// Rows of a batch. Default 64.
    pub batch_size: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        EvaluationConfig {
            every_steps: 500,
            rows: 0,
            batch_size: 64,
        }
    }
}

impl EvaluationConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        if self.batch_size == 0 {
            vec!["`evaluation.batch_size` must be at least 1: 0".to_string()]
        } else {
            Vec::new()
        }
    }
}
