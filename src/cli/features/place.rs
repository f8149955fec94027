//! Where the values of rows stand in a features file: by token, row after row, without padding.

use anyhow::Result;
use tcd_analysis::FeaturesWriter;
use tcd_export::runtime::Output;

use crate::cli::rows::Rows;
use crate::data::glue::Target;
use crate::eval::encode::{EncodedSet, Padded};

/// Tokens, rows and labels, which are known before the model runs.
pub(super) fn fixed(
    writer: &mut FeaturesWriter,
    set: &EncodedSet,
    rows: &Rows,
    starts: &[usize],
) -> Result<()> {
    for (index, row) in set.rows.iter().enumerate() {
        let ids: Vec<i64> = row.ids.iter().map(|&id| i64::from(id)).collect();
        let id = rows.examples[index].index as i64;
        writer.ints("input_ids", starts[index], &ids)?;
        writer.ints("row", starts[index], &vec![id; ids.len()])?;
        writer.ints(
            "position",
            starts[index],
            &(0..ids.len() as i64).collect::<Vec<_>>(),
        )?;
    }
    let ids: Vec<i64> = rows.examples.iter().map(|row| row.index as i64).collect();
    writer.ints("rows.id", 0, &ids)?;
    let labels: Option<Vec<f32>> = rows
        .examples
        .iter()
        .map(|row| match row.target? {
            Target::Class(label) => Some(label as f32),
            Target::Score(score) => Some(score as f32),
        })
        .collect();
    if let Some(labels) = labels {
        writer.floats("rows.label", 0, &labels)?;
    }
    Ok(())
}

/// Brings an output of a batch to its rows' places in the file, without padding.
pub(super) fn place(
    writer: &mut FeaturesWriter,
    name: &str,
    output: &Output,
    padded: &Padded,
    batch: &[usize],
    set: &EncodedSet,
    starts: &[usize],
) -> Result<()> {
    let s = padded.sequence;
    let per_row = output.values.len() / batch.len().max(1);
    for (values, &row) in output.values.chunks_exact(per_row.max(1)).zip(batch) {
        let length = set.rows[row].ids.len();
        match output.shape.as_slice() {
            _ if name == "rows.logits" => writer.floats(name, row, values)?,
            // Heads side by side.
            [_, heads, _, size] => {
                let (heads, size) = (*heads, *size);
                let of = |place: usize| {
                    (0..heads).flat_map(move |head| &values[(head * s + place) * size..][..size])
                };
                let joined: Vec<f32> = (0..length).flat_map(of).copied().collect();
                writer.floats(name, starts[row], &joined)?;
            }
            [_, _, width] => writer.floats(name, starts[row], &values[..length * width])?,
            _ if name.starts_with("expert.") => {
                let experts: Vec<i64> = values[..length]
                    .iter()
                    .map(|&expert| expert as i64)
                    .collect();
                writer.ints(name, starts[row], &experts)?;
            }
            _ => writer.floats(name, starts[row], &values[..length])?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::eval::encode::Row;
    use tcd_analysis::{FeaturesFile, FeaturesInfo, Slot};

    /// Two rows of 3 and 2 tokens, batched the longer first; each value tells where it comes from.
    #[test]
    fn values_find_their_rows_and_heads_stand_side_by_side() {
        let set = EncodedSet {
            rows: vec![
                Row {
                    ids: vec![1, 2],
                    second: 2,
                },
                Row {
                    ids: vec![3, 4, 5],
                    second: 3,
                },
            ],
            truncated: 0,
            pad: 0,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.safetensors");
        let info: BTreeMap<&str, serde_json::Value> = [
            ("command", "x".into()),
            ("model", "m".into()),
            ("model_blake3", "h".into()),
            ("tokenizer_blake3", "t".into()),
            ("data", "d".into()),
            ("data_blake3", "b".into()),
            ("special_ids", serde_json::json!([0])),
        ]
        .into();
        let info: FeaturesInfo =
            serde_json::from_value(serde_json::to_value(info).unwrap()).unwrap();
        let slots = vec![
            Slot::ints("input_ids", &[5]),
            Slot::ints("row", &[5]),
            Slot::ints("position", &[5]),
            Slot::floats("layer.0.query", &[5, 4]),
            Slot::floats("layer.0.trunk", &[5, 2]),
            Slot::ints("rows.id", &[2]),
        ];
        let examples = (0..2).map(|index| crate::data::glue::Example {
            index,
            first: String::new(),
            second: None,
            target: None,
        });
        let rows = Rows {
            examples: examples.collect(),
            name: "d".into(),
            hash: "b".into(),
            task: None,
        };
        let (starts, batch) = ([0, 2, 5], [1, 0]);
        let mut writer = FeaturesWriter::create(&path, &info, slots).unwrap();
        fixed(&mut writer, &set, &rows, &starts).unwrap();
        let padded = Padded::new(&set, &batch);
        // [B, S, H] with value 100 * (row of the batch) + 10 * position + column
        let trunk = (0..2).flat_map(|b| {
            (0..3).flat_map(move |s| (0..2).map(move |h| (100 * b + 10 * s + h) as f32))
        });
        // [B, A, S, D]
        let query = (0..2).flat_map(|b| {
            (0..2).flat_map(move |a| {
                (0..3).flat_map(move |s| {
                    (0..2).map(move |d| (1000 * b + 100 * a + 10 * s + d) as f32)
                })
            })
        });
        for (name, shape, values) in [
            ("layer.0.trunk", vec![2, 3, 2], trunk.collect()),
            (
                "layer.0.query",
                vec![2, 2, 3, 2],
                query.collect::<Vec<f32>>(),
            ),
        ] {
            let output = Output {
                name: name.to_owned(),
                shape,
                values,
            };
            place(&mut writer, name, &output, &padded, &batch, &set, &starts).unwrap();
        }
        writer.finish().unwrap();
        assert!(FeaturesFile::open(&path).is_ok());
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            file.tensor(name)
                .unwrap()
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| f32::from_le_bytes(*word))
                .collect()
        };
        // The batch's second row is the file's first.
        assert_eq!(
            floats("layer.0.trunk"),
            [100.0, 101.0, 110.0, 111.0, 0.0, 1.0, 10.0, 11.0, 20.0, 21.0]
        );
        assert_eq!(
            floats("layer.0.query")[..8],
            [
                1000.0, 1001.0, 1100.0, 1101.0, 1010.0, 1011.0, 1110.0, 1111.0
            ]
        );
    }
}
