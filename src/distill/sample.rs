//! Which positions of a batch take part: drawn once, used for teacher and student alike.

use tch::{Device, Kind, Tensor};

use crate::data::batch::Batch;
use crate::data::masking::shuffle_front;
use crate::seed::{Stream, rng};

/// What is drawn from each batch.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Positions, `n`; 0 for all.
    pub positions: usize,
    /// Tokens never drawn, such as `[CLS]` and `[SEP]`; empty where they take part.
    pub excluded: Vec<i64>,
    /// Seed of the run's `distill` stream.
    pub seed: u64,
}

/// What was drawn from one batch.
#[derive(Debug)]
pub struct Sample {
    /// Real positions, flat in `B*S`, ascending, `[n]`, i64.
    pub positions: Tensor,
    /// Sequences of about `n` positions together, ascending, `[B']`, i64: for relations within a sequence.
    pub rows: Tensor,
    /// 1 at their real tokens, f32, `[B', S]`; absent where all are.
    pub mask: Option<Tensor>,
    /// What features are compared in: f32 in training.
    kind: Kind,
}

impl Sampler {
    /// Draws from a batch: a function of seed, step and micro-batch.
    ///
    /// `None` where the batch has fewer than two positions to draw: relations are between two.
    pub fn draw(&self, batch: &Batch, step: u64, micro: u64, device: Device) -> Option<Sample> {
        let real = |i: &usize| batch.attention_mask[*i] != 0;
        let mut positions: Vec<i64> = (0..batch.input_ids.len())
            .filter(|i| real(i) && !self.excluded.contains(&batch.input_ids[*i]))
            .map(|i| i as i64)
            .collect();
        if positions.len() < 2 {
            return None;
        }
        let mut rows: Vec<i64> = (0..batch.batch as i64).collect();
        if self.positions > 0 {
            let mut rng = rng(self.seed, Stream::Distill, &[step, micro]);
            let wanted = self.positions.min(positions.len());
            shuffle_front(&mut positions, wanted, &mut rng);
            positions.truncate(wanted);
            positions.sort_unstable();
            let wanted = self.positions.div_ceil(batch.sequence).min(rows.len());
            shuffle_front(&mut rows, wanted, &mut rng);
            rows.truncate(wanted);
            rows.sort_unstable();
        }
        let mask = (!batch.all_real).then(|| {
            let length = batch.sequence;
            let mask: Vec<f32> = rows
                .iter()
                .flat_map(|r| &batch.attention_mask[*r as usize * length..][..length])
                .map(|m| *m as f32)
                .collect();
            Tensor::from_slice(&mask)
                .view([rows.len() as i64, length as i64])
                .to_device(device)
        });
        Some(Sample {
            positions: Tensor::from_slice(&positions).to_device(device),
            rows: Tensor::from_slice(&rows).to_device(device),
            mask,
            kind: Kind::Float,
        })
    }
}

impl Sample {
    /// The same positions, compared in f64.
    pub fn precise(mut self) -> Self {
        self.kind = Kind::Double;
        self
    }

    /// The drawn positions of a hidden state.
    ///
    /// # Shapes
    /// `[B, S, H]` to `[n, H]`.
    pub fn tokens(&self, x: &Tensor) -> Tensor {
        x.flatten(0, 1)
            .index_select(0, &self.positions)
            .to_kind(self.kind)
    }

    /// The drawn positions of vectors by head, heads side by side.
    ///
    /// # Shapes
    /// `[B, A, S, D]` to `[n, A*D]`.
    pub fn joined(&self, x: &Tensor) -> Tensor {
        let flat = x.transpose(1, 2).flatten(2, 3); // [B, S, A*D]
        self.tokens(&flat)
    }

    /// The drawn sequences of vectors by head.
    ///
    /// # Shapes
    /// `[B, A, S, D]` to `[B', A, S, D]`.
    pub fn sequences(&self, x: &Tensor) -> Tensor {
        x.index_select(0, &self.rows).to_kind(self.kind)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn batch() -> Batch {
        // Rows of 4, 2 and 3 real tokens of 4; 101 and 102 are [CLS] and [SEP].
        let ids = [101, 7, 8, 102, 101, 102, 0, 0, 101, 9, 102, 0];
        let mask = [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0];
        Batch {
            batch: 3,
            sequence: 4,
            input_ids: ids.to_vec(),
            attention_mask: mask.to_vec(),
            real_tokens: 9,
            ..Batch::default()
        }
    }

    fn ids(t: &Tensor) -> Vec<i64> {
        Vec::<i64>::try_from(t).unwrap()
    }

    #[test]
    fn draws_real_positions_without_repeats_and_repeatably() {
        let sampler = Sampler {
            positions: 5,
            excluded: Vec::new(),
            seed: 1,
        };
        let draw = |step| sampler.draw(&batch(), step, 0, Device::Cpu).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..200 {
            let drawn = ids(&draw(step).positions);
            assert_eq!(drawn.len(), 5);
            assert!(drawn.windows(2).all(|w| w[0] < w[1]));
            assert!(
                drawn
                    .iter()
                    .all(|p| batch().attention_mask[*p as usize] == 1)
            );
            assert_eq!(drawn, ids(&draw(step).positions));
            seen.insert(drawn);
        }
        assert!(seen.len() > 50, "{} different draws of 126", seen.len());
    }

    #[test]
    fn leaves_special_tokens_out_and_takes_all_when_asked() {
        let all = |excluded: &[i64], positions| Sampler {
            positions,
            excluded: excluded.to_vec(),
            seed: 1,
        };
        let drawn = |s: Sampler| ids(&s.draw(&batch(), 0, 0, Device::Cpu).unwrap().positions);
        assert_eq!(drawn(all(&[], 0)), [0, 1, 2, 3, 4, 5, 8, 9, 10]);
        assert_eq!(drawn(all(&[101, 102], 0)), [1, 2, 9]);
        assert_eq!(drawn(all(&[101, 102], 99)), [1, 2, 9]);
        let none = all(&[101, 102, 7, 8], 0);
        assert!(none.draw(&batch(), 0, 0, Device::Cpu).is_none());
    }

    #[test]
    fn sequences_hold_about_as_many_positions() {
        let sampler = Sampler {
            positions: 5,
            excluded: Vec::new(),
            seed: 1,
        };
        let sample = sampler.draw(&batch(), 3, 0, Device::Cpu).unwrap();
        assert_eq!(sample.rows.size(), [2]);
        assert_eq!(sample.mask.unwrap().size(), [2, 4]);
    }
}
