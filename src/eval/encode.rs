//! Rows as token ids, and batches that pay for no padding beyond their longest row.
//!
//! A row is `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, type 1 from the second text on. A row that is too long loses tokens
//! from the end of its longer text, one at a time, the second text's where both are as long, as BERT's own code does it. Every
//! runtime and fine-tuning read the same encoded set.

use rand::seq::SliceRandom;
use rayon::prelude::*;
use tcd_export::runtime::Feed;

use crate::data::glue::Example;
use crate::data::tokenizer::{Tokenizer, TokenizerError};
use crate::seed::{Stream, rng};

/// One encoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Token ids, special tokens included, at least 2.
    pub ids: Vec<u32>,
    /// Where type 1 begins; the row's length in a row of one text.
    pub second: usize,
}

/// Encoded rows, in the order of the examples.
#[derive(Clone, Debug)]
pub struct EncodedSet {
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows that lost tokens.
    pub truncated: usize,
    /// Id of the padding token.
    pub pad: u32,
}

/// Tokens that a pair keeps of its texts, of lengths `a` and `b`, where there is room for `room`.
fn longest_first(mut a: usize, mut b: usize, room: usize) -> (usize, usize) {
    let over = (a + b).saturating_sub(room);
    // First the longer one down to the other's length, then in turns, the second text first.
    let down = a.abs_diff(b).min(over);
    if a > b {
        a -= down;
    } else {
        b -= down;
    }
    let rest = over - down;
    (a - rest / 2, b - rest.div_ceil(2))
}

/// Encodes examples over rayon's current pool, rows of at most `max_length` tokens (at least 5).
pub fn encode(
    tokenizer: &Tokenizer,
    examples: &[Example],
    max_length: usize,
) -> Result<EncodedSet, TokenizerError> {
    let special = tokenizer.special();
    let rows = examples
        .par_iter()
        .map(|example| {
            let first = tokenizer.encode(&example.first)?;
            let second = example
                .second
                .as_ref()
                .map(|text| tokenizer.encode(text))
                .transpose()?;
            let (a, b) = match &second {
                None => (first.len().min(max_length - 2), 0),
                Some(second) => longest_first(first.len(), second.len(), max_length - 3),
            };
            let mut ids = Vec::with_capacity(a + b + 3);
            ids.push(special.cls);
            ids.extend_from_slice(&first[..a]);
            ids.push(special.sep);
            let start = ids.len();
            let mut cut = a < first.len();
            if let Some(second) = second {
                ids.extend_from_slice(&second[..b]);
                ids.push(special.sep);
                cut |= b < second.len();
            }
            Ok((Row { ids, second: start }, cut))
        })
        .collect::<Result<Vec<_>, TokenizerError>>()?;
    Ok(EncodedSet {
        truncated: rows.iter().filter(|(_, cut)| *cut).count(),
        rows: rows.into_iter().map(|(row, _)| row).collect(),
        pad: special.pad,
    })
}

/// How rows are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// At most so many rows.
    Rows(usize),
    /// At most so many positions, padding included; a longer row goes alone.
    Tokens(usize),
}

impl BatchSize {
    /// So many positions, or else what a model runs fastest with on a CPU: the hidden states of about 512 stay in the caches
    /// of a core; a mixture reads the weights of all its experts for every batch, so its batches are larger. `threads` are those that
    /// share the work of one batch.
    pub fn positions(asked: Option<usize>, mixture: bool, threads: usize) -> Self {
        let each = if mixture { 2048 } else { 512 };
        Self::Tokens(asked.unwrap_or(each * threads.max(1)))
    }

    /// The size for several workers that take batches in turns: no larger, and such that each gets about as many of them.
    pub fn shared(self, set: &EncodedSet, workers: usize) -> Self {
        if workers < 2 {
            return self;
        }
        let part = |all: usize, size: usize| {
            let size = size.max(1);
            all.div_ceil(all.div_ceil(size).next_multiple_of(workers).max(1))
        };
        match self {
            Self::Rows(rows) => Self::Rows(part(set.rows.len(), rows)),
            Self::Tokens(tokens) => {
                let all = set.rows.iter().map(|row| row.ids.len()).sum();
                Self::Tokens(part(all, tokens))
            }
        }
    }
}

/// Batches for evaluation: places of rows, longest rows first, so that a batch's rows are about as long as each other and too
/// little memory shows at once.
pub fn batches(set: &EncodedSet, size: BatchSize) -> Vec<Vec<usize>> {
    let length = |&i: &usize| set.rows[i].ids.len();
    let mut order: Vec<usize> = (0..set.rows.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(length(i)));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for i in order {
        match batches.last_mut() {
            Some(batch) if batch.len() < room => batch.push(i),
            _ => {
                room = match size {
                    BatchSize::Rows(rows) => rows,
                    BatchSize::Tokens(tokens) => tokens / length(&i),
                };
                batches.push(vec![i]);
            }
        }
    }
    batches
}

/// Batches of a training window; rows within a window are sorted by length.
const WINDOW: usize = 50;

/// Batches of one epoch of training: rows shuffled, each window of 50 batches sorted by length so that batches hold rows of about
/// one length, batches shuffled. A function of seed and epoch; every row comes once.
pub fn training_batches(set: &EncodedSet, rows: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut random = rng(seed, Stream::Data, &[epoch]);
    let mut order: Vec<usize> = (0..set.rows.len()).collect();
    order.shuffle(&mut random);
    let mut batches = Vec::with_capacity(order.len().div_ceil(rows));
    for window in order.chunks_mut(rows.saturating_mul(WINDOW)) {
        window.sort_by_key(|&i| set.rows[i].ids.len());
        batches.extend(window.chunks(rows).map(<[usize]>::to_vec));
    }
    batches.shuffle(&mut random);
    batches
}

/// A padded batch, owning what a [`Feed`] borrows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Padded {
    /// Rows, `B`.
    pub batch: usize,
    /// Positions of the longest row, `S`.
    pub sequence: usize,
    /// `[B, S]`.
    pub input_ids: Vec<i64>,
    /// `[B, S]`.
    pub attention_mask: Vec<i64>,
    /// `[B, S]`.
    pub token_type_ids: Vec<i64>,
}

impl Padded {
    /// The rows at these places, padded to the longest of them.
    pub fn new(set: &EncodedSet, places: &[usize]) -> Padded {
        let longest = places.iter().map(|&i| set.rows[i].ids.len()).max();
        let mut padded = Padded {
            batch: places.len(),
            sequence: longest.unwrap_or(0),
            ..Padded::default()
        };
        for &place in places {
            let Row { ids, second } = &set.rows[place];
            let fill = padded.sequence - ids.len();
            let cells = padded.input_ids.len() + padded.sequence;
            padded.input_ids.extend(ids.iter().map(|&id| i64::from(id)));
            padded.input_ids.resize(cells, i64::from(set.pad));
            padded.attention_mask.resize(cells - fill, 1);
            padded.attention_mask.resize(cells, 0);
            padded
                .token_type_ids
                .resize(cells - padded.sequence + second, 0);
            padded.token_type_ids.resize(cells - fill, 1);
            padded.token_type_ids.resize(cells, 0);
        }
        padded
    }

    /// The batch as a runtime takes it.
    pub fn feed(&self) -> Feed<'_> {
        Feed {
            batch: self.batch,
            sequence: self.sequence,
            input_ids: &self.input_ids,
            attention_mask: &self.attention_mask,
            token_type_ids: &self.token_type_ids,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    /// The loop of BERT's `_truncate_seq_pair`.
    fn naive(mut a: usize, mut b: usize, room: usize) -> (usize, usize) {
        while a + b > room {
            if a > b {
                a -= 1;
            } else {
                b -= 1;
            }
        }
        (a, b)
    }

    fn set(lengths: &[usize]) -> EncodedSet {
        EncodedSet {
            rows: lengths
                .iter()
                .map(|&n| Row {
                    ids: (1..=n as u32).collect(),
                    second: n.div_ceil(2),
                })
                .collect(),
            truncated: 0,
            pad: 9,
        }
    }

    proptest! {
        #[test]
        fn truncation_is_that_of_the_naive_loop(a in 0usize..40, b in 0usize..40, room in 2usize..60) {
            prop_assert_eq!(longest_first(a, b, room), naive(a, b, room));
        }

        #[test]
        fn batches_hold_every_row_once_within_their_limit(
            lengths in prop::collection::vec(2usize..50, 1..80), limit in 1usize..200, by_rows: bool,
        ) {
            let set = set(&lengths);
            let size = if by_rows { BatchSize::Rows(limit) } else { BatchSize::Tokens(limit) };
            let batches = batches(&set, size);
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let padded = Padded::new(&set, batch);
                let fits = match size {
                    BatchSize::Rows(rows) => batch.len() <= rows,
                    BatchSize::Tokens(tokens) => batch.len() * padded.sequence <= tokens,
                };
                prop_assert!(fits || batch.len() == 1);
                let real: i64 = padded.attention_mask.iter().sum();
                prop_assert_eq!(real as usize, batch.iter().map(|&i| lengths[i]).sum::<usize>());
                prop_assert_eq!(padded.input_ids.len(), padded.batch * padded.sequence);
                prop_assert_eq!(padded.token_type_ids.len(), padded.batch * padded.sequence);
            }
        }
    }

    #[test]
    fn workers_share_a_set_in_batches_no_larger_than_asked() {
        let set = set(&[10; 100]);
        let counts = |size: BatchSize, workers| {
            let all = batches(&set, size.shared(&set, workers));
            let largest = all.iter().map(Vec::len).max();
            (all.len(), largest)
        };
        assert_eq!(counts(BatchSize::Tokens(2048), 1), (1, Some(100)));
        assert_eq!(counts(BatchSize::Tokens(2048), 2), (2, Some(50)));
        assert_eq!(counts(BatchSize::Tokens(400), 2), (4, Some(25)));
        assert_eq!(counts(BatchSize::Tokens(400), 5), (5, Some(20)));
        assert_eq!(counts(BatchSize::Rows(34), 2), (4, Some(25)));
        assert_eq!(counts(BatchSize::Tokens(0), 2).0, 100);
        let none = super::tests::set(&[]);
        assert!(batches(&none, BatchSize::Tokens(5).shared(&none, 2)).is_empty());
    }

    #[test]
    fn an_epoch_has_every_row_once_in_batches_of_like_lengths() {
        let lengths: Vec<usize> = (0..2000).map(|i| 2 + (i * 7919) % 60).collect();
        let set = set(&lengths);
        let epoch = training_batches(&set, 16, 1, 0);
        let mut seen: Vec<usize> = epoch.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..2000).collect::<Vec<_>>());
        assert_eq!(epoch, training_batches(&set, 16, 1, 0));
        assert_ne!(epoch, training_batches(&set, 16, 1, 1));
        assert_ne!(epoch, training_batches(&set, 16, 2, 0));
        let padding = |batches: &[Vec<usize>]| {
            let padded = batches.iter().map(|b| Padded::new(&set, b));
            padded
                .map(|p| p.attention_mask.iter().filter(|&&m| m == 0).count())
                .sum::<usize>()
        };
        let shuffled: Vec<Vec<usize>> = {
            let mut order: Vec<usize> = epoch.iter().flatten().copied().collect();
            order.shuffle(&mut rng(3, Stream::Data, &[]));
            order.chunks(16).map(<[usize]>::to_vec).collect()
        };
        assert!(10 * padding(&epoch) < padding(&shuffled));
        // Short and long batches come in turns, not sorted.
        let rising = epoch
            .windows(2)
            .filter(|w| lengths[w[0][0]] <= lengths[w[1][0]])
            .count();
        assert!(rising > 40 && rising < 90, "{rising} of {}", epoch.len());
    }

    #[test]
    fn a_batch_is_padded_to_its_longest_row() {
        let padded = Padded::new(&set(&[2, 5, 3]), &[2, 0]);
        assert_eq!((padded.batch, padded.sequence), (2, 3));
        assert_eq!(padded.input_ids, [1, 2, 3, 1, 2, 9]);
        assert_eq!(padded.attention_mask, [1, 1, 1, 1, 1, 0]);
        assert_eq!(padded.token_type_ids, [0, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn texts_stand_between_their_special_tokens() {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n";
        let tokenizer = Tokenizer::from_vocab(vocab, Path::new("vocab.txt")).unwrap();
        let example = |first: &str, second: Option<&str>| Example {
            index: 0,
            first: first.to_owned(),
            second: second.map(str::to_owned),
            target: None,
        };
        let examples = [
            example("a b", None),
            example("a b c a", Some("b c")),
            example("", Some("")),
            example("[SEP] a b c a b c", None),
        ];
        let set = encode(&tokenizer, &examples, 7).unwrap();
        let ids: Vec<&[u32]> = set.rows.iter().map(|row| row.ids.as_slice()).collect();
        assert_eq!(ids[0], [2, 5, 6, 3]);
        assert_eq!(ids[1], [2, 5, 6, 3, 6, 7, 3]);
        assert_eq!(ids[2], [2, 3, 3]);
        assert_eq!(ids[3].len(), 7);
        assert_eq!(
            ids[3].iter().filter(|&&id| id == 3).count(),
            1,
            "no text forges a separator"
        );
        assert_eq!(
            set.rows.iter().map(|r| r.second).collect::<Vec<_>>(),
            [4, 4, 2, 7]
        );
        assert_eq!(set.truncated, 2);
    }
}
