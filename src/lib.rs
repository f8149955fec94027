//! `tcd`: transfer capability distillation, from text to explained models.
//!
//! The modules follow the way of the data: [`data`] turns text into token shards and masked batches, `model` and `train`
//! (feature `train`, over libtorch) turn batches into model directories, which crate `tcd_export` describes, and `distill`
//! lets a teacher take part; `study` makes one resumable whole of all commands.
//! [`cli`] is the program.

pub mod cli;
pub mod data;
#[cfg(feature = "train")]
pub mod distill;
pub mod eval;
pub mod figures;
pub mod files;
pub mod machine;
#[cfg(feature = "train")]
pub mod model;
pub mod report;
pub mod run_log;
pub mod seed;
#[cfg(feature = "train")]
pub mod study;
#[cfg(feature = "train")]
pub mod train;
