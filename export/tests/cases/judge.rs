//! The outside judge: Python's `onnx.checker` with full check and strict shape inference, and Python's onnxruntime.

use std::process::Command;

use tcd_export::onnx::{MoeForm, Options, Precision};
use tcd_export::{Head, ModelConfig, MoeConfig, Tap};

use super::engines::{absent, architecture, deps, export};

const JUDGE: &str = "
import sys, onnx
from onnx import checker, shape_inference
for path in sys.argv[1:]:
    checker.check_model(path, full_check=True)
    inferred = shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True, data_prop=True)
    known = {v.name for v in inferred.graph.value_info} | {v.name for v in inferred.graph.output}
    unknown = [n.output[0] for n in inferred.graph.node if n.output[0] not in known]
    assert not unknown, unknown[:5]
print(onnx.__version__)
";

/// Every head, precision and place of values, sound to the ONNX project's own checker.
#[test]
fn the_checker_of_the_onnx_project_agrees() {
    let packages = deps().join("onnx-judge");
    if !packages.join("onnx").is_dir() {
        return absent("soundness by Python's `onnx.checker`, which is not in `.deps/onnx-judge`");
    }
    let root = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    let mut add = |architecture: &tcd_export::Architecture, head, options: &Options| {
        let out = root.path().join(paths.len().to_string());
        paths.push(export(architecture, head, &out, options).path);
    };
    for head in [
        Head::None,
        Head::MaskedLm,
        Head::SequenceClassification { labels: 2 },
    ] {
        add(
            &architecture(None),
            head,
            &Options {
                taps: Tap::all(2),
                ..Options::default()
            },
        );
        for precision in [Precision::F32, Precision::F16, Precision::Int8] {
            add(
                &architecture(None),
                head,
                &Options {
                    precision,
                    ..Options::default()
                },
            );
            let external_data = precision == Precision::F16;
            add(
                &architecture(Some(3)),
                head,
                &Options {
                    precision,
                    external_data,
                    ..Options::default()
                },
            );
        }
    }
    for precision in [Precision::F32, Precision::Int8] {
        let moe_form = MoeForm::Scattered;
        let options = Options {
            precision,
            moe_form,
            ..Options::default()
        };
        add(&architecture(Some(3)), Head::None, &options);
    }
    let moe = MoeConfig {
        capacity_factor: Some(1.25),
        ..MoeConfig::new(3)
    };
    let limited = ModelConfig {
        moe: Some(moe),
        ..architecture(None).config().clone()
    }
    .validate()
    .unwrap();
    add(&limited, Head::None, &Options::default());
    let judge = Command::new("python3")
        .args(["-c", JUDGE])
        .args(&paths)
        .env("PYTHONPATH", &packages)
        .output()
        .unwrap();
    assert!(
        judge.status.success(),
        "{}",
        String::from_utf8_lossy(&judge.stderr)
    );
}
