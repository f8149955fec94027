//! The table as Markdown, CSV and JSON.

use super::{Cell, Table};
use crate::data::glue::Task;
use crate::eval::result::FinetuneRecord;

impl Table {
    /// The table in Markdown, notes below.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| model |");
        let mut line = String::from("| --- |");
        for task in &self.tasks {
            let metrics = Task::find(task).map_or(Vec::new(), |t| {
                t.metrics.iter().map(|m| m.name()).collect::<Vec<_>>()
            });
            text += &format!(" {task} ({}) |", metrics.join("/"));
            line += " ---: |";
        }
        text += " average |\n";
        text += &(line + " ---: |\n");
        for row in &self.rows {
            text += &format!("| {} |", row.model.replace('|', "\\|"));
            for task in &self.tasks {
                let cell = row.cells.iter().find(|cell| cell.task == *task);
                text += &format!(" {} |", cell.map_or("-".to_owned(), Cell::to_text));
            }
            text += &format!(" {} |\n", row.average.map_or("-".to_owned(), percent));
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }

    /// The table as CSV, a line for each model and task, and one for each average.
    pub fn to_csv(&self) -> String {
        let mut text = "model,task,splits,score,median,best,lowest,runs,settings,learning_rate,batch_size,epochs,start_task\n".to_owned();
        let mut line = |cells: &[String]| {
            let quoted: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
            text += &(quoted.join(",") + "\n");
        };
        for row in &self.rows {
            for cell in &row.cells {
                let of = |f: fn(&FinetuneRecord) -> String| {
                    cell.finetuning.as_ref().map_or(String::new(), f)
                };
                line(&[
                    row.model.clone(),
                    cell.task.to_owned(),
                    cell.splits.join(" "),
                    cell.score.to_string(),
                    cell.median.to_string(),
                    cell.best.to_string(),
                    cell.low.to_string(),
                    cell.runs.to_string(),
                    cell.settings.to_string(),
                    of(|f| f.learning_rate.to_string()),
                    of(|f| f.batch_size.to_string()),
                    of(|f| f.epochs.to_string()),
                    of(|f| f.start_task.clone().unwrap_or_default()),
                ]);
            }
            if let Some(average) = row.average {
                let mut cells = vec![String::new(); 13];
                cells[0] = row.model.clone();
                cells[1] = "average".to_owned();
                cells[2] = self.averaged.join(" ");
                cells[3] = average.to_string();
                line(&cells);
            }
        }
        text
    }

    /// The table as JSON; an undefined score is null.
    pub fn to_json(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("{value:#}\n")
    }
}

impl Cell {
    /// Metrics, and the range where there are several runs.
    fn to_text(&self) -> String {
        let values: Vec<String> = self.metrics.iter().map(|&m| percent(m)).collect();
        let started = self
            .finetuning
            .as_ref()
            .is_some_and(|f| f.start_task.is_some());
        let mut text = values.join("/");
        if self.runs > 1 {
            text += &format!(" ({} to {})", percent(self.low), percent(self.best));
        }
        if started {
            text += " †";
        }
        text
    }
}

fn percent(score: f64) -> String {
    if score.is_nan() {
        "undefined".to_owned()
    } else {
        format!("{:.1}", 100.0 * score)
    }
}

/// A CSV cell, quoted where it must be (RFC 4180).
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
