//! The folder of a study, and what is on record in it.
//!
//! | in the folder | content |
//! | --- | --- |
//! | `study.toml` | the configuration as it was run last |
//! | `stages/STAGE.json` | [`Record`], written when the stage is done: its key, commands, outputs, time |
//! | `stages/STAGE.begun.json` | [`Begun`], as long as it is not |
//! | `stages/inputs.json` | hashes of what is read from outside, see [`super::key`] |
//! | `logs/STAGE.log` | the commands and all they said |
//! | `config/MODEL.toml` | the configuration of each pre-training run |
//!
//! One process works in it at a time: `.lock` is locked by the operating system as long as that process lives.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checked::StudyError;
use super::key::Hashes;
use super::stage::Stage;
use crate::files::write_whole;

/// How a stage on record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Done.
    Done,
    /// Done; what it checked did not hold.
    CheckFailed,
    /// It found that there is nothing to be said.
    Refused,
}

/// `stages/STAGE.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Hash of all that decides on the outputs.
    pub key: String,
    /// How it ended.
    pub ended: Ended,
    /// The version of the program.
    pub version: String,
    /// Its commands, as a person would type them.
    pub commands: Vec<String>,
    /// What it wrote, relative to the study.
    pub outputs: Vec<PathBuf>,
    /// Seconds at work, over all sittings.
    pub seconds: f64,
    /// The last line it said, where it refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// `stages/STAGE.begun.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The key it was begun with.
    pub key: String,
    /// Seconds at work so far.
    pub seconds: f64,
}

/// Where a stage stands before a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Done with this key.
    Done(Record),
    /// Never begun.
    New,
    /// Begun with this key and not ended.
    Begun(Begun),
    /// On record with another key: a setting or an input changed.
    Changed,
    /// On record, and this output is gone.
    Gone(PathBuf),
}

impl Standing {
    /// A word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Standing::Done(_) => "done",
            Standing::New => "to do",
            Standing::Begun(_) => "begun",
            Standing::Changed => "changed",
            Standing::Gone(_) => "gone",
        }
    }
}

/// The folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// None where only looked at, or where the file system knows no locks.
    _lock: Option<File>,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StudyError {
    let path = path.to_path_buf();
    move |source| StudyError::Io {
        doing,
        path,
        source,
    }
}

impl Folder {
    /// To look at, not to work in.
    pub fn look(path: &Path) -> Folder {
        Folder {
            path: path.to_path_buf(),
            _lock: None,
        }
    }

    /// To work in: made if need be, locked; refused where it holds something that no study wrote.
    pub fn open(path: &Path) -> Result<Folder, StudyError> {
        let stages = path.join("stages");
        let used = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if used && !stages.is_dir() {
            return Err(StudyError::Occupied {
                path: path.to_path_buf(),
            });
        }
        for folder in [&stages, &path.join("logs"), &path.join("config")] {
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        }
        Ok(Folder {
            path: path.to_path_buf(),
            _lock: lock(path)?,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log of a stage.
    pub fn log(&self, stage: &str) -> PathBuf {
        self.path.join("logs").join(format!("{stage}.log"))
    }

    /// A record, by its path in the study.
    fn record(&self, name: &str) -> PathBuf {
        Path::new("stages").join(name)
    }

    /// A record, by its path.
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(self.record(name))
    }

    /// Known hashes of what is outside.
    pub fn hashes(&self) -> Hashes {
        Hashes::read(&self.file("inputs.json"))
    }

    /// Keeps them.
    pub fn keep_hashes(&self, hashes: &Hashes) -> Result<(), StudyError> {
        self.write(&self.record("inputs.json"), &hashes.to_text())
    }

    /// Writes a file of the study, given by its path in it.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), StudyError> {
        let path = self.path.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        }
        write_whole(&path, text.as_bytes()).map_err(io_error("write", &path))
    }

    /// Where a stage stands, given its key.
    pub fn standing(&self, stage: &Stage, key: &str) -> Standing {
        if let Some(record) = read::<Record>(&self.file(&format!("{}.json", stage.name))) {
            if record.key != key {
                return Standing::Changed;
            }
            let gone = |path: &&PathBuf| !self.path.join(path).exists();
            return match stage.outputs.iter().find(gone) {
                Some(path) if record.ended != Ended::Refused => Standing::Gone(path.clone()),
                _ => Standing::Done(record),
            };
        }
        match read::<Begun>(&self.file(&format!("{}.begun.json", stage.name))) {
            None => Standing::New,
            Some(begun) if begun.key == key => Standing::Begun(begun),
            Some(_) => Standing::Changed,
        }
    }

    /// Notes that a stage is at work: what was on record of it is no more.
    pub fn begin(&self, stage: &str, begun: &Begun) -> Result<(), StudyError> {
        self.write(&self.record(&format!("{stage}.begun.json")), &text(begun))?;
        remove(&self.file(&format!("{stage}.json")))
    }

    /// Notes that a stage ended.
    pub fn end(&self, stage: &str, record: &Record) -> Result<(), StudyError> {
        self.write(&self.record(&format!("{stage}.json")), &text(record))?;
        remove(&self.file(&format!("{stage}.begun.json")))
    }

    /// Removes what a stage wrote.
    pub fn clear(&self, stage: &Stage) -> Result<(), StudyError> {
        for output in &stage.outputs {
            // Whatever a plan says, nothing outside the study is ever removed.
            let plain = |c: std::path::Component| matches!(c, std::path::Component::Normal(_));
            if output.components().all(plain) && output.components().next().is_some() {
                remove(&self.path.join(output))?;
            }
        }
        Ok(())
    }

    /// Makes the folders that a stage writes into.
    pub fn prepare(&self, stage: &Stage) -> Result<(), StudyError> {
        let printed = stage.calls.iter().filter_map(|c| c.printed_to.as_ref());
        for output in stage.outputs.iter().chain(printed) {
            if let Some(folder) = self.path.join(output).parent() {
                fs::create_dir_all(folder).map_err(io_error("create", folder))?;
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn text<T: Serialize>(value: &T) -> String {
    // Of strings and numbers only, so that it cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Removes a file or a folder; nothing where there is none.
fn remove(path: &Path) -> Result<(), StudyError> {
    let removed = match path.symlink_metadata() {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(io_error("remove", path))
}

fn lock(folder: &Path) -> Result<Option<File>, StudyError> {
    let path = folder.join(".lock");
    // Not truncated: it may hold the id of the process that has the lock.
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    let mut file = options.open(&path).map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(StudyError::Locked {
                path: folder.to_path_buf(),
                holder: holder.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(io_error("lock", &path)(e)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error("write", &path))?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn record(key: &str, ended: Ended) -> Record {
        Record {
            key: key.to_owned(),
            ended,
            version: "1".to_owned(),
            commands: Vec::new(),
            outputs: Vec::new(),
            seconds: 1.0,
            said: None,
        }
    }

    #[test]
    fn a_stage_stands_where_its_record_and_its_outputs_say() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("study")).unwrap();
        let stage = Stage::new("a", "", "").writes("out/x");
        let word = |key: &str| folder.standing(&stage, key).word();
        assert_eq!(word("k"), "to do");
        let begun = Begun {
            key: "k".to_owned(),
            seconds: 2.0,
        };
        folder.begin("a", &begun).unwrap();
        assert_eq!((word("k"), word("other")), ("begun", "changed"));
        folder.end("a", &record("k", Ended::Done)).unwrap();
        assert_eq!(word("k"), "gone");
        folder.prepare(&stage).unwrap();
        fs::write(folder.path().join("out/x"), "").unwrap();
        assert_eq!((word("k"), word("other")), ("done", "changed"));
        folder.clear(&stage).unwrap();
        assert_eq!(word("k"), "gone");
        folder.end("a", &record("k", Ended::Refused)).unwrap();
        assert_eq!(word("k"), "done");
    }

    /// Records lie in the folder also where its path is relative.
    #[test]
    fn a_relative_path_is_not_taken_twice() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = Path::new(dir.path().file_name().unwrap()).join("study");
        let folder = Folder::open(&path).unwrap();
        folder.write("config/x.toml".as_ref(), "").unwrap();
        folder.end("a", &record("k", Ended::Done)).unwrap();
        folder.keep_hashes(&Hashes::default()).unwrap();
        for file in ["config/x.toml", "stages/a.json", "stages/inputs.json"] {
            assert!(path.join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn a_folder_of_someone_else_and_one_at_work_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "").unwrap();
        let text = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("no study wrote") && text.contains("hint:"),
            "{text}"
        );
        let path = dir.path().join("study");
        let first = Folder::open(&path).unwrap();
        let text = Folder::open(&path).unwrap_err().to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        drop(first);
        Folder::open(&path).unwrap();
    }

    #[test]
    fn nothing_outside_the_study_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("study")).unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "").unwrap();
        let stage = Stage::new("a", "", "")
            .writes("../precious")
            .writes(&precious)
            .writes("");
        folder.clear(&stage).unwrap();
        assert!(precious.exists() && folder.path().exists());
    }
}
