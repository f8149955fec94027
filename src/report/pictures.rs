//! Figures of the results, as the page takes them, by section.

use std::path::{Path, PathBuf};

use tcd_plots::Figure;
use tcd_plots::report::{Block, Mark, Picture, Section};

use super::find::Results;
use crate::figures::{Sourced, figures_of};

/// The section of each kind of figure; a kind that is not here goes to the last one.
const PLACES: [(&str, &str); 18] = [
    ("curves", "pre-training"),
    ("losses", "pre-training"),
    ("transfer", "transfer"),
    ("cka", "similarity"),
    ("cka-grid", "similarity"),
    ("depth", "similarity"),
    ("spectra", "geometry"),
    ("ranks", "geometry"),
    ("projection", "geometry"),
    ("probes", "probes"),
    ("load", "routing"),
    ("specialisation", "routing"),
    ("sentence", "routing"),
    ("likelihood", "likelihood"),
    ("likelihood-differences", "likelihood"),
    ("scores", "glue"),
    ("differences", "glue"),
    ("speed", "exported"),
];
/// Kinds in which lightness is the value.
const BY_LIGHTNESS: [&str; 5] = ["cka", "cka-grid", "load", "specialisation", "sentence"];
/// Most figures of one kind; a study of many pairs has one for each.
const MOST_OF_A_KIND: usize = 8;

/// Puts every figure that the results allow before the tables of its section.
pub fn add(results: &mut Results, sections: &mut Vec<Section>) {
    let paths: Vec<PathBuf> = results
        .drawable
        .iter()
        .map(|&source| PathBuf::from(&results.sources[source].file))
        .collect();
    if paths.is_empty() {
        return;
    }
    let drawn = match figures_of(&paths) {
        Ok(drawn) => drawn,
        Err(error) => {
            results
                .left_out
                .push(format!("There are no figures: {}.", line(&error)));
            return;
        }
    };
    for error in &drawn.missing {
        results.left_out.push(format!("{}.", line(error)));
    }
    let mut blocks: Vec<(&str, Block)> = Vec::new();
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for sourced in &drawn.figures {
        let kind = sourced.figure.kind().name;
        // By steps says less than the same figures by tokens and by hours.
        if sourced.figure.stem() == "curves" {
            continue;
        }
        let at = match counts.iter().position(|(name, _)| *name == kind) {
            Some(at) => at,
            None => {
                counts.push((kind, 0));
                counts.len() - 1
            }
        };
        counts[at].1 += 1;
        if counts[at].1 > MOST_OF_A_KIND {
            continue;
        }
        match picture(sourced, results) {
            Ok(picture) => {
                let place = PLACES.iter().find(|(name, _)| *name == kind);
                let section = place.map_or("exported", |(_, section)| *section);
                blocks.push((section, Block::Figure(Box::new(picture))));
            }
            Err(why) => results
                .left_out
                .push(format!("{}: {why}.", sourced.figure.title())),
        }
    }
    for (kind, count) in counts {
        if count > MOST_OF_A_KIND {
            results.left_out.push(format!(
                "{} of {count} figures `{kind}`: `tcd plot {kind}` draws them.",
                count - MOST_OF_A_KIND
            ));
        }
    }
    for section in sections.iter_mut() {
        let (here, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut blocks)
            .into_iter()
            .partition(|(place, _)| *place == section.id);
        blocks = rest;
        let tables = std::mem::take(&mut section.blocks);
        section.blocks = here
            .into_iter()
            .map(|(_, block)| block)
            .chain(tables)
            .collect();
    }
    if !blocks.is_empty() {
        sections.push(Section {
            id: "more".to_owned(),
            title: "More figures".to_owned(),
            blocks: blocks.into_iter().map(|(_, block)| block).collect(),
        });
    }
}

/// An error and its causes on one line, without hints.
fn line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

fn picture(sourced: &Sourced, results: &Results) -> Result<Picture, String> {
    let figure: &Figure = &sourced.figure;
    let svg = figure.svg().map_err(|e| line(&e))?;
    let data = figure.data();
    let caption = figure.caption().trim();
    let stop = if caption.is_empty() || caption.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    Ok(Picture {
        title: format!("{}.", figure.title().trim_end_matches('.')),
        caption: format!("{caption}{stop}"),
        reading: figure.kind().reading.to_owned(),
        keep_colours: BY_LIGHTNESS.contains(&figure.kind().name),
        svg,
        size: figure.size(),
        marks: figure
            .marks()
            .iter()
            .map(|m| Mark {
                x: m.x,
                y: m.y,
                width: m.width,
                height: m.height,
                label: m.label.clone(),
            })
            .collect(),
        data: Some((data.columns.clone(), data.rows.clone())),
        sources: sourced
            .sources
            .iter()
            .filter_map(|path| place(results, path))
            .collect(),
    })
}

/// The place of a path among the sources.
fn place(results: &Results, path: &Path) -> Option<usize> {
    results
        .sources
        .iter()
        .position(|source| Path::new(&source.file) == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_figure_has_a_place() {
        for kind in &tcd_plots::KINDS {
            assert!(
                PLACES.iter().any(|(name, _)| *name == kind.name),
                "{}",
                kind.name
            );
        }
    }
}
