//! Distilled runs as a person starts them: resuming, what is exported, what is refused, warm starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{refuse, small_corpus, succeed, tcd, tiny_run};

fn pretrain(config: &Path, out: &Path, settings: &[String]) -> Command {
    let mut command = tcd();
    command.args(["pretrain", "--config"]).arg(config);
    command
        .arg("--set")
        .arg(format!("output={}", out.display()));
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/model.safetensors")).unwrap()
}

struct Place {
    dir: tempfile::TempDir,
    config: PathBuf,
    teacher: PathBuf,
}

impl Place {
    /// A corpus, a configuration and a trained vanilla teacher.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let small = small_corpus(dir.path());
        let config = tiny_run(dir.path(), &small.corpus, "");
        let run = dir.path().join("teacher");
        succeed(&mut pretrain(&config, &run, &[]));
        let teacher = run.join("model");
        Place {
            dir,
            config,
            teacher,
        }
    }

    fn student(&self, name: &str, more: &[&str]) -> (PathBuf, Command) {
        let out = self.dir.path().join(name);
        let mut settings = vec![
            "model.moe.num_experts=3".to_string(),
            "checkpoint.keep_steps=[12]".to_string(),
            format!("distill.teacher={}", self.teacher.display()),
        ];
        settings.extend(more.iter().map(|s| (*s).to_string()));
        let command = pretrain(&self.config, &out, &settings);
        (out, command)
    }
}

#[test]
fn a_resumed_run_goes_on_with_its_projections_which_are_never_exported() {
    let place = Place::new();
    for method in ["hidden", "relations"] {
        let method_setting = format!("distill.method={method}");
        let (out, mut command) = place.student(method, &[&method_setting]);
        succeed(&mut command);
        let expected = weights(&out);
        // As if the run had been stopped at step 12.
        for entry in fs::read_dir(out.join("checkpoints")).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("step-00000012") {
                fs::remove_dir_all(path).unwrap();
            }
        }
        fs::remove_dir_all(out.join("model")).unwrap();
        let (_, mut command) = place.student(method, &[&method_setting]);
        succeed(command.arg("--resume"));
        assert!(weights(&out) == expected, "{method}: other weights");
        let header = String::from_utf8_lossy(&expected[..expected.len().min(1 << 16)]).into_owned();
        assert!(header.contains("moe.router") && !header.contains("projection"));
        let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let name = match method {
            "hidden" => "distill.hidden.layer.1",
            _ => "distill.attention_weighted",
        };
        assert!(metrics.contains(name) && metrics.contains("distill.teacher_seconds"));
    }
    // Another teacher is another run.
    let (_, mut command) = place.student("relations", &["distill.method=relations"]);
    command.args(["--resume", "--set", "distill.teacher=random"]);
    let text = refuse(&mut command);
    assert!(text.contains("distill.teacher"), "{text}");
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let place = Place::new();
    let (_, mut command) = place.student("a", &["distill.teacher=nowhere"]);
    let text = refuse(&mut command);
    assert!(
        text.contains("nowhere") && text.contains("config.json"),
        "{text}"
    );
    let (_, mut command) = place.student("b", &["distill.layers=[[0, 5]]"]);
    let text = refuse(&mut command);
    assert!(text.contains("teacher layer 5"), "{text}");
    let (_, mut command) = place.student("c", &["distill.relations.trunk=-1"]);
    let text = refuse(&mut command);
    assert!(text.contains("distill.relations.trunk"), "{text}");
    // Another tokenizer.
    let other = place.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(place.teacher.join(file), other.join(file)).unwrap();
    }
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n";
    fs::write(other.join("vocab.txt"), vocabulary).unwrap();
    let teacher = format!("distill.teacher={}", other.display());
    let (_, mut command) = place.student("d", &[&teacher]);
    let text = refuse(&mut command);
    assert!(text.contains("different tokenizers"), "{text}");
}

#[test]
fn a_mixture_starts_from_a_vanilla_model() {
    let place = Place::new();
    let init = format!("init.from={}", place.teacher.display());
    let out = place.dir.path().join("upcycled");
    let settings = [
        "model.moe.num_experts=3".to_string(),
        init.clone(),
        "init.expert_noise=0.01".to_string(),
    ];
    let upcycled = succeed(&mut pretrain(&place.config, &out, &settings));
    // It knows at step 0 what the vanilla model has learned, but for its gates.
    let first = |text: &[u8]| -> f64 {
        let text = String::from_utf8_lossy(text).into_owned();
        let (_, rest) = text.split_once("step 0: held-out log-likelihood ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let fresh = place.dir.path().join("fresh");
    let fresh = succeed(&mut pretrain(&place.config, &fresh, &settings[..1]));
    let (upcycled, fresh) = (first(&upcycled.stderr), first(&fresh.stderr));
    assert!(upcycled > fresh + 0.05, "{upcycled} against {fresh}");
    let wide = [init, "model.hidden=64".to_string()];
    let text = refuse(&mut pretrain(
        &place.config,
        &place.dir.path().join("w"),
        &wide,
    ));
    assert!(text.contains("does not fit"), "{text}");
}
