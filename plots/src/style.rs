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

/// The looks of layer `number` of `count`: colours from dark to light by depth, markers in turn.
pub fn by_depth(number: usize, count: usize) -> Series {
    let share = number as f64 / count.saturating_sub(1).max(1) as f64;
    Series {
        // The lightest colours of the scale do not stand out from white.
        colour: heat(0.88 * share),
        dash: None,
        marker: MARKERS[number % MARKERS.len()],
    }
}

/// Colour of a cell without a value.
pub const NOTHING: RGBColor = RGBColor(232, 232, 232);

/// Steps of the map cividis (Nunez et al. 2018), which reads alike with any colour vision and in grey.
const HEAT: [RGBColor; 10] = [
    RGBColor(0, 34, 78),
    RGBColor(18, 53, 112),
    RGBColor(59, 73, 108),
    RGBColor(87, 93, 109),
    RGBColor(112, 113, 115),
    RGBColor(138, 134, 120),
    RGBColor(165, 156, 116),
    RGBColor(195, 179, 105),
    RGBColor(225, 204, 85),
    RGBColor(254, 232, 56),
];

/// Steps from orange over white to blue: darker is farther from the middle, and the hue says to which side.
const TWO_SIDED: [RGBColor; 5] = [
    RGBColor(140, 60, 0),
    RGBColor(230, 159, 80),
    RGBColor(250, 250, 250),
    RGBColor(86, 160, 220),
    RGBColor(0, 60, 120),
];

fn between(steps: &[RGBColor], share: f64) -> RGBColor {
    let share = if share.is_nan() { 0.0 } else { share };
    let at = share.clamp(0.0, 1.0) * (steps.len() - 1) as f64;
    let low = (at.floor() as usize).min(steps.len() - 2);
    let part = at - low as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    let (a, b) = (steps[low], steps[low + 1]);
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// The colour of a share, 0 (dark) to 1 (light).
pub fn heat(share: f64) -> RGBColor {
    between(&HEAT, share)
}

/// The colour of a share whose middle, 0.5, means nothing.
pub fn two_sided(share: f64) -> RGBColor {
    between(&TWO_SIDED, share)
}

/// Black or white, whichever is read more easily on a colour.
pub fn ink_on(colour: RGBColor) -> RGBColor {
    if grey(colour) > 0.48 {
        INK
    } else {
        RGBColor(255, 255, 255)
    }
}

/// Lightness of a colour in grey, 0 to 1.
pub fn grey(c: RGBColor) -> f64 {
    (0.299 * f64::from(c.0) + 0.587 * f64::from(c.1) + 0.114 * f64::from(c.2)) / 255.0
}

/// A colour dark enough for text on white.
pub fn darker(colour: RGBColor) -> RGBColor {
    let part = |c: u8| (f64::from(c) * 0.75) as u8;
    RGBColor(part(colour.0), part(colour.1), part(colour.2))
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

    #[test]
    fn the_heat_scale_rises_in_grey_and_the_two_sided_one_to_its_middle() {
        let greys: Vec<f64> = (0..=50).map(|i| grey(heat(f64::from(i) / 50.0))).collect();
        assert!(greys.windows(2).all(|p| p[0] < p[1]), "{greys:?}");
        for i in 0..25 {
            let (near, far) = (f64::from(i) / 50.0, f64::from(i + 1) / 50.0);
            assert!(grey(two_sided(near)) < grey(two_sided(far)));
            assert!(grey(two_sided(1.0 - near)) < grey(two_sided(1.0 - far)));
        }
        assert_eq!(heat(f64::NAN), heat(0.0));
        for i in 0..=20 {
            let ground = heat(f64::from(i) / 20.0);
            assert!((grey(ink_on(ground)) - grey(ground)).abs() > 0.3, "{i}");
        }
    }
}
