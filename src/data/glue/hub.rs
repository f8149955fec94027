//! The Parquet files of the Hugging Face data set `glue`: flat columns `idx`, one or two texts, `label`.
//!
//! A split is one file, or numbered parts of one (`train-00000-of-00002.parquet`). Uncompressed, Snappy (which that data set
//! uses) and gzip pages are read. Hidden labels are -1.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::tasks::{Kind, Role, Split, Task};
use super::tsv::{self, Rows};
use super::{Broken, Example, GlueError, Target};

/// The parts of a split in a folder, in order; empty where there are none.
pub(super) fn files(folder: &Path, split: &Split) -> Vec<PathBuf> {
    let Some(name) = split.parquet else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.strip_suffix(".parquet")
                .and_then(|stem| stem.strip_prefix(name))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .collect();
    found.sort();
    found
}

thread_local! {
    /// Whether a panic on this thread is about to be caught, and so need not be told.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Reads the bytes of one part, whose rows are counted from `first`; `path` is for messages.
///
/// The library panics on some damaged files; such a panic becomes an error here.
pub(super) fn parse(
    bytes: Vec<u8>,
    task: &Task,
    split: &Split,
    path: &Path,
    first: u64,
) -> Result<Rows, GlueError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                told(info);
            }
        }));
    });
    CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        parse_sound(bytes, task, split, path, first)
    }));
    CAUGHT.set(false);
    result.unwrap_or_else(|_| {
        Err(GlueError::Parquet {
            path: path.to_owned(),
            source: "the file is damaged".into(),
        })
    })
}

fn parse_sound(
    bytes: Vec<u8>,
    task: &Task,
    split: &Split,
    path: &Path,
    first: u64,
) -> Result<Rows, GlueError> {
    let failed = |source: parquet::errors::ParquetError| GlueError::Parquet {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file = SerializedFileReader::new(Bytes::from(bytes)).map_err(failed)?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let place = |wanted: &str| schema.columns().iter().position(|c| c.name() == wanted);
    let needed = |wanted: &str| {
        place(wanted).ok_or_else(|| GlueError::Header {
            path: path.to_owned(),
            missing: wanted.to_owned(),
            found: schema
                .columns()
                .iter()
                .map(|c| c.name())
                .collect::<Vec<_>>()
                .join(", "),
        })
    };
    let texts = task
        .parquet_texts
        .iter()
        .map(|name| needed(name))
        .collect::<Result<Vec<_>, _>>()?;
    let label = (split.role != Role::Test)
        .then(|| needed("label"))
        .transpose()?;
    let index = place("idx");
    let mut rows = Rows::default();
    let mut number = 0;
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group).map_err(failed)?;
        let read = |place: usize| Column {
            descriptor: schema.column(place),
            place,
        };
        let of = |column: Column| column.read(&*group, path);
        let mut cells = texts
            .iter()
            .map(|&place| of(read(place))?.texts(path))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        let one = cells.next().unwrap_or_default();
        let two = cells.next();
        let labels = label
            .map(|place| of(read(place))?.numbers(path))
            .transpose()?;
        let indices = index
            .map(|place| of(read(place))?.numbers(path))
            .transpose()?;
        for (i, text) in one.into_iter().enumerate() {
            let second = two.as_ref().map(|texts| texts.get(i).cloned().flatten());
            let label = labels.as_ref().map(|l| l.get(i).copied().flatten());
            let index = indices.as_ref().map(|l| l.get(i).copied().flatten());
            number += 1;
            match example(task, (text, second), label, index, first + number - 1) {
                Ok(example) => rows.examples.push(example),
                Err(expected) => rows.broken.push(Broken {
                    line: number as usize,
                    expected,
                }),
            }
        }
    }
    Ok(rows)
}

/// A text, or null.
type Text = Option<String>;

fn example(
    task: &Task,
    texts: (Text, Option<Text>),
    label: Option<Option<f64>>,
    index: Option<Option<f64>>,
    number: u64,
) -> Result<Example, String> {
    let text = |cell: Text, name: &str| {
        cell.ok_or_else(|| format!("expected UTF-8 text in column `{name}`"))
    };
    let first = text(texts.0, task.parquet_texts[0])?;
    let second = texts
        .1
        .map(|cell| text(cell, task.parquet_texts[1]))
        .transpose()?;
    let index = match index {
        None => number,
        Some(Some(value)) if value >= 0.0 && value.fract() == 0.0 => value as u64,
        Some(_) => return Err("expected a row number in column `idx`".to_owned()),
    };
    let target = match label {
        None => None,
        Some(value) => Some(target(task, value)?),
    };
    Ok(Example {
        index,
        first,
        second,
        target,
    })
}

fn target(task: &Task, value: Option<f64>) -> Result<Target, String> {
    let got = value.map_or("null".to_owned(), |v| v.to_string());
    match task.kind {
        Kind::Classification => value
            .filter(|v| v.fract() == 0.0 && (0.0..task.labels.len() as f64).contains(v))
            .map(|v| Target::Class(v as usize))
            .ok_or_else(|| {
                format!(
                    "expected a label from 0 to {}, got: {got}",
                    task.labels.len() - 1
                )
            }),
        Kind::Regression => {
            tsv::score(value).ok_or_else(|| format!("expected a score from 0 to 5, got: {got}"))
        }
    }
}

struct Column {
    descriptor: Arc<ColumnDescriptor>,
    place: usize,
}

/// The values of a column in a row group, null where there is none.
enum Values {
    Texts(Vec<Text>),
    Numbers(Vec<Option<f64>>),
    Other(String, Type),
}

impl Column {
    fn read(&self, group: &dyn RowGroupReader, path: &Path) -> Result<Values, GlueError> {
        let failed = |source: parquet::errors::ParquetError| GlueError::Parquet {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let descriptor = &self.descriptor;
        if descriptor.max_rep_level() > 0 || descriptor.max_def_level() > 1 {
            return Ok(Values::Other(
                descriptor.name().to_owned(),
                descriptor.physical_type(),
            ));
        }
        let optional = descriptor.max_def_level() == 1;
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let reader = group.get_column_reader(self.place).map_err(failed)?;
        Ok(match reader {
            ColumnReader::ByteArrayColumnReader(r) => Values::Texts(
                all(r, rows, optional)
                    .map_err(failed)?
                    .into_iter()
                    .map(|cell| cell.and_then(|bytes| bytes.as_utf8().ok().map(str::to_owned)))
                    .collect(),
            ),
            ColumnReader::Int32ColumnReader(r) => numbers(all(r, rows, optional).map_err(failed)?),
            ColumnReader::Int64ColumnReader(r) => Values::Numbers(
                all(r, rows, optional)
                    .map_err(failed)?
                    .into_iter()
                    .map(|v| v.map(|v| v as f64))
                    .collect(),
            ),
            ColumnReader::FloatColumnReader(r) => numbers(all(r, rows, optional).map_err(failed)?),
            ColumnReader::DoubleColumnReader(r) => numbers(all(r, rows, optional).map_err(failed)?),
            _ => Values::Other(descriptor.name().to_owned(), descriptor.physical_type()),
        })
    }
}

fn numbers<T: Into<f64>>(values: Vec<Option<T>>) -> Values {
    Values::Numbers(values.into_iter().map(|v| v.map(Into::into)).collect())
}

/// Every value of a flat column, null where its definition level says so.
fn all<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    rows: usize,
    optional: bool,
) -> parquet::errors::Result<Vec<Option<T::T>>> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let levels = optional.then_some(&mut levels);
        let (records, _, _) = reader.read_records(rows - read, levels, None, &mut values)?;
        if records == 0 {
            return Err(parquet::errors::ParquetError::General(format!(
                "a column ends after {read} of {rows} rows"
            )));
        }
        read += records;
    }
    if !optional {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels
        .into_iter()
        .map(|level| (level == 1).then(|| values.next()).flatten())
        .collect())
}

impl Values {
    fn wrong(name: &str, kind: Type, wanted: &str, path: &Path) -> GlueError {
        GlueError::Parquet {
            path: path.to_owned(),
            source: format!("column `{name}` is of type {kind}, expected {wanted}").into(),
        }
    }

    fn texts(self, path: &Path) -> Result<Vec<Text>, GlueError> {
        match self {
            Values::Texts(texts) => Ok(texts),
            Values::Numbers(_) => Err(Values::wrong("text", Type::INT64, "text", path)),
            Values::Other(name, kind) => Err(Values::wrong(&name, kind, "flat text", path)),
        }
    }

    fn numbers(self, path: &Path) -> Result<Vec<Option<f64>>, GlueError> {
        match self {
            Values::Numbers(numbers) => Ok(numbers),
            Values::Texts(_) => Err(Values::wrong("label", Type::BYTE_ARRAY, "a number", path)),
            Values::Other(name, kind) => Err(Values::wrong(&name, kind, "a flat number", path)),
        }
    }
}
