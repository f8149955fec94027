//! The configuration of a pre-training run: one TOML file, resolved and saved with the run.
//!
//! [`RunConfig`] is what the file says; [`RunConfig::validate`] checks all of it and gives a [`Plan`], which alone is run.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use tcd_export::{Architecture, ConfigError, ModelConfig, MoeConfig, preset, presets};

use super::schedule::Schedule;
use crate::data::masking::MaskingConfig;

/// A pre-training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Run directory. Required.
    pub output: PathBuf,
    /// Seed of every random stream. Default 0.
    pub seed: u64,
    /// Seeds of single streams, where they should differ from `seed`.
    pub seeds: SeedsConfig,
    /// `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`. Default `auto`.
    pub device: DeviceConfig,
    /// `auto` (bf16 on CUDA, f32 on the CPU), `f32` or `bf16`. Default `auto`.
    pub precision: Precision,
    /// CPU threads; 0 (the default) for one a core.
    pub threads: usize,
    /// The corpus and the batches.
    pub data: DataConfig,
    /// The model.
    pub model: ModelSection,
    /// Masking.
    pub masking: MaskingConfig,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// Learning rate over time.
    pub schedule: ScheduleConfig,
    /// Held-out evaluation.
    pub evaluation: EvaluationConfig,
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Metrics.
    pub log: LogConfig,
}

/// Seeds of single streams; each defaults to the run's `seed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedsConfig {
    /// Order of the training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<u64>,
    /// Masks of the training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<u64>,
    /// Initial weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<u64>,
    /// Dropout and router jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<u64>,
}

/// `device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceConfig {
    /// CUDA where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

impl TryFrom<String> for DeviceConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(DeviceConfig::Auto),
            "cpu" => Ok(DeviceConfig::Cpu),
            "cuda" => Ok(DeviceConfig::Cuda(0)),
            other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(n) => Ok(DeviceConfig::Cuda(n)),
                None => Err(format!(
                    "`device` must be `auto`, `cpu`, `cuda` or `cuda:N`: `{other}`"
                )),
            },
        }
    }
}

impl From<DeviceConfig> for String {
    fn from(device: DeviceConfig) -> String {
        match device {
            DeviceConfig::Auto => "auto".to_string(),
            DeviceConfig::Cpu => "cpu".to_string(),
            DeviceConfig::Cuda(n) => format!("cuda:{n}"),
        }
    }
}

/// `precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on CUDA, f32 on the CPU.
    #[default]
    Auto,
    /// All in f32.
    F32,
    /// Layers in bf16; parameters, moments, router and losses in f32.
    Bf16,
}

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

/// The model: a preset, or a size, or a preset with changes. The vocabulary is the corpus's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Name of a published size, such as `bert-l4-h128`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Encoder layers, L.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Hidden size, H.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Attention heads, A. Default H/64, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Feed-forward width, F. Default 4H.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<usize>,
    /// Longest sequence. Default 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// Dropout on hidden states. Default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_dropout: Option<f64>,
    /// Dropout on attention weights. Default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_dropout: Option<f64>,
    /// Mixture of experts in place of each feed-forward block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moe: Option<MoeConfig>,
}

impl ModelSection {
    /// The model configuration for a vocabulary, unchecked.
    pub fn config(&self, vocab_size: usize, pad_token_id: u32) -> Result<ModelConfig, String> {
        let mut config = match &self.preset {
            None => {
                if self.layers.is_none() || self.hidden.is_none() {
                    return Err("`model` needs `preset`, or `layers` and `hidden`".to_string());
                }
                // Every size of it is set below.
                ModelConfig::new(vocab_size, 12, 768, 12, 3072)
            }
            Some(name) => match preset(name) {
                Some(config) => config,
                None => {
                    let names: Vec<String> = presets().into_iter().map(|p| p.name).collect();
                    return Err(format!(
                        "`model.preset` is unknown: `{name}`; hint: one of {}",
                        names.join(", ")
                    ));
                }
            },
        };
        if let Some(hidden) = self.hidden {
            config.hidden_size = hidden;
            config.num_attention_heads = (hidden / 64).max(1);
            config.intermediate_size = 4 * hidden;
        }
        for (value, key) in [
            (self.layers, &mut config.num_hidden_layers),
            (self.heads, &mut config.num_attention_heads),
            (self.intermediate, &mut config.intermediate_size),
            (self.max_positions, &mut config.max_position_embeddings),
        ] {
            *key = value.unwrap_or(*key);
        }
        config.hidden_dropout_prob = self.hidden_dropout.unwrap_or(config.hidden_dropout_prob);
        config.attention_probs_dropout_prob = self
            .attention_dropout
            .unwrap_or(config.attention_probs_dropout_prob);
        config.moe = self.moe.clone().or(config.moe);
        config.vocab_size = vocab_size;
        config.pad_token_id = pad_token_id as usize;
        Ok(config)
    }
}

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

/// Why a configuration cannot be run.
#[derive(Debug, Error)]
pub enum RunConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or keys or values that are not ours.
    #[error("`{origin}` cannot be used: {message}")]
    Parse {
        /// File, or `--set` argument.
        origin: String,
        /// Where and what.
        message: String,
    },
    /// Values that cannot be.
    #[error("the configuration cannot be run: {}", Lines(violations))]
    Invalid {
        /// One line each.
        violations: Vec<String>,
    },
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub config: RunConfig,
    /// The model, for the corpus's vocabulary.
    pub arch: Architecture,
    /// Learning rate over time.
    pub schedule: Schedule,
}

impl RunConfig {
    /// Reads a file and applies `key=value` settings (`optimizer.learning_rate=1e-3`), values in TOML.
    pub fn load(path: &Path, settings: &[String]) -> Result<Self, RunConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| RunConfigError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let origin = path.display().to_string();
        // The file alone first, so that an error in it shows its line.
        let parsed: Result<RunConfig, _> = toml::from_str(&text);
        parsed.map_err(|e| RunConfigError::Parse {
            origin: origin.clone(),
            message: e.to_string().trim().to_string(),
        })?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| RunConfigError::Parse {
            origin: origin.clone(),
            message: e.to_string(),
        })?;
        for setting in settings {
            let wrong = |message: String| RunConfigError::Parse {
                origin: format!("--set {setting}"),
                message,
            };
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| wrong("expected `key=value`".to_string()))?;
            // What is not TOML is text: paths need no quotes.
            let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or_else(|| toml::Value::String(value.to_string()));
            let mut place = &mut table;
            let parts: Vec<&str> = key.trim().split('.').collect();
            for part in &parts[..parts.len() - 1] {
                let next = place
                    .entry(part.to_string())
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()));
                place = next
                    .as_table_mut()
                    .ok_or_else(|| wrong(format!("`{part}` is not a section")))?;
            }
            place.insert(parts[parts.len() - 1].to_string(), value);
            let parsed: Result<RunConfig, _> = table.clone().try_into();
            parsed.map_err(|e| wrong(e.to_string().trim().to_string()))?;
        }
        table
            .try_into()
            .map_err(|e: toml::de::Error| RunConfigError::Parse {
                origin,
                message: e.to_string(),
            })
    }

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

    /// Checks everything that must hold, for a corpus with rows of `sequence_length` and this vocabulary.
    pub fn validate(
        self,
        vocab_size: usize,
        pad_token_id: u32,
        sequence_length: usize,
    ) -> Result<Plan, RunConfigError> {
        let mut violations: Vec<String> = self
            .masking
            .validate()
            .iter()
            .map(|v| format!("masking: {v}"))
            .collect();
        let mut check = |holds: bool, line: String| {
            if !holds {
                violations.push(line);
            }
        };
        check(
            !self.output.as_os_str().is_empty(),
            "`output` must name the run directory".to_string(),
        );
        check(
            self.data.batch_size > 0,
            "`data.batch_size` must be at least 1: 0".to_string(),
        );
        check(
            self.data.accumulation > 0,
            "`data.accumulation` must be at least 1: 0".to_string(),
        );
        check(
            self.evaluation.batch_size > 0,
            "`evaluation.batch_size` must be at least 1: 0".to_string(),
        );
        check(
            self.schedule.steps > 0,
            "`schedule.steps` must be at least 1: 0".to_string(),
        );
        check(
            self.log.every_steps > 0,
            "`log.every_steps` must be at least 1: 0".to_string(),
        );
        check(
            self.checkpoint.every_minutes >= 0.0,
            format!(
                "`checkpoint.every_minutes` must be at least 0: {}",
                self.checkpoint.every_minutes
            ),
        );
        check(
            self.checkpoint.keep_last > 0,
            "`checkpoint.keep_last` must be at least 1: 0".to_string(),
        );
        let o = &self.optimizer;
        check(
            o.learning_rate > 0.0 && o.learning_rate.is_finite(),
            format!(
                "`optimizer.learning_rate` must be positive: {}",
                o.learning_rate
            ),
        );
        for (key, beta) in [("beta1", o.beta1), ("beta2", o.beta2)] {
            check(
                (0.0..1.0).contains(&beta),
                format!("`optimizer.{key}` must lie in [0, 1): {beta}"),
            );
        }
        check(
            o.eps > 0.0,
            format!("`optimizer.eps` must be positive: {}", o.eps),
        );
        check(
            o.weight_decay >= 0.0 && o.weight_decay.is_finite(),
            format!(
                "`optimizer.weight_decay` must be at least 0: {}",
                o.weight_decay
            ),
        );
        check(
            o.clip >= 0.0,
            format!("`optimizer.clip` must be at least 0: {}", o.clip),
        );
        let s = &self.schedule;
        check(
            s.warmup_steps <= s.steps,
            format!(
                "`schedule.warmup_steps` must not exceed `schedule.steps`: {} and {}",
                s.warmup_steps, s.steps
            ),
        );
        check(
            (0.0..=1.0).contains(&s.final_share),
            format!(
                "`schedule.final_share` must lie in [0, 1]: {}",
                s.final_share
            ),
        );
        let arch = match self
            .model
            .config(vocab_size, pad_token_id)
            .map(|c| c.validate())
        {
            Ok(Ok(arch)) => {
                check(
                    sequence_length <= arch.max_position_embeddings,
                    format!(
                        "`model.max_positions` must reach the corpus's rows of {sequence_length}: {}",
                        arch.max_position_embeddings
                    ),
                );
                Some(arch)
            }
            Ok(Err(ConfigError::Invalid(problems))) => {
                violations.extend(problems.iter().map(|p| format!("model: {p}")));
                None
            }
            Ok(Err(error)) => {
                violations.push(format!("model: {error}"));
                None
            }
            Err(line) => {
                violations.push(line);
                None
            }
        };
        match arch {
            Some(arch) if violations.is_empty() => {
                let schedule = Schedule::new(self.optimizer.learning_rate, &self.schedule);
                Ok(Plan {
                    config: self,
                    arch,
                    schedule,
                })
            }
            _ => Err(RunConfigError::Invalid { violations }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn load(text: &str, settings: &[&str]) -> Result<RunConfig, RunConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        RunConfig::load(
            &path,
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
