//! `[optimizer]` and `[schedule]`: AdamW, and its learning rate over time.

use serde::{Deserialize, Serialize};

use super::Violations;

/// AdamW (Loshchilov, Hutter 2019).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate. Default 1e-3, which suits the small sizes; BERT-base took 1e-4.
    pub learning_rate: f64,
    /// Decay of the first moment. Default 0.9.
    pub beta1: f64,
    /// Decay of the second moment. Default 0.98.
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-6.
    pub eps: f64,
    /// Decoupled weight decay, not on biases and layer norms. Default 0.01.
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 for no clipping. Default 1.
    pub clip: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            weight_decay: 0.01,
            clip: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut found = Violations::default();
        found.must(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "`optimizer.learning_rate` must be positive",
            self.learning_rate,
        );
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            let what = format!("`optimizer.{key}` must lie in [0, 1)");
            found.must((0.0..1.0).contains(&beta), &what, beta);
        }
        found.must(self.eps > 0.0, "`optimizer.eps` must be positive", self.eps);
        found.must(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "`optimizer.weight_decay` must be at least 0",
            self.weight_decay,
        );
        found.must(
            self.clip >= 0.0,
            "`optimizer.clip` must be at least 0",
            self.clip,
        );
        found.lines
    }
}

/// Learning rate over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Steps of the run. Default 10000.
    pub steps: u64,
    /// Steps of linear warm-up. Default 500.
    pub warmup_steps: u64,
    /// Learning rate at the last step, as a share of the peak. Default 0.
    pub final_share: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig {
            steps: 10_000,
            warmup_steps: 500,
            final_share: 0.0,
        }
    }
}

impl ScheduleConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut found = Violations::default();
        found.must(
            self.steps > 0,
            "`schedule.steps` must be at least 1",
            self.steps,
        );
        found.must(
            self.warmup_steps <= self.steps,
            "`schedule.warmup_steps` must not exceed `schedule.steps`",
            format!("{} and {}", self.warmup_steps, self.steps),
        );
        found.must(
            (0.0..=1.0).contains(&self.final_share),
            "`schedule.final_share` must lie in [0, 1]",
            self.final_share,
        );
        found.lines
    }
}
