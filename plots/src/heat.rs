//! Heat maps: tables of coloured cells on one scale, with a bar that says what the colours mean.
//!
//! Cells shrink with their number, their texts go first and labels are thinned; a cell without a value is grey and crossed.

use crate::axis::{Axis, Law, short};
use crate::output::PlotError;
use crate::scene::{
    Anchor, CENTRE, CENTRE_TOP, LABEL, LEFT, LEFT_TOP, Place, RIGHT, SPACE, Scene, TICK, lines,
    widest, wrap,
};
use crate::style::{FAINT, INK, NOTHING, heat, ink_on, two_sided, width};

use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

/// Size of texts in cells.
const CELL_TEXT: f64 = 12.5;
/// Most cells of a figure.
const CELLS: usize = 120_000;
/// Panels stand beside each other up to this width.
const ROOM: f64 = 1300.0;
/// Longest row label.
const ROW_LABEL: f64 = 190.0;
/// Distance of panels.
const GAP: f64 = 26.0;

/// A cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// Where it lies on the scale.
    pub value: Option<f64>,
    /// What stands in it, where it fits.
    pub text: String,
    /// Hover text.
    pub label: String,
}

/// A map.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub heading: String,
    /// What the rows are.
    pub down: String,
    /// What the columns are.
    pub across: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// `[rows, columns]` row-major.
    pub cells: Vec<Cell>,
}

/// What colours mean.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub label: String,
    pub low: f64,
    pub high: f64,
    /// The middle means nothing; both ends are dark.
    pub two_sided: bool,
}

/// Maps on one scale.
#[derive(Clone, Debug)]
pub(crate) struct HeatPlot {
    pub title: String,
    pub maps: Vec<Map>,
    pub scale: Scale,
    /// Cells are squares.
    pub square: bool,
    pub notes: Vec<String>,
}

/// Where the parts of a map stand, from its upper left corner.
struct Layout {
    cell: (f64, f64),
    left: f64,
    top: f64,
    heading: Vec<String>,
    rows: Vec<String>,
    columns: Vec<String>,
    turned: bool,
    size: (f64, f64),
}

impl Scale {
    fn share(&self, value: f64) -> Option<f64> {
        let axis = self.axis();
        value
            .is_finite()
            .then(|| axis.share(value.clamp(axis.low, axis.high)))
            .flatten()
    }

    fn axis(&self) -> Axis {
        let fine = self.low.is_finite() && self.high.is_finite() && self.high > self.low;
        Axis {
            law: Law::Linear,
            low: if fine { self.low } else { 0.0 },
            high: if fine { self.high } else { 1.0 },
        }
    }

    fn colour(&self, share: f64) -> RGBColor {
        if self.two_sided {
            two_sided(share)
        } else {
            heat(share)
        }
    }
}

impl Map {
    fn layout(&self, square: bool) -> Result<Layout, PlotError> {
        if self.cells.len() != self.rows.len() * self.columns.len() {
            return Err(PlotError::result(format!(
                "`{}` has {} cells for {} rows and {} columns",
                self.heading,
                self.cells.len(),
                self.rows.len(),
                self.columns.len()
            )));
        }
        let (rows, columns) = (
            self.rows.len().max(1) as f64,
            self.columns.len().max(1) as f64,
        );
        let text = widest(
            self.cells.iter().take(5000).map(|c| c.text.as_str()),
            CELL_TEXT,
        )? + 7.0;
        // Wide enough for texts while the map stays within bounds.
        let fits = |count: f64, most: f64| (most / count).clamp(8.0, 46.0);
        let wide = fits(columns, 640.0);
        let wide = if text > wide && text * columns <= ROOM - 260.0 {
            text
        } else {
            wide
        };
        let high = fits(rows, 560.0).min(30.0);
        let cell = if square {
            let side = fits(rows.max(columns), 560.0);
            let side = if text > side && text * rows.max(columns) <= 800.0 {
                text
            } else {
                side
            };
            (side, side)
        } else {
            (wide, if rows <= 60.0 { high.max(17.0) } else { high })
        };
        let mut names = Vec::new();
        for row in &self.rows {
            names.push(lines(row, TICK, ROW_LABEL, 1)?.pop().unwrap_or_default());
        }
        let mut tops = Vec::new();
        for column in &self.columns {
            tops.push(lines(column, TICK, ROW_LABEL, 1)?.pop().unwrap_or_default());
        }
        let most = widest(tops.iter().map(String::as_str), TICK)?;
        // Thinned labels of small cells may still lie level.
        let turned = most + 5.0 > cell.0 && (most > 24.0 || cell.0 * 3.0 < most + 5.0);
        let down = if self.down.is_empty() {
            0.0
        } else {
            LABEL * 1.5
        };
        let left = widest(names.iter().map(String::as_str), TICK)? + SPACE + down;
        let wide = (left + cell.0 * columns).max(230.0);
        let heading = wrap(&self.heading, LABEL, wide)?;
        let foot = if turned { most } else { TICK * 1.1 }
            + 6.0
            + if self.across.is_empty() {
                0.0
            } else {
                LABEL * 1.5
            };
        let top = heading.len() as f64 * LABEL * 1.3 + 4.0;
        let labels = widest([self.across.as_str()], LABEL)?.min(ROOM);
        let size = (
            wide.max(left + labels.min(cell.0 * columns + 120.0)),
            top + cell.1 * rows + foot,
        );
        Ok(Layout {
            cell,
            left,
            top,
            heading,
            rows: names,
            columns: tops,
            turned,
            size,
        })
    }

    fn draw(
        &self,
        scene: &mut Scene,
        layout: &Layout,
        scale: &Scale,
        at: Place,
    ) -> Result<(), PlotError> {
        let mut y = at.1;
        for line in &layout.heading {
            scene.text((at.0, y), line, LABEL, INK, LEFT_TOP);
            y += LABEL * 1.3;
        }
        let (x0, y0) = (at.0 + layout.left, at.1 + layout.top);
        let (w, h) = layout.cell;
        let (rows, columns) = (self.rows.len(), self.columns.len());
        let end = (x0 + w * columns as f64, y0 + h * rows as f64);
        if rows * columns == 0 {
            scene.frame((x0, y0), (x0 + 180.0, y0 + 60.0), FAINT);
            scene.text((x0 + 90.0, y0 + 30.0), "no values", LABEL, FAINT, CENTRE);
            scene.grow(x0 + 190.0, y0 + 70.0);
            return Ok(());
        }
        for (number, cell) in self.cells.iter().enumerate() {
            let (row, column) = (number / columns, number % columns);
            let from = (x0 + column as f64 * w, y0 + row as f64 * h);
            let to = (from.0 + w, from.1 + h);
            match cell.value.and_then(|v| scale.share(v)) {
                Some(share) => {
                    let colour = scale.colour(share);
                    scene.filled(from, to, colour);
                    let room = f64::from(width(&cell.text, CELL_TEXT)?);
                    if room + 4.0 <= w && CELL_TEXT + 3.0 <= h {
                        let middle = (f64::midpoint(from.0, to.0), f64::midpoint(from.1, to.1));
                        scene.text(middle, &cell.text, CELL_TEXT, ink_on(colour), CENTRE);
                    }
                }
                None => {
                    scene.filled(from, to, NOTHING);
                    let (a, b) = ((from.0 + 2.0, from.1 + 2.0), (to.0 - 2.0, to.1 - 2.0));
                    scene.line(vec![a, b], FAINT, 1.0);
                    scene.line(vec![(a.0, b.1), (b.0, a.1)], FAINT, 1.0);
                }
            }
            scene.mark_box(from, to, cell.label.clone());
        }
        scene.frame((x0, y0), end, FAINT);
        let every = |needed: f64, each: f64| (needed / each).ceil().max(1.0) as usize;
        for (i, name) in layout
            .rows
            .iter()
            .enumerate()
            .step_by(every(TICK * 1.05, h))
        {
            let middle = y0 + (i as f64 + 0.5) * h;
            scene.text((x0 - 6.0, middle), name, TICK, FAINT, RIGHT);
        }
        let most = widest(layout.columns.iter().map(String::as_str), TICK)?;
        let needed = if layout.turned {
            TICK * 1.1
        } else {
            most + 5.0
        };
        for (i, name) in layout.columns.iter().enumerate().step_by(every(needed, w)) {
            let x = x0 + (i as f64 + 0.5) * w;
            if layout.turned {
                let anchor = Anchor(HPos::Right, VPos::Center);
                scene.turned((x, end.1 + 6.0), name, TICK, FAINT, anchor);
            } else {
                scene.text((x, end.1 + 5.0), name, TICK, FAINT, CENTRE_TOP);
            }
        }
        let below = at.1 + layout.size.1 - LABEL * 1.1;
        if !self.across.is_empty() {
            let name = lines(&self.across, LABEL, w * columns as f64 + 120.0, 1)?;
            let name = name.first().map_or("", String::as_str);
            let middle = f64::midpoint(x0, end.0);
            let half = widest([name], LABEL)? / 2.0;
            // Within the figure's left edge.
            scene.text(
                (middle.max(at.0 + half), below),
                name,
                LABEL,
                INK,
                CENTRE_TOP,
            );
        }
        if !self.down.is_empty() {
            let name = lines(&self.down, LABEL, (end.1 - y0).max(120.0), 1)?;
            let name = name.first().map_or("", String::as_str);
            let half = widest([name], LABEL)? / 2.0;
            let middle = f64::midpoint(y0, end.1).max(at.1 + half);
            scene.turned((at.0 + LABEL * 0.6, middle), name, LABEL, INK, CENTRE);
            scene.grow(0.0, middle + half);
        }
        scene.grow(at.0 + layout.size.0, at.1 + layout.size.1);
        Ok(())
    }
}

impl HeatPlot {
    /// Draws it.
    pub fn scene(&self) -> Result<Scene, PlotError> {
        let cells: usize = self.maps.iter().map(|m| m.cells.len()).sum();
        if cells > CELLS {
            return Err(PlotError::result(format!(
                "{cells} cells are more than a figure can show ({CELLS})"
            )));
        }
        let mut layouts = Vec::new();
        for map in &self.maps {
            layouts.push(map.layout(self.square)?);
        }
        // Rows of panels: as many beside each other as there is room for.
        let bar = 110.0;
        let mut places: Vec<Place> = Vec::new();
        let mut first_of_row = 0;
        let (mut x, mut y, mut tall, mut right) = (2.0 * SPACE, 0.0, 0.0f64, 0.0f64);
        for layout in &layouts {
            let (w, h) = layout.size;
            if x > 2.0 * SPACE && x + w > ROOM - bar {
                y +=
                    tall + align(
                        &layouts[first_of_row..places.len()],
                        &mut places[first_of_row..],
                    ) + GAP;
                (x, tall, first_of_row) = (2.0 * SPACE, 0.0, places.len());
            }
            places.push((x, y));
            x += w + GAP;
            tall = tall.max(h);
            right = right.max(x);
        }
        tall += align(&layouts[first_of_row..], &mut places[first_of_row..]);
        let mut scene = Scene::new((right + bar).max(480.0));
        let top = scene.title(&self.title)?;
        for ((map, layout), at) in self.maps.iter().zip(&layouts).zip(&places) {
            map.draw(&mut scene, layout, &self.scale, (at.0, at.1 + top))?;
        }
        let first = layouts
            .iter()
            .zip(&places)
            .map(|(l, p)| l.top + p.1)
            .next()
            .unwrap_or(0.0);
        self.bar(&mut scene, (right.max(300.0), top + first))?;
        scene.grow(0.0, top + y + tall + SPACE);
        scene.notes(&self.notes)?;
        Ok(scene)
    }

    /// The bar of colours; `at` is its upper left corner.
    fn bar(&self, scene: &mut Scene, at: Place) -> Result<(), PlotError> {
        let (wide, tall) = (16.0, 200.0);
        let steps = 50;
        for i in 0..steps {
            let share = (f64::from(i) + 0.5) / f64::from(steps);
            let y = at.1 + tall * (1.0 - f64::from(i + 1) / f64::from(steps));
            let to = (at.0 + wide, y + tall / f64::from(steps));
            scene.filled((at.0, y), to, self.scale.colour(share));
        }
        scene.frame(at, (at.0 + wide, at.1 + tall), FAINT);
        let axis = self.scale.axis();
        let mut most = 0.0f64;
        for (value, text) in axis.ticks(5) {
            let Some(share) = axis.share(value) else {
                continue;
            };
            let y = at.1 + tall * (1.0 - share);
            scene.text((at.0 + wide + 6.0, y), &text, TICK, FAINT, LEFT);
            most = most.max(widest([text.as_str()], TICK)?);
        }
        let x = at.0 + wide + most + SPACE * 1.8;
        let half = widest([self.scale.label.as_str()], LABEL)? / 2.0;
        let middle = at.1 + (tall / 2.0).max(half);
        scene.turned((x, middle), &self.scale.label, LABEL, INK, CENTRE);
        scene.grow(x + LABEL, (at.1 + tall).max(middle + half) + SPACE);
        Ok(())
    }
}

/// Moves the panels of one row down until their maps begin at one height; by how much at most.
fn align(layouts: &[Layout], places: &mut [Place]) -> f64 {
    let top = layouts.iter().map(|l| l.top).fold(0.0, f64::max);
    let mut most: f64 = 0.0;
    for (layout, place) in layouts.iter().zip(places) {
        place.1 += top - layout.top;
        most = most.max(top - layout.top);
    }
    most
}

/// The hover text of a value.
pub(crate) fn said(what: &str, value: Option<f64>, reason: &str) -> String {
    match value {
        Some(v) if v.is_finite() => format!("{what}: {}", short(v)),
        _ if reason.is_empty() => format!("{what}: no value"),
        _ => format!("{what}: {reason}"),
    }
}
