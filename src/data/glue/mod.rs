//! GLUE: the table of its tasks, and readers for its files as they really are.
//!
//! [`read_split`] finds a split under a data directory, in the layout of the GLUE download (`CoLA/train.tsv`), of MRPC's source
//! (`MRPC/msr_paraphrase_train.txt` with `dev_ids.tsv`) or of the Hugging Face data set (`cola/train-00000-of-00001.parquet`).
//! A split that is not there is told as missing; a malformed row is an error with its line, unless the caller leaves such
//! rows out, and then each is told. No libtorch.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

mod hub;
mod mrpc;

pub mod tasks;
#[cfg(test)]
mod tests;
mod tsv;

pub use tasks::{Kind, Label, Metric, Role, Split, TASKS, Task};

/// What a row is to be given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The index of a label.
    Class(usize),
    /// A score from 0 to 5.
    Score(f64),
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its number, as a submission needs it.
    pub index: u64,
    /// The first text, or the only one.
    pub first: String,
    /// The second text of a pair.
    pub second: Option<String>,
    /// Its label; none where labels are hidden.
    pub target: Option<Target>,
}

/// A row that does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its line (its row, in a Parquet file), counted from 1.
    pub line: usize,
    /// What was expected and what stands there.
    pub expected: String,
}

/// A split as read.
#[derive(Clone, Debug)]
pub struct SplitData {
    /// The task.
    pub task: &'static Task,
    /// The split.
    pub split: &'static Split,
    /// The files it was read from.
    pub files: Vec<PathBuf>,
    /// Its rows, in the order of the files.
    pub examples: Vec<Example>,
    /// Malformed rows that were left out, with their file; empty unless that was asked for.
    pub left_out: Vec<(PathBuf, Broken)>,
    /// BLAKE3 of the rows, in hexadecimal: the same rows have the same hash, whatever file they stand in.
    pub hash: String,
}

impl SplitData {
    /// Whether it has as many rows as the official split. If not, scores on it do not compare with published ones.
    pub fn is_official_size(&self) -> bool {
        self.examples.len() == self.split.rows
    }

    /// Rows of each label, by index; empty for a regression or hidden labels.
    pub fn label_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.task.labels.len()];
        for example in &self.examples {
            match example.target {
                Some(Target::Class(class)) => counts[class] += 1,
                _ => return Vec::new(),
            }
        }
        counts
    }

    /// What a person should know of it: rows left out, a size that is not the official one.
    pub fn notes(&self) -> Vec<String> {
        let name = format!("{} {}", self.task.name, self.split.name);
        let mut notes: Vec<String> = self
            .left_out
            .iter()
            .map(|(path, row)| {
                format!(
                    "{name}: left out {}:{}: {}",
                    path.display(),
                    row.line,
                    row.expected
                )
            })
            .collect();
        if !self.is_official_size() {
            notes.push(format!(
                "{name}: {} rows, the official split has {}: scores do not compare with published ones",
                self.examples.len(),
                self.split.rows
            ));
        }
        notes
    }
}

/// A split, or where it was looked for.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Data(Box<SplitData>),
    /// It is not.
    Missing(Missing),
}

/// A split that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The task's name.
    pub task: &'static str,
    /// The split's name.
    pub split: &'static str,
    /// The folder that was looked in; none where the task has no folder.
    pub folder: Option<PathBuf>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.folder {
            Some(folder) => write!(
                f,
                "{} {} is missing in `{}`",
                self.task,
                self.split,
                folder.display()
            ),
            None => write!(f, "{} is missing: there is no folder of it", self.task),
        }
    }
}

/// Why GLUE's files cannot be used.
#[derive(Debug, Error)]
pub enum GlueError {
    /// A file or folder cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A row is malformed.
    #[error("malformed row in `{}`, line {line}: {expected}{}{hint}", path.display(), and_more(*more))]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What was expected, and what stands there.
        expected: String,
        /// Malformed rows after it.
        more: usize,
        /// The mend.
        hint: &'static str,
    },
    /// A column is not there.
    #[error("`{}` has no column `{missing}`; its columns: {found}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The column.
        missing: String,
        /// The columns it has.
        found: String,
    },
    /// A file without rows.
    #[error("`{}` has no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file that does not read.
    #[error("not a Parquet file that can be read: `{}`", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// MRPC's list of development pairs does not fit its text.
    #[error("`{}` names pairs that `{}` does not have: {pair} (in all: {count})", path.display(), text.display())]
    DevIds {
        /// The list.
        path: PathBuf,
        /// The text.
        text: PathBuf,
        /// The first such pair.
        pair: String,
        /// How many.
        count: usize,
    },
    /// Two folders claim to be the task's.
    #[error("two folders hold {task}: `{}` and `{}`; hint: give a data directory with one of them", one.display(), two.display())]
    TwoFolders {
        /// The task.
        task: &'static str,
        /// A folder.
        one: PathBuf,
        /// Another.
        two: PathBuf,
    },
}

fn and_more(more: usize) -> String {
    if more == 0 {
        String::new()
    } else {
        format!(" (and {more} more)")
    }
}

fn read(path: &Path) -> Result<Vec<u8>, GlueError> {
    fs::read(path).map_err(|source| GlueError::Io {
        path: path.to_owned(),
        source,
    })
}

/// The task's folder under a data directory, or that directory if it is itself named so.
pub fn task_folder(data: &Path, task: &Task) -> Result<Option<PathBuf>, GlueError> {
    let failed = |source| GlueError::Io {
        path: data.to_owned(),
        source,
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(data).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if task.owns_folder(&entry.file_name().to_string_lossy()) && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    if let [one, two, ..] = found.as_slice() {
        return Err(GlueError::TwoFolders {
            task: task.name,
            one: one.clone(),
            two: two.clone(),
        });
    }
    let own = data
        .file_name()
        .is_some_and(|name| task.owns_folder(&name.to_string_lossy()));
    Ok(found.pop().or_else(|| own.then(|| data.to_owned())))
}

/// Reads a split from under a data directory. With `skip_malformed`, malformed rows are left out and listed.
pub fn read_split(
    data: &Path,
    task: &'static Task,
    split: &'static Split,
    skip_malformed: bool,
) -> Result<Found, GlueError> {
    let missing = |folder| {
        Ok(Found::Missing(Missing {
            task: task.name,
            split: split.name,
            folder,
        }))
    };
    let Some(folder) = task_folder(data, task)? else {
        return missing(None);
    };
    let mut left_out = Vec::new();
    let mut examples = Vec::new();
    let mut add = |path: &Path, rows: tsv::Rows| {
        let mut broken = rows.broken.into_iter();
        if !skip_malformed && let Some(first) = broken.next() {
            return Err(GlueError::Row {
                path: path.to_owned(),
                line: first.line,
                expected: first.expected,
                more: broken.len(),
                hint: "; hint: mend the file, or leave such rows out with `--skip-malformed`",
            });
        }
        left_out.extend(broken.map(|row| (path.to_owned(), row)));
        examples.extend(rows.examples);
        Ok(examples.len() as u64)
    };
    let tsv = split.files.iter().map(|name| folder.join(name));
    let mut files: Vec<PathBuf> = tsv.filter(|path| path.is_file()).take(1).collect();
    if let [path] = files.as_slice() {
        add(path, tsv::parse(&read(path)?, task, split, path)?)?;
    } else if let Some(parts) = mrpc::files(&folder, split.role).filter(|_| task.name == "MRPC") {
        add(&parts[0], mrpc::parse(&parts, task, split)?)?;
        files = parts;
    } else {
        files = hub::files(&folder, split);
        let mut first = 0;
        for path in &files {
            first = add(path, hub::parse(read(path)?, task, split, path, first)?)?;
        }
    }
    if files.is_empty() {
        return missing(Some(folder));
    }
    if examples.is_empty() {
        return Err(GlueError::Empty {
            path: files.swap_remove(0),
        });
    }
    Ok(Found::Data(Box::new(SplitData {
        task,
        split,
        hash: hash(&examples),
        files,
        examples,
        left_out,
    })))
}

/// A hash of what the rows say.
fn hash(examples: &[Example]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tcd glue 1\0");
    for example in examples {
        for text in [Some(&example.first), example.second.as_ref()] {
            let text = text.map_or("", String::as_str);
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let target = match example.target {
            None => -1.0,
            Some(Target::Class(class)) => class as f64,
            Some(Target::Score(score)) => score,
        };
        hasher.update(&target.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
