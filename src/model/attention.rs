//! Multi-head self-attention (Vaswani et al. 2017, section 3.2).
//!
//! The query, key and value weights lie next to each other in the store, so their three products are one.

use tch::Tensor;

use tcd_export::Architecture;

use super::dropout::{Mode, dropout};
use super::{Linear, Store};

/// Self-attention with its output projection; the residual and its norm belong to the encoder layer.
#[derive(Debug)]
pub(crate) struct SelfAttention {
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    output: Linear,
    heads: i64,
    head_size: i64,
    attention_dropout: f64,
    hidden_dropout: f64,
}

/// What attention adds to the residual stream, and the vectors it came from.
pub(crate) struct Attended {
    /// `[B, S, H]`, before the addition.
    pub(crate) inner: Tensor,
    /// `[B, A, S, D]` each.
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

impl SelfAttention {
    /// Reads `{path}.self.{query,key,value}` and `{path}.output.dense`.
    pub(crate) fn new(store: &Store, path: &str, arch: &Architecture) -> Self {
        SelfAttention {
            qkv_weight: store.tensor(&format!("{path}.self.qkv.weight")), // [3, H, H]
            qkv_bias: store.tensor(&format!("{path}.self.qkv.bias")),     // [3, H]
            output: Linear::new(store, &format!("{path}.output.dense")),
            heads: arch.num_attention_heads as i64,
            head_size: arch.head_size() as i64,
            attention_dropout: arch.attention_probs_dropout_prob,
            hidden_dropout: arch.hidden_dropout_prob,
        }
    }

    /// # Shapes
    /// `x` `[B, S, H]`; `bias` `[B, 1, 1, S]`, added to the scaled logits (0 for real, a large negative value for padding).
    pub(crate) fn forward(&self, x: &Tensor, bias: Option<&Tensor>, mode: Mode) -> Attended {
        let (b, s, h) = (x.size()[0], x.size()[1], x.size()[2]);
        let qkv = x
            .linear(
                &self.qkv_weight.flatten(0, 1),
                Some(self.qkv_bias.flatten(0, 1)),
            ) // [B, S, 3H]
            .view([b, s, 3, self.heads, self.head_size])
            .permute([2, 0, 3, 1, 4]); // [3, B, A, S, D]
        // One backward for the three: `unbind` stacks their gradients, where three slices would each fill a zeroed [3, ..].
        let parts = qkv.unbind(0);
        let [query, key, value] = <[Tensor; 3]>::try_from(parts).expect("an axis of three"); // [B, A, S, D]
        let attended = match mode {
            Mode::Train(_) if self.attention_dropout > 0.0 => {
                let scale = 1.0 / (self.head_size as f64).sqrt();
                let mut logits = (&query * scale).matmul(&key.transpose(-2, -1)); // [B, A, S, S]
                if let Some(bias) = bias {
                    logits += bias;
                }
                let weights = dropout(&logits.softmax(-1, x.kind()), self.attention_dropout, mode); // [B, A, S, S]
                weights.matmul(&value) // [B, A, S, D]
            }
            // Without dropout the fused kernel never writes the [S, S] matrix.
            _ => Tensor::scaled_dot_product_attention(
                &query, &key, &value, bias, 0.0, false, None, false,
            ),
        };
        let joined = attended.transpose(1, 2).reshape([b, s, h]); // [B, S, H]
        let inner = dropout(&self.output.forward(&joined), self.hidden_dropout, mode);
        Attended {
            inner,
            query,
            key,
            value,
        }
    }
}
