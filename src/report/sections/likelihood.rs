//! Log-likelihood by corpus and token class, and transfer gaps.

use tcd_analysis::transfer::TransferPoint;
use tcd_plots::report::{Block, Cell, Table};

use super::{columns, interval};
use crate::report::find::Results;

/// Log-likelihoods.
pub fn blocks(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for found in &results.likelihood {
        let cells = found.result.cells.iter().filter(|c| c.tokens > 0);
        let rows = cells
            .map(|c| {
                vec![
                    Cell::text(&c.model),
                    Cell::text(&c.corpus),
                    Cell::text(&c.class),
                    Cell::count(c.tokens as u64),
                    Cell::number(c.log_likelihood, 4),
                    interval(c.interval, 4),
                    Cell::number(c.difference, 4),
                    interval(c.difference_interval, 4),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Masked-LM log-likelihood, nats a masked token".to_owned(),
            columns: columns(&[
                "model",
                "corpus",
                "token class",
                "#masked tokens",
                "#log-likelihood",
                "#its interval",
                "#difference to the first model",
                "#interval of the difference",
            ]),
            rows,
            notes: vec![format!(
                "Intervals at {:.0} %: bootstrap over rows of text, {} draws; differences are paired.",
                100.0 * found.result.bootstrap.confidence,
                found.result.bootstrap.draws
            )],
            sources: vec![found.source],
        }));
    }
    blocks
}

/// Transfer gaps and the points they are from.
pub fn transfer(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    // Curves of other gaps may rest on the same points.
    let mut shown: Vec<&[TransferPoint]> = Vec::new();
    for found in &results.transfer {
        let result = &found.result;
        let gaps = result
            .gaps
            .iter()
            .map(|g| {
                vec![
                    Cell::text(format!("{} − {}", g.a, g.b)),
                    Cell::number(g.gap, 3),
                    interval(g.interval, 3),
                    interval(g.overlap, 3),
                    Cell::text(format!("{} and {}", g.seeds[0], g.seeds[1])),
                    Cell::count(g.draws_without_overlap as u64),
                    Cell::text(g.reason.clone().unwrap_or_default()),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Transfer gaps: difference of scores at equal log-likelihood".to_owned(),
            columns: columns(&[
                "families",
                "#gap",
                "#interval",
                "#log-likelihoods covered by both",
                "seeds",
                "#draws without overlap",
                "remark",
            ]),
            rows: gaps,
            notes: vec![format!(
                "Above zero the first family transfers better. Intervals at {:.0} %: bootstrap over seeds, {} draws.",
                100.0 * result.bootstrap.confidence,
                result.bootstrap.draws
            )],
            sources: vec![found.source],
        }));
        if shown.contains(&result.points.as_slice()) {
            continue;
        }
        shown.push(&result.points);
        let points = result
            .points
            .iter()
            .map(|p| {
                vec![
                    Cell::text(&p.family),
                    Cell::count(p.seed),
                    Cell::count(p.step),
                    Cell::number(Some(p.log_likelihood), 4),
                    Cell::number(Some(p.score), 4),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Checkpoints of the transfer curves".to_owned(),
            columns: columns(&["family", "#seed", "#step", "#log-likelihood", "#score"]),
            rows: points,
            notes: Vec::new(),
            sources: vec![found.source],
        }));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use tcd_analysis::provenance::Provenance;
    use tcd_analysis::transfer::{Bootstrap, TransferResult};

    use super::*;
    use crate::report::find::Sourced;

    #[test]
    fn points_that_several_curves_share_are_shown_once() {
        let curve = |score: f64| Sourced {
            source: 0,
            result: TransferResult {
                provenance: Provenance::new("transfer 1", "tcd", Vec::new(), None),
                bootstrap: Bootstrap::default(),
                points: vec![TransferPoint {
                    family: "moe".to_owned(),
                    seed: 1,
                    step: 1,
                    log_likelihood: -2.0,
                    score,
                }],
                curves: Vec::new(),
                gaps: Vec::new(),
            },
        };
        let tables = |scores: &[f64]| {
            let results = Results {
                transfer: scores.iter().map(|&score| curve(score)).collect(),
                ..Results::default()
            };
            transfer(&results).len()
        };
        assert_eq!(tables(&[70.0, 70.0]), 3);
        assert_eq!(tables(&[70.0, 71.0]), 4);
    }
}
