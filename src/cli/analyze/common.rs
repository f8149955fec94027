//! What the sub-commands of `tcd analyze` share: features files with names, samples, output, progress.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tcd_analysis::FeaturesFile;
use tcd_analysis::provenance::{ModelSource, Provenance, SampleInfo};
use tcd_analysis::source::{FeatureRows, RowKind, Selection, TapSource};
use tcd_analysis::tokens::Vocabulary;

pub use crate::cli::command_line;
use crate::cli::plot::write;
use crate::cli::progress::Progress;
use crate::cli::{note, out};

/// What counts as a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rows {
    /// Every token.
    Token,
    /// The first token of each row.
    Cls,
    /// The mean over each row's tokens.
    Mean,
}

/// Which rows and taps take part.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// What counts as a row.
    #[arg(long, value_enum, default_value_t = Rows::Token)]
    pub rows: Rows,
    /// Let special tokens ([CLS], [SEP], ...) take part as tokens and in means.
    #[arg(long)]
    special: bool,
    /// At most this many rows, drawn without replacement.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Seed of every draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Taps: `trunk` (the embedding output and what leaves each layer), `all`, or names such as `layer.3.ffn.inner`.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "trunk",
        value_name = "TAP"
    )]
    taps: Vec<String>,
}

impl SampleArgs {
    /// The selection; `limit` stands in where none was given.
    pub fn selection(&self, limit: Option<usize>) -> Selection {
        Selection {
            rows: match self.rows {
                Rows::Token => RowKind::Token,
                Rows::Cls => RowKind::Cls,
                Rows::Mean => RowKind::Mean,
            },
            limit: self.limit.map(|l| l as usize).or(limit),
            special: self.special,
            seed: self.seed,
        }
    }

    /// The taps of a file that were asked for.
    fn taps_of(&self, file: &FeaturesFile) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for asked in &self.taps {
            let fits = |name: &str| match asked.as_str() {
                "all" => true,
                "trunk" => name == "embedding" || name.ends_with(".trunk"),
                _ => name == asked,
            };
            let found: Vec<String> = file
                .taps()
                .into_iter()
                .filter(|n| fits(n))
                .map(str::to_owned)
                .collect();
            if found.is_empty() {
                bail!(
                    "no such tap: `{asked}` in {}\nhint: it has {}",
                    file.path().display(),
                    file.taps().join(", ")
                );
            }
            names.extend(
                found
                    .into_iter()
                    .filter(|n| !names.contains(n))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(names)
    }

    /// The rows of a file that take part.
    pub fn rows_of<'a>(
        &self,
        file: &'a FeaturesFile,
        limit: Option<usize>,
    ) -> Result<FeatureRows<'a>> {
        let rows = FeatureRows::new(file, &self.taps_of(file)?, &self.selection(limit))?;
        if rows.is_empty() {
            bail!(
                "no rows to analyse in {}\nhint: `--special` lets special tokens take part",
                file.path().display()
            );
        }
        Ok(rows)
    }

    /// Checks that two files can be compared row by row.
    pub fn check_pair(&self, a: &FeaturesFile, b: &FeaturesFile) -> Result<()> {
        match self.rows {
            Rows::Token => a.check_same_tokens(b)?,
            Rows::Cls | Rows::Mean => a.check_same_rows(b)?,
        }
        Ok(())
    }

    /// What the result says of the sample.
    pub fn info(&self, rows: &FeatureRows, limit: Option<usize>) -> SampleInfo {
        SampleInfo::new(&self.selection(limit), rows.len(), rows.available())
    }
}

/// Where results go.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// The result, JSON; its tables are written beside it with the ending `.csv`.
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,
}

impl OutputArgs {
    /// Writes the result and its tables; a table's name goes between the file's stem and `.csv`, nothing for the main one.
    pub fn write<T: Serialize>(&self, result: &T, tables: &[(&str, String)]) -> Result<()> {
        if let Some(folder) = self.out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder: {}", folder.display()))?;
        }
        for (name, text) in tables {
            let ending = if name.is_empty() {
                "csv".to_owned()
            } else {
                format!("{name}.csv")
            };
            write(&self.out.with_extension(ending), text)?;
        }
        let json =
            serde_json::to_string_pretty(result).context("cannot write the result as JSON")? + "\n";
        write(&self.out, &json)?;
        let beside: Vec<String> = tables
            .iter()
            .map(|(n, _)| {
                if n.is_empty() {
                    "csv".to_owned()
                } else {
                    format!("{n}.csv")
                }
            })
            .collect();
        note(&format!(
            "result: {} (and .{})",
            self.out.display(),
            beside.join(", .")
        ));
        Ok(())
    }
}

/// A features file with the name that results show.
#[derive(Debug)]
pub struct Named {
    pub name: String,
    pub file: FeaturesFile,
}

/// Opens `FILE` or `NAME=FILE`; unnamed, the name is the file's stem.
pub fn open(argument: &str) -> Result<Named> {
    let (name, path) = split_name(argument);
    let file = FeaturesFile::open(&path).context("cannot use a features file")?;
    Ok(Named { name, file })
}

/// Opens all; two of the same name get their paths as names.
pub fn open_all(arguments: &[String]) -> Result<Vec<Named>> {
    let mut all = arguments
        .iter()
        .map(|a| open(a))
        .collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = all.iter().map(|n| n.name.clone()).collect();
    for (i, named) in all.iter_mut().enumerate() {
        if names.iter().filter(|n| **n == names[i]).count() > 1 {
            named.name = named.file.path().display().to_string();
        }
    }
    Ok(all)
}

fn split_name(argument: &str) -> (String, PathBuf) {
    match argument.split_once('=') {
        Some((name, path)) if !name.is_empty() && !Path::new(argument).exists() => {
            (name.to_owned(), path.into())
        }
        _ => {
            let path = PathBuf::from(argument);
            let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
            (stem.unwrap_or_else(|| argument.to_owned()), path)
        }
    }
}

/// Provenance of a result of these files.
pub fn provenance(schema: &str, files: &[&Named], sample: Option<SampleInfo>) -> Provenance {
    let models = files
        .iter()
        .map(|n| ModelSource::new(&n.name, &n.file))
        .collect();
    Provenance::new(schema, &command_line(), models, sample)
}

/// Reads a `tokenizer.json` and checks that the files were made with it.
pub fn vocabulary(path: &Path, files: &[Named]) -> Result<Vocabulary> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the tokenizer: {}", path.display()))?;
    let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
    for named in files {
        if named.file.info().tokenizer_blake3 != hash {
            bail!(
                "{} was made with another tokenizer than {}\nhint: give the `tokenizer.json` of the model's directory `{}`",
                named.file.path().display(),
                path.display(),
                named.file.info().model
            );
        }
    }
    Vocabulary::from_tokenizer_json(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("not a tokenizer: {}", path.display()))
}

/// A measure's progress from its calls of "done, total".
pub struct Track {
    what: &'static str,
    unit: &'static str,
    state: Mutex<(usize, Option<Progress>)>,
}

impl Track {
    /// Progress of work called `what` that counts `unit`.
    pub fn new(what: &'static str, unit: &'static str) -> Self {
        Track {
            what,
            unit,
            state: Mutex::new((0, None)),
        }
    }

    /// So much is done of so much.
    pub fn at(&self, done: usize, total: usize) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let more = done.saturating_sub(state.0);
        state.0 = state.0.max(done);
        state
            .1
            .get_or_insert_with(|| Progress::new(self.what, self.unit, total))
            .advance(more);
    }
}

/// Prints a table to standard output, columns aligned, the first to the left.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, field) in widths.iter_mut().zip(row) {
            *width = (*width).max(field.chars().count());
        }
    }
    let line = |fields: Vec<&str>| {
        let padded: Vec<String> = fields
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (f, w))| {
                if i == 0 {
                    format!("{f:<w$}")
                } else {
                    format!("{f:>w$}")
                }
            })
            .collect();
        out(padded.join("  ").trim_end());
    };
    line(header.to_vec());
    rows.iter()
        .for_each(|row| line(row.iter().map(String::as_str).collect()));
}

/// A number for people, or a dash.
pub fn short(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"))
}

/// A tap's name without what all have in common.
pub fn short_tap(name: &str) -> String {
    name.strip_prefix("layer.").map_or_else(
        || name.to_owned(),
        |rest| rest.trim_end_matches(".trunk").to_owned(),
    )
}
