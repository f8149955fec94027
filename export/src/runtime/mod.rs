//! Engines that run an exported model, behind one pair of traits.
//!
//! [`Runtime`] is an engine (onnxruntime, tract, libtorch), [`Runnable`] one model prepared on it. Inputs go by the names of
//! Hugging Face (`input_ids`, `attention_mask`, `token_type_ids`), outputs come by name, as f32 with their shape. No
//! engine's own type appears here: each stays in its own file.
//!
//! Shapes: `B` rows, `S` positions, row-major.

pub mod common;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(feature = "tract")]
pub mod tract;

use std::path::Path;

/// What goes wrong in an engine, with the file or the tensor it concerns and the mend.
pub type RuntimeError = Box<dyn std::error::Error + Send + Sync>;

/// A padded batch of encoded rows.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// `B`, the rows.
    pub batch: usize,
    /// `S`, the positions of the longest row.
    pub sequence: usize,
    /// The tokens, `[B, S]`.
    pub input_ids: &'a [i64],
    /// 1 at tokens, 0 at padding, `[B, S]`.
    pub attention_mask: &'a [i64],
    /// 0 in the first sentence, 1 in the second, `[B, S]`.
    pub token_type_ids: &'a [i64],
}

/// One output of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The name in the file: `logits`, `last_hidden_state`, or a tap.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// How a model is to be prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads inside one model, at least 1.
    pub threads: usize,
    /// Outputs wanted, by name; empty for all that the model has.
    pub outputs: Vec<String>,
}

/// A model prepared on an engine.
pub trait Runnable: Send {
    /// Runs one batch. The outputs come in the order asked for, or the model's own.
    ///
    /// # Errors
    /// A batch that the model does not take, or a failure of the engine.
    fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError>;

    /// The model as many as it has threads, where it can be divided: each runs batches of its own, beside the others. Elsewhere it
    /// stays one, whose threads share the work of every batch.
    fn workers(self: Box<Self>) -> Vec<Box<dyn Runnable>>;
}

/// An engine.
pub trait Runtime: Send + Sync {
    /// Its name on the command line: `ort`, `tract`, `tch`.
    fn name(&self) -> &'static str;

    /// Whether it can be used here: its version, or what is missing and the mend.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    fn check(&self) -> Result<String, RuntimeError>;

    /// Loads the model of directory `dir` (`model.onnx`, or `model.safetensors` for libtorch). Engines for ONNX files take the path
    /// of such a file too.
    ///
    /// # Errors
    /// A file that is missing, damaged, or asks for what the engine lacks.
    fn prepare(&self, dir: &Path, options: &Options) -> Result<Box<dyn Runnable>, RuntimeError>;
}
