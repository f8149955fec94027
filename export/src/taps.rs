//! The hidden states worth looking at, with one name each: distillation, ONNX outputs and similarity measures use this table.
//!
//! Shapes: `B` rows, `S` positions, `H` hidden, `A` heads, `D` head size.

use std::fmt;
use std::str::FromStr;

/// A named hidden state. Layers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tap {
    /// The embedding output, `[B, S, H]`.
    Embedding,
    /// What leaves a layer, after its last layer norm, `[B, S, H]`.
    Trunk(usize),
    /// What the attention block adds to the residual stream, `[B, S, H]`.
    AttentionInner(usize),
    /// What the feed-forward or mixture-of-experts block adds to the residual stream, `[B, S, H]`.
    FeedForwardInner(usize),
    /// Query vectors, `[B, A, S, D]`.
    Query(usize),
    /// Key vectors, `[B, A, S, D]`.
    Key(usize),
    /// Value vectors, `[B, A, S, D]`.
    Value(usize),
}

/// A tap of a layer by its number, and what follows `layer.N.` in its name.
type OfLayer = (fn(usize) -> Tap, &'static str);
const OF_LAYER: [OfLayer; 6] = [
    (Tap::Query, "query"),
    (Tap::Key, "key"),
    (Tap::Value, "value"),
    (Tap::AttentionInner, "attention.inner"),
    (Tap::FeedForwardInner, "ffn.inner"),
    (Tap::Trunk, "trunk"),
];
const EMBEDDING: &str = "embedding";

impl Tap {
    /// Every tap of a model of so many layers, in the order of the forward pass.
    pub fn all(layers: usize) -> Vec<Tap> {
        let of_layers =
            (0..layers).flat_map(|layer| OF_LAYER.iter().map(move |row| (row.0)(layer)));
        std::iter::once(Tap::Embedding).chain(of_layers).collect()
    }

    /// The layer it belongs to; none for the embedding output.
    pub fn layer(self) -> Option<usize> {
        match self {
            Tap::Embedding => None,
            Tap::Trunk(layer)
            | Tap::AttentionInner(layer)
            | Tap::FeedForwardInner(layer)
            | Tap::Query(layer)
            | Tap::Key(layer)
            | Tap::Value(layer) => Some(layer),
        }
    }

    /// Whether it is `[B, A, S, D]`, a vector for each head; `[B, S, H]` if not.
    pub fn per_head(self) -> bool {
        matches!(self, Tap::Query(_) | Tap::Key(_) | Tap::Value(_))
    }

    /// The taps that a selection names, in the order of the forward pass: `all`, `trunk` (embedding output and every layer's
    /// output), a kind (`query`, `attention.inner`, ...) in every layer, `layer.N`, or a tap's full name.
    ///
    /// # Errors
    /// The first word that names none in a model of so many layers.
    pub fn select(words: &[String], layers: usize) -> Result<Vec<Tap>, UnknownTap> {
        let all = Tap::all(layers);
        let mut chosen = vec![false; all.len()];
        for word in words {
            let matches = |tap: &Tap| {
                let name = tap.to_string();
                let in_layer = format!("{word}.");
                word == "all"
                    || name == *word
                    || (word == "trunk" && *tap == Tap::Embedding)
                    || name.starts_with(&in_layer)
                    || name
                        .split_once('.')
                        .and_then(|rest| rest.1.split_once('.'))
                        .map(|rest| rest.1)
                        == Some(word.as_str())
            };
            let mut found = false;
            for (flag, tap) in chosen.iter_mut().zip(&all) {
                if matches(tap) {
                    *flag = true;
                    found = true;
                }
            }
            if !found {
                return Err(UnknownTap {
                    name: word.clone(),
                    layers,
                });
            }
        }
        Ok(all
            .into_iter()
            .zip(chosen)
            .filter(|row| row.1)
            .map(|row| row.0)
            .collect())
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(layer) = self.layer() else {
            return f.write_str(EMBEDDING);
        };
        let kind = OF_LAYER
            .iter()
            .find(|row| (row.0)(layer) == *self)
            .map_or("", |row| row.1);
        write!(f, "layer.{layer}.{kind}")
    }
}

/// A name that is no tap's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such tap in a model of {layers} layers: `{name}`; hint: `embedding`, `layer.0.trunk`, `layer.0.attention.inner`, \
     `layer.0.ffn.inner`, `layer.0.query`, `layer.0.key`, `layer.0.value`, a kind alone (`trunk`) or `all`"
)]
pub struct UnknownTap {
    /// The name.
    pub name: String,
    /// Layers of the model.
    pub layers: usize,
}

impl FromStr for Tap {
    type Err = UnknownTap;

    fn from_str(name: &str) -> Result<Self, UnknownTap> {
        let unknown = || UnknownTap {
            name: name.to_owned(),
            layers: 0,
        };
        if name == EMBEDDING {
            return Ok(Tap::Embedding);
        }
        let (layer, kind) = name
            .strip_prefix("layer.")
            .and_then(|rest| rest.split_once('.'))
            .ok_or_else(unknown)?;
        let layer = layer.parse().map_err(|_| unknown())?;
        OF_LAYER
            .iter()
            .find(|row| row.1 == kind)
            .map(|row| (row.0)(layer))
            .ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn select(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Tap::select(&words, 2)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn names_are_read_back() {
        let all = Tap::all(3);
        assert_eq!(all.len(), 1 + 3 * 6);
        for tap in all {
            assert_eq!(tap.to_string().parse::<Tap>().unwrap(), tap);
        }
        for name in ["", "layer", "layer.x.trunk", "layer.1.trunks", "trunk"] {
            assert!(name.parse::<Tap>().is_err(), "{name}");
        }
    }

    #[test]
    fn selections_name_one_a_kind_a_layer_or_all() {
        assert_eq!(
            select(&["trunk"]),
            ["embedding", "layer.0.trunk", "layer.1.trunk"]
        );
        assert_eq!(
            select(&["value", "layer.1.trunk"]),
            ["layer.0.value", "layer.1.value", "layer.1.trunk"]
        );
        assert_eq!(select(&["layer.1"]).len(), 6);
        assert_eq!(
            select(&["ffn.inner"]),
            ["layer.0.ffn.inner", "layer.1.ffn.inner"]
        );
        assert_eq!(select(&["all"]).len(), 13);
        for wrong in ["layer.2.trunk", "layer.2", "inner", "ffn", ""] {
            assert!(Tap::select(&[wrong.to_owned()], 2).is_err(), "{wrong}");
        }
    }
}
