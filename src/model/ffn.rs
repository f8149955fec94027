//! The position-wise feed-forward block (Vaswani et al. 2017, section 3.3) with exact GELU (Hendrycks, Gimpel 2016).

use tch::Tensor;

use tcd_export::Architecture;

use super::dropout::{Mode, dropout};
use super::{Linear, Store};

/// `W_2 gelu(W_1 x + b_1) + b_2`, with dropout on the result.
#[derive(Debug)]
pub(crate) struct FeedForward {
    intermediate: Linear,
    output: Linear,
    dropout: f64,
}

impl FeedForward {
    /// Reads `{path}.intermediate.dense` `[F, H]` and `{path}.output.dense` `[H, F]`.
    pub(crate) fn new(store: &Store, path: &str, arch: &Architecture) -> Self {
        FeedForward {
            intermediate: Linear::new(store, &format!("{path}.intermediate.dense")),
            output: Linear::new(store, &format!("{path}.output.dense")),
            dropout: arch.hidden_dropout_prob,
        }
    }

    /// # Shapes
    /// `[B, S, H]` to `[B, S, H]`.
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let activated = self.intermediate.forward(x).gelu("none"); // [B, S, F]
        dropout(&self.output.forward(&activated), self.dropout, mode) // [B, S, H]
    }
}
