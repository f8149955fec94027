//! Pre-training: masked language modelling on a corpus, as a task of [`run`](super::run).

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use tcd_export::Head;

use super::checkpoint::{State, StateMut};
use super::config::{Plan, Precision, RunConfig, RunConfigError};
use super::metrics::Interval;
use super::optimizer::AdamW;
use super::run::{
    Cadence, Evaluation, Observer, RunDirectory, RunError, Stepped, Task, device, prepare_process,
    run,
};
use super::step::Model;
use crate::data::batch::{Batch, Prefetch, TrainBatches, held_out_batches};
use crate::data::corpus::{Corpus, CorpusError, Split};
use crate::data::masking::Masker;
use crate::model::{Initialisation, ModelError, StoreOptions};

/// Why pre-training stopped.
#[derive(Debug, Error)]
pub enum PretrainError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Config(#[from] RunConfigError),
    /// The corpus cannot be used.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The thread that prepares batches cannot be started.
    #[error("cannot start the thread that prepares batches")]
    Thread(#[source] io::Error),
    /// A split of the corpus has no row.
    #[error("the {split} split of `{}` holds no row; hint: {hint}", path.display())]
    EmptySplit {
        /// Corpus.
        path: PathBuf,
        /// Which.
        split: &'static str,
        /// What to do.
        hint: &'static str,
    },
}

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Real tokens read.
    pub tokens: u64,
    /// Parameters of the model.
    pub parameters: usize,
    /// Held-out log-likelihood at the end, nats per masked token.
    pub heldout_log_likelihood: Option<f64>,
    /// Held-out accuracy at the end.
    pub heldout_accuracy: Option<f64>,
    /// Best held-out log-likelihood.
    pub best_log_likelihood: Option<f64>,
    /// Real tokens a second of training, evaluation and saving left out, in this process.
    pub tokens_per_second: f64,
    /// Whether all steps were done, or the run was interrupted.
    pub finished: bool,
    /// Model directory, or the checkpoint to go on from.
    pub path: PathBuf,
}

/// What decides on the batches: the rows of both splits and the tokenizer.
fn corpus_key(corpus: &Corpus) -> String {
    let manifest = corpus.manifest();
    let parts = serde_json::json!([manifest.train, manifest.held_out, manifest.tokenizer_hash]);
    blake3::hash(parts.to_string().as_bytes())
        .to_hex()
        .to_string()
}

/// Masked language modelling, ready to run.
struct Pretraining {
    plan: Plan,
    model: Model,
    optimizer: AdamW,
    corpus: Corpus,
    masker: Masker,
    data_key: String,
    tokenizer_hash: String,
    tokenizer_json: String,
    held_out: Vec<Batch>,
    batches: Option<Prefetch>,
    interval: Interval,
}

/// Runs pre-training, or goes on with it; returns when it is done or `stop` is set.
pub fn pretrain(
    config: RunConfig,
    resume: bool,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Summary, PretrainError> {
    prepare_process(config.threads);
    let corpus = Corpus::open(&config.data.corpus)?;
    check_splits(&corpus, &config)?;
    let tokenizer = corpus.tokenizer()?;
    let plan = config.validate(
        tokenizer.vocab_size(),
        tokenizer.special().pad,
        corpus.manifest().settings.sequence_length,
    )?;
    let device = device(plan.config.device)?;
    let directory = RunDirectory::open(&plan.config.output, resume)?;
    let bf16 = match plan.config.precision {
        Precision::Auto => device.is_cuda(),
        Precision::F32 => false,
        Precision::Bf16 => true,
    };
    let model = Model::new(&plan.arch, StoreOptions { device, bf16 })?;
    let masker = Masker::new(&plan.config.masking, &tokenizer);
    let (rows, batch) = (
        plan.config.evaluation.rows,
        plan.config.evaluation.batch_size,
    );
    let held_out = held_out_batches(&corpus, masker.clone(), batch, (rows > 0).then_some(rows));
    let mut task = Pretraining {
        optimizer: AdamW::new(&plan.config.optimizer, &model.store),
        model,
        data_key: corpus_key(&corpus),
        tokenizer_hash: tokenizer.hash().to_string(),
        tokenizer_json: tokenizer.to_json().map_err(CorpusError::from)?,
        held_out: held_out.iter().collect::<Result<_, CorpusError>>()?,
        corpus,
        masker,
        batches: None,
        interval: Interval::default(),
        plan,
    };
    let config = task.plan.config.clone();
    let cadence = Cadence {
        steps: config.schedule.steps,
        schedule: task.plan.schedule.clone(),
        evaluate_every: config.evaluation.every_steps,
        checkpoint: config.checkpoint,
        log: config.log,
    };
    let ended = run(&mut task, &cadence, &directory, stop, observer)?;
    let measured = |name| ended.evaluation.as_ref().and_then(|e| e.get(name));
    let summary = Summary {
        steps: ended.progress.step,
        tokens: ended.progress.tokens,
        parameters: task.model.store.parameter_count(),
        heldout_log_likelihood: measured("heldout_log_likelihood"),
        heldout_accuracy: measured("heldout_accuracy"),
        best_log_likelihood: ended.progress.best,
        tokens_per_second: ended.tokens_per_second,
        finished: ended.finished,
        path: ended.path,
    };
    directory.write_summary(&summary)?;
    Ok(summary)
}

fn check_splits(corpus: &Corpus, config: &RunConfig) -> Result<(), PretrainError> {
    for (split, name, hint) in [
        (
            Split::Train,
            "training",
            "lower `--held-out`, or name more text",
        ),
        (
            Split::HeldOut,
            "held-out",
            "build the corpus with a larger `--held-out`",
        ),
    ] {
        if corpus.split(split).is_empty() {
            return Err(PretrainError::EmptySplit {
                path: config.data.corpus.clone(),
                split: name,
                hint,
            });
        }
    }
    Ok(())
}

impl Task for Pretraining {
    type Config = RunConfig;
    type Error = PretrainError;

    fn state(&self) -> State<'_, RunConfig> {
        State {
            store: &self.model.store,
            optimizer: &self.optimizer,
            arch: &self.plan.arch,
            head: Head::MaskedLm,
            labels: &[],
            tokenizer_json: &self.tokenizer_json,
            tokenizer_hash: &self.tokenizer_hash,
            data_key: &self.data_key,
            config: &self.plan.config,
        }
    }

    fn state_mut(&mut self) -> StateMut<'_, RunConfig> {
        StateMut {
            store: &mut self.model.store,
            optimizer: &mut self.optimizer,
            arch: &self.plan.arch,
            head: Head::MaskedLm,
            data_key: &self.data_key,
            config: &self.plan.config,
        }
    }

    fn initialise(&mut self) -> Result<(), PretrainError> {
        self.model.store.initialise(Initialisation {
            seed: self.plan.config.init_seed(),
            std: self.plan.arch.initializer_range,
        });
        Ok(())
    }

    fn start(&mut self, step: u64) -> Result<(), PretrainError> {
        let config = &self.plan.config;
        let batches = TrainBatches::new(
            &self.corpus,
            self.masker.clone(),
            config.data.batch_size,
            config.data_seed(),
            config.mask_seed(),
        );
        let first = step * config.data.accumulation as u64;
        self.batches = Some(Prefetch::start(batches, first).map_err(PretrainError::Thread)?);
        Ok(())
    }

    fn describe(&self) -> String {
        let experts = self.plan.arch.moe.as_ref().map(|m| m.num_experts);
        let rows = self.corpus.split(Split::Train);
        let device = self.model.store.options().device;
        format!(
            "{} parameters, {}, {}, {} threads; {} training rows of {}",
            self.model.store.parameter_count(),
            experts.map_or("vanilla".to_string(), |n| format!("{n} experts a layer")),
            if device.is_cuda() { "CUDA" } else { "CPU" },
            tch::get_num_threads(),
            rows.len(),
            rows.sequence_length(),
        )
    }

    fn step(&mut self, step: u64, rate: f64) -> Result<Stepped, PretrainError> {
        let config = &self.plan.config;
        let micro = self
            .batches
            .iter_mut()
            .flatten()
            .take(config.data.accumulation)
            .collect::<Result<Vec<Batch>, CorpusError>>()?;
        let (gradients, report) = self.model.gradients(&micro, config.dropout_seed(), step);
        let norm = if report.total.is_finite() && !gradients.is_empty() {
            let clip = config.optimizer.clip;
            self.model
                .update(&mut self.optimizer, &gradients, clip, rate)
        } else {
            None
        };
        let stepped = Stepped {
            loss: report.total,
            norm,
            tokens: report.tokens,
        };
        self.interval.add(report);
        Ok(stepped)
    }

    fn metrics(&mut self) -> Vec<(String, f64)> {
        self.interval.take()
    }

    fn evaluate(&mut self) -> Result<Evaluation, PretrainError> {
        let held_out = self.model.evaluate(&self.held_out);
        Ok(Evaluation {
            score: held_out.log_likelihood,
            metrics: vec![
                (
                    "heldout_log_likelihood".to_string(),
                    held_out.log_likelihood,
                ),
                ("heldout_accuracy".to_string(), held_out.accuracy),
            ],
            line: format!(
                "held-out log-likelihood {:.4} nats a masked token, accuracy {:.2} %",
                held_out.log_likelihood,
                100.0 * held_out.accuracy
            ),
        })
    }
}
