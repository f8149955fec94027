//! What lies at a path: results are recognised by their schema, or by their shape where they have none.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tcd_analysis::cka::CkaResult;
use tcd_analysis::compare::CompareResult;
use tcd_analysis::geometry::GeometryResult;
use tcd_analysis::likelihood::LikelihoodResult;
use tcd_analysis::probe::ProbeResult;
use tcd_analysis::projection::ProjectionResult;
use tcd_analysis::routing::RoutingResult;
use tcd_analysis::similarity::SimilarityResult;
use tcd_analysis::trace::{LayerTrace, RowTrace, TraceResult};
use tcd_analysis::transfer::TransferResult;
use tcd_analysis::{Metrics, PretrainingCurve, read_metrics};
use tcd_plots::{Difference, Score, SentenceLayer, SentenceRouting, Source, Speed};

use super::{FiguresError, split_name};
use crate::eval::result::{self, TaskResult};

/// A result that was read.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// A run directory: its curve and its records.
    Run {
        /// Evaluations.
        curve: PretrainingCurve,
        /// Everything logged.
        records: Vec<Metrics>,
    },
    /// Of `tcd analyze curve`.
    Transfer(TransferResult),
    /// Of `tcd analyze cka`.
    Cka(CkaResult),
    /// Of `tcd analyze similarity`.
    Similarity(SimilarityResult),
    /// Of `tcd analyze geometry`.
    Geometry(GeometryResult),
    /// Of `tcd analyze project`.
    Projection(ProjectionResult),
    /// Of `tcd analyze probe`.
    Probe(ProbeResult),
    /// Of `tcd analyze routing`.
    Routing(RoutingResult),
    /// Routing of single sentences.
    Sentences(Vec<SentenceRouting>),
    /// Of `tcd analyze likelihood`.
    Likelihood(LikelihoodResult),
    /// Of `tcd analyze compare`.
    Compare(CompareResult),
    /// A `result.json`, with its directory.
    Glue(PathBuf, Box<TaskResult>),
    /// Of `tcd glue table --format json`: scores, and the notes of the table.
    Scores(Vec<Score>, Vec<String>),
    /// Of `tcd glue compare --json`.
    Differences(Vec<Difference>),
    /// Of `cargo xtask bench eval`.
    Speeds(Vec<Speed>),
}

/// A result with the path that it came from.
#[derive(Clone, Debug)]
pub struct Found {
    /// File or run directory.
    pub path: PathBuf,
    /// What it is.
    pub loaded: Loaded,
}

impl Found {
    /// What it is, as the table of kinds names it.
    pub fn source(&self) -> Source {
        match &self.loaded {
            Loaded::Run { .. } => Source::Run,
            Loaded::Transfer(_) => Source::Transfer,
            Loaded::Cka(_) => Source::Cka,
            Loaded::Similarity(_) => Source::Similarity,
            Loaded::Geometry(_) => Source::Geometry,
            Loaded::Projection(_) => Source::Projection,
            Loaded::Probe(_) => Source::Probe,
            Loaded::Routing(_) => Source::Routing,
            Loaded::Sentences(_) => Source::Sentence,
            Loaded::Likelihood(_) => Source::Likelihood,
            Loaded::Compare(_) => Source::Compare,
            Loaded::Glue(..) => Source::GlueResult,
            Loaded::Scores(..) => Source::GlueTable,
            Loaded::Differences(_) => Source::GlueCompare,
            Loaded::Speeds(_) => Source::Bench,
        }
    }
}

/// Reads what lies at the paths: files, run directories, and directories with results of `tcd eval` or `tcd finetune` below. A
/// run may be given as `NAME=DIR`.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Found>, FiguresError> {
    let (found, unknown) = read_known(paths)?;
    match unknown.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(found),
    }
}

/// As [`read`], but what no figure knows is returned beside what was read.
pub fn read_known(paths: &[PathBuf]) -> Result<(Vec<Found>, Vec<FiguresError>), FiguresError> {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for path in paths {
        let (name, path) = split_name(path);
        let one = if path.join("metrics.jsonl").is_file() {
            run(name, &path).map(|run| found.push(run))
        } else if path.is_dir() {
            directory(&path, &mut found)
        } else {
            file(&path).map(|file| found.push(file))
        };
        match one {
            Err(error @ FiguresError::Unknown { .. }) => unknown.push(error),
            other => other?,
        }
    }
    name_runs(&mut found);
    Ok((found, unknown))
}

fn run(name: Option<String>, path: &Path) -> Result<Found, FiguresError> {
    let last = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.or(last).unwrap_or_else(|| path.display().to_string());
    let content = |source: Box<dyn std::error::Error + Send + Sync>| FiguresError::Content {
        path: path.to_owned(),
        what: Source::Run.describe(),
        source,
    };
    let records = read_metrics(&path.join("metrics.jsonl")).map_err(|e| content(Box::new(e)))?;
    let curve =
        PretrainingCurve::from_records(&name, &records).map_err(|e| content(Box::new(e)))?;
    Ok(Found {
        path: path.to_owned(),
        loaded: Loaded::Run { curve, records },
    })
}

/// Runs of one name get their paths as names.
fn name_runs(found: &mut [Found]) {
    let name = |f: &Found| match &f.loaded {
        Loaded::Run { curve, .. } => Some(curve.name.clone()),
        _ => None,
    };
    let names: Vec<Option<String>> = found.iter().map(name).collect();
    for (i, f) in found.iter_mut().enumerate() {
        let twice = names.iter().filter(|n| **n == names[i]).count() > 1;
        if let (Loaded::Run { curve, .. }, true) = (&mut f.loaded, twice) {
            curve.name = f.path.display().to_string();
        }
    }
}

fn directory(path: &Path, found: &mut Vec<Found>) -> Result<(), FiguresError> {
    let results = result::find(&[path.to_owned()]).map_err(|e| match e {
        result::ResultError::Nothing { .. } => FiguresError::Unknown {
            path: path.to_owned(),
            problem: "a directory without `metrics.jsonl` and without results of GLUE below\nhint: give result files by name, or a run directory".to_owned(),
        },
        other => FiguresError::Content {
            path: path.to_owned(),
            what: Source::GlueResult.describe(),
            source: Box::new(other),
        },
    })?;
    found.extend(results.into_iter().map(|(dir, result)| Found {
        path: dir.join(result::RESULT_FILE),
        loaded: Loaded::Glue(dir, Box::new(result)),
    }));
    Ok(())
}

fn file(path: &Path) -> Result<Found, FiguresError> {
    let text = fs::read_to_string(path).map_err(|source| FiguresError::Io {
        path: path.to_owned(),
        source,
    })?;
    let unknown = |problem: String| FiguresError::Unknown {
        path: path.to_owned(),
        problem,
    };
    let value: Value =
        serde_json::from_str(&text).map_err(|e| unknown(format!("not JSON: {e}")))?;
    let loaded = recognise(path, value)?.ok_or_else(|| {
        unknown("no result that figures know\nhint: `tcd plot --help` lists the kinds and what they take".to_owned())
    })?;
    Ok(Found {
        path: path.to_owned(),
        loaded,
    })
}

fn parse<T: DeserializeOwned>(
    path: &Path,
    source: Source,
    value: Value,
) -> Result<T, FiguresError> {
    serde_json::from_value(value).map_err(|e| FiguresError::Content {
        path: path.to_owned(),
        what: source.describe(),
        source: Box::new(e),
    })
}

fn recognise(path: &Path, value: Value) -> Result<Option<Loaded>, FiguresError> {
    let schema = value["provenance"]["schema"]
        .as_str()
        .map(ToOwned::to_owned);
    if let Some(schema) = schema {
        return match schema.as_str() {
            "transfer 1" => parse(path, Source::Transfer, value).map(Loaded::Transfer),
            "cka 1" => parse(path, Source::Cka, value).map(Loaded::Cka),
            "similarity 1" => parse(path, Source::Similarity, value).map(Loaded::Similarity),
            "geometry 1" => parse(path, Source::Geometry, value).map(Loaded::Geometry),
            "projection 1" => parse(path, Source::Projection, value).map(Loaded::Projection),
            "probe 1" => parse(path, Source::Probe, value).map(Loaded::Probe),
            "routing 1" => parse(path, Source::Routing, value).map(Loaded::Routing),
            "trace 1" => {
                parse(path, Source::Sentence, value).map(|t| Loaded::Sentences(sentences(t)))
            }
            "likelihood 1" => parse(path, Source::Likelihood, value).map(Loaded::Likelihood),
            "compare 1" => parse(path, Source::Compare, value).map(Loaded::Compare),
            _ => {
                return Err(FiguresError::Unknown {
                    path: path.to_owned(),
                    problem: format!("its schema is `{schema}`, which has no figure"),
                });
            }
        }
        .map(Some);
    }
    if value["schema"].as_str() == Some(result::SCHEMA) {
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let result = parse(path, Source::GlueResult, value)?;
        return Ok(Some(Loaded::Glue(dir, Box::new(result))));
    }
    let first = value
        .as_array()
        .map_or(&value, |all| all.first().unwrap_or(&Value::Null));
    let has = |keys: &[&str]| keys.iter().all(|k| first.get(k).is_some());
    if has(&["task", "split", "difference", "first_model", "second_model"]) {
        let rows: Vec<CompareRow> = parse(path, Source::GlueCompare, value)?;
        let rows = rows.into_iter().map(CompareRow::into_difference);
        return Ok(Some(Loaded::Differences(rows.collect())));
    }
    if has(&["title", "entries", "verdicts"]) {
        let heats: Vec<Heat> = parse(path, Source::Bench, value)?;
        let speeds = heats.into_iter().flat_map(Heat::into_speeds);
        return Ok(Some(Loaded::Speeds(speeds.collect())));
    }
    if has(&["rows", "tasks", "averaged"]) {
        let table: GlueTable = parse(path, Source::GlueTable, value)?;
        let (scores, notes) = table.into_scores();
        return Ok(Some(Loaded::Scores(scores, notes)));
    }
    Ok(None)
}

/// The rows of `tcd analyze trace`, as the figure takes them.
fn sentences(trace: TraceResult) -> Vec<SentenceRouting> {
    let layer = |l: LayerTrace| SentenceLayer {
        name: l.layer.to_string(),
        weights: match l.gates.is_empty() {
            true => vec![f32::NAN; l.experts.len()],
            false => l.gates.iter().map(|g| *g as f32).collect(),
        },
        experts: l.experts,
    };
    let row = |r: RowTrace| SentenceRouting {
        title: format!("{}, row {}", r.model, r.row),
        tokens: r.tokens,
        layers: r.layers.into_iter().map(layer).collect(),
        experts: r.num_experts,
    };
    trace.rows.into_iter().map(row).collect()
}

/// A row of `tcd glue compare --json`.
#[derive(serde::Deserialize)]
struct CompareRow {
    task: String,
    split: String,
    first_model: String,
    second_model: String,
    difference: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    p_value: Option<f64>,
    rows: usize,
}

impl CompareRow {
    fn into_difference(self) -> Difference {
        Difference {
            model: self.second_model,
            against: self.first_model,
            // Tasks with one development set need no split's name.
            task: if self.split == "dev" {
                self.task
            } else {
                format!("{} {}", self.task, self.split)
            },
            difference: self.difference.unwrap_or(f64::NAN),
            interval: self.low.zip(self.high).map(|(l, h)| [l, h]),
            p_value: self.p_value,
            rows: self.rows,
        }
    }
}

/// One model and data set of `cargo xtask bench eval`.
#[derive(serde::Deserialize)]
struct Heat {
    title: String,
    entries: Vec<HeatEntry>,
}

#[derive(serde::Deserialize)]
struct HeatEntry {
    name: String,
    lines: Vec<HeatLine>,
}

#[derive(serde::Deserialize)]
struct HeatLine {
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    encode_seconds: Vec<f64>,
    run_seconds: Vec<f64>,
}

impl Heat {
    /// Rows a second of each pass, tokenizing included where it was timed. Runs on random tokens have no rows: their passes are
    /// counted instead.
    fn into_speeds(self) -> Vec<Speed> {
        let title = self.title;
        let speed = |entry: HeatEntry| Speed {
            group: title.clone(),
            name: entry.name,
            per_second: entry
                .lines
                .iter()
                .flat_map(|line| {
                    let encode = line
                        .encode_seconds
                        .iter()
                        .copied()
                        .chain(std::iter::repeat(0.0));
                    let rows = line.rows.max(1) as f64;
                    line.run_seconds
                        .iter()
                        .zip(encode)
                        .map(move |(run, encode)| rows / (run + encode))
                        .collect::<Vec<_>>()
                })
                .filter(|v| v.is_finite())
                .collect(),
            bytes: None,
        };
        self.entries.into_iter().map(speed).collect()
    }
}

/// `tcd glue table --format json`.
#[derive(serde::Deserialize)]
struct GlueTable {
    rows: Vec<GlueRow>,
    averaged: Vec<String>,
    notes: Vec<String>,
}

#[derive(serde::Deserialize)]
struct GlueRow {
    model: String,
    cells: Vec<GlueCell>,
    average: Option<f64>,
}

#[derive(serde::Deserialize)]
struct GlueCell {
    task: String,
    score: Option<f64>,
    low: Option<f64>,
    best: Option<f64>,
    runs: usize,
}

impl GlueTable {
    fn into_scores(self) -> (Vec<Score>, Vec<String>) {
        let mut scores = Vec::new();
        for row in self.rows {
            for cell in row.cells {
                scores.push(Score {
                    model: row.model.clone(),
                    task: cell.task,
                    score: cell.score.unwrap_or(f64::NAN),
                    spread: cell.low.zip(cell.best).map(|(l, h)| [l, h]),
                    runs: cell.runs,
                });
            }
            if let (Some(average), true) = (row.average, self.averaged.len() > 1) {
                scores.push(Score {
                    model: row.model.clone(),
                    task: "average".to_owned(),
                    score: average,
                    spread: None,
                    runs: 1,
                });
            }
        }
        (scores, self.notes)
    }
}
