//! The key of a stage: a hash of all that decides on what it writes.
//!
//! Into the key go the version of this program, every word of every command, the text of the configuration files that the study
//! writes for it, and the keys of the stages that it needs. A place outside the study counts by its contents, not by its path;
//! a place inside by its path in the study, its contents being what the needed stages' keys stand for. Number of threads and
//! device do not count: they change the last digits at most, and a study that moves to another machine should go on there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checked::StudyError;
use super::plan::Plan;
use super::stage::{Place, Stage, Word};

/// Version of the form of keys; a change makes every stage new.
const FORMAT: u32 = 1;
/// A file that was changed so recently may change again within the resolution of its time.
const FRESH: Duration = Duration::from_secs(2);

/// Hashes of files outside the study, kept between runs: a file whose size and time of change are the same is not read again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Hashes {
    files: BTreeMap<PathBuf, Known>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    changed: u64,
    blake3: String,
}

impl Hashes {
    /// From a file of an earlier run; empty where there is none that can be read.
    pub fn read(path: &Path) -> Hashes {
        let text = fs::read_to_string(path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// As a file's text.
    pub fn to_text(&self) -> String {
        format!("{:#}\n", json!(self))
    }

    /// Hash of a file or of all files of a folder, with their names.
    pub fn of(&mut self, path: &Path) -> io::Result<String> {
        if !fs::metadata(path)?.is_dir() {
            return self.file(path);
        }
        let mut files = Vec::new();
        walk(path, Path::new(""), &mut files)?;
        files.sort();
        let mut hasher = blake3::Hasher::new();
        for name in files {
            let hash = self.file(&path.join(&name))?;
            let name = name.to_string_lossy().into_owned();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(hash.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn file(&mut self, path: &Path) -> io::Result<String> {
        let about = fs::metadata(path)?;
        let modified = about.modified().unwrap_or(UNIX_EPOCH);
        let age = SystemTime::now().duration_since(modified);
        let changed = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = u64::try_from(changed.as_nanos()).unwrap_or_default();
        let place = fs::canonicalize(path)?;
        if let Some(known) = self.files.get(&place)
            && (known.bytes, known.changed) == (about.len(), changed)
        {
            return Ok(known.blake3.clone());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path)?;
        let known = Known {
            bytes: about.len(),
            changed,
            blake3: hasher.finalize().to_hex().to_string(),
        };
        let hash = known.blake3.clone();
        if age.is_ok_and(|age| age > FRESH) {
            self.files.insert(place, known);
        }
        Ok(hash)
    }
}

/// Names of all files under `root/inside`, relative to `root`.
fn walk(root: &Path, inside: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(inside))? {
        let entry = entry?;
        let name = inside.join(entry.file_name());
        match fs::metadata(entry.path())?.is_dir() {
            true => walk(root, &name, files)?,
            false => files.push(name),
        }
    }
    Ok(())
}

/// The key of every stage, in the order of the plan; an error where one reads from outside what is not there.
pub fn keys(plan: &Plan, hashes: &mut Hashes) -> Result<Vec<String>, StudyError> {
    let mut keys: Vec<String> = Vec::new();
    for (stage, needs) in plan.stages.iter().zip(plan.needs()) {
        let needs: Vec<&str> = needs.iter().map(|&need| keys[need].as_str()).collect();
        let parts = parts(stage, &needs, hashes)?;
        let hash = blake3::hash(parts.to_string().as_bytes());
        keys.push(hash.to_hex().to_string());
    }
    Ok(keys)
}

/// What a key is made of.
fn parts(stage: &Stage, needs: &[&str], hashes: &mut Hashes) -> Result<Value, StudyError> {
    let mut calls = Vec::new();
    for call in &stage.calls {
        let words: Vec<Value> = call
            .words
            .iter()
            .map(|word| self::word(stage, word, hashes))
            .collect::<Result<_, _>>()?;
        calls.push(json!([words, call.printed_to]));
    }
    Ok(json!([
        FORMAT,
        env!("CARGO_PKG_VERSION"),
        calls,
        stage.files,
        stage.outputs,
        needs
    ]))
}

fn word(stage: &Stage, word: &Word, hashes: &mut Hashes) -> Result<Value, StudyError> {
    let (path, read, key) = match &word.place {
        None => return Ok(json!(word.text)),
        Some(Place::Study(path)) => return Ok(json!([word.text, path])),
        Some(Place::Outside { path, read, key }) => (path, read, key),
    };
    let whole = std::slice::from_ref(path);
    let read = if read.is_empty() { whole } else { read };
    let mut contents = Vec::new();
    for path in read {
        contents.push(hashes.of(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StudyError::Missing {
                stage: stage.name.clone(),
                path: path.clone(),
                key,
            },
            _ => StudyError::Io {
                doing: "read",
                path: path.clone(),
                source,
            },
        })?);
    }
    Ok(json!([word.text, { "contents": contents }]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::stage::{Call, here};
    use super::*;

    fn place(path: &Path) -> Place {
        Place::Outside {
            path: path.to_path_buf(),
            read: Vec::new(),
            key: "data.text",
        }
    }

    /// `first` reads a file, `second` needs `first`, `third` stands alone.
    fn plan(input: &Path, setting: &str, threads: &str) -> Plan {
        let first = Stage::new("first", "", "")
            .call(
                Call::new(["a"])
                    .option("--in", place(input))
                    .free([threads.to_owned()]),
            )
            .writes("a");
        let second = Stage::new("second", "", "")
            .after(["first"])
            .call(Call::new(["b", setting]).with([here("a")]));
        let third = Stage::new("third", "", "").call(Call::new(["c"]));
        Plan {
            stages: vec![first, second, third],
        }
    }

    #[test]
    fn keys_change_when_and_only_when_what_decides_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (text, copy) = (dir.path().join("text"), dir.path().join("copy"));
        fs::write(&text, "one").unwrap();
        fs::write(&copy, "one").unwrap();
        let of = |plan: Plan| keys(&plan, &mut Hashes::default()).unwrap();
        let before = of(plan(&text, "x", "1"));
        assert_eq!(before, of(plan(&text, "x", "2")), "threads do not count");
        assert_eq!(
            before,
            of(plan(&copy, "x", "1")),
            "contents count, not paths"
        );
        let other = of(plan(&text, "y", "1"));
        assert_eq!(before[0], other[0]);
        assert_ne!(before[1], other[1]);
        assert_eq!(before[2], other[2]);
        fs::write(&text, "two").unwrap();
        let other = of(plan(&text, "x", "1"));
        assert_ne!(before[0], other[0]);
        assert_ne!(before[1], other[1], "what needs it follows");
        assert_eq!(before[2], other[2]);
    }

    #[test]
    fn a_folder_counts_by_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a"), "1").unwrap();
        let mut hashes = Hashes::default();
        let before = hashes.of(dir.path()).unwrap();
        assert_eq!(before, hashes.of(dir.path()).unwrap());
        fs::rename(dir.path().join("sub/a"), dir.path().join("sub/b")).unwrap();
        let renamed = hashes.of(dir.path()).unwrap();
        assert_ne!(before, renamed);
        fs::write(dir.path().join("sub/b"), "22").unwrap();
        assert_ne!(renamed, hashes.of(dir.path()).unwrap());
    }

    #[test]
    fn known_hashes_are_read_back_and_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        fs::write(&path, "one").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        let mut hashes = Hashes::default();
        let hash = hashes.of(&path).unwrap();
        let stored = dir.path().join("hashes.json");
        fs::write(&stored, hashes.to_text()).unwrap();
        let mut again = Hashes::read(&stored);
        assert_eq!(again.files.len(), 1);
        assert_eq!(again.of(&path).unwrap(), hash);
        // What is not there, or no such file, is empty.
        assert!(Hashes::read(dir.path()).files.is_empty());
    }

    #[test]
    fn what_is_not_there_names_stage_and_key() {
        let error = keys(
            &plan(Path::new("not/there"), "x", "1"),
            &mut Hashes::default(),
        );
        let text = error.unwrap_err().to_string();
        for part in ["`first`", "`not/there`", "`data.text`", "hint:"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
