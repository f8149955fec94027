//! The model configuration: what `config.json` says, and the checked form that everything else is built from.
//!
//! [`ModelConfig`] is raw data with Hugging Face's key names. [`ModelConfig::validate`] checks it as a whole, reports
//! every violation at once and gives an [`Architecture`], the only type from which parameters or layers are made.
//!
//! A vanilla model has `model_type` `bert` and `transformers` loads it as it is. A mixture-of-experts model has
//! `model_type` `tcd_moe_bert` and a nested object `moe` ([`MoeConfig`]).
//!
//! Source: Devlin et al. 2019 (BERT); Fedus et al. 2022 (Switch layer).

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `model_type` of a vanilla model.
pub const MODEL_TYPE_BERT: &str = "bert";
/// `model_type` of a mixture-of-experts model.
pub const MODEL_TYPE_MOE: &str = "tcd_moe_bert";

/// Sizes and settings of a BERT, vanilla or with experts; keys as in Hugging Face's `config.json`.
///
/// The five sizes have no default. As part of a run configuration unknown keys are refused; in a `config.json`
/// ([`ModelConfig::from_json`]) the keys that other tools add are left aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Number of token ids, `V`; at least 1.
    pub vocab_size: usize,
    /// Width of the residual stream, `H`; a multiple of `num_attention_heads`.
    pub hidden_size: usize,
    /// Number of encoder layers, `L`; at least 1.
    pub num_hidden_layers: usize,
    /// Number of attention heads, `A`; at least 1.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward (of each expert, in a mixture), `F`; at least 1.
    pub intermediate_size: usize,
    /// Activation of the feed-forward and of the masked-LM head; only `gelu` (the exact one, with erf). Default `gelu`.
    #[serde(default = "default_act")]
    pub hidden_act: String,
    /// Dropout on embeddings and on what a sub-layer gives, in [0, 1). Default 0.1.
    #[serde(default = "default_dropout")]
    pub hidden_dropout_prob: f64,
    /// Dropout on attention probabilities, in [0, 1). Default 0.1.
    #[serde(default = "default_dropout")]
    pub attention_probs_dropout_prob: f64,
    /// Longest sequence, in tokens; at least 1. Default 512.
    #[serde(default = "default_max_position")]
    pub max_position_embeddings: usize,
    /// Number of token types; at least 1. Default 2.
    #[serde(default = "default_type_vocab")]
    pub type_vocab_size: usize,
    /// Standard deviation of the normal distribution that weights start from; above 0. Default 0.02.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
    /// Added to the variance in layer norms; above 0. Default 1e-12.
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Id of the padding token; below `vocab_size`. Default 0.
    #[serde(default)]
    pub pad_token_id: usize,
    /// How positions enter; only `absolute`. Default `absolute`.
    #[serde(default = "default_position_embedding_type")]
    pub position_embedding_type: String,
    /// Whether the masked-LM decoder uses the word embeddings; if not, it has a weight of its own. Default true.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
    /// Dropout before the classifier, in [0, 1); none means `hidden_dropout_prob`. Default none.
    #[serde(default)]
    pub classifier_dropout: Option<f64>,
    /// Experts in place of each layer's feed-forward; none means a vanilla model. Default none.
    #[serde(default)]
    pub moe: Option<MoeConfig>,
}

/// The Switch layer in place of each feed-forward: for a token `x`, `p = softmax(W_r x)`, `e = argmax p`,
/// `y = p_e * FFN_e(x)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoeConfig {
    /// Number of experts a layer, `E`; at least 1.
    pub num_experts: usize,
    /// Tokens an expert takes, as a multiple of its equal share `T / E`; above 0. None (the default) drops no token.
    #[serde(default)]
    pub capacity_factor: Option<f64>,
    /// Router inputs are multiplied by a uniform draw from [1 - jitter, 1 + jitter] in training, in [0, 1). Default 0.
    #[serde(default)]
    pub router_jitter: f64,
    /// Weight of the balance loss `E * sum_e f_e P_e`; at least 0. Default 0.01.
    #[serde(default = "default_balance_loss_weight")]
    pub balance_loss_weight: f64,
    /// Weight of the router z-loss; at least 0. Default 0.
    #[serde(default)]
    pub z_loss_weight: f64,
    /// Dropout inside the experts, on what their first layer gives, in [0, 1): more of it than elsewhere helps fine-tuning on
    /// small tasks (Fedus et al. 2022, section 2.4). Default 0.
    #[serde(default)]
    pub expert_dropout: f64,
}

impl MoeConfig {
    /// `num_experts` experts and every other setting at its default.
    pub fn new(num_experts: usize) -> Self {
        Self {
            num_experts,
            capacity_factor: None,
            router_jitter: 0.0,
            balance_loss_weight: default_balance_loss_weight(),
            z_loss_weight: 0.0,
            expert_dropout: 0.0,
        }
    }
}

fn default_act() -> String {
    "gelu".to_owned()
}

fn default_dropout() -> f64 {
    0.1
}

fn default_max_position() -> usize {
    512
}

fn default_type_vocab() -> usize {
    2
}

fn default_initializer_range() -> f64 {
    0.02
}

fn default_layer_norm_eps() -> f64 {
    1e-12
}

fn default_position_embedding_type() -> String {
    "absolute".to_owned()
}

fn default_true() -> bool {
    true
}

fn default_balance_loss_weight() -> f64 {
    0.01
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with a dot before a nested one.
    pub key: String,
    /// The value found, as text.
    pub value: String,
    /// What must hold, as the end of a sentence.
    pub must: String,
}

impl Problem {
    fn new(key: &str, value: impl fmt::Display, must: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            value: value.to_string(),
            must: must.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {}, {}", self.key, self.value, self.must)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("model configuration is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// Values do not fit; all of them are listed.
    #[error("invalid model configuration: {}", join(.0))]
    Invalid(Vec<Problem>),
}

fn join(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Keys of a Hugging Face `config.json` that change what the model computes in a way that this program does not: the
/// key, whether a value is harmless, and what must hold.
type Refusal = (&'static str, fn(&Value) -> bool, &'static str);
const REFUSED: &[Refusal] = &[
    (
        "is_decoder",
        |value| value == &Value::Bool(false),
        "must be false (only encoders are supported)",
    ),
    (
        "add_cross_attention",
        |value| value == &Value::Bool(false),
        "must be false (only encoders are supported)",
    ),
    (
        "pruned_heads",
        |value| value.as_object().is_some_and(Map::is_empty),
        "must be empty (pruned heads are not supported)",
    ),
    (
        "quantization_config",
        Value::is_null,
        "must be absent (quantised weights are not supported)",
    ),
];

impl ModelConfig {
    /// A vanilla model of the given sizes, every other setting at its default.
    pub fn new(
        vocab_size: usize,
        layers: usize,
        hidden: usize,
        heads: usize,
        intermediate: usize,
    ) -> Self {
        Self {
            vocab_size,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: intermediate,
            hidden_act: default_act(),
            hidden_dropout_prob: default_dropout(),
            attention_probs_dropout_prob: default_dropout(),
            max_position_embeddings: default_max_position(),
            type_vocab_size: default_type_vocab(),
            initializer_range: default_initializer_range(),
            layer_norm_eps: default_layer_norm_eps(),
            pad_token_id: 0,
            position_embedding_type: default_position_embedding_type(),
            tie_word_embeddings: true,
            classifier_dropout: None,
            moe: None,
        }
    }

    /// `bert`, or `tcd_moe_bert` with experts.
    pub fn model_type(&self) -> &'static str {
        if self.moe.is_some() {
            MODEL_TYPE_MOE
        } else {
            MODEL_TYPE_BERT
        }
    }

    /// Reads the text of a `config.json`.
    ///
    /// Keys that Hugging Face writes and that do not change the model are left aside, those that do are errors; values
    /// of a wrong type are listed together. The result is not yet validated.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let map: Map<String, Value> = serde_json::from_str(text).map_err(ConfigError::Json)?;
        Self::from_map(&map)
    }

    /// Reads a parsed `config.json`; see [`ModelConfig::from_json`].
    pub fn from_map(map: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let experts = map.get("moe").is_some_and(|value| !value.is_null());
        match map.get("model_type").filter(|value| !value.is_null()) {
            Some(Value::String(kind)) if kind == MODEL_TYPE_BERT => {
                if experts {
                    problems.push(Problem::new(
                        "model_type",
                        "`bert`",
                        "must be `tcd_moe_bert` where `moe` is present",
                    ));
                }
            }
            Some(Value::String(kind)) if kind == MODEL_TYPE_MOE => {
                if !experts {
                    problems.push(Problem::new(
                        "moe",
                        "absent",
                        "must be an object where `model_type` is `tcd_moe_bert`",
                    ));
                }
            }
            // The first BERT files were written before the key existed.
            None if !experts => {}
            other => problems.push(Problem::new(
                "model_type",
                other.map_or_else(
                    || "absent".to_owned(),
                    |value| format!("`{}`", plain(value)),
                ),
                "must be `bert` or `tcd_moe_bert`",
            )),
        }
        for (key, harmless, must) in REFUSED {
            if let Some(value) = map
                .get(*key)
                .filter(|value| !value.is_null() && !harmless(value))
            {
                problems.push(Problem::new(key, plain(value), *must));
            }
        }

        // A complete sample gives the list of keys; each value is first tried alone in it, so that a wrong type is
        // reported with its key and all of them together.
        let sample = to_object(&Self::new(1, 1, 1, 1, 1));
        let mut known = Map::new();
        for key in sample.keys() {
            match map.get(key).filter(|value| !value.is_null()) {
                Some(value) => {
                    let mut probe = sample.clone();
                    probe.insert(key.clone(), value.clone());
                    match serde_json::from_value::<Self>(Value::Object(probe)) {
                        Ok(_) => drop(known.insert(key.clone(), value.clone())),
                        Err(error) => problems.push(Problem::new(
                            key,
                            plain(value),
                            format!("not accepted: {error}"),
                        )),
                    }
                }
                None if REQUIRED.contains(&key.as_str()) => {
                    problems.push(Problem::new(key, "absent", "must be given"));
                }
                None => {}
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        serde_json::from_value(Value::Object(known)).map_err(ConfigError::Json)
    }

    /// The keys of this configuration as they stand in `config.json`, `model_type` first, without `moe` where there is
    /// none.
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("model_type".to_owned(), self.model_type().into());
        map.extend(
            to_object(self)
                .into_iter()
                .filter(|(key, value)| key != "moe" || !value.is_null()),
        );
        map
    }

    /// Checks everything at once.
    pub fn validate(&self) -> Result<Architecture, ConfigError> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, key: &str, value: &dyn fmt::Display, must: String| {
            if !holds {
                problems.push(Problem::new(key, value, must));
            }
        };
        // Sizes stay far below what an index of 32 bits can address, so that no product of two overflows.
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (key, size) in sizes {
            check(
                (1..=MAX_SIZE).contains(&size),
                key,
                &size,
                format!("must be from 1 to {MAX_SIZE}"),
            );
        }
        let heads = self.num_attention_heads;
        check(
            heads == 0 || self.hidden_size.is_multiple_of(heads),
            "hidden_size",
            &self.hidden_size,
            format!("must be a multiple of `num_attention_heads` ({heads})"),
        );
        check(
            self.pad_token_id < self.vocab_size,
            "pad_token_id",
            &self.pad_token_id,
            format!("must be below `vocab_size` ({})", self.vocab_size),
        );
        check(
            self.hidden_act == "gelu",
            "hidden_act",
            &format!("`{}`", self.hidden_act),
            "must be `gelu` (the exact one; no other activation is supported)".to_owned(),
        );
        check(
            self.position_embedding_type == "absolute",
            "position_embedding_type",
            &format!("`{}`", self.position_embedding_type),
            "must be `absolute` (no other kind is supported)".to_owned(),
        );
        let dropouts = [
            ("hidden_dropout_prob", Some(self.hidden_dropout_prob)),
            (
                "attention_probs_dropout_prob",
                Some(self.attention_probs_dropout_prob),
            ),
            ("classifier_dropout", self.classifier_dropout),
        ];
        for (key, dropout) in dropouts {
            let Some(dropout) = dropout else { continue };
            check(
                (0.0..1.0).contains(&dropout),
                key,
                &dropout,
                "must be in [0, 1)".to_owned(),
            );
        }
        for (key, value) in [
            ("initializer_range", self.initializer_range),
            ("layer_norm_eps", self.layer_norm_eps),
        ] {
            check(
                value > 0.0 && value.is_finite(),
                key,
                &value,
                "must be above 0 and finite".to_owned(),
            );
        }
        let layers = self.num_hidden_layers;
        check(
            layers <= MAX_LAYERS,
            "num_hidden_layers",
            &layers,
            format!("must be at most {MAX_LAYERS}"),
        );
        // In 128 bits no product overflows; the sum of a few large terms bounds the whole model.
        let [v, h, f, p, t] = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.max_position_embeddings,
            self.type_vocab_size,
        ]
        .map(|size| size.min(MAX_SIZE) as u128);
        let experts = self
            .moe
            .as_ref()
            .map_or(1, |moe| moe.num_experts.min(MAX_EXPERTS)) as u128;
        let layer = layers.min(MAX_LAYERS) as u128;
        let values = (2 * v + p + t) * h + layer * (4 * h * h + experts * 2 * h * f);
        check(
            values <= MAX_VALUES,
            "hidden_size",
            &self.hidden_size,
            format!("must give at most {MAX_VALUES} parameters with the other sizes, not {values}"),
        );
        check(
            layer * experts <= MAX_EXPERT_LAYERS,
            "moe.num_experts",
            &experts,
            format!(
                "must be at most {MAX_EXPERT_LAYERS} over all layers, not {}",
                layer * experts
            ),
        );
        if let Some(moe) = &self.moe {
            let experts = moe.num_experts;
            check(
                (1..=MAX_EXPERTS).contains(&experts),
                "moe.num_experts",
                &experts,
                format!("must be from 1 to {MAX_EXPERTS}"),
            );
            if let Some(factor) = moe.capacity_factor {
                let holds = factor > 0.0 && factor.is_finite();
                check(
                    holds,
                    "moe.capacity_factor",
                    &factor,
                    "must be above 0 and finite".to_owned(),
                );
            }
            for (key, value) in [
                ("moe.router_jitter", moe.router_jitter),
                ("moe.expert_dropout", moe.expert_dropout),
            ] {
                let holds = (0.0..1.0).contains(&value);
                check(holds, key, &value, "must be in [0, 1)".to_owned());
            }
            let weights = [
                ("moe.balance_loss_weight", moe.balance_loss_weight),
                ("moe.z_loss_weight", moe.z_loss_weight),
            ];
            for (key, weight) in weights {
                let holds = weight >= 0.0 && weight.is_finite();
                check(
                    holds,
                    key,
                    &weight,
                    "must be at least 0 and finite".to_owned(),
                );
            }
        }
        if problems.is_empty() {
            Ok(Architecture {
                config: self.clone(),
            })
        } else {
            Err(ConfigError::Invalid(problems))
        }
    }
}

const MAX_SIZE: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_EXPERTS: usize = 1 << 16;
/// Expert networks in all layers together; bounds the length of the parameter table.
const MAX_EXPERT_LAYERS: u128 = 1 << 18;
/// Parameters in all.
const MAX_VALUES: u128 = 1 << 42;
const REQUIRED: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
];

fn to_object(config: &ModelConfig) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        // A struct of numbers and strings always becomes an object; numbers that JSON lacks (NaN) become null.
        _ => Map::new(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A validated [`ModelConfig`]; reads like one, and is made by [`ModelConfig::validate`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    config: ModelConfig,
}

impl Architecture {
    /// The configuration that was validated.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Width of one attention head, `D = H / A`.
    pub fn head_size(&self) -> usize {
        self.config.hidden_size / self.config.num_attention_heads
    }

    /// Number of experts a layer; none in a vanilla model.
    pub fn experts(&self) -> Option<usize> {
        self.config.moe.as_ref().map(|moe| moe.num_experts)
    }

    /// The same architecture with the masked-LM decoder tied to the word embeddings, or not.
    pub fn with_tied_decoder(mut self, tied: bool) -> Self {
        self.config.tie_word_embeddings = tied;
        self
    }
}

impl Deref for Architecture {
    type Target = ModelConfig;

    fn deref(&self) -> &ModelConfig {
        &self.config
    }
}
