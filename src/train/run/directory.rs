//! The run directory: `config.toml` (resolved), `metrics.jsonl` and TensorBoard events, `checkpoints/`, `best/` (the model of
//! the best score), and at the end `model/` and `summary.json`.
//!
//! One process works in it at a time: `.lock` is locked by the operating system as long as that process lives, and holds its
//! process id.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tcd_export::clear_leftovers;

use super::RunError;
use crate::files::write_whole;
use crate::run_log::{METRICS_FILE, RunLog};
use crate::train::checkpoint;

/// An open run directory, locked as long as the value lives.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// None where the file system knows no locks.
    lock: Option<File>,
    checkpoints: BTreeMap<u64, PathBuf>,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_path_buf();
    move |source| RunError::Io { path, source }
}

/// Locks the directory for this process; the operating system frees it when the process ends, however it ends.
fn lock(dir: &Path) -> Result<Option<File>, RunError> {
    let path = dir.join(".lock");
    // Not truncated: it may hold the id of the process that has the lock.
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    let mut file = options.open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(RunError::Locked {
                path: dir.to_path_buf(),
                holder: holder.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(io_error(&path)(e)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error(&path))?;
    Ok(Some(file))
}

impl RunDirectory {
    /// Opens the directory, made if need be, and locks it; clears what killed writers left in it. One that holds a run is
    /// refused unless that run is to be resumed.
    pub fn open(path: &Path, resume: bool) -> Result<Self, RunError> {
        fs::create_dir_all(path).map_err(io_error(path))?;
        let lock = lock(path)?;
        let directory = RunDirectory {
            path: path.to_path_buf(),
            lock,
            checkpoints: checkpoint::list(&path.join("checkpoints"))?,
        };
        if !resume && (!directory.checkpoints.is_empty() || directory.model().exists()) {
            return Err(RunError::Exists {
                path: directory.path,
            });
        }
        for model in [directory.best(), directory.model()] {
            clear_leftovers(model)?;
        }
        Ok(directory)
    }

    /// Whether a second process would be refused.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
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
            .and_then(|text| write_whole(&file, text.as_bytes()))
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
            .and_then(|text| write_whole(&file, text.as_bytes()))
            .map_err(io_error(&file))
    }
}
