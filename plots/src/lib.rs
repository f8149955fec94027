//! Figures as functions of results: SVG first, PNG from the same drawing code.
//!
//! A figure function takes results of crate `tcd-analysis` (or a small struct of this crate where a result comes from elsewhere) and gives
//! a [`Figure`]; [`KINDS`] is the table of what there is. Looks live in [`style`] alone. Values that are not finite are left out and
//! counted in a note; a panel without any finite value says so.

mod axis;
mod bars;
mod figure;
mod geometry;
mod heat;
mod kinds;
mod legend;
mod likelihood;
mod lines;
#[cfg(test)]
mod made;
mod output;
mod probes;
pub mod report;
mod routing;
mod scatter;
mod scene;
mod scores;
mod similarity;
pub mod style;
mod taps;
#[cfg(test)]
mod tests;
mod training;
mod transfer;

pub use figure::{Figure, Table};
pub use geometry::{projection, ranks, spectra};
pub use kinds::{KINDS, Kind, Source, kind};
pub use likelihood::{likelihood, likelihood_differences};
pub use output::PlotError;
pub use probes::probes;
pub use routing::{SentenceLayer, SentenceRouting, load, sentence, specialisation};
pub use scene::Mark;
pub use scores::{Difference, Score, Speed, differences, scores, speed};
pub use similarity::{cka, cka_grid, depth};
pub use training::{RunRecords, XAxis, curves, losses};
pub use transfer::transfer;
