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
    /// For `token` and `cls`: the token of each row. For `mean`: the tokens to average.
    tokens: Vec<Vec<u32>>,
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
        let mut tokens = Vec::new();
        let mut clusters = Vec::new();
        for (index, span) in file.rows().iter().enumerate() {
            let kept = span.tokens.clone().filter(keep).map(|t| t as u32);
            match selection.rows {
                RowKind::Token => tokens.extend(kept.map(|t| vec![t])),
                RowKind::Cls => tokens.push(vec![span.tokens.start as u32]),
                RowKind::Mean => {
                    let kept: Vec<u32> = kept.collect();
                    // A row of special tokens alone still has a mean.
                    tokens.push(if kept.is_empty() {
                        span.tokens.clone().map(|t| t as u32).collect()
                    } else {
                        kept
                    });
                }
            }
            clusters.resize(tokens.len(), index as u32);
        }
        let available = tokens.len();
        if let Some(limit) = selection.limit.filter(|limit| *limit < tokens.len()) {
            let kept = draw(tokens.len(), limit, selection.seed);
            tokens = kept
                .iter()
                .map(|&i| std::mem::take(&mut tokens[i]))
                .collect();
            clusters = kept.iter().map(|&i| clusters[i]).collect();
        }
        Ok(FeatureRows {
            file,
            taps,
            tokens,
            clusters,
            available,
        })
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
        self.tokens[row][0] as usize
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
        self.tokens.len()
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
            let first = self.tokens[at][0] as usize;
            let mut end = at;
            let mut last = first;
            while end < rows.end {
                let (from, to) = (
                    self.tokens[end][0] as usize,
                    *self.tokens[end].last().unwrap_or(&0) as usize,
                );
                if end > at && from > last + 8 {
                    break;
                }
                last = to;
                end += 1;
            }
            self.file.read_tap(name, first..last + 1, &mut span)?;
            for row in &self.tokens[at..end] {
                let value = |token: u32| {
                    &span[(token as usize - first) * width..(token as usize - first + 1) * width]
                };
                if let [token] = row[..] {
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
