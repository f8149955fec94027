//! The command line: one file a command, each a `clap` struct with `run`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod analyze;
#[cfg(feature = "train")]
pub mod bench_distill;
pub mod bench_eval;
#[cfg(feature = "train")]
pub mod bench_train;
pub mod corpus;
#[cfg(feature = "train")]
pub mod distill;
pub mod doctor;
mod engine;
pub mod eval;
pub mod export;
pub mod features;
#[cfg(feature = "train")]
pub mod finetune;
pub mod generate;
pub mod glue;
mod interrupt;
pub mod parity;
pub mod plot;
pub mod predict;
#[cfg(feature = "train")]
pub mod pretrain;
mod progress;
pub mod report;
mod rows;
#[cfg(feature = "train")]
pub mod run;
pub mod submit;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod training;

/// Transfer capability distillation: pre-train, distil, fine-tune, export, evaluate and explain BERT and
/// mixture-of-experts BERT.
#[derive(Debug, Parser)]
#[command(name = "tcd", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what was found on this machine (libtorch, CUDA, onnxruntime) and how to mend what is missing.
    Doctor(doctor::Doctor),
    /// Train a WordPiece vocabulary, or inspect one.
    #[command(subcommand)]
    Tokenizer(tokenizer::Tokenizer),
    /// Turn text into memory-mapped token shards.
    #[command(subcommand)]
    Corpus(corpus::Corpus),
    /// Write a small corpus and GLUE-shaped task files in a controlled English, for demos and tests.
    Generate(generate::Generate),
    /// Pre-train a BERT or mixture-of-experts BERT on a corpus.
    #[cfg(feature = "train")]
    Pretrain(pretrain::Pretrain),
    /// Pre-train under a frozen teacher, and measure what was transferred.
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Distill(distill::Distill),
    /// Time distilled steps on random tokens; `cargo xtask bench distill` calls it.
    #[cfg(feature = "train")]
    #[command(hide = true)]
    BenchDistill(bench_distill::BenchDistill),
    /// Time training steps on random tokens; `cargo xtask bench train` calls it.
    #[cfg(feature = "train")]
    #[command(hide = true)]
    BenchTrain(bench_train::BenchTrain),
    /// Make random models and time engines; `cargo xtask bench eval` calls it.
    #[command(subcommand, hide = true)]
    BenchEval(bench_eval::BenchEval),
    /// Fine-tune a model on GLUE tasks, with a grid of settings and seeds.
    #[cfg(feature = "train")]
    Finetune(finetune::Finetune),
    /// Score fine-tuned models on GLUE, on any engine.
    Eval(eval::Eval),
    /// Write a model as ONNX, with its hidden states as further outputs where asked for.
    Export(export::Export),
    /// Hold engines against each other on the same rows: largest difference, predictions that flip, experts reached.
    Parity(parity::Parity),
    /// Answer rows of text with a fine-tuned model, as JSON lines.
    Predict(predict::Predict),
    /// Write a model's hidden states on rows of text to a safetensors file.
    Features(features::Features),
    /// Write and check the submission for the GLUE server.
    Submit(submit::Submit),
    /// Look at GLUE's data, and sum up and compare results on it.
    #[command(subcommand)]
    Glue(glue::Glue),
    /// Compare and explain models by their hidden states: CKA and other measures, geometry, probes, routing, transfer.
    #[command(subcommand)]
    Analyze(analyze::Analyze),
    /// Draw figures of runs and results, as SVG or PNG, with their numbers beside them.
    #[command(subcommand)]
    Plot(plot::Plot),
    /// Write one page of everything that was found: claims and verdicts, tables, figures, sources.
    Report(report::Report),
    /// Run a whole study, from text to report: what is done is skipped, what was stopped goes on.
    #[cfg(feature = "train")]
    Run(run::Run),
}

/// What a command that ran to its end has to say: exit code 0, or 1 where it is a check that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Done,
    /// Exit code 1: the command checked something and it did not hold.
    CheckFailed,
}

/// The command line, words with blanks quoted.
pub fn command_line() -> String {
    let word = |w: String| {
        if w.contains([' ', '\'', '"', '$', '*']) {
            format!("'{}'", w.replace('\'', "'\\''"))
        } else {
            w
        }
    };
    let mut words: Vec<String> = std::env::args().map(word).collect();
    if let Some(program) = words.first_mut() {
        *program = "tcd".to_owned();
    }
    words.join(" ")
}

/// Parses the command line, runs the command, prints the error chain; returns the exit code (0, 1, 2).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Doctor(c) => c.run(),
        Command::Tokenizer(c) => c.run(),
        Command::Corpus(c) => c.run(),
        Command::Generate(c) => c.run(),
        #[cfg(feature = "train")]
        Command::Pretrain(c) => c.run(),
        #[cfg(feature = "train")]
        Command::Distill(c) => c.run(),
        #[cfg(feature = "train")]
        Command::BenchDistill(c) => c.run(),
        #[cfg(feature = "train")]
        Command::BenchTrain(c) => c.run(),
        #[cfg(feature = "train")]
        Command::Finetune(c) => c.run(),
        Command::Eval(c) => c.run(),
        Command::BenchEval(c) => c.run(),
        Command::Export(c) => c.run(),
        Command::Parity(c) => c.run(),
        Command::Predict(c) => c.run(),
        Command::Features(c) => c.run(),
        Command::Submit(c) => c.run(),
        Command::Glue(c) => c.run(),
        Command::Analyze(c) => c.run(),
        Command::Plot(c) => c.run(),
        Command::Report(c) => c.run(),
        #[cfg(feature = "train")]
        Command::Run(c) => c.run(),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            note(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Writes a line for the person to standard error.
#[allow(clippy::print_stderr)]
pub fn note(line: &str) {
    eprintln!("{line}");
}

/// Writes a line of data to standard output; a closed pipe ends quietly.
pub fn out(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
