//! A training run of any kind: its directory, its log, its checkpoints, its end.
//!
//! [`run`] does what every kind of training needs: it restores the last checkpoint or starts anew, steps along the schedule,
//! measures, logs and saves on time, stops on a signal or on losses that are not finite, and writes the model at the end. A
//! [`Task`] brings the rest: data, losses, measurements.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Map, Value};
use tcd_export::{ModelDirError, write_model_dir};
use thiserror::Error;

use super::checkpoint::{self, CheckpointError, Progress, Settings, State, StateMut};
use super::config::{CheckpointConfig, LogConfig};
use super::schedule::Schedule;
use crate::run_log::{RunLog, RunLogError};

mod directory;
mod pace;
mod process;

pub use directory::RunDirectory;
pub use pace::{Observer, Pace};
pub use process::{device, prepare_process};

/// Why a run stopped.
#[derive(Debug, Error)]
pub enum RunError {
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
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

/// One step of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stepped {
    /// The minimised loss.
    pub loss: f64,
    /// Norm of the gradient before clipping; `None` where loss or norm is not finite, and then nothing was changed.
    pub norm: Option<f64>,
    /// Real tokens read.
    pub tokens: u64,
}

/// A measurement on held-out data.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What decides on the best model; higher is better.
    pub score: f64,
    /// Everything measured, by name, for the log.
    pub metrics: Vec<(String, f64)>,
    /// The same in words.
    pub line: String,
}

impl Evaluation {
    /// The measurement of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        let mut metrics = self.metrics.iter();
        metrics.find(|(n, _)| n == name).map(|(_, value)| *value)
    }
}

/// A kind of training: what [`run`] calls.
pub trait Task {
    /// Its configuration.
    type Config: Settings;
    /// Its errors.
    type Error: From<RunError>;

    /// What is saved.
    fn state(&self) -> State<'_, Self::Config>;
    /// The same, to restore.
    fn state_mut(&mut self) -> StateMut<'_, Self::Config>;
    /// Sets the initial weights of a new run.
    fn initialise(&mut self) -> Result<(), Self::Error>;
    /// Gets the data in place for step `step`, the first of this process; called once, before any step.
    fn start(&mut self, step: u64) -> Result<(), Self::Error>;
    /// What is trained, in one line for the person.
    fn describe(&self) -> String;
    /// One step at this learning rate.
    fn step(&mut self, step: u64, rate: f64) -> Result<Stepped, Self::Error>;
    /// What the steps since the last call report, beside loss, learning rate, gradient norm and tokens.
    fn metrics(&mut self) -> Vec<(String, f64)>;
    /// Measures on held-out data.
    fn evaluate(&mut self) -> Result<Evaluation, Self::Error>;
}

/// How long a run is, and what it does how often.
#[derive(Clone, Debug)]
pub struct Cadence {
    /// Steps in all.
    pub steps: u64,
    /// Learning rate over time.
    pub schedule: Schedule,
    /// Steps between evaluations; 0 for the end only.
    pub evaluate_every: u64,
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Metrics, and how many steps in a row may be skipped.
    pub log: LogConfig,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Where it stands.
    pub progress: Progress,
    /// The last measurement of this process.
    pub evaluation: Option<Evaluation>,
    /// Real tokens a second of training, evaluation and saving left out, in this process.
    pub tokens_per_second: f64,
    /// Whether all steps were done, or the run was interrupted.
    pub finished: bool,
    /// Model directory, or the checkpoint to go on from.
    pub path: PathBuf,
}

/// Runs a task to its end, or until `stop` is set: from the last checkpoint in the directory, or anew where there is none.
pub fn run<T: Task>(
    task: &mut T,
    cadence: &Cadence,
    directory: &RunDirectory,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Ended, T::Error> {
    let progress = match directory.last_checkpoint() {
        Some((step, path)) => {
            let progress = checkpoint::load(path, task.state_mut()).map_err(RunError::from)?;
            observer.line(&format!(
                "resuming `{}` at step {step}",
                directory.path().display()
            ));
            progress
        }
        None => {
            task.initialise()?;
            Progress::default()
        }
    };
    directory.write_config(task.state().config)?;
    let log = directory.open_log(progress.step)?;
    observer.line(&task.describe());
    task.start(progress.step)?;
    let run = Run {
        last_saved: directory.last_checkpoint().map(|(step, _)| step),
        task,
        cadence,
        directory,
        progress,
        log,
        pace: Pace::default(),
        interval: Vec::new(),
        evaluation: None,
        saved_at: Instant::now(),
        observer,
    };
    run.go(stop)
}

struct Run<'a, T> {
    task: &'a mut T,
    cadence: &'a Cadence,
    directory: &'a RunDirectory,
    progress: Progress,
    log: RunLog,
    pace: Pace,
    /// Steps since the last record.
    interval: Vec<Stepped>,
    evaluation: Option<Evaluation>,
    last_saved: Option<u64>,
    saved_at: Instant,
    observer: &'a mut dyn Observer,
}

impl<T: Task> Run<'_, T> {
    fn go(mut self, stop: &AtomicBool) -> Result<Ended, T::Error> {
        if self.progress.step == 0 {
            self.evaluate()?;
        }
        while self.progress.step < self.cadence.steps && !stop.load(Ordering::Relaxed) {
            self.step()?;
            self.log_if_due()?;
            self.evaluate_if_due()?;
            self.save_if_due()?;
        }
        self.observer.finish();
        let finished = self.progress.step >= self.cadence.steps;
        let path = if finished {
            let path = self.directory.model();
            self.write_model(&path)?;
            if self.evaluation.is_none() {
                self.evaluate()?;
            }
            path
        } else {
            self.save()?
        };
        Ok(Ended {
            progress: self.progress,
            evaluation: self.evaluation,
            tokens_per_second: self.pace.tokens_per_second(),
            finished,
            path,
        })
    }

    fn step(&mut self) -> Result<(), T::Error> {
        let start = Instant::now();
        let rate = self.cadence.schedule.rate(self.progress.step);
        let stepped = self.task.step(self.progress.step, rate)?;
        self.pace.add(stepped.tokens, start.elapsed());
        self.interval.push(stepped);
        self.progress.step += 1;
        self.progress.tokens += stepped.tokens;
        self.guard(&stepped)?;
        let (step, steps) = (self.progress.step, self.cadence.steps);
        let left = self.pace.time_of(steps - step);
        let speed = self.pace.tokens_per_second();
        self.observer.step(step, steps, stepped.loss, speed, left);
        Ok(())
    }

    /// Counts steps in a row that were left out of the update, and ends the run where there are too many.
    fn guard(&mut self, stepped: &Stepped) -> Result<(), T::Error> {
        if stepped.norm.is_some() {
            self.progress.skipped = 0;
            return Ok(());
        }
        self.progress.skipped += 1;
        let step = self.progress.step;
        self.observer.line(&format!(
            "step {step}: loss or gradient is not finite, left out of the update"
        ));
        if self.progress.skipped > self.cadence.log.non_finite_skips {
            let saved = self.save()?;
            let skips = self.progress.skipped;
            return Err(RunError::NonFinite { skips, step, saved }.into());
        }
        Ok(())
    }

    fn log_if_due(&mut self) -> Result<(), T::Error> {
        let step = self.progress.step;
        if !step.is_multiple_of(self.cadence.log.every_steps) && step != self.cadence.steps {
            return Ok(());
        }
        let mean = |values: &mut dyn ExactSizeIterator<Item = f64>| {
            let n = values.len().max(1) as f64;
            values.sum::<f64>() / n
        };
        let norms: Vec<f64> = self.interval.iter().filter_map(|s| s.norm).collect();
        let mut values = vec![
            ("loss", mean(&mut self.interval.iter().map(|s| s.loss))),
            ("learning_rate", self.cadence.schedule.rate(step - 1)),
            ("gradient_norm", mean(&mut norms.into_iter())),
            ("tokens", self.progress.tokens as f64),
            ("tokens_per_second", self.pace.interval_tokens_per_second()),
        ];
        let more = self.task.metrics();
        values.extend(more.iter().map(|(name, value)| (name.as_str(), *value)));
        let logged = self.log.log("train", step, &values);
        logged.map_err(RunError::from)?;
        self.interval.clear();
        self.pace.next_interval();
        Ok(())
    }

    fn evaluate_if_due(&mut self) -> Result<(), T::Error> {
        let (step, every) = (self.progress.step, self.cadence.evaluate_every);
        if (every > 0 && step.is_multiple_of(every)) || step == self.cadence.steps {
            self.evaluate()?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<(), T::Error> {
        let evaluation = self.task.evaluate()?;
        let step = self.progress.step;
        let metrics = evaluation.metrics.iter();
        let mut values: Vec<(&str, f64)> = metrics.map(|(n, v)| (n.as_str(), *v)).collect();
        values.push(("tokens", self.progress.tokens as f64));
        let logged = self.log.log("eval", step, &values);
        logged.map_err(RunError::from)?;
        self.observer
            .line(&format!("step {step}: {}", evaluation.line));
        // The untrained model is never the best.
        if step > 0 && self.progress.best.is_none_or(|b| evaluation.score > b) {
            self.progress.best = Some(evaluation.score);
            self.write_model(&self.directory.best())?;
        }
        self.evaluation = Some(evaluation);
        Ok(())
    }

    fn save_if_due(&mut self) -> Result<(), RunError> {
        let (step, c) = (self.progress.step, &self.cadence.checkpoint);
        let by_step = c.every_steps > 0 && step.is_multiple_of(c.every_steps);
        let minutes = self.saved_at.elapsed().as_secs_f64() / 60.0;
        let by_time = c.every_minutes > 0.0 && minutes > c.every_minutes;
        if by_step || by_time || step == self.cadence.steps || c.keep_steps.contains(&step) {
            self.save()?;
            self.saved_at = Instant::now();
        }
        Ok(())
    }

    /// Writes the checkpoint of this step where there is none yet; gives its path.
    fn save(&mut self) -> Result<PathBuf, RunError> {
        let dir = self.directory.checkpoints();
        if self.last_saved == Some(self.progress.step) {
            return Ok(dir.join(checkpoint::name(self.progress.step)));
        }
        self.log.sync()?;
        let notes = self.notes();
        let path = checkpoint::save(&dir, &self.task.state(), &self.progress, &notes)?;
        let c = &self.cadence.checkpoint;
        checkpoint::prune(&dir, c.keep_last, &c.keep_steps)?;
        self.last_saved = Some(self.progress.step);
        Ok(path)
    }

    fn write_model(&self, path: &Path) -> Result<(), RunError> {
        let state = self.task.state();
        write_model_dir(path, &state.contents(self.notes()), |p| {
            state.store.bytes(state.store.buffer(), &p.name)
        })?;
        Ok(())
    }

    /// What a model directory remembers of its making.
    fn notes(&self) -> Map<String, Value> {
        let state = self.task.state();
        let mut notes = Map::new();
        notes.insert("tokenizer_hash".to_string(), state.tokenizer_hash.into());
        notes.insert("steps".to_string(), self.progress.step.into());
        notes.insert("tokens".to_string(), self.progress.tokens.into());
        notes
    }
}
