//! `tcd doctor`.

use anyhow::Result;
use clap::Args;

use super::Outcome;

/// Arguments of `tcd doctor`.
#[derive(Debug, Args)]
pub struct Doctor {}

impl Doctor {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
