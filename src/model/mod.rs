//! BERT and mixture-of-experts BERT over libtorch.
//!
//! Shape letters, used at the end of every line that changes a shape:
//! `B` batch, `S` sequence, `H` hidden, `A` heads, `D` head dim (`H/A`), `F` feed-forward, `E` experts, `T = B*S` tokens,
//! `R` real (unpadded) tokens, `M` masked positions, `V` vocabulary, `C` classes.
//!
//! A layer is a struct with `new(store, path, arch)` and `forward(&self, input, mode)`. Nothing travels by global: routing
//! statistics, auxiliary losses and taps are returned.

mod attention;
mod bert;
mod dropout;
mod embeddings;
mod encoder;
mod experts;
mod ffn;
mod heads;
mod moe;
mod router;
mod runtime;
mod store;

pub use bert::{Bert, BertInput, Encoded};
pub use dropout::{Mode, Noise};
pub use encoder::Taps;
pub use heads::{ClassificationHead, HeadLoss, MaskedLmHead};
pub use router::Routing;
pub use runtime::{Session, Tch};
pub(crate) use store::ALIGN;
pub(crate) use store::normal;
pub use store::{Initialisation, Leaf, ModelError, Store, StoreOptions};

pub use tcd_export::Tap;
use tch::Tensor;

/// Layer normalisation over the last axis with learned scale and shift (Ba et al. 2016).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `{path}.weight` and `{path}.bias`, both `[H]`.
    pub(crate) fn new(store: &Store, path: &str, eps: f64) -> Self {
        LayerNorm {
            weight: store.tensor(&format!("{path}.weight")),
            bias: store.tensor(&format!("{path}.bias")),
            eps,
        }
    }

    /// # Shapes
    /// `[.., H]` to `[.., H]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            true,
        )
    }
}

/// `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Reads `{path}.weight` `[out, in]` and `{path}.bias` `[out]`.
    pub(crate) fn new(store: &Store, path: &str) -> Self {
        Linear {
            weight: store.tensor(&format!("{path}.weight")),
            bias: store.tensor(&format!("{path}.bias")),
        }
    }

    /// # Shapes
    /// `[.., in]` to `[.., out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}
