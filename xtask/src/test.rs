//! `cargo xtask test`: all tests, in both builds of the program; the last line counts them.
//!
//! Output streams through. The counts are summed from the result lines of every test binary and doc test; a test program
//! that does not build or dies without a result line counts as one failure, so that the line never looks clean by accident.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;

use crate::{Outcome, browser, process, setup, wheels};

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Leave out everything that needs libtorch (and do not install it).
    #[arg(long)]
    no_train: bool,
    /// Install the Chromium in which the report is tested, where there is none (Debian's package; takes root).
    #[arg(long)]
    install_browser: bool,
    /// Test this package only.
    #[arg(long, short, value_name = "NAME")]
    package: Option<String>,
    /// Parts of test names to run, and options of the test harness (`--ignored`, `--exact`, ...).
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FILTER"
    )]
    filters: Vec<String>,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and test programs that gave no result.
    pub failed: u64,
    /// Tests marked as ignored.
    pub skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The closing line.
    pub fn line(self) -> String {
        let skipped = if self.skipped > 0 {
            format!(", {} skipped", self.skipped)
        } else {
            String::new()
        };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

impl Test {
    /// All tests, as `cargo xtask test` without arguments runs them.
    pub fn all() -> Self {
        Self {
            no_train: false,
            install_browser: false,
            package: None,
            filters: Vec::new(),
        }
    }

    /// Runs the command: the closing line is the last thing printed.
    pub fn run(&self) -> Result<Outcome> {
        let counts = self.count()?;
        println!("{}", counts.line());
        Ok(if counts.failed == 0 {
            Outcome::Done
        } else {
            Outcome::CheckFailed
        })
    }

    /// Runs the tests and counts them.
    pub fn count(&self) -> Result<Counts> {
        if !self.no_train {
            setup::ensure()?;
        }
        wheels::ensure();
        browser::ensure(self.install_browser)?;
        let mut counts = Counts::default();
        for selection in self.selections() {
            let mut cargo = process::cargo(["test", "--no-fail-fast"]);
            cargo.args(selection);
            if !self.filters.is_empty() {
                cargo.arg("--").args(&self.filters);
            }
            counts.add(count(&mut cargo, &mut std::io::stdout().lock())?);
        }
        Ok(counts)
    }

    /// What each call of cargo tests: the program as it is without libtorch, then everything. In this order the program that
    /// is left in `target` is the whole one, whichever was there before.
    fn selections(&self) -> Vec<Vec<&str>> {
        let package = self.package.as_deref();
        let everything =
            package.map_or_else(|| vec!["--workspace"], |name| vec!["--package", name]);
        let light = |mut words: Vec<&'static str>| {
            words.push("--no-default-features");
            words
        };
        match (self.no_train, package) {
            (false, None | Some("tcd")) => vec![light(vec!["--package", "tcd"]), everything],
            (false, Some(_)) => vec![everything],
            (true, _) => {
                let mut words = everything;
                words.push("--no-default-features");
                vec![words]
            }
        }
    }
}

/// Runs one `cargo test`, passing its output on to `out`, and sums its result lines.
fn count(cargo: &mut Command, out: &mut impl Write) -> Result<Counts> {
    let shown = process::shown(cargo);
    eprintln!("$ {shown}");
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let mut counts = Counts::default();
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|pipe| BufReader::new(pipe).split(b'\n'))
    {
        let mut line = line.with_context(|| format!("cannot read what `{shown}` prints"))?;
        if let Some(found) = parse_result(&String::from_utf8_lossy(&line)) {
            counts.add(found);
        }
        line.push(b'\n');
        out.write_all(&line)
            .and_then(|()| out.flush())
            .context("cannot write to standard output")?;
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{shown}`"))?;
    if !status.success() && counts.failed == 0 {
        eprintln!("error: `{shown}` failed without a failed test: {status}");
        counts.failed = 1;
    }
    Ok(counts)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let of = |word: &str| {
        numbers
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok())
    };
    Some(Counts {
        passed: of("passed")?,
        failed: of("failed")?,
        skipped: of("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cargo_that_says(script: &str) -> Command {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        sh
    }

    #[test]
    fn result_lines_are_summed() {
        let script = r#"
            echo 'test tests::a ... ok'
            echo 'test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.02s'
            echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s'
            exit 101"#;
        let mut out = Vec::new();
        let counts = count(&mut cargo_that_says(script), &mut out).expect("runs");
        assert_eq!(
            out.split(|byte| *byte == b'\n').next(),
            Some(&b"test tests::a ... ok"[..]),
            "output passes through"
        );
        assert_eq!(
            counts,
            Counts {
                passed: 15,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(counts.line(), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_build_that_breaks_counts_as_a_failure() {
        let counts = count(&mut cargo_that_says("exit 101"), &mut Vec::new()).expect("runs");
        assert_eq!(counts.line(), "0 passed, 1 failed");
        let died = "echo 'test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'; exit 101";
        assert_eq!(
            count(&mut cargo_that_says(died), &mut Vec::new())
                .expect("runs")
                .line(),
            "4 passed, 1 failed"
        );
    }

    #[test]
    fn words_that_only_look_alike_are_not_counted() {
        assert_eq!(
            parse_result("  test result: ok. 1 passed; 0 failed; 0 ignored"),
            None
        );
        assert_eq!(parse_result("test result: ok"), None);
        assert_eq!(parse_result("running 3 tests"), None);
    }

    #[test]
    fn without_libtorch_no_call_builds_the_default_features() {
        let light = Test {
            no_train: true,
            ..Test::all()
        };
        assert_eq!(
            light.selections(),
            [vec!["--workspace", "--no-default-features"]]
        );
        let all = Test::all();
        assert_eq!(
            all.selections(),
            [
                vec!["--package", "tcd", "--no-default-features"],
                vec!["--workspace"]
            ]
        );
    }
}
