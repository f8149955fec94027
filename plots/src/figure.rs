//! A figure: a drawing with its words, its data and its marks.
//!
//! A figure function (one file a subject: `curves`, `similarity`, `routing`, ...) takes a result and gives figures. Each carries what a report
//! needs besides the picture: a title, a sentence that says in plain words what is shown, the numbers as a table, and where in
//! the picture each number stands.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, DrawingBackend};
use serde::Serialize;
use tcd_analysis::provenance::csv;

use crate::kinds::Kind;
use crate::output::{PlotError, svg_of, write_png, write_svg};
use crate::scene::{Mark, Scene};

/// The numbers of a figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Names of the columns, units included.
    pub columns: Vec<String>,
    /// Rows; a number stands in the shortest form that reads back equal, an absent one is empty.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[&str]) -> Self {
        Table {
            columns: columns.iter().map(|&c| c.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    /// As CSV with a header (RFC 4180).
    pub fn to_csv(&self) -> String {
        let header = csv("", [self.columns.clone()]);
        csv(header.trim(), self.rows.iter().cloned())
    }
}

/// The words of a figure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// What tells figures of one kind and source apart, for file names; empty where there is one.
    pub part: String,
    /// Above the figure.
    pub title: String,
    /// What it shows, one sentence.
    pub caption: String,
}

/// A figure.
#[derive(Clone, Debug)]
pub struct Figure {
    kind: &'static Kind,
    words: Words,
    scene: Scene,
    data: Table,
}

impl Figure {
    pub(crate) fn new(
        kind: &'static Kind,
        words: Words,
        scene: Scene,
        data: Table,
    ) -> Result<Self, PlotError> {
        scene.check()?;
        Ok(Figure {
            kind,
            words,
            scene,
            data,
        })
    }

    /// Its row in the table of kinds.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// A name for its files, without folder and ending: the kind, and the part where a source gives several.
    pub fn stem(&self) -> String {
        let part: String = self
            .words
            .part
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            })
            .take(60)
            .collect();
        if part.is_empty() {
            self.kind.name.to_owned()
        } else {
            format!("{}-{part}", self.kind.name)
        }
    }

    /// The title, as it stands above the drawing.
    pub fn title(&self) -> &str {
        &self.words.title
    }

    /// What is shown, in one sentence.
    pub fn caption(&self) -> &str {
        &self.words.caption
    }

    /// Width and height of the SVG in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.scene.size()
    }

    /// Draws on an area; each pixel of [`Figure::size`] becomes `scale` pixels.
    pub fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        scale: f64,
    ) -> Result<(), PlotError>
    where
        DB::ErrorType: 'static,
    {
        self.scene.draw(area, scale)
    }

    /// The drawing as SVG.
    pub fn svg(&self) -> Result<String, PlotError> {
        svg_of(self)
    }

    /// Writes a PNG of twice the size; the file appears whole or not at all.
    pub fn png(&self, path: &Path) -> Result<(), PlotError> {
        write_png(self, path)
    }

    /// Writes a file that ends in `.svg` or `.png`; it appears whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), PlotError> {
        let ending = path.extension().and_then(|e| e.to_str());
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => write_svg(self, path),
            Some("png") => write_png(self, path),
            _ => Err(PlotError::Format {
                path: path.to_owned(),
            }),
        }
    }

    /// The numbers.
    pub fn data(&self) -> &Table {
        &self.data
    }

    /// Where numbers stand in the SVG, for hover texts.
    pub fn marks(&self) -> &[Mark] {
        self.scene.marks()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kinds::kind;

    #[test]
    fn tables_are_csv_and_stems_are_file_names() {
        let mut table = Table::new(&["model, size", "score"]);
        table.push(["a \"b\"".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_csv(), "\"model, size\",score\n\"a \"\"b\"\"\",1\n");
        let stem = |part: &str| {
            let words = Words {
                part: part.into(),
                ..Words::default()
            };
            Figure::new(
                kind("load").unwrap(),
                words,
                Scene::new(9.0),
                Table::default(),
            )
            .unwrap()
            .stem()
        };
        assert_eq!(stem(""), "load");
        assert_eq!(stem("../a b"), "load-..-a-b");
    }
}
