//! What a reader of the table must know, in sentences below it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cell, Row, Shown, Table};
use crate::data::glue::{Role, TASKS, Task};

impl Table {
    fn cells(&self) -> impl Iterator<Item = (&Row, &Cell)> {
        self.rows
            .iter()
            .flat_map(|row| row.cells.iter().map(move |cell| (row, cell)))
    }

    pub(super) fn make_notes(&self, with_wnli: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let several = self.cells().any(|(_, cell)| cell.runs > 1);
        let settings = self.cells().any(|(_, cell)| cell.settings > 1);
        notes.push(format!(
            "Scores are on development sets, times 100{}{}.",
            match (several, self.shown) {
                (false, _) => "",
                (true, Shown::Median) =>
                    "; of several seeds the median is shown, with the lowest and the highest",
                (true, Shown::Best) =>
                    "; of several seeds the best is shown, with the lowest and the highest",
            },
            if settings {
                ", of the setting whose median is best on the same development set"
            } else {
                ""
            }
        ));
        let in_full = |names: &[&'static str]| {
            let name = |task: &&'static str| {
                let mut splits: Vec<&str> = self
                    .cells()
                    .filter(|(_, cell)| cell.task == *task)
                    .flat_map(|(_, cell)| cell.splits.iter().map(String::as_str))
                    .collect();
                splits.sort_unstable();
                splits.dedup();
                format!("{task} ({})", splits.join(", "))
            };
            names.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        if !self.averaged.is_empty() {
            notes.push(format!("The average is over {}.", in_full(&self.averaged)));
        }
        let left_out: Vec<String> = TASKS
            .iter()
            .filter(|task| task.in_average && !self.averaged.contains(&task.name))
            .map(|task| {
                let lacks: Vec<&str> = self
                    .rows
                    .iter()
                    .filter(|row| row.cells.iter().all(|cell| cell.task != task.name))
                    .map(|row| row.model.as_str())
                    .collect();
                if lacks.is_empty() && !with_wnli {
                    format!("{} (left out by default)", task.name)
                } else if lacks.len() == self.rows.len() {
                    format!("{} (no results)", task.name)
                } else {
                    format!("{} (none of {})", task.name, lacks.join(", "))
                }
            })
            .collect();
        if !left_out.is_empty() {
            notes.push(format!("Not in the average: {}.", left_out.join(", ")));
        }
        let uneven: BTreeSet<&str> = self
            .cells()
            .filter(|(_, cell)| {
                let wanted = Task::find(cell.task).map_or(0, |t| t.splits_of(Role::Dev).count());
                cell.splits.len() < wanted
            })
            .map(|(_, cell)| cell.task)
            .collect();
        for task in uneven {
            notes.push(format!(
                "{task}: only part of its development sets was scored: {}.",
                in_full(&[Task::find(task).map_or("", |t| t.name)])
            ));
        }
        let mut started: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (_, cell) in self.cells() {
            if let Some(from) = cell
                .finetuning
                .as_ref()
                .and_then(|f| f.start_task.as_deref())
            {
                started.entry(from).or_default().insert(cell.task);
            }
        }
        for (from, tasks) in started {
            let tasks: Vec<&str> = tasks.into_iter().collect();
            notes.push(format!(
                "† began as the model fine-tuned on {from}, not as the pre-trained one: {}.",
                tasks.join(", ")
            ));
        }
        let unofficial: BTreeSet<&String> = self
            .cells()
            .flat_map(|(_, cell)| &cell.unofficial)
            .collect();
        for what in unofficial {
            notes.push(format!(
                "{what}: scores on it do not compare with published ones."
            ));
        }
        for (row, cell) in self.cells() {
            for warning in &cell.warnings {
                notes.push(format!("{}, {} {warning}.", row.model, cell.task));
            }
        }
        notes
    }
}
