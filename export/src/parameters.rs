//! The one table of parameter names and shapes.
//!
//! Names are those of Hugging Face `BertForMaskedLM` and `BertForSequenceClassification`; a mixture-of-experts layer has
//! `moe.router.weight` and `moe.experts.{e}.{intermediate,output}.dense.{weight,bias}` where a vanilla one has
//! `{intermediate,output}.dense.{weight,bias}`.

use crate::config::Architecture;

/// What stands on top of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    None,
    /// Masked language model head.
    MaskedLm,
    /// Pooler and a linear layer with so many outputs (1: regression).
    SequenceClassification {
        /// Number of outputs, C.
        labels: usize,
    },
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// `N(0, initializer_range)`.
    Normal,
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies: not to biases and layer norms.
    pub decay: bool,
}

#[derive(Default)]
struct Table(Vec<Parameter>);

impl Table {
    fn weight(&mut self, name: String, shape: &[usize]) {
        self.0.push(Parameter {
            name,
            shape: shape.to_vec(),
            init: Init::Normal,
            decay: true,
        });
    }

    fn bias(&mut self, name: String, len: usize) {
        self.0.push(Parameter {
            name,
            shape: vec![len],
            init: Init::Zeros,
            decay: false,
        });
    }

    fn linear(&mut self, path: &str, out: usize, input: usize) {
        self.weight(format!("{path}.weight"), &[out, input]);
        self.bias(format!("{path}.bias"), out);
    }

    fn norm(&mut self, path: &str, len: usize) {
        self.0.push(Parameter {
            name: format!("{path}.weight"),
            shape: vec![len],
            init: Init::Ones,
            decay: false,
        });
        self.bias(format!("{path}.bias"), len);
    }
}

/// Every parameter of the model, in the order of the forward pass.
pub fn parameters(arch: &Architecture, head: Head) -> Vec<Parameter> {
    let (h, f, v) = (arch.hidden_size, arch.intermediate_size, arch.vocab_size);
    let mut t = Table::default();
    t.weight(
        "bert.embeddings.word_embeddings.weight".to_string(),
        &[v, h],
    );
    t.weight(
        "bert.embeddings.position_embeddings.weight".to_string(),
        &[arch.max_position_embeddings, h],
    );
    t.weight(
        "bert.embeddings.token_type_embeddings.weight".to_string(),
        &[arch.type_vocab_size, h],
    );
    t.norm("bert.embeddings.LayerNorm", h);
    for i in 0..arch.num_hidden_layers {
        let layer = format!("bert.encoder.layer.{i}");
        for part in ["query", "key", "value"] {
            t.linear(&format!("{layer}.attention.self.{part}"), h, h);
        }
        t.linear(&format!("{layer}.attention.output.dense"), h, h);
        t.norm(&format!("{layer}.attention.output.LayerNorm"), h);
        match &arch.moe {
            None => {
                t.linear(&format!("{layer}.intermediate.dense"), f, h);
                t.linear(&format!("{layer}.output.dense"), h, f);
            }
            Some(moe) => {
                t.weight(format!("{layer}.moe.router.weight"), &[moe.num_experts, h]);
                for e in 0..moe.num_experts {
                    t.linear(&format!("{layer}.moe.experts.{e}.intermediate.dense"), f, h);
                    t.linear(&format!("{layer}.moe.experts.{e}.output.dense"), h, f);
                }
            }
        }
        t.norm(&format!("{layer}.output.LayerNorm"), h);
    }
    match head {
        Head::None => {}
        Head::MaskedLm => {
            t.linear("cls.predictions.transform.dense", h, h);
            t.norm("cls.predictions.transform.LayerNorm", h);
            if !arch.tie_word_embeddings {
                t.weight("cls.predictions.decoder.weight".to_string(), &[v, h]);
            }
            t.bias("cls.predictions.bias".to_string(), v);
        }
        Head::SequenceClassification { labels } => {
            t.linear("bert.pooler.dense", h, h);
            t.linear("classifier", labels, h);
        }
    }
    t.0
}

/// Number of parameters.
pub fn parameter_count(arch: &Architecture, head: Head) -> usize {
    parameters(arch, head)
        .iter()
        .map(|p| p.shape.iter().product::<usize>())
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{ModelConfig, MoeConfig};

    #[test]
    fn names_are_unique_and_a_mixture_multiplies_its_feed_forward_alone() {
        let vanilla = ModelConfig {
            num_hidden_layers: 2,
            ..ModelConfig::default()
        }
        .validate()
        .unwrap();
        let moe = ModelConfig {
            moe: Some(MoeConfig {
                num_experts: 3,
                ..MoeConfig::default()
            }),
            ..vanilla.clone().into_config()
        };
        let moe = moe.validate().unwrap();
        for arch in [&vanilla, &moe] {
            let table = parameters(arch, Head::MaskedLm);
            let names: BTreeSet<_> = table.iter().map(|p| &p.name).collect();
            assert_eq!(names.len(), table.len());
            for p in &table {
                assert_eq!(p.decay, p.init == Init::Normal, "{}", p.name);
            }
        }
        let (h, f) = (768, 3072);
        let more = 2 * (2 * (h * f + f + f * h + h) + 3 * h);
        assert_eq!(
            parameter_count(&moe, Head::MaskedLm),
            parameter_count(&vanilla, Head::MaskedLm) + more
        );
    }
}
