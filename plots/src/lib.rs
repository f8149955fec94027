//! Figures as functions of results: SVG first, PNG from the same drawing code.
//!
//! A figure takes a result of crate `tcd-analysis` and a drawing area. Looks live in [`style`] alone. Non-finite values are
//! left out and counted in a footnote; a panel without any finite value says so.

mod curves;
mod output;
pub mod report;
pub mod style;

pub use curves::{CurveOptions, XAxis, draw_curves, write_curves};
pub use output::{PlotError, write_figure};
