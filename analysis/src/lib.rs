//! Results computed from runs: records of the run log, pre-training curves.
//!
//! Everything here is plain data in and plain data out (JSON, CSV); the figures in crate `tcd-plots` are functions of these
//! types. No libtorch.

pub mod curve;
pub mod features;
pub mod metrics;

pub use curve::{CurveError, CurvePoint, PretrainingCurve};
pub use features::{FeaturesError, FeaturesFile, FeaturesInfo, FeaturesWriter, RowSpan, Slot};
pub use metrics::{Metrics, MetricsError, read_metrics};
