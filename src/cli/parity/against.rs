//! `tcd parity --against`: what another file of the same model loses, such as one of smaller precision.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tcd_export::onnx::read::locate;
use tcd_export::parity::{Contest, Difference};
use tcd_export::runtime::{Output, Runtime};

use super::{Named, Outcome, Parity, note, out, show};
use crate::cli::progress::Progress;
use crate::cli::rows::Rows;
use crate::data::glue::Task;
use crate::eval::encode::{BatchSize, Padded, batches, encode};
use crate::eval::labels::LabelMap;
use crate::eval::model::Model;
use crate::eval::run::{Logits, beside_truth};

/// Each metric of a model on the rows.
type Scores = Vec<(&'static str, f64)>;

/// A file with what it answered.
struct Contestant {
    path: PathBuf,
    /// `logits` of every row, in the order of the rows; empty where the model gives none by row.
    logits: Logits,
}

impl Contestant {
    /// Brings a batch's logits to the places of its rows.
    fn keep(&mut self, outputs: &[Output], batch: &[usize], rows: usize) {
        let logits = outputs
            .iter()
            .find(|output| output.name == "logits" && output.shape.len() == 2);
        let Some(logits) = logits else { return };
        let width = logits.shape[1];
        if self.logits.values.is_empty() {
            self.logits = Logits {
                width,
                values: vec![0.0; rows * width],
            };
        }
        for (values, &row) in logits.values.chunks_exact(width.max(1)).zip(batch) {
            self.logits.values[row * width..][..width].copy_from_slice(values);
        }
    }

    fn scores(&self, task: &'static Task, map: &LabelMap, rows: &Rows) -> Result<Option<Scores>> {
        if self.logits.values.is_empty() {
            return Ok(None);
        }
        let answers = self
            .logits
            .answers(map)
            .with_context(|| format!("cannot score `{}`", self.path.display()))?;
        let truth = beside_truth(task, &answers, &rows.examples);
        Ok(truth.map(|truth| {
            let metrics = task.metrics.iter();
            metrics.map(|&m| (m.name(), truth.score(m))).collect()
        }))
    }
}

impl Parity {
    /// Runs every file on one engine and holds the others against the first.
    pub(super) fn files(
        &self,
        engine: &dyn Runtime,
        model: &Model,
        start: Instant,
    ) -> Result<Outcome> {
        let mut rows = self.source.read()?;
        rows.examples.truncate(self.rows.unwrap_or(usize::MAX));
        let set = encode(&model.tokenizer, &rows.examples, model.row_length(None))?;
        let options = self.options();
        let mut contestants = Vec::new();
        let mut loaded = Vec::new();
        for path in std::iter::once(&self.model).chain(&self.against) {
            same_tokenizer(model, path)?;
            let session = engine
                .prepare(path, &options)
                .map_err(anyhow::Error::from_boxed)
                .with_context(|| format!("cannot load `{}`", path.display()))?;
            loaded.push((path.display().to_string(), session));
            contestants.push(Contestant {
                path: path.clone(),
                logits: Logits {
                    width: 0,
                    values: Vec::new(),
                },
            });
        }
        let mut contest = Contest::of(loaded, self.tolerance());
        let progress = Progress::new("parity", "rows", set.rows.len());
        let threads = self.options().threads;
        let limit = BatchSize::positions(self.batch_tokens, model.mixture, threads);
        let all = batches(&set, limit);
        for (index, batch) in all.iter().enumerate() {
            let named = Named {
                name: format!("batch {index}"),
                padded: Padded::new(&set, batch),
            };
            let outputs = contest
                .run(&named.case())
                .map_err(anyhow::Error::from_boxed)
                .with_context(|| format!("{} failed: {}", engine.name(), named.name))?;
            for (contestant, outputs) in contestants.iter_mut().zip(&outputs) {
                contestant.keep(outputs, batch, set.rows.len());
            }
            progress.advance(batch.len());
        }
        drop(progress);
        let scores = scores(model, &contestants, &rows)?;
        let differences = contest.finish();
        let good = self.say(&differences, &contestants, &scores);
        if let Some(path) = &self.json {
            let files: Vec<Value> = contestants
                .iter()
                .zip(&scores)
                .map(|(contestant, scores)| {
                    json!({"path": contestant.path, "bytes": size(&contestant.path), "scores": object(scores)})
                })
                .collect();
            let report = json!({
                "model": self.model, "engine": engine.name(), "rows": set.rows.len(), "tolerance": self.tolerance,
                "holds": good, "files": files, "differences": differences,
            });
            std::fs::write(path, format!("{report:#}\n"))
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        note(&format!(
            "{} rows on {} in {:.1} s",
            set.rows.len(),
            engine.name(),
            start.elapsed().as_secs_f64()
        ));
        Ok(if good {
            Outcome::Done
        } else {
            Outcome::CheckFailed
        })
    }

    /// Says what was found; whether all of it is within the tolerance.
    fn say(
        &self,
        differences: &[Difference],
        contestants: &[Contestant],
        scores: &[Option<Scores>],
    ) -> bool {
        let mut good = true;
        for row in differences {
            good &= show(row, self.tolerance());
        }
        let first = scores.first().cloned().flatten().unwrap_or_default();
        for (place, (contestant, scores)) in contestants.iter().zip(scores).enumerate() {
            let words: Vec<String> = scores
                .iter()
                .flatten()
                .zip(&first)
                .map(|((metric, score), (_, before))| match place {
                    0 => format!("{metric} {score:.4}"),
                    _ => format!("{metric} {score:.4} ({:+.4})", score - before),
                })
                .collect();
            let megabytes =
                size(&contestant.path).map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6));
            let all: Vec<String> = words.into_iter().chain(megabytes).collect();
            out(&format!(
                "     {}: {}",
                contestant.path.display(),
                all.join(", ")
            ));
        }
        good
    }
}

/// Bytes of the ONNX file, without a second one.
fn size(path: &Path) -> Option<u64> {
    std::fs::metadata(locate(path)).ok().map(|file| file.len())
}

fn object(scores: &Option<Scores>) -> Value {
    let pairs = scores.iter().flatten();
    pairs
        .map(|(name, score)| ((*name).to_owned(), json!(score)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A directory with another tokenizer is another model.
fn same_tokenizer(model: &Model, path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    let other = Model::open(path)?;
    if other.tokenizer.hash() != model.tokenizer.hash() {
        bail!(
            "`{}` and `{}` have different tokenizers; hint: `--against` is for files of one model",
            model.path.display(),
            path.display()
        );
    }
    Ok(())
}

/// The scores of each file, where the rows have labels and the model names its own.
fn scores(model: &Model, contestants: &[Contestant], rows: &Rows) -> Result<Vec<Option<Scores>>> {
    let Some(task) = rows.task else {
        return Ok(vec![None; contestants.len()]);
    };
    let map = match model.label_map(task, None) {
        Ok(map) => map,
        Err(error) => {
            note(&format!("no scores: {error}"));
            return Ok(vec![None; contestants.len()]);
        }
    };
    contestants
        .iter()
        .map(|contestant| contestant.scores(task, &map, rows))
        .collect()
}
