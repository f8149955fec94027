//! The log of a run: `metrics.jsonl` and TensorBoard events beside it.
//!
//! Every record goes as one line of JSON (format in [`tcd_analysis::metrics`]) and as scalars `kind/name` of one event. A
//! run that resumes at step `s` drops the records of later steps, which it is about to do again, so that the log of a killed
//! and resumed run has each step once. No libtorch.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use tcd_analysis::metrics::{Metrics, MetricsError, read_metrics};
use tcd_analysis::metrics::{RESERVED, parse_metrics};

pub mod tensorboard;

use tensorboard::EventWriter;

/// The file of JSON lines in a run directory.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Why a run's log could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum RunLogError {
    /// A file operation failed.
    #[error("cannot {doing}: {path}", path = .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The records of the run to resume cannot be read.
    #[error(transparent)]
    Records(#[from] MetricsError),
    /// A fresh log would bury an older one.
    #[error("the directory holds the log of another run: {path}\nhint: resume that run, or name a new directory", path = .path.display())]
    Exists {
        /// The file that is in the way.
        path: PathBuf,
    },
    /// A value has the name of a fixed key.
    #[error("a logged value has a reserved name: `{name}`")]
    Reserved {
        /// The name.
        name: String,
    },
}

/// An open log.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    lines: File,
    events: EventWriter,
    opened: Instant,
    seconds_before: f64,
}

impl RunLog {
    /// Starts the log of a new run; the directory is made if need be.
    pub fn create(dir: &Path) -> Result<Self, RunLogError> {
        let path = dir.join(METRICS_FILE);
        if fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
            return Err(RunLogError::Exists { path });
        }
        fs::create_dir_all(dir).map_err(|source| io_error("create the directory", dir, source))?;
        Self::open(dir, path, 0.0, None)
    }

    /// Goes on with a run whose state is that after `step`: later records are dropped, and so is a last line that a killed
    /// writer left torn. The clock goes on from the last record kept.
    pub fn resume(dir: &Path, step: u64) -> Result<Self, RunLogError> {
        let path = dir.join(METRICS_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(io_error(
                    "read the metrics of the run to resume",
                    &path,
                    source,
                ));
            }
        };
        let mut kept = Vec::with_capacity(bytes.len());
        let mut seconds = 0.0_f64;
        // Lines are kept as they stand: parsing and writing again could change the last digit of a number.
        for (record, line) in parse_metrics(&bytes, &path)?
            .iter()
            .filter(|(r, _)| r.step <= step)
        {
            kept.extend_from_slice(line);
            kept.push(b'\n');
            seconds = seconds.max(record.wall_seconds);
        }
        if kept != bytes {
            replace(&path, &kept)
                .map_err(|source| io_error("rewrite the metrics of the run", &path, source))?;
        }
        Self::open(dir, path, seconds, Some(step.saturating_add(1)))
    }

    fn open(
        dir: &Path,
        path: PathBuf,
        seconds_before: f64,
        purge: Option<u64>,
    ) -> Result<Self, RunLogError> {
        let lines = OpenOptions::new().append(true).create(true).open(&path);
        let lines = lines.map_err(|source| io_error("open the metrics file", &path, source))?;
        let events = EventWriter::create(dir, now(), purge);
        let events =
            events.map_err(|source| io_error("create a TensorBoard event file in", dir, source))?;
        Ok(Self {
            path,
            lines,
            events,
            opened: Instant::now(),
            seconds_before,
        })
    }

    /// Seconds at work, over all parts of the run.
    pub fn wall_seconds(&self) -> f64 {
        self.seconds_before + self.opened.elapsed().as_secs_f64()
    }

    /// Writes a record; it is in the system's hands on return, see [`RunLog::sync`].
    pub fn log(
        &mut self,
        kind: &str,
        step: u64,
        values: &[(&str, f64)],
    ) -> Result<(), RunLogError> {
        if let Some((name, _)) = values.iter().find(|(name, _)| RESERVED.contains(name)) {
            return Err(RunLogError::Reserved {
                name: (*name).to_owned(),
            });
        }
        // Milliseconds are as exact as a log needs to be.
        let wall_seconds = (self.wall_seconds() * 1e3).round() / 1e3;
        let named = |prefix: &str| {
            values
                .iter()
                .map(|(n, v)| (format!("{prefix}{n}"), *v))
                .collect::<Vec<_>>()
        };
        let record = Metrics {
            step,
            kind: kind.to_owned(),
            wall_seconds,
            values: named(""),
        };
        let line = record.to_json_line() + "\n";
        let failed = |source| io_error("write to the log of the run", &self.path, source);
        self.lines.write_all(line.as_bytes()).map_err(failed)?;
        self.events
            .scalars(now(), step, &named(&format!("{kind}/")))
            .map_err(failed)
    }

    /// Waits until all records are on the disk; called before a checkpoint is declared valid.
    pub fn sync(&self) -> Result<(), RunLogError> {
        let failed = |source| io_error("write to the log of the run", &self.path, source);
        self.lines.sync_data().map_err(failed)?;
        self.events.sync().map_err(failed)
    }
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> RunLogError {
    RunLogError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|d| d.as_secs_f64())
        .unwrap_or(0.0)
}

/// Replaces a file at once: a sibling temporary file is written, synced and renamed.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("jsonl.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event_files(dir: &Path) -> usize {
        let names = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        names
            .filter(|n| n.starts_with("events.out.tfevents."))
            .count()
    }

    #[test]
    fn what_is_logged_is_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RunLog::create(&dir.path().join("new/run")).unwrap();
        log.log("train", 1, &[("loss", 2.5), ("accuracy", f64::NAN)])
            .unwrap();
        log.log("eval", 1, &[("heldout_log_likelihood", -3.25)])
            .unwrap();
        log.sync().unwrap();
        let records = read_metrics(&dir.path().join("new/run").join(METRICS_FILE)).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(
            (
                records[0].step,
                records[0].kind.as_str(),
                records[0].get("loss")
            ),
            (1, "train", Some(2.5))
        );
        assert_eq!(records[0].values[1].0, "accuracy");
        assert!(records[0].get("accuracy").unwrap().is_nan());
        assert_eq!(records[1].get("heldout_log_likelihood"), Some(-3.25));
        assert!(records[1].wall_seconds >= records[0].wall_seconds);
    }

    #[test]
    fn a_new_run_does_not_bury_an_old_one_and_fixed_keys_stay_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RunLog::create(dir.path()).unwrap();
        assert!(matches!(
            log.log("train", 1, &[("step", 1.0)]),
            Err(RunLogError::Reserved { .. })
        ));
        log.log("train", 1, &[("loss", 1.0)]).unwrap();
        drop(log);
        assert!(matches!(
            RunLog::create(dir.path()),
            Err(RunLogError::Exists { .. })
        ));
    }

    #[test]
    fn resuming_drops_later_and_torn_records_and_keeps_the_others_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        let kept = "{\"step\":1,\"kind\":\"train\",\"wall_seconds\":10.0,\"loss\":0.30000000000000004}\n\
                    {\"step\":2,\"kind\":\"train\",\"wall_seconds\":20.5,\"loss\":1e-7}\n";
        let later =
            "{\"step\":3,\"kind\":\"train\",\"wall_seconds\":30.0,\"loss\":1.0}\n{\"step\":4,\"kin";
        fs::write(&path, format!("{kept}{later}")).unwrap();
        let mut log = RunLog::resume(dir.path(), 2).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        log.log("train", 3, &[("loss", 2.0)]).unwrap();
        let records = read_metrics(&path).unwrap();
        assert_eq!(
            records.iter().map(|r| r.step).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert!(records[2].wall_seconds >= 20.5);
        drop(log);
        RunLog::resume(dir.path(), 3).unwrap();
        assert_eq!(event_files(dir.path()), 2);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            3,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_damaged_line_inside_the_log_is_named_and_nothing_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        let text = "garbage\n{\"step\":1,\"kind\":\"train\",\"wall_seconds\":0.0}\n";
        fs::write(&path, text).unwrap();
        let error = RunLog::resume(dir.path(), 1).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl:1"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
