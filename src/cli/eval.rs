//! `tcd eval`: score fine-tuned models on GLUE, on any engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use tcd_export::runtime::{Options, Runnable, Runtime};

use super::engine::chosen;
use super::interrupt::watch_for_ctrl_c;
use super::progress::Progress;
use super::{Outcome, note, out};
use crate::data::glue::{Found, Role, Split, SplitData, TASKS, Task, read_split};
use crate::eval::encode::{BatchSize, EncodedSet, encode};
use crate::eval::labels::LabelMap;
use crate::eval::model::Model;
use crate::eval::predictions::predictions;
use crate::eval::result::{
    self, DataRecord, EncodingRecord, FinetuneRecord, ModelRecord, RESULT_FILE, RuntimeRecord,
    SCHEMA, TaskResult,
};
use crate::eval::run;

/// Arguments of `tcd eval`.
///
/// Writes `OUT/MODEL/TASK/SPLIT/result.json` (scores) and `predictions.jsonl` beside it. What is there already is not done
/// again, so a command that was stopped goes on where it was. Test sets have hidden labels: they give predictions, no scores.
///
/// Examples:
///   tcd eval --model runs/cola/best --task CoLA --data glue --out scores
///   tcd eval --model runs/ft/*/best --data glue --out scores --runtime tch
///   tcd eval --model runs/ft/*/best --data glue --split test --out predictions
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Eval {
    /// Model directories: `config.json`, `tokenizer.json`, and `model.onnx` or `model.safetensors` as the engine needs it.
    #[arg(long, required = true, num_args = 1.., value_name = "DIR")]
    model: Vec<PathBuf>,
    /// Tasks, or `all`: every model is scored on those that it was fine-tuned for.
    #[arg(long, num_args = 1.., default_value = "all", value_name = "TASK")]
    task: Vec<String>,
    /// Directory of the GLUE download, or of the Hugging Face data set's Parquet files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory for scores and predictions.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Split: `train`, `dev`, `test`, or one by its name, such as `dev_mismatched`.
    #[arg(long, default_value = "dev")]
    split: String,
    /// Engine, one of those that this program was built with; an unknown name lists them. Default: the first of them.
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Threads inside a session; 0 takes all processors, shared among the sessions.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Sessions of the model beside each other.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    sessions: u16,
    /// Positions of a batch, padding included. Default: 512, of a mixture of experts 2048; so many for each thread where several
    /// share the work of a batch.
    #[arg(long, value_name = "N", conflicts_with = "batch_size")]
    batch_tokens: Option<usize>,
    /// Rows of a batch, in place of `--batch-tokens`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// Longest row, in tokens; longer ones lose the end of their longer text. Default: as in fine-tuning, else all that the
    /// model takes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(5..))]
    max_length: Option<u32>,
    /// The task's labels in the order of the model's outputs, for models that do not name them.
    #[arg(long, value_delimiter = ',', value_name = "A,B,..")]
    label_order: Option<Vec<String>>,
    /// What the results call the model, in place of its directory's name; for one model.
    #[arg(long)]
    name: Option<String>,
    /// Leave malformed rows out, each told, in place of stopping at the first.
    #[arg(long)]
    skip_malformed: bool,
    /// Do only part `I` of `N` of the work (counted from 0), to spread it over machines.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// Evaluate again what is there already.
    #[arg(long)]
    again: bool,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parsed
        .filter(|(i, n)| i < n)
        .ok_or_else(|| "expected `I/N` with I below N, such as `0/4`".to_owned())
}

/// The tasks of a command line: names, or `all`.
pub(super) fn tasks(names: &[String]) -> Result<Vec<&'static Task>> {
    if names.iter().any(|name| name == "all") {
        return Ok(TASKS.iter().collect());
    }
    names
        .iter()
        .flat_map(|name| name.split(','))
        .map(|name| {
            Task::find(name)
                .with_context(|| format!("there is no task `{name}`; tasks: {}", Task::names()))
        })
        .collect()
}

/// One model on one split.
struct Job {
    model: Rc<Model>,
    name: String,
    files_hash: String,
    data: Rc<SplitData>,
    map: LabelMap,
}

/// Splits read and encoded so far, for models that share them.
#[derive(Default)]
struct Cache {
    splits: HashMap<(&'static str, &'static str), Option<Rc<SplitData>>>,
    encoded: HashMap<(String, String, usize), Rc<EncodedSet>>,
}

impl Eval {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let tasks = tasks(&self.task)?;
        let all = self.task.iter().any(|name| name == "all");
        if self.name.is_some() && self.model.len() > 1 {
            bail!(
                "`--name` is for one model, and {} are given",
                self.model.len()
            );
        }
        let runtime = chosen(self.runtime.as_deref(), &self.model)?;
        let version = runtime
            .check()
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("cannot use the engine `{}`", runtime.name()))?;
        let stop = watch_for_ctrl_c("stopping after this batch; what is done is kept")?;
        let mut cache = Cache::default();
        let jobs = self.jobs(&tasks, all, &mut cache)?;
        let (part, parts) = self.shard.unwrap_or((0, 1));
        let mut sessions: Option<(PathBuf, Vec<Box<dyn Runnable>>)> = None;
        let mut again = 0;
        for job in jobs.iter().skip(part).step_by(parts) {
            let dir = self.dir(job);
            let key = self.key(job, &*runtime);
            let file = dir.join(RESULT_FILE);
            if !self.again && file.is_file() && result::read(&file).is_ok_and(|r| r.key == key) {
                again += 1;
                say(&result::read(&file)?, " (done before)");
                continue;
            }
            if sessions
                .as_ref()
                .is_none_or(|(path, _)| *path != job.model.path)
            {
                sessions = Some((
                    job.model.path.clone(),
                    self.sessions(&job.model, &*runtime)?,
                ));
            }
            let (_, sessions) = sessions.as_mut().context("no session")?;
            let result =
                self.evaluate(job, sessions, &*runtime, &version, key, &stop, &mut cache)?;
            let Some(result) = result else {
                note("stopped; the same command goes on from here");
                return Ok(Outcome::Done);
            };
            say(&result, "");
        }
        if again > 0 {
            note(&format!("{again} done before; `--again` does them again"));
        }
        note(&format!("results: {}", self.out.display()));
        Ok(Outcome::Done)
    }

    /// The splits of a task that were asked for.
    fn splits(&self, task: &'static Task) -> Result<Vec<&'static Split>> {
        let role = match self.split.as_str() {
            "train" => Some(Role::Train),
            "dev" => Some(Role::Dev),
            "test" => Some(Role::Test),
            _ => None,
        };
        let named = TASKS.iter().any(|task| task.split(&self.split).is_some());
        match role {
            Some(role) => Ok(task.splits_of(role).collect()),
            None if named => Ok(task.split(&self.split).into_iter().collect()),
            None => bail!(
                "there is no split `{}`; hint: train, dev or test",
                self.split
            ),
        }
    }

    /// All models on all their splits.
    fn jobs(&self, tasks: &[&'static Task], all: bool, cache: &mut Cache) -> Result<Vec<Job>> {
        let mut jobs: Vec<Job> = Vec::new();
        for path in &self.model {
            let model = Rc::new(Model::open(path)?);
            let name = self.name.clone().unwrap_or_else(|| {
                let base = model.notes.get("base").and_then(|v| v.as_str());
                base.map_or_else(|| model.name(), str::to_owned)
            });
            let files_hash = files_hash(path)?;
            let own = model.task.as_deref().and_then(Task::find);
            let mut fits = 0;
            for &task in tasks {
                let wanted = task.answered_by.unwrap_or(task.name);
                if own.is_some_and(|own| own.name != wanted) && tasks.len() > 1 {
                    if !all {
                        note(&format!(
                            "{name} is not fine-tuned for {}: left out",
                            task.name
                        ));
                    }
                    continue;
                }
                let map = match model.label_map(task, self.label_order.as_deref()) {
                    Ok(map) => map,
                    Err(error) if all && own.is_none() => {
                        note(&format!("left out: {error}"));
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                for split in self.splits(task)? {
                    let Some(data) = self.read(task, split, cache)? else {
                        continue;
                    };
                    fits += 1;
                    jobs.push(Job {
                        model: model.clone(),
                        name: name.clone(),
                        files_hash: files_hash.clone(),
                        data,
                        map: map.clone(),
                    });
                }
            }
            if fits == 0 {
                bail!(
                    "nothing to evaluate `{}` on: no {} data of a task that it answers{} is in `{}`",
                    path.display(),
                    self.split,
                    own.map_or(String::new(), |own| format!(" ({})", own.name)),
                    self.data.display()
                );
            }
        }
        for (i, job) in jobs.iter().enumerate() {
            let dir = self.dir(job);
            if let Some(other) = jobs[..i].iter().find(|other| self.dir(other) == dir) {
                bail!(
                    "`{}` and `{}` would both write `{}`; hint: evaluate them one by one with `--name` or another `--out`",
                    other.model.path.display(),
                    job.model.path.display(),
                    dir.display()
                );
            }
        }
        Ok(jobs)
    }

    fn read(
        &self,
        task: &'static Task,
        split: &'static Split,
        cache: &mut Cache,
    ) -> Result<Option<Rc<SplitData>>> {
        let key = (task.name, split.name);
        if let Some(data) = cache.splits.get(&key) {
            return Ok(data.clone());
        }
        let data = match read_split(&self.data, task, split, self.skip_malformed)? {
            Found::Data(data) => {
                data.notes().iter().for_each(|line| note(line));
                Some(Rc::from(data))
            }
            Found::Missing(missing) => {
                note(&missing.to_string());
                None
            }
        };
        cache.splits.insert(key, data.clone());
        Ok(data)
    }

    fn dir(&self, job: &Job) -> PathBuf {
        // Fine-tuned models of one beginning differ by setting and seed, which their notes tell.
        let run = job.model.notes.get("run").and_then(|v| v.as_str());
        let mut dir = self.out.join(&job.name).join(job.data.task.name);
        if let Some(run) = run {
            dir = dir.join(run);
        }
        dir.join(job.data.split.name)
    }

    /// Threads of a session.
    fn session_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self.threads {
            0 => (cores / usize::from(self.sessions)).max(1),
            threads => threads,
        }
    }

    fn sessions(&self, model: &Model, runtime: &dyn Runtime) -> Result<Vec<Box<dyn Runnable>>> {
        let options = Options {
            threads: self.session_threads(),
            outputs: vec!["logits".to_owned()],
        };
        (0..self.sessions)
            .map(|_| {
                runtime
                    .prepare(&model.path, &options)
                    .map_err(anyhow::Error::from_boxed)
            })
            .collect::<Result<Vec<_>>>()
            .map(|sessions| sessions.into_iter().flat_map(Runnable::workers).collect())
            .with_context(|| {
                format!(
                    "cannot load `{}` on {}",
                    model.path.display(),
                    runtime.name()
                )
            })
    }

    fn row_length(&self, job: &Job) -> usize {
        job.model.row_length(self.max_length.map(|n| n as usize))
    }

    fn key(&self, job: &Job, runtime: &dyn Runtime) -> String {
        let parts = json!([
            SCHEMA,
            env!("CARGO_PKG_VERSION"),
            job.name,
            job.files_hash,
            job.data.hash,
            job.data.split.name,
            self.row_length(job),
            format!("{:?}", job.map),
            runtime.name(),
        ]);
        let hash = blake3::hash(parts.to_string().as_bytes());
        hash.to_hex().to_string()
    }

    #[allow(clippy::too_many_arguments)]
    fn evaluate(
        &self,
        job: &Job,
        sessions: &mut [Box<dyn Runnable>],
        runtime: &dyn Runtime,
        version: &str,
        key: String,
        stop: &AtomicBool,
        cache: &mut Cache,
    ) -> Result<Option<TaskResult>> {
        let Job {
            model, data, map, ..
        } = job;
        let what = format!("{} {} {}", job.name, data.task.name, data.split.name);
        let max_length = self.row_length(job);
        let place = (
            model.tokenizer.hash().to_owned(),
            data.hash.clone(),
            max_length,
        );
        let set = match cache.encoded.get(&place) {
            Some(set) => set.clone(),
            None => {
                let set = Rc::new(encode(&model.tokenizer, &data.examples, max_length)?);
                cache.encoded.insert(place, set.clone());
                set
            }
        };
        if set.truncated > 0 {
            note(&format!(
                "{what}: {} of {} rows cut to {max_length} tokens",
                set.truncated,
                set.rows.len()
            ));
        }
        let size = match self.batch_size {
            Some(rows) => BatchSize::Rows(rows as usize),
            None => {
                let inside = self.session_threads() * usize::from(self.sessions) / sessions.len();
                BatchSize::positions(self.batch_tokens, model.mixture, inside)
            }
        };
        let start = Instant::now();
        let progress = Progress::new(&what, "rows", set.rows.len());
        let done = |rows| progress.advance(rows);
        let logits = match run::run(sessions, &set, size, map.outputs(), stop, &done) {
            Err(run::RunError::Stopped) => return Ok(None),
            logits => logits.with_context(|| format!("cannot evaluate {what}"))?,
        };
        drop(progress);
        let seconds = start.elapsed().as_secs_f64();
        let judged =
            result::judge(data, &logits, map).with_context(|| format!("cannot score {what}"))?;
        let finetuning = model.notes.get("finetuning").cloned();
        let result = TaskResult {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            task: data.task.name.to_owned(),
            split: data.split.name.to_owned(),
            score: judged.score,
            scores: judged.scores,
            prediction_counts: judged.prediction_counts,
            warnings: judged.warnings,
            model: ModelRecord {
                name: job.name.clone(),
                path: model.path.clone(),
                weights_blake3: model.weights_hash.clone(),
                tokenizer_hash: model.tokenizer.hash().to_owned(),
            },
            data: DataRecord::new(data),
            encoding: EncodingRecord {
                max_length,
                truncated: set.truncated,
            },
            runtime: RuntimeRecord {
                name: runtime.name().to_owned(),
                version: version.to_owned(),
                threads: self.session_threads(),
                sessions: sessions.len(),
                seconds: Some(seconds),
                rows_per_second: Some(set.rows.len() as f64 / seconds),
            },
            finetuning: finetuning
                .and_then(|value| serde_json::from_value::<FinetuneRecord>(value).ok()),
            key,
        };
        let predictions = predictions(data.task, &data.examples, &judged.answers, &logits, map);
        result::write(&self.dir(job), &result, &predictions)?;
        Ok(Some(result))
    }
}

/// One line on standard output.
fn say(result: &TaskResult, how: &str) {
    let scores: Vec<String> = result
        .task()
        .map_or(&[][..], |task| task.metrics)
        .iter()
        .filter_map(|metric| {
            let value = result.scores.get(metric.name())?;
            Some(format!("{} {:.4}", metric.name(), value))
        })
        .collect();
    out(&format!(
        "{} {} {}: {}, {} rows{}{how}",
        result.model.name,
        result.task,
        result.split,
        if scores.is_empty() {
            "predictions only, labels are hidden".to_owned()
        } else {
            scores.join(", ")
        },
        result.data.rows,
        result
            .runtime
            .rows_per_second
            .map_or(String::new(), |rate| format!(", {rate:.0} rows/s")),
    ));
    for warning in &result.warnings {
        note(&format!(
            "warning: {} {}: {warning}",
            result.task, result.split
        ));
    }
}

/// A hash of the files that decide what a model says.
fn files_hash(dir: &Path) -> Result<String> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let model = [".onnx", ".safetensors", ".data", ".bin"]
            .iter()
            .any(|end| name.ends_with(end));
        path.is_file() && (model || name == "config.json")
    });
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for path in files {
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher
            .update_mmap_rayon(&path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
