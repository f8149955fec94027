//! A run that is killed and resumed ends in the weights of a run that was not: real processes, killed with SIGKILL.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::{names, pretrain, refuse, small_corpus, succeed, tiny_run, weights};

fn records(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Names of checkpoints that are being written, or were when their process was killed.
fn unfinished(checkpoints: &Path) -> Vec<String> {
    let mut names = names(checkpoints);
    names.retain(|n| n.starts_with('.'));
    names
}

/// Bytes of the largest file below a directory.
fn largest_file(dir: &Path) -> u64 {
    let size = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => largest_file(&entry.path()),
        false => entry.metadata().unwrap().len(),
    };
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(size).max().unwrap_or(0)
}

/// The command in a shell that allows it files of so many bytes: the system ends it with a signal when it writes more.
fn limited(command: &Command, bytes: u64) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
    shell.arg("-c").arg(script).arg(command.get_program());
    shell.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[test]
fn killed_at_any_point_and_resumed_a_run_ends_in_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let small = small_corpus(root.path());
    for (name, more) in [
        ("vanilla", ""),
        (
            "moe",
            "[model.moe]\nnum_experts = 4\nrouter_jitter = 0.01\n",
        ),
    ] {
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        let config = tiny_run(&dir, &small.corpus, more);
        let start = |run: &Path| pretrain(&config, run);
        let whole = dir.join("whole");
        succeed(&mut start(&whole));
        let expected = weights(&whole);

        let killed = dir.join("killed");
        // The first time halfway through writing the largest file of a checkpoint, where the system ends it.
        let checkpoints = killed.join("checkpoints");
        let status = limited(
            &start(&killed),
            largest_file(&whole.join("checkpoints")) / 2,
        )
        .stderr(Stdio::null())
        .status()
        .unwrap();
        assert_eq!(status.code(), None, "{name}: ended by a signal");
        assert!(
            !unfinished(&checkpoints).is_empty(),
            "{name}: no checkpoint was being written"
        );
        let logged =
            || fs::read_to_string(killed.join("metrics.jsonl")).map_or(0, |t| t.lines().count());
        let mut kills = 1;
        while !killed.join("model").exists() {
            let before = unfinished(&checkpoints);
            let mut child = start(&killed)
                .arg("--resume")
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Kill while a checkpoint is being written, if one is met; else when the log has grown, each round by another amount.
            let goal = logged() + kills % 4;
            let writing =
                || kills % 2 == 1 && unfinished(&checkpoints).iter().any(|n| !before.contains(n));
            while child.try_wait().unwrap().is_none()
                && (kills > 12 || (logged() <= goal && !writing()))
            {
                sleep(Duration::from_micros(300));
            }
            let _ = child.kill();
            if !child.wait().unwrap().success() {
                kills += 1;
            }
        }
        assert!(
            unfinished(&checkpoints).is_empty(),
            "{name}: torn checkpoints are left"
        );
        let hidden: Vec<String> = names(&killed)
            .into_iter()
            .filter(|n| n.starts_with('.'))
            .collect();
        assert_eq!(hidden, [".lock"], "{name}: half-written models are left");
        assert!(kills >= 2, "{name}: the run was killed {kills} times");
        assert!(
            weights(&killed) == expected,
            "{name}: other weights after {kills} kills"
        );
        // Each logged step stands once, in order.
        let steps: Vec<(String, u64)> = records(&killed)
            .iter()
            .map(|r| (r["kind"].to_string(), r["step"].as_u64().unwrap()))
            .collect();
        let wanted: Vec<(String, u64)> = records(&whole)
            .iter()
            .map(|r| (r["kind"].to_string(), r["step"].as_u64().unwrap()))
            .collect();
        assert_eq!(steps, wanted);
    }
}

#[test]
fn training_learns_and_a_run_is_not_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let small = small_corpus(root.path());
    let config = tiny_run(
        root.path(),
        &small.corpus,
        "[optimizer]\nlearning_rate = 5e-3\n",
    );
    let run = root.path().join("run");
    let command = || {
        let mut command = pretrain(&config, &run);
        command.args(["--set", "schedule.steps=60"]);
        command
    };
    succeed(&mut command());
    let evaluations: Vec<f64> = records(&run)
        .iter()
        .filter_map(|r| r["heldout_log_likelihood"].as_f64())
        .collect();
    let first = evaluations[0];
    let best = evaluations.iter().copied().fold(first, f64::max);
    // The uniform guess over 400 tokens is -ln 400 = -5.99.
    assert!((first + 400f64.ln()).abs() < 0.1, "{first}");
    assert!(best > first + 0.5, "{evaluations:?}");
    assert!(refuse(&mut command()).contains("--resume"));
    let text = refuse(command().args(["--resume", "--set", "optimizer.weight_decay=0.5"]));
    assert!(
        text.contains("`optimizer.weight_decay` was 0.01, is 0.5"),
        "{text}"
    );
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let root = tempfile::tempdir().unwrap();
    let small = small_corpus(root.path());
    let config = tiny_run(root.path(), &small.corpus, "");
    let run = root.path().join("run");
    let command = || {
        let mut command = pretrain(&config, &run);
        command.arg("--resume");
        command
    };
    succeed(command().args(["--set", "checkpoint.every_steps=24"]));
    let checkpoint = run.join("checkpoints/step-00000024");
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let path = checkpoint.join(file);
        let good = fs::read(&path).unwrap();
        let mut altered = good.clone();
        let middle = altered.len() / 2;
        altered[middle] ^= 0xFF;
        for bad in [&good[..good.len() / 2], &altered[..]] {
            fs::write(&path, bad).unwrap();
            let text = refuse(&mut command());
            assert!(
                text.contains("step-00000024") && text.contains("damaged") && text.contains(file),
                "{text}"
            );
        }
        fs::write(&path, good).unwrap();
    }
    succeed(&mut command());
}
