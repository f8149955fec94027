//! `[checkpoint]` and `[log]`: what a run writes, and how often.

use serde::{Deserialize, Serialize};

use super::Violations;

/// Checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0 for none by steps. Default 1000.
    pub every_steps: u64,
    /// Minutes between checkpoints; 0 for none by time. Default 10.
    pub every_minutes: f64,
    /// Last checkpoints kept, beside the best by held-out log-likelihood. Default 2.
    pub keep_last: usize,
    /// Steps whose checkpoints are kept for good, for transfer curves. Default none.
    pub keep_steps: Vec<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig {
            every_steps: 1000,
            every_minutes: 10.0,
            keep_last: 2,
            keep_steps: Vec::new(),
        }
    }
}

impl CheckpointConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut found = Violations::default();
        found.must(
            self.every_minutes >= 0.0,
            "`checkpoint.every_minutes` must be at least 0",
            self.every_minutes,
        );
        found.must(
            self.keep_last > 0,
            "`checkpoint.keep_last` must be at least 1",
            self.keep_last,
        );
        found.lines
    }
}

/// Metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between records of training metrics. Default 20.
    pub every_steps: u64,
    /// Steps in a row with a loss or gradient that is not finite, left out of the update, before the run stops. Default 10.
    pub non_finite_skips: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            every_steps: 20,
            non_finite_skips: 10,
        }
    }
}

impl LogConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut found = Violations::default();
        found.must(
            self.every_steps > 0,
            "`log.every_steps` must be at least 1",
            self.every_steps,
        );
        found.lines
    }
}
