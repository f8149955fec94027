//! The readers of `config.json` and `model.safetensors` on any bytes: an error or an answer, never a panic.
//!
//! The first half of the input is the configuration, the second the weights.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcd_export::{ModelDir, Values};

fuzz_target!(|bytes: &[u8]| {
    let (config, weights) = bytes.split_at(bytes.len() / 2);
    let Ok(folder) = tempfile::tempdir() else { return };
    if std::fs::write(folder.path().join("config.json"), config).is_ok()
        && std::fs::write(folder.path().join("model.safetensors"), weights).is_ok()
        && let Ok(model) = ModelDir::open(folder.path())
    {
        let _ = model.load(model.head(), Values::Finite);
    }
});
