//! The heads of Devlin et al. 2019: masked language modelling (dense, GELU, layer norm, and a decoder tied to the word
//! embeddings) and sequence classification (a linear classifier on the pooled `[CLS]`).
//!
//! The masked-LM head runs at masked positions only: at 15 % masking and a vocabulary of 30,522 this is most of a small
//! model's cost.

use tch::{Kind, Reduction, Tensor};

use tcd_export::Architecture;

use super::dropout::{Mode, dropout};
use super::{LayerNorm, Linear, Store};

/// Head that predicts the token behind each mask.
#[derive(Debug)]
pub struct MaskedLmHead {
    transform: Linear,
    norm: LayerNorm,
    decoder: Tensor,
    bias: Tensor,
}

/// Loss and hits at masked positions.
#[derive(Debug)]
pub struct HeadLoss {
    /// Mean negative log-likelihood of the true tokens, nats per masked token, with gradient.
    pub mean: Tensor,
    /// Positions whose most likely token is the true one, i64, without gradient.
    pub correct: Tensor,
}

impl MaskedLmHead {
    /// Reads the tensors under `cls.predictions`.
    pub fn new(store: &Store, arch: &Architecture) -> Self {
        let decoder = if store.contains("cls.predictions.decoder.weight") {
            "cls.predictions.decoder.weight"
        } else {
            "bert.embeddings.word_embeddings.weight"
        };
        MaskedLmHead {
            transform: Linear::new(store, "cls.predictions.transform.dense"),
            norm: LayerNorm::new(
                store,
                "cls.predictions.transform.LayerNorm",
                arch.layer_norm_eps,
            ),
            decoder: store.tensor(decoder),
            bias: store.tensor("cls.predictions.bias"),
        }
    }

    /// # Shapes
    /// `hidden` `[.., H]` to logits `[.., V]`, f32.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let hidden = hidden.to_kind(self.decoder.kind());
        let x = self
            .norm
            .forward(&self.transform.forward(&hidden).gelu("none"));
        x.linear(&self.decoder, Some(&self.bias))
            .to_kind(Kind::Float)
    }

    /// # Shapes
    /// `hidden` `[B, S, H]`, `positions` `[M]` flat in `B*S`, `labels` `[M]`, i64; `M > 0`.
    pub fn loss(&self, hidden: &Tensor, positions: &Tensor, labels: &Tensor) -> HeadLoss {
        let rows = hidden.flatten(0, 1).index_select(0, positions); // [M, H]
        let logits = self.logits(&rows); // [M, V]
        let mean = logits.cross_entropy_loss(labels, None::<Tensor>, Reduction::Mean, -100, 0.0);
        let correct = tch::no_grad(|| logits.argmax(-1, false).eq_tensor(labels).sum(Kind::Int64));
        HeadLoss { mean, correct }
    }
}

/// Head that classifies a sequence, or gives it a number (one label).
#[derive(Debug)]
pub struct ClassificationHead {
    pooler: Linear,
    classifier: Linear,
    dropout: f64,
}

impl ClassificationHead {
    /// Reads `bert.pooler.dense` and `classifier`.
    pub fn new(store: &Store, arch: &Architecture) -> Self {
        ClassificationHead {
            pooler: Linear::new(store, "bert.pooler.dense"),
            classifier: Linear::new(store, "classifier"),
            dropout: arch.classifier_dropout.unwrap_or(arch.hidden_dropout_prob),
        }
    }

    /// # Shapes
    /// `hidden` `[B, S, H]` to logits `[B, C]`, f32.
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        let first = hidden.select(1, 0).to_kind(self.classifier.weight.kind()); // [B, H]
        let pooled = self.pooler.forward(&first).tanh(); // [B, H]
        self.classifier
            .forward(&dropout(&pooled, self.dropout, mode))
            .to_kind(Kind::Float) // [B, C]
    }
}
