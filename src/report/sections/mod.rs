//! The sections of the page: tables, and the figures that belong to them.

use std::collections::BTreeMap;

use tcd_plots::report::{Block, Cell, Column, Section, Table};

use super::Known;
use super::find::Results;
use super::roles::Roles;

mod exported;
mod features;
mod glue;
mod likelihood;
mod training;

/// All sections that have something in them.
pub fn all(results: &Results, roles: &Roles, models: &BTreeMap<String, Known>) -> Vec<Section> {
    let mut sections = vec![section(
        "models",
        "Models",
        vec![model_table(roles, models)],
    )];
    sections.extend([
        section(
            "pre-training",
            "Pre-training",
            training::blocks(results, roles),
        ),
        section("glue", "GLUE", glue::blocks(results)),
        section(
            "transfer",
            "Transfer at equal log-likelihood",
            likelihood::transfer(results),
        ),
        section(
            "likelihood",
            "Log-likelihood by corpus",
            likelihood::blocks(results),
        ),
        section(
            "similarity",
            "Similarity of features",
            features::similarity(results),
        ),
        section(
            "geometry",
            "Geometry of features",
            features::geometry(results),
        ),
        section("probes", "Probes", features::probes(results)),
        section("routing", "Routing", features::routing(results)),
        section(
            "examples",
            "Examples on which models differ",
            features::examples(results),
        ),
        section("exported", "Exported models", exported::blocks(results)),
    ]);
    sections.retain(|s| !s.blocks.is_empty());
    sections
}

fn section(id: &str, title: &str, blocks: Vec<Block>) -> Section {
    Section {
        id: id.to_owned(),
        title: title.to_owned(),
        blocks,
    }
}

/// Columns from headings; those that begin with `#` hold numbers.
fn columns(names: &[&str]) -> Vec<Column> {
    names
        .iter()
        .map(|name| match name.strip_prefix('#') {
            Some(name) => Column::number(name),
            None => Column::text(*name),
        })
        .collect()
}

/// An interval as text, sorted by its middle.
fn interval(ends: Option<[f64; 2]>, decimals: usize) -> Cell {
    match ends {
        Some([low, high]) => Cell {
            text: format!("{low:.decimals$} to {high:.decimals$}").replace('-', "\u{2212}"),
            key: Some((low + high) / 2.0),
        },
        None => Cell::number(None, 0),
    }
}

fn model_table(roles: &Roles, models: &BTreeMap<String, Known>) -> Block {
    let rows = models
        .iter()
        .map(|(name, known)| {
            let (role, told) = roles.of(name, known.path.as_deref());
            vec![
                Cell::text(name),
                Cell::text(role.map_or("–", |r| r.words())),
                Cell::text(told.words()),
                Cell::text(
                    known
                        .path
                        .as_ref()
                        .map_or("–".to_owned(), |p| p.display().to_string()),
                ),
                Cell::text(
                    known
                        .weights
                        .as_ref()
                        .map_or("–".to_owned(), |w| w.chars().take(12).collect()),
                ),
            ]
        })
        .collect();
    Block::Table(Table {
        title: "Models and the parts they play".to_owned(),
        columns: columns(&["model", "part", "told by", "directory", "weights (BLAKE3)"]),
        rows,
        notes: vec![
            "Claims compare parts. `--role NAME=ROLE` gives a model another one (vanilla, moe, distilled, random-teacher).".to_owned(),
        ],
        sources: Vec::new(),
    })
}
