//! The one table of parameter names and shapes, which training, checkpoints, model directories and ONNX files share.
//!
//! Names are those of Hugging Face's `BertForMaskedLM` and `BertForSequenceClassification`; the Switch layer's are this
//! project's. A linear map's weight has the shape [outputs, inputs]. The order is that of the forward pass.
//!
//! | part | names |
//! | --- | --- |
//! | embeddings | `bert.embeddings.{word,position,token_type}_embeddings.weight`, `bert.embeddings.LayerNorm.{weight,bias}` |
//! | attention of layer `i` | `bert.encoder.layer.i.attention.self.{query,key,value}`, `.attention.output.{dense,LayerNorm}` |
//! | feed-forward of layer `i` | `bert.encoder.layer.i.{intermediate,output}.dense` |
//! | experts instead | `bert.encoder.layer.i.moe.router.weight` [E, H], `.moe.experts.e.{intermediate,output}.dense` |
//! | last norm of layer `i` | `bert.encoder.layer.i.output.LayerNorm` |
//! | masked-LM head | `cls.predictions.transform.{dense,LayerNorm}`, `cls.predictions.bias`, untied `cls.predictions.decoder.weight` |
//! | classification head | `bert.pooler.dense`, `classifier` |

use crate::config::Architecture;

/// `bert.embeddings.word_embeddings.weight` [V, H], which the tied decoder shares.
pub const WORD_EMBEDDINGS: &str = "bert.embeddings.word_embeddings.weight";
/// Weight `[V, H]` of an untied masked-LM decoder.
pub const DECODER_WEIGHT: &str = "cls.predictions.decoder.weight";
/// Bias `[V]` of the masked-LM decoder, tied or not.
pub const DECODER_BIAS: &str = "cls.predictions.bias";

/// What stands on the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Nothing: the encoder alone, without pooler.
    None,
    /// Masked language modelling.
    MaskedLm,
    /// Pooler and a linear classifier (one label: regression).
    SequenceClassification {
        /// Number of classes, `C`.
        labels: usize,
    },
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Normal, mean 0, standard deviation `initializer_range`.
    Normal,
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Full name, as in `model.safetensors`.
    pub name: String,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies: not on biases and layer norms.
    pub decay: bool,
}

impl Parameter {
    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes as f32.
    pub fn bytes(&self) -> usize {
        self.count() * size_of::<f32>()
    }
}

/// Every parameter of an architecture with a head, in the order of the forward pass.
///
/// # Shapes
/// `V` vocabulary, `H` hidden, `F` feed-forward, `E` experts, `C` classes; a weight is [outputs, inputs].
pub fn parameters(architecture: &Architecture, head: Head) -> Vec<Parameter> {
    let (v, h, f) = (
        architecture.vocab_size,
        architecture.hidden_size,
        architecture.intermediate_size,
    );
    let mut table = Table(Vec::new());
    table.weight("bert.embeddings.word_embeddings", &[v, h]);
    table.weight(
        "bert.embeddings.position_embeddings",
        &[architecture.max_position_embeddings, h],
    );
    table.weight(
        "bert.embeddings.token_type_embeddings",
        &[architecture.type_vocab_size, h],
    );
    table.norm("bert.embeddings.LayerNorm", h);
    for layer in 0..architecture.num_hidden_layers {
        let layer = format!("bert.encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            table.linear(&format!("{layer}.attention.self.{part}"), h, h);
        }
        table.linear(&format!("{layer}.attention.output.dense"), h, h);
        table.norm(&format!("{layer}.attention.output.LayerNorm"), h);
        match architecture.experts() {
            None => table.feed_forward(&layer, h, f),
            Some(experts) => {
                table.weight(&format!("{layer}.moe.router"), &[experts, h]);
                for expert in 0..experts {
                    table.feed_forward(&format!("{layer}.moe.experts.{expert}"), h, f);
                }
            }
        }
        table.norm(&format!("{layer}.output.LayerNorm"), h);
    }
    match head {
        Head::None => {}
        Head::MaskedLm => {
            table.linear("cls.predictions.transform.dense", h, h);
            table.norm("cls.predictions.transform.LayerNorm", h);
            if !architecture.tie_word_embeddings {
                table.push(DECODER_WEIGHT.to_owned(), vec![v, h], Init::Normal, true);
            }
            table.push(DECODER_BIAS.to_owned(), vec![v], Init::Zeros, false);
        }
        Head::SequenceClassification { labels } => {
            table.linear("bert.pooler.dense", h, h);
            table.linear("classifier", labels, h);
        }
    }
    table.0
}

/// Number of values in all parameters.
pub fn parameter_count(architecture: &Architecture, head: Head) -> usize {
    parameters(architecture, head)
        .iter()
        .map(Parameter::count)
        .sum()
}

/// Number of values that one token passes through: of the experts, one a layer.
pub fn active_parameter_count(architecture: &Architecture, head: Head) -> usize {
    let expert = |name: &str| name.contains(".moe.experts.") && !name.contains(".moe.experts.0.");
    parameters(architecture, head)
        .iter()
        .filter(|parameter| !expert(&parameter.name))
        .map(Parameter::count)
        .sum()
}

struct Table(Vec<Parameter>);

impl Table {
    fn push(&mut self, name: String, shape: Vec<usize>, init: Init, decay: bool) {
        self.0.push(Parameter {
            name,
            shape,
            init,
            decay,
        });
    }

    fn weight(&mut self, path: &str, shape: &[usize]) {
        self.push(format!("{path}.weight"), shape.to_vec(), Init::Normal, true);
    }

    fn linear(&mut self, path: &str, outputs: usize, inputs: usize) {
        self.weight(path, &[outputs, inputs]);
        self.push(format!("{path}.bias"), vec![outputs], Init::Zeros, false);
    }

    fn norm(&mut self, path: &str, size: usize) {
        self.push(format!("{path}.weight"), vec![size], Init::Ones, false);
        self.push(format!("{path}.bias"), vec![size], Init::Zeros, false);
    }

    fn feed_forward(&mut self, path: &str, h: usize, f: usize) {
        self.linear(&format!("{path}.intermediate.dense"), f, h);
        self.linear(&format!("{path}.output.dense"), h, f);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{ModelConfig, MoeConfig};

    fn table(experts: Option<usize>, head: Head) -> Vec<Parameter> {
        let config = ModelConfig {
            moe: experts.map(MoeConfig::new),
            ..ModelConfig::new(20, 2, 8, 2, 12)
        };
        parameters(&config.validate().unwrap(), head)
    }

    #[test]
    fn names_are_unique_and_decay_leaves_out_biases_and_norms() {
        for head in [
            Head::None,
            Head::MaskedLm,
            Head::SequenceClassification { labels: 3 },
        ] {
            for experts in [None, Some(3)] {
                let table = table(experts, head);
                let names: BTreeSet<_> = table.iter().map(|row| &row.name).collect();
                assert_eq!(names.len(), table.len());
                for row in &table {
                    let plain = row.name.ends_with("bias") || row.name.contains("LayerNorm");
                    assert_eq!(row.decay, !plain, "{}", row.name);
                    assert_eq!(row.shape.len(), if plain { 1 } else { 2 }, "{}", row.name);
                    let expected = match (row.name.ends_with("bias"), plain) {
                        (true, _) => Init::Zeros,
                        (false, true) => Init::Ones,
                        (false, false) => Init::Normal,
                    };
                    assert_eq!(row.init, expected, "{}", row.name);
                }
            }
        }
    }

    #[test]
    fn experts_replace_the_two_dense_maps_and_nothing_else() {
        let names = |experts| -> BTreeSet<_> {
            table(experts, Head::MaskedLm)
                .into_iter()
                .map(|row| (row.name, row.shape))
                .collect()
        };
        let (vanilla, mixture) = (names(None), names(Some(3)));
        let gone: Vec<_> = vanilla
            .difference(&mixture)
            .map(|row| row.0.as_str())
            .collect();
        let expected: Vec<_> = (0..2)
            .flat_map(|layer| {
                [
                    "intermediate.dense.bias",
                    "intermediate.dense.weight",
                    "output.dense.bias",
                    "output.dense.weight",
                ]
                .map(|part| format!("bert.encoder.layer.{layer}.{part}"))
            })
            .collect();
        assert_eq!(gone, expected);
        let added: Vec<_> = mixture
            .difference(&vanilla)
            .filter(|row| row.0.contains("layer.1."))
            .cloned()
            .collect();
        assert_eq!(added.len(), 1 + 3 * 4);
        assert!(added.contains(&(
            "bert.encoder.layer.1.moe.router.weight".to_owned(),
            vec![3, 8]
        )));
        assert!(added.contains(&(
            "bert.encoder.layer.1.moe.experts.2.intermediate.dense.weight".to_owned(),
            vec![12, 8]
        )));
        assert!(added.contains(&(
            "bert.encoder.layer.1.moe.experts.2.output.dense.weight".to_owned(),
            vec![8, 12]
        )));
    }
}
