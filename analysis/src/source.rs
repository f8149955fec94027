//! Rows to be compared: taps as matrices `[n, d]` that are read in blocks.
//!
//! [`TapSource`] is what every measure reads from. [`FeatureRows`] views a features file as tokens, as `[CLS]` vectors or as
//! the mean over each row's tokens; [`Memory`] holds matrices.

use std::ops::Range;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::features::{FeaturesError, FeaturesFile};
use crate::linalg::Real;

/// Taps over the same `n` rows.
pub trait TapSource<T>: Sync {
    /// Rows `n` of every tap.
    fn len(&self) -> usize;
    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Name and width `d` of each tap.
    fn taps(&self) -> &[(String, usize)];
    /// Reads rows `rows` of tap number `tap` into `into`, `[rows, d]` row-major.
    fn read(&self, tap: usize, rows: Range<usize>, into: &mut Vec<T>) -> Result<(), FeaturesError>;
    /// The cluster a row is of: rows of one cluster (tokens of one sentence) are not independent.
    fn cluster(&self, row: usize) -> usize;

    /// Reads chosen rows, in the order given; runs of neighbours are read at once.
    fn gather(&self, tap: usize, rows: &[usize], into: &mut Vec<T>) -> Result<(), FeaturesError>
    where
        T: Copy,
    {
        into.clear();
        let mut part = Vec::new();
        let mut at = 0;
        while at < rows.len() {
            let mut end = at + 1;
            while end < rows.len() && rows[end] == rows[end - 1] + 1 {
                end += 1;
            }
            self.read(tap, rows[at]..rows[end - 1] + 1, &mut part)?;
            into.extend_from_slice(&part);
            at = end;
        }
        Ok(())
    }

    /// A whole tap, `[n, d]`.
    fn whole(&self, tap: usize) -> Result<Vec<T>, FeaturesError> {
        let mut all = Vec::new();
        self.read(tap, 0..self.len(), &mut all)?;
        Ok(all)
    }
}

/// What counts as a row of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Every token.
    Token,
    /// The first token of each row, `[CLS]`.
    Cls,
    /// The mean over each row's tokens.
    Mean,
}

/// Which rows of a features file take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// What counts as a row.
    pub rows: RowKind,
    /// At most this many rows; a seeded draw without replacement in the file's order.
    pub limit: Option<usize>,
    /// Whether special tokens take part (rows of kind `token`) or are counted in the mean (`mean`).
    pub special: bool,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Selection {
    fn default() -> Self {
        Selection {
            rows: RowKind::Token,
            limit: None,
            special: false,
            seed: 0,
        }
    }
}

/// A features file seen as rows of a [`Selection`].
#[derive(Debug)]
pub struct FeatureRows<'a> {
    file: &'a FeaturesFile,
    taps: Vec<(String, usize)>,
    /// Tokens of all rows: one each for `token` and `cls`, those to average for `mean`.
    tokens: Vec<u32>,
    /// Where each row's tokens end, for `mean` alone.
    ends: Option<Vec<u32>>,
    clusters: Vec<u32>,
    available: usize,
}

impl<'a> FeatureRows<'a> {
    /// Rows of `file` at `taps` (all where empty).
    pub fn new(
        file: &'a FeaturesFile,
        taps: &[String],
        selection: &Selection,
    ) -> Result<Self, FeaturesError> {
        let all: Vec<String> = file.taps().into_iter().map(str::to_owned).collect();
        let names = if taps.is_empty() { all } else { taps.to_vec() };
        let taps = names
            .into_iter()
            .map(|name| file.width(&name).map(|width| (name, width)))
            .collect::<Result<_, _>>()?;
        let special = |token: u32| file.info().special_ids.contains(&i64::from(token));
        let keep = |token: &usize| selection.special || !special(file.input_ids()[*token]);
        let (mut tokens, mut ends, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
        for (index, span) in file.rows().iter().enumerate() {
            let before = tokens.len();
            match selection.rows {
                RowKind::Token => tokens.extend(span.tokens.clone().filter(keep).map(|t| t as u32)),
                RowKind::Cls => tokens.push(span.tokens.start as u32),
                RowKind::Mean => {
                    tokens.extend(span.tokens.clone().filter(keep).map(|t| t as u32));
                    // A row of special tokens alone still has a mean.
                    if tokens.len() == before {
                        tokens.extend(span.tokens.clone().map(|t| t as u32));
                    }
                    ends.push(tokens.len() as u32);
                }
            }
            let rows = if selection.rows == RowKind::Mean {
                ends.len()
            } else {
                tokens.len()
            };
            clusters.resize(rows, index as u32);
        }
        let ends = (selection.rows == RowKind::Mean).then_some(ends);
        let available = clusters.len();
        let mut all = FeatureRows {
            file,
            taps,
            tokens,
            ends,
            clusters,
            available,
        };
        if let Some(limit) = selection.limit.filter(|limit| *limit < available) {
            all.keep(&draw(available, limit, selection.seed));
        }
        Ok(all)
    }

    /// Leaves the given rows alone.
    fn keep(&mut self, rows: &[usize]) {
        let tokens = rows.iter().flat_map(|&i| self.row(i).to_vec()).collect();
        let mut end = 0;
        self.ends = self.ends.is_some().then(|| {
            let length = |&i: &usize| {
                end += self.row(i).len() as u32;
                end
            };
            rows.iter().map(length).collect()
        });
        self.tokens = tokens;
        self.clusters = rows.iter().map(|&i| self.clusters[i]).collect();
    }

    /// The tokens of a row, at least one.
    fn row(&self, row: usize) -> &[u32] {
        match &self.ends {
            None => &self.tokens[row..row + 1],
            Some(ends) => {
                let start = if row == 0 { 0 } else { ends[row - 1] as usize };
                &self.tokens[start..ends[row] as usize]
            }
        }
    }

    /// The file.
    pub fn file(&self) -> &'a FeaturesFile {
        self.file
    }

    /// Rows that there were before the limit.
    pub fn available(&self) -> usize {
        self.available
    }

    /// The token that stands for a row (the first one of a mean).
    pub fn token(&self, row: usize) -> usize {
        self.row(row)[0] as usize
    }
}

/// `count` of `0..n` without replacement, rising.
pub fn draw(n: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    let (drawn, _) = all.partial_shuffle(&mut ChaCha8Rng::seed_from_u64(seed), count.min(n));
    let mut drawn = drawn.to_vec();
    drawn.sort_unstable();
    drawn
}

impl TapSource<f32> for FeatureRows<'_> {
    fn len(&self) -> usize {
        self.clusters.len()
    }

    fn taps(&self) -> &[(String, usize)] {
        &self.taps
    }

    fn read(
        &self,
        tap: usize,
        rows: Range<usize>,
        into: &mut Vec<f32>,
    ) -> Result<(), FeaturesError> {
        let (name, width) = &self.taps[tap];
        into.clear();
        let mut span = Vec::new();
        let mut at = rows.start;
        while at < rows.end {
            // One read serves all rows that lie close together in the file.
            let first = self.row(at)[0] as usize;
            let mut end = at;
            let mut last = first;
            while end < rows.end {
                let row = self.row(end);
                let (from, to) = (row[0] as usize, row[row.len() - 1] as usize);
                if end > at && from > last + 8 {
                    break;
                }
                last = to;
                end += 1;
            }
            self.file.read_tap(name, first..last + 1, &mut span)?;
            for row in (at..end).map(|i| self.row(i)) {
                let value = |token: u32| {
                    &span[(token as usize - first) * width..(token as usize - first + 1) * width]
                };
                if let [token] = *row {
                    into.extend_from_slice(value(token));
                } else {
                    let mut mean = vec![0.0_f64; *width];
                    for &token in row {
                        mean.iter_mut()
                            .zip(value(token))
                            .for_each(|(m, v)| *m += f64::from(*v));
                    }
                    into.extend(mean.iter().map(|m| (m / row.len() as f64) as f32));
                }
            }
            at = end;
        }
        Ok(())
    }

    fn cluster(&self, row: usize) -> usize {
        self.clusters[row] as usize
    }
}

/// Matrices in memory, every row a cluster of its own unless told otherwise.
#[derive(Clone, Debug)]
pub struct Memory<T> {
    taps: Vec<(String, usize)>,
    values: Vec<Vec<T>>,
    clusters: Vec<usize>,
}

impl<T: Real> Memory<T> {
    /// Taps as `(name, width, values)`, values `[n, width]` row-major.
    ///
    /// # Panics
    /// If the taps differ in their number of rows.
    pub fn new(taps: Vec<(String, usize, Vec<T>)>) -> Self {
        let n = taps
            .first()
            .map_or(0, |(_, width, values)| values.len() / width);
        assert!(
            taps.iter()
                .all(|(_, width, values)| values.len() == n * width),
            "taps of unequal length"
        );
        let (names, values) = taps
            .into_iter()
            .map(|(name, width, values)| ((name, width), values))
            .unzip();
        Memory {
            taps: names,
            values,
            clusters: (0..n).collect(),
        }
    }

    /// The same with the cluster of each row.
    ///
    /// # Panics
    /// If there are not as many clusters as rows.
    pub fn with_clusters(mut self, clusters: Vec<usize>) -> Self {
        assert_eq!(clusters.len(), self.clusters.len());
        self.clusters = clusters;
        self
    }
}

impl<T: Real> TapSource<T> for Memory<T> {
    fn len(&self) -> usize {
        self.clusters.len()
    }
    fn taps(&self) -> &[(String, usize)] {
        &self.taps
    }
    fn read(&self, tap: usize, rows: Range<usize>, into: &mut Vec<T>) -> Result<(), FeaturesError> {
        let width = self.taps[tap].1;
        into.clear();
        into.extend_from_slice(&self.values[tap][rows.start * width..rows.end * width]);
        Ok(())
    }
    fn cluster(&self, row: usize) -> usize {
        self.clusters[row]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::features::{FeaturesInfo, FeaturesWriter, Slot};

    /// Three rows of 4, 3 and 2 tokens between special tokens 1 and 2; one tap of width 2 with `[t, -t]` at token `t`.
    fn file() -> FeaturesFile {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.safetensors");
        let ints = ["input_ids", "row", "position"].map(|name| Slot::ints(name, &[9]));
        let slots = ints
            .into_iter()
            .chain([Slot::floats("embedding", &[9, 2])])
            .collect();
        let info = FeaturesInfo {
            special_ids: vec![1, 2],
            ..FeaturesInfo::default()
        };
        let mut writer = FeaturesWriter::create(&path, &info, slots).unwrap();
        writer
            .ints("input_ids", 0, &[1, 7, 8, 2, 1, 9, 2, 1, 2])
            .unwrap();
        writer.ints("row", 0, &[5, 5, 5, 5, 3, 3, 3, 4, 4]).unwrap();
        writer
            .ints("position", 0, &[0, 1, 2, 3, 0, 1, 2, 0, 1])
            .unwrap();
        let values: Vec<f32> = (0..9_u8)
            .flat_map(|t| [f32::from(t), -f32::from(t)])
            .collect();
        writer.floats("embedding", 0, &values).unwrap();
        writer.finish().unwrap();
        FeaturesFile::open(&path).unwrap()
    }

    fn first_column(rows: RowKind, special: bool) -> (Vec<f32>, Vec<usize>) {
        let file = file();
        let source = FeatureRows::new(
            &file,
            &[],
            &Selection {
                rows,
                special,
                ..Selection::default()
            },
        )
        .unwrap();
        let values = source.whole(0).unwrap();
        assert!(values.chunks_exact(2).all(|v| v[0] == -v[1]));
        // Any rows in any blocks are the same rows.
        let mut some = Vec::new();
        for i in 0..source.len() {
            source.gather(0, &[i], &mut some).unwrap();
            assert_eq!(some, values[2 * i..2 * i + 2]);
        }
        let clusters = (0..source.len()).map(|i| source.cluster(i)).collect();
        (values.chunks_exact(2).map(|v| v[0]).collect(), clusters)
    }

    #[test]
    fn rows_are_tokens_first_tokens_or_means_without_special_tokens_unless_asked_for() {
        assert_eq!(
            first_column(RowKind::Token, false),
            (vec![1.0, 2.0, 5.0], vec![0, 0, 1])
        );
        assert_eq!(first_column(RowKind::Token, true).0.len(), 9);
        assert_eq!(
            first_column(RowKind::Cls, false),
            (vec![0.0, 4.0, 7.0], vec![0, 1, 2])
        );
        // The last row has special tokens alone: their mean stands for it.
        assert_eq!(
            first_column(RowKind::Mean, false),
            (vec![1.5, 5.0, 7.5], vec![0, 1, 2])
        );
        assert_eq!(first_column(RowKind::Mean, true).0, [1.5, 5.0, 7.5]);
    }

    #[test]
    fn a_limit_draws_the_same_rows_again_and_a_tap_must_exist() {
        let file = file();
        let selection = Selection {
            special: true,
            limit: Some(4),
            seed: 3,
            ..Selection::default()
        };
        let of = || {
            FeatureRows::new(&file, &[], &selection)
                .unwrap()
                .whole(0)
                .unwrap()
        };
        let rows = FeatureRows::new(&file, &[], &selection).unwrap();
        assert_eq!((rows.len(), rows.available()), (4, 9));
        assert_eq!(of(), of());
        assert!(of().chunks_exact(2).map(|v| v[0]).is_sorted());
        let error = FeatureRows::new(&file, &["layer.0.trunk".to_owned()], &selection).unwrap_err();
        assert!(
            error.to_string().contains("layer.0.trunk") && error.to_string().contains("embedding")
        );
    }
}
