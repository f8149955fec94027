//! Line plots: panels below (or beside) each other over one horizontal axis, a line for each series.
//!
//! Names stand at the ends of their lines where they fit and keep apart; otherwise in a legend at the right, outside the data. A
//! value that is not finite is left out and counted in a note; a panel without any finite value says so.

use plotters::style::RGBColor;

use crate::axis::{Axis, Law, drawable, short};
use crate::legend::{Legend, Sample};
use crate::output::PlotError;
use crate::scene::{
    Anchor, CENTRE, CENTRE_TOP, LABEL, LEFT, LEFT_TOP, Place, RADIUS, RIGHT, SPACE, STROKE, Scene,
    TICK, lines, widest,
};
use crate::style::{FAINT, GRID, INK, Series, darker};

use plotters::style::text_anchor::{HPos, VPos};

/// Most markers on a line.
const MARKERS: usize = 14;
/// Most points of a line that are drawn.
const POINTS: usize = 1500;
/// Most points whose intervals are whiskers; more make a band.
const WHISKERS: usize = 30;

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<[f64; 2]>,
}

impl Point {
    pub fn new(x: f64, y: f64) -> Self {
        Point {
            x,
            y,
            interval: None,
        }
    }

    fn finite(&self) -> bool {
        drawable(self.x) && drawable(self.y)
    }
}

/// A line of a panel.
#[derive(Clone, Debug)]
pub(crate) struct LineOf {
    /// Number of its series.
    pub series: usize,
    pub points: Vec<Point>,
    /// A line of less weight: thin, dashed, without markers.
    pub faint: bool,
}

/// An area: its corners in data coordinates.
#[derive(Clone, Debug)]
pub(crate) struct Shade {
    pub corners: Vec<(f64, f64)>,
    pub colour: RGBColor,
    pub opacity: f64,
}

/// A panel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panel {
    /// What the vertical axis shows, with its unit.
    pub heading: String,
    pub lines: Vec<LineOf>,
    /// Logarithmic.
    pub log: bool,
    /// The axis stays within.
    pub bounds: Option<(f64, f64)>,
    /// The axis has zero in it.
    pub zero: bool,
    /// Areas behind the lines.
    pub areas: Vec<Shade>,
}

/// What a series is called and looks like.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub name: String,
    pub looks: Series,
}

/// The horizontal axis.
#[derive(Clone, Debug)]
pub(crate) enum Across {
    /// Numbers.
    Numbers { label: String, law: Law },
    /// Names at 0, 1, 2, ...
    Places { label: String, names: Vec<String> },
}

impl Across {
    fn label(&self) -> &str {
        match self {
            Across::Numbers { label, .. } | Across::Places { label, .. } => label,
        }
    }

    fn say(&self, x: f64) -> String {
        match self {
            Across::Numbers { .. } => short(x),
            Across::Places { names, .. } => {
                names.get(x.round() as usize).cloned().unwrap_or_default()
            }
        }
    }
}

/// A line plot.
#[derive(Clone, Debug)]
pub(crate) struct LinePlot {
    pub title: String,
    pub width: f64,
    pub panel_height: f64,
    pub series: Vec<Named>,
    pub across: Across,
    pub panels: Vec<Panel>,
    /// Further entries of the legend.
    pub extra: Vec<(Sample, String)>,
    /// Notes below.
    pub notes: Vec<String>,
}

/// Where names are shown.
#[derive(Debug, PartialEq)]
enum Names {
    /// At the ends of lines, in the panel where they stand apart.
    Direct(usize),
    /// In a legend at the right.
    Legend,
}

/// What panels share.
struct Layout {
    x: Axis,
    left: f64,
    plot: f64,
    height: f64,
    row_height: f64,
    column_width: f64,
    columns: usize,
    top: f64,
    foot: f64,
}

impl LinePlot {
    /// Draws it.
    pub fn scene(&self) -> Result<Scene, PlotError> {
        let mut scene = Scene::new(self.width);
        let top = scene.title(&self.title)?;
        let ys: Vec<Option<Axis>> = self.panels.iter().map(Panel::axis).collect();
        let (x, forced) = self.x_axis();
        let columns = if self.panels.len() > 3 { 2 } else { 1 };
        let names = if columns > 1 {
            Names::Legend
        } else {
            self.choose_names(&ys, x)?
        };
        let entries: Vec<(Sample, String)> = match names {
            Names::Direct(_) => self.extra.clone(),
            Names::Legend => {
                let own = |n: &Named| (Sample::Line(n.looks), n.name.clone());
                self.series
                    .iter()
                    .map(own)
                    .chain(self.extra.clone())
                    .collect()
            }
        };
        let legend = Legend::new(&entries, self.width * 0.32)?;
        let mut right = legend.width().max(2.0 * SPACE);
        if let Names::Direct(_) = names {
            let widest = widest(self.series.iter().map(|s| s.name.as_str()), LABEL)?;
            right = right.max(widest + 3.0 * SPACE);
        }
        let mut left = 5.0 * SPACE;
        for y in ys.iter().flatten() {
            let ticks = y.ticks(6);
            left = left.max(widest(ticks.iter().map(|t| t.1.as_str()), TICK)? + 3.5 * SPACE);
        }
        let (labels, turned) = self.x_labels(x, (self.width - right) / columns as f64 - left)?;
        let foot = if turned {
            widest(labels.iter().map(|l| l.1.as_str()), TICK)? + SPACE
        } else {
            TICK * 1.6
        };
        let column_width = (self.width - right) / columns as f64;
        let layout = Layout {
            x,
            left,
            plot: (column_width - left - if columns > 1 { SPACE } else { 0.0 }).max(60.0),
            height: self.panel_height,
            row_height: self.panel_height + LABEL * 1.6 + foot + SPACE * 1.5,
            column_width,
            columns,
            top,
            foot,
        };
        for (number, (panel, y)) in self.panels.iter().zip(&ys).enumerate() {
            let corner = layout.corner(number);
            self.draw_frame(&mut scene, &layout, panel, *y, corner, (&labels, turned))?;
            if let Some(y) = y {
                let direct = names == Names::Direct(number);
                self.draw_lines(&mut scene, &layout, panel, *y, corner, direct, forced);
            }
        }
        let rows = self.panels.len().div_ceil(columns);
        let bottom = top + rows as f64 * layout.row_height;
        for column in 0..columns.min(self.panels.len()) {
            // A column that ends early has its label under its own last panel.
            let count = (self.panels.len() - column).div_ceil(columns);
            let y = top + count as f64 * layout.row_height - SPACE;
            let middle = column as f64 * column_width + left + layout.plot / 2.0;
            scene.text((middle, y), self.across.label(), LABEL, INK, CENTRE_TOP);
        }
        scene.grow(self.width, bottom + LABEL * 1.2);
        legend.draw(&mut scene, (self.width - legend.width(), top + LABEL * 1.6));
        let lost: usize = self
            .panels
            .iter()
            .flat_map(|p| &p.lines)
            .map(|l| l.points.iter().filter(|p| !p.finite()).count())
            .sum();
        let mut notes = self.notes.clone();
        if lost > 0 {
            notes.push(format!("values left out as not finite: {lost}"));
        }
        scene.grow(self.width, 0.0);
        scene.notes(&notes)?;
        Ok(scene)
    }

    /// The horizontal axis, and whether a single place keeps its points in the middle.
    fn x_axis(&self) -> (Axis, bool) {
        match &self.across {
            Across::Places { names, .. } => {
                let last = names.len().saturating_sub(1) as f64;
                let axis = Axis {
                    law: Law::Linear,
                    low: -0.3,
                    high: last + 0.3,
                };
                (axis, true)
            }
            Across::Numbers { law, .. } => {
                let xs = self
                    .panels
                    .iter()
                    .flat_map(|p| &p.lines)
                    .flat_map(|l| &l.points)
                    .filter(|p| p.finite())
                    .map(|p| p.x);
                let axis = Axis::around(*law, xs, 0.015).unwrap_or(Axis {
                    law: Law::Linear,
                    low: 0.0,
                    high: 1.0,
                });
                let near_zero =
                    axis.law == Law::Linear && axis.low < 0.3 * axis.high && axis.high > 0.0;
                let low = if near_zero && axis.low > -0.05 * axis.high {
                    0.0
                } else {
                    axis.low
                };
                (Axis { low, ..axis }, false)
            }
        }
    }

    /// Labels of the horizontal axis that keep apart, and whether they are turned.
    fn x_labels(&self, x: Axis, room: f64) -> Result<(Vec<(f64, String)>, bool), PlotError> {
        match &self.across {
            Across::Numbers { .. } => Ok((x.ticks(if room < 450.0 { 4 } else { 7 }), false)),
            Across::Places { names, .. } => {
                let each = room / names.len().max(1) as f64;
                let most = widest(names.iter().map(String::as_str), TICK)?;
                let turned = most + SPACE > each;
                let needed = if turned { TICK * 1.15 } else { each };
                let every = (needed / each.max(1e-6)).ceil().max(1.0) as usize;
                let labels = names.iter().enumerate().step_by(every);
                Ok((labels.map(|(i, n)| (i as f64, n.clone())).collect(), turned))
            }
        }
    }

    fn draw_frame(
        &self,
        scene: &mut Scene,
        layout: &Layout,
        panel: &Panel,
        y: Option<Axis>,
        corner: Place,
        (labels, turned): (&[(f64, String)], bool),
    ) -> Result<(), PlotError> {
        let heading = (corner.0 - layout.left + 2.0 * SPACE, corner.1 - LABEL * 1.5);
        let room = layout.column_width - 3.0 * SPACE;
        if let Some(text) = lines(&panel.heading, LABEL, room, 1)?.first() {
            scene.text(heading, text, LABEL, INK, LEFT_TOP);
        }
        let bottom = corner.1 + layout.height;
        let end = corner.0 + layout.plot;
        if let Some(axis) = y {
            for (value, text) in axis.ticks(if layout.height < 180.0 { 4 } else { 6 }) {
                let Some(share) = axis.share(value) else {
                    continue;
                };
                let at = bottom - share * layout.height;
                scene.line(vec![(corner.0, at), (end, at)], GRID, 1.0);
                scene.text((corner.0 - SPACE * 0.8, at), &text, TICK, FAINT, RIGHT);
            }
        }
        for (value, text) in labels {
            let Some(share) = layout.x.share(*value) else {
                continue;
            };
            let at = corner.0 + share * layout.plot;
            scene.line(vec![(at, corner.1), (at, bottom)], GRID, 1.0);
            scene.line(vec![(at, bottom), (at, bottom + 5.0)], FAINT, 1.0);
            if turned {
                let anchor = Anchor(HPos::Right, VPos::Center);
                scene.turned((at, bottom + 8.0), text, TICK, FAINT, anchor);
            } else {
                scene.text((at, bottom + 7.0), text, TICK, FAINT, CENTRE_TOP);
            }
        }
        scene.line(
            vec![(corner.0, corner.1), (corner.0, bottom), (end, bottom)],
            FAINT,
            1.0,
        );
        if y.is_none() {
            let middle = (corner.0 + layout.plot / 2.0, corner.1 + layout.height / 2.0);
            scene.text(middle, "no finite values", LABEL, FAINT, CENTRE);
        }
        scene.grow(end, bottom + layout.foot);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn draw_lines(
        &self,
        scene: &mut Scene,
        layout: &Layout,
        panel: &Panel,
        y: Axis,
        corner: Place,
        direct: bool,
        all_markers: bool,
    ) {
        let bottom = corner.1 + layout.height;
        let place = |px: f64, py: f64| -> Option<Place> {
            let at_y = y.share(py)?.clamp(-0.02, 1.02);
            Some((
                corner.0 + layout.x.share(px)? * layout.plot,
                bottom - at_y * layout.height,
            ))
        };
        for shade in &panel.areas {
            let corners = shade
                .corners
                .iter()
                .filter_map(|p| place(p.0, p.1))
                .collect();
            scene.area(corners, shade.colour, shade.opacity);
        }
        for line in &panel.lines {
            let Some(named) = self.series.get(line.series) else {
                continue;
            };
            let looks = named.looks;
            let finite: Vec<(Place, Point)> = line
                .points
                .iter()
                .filter(|p| p.finite())
                .filter_map(|p| Some((place(p.x, p.y)?, *p)))
                .collect();
            let finite = thinned(finite);
            let path: Vec<Place> = finite.iter().map(|f| f.0).collect();
            if line.faint {
                scene.dashed(path, looks.colour, STROKE * 0.5, Some((4, 6)));
                continue;
            }
            draw_intervals(scene, &finite, looks, &place);
            scene.dashed(path.clone(), looks.colour, STROKE, looks.dash);
            let every = if all_markers {
                1
            } else {
                path.len().div_ceil(MARKERS).max(1)
            };
            for at in path.iter().rev().step_by(every) {
                scene.marker(*at, looks.marker, RADIUS, looks.colour, 1.0);
            }
            let marks = path.len().div_ceil(200).max(1);
            for (at, p) in finite.iter().rev().step_by(marks) {
                let range = p.interval.map_or(String::new(), |[l, h]| {
                    format!(" ({} to {})", short(l), short(h))
                });
                let text = format!(
                    "{}, {}: {}{range}",
                    named.name,
                    self.across.say(p.x),
                    short(p.y)
                );
                scene.mark(*at, text);
            }
            if let (true, Some(end)) = (direct, path.last()) {
                let beside = (end.0 + SPACE, end.1);
                scene.text(beside, &named.name, LABEL, darker(looks.colour), LEFT);
            }
        }
    }

    /// Direct names in the first panel whose lines end a line of text apart, if every name fits in the room; else a legend.
    fn choose_names(&self, ys: &[Option<Axis>], x: Axis) -> Result<Names, PlotError> {
        let room = self.width * 0.3;
        let names = self.series.iter().map(|s| s.name.as_str());
        if widest(names, LABEL)? > room || self.series.len() > 8 {
            return Ok(Names::Legend);
        }
        for (number, (panel, y)) in self.panels.iter().zip(ys).enumerate() {
            let Some(y) = y else { continue };
            let last = |l: &LineOf| l.points.iter().rev().find(|p| p.finite()).copied();
            let ends: Vec<Point> = panel
                .lines
                .iter()
                .filter(|l| !l.faint)
                .filter_map(last)
                .collect();
            // A line that ends early would have its name among the data.
            let together = ends.len() == self.series.len()
                && ends.iter().all(|e| x.share(e.x).is_some_and(|s| s > 0.93));
            let mut at: Vec<f64> = ends
                .iter()
                .filter_map(|e| Some(y.share(e.y)? * self.panel_height))
                .collect();
            at.sort_by(f64::total_cmp);
            if together && at.windows(2).all(|p| p[1] - p[0] >= LABEL * 1.3) {
                return Ok(Names::Direct(number));
            }
        }
        Ok(Names::Legend)
    }
}

impl Layout {
    /// The upper left corner of a panel's plot.
    fn corner(&self, number: usize) -> Place {
        let (row, column) = (number / self.columns, number % self.columns);
        (
            column as f64 * self.column_width + self.left,
            self.top + row as f64 * self.row_height + LABEL * 1.6,
        )
    }
}

impl Panel {
    fn axis(&self) -> Option<Axis> {
        let law = if self.log { Law::Log } else { Law::Linear };
        let points = self
            .lines
            .iter()
            .flat_map(|l| &l.points)
            .filter(|p| p.finite());
        let values = points.flat_map(|p| {
            let [low, high] = p.interval.unwrap_or([p.y, p.y]);
            [p.y, low, high]
        });
        let axis = Axis::around(law, values, 0.06)?;
        let axis = if self.zero { axis.with_zero() } else { axis };
        Some(axis.within(self.bounds))
    }
}

/// At most [`POINTS`] of a line: of each stretch its least and its greatest value.
fn thinned(points: Vec<(Place, Point)>) -> Vec<(Place, Point)> {
    if points.len() <= POINTS {
        return points;
    }
    let stretch = points.len().div_ceil(POINTS / 2);
    let mut kept = Vec::with_capacity(POINTS);
    for part in points.chunks(stretch) {
        let by = |a: &&(Place, Point), b: &&(Place, Point)| a.1.y.total_cmp(&b.1.y);
        let (low, high) = (part.iter().min_by(by), part.iter().max_by(by));
        let mut two: Vec<(Place, Point)> = low.into_iter().chain(high).copied().collect();
        two.sort_by(|a, b| a.1.x.total_cmp(&b.1.x));
        kept.extend(two);
    }
    kept
}

fn draw_intervals(
    scene: &mut Scene,
    points: &[(Place, Point)],
    looks: Series,
    place: &dyn Fn(f64, f64) -> Option<Place>,
) {
    let ends = points.iter().filter_map(|(_, p)| {
        let [low, high] = p.interval.filter(|i| i.iter().all(|v| drawable(*v)))?;
        Some((place(p.x, low)?, place(p.x, high)?))
    });
    let ends: Vec<(Place, Place)> = ends.collect();
    if ends.len() > WHISKERS {
        let upper = ends.iter().map(|e| e.1);
        let lower = ends.iter().rev().map(|e| e.0);
        scene.area(upper.chain(lower).collect(), looks.colour, 0.18);
        return;
    }
    for (low, high) in ends {
        whisker(scene, low, high, looks.colour);
    }
}

/// A line between the ends of an interval, with short cross-lines.
pub(crate) fn whisker(scene: &mut Scene, low: Place, high: Place, colour: RGBColor) {
    scene.line(vec![low, high], colour, 1.2);
    let across = low.1 == high.1;
    for end in [low, high] {
        let (dx, dy) = if across { (0.0, 4.0) } else { (4.0, 0.0) };
        scene.line(
            vec![(end.0 - dx, end.1 - dy), (end.0 + dx, end.1 + dy)],
            colour,
            1.2,
        );
    }
}
