//! `cargo xtask bench`: measurements that compare this program with its peers on one machine in one run.
//!
//! A benchmark is no test: it prints what it measured and which targets were met, and only a failure to measure is an
//! error. docs/benchmarks.md says how to read the output.

mod analyze;
mod contest;
mod distill;
mod eval;
mod peers;
mod report;
mod sample;
mod size;
mod stats;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use contest::{Contest, Effort};

/// Compare speed and memory with peers, side by side.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Training: tokens/s of this program and of PyTorch peers, which are installed into `.deps/peers`.
    Train(Train),
    /// Distillation: what a teacher costs beside the student's own step.
    Distill(Distill),
    /// Evaluation: rows/s of this program's engines, of Hugging Face's way and of Python's onnxruntime.
    Eval(eval::Eval),
    /// Analysis: layer-by-layer CKA beside numpy and torch_cka, which are installed into `.deps`.
    Analyze(analyze::Analyze),
}

/// The options of `bench distill`.
#[derive(Debug, Args)]
struct Distill {
    /// Processes of each method [default: 5].
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Timed steps of each process.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Threads [default: all of the machine].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// A built program to measure instead of building this workspace's in release mode.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// The options of `bench train`.
#[derive(Debug, Args)]
struct Train {
    /// Few steps and rounds, to see that everything runs; the numbers are not for quoting.
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, every contestant runs once in its own process [default: 5, with --quick 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Threads of every contestant [default: all of the machine].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Measure only these sizes, by name (`l2-h128`, `l4-h256`, `l12-h128`, `l4-h128-e64`).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A built program to measure instead of building this workspace's in release mode.
    #[arg(long)]
    program: Option<PathBuf>,
}

impl Bench {
    /// Runs the benchmark: the table goes to stdout, the raw figures to `runs/bench/train.json`, progress to stderr.
    pub fn run(&self) -> Result<()> {
        match &self.subject {
            Subject::Train(train) => train.run(),
            Subject::Distill(distill) => distill.run(),
            Subject::Eval(eval) => eval.run(&workspace_root()?),
            Subject::Analyze(analyze) => analyze.run(&workspace_root()?),
        }
    }
}

/// All of the machine, unless told.
fn thread_count(asked: Option<u32>) -> u32 {
    asked.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
    })
}

/// The program to measure: the one given, or this workspace's in release mode.
fn program(root: &Path, given: Option<&PathBuf>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.clone()),
        None => peers::build_program(root).context("building the program to measure"),
    }
}

impl Distill {
    fn run(&self) -> Result<()> {
        let root = workspace_root()?;
        let effort = distill::Effort {
            rounds: self.rounds,
            steps: self.steps,
            threads: thread_count(self.threads),
        };
        let outcome = distill::measure(&program(&root, self.program.as_ref())?, effort)?;
        print!("{}", outcome.markdown());
        let path = root.join("runs/bench/distill.json");
        write_whole(&path, &serde_json::to_string_pretty(&outcome)?)?;
        eprintln!("raw figures: {}", path.display());
        Ok(())
    }
}

impl Train {
    fn run(&self) -> Result<()> {
        let root = workspace_root()?;
        let sizes = size::select(&self.only)?;
        let threads = thread_count(self.threads);
        let python = peers::install(&root).context("setting up the PyTorch peers")?;
        let program = program(&root, self.program.as_ref())?;
        let effort = if self.quick {
            Effort::QUICK
        } else {
            Effort::FULL
        };
        let contest = Contest {
            program,
            python,
            threads,
            rounds: self.rounds.unwrap_or(effort.rounds),
            steps: effort.steps,
            warmup: effort.warmup,
        };
        let outcome = contest.run(&sizes).context("measuring")?;
        let report = report::Report::new(&outcome, self.quick);
        print!("{}", report.markdown());
        let path = root.join("runs/bench/train.json");
        write_whole(&path, &report.json()?)?;
        eprintln!("raw figures: {}", path.display());
        Ok(())
    }
}

/// The folder of the workspace, from where this crate was compiled.
fn workspace_root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map(Path::to_path_buf)
        .context("finding the workspace above the `xtask` folder")
}

/// Writes a file to a sibling temporary path and renames it, so that no reader sees half of it.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating the folder: {}", folder.display()))?;
    }
    let temporary = path.with_extension("json.tmp");
    std::fs::write(&temporary, text)
        .with_context(|| format!("writing: {}", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("renaming to: {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn options_are_parsed_and_zero_is_refused() {
        let cli = Cli::parse_from([
            "x",
            "train",
            "--quick",
            "--rounds",
            "3",
            "--only",
            "l2-h128,l4-h256",
        ]);
        let Subject::Train(train) = cli.bench.subject else {
            panic!("another subject")
        };
        assert!(train.quick && train.rounds == Some(3) && train.threads.is_none());
        assert_eq!(train.only, ["l2-h128", "l4-h256"]);
        assert!(Cli::try_parse_from(["x", "train", "--rounds", "0"]).is_err());
        assert!(Cli::try_parse_from(["x", "train", "--threads", "0"]).is_err());
    }

    #[test]
    fn a_written_file_is_whole_and_leaves_no_temporary() {
        let folder = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        let path = folder.join("deep/train.json");
        write_whole(&path, "first").unwrap();
        write_whole(&path, "second").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(std::fs::read_dir(folder.join("deep")).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
