//! Routing of single rows, token by token: which expert each layer sends each token to, and how surely.
//!
//! # Schema `trace 1`
//! JSON: [`TraceResult`]. CSV: `model,row,position,token,layer,expert,gate`. Of several experts a token the first choice is kept; `gate` is the
//! router's probability of that expert, absent where the features file holds none.

use serde::{Deserialize, Serialize};

use crate::provenance::{Provenance, csv, optional};

/// One layer's choices for the tokens of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerTrace {
    /// The layer, from 0.
    pub layer: usize,
    /// Expert of each token, `[tokens]`.
    pub experts: Vec<u32>,
    /// Router probability of that expert, `[tokens]`; empty where it is not known.
    pub gates: Vec<f64>,
}

/// One row of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowTrace {
    /// The model's name.
    pub model: String,
    /// Experts of each layer.
    pub num_experts: usize,
    /// The row's number in the data.
    pub row: u32,
    /// Its tokens, as the vocabulary writes them.
    pub tokens: Vec<String>,
    /// Its layers that route, from the first.
    pub layers: Vec<LayerTrace>,
}

impl RowTrace {
    /// Share of neighbouring tokens that one expert takes, mean over layers; none for a row of one token or without layers.
    pub fn run_share(&self) -> Option<f64> {
        let pairs = self.tokens.len().checked_sub(1).filter(|n| *n > 0)?;
        let equal = |l: &LayerTrace| l.experts.windows(2).filter(|w| w[0] == w[1]).count();
        let sum: usize = self.layers.iter().map(equal).sum();
        (!self.layers.is_empty()).then(|| sum as f64 / (pairs * self.layers.len()) as f64)
    }
}

/// Result of `tcd analyze trace`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceResult {
    /// What made it.
    pub provenance: Provenance,
    /// The rows, model by model.
    pub rows: Vec<RowTrace>,
}

impl TraceResult {
    /// The result as CSV; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let lines = self.rows.iter().flat_map(|row| {
            row.layers.iter().flat_map(move |layer| {
                layer.experts.iter().enumerate().map(move |(at, expert)| {
                    vec![
                        row.model.clone(),
                        row.row.to_string(),
                        at.to_string(),
                        row.tokens.get(at).cloned().unwrap_or_default(),
                        layer.layer.to_string(),
                        expert.to_string(),
                        optional(layer.gates.get(at).copied()),
                    ]
                })
            })
        });
        csv("model,row,position,token,layer,expert,gate", lines)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_become_lines_and_runs_are_counted() {
        let layer = |layer, experts: [u32; 3]| LayerTrace {
            layer,
            experts: experts.to_vec(),
            gates: vec![0.5, 0.25, 1.0],
        };
        let row = RowTrace {
            model: "moe".to_owned(),
            num_experts: 4,
            row: 7,
            tokens: ["[CLS]", "a,b", "[SEP]"].map(str::to_owned).to_vec(),
            layers: vec![layer(0, [1, 1, 2]), layer(1, [3, 3, 3])],
        };
        assert_eq!(row.run_share(), Some(0.75));
        let one = RowTrace {
            tokens: vec!["x".to_owned()],
            ..row.clone()
        };
        assert_eq!(one.run_share(), None);
        let result = TraceResult {
            provenance: Provenance::new("trace 1", "tcd", Vec::new(), None),
            rows: vec![row],
        };
        let text = result.to_csv();
        assert_eq!(text.lines().count(), 7);
        assert_eq!(text.lines().nth(2).unwrap(), "moe,7,1,\"a,b\",0,1,0.25");
    }
}
