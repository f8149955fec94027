//! Writing a figure to a file, SVG or PNG by the ending.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, DrawingArea, DrawingBackend, IntoDrawingArea, SVGBackend};

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Nothing to draw.
    #[error("there are no curves to draw")]
    Empty,
    /// The area is too small for the figure.
    #[error(
        "the figure is too small: {width}x{height} pixels\nhint: make it at least {least_width}x{least_height}"
    )]
    Small {
        /// Width asked for.
        width: u32,
        /// Height asked for.
        height: u32,
        /// Least width.
        least_width: u32,
        /// Least height.
        least_height: u32,
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

/// A figure that can be drawn on any area; the number is the scale of its sizes.
pub trait Figure {
    /// Width and height in pixels at scale 1.
    fn size(&self) -> (u32, u32);

    /// Draws it.
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        scale: f64,
    ) -> Result<(), PlotError>
    where
        DB::ErrorType: 'static;
}

/// PNG pixels for one pixel of the figure.
const PNG_SCALE: u32 = 2;

/// Draws a figure into a file that ends in `.svg` or `.png`; the file appears whole or not at all.
pub fn write_figure(figure: &impl Figure, path: &Path) -> Result<(), PlotError> {
    let (width, height) = figure.size();
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase);
    let mut temporary = path.as_os_str().to_owned();
    let io = |source| PlotError::Io {
        path: path.to_owned(),
        source,
    };
    match ending.as_deref() {
        Some("svg") => {
            let mut text = String::new();
            figure.draw(
                &SVGBackend::with_string(&mut text, (width, height)).into_drawing_area(),
                1.0,
            )?;
            temporary.push(".tmp");
            fs::write(&temporary, text).map_err(io)?;
        }
        Some("png") => {
            // The bitmap encoder goes by the ending too.
            temporary.push(".tmp.png");
            // An unwritable place is found before the drawing, with the system's own reason.
            fs::write(&temporary, []).map_err(io)?;
            let size = (width * PNG_SCALE, height * PNG_SCALE);
            let area = BitMapBackend::new(Path::new(&temporary), size).into_drawing_area();
            let drawn = figure.draw(&area, f64::from(PNG_SCALE));
            if drawn.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            drawn?;
        }
        _ => {
            return Err(PlotError::Format {
                path: path.to_owned(),
            });
        }
    }
    fs::rename(&temporary, path).map_err(io)
}
