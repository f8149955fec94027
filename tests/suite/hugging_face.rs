//! A Hugging Face BERT directory loads as it is and gives the logits that `transformers` gives.

use std::path::Path;

use serde_json::Value;
use tcd::model::{Bert, BertInput, MaskedLmHead, Mode, Store, StoreOptions};
use tcd_export::{Head, ModelDir, Values, parameters};
use tch::{Device, Kind, Tensor};

fn ids(value: &Value) -> Tensor {
    let rows: Vec<Vec<i64>> = serde_json::from_value(value.clone()).unwrap();
    let (b, s) = (rows.len() as i64, rows[0].len() as i64);
    Tensor::from_slice(&rows.concat()).view([b, s])
}

/// The largest difference between our logits and those of a file, over real tokens, and the largest logit.
fn difference(dir: &Path, expected: &Path) -> (f64, f64) {
    let text = std::fs::read_to_string(expected).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let model = ModelDir::open(dir).unwrap();
    let arch = model.architecture().clone();
    let weights = model.load(Head::MaskedLm, Values::Finite).unwrap();
    let options = StoreOptions {
        device: Device::Cpu,
        bf16: false,
    };
    let mut store = Store::new(&parameters(&arch, Head::MaskedLm), options).unwrap();
    store
        .load::<tcd::model::ModelError>(|p| Ok(weights.tensor(&p.name).unwrap().to_vec()))
        .unwrap();
    let (bert, head) = (Bert::new(&store, &arch), MaskedLmHead::new(&store, &arch));
    let input = BertInput {
        input_ids: ids(&expected["input_ids"]),
        attention_mask: Some(ids(&expected["attention_mask"])),
        token_type_ids: Some(ids(&expected["token_type_ids"])),
    };
    let got = tch::no_grad(|| head.logits(&bert.forward(&input, Mode::Eval, false).hidden));
    let wanted: Vec<f32> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let wanted = Tensor::from_slice(&wanted).view(got.size().as_slice());
    // Rows of padding have no meaning, there or here.
    let real = input.attention_mask.unwrap().unsqueeze(-1);
    let real = real.to_kind(Kind::Float);
    (
        ((&got - &wanted) * &real).abs().max().double_value(&[]),
        wanted.abs().max().double_value(&[]),
    )
}

/// `expected.json` was made by the script beside the fixture, with transformers 5.23 and torch 2.13.
#[test]
fn logits_equal_those_of_transformers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("export/tests/fixtures/hf-bert-tiny");
    let (difference, scale) = difference(&dir, &dir.join("expected.json"));
    assert!(
        difference < 1e-5 * scale.max(1.0),
        "largest difference {difference}, scale {scale}"
    );
}

/// The same for a directory of your own: `benches/peers/logits.py` says how.
#[test]
#[allow(clippy::print_stdout)]
fn logits_of_a_given_directory_equal_those_of_transformers() {
    let (Some(dir), Some(expected)) = (
        std::env::var_os("TCD_MODEL"),
        std::env::var_os("TCD_EXPECTED"),
    ) else {
        println!("skipped: `TCD_MODEL` and `TCD_EXPECTED` are not set");
        return;
    };
    let (difference, scale) = difference(Path::new(&dir), Path::new(&expected));
    println!("largest difference {difference:.3e}, largest logit {scale:.3}");
    assert!(difference < 1e-5 * scale.max(1.0));
}
