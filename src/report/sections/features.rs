//! Analyses of hidden states: similarity, geometry, probes, routing, examples.

use tcd_analysis::provenance::Provenance;
use tcd_analysis::similarity::measure;
use tcd_plots::report::{Block, Cell, Column, Table};

use super::{columns, interval};
use crate::report::find::Results;

/// `vanilla and moe`.
fn names(provenance: &Provenance) -> String {
    let mut names: Vec<&str> = provenance.models.iter().map(|m| m.name.as_str()).collect();
    names.dedup();
    match names.as_slice() {
        [one] => format!("{one} with itself"),
        _ => names.join(" and "),
    }
}

fn reason(reason: Option<&impl ToString>) -> Cell {
    Cell::text(reason.map(ToString::to_string).unwrap_or_default())
}

/// CKA of taps of one name, then the other measures.
pub fn similarity(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for found in &results.cka {
        let result = &found.result;
        let alone = result.provenance.models.len() < 2;
        let rows: Vec<Vec<Cell>> = result
            .cells
            .iter()
            .filter(|c| alone != (c.a == c.b))
            .map(|c| {
                vec![
                    Cell::text(if c.a == c.b {
                        c.a.clone()
                    } else {
                        format!("{} − {}", c.a, c.b)
                    }),
                    Cell::number(c.cka, 3),
                    interval(c.interval, 3),
                    Cell::number(c.null_high, 3),
                    Cell::number(c.p_value, 3),
                    reason(c.reason.as_ref()),
                ]
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        blocks.push(Block::Table(Table {
            title: format!("CKA of {}", names(&result.provenance)),
            columns: columns(&["tap", "#CKA", "#interval", "#unrelated features reach", "#p", "remark"]),
            rows,
            notes: vec![format!(
                "{} of one name, of {} cells; {} estimator. Interval and null are those of {} rows.",
                if alone { "Different taps, not" } else { "Taps" },
                result.cells.len(),
                serde_json::to_value(result.options.estimator).unwrap_or_default().as_str().unwrap_or_default(),
                result.options.resampling.rows
            )],
            sources: vec![found.source],
        }));
    }
    for found in &results.similarity {
        let result = &found.result;
        let mut heads = vec![Column::text("tap")];
        heads.extend(result.measures.iter().map(Column::number));
        let rows: Vec<Vec<Cell>> = result
            .taps_a
            .iter()
            .filter(|tap| result.taps_b.contains(tap))
            .map(|tap| {
                let mut cells = vec![Cell::text(tap)];
                cells.extend(result.measures.iter().map(|name| {
                    let cell = result
                        .cells
                        .iter()
                        .find(|c| c.measure == *name && c.a == *tap && c.b == *tap);
                    Cell::number(cell.and_then(|c| c.value), 3)
                }));
                cells
            })
            .collect();
        let notes = result
            .measures
            .iter()
            .filter_map(|name| Some(format!("{name}: {}.", measure(name)?.description)))
            .collect();
        blocks.push(Block::Table(Table {
            title: format!(
                "Similarity of {}, taps of one name",
                names(&result.provenance)
            ),
            columns: heads,
            rows,
            notes,
            sources: vec![found.source],
        }));
    }
    blocks
}

/// Geometry by tap, and what projections keep.
pub fn geometry(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for found in &results.geometry {
        let rows = found
            .result
            .taps
            .iter()
            .map(|t| {
                let m = t.measures.as_ref();
                vec![
                    Cell::text(&t.model),
                    Cell::text(&t.tap),
                    Cell::count(t.width as u64),
                    Cell::count(t.rows as u64),
                    Cell::number(m.map(|m| m.effective_rank), 2),
                    Cell::number(m.map(|m| m.participation_ratio), 2),
                    Cell::number(m.and_then(|m| m.anisotropy), 3),
                    Cell::number(m.map(|m| m.mean_norm), 2),
                    Cell::number(m.map(|m| 100.0 * m.top_share), 1),
                    reason(t.reason.as_ref()),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Geometry by tap".to_owned(),
            columns: columns(&[
                "model",
                "tap",
                "#width",
                "#rows",
                "#effective rank",
                "#participation ratio",
                "#mean cosine",
                "#mean norm",
                "#first direction, % of variance",
                "remark",
            ]),
            rows,
            notes: Vec::new(),
            sources: vec![found.source],
        }));
    }
    for found in &results.projection {
        let result = &found.result;
        let rows = result
            .taps
            .iter()
            .map(|t| {
                let shares = t.variance_share.as_ref();
                vec![
                    Cell::text(&t.tap),
                    Cell::count(t.points.len() as u64),
                    Cell::number(Some(t.total_variance), 3),
                    Cell {
                        text: shares.map_or("–".to_owned(), |s| {
                            s.iter()
                                .map(|v| format!("{:.1}", 100.0 * v))
                                .collect::<Vec<_>>()
                                .join(", ")
                        }),
                        key: shares.map(|s| s.iter().sum()),
                    },
                ]
            })
            .collect();
        let without = result.taps.iter().all(|t| t.variance_share.is_none());
        let notes = match without {
            true => vec!["t-SNE has no shares of variance.".to_owned()],
            false => Vec::new(),
        };
        blocks.push(Block::Table(Table {
            title: format!(
                "Projection of {}, labelled by {}",
                result
                    .provenance
                    .models
                    .first()
                    .map_or("", |m| m.name.as_str()),
                result.label_kind.replace('_', " ")
            ),
            columns: columns(&[
                "tap",
                "#rows",
                "#total variance",
                "#% of variance by component",
            ]),
            rows,
            notes,
            sources: vec![found.source],
        }));
    }
    blocks
}

/// Probes.
pub fn probes(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for found in &results.probe {
        let rows = found
            .result
            .cells
            .iter()
            .map(|c| {
                let s = c.scores.as_ref();
                vec![
                    Cell::text(&c.model),
                    Cell::text(&c.task),
                    Cell::text(&c.tap),
                    Cell::text(s.map_or("–", |s| s.metric.as_str())),
                    Cell::number(s.map(|s| s.score), 3),
                    Cell::number(s.map(|s| s.baseline), 3),
                    Cell::number(s.map(|s| s.control), 3),
                    Cell::number(s.map(|s| s.selectivity), 3),
                    s.map_or_else(
                        || Cell::number(None, 0),
                        |s| Cell::count(s.test_rows as u64),
                    ),
                    reason(c.reason.as_ref()),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Linear probes, held-out scores".to_owned(),
            columns: columns(&[
                "model", "task", "tap", "metric", "#score", "#baseline", "#control", "#selectivity", "#rows", "remark",
            ]),
            rows,
            notes: vec!["The control task has random labels; selectivity is the score less the control's. One split of the rows: no interval.".to_owned()],
            sources: vec![found.source],
        }));
    }
    blocks
}

/// Experts.
pub fn routing(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for found in &results.routing {
        let result = &found.result;
        let rows = result
            .layers
            .iter()
            .map(|l| {
                let share = |kind: &str| {
                    let grouping = l.groupings.iter().find(|g| g.kind == kind);
                    Cell::number(
                        grouping
                            .and_then(|g| g.information_share)
                            .map(|s| 100.0 * s),
                        1,
                    )
                };
                vec![
                    Cell::text(&l.model),
                    Cell::count(l.layer as u64),
                    Cell::count(l.experts as u64),
                    Cell::count(l.tokens),
                    Cell::number(l.load_entropy_share, 3),
                    Cell::number(
                        l.load.iter().copied().reduce(f64::max).map(|s| 100.0 * s),
                        1,
                    ),
                    Cell::count(l.dead.len() as u64),
                    Cell::number(l.gate_mean, 3),
                    share("token_class"),
                    share("task"),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Experts by layer".to_owned(),
            columns: columns(&[
                "model", "#layer", "#experts", "#tokens", "#evenness of load", "#busiest expert, % of tokens", "#dead",
                "#mean gate", "#told by token class, %", "#told by task, %",
            ]),
            rows,
            notes: vec!["Evenness is the entropy of the load over that of an even one. Told by: what the token class, or the task, says of the expert, as a share of what there is to say.".to_owned()],
            sources: vec![found.source],
        }));
        if !result.agreement.is_empty() {
            let rows = result
                .agreement
                .iter()
                .map(|a| {
                    vec![
                        Cell::count(a.layer_a as u64),
                        Cell::count(a.tokens),
                        Cell::number(a.equal.map(|v| 100.0 * v), 1),
                        Cell::number(Some(100.0 * a.matched), 1),
                        Cell::number(a.adjusted_rand, 3),
                        Cell::number(a.normalised_information, 3),
                    ]
                })
                .collect();
            blocks.push(Block::Table(Table {
                title: format!("Agreement of routing, {}", names(&result.provenance)),
                columns: columns(&[
                    "#layer",
                    "#tokens",
                    "#same expert, %",
                    "#same after matching experts, %",
                    "#adjusted Rand index",
                    "#normalised information",
                ]),
                rows,
                notes: Vec::new(),
                sources: vec![found.source],
            }));
        }
    }
    blocks
}

/// Examples that one model gets right and the other wrong.
pub fn examples(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    for found in &results.compare {
        let result = &found.result;
        let [both, only_a, only_b, neither] = result.counts;
        let (a, b) = match result.provenance.models.as_slice() {
            [a, b] => (a.name.as_str(), b.name.as_str()),
            _ => ("the first", "the second"),
        };
        let significant = if result.mcnemar_p < 0.05 {
            ""
        } else {
            ", which chance explains as well"
        };
        blocks.push(Block::Text(format!(
            "{a} and {b} on the same {} rows: both right on {both}, only {a} on {only_a}, only {b} on {only_b}, neither on {neither}. Accuracy {:.1} % and {:.1} %; McNemar’s exact p is {:.3}{significant}.",
            both + only_a + only_b + neither,
            100.0 * result.accuracy[0],
            100.0 * result.accuracy[1],
            result.mcnemar_p
        )));
        let rows = result
            .taps
            .iter()
            .map(|t| {
                vec![
                    Cell::text(&t.tap),
                    Cell::number(t.differing, 4),
                    Cell::number(t.agreeing, 4),
                    Cell::number(t.auc, 3),
                    Cell::number(t.p_value, 3),
                    reason(t.reason.as_ref()),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: format!("Relation differences of {a} and {b}, by tap"),
            columns: columns(&["tap", "#where one is right", "#elsewhere", "#AUC", "#p", "remark"]),
            rows,
            notes: vec!["AUC is the probability that a row on which just one model is right has the larger difference; 0.5 is no relation. Single rows stand in the source.".to_owned()],
            sources: vec![found.source],
        }));
    }
    blocks
}
