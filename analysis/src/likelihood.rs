//! Masked-LM log-likelihood by corpus and token class, from the values of single masked tokens.
//!
//! Intervals are the bootstrap over rows: tokens of one row are not independent. Differences between two models are paired: both
//! predicted the same masked tokens.
//!
//! # Schema `likelihood 1`
//! JSON: [`LikelihoodResult`]. CSV: `model,corpus,class,tokens,rows,log_likelihood,interval_low,interval_high,difference,difference_low,difference_high`;
//! class `all` is every masked token, a difference is to the first model.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::cka::resample::quantile;
use crate::provenance::{Provenance, csv, optional};
use crate::tokens::TokenClass;
use crate::transfer::Bootstrap;

/// One masked token that a model predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskedToken {
    /// The row it is of.
    pub row: u32,
    /// The class of the original token.
    pub class: TokenClass,
    /// log p(original), nats.
    pub log_likelihood: f64,
}

/// Mean log-likelihood of one model, corpus and class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LikelihoodCell {
    /// The model's name.
    pub model: String,
    /// The corpus.
    pub corpus: String,
    /// Token class, or `all`.
    pub class: String,
    /// Masked tokens.
    pub tokens: usize,
    /// Rows that have any.
    pub rows: usize,
    /// Mean, nats a masked token; absent where there is none.
    pub log_likelihood: Option<f64>,
    /// Bootstrap interval over rows; absent under two rows.
    pub interval: Option<[f64; 2]>,
    /// Mean difference to the first model on the same tokens.
    pub difference: Option<f64>,
    /// Its bootstrap interval over rows.
    pub difference_interval: Option<[f64; 2]>,
}

/// Log-likelihoods of some models on some corpora.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LikelihoodResult {
    /// What made it.
    pub provenance: Provenance,
    /// How the intervals were made.
    pub bootstrap: Bootstrap,
    /// The cells, by corpus, model and class.
    pub cells: Vec<LikelihoodCell>,
}

/// Two models' tokens of a corpus are not the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("models `{a}` and `{b}` did not predict the same masked tokens of `{corpus}`: {problem}")]
pub struct UnpairedTokens {
    /// One model.
    pub a: String,
    /// The other.
    pub b: String,
    /// The corpus.
    pub corpus: String,
    /// How they differ.
    pub problem: String,
}

/// Sums of one row: of values and of tokens.
type RowSums = BTreeMap<u32, (f64, usize)>;

fn row_sums(tokens: impl Iterator<Item = (u32, f64)>) -> RowSums {
    let mut sums = RowSums::new();
    for (row, value) in tokens {
        let entry = sums.entry(row).or_default();
        entry.0 += value;
        entry.1 += 1;
    }
    sums
}

/// Mean over tokens and its bootstrap interval over rows.
fn mean_and_interval(sums: &RowSums, bootstrap: &Bootstrap) -> (Option<f64>, Option<[f64; 2]>) {
    let rows: Vec<(f64, usize)> = sums.values().copied().collect();
    let ratio = |picked: &mut dyn Iterator<Item = (f64, usize)>| {
        let (sum, count) = picked.fold((0.0, 0), |(s, c), (v, n)| (s + v, c + n));
        sum / count as f64
    };
    if rows.is_empty() {
        return (None, None);
    }
    let mean = ratio(&mut rows.iter().copied());
    if rows.len() < 2 || bootstrap.draws == 0 {
        return (Some(mean), None);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
    let mut means: Vec<f64> = (0..bootstrap.draws)
        .map(|_| ratio(&mut (0..rows.len()).map(|_| rows[rng.random_range(0..rows.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - bootstrap.confidence) / 2.0;
    (
        Some(mean),
        Some([quantile(&means, tail), quantile(&means, 1.0 - tail)]),
    )
}

/// Cells of one corpus: every model, every class. `models` are names with their tokens; all on the same masked tokens.
pub fn likelihood(
    corpus: &str,
    models: &[(String, Vec<MaskedToken>)],
    bootstrap: &Bootstrap,
) -> Result<Vec<LikelihoodCell>, UnpairedTokens> {
    let mut cells = Vec::new();
    let Some((first_name, first)) = models.first() else {
        return Ok(cells);
    };
    for (index, (model, tokens)) in models.iter().enumerate() {
        let unpaired = |problem: String| UnpairedTokens {
            a: first_name.clone(),
            b: model.clone(),
            corpus: corpus.to_owned(),
            problem,
        };
        if tokens.len() != first.len() {
            return Err(unpaired(format!(
                "{} and {} tokens",
                first.len(),
                tokens.len()
            )));
        }
        if let Some(i) = (0..tokens.len())
            .find(|&i| (tokens[i].row, tokens[i].class) != (first[i].row, first[i].class))
        {
            return Err(unpaired(format!(
                "masked token {i} is of row {} and {}",
                first[i].row, tokens[i].row
            )));
        }
        for class in std::iter::once(None).chain(TokenClass::ALL.into_iter().map(Some)) {
            let picked = || {
                tokens
                    .iter()
                    .zip(first)
                    .filter(|(t, _)| class.is_none_or(|c| c == t.class))
            };
            let sums = row_sums(picked().map(|(t, _)| (t.row, t.log_likelihood)));
            let (mean, interval) = mean_and_interval(&sums, bootstrap);
            let (difference, difference_interval) = if index == 0 {
                (None, None)
            } else {
                let apart =
                    row_sums(picked().map(|(t, f)| (t.row, t.log_likelihood - f.log_likelihood)));
                mean_and_interval(&apart, bootstrap)
            };
            cells.push(LikelihoodCell {
                model: model.clone(),
                corpus: corpus.to_owned(),
                class: class.map_or("all", TokenClass::name).to_owned(),
                tokens: sums.values().map(|(_, n)| n).sum(),
                rows: sums.len(),
                log_likelihood: mean,
                interval,
                difference,
                difference_interval,
            });
        }
    }
    Ok(cells)
}

impl LikelihoodResult {
    /// One line a cell; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        let row = |c: &LikelihoodCell| {
            let end = |ends: Option<[f64; 2]>, i: usize| optional(ends.map(|e| e[i]));
            vec![
                c.model.clone(),
                c.corpus.clone(),
                c.class.clone(),
                c.tokens.to_string(),
                c.rows.to_string(),
                optional(c.log_likelihood),
                end(c.interval, 0),
                end(c.interval, 1),
                optional(c.difference),
                end(c.difference_interval, 0),
                end(c.difference_interval, 1),
            ]
        };
        let header = "model,corpus,class,tokens,rows,log_likelihood,interval_low,interval_high,difference,difference_low,difference_high";
        csv(header, self.cells.iter().map(row))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::normal;

    fn tokens(shift: f64) -> Vec<MaskedToken> {
        let noise = normal(1, 300);
        let class = |i: usize| {
            if i.is_multiple_of(3) {
                TokenClass::Function
            } else {
                TokenClass::Content
            }
        };
        let value =
            |i: usize| -3.0 + noise[i] - if i.is_multiple_of(3) { 0.0 } else { 2.0 } + shift;
        (0..300)
            .map(|i| MaskedToken {
                row: (i / 6) as u32,
                class: class(i),
                log_likelihood: value(i),
            })
            .collect()
    }

    #[test]
    fn means_are_by_token_and_intervals_hold_them() {
        let models = [("a".to_owned(), tokens(0.0)), ("b".to_owned(), tokens(0.5))];
        let cells = likelihood("news", &models, &Bootstrap::default()).unwrap();
        let find = |model: &str, class: &str| {
            cells
                .iter()
                .find(|c| c.model == model && c.class == class)
                .unwrap()
        };
        let all = find("a", "all");
        let expected = models[0].1.iter().map(|t| t.log_likelihood).sum::<f64>() / 300.0;
        assert!((all.log_likelihood.unwrap() - expected).abs() < 1e-12);
        assert_eq!((all.tokens, all.rows), (300, 50));
        let [low, high] = all.interval.unwrap();
        assert!(low < expected && expected < high && high - low < 0.6);
        assert!(find("a", "function").log_likelihood > find("a", "content").log_likelihood);
        assert_eq!(find("a", "number").log_likelihood, None);
        // Paired: the shift is exact, token by token.
        let difference = find("b", "content");
        assert!((difference.difference.unwrap() - 0.5).abs() < 1e-12);
        let [low, high] = difference.difference_interval.unwrap();
        assert!((low - 0.5).abs() < 1e-9 && (high - 0.5).abs() < 1e-9);
        assert!(find("a", "all").difference.is_none());
    }

    #[test]
    fn other_tokens_are_refused() {
        let mut other = tokens(0.0);
        other[7].row = 40;
        let models = [("a".to_owned(), tokens(0.0)), ("b".to_owned(), other)];
        let text = likelihood("news", &models, &Bootstrap::default())
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("masked token 7") && text.contains("news"),
            "{text}"
        );
        let short = [
            ("a".to_owned(), tokens(0.0)),
            ("b".to_owned(), tokens(0.0)[..9].to_vec()),
        ];
        assert!(likelihood("news", &short, &Bootstrap::default()).is_err());
        assert!(
            likelihood("news", &[], &Bootstrap::default())
                .unwrap()
                .is_empty()
        );
    }
}
