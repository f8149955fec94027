//! Evaluation on GLUE: the same for every engine, without libtorch.
//!
//! [`encode`] turns rows into batches, [`run`] sends them through an engine, [`labels`] maps outputs to the task's labels by name,
//! [`metrics`] scores, [`result`] and [`predictions`] are what is written, [`table`], [`bootstrap`], [`points`] and [`submission`]
//! read them.

pub mod bootstrap;
pub mod encode;
pub mod labels;
pub mod metrics;
pub mod model;
pub mod points;
pub mod predictions;
pub mod result;
pub mod run;
pub mod runtimes;
pub mod submission;
pub mod table;
