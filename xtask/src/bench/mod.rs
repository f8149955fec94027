//! `cargo xtask bench`.

use anyhow::Result;
use clap::Args;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct Bench {}

impl Bench {
    /// Runs the benchmark.
    pub fn run(&self) -> Result<()> {
        anyhow::bail!("no benchmark is defined")
    }
}
