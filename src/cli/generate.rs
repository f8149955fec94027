//! `tcd generate`: the controlled English of [`crate::data::controlled`].

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::{Outcome, note};
use crate::data::controlled::{Settings, generate};

/// Arguments of `tcd generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// Directory to write: new, empty, or written by this command before.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed; the same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Documents of the corpus (5000 make about 2 MB).
    #[arg(long, default_value_t = 5000, value_name = "N")]
    documents: usize,
    /// Training examples of each task; development and test sets have a fifth as many.
    #[arg(long, default_value_t = 2000, value_name = "N")]
    examples: usize,
}

impl Generate {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let settings = Settings {
            seed: self.seed,
            documents: self.documents,
            examples: self.examples,
        };
        let made =
            generate(&self.out, &settings).context("cannot generate the controlled English")?;
        let kb = |bytes: u64| bytes.div_ceil(1000);
        note(&format!(
            "corpus: {} files, {} kB",
            made.corpus_files,
            kb(made.corpus_bytes)
        ));
        note(&format!(
            "tasks: {} files, {} kB",
            made.task_files,
            kb(made.task_bytes)
        ));
        note("generated text for demos and tests only, never evidence");
        Ok(Outcome::Done)
    }
}
