//! Finds and reads results under the given paths: run directories, analysis, GLUE, parity, exports, benchmarks.
//!
//! What a file is, its own words say: `provenance.schema` of an analysis, `schema` of a GLUE result, the keys of the others.
//! JSON files that are no results are passed by; results that cannot be read are told of, and the rest still comes.

use std::collections::BTreeSet;
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
use tcd_analysis::provenance::Provenance;
use tcd_analysis::routing::RoutingResult;
use tcd_analysis::similarity::SimilarityResult;
use tcd_analysis::trace::TraceResult;
use tcd_analysis::transfer::TransferResult;
use tcd_export::onnx::OnnxRecord;
use tcd_plots::report::Source;

use super::others::{self, BenchHeat, GlueDifference, ParityRecord};
use super::run::Run;
use crate::eval::result::{RESULT_FILE, SCHEMA, TaskResult};
use crate::run_log::METRICS_FILE;

/// Files that are part of models or corpora and never results.
const NOT_RESULTS: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
    "manifest.json",
    "state.json",
    "run.json",
];
/// Folders that hold no results.
const NOT_FOLDERS: [&str; 3] = ["checkpoints", "target", "node_modules"];
/// Larger files are passed by, and told of.
const MOST_BYTES: u64 = 256 << 20;

/// Why results cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// A path cannot be read.
    #[error("cannot read: {path}", path = .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to report on.
    #[error(
        "no results under {paths}\nhint: give run directories, or directories with what `tcd analyze`, `tcd eval` or `tcd finetune` wrote"
    )]
    Nothing {
        /// The paths.
        paths: String,
    },
}

/// A result with its file's place among the sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    /// Place of the file among the sources.
    pub source: usize,
    /// The result.
    pub result: T,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Results {
    /// The files.
    pub sources: Vec<Source>,
    /// Pre-training runs.
    pub runs: Vec<Sourced<Run>>,
    /// GLUE results, with their directories.
    pub glue: Vec<(usize, PathBuf, TaskResult)>,
    /// Paired differences on GLUE.
    pub glue_differences: Vec<Sourced<Vec<GlueDifference>>>,
    /// Transfer curves.
    pub transfer: Vec<Sourced<TransferResult>>,
    /// CKA.
    pub cka: Vec<Sourced<CkaResult>>,
    /// Other similarities.
    pub similarity: Vec<Sourced<SimilarityResult>>,
    /// Geometry.
    pub geometry: Vec<Sourced<GeometryResult>>,
    /// Projections.
    pub projection: Vec<Sourced<ProjectionResult>>,
    /// Probes.
    pub probe: Vec<Sourced<ProbeResult>>,
    /// Routing.
    pub routing: Vec<Sourced<RoutingResult>>,
    /// Routing of single rows, which figures show.
    pub trace: Vec<Sourced<TraceResult>>,
    /// Log-likelihood by corpus.
    pub likelihood: Vec<Sourced<LikelihoodResult>>,
    /// Paired examples.
    pub compare: Vec<Sourced<CompareResult>>,
    /// Engines held against each other.
    pub parity: Vec<Sourced<ParityRecord>>,
    /// Exported models, with their directories.
    pub exports: Vec<(usize, PathBuf, OnnxRecord)>,
    /// Speed of answering.
    pub bench: Vec<Sourced<Vec<BenchHeat>>>,
    /// Places of the sources that figures can be drawn of.
    pub drawable: Vec<usize>,
    /// What was found and not used, a sentence each.
    pub left_out: Vec<String>,
}

impl Results {
    /// How many results there are.
    pub fn count(&self) -> usize {
        self.runs.len()
            + self.glue.len()
            + self.glue_differences.len()
            + self.transfer.len()
            + self.cka.len()
            + self.similarity.len()
            + self.geometry.len()
            + self.projection.len()
            + self.probe.len()
            + self.routing.len()
            + self.likelihood.len()
            + self.compare.len()
            + self.parity.len()
            + self.exports.len()
            + self.bench.len()
    }

    /// Adds a source and gives its place.
    pub fn add(
        &mut self,
        path: &Path,
        command: Option<String>,
        facts: Vec<(String, String)>,
    ) -> usize {
        self.sources.push(Source {
            file: path.display().to_string(),
            command,
            facts,
        });
        self.sources.len() - 1
    }

    fn unreadable(&mut self, path: &Path, why: &str) {
        let why = why.lines().next().unwrap_or_default();
        self.left_out
            .push(format!("{} cannot be used: {why}.", path.display()));
    }
}

/// Finds and reads everything under the paths.
pub fn find(paths: &[PathBuf]) -> Result<Results, FindError> {
    let mut files = BTreeSet::new();
    for path in paths {
        walk(path, true, &mut files)?;
    }
    let mut results = Results::default();
    for file in &files {
        if file.file_name().is_some_and(|n| n == METRICS_FILE) {
            run(file, &mut results);
        } else {
            json(file, &mut results)?;
        }
    }
    if results.count() == 0 && results.left_out.is_empty() {
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        return Err(FindError::Nothing {
            paths: paths.join(", "),
        });
    }
    Ok(results)
}

/// Collects files that may be results; links to folders are followed only where a person named them.
fn walk(path: &Path, named: bool, files: &mut BTreeSet<PathBuf>) -> Result<(), FindError> {
    let io = |source| FindError::Io {
        path: path.to_owned(),
        source,
    };
    let meta = if named {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    let meta = meta.map_err(io)?;
    if meta.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .map_err(io)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .map_err(io)?;
        entries.sort();
        for entry in entries {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || NOT_FOLDERS.contains(&&*name) {
                continue;
            }
            walk(&entry, false, files)?;
        }
    } else if meta.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let json = name.ends_with(".json") && !NOT_RESULTS.contains(&&*name);
        if json || name == METRICS_FILE {
            files.insert(path.to_owned());
        }
    }
    Ok(())
}

fn run(file: &Path, results: &mut Results) {
    let dir = file.parent().unwrap_or(Path::new(""));
    match Run::read(dir) {
        Ok(Some(run)) => {
            let source = results.add(dir, Some(run.command()), run.facts());
            results.drawable.push(source);
            results.runs.push(Sourced {
                source,
                result: run,
            });
        }
        // Fine-tuning: its scores stand in `result.json`.
        Ok(None) => {}
        Err(why) => results.unreadable(dir, &why),
    }
}

fn json(file: &Path, results: &mut Results) -> Result<(), FindError> {
    let io = |source| FindError::Io {
        path: file.to_owned(),
        source,
    };
    let bytes = fs::metadata(file).map_err(io)?.len();
    if bytes > MOST_BYTES {
        results.unreadable(file, &format!("it has {} MB", bytes >> 20));
        return Ok(());
    }
    let text = fs::read(file).map_err(io)?;
    let Ok(value) = serde_json::from_slice::<Value>(&text) else {
        // A result is written whole, so that a broken file is none, unless its name says so.
        if file.file_name().is_some_and(|n| n == RESULT_FILE) {
            results.unreadable(file, "it is not JSON");
        }
        return Ok(());
    };
    let schema = value["provenance"]["schema"].as_str().unwrap_or_default();
    let kind = schema.split(' ').next().unwrap_or_default().to_owned();
    match kind.as_str() {
        "transfer" => analysis(file, value, results, |r| &mut r.transfer, |r| &r.provenance),
        "cka" => analysis(file, value, results, |r| &mut r.cka, |r| &r.provenance),
        "similarity" => analysis(
            file,
            value,
            results,
            |r| &mut r.similarity,
            |r| &r.provenance,
        ),
        "geometry" => analysis(file, value, results, |r| &mut r.geometry, |r| &r.provenance),
        "projection" => analysis(
            file,
            value,
            results,
            |r| &mut r.projection,
            |r| &r.provenance,
        ),
        "probe" => analysis(file, value, results, |r| &mut r.probe, |r| &r.provenance),
        "routing" => analysis(file, value, results, |r| &mut r.routing, |r| &r.provenance),
        "likelihood" => analysis(
            file,
            value,
            results,
            |r| &mut r.likelihood,
            |r| &r.provenance,
        ),
        "compare" => analysis(file, value, results, |r| &mut r.compare, |r| &r.provenance),
        "trace" => analysis(file, value, results, |r| &mut r.trace, |r| &r.provenance),
        // What `tcd analyze curve` reads: its result holds the same points.
        "points" => {}
        "" => other(file, value, results),
        unknown => {
            let what = format!("its schema is `{unknown}`, which this program does not know");
            results.unreadable(file, &what);
        }
    }
    Ok(())
}

/// Reads an analysis into its list.
fn analysis<T: DeserializeOwned>(
    file: &Path,
    value: Value,
    results: &mut Results,
    list: fn(&mut Results) -> &mut Vec<Sourced<T>>,
    provenance: fn(&T) -> &Provenance,
) {
    match serde_json::from_value::<T>(value) {
        Ok(result) => {
            let p = provenance(&result);
            let (command, facts) = (Some(p.command.clone()), provenance_facts(p));
            let source = results.add(file, command, facts);
            results.drawable.push(source);
            list(results).push(Sourced { source, result });
        }
        Err(error) => results.unreadable(file, &error.to_string()),
    }
}

fn provenance_facts(p: &Provenance) -> Vec<(String, String)> {
    let mut facts = vec![("schema".to_owned(), p.schema.clone())];
    for model in &p.models {
        facts.push((format!("model {}", model.name), model.model.clone()));
        facts.push((
            format!("weights of {}", model.name),
            model.model_blake3.clone(),
        ));
        facts.push((
            format!("features of {}", model.name),
            format!("{}: {}", model.features, model.features_command),
        ));
    }
    if let Some(first) = p.models.first() {
        facts.push(("tokenizer".to_owned(), first.tokenizer_blake3.clone()));
    }
    let mut data: Vec<(&str, &str)> = p
        .models
        .iter()
        .map(|m| (m.data.as_str(), m.data_blake3.as_str()))
        .collect();
    data.dedup();
    for (name, hash) in data {
        facts.push(("data".to_owned(), format!("{name}, {hash}")));
    }
    if let Some(s) = &p.sample {
        let rows = serde_json::to_value(s.rows).unwrap_or_default();
        facts.push((
            "sample".to_owned(),
            format!(
                "{} of {} rows ({}), seed {}",
                s.count,
                s.of,
                rows.as_str().unwrap_or_default(),
                s.seed
            ),
        ));
    }
    facts.push(("program".to_owned(), format!("tcd {}", p.version)));
    facts
}

fn other(file: &Path, value: Value, results: &mut Results) {
    if value["schema"].as_str() == Some(SCHEMA) {
        return glue(file, results);
    }
    if file
        .file_name()
        .is_some_and(|n| n == tcd_export::onnx::ONNX_RECORD)
    {
        match serde_json::from_value::<OnnxRecord>(value) {
            Ok(record) => {
                let dir = file.parent().unwrap_or(Path::new("")).to_owned();
                let command = Some(format!("tcd export --model {}", dir.display()));
                let source = results.add(file, command, others::export_facts(&record));
                results.exports.push((source, dir, record));
            }
            Err(error) => results.unreadable(file, &error.to_string()),
        }
        return;
    }
    if let Some(parity) = ParityRecord::read(&value) {
        let source = results.add(file, Some(parity.command()), parity.facts());
        results.parity.push(Sourced {
            source,
            result: parity,
        });
    } else if let Some(list) = GlueDifference::read(&value) {
        let source = results.add(
            file,
            Some("tcd glue compare FIRST SECOND --json".to_owned()),
            Vec::new(),
        );
        results.drawable.push(source);
        results.glue_differences.push(Sourced {
            source,
            result: list,
        });
    } else if let Some(heats) = BenchHeat::read(&value) {
        let source = results.add(file, Some("cargo xtask bench eval".to_owned()), Vec::new());
        results.drawable.push(source);
        results.bench.push(Sourced {
            source,
            result: heats,
        });
    }
}

fn glue(file: &Path, results: &mut Results) {
    match crate::eval::result::read(file) {
        Ok(result) => {
            let facts = others::glue_facts(&result);
            let source = results.add(file, Some(others::glue_command(&result)), facts);
            let dir = file.parent().unwrap_or(Path::new("")).to_owned();
            results.drawable.push(source);
            results.glue.push((source, dir, result));
        }
        Err(error) => results.unreadable(file, &error.to_string()),
    }
}
