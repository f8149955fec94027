//! What an export leaves on disk: complete directories, values inside or beside the model, metadata, little memory.

use std::borrow::Cow;
use std::fs;

use tcd_export::onnx::{
    DATA_SUFFIX, MODEL_FILE, ONNX_RECORD, OnnxFile, OnnxRecord, Options, Precision, export,
    export_from,
};
use tcd_export::{Head, ModelConfig, ModelDir, MoeConfig, Tap, parameters};

use super::common::{changed, fixture};
use super::engines::{Rows, architecture, engines, export as export_random, run};

#[test]
fn a_directory_is_complete_and_says_what_it_is() {
    let source = changed(|_| {}, |_| {});
    let tokenizer = super::common::tokenizer(96);
    fs::write(source.path().join("tokenizer.json"), &tokenizer).unwrap();
    let out = tempfile::tempdir().unwrap();
    let model = ModelDir::open(source.path()).unwrap();
    let options = Options {
        task: Some("sst2".to_owned()),
        ..Options::default()
    };
    let written = export(&model, out.path(), &options).unwrap();
    let features = Options {
        taps: vec![Tap::Embedding],
        ..Options::default()
    };
    export(&model, out.path(), &features).unwrap();
    let mut names: Vec<_> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "features.onnx",
            "model.onnx",
            "onnx.json",
            "tokenizer.json"
        ]
    );
    let record: OnnxRecord =
        serde_json::from_str(&fs::read_to_string(out.path().join(ONNX_RECORD)).unwrap()).unwrap();
    assert_eq!(record.files[MODEL_FILE], written.record);
    assert_eq!(
        record.files["features.onnx"].outputs,
        ["embedding", "logits"]
    );
    let bytes = fs::read(&written.path).unwrap();
    assert_eq!(
        written.record.blake3,
        blake3::hash(&bytes).to_hex().to_string()
    );
    assert_eq!(written.bytes, bytes.len() as u64);
    assert_eq!(written.parameters, 6960);
    let file = OnnxFile::open(out.path()).unwrap();
    let hash = blake3::hash(tokenizer.as_bytes()).to_hex().to_string();
    for (key, value) in [
        ("task", "sst2"),
        ("head", "masked-lm"),
        ("tokenizer_blake3", hash.as_str()),
        ("precision", "f32"),
    ] {
        assert_eq!(file.own(key), Some(value), "{key}");
    }
    assert_eq!(
        (
            file.producer.0.as_str(),
            file.max_positions(),
            file.vocab_size()
        ),
        ("tcd", Some(32), Some(96))
    );
    // Into its own directory, again: the same bytes.
    let own = export(&model, source.path(), &options).unwrap();
    assert_eq!(fs::read(&own.path).unwrap(), bytes);
    // Another model's directory is not mixed with this one.
    fs::write(out.path().join("tokenizer.json"), "{}").unwrap();
    let error = export(&model, out.path(), &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("will not replace") && error.contains("tokenizer.json"),
        "{error}"
    );
}

#[test]
fn values_beside_the_model_are_the_same_and_go_when_they_go_inside() {
    let folder = tempfile::tempdir().unwrap();
    let architecture = ModelConfig {
        max_position_embeddings: 10,
        moe: Some(MoeConfig::new(3)),
        ..ModelConfig::new(20, 2, 32, 2, 48)
    };
    let architecture = architecture.validate().unwrap();
    let rows = Rows::new(&[4, 7], 7, 3);
    for precision in [Precision::F32, Precision::F16, Precision::Int8] {
        let inside = Options {
            precision,
            ..Options::default()
        };
        let beside = Options {
            external_data: true,
            ..inside.clone()
        };
        let one = export_random(&architecture, Head::None, folder.path(), &inside);
        assert!(one.data.is_none());
        let wanted: Vec<_> = engines()
            .iter()
            .map(|engine| run(&**engine, &one.path, &rows, 1))
            .collect();
        let two = export_random(&architecture, Head::None, folder.path(), &beside);
        let data = two.data.unwrap();
        assert!(data.ends_with(format!("{MODEL_FILE}{DATA_SUFFIX}")));
        assert_eq!(
            two.record.data_blake3.unwrap(),
            blake3::hash(&fs::read(&data).unwrap()).to_hex().to_string()
        );
        let got: Vec<_> = engines()
            .iter()
            .map(|engine| run(&**engine, &two.path, &rows, 1))
            .collect();
        assert_eq!(got, wanted);
        export_random(&architecture, Head::None, folder.path(), &inside);
        assert!(!data.exists());
    }
}

/// What the memory of this process has been at most, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// 200 MB of experts pass through the memory of a few tensors.
#[cfg(target_os = "linux")]
#[test]
fn tensors_are_streamed() {
    // A process of its own: the peak of this one is that of all tests.
    if std::env::var_os("TCD_STREAMED").is_none() {
        let this = std::env::current_exe().unwrap();
        let run = std::process::Command::new(this)
            .args(["--exact", "files::tensors_are_streamed", "--nocapture"])
            .env("TCD_STREAMED", "1")
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stdout)
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = ModelConfig {
        moe: Some(MoeConfig::new(48)),
        ..ModelConfig::new(500, 2, 256, 4, 1024)
    };
    let architecture = config.validate().unwrap();
    let table: std::collections::HashMap<_, _> = parameters(&architecture, Head::None)
        .into_iter()
        .map(|row| (row.name.clone(), row.bytes()))
        .collect();
    let before = peak();
    let options = Options {
        external_data: true,
        ..Options::default()
    };
    let mut give = |name: &str| Ok(Cow::Owned(vec![1; table[name]]));
    let written = export_from(
        &architecture,
        Head::None,
        folder.path(),
        &options,
        &mut give,
    )
    .unwrap();
    assert!(written.bytes > 200_000_000, "{}", written.bytes);
    assert!(
        peak() - before < 40_000_000,
        "{} bytes more",
        peak() - before
    );
}

#[test]
fn a_parameter_that_does_not_fit_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let architecture = architecture(None);
    let good = super::engines::fetch(&architecture, Head::None);
    let mut give = |name: &str| {
        let mut bytes = good(name);
        if name.ends_with("layer.1.output.dense.weight") {
            bytes.pop();
        }
        Ok(Cow::Owned(bytes))
    };
    let error = export_from(
        &architecture,
        Head::None,
        folder.path(),
        &Options::default(),
        &mut give,
    )
    .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("layer.1.output.dense.weight` has 383 bytes, expected 384"),
        "{source}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // Beyond f16.
    let mut give = |name: &str| {
        let mut bytes = good(name);
        if name.ends_with("query.weight") {
            bytes[..4].copy_from_slice(&1e6f32.to_le_bytes());
        }
        Ok(Cow::Owned(bytes))
    };
    let half = Options {
        precision: Precision::F16,
        ..Options::default()
    };
    let error =
        export_from(&architecture, Head::None, folder.path(), &half, &mut give).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("query.weight` has the value 1000000, beyond f16"),
        "{source}"
    );
}

#[test]
fn the_fixture_says_what_it_needs() {
    let model = ModelDir::open(fixture()).unwrap();
    assert_eq!(model.head(), Head::MaskedLm);
    let out = tempfile::tempdir().unwrap();
    export(&model, out.path(), &Options::default()).unwrap();
    let file = OnnxFile::open(out.path()).unwrap();
    let names: Vec<_> = file.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["input_ids", "attention_mask", "token_type_ids"]);
    // Standard operators only: another domain's would show with a dot.
    assert!(
        file.operators.keys().all(|name| !name.contains('.')),
        "{:?}",
        file.operators
    );
}
