//! `tcd submit`: the zip for the GLUE server, written and checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Outcome, note};
use crate::data::glue::{Found, read_split};
use crate::eval::result;
use crate::eval::submission::{check, wanted_files, write};

/// Arguments of `tcd submit`.
///
/// Takes the predictions on test sets that `tcd eval --split test` wrote, and checks the zip as the server would: eleven
/// files, their columns, labels and rows. The exit code is 1 where something does not hold.
///
/// Examples:
///   tcd eval --model runs/ft/*/best --data glue --split test --out predictions
///   tcd submit predictions --out submission.zip
///   tcd submit --check submission.zip
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Submit {
    /// Directories with results on test sets.
    #[arg(required_unless_present = "check", value_name = "RUNS")]
    runs: Vec<PathBuf>,
    /// The zip to write.
    #[arg(long, required_unless_present = "check", value_name = "ZIP")]
    out: Option<PathBuf>,
    /// Check this zip and write none.
    #[arg(long, value_name = "ZIP", conflicts_with_all = ["runs", "out"])]
    check: Option<PathBuf>,
    /// Expect as many rows as the test sets under this directory have, in place of the official numbers.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Missing files are told, but no failure.
    #[arg(long)]
    partial: bool,
}

impl Submit {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let rows = self.rows()?;
        let path = match (&self.check, &self.out) {
            (Some(path), _) => path,
            (None, Some(path)) => {
                let results = result::find(&self.runs)?;
                let files = write(path, &results).context("cannot write the submission")?;
                for (file, rows) in files {
                    note(&format!("{file}: {rows} rows"));
                }
                path
            }
            (None, None) => bail!("nothing to write; hint: `--out submission.zip`"),
        };
        self.judge(path, &rows)
    }

    fn judge(&self, path: &Path, rows: &HashMap<&'static str, usize>) -> Result<Outcome> {
        let problems = check(path, rows)?;
        let counted = problems
            .iter()
            .filter(|p| !(self.partial && p.ends_with("is missing")))
            .count();
        for problem in &problems {
            note(&format!("{}: {problem}", path.display()));
        }
        if counted > 0 {
            note("not a valid submission");
            return Ok(Outcome::CheckFailed);
        }
        note(&format!(
            "{}: {}",
            path.display(),
            if problems.is_empty() {
                "a valid submission"
            } else {
                "valid as far as it goes"
            }
        ));
        Ok(Outcome::Done)
    }

    /// Rows of the test sets under the data directory.
    fn rows(&self) -> Result<HashMap<&'static str, usize>> {
        let mut rows = HashMap::new();
        if let Some(data) = &self.data {
            for (task, split, file) in wanted_files() {
                if let Found::Data(data) = read_split(data, task, split, false)? {
                    rows.insert(file, data.examples.len());
                }
            }
        }
        Ok(rows)
    }
}
