//! What the commands that train share: Ctrl-C, and the progress line.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{interrupt, note};
use crate::train::run::Observer;

/// A flag that the first Ctrl-C sets, so that the run saves and ends; the second ends the process. Once a process.
pub fn watch_for_ctrl_c() -> Result<Arc<AtomicBool>> {
    interrupt::watch_for_ctrl_c(
        "stopping after this step; press Ctrl-C again to stop at once, without saving",
    )
}

/// A progress line on a terminal; elsewhere a line now and then.
#[derive(Debug)]
pub struct Terminal {
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Terminal {
    /// A progress bar where standard error is a terminal.
    pub fn on_standard_error() -> Self {
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
