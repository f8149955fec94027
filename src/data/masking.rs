//! Masked-LM masking (Devlin et al. 2019, section 3.1): 15 % of the tokens are predicted; of these 80 % become `[MASK]`, 10 %
//! another token, 10 % stay.
//!
//! The number of predictions of a row is `max(1, round(p n))` for `n` tokens that may be masked, as in the original BERT code,
//! not a coin toss for each token: every batch predicts the same share. Special tokens, padding and `[UNK]` (nothing can be
//! learned from predicting it) are never chosen and never put in.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::tokenizer::{SpecialTokens, Tokenizer};

/// How rows are masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskingConfig {
    /// Share of tokens to predict, in (0, 1). Default 0.15.
    pub probability: f64,
    /// Share of these replaced by `[MASK]`. Default 0.8.
    pub mask_share: f64,
    /// Share of these replaced by a random token; the rest stay. Default 0.1.
    pub random_share: f64,
    /// Mask all pieces of a word together. Default false.
    pub whole_word: bool,
}

impl Default for MaskingConfig {
    fn default() -> Self {
        MaskingConfig {
            probability: 0.15,
            mask_share: 0.8,
            random_share: 0.1,
            whole_word: false,
        }
    }
}

impl MaskingConfig {
    /// What does not hold, one line each.
    pub fn violations(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !(self.probability > 0.0 && self.probability < 1.0) {
            lines.push(format!(
                "`masking.probability` must lie in (0, 1): {}",
                self.probability
            ));
        }
        let shares = self.mask_share + self.random_share;
        if !(self.mask_share >= 0.0 && self.random_share >= 0.0 && shares <= 1.0) {
            lines.push(format!(
                "`masking.mask_share` and `masking.random_share` must be at least 0 and at most 1 together: {} and {}",
                self.mask_share, self.random_share
            ));
        }
        lines
    }
}

/// A masked row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedRow {
    /// What the model reads.
    pub input: Vec<u32>,
    /// Positions to predict, ascending.
    pub positions: Vec<u32>,
    /// The true token at each.
    pub labels: Vec<u32>,
}

/// Masks rows.
#[derive(Clone, Debug)]
pub struct Masker {
    config: MaskingConfig,
    special: SpecialTokens,
    /// Ids a random replacement is drawn from.
    ordinary: Vec<u32>,
    continuation: Vec<bool>,
}

impl Masker {
    /// A masker for the vocabulary of `tokenizer`.
    pub fn new(config: &MaskingConfig, tokenizer: &Tokenizer) -> Self {
        let special = tokenizer.special();
        let size = tokenizer.vocab_size() as u32;
        Masker {
            config: config.clone(),
            special,
            ordinary: (0..size).filter(|id| !special.contains(*id)).collect(),
            continuation: (0..size).map(|id| tokenizer.continues(id)).collect(),
        }
    }

    /// Masks one row. A row without any token that may be masked has no positions.
    pub fn mask(&self, row: &[u32], rng: &mut impl Rng) -> MaskedRow {
        // Units that are masked together: a token, or a word.
        let mut units: Vec<(u32, u32)> = Vec::with_capacity(row.len());
        let mut eligible = 0usize;
        for (i, id) in row.iter().enumerate() {
            if self.special.contains(*id) {
                continue;
            }
            eligible += 1;
            let i = i as u32;
            let continues = self.config.whole_word
                && self
                    .continuation
                    .get(*id as usize)
                    .copied()
                    .unwrap_or(false);
            match units.last_mut() {
                Some((_, end)) if continues && *end == i => *end = i + 1,
                _ => units.push((i, i + 1)),
            }
        }
        let mut masked = MaskedRow {
            input: row.to_vec(),
            ..MaskedRow::default()
        };
        if eligible == 0 {
            return masked;
        }
        let wanted = ((self.config.probability * eligible as f64).round() as usize).max(1);
        // Units in random order until there are enough tokens; a word that would go beyond is passed over, the first is not.
        for k in 0..units.len() {
            let j = rng.random_range(k..units.len());
            units.swap(k, j);
            let (start, end) = units[k];
            let count = masked.positions.len();
            if count + (end - start) as usize > wanted && count > 0 {
                continue;
            }
            masked.positions.extend(start..end);
            if masked.positions.len() >= wanted {
                break;
            }
        }
        masked.positions.sort_unstable();
        for position in &masked.positions {
            let token = &mut masked.input[*position as usize];
            masked.labels.push(*token);
            let draw: f64 = rng.random();
            if draw < self.config.mask_share {
                *token = self.special.mask;
            } else if draw < self.config.mask_share + self.config.random_share {
                *token = self.ordinary[rng.random_range(0..self.ordinary.len())];
            }
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::seed::{Stream, rng};

    fn tokenizer() -> Tokenizer {
        let text = "walking talking walked talked walker talker walks talks";
        Tokenizer::train(|| (0..20).map(|_| text.to_string()), 48, 1, true).unwrap()
    }

    fn row(t: &Tokenizer, n: u32) -> Vec<u32> {
        let s = t.special();
        let mut row = vec![s.cls];
        row.extend((0..n).map(|i| 5 + i * 7 % (t.vocab_size() as u32 - 5)));
        row.extend([s.unk, s.sep, s.pad, s.pad]);
        row
    }

    #[test]
    fn rates_are_the_stated_ones_and_specials_stay() {
        let t = tokenizer();
        let masker = Masker::new(&MaskingConfig::default(), &t);
        let row = row(&t, 100);
        let (mut masks, mut same, mut total) = (0f64, 0f64, 0f64);
        for i in 0..4000 {
            let m = masker.mask(&row, &mut rng(1, Stream::Mask, &[i]));
            assert_eq!(m.positions.len(), 15);
            for (p, label) in m.positions.iter().zip(&m.labels) {
                let (old, new) = (row[*p as usize], m.input[*p as usize]);
                assert_eq!(old, *label);
                assert!(!t.special().contains(old));
                assert!(new == t.special().mask || !t.special().contains(new));
                masks += f64::from(new == t.special().mask);
                same += f64::from(new == old);
                total += 1.0;
            }
            let changed = row
                .iter()
                .zip(&m.input)
                .enumerate()
                .filter(|(_, (a, b))| a != b);
            for (i, _) in changed {
                assert!(m.positions.contains(&(i as u32)));
            }
        }
        let near =
            |count: f64, p: f64| (count - total * p).abs() < 5.0 * (total * p * (1.0 - p)).sqrt();
        assert!(near(masks, 0.8), "{}", masks / total);
        // A random token is the old one once in a vocabulary of ordinary tokens.
        assert!(
            near(same, 0.1 + 0.1 / (t.vocab_size() - 5) as f64),
            "{}",
            same / total
        );
    }

    #[test]
    fn whole_words_are_masked_together() {
        let t = tokenizer();
        let masker = Masker::new(
            &MaskingConfig {
                whole_word: true,
                probability: 0.3,
                ..MaskingConfig::default()
            },
            &t,
        );
        let row = row(&t, 60);
        assert!(row.iter().any(|id| t.continues(*id)));
        for i in 0..500 {
            let m = masker.mask(&row, &mut rng(1, Stream::Mask, &[i]));
            for (k, id) in row.iter().enumerate().skip(2) {
                if t.continues(*id) && !t.special().contains(row[k - 1]) {
                    assert_eq!(
                        m.positions.contains(&(k as u32)),
                        m.positions.contains(&(k as u32 - 1)),
                        "row {i}, token {k}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_of_specials_has_nothing_to_predict() {
        let t = tokenizer();
        let s = t.special();
        let m = Masker::new(&MaskingConfig::default(), &t)
            .mask(&[s.cls, s.sep, s.pad], &mut rng(1, Stream::Mask, &[]));
        assert!(m.positions.is_empty());
        assert_eq!(m.input, [s.cls, s.sep, s.pad]);
    }
}
