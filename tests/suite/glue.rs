//! Fine-tuning and evaluation on GLUE, as a person runs them, on generated task files: every task of the table end to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tcd::data::glue::TASKS;
use tcd::model::{Bert, BertInput, ClassificationHead, Mode, ModelError, Store, StoreOptions};
use tcd_export::{Head, ModelDir, Values, parameters};
use tch::{Device, Tensor};

use crate::common::{refuse, small_corpus, succeed, tcd, tiny_run};

/// A pre-trained model with generated task files, in `dir`.
fn pretrained(dir: &Path, name: &str, more: &str) -> PathBuf {
    let corpus = dir.join("corpus");
    if !corpus.exists() {
        small_corpus(dir);
    }
    let out = dir.join(name);
    succeed(
        tcd()
            .args(["pretrain", "--config"])
            .arg(tiny_run(dir, &corpus, more))
            .arg("--set")
            .arg(format!("output={}", out.display())),
    );
    out.join("model")
}

fn glue(dir: &Path) -> PathBuf {
    dir.join("data/glue")
}

fn finetune(model: &Path, tasks: &str, data: &Path, out: &Path) -> Command {
    let mut command = tcd();
    command
        .args([
            "finetune",
            "--task",
            tasks,
            "--device",
            "cpu",
            "--threads",
            "1",
            "--model",
        ])
        .arg(model)
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out);
    command
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn best_models(out: &Path) -> Vec<PathBuf> {
    let tasks = TASKS.iter().filter(|task| task.answered_by.is_none());
    tasks.map(|task| out.join(task.name).join("best")).collect()
}

/// Generation, pre-training, fine-tuning on all nine tasks, evaluation on development, diagnostic and test sets, table,
/// comparison, submission.
#[test]
fn every_task_goes_from_training_to_submission() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let vanilla = pretrained(dir, "vanilla", "");
    let moe = pretrained(dir, "moe", "[model.moe]\nnum_experts = 4\n");
    let data = glue(dir);
    let few = [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--learning-rate",
        "1e-3",
        "--seeds",
        "1,2",
    ];
    let out = dir.join("ft-vanilla");
    let told = succeed(finetune(&vanilla, "all", &data, &out).args(few));
    let text = String::from_utf8(told.stdout).unwrap();
    for task in &TASKS {
        assert_eq!(
            text.contains(&format!(" {} (", task.name)),
            task.answered_by.is_none(),
            "{text}"
        );
    }
    assert!(
        text.contains("Not in the average: WNLI (left out by default)"),
        "{text}"
    );

    let out_moe = dir.join("ft-moe");
    let options = [
        "--balance-loss",
        "0.01",
        "--expert-dropout",
        "0.2",
        "--start-from-mnli",
    ];
    let told = succeed(
        finetune(&moe, "all", &data, &out_moe)
            .args(few)
            .args(options),
    );
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(
        text.contains(
            "† began as the model fine-tuned on MNLI, not as the pre-trained one: MRPC, RTE, STS-B."
        ),
        "{text}"
    );
    let config = json(&out_moe.join("RTE/best/config.json"));
    assert_eq!(config["moe"]["expert_dropout"], 0.2);
    assert_eq!(config["tcd"]["notes"]["finetuning"]["start_task"], "MNLI");
    assert_eq!(config["finetuning_task"], "RTE");
    assert_eq!(config["problem_type"], "single_label_classification");
    assert_eq!(config["id2label"]["1"], "not_entailment");
    let config = json(&out_moe.join("STS-B/best/config.json"));
    assert_eq!(config["problem_type"], "regression");
    assert_eq!(config["id2label"].as_object().unwrap().len(), 1);

    // The kept model scores what its run says, whatever the batches.
    let scores = dir.join("scores");
    for (out, models) in [(&out, best_models(&out)), (&out_moe, best_models(&out_moe))] {
        succeed(
            tcd()
                .args([
                    "eval",
                    "--runtime",
                    "tch",
                    "--threads",
                    "1",
                    "--batch-size",
                    "3",
                    "--model",
                ])
                .args(&models)
                .arg("--data")
                .arg(&data)
                .arg("--out")
                .arg(&scores),
        );
        for model in models {
            let notes = json(&model.join("config.json"))["tcd"]["notes"].clone();
            let task = model.parent().unwrap();
            let splits: &[&str] = if task.ends_with("MNLI") {
                &["dev_matched", "dev_mismatched"]
            } else {
                &["dev"]
            };
            for split in splits {
                let run = notes["run"].as_str().unwrap();
                let own = json(&task.join(run).join(split).join("result.json"));
                let name = notes["base"].as_str().unwrap();
                let dir = scores
                    .join(name)
                    .join(task.file_name().unwrap())
                    .join(run)
                    .join(split);
                let again = json(&dir.join("result.json"));
                for (metric, value) in own["scores"].as_object().unwrap() {
                    let (a, b) = (value.as_f64(), again["scores"][metric].as_f64());
                    match (a, b) {
                        (Some(a), Some(b)) => {
                            assert!((a - b).abs() < 1e-6, "{task:?} {metric}: {a} {b}")
                        }
                        _ => assert_eq!(value, &again["scores"][metric], "{task:?} {metric}"),
                    }
                }
                assert_eq!(own["finetuning"], again["finetuning"], "{out:?}");
            }
        }
    }
    assert!(
        scores.join("vanilla/AX").is_dir(),
        "the MNLI model answers the diagnostic set"
    );
    let table = succeed(
        tcd()
            .args(["glue", "table", "--format", "json"])
            .arg(&scores),
    );
    let table: Value = serde_json::from_slice(&table.stdout).unwrap();
    assert_eq!(table["averaged"].as_array().unwrap().len(), 8);
    assert_eq!(table["rows"].as_array().unwrap().len(), 2);

    let compared = succeed(
        tcd()
            .args(["glue", "compare", "--draws", "200", "--json"])
            .arg(scores.join("vanilla"))
            .arg(scores.join("moe")),
    );
    let compared: Value = serde_json::from_slice(&compared.stdout).unwrap();
    assert_eq!(
        compared.as_array().unwrap().len(),
        11,
        "nine tasks, MNLI's second set, AX"
    );

    let predictions = dir.join("predictions");
    succeed(
        tcd()
            .args(["eval", "--split", "test", "--runtime", "tch", "--model"])
            .args(best_models(&out))
            .arg("--data")
            .arg(&data)
            .arg("--out")
            .arg(&predictions),
    );
    let zip = dir.join("submission.zip");
    let mut submit = tcd();
    submit
        .arg("submit")
        .arg(&predictions)
        .arg("--out")
        .arg(&zip);
    // Generated test sets are not of the official sizes.
    let judged = submit.output().unwrap();
    assert_eq!(judged.status.code(), Some(1));
    let said = String::from_utf8(judged.stderr).unwrap();
    assert!(
        said.contains("`QQP.tsv` has 12 rows, expected 390965"),
        "{said}"
    );
    succeed(submit.arg("--data").arg(&data));
    succeed(
        tcd()
            .args(["submit", "--check"])
            .arg(&zip)
            .arg("--data")
            .arg(&data),
    );
    let said = refuse(tcd().args(["glue", "table"]).arg(&predictions));
    assert!(said.contains("development set"), "{said}");
}

/// A stopped grid goes on with the run it was in, and that run comes out the same.
#[test]
fn a_grid_goes_on_where_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = pretrained(dir, "vanilla", "");
    let data = glue(dir);
    let out = dir.join("ft");
    let settings = [
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--learning-rate",
        "1e-3,3e-3",
        "--seeds",
        "1,2",
    ];
    succeed(finetune(&model, "CoLA", &data, &out).args(settings));
    let run = out.join("CoLA/lr1e-3-b4-e2-s2");
    let predictions = run.join("dev/predictions.jsonl");
    let (before, done) = (fs::read(&predictions).unwrap(), json(&run.join("run.json")));
    // What is left of a run that was stopped: a log, no record.
    fs::remove_file(run.join("run.json")).unwrap();
    fs::remove_dir_all(run.join("dev")).unwrap();
    let told = succeed(finetune(&model, "CoLA", &data, &out).args(settings));
    let said = String::from_utf8(told.stderr).unwrap();
    assert!(said.contains("3 of them done before"), "{said}");
    assert_eq!(fs::read(&predictions).unwrap(), before);
    assert_eq!(json(&run.join("run.json"))["score"], done["score"]);
    let said = refuse(
        finetune(&model, "CoLA", &data, &out)
            .args(settings)
            .args(["--warmup", "0.5"]),
    );
    assert!(said.contains("other data, model or settings"), "{said}");
    let said = refuse(
        finetune(&model, "CoLA", &data, &out)
            .args(["--seeds", "1", "--epochs", "0", "--warmup", "nan"]),
    );
    assert!(
        said.contains("epochs") && said.contains("warm-up"),
        "{said}"
    );
    let said = refuse(finetune(&model, "AX", &data, &out).args(settings));
    assert!(said.contains("fine-tune on MNLI"), "{said}");
    let said = refuse(finetune(&model, "RTE", &data, &out).arg("--start-from-mnli"));
    assert!(said.contains("fine-tune on MNLI first"), "{said}");
    let said = refuse(finetune(&model, "CoLA", &data, &out).args(["--expert-dropout", "0.1"]));
    assert!(said.contains("has none"), "{said}");
}

/// Labels are matched by name; where a model has none, nothing is guessed.
#[test]
fn labels_are_matched_by_name_or_the_order_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = pretrained(dir, "vanilla", "");
    let (data, out) = (glue(dir), dir.join("ft"));
    succeed(finetune(&model, "RTE", &data, &out).args(["--epochs", "1", "--batch-size", "4"]));
    let best = out.join("RTE/best");
    let config = fs::read_to_string(best.join("config.json")).unwrap();
    let eval = |labels: [&str; 2], name: &str, more: &[&str]| {
        let renamed = config
            .replace(
                "\"0\": \"entailment\"",
                &format!("\"0\": \"{}\"", labels[0]),
            )
            .replace(
                "\"1\": \"not_entailment\"",
                &format!("\"1\": \"{}\"", labels[1]),
            );
        fs::write(best.join("config.json"), renamed).unwrap();
        let mut command = tcd();
        command
            .args([
                "eval",
                "--runtime",
                "tch",
                "--task",
                "RTE",
                "--name",
                name,
                "--model",
            ])
            .arg(&best)
            .arg("--data")
            .arg(&data)
            .arg("--out")
            .arg(dir.join("scores"))
            .args(more);
        command
    };
    let counts = |name: &str| {
        let dir = dir
            .join("scores")
            .join(name)
            .join("RTE/lr1e-4-b4-e1-s1/dev");
        json(&dir.join("result.json"))["prediction_counts"].clone()
    };
    succeed(&mut eval(["entailment", "not_entailment"], "right", &[]));
    succeed(&mut eval(["NOT-ENTAILMENT", "Entailment"], "swapped", &[]));
    let (right, swapped) = (counts("right"), counts("swapped"));
    assert_eq!((&right[0], &right[1]), (&swapped[1], &swapped[0]));
    let said = refuse(&mut eval(["LABEL_0", "LABEL_1"], "unnamed", &[]));
    assert!(
        said.contains("--label-order entailment,not_entailment"),
        "{said}"
    );
    succeed(&mut eval(
        ["LABEL_0", "LABEL_1"],
        "told",
        &["--label-order", "not_entailment,entailment"],
    ));
    assert_eq!(counts("told"), swapped);
    let said = refuse(&mut eval(["yes", "no"], "foreign", &[]));
    assert!(said.contains("`yes` is none of the task's"), "{said}");
}

/// Fine-tuning learns: the generated SST-2 has words that decide, and the generated STS-B has words in common.
#[test]
fn fine_tuning_learns() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = pretrained(dir, "vanilla", "");
    let large = dir.join("large");
    succeed(
        tcd()
            .args(["generate", "--documents", "1", "--examples", "600", "--out"])
            .arg(&large),
    );
    let out = dir.join("ft");
    let settings = [
        "--epochs",
        "6",
        "--batch-size",
        "16",
        "--learning-rate",
        "3e-3",
    ];
    succeed(finetune(&model, "SST-2", &large.join("glue"), &out).args(settings));
    let summary = json(&out.join("SST-2/summary.json"));
    let score = summary["runs"][0]["score"].as_f64().unwrap();
    assert!(score > 0.8, "accuracy {score} where chance is 0.5");
}

/// ```python
/// # torch 2.13.0, transformers 5.23.0
/// m = BertForSequenceClassification.from_pretrained("hf-bert-tiny", num_labels=3).eval()
/// for n, p in m.named_parameters():
///     if n.startswith(("bert.pooler", "classifier")): p.data = torch.sin(torch.arange(p.numel(), dtype=torch.float32)).view_as(p)
/// print(m(input_ids=..., attention_mask=..., token_type_ids=...).logits.tolist())  # those of expected.json
/// ```
const LOGITS: [[f32; 3]; 2] = [
    [1.116976, -0.4847772, 2.3325098],
    [1.0558133, -0.37432766, 2.1821263],
];

#[test]
fn the_classification_head_is_that_of_transformers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("export/tests/fixtures/hf-bert-tiny");
    let expected = json(&dir.join("expected.json"));
    let tensor = |key: &str| {
        let rows: Vec<Vec<i64>> = serde_json::from_value(expected[key].clone()).unwrap();
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, rows[0].len() as i64])
    };
    let model = ModelDir::open(&dir).unwrap();
    let arch = model.architecture().clone();
    let weights = model.load(Head::None, Values::Finite).unwrap();
    let options = StoreOptions {
        device: Device::Cpu,
        bf16: false,
    };
    let head = Head::SequenceClassification { labels: 3 };
    let mut store = Store::new(&parameters(&arch, head), options).unwrap();
    store
        .load::<ModelError>(|p| {
            let sines = || (0..p.count()).map(|i| (i as f32).sin()).collect();
            Ok(weights.tensor(&p.name).map_or_else(sines, |t| t.to_vec()))
        })
        .unwrap();
    let input = BertInput {
        input_ids: tensor("input_ids"),
        attention_mask: Some(tensor("attention_mask")),
        token_type_ids: Some(tensor("token_type_ids")),
    };
    let (bert, head) = (
        Bert::new(&store, &arch),
        ClassificationHead::new(&store, &arch),
    );
    let got =
        tch::no_grad(|| head.logits(&bert.forward(&input, Mode::Eval, false).hidden, Mode::Eval));
    let difference = (got - Tensor::from_slice2(&LOGITS))
        .abs()
        .max()
        .double_value(&[]);
    assert!(difference < 1e-5, "largest difference {difference}");
}
