//! `tcd generate`.

use anyhow::Result;
use clap::Args;

use super::Outcome;

/// Arguments of `tcd generate`.
#[derive(Debug, Args)]
pub struct Generate {}

impl Generate {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
