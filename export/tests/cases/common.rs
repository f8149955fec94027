//! Shared by the cases: the fixture, rewriting of safetensors files, small architectures and tokenizers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tcd_export::{Architecture, Head, ModelConfig, MoeConfig, Parameter, parameters};
use tempfile::TempDir;

/// The directory that `transformers` wrote.
pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf-bert-tiny")
}

/// A tensor in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Owned {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A safetensors file in memory, by the library's own reader.
pub type File = BTreeMap<String, Owned>;

pub fn read(path: &Path) -> File {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let owned = Owned {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name.to_owned(), owned)
        })
        .collect()
}

pub fn write(path: &Path, file: &File) {
    let views = file.iter().map(|(name, owned)| {
        (
            name,
            TensorView::new(owned.dtype, owned.shape.clone(), &owned.bytes).unwrap(),
        )
    });
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// A copy of the fixture, with its tensors and its configuration changed.
pub fn changed(
    tensors: impl FnOnce(&mut File),
    config: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut file = read(&fixture().join("model.safetensors"));
    tensors(&mut file);
    write(&directory.path().join("model.safetensors"), &file);
    let text = std::fs::read_to_string(fixture().join("config.json")).unwrap();
    let mut map = serde_json::from_str(&text).unwrap();
    config(&mut map);
    std::fs::write(
        directory.path().join("config.json"),
        serde_json::to_string(&map).unwrap(),
    )
    .unwrap();
    directory
}

/// The same file with every name changed.
pub fn renamed(file: &File, rename: impl Fn(&str) -> String) -> File {
    file.iter()
        .map(|(name, owned)| (rename(name), owned.clone()))
        .collect()
}

pub fn vanilla() -> Architecture {
    let config = ModelConfig {
        max_position_embeddings: 10,
        ..ModelConfig::new(20, 2, 8, 2, 12)
    };
    config.validate().unwrap()
}

pub fn mixture() -> Architecture {
    let config = ModelConfig {
        moe: Some(MoeConfig::new(3)),
        ..vanilla().config().clone()
    };
    config.validate().unwrap()
}

/// Values that differ between parameters and between places.
pub fn values(parameter: &Parameter) -> Vec<u8> {
    let seed: u32 = parameter.name.bytes().fold(7, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let value = |index: usize| {
        f32::from((seed.wrapping_add((index as u32).wrapping_mul(2_654_435_761)) >> 16) as u16)
            / 65_536.0
            - 0.5
    };
    (0..parameter.count())
        .flat_map(|index| value(index).to_le_bytes())
        .collect()
}

/// A tokenizer of `size` tokens, as far as a model directory looks into it.
pub fn tokenizer(size: usize) -> String {
    let vocabulary: serde_json::Map<_, _> =
        (0..size).map(|id| (format!("t{id}"), id.into())).collect();
    serde_json::json!({"added_tokens": [{"id": 0, "content": "t0"}], "model": {"type": "WordPiece", "vocab": vocabulary}})
        .to_string()
}

/// Names of the table, sorted.
pub fn names(architecture: &Architecture, head: Head) -> Vec<String> {
    let mut names: Vec<_> = parameters(architecture, head)
        .into_iter()
        .map(|row| row.name)
        .collect();
    names.sort();
    names
}
