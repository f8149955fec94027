//! Masked batches as a pure function of their index.
//!
//! The rows of training form one endless stream: place `k` is row `permutation(k / n)[k % n]` of `n`, each epoch with its own
//! permutation and its own masks, and batch `i` is places `i B .. (i + 1) B`. So every batch is full, every row comes once an
//! epoch, and resuming needs only the index. Held-out batches run through the rows once, in order, with masks that
//! never change.
//!
//! Shapes: `B` rows, `S` positions, row-major.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rayon::prelude::*;

use super::corpus::{Corpus, CorpusError, Rows, Split};
use super::masking::{MaskedRow, Masker, shuffle_front};
use crate::seed::{Stream, rng};

/// The seed of the held-out masks: the same for every run, so that log-likelihoods compare.
pub const HELD_OUT_MASK_SEED: u64 = 0x7463_6420_6865_6c64;

/// Below this many tokens a batch is masked faster than threads are woken.
const PARALLEL_TOKENS: usize = 1 << 15;

/// Batches that wait ready in a [`Prefetch`].
const AHEAD: usize = 2;

/// A masked batch. Token types are all zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `B`, the rows.
    pub batch: usize,
    /// `S`, the length of the longest row.
    pub sequence: usize,
    /// The tokens as the model sees them, `[B, S]`.
    pub input_ids: Vec<i64>,
    /// 1 at tokens, 0 at padding, `[B, S]`.
    pub attention_mask: Vec<i64>,
    /// The predicted positions in `[B * S]`, ascending.
    pub masked_positions: Vec<i64>,
    /// The true tokens there.
    pub labels: Vec<i64>,
    /// How many positions are no padding.
    pub real_tokens: usize,
    /// Whether all are: no attention mask is needed.
    pub all_real: bool,
}

/// Puts rows together, cut to the longest of them.
fn collate(rows: &[MaskedRow], pad: u32) -> Batch {
    let real = |row: &MaskedRow| {
        row.input
            .iter()
            .rposition(|&id| id != pad)
            .map_or(0, |last| last + 1)
    };
    let lengths: Vec<usize> = rows.iter().map(real).collect();
    let sequence = lengths.iter().copied().max().unwrap_or(0);
    let mut batch = Batch {
        batch: rows.len(),
        sequence,
        ..Batch::default()
    };
    for (index, (row, &length)) in rows.iter().zip(&lengths).enumerate() {
        batch
            .input_ids
            .extend(row.input[..sequence].iter().map(|&id| i64::from(id)));
        batch
            .attention_mask
            .extend((0..sequence).map(|i| i64::from(i < length)));
        batch.masked_positions.extend(
            row.positions
                .iter()
                .map(|&p| (index * sequence) as i64 + i64::from(p)),
        );
        batch
            .labels
            .extend(row.labels.iter().map(|&id| i64::from(id)));
        batch.real_tokens += length;
    }
    batch.all_real = batch.real_tokens == rows.len() * sequence;
    batch
}

/// Reads and masks rows, `(epoch, row)` each, into a batch.
fn masked(
    rows: &Rows,
    masker: &Masker,
    seed: u64,
    places: &[(u64, usize)],
) -> Result<Batch, CorpusError> {
    let one = |&(epoch, row): &(u64, usize)| -> Result<MaskedRow, CorpusError> {
        let mut ids = Vec::new();
        rows.row(row, &mut ids)?;
        Ok(masker.mask(&ids, &mut rng(seed, Stream::Mask, &[epoch, row as u64])))
    };
    let done: Result<Vec<MaskedRow>, CorpusError> =
        if places.len() * rows.sequence_length() >= PARALLEL_TOKENS {
            places.par_iter().map(one).collect()
        } else {
            places.iter().map(one).collect()
        };
    Ok(collate(&done?, masker.pad()))
}

/// An epoch and its permutation.
type Epoch = (u64, Arc<[u32]>);

/// The batches of training. Clones share the mapped rows and the permutations.
#[derive(Clone, Debug)]
pub struct TrainBatches {
    rows: Rows,
    masker: Masker,
    batch_size: usize,
    data_seed: u64,
    mask_seed: u64,
    /// The permutations used last, newest at the back.
    epochs: Arc<Mutex<VecDeque<Epoch>>>,
}

impl TrainBatches {
    /// Batches of `batch_size` rows of the corpus's training part.
    ///
    /// # Panics
    /// If `batch_size` is zero or the part has no rows or more than 2^32.
    pub fn new(
        corpus: &Corpus,
        masker: Masker,
        batch_size: usize,
        data_seed: u64,
        mask_seed: u64,
    ) -> TrainBatches {
        let rows = corpus.split(Split::Train).clone();
        assert!(
            batch_size > 0 && !rows.is_empty() && u32::try_from(rows.len()).is_ok(),
            "batch size or rows out of range"
        );
        TrainBatches {
            rows,
            masker,
            batch_size,
            data_seed,
            mask_seed,
            epochs: Arc::default(),
        }
    }

    /// Rows an epoch.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Rows a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The least number of batches that hold an epoch; the last of them may run into the next epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.rows.len().div_ceil(self.batch_size) as u64
    }

    /// Batch `index` of the endless stream.
    pub fn get(&self, index: u64) -> Result<Batch, CorpusError> {
        let (n, size) = (self.rows.len() as u64, self.batch_size as u64);
        let places: Vec<(u64, usize)> = (0..size)
            .map(|i| u128::from(index) * u128::from(size) + u128::from(i))
            .map(|k| ((k / u128::from(n)) as u64, (k % u128::from(n)) as usize))
            .map(|(epoch, place)| (epoch, self.permutation(epoch)[place] as usize))
            .collect();
        masked(&self.rows, &self.masker, self.mask_seed, &places)
    }

    fn permutation(&self, epoch: u64) -> Arc<[u32]> {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = epochs.iter().find(|(e, _)| *e == epoch) {
            return Arc::clone(found);
        }
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        let n = order.len();
        shuffle_front(
            &mut order,
            n,
            &mut rng(self.data_seed, Stream::Data, &[epoch]),
        );
        let order: Arc<[u32]> = order.into();
        if epochs.len() == 2 {
            epochs.pop_front();
        }
        epochs.push_back((epoch, Arc::clone(&order)));
        order
    }
}

/// The held-out batches: rows in order, masks fixed, the last batch may be smaller.
#[derive(Clone, Debug)]
pub struct HeldOutBatches {
    rows: Rows,
    masker: Masker,
    batch_size: usize,
    /// Rows used.
    used: usize,
}

/// Batches of the held-out part. `limit_rows` takes that many rows, evenly spread over the part (its rows lie in the order of
/// the inputs, so the first ones would be of one kind).
///
/// # Panics
/// If `batch_size` is zero.
pub fn held_out_batches(
    corpus: &Corpus,
    masker: Masker,
    batch_size: usize,
    limit_rows: Option<usize>,
) -> HeldOutBatches {
    assert!(batch_size > 0, "batch size is zero");
    let rows = corpus.split(Split::HeldOut).clone();
    let used = limit_rows.map_or(rows.len(), |limit| limit.min(rows.len()));
    HeldOutBatches {
        rows,
        masker,
        batch_size,
        used,
    }
}

impl HeldOutBatches {
    /// The number of batches.
    pub fn len(&self) -> usize {
        self.used.div_ceil(self.batch_size)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Batch `index`; beyond the last it has no rows.
    pub fn get(&self, index: usize) -> Result<Batch, CorpusError> {
        let start = (index * self.batch_size).min(self.used);
        let end = (start + self.batch_size).min(self.used);
        // A row's mask depends on the row alone, not on which rows are used beside it.
        let row = |i: usize| (i as u128 * self.rows.len() as u128 / self.used as u128) as usize;
        let places: Vec<(u64, usize)> = (start..end).map(|i| (0, row(i))).collect();
        masked(&self.rows, &self.masker, HELD_OUT_MASK_SEED, &places)
    }

    /// All batches in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Batch, CorpusError>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// Training batches made ahead on a thread of their own, in order; endless, but for an error, after which it ends.
#[derive(Debug)]
pub struct Prefetch {
    receiver: Option<Receiver<Result<Batch, CorpusError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Batches from `first` on.
    pub fn start(batches: TrainBatches, first: u64) -> std::io::Result<Prefetch> {
        let (sender, receiver) = sync_channel(AHEAD);
        let work = move || {
            for index in first.. {
                let batch = batches.get(index);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("batches".to_owned())
            .spawn(work)?;
        Ok(Prefetch {
            receiver: Some(receiver),
            thread: Some(thread),
        })
    }
}

impl Iterator for Prefetch {
    type Item = Result<Batch, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The thread ends when nobody receives.
        drop(self.receiver.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Documents of the words of the small test vocabulary, of differing lengths.
#[cfg(test)]
pub(crate) fn test_text(documents: u64) -> String {
    use rand::RngExt;
    const WORDS: [&str; 8] = ["the", "cat", "cats", "sat", "on", "mat", "unlikely", "."];
    let mut rng = rng(77, Stream::Data, &[]);
    let mut document = || {
        (0..rng.random_range(5..30))
            .map(|_| WORDS[rng.random_range(0..8)])
            .collect::<Vec<_>>()
            .join(" ")
    };
    (0..documents)
        .map(|_| document())
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::corpus::build::{Options, build};
    use crate::data::corpus::{Packing, Settings};
    use crate::data::masking::MaskingConfig;
    use crate::data::tokenizer::tests::small;

    fn corpus(packing: Packing) -> (tempfile::TempDir, Corpus, Masker) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), test_text(400)).unwrap();
        let settings = Settings {
            sequence_length: 24,
            packing,
            held_out: 0.2,
            ..Settings::default()
        };
        let out = dir.path().join("corpus");
        let options = Options {
            inputs: vec![dir.path().join("a.txt")],
            out: out.clone(),
            settings,
            threads: 1,
            force: false,
        };
        build(&options, &small(), &mut |_| {}).unwrap();
        (
            dir,
            Corpus::open(&out).unwrap(),
            Masker::new(&MaskingConfig::default(), &small()),
        )
    }

    /// The rows of a batch with masks undone, padded to 24.
    fn unmasked(batch: &Batch) -> Vec<Vec<u32>> {
        let mut ids = batch.input_ids.clone();
        batch
            .masked_positions
            .iter()
            .zip(&batch.labels)
            .for_each(|(&p, &l)| ids[p as usize] = l);
        let rows = ids
            .chunks(batch.sequence)
            .map(|r| r.iter().map(|&id| id as u32));
        rows.map(|r| r.chain(std::iter::repeat(0)).take(24).collect())
            .collect()
    }

    fn all(rows: &Rows) -> Vec<Vec<u32>> {
        let mut row = Vec::new();
        (0..rows.len())
            .map(|i| rows.row(i, &mut row).map(|()| row.clone()).unwrap())
            .collect()
    }

    #[test]
    fn an_epoch_holds_every_row_once_and_epochs_differ() {
        for packing in [Packing::Full, Packing::Document] {
            let (_dir, corpus, masker) = corpus(packing);
            let n = corpus.split(Split::Train).len();
            // Batches that run over the epoch's border.
            let size = (7..).find(|size| n % size != 0).unwrap();
            assert!(n > 200, "{n}");
            let batches = TrainBatches::new(&corpus, masker.clone(), size, 1, 2);
            assert_eq!(batches.batches_per_epoch(), (n / size) as u64 + 1);
            let stream: Vec<_> = (0..batches.batches_per_epoch() * 2)
                .map(|i| batches.get(i).unwrap())
                .collect();
            assert!(
                stream
                    .iter()
                    .all(|b| b.batch == size && b.input_ids.len() == size * b.sequence)
            );
            let rows: Vec<Vec<u32>> = stream.iter().flat_map(unmasked).collect();
            let sorted = |rows: &[Vec<u32>]| {
                let mut rows = rows.to_vec();
                rows.sort();
                rows
            };
            assert_eq!(sorted(&rows[..n]), sorted(&all(corpus.split(Split::Train))));
            assert_eq!(sorted(&rows[n..2 * n]), sorted(&rows[..n]));
            assert_ne!(rows[..n], rows[n..2 * n]);
            // Asked for out of order, by another object: the same batches.
            let again = TrainBatches::new(&corpus, masker.clone(), size, 1, 2);
            for i in [stream.len() - 1, 0, stream.len() / 2, 3] {
                assert_eq!(again.get(i as u64).unwrap(), stream[i]);
            }
            let other = TrainBatches::new(&corpus, masker, size, 1, 3)
                .get(0)
                .unwrap();
            assert_eq!(unmasked(&other), unmasked(&stream[0]));
            assert_ne!(other.masked_positions, stream[0].masked_positions);
        }
    }

    #[test]
    fn masks_change_with_the_epoch_only() {
        let (_dir, corpus, masker) = corpus(Packing::Full);
        let n = corpus.split(Split::Train).len();
        // One batch is one epoch: sort its rows by content to compare epochs.
        let batches = TrainBatches::new(&corpus, masker.clone(), n, 1, 2);
        let (a, b) = (batches.get(0).unwrap(), batches.get(1).unwrap());
        assert_eq!(a, batches.get(0).unwrap());
        let by_row = |batch: &Batch| {
            let mut map = std::collections::BTreeMap::new();
            for (row, true_row) in batch.input_ids.chunks(batch.sequence).zip(unmasked(batch)) {
                map.insert(true_row, row.to_vec());
            }
            map
        };
        let (a, b) = (by_row(&a), by_row(&b));
        let same = a.iter().filter(|(row, masked)| b[*row] == **masked).count();
        // Three of some twenty tokens: two epochs agree on a row about once in a thousand.
        assert!(same < n / 20, "{same} of {n}");
        // Rows halved over two batches keep their masks: they depend on the row, not on its place.
        let half = TrainBatches::new(&corpus, masker, n.div_ceil(2), 1, 2);
        let halves = by_row(&half.get(0).unwrap());
        assert!(halves.iter().all(|(row, masked)| a[row] == *masked));
    }

    #[test]
    fn padded_batches_are_cut_and_marked() {
        let (_dir, corpus, masker) = corpus(Packing::Document);
        let mut cut = 0;
        for i in 0..40 {
            let b = TrainBatches::new(&corpus, masker.clone(), 2, 4, 4)
                .get(i)
                .unwrap();
            cut += usize::from(b.sequence < 24);
            let real = b.input_ids.iter().filter(|&&id| id != 0).count();
            assert_eq!(
                (b.real_tokens, b.all_real),
                (real, real == b.input_ids.len())
            );
            for (id, mask) in b.input_ids.iter().zip(&b.attention_mask) {
                assert_eq!(*mask, i64::from(*id != 0));
            }
            assert!(
                b.attention_mask
                    .chunks(b.sequence)
                    .any(|row| row[b.sequence - 1] == 1)
            );
            assert!(b.masked_positions.is_sorted_by(|x, y| x < y));
        }
        assert!(cut > 5, "{cut}");
    }

    #[test]
    fn held_out_batches_are_fixed_and_in_order() {
        let (_dir, corpus, masker) = corpus(Packing::Full);
        let rows = all(corpus.split(Split::HeldOut));
        let five = held_out_batches(&corpus, masker.clone(), 5, None);
        let batches: Vec<Batch> = five.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(batches.iter().flat_map(unmasked).collect::<Vec<_>>(), rows);
        assert_eq!(
            batches.last().unwrap().batch,
            rows.len() - 5 * (batches.len() - 1)
        );
        // Another batch size: the same masks.
        let one = held_out_batches(&corpus, masker.clone(), rows.len(), None)
            .get(0)
            .unwrap();
        assert_eq!(
            one.input_ids,
            batches
                .iter()
                .flat_map(|b| b.input_ids.clone())
                .collect::<Vec<_>>()
        );
        let few = held_out_batches(&corpus, masker, 2, Some(4));
        assert_eq!(few.len(), 2);
        let n = rows.len();
        let expected: Vec<_> = [0, n / 4, n / 2, 3 * n / 4]
            .iter()
            .map(|&i| rows[i].clone())
            .collect();
        let got: Vec<_> = few.iter().flat_map(|b| unmasked(&b.unwrap())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn prefetch_yields_the_same_batches_and_stops_when_dropped() {
        let (_dir, corpus, masker) = corpus(Packing::Full);
        let batches = TrainBatches::new(&corpus, masker, 3, 1, 1);
        let ahead: Vec<_> = Prefetch::start(batches.clone(), 11)
            .unwrap()
            .take(5)
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            ahead,
            (11..16)
                .map(|i| batches.get(i).unwrap())
                .collect::<Vec<_>>()
        );
    }
}
