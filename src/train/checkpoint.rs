//! Checkpoints: everything a run needs to go on as if it had not stopped.
//!
//! A checkpoint is a directory `step-00001000` that holds a model directory (so any checkpoint can be evaluated), the
//! optimizer's moments by parameter name, and `state.json`: step, counters, what the run was made of, and a hash of each file.
//! Every random decision is a function of seeds and step (see [`crate::seed`]), so the step is the whole random state. A
//! checkpoint is written beside its place, flushed to disk and renamed: what has its name is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use tcd_export::{
    Architecture, Contents, Head, ModelDirError, Parameter, Values, Weights, WeightsError,
    parameters, write_model_dir, write_tensors,
};

use super::optimizer::AdamW;
use crate::model::{ModelError, Store};

const FORMAT: u32 = 1;
const MODEL_FILE: &str = "model.safetensors";
const MOMENTS_FILE: &str = "optimizer.safetensors";

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// The model part failed.
    #[error(transparent)]
    Model(#[from] ModelDirError),
    /// The tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The parameters are not the model's.
    #[error(transparent)]
    Parameters(#[from] ModelError),
    /// A file was cut off or changed.
    #[error("the checkpoint `{}` is damaged: {problem}; hint: remove that directory to go on from the checkpoint before it", path.display())]
    Damaged {
        /// Checkpoint.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The run was made of something else.
    #[error("the run in `{}` was started with other settings: {}; hint: use its `config.toml`, or another `output`", path.display(), differences.join("; "))]
    Different {
        /// Checkpoint.
        path: PathBuf,
        /// Key, old and new value of each.
        differences: Vec<String>,
    },
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Real tokens read.
    pub tokens: u64,
    /// Steps left out in a row for a loss or gradient that was not finite.
    pub skipped: u64,
    /// Best held-out score so far; the log-likelihood in pre-training.
    pub best: Option<f64>,
}

/// The configuration of a kind of run, as checkpoints hold and compare it.
pub trait Settings: Serialize + DeserializeOwned {
    /// What of it decides on the weights. The rest (what is written, where and when) may change between start and resume.
    fn decisive(&self) -> Value;
}

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record<C> {
    format: u32,
    version: String,
    progress: Progress,
    updates: u64,
    corpus_key: String,
    config: C,
    hashes: BTreeMap<String, String>,
}

/// The state of a run, to save.
#[derive(Debug)]
pub struct State<'a, C> {
    /// Parameters.
    pub store: &'a Store,
    /// Moments.
    pub optimizer: &'a AdamW,
    /// Model.
    pub arch: &'a Architecture,
    /// Its head.
    pub head: Head,
    /// Names of the classes; empty where there are none.
    pub labels: &'a [String],
    /// Text of `tokenizer.json`.
    pub tokenizer_json: &'a str,
    /// Hash of the tokenizer, for the model's notes.
    pub tokenizer_hash: &'a str,
    /// Key of the data: a run goes on only with the same.
    pub data_key: &'a str,
    /// Configuration of the run.
    pub config: &'a C,
}

impl<C> State<'_, C> {
    /// The model directory of this state.
    pub fn contents(&self, notes: Map<String, Value>) -> Contents<'_> {
        Contents {
            architecture: self.arch,
            head: self.head,
            tokenizer_json: self.tokenizer_json,
            labels: self.labels,
            keys: Map::new(),
            notes,
        }
    }
}

/// The state of a run, to restore: `store` and `optimizer` are written, the rest must be what was saved.
#[derive(Debug)]
pub struct StateMut<'a, C> {
    /// Parameters.
    pub store: &'a mut Store,
    /// Moments.
    pub optimizer: &'a mut AdamW,
    /// Model.
    pub arch: &'a Architecture,
    /// Its head.
    pub head: Head,
    /// Key of the data.
    pub data_key: &'a str,
    /// Configuration of the run.
    pub config: &'a C,
}

/// Name of the checkpoint of a step.
pub fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Every whole checkpoint in `dir`, by step.
pub fn list(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, CheckpointError> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(source) => {
            return Err(CheckpointError::Io {
                path: dir.to_path_buf(),
                source,
            });
        }
    };
    for entry in entries {
        let path = entry
            .map_err(|source| CheckpointError::Io {
                path: dir.to_path_buf(),
                source,
            })?
            .path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix("step-"))
            .and_then(|n| n.parse().ok());
        if let Some(step) = step {
            found.insert(step, path);
        }
    }
    Ok(found)
}

/// Writes the checkpoint of this step into `dir`, and removes what an interrupted write left there.
pub fn save<C: Settings>(
    dir: &Path,
    state: &State<C>,
    progress: &Progress,
    notes: &Map<String, Value>,
) -> Result<PathBuf, CheckpointError> {
    let path = dir.join(name(progress.step));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { path, source }
    };
    fs::create_dir_all(dir).map_err(io(dir))?;
    for entry in fs::read_dir(dir).map_err(io(dir))? {
        let left = entry.map_err(io(dir))?.path();
        if left
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with('.'))
        {
            fs::remove_dir_all(&left).map_err(io(&left))?;
        }
    }
    let partial = dir.join(format!(".{}.writing", name(progress.step)));
    let result = (|| {
        let mut hashes = BTreeMap::new();
        let model = state.contents(notes.clone());
        let record = write_model_dir(&partial, &model, |p| {
            state.store.bytes(state.store.buffer(), &p.name)
        })?;
        hashes.insert(MODEL_FILE.to_string(), record.weights_blake3);
        let hash = write_tensors(
            &partial.join(MOMENTS_FILE),
            &moments_table(state.arch, state.head),
            &mut |p| {
                let (name, moment) = p.name.rsplit_once('.').unwrap_or_default();
                let flat = if moment == "first" {
                    &state.optimizer.first
                } else {
                    &state.optimizer.second
                };
                state.store.bytes(flat, name)
            },
        )?;
        hashes.insert(MOMENTS_FILE.to_string(), hash);
        let record = Record {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_string(),
            progress: progress.clone(),
            updates: state.optimizer.updates,
            corpus_key: state.data_key.to_string(),
            config: state.config,
            hashes,
        };
        let file = partial.join("state.json");
        let text =
            serde_json::to_vec_pretty(&record).map_err(|e| io(&file)(io::Error::other(e)))?;
        fs::write(&file, text).map_err(io(&file))?;
        for file in ["state.json", "config.json", "tokenizer.json"] {
            let file = partial.join(file);
            File::open(&file)
                .and_then(|f| f.sync_all())
                .map_err(io(&file))?;
        }
        File::open(&partial)
            .and_then(|f| f.sync_all())
            .map_err(io(&partial))?;
        if path.exists() {
            fs::remove_dir_all(&path).map_err(io(&path))?;
        }
        fs::rename(&partial, &path).map_err(io(&path))?;
        File::open(dir)
            .and_then(|f| f.sync_all())
            .map_err(io(dir))?;
        Ok(path)
    })();
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// The moments file's rows: `NAME.first` and `NAME.second` for every parameter.
fn moments_table(arch: &Architecture, head: Head) -> Vec<Parameter> {
    let rows = parameters(arch, head);
    let with = |moment: &'static str| {
        move |p: &Parameter| {
            let mut p = p.clone();
            p.name = format!("{}.{moment}", p.name);
            p
        }
    };
    rows.iter()
        .map(with("first"))
        .chain(rows.iter().map(with("second")))
        .collect()
}

/// Reads a checkpoint into `state`. It must be whole, and of a run with this configuration and data.
pub fn load<C: Settings>(path: &Path, state: StateMut<C>) -> Result<Progress, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged {
        path: path.to_path_buf(),
        problem,
    };
    let file = path.join("state.json");
    let text =
        fs::read(&file).map_err(|e| damaged(format!("`state.json` cannot be read ({e})")))?;
    let record: Record<C> = serde_json::from_slice(&text)
        .map_err(|e| damaged(format!("`state.json` cannot be read ({e})")))?;
    if record.format != FORMAT {
        return Err(damaged(format!(
            "format {}, expected {FORMAT}",
            record.format
        )));
    }
    let mut differences = Vec::new();
    let (old, new) = (record.config.decisive(), state.config.decisive());
    compare("", &old, &new, &mut differences);
    if record.corpus_key != state.data_key {
        differences.push("the corpus holds other text, tokens or settings".to_string());
    }
    if !differences.is_empty() {
        return Err(CheckpointError::Different {
            path: path.to_path_buf(),
            differences,
        });
    }
    for file in [MODEL_FILE, MOMENTS_FILE] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_mmap_rayon(path.join(file))
            .map_err(|e| damaged(format!("`{file}` cannot be read ({e})")))?;
        if record.hashes.get(file).map(String::as_str) != Some(hasher.finalize().to_hex().as_str())
        {
            return Err(damaged(format!(
                "`{file}` is not what was written (its hash differs)"
            )));
        }
    }
    let model = Weights::open(path.join(MODEL_FILE))?;
    let model = model.load(&parameters(state.arch, state.head), Values::Unchecked)?;
    let moments = Weights::open(path.join(MOMENTS_FILE))?;
    let moments = moments.load(&moments_table(state.arch, state.head), Values::Unchecked)?;
    state.store.load(|p| {
        model
            .tensor(&p.name)
            .map(|t| t.to_vec())
            .ok_or_else(|| damaged(format!("no `{}`", p.name)))
    })?;
    for (moment, flat) in [
        ("first", &mut state.optimizer.first),
        ("second", &mut state.optimizer.second),
    ] {
        let values = state.store.gather(|p| {
            moments
                .tensor(&format!("{}.{moment}", p.name))
                .map(|t| t.to_vec())
                .ok_or_else(|| damaged(format!("no `{}`", p.name)))
        })?;
        state.store.write(flat, &values);
    }
    state.optimizer.updates = record.updates;
    Ok(record.progress)
}

/// Adds a line for each value that differs between two configurations.
fn compare(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                compare(
                    &path,
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    lines,
                );
            }
        }
        _ if old != new => lines.push(format!("`{path}` was {old}, is {new}")),
        _ => {}
    }
}

/// Removes all but the last `keep_last` checkpoints and those of `keep_steps`.
pub fn prune(dir: &Path, keep_last: usize, keep_steps: &[u64]) -> Result<(), CheckpointError> {
    let all = list(dir)?;
    for (step, path) in all.iter().rev().skip(keep_last) {
        if !keep_steps.contains(step) {
            fs::remove_dir_all(path).map_err(|source| CheckpointError::Io {
                path: path.clone(),
                source,
            })?;
        }
    }
    Ok(())
}
