//! The TSV files of the GLUE download: parted by tabs alone, quotes mean nothing.
//!
//! Columns are found by the names in the first line, so files with more columns or in another order read the same; CoLA's
//! training and development files have no such line and four columns by number. A byte-order mark, a line end of two bytes
//! and a missing one at the end are taken as they come.

use std::path::Path;

use super::tasks::{Columns, Kind, Split, Task};
use super::{Broken, Example, GlueError, Target};

/// The rows of a file: those that read well, and those that do not.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) examples: Vec<Example>,
    pub(super) broken: Vec<Broken>,
}

/// Lines with their numbers, counted from 1, without line ends and byte-order mark.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes
        .split_inclusive(|&b| b == b'\n')
        .enumerate()
        .map(|(index, line)| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            (index + 1, line.strip_suffix(b"\r").unwrap_or(line))
        })
}

/// Where the wanted columns stand.
struct Places {
    count: usize,
    texts: Vec<usize>,
    label: Option<usize>,
    index: Option<usize>,
}

impl Places {
    fn new(names: &[&str], columns: &Columns, path: &Path) -> Result<Places, GlueError> {
        let place = |wanted: &'static str| {
            names
                .iter()
                .position(|name| *name == wanted)
                .ok_or_else(|| GlueError::Header {
                    path: path.to_owned(),
                    missing: wanted.to_owned(),
                    found: names.join(", "),
                })
        };
        Ok(Places {
            count: names.len(),
            texts: columns
                .texts
                .iter()
                .map(|name| place(name))
                .collect::<Result<_, _>>()?,
            label: columns.label.map(place).transpose()?,
            index: columns.index.map(place).transpose()?,
        })
    }
}

/// The label of a cell.
///
/// # Errors
/// What was expected.
pub(super) fn target(task: &Task, cell: &str) -> Result<Target, String> {
    match task.kind {
        Kind::Classification => task
            .labels
            .iter()
            .position(|label| label.file == cell)
            .map(Target::Class)
            .ok_or_else(|| {
                let files: Vec<&str> = task.labels.iter().map(|l| l.file).collect();
                format!(
                    "expected one of {}, got: `{}`",
                    files.join(", "),
                    short(cell)
                )
            }),
        Kind::Regression => score(cell.parse::<f64>().ok())
            .ok_or_else(|| format!("expected a score from 0 to 5, got: `{}`", short(cell))),
    }
}

/// A score in range.
pub(super) fn score(value: Option<f64>) -> Option<Target> {
    value.filter(|v| (0.0..=5.0).contains(v)).map(Target::Score)
}

/// A cell, cut to fit a message.
pub(super) fn short(cell: &str) -> String {
    let cut: String = cell.chars().take(60).collect();
    if cut.len() < cell.len() {
        cut + "..."
    } else {
        cut
    }
}

/// Reads the bytes of a file; `path` is for messages.
pub(super) fn parse(
    bytes: &[u8],
    task: &Task,
    split: &Split,
    path: &Path,
) -> Result<Rows, GlueError> {
    parse_columns(bytes, task, &split.columns, path, |_, _| true)
}

/// [`parse`] with other columns, of the rows that `keep` wants by the names and cells of its columns.
pub(super) fn parse_columns(
    bytes: &[u8],
    task: &Task,
    columns: &Columns,
    path: &Path,
    mut keep: impl FnMut(&[&str], &[&str]) -> bool,
) -> Result<Rows, GlueError> {
    let mut lines = lines(bytes);
    let header = if columns.headerless.is_empty() {
        match lines.next() {
            None => {
                return Err(GlueError::Empty {
                    path: path.to_owned(),
                });
            }
            Some((_, line)) => String::from_utf8_lossy(line).into_owned(),
        }
    } else {
        columns.headerless.join("\t")
    };
    let names: Vec<&str> = header.split('\t').collect();
    let places = Places::new(&names, columns, path)?;
    let mut rows = Rows::default();
    let (mut number, mut seen) = (0u64, false);
    let mut cells = Vec::with_capacity(places.count);
    for (line, bytes) in lines {
        seen = true;
        let broken = |expected: String| Broken { line, expected };
        let Ok(text) = std::str::from_utf8(bytes) else {
            rows.broken.push(broken("expected UTF-8 text".to_owned()));
            continue;
        };
        cells.clear();
        cells.extend(text.split('\t'));
        if cells.len() != places.count {
            rows.broken.push(broken(format!(
                "expected {} columns ({}), got: {}",
                places.count,
                names.join(", "),
                cells.len()
            )));
            continue;
        }
        if !keep(&names, &cells) {
            continue;
        }
        match example(task, &places, &cells, number) {
            Ok(example) => rows.examples.push(example),
            Err(expected) => rows.broken.push(broken(expected)),
        }
        number += 1;
    }
    if !seen {
        return Err(GlueError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(rows)
}

fn example(task: &Task, places: &Places, cells: &[&str], number: u64) -> Result<Example, String> {
    let index = match places.index {
        None => number,
        Some(place) => cells[place].parse().map_err(|_| {
            format!(
                "expected a row number in column {}, got: `{}`",
                place + 1,
                short(cells[place])
            )
        })?,
    };
    let target = places
        .label
        .map(|place| {
            target(task, cells[place]).map_err(|what| format!("column {}: {what}", place + 1))
        })
        .transpose()?;
    Ok(Example {
        index,
        first: cells[places.texts[0]].to_owned(),
        second: places.texts.get(1).map(|&place| cells[place].to_owned()),
        target,
    })
}
