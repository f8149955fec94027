//! `tcd run`: a miniature study from generated text to results, stopped, gone on with, changed; and what it says when it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{refuse, succeed, tcd};

/// Two tiny models, two tasks, every kind of stage but the transfer curve and what is made for people.
fn config(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("study.toml");
    let other = dir.join("speeches.txt");
    fs::write(&other, "The cat sees a dog.\nA bird sleeps.\n").unwrap();
    let text = format!(
        r#"output = {output:?}
device = "cpu"
threads = 1
families = [
  {{ name = "vanilla" }},
  {{ name = "distilled", teacher = "vanilla", set = ["model.moe.num_experts=3"] }},
]
[data]
generate = {{ seed = 3, documents = 150, examples = 120 }}
vocabulary = 400
sequence_length = 32
held_out = 0.2
[pretrain.data]
batch_size = 8
[pretrain.model]
layers = 2
hidden = 32
heads = 2
max_positions = 40
[pretrain.schedule]
steps = 400
warmup_steps = 10
[pretrain.evaluation]
every_steps = 100
rows = 16
[pretrain.checkpoint]
every_steps = 10
[finetune]
tasks = ["CoLA", "RTE"]
seeds = [1]
epochs = [1]
max_length = 32
[analysis]
rows = 24
tokens = 400
tsne_rows = 40
texts = [{other:?}]
[report]
figures = false
page = false
{more}"#,
        output = dir.join("study")
    );
    fs::write(&path, text).unwrap();
    path
}

fn run(config: &Path, more: &[&str]) -> Command {
    let mut command = tcd();
    command.arg("run").arg("--config").arg(config).args(more);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// State of each stage, as `--dry-run` lists it.
fn states(config: &Path, more: &[&str]) -> Vec<(String, String)> {
    let output = succeed(run(config, more).arg("--dry-run"));
    let text = printed(&output);
    let lines = text.lines().skip(1).take_while(|line| !line.is_empty());
    let rows = lines.filter(|line| !line.starts_with(' '));
    rows.map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    })
    .collect()
}

/// Stages that are not done.
fn undone(config: &Path, more: &[&str]) -> Vec<String> {
    let states = states(config, more).into_iter();
    states
        .filter(|(_, s)| s != "done")
        .map(|(n, _)| n)
        .collect()
}

/// Waits until a file is there.
fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(300), "no {path:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends the signal of Ctrl-C.
fn interrupt(id: u32) {
    succeed(Command::new("kill").args(["-INT", &id.to_string()]));
}

#[test]
fn a_study_is_stopped_gone_on_with_kept_and_redone_where_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (config, study) = (config(dir.path(), ""), dir.path().join("study"));

    // Stopped in the middle of pre-training.
    let mut command = run(&config, &[]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&study.join("pretrain/vanilla-s1/checkpoints/step-00000010"));
    interrupt(child.id());
    let stopped = child.wait_with_output().unwrap();
    let text = said(&stopped);
    assert!(stopped.status.success(), "{text}");
    assert!(text.contains("pretrain-vanilla-s1: stopped"), "{text}");
    assert!(
        text.contains("the same command goes on from here"),
        "{text}"
    );
    let before = states(&config, &[]);
    let state = |name: &str| before.iter().find(|(n, _)| n == name).unwrap().1.as_str();
    assert_eq!(
        (state("corpus"), state("pretrain-vanilla-s1")),
        ("done", "begun")
    );

    // Gone on with to the end; the interrupted run from its checkpoint.
    let whole = succeed(&mut run(&config, &["--jobs", "2"]));
    assert!(
        said(&whole).contains("pretrain-vanilla-s1: pre-train a vanilla model: vanilla, going on")
    );
    let log = fs::read_to_string(study.join("logs/pretrain-vanilla-s1.log")).unwrap();
    assert!(
        log.contains("--resume") && log.contains("resuming"),
        "{log}"
    );
    let last = printed(&whole);
    let last = last.lines().last().unwrap();
    assert!(
        last.starts_with("results: ") && last.ends_with("results"),
        "{last}"
    );
    for result in [
        "glue.json",
        "relations.json",
        "parity-distilled-s1.json",
        "difference-distilled-vanilla.json",
        "cka-vanilla-distilled.json",
        "tsne-vanilla.json",
        "probe-RTE.json",
        "likelihood.json",
        "routing.json",
        "trace.json",
    ] {
        assert!(study.join("results").join(result).is_file(), "{result}");
    }
    assert!(undone(&config, &[]).is_empty());

    // Nothing to do: nothing is touched.
    let model = study.join("pretrain/vanilla-s1/model/model.safetensors");
    let age = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let (weights, table) = (age(&model), age(&study.join("results/glue.json")));
    let again = succeed(&mut run(&config, &[]));
    let text = said(&again);
    let count = states(&config, &[]).len();
    assert!(
        text.contains(&format!("{count} of {count} stages are done already")),
        "{text}"
    );
    assert!(!text.contains("[1/"), "{text}");
    assert_eq!(
        (age(&model), age(&study.join("results/glue.json"))),
        (weights, table)
    );

    // A changed setting does again what depends on it, and nothing else.
    let changed = ["--set", "finetune.epochs=[2]"];
    let todo = undone(&config, &changed);
    let of = |group: &str| todo.iter().any(|name| name.starts_with(group));
    assert!(
        of("finetune-") && of("glue") && of("eval-") && of("compare-"),
        "{todo:?}"
    );
    assert!(!of("pretrain-") && !of("cka-") && !of("corpus"), "{todo:?}");
    let other = ["--set", "analysis.tsne_rows=48"];
    assert_eq!(undone(&config, &other), ["tsne-vanilla", "tsne-distilled"]);
    let redone = succeed(&mut run(&config, &other));
    let begun = said(&redone);
    let begun: Vec<&str> = begun
        .lines()
        .filter(|line| line.contains(": t-SNE of"))
        .collect();
    assert_eq!(begun.len(), 2, "{begun:?}");
    assert_eq!(age(&model), weights);

    // An output that is gone is made again; `--only` does no more than it says, `--from` does anew.
    fs::remove_file(study.join("results/geometry.json")).unwrap();
    assert_eq!(undone(&config, &other), ["geometry"]);
    succeed(&mut run(
        &config,
        &[&other[..], &["--only", "geometry"]].concat(),
    ));
    assert!(undone(&config, &other).is_empty());
    let anew = succeed(&mut run(
        &config,
        &[&other[..], &["--from", "routing"]].concat(),
    ));
    assert!(
        said(&anew).contains("routing: load and specialisation"),
        "{}",
        said(&anew)
    );
    let text = refuse(&mut run(
        &config,
        &[&changed[..], &["--only", "glue"]].concat(),
    ));
    assert!(
        text.contains("needs what is not done: finetune-vanilla-s1-CoLA"),
        "{text}"
    );
}

#[test]
fn a_failing_stage_shows_its_log_and_the_mend_and_others_may_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let bad = dir.path().join("vocab.txt");
    fs::write(&bad, "no\nspecial\ntokens\n").unwrap();
    let tokenizer = format!("data.tokenizer={}", bad.display());
    let text = refuse(&mut run(
        &config,
        &["--set", &tokenizer, "--set", "data.vocabulary=90"],
    ));
    assert!(
        text.contains("`data.vocabulary` must be at least 100: 90"),
        "{text}"
    );
    assert!(
        text.contains("`data.tokenizer`"),
        "both violations come at once: {text}"
    );
    let text = refuse(&mut run(
        &config,
        &[
            "--set",
            r#"analysis.texts=["a.txt", "b/text.txt", "c/a.txt"]"#,
        ],
    ));
    for name in ["b/text.txt", "c/a.txt"] {
        let line = format!(
            "`analysis.texts` must be files of different names, none of them `text`: `{name}`"
        );
        assert!(text.contains(&line), "{text}");
    }

    // So few documents are held out that there is none.
    let none = ["--set", "data.held_out=0.0001"];
    let text = refuse(&mut run(&config, &none));
    let log = dir.path().join("study/logs/sample.log");
    for part in [
        "stage `sample` failed (exit code 2)",
        log.to_str().unwrap(),
        "    error: no rows to take",
        "error: failed: sample; hint: mend what the log says",
        "--only sample",
    ] {
        assert!(text.contains(part), "{part} not in: {text}");
    }
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .starts_with("$ tcd corpus sample ")
    );
    assert!(!text.contains("pretrain-vanilla-s1:"), "{text}");

    // What does not need it may go on; what needs a failed stage is not tried.
    let text = refuse(&mut run(&config, &[&none[..], &["--keep-going"]].concat()));
    assert!(
        text.contains("error: failed: sample, pretrain-vanilla-s1;"),
        "{text}"
    );
    assert!(!text.contains("finetune-vanilla-s1-RTE:"), "{text}");
}

#[test]
fn the_configurations_that_come_with_the_program_are_planned() {
    for (name, more) in [("demo", 0), ("cpu-study", 100), ("paper", 60)] {
        let config = PathBuf::from(format!("configs/{name}.toml"));
        let output = succeed(run(&config, &["--set", "output=/nowhere/study"]).arg("--dry-run"));
        let text = printed(&output);
        for part in [
            "pretrain-distilled-s1",
            "parameters",
            "operations a step",
            "moments",
            "report",
            "stages. Training",
        ] {
            assert!(text.contains(part), "{name}: {part} not in:\n{text}");
        }
        assert!(text.lines().count() > more, "{name}");
    }
    let output = succeed(run(Path::new("configs/demo.toml"), &["--dry-run"]).arg("--commands"));
    assert!(printed(&output).contains("tcd distill run --config "));
}

#[test]
fn a_study_explains_itself_and_refuses_all_that_is_wrong_at_once() {
    let output = succeed(tcd().args(["run", "--print-config"]));
    let text = printed(&output);
    for line in [
        "[transfer]",
        "[pretrain.schedule]",
        "seeds = [1]",
        "[machine]",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("printed.toml");
    fs::write(&path, &text).unwrap();
    // As printed it lacks what only its user knows, and says so.
    let text = refuse(&mut run(
        &path,
        &["--set", "pretrain.seed=4", "--set", "comparisons=[\"a:b\"]"],
    ));
    for part in [
        "`output` must name",
        "`data.text`",
        "`data.glue`",
        "`model` needs",
        "`pretrain.seed` is the study's",
        "`a:b`",
        "hint:",
    ] {
        assert!(text.contains(part), "{part} not in: {text}");
    }
    let text =
        refuse(run(Path::new("configs/demo.toml"), &["--only", "pretrian"]).arg("--dry-run"));
    assert!(
        text.contains("no stage `pretrian`") && text.contains("pretrain"),
        "{text}"
    );
    // A folder of someone else is left alone.
    fs::write(dir.path().join("precious"), "").unwrap();
    let output = format!("output={}", dir.path().display());
    let text = refuse(&mut run(
        Path::new("configs/demo.toml"),
        &["--set", &output],
    ));
    assert!(text.contains("no study wrote"), "{text}");
}
