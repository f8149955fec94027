//! The reader of ONNX files on any bytes: an error or an answer, never a panic.
#![no_main]

use std::path::PathBuf;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tcd_export::onnx::OnnxFile;

fuzz_target!(|bytes: &[u8]| {
    let _ = OnnxFile::decode(Bytes::copy_from_slice(bytes), PathBuf::from("model.onnx"));
});
