//! `tcd pretrain`: pre-train a BERT or mixture-of-experts BERT.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{Outcome, note};
use crate::train::config::RunConfig;
use crate::train::pretrain::{Observer, pretrain};

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
        let stop = Arc::new(AtomicBool::new(false));
        let handler = stop.clone();
        ctrlc::set_handler(move || {
            if handler.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            note("stopping after this step; press Ctrl-C again to stop at once, without saving");
        })
        .context("cannot watch for Ctrl-C")?;
        let mut terminal = Terminal::new();
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

/// A progress line on a terminal; elsewhere a line now and then.
struct Terminal {
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Terminal {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("{msg} [{bar:24}] step {pos}/{len} {prefix}")
            {
                bar.set_style(style);
            }
            bar
        });
        Terminal {
            bar,
            last: Instant::now(),
        }
    }
}

impl Observer for Terminal {
    fn line(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn step(&mut self, step: u64, steps: u64, loss: f64, tokens_per_second: f64, left: Duration) {
        let left = HumanDuration(left);
        match &self.bar {
            Some(bar) => {
                bar.set_length(steps);
                bar.set_position(step);
                bar.set_message(format!("loss {loss:.4}"));
                bar.set_prefix(format!("{tokens_per_second:.0} tokens/s, {left} left"));
            }
            None if self.last.elapsed() > Duration::from_secs(10) => {
                self.last = Instant::now();
                note(&format!(
                    "step {step}/{steps}: loss {loss:.4}, {tokens_per_second:.0} tokens/s, {left} left"
                ));
            }
            None => {}
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
