//! The submission to the GLUE server: a zip of eleven TSV files, written and checked.
//!
//! Each file has the line `index<TAB>prediction` and one line a row. Labels are written as the server wants them: `0` and `1`,
//! or names for MNLI, QNLI, RTE and the diagnostic set; STS-B's scores are clipped to 0..5 and have three decimals.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::labels::Answer;
use super::predictions::{Prediction, read_predictions};
use super::result::{ResultError, TaskResult};
use crate::data::glue::{Kind, Role, Split, TASKS, Task};
use crate::files::write_whole;

/// The first line of every file.
const HEADER: &str = "index\tprediction";
/// No file of a submission is as large; a zip that claims more is not read.
const MAX_FILE: u64 = 64 << 20;

/// Why a submission cannot be written or read.
#[derive(Debug, Error)]
pub enum SubmissionError {
    /// Results cannot be read.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// Two results claim one file.
    #[error("two results give `{file}`: `{}` and `{}`; hint: name only the directories that are to be submitted", one.display(), two.display())]
    Ambiguous {
        /// The file.
        file: &'static str,
        /// A directory.
        one: PathBuf,
        /// Another.
        two: PathBuf,
    },
    /// No result is of a test set.
    #[error("none of the results is of a test set; hint: `tcd eval --split test`")]
    NoTest,
    /// A row's numbers are not 0, 1, 2, ...
    #[error("`{}` has no prediction of row {missing}; hint: evaluate the whole test set", dir.display())]
    Gap {
        /// The result's directory.
        dir: PathBuf,
        /// The row.
        missing: u64,
    },
    /// The file system, or the zip.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The files that a submission has: task, split, name.
pub fn wanted_files() -> impl Iterator<Item = (&'static Task, &'static Split, &'static str)> {
    TASKS.iter().flat_map(|task| {
        task.splits_of(Role::Test)
            .filter_map(move |split| Some((task, split, split.submission?)))
    })
}

/// The text of one file.
fn text(task: &Task, predictions: &[Prediction]) -> String {
    let mut text = HEADER.to_owned() + "\n";
    for prediction in predictions {
        let value = match prediction.answer {
            Answer::Class(class) => task.labels[class].file.to_owned(),
            Answer::Score(score) => format!("{:.3}", score.clamp(0.0, 5.0)),
        };
        text += &format!("{}\t{value}\n", prediction.index);
    }
    text
}

/// Writes the zip of all test results among these, and gives the files that are in it with their rows.
pub fn write(
    path: &Path,
    results: &[(PathBuf, TaskResult)],
) -> Result<BTreeMap<&'static str, usize>, SubmissionError> {
    let mut chosen: HashMap<&'static str, &PathBuf> = HashMap::new();
    let mut files = BTreeMap::new();
    let mut texts = Vec::new();
    for (dir, result) in results {
        let (Some(task), Some(split)) = (result.task(), result.split()) else {
            continue;
        };
        let Some(file) = split.submission else {
            continue;
        };
        if let Some(other) = chosen.insert(file, dir) {
            return Err(SubmissionError::Ambiguous {
                file,
                one: other.clone(),
                two: dir.clone(),
            });
        }
        let mut predictions = read_predictions(dir, task)?;
        predictions.sort_by_key(|p| p.index);
        let gap = predictions
            .iter()
            .zip(0u64..)
            .find(|(p, want)| p.index != *want);
        if let Some((_, missing)) = gap {
            return Err(SubmissionError::Gap {
                dir: dir.clone(),
                missing,
            });
        }
        files.insert(file, predictions.len());
        texts.push((file, text(task, &predictions)));
    }
    if texts.is_empty() {
        return Err(SubmissionError::NoTest);
    }
    texts.sort();
    let bytes = pack(&texts).map_err(|source| SubmissionError::File {
        doing: "pack",
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    write_whole(path, &bytes).map_err(|source| SubmissionError::File {
        doing: "write",
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(files)
}

/// The bytes of a zip: the same texts give the same bytes.
fn pack(texts: &[(&str, String)]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    for (name, text) in texts {
        zip.start_file(*name, options)?;
        zip.write_all(text.as_bytes())?;
    }
    Ok(zip.finish()?.into_inner())
}

/// Checks a zip against what the server wants: eleven files, their lines, labels and numbers of rows. `rows` gives the number of
/// rows of a file where it is not the official one. Gives what does not hold.
pub fn check(
    path: &Path,
    rows: &HashMap<&'static str, usize>,
) -> Result<Vec<String>, SubmissionError> {
    let failed = |doing, source| SubmissionError::File {
        doing,
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::read(path).map_err(|e| failed("read", Box::new(e)))?;
    let mut zip =
        ZipArchive::new(Cursor::new(bytes)).map_err(|e| failed("read as a zip", Box::new(e)))?;
    let mut problems = Vec::new();
    let known: Vec<&str> = wanted_files().map(|(_, _, file)| file).collect();
    for name in zip.file_names() {
        let name = name.map_err(|e| failed("read the names in", Box::new(e)))?;
        if !known.contains(&&*name) {
            problems.push(format!(
                "`{name}` is no file of a submission; they lie at the top of the zip: {}",
                known.join(", ")
            ));
        }
    }
    for (task, split, name) in wanted_files() {
        let Some(place) = zip.index_for_name(name) else {
            problems.push(format!("`{name}` is missing"));
            continue;
        };
        let file = zip
            .by_index(place)
            .map_err(|e| failed("read a file of", Box::new(e)))?;
        let mut text = String::new();
        if let Err(error) = file.take(MAX_FILE).read_to_string(&mut text) {
            problems.push(format!("`{name}` cannot be read as text: {error}"));
            continue;
        }
        let rows = rows.get(name).copied().unwrap_or(split.rows);
        problems.extend(check_text(task, name, &text, rows));
    }
    Ok(problems)
}

/// What is wrong with the text of one file; at most its first faulty line is told.
fn check_text(task: &Task, name: &str, text: &str, rows: usize) -> Option<String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Some(format!("`{name}`, line 1: expected `index<TAB>prediction`"));
    }
    let mut count = 0;
    for (index, line) in lines.enumerate() {
        count = index + 1;
        let wrong = |what: String| Some(format!("`{name}`, line {}: {what}", index + 2));
        let Some((number, value)) = line.split_once('\t') else {
            return wrong("expected two columns".to_owned());
        };
        if number != index.to_string() {
            return wrong(format!("expected the index {index}, got: `{number}`"));
        }
        match task.kind {
            Kind::Classification => {
                let labels: Vec<&str> = task.labels.iter().map(|l| l.file).collect();
                if !labels.contains(&value) {
                    return wrong(format!(
                        "expected one of {}, got: `{value}`",
                        labels.join(", ")
                    ));
                }
            }
            Kind::Regression => {
                let score = value.parse().is_ok_and(|v: f64| (0.0..=5.0).contains(&v));
                if !score {
                    return wrong(format!("expected a number from 0 to 5, got: `{value}`"));
                }
            }
        }
    }
    (count != rows).then(|| format!("`{name}` has {count} rows, expected {rows}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn zip_of(files: &[(&str, String)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pack(files).unwrap()).unwrap();
        file
    }

    /// A right submission of two rows a file.
    fn right() -> Vec<(&'static str, String)> {
        wanted_files()
            .map(|(task, _, name)| {
                let answer = |class| match task.kind {
                    Kind::Classification => Answer::Class(class),
                    Kind::Regression => Answer::Score(class as f64 * 9.0 - 1.0),
                };
                let rows: Vec<Prediction> = [0, 1]
                    .map(|index| Prediction {
                        index,
                        answer: answer(index as usize),
                        target: None,
                        outputs: vec![],
                        task,
                    })
                    .to_vec();
                (name, text(task, &rows))
            })
            .collect()
    }

    fn two() -> HashMap<&'static str, usize> {
        wanted_files().map(|(_, _, name)| (name, 2)).collect()
    }

    #[test]
    fn files_read_as_the_server_wants_them() {
        let files: BTreeMap<&str, String> = right().into_iter().collect();
        assert_eq!(files.len(), 11);
        for (name, text) in [
            ("CoLA.tsv", "index\tprediction\n0\t0\n1\t1\n"),
            ("STS-B.tsv", "index\tprediction\n0\t0.000\n1\t5.000\n"),
            (
                "MNLI-mm.tsv",
                "index\tprediction\n0\tentailment\n1\tneutral\n",
            ),
            (
                "QNLI.tsv",
                "index\tprediction\n0\tentailment\n1\tnot_entailment\n",
            ),
            ("WNLI.tsv", "index\tprediction\n0\t0\n1\t1\n"),
        ] {
            assert_eq!(files[name], text, "{name}");
        }
        let zip = zip_of(&right());
        assert_eq!(check(zip.path(), &two()).unwrap(), Vec::<String>::new());
        assert_eq!(check(zip.path(), &HashMap::new()).unwrap().len(), 11);
    }

    #[test]
    fn each_fault_is_told() {
        for (name, with, said) in [
            ("CoLA.tsv", None, "`CoLA.tsv` is missing"),
            ("CoLA.tsv", Some("0\t0\n1\t1\n"), "line 1"),
            (
                "CoLA.tsv",
                Some("index\tprediction\n0\t0\n"),
                "has 1 rows, expected 2",
            ),
            (
                "CoLA.tsv",
                Some("index\tprediction\n0\t0\n2\t1\n"),
                "line 3: expected the index 1",
            ),
            (
                "CoLA.tsv",
                Some("index\tprediction\n0\t0\n1\tacceptable\n"),
                "expected one of 0, 1",
            ),
            (
                "STS-B.tsv",
                Some("index\tprediction\n0\t0\n1\t5.1\n"),
                "from 0 to 5",
            ),
            (
                "STS-B.tsv",
                Some("index\tprediction\n0\t0\n1\tnan\n"),
                "from 0 to 5",
            ),
            (
                "AX.tsv",
                Some("index\tprediction\n0 neutral\n"),
                "two columns",
            ),
        ] {
            let files: Vec<_> = right()
                .into_iter()
                .filter_map(|(file, text)| match with {
                    _ if file != name => Some((file, text)),
                    Some(other) => Some((file, other.to_owned())),
                    None => None,
                })
                .collect();
            let zip = zip_of(&files);
            let problems = check(zip.path(), &two()).unwrap();
            assert!(
                problems.len() == 1 && problems[0].contains(said),
                "{problems:?}"
            );
        }
        let mut files = right();
        files.push(("glue/CoLA.tsv", String::new()));
        let problems = check(zip_of(&files).path(), &two()).unwrap();
        assert!(
            problems.len() == 1 && problems[0].contains("glue/CoLA.tsv"),
            "{problems:?}"
        );
        let not = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(not.path(), b"PK\x03\x04 no zip").unwrap();
        assert!(check(not.path(), &two()).is_err());
    }
}
