//! Batches through an engine, and what its outputs say.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tcd_export::runtime::{Output, Runnable, RuntimeError};
use thiserror::Error;

use super::encode::{BatchSize, EncodedSet, Padded, batches};
use super::labels::{Answer, LabelMap};
use super::metrics::Answers;
use crate::data::glue::{Example, Kind, Target, Task};

/// Why a set could not be evaluated.
#[derive(Debug, Error)]
pub enum RunError {
    /// The engine failed.
    #[error("the engine failed on a batch of {batch} rows by {sequence} tokens")]
    Engine {
        /// Rows.
        batch: usize,
        /// Positions.
        sequence: usize,
        /// What it says.
        #[source]
        source: RuntimeError,
    },
    /// The model has no `logits`, or not of the shape that the task needs.
    #[error("the model gives {got}, expected `logits` of shape {expected:?}")]
    Outputs {
        /// Names and shapes.
        got: String,
        /// The shape.
        expected: [usize; 2],
    },
    /// An output is not a number.
    #[error("the model's output for row {row} is not a number: {outputs:?}")]
    NotANumber {
        /// The row, counted from 0.
        row: usize,
        /// The outputs.
        outputs: Vec<f32>,
    },
    /// Nothing to run on.
    #[error("no session of the model was given")]
    NoSession,
    /// The person asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Outputs of a model for each row of a set, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    /// Outputs a row, `C`.
    pub width: usize,
    /// `[N, C]`, in the model's own order of labels.
    pub values: Vec<f32>,
}

impl Logits {
    /// The outputs of each row.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The answers to each row.
    ///
    /// # Errors
    /// The first row with an output that is not a number.
    pub fn answers(&self, map: &LabelMap) -> Result<Vec<Answer>, RunError> {
        self.rows()
            .enumerate()
            .map(|(row, outputs)| {
                map.answer(outputs).ok_or_else(|| RunError::NotANumber {
                    row,
                    outputs: outputs.to_vec(),
                })
            })
            .collect()
    }
}

/// Runs a set through sessions of one model, each on a thread of its own, batches of about equal lengths and few enough rows that
/// all sessions have work, and restores the order. `done` hears how many rows each batch finished; once `stop` is set, no new batch begins.
pub fn run(
    sessions: &mut [Box<dyn Runnable>],
    set: &EncodedSet,
    size: BatchSize,
    width: usize,
    stop: &AtomicBool,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Logits, RunError> {
    let batches = batches(set, size.shared(set, sessions.len()));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let values = Mutex::new(vec![0f32; set.rows.len() * width]);
    let work = |session: &mut dyn Runnable| -> Result<(), RunError> {
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return Err(RunError::Stopped);
            }
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let result = one(session, set, batch, width);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            let logits = result?;
            let mut values = values.lock().unwrap_or_else(|e| e.into_inner());
            for (&row, outputs) in batch.iter().zip(logits.chunks_exact(width)) {
                values[row * width..][..width].copy_from_slice(outputs);
            }
            done(batch.len());
        }
        Ok(())
    };
    if sessions.is_empty() {
        return Err(RunError::NoSession);
    }
    beside(sessions, |_, session| work(session))?;
    let values = values.into_inner().unwrap_or_else(|e| e.into_inner());
    Ok(Logits { width, values })
}

/// Runs as many batches as there are sessions, or fewer, beside each other; the outputs of each.
pub fn together(
    sessions: &mut [Box<dyn Runnable>],
    batches: &[Padded],
) -> Result<Vec<Vec<Output>>, RunError> {
    let sessions = &mut sessions[..batches.len()];
    beside(sessions, |index, session| outputs(session, &batches[index]))
}

/// Does something with every session, each on a thread of its own, a single one on this thread; what it gives, or the first error.
pub fn beside<R: Send, E: Send>(
    sessions: &mut [Box<dyn Runnable>],
    work: impl Fn(usize, &mut dyn Runnable) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if let [session] = sessions {
        return Ok(vec![work(0, session.as_mut())?]);
    }
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .iter_mut()
            .enumerate()
            .map(|(index, session)| scope.spawn(move || work(index, session.as_mut())))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

fn outputs(session: &mut dyn Runnable, padded: &Padded) -> Result<Vec<Output>, RunError> {
    session
        .run(&padded.feed())
        .map_err(|source| RunError::Engine {
            batch: padded.batch,
            sequence: padded.sequence,
            source,
        })
}

fn one(
    session: &mut dyn Runnable,
    set: &EncodedSet,
    batch: &[usize],
    width: usize,
) -> Result<Vec<f32>, RunError> {
    let padded = Padded::new(set, batch);
    let outputs = outputs(session, &padded)?;
    let expected = [batch.len(), width];
    let fits = |shape: &[usize]| shape == expected || (width == 1 && shape == [batch.len()]);
    match outputs
        .iter()
        .position(|o| o.name == "logits" && fits(&o.shape))
    {
        Some(place) => Ok(outputs
            .into_iter()
            .nth(place)
            .map_or(Vec::new(), |o| o.values)),
        None => Err(RunError::Outputs {
            got: outputs
                .iter()
                .map(|o| format!("`{}` {:?}", o.name, o.shape))
                .collect::<Vec<_>>()
                .join(", "),
            expected,
        }),
    }
}

/// Answers beside the truth; none where any label is hidden: such a set cannot be scored.
pub fn beside_truth(task: &Task, answers: &[Answer], examples: &[Example]) -> Option<Answers> {
    match task.kind {
        Kind::Classification => {
            let (mut predicted, mut gold) = (Vec::new(), Vec::new());
            for (answer, example) in answers.iter().zip(examples) {
                let (Answer::Class(p), Some(Target::Class(g))) = (answer, example.target) else {
                    return None;
                };
                predicted.push(*p);
                gold.push(g);
            }
            Some(Answers::Classes { predicted, gold })
        }
        Kind::Regression => {
            let (mut predicted, mut gold) = (Vec::new(), Vec::new());
            for (answer, example) in answers.iter().zip(examples) {
                let (Answer::Score(p), Some(Target::Score(g))) = (answer, example.target) else {
                    return None;
                };
                predicted.push(*p);
                gold.push(g);
            }
            Some(Answers::Scores { predicted, gold })
        }
    }
}

/// What looks wrong with answers: a constant, or a score that says nothing was learned.
pub fn warnings(task: &Task, answers: &Answers) -> Vec<String> {
    let mut warnings = Vec::new();
    if answers.len() > 1 && answers.is_constant() {
        let what = match answers {
            Answers::Classes { predicted, .. } => predicted
                .first()
                .and_then(|&class| task.labels.get(class))
                .map_or(String::new(), |label| label.name.to_owned()),
            Answers::Scores { predicted, .. } => predicted
                .first()
                .map_or(String::new(), |score| format!("{score}")),
        };
        warnings.push(format!("constant prediction: every row is given `{what}`"));
    }
    for &metric in task.metrics {
        let score = answers.score(metric);
        if score.is_nan() {
            warnings.push(format!("{} is undefined", metric.name()));
        } else if score == 0.0 {
            warnings.push(format!("{} is 0", metric.name()));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::encode::Row;
    use tcd_export::runtime::Feed;

    /// Gives each row the sum of its real tokens, and of those of type 1, so a row in a wrong place or a padded position shows.
    struct Sums {
        name: &'static str,
    }

    impl Runnable for Sums {
        fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError> {
            let (b, s) = (feed.batch, feed.sequence);
            if s > 30 {
                return Err("a row is too long".into());
            }
            let mut values = Vec::new();
            for row in 0..b {
                let cells = row * s..(row + 1) * s;
                let real = cells.filter(|&i| feed.attention_mask[i] == 1);
                let (mut all, mut second) = (0, 0);
                for i in real {
                    all += feed.input_ids[i];
                    second += feed.input_ids[i] * feed.token_type_ids[i];
                }
                values.extend([all as f32, second as f32]);
            }
            Ok(vec![Output {
                name: self.name.to_owned(),
                shape: vec![b, 2],
                values,
            }])
        }

        fn workers(self: Box<Self>) -> Vec<Box<dyn Runnable>> {
            vec![self]
        }
    }

    fn set(lengths: &[usize]) -> EncodedSet {
        let row = |n: usize| Row {
            ids: vec![n as u32; n],
            second: n / 2,
        };
        EncodedSet {
            rows: lengths.iter().map(|&n| row(n)).collect(),
            truncated: 0,
            pad: 7,
        }
    }

    fn go(
        sessions: usize,
        name: &'static str,
        lengths: &[usize],
        width: usize,
    ) -> Result<Logits, RunError> {
        let mut sessions: Vec<Box<dyn Runnable>> = (0..sessions)
            .map(|_| Box::new(Sums { name }) as _)
            .collect();
        let counted = AtomicUsize::new(0);
        let result = run(
            &mut sessions,
            &set(lengths),
            BatchSize::Tokens(64),
            width,
            &AtomicBool::new(false),
            &|rows| {
                counted.fetch_add(rows, Ordering::Relaxed);
            },
        );
        assert!(result.is_err() || counted.into_inner() == lengths.len());
        result
    }

    #[test]
    fn outputs_come_in_the_order_of_the_rows_whatever_the_batches() {
        let lengths: Vec<usize> = (0..200).map(|i| 2 + (i * 37) % 29).collect();
        for sessions in [1, 3] {
            let logits = go(sessions, "logits", &lengths, 2).unwrap();
            for (outputs, n) in logits.rows().zip(&lengths) {
                assert_eq!(outputs, [(n * n) as f32, (n * (n - n / 2)) as f32]);
            }
        }
    }

    #[test]
    fn batches_beside_each_other_give_what_each_gives_alone() {
        let set = set(&[4, 9, 6, 31]);
        let mut sessions: Vec<Box<dyn Runnable>> = (0..3)
            .map(|_| Box::new(Sums { name: "logits" }) as _)
            .collect();
        let padded = |rows: &[usize]| Padded::new(&set, rows);
        for count in 1..=3 {
            let batches = &[padded(&[0]), padded(&[1, 2]), padded(&[2])][..count];
            let all = together(&mut sessions, batches).unwrap();
            assert_eq!(all.len(), count);
            for (got, batch) in all.iter().zip(batches) {
                assert_eq!(*got, outputs(sessions[0].as_mut(), batch).unwrap());
            }
        }
        let wrong = together(&mut sessions, &[padded(&[0]), padded(&[3])]);
        assert!(matches!(wrong, Err(RunError::Engine { sequence: 31, .. })));
    }

    #[test]
    fn failures_of_engine_and_model_are_told() {
        assert!(matches!(
            go(2, "logits", &[5, 31, 6], 2),
            Err(RunError::Engine { sequence: 31, .. })
        ));
        let error = go(1, "hidden", &[5], 2).unwrap_err().to_string();
        assert!(
            error.contains("`hidden` [1, 2]") && error.contains("[1, 2]"),
            "{error}"
        );
        assert!(matches!(
            go(1, "logits", &[5], 3),
            Err(RunError::Outputs { .. })
        ));
        assert!(matches!(go(0, "logits", &[5], 2), Err(RunError::NoSession)));
        let stopped = run(
            &mut [Box::new(Sums { name: "logits" }) as Box<dyn Runnable>],
            &set(&[5]),
            BatchSize::Rows(1),
            2,
            &AtomicBool::new(true),
            &|_| {},
        );
        assert!(matches!(stopped, Err(RunError::Stopped)));
    }

    #[test]
    fn hidden_labels_are_never_scored_and_nonsense_is_noticed() {
        let cola = Task::find("CoLA").unwrap();
        let example = |target| Example {
            index: 0,
            first: String::new(),
            second: None,
            target,
        };
        let answers = [Answer::Class(1), Answer::Class(1)];
        let seen = [
            example(Some(Target::Class(0))),
            example(Some(Target::Class(1))),
        ];
        let truth = beside_truth(cola, &answers, &seen).unwrap();
        let told = warnings(cola, &truth);
        assert_eq!(
            told,
            [
                "constant prediction: every row is given `acceptable`",
                "matthews is 0"
            ]
        );
        let part = [example(Some(Target::Class(0))), example(None)];
        assert_eq!(beside_truth(cola, &answers, &part), None);
        let sts = Task::find("STS-B").unwrap();
        let answers = [Answer::Score(2.0), Answer::Score(2.0)];
        let seen = [
            example(Some(Target::Score(0.0))),
            example(Some(Target::Score(1.0))),
        ];
        let told = warnings(sts, &beside_truth(sts, &answers, &seen).unwrap());
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[1].contains("pearson is undefined"));
        let nan = Logits {
            width: 2,
            values: vec![0.0, 1.0, f32::NAN, 0.0],
        };
        let error = nan.answers(&LabelMap::identity(cola));
        assert!(matches!(error, Err(RunError::NotANumber { row: 1, .. })));
    }
}
