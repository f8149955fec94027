//! The configuration of a run: one TOML file, resolved and saved with the run.
//!
//! [`RunConfig`] is what the file of a pre-training run says; [`RunConfig::validate`] checks all of it and gives a [`Plan`],
//! which alone is run. Each section is a struct with its own `validate`, so that other kinds of runs are made of the same
//! sections; [`load()`] reads any of them.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use tcd_export::Architecture;

use super::checkpoint::Settings;
use super::initial::InitConfig;
use super::schedule::Schedule;
use crate::data::masking::MaskingConfig;
use crate::distill::DistillConfig;

mod data;
mod load;
mod model;
mod optimization;
mod output;
mod process;
mod reference;

pub use data::{DataConfig, EvaluationConfig};
pub use load::{RunConfigError, apply, load};
pub use model::ModelSection;
pub use optimization::{OptimizerConfig, ScheduleConfig};
pub use output::{CheckpointConfig, LogConfig};
pub use process::{DeviceConfig, Precision, SeedsConfig};
pub use reference::{describe, describe_run};

/// A pre-training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Run directory, made if need be. Required.
    pub output: PathBuf,
    /// Seed of every random stream. Default 0.
    pub seed: u64,
    /// Seeds of single streams, where they should differ from `seed`.
    pub seeds: SeedsConfig,
    /// `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`. Default `auto`.
    pub device: DeviceConfig,
    /// `auto` (bf16 on CUDA, f32 on the CPU), `f32` or `bf16`. Default `auto`.
    pub precision: Precision,
    /// CPU threads; 0 for one a core. Default 0.
    pub threads: usize,
    /// The corpus and the batches.
    pub data: DataConfig,
    /// The model: a preset, or `layers` and `hidden`, or a preset with changes. The vocabulary is the corpus's.
    pub model: ModelSection,
    /// Where the weights start: drawn, or copied from a model directory.
    pub init: InitConfig,
    /// A frozen teacher, and what is transferred from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// Masking of the training rows and, fixed, of the held-out rows.
    pub masking: MaskingConfig,
    /// AdamW (Loshchilov, Hutter 2019).
    pub optimizer: OptimizerConfig,
    /// Learning rate over time: linear warm-up, then linear decay.
    pub schedule: ScheduleConfig,
    /// Held-out evaluation: masked-LM log-likelihood and accuracy.
    pub evaluation: EvaluationConfig,
    /// Checkpoints, all that a run needs to go on; the last step and Ctrl-C write one too.
    pub checkpoint: CheckpointConfig,
    /// Metrics, and the guard over them.
    pub log: LogConfig,
}

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub config: RunConfig,
    /// The model, for the corpus's vocabulary.
    pub arch: Architecture,
    /// Learning rate over time: linear warm-up, then linear decay.
    pub schedule: Schedule,
}

/// Collects what is wrong with values.
#[derive(Default)]
struct Violations {
    lines: Vec<String>,
}

impl Violations {
    /// What must hold, so that a value that is not a number fails.
    fn must(&mut self, holds: bool, what: &str, got: impl fmt::Display) {
        if !holds {
            self.lines.push(format!("{what}: {got}"));
        }
    }
}

impl RunConfig {
    /// Seed of the order of rows.
    pub fn data_seed(&self) -> u64 {
        self.seeds.data.unwrap_or(self.seed)
    }

    /// Seed of the masks.
    pub fn mask_seed(&self) -> u64 {
        self.seeds.mask.unwrap_or(self.seed)
    }

    /// Seed of the initial weights.
    pub fn init_seed(&self) -> u64 {
        self.seeds.init.unwrap_or(self.seed)
    }

    /// Seed of dropout and router jitter.
    pub fn dropout_seed(&self) -> u64 {
        self.seeds.dropout.unwrap_or(self.seed)
    }

    /// Seed of the positions that distillation compares.
    pub fn distill_seed(&self) -> u64 {
        self.seeds.distill.unwrap_or(self.seed)
    }

    /// Checks everything that must hold, for a corpus with rows of `sequence_length` and this vocabulary.
    pub fn validate(
        self,
        vocab_size: usize,
        pad_token_id: u32,
        sequence_length: usize,
    ) -> Result<Plan, RunConfigError> {
        let mut violations: Vec<String> = Vec::new();
        if self.output.as_os_str().is_empty() {
            violations.push("`output` must name the run directory".to_string());
        }
        violations.extend(self.data.validate());
        let model = self
            .model
            .validate(vocab_size, pad_token_id, sequence_length);
        violations.extend(model.as_ref().err().into_iter().flatten().cloned());
        violations.extend(self.init.validate());
        violations.extend(self.distill.iter().flat_map(DistillConfig::violations));
        let masking = self.masking.validate();
        violations.extend(masking.iter().map(|v| format!("masking: {v}")));
        violations.extend(self.optimizer.validate());
        violations.extend(self.schedule.validate());
        violations.extend(self.evaluation.validate());
        violations.extend(self.checkpoint.validate());
        violations.extend(self.log.validate());
        match model {
            Ok(arch) if violations.is_empty() => Ok(Plan {
                arch,
                schedule: Schedule::new(self.optimizer.learning_rate, &self.schedule),
                config: self,
            }),
            _ => Err(RunConfigError::Invalid { violations }),
        }
    }
}

impl Settings for RunConfig {
    fn decisive(&self) -> Value {
        let mut config = self.clone();
        // These change what is written, where and when, not the weights.
        (
            config.output,
            config.evaluation,
            config.checkpoint,
            config.log,
        ) = Default::default();
        (config.data.corpus, config.threads, config.device) = Default::default();
        serde_json::to_value(config).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn load(text: &str, settings: &[&str]) -> Result<RunConfig, RunConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        super::load(
            Some(&path),
            &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn settings_override_the_file_and_paths_need_no_quotes() {
        let config = load(
            "output = \"a\"\n[schedule]\nsteps = 5\n",
            &[
                "output=runs/x",
                "schedule.warmup_steps=2",
                "model.moe.num_experts=8",
                "device=cuda:1",
                "model.layers=2",
            ],
        )
        .unwrap();
        assert_eq!(config.output, Path::new("runs/x"));
        assert_eq!(
            (config.schedule.steps, config.schedule.warmup_steps),
            (5, 2)
        );
        assert_eq!(config.model.moe.unwrap().num_experts, 8);
        assert_eq!(config.device, DeviceConfig::Cuda(1));
    }

    #[test]
    fn unknown_keys_name_line_and_key() {
        let text = load("output = \"a\"\n[schedule]\nstepz = 5\n", &[])
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("run.toml") && text.contains("line 3") && text.contains("stepz"),
            "{text}"
        );
        let text = load("", &["optimizer.lr=3"]).unwrap_err().to_string();
        assert!(
            text.contains("--set optimizer.lr=3") && text.contains("lr"),
            "{text}"
        );
        let text = load("device = \"tpu\"\n", &[]).unwrap_err().to_string();
        assert!(text.contains("`tpu`"), "{text}");
    }

    #[test]
    fn all_violations_come_at_once() {
        let config = load(
            "output = \"a\"\n[model]\nlayers = 2\nhidden = 130\nheads = 4\n[optimizer]\nlearning_rate = nan\n[masking]\nprobability = 0.0\n[schedule]\nsteps = 1\n",
            &[],
        )
        .unwrap();
        let text = config.validate(100, 0, 600).unwrap_err().to_string();
        for part in [
            "`hidden_size` is 130",
            "`optimizer.learning_rate`",
            "masking: `probability`",
            "`schedule.warmup_steps`",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
        let config = load("output = \"a\"\n[model]\npreset = \"bert-giant\"\n", &[]).unwrap();
        let text = config.validate(100, 0, 128).unwrap_err().to_string();
        assert!(
            text.contains("bert-giant") && text.contains("bert-l12-h768"),
            "{text}"
        );
    }

    #[test]
    fn a_resolved_configuration_reads_back() {
        let config = load(
            "output = \"a\"\n[model]\npreset = \"moe-l12-h128\"\n",
            &["seeds.init=4"],
        )
        .unwrap();
        assert_eq!(
            toml::from_str::<RunConfig>(&toml::to_string(&config).unwrap()).unwrap(),
            config
        );
    }
}
