//! `tcd plot`.

use anyhow::Result;
use clap::Subcommand;

use super::Outcome;

/// Sub-commands of `tcd plot`.
#[derive(Debug, Subcommand)]
pub enum Plot {
    /// To be described.
    Curves {},
}

impl Plot {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
