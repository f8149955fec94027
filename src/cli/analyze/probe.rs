//! `tcd analyze probe`.

use std::collections::HashMap;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tcd_analysis::cka::Reason;
use tcd_analysis::probe::{ProbeCell, ProbeOptions, ProbeResult, ProbeTask, Target, probe};
use tcd_analysis::source::{FeatureRows, TapSource};

use super::common::{
    OutputArgs, Rows, SampleArgs, Track, open_all, provenance, short, short_tap, table,
};
use crate::cli::{Outcome, note};

/// Rows where none are asked for.
const ROWS: usize = 8000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Position in the row, a number.
    Position,
    /// Which of the most frequent words a token is; other tokens are left out.
    Word,
    /// Whether the position was masked.
    Masked,
    /// Gold label of the row: classes, or a score where the data file names none.
    Label,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Task::Position => "position",
            Task::Word => "word",
            Task::Masked => "masked",
            Task::Label => "label",
        }
    }
}

/// Arguments of `tcd analyze probe`.
///
/// Tasks that need no annotation read tokens (`position`, `word`, `masked`), the task `label` reads rows (`--rows cls` or `mean`) of a GLUE
/// data file. Scores are on held-out rows: accuracy for classes, R^2 for numbers. The control task has random labels, one for each word
/// type (for `word` and `label` one for each row of the sample); selectivity is the score less the control's.
///
/// Examples:
///   tcd analyze probe vanilla=f/v.safetensors moe=f/m.safetensors --task position,word --out probes.json
///   tcd analyze probe f/rte.safetensors --task label --rows cls --out rte.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Probe {
    /// Features files; `NAME=FILE` names the model.
    #[arg(required = true, value_name = "FEATURES")]
    features: Vec<String>,
    #[command(flatten)]
    sample: SampleArgs,
    /// What is to be read.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    task: Vec<Task>,
    /// Words of the task `word`.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    words: u32,
    /// Share of the data's rows that is held out.
    #[arg(long, default_value_t = ProbeOptions::default().held_out, value_name = "SHARE")]
    held_out: f64,
    /// L2 penalty of the logistic regression.
    #[arg(long, default_value_t = ProbeOptions::default().penalty, value_name = "X")]
    penalty: f64,
    /// Most iterations of the logistic regression.
    #[arg(long, default_value_t = ProbeOptions::default().iterations, value_name = "N")]
    iterations: u64,
    /// Most principal components that a probe reads.
    #[arg(long, default_value_t = ProbeOptions::default().components, value_name = "N")]
    components: usize,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which rows of the sample a task is over, and the task.
struct Chosen {
    rows: Vec<usize>,
    task: ProbeTask,
}

impl Probe {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let options = self.options()?;
        let files = open_all(&self.features)?;
        let mut cells = Vec::new();
        let mut sample = None;
        for named in &files {
            let rows = self.sample.rows_of(&named.file, Some(ROWS))?;
            sample.get_or_insert(self.sample.info(&rows, Some(ROWS)));
            let chosen = self
                .task
                .iter()
                .map(|t| self.choose(*t, &rows))
                .collect::<Result<Vec<_>>>()?;
            let track = Track::new("probes", "taps");
            for (t, (tap, width)) in rows.taps().iter().enumerate() {
                let all = rows.whole(t)?;
                for Chosen { rows: picked, task } in &chosen {
                    let row = |&i: &usize| {
                        all[i * width..(i + 1) * width]
                            .iter()
                            .map(|v| f64::from(*v))
                    };
                    let features: Vec<f64> = picked.iter().flat_map(row).collect();
                    let found = probe(tap, *width, &features, task, &options);
                    cells.push(cell(&named.name, tap, &task.name, found));
                }
                track.at(t + 1, rows.taps().len());
            }
        }
        let files: Vec<_> = files.iter().collect();
        let result = ProbeResult {
            provenance: provenance("probe 1", &files, sample),
            options,
            cells,
        };
        show(&result);
        self.output.write(&result, &[("", result.to_csv())])?;
        Ok(Outcome::Done)
    }

    fn options(&self) -> Result<ProbeOptions> {
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            bail!("`--held-out` must lie between 0 and 1: {}", self.held_out);
        }
        if !(self.penalty > 0.0 && self.penalty.is_finite()) {
            bail!("`--penalty` must be above 0: {}", self.penalty);
        }
        Ok(ProbeOptions {
            held_out: self.held_out,
            penalty: self.penalty,
            iterations: self.iterations,
            components: self.components.max(1),
            seed: self.sample.seed,
        })
    }

    fn choose(&self, task: Task, rows: &FeatureRows) -> Result<Chosen> {
        let file = rows.file();
        if task == Task::Label {
            if self.sample.rows == Rows::Token {
                bail!("the task `label` is over rows\nhint: `--rows cls` or `--rows mean`");
            }
            let labels = file.floats("rows.label")?;
            let of = |i: usize| labels[rows.cluster(i)];
            let classes = !file.info().labels.is_empty();
            let target = if classes {
                Target::Classes((0..rows.len()).map(|i| of(i) as usize).collect())
            } else {
                Target::Values((0..rows.len()).map(|i| f64::from(of(i))).collect())
            };
            return Ok(chosen(task, rows, (0..rows.len()).collect(), target, |i| {
                i as u64
            }));
        }
        if self.sample.rows != Rows::Token {
            bail!(
                "the task `{}` is over tokens\nhint: `--rows token`",
                task.name()
            );
        }
        let ids = match file.has("original_ids") {
            true => file.small_ints("original_ids")?,
            false => file.input_ids().to_vec(),
        };
        let all: Vec<usize> = (0..rows.len()).collect();
        let word = |i: usize| ids[rows.token(i)];
        Ok(match task {
            Task::Masked => {
                let masked = file.small_ints("masked")?;
                let target = Target::Classes(
                    all.iter()
                        .map(|&i| masked[rows.token(i)] as usize)
                        .collect(),
                );
                chosen(task, rows, all, target, |i| u64::from(word(i)))
            }
            Task::Word => {
                let mut counts: HashMap<u32, usize> = HashMap::new();
                all.iter()
                    .for_each(|&i| *counts.entry(word(i)).or_default() += 1);
                let mut words: Vec<(u32, usize)> = counts.into_iter().collect();
                words.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
                words.truncate(self.words as usize);
                let class: HashMap<u32, usize> = words
                    .iter()
                    .enumerate()
                    .map(|(c, (id, _))| (*id, c))
                    .collect();
                let kept: Vec<usize> = all
                    .into_iter()
                    .filter(|&i| class.contains_key(&word(i)))
                    .collect();
                let target = Target::Classes(kept.iter().map(|&i| class[&word(i)]).collect());
                // A label for each word type would be the task itself.
                chosen(task, rows, kept, target, |i| i as u64)
            }
            _ => {
                let target = Target::Values(
                    all.iter()
                        .map(|&i| f64::from(file.positions()[rows.token(i)]))
                        .collect(),
                );
                chosen(task, rows, all, target, |i| u64::from(word(i)))
            }
        })
    }
}

fn chosen(
    task: Task,
    rows: &FeatureRows,
    kept: Vec<usize>,
    target: Target,
    key: impl Fn(usize) -> u64,
) -> Chosen {
    let task = ProbeTask {
        name: task.name().to_owned(),
        target,
        groups: kept.iter().map(|&i| rows.cluster(i)).collect(),
        control_keys: kept.iter().map(|&i| key(i)).collect(),
    };
    Chosen { rows: kept, task }
}

fn cell(
    model: &str,
    tap: &str,
    task: &str,
    found: Result<tcd_analysis::probe::ProbeScores, Reason>,
) -> ProbeCell {
    ProbeCell {
        model: model.to_owned(),
        tap: tap.to_owned(),
        task: task.to_owned(),
        scores: found.as_ref().ok().cloned(),
        reason: found.err(),
    }
}

fn show(result: &ProbeResult) {
    let lines: Vec<Vec<String>> = result
        .cells
        .iter()
        .map(|c| {
            let s = c.scores.as_ref();
            vec![
                c.model.clone(),
                c.task.clone(),
                short_tap(&c.tap),
                short(s.map(|s| s.score)),
                short(s.map(|s| s.baseline)),
                short(s.map(|s| s.control)),
                short(s.map(|s| s.selectivity)),
            ]
        })
        .collect();
    table(
        &[
            "model",
            "task",
            "tap",
            "score",
            "baseline",
            "control",
            "selectivity",
        ],
        &lines,
    );
    for c in &result.cells {
        if let Some(reason) = &c.reason {
            note(&format!("{} {} {}: {reason}", c.model, c.task, c.tap));
        }
    }
}
