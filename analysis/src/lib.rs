//! What runs and models are explained by: training curves, similarity of hidden states, geometry, probes, routing, transfer.
//!
//! Two kinds of files come in: a run's `metrics.jsonl` ([`metrics`], [`curve`]) and features files ([`features`]), which hold one model's
//! hidden states on one sample. Measures read them through [`source`]; results are plain data with their [`provenance`] that go out as JSON
//! and CSV, and the figures in crate `tcd-plots` are functions of these types. No libtorch.

pub mod cka;
mod columns;
pub mod compare;
pub mod curve;
pub mod features;
pub mod geometry;
pub mod likelihood;
pub mod linalg;
pub mod metrics;
pub mod probe;
pub mod projection;
pub mod provenance;
pub mod routing;
pub mod similarity;
pub mod source;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod trace;
pub mod transfer;

pub use curve::{CurveError, CurvePoint, PretrainingCurve};
pub use features::{FeaturesError, FeaturesFile, FeaturesInfo, FeaturesWriter, RowSpan, Slot};
pub use metrics::{Metrics, MetricsError, read_metrics};
