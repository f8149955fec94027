//! The encoder: post-layer-norm layers (Devlin et al. 2019), each with a vanilla or a mixture-of-experts feed-forward block.
//!
//! Hidden states worth looking at have one name each, a [`Tap`] of `tcd_export`; they are collected on request.

use std::collections::BTreeMap;

use tch::Tensor;

use tcd_export::{Architecture, Tap};

use super::attention::SelfAttention;
use super::dropout::Mode;
use super::ffn::FeedForward;
use super::moe::MixtureOfExperts;
use super::router::Routing;
use super::{LayerNorm, Store};

/// Tapped hidden states.
pub type Taps = BTreeMap<Tap, Tensor>;

/// The feed-forward block of a layer.
#[derive(Debug)]
enum Block {
    Vanilla(FeedForward),
    Experts(MixtureOfExperts),
}

/// One layer: attention, then the feed-forward block, each added to the stream and normalised.
#[derive(Debug)]
pub(crate) struct Layer {
    index: usize,
    attention: SelfAttention,
    attention_norm: LayerNorm,
    block: Block,
    norm: LayerNorm,
}

impl Layer {
    /// Reads the tensors of layer `index` under `path`.
    pub(crate) fn new(store: &Store, path: &str, index: usize, arch: &Architecture) -> Self {
        let block = match MixtureOfExperts::new(store, &format!("{path}.moe"), arch) {
            Some(moe) => Block::Experts(moe),
            None => Block::Vanilla(FeedForward::new(store, path, arch)),
        };
        Layer {
            index,
            attention: SelfAttention::new(store, &format!("{path}.attention"), arch),
            attention_norm: LayerNorm::new(
                store,
                &format!("{path}.attention.output.LayerNorm"),
                arch.layer_norm_eps,
            ),
            block,
            norm: LayerNorm::new(
                store,
                &format!("{path}.output.LayerNorm"),
                arch.layer_norm_eps,
            ),
        }
    }

    /// # Shapes
    /// `x` `[B, S, H]`; `bias` `[B, 1, 1, S]`; `real` `[R]`. Result `[B, S, H]` and, from a mixture of experts, its routing.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        padding: (Option<&Tensor>, Option<&Tensor>),
        mode: Mode,
        taps: Option<&mut Taps>,
    ) -> (Tensor, Option<Routing>) {
        let (bias, real) = padding;
        let attended = self.attention.forward(x, bias, mode);
        let middle = self.attention_norm.forward(&(x + &attended.inner)); // [B, S, H]
        let (inner, routing) = match &self.block {
            Block::Vanilla(ffn) => (ffn.forward(&middle, mode), None),
            Block::Experts(moe) => {
                let (inner, routing) = moe.forward(&middle, real, mode);
                (inner, Some(routing))
            }
        };
        let out = self.norm.forward(&(&middle + &inner)); // [B, S, H]
        if let Some(taps) = taps {
            let l = self.index;
            taps.extend([
                (Tap::AttentionInner(l), attended.inner),
                (Tap::Query(l), attended.query),
                (Tap::Key(l), attended.key),
                (Tap::Value(l), attended.value),
                (Tap::FeedForwardInner(l), inner),
                (Tap::Trunk(l), out.shallow_clone()),
            ]);
        }
        (out, routing)
    }
}
