//! Points of the transfer curve: each checkpoint of some pre-training runs with its held-out log-likelihood and its GLUE average.
//!
//! A fine-tuned result belongs to the checkpoint whose weights have the hash that the result names. Where the weights are no longer
//! there it goes by the path that the result names: `RUN/checkpoints/step-N` or `RUN/model`. A point's score is the average of
//! [`super::table`] over the tasks asked for, by the median over fine-tuning seeds; or, with seeds apart, one point a fine-tuning seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tcd_analysis::curve::{CurveError, CurvePoint, PretrainingCurve};
use tcd_analysis::metrics::{MetricsError, read_metrics};
use tcd_analysis::transfer::TransferPoint;
use tcd_export::{ModelDir, ModelDirError};
use thiserror::Error;

use super::result::TaskResult;
use super::table::{Shown, table};
use crate::data::glue::{Role, TASKS, Task};
use crate::run_log::METRICS_FILE;

/// The folder of a run's checkpoints.
const CHECKPOINTS: &str = "checkpoints";
/// The folder of a run's last model.
const MODEL: &str = "model";
/// What stands before the step in a checkpoint's name.
const STEP: &str = "step-";

/// Why points cannot be made.
#[derive(Debug, Error)]
pub enum PointsError {
    /// A run's metrics cannot be read.
    #[error("cannot use the run `{}`", path.display())]
    Metrics {
        /// The run.
        path: PathBuf,
        /// Why.
        #[source]
        source: MetricsError,
    },
    /// A run's evaluations are not what they should be.
    #[error("cannot use the run `{}`", path.display())]
    Curve {
        /// The run.
        path: PathBuf,
        /// Why.
        #[source]
        source: CurveError,
    },
    /// A checkpoint's weights cannot be read.
    #[error(transparent)]
    Model(#[from] ModelDirError),
    /// A file operation failed.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing was evaluated in a run.
    #[error("no held-out evaluation in the run `{}`\nhint: pre-train with `evaluation.every_steps` above 0", path.display())]
    NoEvaluation {
        /// The run.
        path: PathBuf,
    },
    /// A checkpoint was fine-tuned that was never evaluated.
    #[error("`{}` was fine-tuned from step {step} of `{}`, where no held-out evaluation is logged\nhint: make `checkpoint.keep_steps` multiples of `evaluation.every_steps`", result.display(), run.display())]
    NotEvaluated {
        /// The result.
        result: PathBuf,
        /// The run.
        run: PathBuf,
        /// The step.
        step: u64,
    },
    /// Two runs hold the same weights.
    #[error("`{}` and `{}` hold the same weights: a result cannot be told to belong to one", a.display(), b.display())]
    SameWeights {
        /// One.
        a: PathBuf,
        /// The other.
        b: PathBuf,
    },
    /// No result belongs to a run.
    #[error("none of the {results} results belongs to a checkpoint of the runs\nhint: fine-tune `RUN/checkpoints/step-N` and `RUN/model`; the first result names `{}`", example.display())]
    Nothing {
        /// Results read.
        results: usize,
        /// The model that the first of them names.
        example: PathBuf,
    },
    /// A checkpoint lacks a task that others have.
    #[error("`{}` at step {step} has no development result on {task}\nhint: fine-tune it on {task}, or leave {task} out by `--tasks`", run.display())]
    NoTask {
        /// The run.
        run: PathBuf,
        /// The step.
        step: u64,
        /// The task.
        task: &'static str,
    },
}

/// A run of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyRun {
    /// The family.
    pub family: String,
    /// The run's seed.
    pub seed: u64,
    /// The run directory.
    pub path: PathBuf,
}

/// What the points are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// The points, by family, seed and step.
    pub points: Vec<TransferPoint>,
    /// Tasks in each score.
    pub tasks: Vec<&'static str>,
    /// Results that belong to no run.
    pub unused: Vec<PathBuf>,
}

/// Results with their directories, by run, step and seed of fine-tuning.
type Groups = BTreeMap<(usize, u64, u64), Vec<(PathBuf, TaskResult)>>;

/// A run with its checkpoints.
struct Run<'a> {
    of: &'a FamilyRun,
    evaluations: Vec<CurvePoint>,
    /// Steps by the hash of their weights.
    weights: BTreeMap<String, u64>,
}

impl<'a> Run<'a> {
    fn read(of: &'a FamilyRun) -> Result<Self, PointsError> {
        let records =
            read_metrics(&of.path.join(METRICS_FILE)).map_err(|source| PointsError::Metrics {
                path: of.path.clone(),
                source,
            })?;
        let curve = PretrainingCurve::from_records(&of.family, &records).map_err(|source| {
            PointsError::Curve {
                path: of.path.clone(),
                source,
            }
        })?;
        let Some(last) = curve.points.last().map(|p| p.step) else {
            return Err(PointsError::NoEvaluation {
                path: of.path.clone(),
            });
        };
        let mut weights = BTreeMap::new();
        for (dir, step) in models(&of.path, last)? {
            weights.insert(ModelDir::open(&dir)?.weights_hash()?, step);
        }
        Ok(Run {
            of,
            evaluations: curve.points,
            weights,
        })
    }

    /// The step that a result was fine-tuned from, if from this run.
    fn step_of(&self, result: &TaskResult) -> Option<u64> {
        let finetuning = result.finetuning.as_ref()?;
        if let Some(step) = finetuning
            .base_blake3
            .as_ref()
            .and_then(|hash| self.weights.get(hash))
        {
            return Some(*step);
        }
        if finetuning.start_task.is_some() {
            return None;
        }
        let base = &result.model.path;
        if base.ends_with(MODEL) && same_run(base.parent()?, &self.of.path) {
            return self.evaluations.last().map(|p| p.step);
        }
        let step = step_in_name(base)?;
        let run = base.parent().filter(|p| p.ends_with(CHECKPOINTS))?;
        same_run(run.parent()?, &self.of.path).then_some(step)
    }
}

/// Whether two paths name one run directory: the same place, or, where one is gone, the same last component.
fn same_run(named: &Path, run: &Path) -> bool {
    match (named.canonicalize(), run.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => named.file_name().is_some() && named.file_name() == run.file_name(),
    }
}

fn step_in_name(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(STEP)?.parse().ok()
}

/// The model directories of a run with their steps: the checkpoints, and the last model.
fn models(run: &Path, last: u64) -> Result<Vec<(PathBuf, u64)>, PointsError> {
    let mut found = Vec::new();
    let folder = run.join(CHECKPOINTS);
    if folder.is_dir() {
        let failed = |source| PointsError::Io {
            path: folder.clone(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some(step) = step_in_name(&path) {
                found.push((path, step));
            }
        }
    }
    let model = run.join(MODEL);
    if model.is_dir() {
        found.push((model, last));
    }
    found.retain(|(dir, _)| dir.join("model.safetensors").is_file());
    found.sort_by_key(|(_, step)| *step);
    Ok(found)
}

/// Makes the points of runs and results. `tasks` restricts the average; empty takes the tasks that every checkpoint has.
pub fn points(
    runs: &[FamilyRun],
    results: &[(PathBuf, TaskResult)],
    tasks: &[&'static Task],
    seeds_apart: bool,
) -> Result<Points, PointsError> {
    let runs = runs.iter().map(Run::read).collect::<Result<Vec<_>, _>>()?;
    for (i, a) in runs.iter().enumerate() {
        for b in &runs[i + 1..] {
            // The first weights are one seed's and may be shared: only those of a later step tell runs apart.
            let shared = |h: &&String| a.weights[*h] > 0 && b.weights.contains_key(*h);
            if a.weights.keys().any(|h| shared(&h)) {
                return Err(PointsError::SameWeights {
                    a: a.of.path.clone(),
                    b: b.of.path.clone(),
                });
            }
        }
    }
    let mut groups = Groups::new();
    let mut unused = Vec::new();
    for (dir, result) in results.iter().filter(|(_, r)| is_dev(r)) {
        if !tasks.is_empty() && !tasks.iter().any(|t| t.name == result.task) {
            continue;
        }
        let owner = runs
            .iter()
            .enumerate()
            .find_map(|(i, run)| Some((i, run.step_of(result)?)));
        let Some((run, step)) = owner else {
            unused.push(dir.clone());
            continue;
        };
        let seed = match (&result.finetuning, seeds_apart) {
            (Some(f), true) => f.seed,
            _ => 0,
        };
        let mut result = result.clone();
        // One row of the table whatever the results call their model.
        result.model.name = String::new();
        groups
            .entry((run, step, seed))
            .or_default()
            .push((dir.clone(), result));
    }
    if groups.is_empty() {
        return Err(PointsError::Nothing {
            results: results.len(),
            example: results
                .first()
                .map_or_else(PathBuf::new, |(_, r)| r.model.path.clone()),
        });
    }
    let averaged = averaged(&groups, tasks);
    let mut points = Vec::new();
    for ((run, step, seed), results) in &groups {
        let run = &runs[*run];
        let evaluation = run.evaluations.iter().find(|e| e.step == *step);
        let Some(evaluation) = evaluation else {
            return Err(PointsError::NotEvaluated {
                result: results[0].0.clone(),
                run: run.of.path.clone(),
                step: *step,
            });
        };
        let rows = table(results, Shown::Median, false).rows;
        let cells = rows.iter().flat_map(|r| &r.cells);
        let scores: BTreeMap<&str, f64> = cells.map(|c| (c.task, c.score)).collect();
        let mut sum = 0.0;
        for task in &averaged {
            sum += scores.get(task.name).ok_or_else(|| PointsError::NoTask {
                run: run.of.path.clone(),
                step: *step,
                task: task.name,
            })?;
        }
        points.push(TransferPoint {
            family: run.of.family.clone(),
            seed: match seeds_apart {
                true => run.of.seed * 1000 + seed,
                false => run.of.seed,
            },
            step: *step,
            log_likelihood: evaluation.heldout_log_likelihood,
            score: 100.0 * sum / averaged.len() as f64,
        });
    }
    points.sort_by(|a, b| (&a.family, a.seed, a.step).cmp(&(&b.family, b.seed, b.step)));
    Ok(Points {
        points,
        tasks: averaged.iter().map(|t| t.name).collect(),
        unused,
    })
}

fn is_dev(result: &TaskResult) -> bool {
    result.split().is_some_and(|s| s.role == Role::Dev) && result.finetuning.is_some()
}

/// The tasks of every score: those asked for, else those of the GLUE average that every group has.
fn averaged(groups: &Groups, tasks: &[&'static Task]) -> Vec<&'static Task> {
    if !tasks.is_empty() {
        return tasks.to_vec();
    }
    let of = |results: &[(PathBuf, TaskResult)]| -> BTreeSet<String> {
        results.iter().map(|(_, r)| r.task.clone()).collect()
    };
    let everywhere = groups
        .values()
        .map(|results| of(results))
        .reduce(|a, b| a.intersection(&b).cloned().collect())
        .unwrap_or_default();
    let any: BTreeSet<String> = groups.values().flat_map(|results| of(results)).collect();
    let chosen = if everywhere.is_empty() {
        any
    } else {
        everywhere
    };
    TASKS
        .iter()
        .filter(|t| t.in_average && t.name != "WNLI" && chosen.contains(t.name))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::result::{
        DataRecord, EncodingRecord, FinetuneRecord, ModelRecord, RuntimeRecord, SCHEMA,
    };

    /// A run with evaluations at the steps, and no weights.
    fn run(root: &Path, name: &str, steps: &[(u64, f64)]) -> FamilyRun {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        let lines: String = steps
            .iter()
            .map(|(step, value)| {
                format!(
                    "{{\"kind\":\"eval\",\"step\":{step},\"wall_seconds\":1.0,\"tokens\":{},\"heldout_log_likelihood\":{value},\"heldout_accuracy\":0.1}}\n",
                    step * 10
                )
            })
            .collect();
        fs::write(path.join(METRICS_FILE), lines).unwrap();
        FamilyRun {
            family: name.to_owned(),
            seed: 3,
            path,
        }
    }

    fn result(base: &Path, task: &str, seed: u64, score: f64) -> (PathBuf, TaskResult) {
        let split = TASKS.iter().find(|t| t.name == task).unwrap();
        let split = split.splits.iter().find(|s| s.role == Role::Dev).unwrap();
        let result = TaskResult {
            schema: SCHEMA.to_owned(),
            version: "0".to_owned(),
            task: task.to_owned(),
            split: split.name.to_owned(),
            score: Some(score),
            scores: BTreeMap::new(),
            prediction_counts: Vec::new(),
            warnings: Vec::new(),
            model: ModelRecord {
                name: "m".to_owned(),
                path: base.to_owned(),
                weights_blake3: None,
                tokenizer_hash: String::new(),
            },
            data: DataRecord {
                files: Vec::new(),
                blake3: String::new(),
                rows: split.rows,
                official_rows: split.rows,
                left_out: 0,
                label_counts: Vec::new(),
            },
            encoding: EncodingRecord {
                max_length: 8,
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
            finetuning: Some(FinetuneRecord {
                learning_rate: 1e-3,
                batch_size: 32,
                epochs: 1,
                seed,
                steps: 1,
                best_epoch: 1,
                stopped_early: false,
                start_task: None,
                seconds: 1.0,
                train_rows: 1,
                base_blake3: Some("elsewhere".to_owned()),
            }),
            key: String::new(),
        };
        (PathBuf::from(format!("ft/{task}/{seed}")), result)
    }

    #[test]
    fn a_checkpoint_has_its_log_likelihood_and_the_average_of_medians() {
        let root = tempfile::tempdir().unwrap();
        let run = run(root.path(), "moe", &[(10, -5.0), (20, -4.0)]);
        let early = run.path.join("checkpoints/step-00000010");
        let last = run.path.join("model");
        let results = vec![
            result(&early, "CoLA", 1, 0.1),
            result(&early, "CoLA", 2, 0.3),
            result(&early, "RTE", 1, 0.5),
            result(&last, "CoLA", 1, 0.4),
            result(&last, "RTE", 1, 0.6),
            result(&last, "MRPC", 1, 0.9),
        ];
        let made = points(std::slice::from_ref(&run), &results, &[], false).unwrap();
        assert_eq!(made.tasks, ["CoLA", "RTE"], "MRPC is not everywhere");
        let found: Vec<(u64, u64, f64, f64)> = made
            .points
            .iter()
            .map(|p| {
                (
                    p.seed,
                    p.step,
                    p.log_likelihood,
                    (p.score * 1e9).round() / 1e9,
                )
            })
            .collect();
        assert_eq!(found, [(3, 10, -5.0, 35.0), (3, 20, -4.0, 50.0)]);
        let cola = TASKS.iter().find(|t| t.name == "CoLA").unwrap();
        let apart = points(&[run], &results, &[cola], true).unwrap();
        let seeds: Vec<(u64, u64)> = apart.points.iter().map(|p| (p.seed, p.step)).collect();
        assert_eq!(seeds, [(3001, 10), (3001, 20), (3002, 10)]);
    }

    #[test]
    fn what_belongs_nowhere_is_told() {
        let root = tempfile::tempdir().unwrap();
        let run = run(root.path(), "moe", &[(20, -4.0)]);
        let strange = result(Path::new("other/model"), "RTE", 1, 0.5);
        let error = points(
            std::slice::from_ref(&run),
            std::slice::from_ref(&strange),
            &[],
            false,
        )
        .unwrap_err();
        assert!(error.to_string().contains("other/model"), "{error}");
        let own = result(&run.path.join("model"), "RTE", 1, 0.5);
        let made = points(
            std::slice::from_ref(&run),
            &[strange, own.clone()],
            &[],
            false,
        )
        .unwrap();
        assert_eq!(made.unused.len(), 1);
        let early = result(&run.path.join("checkpoints/step-5"), "RTE", 1, 0.5);
        let error = points(std::slice::from_ref(&run), &[early], &[], false).unwrap_err();
        assert!(error.to_string().contains("keep_steps"), "{error}");
        let cola = TASKS.iter().find(|t| t.name == "CoLA").unwrap();
        let rte = TASKS.iter().find(|t| t.name == "RTE").unwrap();
        let error = points(&[run], &[own], &[cola, rte], false).unwrap_err();
        assert!(
            error.to_string().contains("no development result on CoLA"),
            "{error}"
        );
    }
}
