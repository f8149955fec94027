//! train
pub mod run_log;
