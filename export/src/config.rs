//! The model configuration, as `config.json` holds it, and the checked [`Architecture`].
//!
//! Keys and defaults are those of Hugging Face `BertConfig`; a mixture-of-experts model adds `moe`, and every model this
//! toolkit writes adds `tcd` (who wrote it, with which tokenizer). Keys of other tools are ignored on reading.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A BERT or mixture-of-experts BERT, unchecked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// `bert`, or `tcd_moe_bert` with `moe` set.
    pub model_type: String,
    /// Hugging Face class names that load this directory.
    pub architectures: Vec<String>,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream, H.
    pub hidden_size: usize,
    /// Number of encoder layers, L.
    pub num_hidden_layers: usize,
    /// Number of attention heads, A; divides H.
    pub num_attention_heads: usize,
    /// Inner width of the feed-forward block (of each expert), F.
    pub intermediate_size: usize,
    /// Activation; `gelu` (exact) is the only one.
    pub hidden_act: String,
    /// Dropout on embeddings and on what each sub-layer adds, in [0, 1).
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights, in [0, 1).
    pub attention_probs_dropout_prob: f64,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Number of segment types.
    pub type_vocab_size: usize,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// Id of the padding token.
    pub pad_token_id: u32,
    /// `absolute` is the only one.
    pub position_embedding_type: String,
    /// Whether the masked-LM decoder is the word embedding matrix.
    pub tie_word_embeddings: bool,
    /// Mixture of experts in place of each feed-forward block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moe: Option<MoeConfig>,
    /// Who wrote the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcd: Option<Provenance>,
}

/// The mixture-of-experts part: top-1 Switch layers (Fedus et al. 2022).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoeConfig {
    /// Number of experts of each layer, E. Default 64, the paper's.
    pub num_experts: usize,
    /// Tokens an expert takes, as a multiple of its even share; absent (the default): no token is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_factor: Option<f64>,
    /// The router's input is multiplied by uniform noise in `[1 - j, 1 + j)` in training. Default 0.
    pub router_jitter: f64,
    /// Weight of the balance loss (equation 4). Default 0.01.
    pub balance_loss_weight: f64,
    /// Weight of the router z-loss (Zoph et al. 2022). Default 0.
    pub z_loss_weight: f64,
}

impl Default for MoeConfig {
    fn default() -> Self {
        MoeConfig {
            num_experts: 64,
            capacity_factor: None,
            router_jitter: 0.0,
            balance_loss_weight: 0.01,
            z_loss_weight: 0.0,
        }
    }
}

/// Who wrote a model directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this toolkit.
    pub version: String,
    /// Hash of the tokenizer the model was trained with.
    pub tokenizer_hash: String,
}

impl Default for ModelConfig {
    /// `bert-base-uncased`.
    fn default() -> Self {
        ModelConfig {
            model_type: "bert".to_string(),
            architectures: vec!["BertForMaskedLM".to_string()],
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_string(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            position_embedding_type: "absolute".to_string(),
            tie_word_embeddings: true,
            moe: None,
            tcd: None,
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Error, PartialEq)]
pub struct ConfigError {
    /// One line for each violation.
    pub violations: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "the model configuration cannot be built: {}",
            self.violations.join("; ")
        )
    }
}

/// A checked configuration: what models are built from.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture(ModelConfig);

impl Deref for Architecture {
    type Target = ModelConfig;

    fn deref(&self) -> &ModelConfig {
        &self.0
    }
}

impl Architecture {
    /// Width of one attention head, D = H / A.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The configuration back, to change and check again.
    pub fn into_config(self) -> ModelConfig {
        self.0
    }
}

impl ModelConfig {
    /// Checks everything that must hold, and reports all that does not.
    pub fn validate(mut self) -> Result<Architecture, ConfigError> {
        let mut violations = Vec::new();
        let mut check = |holds: bool, line: String| {
            if !holds {
                violations.push(line);
            }
        };
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ] {
            check(value > 0, format!("`{key}` must be at least 1: {value}"));
            check(
                value <= 1 << 24,
                format!("`{key}` is beyond any size this toolkit can build: {value}"),
            );
        }
        check(
            self.num_attention_heads > 0
                && self.hidden_size.is_multiple_of(self.num_attention_heads),
            format!(
                "`hidden_size` must be a multiple of `num_attention_heads`: {} and {}",
                self.hidden_size, self.num_attention_heads
            ),
        );
        for (key, value) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            (
                "attention_probs_dropout_prob",
                self.attention_probs_dropout_prob,
            ),
        ] {
            check(
                (0.0..1.0).contains(&value),
                format!("`{key}` must lie in [0, 1): {value}"),
            );
        }
        check(
            self.initializer_range > 0.0 && self.initializer_range.is_finite(),
            format!(
                "`initializer_range` must be positive: {}",
                self.initializer_range
            ),
        );
        check(
            self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite(),
            format!("`layer_norm_eps` must be positive: {}", self.layer_norm_eps),
        );
        check(
            (self.pad_token_id as usize) < self.vocab_size,
            format!(
                "`pad_token_id` must be below `vocab_size`: {}",
                self.pad_token_id
            ),
        );
        check(
            self.hidden_act == "gelu",
            format!("`hidden_act` must be `gelu`: `{}`", self.hidden_act),
        );
        check(
            self.position_embedding_type == "absolute",
            format!(
                "`position_embedding_type` must be `absolute`: `{}`",
                self.position_embedding_type
            ),
        );
        match (self.model_type.as_str(), &self.moe) {
            ("bert", Some(_)) => self.model_type = "tcd_moe_bert".to_string(),
            ("bert", None) | ("tcd_moe_bert", Some(_)) => {}
            ("tcd_moe_bert", None) => check(
                false,
                "`model_type` is `tcd_moe_bert` but there is no `moe`".to_string(),
            ),
            (other, _) => check(
                false,
                format!("`model_type` must be `bert` or `tcd_moe_bert`: `{other}`"),
            ),
        }
        if let Some(moe) = &self.moe {
            check(
                moe.num_experts > 0 && moe.num_experts <= 1 << 16,
                format!(
                    "`moe.num_experts` must lie in 1..=65536: {}",
                    moe.num_experts
                ),
            );
            check(
                moe.capacity_factor.is_none_or(|c| c > 0.0 && c.is_finite()),
                format!(
                    "`moe.capacity_factor` must be positive: {:?}",
                    moe.capacity_factor
                ),
            );
            check(
                (0.0..1.0).contains(&moe.router_jitter),
                format!(
                    "`moe.router_jitter` must lie in [0, 1): {}",
                    moe.router_jitter
                ),
            );
            for (key, value) in [
                ("balance_loss_weight", moe.balance_loss_weight),
                ("z_loss_weight", moe.z_loss_weight),
            ] {
                check(
                    value >= 0.0 && value.is_finite(),
                    format!("`moe.{key}` must be at least 0: {value}"),
                );
            }
            self.architectures = vec!["TcdMoeBertForMaskedLM".to_string()];
        }
        if violations.is_empty() {
            Ok(Architecture(self))
        } else {
            Err(ConfigError { violations })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_violation_is_reported_at_once_with_key_and_value() {
        let config = ModelConfig {
            hidden_size: 130,
            num_attention_heads: 4,
            hidden_dropout_prob: f64::NAN,
            num_hidden_layers: 0,
            hidden_act: "relu".to_string(),
            moe: Some(MoeConfig {
                num_experts: 0,
                capacity_factor: Some(-1.0),
                ..MoeConfig::default()
            }),
            ..ModelConfig::default()
        };
        let error = config.validate().unwrap_err();
        assert_eq!(error.violations.len(), 6, "{error}");
        let text = error.to_string();
        for part in [
            "130 and 4",
            "`hidden_dropout_prob`",
            "`num_hidden_layers`",
            "`relu`",
            "`moe.num_experts`",
            "`moe.capacity_factor`",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn a_hugging_face_file_reads_and_a_mixture_round_trips() {
        let text = r#"{"architectures":["BertForMaskedLM"],"gradient_checkpointing":false,"hidden_size":128,
            "num_attention_heads":2,"num_hidden_layers":2,"intermediate_size":512,"model_type":"bert","use_cache":true}"#;
        let arch = serde_json::from_str::<ModelConfig>(text)
            .unwrap()
            .validate()
            .unwrap();
        assert_eq!(
            (
                arch.head_size(),
                arch.vocab_size,
                arch.max_position_embeddings
            ),
            (64, 30522, 512)
        );
        let moe = ModelConfig {
            moe: Some(MoeConfig {
                capacity_factor: Some(1.25),
                ..MoeConfig::default()
            }),
            ..arch.into_config()
        };
        let moe = moe.validate().unwrap();
        assert_eq!(moe.model_type, "tcd_moe_bert");
        let back: ModelConfig =
            serde_json::from_str(&serde_json::to_string(&*moe).unwrap()).unwrap();
        assert_eq!(back, *moe);
    }
}
