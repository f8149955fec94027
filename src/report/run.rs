//! One pre-training run: what it was configured to do, and how it came out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tcd_analysis::{CurvePoint, PretrainingCurve};

use super::roles::Role;
use crate::run_log::METRICS_FILE;

/// A run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Its directory's name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its part in the comparison.
    pub role: Option<Role>,
    /// The seed of its random streams.
    pub seed: u64,
    /// The corpus directory.
    pub corpus: String,
    /// What decides on the held-out rows and their masks beside the corpus.
    pub evaluation: String,
    /// Size, as in `L4 H128, 16 experts`.
    pub size: String,
    /// The teacher, where it has one.
    pub teacher: Option<String>,
    /// Evaluations, by step.
    pub points: Vec<CurvePoint>,
    /// Parameters, where the run is done.
    pub parameters: Option<u64>,
    /// Whether it ran to its end.
    pub finished: bool,
    /// BLAKE3 of its files.
    pub hashes: Vec<(String, String)>,
}

fn hash(path: &Path) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(path).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}

impl Run {
    /// Reads a run directory; nothing where it is a run of another kind.
    pub fn read(dir: &Path) -> Result<Option<Run>, String> {
        let path = dir.join("config.toml");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(None);
        };
        let config: toml::Value =
            toml::from_str(&text).map_err(|e| format!("`config.toml`: {}", e.message()))?;
        let corpus = config.get("data").and_then(|d| d.get("corpus"));
        let Some(corpus) = corpus.and_then(toml::Value::as_str) else {
            return Ok(None);
        };
        let name = dir.file_name().map_or_else(
            || dir.display().to_string(),
            |n| n.to_string_lossy().into_owned(),
        );
        let curve = PretrainingCurve::from_run(&name, dir).map_err(|e| e.to_string())?;
        let summary: Value = fs::read(dir.join("summary.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let part = |key: &str| config.get(key).map(ToString::to_string).unwrap_or_default();
        // A run whose summary is gone tells by its last evaluation.
        let planned = config
            .get("schedule")
            .and_then(|s| s.get("steps")?.as_integer());
        let finished = summary["finished"].as_bool().unwrap_or_else(|| {
            let last = curve.points.last().map(|p| i64::try_from(p.step));
            matches!((last, planned), (Some(Ok(last)), Some(planned)) if last >= planned)
        });
        let mut hashes = Vec::new();
        for file in ["config.toml", METRICS_FILE, "model/model.safetensors"] {
            if let Some(hash) = hash(&dir.join(file)) {
                hashes.push((file.to_owned(), hash));
            }
        }
        Ok(Some(Run {
            name,
            dir: dir.to_owned(),
            role: Role::of_config(&config),
            seed: config
                .get("seed")
                .and_then(toml::Value::as_integer)
                .map_or(0, |s| s.unsigned_abs()),
            corpus: corpus.to_owned(),
            evaluation: part("evaluation"),
            size: size(&config),
            teacher: config.get("distill").map(|d| {
                let teacher = d.get("teacher").and_then(toml::Value::as_str);
                let method = d.get("method").and_then(toml::Value::as_str);
                format!(
                    "{} ({})",
                    teacher.unwrap_or("not named"),
                    method.unwrap_or("relations")
                )
            }),
            points: curve.points,
            parameters: summary["parameters"].as_u64(),
            finished,
            hashes,
        }))
    }

    /// The command that does the same run again.
    pub fn command(&self) -> String {
        format!(
            "tcd pretrain --config {}",
            self.dir.join("config.toml").display()
        )
    }

    /// Hashes and settings.
    pub fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![
            ("corpus".to_owned(), self.corpus.clone()),
            ("seed".to_owned(), self.seed.to_string()),
        ];
        facts.extend(self.hashes.iter().cloned());
        facts
    }

    /// The last evaluation with a number.
    pub fn last(&self) -> Option<&CurvePoint> {
        self.points
            .iter()
            .rev()
            .find(|p| p.heldout_log_likelihood.is_finite())
    }

    /// The evaluation of the highest log-likelihood.
    pub fn best(&self) -> Option<&CurvePoint> {
        let finite = self
            .points
            .iter()
            .filter(|p| p.heldout_log_likelihood.is_finite());
        finite.max_by(|a, b| {
            a.heldout_log_likelihood
                .total_cmp(&b.heldout_log_likelihood)
        })
    }
}

fn size(config: &toml::Value) -> String {
    let Some(model) = config.get("model") else {
        return String::new();
    };
    let number = |key: &str| model.get(key).and_then(toml::Value::as_integer);
    let mut parts = Vec::new();
    if let Some(preset) = model.get("preset").and_then(toml::Value::as_str) {
        parts.push(preset.to_owned());
    }
    let size: Vec<String> = [("L", number("layers")), ("H", number("hidden"))]
        .into_iter()
        .filter_map(|(letter, n)| Some(format!("{letter}{}", n?)))
        .collect();
    if !size.is_empty() {
        parts.push(size.join(" "));
    }
    let experts = model.get("moe").and_then(|m| m.get("num_experts"));
    if let Some(experts) = experts.and_then(toml::Value::as_integer) {
        parts.push(format!("{experts} experts"));
    }
    parts.join(", ")
}
