//! The experts of one layer: a feed-forward block each, every token computed by its own expert alone.
//!
//! Expert tensors lie next to each other in the store, so `[E, F, H]` and `[E, H, F]` are views of it, and tokens sorted by
//! expert meet their weights in one grouped product (`_grouped_mm`), forward and backward: no slice per expert, whose
//! gradients would each fill the whole tensor. The same call serves the CPU (f32) and CUDA (bf16).

use tch::{Kind, Tensor};

use super::Store;
use super::dropout::{Mode, dropout};

/// Stacked weights of `E` feed-forward blocks.
#[derive(Debug)]
pub(crate) struct Experts {
    up: Tensor,        // [E, F, H]
    up_bias: Tensor,   // [E, F]
    down: Tensor,      // [E, H, F]
    down_bias: Tensor, // [E, H]
    dropout: f64,
}

impl Experts {
    /// Reads `{path}.{e}.intermediate.dense` and `{path}.{e}.output.dense` for every expert; `dropout` is that on what the first
    /// of them gives (Fedus et al. 2022, section 2.4).
    pub(crate) fn new(store: &Store, path: &str, dropout: f64) -> Self {
        Experts {
            up: store.tensor(&format!("{path}.*.intermediate.dense.weight")),
            up_bias: store.tensor(&format!("{path}.*.intermediate.dense.bias")),
            down: store.tensor(&format!("{path}.*.output.dense.weight")),
            down_bias: store.tensor(&format!("{path}.*.output.dense.bias")),
            dropout,
        }
    }

    /// # Shapes
    /// `x` `[R, H]` sorted by expert; `expert` `[R]`, i64, ascending; `ends` `[E]`, i32, where each expert's rows end.
    /// Result `[R, H]`.
    pub(crate) fn forward(&self, x: &Tensor, expert: &Tensor, ends: &Tensor, mode: Mode) -> Tensor {
        let up = grouped(x, &self.up, ends) + self.up_bias.index_select(0, expert); // [R, F]
        let activated = dropout(&up.gelu("none"), self.dropout, mode);
        grouped(&activated, &self.down, ends) + self.down_bias.index_select(0, expert) // [R, H]
    }
}

/// Row `i` of the result is `x[i] W[e]^T` for the expert `e` whose range holds `i`.
fn grouped(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Tensor {
    x.internal_grouped_mm(&weight.transpose(1, 2), Some(ends), None, None::<Kind>)
}
