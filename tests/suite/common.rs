//! What several tests need: the program, and a small corpus made by it.

#![cfg_attr(not(feature = "train"), allow(dead_code))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program under test.
pub fn tcd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tcd"))
}

/// Runs to success.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs to exit code 2 with one error; gives what it says.
pub fn refuse(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
    let errors = text.lines().filter(|l| l.starts_with("error:")).count();
    assert_eq!(errors, 1, "{command:?}: {text}");
    text
}

/// A corpus of generated text with its tokenizer, in `dir`.
pub struct Small {
    pub tokenizer: PathBuf,
    pub corpus: PathBuf,
}

pub fn small_corpus(dir: &Path) -> Small {
    let data = dir.join("data");
    succeed(
        tcd()
            .args([
                "generate",
                "--documents",
                "120",
                "--examples",
                "12",
                "--seed",
                "3",
                "--out",
            ])
            .arg(&data),
    );
    let small = Small {
        tokenizer: dir.join("tokenizer"),
        corpus: dir.join("corpus"),
    };
    succeed(
        tcd()
            .args(["tokenizer", "train", "--vocab-size", "400"])
            .arg(data.join("corpus"))
            .arg("--out")
            .arg(&small.tokenizer),
    );
    succeed(
        tcd()
            .args([
                "corpus",
                "build",
                "--sequence-length",
                "32",
                "--held-out",
                "0.1",
            ])
            .arg(data.join("corpus"))
            .arg("--tokenizer")
            .arg(&small.tokenizer)
            .arg("--out")
            .arg(&small.corpus),
    );
    small
}

/// `tcd pretrain` with this configuration and run directory.
pub fn pretrain(config: &Path, run: &Path) -> Command {
    let mut command = tcd();
    command.arg("pretrain").arg("--config").arg(config);
    command.arg("--set");
    command.arg(format!("output={}", run.display()));
    command
}

/// The weights that a run ended in.
pub fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("model/model.safetensors")).unwrap()
}

/// Names in a directory, sorted; none where there is no directory.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A configuration of a tiny run, written to `dir/run.toml`.
pub fn tiny_run(dir: &Path, corpus: &Path, more: &str) -> PathBuf {
    let path = dir.join("run.toml");
    let text = format!(
        "device = \"cpu\"\nthreads = 1\nseed = 5\n[data]\ncorpus = {corpus:?}\nbatch_size = 8\naccumulation = 2\n\
         [model]\nlayers = 2\nhidden = 32\nheads = 2\nmax_positions = 32\n{more}\n\
         [schedule]\nsteps = 24\nwarmup_steps = 4\n[evaluation]\nevery_steps = 10\nrows = 16\n\
         [checkpoint]\nevery_steps = 3\nevery_minutes = 0\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}
