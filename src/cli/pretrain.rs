//! `tcd pretrain`: pre-train a BERT or mixture-of-experts BERT.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::training::{Terminal, watch_for_ctrl_c, with_mend};
use super::{Outcome, note, out};
use crate::train::config::{RunConfig, describe_run, load};
use crate::train::pretrain::pretrain;

const EXAMPLES: &str = "\
Examples:
  tcd pretrain --print-config > run.toml
  tcd pretrain --config run.toml --set data.corpus=corpus --set output=runs/a --set model.preset=bert-l4-h128
  tcd pretrain --config runs/a/config.toml --resume
  tcd pretrain --config runs/a/config.toml --set output=runs/b --set model.moe.num_experts=16";

/// Arguments of `tcd pretrain`.
///
/// A run directory holds `config.toml`, `metrics.jsonl`, TensorBoard events, `checkpoints/`, `best/` and, at the end, `model/`.
/// Ctrl-C saves a checkpoint and ends; `--resume` goes on from the last one, and the weights come out as if nothing had
/// happened. One process works in a run directory at a time.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Pretrain {
    /// Configuration of the run, TOML. A run's own `config.toml` is one; `--print-config` writes one to begin with.
    #[arg(long, short, required_unless_present = "print_config")]
    config: Option<PathBuf>,
    /// Set a key of the configuration, such as `--set optimizer.learning_rate=5e-4`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the last checkpoint in the run directory; start where there is none.
    #[arg(long)]
    resume: bool,
    /// Print the configuration, `--config` and `--set` applied, as TOML that tells what every key means, and end.
    #[arg(long)]
    print_config: bool,
}

impl Pretrain {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let config: RunConfig =
            load(self.config.as_deref(), &self.set).context("cannot load the configuration")?;
        if self.print_config {
            out(describe_run(&config)?.trim_end());
            return Ok(Outcome::Done);
        }
        let stop = watch_for_ctrl_c()?;
        let mut terminal = Terminal::on_standard_error();
        let summary = pretrain(config, self.resume, &stop, &mut terminal).map_err(with_mend)?;
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
