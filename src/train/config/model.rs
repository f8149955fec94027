//! `[model]`: which BERT or mixture-of-experts BERT is built.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use tcd_export::{Architecture, ConfigError, ModelConfig, MoeConfig, preset, presets};

/// The model: a preset, or a size, or a preset with changes. The vocabulary is the corpus's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Name of a published size. Default: none, and then `layers` and `hidden` are required.
    #[schemars(example = &"bert-l4-h128")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Encoder layers, L; at least 1. Default: the preset's.
    #[schemars(example = 4)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Hidden size, H; a multiple of `heads`. Default: the preset's.
    #[schemars(example = 128)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Attention heads, A; at least 1. Default: the preset's, or H/64 and at least 1 where `hidden` is set.
    #[schemars(example = 2)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Feed-forward width, F; at least 1. Default: the preset's, or 4H where `hidden` is set.
    #[schemars(example = 512)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<usize>,
    /// Longest sequence, in tokens; at least the corpus's rows. Default 512.
    #[schemars(example = 512)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// Dropout on hidden states, in [0, 1). Default 0.1.
    #[schemars(example = 0.1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_dropout: Option<f64>,
    /// Dropout on attention weights, in [0, 1). Default 0.1.
    #[schemars(example = 0.1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_dropout: Option<f64>,
    /// Standard deviation of the initial weights; above 0. Default 0.02, as in BERT; a larger one leaves the plateau of token
    /// frequencies sooner at H=128.
    #[schemars(example = 0.02)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    /// A mixture of experts (Switch layer, Fedus et al. 2022) in place of each feed-forward block: top-1 routing, no token
    /// dropped. Default: the preset's, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moe: Option<MoeConfig>,
}

impl ModelSection {
    /// The model configuration for a vocabulary, unchecked.
    pub fn config(&self, vocab_size: usize, pad_token_id: u32) -> Result<ModelConfig, String> {
        let mut config = match &self.preset {
            None => {
                if self.layers.is_none() || self.hidden.is_none() {
                    return Err("`model` needs `preset`, or `layers` and `hidden`".to_string());
                }
                // Every size of it is set below.
                ModelConfig::new(vocab_size, 12, 768, 12, 3072)
            }
            Some(name) => match preset(name) {
                Some(config) => config,
                None => {
                    let names: Vec<String> = presets().into_iter().map(|p| p.name).collect();
                    return Err(format!(
                        "`model.preset` is unknown: `{name}`; hint: one of {}",
                        names.join(", ")
                    ));
                }
            },
        };
        if let Some(hidden) = self.hidden {
            config.hidden_size = hidden;
            config.num_attention_heads = (hidden / 64).max(1);
            config.intermediate_size = 4 * hidden;
        }
        for (value, key) in [
            (self.layers, &mut config.num_hidden_layers),
            (self.heads, &mut config.num_attention_heads),
            (self.intermediate, &mut config.intermediate_size),
            (self.max_positions, &mut config.max_position_embeddings),
        ] {
            *key = value.unwrap_or(*key);
        }
        config.hidden_dropout_prob = self.hidden_dropout.unwrap_or(config.hidden_dropout_prob);
        config.attention_probs_dropout_prob = self
            .attention_dropout
            .unwrap_or(config.attention_probs_dropout_prob);
        config.initializer_range = self.initializer_range.unwrap_or(config.initializer_range);
        config.moe = self.moe.clone().or(config.moe);
        config.vocab_size = vocab_size;
        config.pad_token_id = pad_token_id as usize;
        Ok(config)
    }

    /// The model for a vocabulary, or all that is wrong with it for rows of `sequence_length`.
    pub fn validate(
        &self,
        vocab_size: usize,
        pad_token_id: u32,
        sequence_length: usize,
    ) -> Result<Architecture, Vec<String>> {
        let config = self
            .config(vocab_size, pad_token_id)
            .map_err(|line| vec![line])?;
        let arch = config.validate().map_err(|error| match error {
            ConfigError::Invalid(problems) => {
                problems.iter().map(|p| format!("model: {p}")).collect()
            }
            other => vec![format!("model: {other}")],
        })?;
        if sequence_length > arch.max_position_embeddings {
            return Err(vec![format!(
                "`model.max_positions` must reach the corpus's rows of {sequence_length}: {}",
                arch.max_position_embeddings
            )]);
        }
        Ok(arch)
    }
}
