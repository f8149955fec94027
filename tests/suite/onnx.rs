//! From a model directory to ONNX and to answers, as a person does it on the command line, without libtorch.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tcd::data::tokenizer::Tokenizer;
use tcd_analysis::FeaturesFile;
use tcd_export::{Contents, Head, ModelConfig, MoeConfig, write_model_dir};

const VOCABULARY: &str =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\ncat\ndog\nsees\nruns\nsleeps\nred\nblue\nhouse\n";
const ROWS: &str = "the cat sleeps\na red dog runs\tthe blue house sleeps\n\nthe dog sees a cat a dog a house a cat a dog the red house\nblue blue blue\n";

pub fn tcd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tcd"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs with this exit code.
pub fn ends(command: &mut Command, code: i32) -> Output {
    let output = command.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// A model directory of random weights.
pub fn model(root: &Path, experts: Option<usize>, labels: &[&str]) -> PathBuf {
    let path = root.join(format!("model-{}-{}", experts.unwrap_or(0), labels.len()));
    let config = ModelConfig {
        max_position_embeddings: 16,
        moe: experts.map(MoeConfig::new),
        ..ModelConfig::new(15, 2, 16, 2, 32)
    };
    let tokenizer = Tokenizer::from_vocab(VOCABULARY, Path::new("vocab.txt")).unwrap();
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    let head = match labels.len() {
        0 => Head::MaskedLm,
        labels => Head::SequenceClassification { labels },
    };
    let contents = Contents {
        architecture: &config.validate().unwrap(),
        head,
        tokenizer_json: &tokenizer.to_json().unwrap(),
        labels: &labels,
        notes: serde_json::Map::new(),
        keys: serde_json::Map::new(),
    };
    let mut state = 1u64;
    write_model_dir(&path, &contents, |parameter| {
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            if parameter.name.contains("LayerNorm.weight") {
                1.0 + value
            } else {
                value
            }
        };
        Ok((0..parameter.count())
            .flat_map(|_| next().to_le_bytes())
            .collect())
    })
    .unwrap();
    path
}

pub fn export(model: &Path, more: &[&str]) {
    ends(tcd().arg("export").arg("--model").arg(model).args(more), 0);
}

/// The engines for ONNX files that can be used here.
pub fn engines() -> Vec<&'static str> {
    let output = ends(tcd().args(["doctor", "--json"]), 0);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["checks"].as_array().unwrap();
    let found = rows
        .iter()
        .any(|row| row["name"] == "onnxruntime" && row["state"] == "ok");
    if cfg!(feature = "ort") && found {
        vec!["tract", "ort"]
    } else {
        vec!["tract"]
    }
}

#[test]
fn rows_are_answered_from_a_file_and_from_standard_input_alike() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), Some(3), &["no", "maybe", "yes"]);
    export(&dir, &[]);
    let rows = root.path().join("rows.txt");
    fs::write(&rows, ROWS).unwrap();
    let mut answers: Vec<Vec<serde_json::Value>> = Vec::new();
    for engine in engines() {
        let predict = |more: &[&str]| {
            let mut command = tcd();
            command
                .arg("predict")
                .arg("--model")
                .arg(&dir)
                .args(["--runtime", engine])
                .args(more);
            command
        };
        let out = root.path().join("answers.jsonl");
        let output = ends(
            predict(&["--batch-tokens", "20"])
                .arg("--out")
                .arg(&out)
                .arg(&rows),
            0,
        );
        assert!(
            text(&output.stderr).contains("5 rows")
                && text(&output.stderr).contains("1 cut to 16 tokens"),
            "{}",
            text(&output.stderr)
        );
        let file = fs::read_to_string(&out).unwrap();
        let mut child = predict(&["-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(ROWS.as_bytes())
            .unwrap();
        let piped = child.wait_with_output().unwrap();
        let parse = |text: &str| {
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<serde_json::Value>>()
        };
        let (one, two) = (parse(&file), parse(&text(&piped.stdout)));
        assert_eq!(one.len(), 5);
        for (row, (one, two)) in one.iter().zip(&two).enumerate() {
            assert_eq!((&one["row"], &one["label"]), (&row.into(), &two["label"]));
            assert!(["no", "maybe", "yes"].contains(&one["label"].as_str().unwrap()));
        }
        answers.push(one);
    }
    for other in &answers[1..] {
        for (one, two) in answers[0].iter().zip(other) {
            assert_eq!(one["label"], two["label"]);
        }
    }
}

#[test]
fn hidden_states_of_every_token_with_their_routes() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), Some(3), &[]);
    let rows = root.path().join("rows.txt");
    fs::write(&rows, ROWS).unwrap();
    export(&dir, &[]);
    for (engine, exported) in engines()
        .into_iter()
        .flat_map(|engine| [(engine, false), (engine, true)])
    {
        if exported {
            export(&dir, &["--features", "all", "--routing"]);
        }
        let out = root.path().join("features.safetensors");
        let features = [
            "--taps",
            "all",
            "--routing",
            "--batch-tokens",
            "20",
            "--runtime",
            engine,
        ];
        let output = ends(
            tcd()
                .arg("features")
                .arg("--model")
                .arg(&dir)
                .args(features)
                .arg("--out")
                .arg(&out)
                .arg(&rows),
            0,
        );
        assert_eq!(
            text(&output.stderr).contains("temporary"),
            !exported,
            "{}",
            text(&output.stderr)
        );
        let file = FeaturesFile::open(&out).unwrap();
        // [CLS] and [SEP] of each row, a second [SEP] in the pair; the long row is cut to 16, the empty line is no row.
        assert_eq!(file.tokens(), 5 + 11 + 16 + 5);
        let names: Vec<String> = safetensors::SafeTensors::deserialize(&fs::read(&out).unwrap())
            .unwrap()
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        for name in [
            "embedding",
            "layer.1.query",
            "layer.0.ffn.inner",
            "layer.1.trunk",
            "expert.0",
            "gate.1",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        // Nothing temporary stays.
        assert!(
            fs::read_dir(root.path()).unwrap().all(|entry| !entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains("tmp"))
        );
        if exported {
            fs::remove_file(dir.join("features.onnx")).unwrap();
        }
    }
}

#[test]
fn masked_tokens_have_a_log_likelihood_and_masks_depend_on_seed_and_row_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), Some(3), &[]);
    let rows = root.path().join("rows.txt");
    fs::write(&rows, ROWS).unwrap();
    let taken = |more: &[&str]| {
        let out = root.path().join("masked.safetensors");
        let fixed = ["--masked", "--taps", "none", "--out", out.to_str().unwrap()];
        let mut command = tcd();
        command.arg("features").arg("--model").arg(&dir);
        ends(command.args(fixed).args(more).arg(&rows), 0);
        let file = FeaturesFile::open(&out).unwrap();
        (
            file.small_ints("masked").unwrap(),
            file.small_ints("original_ids").unwrap(),
            file.floats("log_likelihood").unwrap(),
            file.rows().iter().map(|r| r.id).collect::<Vec<_>>(),
        )
    };
    let (masked, original, first, ids) = taken(&["--runtime", "tract"]);
    assert_eq!(ids, [0, 1, 3, 4]);
    // 15 % of 3, 8, 14 and 3 words, at least one of each row.
    assert_eq!(masked.iter().sum::<u32>(), 1 + 1 + 2 + 1);
    for (at, value) in first.iter().enumerate() {
        assert_eq!(*value < 0.0, masked[at] == 1, "token {at}: {value}");
    }
    assert_eq!(
        &original[..5],
        [2, 5, 7, 11, 3],
        "true ids, not masked ones"
    );
    for engine in engines() {
        let (same, _, values, _) = taken(&["--runtime", engine, "--batch-tokens", "16"]);
        assert_eq!(same, masked);
        for (a, b) in first.iter().zip(&values) {
            assert!((a - b).abs() < 1e-4, "{engine}: {a} and {b}");
        }
    }
    // Routes come from an engine that gives them, without being told which.
    let routed = root.path().join("routed.safetensors");
    let mut command = tcd();
    command.args(["features", "--routing", "--model"]).arg(&dir);
    ends(command.arg("--out").arg(&routed).arg(&rows), 0);
    assert!(FeaturesFile::open(&routed).unwrap().has("expert.1"));
    let (_, _, _, ids) = taken(&["--runtime", "tract", "--limit", "2"]);
    assert_eq!(ids, [0, 3]);
    assert_ne!(taken(&["--runtime", "tract", "--mask-seed", "7"]).0, masked);
    let classifier = model(root.path(), Some(3), &["no", "yes"]);
    for (arguments, expected) in [
        (vec!["--masked"], "has no masked-LM head"),
        (vec!["--taps", "none"], "nothing to take"),
    ] {
        let mut command = tcd();
        command.arg("features").args(arguments);
        command.args(["--out", "x.safetensors", "--model"]);
        let output = ends(command.arg(&classifier).arg(&rows), 2);
        assert!(
            text(&output.stderr).contains(expected),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn engines_agree_and_a_tolerance_of_nothing_fails() {
    if engines().len() < 2 {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), Some(2), &["no", "yes"]);
    export(&dir, &[]);
    let rows = root.path().join("rows.txt");
    fs::write(&rows, ROWS).unwrap();
    let json = root.path().join("parity.json");
    let parity = |more: &[&str]| {
        let mut command = tcd();
        command
            .arg("parity")
            .arg("--model")
            .arg(&dir)
            .arg("--with")
            .args(engines())
            .args(more)
            .arg("--json")
            .arg(&json)
            .arg("--")
            .arg(&rows);
        command
    };
    let output = ends(&mut parity(&[]), 0);
    assert!(
        text(&output.stdout).contains("experts: 4 of 4 got tokens"),
        "{}",
        text(&output.stdout)
    );
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["holds"], true);
    let differences = report["differences"].as_array().unwrap();
    // Each engine's rows alone, and each pair.
    assert_eq!(differences.len(), 2 * engines().len() - 1);
    assert!(
        differences
            .iter()
            .all(|row| row["values"].as_u64().unwrap() > 0)
    );
    assert!(
        fs::read_dir(&dir).unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("tmp"))
    );
    let output = ends(&mut parity(&["--tolerance", "0"]), 1);
    assert!(
        text(&output.stdout).contains("first beyond"),
        "{}",
        text(&output.stdout)
    );
    // One row cannot reach both experts of both layers by itself, and says so.
    let output = parity(&["--rows", "1"]).output().unwrap();
    assert!([Some(0), Some(1)].contains(&output.status.code()));
}

#[test]
fn what_cannot_be_is_refused_with_a_hint() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), None, &["no", "yes"]);
    let rows = root.path().join("rows.txt");
    fs::write(&rows, ROWS).unwrap();
    let refuse = |arguments: &[&str], parts: &[&str]| {
        let output = ends(tcd().args(arguments), 2);
        let said = text(&output.stderr);
        assert_eq!(
            said.lines()
                .filter(|line| line.starts_with("error:"))
                .count(),
            1,
            "{said}"
        );
        for part in parts {
            assert!(said.contains(part), "{part} not in: {said}");
        }
    };
    let (model, file) = (dir.to_str().unwrap(), rows.to_str().unwrap());
    let predict = ["predict", "--model", model, "--runtime", "tract"];
    refuse(
        &[&predict[..], &[file]].concat(),
        &["no ONNX model", "tcd export"],
    );
    export(&dir, &[]);
    refuse(&[&predict[..], &["nowhere.txt"]].concat(), &["nowhere.txt"]);
    refuse(
        &[&predict[..], &["--columns", "text", file]].concat(),
        &["no column `text`"],
    );
    refuse(
        &["predict", "--model", model, "--runtime", "gpu", file],
        &["`gpu`", "tract"],
    );
    refuse(
        &["export", "--model", model, "--features", "layer.9.trunk"],
        &["layer.9.trunk", "2 layers"],
    );
    refuse(&["export", "--model", "nowhere"], &["config.json"]);
    refuse(
        &[
            "features",
            "--model",
            model,
            "--routing",
            "--out",
            "x",
            file,
        ],
        &["no experts"],
    );
    fs::write(dir.join("model.onnx"), "not a model").unwrap();
    refuse(
        &[&predict[..], &[file]].concat(),
        &["not an ONNX model", "hint"],
    );
    // A vocabulary of another model.
    let more = format!("{VOCABULARY}mouse\n");
    let other = Tokenizer::from_vocab(&more, Path::new("vocab.txt")).unwrap();
    fs::write(dir.join("tokenizer.json"), other.to_json().unwrap()).unwrap();
    refuse(
        &[&predict[..], &[file]].concat(),
        &["`vocab_size` is 15", "tokenizer"],
    );
}
