//! The sizes that are measured, and what a token costs at each.
//!
//! Work per token of one training step (forward 2 operations a multiply-add, backward twice the forward, hence 6), for
//! L layers, hidden size H, feed-forward 4H, sequence S, vocabulary V, E experts of which one is active:
//!
//! ```text
//! 6 * L * (12 H^2 + E H)  matrix products with parameters: 4 H^2 attention, 8 H^2 feed-forward, E H router
//! + 12 * L * S * H        attention: scores and weighted values, 4 S H forward
//! + 6 * m * (H^2 + H V)   head, at the share m of masked positions only
//! ```
//!
//! Everything else (embeddings, norms, softmax, dropout, optimizer) counts as no work, so the share of the peak is a
//! lower bound of how busy the matrix units are. A peer whose head runs at every position is charged the same work: the
//! rest of its head is not needed.

use anyhow::{Result, bail};
use serde::Serialize;

/// Vocabulary of every measured model.
pub const VOCABULARY: f64 = 30522.0;
/// Share of positions that are masked.
pub const MASKED_SHARE: f64 = 0.15;

/// One measured model and batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Size {
    /// Name on the command line and in the tables.
    pub name: &'static str,
    /// L.
    pub layers: u32,
    /// H; heads are of width 64, the feed-forward of 4H.
    pub hidden: u32,
    /// E; 0 for the vanilla model.
    pub experts: u32,
    /// B.
    pub batch: u32,
    /// S.
    pub sequence: u32,
    /// Target of tokens/s against `run_mlm`, where there is one.
    pub run_mlm_target: Option<f64>,
}

const fn size(
    name: &'static str,
    layers: u32,
    hidden: u32,
    experts: u32,
    run_mlm_target: Option<f64>,
) -> Size {
    Size {
        name,
        layers,
        hidden,
        experts,
        batch: 32,
        sequence: 128,
        run_mlm_target,
    }
}

/// Every size, in the order of the report. An MoE size is compared with the vanilla one of equal L and H, which is
/// measured beside it.
pub const SIZES: [Size; 4] = [
    size("l2-h128", 2, 128, 0, Some(4.0)),
    size("l4-h256", 4, 256, 0, None),
    size("l12-h128", 12, 128, 0, Some(2.2)),
    size("l4-h128-e64", 4, 128, 64, None),
];

/// The sizes named, or all for no names.
pub fn select(names: &[String]) -> Result<Vec<Size>> {
    if let Some(unknown) = names
        .iter()
        .find(|n| !SIZES.iter().any(|s| s.name == n.as_str()))
    {
        let known: Vec<&str> = SIZES.iter().map(|s| s.name).collect();
        bail!(
            "unknown size: `{unknown}`\nhint: one of {}",
            known.join(", ")
        );
    }
    Ok(SIZES
        .into_iter()
        .filter(|s| names.is_empty() || names.iter().any(|n| n == s.name))
        .collect())
}

impl Size {
    /// T, the tokens of one step.
    pub fn tokens(&self) -> f64 {
        f64::from(self.batch) * f64::from(self.sequence)
    }

    /// The same without experts.
    pub fn vanilla(&self) -> Size {
        Size {
            experts: 0,
            ..*self
        }
    }

    /// Floating-point operations a token of one training step; the module header has the formula.
    pub fn flops_per_token(&self) -> f64 {
        let (layers, hidden) = (f64::from(self.layers), f64::from(self.hidden));
        let matrices = layers * (12.0 * hidden * hidden + f64::from(self.experts) * hidden);
        let attention = layers * f64::from(self.sequence) * hidden;
        let masked = (MASKED_SHARE * self.tokens()).round() / self.tokens();
        6.0 * matrices + 12.0 * attention + 6.0 * masked * hidden * (hidden + VOCABULARY)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Counts the multiply-adds of one forward pass product by product, from the shapes alone.
    fn forward_multiply_adds(size: &Size) -> u64 {
        let (t, s, h) = (
            u64::from(size.batch * size.sequence),
            u64::from(size.sequence),
            u64::from(size.hidden),
        );
        let product = |rows: u64, inner: u64, columns: u64| rows * inner * columns;
        let mut total = 0;
        for _ in 0..size.layers {
            for _ in 0..4 {
                total += product(t, h, h);
            }
            for _ in 0..u64::from(size.batch) * (h / 64) {
                total += product(s, 64, s) + product(s, s, 64);
            }
            total += product(t, h, 4 * h)
                + product(t, 4 * h, h)
                + product(t, h, u64::from(size.experts));
        }
        let masked = (0.15 * t as f64).round() as u64;
        total + product(masked, h, h) + product(masked, h, 30522)
    }

    #[test]
    fn the_formula_equals_counting_every_product() {
        for size in SIZES {
            let counted = 6.0 * forward_multiply_adds(&size) as f64 / size.tokens();
            let formula = size.flops_per_token();
            assert!(
                (formula / counted - 1.0).abs() < 1e-12,
                "{}: {formula} against {counted}",
                size.name
            );
        }
    }

    #[test]
    fn sizes_are_selected_by_name_in_report_order() {
        let names = ["l12-h128".to_owned(), "l2-h128".to_owned()];
        let chosen: Vec<&str> = select(&names).unwrap().iter().map(|s| s.name).collect();
        assert_eq!(chosen, ["l2-h128", "l12-h128"]);
        assert_eq!(select(&[]).unwrap().len(), SIZES.len());
        let message = select(&["l3-h1".to_owned()]).unwrap_err().to_string();
        assert!(
            message.contains("`l3-h1`") && message.contains("l4-h128-e64"),
            "{message}"
        );
    }

    #[test]
    fn names_are_unique_and_say_their_size() {
        for (index, size) in SIZES.iter().enumerate() {
            let experts = if size.experts > 0 {
                format!("-e{}", size.experts)
            } else {
                String::new()
            };
            assert_eq!(
                size.name,
                format!("l{}-h{}{experts}", size.layers, size.hidden)
            );
            assert!(
                SIZES[index + 1..]
                    .iter()
                    .all(|other| other.name != size.name)
            );
        }
    }
}
