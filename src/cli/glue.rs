//! `tcd glue`: look at GLUE's data, and sum up and compare results on it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::eval::tasks;
use super::{Outcome, note, out};
use crate::data::glue::{Found, SplitData, read_split};
use crate::eval::bootstrap::{Comparison, compare, pair};
use crate::eval::predictions::read_predictions;
use crate::eval::result::{self, TaskResult};
use crate::eval::table::{Shown, Table, table};
use crate::files::write_whole;

/// Look at GLUE's data, and sum up and compare results on it.
#[derive(Debug, Subcommand)]
pub enum Glue {
    /// Show which tasks and splits a data directory holds, with their rows and labels.
    Show(Show),
    /// Sum up results of many models and tasks in one table, with the GLUE average.
    Table(TableArgs),
    /// Compare two models by paired bootstrap over the rows of their predictions.
    Compare(Compare),
}

impl Glue {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Glue::Show(c) => c.run(),
            Glue::Table(c) => c.run(),
            Glue::Compare(c) => c.run(),
        }
    }
}

/// Arguments of `tcd glue show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Directory of the GLUE download, or of the Hugging Face data set's Parquet files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Tasks, or `all`.
    #[arg(long, num_args = 1.., default_value = "all", value_name = "TASK")]
    task: Vec<String>,
    /// Leave malformed rows out, each told.
    #[arg(long)]
    skip_malformed: bool,
}

impl Show {
    fn run(&self) -> Result<Outcome> {
        for task in tasks(&self.task)? {
            for split in task.splits {
                match read_split(&self.data, task, split, self.skip_malformed)? {
                    Found::Missing(missing) => note(&missing.to_string()),
                    Found::Data(data) => {
                        out(&line(&data));
                        data.notes().iter().for_each(|line| note(line));
                    }
                }
            }
        }
        Ok(Outcome::Done)
    }
}

fn line(data: &SplitData) -> String {
    let labels: Vec<String> = data
        .task
        .labels
        .iter()
        .zip(data.label_counts())
        .map(|(label, count)| format!("{} {count}", label.name))
        .collect();
    let files: Vec<String> = data.files.iter().map(|f| f.display().to_string()).collect();
    format!(
        "{} {}: {} rows, {} ({})",
        data.task.name,
        data.split.name,
        data.examples.len(),
        match (data.split.columns.label, labels.is_empty()) {
            (None, _) => "labels hidden".to_owned(),
            (Some(_), true) => "scores from 0 to 5".to_owned(),
            (Some(_), false) => labels.join(", "),
        },
        files.join(", ")
    )
}

/// The form of a table.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Markdown,
    /// A line for each model and task.
    Csv,
    /// Everything.
    Json,
}

/// What is shown of several seeds.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// The median.
    Median,
    /// The best.
    Best,
}

/// Arguments of `tcd glue table`.
///
/// Finds every `result.json` under the directories. The average is the GLUE paper's: metrics of a task are averaged first, and
/// so are the two sets of MNLI; it is taken over the tasks that every model has, and the table names them.
///
/// Examples:
///   tcd glue table runs/ft-vanilla runs/ft-moe
///   tcd glue table runs/ft-* --format csv --out table.csv
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct TableArgs {
    /// Directories that `tcd eval` or `tcd finetune` wrote.
    #[arg(required = true, value_name = "RUNS")]
    runs: Vec<PathBuf>,
    /// Form of the table.
    #[arg(long, value_enum, default_value = "markdown")]
    format: Format,
    /// Of several seeds, show this.
    #[arg(long, value_enum, default_value = "median")]
    show: Of,
    /// Take WNLI into the average.
    #[arg(long)]
    wnli: bool,
    /// Write to this file in place of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl TableArgs {
    fn run(&self) -> Result<Outcome> {
        let results = result::find(&self.runs)?;
        let shown = match self.show {
            Of::Median => Shown::Median,
            Of::Best => Shown::Best,
        };
        let table: Table = table(&results, shown, self.wnli);
        if table.rows.is_empty() {
            bail!(
                "none of the {} results is on a development set, so there is nothing to sum up",
                results.len()
            );
        }
        let text = match self.format {
            Format::Markdown => table.to_markdown(),
            Format::Csv => table.to_csv(),
            Format::Json => table.to_json(),
        };
        match &self.out {
            None => out(text.trim_end()),
            Some(path) => write_whole(path, text.as_bytes())
                .with_context(|| format!("cannot write `{}`", path.display()))?,
        }
        Ok(Outcome::Done)
    }
}

/// Arguments of `tcd glue compare`.
///
/// For each split that both have predictions of, the same rows are drawn with replacement for both models, and the task's score
/// is taken of each draw. Told are the difference (second less first), its 95 % interval and a two-sided p-value. It says how
/// much the choice of the rows matters; how much the seed of fine-tuning matters, only more seeds say.
///
/// Examples:
///   tcd glue compare scores/vanilla scores/moe
///   tcd glue compare scores/vanilla/CoLA scores/moe/CoLA --draws 100000 --json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Compare {
    /// Results of the first model.
    first: PathBuf,
    /// Results of the second model.
    second: PathBuf,
    /// Draws.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    draws: u32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

impl Compare {
    fn run(&self) -> Result<Outcome> {
        let (first, second) = (one_each(&self.first)?, one_each(&self.second)?);
        let mut lines: Vec<Value> = Vec::new();
        for (dir, a) in &first {
            let Some((other, b)) = second
                .iter()
                .find(|(_, b)| (&b.task, &b.split) == (&a.task, &a.split))
            else {
                note(&format!("{} {}: only the first has it", a.task, a.split));
                continue;
            };
            if a.data.blake3 != b.data.blake3 {
                bail!(
                    "{} {}: the two models were not evaluated on the same rows (`{}`, `{}`)",
                    a.task,
                    a.split,
                    dir.display(),
                    other.display()
                );
            }
            let task = a.task().context("a task")?;
            if a.score.is_none() {
                note(&format!("{} {}: labels are hidden", a.task, a.split));
                continue;
            }
            let (x, y) = pair(
                &read_predictions(dir, task)?,
                &read_predictions(other, task)?,
            )?;
            let found = compare(&x, &y, task.metrics, self.draws as usize, self.seed);
            if self.json {
                let mut line = json!({"task": a.task, "split": a.split, "first_model": a.model.name, "second_model": b.model.name});
                if let (Some(line), Value::Object(found)) = (line.as_object_mut(), json!(found)) {
                    line.extend(found);
                }
                lines.push(line);
            } else {
                out(&sentence(a, b, &found));
                lines.push(Value::Null);
            }
        }
        for (_, b) in &second {
            if first
                .iter()
                .all(|(_, a)| (&b.task, &b.split) != (&a.task, &a.split))
            {
                note(&format!("{} {}: only the second has it", b.task, b.split));
            }
        }
        if lines.is_empty() {
            bail!("the two have no scored split in common");
        }
        if self.json {
            out(&format!("{:#}", Value::Array(lines)));
        }
        Ok(Outcome::Done)
    }
}

fn sentence(a: &TaskResult, b: &TaskResult, c: &Comparison) -> String {
    format!(
        "{} {}: {} {:.2}, {} {:.2}, difference {:+.2}, 95 % interval {:+.2} to {:+.2}, p {:.4} ({} rows, {} draws{})",
        a.task,
        a.split,
        a.model.name,
        100.0 * c.first,
        b.model.name,
        100.0 * c.second,
        100.0 * c.difference,
        100.0 * c.low,
        100.0 * c.high,
        c.p_value,
        c.rows,
        c.draws,
        if c.undefined > 0 {
            format!(", undefined on {}", c.undefined)
        } else {
            String::new()
        }
    )
}

/// The results under a directory, one a split.
fn one_each(path: &Path) -> Result<Vec<(PathBuf, TaskResult)>> {
    let results = result::find(&[path.to_owned()])?;
    for (i, (dir, result)) in results.iter().enumerate() {
        let same = |(_, other): &&(PathBuf, TaskResult)| {
            (&other.task, &other.split) == (&result.task, &result.split)
        };
        if let Some((other, _)) = results[..i].iter().find(same) {
            bail!(
                "two results on {} {}: `{}` and `{}`; hint: name the one that is to be compared",
                result.task,
                result.split,
                other.display(),
                dir.display()
            );
        }
    }
    Ok(results)
}
