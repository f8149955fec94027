//! Training: configuration, optimizer, checkpoints, the run that every kind of training shares, pre-training and fine-tuning.

pub mod checkpoint;
pub mod config;
pub mod finetune;
pub mod metrics;
pub mod optimizer;
pub mod pretrain;
pub mod run;
pub mod schedule;
pub mod step;
