//! `tcd distill`: pre-train under a teacher, list what can be transferred, measure relation losses of finished models.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use tcd_export::{Head, ModelDir, Values};

use super::pretrain::Pretrain;
use super::training::bound_spinning;
use super::{Outcome, note, out};
use crate::data::batch::{Batch, held_out_batches};
use crate::data::corpus::{Corpus, CorpusError};
use crate::data::masking::{Masker, MaskingConfig};
use crate::distill::method::BASELINES;
use crate::distill::{DistillConfig, DistillError, Guide, Pupil, Teacher, TeacherModel};
use crate::model::StoreOptions;
use crate::train::run::{device, prepare_process};
use crate::train::step::{HeldOut, Model};

/// Pre-train under a teacher, and measure what was transferred.
#[derive(Debug, Subcommand)]
pub enum Distill {
    /// Pre-train a student under a frozen teacher: `tcd pretrain` with the teacher on the command line.
    Run(Run),
    /// List the methods and baselines, with the settings that choose each.
    Methods,
    /// Measure log-likelihood and relation losses of finished models on held-out text.
    Measure(Measure),
}

/// Arguments of `tcd distill run`.
///
/// The `[distill]` section of the configuration file says the same; what stands here wins.
#[derive(Debug, Args)]
pub struct Run {
    /// A model directory, or `random`.
    #[arg(long)]
    teacher: Option<PathBuf>,
    /// `relations`, `logits`, `hidden`, `minilm` or `cka`.
    #[arg(long)]
    method: Option<String>,
    #[command(flatten)]
    pretrain: Pretrain,
}

/// Arguments of `tcd distill measure`.
///
/// Every student reads the same held-out rows with the same masks; relations are compared in f64 at the same positions.
#[derive(Debug, Args)]
pub struct Measure {
    /// Model directories.
    #[arg(required = true)]
    students: Vec<PathBuf>,
    /// The teacher: a model directory, or `random`.
    #[arg(long)]
    teacher: PathBuf,
    /// Corpus directory, from `tcd corpus build`.
    #[arg(long)]
    corpus: PathBuf,
    /// Held-out rows, the first ones; 0 for all.
    #[arg(long, default_value_t = 512)]
    rows: usize,
    /// Positions drawn from each batch of 64 rows; 0 for all.
    #[arg(long, default_value_t = 1024)]
    positions: usize,
    /// CPU threads; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Write every value, by layer, to this JSON file.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Distill {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Distill::Run(run) => {
                let mut settings = Vec::new();
                if let Some(teacher) = &run.teacher {
                    settings.push(format!("distill.teacher={}", teacher.display()));
                }
                if let Some(method) = &run.method {
                    settings.push(format!("distill.method={method}"));
                }
                run.pretrain.run_with(&settings)
            }
            Distill::Methods => {
                list();
                Ok(Outcome::Done)
            }
            Distill::Measure(measure) => measure.run(),
        }
    }
}

fn list() {
    out(&format!(
        "{:<15} {:<60} {:<34} settings",
        "name", "what the student learns from", "source"
    ));
    for row in &BASELINES {
        out(&format!(
            "{:<15} {:<60} {:<34} {}",
            row.name,
            row.what,
            row.source,
            row.settings.join(" ")
        ));
    }
}

/// What was measured of one student.
#[derive(Debug, Serialize)]
struct Row {
    student: PathBuf,
    teacher: String,
    rows: usize,
    masked_tokens: usize,
    log_likelihood: f64,
    accuracy: f64,
    /// Raw losses by group: the mean, then each place.
    losses: serde_json::Map<String, serde_json::Value>,
}

impl Measure {
    fn run(&self) -> Result<Outcome> {
        bound_spinning();
        prepare_process(self.threads);
        let corpus = Corpus::open(&self.corpus)?;
        let tokenizer = corpus.tokenizer()?;
        let masker = Masker::new(&MaskingConfig::default(), &tokenizer);
        let limit = (self.rows > 0).then_some(self.rows);
        let batches = held_out_batches(&corpus, masker, 64, limit);
        let batches = batches
            .iter()
            .collect::<Result<Vec<Batch>, CorpusError>>()?;
        let rows: usize = batches.iter().map(|b| b.batch).sum();
        let mut config = DistillConfig {
            teacher: Teacher::from(self.teacher.display().to_string()),
            ..DistillConfig::default()
        };
        config.positions.0 = self.positions;
        let options = StoreOptions {
            device: device(Default::default())?,
            bf16: false,
        };
        let mut measured = Vec::new();
        for path in &self.students {
            let context = || format!("cannot measure `{}`", path.display());
            let dir = ModelDir::open(path).with_context(context)?;
            let pupil = Pupil {
                arch: dir.architecture(),
                tokenizer: &tokenizer,
                sequence_length: corpus.manifest().settings.sequence_length,
                options,
            };
            let fits = TeacherModel::check_tokenizer(&dir, &tokenizer);
            fits.with_context(context)?;
            let teacher = TeacherModel::open(&config, &pupil)?;
            let mut model = Model::new(pupil.arch, &[], options)?;
            let loaded = dir
                .load(Head::MaskedLm, Values::Finite)
                .with_context(context)?;
            model.store.load::<DistillError>(|p| {
                let tensor = loaded.tensor(&p.name);
                Ok(tensor.expect("a strict load has every parameter").to_vec())
            })?;
            let guide = Guide::new(&config, teacher, &model.store, &pupil, 0)?;
            let held_out = model.evaluate(&batches, Some(&guide));
            note(&format!("measured `{}`", path.display()));
            measured.push(row(path.clone(), &self.teacher, rows, &held_out));
        }
        print(&measured);
        if let Some(file) = &self.out {
            let text = serde_json::to_string_pretty(&measured)?;
            std::fs::write(file, text)
                .with_context(|| format!("cannot write `{}`", file.display()))?;
        }
        Ok(Outcome::Done)
    }
}

fn row(student: PathBuf, teacher: &std::path::Path, rows: usize, held_out: &HeldOut) -> Row {
    let losses = held_out.terms.groups.iter().map(|group| {
        let places: serde_json::Map<_, _> = group
            .raw
            .iter()
            .map(|(place, value)| (place.clone(), (*value).into()))
            .collect();
        let value = serde_json::json!({ "mean": group.mean(), "places": places });
        (group.name.to_string(), value)
    });
    Row {
        student,
        teacher: teacher.display().to_string(),
        rows,
        masked_tokens: held_out.masked,
        log_likelihood: held_out.log_likelihood,
        accuracy: held_out.accuracy,
        losses: losses.collect(),
    }
}

/// A Markdown table: one line a student.
fn print(rows: &[Row]) {
    let names: Vec<&String> = rows
        .first()
        .map_or(Vec::new(), |r| r.losses.keys().collect());
    let head: Vec<String> = names.iter().map(|n| format!(" {n} |")).collect();
    out(&format!(
        "| student | log-likelihood | accuracy |{}",
        head.concat()
    ));
    out(&format!(
        "| --- | ---: | ---: |{}",
        " ---: |".repeat(names.len())
    ));
    for row in rows {
        let losses = names.iter().map(|n| {
            let mean = row.losses[*n]["mean"].as_f64().unwrap_or(f64::NAN);
            format!(" {mean:.5} |")
        });
        out(&format!(
            "| {} | {:.4} | {:.2} % |{}",
            row.student.display(),
            row.log_likelihood,
            100.0 * row.accuracy,
            losses.collect::<String>()
        ));
    }
}
