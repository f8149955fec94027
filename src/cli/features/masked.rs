//! Masked rows and the log-likelihood of what was masked, `tcd features --masked`.
//!
//! Rows are masked as in pre-training (Devlin et al. 2019), each by a generator made of seed and row number, so that all models of one
//! vocabulary see the same masks.

use anyhow::{Result, bail};
use tcd_analysis::FeaturesWriter;
use tcd_export::runtime::Output;

use crate::cli::rows::Rows;
use crate::data::masking::{MaskedRow, Masker, MaskingConfig};
use crate::eval::encode::EncodedSet;
use crate::eval::model::Model;
use crate::seed::{Stream, rng};

/// Masks each row by a generator made of the seed and the row's number; what was there is returned.
pub(super) fn mask(set: &mut EncodedSet, model: &Model, rows: &Rows, seed: u64) -> Vec<MaskedRow> {
    let masker = Masker::new(&MaskingConfig::default(), &model.tokenizer);
    let masked = set.rows.iter_mut().zip(&rows.examples).map(|(row, of)| {
        let mut generator = rng(seed, Stream::Mask, &[of.index]);
        let mut masked = masker.mask(&row.ids, &mut generator);
        row.ids = std::mem::take(&mut masked.input);
        masked
    });
    masked.collect()
}

/// What is known of masked rows before the model runs: which tokens are targets, and the true ids.
pub(super) fn unmasked(
    writer: &mut FeaturesWriter,
    set: &EncodedSet,
    targets: &[MaskedRow],
    starts: &[usize],
) -> Result<()> {
    for ((row, target), &start) in set.rows.iter().zip(targets).zip(starts) {
        let mut ids: Vec<i64> = row.ids.iter().map(|&id| i64::from(id)).collect();
        let mut masked = vec![0; ids.len()];
        for (&position, &label) in target.positions.iter().zip(&target.labels) {
            masked[position as usize] = 1;
            ids[position as usize] = i64::from(label);
        }
        writer.ints("masked", start, &masked)?;
        writer.ints("original_ids", start, &ids)?;
    }
    Ok(())
}

/// Log-likelihoods of the masked tokens of a batch from the logits `[batch, sequence, vocabulary]`, sums in f64.
pub(super) fn likely(
    writer: &mut FeaturesWriter,
    output: &Output,
    set: &EncodedSet,
    batch: &[usize],
    targets: &[MaskedRow],
    starts: &[usize],
) -> Result<()> {
    let &[_, sequence, vocabulary] = output.shape.as_slice() else {
        bail!(
            "the model's `logits` have {} axes, not batch, sequence and vocabulary",
            output.shape.len()
        );
    };
    for (place, &row) in batch.iter().enumerate() {
        let target = &targets[row];
        let length = set.rows[row].ids.len();
        let mut values = vec![0.0_f32; length];
        for (&position, &label) in target.positions.iter().zip(&target.labels) {
            let at = (place * sequence + position as usize) * vocabulary;
            let logits = &output.values[at..][..vocabulary];
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
            let value = f64::from(logits[label as usize] - largest) - sum.ln();
            values[position as usize] = value as f32;
        }
        writer.floats("log_likelihood", starts[row], &values)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::eval::encode::Row;
    use tcd_analysis::{FeaturesFile, FeaturesInfo, Slot};

    /// log(softmax) by hand: logits ln 1, ln 2, ln 5 give 1/8, 2/8, 5/8.
    #[test]
    fn a_masked_token_is_judged_by_its_true_id() {
        let row = |ids: Vec<u32>| Row {
            second: ids.len(),
            ids,
        };
        let set = EncodedSet {
            rows: vec![row(vec![0]), row(vec![0, 1])],
            truncated: 0,
            pad: 0,
        };
        let target = |positions: Vec<u32>, labels: Vec<u32>| MaskedRow {
            positions,
            labels,
            ..MaskedRow::default()
        };
        let targets = [target(vec![0], vec![2]), target(vec![1], vec![1])];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.safetensors");
        let info: FeaturesInfo = serde_json::from_value(serde_json::json!({
            "command": "x", "model": "m", "model_blake3": "h", "tokenizer_blake3": "t", "data": "d",
            "data_blake3": "b", "special_ids": [9],
        }))
        .unwrap();
        let slots = ["input_ids", "row", "position", "masked", "original_ids"]
            .map(|name| Slot::ints(name, &[3]))
            .into_iter()
            .chain([Slot::floats("log_likelihood", &[3])])
            .collect();
        let mut writer = FeaturesWriter::create(&path, &info, slots).unwrap();
        let starts = [0, 1, 3];
        for (name, values) in [
            ("input_ids", [0, 0, 1]),
            ("row", [0, 1, 1]),
            ("position", [0, 0, 1]),
        ] {
            writer.ints(name, 0, &values).unwrap();
        }
        unmasked(&mut writer, &set, &targets, &starts).unwrap();
        // The batch has the longer row first, and the shorter one is padded.
        let (none, some) = (
            [0.0_f32; 3],
            [
                1.0_f32.ln() + 100.0,
                2.0_f32.ln() + 100.0,
                5.0_f32.ln() + 100.0,
            ],
        );
        let output = Output {
            name: "logits".into(),
            shape: vec![2, 2, 3],
            values: [none, some, some, none].concat(),
        };
        likely(&mut writer, &output, &set, &[1, 0], &targets, &starts).unwrap();
        writer.finish().unwrap();
        let file = FeaturesFile::open(&path).unwrap();
        let found = file.floats("log_likelihood").unwrap();
        for (value, expected) in found.iter().zip([0.625_f32.ln(), 0.0, 0.25_f32.ln()]) {
            assert!((value - expected).abs() < 1e-5, "{found:?}");
        }
        assert_eq!(file.small_ints("original_ids").unwrap(), [2, 0, 1]);
    }
}
