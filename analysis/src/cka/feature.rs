//! The linear kernel in feature space: sums from X'Y, X'1 and row norms, one pass over the rows.
//!
//! With k_i = |x_i|^2, l_i = |y_i|^2, s_x = X'1, s_y = Y'1, M = X'Y:
//! tr(KL) = |M|_F^2, (K1)_i = x_i s_x, sum (K1)_i (L1)_i = s_x' M s_y, sum (K1)_i l_i = s_x' (X'l), 1'K1 = |s_x|^2.
//! Products of some hundred rows are summed in the features' own type, everything above in f64.
//!
//! Features that fit in the budget are held, and each product is made and reduced at once; of more features a block of rows is held
//! at a time, and all products.

use rayon::prelude::*;

use super::{OneSums, PairSums, Sums};
use crate::columns::{Columns, RUN};
use crate::features::FeaturesError;
use crate::linalg::Real;
use crate::source::TapSource;

/// How much is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of features read at once.
    pub block_bytes: usize,
    /// Bytes of accumulated products; where all pairs do not fit the rows are read again for the rest.
    pub product_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            block_bytes: 96 << 20,
            product_bytes: 384 << 20,
        }
    }
}

/// One product X'Y that is being summed: taps `p`, `q` of the joined list.
struct Tile {
    of: (usize, usize),
    sum: Vec<f64>,
}

/// What is summed per tap beside the products.
struct TapSums {
    shift: Vec<f64>,
    /// X'1.
    sum: Vec<f64>,
    /// X'l for every tap's norms l, `[d, taps]`.
    weighted: Vec<f64>,
    bad_row: Option<usize>,
}

/// A block of one tap, shifted.
struct Block<T> {
    columns: Columns<T>,
    norms: Vec<f64>,
}

/// Both sides' taps as one list; where `b` is absent `a` stands on both sides.
pub(super) struct Sides<'s, T> {
    pub a: &'s dyn TapSource<T>,
    pub b: Option<&'s dyn TapSource<T>>,
}

impl<T: Real> Sides<'_, T> {
    pub fn taps(&self) -> usize {
        self.a.taps().len() + self.b.map_or(0, |b| b.taps().len())
    }

    pub fn tap(&self, index: usize) -> (&dyn TapSource<T>, usize) {
        let own = self.a.taps().len();
        match self.b {
            Some(b) if index >= own => (b, index - own),
            _ => (self.a, index),
        }
    }

    pub fn width(&self, index: usize) -> usize {
        let (source, tap) = self.tap(index);
        source.taps()[tap].1
    }

    /// The pairs that the table needs, and every tap with itself.
    pub fn tiles(&self) -> Vec<(usize, usize)> {
        let (own, all) = (self.a.taps().len(), self.taps());
        let mut tiles: Vec<_> = (0..all).map(|t| (t, t)).collect();
        match self.b {
            Some(_) => tiles.extend((0..own).flat_map(|p| (own..all).map(move |q| (p, q)))),
            None => tiles.extend((0..own).flat_map(|p| (p + 1..own).map(move |q| (p, q)))),
        }
        tiles
    }

    /// The table of results from sums per tap and per tile.
    pub fn assemble(
        &self,
        n: usize,
        one: &[OneSums],
        of: impl Fn(usize, usize) -> PairSums,
    ) -> Sums {
        let (own, all) = (self.a.taps().len(), self.taps());
        let columns: Vec<usize> = if self.b.is_some() {
            (own..all).collect()
        } else {
            (0..own).collect()
        };
        let with_itself = |t: usize| (one[t], of(t, t));
        let pairs = (0..own)
            .flat_map(|p| columns.iter().map(move |&q| (p, q)))
            .map(|(p, q)| of(p, q))
            .collect();
        Sums {
            n,
            a: (0..own).map(with_itself).collect(),
            b: columns.iter().map(|&q| with_itself(q)).collect(),
            pairs,
        }
    }
}

/// Sums of every tap of `a` against every tap of `b` (against `a` itself where `b` is absent), linear kernel.
///
/// `progress` hears the rows read and the rows to read, over all passes. `a` and `b` have equally many rows.
///
/// # Panics
/// If the numbers of rows differ.
pub fn feature_sums<T: Real>(
    a: &dyn TapSource<T>,
    b: Option<&dyn TapSource<T>>,
    budget: Budget,
    progress: &dyn Fn(usize, usize),
) -> Result<Sums, FeaturesError> {
    let n = a.len();
    assert!(
        b.is_none_or(|b| b.len() == n),
        "the two sides differ in rows"
    );
    let sides = Sides { a, b };
    let count = sides.taps();
    let widths: Vec<usize> = (0..count).map(|t| sides.width(t)).collect();
    let row_bytes = widths.iter().sum::<usize>().max(1) * size_of::<T>();
    let held = n.saturating_mul(row_bytes) <= budget.block_bytes + budget.product_bytes;
    let block = match held {
        true => n.max(1),
        false => (budget.block_bytes / row_bytes)
            .clamp(64, 1 << 16)
            .min(n.max(1)),
    };
    let mut taps = start(&sides, &widths, n.min(block).min(512))?;
    let mut norms = vec![0.0; count * count];
    let mut traces = vec![0.0; count];
    let empty = || Block {
        columns: Columns::default(),
        norms: Vec::new(),
    };
    let mut blocks: Vec<Block<T>> = (0..count).map(|_| empty()).collect();
    let mut done: Vec<(usize, usize, Products)> = Vec::new();
    if held {
        read_blocks(&sides, &mut taps, 0..n, &mut blocks, true)?;
        add_norms(&blocks, &mut norms, &mut traces);
        add_weighted(&blocks, &mut taps);
        let scratch = || (Vec::new(), Vec::new());
        let made = sides.tiles().into_par_iter().map_init(
            scratch,
            |(sum, buffer): &mut (Vec<f64>, Vec<T>), (p, q)| {
                sum.clear();
                sum.resize(widths[p] * widths[q], 0.0);
                add_tile((p, q), sum, &blocks, buffer);
                reduce((p, q), sum, &taps, &widths)
            },
        );
        done = made.collect();
        progress(n, n);
    } else {
        let passes = split(sides.tiles(), &widths, budget.product_bytes / 8);
        for (pass, tiles) in passes.iter().enumerate() {
            let mut tiles: Vec<Tile> = tiles
                .iter()
                .map(|&(p, q)| Tile {
                    of: (p, q),
                    sum: vec![0.0; widths[p] * widths[q]],
                })
                .collect();
            let mut first = 0;
            while first < n {
                let end = (first + block).min(n);
                read_blocks(&sides, &mut taps, first..end, &mut blocks, pass == 0)?;
                if pass == 0 {
                    add_norms(&blocks, &mut norms, &mut traces);
                    add_weighted(&blocks, &mut taps);
                }
                tiles
                    .par_iter_mut()
                    .for_each_init(Vec::new, |buffer, tile| {
                        add_tile(tile.of, &mut tile.sum, &blocks, buffer);
                    });
                progress(pass * n + end, passes.len() * n);
                first = end;
            }
            let made = tiles
                .par_iter()
                .map(|tile| reduce(tile.of, &tile.sum, &taps, &widths));
            done.par_extend(made);
        }
    }
    let one: Vec<OneSums> = (0..count)
        .map(|t| OneSums {
            total: taps[t].sum.iter().map(|s| s * s).sum(),
            trace: traces[t],
            bad_row: taps[t].bad_row,
        })
        .collect();
    let mut products = vec![Products::default(); count * count];
    for (p, q, found) in done {
        products[p * count + q] = found;
        products[q * count + p] = found;
    }
    let mixed = |p: usize, q: usize| -> f64 {
        (0..widths[p])
            .map(|c| taps[p].sum[c] * taps[p].weighted[c * count + q])
            .sum()
    };
    Ok(sides.assemble(n, &one, |p, q| PairSums {
        product: products[p * count + q].square,
        rows: products[p * count + q].rows,
        diagonal: norms[p * count + q],
        rows_diagonal: mixed(p, q),
        diagonal_rows: mixed(q, p),
    }))
}

#[derive(Clone, Copy, Debug, Default)]
struct Products {
    square: f64,
    rows: f64,
}

/// The shift of each tap: the mean of its first rows.
fn start<T: Real>(
    sides: &Sides<T>,
    widths: &[usize],
    rows: usize,
) -> Result<Vec<TapSums>, FeaturesError> {
    let count = widths.len();
    let mut values = Vec::new();
    (0..count)
        .map(|t| {
            let (source, tap) = sides.tap(t);
            source.read(tap, 0..rows, &mut values)?;
            let shift = column_means(&values, widths[t]);
            let sum = vec![0.0; widths[t]];
            Ok(TapSums {
                shift,
                sum,
                weighted: vec![0.0; widths[t] * count],
                bad_row: None,
            })
        })
        .collect()
}

/// Means of the columns; 0 for one that is not finite.
pub(super) fn column_means<T: Real>(values: &[T], width: usize) -> Vec<f64> {
    let mut means = vec![0.0; width];
    for row in values.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(m, v)| *m += v.wide());
    }
    let n = (values.len() / width).max(1) as f64;
    means
        .iter()
        .map(|m| {
            if m.is_finite() {
                T::of(m / n).wide()
            } else {
                0.0
            }
        })
        .collect()
}

/// Takes the shift off and gives the norms of the rows and the first row that is not finite.
pub(super) fn shift_rows<T: Real>(values: &mut [T], shift: &[f64]) -> (Vec<f64>, Option<usize>) {
    let mut norms = Vec::with_capacity(values.len() / shift.len());
    let mut bad = None;
    for (index, row) in values.chunks_exact_mut(shift.len()).enumerate() {
        let mut norm = 0.0;
        for (v, s) in row.iter_mut().zip(shift) {
            let moved = T::of(v.wide() - s);
            norm += moved.wide() * moved.wide();
            *v = moved;
        }
        if !norm.is_finite() {
            bad = bad.or(Some(index));
        }
        norms.push(norm);
    }
    (norms, bad)
}

/// Reads rows of every tap into its block; with `first`, adds them to X'1.
fn read_blocks<T: Real>(
    sides: &Sides<T>,
    taps: &mut [TapSums],
    rows: std::ops::Range<usize>,
    blocks: &mut [Block<T>],
    first: bool,
) -> Result<(), FeaturesError> {
    taps.par_iter_mut()
        .zip(blocks)
        .enumerate()
        .try_for_each_init(Vec::new, |values, (t, (sums, block))| {
            let (source, tap) = sides.tap(t);
            block.columns.start(rows.len(), sums.shift.len());
            block.norms.clear();
            for start in rows.clone().step_by(RUN) {
                source.read(tap, start..(start + RUN).min(rows.end), values)?;
                let (norms, bad) = shift_rows(values, &sums.shift);
                sums.bad_row = sums.bad_row.or(bad.map(|b| start + b));
                if first {
                    for row in values.chunks_exact(sums.sum.len()) {
                        let pairs = sums.sum.iter_mut().zip(row);
                        pairs.for_each(|(sum, value)| *sum += value.wide());
                    }
                }
                block.norms.extend(norms);
                block.columns.push(values);
            }
            Ok(())
        })
}

/// Adds the block's part of a product; of a tap's own the lower triangle.
fn add_tile<T: Real>(
    (p, q): (usize, usize),
    sum: &mut [f64],
    blocks: &[Block<T>],
    buffer: &mut Vec<T>,
) {
    let (x, y) = (&blocks[p].columns, &blocks[q].columns);
    x.add_products(y, sum, buffer, p == q);
}

fn add_norms<T>(blocks: &[Block<T>], norms: &mut [f64], traces: &mut [f64]) {
    let count = blocks.len();
    for p in 0..count {
        traces[p] += blocks[p].norms.iter().sum::<f64>();
        for q in 0..=p {
            let sum: f64 = blocks[p]
                .norms
                .iter()
                .zip(&blocks[q].norms)
                .map(|(k, l)| k * l)
                .sum();
            norms[p * count + q] += sum;
            if p != q {
                norms[q * count + p] += sum;
            }
        }
    }
}

/// X'l of every tap.
fn add_weighted<T: Real>(blocks: &[Block<T>], taps: &mut [TapSums]) {
    let rows = blocks.first().map_or(0, |b| b.norms.len());
    let mut norms = Columns::default();
    norms.start(rows, blocks.len());
    for start in (0..rows).step_by(RUN) {
        let values: Vec<T> = (start..rows.min(start + RUN))
            .flat_map(|i| blocks.iter().map(move |b| T::of(b.norms[i])))
            .collect();
        norms.push(&values);
    }
    taps.par_iter_mut()
        .zip(blocks)
        .for_each_init(Vec::new, |buffer, (sums, block)| {
            let columns = &block.columns;
            columns.add_products(&norms, &mut sums.weighted, buffer, false);
        });
}

/// |M|^2 and s_x' M s_y of a finished product; of a tap's own only the lower triangle was summed.
fn reduce(
    (p, q): (usize, usize),
    sum: &[f64],
    taps: &[TapSums],
    widths: &[usize],
) -> (usize, usize, Products) {
    let (sx, sy) = (&taps[p].sum, &taps[q].sum);
    let mut found = Products::default();
    for (i, row) in sum.chunks_exact(widths[q]).enumerate() {
        if p == q {
            let below: f64 = row[..i].iter().map(|m| m * m).sum();
            let dot: f64 = row[..i].iter().zip(sy).map(|(m, s)| m * s).sum();
            found.square += 2.0 * below + row[i] * row[i];
            found.rows += sx[i] * (2.0 * dot + row[i] * sy[i]);
        } else {
            found.square += row.iter().map(|m| m * m).sum::<f64>();
            found.rows += sx[i] * row.iter().zip(sy).map(|(m, s)| m * s).sum::<f64>();
        }
    }
    (p, q, found)
}

/// Tiles in passes of at most `limit` sums each, at least one tile a pass.
fn split(tiles: Vec<(usize, usize)>, widths: &[usize], limit: usize) -> Vec<Vec<(usize, usize)>> {
    let mut passes: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
    let mut held = 0;
    for (p, q) in tiles {
        let size = widths[p] * widths[q];
        if held > 0 && held + size > limit {
            passes.push(Vec::new());
            held = 0;
        }
        held += size;
        if let Some(pass) = passes.last_mut() {
            pass.push((p, q));
        }
    }
    passes
}
