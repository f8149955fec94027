//! `cargo xtask demo`: the main job on small generated data, with the real program, from text to two trained models.
//!
//! Every command is shown before it runs, so that the demo also teaches. It can be stopped and started again: a step whose
//! command, configuration and program are unchanged is not repeated, and training goes on from its last checkpoint. The
//! demo owns its folder (a `.demo` folder inside marks it) and deletes only there.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::{process, setup};

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

/// The two models: folder, configuration, words for the table.
const MODELS: [(&str, &str, &str); 2] = [
    ("vanilla", "configs/demo-vanilla.toml", "vanilla BERT"),
    ("moe", "configs/demo-moe.toml", "mixture-of-experts BERT"),
];

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// One call of the program.
struct Step {
    what: String,
    /// What the step writes, inside the folder of the demo.
    output: &'static str,
    args: Vec<String>,
    /// A file that the step reads as configuration.
    config: Option<&'static str>,
}

/// What a finished training run says about itself.
#[derive(Debug, Default, Deserialize)]
struct Summary {
    steps: Option<u64>,
    heldout_log_likelihood: Option<f64>,
    heldout_accuracy: Option<f64>,
    tokens_per_second: Option<f64>,
}

impl Demo {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        setup::ensure()?;
        let program = build()?;
        let root = process::root();
        let out = root.join(&self.out);
        claim(&out, self.fresh)?;
        catch_interrupt();
        let shown_out = self.out.to_string_lossy().into_owned();
        let steps = steps(&shown_out);
        let start = Instant::now();
        for (index, step) in steps.iter().enumerate() {
            eprintln!("\n[{}/{}] {}", index + 1, steps.len(), step.what);
            step.run(&root, &out, &program)?;
        }
        println!(
            "{}",
            report(&out, &shown_out, start.elapsed().as_secs_f64())
        );
        Ok(())
    }
}

fn steps(out: &str) -> Vec<Step> {
    let words = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let mut steps = vec![
        Step {
            what: "write a small corpus and task files in a controlled English".to_owned(),
            output: "data",
            args: words(format!("generate\t--out\t{out}/data\t--seed\t7")),
            config: None,
        },
        Step {
            what: "train a WordPiece vocabulary on the corpus".to_owned(),
            output: "tokenizer",
            args: words(format!(
                "tokenizer\ttrain\t{out}/data/corpus\t--vocab-size\t1000\t--out\t{out}/tokenizer"
            )),
            config: None,
        },
        Step {
            what: "turn the corpus into token shards".to_owned(),
            output: "corpus",
            args: words(format!(
                "corpus\tbuild\t{out}/data/corpus\t--tokenizer\t{out}/tokenizer\t--out\t{out}/corpus\t--sequence-length\t64\t--held-out\t0.05"
            )),
            config: None,
        },
    ];
    for (folder, config, name) in MODELS {
        steps.push(Step {
            what: format!("pre-train a {name}"),
            output: folder,
            args: words(format!("pretrain\t--config\t{config}\t--set\tdata.corpus={out}/corpus\t--set\toutput={out}/{folder}")),
            config: Some(config),
        });
    }
    for figure in ["curves.svg", "curves.png"] {
        steps.push(Step {
            what: format!("draw the training curves: {figure}"),
            output: figure,
            args: words(format!(
                "plot\tcurves\t{out}/vanilla\t{out}/moe\t--out\t{out}/{figure}"
            )),
            config: None,
        });
    }
    steps
}

impl Step {
    /// Runs the step unless it is done; a training run that was stopped goes on from its last checkpoint.
    fn run(&self, root: &Path, out: &Path, program: &Path) -> Result<()> {
        let key = self.key(root, program)?;
        let started = out.join(".demo").join(format!("{}.started", self.output));
        let done = out.join(".demo").join(format!("{}.done", self.output));
        let output = out.join(self.output);
        let is = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text == key);
        let mut command = process::command(program);
        command.args(&self.args);
        if is(&done) && output.exists() {
            eprintln!("$ {}\ndone before, kept", process::shown(&command));
            return Ok(());
        }
        if self.config.is_some() && is(&started) && holds_checkpoint(&output) {
            command.arg("--resume");
        } else {
            remove(&output)?;
        }
        let write = |path: &Path| {
            fs::write(path, &key).with_context(|| format!("cannot write `{}`", path.display()))
        };
        write(&started)?;
        let start = Instant::now();
        let outcome = process::run(&mut command);
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted\nhint: `cargo xtask demo` goes on from here");
        }
        outcome?;
        write(&done)?;
        eprintln!("took {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the result depends on: command, configuration, program. A later step follows because an earlier one that is
    /// done anew depends on one of the three, which all steps share, or on its own configuration, which the plots check.
    fn key(&self, root: &Path, program: &Path) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        self.args.hash(&mut hasher);
        let configs = MODELS.map(|(_, config, _)| config);
        let read: &[&str] = match (self.config, self.args[0].as_str()) {
            (Some(config), _) => &[config],
            (None, "plot") => &configs,
            _ => &[],
        };
        for config in read {
            let path = root.join(config);
            fs::read(&path)
                .with_context(|| format!("cannot read `{}`", path.display()))?
                .hash(&mut hasher);
        }
        let about = fs::metadata(program)
            .with_context(|| format!("cannot read `{}`", program.display()))?;
        (about.len(), about.modified().ok()).hash(&mut hasher);
        Ok(format!("{:016x}\n", hasher.finish()))
    }
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

/// Marks the folder as the demo's; refuses one that holds something else.
fn claim(out: &Path, fresh: bool) -> Result<()> {
    let mark = out.join(".demo");
    let used = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if used && !mark.is_dir() {
        bail!(
            "the folder holds something that the demo did not write: {}\nhint: name another with `--out`",
            out.display()
        );
    }
    if fresh {
        remove(out)?;
    }
    fs::create_dir_all(&mark).with_context(|| format!("cannot create `{}`", mark.display()))
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.with_context(|| format!("cannot delete `{}`", path.display()))
}

/// Whether a training run has something to go on from.
fn holds_checkpoint(run: &Path) -> bool {
    fs::read_dir(run.join("checkpoints")).is_ok_and(|mut entries| entries.next().is_some())
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

/// The closing words: figures, where things lie, what to try next.
fn report(out: &Path, shown: &str, seconds: f64) -> String {
    let mut lines = vec![format!(
        "\nthe demo took {seconds:.0} s; its data is generated and proves only that everything works\n"
    )];
    lines.push(format!(
        "{:<26}{:>7}{:>26}{:>11}{:>10}",
        "model", "steps", "held-out log-likelihood", "accuracy", "tokens/s"
    ));
    for (folder, _, name) in MODELS {
        let text = fs::read_to_string(out.join(folder).join("summary.json")).unwrap_or_default();
        let summary: Summary = serde_json::from_str(&text).unwrap_or_default();
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
        };
        lines.push(format!(
            "{name:<26}{:>7}{:>26}{:>11}{:>10}",
            summary
                .steps
                .map_or_else(|| "-".to_owned(), |steps| steps.to_string()),
            number(summary.heldout_log_likelihood, 3),
            summary
                .heldout_accuracy
                .map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
            number(summary.tokens_per_second, 0),
        ));
    }
    lines.push("\nwhat lies where".to_owned());
    for (path, what) in [
        ("data/", "generated corpus and GLUE-shaped task files"),
        (
            "tokenizer/",
            "vocabulary, as Hugging Face tokenizers reads it",
        ),
        ("corpus/", "token shards and their manifest"),
        (
            "vanilla/, moe/",
            "runs: model directory, checkpoints, metrics, resolved config",
        ),
        ("curves.svg, curves.png", "training curves of both"),
    ] {
        lines.push(format!(
            "  {:<44}{what}",
            path.split(", ")
                .map(|part| format!("{shown}/{part}"))
                .collect::<Vec<_>>()
                .join(" ")
        ));
    }
    lines.push("\nwhat to try next".to_owned());
    for (line, what) in [
        (
            "cargo run --bin tcd -- doctor",
            "what was found on this machine",
        ),
        (
            "cargo run --bin tcd -- corpus build --help",
            "shards from text of your own",
        ),
        (
            "cargo run --bin tcd -- pretrain --help",
            "train on them; `configs/` holds examples",
        ),
        ("cargo xtask test", "all tests"),
    ] {
        lines.push(format!("  {line:<44}{what}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that notes its arguments and writes the file or folder that the demo expects.
    fn fake_program(folder: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("tcd");
        fs::write(
            &path,
            format!(
                "#!/bin/sh\necho \"$@\" >> {}/calls\n{body}\n",
                folder.display()
            ),
        )
        .expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
        path
    }

    fn training() -> Step {
        Step {
            what: "train".to_owned(),
            output: "vanilla",
            args: vec!["pretrain".to_owned()],
            config: Some("config.toml"),
        }
    }

    #[test]
    fn a_stopped_training_resumes_and_a_finished_one_is_kept_until_its_config_changes() {
        let place = tempfile::tempdir().expect("creates");
        let (root, out) = (place.path(), place.path().join("out"));
        fs::write(root.join("config.toml"), "steps = 1").expect("writes");
        claim(&out, false).expect("claims");
        let checkpoints = out.join("vanilla/checkpoints/1");
        let body = format!("mkdir -p {}\n[ \"$2\" = --resume ]", checkpoints.display());
        let program = fake_program(root, &body);
        let step = training();
        step.run(root, &out, &program)
            .expect_err("the first call fails");
        step.run(root, &out, &program).expect("resumes");
        step.run(root, &out, &program).expect("is kept");
        fs::write(root.join("config.toml"), "steps = 2").expect("writes");
        step.run(root, &out, &program).expect_err("starts anew");
        let calls = fs::read_to_string(root.join("calls")).expect("reads");
        assert_eq!(calls, "pretrain\npretrain --resume\npretrain\n");
    }

    #[test]
    fn a_folder_of_someone_else_is_left_alone() {
        let place = tempfile::tempdir().expect("creates");
        let precious = place.path().join("precious");
        fs::write(&precious, "").expect("writes");
        let error = claim(place.path(), true).expect_err("refuses").to_string();
        assert!(error.contains("--out"), "{error}");
        assert!(precious.exists());
    }

    #[test]
    fn the_report_shows_the_figures_of_both_models() {
        let place = tempfile::tempdir().expect("creates");
        fs::create_dir(place.path().join("moe")).expect("creates");
        let json = r#"{"steps": 300, "heldout_log_likelihood": -2.34567, "heldout_accuracy": 0.515, "tokens_per_second": 81234.5, "more": 1}"#;
        fs::write(place.path().join("moe/summary.json"), json).expect("writes");
        let text = report(place.path(), "runs/demo", 100.4);
        let row = |name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .expect("has the row")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            row("mixture"),
            "mixture-of-experts BERT 300 -2.346 51.5 % 81234"
        );
        assert_eq!(row("vanilla"), "vanilla BERT - - - -");
        assert!(text.contains("runs/demo/vanilla/ runs/demo/moe/"));
    }

    #[test]
    fn every_step_reads_what_an_earlier_one_writes() {
        let steps = steps("o");
        let mut written: Vec<String> = Vec::new();
        for step in &steps {
            for word in step
                .args
                .iter()
                .flat_map(|word| word.rsplit('=').next())
                .filter(|word| word.starts_with("o/"))
            {
                let own = *word == format!("o/{}", step.output);
                assert!(
                    own || written.iter().any(|path| word.starts_with(path.as_str())),
                    "{} reads `{word}`",
                    step.what
                );
            }
            written.push(format!("o/{}", step.output));
        }
        assert_eq!(steps.len(), 7);
    }
}
