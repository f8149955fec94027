//! Bar plots: groups of horizontal bars (or dots) with whiskers, names at the left, numbers in columns at the right.
//!
//! Bars lie, so that long names stay level and a figure with many models grows downwards.

use crate::axis::{Axis, Law, drawable};
use crate::legend::{Legend, Sample, bar_sign};
use crate::lines::{Named, whisker};
use crate::output::PlotError;
use crate::scene::{
    CENTRE, CENTRE_TOP, LABEL, LEFT, RADIUS, RIGHT, SPACE, Scene, TICK, lines, widest,
};
use crate::style::{FAINT, GRID, INK};

/// Distance of bars.
const PITCH: f64 = 21.0;
/// Thickness of a bar.
const THICK: f64 = 15.0;
/// Distance of groups, beside that of bars.
const GAP: f64 = 12.0;

/// A bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    /// Number of its series.
    pub series: usize,
    pub value: f64,
    pub interval: Option<[f64; 2]>,
    /// What stands in the columns at the right.
    pub texts: Vec<String>,
    /// Hover text.
    pub label: String,
}

/// Bars of one name.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub name: String,
    pub bars: Vec<Bar>,
}

/// A panel.
#[derive(Clone, Debug)]
pub(crate) struct BarPanel {
    /// What the axis shows, with its unit.
    pub axis: String,
    /// Headings of the columns at the right.
    pub columns: Vec<String>,
    pub groups: Vec<Group>,
    /// Dots instead of bars; zero stands as a line.
    pub dots: bool,
    /// The axis stays within.
    pub bounds: Option<(f64, f64)>,
}

/// A bar plot.
#[derive(Clone, Debug)]
pub(crate) struct BarPlot {
    pub title: String,
    pub series: Vec<Named>,
    pub panels: Vec<BarPanel>,
    pub notes: Vec<String>,
}

const WIDTH: f64 = 960.0;

impl BarPlot {
    /// Draws it.
    pub fn scene(&self) -> Result<Scene, PlotError> {
        let mut scene = Scene::new(WIDTH);
        let mut y = scene.title(&self.title)?;
        let sample = |n: &Named| match self.panels.first() {
            Some(p) if p.dots => Sample::Marker(n.looks),
            _ => Sample::Fill(n.looks),
        };
        let entries: Vec<(Sample, String)> = if self.series.len() > 1 {
            self.series
                .iter()
                .map(|n| (sample(n), n.name.clone()))
                .collect()
        } else {
            Vec::new()
        };
        let legend = Legend::new(&entries, WIDTH * 0.32)?;
        let right = WIDTH - legend.width().max(SPACE);
        legend.draw(&mut scene, (WIDTH - legend.width(), y + TICK * 1.5));
        let mut lost = 0;
        for panel in &self.panels {
            y = self.panel(&mut scene, panel, y, right)?;
            let bars = panel.groups.iter().flat_map(|g| &g.bars);
            lost += bars.filter(|b| !drawable(b.value)).count();
        }
        let mut notes = self.notes.clone();
        if lost > 0 {
            notes.push(format!("values left out as not finite: {lost}"));
        }
        scene.grow(WIDTH, y);
        scene.notes(&notes)?;
        Ok(scene)
    }

    /// Draws a panel; its lower edge.
    fn panel(
        &self,
        scene: &mut Scene,
        panel: &BarPanel,
        top: f64,
        right: f64,
    ) -> Result<f64, PlotError> {
        let mut names = Vec::new();
        for group in &panel.groups {
            let most = (group.bars.len().max(1) as f64 * PITCH / (LABEL * 1.2)).floor() as usize;
            names.push(lines(&group.name, LABEL, WIDTH * 0.24, most.clamp(1, 3))?);
        }
        let left = widest(names.iter().flatten().map(String::as_str), LABEL)? + 3.0 * SPACE;
        let mut columns = Vec::new();
        for (number, heading) in panel.columns.iter().enumerate() {
            let bars = panel.groups.iter().flat_map(|g| &g.bars);
            let texts = bars.filter_map(|b| b.texts.get(number).map(String::as_str));
            columns.push(widest(texts.chain([heading.as_str()]), TICK)? + 1.5 * SPACE);
        }
        let end = (right - columns.iter().sum::<f64>() - 1.5 * SPACE).max(left + 120.0);
        let mut x = end + SPACE;
        let mut ends = Vec::new();
        for (width, heading) in columns.iter().zip(&panel.columns) {
            x += width;
            ends.push(x);
            scene.text((x, top + TICK * 0.7), heading, TICK, FAINT, RIGHT);
        }
        scene.grow(x + SPACE, 0.0);

        let first = top + TICK * 1.6;
        let height = panel
            .groups
            .iter()
            .map(|g| g.bars.len().max(1) as f64 * PITCH + GAP)
            .sum::<f64>()
            .max(60.0);
        let bottom = first + height;
        let bars = || panel.groups.iter().flat_map(|g| &g.bars);
        let values = bars().filter(|b| drawable(b.value)).flat_map(|b| {
            let [low, high] = b.interval.unwrap_or([b.value, b.value]);
            [b.value, low, high]
        });
        let Some(axis) = Axis::around(Law::Linear, values, 0.05) else {
            let middle = (f64::midpoint(left, end), f64::midpoint(first, bottom));
            scene.text(middle, "no finite values", LABEL, FAINT, CENTRE);
            scene.frame((left, first), (end, bottom), GRID);
            scene.text(
                (f64::midpoint(left, end), bottom + 7.0),
                &panel.axis,
                LABEL,
                INK,
                CENTRE_TOP,
            );
            return Ok(bottom + LABEL * 2.2);
        };
        let mut axis = axis.with_zero().within(panel.bounds);
        // Bars begin at zero, without room before it.
        if !panel.dots {
            axis.low = if bars().all(|b| b.value >= 0.0 || b.value.is_nan()) {
                0.0
            } else {
                axis.low
            };
            axis.high = if bars().all(|b| b.value <= 0.0 || b.value.is_nan()) {
                0.0
            } else {
                axis.high
            };
            if axis.high <= axis.low {
                axis.high = axis.low + 1.0;
            }
        }
        let at = |v: f64| {
            axis.share(v)
                .map(|s| left + s.clamp(0.0, 1.0) * (end - left))
        };
        for (value, text) in axis.ticks(if end - left < 350.0 { 4 } else { 7 }) {
            let Some(x) = at(value) else { continue };
            scene.line(vec![(x, first), (x, bottom)], GRID, 1.0);
            scene.text((x, bottom + 5.0), &text, TICK, FAINT, CENTRE_TOP);
        }
        let zero = at(0.0).unwrap_or(left);
        let mut y = first + GAP / 2.0;
        for (number, (group, name)) in panel.groups.iter().zip(&names).enumerate() {
            let tall = group.bars.len().max(1) as f64 * PITCH;
            if number > 0 && panel.groups.iter().any(|g| g.bars.len() > 1) {
                scene.line(vec![(left, y - GAP / 2.0), (end, y - GAP / 2.0)], GRID, 1.0);
            }
            let mut line_y = y + tall / 2.0 - (name.len() as f64 - 1.0) * LABEL * 0.6;
            for line in name {
                scene.text((left - SPACE, line_y), line, LABEL, INK, RIGHT);
                line_y += LABEL * 1.2;
            }
            for bar in &group.bars {
                let middle = y + PITCH / 2.0;
                self.bar(scene, panel, bar, middle, zero, &at);
                for (text, x) in bar.texts.iter().zip(&ends) {
                    scene.text((*x, middle), text, TICK, INK, RIGHT);
                }
                y += PITCH;
            }
            y += GAP;
        }
        scene.line(vec![(zero, first), (zero, bottom)], INK, 1.0);
        let middle = f64::midpoint(left, end);
        scene.text(
            (middle, bottom + TICK * 1.5 + 4.0),
            &panel.axis,
            LABEL,
            INK,
            CENTRE_TOP,
        );
        Ok(bottom + TICK * 1.5 + LABEL * 2.4)
    }

    fn bar(
        &self,
        scene: &mut Scene,
        panel: &BarPanel,
        bar: &Bar,
        middle: f64,
        zero: f64,
        at: &dyn Fn(f64) -> Option<f64>,
    ) {
        let Some(named) = self.series.get(bar.series) else {
            return;
        };
        let Some(x) = Some(bar.value).filter(|v| drawable(*v)).and_then(at) else {
            let beside = (zero + SPACE / 2.0, middle);
            scene.text(beside, "no value", TICK, FAINT, LEFT);
            return;
        };
        let looks = named.looks;
        let ends = bar.interval.and_then(|[l, h]| Some((at(l)?, at(h)?)));
        if panel.dots {
            if let Some((low, high)) = ends {
                whisker(scene, (low, middle), (high, middle), looks.colour);
            }
            scene.marker((x, middle), looks.marker, RADIUS + 1.0, looks.colour, 1.0);
        } else {
            let (from, to) = ((zero, middle - THICK / 2.0), (x, middle + THICK / 2.0));
            scene.filled(from, to, looks.colour);
            if self.series.len() > 1 && (x - zero).abs() > 30.0 {
                // Near the foot of the bar, where no whisker reaches.
                bar_sign(scene, looks, (zero + (x - zero).signum() * 9.0, middle));
            }
            if let Some((low, high)) = ends {
                // A white seam keeps the whisker apart from its bar.
                scene.line(
                    vec![(low, middle), (high, middle)],
                    plotters::style::WHITE,
                    3.0,
                );
                whisker(scene, (low, middle), (high, middle), INK);
            }
        }
        let (from, to) = (
            (x.min(zero), middle - THICK / 2.0),
            (x.max(zero), middle + THICK / 2.0),
        );
        if panel.dots {
            scene.mark((x, middle), bar.label.clone());
        } else {
            scene.mark_box(from, to, bar.label.clone());
        }
    }
}
