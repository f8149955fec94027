//! Writing a figure to a file, SVG or PNG.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plotters::prelude::{BitMapBackend, IntoDrawingArea, SVGBackend};

use crate::figure::Figure;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Nothing to draw.
    #[error("there is nothing to draw: {what}")]
    Empty {
        /// What is missing.
        what: String,
    },
    /// The figure would be too large.
    #[error(
        "the figure would be too large: {width:.0}x{height:.0} pixels\nhint: give fewer models, layers or rows"
    )]
    Large {
        /// Width it would have.
        width: f64,
        /// Height it would have.
        height: f64,
    },
    /// A result contradicts itself.
    #[error("the result is not whole: {what}")]
    Result {
        /// What is wrong with it.
        what: String,
    },
    /// The embedded font cannot be read.
    #[error("the embedded font cannot be read")]
    Font,
    /// The file's ending names no format.
    #[error("unknown figure format: {path}\nhint: end the name in `.svg` or `.png`", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Drawing failed.
    #[error("drawing failed")]
    Draw(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file cannot be written.
    #[error("cannot write the figure: {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl PlotError {
    pub(crate) fn empty(what: impl Into<String>) -> Self {
        PlotError::Empty { what: what.into() }
    }

    pub(crate) fn result(what: impl Into<String>) -> Self {
        PlotError::Result { what: what.into() }
    }
}

/// PNG pixels for one pixel of the figure.
const PNG_SCALE: u32 = 2;
/// Most pixels of a PNG at that scale; a larger figure gets one for one.
const PNG_PIXELS: u64 = 60_000_000;

/// The figure as SVG.
pub(crate) fn svg_of(figure: &Figure) -> Result<String, PlotError> {
    let mut text = String::new();
    figure.draw(
        &SVGBackend::with_string(&mut text, figure.size()).into_drawing_area(),
        1.0,
    )?;
    Ok(text)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PlotError {
    let path = path.to_owned();
    move |source| PlotError::Io { path, source }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Writes an SVG to a sibling, then renames it.
pub(crate) fn write_svg(figure: &Figure, path: &Path) -> Result<(), PlotError> {
    let temporary = beside(path, ".tmp");
    fs::write(&temporary, svg_of(figure)?).map_err(failed(path))?;
    fs::rename(&temporary, path).map_err(failed(path))
}

/// Writes a PNG to a sibling, then renames it.
pub(crate) fn write_png(figure: &Figure, path: &Path) -> Result<(), PlotError> {
    // The bitmap encoder goes by the ending.
    let temporary = beside(path, ".tmp.png");
    // An unwritable place is found before the drawing, with the system's own reason.
    fs::write(&temporary, []).map_err(failed(path))?;
    let (width, height) = figure.size();
    let pixels = u64::from(width) * u64::from(height) * u64::from(PNG_SCALE * PNG_SCALE);
    let scale = if pixels > PNG_PIXELS { 1 } else { PNG_SCALE };
    let drawn = {
        let size = (width * scale, height * scale);
        let area = BitMapBackend::new(&temporary, size).into_drawing_area();
        figure.draw(&area, f64::from(scale))
    };
    if drawn.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    drawn?;
    fs::rename(&temporary, path).map_err(failed(path))
}
