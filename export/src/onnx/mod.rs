//! ONNX: a model directory becomes `model.onnx`, written straight from the weights.
//!
//! Standard operators of one opset ([`OPSET`]) only, axes `batch` and `sequence` open, inputs `input_ids`, `attention_mask` and
//! `token_type_ids` (i64), outputs named as Hugging Face names them: `logits`, or `last_hidden_state` of an encoder alone.
//! Taps ([`crate::taps`]) become further outputs under their names.
//!
//! `bert` and `moe` build the graph, `check` holds it against the specification and the table of parameters,
//! `encode` turns it into bytes tensor by tensor, `write` puts the files in place, `read` looks into files of
//! any origin without loading their weights.

mod bert;
mod check;
mod encode;
mod graph;
mod infer;
mod moe;
pub mod proto;
pub mod read;
mod write;

pub use bert::{Plan, build};
pub use check::{Faults, structure};
pub use encode::{EncodeError, Fetch, MAX_INLINE};
pub use graph::{Form, Graph, Initializer, Precision, Values};
pub use infer::Length;
pub use moe::MoeForm;
pub use read::{OnnxFile, ReadError};
pub use write::{
    DATA_SUFFIX, ExportError, FEATURES_FILE, FileRecord, MODEL_FILE, ONNX_RECORD, OnnxRecord,
    Options, Written, export, export_from,
};

/// The version of the standard operators: the first with Gelu as one of them.
pub const OPSET: i64 = 20;
/// The version of the format that belongs to [`OPSET`].
pub const IR_VERSION: i64 = 9;

use crate::parameters::Parameter;

impl Plan<'_> {
    /// The graph, held against the specification and the table of parameters.
    ///
    /// # Errors
    /// What is wrong with it, which is a fault of this crate.
    pub fn checked(&self, table: &[Parameter]) -> Result<Graph, Faults> {
        let graph = build(self);
        check::whole(&graph, table)?;
        Ok(graph)
    }
}
