//! The run directory: `config.toml` (resolved), `metrics.jsonl` and TensorBoard events, `checkpoints/`, `best/` (the model of
//! the best score), and at the end `model/` and `summary.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::RunError;
use crate::run_log::{METRICS_FILE, RunLog};
use crate::train::checkpoint;

/// An open run directory.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    checkpoints: BTreeMap<u64, PathBuf>,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_path_buf();
    move |source| RunError::Io { path, source }
}

impl RunDirectory {
    /// Opens the directory, made if need be. One that holds a run is refused unless that run is to be resumed.
    pub fn open(path: &Path, resume: bool) -> Result<Self, RunError> {
        let checkpoints = checkpoint::list(&path.join("checkpoints"))?;
        let path = path.to_path_buf();
        if !resume && (!checkpoints.is_empty() || path.join("model").exists()) {
            return Err(RunError::Exists { path });
        }
        fs::create_dir_all(&path).map_err(io_error(&path))?;
        Ok(RunDirectory { path, checkpoints })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The model of the best score.
    pub fn best(&self) -> PathBuf {
        self.path.join("best")
    }

    /// The model at the end.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// The last checkpoint that was there when the directory was opened, with its step.
    pub fn last_checkpoint(&self) -> Option<(u64, &Path)> {
        let last = self.checkpoints.last_key_value();
        last.map(|(step, path)| (*step, path.as_path()))
    }

    /// Writes the resolved configuration.
    pub fn write_config(&self, config: &impl Serialize) -> Result<(), RunError> {
        let file = self.path.join("config.toml");
        toml::to_string(config)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&file, text))
            .map_err(io_error(&file))
    }

    /// Opens the log to go on after `step`; where there is no checkpoint the metrics begin anew.
    pub fn open_log(&self, step: u64) -> Result<RunLog, RunError> {
        if self.checkpoints.is_empty() {
            let old = self.path.join(METRICS_FILE);
            if old.exists() {
                fs::remove_file(&old).map_err(io_error(&old))?;
            }
        }
        Ok(RunLog::resume(&self.path, step)?)
    }

    /// Writes `summary.json`.
    pub fn write_summary(&self, summary: &impl Serialize) -> Result<(), RunError> {
        let file = self.path.join("summary.json");
        serde_json::to_string_pretty(summary)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&file, text))
            .map_err(io_error(&file))
    }
}
