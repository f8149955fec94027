//! Masking for masked language modelling (Devlin et al. 2019, section 3.1 and appendix A.1).
//!
//! Of a row's eligible tokens (all but `[CLS]`, `[SEP]`, `[PAD]` and `[MASK]`; `[UNK]` is eligible, as in BERT) the share
//! `probability` is selected: exactly `max(1, round(p n))` of `n`, as BERT's own data code counts, which varies less than a
//! coin per token. A selected token becomes `[MASK]` with `mask_share`, a random ordinary token with `random_share`, and
//! stays as it is otherwise. With `whole_word`, words are selected instead (a token and the `##` pieces after it) as long as
//! they fit into that count, so a few tokens fewer may be selected; a row where no word fits gets its shortest one.
//!
//! Nothing is stored: the caller gives a generator made of (seed, epoch, row).

use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;

/// How tokens are masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskingConfig {
    /// Share of the eligible tokens that are predicted, in (0, 1]. Default 0.15.
    pub probability: f64,
    /// Share of the predicted tokens shown as `[MASK]`, in [0, 1]. Default 0.8.
    pub mask_share: f64,
    /// Share of the predicted tokens shown as a random token, in [0, 1 - mask_share]. Default 0.1.
    pub random_share: f64,
    /// Whether whole words are selected rather than word pieces. Default false.
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
    /// All that is wrong with the values; empty when they can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let mut must = |holds: bool, what: &str, got: f64| {
            if !holds {
                violations.push(format!("{what}: {got}"));
            }
        };
        let p = self.probability;
        must(p > 0.0 && p <= 1.0, "`probability` must be in (0, 1]", p);
        must(
            (0.0..=1.0).contains(&self.mask_share),
            "`mask_share` must be in [0, 1]",
            self.mask_share,
        );
        must(
            (0.0..=1.0).contains(&self.random_share),
            "`random_share` must be in [0, 1]",
            self.random_share,
        );
        // 0.9 + 0.1 is a little more than 1 in some orders of addition.
        let sum = self.mask_share + self.random_share;
        must(
            sum <= 1.0 + 1e-9,
            "`mask_share` and `random_share` must sum to at most 1",
            sum,
        );
        violations
    }
}

/// A masked row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedRow {
    /// The row as the model sees it.
    pub input: Vec<u32>,
    /// The selected positions, ascending.
    pub positions: Vec<u32>,
    /// The true tokens at those positions.
    pub labels: Vec<u32>,
}

/// Masks rows of one vocabulary.
#[derive(Clone, Debug)]
pub struct Masker {
    config: MaskingConfig,
    mask: u32,
    pad: u32,
    /// By id: never selected.
    fixed: Vec<bool>,
    /// By id: goes on with a word.
    continuation: Vec<bool>,
    /// The ids a random replacement is drawn from: all but the special tokens.
    ordinary: Vec<u32>,
}

impl Masker {
    /// A masker for the tokenizer's vocabulary. `config` must have passed [`MaskingConfig::validate`].
    pub fn new(config: &MaskingConfig, tokenizer: &Tokenizer) -> Masker {
        let special = tokenizer.special();
        let ids = 0..tokenizer.vocab_size() as u32;
        let fixed = |id: &u32| [special.pad, special.cls, special.sep, special.mask].contains(id);
        Masker {
            config: config.clone(),
            mask: special.mask,
            pad: special.pad,
            fixed: ids.clone().map(|id| fixed(&id)).collect(),
            continuation: ids.clone().map(|id| tokenizer.continuation(id)).collect(),
            ordinary: ids.filter(|id| !special.ids().contains(id)).collect(),
        }
    }

    /// The id that fills rows.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Masks one row. A row without eligible tokens comes back as it is.
    pub fn mask(&self, row: &[u32], rng: &mut impl Rng) -> MaskedRow {
        let eligible = |&i: &u32| {
            !self
                .fixed
                .get(row[i as usize] as usize)
                .copied()
                .unwrap_or(true)
        };
        let mut candidates: Vec<u32> = (0..row.len() as u32).filter(eligible).collect();
        let mut masked = MaskedRow {
            input: row.to_vec(),
            ..MaskedRow::default()
        };
        if candidates.is_empty() {
            return masked;
        }
        let wanted = (self.config.probability * candidates.len() as f64).round() as usize;
        let wanted = wanted.clamp(1, candidates.len());
        if self.config.whole_word {
            masked.positions = self.select_words(row, &candidates, wanted, rng);
        } else {
            shuffle_front(&mut candidates, wanted, rng);
            candidates.truncate(wanted);
            masked.positions = candidates;
        }
        masked.positions.sort_unstable();
        for &position in &masked.positions {
            let token = &mut masked.input[position as usize];
            masked.labels.push(*token);
            let u: f64 = rng.random();
            if u < self.config.mask_share {
                *token = self.mask;
            } else if u < self.config.mask_share + self.config.random_share
                && !self.ordinary.is_empty()
            {
                *token = self.ordinary[rng.random_range(0..self.ordinary.len())];
            }
        }
        masked
    }

    /// Positions of whole words, at most `wanted` where any word is that short.
    fn select_words(
        &self,
        row: &[u32],
        candidates: &[u32],
        wanted: usize,
        rng: &mut impl Rng,
    ) -> Vec<u32> {
        let mut words: Vec<(u32, u32)> = Vec::new();
        for &i in candidates {
            let goes_on = self
                .continuation
                .get(row[i as usize] as usize)
                .copied()
                .unwrap_or(false);
            match words.last_mut() {
                Some((_, end)) if *end == i && goes_on => *end += 1,
                _ => words.push((i, i + 1)),
            }
        }
        let n = words.len();
        shuffle_front(&mut words, n, rng);
        let mut positions = Vec::with_capacity(wanted);
        for &(start, end) in &words {
            if positions.len() == wanted {
                break;
            }
            if positions.len() + (end - start) as usize <= wanted {
                positions.extend(start..end);
            }
        }
        if positions.is_empty()
            && let Some(&(start, end)) = words.iter().min_by_key(|(start, end)| end - start)
        {
            positions.extend(start..end);
        }
        positions
    }
}

/// Fisher-Yates on the first `n` places: they become a uniform draw without replacement.
pub(super) fn shuffle_front<T>(items: &mut [T], n: usize, rng: &mut impl Rng) {
    let len = items.len();
    for i in 0..n.min(len.saturating_sub(1)) {
        items.swap(i, rng.random_range(i..len));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::tokenizer::Tokenizer;
    use crate::seed::{Stream, rng};

    /// 5 special tokens, 195 ordinary ones, of which every fourth goes on with a word.
    fn tokenizer() -> Tokenizer {
        let mut vocab = String::from("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
        (5..200).for_each(|i| {
            vocab += &if i % 4 == 0 {
                format!("##w{i}\n")
            } else {
                format!("w{i}\n")
            }
        });
        Tokenizer::from_vocab(&vocab, std::path::Path::new("v")).unwrap()
    }

    fn random_row(index: u64, length: usize) -> Vec<u32> {
        let mut rng = rng(9, Stream::Data, &[index]);
        let mut row = vec![2];
        row.extend((0..length).map(|i| {
            if i % 17 == 16 {
                3
            } else {
                rng.random_range(5..200)
            }
        }));
        row.extend([1, 3, 0, 0, 0]);
        row
    }

    #[test]
    fn counts_and_shares_are_as_set() {
        let masker = Masker::new(&MaskingConfig::default(), &tokenizer());
        let (mut selected, mut masks, mut same, mut other) = (0u64, 0u64, 0u64, 0u64);
        let mut unknown_selected = 0;
        for r in 0..3000 {
            let row = random_row(r, 100);
            let m = masker.mask(&row, &mut rng(1, Stream::Mask, &[0, r]));
            // 100 tokens, 5 of them separators, and one [UNK]: 96 eligible, 14.4 expected.
            assert_eq!(m.positions.len(), 14);
            assert!(m.positions.is_sorted_by(|a, b| a < b));
            for (&p, &label) in m.positions.iter().zip(&m.labels) {
                let (before, after) = (row[p as usize], m.input[p as usize]);
                assert_eq!(before, label);
                assert!(
                    ![0, 2, 3, 4].contains(&before),
                    "special token {before} selected"
                );
                unknown_selected += u64::from(before == 1);
                assert!(
                    after == 4 || after == before || after > 4,
                    "replaced by special token {after}"
                );
                selected += 1;
                match after {
                    4 => masks += 1,
                    x if x == before => same += 1,
                    _ => other += 1,
                }
            }
            let unselected = (0..row.len()).filter(|i| !m.positions.contains(&(*i as u32)));
            assert!(unselected.into_iter().all(|i| m.input[i] == row[i]));
        }
        assert_eq!(selected, 42_000);
        // Binomial standard deviations at n = 42000: 82 for 0.8, 61 for 0.1; bounds are five of them. A random token is the
        // same as before once in 195 times, which moves 22 from `other` to `same`.
        assert!(masks.abs_diff(33_600) < 410, "{masks}");
        assert!(same.abs_diff(4_222) < 310, "{same}");
        assert!(other.abs_diff(4_178) < 310, "{other}");
        // One eligible token in 96, 14 selected of each row: 437.5 expected, standard deviation 19.3.
        assert!(unknown_selected.abs_diff(437) < 97, "{unknown_selected}");
    }

    #[test]
    fn every_eligible_position_is_selected_equally_often() {
        let masker = Masker::new(&MaskingConfig::default(), &tokenizer());
        let row = random_row(0, 40);
        let mut hits = vec![0u64; row.len()];
        for r in 0..8000 {
            masker
                .mask(&row, &mut rng(2, Stream::Mask, &[r]))
                .positions
                .iter()
                .for_each(|&p| hits[p as usize] += 1);
        }
        // 39 eligible tokens, round(5.85) = 6 selected: p = 6/39, 1230.8 expected, standard deviation 32.3, five of them.
        for (i, (&id, &n)) in row.iter().zip(&hits).enumerate() {
            let expected = if [0, 2, 3].contains(&id) {
                0..1
            } else {
                1069..1393
            };
            assert!(expected.contains(&n), "position {i} token {id}: {n}");
        }
    }

    #[test]
    fn whole_words_are_selected_whole() {
        let t = tokenizer();
        let masker = Masker::new(
            &MaskingConfig {
                whole_word: true,
                ..MaskingConfig::default()
            },
            &t,
        );
        let mut total = 0;
        for r in 0..2000 {
            let row = random_row(r, 100);
            let m = masker.mask(&row, &mut rng(1, Stream::Mask, &[0, r]));
            assert!((1..=14).contains(&m.positions.len()));
            total += m.positions.len();
            for i in 1..row.len() as u32 {
                let bound = t.continuation(row[i as usize])
                    && row[i as usize - 1] != 3
                    && row[i as usize - 1] != 2;
                if bound {
                    assert_eq!(
                        m.positions.contains(&i),
                        m.positions.contains(&(i - 1)),
                        "row {r} position {i}"
                    );
                }
            }
        }
        assert!(total > 2000 * 27 / 2, "{total} of 28000 wanted");
        // One word of three pieces: no word fits a single token, so the word is taken.
        let m = masker.mask(&[2, 5, 8, 12, 3], &mut rng(0, Stream::Mask, &[]));
        assert_eq!(m.positions, [1, 2, 3]);
    }

    #[test]
    fn edge_rows_and_extreme_shares() {
        let t = tokenizer();
        let masker = Masker::new(&MaskingConfig::default(), &t);
        let m = masker.mask(&[2, 3, 0, 0], &mut rng(0, Stream::Mask, &[]));
        assert_eq!((m.input, m.positions.len()), (vec![2, 3, 0, 0], 0));
        assert_eq!(
            masker
                .mask(&[2, 9, 3], &mut rng(0, Stream::Mask, &[]))
                .positions,
            [1]
        );
        let all = MaskingConfig {
            probability: 1.0,
            mask_share: 1.0,
            random_share: 0.0,
            whole_word: false,
        };
        let row = random_row(3, 50);
        let m = Masker::new(&all, &t).mask(&row, &mut rng(0, Stream::Mask, &[]));
        assert!(
            m.input
                .iter()
                .zip(&row)
                .all(|(&a, &b)| if [0, 2, 3].contains(&b) {
                    a == b
                } else {
                    a == 4
                })
        );
    }

    #[test]
    fn impossible_settings_are_all_reported() {
        assert!(MaskingConfig::default().validate().is_empty());
        let edge = MaskingConfig {
            probability: 1.0,
            mask_share: 0.7,
            random_share: 0.3,
            whole_word: true,
        };
        assert!(edge.validate().is_empty());
        let bad = MaskingConfig {
            probability: f64::NAN,
            mask_share: 0.9,
            random_share: 0.2,
            whole_word: false,
        };
        let text = bad.validate().join("\n");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.contains("`probability`") && text.contains("sum to at most 1"),
            "{text}"
        );
        assert!(serde_json::from_str::<MaskingConfig>("{\"probabilty\": 0.2}").is_err());
    }
}
