//! The looks of all figures: font, sizes, colours, markers, dashes.
//!
//! The font is DejaVu Sans, which crate `dejavu` carries in the binary (Bitstream Vera licence, free to embed), so that a PNG
//! and the measures of an SVG are the same on every machine, with or without fonts installed. Colours are those of Okabe and
//! Ito (2008), told apart with any colour vision; since some have the same grey, markers and dashes differ too.

use std::sync::OnceLock;

use plotters::style::{FontDesc, FontFamily, FontStyle, RGBColor, register_font};

use crate::output::PlotError;

/// The family as SVG names it; `plotters` looks its font up under the whole name.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Text and frames.
pub const INK: RGBColor = RGBColor(34, 34, 34);
/// Ticks and less important text.
pub const FAINT: RGBColor = RGBColor(95, 95, 95);
/// Lines of the grid.
pub const GRID: RGBColor = RGBColor(225, 225, 225);

/// Colours of series.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Lengths of ink and gap, in units of the line width; no dashes for a whole line.
const DASHES: [Option<(i32, i32)>; 4] = [None, Some((5, 3)), Some((2, 2)), Some((9, 4))];

/// Shapes of markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A filled circle.
    Circle,
    /// A filled square.
    Square,
    /// A filled triangle.
    Triangle,
    /// A filled diamond.
    Diamond,
    /// A ring.
    Ring,
}

const MARKERS: [Marker; 5] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Ring,
];

/// How one series is drawn. The three cycles have lengths without a common factor, so 140 series differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// The colour.
    pub colour: RGBColor,
    /// Ink and gap, in line widths.
    pub dash: Option<(i32, i32)>,
    /// The marker.
    pub marker: Marker,
}

/// The looks of the series of that number.
pub fn series(number: usize) -> Series {
    Series {
        colour: COLOURS[number % COLOURS.len()],
        dash: DASHES[number % DASHES.len()],
        marker: MARKERS[number % MARKERS.len()],
    }
}

/// Sizes in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Title of the figure.
    pub title: f64,
    /// Headings of panels and names of series.
    pub label: f64,
    /// Tick labels and footnotes.
    pub tick: f64,
    /// Width of lines.
    pub line: i32,
    /// Radius of markers.
    pub marker: i32,
    /// Space between parts.
    pub space: i32,
}

impl Sizes {
    /// The sizes at a scale; 1 suits a figure 900 pixels wide.
    pub fn at(scale: f64) -> Self {
        let whole = |pixels: f64| (pixels * scale).round().max(1.0) as i32;
        Self {
            title: 20.0 * scale,
            label: 16.0 * scale,
            tick: 14.5 * scale,
            line: whole(2.0),
            marker: whole(4.0),
            space: whole(10.0),
        }
    }
}

/// The font at a size in pixels; the first call registers it.
pub fn font(size: f64) -> Result<FontDesc<'static>, PlotError> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let register = || register_font(FAMILY, FontStyle::Normal, dejavu::sans::regular()).is_ok();
    if !REGISTERED.get_or_init(register) {
        return Err(PlotError::Font);
    }
    Ok(FontDesc::new(
        FontFamily::Name(FAMILY),
        size,
        FontStyle::Normal,
    ))
}

/// The width of a text in pixels.
pub fn width(text: &str, size: f64) -> Result<i32, PlotError> {
    font(size)?
        .box_size(text)
        .map(|(w, _)| w as i32)
        .map_err(|e| PlotError::Draw(Box::new(e)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn series_differ_and_text_has_a_width_without_system_fonts() {
        for a in 0..140 {
            assert!((0..a).all(|b| series(a) != series(b)), "{a}");
        }
        let (one, two) = (
            width("loss", 20.0).unwrap(),
            width("lossloss", 20.0).unwrap(),
        );
        assert!(one > 20 && (two - 2 * one).abs() <= 2, "{one} {two}");
    }
}
