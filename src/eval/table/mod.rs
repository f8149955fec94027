//! The summary over many models and tasks, and the GLUE average.
//!
//! A cell holds the runs of one model on one task. Runs that differ only in their seed form a setting; the setting of the best
//! median is shown, by its median, with its lowest and highest score. The average is that of the GLUE paper (Wang et al. 2019):
//! the two metrics of a task are averaged first, and so are the two sets of MNLI, and WNLI is left out unless asked for. It is
//! taken over the tasks that every model of the table has, and names them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::result::{FinetuneRecord, TaskResult, rank};
use crate::data::glue::{Metric, Role, TASKS, Task};

mod notes;
mod text;

/// What the table shows of the runs of a setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The median over seeds.
    #[default]
    Median,
    /// The best seed.
    Best,
}

/// The runs of a model on a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The task.
    pub task: &'static str,
    /// The splits scored, those of the chosen run.
    pub splits: Vec<String>,
    /// The score shown: the mean of metrics and splits, a fraction; NaN (null in JSON) where undefined.
    pub score: f64,
    /// Median over the runs.
    pub median: f64,
    /// Best of the runs.
    pub best: f64,
    /// Lowest of the runs.
    pub low: f64,
    /// Runs: the setting's seeds.
    pub runs: usize,
    /// Score of each seed, by seed.
    #[serde(skip)]
    pub by_seed: Vec<(u64, f64)>,
    /// Settings that were tried.
    pub settings: usize,
    /// Each split's metrics, in the order of the table of tasks: medians, or those of the best run.
    pub metrics: Vec<f64>,
    /// The setting shown.
    pub finetuning: Option<FinetuneRecord>,
    /// What looked wrong in any run of the setting.
    pub warnings: Vec<String>,
    /// Rows differ from the official split's.
    pub unofficial: Vec<String>,
}

/// A model's row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub model: String,
    /// Its cells by task, in the order of the table of tasks.
    pub cells: Vec<Cell>,
    /// The average over [`Table::averaged`].
    pub average: Option<f64>,
}

/// The summary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// What is shown of several seeds.
    pub shown: Shown,
    /// Tasks with a column.
    pub tasks: Vec<&'static str>,
    /// Tasks in the average.
    pub averaged: Vec<&'static str>,
    /// The models, sorted by name.
    pub rows: Vec<Row>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// One run: its splits.
struct Run<'a> {
    splits: BTreeMap<usize, &'a TaskResult>,
}

/// What tells runs apart: setting, then seed.
type Setting = Option<(u64, usize, usize, Option<String>)>;

fn setting(result: &TaskResult) -> (Setting, u64) {
    match &result.finetuning {
        None => (None, 0),
        Some(f) => (
            Some((
                f.learning_rate.to_bits(),
                f.batch_size,
                f.epochs,
                f.start_task.clone(),
            )),
            f.seed,
        ),
    }
}

impl Run<'_> {
    fn seed(&self) -> u64 {
        let record = self.splits.values().find_map(|r| r.finetuning.as_ref());
        record.map_or(0, |f| f.seed)
    }

    /// Mean over its splits.
    fn score(&self) -> f64 {
        let sum: f64 = self
            .splits
            .values()
            .map(|r| r.score.unwrap_or(f64::NAN))
            .sum();
        sum / self.splits.len() as f64
    }
}

/// The place of the median in `n` sorted values, the lower of two.
fn middle(n: usize) -> usize {
    (n - 1) / 2
}

/// Median; of an even number the mean of the two middle ones. Values are sorted, NaN first.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    (sorted[middle(n)] + sorted[n / 2]) / 2.0
}

fn cell(
    task: &'static Task,
    settings: BTreeMap<Setting, BTreeMap<u64, Run<'_>>>,
    shown: Shown,
) -> Option<Cell> {
    let tried = settings.len();
    let mut chosen: Option<(f64, Vec<Run<'_>>)> = None;
    for (_, runs) in settings {
        let mut runs: Vec<Run<'_>> = runs.into_values().collect();
        runs.sort_by(|a, b| rank(a.score()).total_cmp(&rank(b.score())));
        let scores: Vec<f64> = runs.iter().map(Run::score).collect();
        let value = median(&scores);
        if chosen
            .as_ref()
            .is_none_or(|(best, _)| rank(value) > rank(*best))
        {
            chosen = Some((value, runs));
        }
    }
    let (middle_score, runs) = chosen?;
    let last = runs.len() - 1;
    let run = match shown {
        Shown::Median => &runs[middle(runs.len())],
        Shown::Best => &runs[last],
    };
    let metrics = run.splits.keys().flat_map(|split| {
        let of = |run: &Run<'_>, metric: Metric| {
            let result = run.splits.get(split)?;
            Some(
                result
                    .scores
                    .get(metric.name())
                    .copied()
                    .unwrap_or(f64::NAN),
            )
        };
        task.metrics
            .iter()
            .map(|&metric| match shown {
                Shown::Best => of(run, metric).unwrap_or(f64::NAN),
                Shown::Median => {
                    let mut values: Vec<f64> =
                        runs.iter().filter_map(|run| of(run, metric)).collect();
                    values.sort_by(|a, b| rank(*a).total_cmp(&rank(*b)));
                    median(&values)
                }
            })
            .collect::<Vec<_>>()
    });
    let mut warnings = BTreeSet::new();
    let mut unofficial = BTreeSet::new();
    for result in runs.iter().flat_map(|run| run.splits.values()) {
        for warning in &result.warnings {
            let seed = result
                .finetuning
                .as_ref()
                .map_or(String::new(), |f| format!(", seed {}", f.seed));
            warnings.insert(format!("{}{seed}: {warning}", result.split));
        }
        if result.data.rows != result.data.official_rows {
            unofficial.insert(format!(
                "{} {} has {} rows, the official one {}",
                result.task, result.split, result.data.rows, result.data.official_rows
            ));
        }
    }
    let best = runs[last].score();
    let mut by_seed: Vec<(u64, f64)> = runs.iter().map(|run| (run.seed(), run.score())).collect();
    by_seed.sort_by_key(|(seed, _)| *seed);
    Some(Cell {
        task: task.name,
        splits: run.splits.values().map(|r| r.split.clone()).collect(),
        score: match shown {
            Shown::Median => middle_score,
            Shown::Best => best,
        },
        median: middle_score,
        best,
        low: runs[0].score(),
        runs: runs.len(),
        by_seed,
        settings: tried,
        metrics: metrics.collect(),
        finetuning: run.splits.values().find_map(|r| r.finetuning.clone()),
        warnings: warnings.into_iter().collect(),
        unofficial: unofficial.into_iter().collect(),
    })
}

/// Makes the summary of all results on development sets. `with_wnli` takes WNLI into the average.
pub fn table(results: &[(PathBuf, TaskResult)], shown: Shown, with_wnli: bool) -> Table {
    type Settings<'a> = BTreeMap<Setting, BTreeMap<u64, Run<'a>>>;
    let mut models: BTreeMap<&str, BTreeMap<usize, Settings<'_>>> = BTreeMap::new();
    let mut notes = Vec::new();
    for (dir, result) in results {
        let Some(place) = TASKS.iter().position(|task| task.name == result.task) else {
            continue;
        };
        let split = TASKS[place]
            .splits
            .iter()
            .position(|s| s.name == result.split);
        let Some(split) = split.filter(|&s| TASKS[place].splits[s].role == Role::Dev) else {
            continue;
        };
        let (setting, seed) = setting(result);
        let runs = models.entry(&result.model.name).or_default();
        let run = runs
            .entry(place)
            .or_default()
            .entry(setting)
            .or_default()
            .entry(seed)
            .or_insert_with(|| Run {
                splits: BTreeMap::new(),
            });
        if run.splits.insert(split, result).is_some() {
            notes.push(format!(
                "{} has several results on {} {} of one setting and seed; the one of `{}` is used",
                result.model.name,
                result.task,
                result.split,
                dir.display()
            ));
        }
    }
    let mut rows: Vec<Row> = models
        .into_iter()
        .map(|(model, tasks)| Row {
            model: model.to_owned(),
            cells: tasks
                .into_iter()
                .filter_map(|(place, settings)| cell(&TASKS[place], settings, shown))
                .collect(),
            average: None,
        })
        .collect();
    let has = |row: &Row, task: &Task| row.cells.iter().any(|cell| cell.task == task.name);
    let tasks: Vec<&Task> = TASKS
        .iter()
        .filter(|task| rows.iter().any(|row| has(row, task)))
        .collect();
    let averaged: Vec<&Task> = tasks
        .iter()
        .copied()
        .filter(|task| task.in_average && (with_wnli || task.name != "WNLI"))
        .filter(|task| rows.iter().all(|row| has(row, task)))
        .collect();
    for row in &mut rows {
        let scores: Vec<f64> = row
            .cells
            .iter()
            .filter(|cell| averaged.iter().any(|task| task.name == cell.task))
            .map(|cell| cell.score)
            .collect();
        row.average =
            (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
    }
    let mut table = Table {
        shown,
        tasks: tasks.iter().map(|task| task.name).collect(),
        averaged: averaged.iter().map(|task| task.name).collect(),
        rows,
        notes,
    };
    let more = table.make_notes(with_wnli);
    table.notes.extend(more);
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::result::{DataRecord, EncodingRecord, ModelRecord, RuntimeRecord, SCHEMA};
    use std::collections::BTreeMap;

    struct Of(&'static str, &'static str, &'static str, &'static [f64]);

    fn result(of: &Of, run: Option<(f64, u64)>) -> (PathBuf, TaskResult) {
        let Of(model, task, split, values) = *of;
        let row = Task::find(task).unwrap();
        let scores: BTreeMap<String, f64> = row
            .metrics
            .iter()
            .zip(values)
            .map(|(m, v)| (m.name().to_owned(), *v))
            .collect();
        let finetuning = run.map(|(learning_rate, seed)| FinetuneRecord {
            learning_rate,
            batch_size: 32,
            epochs: 3,
            seed,
            steps: 10,
            best_epoch: 3,
            stopped_early: false,
            start_task: (task == "RTE").then(|| "MNLI".to_owned()),
            seconds: 1.0,
            train_rows: 10,
            base_blake3: None,
        });
        let record = TaskResult {
            schema: SCHEMA.to_owned(),
            version: "0".to_owned(),
            task: task.to_owned(),
            split: split.to_owned(),
            score: Some(values.iter().sum::<f64>() / values.len() as f64),
            scores,
            prediction_counts: vec![],
            warnings: vec![],
            model: ModelRecord {
                name: model.to_owned(),
                path: PathBuf::new(),
                weights_blake3: None,
                tokenizer_hash: String::new(),
            },
            data: DataRecord {
                files: vec![],
                blake3: String::new(),
                rows: row.split(split).unwrap().rows,
                official_rows: row.split(split).unwrap().rows,
                left_out: 0,
                label_counts: vec![],
            },
            encoding: EncodingRecord {
                max_length: 128,
                truncated: 0,
            },
            runtime: RuntimeRecord {
                name: "tch".to_owned(),
                version: String::new(),
                threads: 1,
                sessions: 1,
                seconds: None,
                rows_per_second: None,
            },
            finetuning,
            key: String::new(),
        };
        (PathBuf::from(format!("{model}/{task}/{split}")), record)
    }

    #[test]
    fn the_average_is_that_of_the_glue_paper() {
        let results: Vec<_> = [
            Of("a", "CoLA", "dev", &[0.5]),
            Of("a", "MRPC", "dev", &[0.8, 0.6]),
            Of("a", "MNLI", "dev_matched", &[0.7]),
            Of("a", "MNLI", "dev_mismatched", &[0.8]),
            Of("a", "WNLI", "dev", &[0.1]),
            Of("a", "AX", "dev", &[0.1]),
            Of("a", "CoLA", "train", &[1.0]),
            Of("b", "CoLA", "dev", &[0.4]),
            Of("b", "MRPC", "dev", &[0.6, 0.6]),
            Of("b", "WNLI", "dev", &[0.5]),
        ]
        .iter()
        .map(|of| result(of, None))
        .collect();
        let both = table(&results, Shown::Median, false);
        assert_eq!(both.tasks, ["CoLA", "MRPC", "MNLI", "WNLI", "AX"]);
        assert_eq!(both.averaged, ["CoLA", "MRPC"], "what every model has");
        assert!((both.rows[0].average.unwrap() - (0.5 + 0.7) / 2.0).abs() < 1e-12);
        let text = both.to_markdown();
        assert!(
            text.contains("| a | 50.0 | 80.0/60.0 | 70.0/80.0 | 10.0 | 10.0 | 60.0 |"),
            "{text}"
        );
        assert!(
            text.contains("The average is over CoLA (dev), MRPC (dev)."),
            "{text}"
        );
        assert!(
            text.contains("WNLI (left out by default)") && text.contains("MNLI (none of b)"),
            "{text}"
        );
        let alone = table(&results[..7], Shown::Median, true);
        assert_eq!(alone.averaged, ["CoLA", "MRPC", "MNLI", "WNLI"]);
        let average = alone.rows[0].average.unwrap();
        assert!((average - (0.5 + 0.7 + 0.75 + 0.1) / 4.0).abs() < 1e-12);
        let csv = alone.to_csv();
        assert!(
            csv.lines().all(|line| line.split(',').count() == 13),
            "{csv}"
        );
        assert!(
            csv.contains("a,MNLI,dev_matched dev_mismatched,0.75,"),
            "{csv}"
        );
    }

    #[test]
    fn of_a_grid_the_setting_of_best_median_is_shown_with_its_spread() {
        let runs: [(f64, u64, &[f64]); 6] = [
            (1e-4, 1, &[0.30]),
            (1e-4, 2, &[0.50]),
            (1e-4, 3, &[0.40]),
            (3e-4, 1, &[0.90]),
            (3e-4, 2, &[0.10]),
            (3e-4, 3, &[f64::NAN]),
        ];
        let results: Vec<_> = runs
            .iter()
            .map(|&(rate, seed, values)| {
                let (_, mut record) = result(&Of("m|x", "RTE", "dev", &[0.0]), Some((rate, seed)));
                record.score = Some(values[0]);
                record.scores.insert("accuracy".to_owned(), values[0]);
                if values[0].is_nan() {
                    record.warnings.push("accuracy is undefined".to_owned());
                }
                (PathBuf::from(format!("{rate}/{seed}")), record)
            })
            .collect();
        let made = table(&results, Shown::Median, false);
        let cell = &made.rows[0].cells[0];
        assert_eq!((cell.median, cell.best, cell.low), (0.4, 0.5, 0.3));
        assert_eq!((cell.runs, cell.settings), (3, 2));
        assert_eq!(cell.finetuning.as_ref().unwrap().learning_rate, 1e-4);
        let text = made.to_markdown();
        assert!(
            text.contains("| m\\|x | 40.0 (30.0 to 50.0) † | 40.0 |"),
            "{text}"
        );
        assert!(
            text.contains("† began as the model fine-tuned on MNLI"),
            "{text}"
        );
        let best = table(&results[3..], Shown::Best, false);
        assert_eq!(best.rows[0].cells[0].score, 0.9);
        assert!(best.rows[0].cells[0].low.is_nan());
        assert!(
            best.to_markdown()
                .contains("RTE dev, seed 3: accuracy is undefined")
        );
        let json: serde_json::Value = serde_json::from_str(&best.to_json()).unwrap();
        assert!(json["rows"][0]["cells"][0]["low"].is_null());
    }
}
