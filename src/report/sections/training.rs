//! Pre-training runs.

use tcd_plots::report::{Block, Cell, Table};

use super::columns;
use crate::report::find::Results;
use crate::report::roles::Roles;

/// A line a run.
pub fn blocks(results: &Results, roles: &Roles) -> Vec<Block> {
    if results.runs.is_empty() {
        return Vec::new();
    }
    let rows = results
        .runs
        .iter()
        .map(|found| {
            let run = &found.result;
            let last = run.last();
            let role = roles.role(&run.name, Some(&run.dir));
            vec![
                Cell::text(&run.name),
                Cell::text(role.map_or("–", |r| r.name())),
                Cell::text(&run.size),
                Cell::text(run.teacher.clone().unwrap_or_else(|| "–".to_owned())),
                Cell::count(run.seed),
                run.parameters
                    .map_or_else(|| Cell::number(None, 0), Cell::count),
                last.map_or_else(|| Cell::number(None, 0), |p| Cell::count(p.step)),
                last.map_or_else(|| Cell::number(None, 0), |p| Cell::count(p.tokens)),
                Cell::number(last.map(|p| p.heldout_log_likelihood), 4),
                Cell::number(run.best().map(|p| p.heldout_log_likelihood), 4),
                Cell::number(last.map(|p| 100.0 * p.heldout_accuracy), 1),
                Cell::number(last.map(|p| p.wall_seconds / 60.0), 1),
            ]
        })
        .collect();
    let mut notes = vec![
        "Log-likelihood is that of held-out masked tokens, in nats a token: higher is better. Masks are fixed, so that runs on one corpus compare.".to_owned(),
    ];
    let unfinished: Vec<&str> = results
        .runs
        .iter()
        .filter(|r| !r.result.finished)
        .map(|r| r.result.name.as_str())
        .collect();
    if !unfinished.is_empty() {
        notes.push(format!("Not run to their end: {}.", unfinished.join(", ")));
    }
    let mut corpora: Vec<&str> = results
        .runs
        .iter()
        .map(|r| r.result.corpus.as_str())
        .collect();
    corpora.sort_unstable();
    corpora.dedup();
    if corpora.len() > 1 {
        notes.push(format!(
            "The runs are on {} corpora, across which log-likelihoods do not compare: {}.",
            corpora.len(),
            corpora.join(", ")
        ));
    }
    vec![Block::Table(Table {
        title: "Pre-training runs".to_owned(),
        columns: columns(&[
            "run",
            "part",
            "size",
            "teacher",
            "#seed",
            "#parameters",
            "#steps",
            "#tokens",
            "#log-likelihood",
            "#best",
            "#accuracy, %",
            "#minutes",
        ]),
        rows,
        notes,
        sources: results.runs.iter().map(|r| r.source).collect(),
    })]
}
