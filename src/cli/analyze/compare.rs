//! `tcd analyze compare`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use tcd_analysis::FeaturesFile;
use tcd_analysis::compare::{
    CompareResult, ComparedRow, Outcome as RowOutcome, TapDifference, compare_rows, counts,
    mcnemar, predictions, relation_differences, tap_difference,
};
use tcd_analysis::similarity::Prepared;
use tcd_analysis::source::TapSource;

use super::common::{
    OutputArgs, Rows, SampleArgs, Track, open_all, provenance, short, short_tap, table,
};
use crate::cli::{Outcome, note};

/// Rows where none are asked for.
const ROWS: usize = 2048;

/// Arguments of `tcd analyze compare`.
///
/// Which rows of a GLUE split one model gets right and the other wrong, McNemar's exact test, and whether the features of those rows differ
/// more than those of the others: by each row's share of the relation distance, tap by tap. Predictions come from the features
/// files (`rows.logits`, `rows.label`) or from the `predictions.jsonl` that `tcd eval` writes.
///
/// Examples:
///   tcd analyze compare moe=f/moe-rte.safetensors distilled=f/distilled-rte.safetensors --rows cls --out compare.json
///   tcd analyze compare f/a.safetensors f/b.safetensors --rows mean --predictions a/predictions.jsonl b/predictions.jsonl --out c.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Compare {
    /// Two features files over the same rows; `NAME=FILE` names the model.
    #[arg(required = true, num_args = 2, value_name = "FEATURES")]
    features: Vec<String>,
    #[command(flatten)]
    sample: SampleArgs,
    /// Predictions of the two models, in the same order.
    #[arg(long, num_args = 2, value_name = "FILE.jsonl")]
    predictions: Vec<PathBuf>,
    /// Permutations behind each p-value.
    #[arg(long, default_value_t = 2000, value_name = "N")]
    permutations: usize,
    #[command(flatten)]
    output: OutputArgs,
}

/// Labels and predictions by row.
struct Said {
    names: Vec<String>,
    /// Row number: label, predictions of the two.
    rows: BTreeMap<u32, [usize; 3]>,
}

impl Compare {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        if self.sample.rows == Rows::Token {
            bail!("a comparison is over rows\nhint: `--rows cls` or `--rows mean`");
        }
        let files = open_all(&self.features)?;
        let (a, b) = (&files[0].file, &files[1].file);
        self.sample.check_pair(a, b)?;
        let said = if self.predictions.is_empty() {
            from_logits(a, b)?
        } else {
            from_files(&self.predictions)?
        };
        let rows = compared(&said, a)?;
        let taps = self.taps(a, b, &rows)?;
        let found = counts(&rows);
        let right = |only: usize| (found[0] + only) as f64 / rows.len().max(1) as f64;
        let info = self
            .sample
            .info(&self.sample.rows_of(a, Some(ROWS))?, Some(ROWS));
        let result = CompareResult {
            provenance: provenance("compare 1", &files.iter().collect::<Vec<_>>(), Some(info)),
            labels: said.names,
            counts: found,
            accuracy: [right(found[1]), right(found[2])],
            mcnemar_p: mcnemar(found[1], found[2]),
            rows,
            taps,
        };
        show(&result, [&files[0].name, &files[1].name]);
        self.output.write(
            &result,
            &[("", result.to_csv()), ("taps", result.taps_csv())],
        )?;
        Ok(Outcome::Done)
    }

    fn taps(
        &self,
        a: &FeaturesFile,
        b: &FeaturesFile,
        rows: &[ComparedRow],
    ) -> Result<Vec<TapDifference>> {
        let (x, y) = (
            self.sample.rows_of(a, Some(ROWS))?,
            self.sample.rows_of(b, Some(ROWS))?,
        );
        let differing: Vec<bool> = (0..x.len())
            .map(|i| {
                matches!(
                    rows[x.cluster(i)].outcome,
                    RowOutcome::OnlyA | RowOutcome::OnlyB
                )
            })
            .collect();
        let (px, py) = (Prepared::all(&x)?, Prepared::all(&y)?);
        let track = Track::new("feature differences", "taps");
        let mut found = Vec::new();
        for (i, (tap, _)) in x.taps().iter().enumerate() {
            if let Some(j) = y.taps().iter().position(|(name, _)| name == tap) {
                let values = relation_differences(&px[i], &py[j]);
                found.push(tap_difference(
                    tap,
                    &values,
                    &differing,
                    self.permutations,
                    self.sample.seed,
                ));
            }
            track.at(i + 1, x.taps().len());
        }
        Ok(found)
    }
}

/// The rows of the features file with what was said of them.
fn compared(said: &Said, file: &FeaturesFile) -> Result<Vec<ComparedRow>> {
    let ids: Vec<u32> = file.rows().iter().map(|r| r.id).collect();
    let mut columns = [Vec::new(), Vec::new(), Vec::new()];
    for id in &ids {
        let Some(row) = said.rows.get(id) else {
            bail!(
                "no prediction for row {id} of {}\nhint: predictions and features must be of one data file",
                file.path().display()
            );
        };
        columns
            .iter_mut()
            .zip(row)
            .for_each(|(column, value)| column.push(*value));
    }
    Ok(compare_rows(&ids, &columns[0], &columns[1], &columns[2]))
}

fn from_logits(a: &FeaturesFile, b: &FeaturesFile) -> Result<Said> {
    let of = |file: &FeaturesFile| -> Result<Vec<usize>> {
        let classes = file
            .shape("rows.logits")
            .context("no predictions\nhint: `--predictions A.jsonl B.jsonl`")?[1];
        if classes < 2 {
            bail!(
                "{} holds a regression: rows are not right or wrong",
                file.path().display()
            );
        }
        Ok(predictions(&file.floats("rows.logits")?, classes))
    };
    let labels = a.floats("rows.label")?;
    let (pa, pb) = (of(a)?, of(b)?);
    let rows = a
        .rows()
        .iter()
        .enumerate()
        .map(|(i, span)| (span.id, [labels[i] as usize, pa[i], pb[i]]))
        .collect();
    Ok(Said {
        names: a.info().labels.clone(),
        rows,
    })
}

fn from_files(paths: &[PathBuf]) -> Result<Said> {
    let (a, b) = (read_predictions(&paths[0])?, read_predictions(&paths[1])?);
    let mut names: Vec<String> = a
        .values()
        .chain(b.values())
        .flat_map(|(p, l)| [p.clone(), l.clone()])
        .collect();
    names.sort();
    names.dedup();
    let class = |name: &String| names.binary_search(name).unwrap_or(0);
    let mut rows = BTreeMap::new();
    for (id, (predicted, label)) in &a {
        let Some((other, other_label)) = b.get(id) else {
            bail!("row {id} is in {} alone", paths[0].display());
        };
        if label != other_label {
            bail!(
                "row {id} is labelled `{label}` in {} and `{other_label}` in {}",
                paths[0].display(),
                paths[1].display()
            );
        }
        rows.insert(*id, [class(label), class(predicted), class(other)]);
    }
    Ok(Said { names, rows })
}

/// Row number: prediction and label, as text.
fn read_predictions(path: &Path) -> Result<BTreeMap<u32, (String, String)>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read predictions: {}", path.display()))?;
    let mut rows = BTreeMap::new();
    for (at, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let place = || format!("not a prediction: {}:{}", path.display(), at + 1);
        let value: serde_json::Value = serde_json::from_str(line).with_context(place)?;
        let word = |key: &str| match value.get(key) {
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(serde_json::Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
            Some(other) => bail!("`{key}` is not a class: {other}"),
            None => bail!("it lacks the key: `{key}`"),
        };
        let index = value
            .get("index")
            .and_then(serde_json::Value::as_u64)
            .and_then(|i| u32::try_from(i).ok());
        let index = index
            .context("it lacks a row number as `index`")
            .with_context(place)?;
        rows.insert(
            index,
            (
                word("prediction").with_context(place)?,
                word("label").with_context(place)?,
            ),
        );
    }
    Ok(rows)
}

fn show(result: &CompareResult, names: [&str; 2]) {
    let [both, only_a, only_b, neither] = result.counts;
    note(&format!(
        "both right {both}, only {} {only_a}, only {} {only_b}, neither {neither}",
        names[0], names[1]
    ));
    note(&format!(
        "accuracy {:.4} and {:.4}, McNemar's exact p {:.4}",
        result.accuracy[0], result.accuracy[1], result.mcnemar_p
    ));
    let lines: Vec<Vec<String>> = result
        .taps
        .iter()
        .map(|t| {
            let numbers = [t.differing, t.agreeing, t.auc, t.p_value].map(short);
            std::iter::once(short_tap(&t.tap)).chain(numbers).collect()
        })
        .collect();
    table(&["tap", "differing rows", "other rows", "AUC", "p"], &lines);
    for t in &result.taps {
        if let Some(reason) = &t.reason {
            note(&format!("{}: {reason}", t.tap));
        }
    }
}
