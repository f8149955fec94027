//! From a model's outputs to a task's labels, by name.
//!
//! Models store their labels in orders of their own: an MNLI model may say contradiction first. Outputs are matched by name (the
//! Hugging Face names, or those of the GLUE files; case, `-` and `_` do not matter). Where a model has no names, or
//! `LABEL_0`, nothing is guessed: the caller must tell the order.

use crate::data::glue::Task;

/// How the outputs of a model become answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    /// The task's label of each output; empty for a regression.
    to_task: Vec<usize>,
}

/// An answer to a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Index of the task's label.
    Class(usize),
    /// A number.
    Score(f64),
}

impl LabelMap {
    /// The identity: outputs in the task's own order, as fine-tuning here writes them.
    pub fn identity(task: &Task) -> LabelMap {
        LabelMap {
            to_task: (0..task.labels.len()).collect(),
        }
    }

    /// For a regression, given the names of the outputs.
    ///
    /// # Errors
    /// More than one output.
    pub fn regression(labels: &[String]) -> Result<LabelMap, String> {
        if labels.len() > 1 {
            return Err(format!(
                "a regression has one output, the model has {} ({})",
                labels.len(),
                labels.join(", ")
            ));
        }
        Ok(LabelMap {
            to_task: Vec::new(),
        })
    }

    /// For classes, given the names of the outputs, or the order that the caller tells.
    ///
    /// # Errors
    /// Names that are missing, mean nothing, or are not the task's, with the mend.
    pub fn classes(
        task: &Task,
        labels: &[String],
        order: Option<&[String]>,
    ) -> Result<LabelMap, String> {
        let wanted = task.label_names().join(",");
        let names = order.unwrap_or(labels);
        let tell = format!("hint: tell it with `--label-order`, such as `--label-order {wanted}`");
        let unnamed = |name: &String| {
            let name = name.to_ascii_uppercase();
            name.strip_prefix("LABEL_")
                .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        };
        if names.is_empty() || names.iter().any(unnamed) {
            return Err(format!(
                "its labels have no names{}, so their order is not known; {tell}",
                names
                    .first()
                    .map_or(String::new(), |n| format!(" but `{n}` and the like"))
            ));
        }
        let to_task = names
            .iter()
            .map(|name| {
                task.label_index(name).ok_or_else(|| {
                    format!("label `{name}` is none of the task's ({wanted}); {tell}")
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut seen = to_task.clone();
        seen.sort_unstable();
        if seen != (0..task.labels.len()).collect::<Vec<_>>() {
            return Err(format!(
                "its labels ({}) are not each of the task's once ({wanted}); {tell}",
                names.join(",")
            ));
        }
        Ok(LabelMap { to_task })
    }

    /// Outputs a row.
    pub fn outputs(&self) -> usize {
        self.to_task.len().max(1)
    }

    /// The answer of a row's outputs; of equal ones the first in the task's order wins. None where one is not a number.
    pub fn answer(&self, outputs: &[f32]) -> Option<Answer> {
        if outputs.iter().any(|v| v.is_nan()) {
            return None;
        }
        if self.to_task.is_empty() {
            return Some(Answer::Score(f64::from(*outputs.first()?)));
        }
        let mut best: Option<(usize, f32)> = None;
        for (&label, &value) in self.to_task.iter().zip(outputs) {
            let better =
                best.is_none_or(|(other, top)| value > top || (value == top && label < other));
            if better {
                best = Some((label, value));
            }
        }
        best.map(|(label, _)| Answer::Class(label))
    }

    /// A row's outputs in the task's order.
    pub fn in_task_order(&self, outputs: &[f32]) -> Vec<f32> {
        if self.to_task.is_empty() {
            return outputs.to_vec();
        }
        let mut ordered = vec![0.0; outputs.len()];
        for (&label, &value) in self.to_task.iter().zip(outputs) {
            ordered[label] = value;
        }
        ordered
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn outputs_are_matched_by_name() {
        let mnli = Task::find("MNLI").unwrap();
        let map = LabelMap::classes(
            mnli,
            &names(&["CONTRADICTION", "entailment", "Neutral"]),
            None,
        )
        .unwrap();
        assert_eq!(map.answer(&[3.0, 1.0, 2.0]), Some(Answer::Class(2)));
        assert_eq!(map.in_task_order(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(map.answer(&[1.0, 1.0, 1.0]), Some(Answer::Class(0)));
        assert_eq!(map.answer(&[1.0, f32::NAN, 1.0]), None);
        let cola = Task::find("CoLA").unwrap();
        for labels in [["0", "1"], ["unacceptable", "acceptable"]] {
            assert_eq!(
                LabelMap::classes(cola, &names(&labels), None).unwrap(),
                LabelMap::identity(cola)
            );
        }
    }

    #[test]
    fn nothing_is_guessed() {
        let mnli = Task::find("MNLI").unwrap();
        for (labels, said) in [
            (&["LABEL_0", "LABEL_1", "LABEL_2"][..], "order is not known"),
            (&[], "order is not known"),
            (&["entailment", "neutral", "other"], "`other`"),
            (&["entailment", "not_entailment"], "`not_entailment`"),
            (&["entailment", "neutral"], "each of the task's once"),
            (
                &["entailment", "neutral", "neutral"],
                "each of the task's once",
            ),
        ] {
            let error = LabelMap::classes(mnli, &names(labels), None).unwrap_err();
            assert!(
                error.contains(said) && error.contains("--label-order"),
                "{error}"
            );
        }
        let told = names(&["contradiction", "entailment", "neutral"]);
        let map = LabelMap::classes(
            mnli,
            &names(&["LABEL_0", "LABEL_1", "LABEL_2"]),
            Some(&told),
        );
        assert_eq!(
            map.unwrap().answer(&[1.0, 0.0, 0.0]),
            Some(Answer::Class(2))
        );
        assert!(LabelMap::regression(&names(&["a", "b"])).is_err());
        let score = LabelMap::regression(&[]).unwrap().answer(&[2.5]);
        assert_eq!(score, Some(Answer::Score(2.5)));
    }
}
