//! `cargo xtask`: set-up, demo, tests, checks and benchmarks of `tcd`, on a machine with Rust, a C++ compiler and Python 3.
//!
//! Needs no libtorch itself, so that it can install it. Exit codes: 0 done, 1 a check failed, 2 an error.

mod bench;
mod browser;
mod demo;
mod process;
mod setup;
mod test;
mod validate;
mod wheels;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set-up, demo, tests and checks of tcd.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install libtorch into `.deps`, so that plain cargo commands find it.
    Setup(setup::Setup),
    /// Run a whole study on small generated data, from text to the report.
    Demo(demo::Demo),
    /// Run all tests; the last line counts them.
    Test(test::Test),
    /// Run every check, cheapest first: format, licences, lints, docs, tests.
    Validate(validate::Validate),
    /// Measure the speed of training beside its peers.
    Bench(bench::Bench),
}

/// How a command that ran to its end came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    CheckFailed,
}

fn main() -> ExitCode {
    let outcome: Result<Outcome> = match Cli::parse().command {
        Command::Setup(c) => c.run().map(|()| Outcome::Done),
        Command::Demo(c) => c.run().map(|()| Outcome::Done),
        Command::Test(c) => c.run(),
        Command::Validate(c) => c.run(),
        Command::Bench(c) => c.run().map(|()| Outcome::Done),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
