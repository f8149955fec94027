//! Masked batches, as a pure function of their number.
//!
//! Row `i` of the endless stream of training rows is row `perm(epoch)[i mod N]` with `epoch = i / N`; its mask depends on epoch
//! and row. So the position of a run in its data is one number, and batches can be made ahead on another thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use rand::RngExt;
use rayon::prelude::*;

use super::corpus::{Corpus, Split};
use super::masking::{MaskedRow, Masker};
use crate::seed::{self, Stream};

/// Seed of the masks of held-out rows: the same in every run, so that log-likelihoods compare.
const HELD_OUT_SEED: u64 = 0x7463_6420_6865_6c64;

/// A masked batch, on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows, B.
    pub rows: usize,
    /// Tokens in a row, S: the longest row's.
    pub sequence: usize,
    /// What the model reads, `[B, S]`.
    pub input_ids: Vec<i64>,
    /// 1 for real tokens, `[B, S]`; absent where all are.
    pub attention_mask: Option<Vec<i64>>,
    /// Flat positions to predict, ascending, `[M]`.
    pub positions: Vec<i64>,
    /// True tokens there, `[M]`.
    pub labels: Vec<i64>,
    /// Real tokens, R.
    pub tokens: usize,
}

/// Joins masked rows, cut to the longest.
fn collate(masked: &[MaskedRow], pad: u32) -> Batch {
    let length = |row: &MaskedRow| {
        row.input
            .iter()
            .rposition(|id| *id != pad)
            .map_or(0, |i| i + 1)
    };
    let lengths: Vec<usize> = masked.iter().map(length).collect();
    let sequence = lengths.iter().copied().max().unwrap_or(0).max(1);
    let tokens = lengths.iter().sum();
    let mut batch = Batch {
        rows: masked.len(),
        sequence,
        input_ids: Vec::with_capacity(masked.len() * sequence),
        attention_mask: None,
        positions: Vec::new(),
        labels: Vec::new(),
        tokens,
    };
    for (b, row) in masked.iter().enumerate() {
        batch
            .input_ids
            .extend(row.input[..sequence].iter().map(|id| i64::from(*id)));
        batch.positions.extend(
            row.positions
                .iter()
                .map(|p| (b * sequence) as i64 + i64::from(*p)),
        );
        batch
            .labels
            .extend(row.labels.iter().map(|l| i64::from(*l)));
    }
    if tokens < masked.len() * sequence {
        batch.attention_mask = Some(
            lengths
                .iter()
                .flat_map(|n| (0..sequence).map(move |i| i64::from(i < *n)))
                .collect(),
        );
    }
    batch
}

/// The training batches of a corpus.
#[derive(Debug)]
pub struct TrainBatches {
    corpus: Arc<Corpus>,
    masker: Masker,
    batch_size: usize,
    data_seed: u64,
    mask_seed: u64,
    order: Option<(u64, Vec<u32>)>,
}

impl TrainBatches {
    /// Batches of `batch_size` rows. The corpus must hold training rows.
    pub fn new(
        corpus: Arc<Corpus>,
        masker: Masker,
        batch_size: usize,
        data_seed: u64,
        mask_seed: u64,
    ) -> Self {
        TrainBatches {
            corpus,
            masker,
            batch_size,
            data_seed,
            mask_seed,
            order: None,
        }
    }

    /// Row that stands at `place` in the order of `epoch`.
    fn place(&mut self, epoch: u64, place: usize) -> u32 {
        if self.order.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let mut order: Vec<u32> = (0..self.corpus.split(Split::Train).len() as u32).collect();
            let mut rng = seed::rng(self.data_seed, Stream::Data, &[epoch]);
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
            self.order = Some((epoch, order));
        }
        self.order.as_ref().map_or(0, |(_, order)| order[place])
    }

    /// Batch `index` of the run.
    pub fn get(&mut self, index: u64) -> Batch {
        let rows = self.corpus.split(Split::Train).len() as u64;
        let first = index * self.batch_size as u64;
        let places: Vec<(u64, u32)> = (first..first + self.batch_size as u64)
            .map(|i| (i / rows, self.place(i / rows, (i % rows) as usize)))
            .collect();
        let (corpus, masker, seed) = (&self.corpus, &self.masker, self.mask_seed);
        let masked: Vec<MaskedRow> = places
            .par_iter()
            .map(|(epoch, row)| {
                let ids = corpus.split(Split::Train).row(*row as usize);
                masker.mask(
                    &ids,
                    &mut seed::rng(seed, Stream::Mask, &[*epoch, u64::from(*row)]),
                )
            })
            .collect();
        collate(&masked, self.corpus.manifest.pad_token_id)
    }

    /// Makes batches from `first` on in a thread of its own, at most two ahead.
    pub fn ahead(mut self, first: u64) -> Receiver<Batch> {
        let (sender, receiver) = sync_channel(2);
        thread::spawn(move || {
            let mut index = first;
            while sender.send(self.get(index)).is_ok() {
                index += 1;
            }
        });
        receiver
    }
}

/// The held-out batches: the first `limit` rows (all, if absent) in order, their masks the same in every run.
pub fn held_out_batches(
    corpus: &Corpus,
    masker: &Masker,
    batch_size: usize,
    limit: Option<usize>,
) -> Vec<Batch> {
    let rows = corpus.split(Split::HeldOut);
    let count = limit.unwrap_or(rows.len()).min(rows.len());
    let masked: Vec<MaskedRow> = (0..count)
        .into_par_iter()
        .map(|row| {
            masker.mask(
                &rows.row(row),
                &mut seed::rng(HELD_OUT_SEED, Stream::Mask, &[row as u64]),
            )
        })
        .collect();
    masked
        .chunks(batch_size.max(1))
        .map(|rows| collate(rows, corpus.manifest.pad_token_id))
        .collect()
}
