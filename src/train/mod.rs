//! Training: configuration, optimizer, checkpoints, and the pre-training run.

pub mod checkpoint;
pub mod config;
pub mod optimizer;
pub mod pretrain;
pub mod schedule;
pub mod step;
