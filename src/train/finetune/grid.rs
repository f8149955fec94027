//! All runs of a grid on one task after the other: resumable run by run, the best kept.
//!
//! | under `OUT/TASK` | content |
//! | --- | --- |
//! | `best/` | model directory of the run with the best development score |
//! | `RUN/SPLIT/` | `result.json` and `predictions.jsonl` ([`crate::eval::result`]) of each run |
//! | `RUN/metrics.jsonl` | its log |
//! | `RUN/run.json` | its record ([`RunRecord`]), written last: a run that has it is done |
//! | `RUN/model/` | its model, where all are kept |
//! | `summary.json` | [`TaskSummary`] |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use serde_json::{Map, Value, json};

use tcd_analysis::metrics::number_to_json;
use tcd_export::runtime::Runtime;
use tcd_export::{Architecture, Contents, ModelDir, write_model_dir};

use super::record::{GridSummary, RUN_FILE, RunRecord, SUMMARY_FILE, TaskSummary, best};
use super::run::{Encoded, FinetuneError, Finished, RunPlace, TaskData, head, run};
use super::settings::{FROM_MNLI, FinetuneConfig, Keep, RunSetting};
use crate::data::glue::{Found, Kind, Role, Split, SplitData, Task, read_split};
use crate::eval::encode::encode;
use crate::eval::labels::{Answer, LabelMap};
use crate::eval::model::Model;
use crate::eval::predictions::predictions;
use crate::eval::result::{
    self, DataRecord, EncodingRecord, FinetuneRecord, Judged, ModelRecord, RuntimeRecord, SCHEMA,
    TaskResult, rank,
};
use crate::files::write_whole;
use crate::model::{StoreOptions, Tch};
use crate::seed::{Stream, rng};
use crate::train::config::Precision;
use crate::train::run::{Observer, RunDirectory, device, prepare_process};

/// What to fine-tune on what.
pub struct Grid<'a> {
    /// Pre-trained model directory.
    pub model: &'a Path,
    /// What tables call it; its directory's name where none is given.
    pub name: Option<&'a str>,
    /// Directory of GLUE.
    pub data: &'a Path,
    /// Output directory.
    pub out: &'a Path,
    /// Tasks.
    pub tasks: &'a [&'static Task],
    /// Whether a task that is not there is left out, and told, rather than an error.
    pub lenient: bool,
    /// Leave malformed rows out.
    pub skip_malformed: bool,
    /// Settings.
    pub config: &'a FinetuneConfig,
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FinetuneError {
    let path = path.to_owned();
    move |source| FinetuneError::Io {
        doing,
        path,
        source,
    }
}

/// Fine-tunes every task with every setting; returns when all is done or `stop` is set.
pub fn finetune(
    grid: &Grid<'_>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<GridSummary, FinetuneError> {
    let problems = grid.config.validate();
    if !problems.is_empty() {
        return Err(FinetuneError::Settings(problems));
    }
    prepare_process(grid.config.threads);
    let mut tasks: Vec<&'static Task> = grid.tasks.to_vec();
    // What others start from comes first.
    tasks.sort_by_key(|task| grid.config.start_from_mnli && task.name != "MNLI");
    let mut summary = GridSummary {
        tasks: Vec::new(),
        done: 0,
        found: 0,
        finished: true,
    };
    for task in tasks {
        let Some(data) = prepare(grid, task, observer)? else {
            continue;
        };
        let work = TaskWork::new(grid, task, data)?;
        if !work.go(&mut summary, stop, observer)? {
            summary.finished = false;
            break;
        }
    }
    if summary.tasks.is_empty() && summary.finished {
        return Err(FinetuneError::Task {
            task: "any task",
            what: format!("`{}` holds none that was asked for", grid.data.display()),
        });
    }
    Ok(summary)
}

/// Reads and encodes a task's sets; none where it is left out.
fn prepare(
    grid: &Grid<'_>,
    task: &'static Task,
    observer: &mut dyn Observer,
) -> Result<Option<TaskData>, FinetuneError> {
    let refuse = |what: String| FinetuneError::Task {
        task: task.name,
        what,
    };
    if let Some(other) = task.answered_by {
        if grid.lenient {
            return Ok(None);
        }
        return Err(refuse(format!(
            "it has no training set; hint: fine-tune on {other}, and evaluate that model on {}",
            task.name
        )));
    }
    let mut read = |split: &'static Split| -> Result<Option<SplitData>, FinetuneError> {
        match read_split(grid.data, task, split, grid.skip_malformed)? {
            Found::Data(data) => {
                data.notes().iter().for_each(|line| observer.line(line));
                Ok(Some(*data))
            }
            Found::Missing(missing) => {
                observer.line(&missing.to_string());
                Ok(None)
            }
        }
    };
    let train = task
        .splits_of(Role::Train)
        .next()
        .map(&mut read)
        .transpose()?
        .flatten();
    let mut dev = Vec::new();
    if train.is_some() {
        for split in task.splits_of(Role::Dev) {
            dev.extend(read(split)?);
        }
    }
    let (Some(mut train), false) = (train, dev.is_empty()) else {
        if grid.lenient {
            observer.line(&format!("{} is left out", task.name));
            return Ok(None);
        }
        return Err(refuse(
            "it needs a training and a development set".to_owned(),
        ));
    };
    if let Some(rows) = grid.config.train_rows {
        sample(&mut train, rows);
    }
    let model = Model::open(grid.model)?;
    let max_length = grid.config.max_length.min(model.max_positions);
    let mut encoded = |data: SplitData| -> Result<Encoded, FinetuneError> {
        let set = encode(&model.tokenizer, &data.examples, max_length)?;
        if set.truncated > 0 {
            observer.line(&format!(
                "{} {}: {} of {} rows cut to {max_length} tokens",
                task.name,
                data.split.name,
                set.truncated,
                set.rows.len()
            ));
        }
        Ok(Encoded { data, set })
    };
    Ok(Some(TaskData {
        task,
        train: encoded(train)?,
        dev: dev.into_iter().map(encoded).collect::<Result<_, _>>()?,
    }))
}

/// Keeps some rows, in their order; the same ones for every model and run.
fn sample(data: &mut SplitData, rows: usize) {
    if rows >= data.examples.len() {
        return;
    }
    let mut places: Vec<usize> = (0..data.examples.len()).collect();
    places.shuffle(&mut rng(0, Stream::Data, &[0x7361_6d70]));
    places.truncate(rows);
    places.sort_unstable();
    data.examples = places
        .into_iter()
        .map(|place| data.examples[place].clone())
        .collect();
}

/// The runs on one task.
struct TaskWork<'a> {
    grid: &'a Grid<'a>,
    data: TaskData,
    start: ModelDir,
    start_model: Model,
    start_task: Option<String>,
    /// Of the pre-trained model's weights.
    base_blake3: String,
    name: String,
    arch: Architecture,
    options: StoreOptions,
    dir: PathBuf,
    key: String,
    version: String,
}

impl<'a> TaskWork<'a> {
    fn new(
        grid: &'a Grid<'a>,
        task: &'static Task,
        data: TaskData,
    ) -> Result<TaskWork<'a>, FinetuneError> {
        let config = grid.config;
        let from_mnli = config.start_from_mnli && FROM_MNLI.contains(&task.name);
        let mnli = grid.out.join("MNLI/best");
        let path = if from_mnli {
            mnli.as_path()
        } else {
            grid.model
        };
        if from_mnli && !path.is_dir() {
            return Err(FinetuneError::Task {
                task: task.name,
                what: format!(
                    "it is to start from the MNLI model, and `{}` is not there; hint: fine-tune on MNLI first, with the same `--out`",
                    path.display()
                ),
            });
        }
        let base = Model::open(grid.model)?;
        let base_blake3 = ModelDir::open(grid.model)?.weights_hash()?;
        let start_model = Model::open(path)?;
        let start = ModelDir::open(path)?;
        let mut raw = (**start.architecture()).clone();
        if let Some(p) = config.dropout {
            raw.hidden_dropout_prob = p;
            raw.attention_probs_dropout_prob = p;
            raw.classifier_dropout = None;
        }
        match (&mut raw.moe, config.expert_dropout) {
            (Some(moe), Some(p)) => moe.expert_dropout = p,
            (None, Some(_)) => {
                return Err(FinetuneError::Settings(vec![format!(
                    "expert dropout is for models with experts, and `{}` has none",
                    path.display()
                )]));
            }
            _ => {}
        }
        if raw.moe.is_none() && config.balance_loss > 0.0 {
            return Err(FinetuneError::Settings(vec![format!(
                "a balance loss is for models with experts, and `{}` has none",
                path.display()
            )]));
        }
        let device = device(config.device)?;
        let bf16 = match config.precision {
            Precision::Auto => device.is_cuda(),
            Precision::F32 => false,
            Precision::Bf16 => true,
        };
        let name = grid.name.map(str::to_owned).unwrap_or_else(|| {
            let noted = base.notes.get("base").and_then(Value::as_str);
            noted.map_or_else(|| base.name(), str::to_owned)
        });
        let mut work = TaskWork {
            dir: grid.out.join(task.name),
            start_task: start_model.task.clone(),
            version: Tch.check().map_err(FinetuneError::Engine)?,
            arch: raw.validate()?,
            options: StoreOptions { device, bf16 },
            key: String::new(),
            base_blake3,
            name,
            grid,
            data,
            start,
            start_model,
        };
        work.key = work.make_key()?;
        Ok(work)
    }

    /// A hash of what decides on every run of the task beside its own setting.
    fn make_key(&self) -> Result<String, FinetuneError> {
        let config = self.grid.config;
        let dev: Vec<&str> = self.data.dev.iter().map(|d| d.data.hash.as_str()).collect();
        let parts = json!([
            env!("CARGO_PKG_VERSION"),
            self.name,
            self.start.weights_hash()?,
            self.start_model.tokenizer.hash(),
            self.arch.to_map(),
            self.data.train.data.hash,
            dev,
            config.warmup,
            config.optimizer,
            config.evaluations_per_epoch,
            config.patience,
            self.max_length(),
            config.balance_loss,
            config.train_rows,
            self.options.bf16,
        ]);
        let hash = blake3::hash(parts.to_string().as_bytes());
        Ok(hash.to_hex().to_string())
    }

    fn max_length(&self) -> usize {
        self.grid
            .config
            .max_length
            .min(self.start_model.max_positions)
    }

    /// Does what is not done yet; false if stopped.
    fn go(
        &self,
        summary: &mut GridSummary,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<bool, FinetuneError> {
        let task = self.data.task;
        // One process a task at a time; the lock lives as long as this value.
        let _locked = RunDirectory::open(&self.dir, true)?;
        let runs = self.grid.config.runs();
        let mut records: Vec<RunRecord> = Vec::new();
        for run in &runs {
            records.extend(self.existing(run)?);
        }
        summary.found += records.len();
        observer.line(&format!(
            "{}: {} training rows, {} runs{}{}",
            task.name,
            self.data.train.set.rows.len(),
            runs.len(),
            match records.len() {
                0 => String::new(),
                n => format!(", {n} of them done before"),
            },
            match &self.start_task {
                Some(other) => format!(", starting from the model fine-tuned on {other}"),
                None => String::new(),
            }
        ));
        let begun = Instant::now();
        let (mut done, todo) = (0, runs.len() - records.len());
        for setting in &runs {
            if records.iter().any(|record| record.setting == *setting) {
                continue;
            }
            let Some(record) = self.one(*setting, &records, stop, observer)? else {
                return Ok(false);
            };
            done += 1;
            summary.done += 1;
            let left = begun.elapsed().as_secs_f64() / done as f64 * (todo - done) as f64;
            observer.line(&format!(
                "{} {}: {:.4}{}",
                task.name,
                record.id,
                record.score,
                if done < todo {
                    let left = Duration::from_secs(left as u64);
                    format!("; run {done} of {todo} done, about {left:?} left on this task")
                } else {
                    String::new()
                }
            ));
            for warning in &record.warnings {
                observer.line(&format!("warning: {} {}: {warning}", task.name, record.id));
            }
            records.push(record);
        }
        records.sort_by_key(|record| runs.iter().position(|run| *run == record.setting));
        let best = best(&records).map(|record| record.id.clone());
        let task_summary = TaskSummary {
            task: task.name,
            best: best.unwrap_or_default(),
            model: self.dir.join("best"),
            runs: records,
        };
        let file = self.dir.join(SUMMARY_FILE);
        let text = format!("{:#}\n", json!(task_summary));
        write_whole(&file, text.as_bytes()).map_err(io("write", &file))?;
        summary.tasks.push(task_summary);
        Ok(true)
    }

    /// The record of a run that is done.
    fn existing(&self, setting: &RunSetting) -> Result<Option<RunRecord>, FinetuneError> {
        let dir = self.dir.join(setting.id());
        let file = dir.join(RUN_FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &file)(source)),
        };
        match serde_json::from_str::<RunRecord>(&text) {
            Ok(record) if record.key == self.key && record.setting == *setting => Ok(Some(record)),
            _ => Err(FinetuneError::OtherRun { path: dir }),
        }
    }

    /// Does one run, keeps its model if it is the best so far, and writes its record. None if stopped.
    fn one(
        &self,
        setting: RunSetting,
        before: &[RunRecord],
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Option<RunRecord>, FinetuneError> {
        let dir = self.dir.join(setting.id());
        // What is there without a record is what a run left that was stopped.
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(io("remove", &dir))?;
        }
        let place = RunPlace {
            setting,
            config: self.grid.config,
            arch: &self.arch,
            start: &self.start,
            data: &self.data,
            options: self.options,
            dir: &dir,
        };
        let Some(finished) = run(&place, stop, observer)? else {
            return Ok(None);
        };
        let record = self.record(setting, &finished);
        let model = self.dir.join("best");
        if best(before).is_none_or(|best| rank(record.score) > rank(best.score)) || !model.exists()
        {
            self.write_model(&model, &finished, &record)?;
        }
        if self.grid.config.keep == Keep::All {
            self.write_model(&dir.join("model"), &finished, &record)?;
        }
        self.write_results(&dir, &finished, &record)?;
        let file = dir.join(RUN_FILE);
        let text = format!("{:#}\n", json!(record));
        write_whole(&file, text.as_bytes()).map_err(io("write", &file))?;
        Ok(Some(record))
    }

    fn record(&self, setting: RunSetting, finished: &Finished) -> RunRecord {
        let mut warnings = finished.warnings.clone();
        for ((judged, _), dev) in finished.best.sets.iter().zip(&self.data.dev) {
            let split = dev.data.split.name;
            warnings.extend(judged.warnings.iter().map(|w| format!("{split}: {w}")));
        }
        if finished.best.sets.is_empty() {
            warnings.push("the model's outputs are not numbers".to_owned());
        }
        RunRecord {
            key: self.key.clone(),
            id: setting.id(),
            task: self.data.task.name.to_owned(),
            setting,
            score: finished.best.score,
            warnings,
            finetuning: FinetuneRecord {
                learning_rate: setting.learning_rate,
                batch_size: setting.batch_size,
                epochs: setting.epochs,
                seed: setting.seed,
                steps: finished.steps,
                best_epoch: finished.best_epoch,
                stopped_early: finished.stopped_early,
                start_task: self.start_task.clone(),
                seconds: finished.seconds,
                train_rows: self.data.train.set.rows.len(),
                base_blake3: Some(self.base_blake3.clone()),
            },
        }
    }

    fn write_model(
        &self,
        path: &Path,
        finished: &Finished,
        record: &RunRecord,
    ) -> Result<(), FinetuneError> {
        let task = self.data.task;
        let tokenizer = &self.start_model.tokenizer;
        let labels = match task.kind {
            Kind::Classification => task.label_names(),
            Kind::Regression => vec!["score".to_owned()],
        };
        let problem = match task.kind {
            Kind::Classification => "single_label_classification",
            Kind::Regression => "regression",
        };
        let keys = [("finetuning_task", task.name), ("problem_type", problem)];
        let mut notes = Map::new();
        notes.insert("base".to_owned(), self.name.clone().into());
        notes.insert("run".to_owned(), record.id.clone().into());
        notes.insert("max_length".to_owned(), self.max_length().into());
        notes.insert("tokenizer_hash".to_owned(), tokenizer.hash().into());
        notes.insert("dev_score".to_owned(), number_to_json(record.score));
        notes.insert("finetuning".to_owned(), json!(record.finetuning));
        let contents = Contents {
            architecture: &self.arch,
            head: head(task),
            tokenizer_json: &tokenizer.to_json()?,
            labels: &labels,
            keys: keys
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect(),
            notes,
        };
        let store = &finished.store;
        write_model_dir(path, &contents, |p| store.bytes(store.buffer(), &p.name))?;
        Ok(())
    }

    /// The results of a run, one directory a split.
    fn write_results(
        &self,
        dir: &Path,
        finished: &Finished,
        record: &RunRecord,
    ) -> Result<(), FinetuneError> {
        let task = self.data.task;
        let map = LabelMap::identity(task);
        for (place, dev) in self.data.dev.iter().enumerate() {
            let found = finished.best.sets.get(place);
            let failed = Judged::failed(task);
            let judged = found.map_or(&failed, |(judged, _)| judged);
            let predictions = found.map_or(Vec::new(), |(judged, logits)| {
                let answers: &[Answer] = &judged.answers;
                predictions(task, &dev.data.examples, answers, logits, &map)
            });
            let mut warnings = finished.warnings.clone();
            warnings.extend(judged.warnings.iter().cloned());
            let result = TaskResult {
                schema: SCHEMA.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                task: task.name.to_owned(),
                split: dev.data.split.name.to_owned(),
                score: judged.score,
                scores: judged.scores.clone(),
                prediction_counts: judged.prediction_counts.clone(),
                warnings,
                model: ModelRecord {
                    name: self.name.clone(),
                    path: self.start.path().to_owned(),
                    weights_blake3: None,
                    tokenizer_hash: self.start_model.tokenizer.hash().to_owned(),
                },
                data: DataRecord::new(&dev.data),
                encoding: EncodingRecord {
                    max_length: self.max_length(),
                    truncated: dev.set.truncated,
                },
                runtime: RuntimeRecord {
                    name: Tch.name().to_owned(),
                    version: self.version.clone(),
                    threads: tch::get_num_threads() as usize,
                    sessions: 1,
                    seconds: None,
                    rows_per_second: None,
                },
                finetuning: Some(record.finetuning.clone()),
                key: format!("{} {}", record.key, record.id),
            };
            result::write(&dir.join(dev.data.split.name), &result, &predictions)?;
        }
        Ok(())
    }
}
