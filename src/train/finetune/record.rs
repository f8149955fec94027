//! What runs leave on record, and what a grid comes to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use tcd_analysis::metrics::{number_from_json, number_to_json};

use super::settings::RunSetting;
use crate::eval::result::{FinetuneRecord, rank};

/// The record of a run's end.
pub const RUN_FILE: &str = "run.json";
/// The summary of a task.
pub const SUMMARY_FILE: &str = "summary.json";

/// A run that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Hash of all that decides on the run's outcome.
    pub key: String,
    /// Its name.
    pub id: String,
    /// Task.
    pub task: String,
    /// Setting.
    pub setting: RunSetting,
    /// Mean score over the development sets; `"nan"` where undefined.
    #[serde(with = "number")]
    pub score: f64,
    /// What looks wrong.
    pub warnings: Vec<String>,
    /// How it went.
    pub finetuning: FinetuneRecord,
}

mod number {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        number_to_json(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let value = Value::deserialize(deserializer)?;
        number_from_json(&value).ok_or_else(|| D::Error::custom("`score` is not a number"))
    }
}

/// All runs of a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskSummary {
    /// Task.
    pub task: &'static str,
    /// Name of the best run.
    pub best: String,
    /// Its model.
    pub model: PathBuf,
    /// The runs.
    pub runs: Vec<RunRecord>,
}

/// What a grid came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GridSummary {
    /// The tasks that were done.
    pub tasks: Vec<TaskSummary>,
    /// Runs done in this process.
    pub done: usize,
    /// Runs that were there already.
    pub found: usize,
    /// Whether all were done, or the grid was interrupted.
    pub finished: bool,
}

/// The run with the highest score, the first of equal ones; one with an undefined score only where there is no other.
pub fn best(records: &[RunRecord]) -> Option<&RunRecord> {
    let better = |best: &'_ RunRecord, other: &RunRecord| rank(other.score) > rank(best.score);
    records
        .iter()
        .reduce(|best, other| if better(best, other) { other } else { best })
}

/// The scores of each setting over its seeds, by the setting's name without the seed: sorted, an undefined one first.
pub fn by_setting(records: &[RunRecord]) -> BTreeMap<String, Vec<f64>> {
    let mut settings: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for record in records {
        let name = record
            .id
            .rsplit_once("-s")
            .map_or(record.id.as_str(), |(name, _)| name);
        settings
            .entry(name.to_owned())
            .or_default()
            .push(record.score);
    }
    for scores in settings.values_mut() {
        scores.sort_by(|a, b| rank(*a).total_cmp(&rank(*b)));
    }
    settings
}
