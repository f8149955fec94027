//! `tcd plot`: figures from runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use tcd_analysis::PretrainingCurve;
use tcd_analysis::curve::{to_csv, to_json};
use tcd_plots::{CurveOptions, XAxis, write_curves};

use super::{Outcome, note};

/// Sub-commands of `tcd plot`.
#[derive(Debug, Subcommand)]
pub enum Plot {
    /// Held-out masked-LM log-likelihood and accuracy of one or more runs over training.
    Curves(Curves),
}

/// What the figure's horizontal axis shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum X {
    /// Optimizer steps.
    Steps,
    /// Tokens seen.
    Tokens,
    /// Hours at work.
    Hours,
}

/// Arguments of `tcd plot curves`.
#[derive(Debug, Args)]
pub struct Curves {
    /// Run directories, each with a `metrics.jsonl`; `NAME=DIR` gives the run a name of its own.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// The figure; the ending (svg, png) decides its format.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Horizontal axis.
    #[arg(long, value_enum, default_value_t = X::Steps)]
    x: X,
    /// Title above the figure.
    #[arg(long)]
    title: Option<String>,
    /// Also write the points as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write the points as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Plot {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Plot::Curves(curves) => curves.run(),
        }
    }
}

/// Directories and the names of their runs: the one given, or the directory's, or where two would be the same the path.
fn named(runs: &[String]) -> Vec<(String, PathBuf)> {
    let short = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let split = |run: &String| match run.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !Path::new(run).is_dir() => {
            (name.to_owned(), PathBuf::from(dir))
        }
        _ => (
            short(Path::new(run)).unwrap_or_else(|| run.clone()),
            PathBuf::from(run),
        ),
    };
    let all: Vec<_> = runs.iter().map(split).collect();
    let unique: BTreeSet<_> = all.iter().map(|(name, _)| name).collect();
    if unique.len() == all.len() {
        return all;
    }
    all.iter()
        .map(|(name, dir)| {
            let twice = all.iter().filter(|(other, _)| other == name).count() > 1;
            (
                if twice {
                    dir.display().to_string()
                } else {
                    name.clone()
                },
                dir.clone(),
            )
        })
        .collect()
}

/// Writes a text whole: to a sibling, then renamed.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write: {}", path.display()))
}

impl Curves {
    fn run(&self) -> Result<Outcome> {
        let mut curves = Vec::new();
        for (name, dir) in named(&self.runs) {
            let curve = PretrainingCurve::from_run(&name, &dir)
                .context("cannot read the curve of a run")?;
            if curve.points.is_empty() {
                bail!(
                    "the run has no evaluations: {}\nhint: let it train until its first evaluation",
                    dir.display()
                );
            }
            curves.push(curve);
        }
        let x = match self.x {
            X::Steps => XAxis::Steps,
            X::Tokens => XAxis::Tokens,
            X::Hours => XAxis::Hours,
        };
        let options = CurveOptions {
            title: self.title.clone(),
            x,
            ..CurveOptions::default()
        };
        write_curves(&curves, &self.out, &options).context("cannot draw the figure")?;
        if let Some(path) = &self.csv {
            write(path, &to_csv(&curves))?;
        }
        if let Some(path) = &self.json {
            write(
                path,
                &to_json(&curves).context("cannot write the curves as JSON")?,
            )?;
        }
        note(&format!(
            "figure of {} runs: {}",
            curves.len(),
            self.out.display()
        ));
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_by_directory_by_hand_or_where_equal_by_path() {
        let names = |runs: &[&str]| {
            let runs: Vec<_> = runs.iter().map(|r| (*r).to_owned()).collect();
            named(&runs)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&["runs/a", "runs/b/"]), ["a", "b"]);
        assert_eq!(names(&["x/a", "y/a", "c"]), ["x/a", "y/a", "c"]);
        assert_eq!(names(&["my run=x/a", "y/a"]), ["my run", "a"]);
    }
}
