//! What is fine-tuned, and how: the settings of a grid, and of one run in it.

use serde::{Deserialize, Serialize};

use crate::train::config::{DeviceConfig, OptimizerConfig, Precision};

/// Which models of a grid are kept; predictions and scores are kept of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The best of each task.
    #[default]
    Best,
    /// That, and each run's.
    All,
}

/// The settings of a grid. Every combination of the four lists is one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Peak learning rates, above 0. Default 1e-4.
    pub learning_rates: Vec<f64>,
    /// Rows a step, at least 1. Default 32.
    pub batch_sizes: Vec<usize>,
    /// Epochs, at least 1. Default 4.
    pub epochs: Vec<usize>,
    /// Seeds of the new head, the order of the rows and dropout. Default 1.
    pub seeds: Vec<u64>,
    /// Share of the steps in which the learning rate rises, in [0, 1]; then it falls to 0. Default 0.1.
    pub warmup: f64,
    /// AdamW; its learning rate is not used.
    pub optimizer: OptimizerConfig,
    /// Evaluations an epoch, at least 1; the best of a run is kept. Default 1.
    pub evaluations_per_epoch: usize,
    /// Evaluations without a better score after which a run ends; 0 for never. Default 0.
    pub patience: usize,
    /// Longest row in tokens, at least 5. Default 128.
    pub max_length: usize,
    /// Weight of the experts' balance loss, at least 0. Default 0: no such loss.
    pub balance_loss: f64,
    /// Dropout inside the experts, in [0, 1); none leaves the model's. Default none.
    pub expert_dropout: Option<f64>,
    /// Dropout elsewhere, attention and classifier included, in [0, 1); none leaves the model's. Default none.
    pub dropout: Option<f64>,
    /// Train on so many rows, drawn once for all runs; none for all. Default none.
    pub train_rows: Option<usize>,
    /// RTE, MRPC and STS-B begin as the best model of MNLI in the same output directory. Default false.
    pub start_from_mnli: bool,
    /// Which models are kept.
    pub keep: Keep,
    /// Where to compute. Default auto.
    pub device: DeviceConfig,
    /// In what precision. Default auto.
    pub precision: Precision,
    /// Threads; 0 for all processors. Default 0.
    pub threads: usize,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        FinetuneConfig {
            learning_rates: vec![1e-4],
            batch_sizes: vec![32],
            epochs: vec![4],
            seeds: vec![1],
            warmup: 0.1,
            optimizer: OptimizerConfig {
                beta2: 0.999,
                ..OptimizerConfig::default()
            },
            evaluations_per_epoch: 1,
            patience: 0,
            max_length: 128,
            balance_loss: 0.0,
            expert_dropout: None,
            dropout: None,
            train_rows: None,
            start_from_mnli: false,
            keep: Keep::Best,
            device: DeviceConfig::Auto,
            precision: Precision::Auto,
            threads: 0,
        }
    }
}

/// The tasks that `start_from_mnli` concerns (Devlin et al. 2019 do not; Liu et al. 2019, RoBERTa, do).
pub const FROM_MNLI: [&str; 3] = ["RTE", "MRPC", "STS-B"];

impl FinetuneConfig {
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut found = self.optimizer.validate();
        let mut must = |holds: bool, what: &str, got: String| {
            if !holds {
                found.push(format!("{what}: {got}"));
            }
        };
        for rate in &self.learning_rates {
            let holds = *rate > 0.0 && rate.is_finite();
            must(holds, "a learning rate must be above 0", rate.to_string());
        }
        for (name, values) in [
            ("batch size", &self.batch_sizes),
            ("number of epochs", &self.epochs),
        ] {
            let least = values.iter().min().copied().unwrap_or(0);
            must(
                least > 0,
                &format!("a {name} must be at least 1"),
                least.to_string(),
            );
        }
        let empty = self.learning_rates.is_empty() || self.seeds.is_empty();
        must(!empty, "a list must not be empty", String::from("no value"));
        let share = |value: f64| (0.0..1.0).contains(&value);
        must(
            (0.0..=1.0).contains(&self.warmup),
            "the warm-up must lie in [0, 1]",
            self.warmup.to_string(),
        );
        let evaluations = self.evaluations_per_epoch;
        must(
            evaluations > 0,
            "evaluations an epoch must be at least 1",
            evaluations.to_string(),
        );
        must(
            self.max_length >= 5,
            "the longest row must have at least 5 tokens",
            self.max_length.to_string(),
        );
        must(
            self.balance_loss >= 0.0 && self.balance_loss.is_finite(),
            "the weight of the balance loss must be at least 0",
            self.balance_loss.to_string(),
        );
        for (name, dropout) in [
            ("expert dropout", self.expert_dropout),
            ("dropout", self.dropout),
        ] {
            let holds = dropout.is_none_or(share);
            must(
                holds,
                &format!("{name} must lie in [0, 1)"),
                format!("{dropout:?}"),
            );
        }
        must(
            self.train_rows != Some(0),
            "training rows must be at least 1",
            String::from("0"),
        );
        found
    }

    /// Every run, seeds innermost.
    pub fn runs(&self) -> Vec<RunSetting> {
        let mut runs = Vec::new();
        for &learning_rate in &self.learning_rates {
            for &batch_size in &self.batch_sizes {
                for &epochs in &self.epochs {
                    for &seed in &self.seeds {
                        let run = RunSetting {
                            learning_rate,
                            batch_size,
                            epochs,
                            seed,
                        };
                        if !runs.contains(&run) {
                            runs.push(run);
                        }
                    }
                }
            }
        }
        runs
    }
}

/// One run of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSetting {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Rows a step.
    pub batch_size: usize,
    /// Epochs.
    pub epochs: usize,
    /// Seed.
    pub seed: u64,
}

impl RunSetting {
    /// Its name, also of its directory: `lr1e-4-b32-e4-s1`.
    pub fn id(&self) -> String {
        format!(
            "lr{:e}-b{}-e{}-s{}",
            self.learning_rate, self.batch_size, self.epochs, self.seed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_every_combination_once() {
        let config = FinetuneConfig {
            learning_rates: vec![1e-4, 3e-4, 1e-4],
            batch_sizes: vec![16, 32],
            seeds: vec![1, 2, 3],
            ..FinetuneConfig::default()
        };
        let runs = config.runs();
        assert_eq!(runs.len(), 12);
        assert_eq!(runs[0].id(), "lr1e-4-b16-e4-s1");
        let mut ids: Vec<String> = runs.iter().map(RunSetting::id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 12);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        assert_eq!(FinetuneConfig::default().validate(), Vec::<String>::new());
        let wrong = FinetuneConfig {
            learning_rates: vec![f64::NAN],
            batch_sizes: vec![0],
            epochs: vec![],
            seeds: vec![],
            warmup: 1.5,
            evaluations_per_epoch: 0,
            max_length: 4,
            balance_loss: -1.0,
            expert_dropout: Some(1.0),
            dropout: Some(f64::NAN),
            train_rows: Some(0),
            ..FinetuneConfig::default()
        };
        assert_eq!(wrong.validate().len(), 11, "{:#?}", wrong.validate());
    }
}
