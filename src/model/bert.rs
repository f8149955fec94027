//! BERT: embeddings and encoder (Devlin et al. 2019), vanilla or with mixture-of-experts layers (METHOD: "Models").

use tch::{Kind, Tensor};

use tcd_export::{Architecture, Tap};

use super::Store;
use super::dropout::Mode;
use super::embeddings::Embeddings;
use super::encoder::{Layer, Taps};
use super::router::Routing;

/// The model without a head.
#[derive(Debug)]
pub struct Bert {
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

/// What a model reads.
#[derive(Debug)]
pub struct BertInput {
    /// Token ids, `[B, S]`, i64.
    pub input_ids: Tensor,
    /// 1 for real tokens, 0 for padding, `[B, S]`, i64; absent where every token is real, which is quicker.
    pub attention_mask: Option<Tensor>,
    /// Segment of each token, `[B, S]`, i64; absent where all are 0.
    pub token_type_ids: Option<Tensor>,
}

/// What a model gives.
#[derive(Debug)]
pub struct Encoded {
    /// Last hidden state, `[B, S, H]`.
    pub hidden: Tensor,
    /// Routing of each mixture-of-experts layer, in order; empty for a vanilla model.
    pub routing: Vec<Routing>,
    /// The taps, where asked for.
    pub taps: Option<Taps>,
}

impl Bert {
    /// Builds the layers over the tensors of `store`.
    pub fn new(store: &Store, arch: &Architecture) -> Self {
        Bert {
            embeddings: Embeddings::new(store, "bert.embeddings", arch),
            layers: (0..arch.num_hidden_layers)
                .map(|i| Layer::new(store, &format!("bert.encoder.layer.{i}"), i, arch))
                .collect(),
        }
    }

    /// The word embedding matrix `[V, H]`.
    pub fn word_embeddings(&self) -> &Tensor {
        self.embeddings.word()
    }

    /// Runs embeddings and encoder; with `tapped`, keeps every named hidden state.
    pub fn forward(&self, input: &BertInput, mode: Mode, tapped: bool) -> Encoded {
        let mut x = self
            .embeddings
            .forward(&input.input_ids, input.token_type_ids.as_ref(), mode); // [B, S, H]
        let mut taps = tapped.then(Taps::new);
        if let Some(taps) = &mut taps {
            taps.insert(Tap::Embedding, x.shallow_clone());
        }
        let bias = input.attention_mask.as_ref().map(|mask| {
            let padded = mask.eq(0).unsqueeze(1).unsqueeze(1); // [B, 1, 1, S]
            // A large finite value: a row of padding alone stays finite.
            padded
                .zeros_like()
                .to_kind(x.kind())
                .masked_fill(&padded, -1e9)
        });
        let real = input
            .attention_mask
            .as_ref()
            .map(|mask| mask.flatten(0, 1).nonzero().squeeze_dim(1)); // [R]
        let mut routing = Vec::new();
        for layer in &self.layers {
            let (out, routed) =
                layer.forward(&x, (bias.as_ref(), real.as_ref()), mode, taps.as_mut());
            x = out;
            routing.extend(routed);
        }
        Encoded {
            hidden: x.to_kind(Kind::Float),
            routing,
            taps,
        }
    }
}
