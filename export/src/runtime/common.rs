//! What every engine for ONNX files needs: which inputs a file wants, whether a batch fits, and damage that must not end the
//! process.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::onnx::OnnxFile;
use crate::onnx::proto::DataType;
use crate::onnx::read::Port;

use super::{Feed, Options, Output, RuntimeError};

/// What goes wrong with a model on an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine refuses the model.
    #[error("{engine} cannot load `{}`: {why}; hint: {hint}", path.display())]
    Load {
        /// The engine.
        engine: &'static str,
        /// The model.
        path: PathBuf,
        /// What the engine says.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// The engine fails on a batch.
    #[error(
        "{engine} failed on a batch of {batch} rows and {sequence} positions: {why}; hint: another engine may take the file, `--runtime` names it"
    )]
    Run {
        /// The engine.
        engine: &'static str,
        /// Rows.
        batch: usize,
        /// Positions.
        sequence: usize,
        /// What the engine says.
        why: String,
    },
    /// The model wants something else than tokens.
    #[error(
        "unknown input of `{}`: `{name}`{kind}; hint: known are `input_ids`, `attention_mask` and `token_type_ids`, integers of two axes",
        path.display()
    )]
    Input {
        /// The model.
        path: PathBuf,
        /// The input.
        name: String,
        /// Its type, where that is what is wrong.
        kind: String,
    },
    /// An output that the model does not have.
    #[error("no output `{name}` in `{}`; hint: it has {}", path.display(), known.join(", "))]
    Output {
        /// The model.
        path: PathBuf,
        /// The output asked for.
        name: String,
        /// What it has.
        known: Vec<String>,
    },
    /// A batch whose parts do not belong together.
    #[error("a batch of {batch} rows and {sequence} positions has {got} values in `{name}`")]
    Feed {
        /// Rows.
        batch: usize,
        /// Positions.
        sequence: usize,
        /// The part.
        name: &'static str,
        /// Its values.
        got: usize,
    },
    /// A batch without rows or positions, or longer than the model takes.
    #[error("a batch of {batch} rows and {sequence} positions; hint: at least one of each, and at most {} positions", limit.map_or("any number of".to_owned(), |n| n.to_string()))]
    Size {
        /// Rows.
        batch: usize,
        /// Positions.
        sequence: usize,
        /// Longest row that the model takes.
        limit: Option<usize>,
    },
    /// A token that the model does not have.
    #[error(
        "token id {id} is outside the model's vocabulary of {size}; hint: use the model's own tokenizer"
    )]
    Token {
        /// The token.
        id: i64,
        /// Tokens of the model.
        size: usize,
    },
}

/// An input that models have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `input_ids`.
    Ids,
    /// `attention_mask`.
    Mask,
    /// `token_type_ids`.
    Types,
}

impl Input {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::Types => "token_type_ids",
        }
    }

    /// Its values in a batch.
    pub fn of<'a>(self, feed: &Feed<'a>) -> &'a [i64] {
        match self {
            Self::Ids => feed.input_ids,
            Self::Mask => feed.attention_mask,
            Self::Types => feed.token_type_ids,
        }
    }
}

/// A model's inputs and outputs, as far as an engine has to know them.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The model.
    pub path: PathBuf,
    /// Inputs in the file's order; true where they are i32 instead of i64.
    pub inputs: Vec<(Input, bool)>,
    /// Outputs to compute.
    pub outputs: Vec<String>,
    /// Longest row.
    pub limit: Option<usize>,
    /// Tokens of the model.
    pub vocabulary: Option<usize>,
    /// Whether a row's result depends on the rest of its batch, so that a batch must not be cut into parts.
    pub undivided: bool,
    /// Whether experts compute slices of sorted rows, as the metadata tell.
    pub sorted: bool,
    /// Experts a layer, 0 in a vanilla model, as the metadata tell.
    pub experts: usize,
    /// Whether this program wrote the file, so that every output has an entry for each row.
    pub own: bool,
}

impl Signature {
    /// Looks into a model and finds what to feed and to fetch.
    ///
    /// # Errors
    /// A file that cannot be used, an input that is not known, an output that it does not have.
    pub fn read(path: &Path, options: &Options) -> Result<Self, RuntimeError> {
        let file = OnnxFile::open(path)?;
        let inputs = file
            .inputs
            .iter()
            .map(|port| input(&file.path, port))
            .collect::<Result<Vec<_>, _>>()?;
        let known: Vec<_> = file.outputs.iter().map(|port| port.name.clone()).collect();
        if let Some(name) = options.outputs.iter().find(|name| !known.contains(name)) {
            return Err(EngineError::Output {
                path: file.path,
                name: name.clone(),
                known,
            }
            .into());
        }
        let outputs = if options.outputs.is_empty() {
            known
        } else {
            options.outputs.clone()
        };
        Ok(Self {
            inputs,
            outputs,
            limit: file.max_positions(),
            vocabulary: file.vocab_size(),
            undivided: file.own("capacity_factor").is_some(),
            sorted: file.own("moe_form") == Some("sorted"),
            experts: file
                .own("experts")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            own: file.own("head").is_some(),
            path: file.path,
        })
    }

    /// Whether a batch is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, feed: &Feed<'_>) -> Result<(), EngineError> {
        let (batch, sequence) = (feed.batch, feed.sequence);
        if batch == 0 || sequence == 0 || self.limit.is_some_and(|limit| sequence > limit) {
            return Err(EngineError::Size {
                batch,
                sequence,
                limit: self.limit,
            });
        }
        for input in [Input::Ids, Input::Mask, Input::Types] {
            let got = input.of(feed).len();
            if batch.checked_mul(sequence) != Some(got) {
                return Err(EngineError::Feed {
                    batch,
                    sequence,
                    name: input.name(),
                    got,
                });
            }
        }
        if let Some(size) = self.vocabulary {
            let known = |id: &i64| usize::try_from(*id).is_ok_and(|id| id < size);
            if let Some(&id) = feed.input_ids.iter().find(|id| !known(id)) {
                return Err(EngineError::Token { id, size });
            }
        }
        Ok(())
    }
}

fn input(path: &Path, port: &Port) -> Result<(Input, bool), EngineError> {
    let wrong = |kind: String| EngineError::Input {
        path: path.to_owned(),
        name: port.name.clone(),
        kind,
    };
    let known = [Input::Ids, Input::Mask, Input::Types]
        .into_iter()
        .find(|input| input.name() == port.name);
    let known = known.ok_or_else(|| wrong(String::new()))?;
    if port.shape.as_ref().is_some_and(|shape| shape.len() != 2) {
        return Err(wrong(format!(
            " of {} axes",
            port.shape.as_ref().map_or(0, Vec::len)
        )));
    }
    match port.element {
        Some(DataType::Int64) => Ok((known, false)),
        Some(DataType::Int32) => Ok((known, true)),
        other => Err(wrong(other.map_or(" of unknown type".to_owned(), |kind| {
            format!(" of type {kind:?}")
        }))),
    }
}

/// Cuts a batch into parts of whole rows, one for each worker, runs each on a thread of its own and puts the outputs together.
///
/// # Errors
/// What the first part that fails says.
pub fn spread<W: Send>(
    workers: &mut [W],
    feed: &Feed<'_>,
    run: impl Fn(&mut W, &Feed<'_>) -> Result<Vec<Output>, String> + Sync,
) -> Result<Vec<Output>, String> {
    let parts = parts(feed, workers.len());
    if let ([only], [worker, ..]) = (parts.as_slice(), &mut *workers) {
        return run(worker, only);
    }
    let run = &run;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .zip(&parts)
            .map(|(worker, part)| scope.spawn(move || run(worker, part)))
            .collect();
        let ended = |_| Err("a thread ended".to_owned());
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(ended))
            .collect()
    });
    let mut whole: Vec<Output> = Vec::new();
    for part in results {
        let part = part?;
        if whole.is_empty() {
            whole = part;
            continue;
        }
        for (all, more) in whole.iter_mut().zip(part) {
            all.shape[0] += more.shape.first().copied().unwrap_or(0);
            all.values.extend(more.values);
        }
    }
    Ok(whole)
}

/// A batch cut into at most so many parts of whole rows.
fn parts<'a>(feed: &Feed<'a>, most: usize) -> Vec<Feed<'a>> {
    let rows = feed.batch.div_ceil(most.clamp(1, feed.batch));
    let step = rows * feed.sequence;
    let chunks = feed
        .input_ids
        .chunks(step)
        .zip(feed.attention_mask.chunks(step));
    chunks
        .zip(feed.token_type_ids.chunks(step))
        .map(|((input_ids, attention_mask), token_type_ids)| Feed {
            batch: input_ids.len() / feed.sequence,
            sequence: feed.sequence,
            input_ids,
            attention_mask,
            token_type_ids,
        })
        .collect()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs something that may panic on damaged content; a panic becomes an error, its message the error's.
///
/// # Errors
/// What it says, or the panic's message.
pub fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(before);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "it gave up".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_next_run_goes_on() {
        assert_eq!(guarded(|| Ok(1)), Ok(1));
        let index = std::hint::black_box(5);
        let error = guarded(|| Ok([1, 2][index])).unwrap_err();
        assert!(error.contains("out of bounds"), "{error}");
        assert_eq!(guarded::<()>(|| Err("no".to_owned())), Err("no".to_owned()));
        assert!(!QUIET.get());
    }
}
