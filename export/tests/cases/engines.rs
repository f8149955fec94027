//! The engines that are built in and usable here, and models to run on them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tcd_export::onnx::{Options, Written, export_from};
use tcd_export::runtime::{Feed, Options as RunOptions, Output, Runtime};
use tcd_export::{Architecture, Head, ModelConfig, MoeConfig, Parameter, parameters};

/// What is said where something to test with is not there.
#[allow(clippy::print_stderr)]
pub fn absent(what: &str) {
    eprintln!("not tested: {what}; hint: `cargo xtask test` sets it up");
}

/// The folder of what the set-up installs.
pub fn deps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps")
}

#[cfg(feature = "ort")]
fn onnxruntime() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH") {
        return Some(path.into());
    }
    let folder = std::fs::read_dir(deps().join("onnxruntime/onnxruntime/capi")).ok()?;
    folder.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so."))
    })
}

/// Every engine of this build that can be used here.
pub fn engines() -> Vec<Box<dyn Runtime>> {
    let mut all: Vec<Box<dyn Runtime>> = Vec::new();
    #[cfg(feature = "tract")]
    all.push(Box::new(tcd_export::runtime::tract::Tract));
    #[cfg(feature = "ort")]
    match onnxruntime() {
        Some(library) => all.push(Box::new(tcd_export::runtime::ort::Ort::new(Some(library)))),
        None => absent("onnxruntime, whose library is not in `.deps/onnxruntime`"),
    }
    if all.is_empty() {
        absent("running of exported models: this build has no engine (features `tract`, `ort`)");
    }
    all
}

/// A small model; `experts` none for a vanilla one.
pub fn architecture(experts: Option<usize>) -> Architecture {
    let config = ModelConfig {
        max_position_embeddings: 10,
        moe: experts.map(MoeConfig::new),
        ..ModelConfig::new(20, 2, 8, 2, 12)
    };
    config.validate().unwrap()
}

/// Weights by name, different everywhere: norms about 1, routers large, so that every expert is chosen.
pub fn fetch(architecture: &Architecture, head: Head) -> impl Fn(&str) -> Vec<u8> {
    let table: std::collections::HashMap<String, Parameter> = parameters(architecture, head)
        .into_iter()
        .map(|row| (row.name.clone(), row))
        .collect();
    move |name| {
        let change = |value: f32| match name {
            name if name.contains("LayerNorm.weight") => 1.0 + value,
            _ => value,
        };
        if name.contains("router") {
            return router(&table[name]);
        }
        let bytes = super::common::values(&table[name]);
        let words = bytes.as_chunks::<4>().0.iter();
        words
            .flat_map(|word| change(f32::from_le_bytes(*word)).to_le_bytes())
            .collect()
    }
}

/// Weights of a router, without the regularity of the others, from -4 to 4.
fn router(parameter: &Parameter) -> Vec<u8> {
    let mut state = parameter
        .name
        .bytes()
        .fold(11u64, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte));
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 21) as f32 - 4.0
    };
    (0..parameter.count())
        .flat_map(|_| next().to_le_bytes())
        .collect()
}

/// Exports a model of such weights.
pub fn export(architecture: &Architecture, head: Head, out: &Path, options: &Options) -> Written {
    let fetch = fetch(architecture, head);
    export_from(architecture, head, out, options, &mut |name| {
        Ok(Cow::Owned(fetch(name)))
    })
    .unwrap()
}

/// A batch that owns its values.
#[derive(Clone, Debug)]
pub struct Rows {
    pub batch: usize,
    pub sequence: usize,
    pub ids: Vec<i64>,
    pub mask: Vec<i64>,
    pub types: Vec<i64>,
}

impl Rows {
    /// Rows of the given lengths, padded to `sequence`, with tokens that a seed decides.
    pub fn new(lengths: &[usize], sequence: usize, seed: usize) -> Self {
        let mut rows = Rows {
            batch: lengths.len(),
            sequence,
            ids: vec![],
            mask: vec![],
            types: vec![],
        };
        for (row, &length) in lengths.iter().enumerate() {
            for place in 0..sequence {
                let real = place < length;
                let token = 1 + (seed + 7 * row + 13 * place + row * place) % 19;
                rows.ids.push(if real { token as i64 } else { 0 });
                rows.mask.push(i64::from(real));
                rows.types.push(i64::from(real && place * 2 > length));
            }
        }
        rows
    }

    pub fn feed(&self) -> Feed<'_> {
        Feed {
            batch: self.batch,
            sequence: self.sequence,
            input_ids: &self.ids,
            attention_mask: &self.mask,
            token_type_ids: &self.types,
        }
    }
}

/// Runs one batch.
pub fn run(engine: &dyn Runtime, path: &Path, rows: &Rows, threads: usize) -> Vec<Output> {
    let options = RunOptions {
        threads,
        outputs: vec![],
    };
    engine
        .prepare(path, &options)
        .unwrap()
        .run(&rows.feed())
        .unwrap()
}
