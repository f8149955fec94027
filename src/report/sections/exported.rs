//! Exported models: files, parity of engines, speed.

use tcd_plots::report::{Block, Cell, Table};

use super::columns;
use crate::report::find::Results;

/// The tables.
pub fn blocks(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    if !results.exports.is_empty() {
        let mut rows = Vec::new();
        for (_, dir, record) in &results.exports {
            for (name, file) in &record.files {
                let bytes = [name.clone(), format!("{name}.data")]
                    .iter()
                    .filter_map(|f| std::fs::metadata(dir.join(f)).ok())
                    .map(|m| m.len())
                    .sum::<u64>();
                rows.push(vec![
                    Cell::text(dir.display().to_string()),
                    Cell::text(name),
                    Cell::text(&file.precision),
                    Cell::number((bytes > 0).then_some(bytes as f64 / 1e6), 1),
                    Cell::count(file.opset.unsigned_abs()),
                    Cell::text(file.outputs.join(", ")),
                    Cell::text(file.blake3.chars().take(12).collect::<String>()),
                ]);
            }
        }
        blocks.push(Block::Table(Table {
            title: "ONNX files".to_owned(),
            columns: columns(&[
                "directory",
                "file",
                "precision",
                "#MB",
                "#opset",
                "outputs",
                "BLAKE3",
            ]),
            rows,
            notes: Vec::new(),
            sources: results.exports.iter().map(|(source, ..)| *source).collect(),
        }));
    }
    if !results.parity.is_empty() {
        let mut rows = Vec::new();
        for found in &results.parity {
            let record = &found.result;
            for d in &record.differences {
                rows.push(vec![
                    Cell::text(&record.model),
                    Cell::text(&d.engine),
                    Cell::text(&d.output),
                    Cell::count(d.values),
                    Cell {
                        text: d.max.map_or("infinite".to_owned(), |m| format!("{m:.1e}")),
                        key: Some(d.max.unwrap_or(f64::MAX)),
                    },
                    Cell::shown(d.mean, |m| format!("{m:.1e}")),
                    Cell::text(format!("{} of {}", d.flipped, d.predictions)),
                    Cell::text(match record.reached() {
                        Some((reached, all)) => format!("{reached} of {all}"),
                        None => "–".to_owned(),
                    }),
                    Cell::text(if record.holds {
                        "holds"
                    } else {
                        "does not hold"
                    }),
                ]);
            }
        }
        blocks.push(Block::Table(Table {
            title: "Engines on the same rows".to_owned(),
            columns: columns(&[
                "model",
                "engine",
                "output",
                "#values",
                "#largest difference",
                "#mean difference",
                "predictions that differ",
                "experts reached",
                "tolerance",
            ]),
            rows,
            notes: results
                .parity
                .iter()
                .map(|p| {
                    let first = p.result.engines.first().map_or("none", String::as_str);
                    format!(
                        "{}: {} rows, held against {first}, tolerance {:e}.",
                        p.result.model, p.result.rows, p.result.tolerance
                    )
                })
                .collect(),
            sources: results.parity.iter().map(|p| p.source).collect(),
        }));
    }
    for found in &results.bench {
        let mut rows = Vec::new();
        for heat in &found.result {
            for v in &heat.verdicts {
                rows.push(vec![
                    Cell::text(&heat.title),
                    Cell::text(&v.what),
                    Cell::number(v.ratio.value, 2),
                    super::interval(v.ratio.min.zip(v.ratio.max).map(|(a, b)| [a, b]), 2),
                    Cell::text(&v.target),
                    Cell::text(if v.met { "met" } else { "not met" }),
                ]);
            }
        }
        blocks.push(Block::Table(Table {
            title: "Speed of answering beside peers".to_owned(),
            columns: columns(&[
                "model and data",
                "compared",
                "#ratio",
                "#over rounds",
                "target",
                "outcome",
            ]),
            rows,
            notes: Vec::new(),
            sources: vec![found.source],
        }));
    }
    blocks
}
