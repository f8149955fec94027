//! One run: from a pre-trained directory to the weights of the best evaluation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Device, Kind, Reduction, Tensor};
use thiserror::Error;

use tcd_export::runtime::{Runnable, RuntimeError};
use tcd_export::{Architecture, ConfigError, Head, ModelDir, ModelDirError, Values, parameters};

use super::settings::{FinetuneConfig, RunSetting};
use crate::data::glue::{GlueError, Kind as TaskKind, SplitData, Target, Task};
use crate::data::tokenizer::TokenizerError;
use crate::eval::encode::{BatchSize, EncodedSet, Padded, training_batches};
use crate::eval::labels::LabelMap;
use crate::eval::result::{Judged, ResultError, judge, rank};
use crate::eval::run::{Logits, RunError as EvalError, run as evaluate};
use crate::model::{Initialisation, Mode, ModelError, Noise, Session, Store, StoreOptions};
use crate::run_log::{RunLog, RunLogError};
use crate::train::config::ScheduleConfig;
use crate::train::optimizer::AdamW;
use crate::train::run::{Observer, Pace, RunError, release_memory};
use crate::train::schedule::Schedule;

/// Positions of an evaluation batch.
const EVALUATION_TOKENS: usize = 8192;
/// Steps between records of the training loss.
const LOG_EVERY: u64 = 10;
/// Steps in a row without a finite loss after which a run has failed.
const SKIPS: u64 = 10;

/// Why fine-tuning stopped.
#[derive(Debug, Error)]
pub enum FinetuneError {
    /// Settings that cannot work.
    #[error("invalid settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// The architecture with these settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model to start from, or the one to write.
    #[error(transparent)]
    ModelDir(#[from] ModelDirError),
    /// The model's tokenizer or `config.json`.
    #[error(transparent)]
    Evaluated(#[from] crate::eval::model::ModelError),
    /// A text cannot be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data cannot be read.
    #[error(transparent)]
    Glue(#[from] GlueError),
    /// Results cannot be written.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// Metrics cannot be written.
    #[error(transparent)]
    Log(#[from] RunLogError),
    /// The device.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The engine failed.
    #[error("libtorch failed")]
    Engine(#[source] RuntimeError),
    /// An evaluation failed.
    #[error("cannot evaluate on {task} {split}")]
    Evaluation {
        /// Task.
        task: &'static str,
        /// Split.
        split: &'static str,
        /// Why.
        #[source]
        source: EvalError,
    },
    /// A task that cannot be fine-tuned here, and why.
    #[error("cannot fine-tune on {task}: {what}")]
    Task {
        /// Task.
        task: &'static str,
        /// Why, and the mend.
        what: String,
    },
    /// Something else is in the output directory.
    #[error("`{}` holds a run of other data, model or settings; hint: name another `--out`, or remove it", path.display())]
    OtherRun {
        /// Its directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A split with its rows encoded.
#[derive(Debug)]
pub struct Encoded {
    /// The split.
    pub data: SplitData,
    /// Its rows.
    pub set: EncodedSet,
}

/// What the runs on one task share.
#[derive(Debug)]
pub struct TaskData {
    /// The task.
    pub task: &'static Task,
    /// To train on.
    pub train: Encoded,
    /// To score on: one set, or MNLI's two.
    pub dev: Vec<Encoded>,
}

/// Where and on what one run works.
pub struct RunPlace<'a> {
    /// Its setting.
    pub setting: RunSetting,
    /// The grid's settings.
    pub config: &'a FinetuneConfig,
    /// The model, dropouts as set.
    pub arch: &'a Architecture,
    /// The directory to start from.
    pub start: &'a ModelDir,
    /// The data.
    pub data: &'a TaskData,
    /// Where it computes.
    pub options: StoreOptions,
    /// Its own directory, for its log.
    pub dir: &'a Path,
}

/// What an evaluation found, on each set of [`TaskData::dev`].
#[derive(Debug)]
pub struct Evaluated {
    /// Judgements and the outputs they judge; empty where an output was not a number.
    pub sets: Vec<(Judged, Logits)>,
    /// Mean score of the sets; NaN where undefined.
    pub score: f64,
}

/// A run at its end.
pub struct Finished {
    /// Parameters, those of the best evaluation.
    pub store: Store,
    /// That evaluation.
    pub best: Evaluated,
    /// The epoch at whose end (or in which) it was made, counted from 1.
    pub best_epoch: usize,
    /// Steps done.
    pub steps: u64,
    /// Whether it ended early.
    pub stopped_early: bool,
    /// Seconds of training, evaluation left out.
    pub seconds: f64,
    /// What went wrong.
    pub warnings: Vec<String>,
}

/// The head of a task.
pub fn head(task: &Task) -> Head {
    Head::SequenceClassification {
        labels: task.outputs(),
    }
}

/// Sets the initial weights: encoder and, where it has one, pooler of the directory; the classifier anew from the seed. The
/// bias of a regression is the mean of the training scores, so that training need not find it.
fn initialise(place: &RunPlace<'_>, store: &mut Store) -> Result<(), FinetuneError> {
    let has_pooler = place
        .start
        .weights()
        .names()
        .any(|name| name.starts_with("bert.pooler."));
    let table = parameters(place.arch, head(place.data.task));
    let kept = |name: &str| {
        !name.starts_with("classifier.") && (has_pooler || !name.starts_with("bert.pooler."))
    };
    let (wanted, fresh): (Vec<_>, Vec<_>) = table.into_iter().partition(|p| kept(&p.name));
    let loaded = place
        .start
        .weights()
        .load(&wanted, Values::Finite)
        .map_err(ModelDirError::from)?;
    store.initialise(Initialisation {
        seed: place.setting.seed,
        std: place.arch.initializer_range,
    });
    let mut fresh: HashMap<String, Vec<f32>> = fresh
        .into_iter()
        .map(|p| {
            let values = store.read(store.buffer(), &p.name).unwrap_or_default();
            (p.name, values)
        })
        .collect();
    if place.data.task.kind == TaskKind::Regression {
        let scores = place.data.train.data.examples.iter();
        let sum: f64 = scores
            .map(|e| match e.target {
                Some(Target::Score(score)) => score,
                _ => 0.0,
            })
            .sum();
        let mean = sum / place.data.train.data.examples.len() as f64;
        fresh.insert("classifier.bias".to_owned(), vec![mean as f32]);
    }
    store.load::<ModelError>(|p| {
        let tensor = loaded.tensor(&p.name).map(|t| t.to_vec());
        Ok(tensor.or_else(|| fresh.remove(&p.name)).unwrap_or_default())
    })?;
    Ok(())
}

/// The targets of a batch: `[B]`, i64 classes or f32 scores.
fn targets(data: &SplitData, batch: &[usize], device: Device) -> Tensor {
    let target = |&row: &usize| data.examples[row].target;
    match data.task.kind {
        TaskKind::Classification => {
            let classes: Vec<i64> = batch
                .iter()
                .map(|row| match target(row) {
                    Some(Target::Class(class)) => class as i64,
                    _ => -100,
                })
                .collect();
            Tensor::from_slice(&classes).to_device(device)
        }
        TaskKind::Regression => {
            let scores: Vec<f32> = batch
                .iter()
                .map(|row| match target(row) {
                    Some(Target::Score(score)) => score as f32,
                    _ => f32::NAN,
                })
                .collect();
            Tensor::from_slice(&scores).to_device(device)
        }
    }
}

struct Run<'a> {
    place: &'a RunPlace<'a>,
    store: Store,
    session: Session,
    optimizer: AdamW,
    schedule: Schedule,
    log: RunLog,
    step: u64,
    skipped: u64,
    pace: Pace,
    seconds: f64,
    losses: Vec<(f64, f64)>,
    /// Score, epoch, weights and judgements of the best evaluation.
    best: Option<(Evaluated, usize, Tensor)>,
    without_gain: usize,
    warnings: Vec<String>,
}

/// Does a run; none if `stop` was set before its end.
pub fn run(
    place: &RunPlace<'_>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Option<Finished>, FinetuneError> {
    let RunPlace {
        setting, config, ..
    } = place;
    let table = parameters(place.arch, head(place.data.task));
    let mut store = Store::new(&table, place.options)?;
    initialise(place, &mut store)?;
    let session = Session::new(&store, place.arch, head(place.data.task), &[]);
    let per_epoch = place.data.train.set.rows.len().div_ceil(setting.batch_size) as u64;
    let steps = per_epoch * setting.epochs as u64;
    let schedule = ScheduleConfig {
        steps,
        warmup_steps: (config.warmup * steps as f64).round() as u64,
        final_share: 0.0,
    };
    let run = Run {
        optimizer: AdamW::new(&config.optimizer, &store),
        schedule: Schedule::new(setting.learning_rate, &schedule),
        log: RunLog::create(place.dir)?,
        place,
        store,
        session,
        step: 0,
        skipped: 0,
        pace: Pace::default(),
        seconds: 0.0,
        losses: Vec::new(),
        best: None,
        without_gain: 0,
        warnings: Vec::new(),
    };
    let result = run.go(steps, per_epoch, stop, observer);
    observer.finish();
    result
}

impl Run<'_> {
    fn go(
        mut self,
        steps: u64,
        per_epoch: u64,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Option<Finished>, FinetuneError> {
        let place = self.place;
        let setting = place.setting;
        let each = per_epoch
            .div_ceil(place.config.evaluations_per_epoch as u64)
            .max(1);
        let mut stopped_early = false;
        'epochs: for epoch in 0..setting.epochs {
            let set = &place.data.train.set;
            let batches = training_batches(set, setting.batch_size, setting.seed, epoch as u64);
            for (index, batch) in batches.iter().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let loss = self.train(batch)?;
                let left = self.pace.time_of(steps - self.step);
                let speed = self.pace.tokens_per_second();
                observer.step(self.step, steps, loss, speed, left);
                if self.skipped > SKIPS {
                    self.warnings.push(format!(
                        "the loss was not finite from step {} on",
                        self.step - self.skipped
                    ));
                    break 'epochs;
                }
                let done = index as u64 + 1;
                if done == per_epoch || (done.is_multiple_of(each) && per_epoch - done >= each / 2)
                {
                    let Some(line) = self.evaluate(epoch + 1, stop)? else {
                        return Ok(None);
                    };
                    observer.line(&format!(
                        "  epoch {}, step {}: {line}",
                        epoch + 1,
                        self.step
                    ));
                    let patience = place.config.patience;
                    if patience > 0 && self.without_gain >= patience && self.step < steps {
                        stopped_early = true;
                        break 'epochs;
                    }
                }
            }
        }
        if self.best.is_none() && self.evaluate(setting.epochs, stop)?.is_none() {
            return Ok(None);
        }
        self.log.sync()?;
        let (best, best_epoch, weights) = match self.best {
            Some(best) => best,
            None => return Ok(None),
        };
        let mut buffer = self.store.buffer().shallow_clone();
        tch::no_grad(|| buffer.copy_(&weights));
        self.store.refresh();
        Ok(Some(Finished {
            store: self.store,
            best,
            best_epoch,
            steps: self.step,
            stopped_early,
            seconds: self.seconds,
            warnings: self.warnings,
        }))
    }

    /// One step; gives the loss.
    fn train(&mut self, batch: &[usize]) -> Result<f64, FinetuneError> {
        let start = Instant::now();
        let place = self.place;
        let train = &place.data.train;
        let padded = Padded::new(&train.set, batch);
        let input = self
            .session
            .input(&padded.feed())
            .map_err(FinetuneError::Engine)?;
        let noise = Noise::new(place.setting.seed, self.step, 0);
        let mode = Mode::Train(&noise);
        let encoded = self.session.encode(&input, mode, false);
        let targets = targets(&train.data, batch, place.options.device); // [B]
        let logits = self
            .session
            .logits(&encoded.hidden, mode)
            .ok_or_else(|| FinetuneError::Engine("the model has no head".into()))?; // [B, C]
        let mut loss = match train.data.task.kind {
            TaskKind::Classification => {
                logits.cross_entropy_loss(&targets, None::<Tensor>, Reduction::Mean, -100, 0.0)
            }
            TaskKind::Regression => logits.squeeze_dim(-1).mse_loss(&targets, Reduction::Mean),
        };
        let mut balance = f64::NAN;
        if !encoded.routing.is_empty() {
            let layers: Vec<&Tensor> = encoded.routing.iter().map(|r| &r.balance_loss).collect();
            let mean = Tensor::stack(&layers, 0).mean(Kind::Float);
            balance = mean.double_value(&[]);
            if place.config.balance_loss > 0.0 {
                loss += mean * place.config.balance_loss;
            }
        }
        let value = loss.double_value(&[]);
        let rate = self.schedule.rate(self.step);
        let norm = if value.is_finite() {
            let leaves: Vec<&Tensor> = self.store.leaves().iter().map(|l| &l.tensor).collect();
            let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
            let clip = place.config.optimizer.clip;
            self.optimizer
                .clipped_step(&mut self.store, &gradients, clip, rate)
        } else {
            None
        };
        self.skipped = if norm.is_some() { 0 } else { self.skipped + 1 };
        self.step += 1;
        self.seconds += start.elapsed().as_secs_f64();
        let tokens = padded.attention_mask.iter().filter(|&&m| m == 1).count();
        self.pace.add(tokens as u64, start.elapsed());
        self.losses.push((value, balance));
        if self.step.is_multiple_of(LOG_EVERY) {
            let n = self.losses.len() as f64;
            let mean = |of: fn(&(f64, f64)) -> f64| self.losses.iter().map(of).sum::<f64>() / n;
            let mut values = vec![("loss", mean(|l| l.0)), ("learning_rate", rate)];
            values.extend(norm.map(|norm| ("gradient_norm", norm)));
            if !balance.is_nan() {
                values.push(("balance_loss", mean(|l| l.1)));
            }
            self.log.log("train", self.step, &values)?;
            self.losses.clear();
        }
        Ok(value)
    }

    /// Evaluates on every set, and keeps the weights where they are the best so far. None if stopped.
    fn evaluate(
        &mut self,
        epoch: usize,
        stop: &AtomicBool,
    ) -> Result<Option<String>, FinetuneError> {
        let place = self.place;
        let task = place.data.task;
        let map = LabelMap::identity(task);
        let session = Session::new(&self.store, place.arch, head(task), &[]);
        let mut sessions: Vec<Box<dyn Runnable>> = vec![Box::new(session)];
        let mut sets = Vec::new();
        let (mut score, mut words, mut values) = (0.0, Vec::new(), Vec::new());
        for dev in &place.data.dev {
            let failed = |source| FinetuneError::Evaluation {
                task: task.name,
                split: dev.data.split.name,
                source,
            };
            let size = BatchSize::Tokens(EVALUATION_TOKENS);
            let logits = evaluate(&mut sessions, &dev.set, size, task.outputs(), stop, &|_| {});
            let logits = match logits {
                Err(EvalError::Stopped) => return Ok(None),
                logits => logits.map_err(failed)?,
            };
            match judge(&dev.data, &logits, &map) {
                Ok(judged) => {
                    score += judged.score.unwrap_or(f64::NAN);
                    for (name, value) in &judged.scores {
                        words.push(format!("{} {name} {value:.4}", dev.data.split.name));
                        values.push((format!("{}_{name}", dev.data.split.name), *value));
                    }
                    sets.push((judged, logits));
                }
                Err(EvalError::NotANumber { row, .. }) => {
                    score = f64::NAN;
                    words.push(format!(
                        "{}: the output for row {row} is not a number",
                        dev.data.split.name
                    ));
                }
                Err(source) => return Err(failed(source)),
            }
        }
        if sets.len() < place.data.dev.len() {
            sets.clear();
        }
        let score = score / place.data.dev.len() as f64;
        let named: Vec<(&str, f64)> = values.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        self.log.log("eval", self.step, &named)?;
        let better = self
            .best
            .as_ref()
            .is_none_or(|(best, _, _)| rank(score) > rank(best.score));
        if better {
            let weights = self.store.buffer().copy();
            self.best = Some((Evaluated { sets, score }, epoch, weights));
            self.without_gain = 0;
        } else {
            self.without_gain += 1;
        }
        release_memory();
        Ok(Some(words.join(", ")))
    }
}
