//! `tcd finetune`: fine-tune a model on GLUE tasks.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};

use super::eval::tasks;
use super::training::{Terminal, watch_for_ctrl_c, with_mend};
use super::{Outcome, note, out};
use crate::eval::result;
use crate::eval::table::{Shown, table};
use crate::train::config::DeviceConfig;
use crate::train::finetune::grid::Grid;
use crate::train::finetune::record::by_setting;
use crate::train::finetune::{FinetuneConfig, Keep, TaskSummary, finetune};

/// Arguments of `tcd finetune`.
///
/// Every combination of learning rates, batch sizes, epochs and seeds is one run. Of each run the evaluation with the best
/// development score counts; of each task the best run's model is kept in `OUT/TASK/best`, ready for `tcd eval` and
/// `tcd export`. What is done is not done again: the same command goes on where it was stopped.
///
/// Examples:
///   tcd finetune --model runs/vanilla/model --task RTE --data glue --out runs/ft-vanilla
///   tcd finetune --model runs/moe/model --task CoLA,SST-2,STS-B --data glue --out runs/ft-moe \
///       --learning-rate 1e-4,3e-4 --seeds 1,2,3 --expert-dropout 0.3
///   tcd finetune --model runs/moe/model --task all --data glue --out runs/ft-moe --start-from-mnli
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Finetune {
    /// Pre-trained model directory: of `tcd pretrain`, or a Hugging Face BERT.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Tasks, or `all` that the data directory holds.
    #[arg(long, required = true, num_args = 1.., value_name = "TASK")]
    task: Vec<String>,
    /// Directory of the GLUE download, or of the Hugging Face data set's Parquet files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Output directory; several models need several.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Peak learning rates [default: 1e-4].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    learning_rate: Vec<f64>,
    /// Rows a step [default: 32].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    batch_size: Vec<usize>,
    /// Epochs [default: 4].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    epochs: Vec<usize>,
    /// Seeds of head, order and dropout [default: 1].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    seeds: Vec<u64>,
    /// Share of the steps in which the learning rate rises [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    warmup: Option<f64>,
    /// Weight decay [default: 0.01].
    #[arg(long, value_name = "DECAY")]
    weight_decay: Option<f64>,
    /// Largest norm of the gradient, 0 for any [default: 1].
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Evaluations an epoch [default: 1].
    #[arg(long, value_name = "N")]
    evaluations_per_epoch: Option<usize>,
    /// End a run after so many evaluations without a better score; 0 for never [default: 0].
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
    /// Longest row, in tokens; longer ones lose the end of their longer text [default: 128].
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Weight of the experts' balance loss [default: 0, no such loss].
    #[arg(long, value_name = "WEIGHT")]
    balance_loss: Option<f64>,
    /// Dropout inside the experts [default: the model's].
    #[arg(long, value_name = "P")]
    expert_dropout: Option<f64>,
    /// Dropout elsewhere [default: the model's].
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,
    /// Train on so many rows only, the same for every model and run.
    #[arg(long, value_name = "N")]
    train_rows: Option<usize>,
    /// Begin RTE, MRPC and STS-B as the best MNLI model of the same `--out`; every table says so.
    #[arg(long)]
    start_from_mnli: bool,
    /// Which models to keep; scores and predictions are kept of all.
    #[arg(long, value_enum, default_value = "best")]
    keep: Kept,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto", value_parser = device)]
    device: DeviceConfig,
    /// Threads; 0 takes all processors.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// What tables call the model, in place of its directory's name.
    #[arg(long)]
    name: Option<String>,
    /// Leave malformed rows out, each told, in place of stopping at the first.
    #[arg(long)]
    skip_malformed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kept {
    /// The best of each task.
    Best,
    /// That, and each run's.
    All,
}

fn device(text: &str) -> Result<DeviceConfig, String> {
    DeviceConfig::try_from(text.to_owned())
}

impl Finetune {
    fn config(&self) -> FinetuneConfig {
        let mut config = FinetuneConfig {
            expert_dropout: self.expert_dropout,
            dropout: self.dropout,
            train_rows: self.train_rows,
            start_from_mnli: self.start_from_mnli,
            keep: match self.keep {
                Kept::Best => Keep::Best,
                Kept::All => Keep::All,
            },
            device: self.device,
            threads: self.threads,
            ..FinetuneConfig::default()
        };
        fn list<T: Clone>(into: &mut Vec<T>, given: &[T]) {
            if !given.is_empty() {
                *into = given.to_vec();
            }
        }
        fn one<T: Copy>(into: &mut T, given: Option<T>) {
            *into = given.unwrap_or(*into);
        }
        list(&mut config.learning_rates, &self.learning_rate);
        list(&mut config.batch_sizes, &self.batch_size);
        list(&mut config.epochs, &self.epochs);
        list(&mut config.seeds, &self.seeds);
        one(&mut config.warmup, self.warmup);
        one(&mut config.optimizer.weight_decay, self.weight_decay);
        one(&mut config.optimizer.clip, self.clip);
        one(
            &mut config.evaluations_per_epoch,
            self.evaluations_per_epoch,
        );
        one(&mut config.patience, self.patience);
        one(&mut config.max_length, self.max_length);
        one(&mut config.balance_loss, self.balance_loss);
        config
    }

    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let tasks = tasks(&self.task)?;
        let config = self.config();
        let stop = watch_for_ctrl_c()?;
        let mut terminal = Terminal::on_standard_error();
        let grid = Grid {
            model: &self.model,
            name: self.name.as_deref(),
            data: &self.data,
            out: &self.out,
            tasks: &tasks,
            lenient: self.task.iter().any(|name| name == "all"),
            skip_malformed: self.skip_malformed,
            config: &config,
        };
        let summary = finetune(&grid, &stop, &mut terminal).map_err(with_mend)?;
        for task in &summary.tasks {
            say(task);
        }
        if !summary.finished {
            note(&format!(
                "stopped; {} runs done, {} of them before; the same command goes on from here",
                summary.done + summary.found,
                summary.found
            ));
            return Ok(Outcome::Done);
        }
        let dirs: Vec<PathBuf> = summary
            .tasks
            .iter()
            .map(|task| self.out.join(task.task))
            .collect();
        let results = result::find(&dirs).context("cannot sum up the runs")?;
        let table = table(&results, Shown::Median, false);
        if table.rows.is_empty() {
            return Err(anyhow!("no run has a score"));
        }
        out(table.to_markdown().trim_end());
        note(&format!(
            "{} runs, {} of them done before; results and models: {}",
            summary.done + summary.found,
            summary.found,
            self.out.display()
        ));
        Ok(Outcome::Done)
    }
}

/// Median and spread of each setting.
fn say(task: &TaskSummary) {
    for (setting, scores) in by_setting(&task.runs) {
        let n = scores.len();
        let median = (scores[(n - 1) / 2] + scores[n / 2]) / 2.0;
        note(&format!(
            "{} {setting}: median {median:.4}, from {:.4} to {:.4}, {n} seeds",
            task.task,
            scores[0],
            scores[n - 1]
        ));
    }
    note(&format!(
        "{}: best {}, model {}",
        task.task,
        task.best,
        task.model.display()
    ));
}
