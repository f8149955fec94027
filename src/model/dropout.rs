//! Dropout, and where its random numbers come from.
//!
//! Every mask is a pure function of the run seed, the step and the number of the call within the step, so a resumed run
//! draws what the uninterrupted one draws. On the CPU the masks are made here, two 16-bit draws a 32-bit word of a counter
//! generator (splitmix64), in parallel over fixed blocks and so the same at any thread count: libtorch's own CPU sampler is
//! serial and takes a fifth of a small model's step. On CUDA libtorch's generator is seeded for each call.

use std::cell::Cell;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::seed::{self, Stream};

/// Elements in one block of a mask; each block has its own counter range.
const BLOCK: usize = 1 << 15;

/// Randomness of one forward pass in training: a seed and the number of draws made so far.
#[derive(Debug)]
pub struct Noise {
    seed: u64,
    position: [u64; 2],
    draws: Cell<u64>,
}

impl Noise {
    /// The noise of one micro-batch: `seed` of the run, `step` and number of the micro-batch within it.
    pub fn new(seed: u64, step: u64, micro_batch: u64) -> Self {
        Noise {
            seed,
            position: [step, micro_batch],
            draws: Cell::new(0),
        }
    }

    /// A seed for the next draw.
    fn next(&self, stream: Stream) -> u64 {
        let draw = self.draws.get();
        self.draws.set(draw + 1);
        seed::derive(
            self.seed,
            stream,
            &[self.position[0], self.position[1], draw],
        )
    }

    /// A tensor like `x` (f32, shape kept) of independent uniform values in `[low, high)`.
    pub(crate) fn uniform_like(&self, x: &Tensor, low: f64, high: f64) -> Tensor {
        let seed = self.next(Stream::Router);
        tch::manual_seed(seed as i64);
        Tensor::empty(x.size(), (x.kind(), x.device())).uniform_(low, high)
    }
}

/// Whether a layer runs for training, with what noise, or for evaluation.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a> {
    /// Dropout and jitter are off.
    Eval,
    /// Dropout and jitter draw from this noise.
    Train(&'a Noise),
}

/// Sets each element to zero with probability `p` and scales the rest by `1 / (1 - p)` (Srivastava et al. 2014); in
/// evaluation, or with `p = 0`, the input itself. On the CPU `p` is rounded to a multiple of 1/65536, and the scale with it.
pub(crate) fn dropout(x: &Tensor, p: f64, mode: Mode) -> Tensor {
    let noise = match mode {
        Mode::Train(noise) if p > 0.0 => noise,
        _ => return x.shallow_clone(),
    };
    let seed = noise.next(Stream::Dropout);
    if x.device() == Device::Cpu && x.kind() == Kind::Float {
        return x * mask(&x.size(), p, seed);
    }
    tch::manual_seed(seed as i64);
    x.dropout(p, true)
}

/// A CPU tensor of `0` and `1 / (1 - p)`.
pub(crate) fn mask(shape: &[i64], p: f64, seed: u64) -> Tensor {
    let tensor = Tensor::empty(shape, (Kind::Float, Device::Cpu));
    let threshold = ((p * 65536.0).round() as u32).min(65535);
    let keep = 65536.0 / (65536.0 - threshold as f32);
    // SAFETY: a fresh contiguous f32 CPU tensor of `numel` elements, owned here and read by nobody else yet.
    let values =
        unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) };
    values
        .par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, values)| {
            fill(
                values,
                seed.wrapping_add(
                    (block as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ seed.rotate_left(17)),
                ),
                threshold,
                keep,
            )
        });
    tensor
}

/// Fills a block from a counter generator: four 16-bit draws a 64-bit word.
#[inline(always)]
fn fill_words(values: &mut [f32], seed: u64, threshold: u32, keep: f32) {
    const LANES: usize = 8;
    let (groups, rest) = values.as_chunks_mut::<{ LANES * 4 }>();
    let mut counter = seed;
    for group in groups {
        let mut words = [0u64; LANES];
        for (lane, word) in words.iter_mut().enumerate() {
            *word =
                splitmix(counter.wrapping_add((lane as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        }
        counter = counter.wrapping_add((LANES as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for quarter in 0..4 {
            for lane in 0..LANES {
                let draw = ((words[lane] >> (16 * quarter)) & 0xFFFF) as u32;
                group[quarter * LANES + lane] = if draw < threshold { 0.0 } else { keep };
            }
        }
    }
    for (i, value) in rest.iter_mut().enumerate() {
        let word = splitmix(counter.wrapping_add((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        *value = if ((word & 0xFFFF) as u32) < threshold {
            0.0
        } else {
            keep
        };
    }
}

/// The output function of splitmix64 (Steele, Lea, Flood 2014) on a Weyl counter.
#[inline(always)]
fn splitmix(counter: u64) -> u64 {
    let mut z = counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fill(values: &mut [f32], seed: u64, threshold: u32, keep: f32) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the features are there.
            return unsafe { fill_avx512(values, seed, threshold, keep) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature is there.
            return unsafe { fill_avx2(values, seed, threshold, keep) };
        }
    }
    fill_words(values, seed, threshold, keep);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn fill_avx512(values: &mut [f32], seed: u64, threshold: u32, keep: f32) {
    fill_words(values, seed, threshold, keep);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fill_avx2(values: &mut [f32], seed: u64, threshold: u32, keep: f32) {
    fill_words(values, seed, threshold, keep);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(shape: &[i64], p: f64, seed: u64) -> Vec<f32> {
        Vec::<f32>::try_from(mask(shape, p, seed).flatten(0, -1)).expect("a vector")
    }

    #[test]
    fn rate_mean_and_correlation_are_those_of_independent_draws() {
        let n = 1 << 20;
        for p in [0.1, 0.5] {
            let v = values(&[n as i64], p, 7);
            let zeros = v.iter().filter(|x| **x == 0.0).count() as f64;
            let sigma = (n as f64 * p * (1.0 - p)).sqrt();
            assert!(
                (zeros - n as f64 * p).abs() < 5.0 * sigma + n as f64 / 65536.0,
                "p={p}: {zeros} zeros"
            );
            // Both zero at distance d: binomial with p^2.
            for d in [1usize, 8, 16, 32, 64, 32768] {
                let both = v
                    .windows(d + 1)
                    .filter(|w| w[0] == 0.0 && w[d] == 0.0)
                    .count() as f64;
                let m = (n - d) as f64;
                assert!(
                    (both - m * p * p).abs() < 6.0 * (m * p * p).sqrt() + m / 65536.0,
                    "p={p} d={d}: {both} of {}",
                    m * p * p
                );
            }
        }
    }

    #[test]
    fn a_mask_depends_on_its_seed_alone_and_not_on_the_instruction_set() {
        let a = values(&[3, 40_001], 0.1, 1);
        assert_eq!(a, values(&[3, 40_001], 0.1, 1));
        assert_ne!(a, values(&[3, 40_001], 0.1, 2));
        let mut plain = vec![0.0; BLOCK];
        fill_words(&mut plain, 1, 6554, 65536.0 / (65536.0 - 6554.0));
        assert_eq!(a[..BLOCK], plain);
    }

    #[test]
    fn evaluation_and_zero_probability_change_nothing() {
        let x = Tensor::randn([4, 5], (Kind::Float, Device::Cpu));
        let noise = Noise::new(0, 0, 0);
        assert_eq!(dropout(&x, 0.5, Mode::Eval), x);
        assert_eq!(dropout(&x, 0.0, Mode::Train(&noise)), x);
        assert_ne!(dropout(&x, 0.5, Mode::Train(&noise)), x);
    }
}
