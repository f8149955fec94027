//! `cargo xtask validate`: every check that a change must pass, cheapest first, with a table of what passed and how long
//! it took. Stops at the first failure unless told to keep going.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::test::Test;
use crate::{Outcome, process, setup};

/// Arguments of `cargo xtask validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// Run the remaining checks after a failure too.
    #[arg(long)]
    keep_going: bool,
}

/// A check: a call of cargo with its environment, or the tests.
struct Stage {
    name: &'static str,
    /// Words of the call, with a blank between them.
    args: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// What to install where cargo lacks the subcommand; without it the stage is skipped.
    optional: Option<&'static str>,
}

impl Stage {
    const fn new(name: &'static str, args: &'static str) -> Self {
        Stage {
            name,
            args,
            env: &[],
            optional: None,
        }
    }
}

const STAGES: &[Stage] = &[
    Stage::new("format", "fmt --all --check"),
    Stage {
        optional: Some(DENY),
        ..Stage::new("licences and bans", "deny check bans licenses sources")
    },
    Stage::new(
        "lints without libtorch",
        "clippy --package tcd --all-targets --no-default-features -- -D warnings",
    ),
    Stage::new("lints", "clippy --workspace --all-targets -- -D warnings"),
    Stage {
        env: &[("RUSTDOCFLAGS", "-D warnings")],
        ..Stage::new("docs", "doc --workspace --no-deps")
    },
    Stage::new("tests", "xtask test"),
    // Last, since it alone needs the network: it fetches the RustSec database.
    Stage {
        optional: Some(DENY),
        ..Stage::new("known vulnerabilities", "deny check advisories")
    },
];

const DENY: &str = "cargo install --locked cargo-deny";

/// How a stage came out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
    NotRun,
}

impl Validate {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let mut rows = Vec::new();
        let mut failed = false;
        for stage in STAGES {
            let start = Instant::now();
            let verdict = if failed && !self.keep_going {
                Verdict::NotRun
            } else {
                stage.run()?
            };
            failed |= matches!(verdict, Verdict::Failed(_));
            rows.push((stage.name, verdict, start.elapsed().as_secs_f64()));
        }
        println!("\n{}", table(&rows));
        Ok(if failed {
            Outcome::CheckFailed
        } else {
            Outcome::Done
        })
    }
}

impl Stage {
    fn run(&self) -> Result<Verdict> {
        if let Some(install) = self.optional
            && !process::cargo([self.args.split(' ').next().unwrap_or_default(), "--version"])
                .output()
                .is_ok_and(|output| output.status.success())
        {
            return Ok(Verdict::Skipped(format!(
                "not installed, hint: `{install}`"
            )));
        }
        if self.name == "tests" {
            let counts = Test::all().count()?;
            return Ok(if counts.failed == 0 {
                Verdict::Passed
            } else {
                Verdict::Failed(counts.line())
            });
        }
        if self.name == "lints" {
            setup::ensure()?;
        }
        let mut cargo: Command = process::cargo(self.args.split(' '));
        cargo.envs(self.env.iter().copied());
        judge(&mut cargo)
    }
}

fn judge(command: &mut Command) -> Result<Verdict> {
    let shown = process::shown(command);
    eprintln!("$ {shown}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    Ok(if status.success() {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("`{shown}`"))
    })
}

fn table(rows: &[(&str, Verdict, f64)]) -> String {
    let lines = rows.iter().map(|(name, verdict, seconds)| {
        let (word, note) = match verdict {
            Verdict::Passed => ("ok", ""),
            Verdict::Failed(note) => ("failed", note.as_str()),
            Verdict::Skipped(note) => ("skipped", note.as_str()),
            Verdict::NotRun => ("not run", ""),
        };
        format!("{name:<24}{word:<9}{seconds:>7.1} s  {note}")
            .trim_end()
            .to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_stage_and_its_reason() {
        let rows = [
            ("format", Verdict::Passed, 0.51),
            (
                "licences and bans",
                Verdict::Skipped("not installed".to_owned()),
                0.0,
            ),
            ("lints", Verdict::Failed("`cargo clippy`".to_owned()), 12.0),
            ("tests", Verdict::NotRun, 0.0),
        ];
        let expected = "\
format                  ok           0.5 s
licences and bans       skipped      0.0 s  not installed
lints                   failed      12.0 s  `cargo clippy`
tests                   not run      0.0 s";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn a_missing_subcommand_is_skipped_and_a_failing_one_fails() {
        let missing = Stage {
            optional: Some("cargo install it"),
            ..Stage::new("x", "no-such-subcommand")
        };
        assert_eq!(
            missing.run().expect("runs"),
            Verdict::Skipped("not installed, hint: `cargo install it`".to_owned())
        );
        let ending = |code: &str| judge(Command::new("sh").args(["-c", code])).expect("runs");
        assert_eq!(ending("exit 0"), Verdict::Passed);
        assert_eq!(
            ending("exit 3"),
            Verdict::Failed("`sh -c 'exit 3'`".to_owned())
        );
    }
}
