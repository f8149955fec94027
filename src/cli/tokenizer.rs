//! `tcd tokenizer`.

use anyhow::Result;
use clap::Subcommand;

use super::Outcome;

/// Sub-commands of `tcd tokenizer`.
#[derive(Debug, Subcommand)]
pub enum Tokenizer {
    /// To be described.
    Train {},
}

impl Tokenizer {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        Ok(Outcome::Done)
    }
}
