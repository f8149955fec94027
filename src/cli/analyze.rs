//! `tcd analyze`: similarity, geometry, projections, probes, routing and transfer of models, from features files.

use anyhow::Result;
use clap::Subcommand;

use super::Outcome;

mod cka;
mod common;
mod compare;
mod curve;
mod geometry;
mod likelihood;
mod points;
mod probe;
mod project;
mod routing;
mod similarity;
mod trace;

/// Sub-commands of `tcd analyze`.
///
/// All but `points` and `curve` read features files, which `tcd features` writes: one file holds one model's hidden states on one sample. A file may be
/// given as `NAME=FILE` to name the model in results. Results are JSON with the command, the models' hashes and the sample in `provenance`;
/// tables are written beside it as CSV.
#[derive(Debug, Subcommand)]
pub enum Analyze {
    /// Centred kernel alignment, layer by layer, of two models (or of one with itself).
    Cka(cka::Cka),
    /// Procrustes, SVCCA, PWCCA, RSA, relation distance and CKA between taps of two models.
    Similarity(similarity::Similarity),
    /// Spectrum, effective rank, participation ratio and anisotropy of each tap.
    Geometry(geometry::Geometry),
    /// Rows in two or three dimensions: principal components or t-SNE.
    Project(project::Project),
    /// Linear probes by layer, with a control task and held-out scores.
    Probe(probe::Probe),
    /// Load, dead experts, specialisation and agreement of mixtures of experts.
    Routing(routing::Routing),
    /// Routing of single rows, token by token.
    Trace(trace::Trace),
    /// Checkpoints of several runs with log-likelihood and GLUE average: the points of a transfer curve.
    Points(points::Points),
    /// GLUE against log-likelihood of several families, and the transfer gap between them.
    Curve(curve::Curve),
    /// Masked-LM log-likelihood by corpus and token class.
    Likelihood(likelihood::Likelihood),
    /// Rows that one of two models gets right and the other wrong, tied to their features.
    Compare(compare::Compare),
}

impl Analyze {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Analyze::Cka(c) => c.run(),
            Analyze::Similarity(c) => c.run(),
            Analyze::Geometry(c) => c.run(),
            Analyze::Project(c) => c.run(),
            Analyze::Probe(c) => c.run(),
            Analyze::Routing(c) => c.run(),
            Analyze::Trace(c) => c.run(),
            Analyze::Points(c) => c.run(),
            Analyze::Curve(c) => c.run(),
            Analyze::Likelihood(c) => c.run(),
            Analyze::Compare(c) => c.run(),
        }
    }
}
