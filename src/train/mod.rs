//! Training: configuration, optimizer, checkpoints, the run that every kind of training shares, and pre-training.

pub mod checkpoint;
pub mod config;
pub mod metrics;
pub mod optimizer;
pub mod pretrain;
pub mod run;
pub mod schedule;
pub mod step;
