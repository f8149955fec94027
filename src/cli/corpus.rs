//! `tcd corpus`.

use anyhow::Result;
use clap::Subcommand;

use super::Outcome;

/// Sub-commands of `tcd corpus`.
#[derive(Debug, Subcommand)]
pub enum Corpus {
    /// To be described.
    Build {},
}

impl Corpus {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
