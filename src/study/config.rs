//! The configuration of a study: what its TOML file says, key by key.
//!
//! [`StudyConfig`] is raw; [`StudyConfig::validate`] (in `super::check`) makes a [`super::Study`] of it.

// `[1]` in the documentation of a key is a value, as `--print-config` shows it.
#![allow(rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::MachineSection;
use crate::data::corpus::Settings;
use crate::data::glue::TASKS;
use crate::train::config::{DeviceConfig, RunConfig, describe};

/// A study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StudyConfig {
    /// Folder of everything that the study writes, made if need be. Required.
    pub output: PathBuf,
    /// Seeds of pre-training: each family is trained once with each. Default [1].
    pub seeds: Vec<u64>,
    /// Where models are trained and fine-tuned: `auto`, `cpu`, `cuda` or `cuda:N`. Not part of any key. Default `auto`.
    pub device: DeviceConfig,
    /// CPU threads of a stage; 0 shares the cores among the stages that run beside each other. Not part of any key. Default 0.
    pub threads: usize,
    /// Engine of evaluation and features: `tract`, which needs no library, `ort`, which is faster and needs onnxruntime, or
    /// `tch`, which takes no routing. Default `tract`.
    pub runtime: String,
    /// The families of models, each `{ name, teacher, set }`. `teacher` is left out, or `random` for an untrained one, or a
    /// family that stands before, whose model of the same seed teaches, or a model directory (a path with a `/`). `set` are
    /// settings over `[pretrain]`, as `--set` takes them. Default: the paper's four, with 16 experts.
    pub families: Vec<Family>,
    /// Families that are set against each other, as `A:B`: the transfer gap is that of A over B, and so are the differences on
    /// GLUE. Default: each family that has or is a teacher over each that neither has nor is one; where there is none of these,
    /// each taught family over its teacher.
    pub comparisons: Vec<String>,
    /// Text, vocabulary and GLUE.
    pub data: DataSection,
    /// What all models have in common, as `tcd pretrain` takes it. Its `output`, `seed`, `threads`, `device`, `data.corpus` and
    /// `distill.teacher` are the study's to fill in; `[pretrain.distill]` holds for families with a teacher.
    pub pretrain: RunConfig,
    /// Fine-tuning of every model at its end.
    pub finetune: FinetuneSection,
    /// Fine-tuning of checkpoints along the way, for the transfer curve.
    pub transfer: TransferSection,
    /// Hidden states and what is measured on them, for the models of the first seed.
    pub analysis: AnalysisSection,
    /// What is made for people.
    pub report: ReportSection,
    /// What the machine can do, for the estimates of `--dry-run` only.
    pub machine: MachineSection,
}

/// A family of models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Family {
    /// Its name: letters, digits and `_`. Required.
    pub name: String,
    /// Who teaches it. Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// Settings over `[pretrain]`. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
}

/// Text, vocabulary and GLUE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// A small corpus and tasks in a controlled English, in place of `text` and `glue`; for demos and tests. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate: Option<GenerateSection>,
    /// Text files or folders to pre-train on, as `tcd corpus build` takes them. Required, unless generated.
    pub text: Vec<PathBuf>,
    /// Directory of the GLUE data. Required, unless generated.
    pub glue: PathBuf,
    /// A `tokenizer.json`, a `vocab.txt`, or a folder that holds one. Default: none, one is trained on the text.
    #[schemars(example = &"tokenizer")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of the vocabulary that is trained; at least 100. Default 30522.
    pub vocabulary: usize,
    /// Tokens a row, special ones included. Default 128.
    pub sequence_length: usize,
    /// Share of the documents held out for measuring, in (0, 1). Default 0.01.
    pub held_out: f64,
}

impl Default for DataSection {
    fn default() -> Self {
        let corpus = Settings::default();
        DataSection {
            generate: None,
            text: Vec::new(),
            glue: PathBuf::new(),
            tokenizer: None,
            vocabulary: 30_522,
            sequence_length: corpus.sequence_length,
            held_out: corpus.held_out,
        }
    }
}

/// Generated data, see `tcd generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateSection {
    /// Seed. Default 0.
    pub seed: u64,
    /// Documents of the corpus; at least 1. Default 5000.
    pub documents: usize,
    /// Training examples of each task; at least 12. Default 2000.
    pub examples: usize,
}

impl Default for GenerateSection {
    fn default() -> Self {
        GenerateSection {
            seed: 0,
            documents: 5000,
            examples: 2000,
        }
    }
}

/// How models are fine-tuned; each list makes a grid, whose best setting counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneSection {
    /// Tasks of GLUE. Default CoLA, SST-2, MRPC, STS-B, RTE.
    pub tasks: Vec<String>,
    /// Seeds of head, order and dropout. Default [1, 2, 3].
    pub seeds: Vec<u64>,
    /// Peak learning rates. Default [1e-4].
    pub learning_rates: Vec<f64>,
    /// Rows a step. Default [32].
    pub batch_sizes: Vec<usize>,
    /// Epochs. Default [3].
    pub epochs: Vec<usize>,
    /// Train on so many rows of a task only, the same for every model. Default: all.
    #[schemars(example = 8000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<usize>,
    /// Longest row, in tokens. Default 128.
    pub max_length: usize,
    /// Dropout inside the experts. Default: the model's.
    #[schemars(example = 0.3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_dropout: Option<f64>,
    /// Dropout elsewhere. Default: the model's.
    #[schemars(example = 0.1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
}

impl Default for FinetuneSection {
    fn default() -> Self {
        FinetuneSection {
            tasks: ["CoLA", "SST-2", "MRPC", "STS-B", "RTE"]
                .map(str::to_owned)
                .into(),
            seeds: vec![1, 2, 3],
            learning_rates: vec![1e-4],
            batch_sizes: vec![32],
            epochs: vec![3],
            train_rows: None,
            max_length: 128,
            expert_dropout: None,
            dropout: None,
        }
    }
}

/// The transfer curve: checkpoints that are fine-tuned lightly; what is not said here is as in `[finetune]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TransferSection {
    /// Steps of pre-training whose checkpoints are kept and fine-tuned: multiples of `pretrain.evaluation.every_steps`, or the
    /// last step, so that their log-likelihood is known. Default: none, and there is no curve.
    pub steps: Vec<u64>,
    /// Tasks. Default: those of `[finetune]`.
    pub tasks: Vec<String>,
    /// Seeds. Default [1].
    pub seeds: Vec<u64>,
    /// Epochs. Default 2.
    pub epochs: usize,
    /// Training rows of a task, at most. Default: as in `[finetune]`.
    #[schemars(example = 4000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<usize>,
}

impl Default for TransferSection {
    fn default() -> Self {
        TransferSection {
            steps: Vec::new(),
            tasks: Vec::new(),
            seeds: vec![1],
            epochs: 2,
            train_rows: None,
        }
    }
}

/// What is measured on hidden states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnalysisSection {
    /// Whether any of it is done. Default true.
    pub enabled: bool,
    /// Held-out rows of text whose hidden states are taken; at least 2. Default 300.
    pub rows: usize,
    /// Tokens of them that take part in CKA, probes and geometry, at most; the other measures have their own bounds. Default
    /// 20000.
    pub tokens: usize,
    /// Points of t-SNE; 0 leaves it out. Default 500.
    pub tsne_rows: usize,
    /// Tasks whose development rows are probed and compared; each must be in `finetune.tasks`. Default RTE.
    pub tasks: Vec<String>,
    /// Text files of other domains: the log-likelihood of masked tokens is measured on `rows` rows of each, beside the held-out
    /// text. Their names, without ending, must differ. Default: none, the held-out text alone.
    pub texts: Vec<PathBuf>,
}

impl Default for AnalysisSection {
    fn default() -> Self {
        AnalysisSection {
            enabled: true,
            rows: 300,
            tokens: 20_000,
            tsne_rows: 500,
            tasks: vec!["RTE".to_owned()],
            texts: Vec::new(),
        }
    }
}

/// What is made for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReportSection {
    /// Draw the figures. Default true.
    pub figures: bool,
    /// Write the report. Default true.
    pub page: bool,
}

impl Default for ReportSection {
    fn default() -> Self {
        ReportSection {
            figures: true,
            page: true,
        }
    }
}

impl Default for StudyConfig {
    fn default() -> Self {
        let experts = || vec!["model.moe.num_experts=16".to_owned()];
        let family = |name: &str, teacher: Option<&str>, set| Family {
            name: name.to_owned(),
            teacher: teacher.map(str::to_owned),
            set,
        };
        StudyConfig {
            output: PathBuf::new(),
            seeds: vec![1],
            device: DeviceConfig::Auto,
            threads: 0,
            runtime: "tract".to_owned(),
            families: vec![
                family("vanilla", None, Vec::new()),
                family("moe", None, experts()),
                family("distilled", Some("vanilla"), experts()),
                family("random", Some("random"), experts()),
            ],
            comparisons: Vec::new(),
            data: DataSection::default(),
            pretrain: RunConfig::default(),
            finetune: FinetuneSection::default(),
            transfer: TransferSection::default(),
            analysis: AnalysisSection::default(),
            report: ReportSection::default(),
            machine: MachineSection::default(),
        }
    }
}

/// The configuration as commented TOML.
pub fn describe_study(config: &StudyConfig) -> Result<String, toml::ser::Error> {
    let about = "Configuration of `tcd run`: a whole study. `tcd run --config FILE` reads it, `--set section.key=value` changes a \
                 key. A line that begins with `#key = ` or `#[section]` shows what may be set and is not.";
    let ours = "Left empty: the study fills it in.";
    let names: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
    let tasks = format!("Known: {}.", names.join(", "));
    let notes = [
        ("pretrain.output", ours),
        ("pretrain.seed", ours),
        ("pretrain.device", ours),
        ("pretrain.threads", ours),
        ("pretrain.data.corpus", ours),
        ("pretrain.distill.teacher", ours),
        ("finetune.tasks", &tasks),
    ];
    describe(config, about, &notes)
}
