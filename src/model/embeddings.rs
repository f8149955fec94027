//! Token, position and token-type embeddings, summed and normalised (Devlin et al. 2019, section 3).

use tch::Tensor;

use tcd_export::Architecture;

use super::dropout::{Mode, dropout};
use super::{LayerNorm, Store};

/// The embedding layer.
#[derive(Debug)]
pub(crate) struct Embeddings {
    word: Tensor,
    position: Tensor,
    token_type: Tensor,
    norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    /// Reads the tensors under `path`.
    pub(crate) fn new(store: &Store, path: &str, arch: &Architecture) -> Self {
        Embeddings {
            word: store.tensor(&format!("{path}.word_embeddings.weight")),
            position: store.tensor(&format!("{path}.position_embeddings.weight")),
            token_type: store.tensor(&format!("{path}.token_type_embeddings.weight")),
            norm: LayerNorm::new(store, &format!("{path}.LayerNorm"), arch.layer_norm_eps),
            dropout: arch.hidden_dropout_prob,
        }
    }

    /// The word embedding matrix `[V, H]`, which the masked-LM decoder shares.
    pub(crate) fn word(&self) -> &Tensor {
        &self.word
    }

    /// # Shapes
    /// `input_ids` and `token_types` (absent: all zero) `[B, S]`, i64; result `[B, S, H]`.
    pub(crate) fn forward(
        &self,
        input_ids: &Tensor,
        token_types: Option<&Tensor>,
        mode: Mode,
    ) -> Tensor {
        let sequence = input_ids.size()[1];
        let words = Tensor::embedding(&self.word, input_ids, -1, false, false); // [B, S, H]
        let types = match token_types {
            Some(ids) => Tensor::embedding(&self.token_type, ids, -1, false, false), // [B, S, H]
            None => self.token_type.narrow(0, 0, 1),                                 // [1, H]
        };
        let x = words + (self.position.narrow(0, 0, sequence) + types); // [B, S, H]
        dropout(&self.norm.forward(&x), self.dropout, mode)
    }
}
