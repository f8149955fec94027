//! GLUE: the summary, every setting, paired differences.

use std::path::PathBuf;

use tcd_plots::report::{Block, Cell, Column, Table};

use super::columns;
use crate::eval::result::TaskResult;
use crate::eval::table::{self, Shown};
use crate::report::find::Results;

/// The tables.
pub fn blocks(results: &Results) -> Vec<Block> {
    let mut blocks = Vec::new();
    let all: Vec<(PathBuf, TaskResult)> = results
        .glue
        .iter()
        .map(|(_, dir, result)| (dir.clone(), result.clone()))
        .collect();
    let sources: Vec<usize> = results.glue.iter().map(|(source, ..)| *source).collect();
    let summary = table::table(&all, Shown::Median, false);
    if !summary.rows.is_empty() {
        blocks.push(Block::Table(scores(&summary, &sources)));
        blocks.push(Block::Table(settings(&summary, &sources)));
    }
    for found in &results.glue_differences {
        let rows = found
            .result
            .iter()
            .map(|d| {
                let percent = |v: Option<f64>| Cell::number(v.map(|v| 100.0 * v), 2);
                vec![
                    Cell::text(&d.task),
                    Cell::text(&d.split),
                    Cell::text(&d.first_model),
                    Cell::text(&d.second_model),
                    Cell::count(d.rows),
                    percent(d.first),
                    percent(d.second),
                    percent(d.difference),
                    super::interval(d.low.zip(d.high).map(|(l, h)| [100.0 * l, 100.0 * h]), 2),
                    Cell::number(d.p_value, 4),
                ]
            })
            .collect();
        blocks.push(Block::Table(Table {
            title: "Paired differences, bootstrap over rows".to_owned(),
            columns: columns(&[
                "task",
                "split",
                "first",
                "second",
                "#rows",
                "#first’s score",
                "#second’s score",
                "#difference",
                "#95 % interval",
                "#p",
            ]),
            rows,
            notes: vec![
                "How much the choice of rows matters; how much seeds matter, only more seeds say."
                    .to_owned(),
            ],
            sources: vec![found.source],
        }));
    }
    blocks
}

/// Model by task.
fn scores(summary: &table::Table, sources: &[usize]) -> Table {
    let mut heads = vec![Column::text("model")];
    heads.extend(summary.tasks.iter().map(|task| Column::number(*task)));
    heads.push(Column::number("average"));
    let rows = summary
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![Cell::text(&row.model)];
            for task in &summary.tasks {
                let cell = row.cells.iter().find(|c| c.task == *task);
                let mut shown = Cell::number(cell.map(|c| 100.0 * c.score), 1);
                if let Some(c) = cell.filter(|c| c.runs > 1) {
                    shown.text += &format!(" ({:.1} to {:.1})", 100.0 * c.low, 100.0 * c.best);
                }
                cells.push(shown);
            }
            cells.push(Cell::number(row.average.map(|a| 100.0 * a), 1));
            cells
        })
        .collect();
    Table {
        title: "Scores on development sets".to_owned(),
        columns: heads,
        rows,
        notes: summary.notes.clone(),
        sources: sources.to_vec(),
    }
}

/// Every cell with its setting.
fn settings(summary: &table::Table, sources: &[usize]) -> Table {
    let mut rows = Vec::new();
    for row in &summary.rows {
        for cell in &row.cells {
            let setting = cell.finetuning.as_ref();
            rows.push(vec![
                Cell::text(&row.model),
                Cell::text(cell.task),
                Cell::number(Some(100.0 * cell.median), 2),
                Cell::number(Some(100.0 * cell.low), 2),
                Cell::number(Some(100.0 * cell.best), 2),
                Cell::count(cell.runs as u64),
                Cell::count(cell.settings as u64),
                Cell::shown(setting.map(|f| f.learning_rate), |v| v.to_string()),
                setting.map_or_else(
                    || Cell::number(None, 0),
                    |f| Cell::count(f.batch_size as u64),
                ),
                setting.map_or_else(|| Cell::number(None, 0), |f| Cell::count(f.epochs as u64)),
                setting.map_or_else(
                    || Cell::number(None, 0),
                    |f| Cell::count(f.train_rows as u64),
                ),
                Cell::text(
                    setting
                        .and_then(|f| f.start_task.clone())
                        .unwrap_or_else(|| "–".to_owned()),
                ),
            ]);
        }
    }
    Table {
        title: "Settings and spread over seeds".to_owned(),
        columns: columns(&[
            "model",
            "task",
            "#median",
            "#lowest",
            "#best",
            "#seeds",
            "#settings tried",
            "#learning rate",
            "#batch",
            "#epochs",
            "#training rows",
            "began as",
        ]),
        rows,
        notes: Vec::new(),
        sources: sources.to_vec(),
    }
}
