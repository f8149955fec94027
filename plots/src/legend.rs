//! Legends: names of series at the right of a drawing, each beside a sample of its looks.

use plotters::style::RGBColor;

use crate::output::PlotError;
use crate::scene::{LABEL, LEFT, Place, RADIUS, SPACE, STROKE, Scene, widest, wrap};
use crate::style::{INK, Marker, Series};

/// What stands beside a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sample {
    /// A line with its marker.
    Line(Series),
    /// A marker alone.
    Marker(Series),
    /// A bar's filling.
    Fill(Series),
    /// A line without markers.
    Plain(RGBColor, Option<(i32, i32)>),
}

const SWATCH: f64 = 4.0 * SPACE;
const ROW: f64 = LABEL * 1.3;

/// Names broken into lines, and their samples.
#[derive(Clone, Debug)]
pub(crate) struct Legend {
    entries: Vec<(Sample, Vec<String>)>,
    width: f64,
}

impl Legend {
    /// Of samples and names, at most so wide.
    pub fn new(entries: &[(Sample, String)], room: f64) -> Result<Self, PlotError> {
        let text = room - SWATCH - 3.0 * SPACE;
        let entries = entries
            .iter()
            .map(|(sample, name)| Ok((*sample, wrap(name, LABEL, text)?)))
            .collect::<Result<Vec<_>, PlotError>>()?;
        let lines = entries.iter().flat_map(|(_, l)| l).map(String::as_str);
        let width = if entries.is_empty() {
            0.0
        } else {
            widest(lines, LABEL)? + SWATCH + 4.0 * SPACE
        };
        Ok(Legend { entries, width })
    }

    /// Pixels that it takes, its distance to the drawing included.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// Pixels from its upper edge to its lower one.
    pub fn height(&self) -> f64 {
        let lines: usize = self.entries.iter().map(|(_, l)| l.len().max(1)).sum();
        lines as f64 * ROW + self.entries.len() as f64 * SPACE / 2.0
    }

    /// Draws it; `at` is its upper left corner.
    pub fn draw(&self, scene: &mut Scene, at: Place) {
        let x = at.0 + 2.0 * SPACE;
        let mut y = at.1 + ROW / 2.0;
        for (sample, lines) in &self.entries {
            draw_sample(scene, *sample, (x, y));
            for line in lines {
                scene.text((x + SWATCH + SPACE, y), line, LABEL, INK, LEFT);
                y += ROW;
            }
            if lines.is_empty() {
                y += ROW;
            }
            y += SPACE / 2.0;
        }
        scene.grow(at.0 + self.width, at.1 + self.height());
    }
}

fn draw_sample(scene: &mut Scene, sample: Sample, (x, y): Place) {
    let (middle, end) = (x + SWATCH / 2.0, x + SWATCH);
    match sample {
        Sample::Line(looks) => {
            scene.dashed(vec![(x, y), (end, y)], looks.colour, STROKE, looks.dash);
            scene.marker((middle, y), looks.marker, RADIUS, looks.colour, 1.0);
        }
        Sample::Marker(looks) => {
            scene.marker((middle, y), looks.marker, RADIUS + 1.0, looks.colour, 1.0)
        }
        Sample::Fill(looks) => {
            scene.filled((x + SPACE, y - 6.0), (end, y + 6.0), looks.colour);
            bar_sign(scene, looks, (end - 8.0, y));
        }
        Sample::Plain(colour, dash) => {
            scene.dashed(vec![(x, y), (end, y)], colour, STROKE * 0.75, dash)
        }
    }
}

/// A white marker on a bar, by which bars of the same grey are told apart.
pub(crate) fn bar_sign(scene: &mut Scene, looks: Series, at: Place) {
    let marker = if looks.marker == Marker::Ring {
        return;
    } else {
        looks.marker
    };
    scene.marker(at, marker, 3.0, RGBColor(255, 255, 255), 1.0);
}
