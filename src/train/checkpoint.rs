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

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use tcd_export::{
    Architecture, Head, ModelDirError, Parameter, Values, Weights, WeightsError, parameters,
    write_model_dir, write_tensors,
};

use super::config::RunConfig;
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Real tokens read.
    pub tokens: u64,
    /// Steps left out in a row for a loss or gradient that was not finite.
    pub skipped: u64,
    /// Best held-out log-likelihood so far.
    pub best: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    version: String,
    progress: Progress,
    updates: u64,
    corpus_key: String,
    config: RunConfig,
    hashes: BTreeMap<String, String>,
}

/// What a checkpoint is made of.
pub struct Contents<'a> {
    /// Where the run stands.
    pub progress: &'a Progress,
    /// Parameters.
    pub store: &'a Store,
    /// Moments.
    pub optimizer: &'a AdamW,
    /// Model.
    pub arch: &'a Architecture,
    /// Text of `tokenizer.json`.
    pub tokenizer_json: &'a str,
    /// Notes in the model's `config.json`.
    pub notes: &'a serde_json::Map<String, Value>,
    /// Key of the corpus's manifest.
    pub corpus_key: &'a str,
    /// Configuration of the run.
    pub config: &'a RunConfig,
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
pub fn save(dir: &Path, contents: &Contents) -> Result<PathBuf, CheckpointError> {
    let path = dir.join(name(contents.progress.step));
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
    let partial = dir.join(format!(".{}.writing", name(contents.progress.step)));
    let result = (|| {
        let mut hashes = BTreeMap::new();
        let model = tcd_export::Contents {
            architecture: contents.arch,
            head: Head::MaskedLm,
            tokenizer_json: contents.tokenizer_json,
            labels: &[],
            notes: contents.notes.clone(),
        };
        let record = write_model_dir(&partial, &model, |p| {
            contents.store.bytes(contents.store.buffer(), &p.name)
        })?;
        hashes.insert(MODEL_FILE.to_string(), record.weights_blake3);
        let hash = write_tensors(
            &partial.join(MOMENTS_FILE),
            &moments_table(contents.arch),
            &mut |p| {
                let (name, moment) = p.name.rsplit_once('.').unwrap_or_default();
                let flat = if moment == "first" {
                    &contents.optimizer.first
                } else {
                    &contents.optimizer.second
                };
                contents.store.bytes(flat, name)
            },
        )?;
        hashes.insert(MOMENTS_FILE.to_string(), hash);
        let state = State {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_string(),
            progress: contents.progress.clone(),
            updates: contents.optimizer.updates,
            corpus_key: contents.corpus_key.to_string(),
            config: contents.config.clone(),
            hashes,
        };
        let file = partial.join("state.json");
        let text = serde_json::to_vec_pretty(&state).map_err(|e| io(&file)(io::Error::other(e)))?;
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
fn moments_table(arch: &Architecture) -> Vec<Parameter> {
    let rows = parameters(arch, Head::MaskedLm);
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

/// Reads a checkpoint into `store` and `optimizer`. It must be whole, and of a run with this configuration and corpus.
pub fn load(
    path: &Path,
    config: &RunConfig,
    corpus_key: &str,
    arch: &Architecture,
    store: &mut Store,
    optimizer: &mut AdamW,
) -> Result<Progress, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged {
        path: path.to_path_buf(),
        problem,
    };
    let file = path.join("state.json");
    let text =
        fs::read(&file).map_err(|e| damaged(format!("`state.json` cannot be read ({e})")))?;
    let state: State = serde_json::from_slice(&text)
        .map_err(|e| damaged(format!("`state.json` cannot be read ({e})")))?;
    if state.format != FORMAT {
        return Err(damaged(format!(
            "format {}, expected {FORMAT}",
            state.format
        )));
    }
    let mut differences = differences(&state.config, config);
    if state.corpus_key != corpus_key {
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
        if state.hashes.get(file).map(String::as_str) != Some(hasher.finalize().to_hex().as_str()) {
            return Err(damaged(format!(
                "`{file}` is not what was written (its hash differs)"
            )));
        }
    }
    let model = Weights::open(path.join(MODEL_FILE))?;
    let model = model.load(&parameters(arch, Head::MaskedLm), Values::Unchecked)?;
    let moments = Weights::open(path.join(MOMENTS_FILE))?;
    let moments = moments.load(&moments_table(arch), Values::Unchecked)?;
    store.load(|p| {
        model
            .tensor(&p.name)
            .map(|t| t.to_vec())
            .ok_or_else(|| damaged(format!("no `{}`", p.name)))
    })?;
    for (moment, flat) in [
        ("first", &mut optimizer.first),
        ("second", &mut optimizer.second),
    ] {
        let values = store.gather(|p| {
            moments
                .tensor(&format!("{}.{moment}", p.name))
                .map(|t| t.to_vec())
                .ok_or_else(|| damaged(format!("no `{}`", p.name)))
        })?;
        store.write(flat, &values);
    }
    optimizer.updates = state.updates;
    Ok(state.progress)
}

/// What decides on the weights and differs between two configurations.
fn differences(old: &RunConfig, new: &RunConfig) -> Vec<String> {
    let plain = |c: &RunConfig| {
        let mut c = c.clone();
        // These change what is written, where and when, not the weights.
        (c.output, c.evaluation, c.checkpoint, c.log) = Default::default();
        (c.data.corpus, c.threads, c.device) = Default::default();
        serde_json::to_value(c).unwrap_or_default()
    };
    let mut lines = Vec::new();
    compare("", &plain(old), &plain(new), &mut lines);
    lines
}

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
