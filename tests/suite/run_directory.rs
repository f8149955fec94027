//! A run directory in trouble: a second process, leftovers of killed ones, a full disk, no place to write, weights that left
//! the numbers. One clear error each, exit code 2, and nothing that was saved is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{names, pretrain, refuse, small_corpus, succeed, tiny_run, weights};

/// A temporary directory with a corpus and the configuration of a tiny run.
fn place(more: &str) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let small = small_corpus(root.path());
    let config = tiny_run(root.path(), &small.corpus, more);
    (root, config)
}

/// Every file below a directory, with its bytes.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = names(dir).into_iter().map(|n| dir.join(n));
    paths
        .flat_map(|path| match path.is_dir() {
            true => contents(&path),
            false => vec![(path.clone(), fs::read(&path).unwrap())],
        })
        .collect()
}

fn wait_for_checkpoints(child: &mut Child, run: &Path) {
    let until = Instant::now() + Duration::from_secs(120);
    let saved = || {
        names(&run.join("checkpoints"))
            .iter()
            .any(|n| n.starts_with("step-"))
    };
    while !saved() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(Instant::now() < until, "no checkpoint");
        sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
}

#[cfg(unix)]
#[test]
fn two_processes_do_not_write_one_run() {
    let (root, config) = place("");
    let run = root.path().join("run");
    let start = || {
        let mut command = pretrain(&config, &run);
        command.args(["--set", "schedule.steps=1000000", "--resume"]);
        command
    };
    let mut first = start().stderr(Stdio::null()).spawn().unwrap();
    wait_for_checkpoints(&mut first, &run);
    let holder = format!(
        "another process ({}) is at work in `{}`",
        first.id(),
        run.display()
    );
    for mut second in [start(), pretrain(&config, &run)] {
        let error = refuse(&mut second);
        assert!(
            error.contains(&holder) && error.contains("hint: "),
            "{error}"
        );
    }
    assert!(first.try_wait().unwrap().is_none(), "the first goes on");
    // The lock dies with its process, even one that is killed.
    first.kill().unwrap();
    first.wait().unwrap();
    let mut third = start().stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(third.stderr.take().unwrap()).lines();
    let resumed = lines.find(|l| l.as_ref().unwrap().starts_with("resuming"));
    assert!(resumed.is_some(), "the lock outlived its process");
    interrupt(&third);
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(third.wait().unwrap().success(), "{last}");
    assert!(last.starts_with("stopped at step"), "{last}");
}

#[test]
fn leftovers_of_killed_writers_are_cleared_and_a_set_aside_model_comes_back() {
    let (root, config) = place("");
    let run = root.path().join("run");
    succeed(&mut pretrain(&config, &run));
    let best = contents(&run.join("best"));
    // As a process leaves it that is killed between moving the old model away and moving the new one in.
    fs::rename(run.join("best"), run.join(".best.77-3.old.tmp")).unwrap();
    for left in [
        ".best.77-4.new.tmp",
        ".model.78-0.new.tmp",
        ".model.78-1.old.tmp",
    ] {
        fs::create_dir(run.join(left)).unwrap();
        fs::write(run.join(left).join("model.safetensors"), "half").unwrap();
    }
    let others = [".best", ".best.mine.tmp", ".modelling.1-1.new.tmp"];
    for other in others {
        fs::create_dir(run.join(other)).unwrap();
    }
    succeed(pretrain(&config, &run).arg("--resume"));
    assert_eq!(contents(&run.join("best")), best);
    let hidden: Vec<String> = names(&run)
        .into_iter()
        .filter(|n| n.starts_with('.'))
        .collect();
    assert_eq!(hidden, [others[0], others[1], ".lock", others[2]]);
}

/// Lets files grow to `bytes` and no further: writing past that fails, as on a full disk.
#[cfg(unix)]
fn limit_files(command: &mut Command, bytes: u64) -> &mut Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: both calls are async-signal-safe and touch the child alone. Ignored, SIGXFSZ becomes an error of `write`.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    }
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_does_not_fit_loses_nothing() {
    let (root, config) = place("");
    let run = root.path().join("run");
    succeed(&mut pretrain(&config, &run));
    let expected = weights(&run);
    // Back to the checkpoint before the last.
    for last in ["checkpoints/step-00000024", "model"] {
        fs::remove_dir_all(run.join(last)).unwrap();
    }
    let checkpoints = run.join("checkpoints");
    let before = contents(&checkpoints);
    assert_eq!(names(&checkpoints), ["step-00000021"]);
    let config_before = fs::read(run.join("config.toml")).unwrap();
    // Room for the weights, not for the moments, which are twice as large; then for neither; then for nothing.
    let size = expected.len() as u64;
    for (limit, file) in [
        (100, "config.toml"),
        (size * 3 / 2, "optimizer.safetensors"),
        (size / 2, "model.safetensors"),
    ] {
        let mut command = pretrain(&config, &run);
        let error = refuse(limit_files(command.arg("--resume"), limit));
        assert!(
            error.contains(file) && error.contains("File too large") && error.contains("hint: "),
            "{error}"
        );
        assert!(
            contents(&checkpoints) == before,
            "{:?}",
            names(&checkpoints)
        );
        assert!(fs::read(run.join("config.toml")).unwrap() == config_before);
    }
    succeed(pretrain(&config, &run).arg("--resume"));
    assert!(weights(&run) == expected, "other weights after a full disk");
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let (root, config) = place("");
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    for resume in [false, true] {
        let mut command = pretrain(&config, &file.join("run"));
        let error = refuse(command.args(resume.then_some("--resume")));
        assert!(
            error.contains(&format!("cannot write `{}", file.display())),
            "{error}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");
    // A file where the checkpoints should be.
    let run = root.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("checkpoints"), "x").unwrap();
    let error = refuse(&mut pretrain(&config, &run));
    assert!(error.contains("run/checkpoints`"), "{error}");
    // Something of another's where the model should be.
    let run = root.path().join("other");
    fs::create_dir_all(run.join("best/photos")).unwrap();
    let error = refuse(&mut pretrain(&config, &run));
    assert!(error.contains("other/best`"), "{error}");
    assert!(run.join("best/photos").is_dir());
}

#[test]
fn losses_that_are_not_finite_stop_the_run_and_lose_nothing() {
    let (root, config) = place("[optimizer]\nlearning_rate = 1e30\n[log]\nnon_finite_skips = 2\n");
    let run = root.path().join("run");
    let error = refuse(&mut pretrain(&config, &run));
    let stopped = |error: &str, steps: u64| {
        let line = error
            .lines()
            .find(|l| l.starts_with("error: "))
            .unwrap_or_default();
        assert!(
            line.contains(&format!("not finite in {steps} steps in a row")),
            "{line}"
        );
        assert!(line.contains("`optimizer.learning_rate`"), "{line}");
        let saved = names(&run.join("checkpoints")).pop().unwrap();
        assert!(line.contains(&saved), "{saved} not in: {line}");
        line.to_string()
    };
    let first = stopped(&error, 3);
    assert!(!run.join("model").exists());
    let checkpoints = names(&run.join("checkpoints"));
    // The saved state is whole: from it, the next step fails in the same way.
    let error = refuse(pretrain(&config, &run).arg("--resume"));
    assert!(error.contains("resuming"), "{error}");
    stopped(&error, 4);
    // So is the checkpoint before it, where there is one, and the run ends where it ended before.
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let error = refuse(pretrain(&config, &run).arg("--resume"));
    assert_eq!(stopped(&error, 3), first);
    assert_eq!(names(&run.join("checkpoints")), checkpoints);
    // More patience goes on from there.
    let patient = ["--resume", "--set", "log.non_finite_skips=1000"];
    succeed(pretrain(&config, &run).args(patient));
}
