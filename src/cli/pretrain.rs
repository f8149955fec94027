//! `tcd pretrain`: pre-train a BERT or mixture-of-experts BERT.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::training::{Terminal, watch_for_ctrl_c};
use super::{Outcome, note};
use crate::train::config::RunConfig;
use crate::train::pretrain::pretrain;

/// Arguments of `tcd pretrain`.
///
/// A run directory holds `config.toml`, `metrics.jsonl`, TensorBoard events, `checkpoints/`, `best/` and, at the end, `model/`.
/// Ctrl-C saves a checkpoint and ends; `--resume` goes on from the last one, and the weights come out as if nothing had
/// happened.
#[derive(Debug, Args)]
pub struct Pretrain {
    /// Configuration of the run, TOML. A run's own `config.toml` is one.
    #[arg(long, short)]
    config: PathBuf,
    /// Set a key of the configuration, such as `--set optimizer.learning_rate=5e-4`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the last checkpoint in the run directory; start where there is none.
    #[arg(long)]
    resume: bool,
}

impl Pretrain {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let config =
            RunConfig::load(&self.config, &self.set).context("cannot load the configuration")?;
        let stop = watch_for_ctrl_c()?;
        let mut terminal = Terminal::on_standard_error();
        let summary = pretrain(config, self.resume, &stop, &mut terminal)?;
        if !summary.finished {
            note(&format!(
                "stopped at step {}; saved in {}; go on with the same command and `--resume`",
                summary.steps,
                summary.path.display()
            ));
            return Ok(Outcome::Done);
        }
        note(&format!(
            "done: {} steps, {} tokens at {:.0} tokens/s; held-out log-likelihood {:.4}, accuracy {:.2} %",
            summary.steps,
            summary.tokens,
            summary.tokens_per_second,
            summary.heldout_log_likelihood.unwrap_or(f64::NAN),
            100.0 * summary.heldout_accuracy.unwrap_or(f64::NAN),
        ));
        note(&format!("model: {}", summary.path.display()));
        Ok(Outcome::Done)
    }
}
