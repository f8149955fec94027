//! `tcd analyze points`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use tcd_analysis::provenance::Provenance;
use tcd_analysis::transfer::{TransferPoint, points_to_csv};

use super::common::{OutputArgs, command_line, short, table};
use crate::cli::eval::tasks;
use crate::cli::{Outcome, note};
use crate::eval::points::{FamilyRun, points};
use crate::eval::result;

/// Arguments of `tcd analyze points`.
///
/// Each checkpoint that was fine-tuned becomes a point: its held-out log-likelihood from the run's metrics, and the GLUE average of its
/// fine-tuned results. A result belongs to the checkpoint whose weights it began from; where a checkpoint's weights are gone, the path that the
/// result names decides. The CSV beside the result is what `tcd analyze curve` reads.
///
/// Example:
///   for step in 01000 02000; do
///     tcd finetune --model runs/moe/checkpoints/step-000$step --task CoLA,SST-2,STS-B --data glue --out ft/moe-$step
///   done
///   tcd analyze points vanilla=runs/vanilla moe=runs/moe --finetuned ft/* --out points.json
///   tcd analyze curve points.csv --gap vanilla:moe --out transfer.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Points {
    /// Run directories of pre-training; several of one family have different seeds, by default the ones of their configurations.
    #[arg(required = true, value_name = "FAMILY[:SEED]=RUN")]
    runs: Vec<String>,
    /// Directories with results of `tcd finetune`.
    #[arg(long, num_args = 1.., required = true, value_name = "DIR")]
    finetuned: Vec<PathBuf>,
    /// Tasks of the average; those that every checkpoint has where none is given.
    #[arg(long, num_args = 1.., value_name = "TASK")]
    tasks: Vec<String>,
    /// A point for each seed of fine-tuning, in place of the median over them: where there is one run of a family, the interval of the
    /// transfer gap then tells of fine-tuning alone.
    #[arg(long)]
    seeds_apart: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// The result of `tcd analyze points`, schema `points 1`.
#[derive(Debug, Serialize)]
struct PointsResult {
    provenance: Provenance,
    tasks: Vec<&'static str>,
    seeds_apart: bool,
    points: Vec<TransferPoint>,
}

impl Points {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let runs = self
            .runs
            .iter()
            .map(|argument| family_run(argument))
            .collect::<Result<Vec<_>>>()?;
        for (i, run) in runs.iter().enumerate() {
            let same = |other: &&FamilyRun| other.family == run.family && other.seed == run.seed;
            if let Some(other) = runs[..i].iter().find(same) {
                bail!(
                    "two runs of family `{}` with seed {}: {} and {}\nhint: name the seeds, `{}:1=RUN`",
                    run.family,
                    run.seed,
                    other.path.display(),
                    run.path.display(),
                    run.family
                );
            }
        }
        let results = result::find(&self.finetuned)?;
        let wanted = match self.tasks.is_empty() {
            true => Vec::new(),
            false => tasks(&self.tasks)?,
        };
        let made = points(&runs, &results, &wanted, self.seeds_apart)?;
        if !made.unused.is_empty() {
            note(&format!(
                "{} results belong to none of the runs, the first is `{}`",
                made.unused.len(),
                made.unused[0].display()
            ));
        }
        let lines: Vec<Vec<String>> = made
            .points
            .iter()
            .map(|p| {
                vec![
                    p.family.clone(),
                    p.seed.to_string(),
                    p.step.to_string(),
                    short(Some(p.log_likelihood)),
                    format!("{:.2}", p.score),
                ]
            })
            .collect();
        table(
            &["family", "seed", "step", "log-likelihood", "score"],
            &lines,
        );
        note(&format!("score: average of {}", made.tasks.join(", ")));
        let csv = points_to_csv(&made.points);
        let result = PointsResult {
            provenance: Provenance::new("points 1", &command_line(), Vec::new(), None),
            tasks: made.tasks,
            seeds_apart: self.seeds_apart,
            points: made.points,
        };
        self.output.write(&result, &[("", csv)])?;
        Ok(Outcome::Done)
    }
}

/// `FAMILY=RUN` or `FAMILY:SEED=RUN`.
fn family_run(argument: &str) -> Result<FamilyRun> {
    let (name, path) = match argument.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => (name, PathBuf::from(path)),
        _ => bail!("a run is given as `FAMILY=RUN` or `FAMILY:SEED=RUN`: `{argument}`"),
    };
    let (family, seed) = match name.rsplit_once(':') {
        None => (name.to_owned(), seed_of(&path)?),
        Some((family, seed)) => {
            let seed = seed
                .parse()
                .with_context(|| format!("the seed of a run must be a whole number: `{name}`"))?;
            (family.to_owned(), seed)
        }
    };
    Ok(FamilyRun { family, seed, path })
}

/// The seed in a run's resolved configuration.
fn seed_of(run: &Path) -> Result<u64> {
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read the run's configuration: {}\nhint: give a directory that `tcd pretrain` wrote, or the seed, `FAMILY:SEED=RUN`",
            path.display()
        )
    })?;
    let value: toml::Table = text
        .parse()
        .with_context(|| format!("not a configuration: {}", path.display()))?;
    let seed = value.get("seed").and_then(toml::Value::as_integer);
    Ok(seed.and_then(|s| u64::try_from(s).ok()).unwrap_or(0))
}
