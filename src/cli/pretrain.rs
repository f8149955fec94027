//! `tcd pretrain`.

use anyhow::Result;
use clap::Args;

use super::Outcome;

/// Arguments of `tcd pretrain`.
#[derive(Debug, Args)]
pub struct Pretrain {}

impl Pretrain {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
