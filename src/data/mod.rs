//! Data: text, tokenizers, token shards, masking, batches. No libtorch.

pub mod batch;
pub mod controlled;
pub mod corpus;
pub mod glue;
pub mod masking;
pub mod text;
pub mod tokenizer;

/// Says that a test on the shared real data did not run.
#[cfg(test)]
#[allow(clippy::print_stderr)]
pub(crate) fn absent(what: &str) {
    eprintln!("not tested: `../shared/data` has no {what} here");
}
