//! Integration tests: the library's laws and the program as a person runs it, on small data that the tests generate.
//!
//! One binary, a module a feature. Modules that train are there with the feature `train` only.

#![allow(clippy::unwrap_used)]

mod analyze;
mod chrome;
mod common;
mod data;
mod figures;
mod onnx;
mod outside;
mod report_data;
mod report_page;

#[cfg(feature = "train")]
mod distillation;
#[cfg(feature = "train")]
mod distilled_run;
#[cfg(feature = "train")]
mod errors;
#[cfg(feature = "train")]
mod glue;
#[cfg(feature = "train")]
mod hugging_face;
#[cfg(feature = "train")]
mod method_losses;
#[cfg(feature = "train")]
mod model_laws;
#[cfg(feature = "train")]
mod numeric;
#[cfg(feature = "train")]
mod print_config;
#[cfg(feature = "train")]
mod resume;
#[cfg(feature = "train")]
mod run_directory;
#[cfg(feature = "train")]
mod study;
