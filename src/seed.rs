//! Named random streams.
//!
//! Every random decision is a pure function of one run seed, the name of its stream and a position (step, epoch, row). No
//! generator is carried from step to step, so resuming at a step needs the step number alone.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The streams of randomness of a run. Each has its own seed, derived from the run seed unless set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Order of sequences in an epoch, split of documents.
    Data,
    /// Which tokens are masked, and by what.
    Mask,
    /// Initial weights.
    Init,
    /// Dropout masks.
    Dropout,
    /// Router jitter.
    Router,
    /// Positions that distillation compares.
    Distill,
}

impl Stream {
    /// The name that enters the seed; changing one changes every run.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Data => "data",
            Stream::Mask => "mask",
            Stream::Init => "init",
            Stream::Dropout => "dropout",
            Stream::Router => "router",
            Stream::Distill => "distill",
        }
    }
}

/// 32 bytes that depend on the seed, the stream and every position, and on nothing else.
fn digest(seed: u64, stream: Stream, position: &[u64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tcd seed 1\0");
    hasher.update(stream.name().as_bytes());
    hasher.update(&[0]);
    hasher.update(&seed.to_le_bytes());
    for p in position {
        hasher.update(&p.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A generator for one position of one stream.
pub fn rng(seed: u64, stream: Stream, position: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(digest(seed, stream, position))
}

/// A 64-bit seed for one position of one stream, for generators that are not ours (libtorch).
pub fn derive(seed: u64, stream: Stream, position: &[u64]) -> u64 {
    let d = digest(seed, stream, position);
    u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_and_positions_are_independent_and_repeatable() {
        let a = derive(1, Stream::Data, &[3]);
        assert_eq!(a, derive(1, Stream::Data, &[3]));
        assert_ne!(a, derive(1, Stream::Mask, &[3]));
        assert_ne!(a, derive(2, Stream::Data, &[3]));
        assert_ne!(a, derive(1, Stream::Data, &[4]));
        assert_ne!(a, derive(1, Stream::Data, &[3, 0]));
        let (mut x, mut y) = (rng(1, Stream::Data, &[3]), rng(1, Stream::Data, &[3]));
        assert_eq!(x.next_u64(), y.next_u64());
    }
}
