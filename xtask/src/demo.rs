//! `cargo xtask demo`: a whole study on small generated data, with the real program, from text to the report.
//!
//! It sets up what is missing, builds the program and runs `tcd run --config configs/demo.toml`, which can be stopped and started
//! again: what is done is kept. It ends by naming the report.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{process, setup};

/// The study.
const CONFIG: &str = "configs/demo.toml";
/// The page that it ends in.
const REPORT: &str = "report.html";

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for everything the demo writes, from the root of the workspace.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
    /// Do every step anew.
    #[arg(long)]
    fresh: bool,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

impl Demo {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        setup::ensure()?;
        let program = build()?;
        let out = process::root().join(&self.out);
        if self.fresh {
            clear(&out)?;
        }
        catch_interrupt();
        let start = Instant::now();
        let mut command = process::command(program);
        command.args(arguments(&self.out));
        let shown = process::shown(&command);
        eprintln!("$ {shown}");
        let status = command
            .status()
            .with_context(|| format!("cannot start `{shown}`"))?;
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted\nhint: `cargo xtask demo` goes on from here");
        }
        // 1: the study is done, and a check of its models does not hold, which it has said; toy models may leave an expert idle.
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("`{shown}` failed: {status}");
        }
        println!("{}", closing(&out, start.elapsed().as_secs_f64())?);
        Ok(())
    }
}

/// The words of the one command.
fn arguments(out: &Path) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let output = format!("output={}", out.display());
    ["run", "--config", CONFIG, "--set", &output, "--jobs"]
        .map(str::to_owned)
        .into_iter()
        .chain([cores.min(4).to_string()])
        .collect()
}

/// Builds the program and returns its path.
fn build() -> Result<PathBuf> {
    process::run(&mut process::cargo([
        "build",
        "--package",
        "tcd",
        "--bin",
        "tcd",
    ]))?;
    let metadata = process::cargo([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ])
    .output()
    .context("cannot start `cargo metadata`")?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)
        .context("cannot read what `cargo metadata` prints")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("`cargo metadata` names no target directory")?;
    Ok(Path::new(target).join("debug").join("tcd"))
}

/// Deletes the folder of an earlier demo; refuses one that holds something else.
fn clear(out: &Path) -> Result<()> {
    let Ok(mut entries) = fs::read_dir(out) else {
        return Ok(());
    };
    if entries.next().is_none() {
        return Ok(());
    }
    // A study has `stages`; the demo of earlier versions left `.demo`.
    if !out.join("stages").is_dir() && !out.join(".demo").is_dir() {
        bail!(
            "the folder holds something that the demo did not write: {}\nhint: name another with `--out`",
            out.display()
        );
    }
    fs::remove_dir_all(out).with_context(|| format!("cannot delete `{}`", out.display()))
}

/// Lets the program, not the demo, answer Ctrl-C: it saves and exits, then the demo stops.
fn catch_interrupt() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler; it lives as long as the program.
    unsafe {
        libc::signal(libc::SIGINT, handler as libc::sighandler_t);
    }
}

/// The closing words: what to try next, and last the page to open.
fn closing(out: &Path, seconds: f64) -> Result<String> {
    let page = out.join(REPORT);
    if !page.is_file() {
        bail!(
            "the study ended without a report: {}\nhint: `cargo xtask demo --fresh` does every step anew",
            page.display()
        );
    }
    let mut lines = vec![format!(
        "\nthe demo took {seconds:.0} s; its data is generated and proves only that everything works\n\nwhat to try next"
    )];
    let again = format!("cargo run --bin tcd -- run --config {CONFIG} --dry-run --commands");
    for (line, what) in [
        (again.as_str(), "every command of it"),
        (
            "cargo run --bin tcd -- run --print-config",
            "a study of your own, explained key by key",
        ),
        (
            "cargo run --bin tcd -- doctor",
            "what was found on this machine",
        ),
        ("cargo xtask test", "all tests"),
    ] {
        lines.push(format!("  {line:<76}{what}"));
    }
    lines.push(format!("\nopen in a browser: {}", page.display()));
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_study_of_the_demo_is_there_and_its_folder_can_be_chosen() {
        assert!(process::root().join(CONFIG).is_file());
        let words = arguments(Path::new("runs/x"));
        assert_eq!(words[..4], ["run", "--config", CONFIG, "--set"]);
        assert_eq!(words[4], "output=runs/x");
        assert!(words[6].parse::<usize>().is_ok_and(|jobs| jobs > 0));
    }

    #[test]
    fn a_folder_of_someone_else_is_left_alone_and_an_earlier_demo_is_not() {
        let place = tempfile::tempdir().expect("creates");
        let precious = place.path().join("precious");
        fs::write(&precious, "").expect("writes");
        let error = clear(place.path()).expect_err("refuses").to_string();
        assert!(error.contains("--out"), "{error}");
        assert!(precious.exists());
        for mark in ["stages", ".demo"] {
            let out = place.path().join("study");
            fs::create_dir_all(out.join(mark)).expect("creates");
            clear(&out).expect("clears");
            assert!(!out.exists());
            clear(&out).expect("nothing to clear");
        }
    }

    #[test]
    fn it_ends_by_naming_the_report_and_not_without_one() {
        let place = tempfile::tempdir().expect("creates");
        let error = closing(place.path(), 1.0).expect_err("no page").to_string();
        assert!(error.contains("--fresh"), "{error}");
        fs::write(place.path().join(REPORT), "").expect("writes");
        let text = closing(place.path(), 61.4).expect("closes");
        assert!(text.contains("took 61 s"), "{text}");
        assert!(text.ends_with("report.html"), "{text}");
    }
}
