//! The pre-training run: from a corpus to a model directory, interruptible anywhere.
//!
//! The run directory holds `config.toml` (resolved), `metrics.jsonl` and TensorBoard events, `checkpoints/`, `best/` (the model
//! of best held-out log-likelihood), and at the end `model/` and `summary.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::Device;
use thiserror::Error;

use serde_json::{Map, Value};
use tcd_export::{Head, ModelDirError, write_model_dir};

use super::checkpoint::{self, CheckpointError, Contents, Progress};
use super::config::{DeviceConfig, Plan, Precision, RunConfig, RunConfigError};
use super::optimizer::AdamW;
use super::step::{HeldOut, Model, Report};
use crate::data::batch::{Batch, Prefetch, TrainBatches, held_out_batches};
use crate::data::corpus::{Corpus, CorpusError, Split};
use crate::data::masking::Masker;
use crate::model::{Initialisation, ModelError, StoreOptions};
use crate::run_log::{METRICS_FILE, RunLog, RunLogError};

/// Why a run stopped.
#[derive(Debug, Error)]
pub enum PretrainError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Config(#[from] RunConfigError),
    /// The corpus cannot be used.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model directory cannot be written.
    #[error(transparent)]
    ModelDir(#[from] ModelDirError),
    /// Metrics cannot be written.
    #[error(transparent)]
    Log(#[from] RunLogError),
    /// The system refused.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
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
    /// The run directory holds a run.
    #[error("`{}` holds a run already; hint: go on with `--resume`, or name another `output`", path.display())]
    Exists {
        /// Run directory.
        path: PathBuf,
    },
    /// The device is not there.
    #[error(
        "there is no device `{device}`: libtorch sees {count} CUDA device(s); hint: `device = \"auto\"`, or `tcd doctor`"
    )]
    Device {
        /// What was asked for.
        device: String,
        /// Devices found.
        count: i64,
    },
    /// The loss left the numbers.
    #[error(
        "loss or gradient was not finite in {skips} steps in a row, up to step {step}; the state before them is saved in `{}`; hint: lower `optimizer.learning_rate`, lengthen `schedule.warmup_steps`, or set `optimizer.clip`",
        saved.display()
    )]
    NonFinite {
        /// Steps.
        skips: u64,
        /// Last of them.
        step: u64,
        /// Checkpoint.
        saved: PathBuf,
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

/// What the run says while it runs.
pub trait Observer {
    /// A line for the person.
    fn line(&mut self, text: &str);
    /// State after a step: step, steps in all, loss, tokens a second, time left.
    fn step(&mut self, step: u64, steps: u64, loss: f64, tokens_per_second: f64, left: Duration);
    /// The end.
    fn finish(&mut self);
}

/// The device that a configuration asks for.
pub fn device(config: DeviceConfig) -> Result<Device, PretrainError> {
    let count = tch::Cuda::device_count();
    match config {
        DeviceConfig::Auto => Ok(if tch::Cuda::is_available() {
            Device::Cuda(0)
        } else {
            Device::Cpu
        }),
        DeviceConfig::Cpu => Ok(Device::Cpu),
        DeviceConfig::Cuda(n) if tch::Cuda::is_available() && (n as i64) < count => {
            Ok(Device::Cuda(n))
        }
        DeviceConfig::Cuda(_) => Err(PretrainError::Device {
            device: config.into(),
            count,
        }),
    }
}

/// Keeps freed memory for the next step. By default each large tensor is mapped anew, and clearing its pages costs a small
/// model a good part of its step.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Sets the threads of libtorch and of this program's own loops, and the allocator. Once a process.
pub fn prepare_process(threads: usize) {
    let threads = if threads == 0 {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        threads
    };
    tch::set_num_threads(threads as i32);
    // A second call finds the pool built: then it has the threads of the first.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    keep_memory();
}

/// What decides on the batches: the rows of both splits and the tokenizer.
fn corpus_key(corpus: &Corpus) -> String {
    let manifest = corpus.manifest();
    let parts = serde_json::json!([manifest.train, manifest.held_out, manifest.tokenizer_hash]);
    blake3::hash(parts.to_string().as_bytes())
        .to_hex()
        .to_string()
}

struct Run<'a> {
    plan: &'a Plan,
    dir: PathBuf,
    model: Model,
    optimizer: AdamW,
    progress: Progress,
    corpus_key: String,
    tokenizer_hash: String,
    tokenizer_json: String,
    log: RunLog,
    held_out: Vec<Batch>,
    last_saved: Option<u64>,
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
    let tokenizer = corpus.tokenizer()?;
    let empty = |split, hint| PretrainError::EmptySplit {
        path: config.data.corpus.clone(),
        split,
        hint,
    };
    if corpus.split(Split::Train).is_empty() {
        return Err(empty("training", "lower `--held-out`, or name more text"));
    }
    if corpus.split(Split::HeldOut).is_empty() {
        return Err(empty(
            "held-out",
            "build the corpus with a larger `--held-out`",
        ));
    }
    let plan = config.validate(
        tokenizer.vocab_size(),
        tokenizer.special().pad,
        corpus.manifest().settings.sequence_length,
    )?;
    let config = &plan.config;
    let dir = config.output.clone();
    let checkpoints = checkpoint::list(&dir.join("checkpoints"))?;
    if !resume && (!checkpoints.is_empty() || dir.join("model").exists()) {
        return Err(PretrainError::Exists { path: dir });
    }
    let corpus_key = corpus_key(&corpus);
    let device = device(config.device)?;
    let bf16 = match config.precision {
        Precision::Auto => device.is_cuda(),
        Precision::F32 => false,
        Precision::Bf16 => true,
    };
    let mut model = Model::new(&plan.arch, StoreOptions { device, bf16 })?;
    let mut optimizer = AdamW::new(&config.optimizer, &model.store);
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PretrainError::Io { path, source }
    };
    fs::create_dir_all(&dir).map_err(io(&dir))?;
    let progress = match checkpoints.last_key_value() {
        Some((_, path)) => {
            let progress = checkpoint::load(
                path,
                config,
                &corpus_key,
                &plan.arch,
                &mut model.store,
                &mut optimizer,
            )?;
            observer.line(&format!(
                "resuming `{}` at step {}",
                dir.display(),
                progress.step
            ));
            progress
        }
        None => {
            model.store.initialise(Initialisation {
                seed: config.init_seed(),
                std: plan.arch.initializer_range,
            });
            Progress {
                step: 0,
                tokens: 0,
                skipped: 0,
                best: None,
            }
        }
    };
    let file = dir.join("config.toml");
    let text = toml::to_string(config).map_err(|e| io(&file)(io::Error::other(e)))?;
    fs::write(&file, text).map_err(io(&file))?;
    if checkpoints.is_empty() {
        // The run begins anew, and so do its metrics.
        let old = dir.join(METRICS_FILE);
        if old.exists() {
            fs::remove_file(&old).map_err(io(&old))?;
        }
    }
    let log = RunLog::resume(&dir, progress.step)?;
    let masker = Masker::new(&config.masking, &tokenizer);
    let limit = (config.evaluation.rows > 0).then_some(config.evaluation.rows);
    let held_out = held_out_batches(&corpus, masker.clone(), config.evaluation.batch_size, limit);
    let held_out = held_out
        .iter()
        .collect::<Result<Vec<Batch>, CorpusError>>()?;
    observer.line(&format!(
        "{} parameters, {}, {}, {} threads; {} training rows of {}",
        model.store.parameter_count(),
        plan.arch
            .moe
            .as_ref()
            .map_or("vanilla".to_string(), |m| format!(
                "{} experts a layer",
                m.num_experts
            )),
        if device.is_cuda() { "CUDA" } else { "CPU" },
        tch::get_num_threads(),
        corpus.split(Split::Train).len(),
        corpus.split(Split::Train).sequence_length(),
    ));
    let last_saved = checkpoints.last_key_value().map(|(step, _)| *step);
    let tokenizer_json = tokenizer.to_json().map_err(CorpusError::from)?;
    let batches = TrainBatches::new(
        &corpus,
        masker,
        config.data.batch_size,
        config.data_seed(),
        config.mask_seed(),
    );
    let run = Run {
        plan: &plan,
        dir,
        model,
        optimizer,
        progress,
        corpus_key,
        tokenizer_hash: tokenizer.hash().to_string(),
        tokenizer_json,
        log,
        held_out,
        last_saved,
    };
    run.go(batches, stop, observer)
}

impl Run<'_> {
    fn go(
        mut self,
        batches: TrainBatches,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Summary, PretrainError> {
        let config = &self.plan.config;
        let steps = config.schedule.steps;
        let per_step = config.data.accumulation as u64;
        let mut batches =
            Prefetch::start(batches, self.progress.step * per_step).map_err(|source| {
                PretrainError::Io {
                    path: self.dir.clone(),
                    source,
                }
            })?;
        let mut trained = Training::default();
        let mut saved_at = Instant::now();
        let mut held_out = None;
        if self.progress.step == 0 {
            held_out = Some(self.evaluate(observer)?);
        }
        while self.progress.step < steps && !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let micro = batches
                .by_ref()
                .take(per_step as usize)
                .collect::<Result<Vec<Batch>, CorpusError>>()?;
            let rate = self.plan.schedule.rate(self.progress.step);
            let (gradients, report) =
                self.model
                    .gradients(&micro, config.dropout_seed(), self.progress.step);
            let norm = if report.total.is_finite() && !gradients.is_empty() {
                self.model
                    .update(&mut self.optimizer, &gradients, config.optimizer.clip, rate)
            } else {
                None
            };
            drop(gradients);
            self.progress.step += 1;
            self.progress.tokens += report.tokens;
            let step = self.progress.step;
            trained.add(&report, norm, start.elapsed());
            match norm {
                Some(_) => self.progress.skipped = 0,
                None => {
                    self.progress.skipped += 1;
                    observer.line(&format!(
                        "step {step}: loss or gradient is not finite, left out of the update"
                    ));
                    if self.progress.skipped > config.log.non_finite_skips {
                        let saved = self.save()?;
                        return Err(PretrainError::NonFinite {
                            skips: self.progress.skipped,
                            step,
                            saved,
                        });
                    }
                }
            }
            let rate_now = trained.tokens_per_second();
            let left = Duration::from_secs_f64(
                (steps - step) as f64 * trained.seconds / trained.steps as f64,
            );
            observer.step(step, steps, report.total, rate_now, left);
            if step.is_multiple_of(config.log.every_steps) || step == steps {
                self.log_training(&mut trained, rate)?;
            }
            let every = config.evaluation.every_steps;
            if (every > 0 && step.is_multiple_of(every)) || step == steps {
                held_out = Some(self.evaluate(observer)?);
            }
            let c = &config.checkpoint;
            let by_step = c.every_steps > 0 && step.is_multiple_of(c.every_steps);
            let by_time =
                c.every_minutes > 0.0 && saved_at.elapsed().as_secs_f64() > 60.0 * c.every_minutes;
            if by_step || by_time || step == steps || c.keep_steps.contains(&step) {
                self.save()?;
                saved_at = Instant::now();
            }
        }
        observer.finish();
        let finished = self.progress.step >= steps;
        let path = if finished {
            let path = self.dir.join("model");
            self.write_model(&path)?;
            if held_out.is_none() {
                held_out = Some(self.evaluate(observer)?);
            }
            path
        } else {
            self.save()?
        };
        let summary = Summary {
            steps: self.progress.step,
            tokens: self.progress.tokens,
            parameters: self.model.store.parameter_count(),
            heldout_log_likelihood: held_out.map(|h| h.log_likelihood),
            heldout_accuracy: held_out.map(|h| h.accuracy),
            best_log_likelihood: self.progress.best,
            tokens_per_second: trained.tokens_per_second(),
            finished,
            path,
        };
        let file = self.dir.join("summary.json");
        serde_json::to_string_pretty(&summary)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&file, text))
            .map_err(|source| PretrainError::Io { path: file, source })?;
        Ok(summary)
    }

    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<HeldOut, PretrainError> {
        let held_out = self.model.evaluate(&self.held_out);
        let values = [
            ("heldout_log_likelihood", held_out.log_likelihood),
            ("heldout_accuracy", held_out.accuracy),
            ("tokens", self.progress.tokens as f64),
        ];
        self.log.log("eval", self.progress.step, &values)?;
        observer.line(&format!(
            "step {}: held-out log-likelihood {:.4} nats a masked token, accuracy {:.2} %",
            self.progress.step,
            held_out.log_likelihood,
            100.0 * held_out.accuracy
        ));
        if self.progress.step > 0
            && self
                .progress
                .best
                .is_none_or(|best| held_out.log_likelihood > best)
        {
            self.progress.best = Some(held_out.log_likelihood);
            self.write_model(&self.dir.join("best"))?;
        }
        Ok(held_out)
    }

    fn write_model(&self, path: &Path) -> Result<(), PretrainError> {
        let store = &self.model.store;
        let contents = tcd_export::Contents {
            architecture: &self.plan.arch,
            head: Head::MaskedLm,
            tokenizer_json: &self.tokenizer_json,
            labels: &[],
            notes: self.notes(),
        };
        write_model_dir(path, &contents, |p| store.bytes(store.buffer(), &p.name))?;
        Ok(())
    }

    /// What a model directory remembers of its making.
    fn notes(&self) -> Map<String, Value> {
        let mut notes = Map::new();
        notes.insert(
            "tokenizer_hash".to_string(),
            self.tokenizer_hash.clone().into(),
        );
        notes.insert("steps".to_string(), self.progress.step.into());
        notes.insert("tokens".to_string(), self.progress.tokens.into());
        notes
    }

    fn save(&mut self) -> Result<PathBuf, PretrainError> {
        let dir = self.dir.join("checkpoints");
        let config = &self.plan.config;
        if self.last_saved == Some(self.progress.step) {
            return Ok(dir.join(checkpoint::name(self.progress.step)));
        }
        self.log.sync()?;
        let path = checkpoint::save(
            &dir,
            &Contents {
                progress: &self.progress,
                store: &self.model.store,
                optimizer: &self.optimizer,
                arch: &self.plan.arch,
                tokenizer_json: &self.tokenizer_json,
                notes: &self.notes(),
                corpus_key: &self.corpus_key,
                config,
            },
        )?;
        checkpoint::prune(
            &dir,
            config.checkpoint.keep_last,
            &config.checkpoint.keep_steps,
        )?;
        self.last_saved = Some(self.progress.step);
        Ok(path)
    }

    fn log_training(&mut self, trained: &mut Training, rate: f64) -> Result<(), PretrainError> {
        let n = trained.reports.len().max(1) as f64;
        let mean =
            |pick: &dyn Fn(&Report) -> f64| trained.reports.iter().map(pick).sum::<f64>() / n;
        let mut values: Vec<(String, f64)> = vec![
            ("loss".to_string(), mean(&|r| r.total)),
            ("mlm_loss".to_string(), mean(&|r| r.mlm)),
            ("learning_rate".to_string(), rate),
            (
                "gradient_norm".to_string(),
                trained.norms.iter().sum::<f64>() / trained.norms.len().max(1) as f64,
            ),
            ("tokens".to_string(), self.progress.tokens as f64),
            (
                "tokens_per_second".to_string(),
                trained.interval_tokens as f64 / trained.interval_seconds.max(1e-9),
            ),
        ];
        if self.plan.arch.moe.is_some() {
            values.push((
                "balance_loss".to_string(),
                mean(&|r| r.balance.unwrap_or_default().0),
            ));
            values.push((
                "balance_loss_weighted".to_string(),
                mean(&|r| r.balance.unwrap_or_default().1),
            ));
            values.push(("z_loss".to_string(), mean(&|r| r.z.unwrap_or_default().0)));
            values.push((
                "z_loss_weighted".to_string(),
                mean(&|r| r.z.unwrap_or_default().1),
            ));
            values.push(("dropped_tokens".to_string(), mean(&|r| r.dropped as f64)));
            // Expert statistics over the interval since the last record.
            for layer in 0..self.plan.arch.num_hidden_layers {
                let mut load: Vec<i64> = Vec::new();
                for report in &trained.reports {
                    if let Some((counts, _)) = report.routing.get(layer) {
                        load.resize(counts.len(), 0);
                        load.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
                    }
                }
                let total = load.iter().sum::<i64>().max(1) as f64;
                let largest = load.iter().copied().max().unwrap_or(0) as f64 / total;
                let dead = load.iter().filter(|n| **n == 0).count() as f64;
                let load_entropy: f64 = load
                    .iter()
                    .filter(|n| **n > 0)
                    .map(|n| *n as f64 / total)
                    .map(|p| -p * p.ln())
                    .sum();
                let entropy = mean(&|r| r.routing.get(layer).map_or(0.0, |(_, e)| *e));
                for (name, value) in [
                    ("largest_load", largest),
                    ("dead_experts", dead),
                    ("load_entropy", load_entropy),
                    ("router_entropy", entropy),
                ] {
                    values.push((format!("layer.{layer}.{name}"), value));
                }
            }
        }
        let values: Vec<(&str, f64)> = values.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        self.log.log("train", self.progress.step, &values)?;
        trained.reports.clear();
        trained.norms.clear();
        (trained.interval_tokens, trained.interval_seconds) = (0, 0.0);
        Ok(())
    }
}

/// Steps of this process, and what has not been logged yet.
#[derive(Default)]
struct Training {
    steps: u64,
    tokens: u64,
    seconds: f64,
    interval_tokens: u64,
    interval_seconds: f64,
    reports: Vec<Report>,
    norms: Vec<f64>,
}

impl Training {
    fn add(&mut self, report: &Report, norm: Option<f64>, time: Duration) {
        self.steps += 1;
        self.tokens += report.tokens;
        self.seconds += time.as_secs_f64();
        self.interval_tokens += report.tokens;
        self.interval_seconds += time.as_secs_f64();
        self.reports.push(report.clone());
        self.norms.extend(norm);
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}
