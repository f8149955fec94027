//! Scatter plots: panels of points in two dimensions, coloured by label.
//!
//! Few labels get colours and markers of their own, the most frequent ones first; many numeric labels a scale from dark to light.

use std::collections::BTreeMap;

use crate::axis::{Axis, Law, drawable, short};
use crate::legend::{Legend, Sample};
use crate::output::PlotError;
use crate::scene::{
    CENTRE, CENTRE_TOP, LABEL, LEFT_TOP, Place, RIGHT, SPACE, Scene, TICK, widest, wrap,
};
use crate::style::{FAINT, GRID, INK, Marker, Series, heat, series};

use plotters::style::RGBColor;

/// Side of a panel.
const SIDE: f64 = 360.0;
/// Most points that a panel draws.
const POINTS: usize = 8000;
/// Most points with a hover text, in all panels.
const MARKS: usize = 3000;
/// Most labels with looks of their own.
const LABELS: usize = 12;

/// A panel.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub heading: String,
    pub across: String,
    pub up: String,
    pub points: Vec<(f64, f64)>,
}

/// A scatter plot; each label is that of the points of its number in all panels.
#[derive(Clone, Debug)]
pub(crate) struct ScatterPlot<'a> {
    pub title: String,
    /// What the labels are.
    pub label: String,
    pub labels: &'a [String],
    pub clouds: Vec<Cloud>,
    pub notes: Vec<String>,
}

/// Looks of every row, and the legend.
struct Looks {
    of_row: Vec<Series>,
    legend: Vec<(Sample, String)>,
}

fn looks(labels: &[String], what: &str) -> Looks {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    let numbers: Option<Vec<f64>> = labels
        .iter()
        .map(|l| l.parse::<f64>().ok().filter(|v| drawable(*v)))
        .collect();
    if let (Some(numbers), true) = (numbers, counts.len() > LABELS) {
        let dot = |share: f64| Series {
            colour: heat(0.9 * share),
            dash: None,
            marker: Marker::Circle,
        };
        let axis = Axis::around(Law::Linear, numbers.iter().copied(), 0.0).unwrap_or(Axis {
            law: Law::Linear,
            low: 0.0,
            high: 1.0,
        });
        let share = |v: f64| axis.share(v).unwrap_or(0.0).clamp(0.0, 1.0);
        let sample = |v: f64| {
            (
                Sample::Marker(dot(share(v))),
                format!("{what} {}", short(v.round())),
            )
        };
        let steps = (0..=4).map(|i| axis.low + (axis.high - axis.low) * f64::from(i) / 4.0);
        return Looks {
            of_row: numbers.iter().map(|v| dot(share(*v))).collect(),
            legend: steps.map(sample).collect(),
        };
    }
    let mut names: Vec<(&str, usize)> = counts.into_iter().collect();
    let many = names.len() > LABELS;
    if many {
        names.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        names.truncate(LABELS - 1);
    } else if names.iter().all(|n| n.0.parse::<f64>().is_ok()) {
        names.sort_by(|a, b| {
            let number = |t: &str| t.parse::<f64>().unwrap_or(0.0);
            number(a.0).total_cmp(&number(b.0))
        });
    }
    let rest = Series {
        colour: RGBColor(190, 190, 190),
        dash: None,
        marker: Marker::Circle,
    };
    let mut legend: Vec<(Sample, String)> = names
        .iter()
        .enumerate()
        .map(|(i, (name, count))| {
            let name = if name.is_empty() { "(none)" } else { name };
            (Sample::Marker(series(i)), format!("{name} ({count})"))
        })
        .collect();
    if many {
        let shown: usize = names.iter().map(|n| n.1).sum();
        legend.push((
            Sample::Marker(rest),
            format!("others ({})", labels.len() - shown),
        ));
    }
    let place: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.0, i)).collect();
    let of = |label: &String| place.get(label.as_str()).map_or(rest, |i| series(*i));
    Looks {
        of_row: labels.iter().map(of).collect(),
        legend,
    }
}

impl ScatterPlot<'_> {
    /// Draws it.
    pub fn scene(&self) -> Result<Scene, PlotError> {
        let looks = looks(self.labels, &self.label);
        let columns = match self.clouds.len() {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let legend = Legend::new(&looks.legend, 300.0)?;
        let mut left = 4.0 * SPACE;
        for cloud in &self.clouds {
            for axis in axes(cloud).iter().flatten().skip(1) {
                let ticks = axis.ticks(5);
                left = left.max(widest(ticks.iter().map(|t| t.1.as_str()), TICK)? + SPACE);
            }
        }
        left += LABEL * 2.2;
        let across = left + SIDE + SPACE;
        let down = SIDE + LABEL * 4.6 + TICK;
        let width = across * f64::from(columns) + SPACE;
        let mut scene = Scene::new(width + legend.width().max(SPACE));
        let top = scene.title(&self.title)?;
        let mut notes = self.notes.clone();
        let (mut lost, mut drawn) = (0, 0);
        let each = MARKS / self.clouds.len().max(1);
        for (number, cloud) in self.clouds.iter().enumerate() {
            let (row, column) = (number / columns as usize, number % columns as usize);
            let at = (
                column as f64 * across + left,
                top + row as f64 * down + LABEL * 2.8,
            );
            let (bad, shown) = self.cloud(&mut scene, cloud, at, left, &looks, each)?;
            lost += bad;
            drawn = drawn.max(shown);
        }
        let rows = self.clouds.len().div_ceil(columns as usize);
        scene.grow(0.0, top + rows as f64 * down);
        legend.draw(&mut scene, (width, top + LABEL * 2.8));
        if lost > 0 {
            notes.push(format!("points left out as not finite: {lost}"));
        }
        let most = self
            .clouds
            .iter()
            .map(|c| c.points.len())
            .max()
            .unwrap_or(0);
        if most > POINTS {
            notes.push(format!(
                "drawn are {drawn} of {most} points, evenly spread over the rows"
            ));
        }
        scene.notes(&notes)?;
        Ok(scene)
    }

    /// Draws a panel; how many points are not finite, and how many were drawn.
    fn cloud(
        &self,
        scene: &mut Scene,
        cloud: &Cloud,
        (x0, y0): Place,
        left: f64,
        looks: &Looks,
        most_marks: usize,
    ) -> Result<(usize, usize), PlotError> {
        let heading = wrap(&cloud.heading, LABEL, SIDE)?;
        let mut y = y0 - LABEL * 0.4 - heading.len().min(2) as f64 * LABEL * 1.2;
        for line in heading.iter().take(2) {
            scene.text((x0, y), line, LABEL, INK, LEFT_TOP);
            y += LABEL * 1.2;
        }
        let (x1, y1) = (x0 + SIDE, y0 + SIDE);
        let finite: Vec<(usize, (f64, f64))> = cloud
            .points
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, p)| drawable(p.0) && drawable(p.1))
            .collect();
        let lost = cloud.points.len() - finite.len();
        let [across, up] = axes(cloud);
        let (Some(across), Some(up)) = (across, up) else {
            scene.frame((x0, y0), (x1, y1), FAINT);
            let middle = (f64::midpoint(x0, x1), f64::midpoint(y0, y1));
            scene.text(middle, "no finite values", LABEL, FAINT, CENTRE);
            return Ok((lost, 0));
        };
        for (value, text) in across.ticks(5) {
            if let Some(share) = across.share(value) {
                let x = x0 + share * SIDE;
                scene.line(vec![(x, y0), (x, y1)], GRID, 1.0);
                scene.text((x, y1 + 5.0), &text, TICK, FAINT, CENTRE_TOP);
            }
        }
        for (value, text) in up.ticks(5) {
            if let Some(share) = up.share(value) {
                let y = y1 - share * SIDE;
                scene.line(vec![(x0, y), (x1, y)], GRID, 1.0);
                scene.text((x0 - 6.0, y), &text, TICK, FAINT, RIGHT);
            }
        }
        scene.frame((x0, y0), (x1, y1), FAINT);
        let every = finite.len().div_ceil(POINTS).max(1);
        let shown = finite.len().div_ceil(every);
        let (radius, opacity) = match shown {
            0..=200 => (4.0, 0.9),
            201..=1500 => (3.0, 0.75),
            _ => (2.0, 0.6),
        };
        let marked = shown.div_ceil(most_marks.max(1)).max(1);
        for (number, (row, p)) in finite.iter().step_by(every).enumerate() {
            let (Some(sx), Some(sy)) = (across.share(p.0), up.share(p.1)) else {
                continue;
            };
            let at = (x0 + sx * SIDE, y1 - sy * SIDE);
            let plain = Series {
                colour: INK,
                dash: None,
                marker: Marker::Circle,
            };
            let of = looks.of_row.get(*row).copied().unwrap_or(plain);
            scene.marker(at, of.marker, radius, of.colour, opacity);
            if number % marked == 0 {
                let label = self.labels.get(*row).map_or("", String::as_str);
                let text = format!(
                    "row {row}, {} {label}: {}, {}",
                    self.label,
                    short(p.0),
                    short(p.1)
                );
                scene.mark(at, text);
            }
        }
        scene.text(
            (f64::midpoint(x0, x1), y1 + TICK * 1.6),
            &cloud.across,
            LABEL,
            INK,
            CENTRE_TOP,
        );
        let x = x0 - left + LABEL;
        scene.turned((x, f64::midpoint(y0, y1)), &cloud.up, LABEL, INK, CENTRE);
        Ok((lost, shown))
    }
}

fn axes(cloud: &Cloud) -> [Option<Axis>; 2] {
    let finite = || {
        cloud
            .points
            .iter()
            .filter(|p| drawable(p.0) && drawable(p.1))
    };
    [
        Axis::around(Law::Linear, finite().map(|p| p.0), 0.05),
        Axis::around(Law::Linear, finite().map(|p| p.1), 0.05),
    ]
}
