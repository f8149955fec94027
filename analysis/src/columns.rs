//! Rows made ready for products X'Y.
//!
//! In f32, on a processor with AVX-512, the columns stand in panels of 16, row by row within a panel, so that a kernel reads both
//! factors from memory in order, and every product of a tap uses the same copy of it. Elsewhere rows stay as they are, for `faer`.

use crate::linalg::{Real, add_cross};

/// Columns of a panel.
const LANES: usize = 16;
/// Rows whose products are summed in the features' own type.
pub(crate) const RUN: usize = 512;

/// One row of a panel: a line of the processor's cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Lane([f32; LANES]);

const ZERO: Lane = Lane([0.0; LANES]);

/// A matrix `[n, d]` of which products are made.
#[derive(Debug)]
pub(crate) struct Columns<T> {
    rows: usize,
    width: usize,
    form: Form<T>,
}

#[derive(Debug)]
enum Form<T> {
    /// `[n, d]`.
    Rows(Vec<T>),
    /// `[panels, rows, 16]` for each run of rows, the last panel filled up with zeros. Panels of all rows would lie so far apart that
    /// the same lines of different panels fell on the same few places of the processor's cache.
    Panels(Vec<Lane>),
}

impl<T> Default for Columns<T> {
    fn default() -> Self {
        Columns {
            rows: 0,
            width: 0,
            form: Form::Rows(Vec::new()),
        }
    }
}

impl<T: Real> Columns<T> {
    /// Lets go of what was held, for up to `rows` rows of `width`.
    pub fn start(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (0, width);
        if available::<T>() && matches!(self.form, Form::Rows(_)) {
            self.form = Form::Panels(Vec::new());
        }
        match &mut self.form {
            Form::Panels(lanes) => {
                lanes.clear();
                lanes.reserve_exact(rows * width.div_ceil(LANES));
            }
            Form::Rows(held) => {
                held.clear();
                held.reserve_exact(rows * width);
            }
        }
    }

    /// Adds rows, `[n, width]` row-major: [`RUN`] of them in every call but the last.
    ///
    /// # Panics
    /// If rows came after a last call.
    pub fn push(&mut self, values: &[T]) {
        assert!(self.rows.is_multiple_of(RUN), "rows after the last");
        let rows = values.len() / self.width;
        assert!(rows <= RUN, "a run of rows at a time");
        self.rows += rows;
        match (&mut self.form, T::singles(values)) {
            (Form::Panels(lanes), Some(values)) => pack(lanes, values, self.width),
            (Form::Rows(held), _) => held.extend_from_slice(values),
            (Form::Panels(_), None) => unreachable!("panels are of f32"),
        }
    }

    /// Adds X'Y to `sum` `[d, other's d]`, in runs of rows that are summed in `T`. With `lower`, which is for a matrix with itself,
    /// only the lower triangle (and what is cheap beside it) is added.
    ///
    /// # Panics
    /// If the rows differ in number, or `sum` in size.
    pub fn add_products(&self, other: &Self, sum: &mut [f64], buffer: &mut Vec<T>, lower: bool) {
        assert_eq!(self.rows, other.rows, "rows of both factors");
        assert_eq!(sum.len(), self.width * other.width, "values of the product");
        match (&self.form, &other.form) {
            (Form::Rows(x), Form::Rows(y)) => add_cross(sum, x, y, self.rows, RUN, buffer, lower),
            (Form::Panels(x), Form::Panels(y)) => {
                let x = Panels::new(x, self.rows, self.width);
                let y = Panels::new(y, other.rows, other.width);
                add_panels(sum, x, y, lower);
            }
            _ => unreachable!("one process holds columns in one form"),
        }
    }
}

/// Adds a run of rows as panels.
fn pack(lanes: &mut Vec<Lane>, values: &[f32], width: usize) {
    for panel in 0..width.div_ceil(LANES) {
        let from = panel * LANES;
        let wide = LANES.min(width - from);
        for row in values.chunks_exact(width) {
            let part = &row[from..from + wide];
            lanes.push(match part.first_chunk() {
                Some(whole) => Lane(*whole),
                None => {
                    let mut lane = ZERO;
                    lane.0[..wide].copy_from_slice(part);
                    lane
                }
            });
        }
    }
}

/// Panels of one matrix.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
struct Panels<'a> {
    lanes: &'a [Lane],
    rows: usize,
    width: usize,
}

impl<'a> Panels<'a> {
    fn new(lanes: &'a [Lane], rows: usize, width: usize) -> Self {
        Panels { lanes, rows, width }
    }
}

/// Whether there is a kernel for panels of `T`.
fn available<T: Real>() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = avx512::available();
    #[cfg(not(target_arch = "x86_64"))]
    let found = false;
    found && T::singles(&[]).is_some()
}

#[cfg(target_arch = "x86_64")]
fn add_panels(sum: &mut [f64], x: Panels<'_>, y: Panels<'_>, lower: bool) {
    assert!(available::<f32>(), "panels are made where they can be read");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { avx512::add(sum, x, y, lower) }
}

#[cfg(not(target_arch = "x86_64"))]
fn add_panels(_: &mut [f64], _: Panels<'_>, _: Panels<'_>, _: bool) {
    unreachable!("panels are made where they can be read");
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_load_ps, _mm512_add_pd, _mm512_cvtps_pd, _mm512_fmadd_ps,
        _mm512_load_ps, _mm512_loadu_pd, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
        _mm512_storeu_pd,
    };
    use std::ops::Range;

    use super::{LANES, Lane, Panels, RUN, ZERO};

    /// Rows of the product that are made at once; with three panels of the other factor they fill 24 of 32 registers.
    const TALL: usize = 8;
    /// Lanes of each panel that are asked for before they are read.
    const AHEAD: usize = 16;

    pub fn available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
    }

    impl<'a> Panels<'a> {
        fn count(self) -> usize {
            self.width.div_ceil(LANES)
        }

        fn run(self, panel: usize, run: &Range<usize>) -> &'a [Lane] {
            &self.lanes[run.start * self.count() + panel * run.len()..][..run.len()]
        }
    }

    // With `avx512f` alone the compiler leaves half of the registers unused.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    pub fn add(sum: &mut [f64], x: Panels<'_>, y: Panels<'_>, lower: bool) {
        for start in (0..x.rows).step_by(RUN) {
            let run = start..(start + RUN).min(x.rows);
            let mut first = 0;
            while first < y.count() {
                let left = y.count() - first;
                match left {
                    1 => add_strip::<1>(sum, x, y, first, &run, lower),
                    2 => add_strip::<2>(sum, x, y, first, &run, lower),
                    _ => add_strip::<3>(sum, x, y, first, &run, lower),
                }
                first += left.min(3);
            }
        }
    }

    /// The columns of the product that come from `N` panels of `y`.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    fn add_strip<const N: usize>(
        sum: &mut [f64],
        x: Panels<'_>,
        y: Panels<'_>,
        first: usize,
        run: &Range<usize>,
        lower: bool,
    ) {
        let right: [&[Lane]; N] = std::array::from_fn(|panel| y.run(first + panel, run));
        let column = first * LANES;
        let wide = (N * LANES).min(y.width - column);
        let mut made = [[ZERO; N]; TALL];
        for panel in if lower { first } else { 0 }..x.count() {
            let left = x.run(panel, run);
            for half in 0..LANES / TALL {
                let row = panel * LANES + half * TALL;
                match half {
                    0 => multiply::<N, 0>(left, right, &mut made),
                    _ => multiply::<N, TALL>(left, right, &mut made),
                }
                for (made, row) in made.iter().zip(row..x.width) {
                    let into = &mut sum[row * y.width + column..][..wide];
                    let (whole, rest) = into.as_chunks_mut::<LANES>();
                    for (sums, lane) in whole.iter_mut().zip(made) {
                        add_lane(sums, lane);
                    }
                    let last = &made[N - 1].0;
                    for (sum, &value) in rest.iter_mut().zip(last) {
                        *sum += f64::from(value);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    fn add_lane(sums: &mut [f64; LANES], lane: &Lane) {
        for half in 0..2 {
            let sums = sums[half * 8..].as_mut_ptr();
            // SAFETY: eight values stand there in both.
            unsafe {
                let values = _mm512_cvtps_pd(_mm256_load_ps(lane.0[half * 8..].as_ptr()));
                _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), values));
            }
        }
    }

    /// Products of columns `FROM..FROM + TALL` of one panel with `N` panels, over all their rows.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    fn multiply<const N: usize, const FROM: usize>(
        left: &[Lane],
        right: [&[Lane]; N],
        made: &mut [[Lane; N]; TALL],
    ) {
        let right = right.map(|panel| &panel[..left.len()]);
        let mut sums = [[_mm512_setzero_ps(); N]; TALL];
        for (at, lane) in left.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(left.as_ptr().wrapping_add(at + AHEAD).cast());
            for panel in right {
                _mm_prefetch::<_MM_HINT_T0>(panel.as_ptr().wrapping_add(at + AHEAD).cast());
            }
            // SAFETY: a lane is 16 aligned f32.
            let row: [_; N] =
                std::array::from_fn(|j| unsafe { _mm512_load_ps(right[j][at].0.as_ptr()) });
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(lane.0[FROM + i]);
                for j in 0..N {
                    sums[j] = _mm512_fmadd_ps(value, row[j], sums[j]);
                }
            }
        }
        for (made, sums) in made.iter_mut().zip(&sums) {
            for (lane, &sum) in made.iter_mut().zip(sums) {
                // SAFETY: a lane is 16 aligned f32.
                unsafe { _mm512_store_ps(lane.0.as_mut_ptr(), sum) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::normal;

    fn columns<T: Real>(values: &[f64], width: usize) -> Columns<T> {
        let mut made = Columns::default();
        set(&mut made, values, width);
        made
    }

    fn set<T: Real>(columns: &mut Columns<T>, values: &[f64], width: usize) {
        let values: Vec<T> = values.iter().map(|&v| T::of(v)).collect();
        columns.start(values.len() / width, width);
        values
            .chunks(RUN * width)
            .for_each(|values| columns.push(values));
    }

    fn check<T: Real>(n: usize, p: usize, q: usize, tolerance: f64) {
        let (x, y) = (normal(1, n * p), normal(2, n * q));
        let (left, right) = (columns::<T>(&x, p), columns::<T>(&y, q));
        let (mut sum, mut buffer) = (vec![1.0; p * q], Vec::new());
        left.add_products(&right, &mut sum, &mut buffer, false);
        let mut own = vec![1.0; p * p];
        left.add_products(&left, &mut own, &mut buffer, true);
        let naive = |a: &[f64], i, p, b: &[f64], j, q| -> f64 {
            1.0 + (0..n).map(|t| a[t * p + i] * b[t * q + j]).sum::<f64>()
        };
        for i in 0..p {
            for j in 0..q {
                let expected = naive(&x, i, p, &y, j, q);
                assert!((sum[i * q + j] - expected).abs() < tolerance, "{i} {j}");
            }
            for j in 0..=i {
                let expected = naive(&x, i, p, &x, j, p);
                assert!((own[i * p + j] - expected).abs() < tolerance, "own {i} {j}");
            }
        }
    }

    #[test]
    fn products_equal_loops_at_the_edges_of_panels_and_runs() {
        for (n, p, q) in [
            (1, 1, 1),
            (RUN, 16, 48),
            (RUN + 1, 15, 49),
            (2 * RUN + 3, 17, 33),
            (7, 64, 100),
        ] {
            check::<f32>(n, p, q, 1e-3);
            check::<f64>(n, p, q, 1e-10);
        }
    }

    #[test]
    fn what_was_held_leaves_no_trace() {
        let mut held = columns::<f32>(&normal(3, 9 * 40), 40);
        let values = normal(4, 6 * 19);
        set(&mut held, &values, 19);
        let fresh = columns::<f32>(&values, 19);
        let (mut a, mut b, mut buffer) = (vec![0.0; 361], vec![0.0; 361], Vec::new());
        held.add_products(&held, &mut a, &mut buffer, false);
        fresh.add_products(&fresh, &mut b, &mut buffer, false);
        assert_eq!(a, b);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn products_equal_loops(n in 0usize..60, p in 1usize..70, q in 1usize..70) {
            check::<f32>(n, p, q, 1e-4);
        }
    }
}
