//! Data: text, tokenizers, token shards, masking, batches. No libtorch.

pub mod batch;
pub mod controlled;
pub mod corpus;
pub mod masking;
pub mod text;
pub mod tokenizer;
