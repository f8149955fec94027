//! Figure `probes`: held-out score of linear probes by layer, beside the control task.

use tcd_analysis::probe::ProbeResult;
use tcd_analysis::provenance::optional;

use crate::figure::{Figure, Table, Words};
use crate::geometry::in_order;
use crate::kinds::kind_of;
use crate::legend::Sample;
use crate::lines::{Across, LineOf, LinePlot, Named, Panel, Point};
use crate::output::PlotError;
use crate::style::{FAINT, series};
use crate::taps::{axis_label, places, short_tap};

/// A panel a task, a line a model; the control task in thin dashes.
pub fn probes(result: &ProbeResult) -> Result<Figure, PlotError> {
    let cells = &result.cells;
    if cells.is_empty() {
        return Err(PlotError::empty("the result has no probes"));
    }
    let models = in_order(cells.iter().map(|c| c.model.as_str()));
    let tasks = in_order(cells.iter().map(|c| c.task.as_str()));
    let taps = places(cells.iter().map(|c| c.tap.as_str()));
    let mut panels = Vec::new();
    for task in &tasks {
        let of = || cells.iter().filter(|c| c.task == *task);
        let metric = of().find_map(|c| c.scores.as_ref().map(|s| s.metric.clone()));
        let baseline = of().find_map(|c| c.scores.as_ref().map(|s| s.baseline));
        let mut heading = match metric.as_deref() {
            Some("r2") => format!("{task}: held-out R\u{b2}"),
            Some("accuracy") => format!("{task}: held-out accuracy"),
            Some(other) => format!("{task}: held-out {other}"),
            None => (*task).to_owned(),
        };
        if let (Some(b), Some("accuracy")) = (baseline, metric.as_deref()) {
            heading += &format!(" (most frequent class {b:.2})");
        }
        let mut panel = Panel {
            heading,
            // A control fit far below zero says no more than one at -1.
            bounds: Some((-1.0, 1.0)),
            zero: true,
            ..Panel::default()
        };
        for (series, model) in models.iter().enumerate() {
            let line = |value: fn(&tcd_analysis::probe::ProbeScores) -> f64, faint: bool| {
                let mut points: Vec<Point> = of()
                    .filter(|c| c.model == *model)
                    .filter_map(|c| {
                        let x = taps.iter().position(|t| *t == c.tap)? as f64;
                        Some(Point::new(x, value(c.scores.as_ref()?)))
                    })
                    .collect();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                LineOf {
                    series,
                    points,
                    faint,
                }
            };
            panel.lines.push(line(|s| s.score, false));
            panel.lines.push(line(|s| s.control, true));
        }
        panels.push(panel);
    }
    let missing = cells.iter().filter(|c| c.scores.is_none()).count();
    let mut notes = Vec::new();
    if missing > 0 {
        let reason = cells.iter().find_map(|c| c.reason.as_ref());
        let reason = reason.map_or(String::new(), |r| format!(" (the first: {r})"));
        notes.push(format!("probes without a score: {missing}{reason}"));
    }
    let plot = LinePlot {
        title: "Linear probes by layer".to_owned(),
        width: if panels.len() > 3 { 1300.0 } else { 900.0 },
        panel_height: 210.0,
        series: models
            .iter()
            .enumerate()
            .map(|(i, m)| Named {
                name: (*m).to_owned(),
                looks: series(i),
            })
            .collect(),
        across: Across::Places {
            label: axis_label(&taps, ""),
            names: taps.iter().map(|t| short_tap(t)).collect(),
        },
        panels,
        extra: vec![(
            Sample::Plain(FAINT, Some((4, 6))),
            "control task".to_owned(),
        )],
        notes,
    };
    let mut data = Table::new(&[
        "model",
        "tap",
        "task",
        "metric",
        "score",
        "control",
        "selectivity",
        "baseline",
        "reason",
    ]);
    for c in cells {
        let s = c.scores.as_ref();
        data.push([
            c.model.clone(),
            c.tap.clone(),
            c.task.clone(),
            s.map(|s| s.metric.clone()).unwrap_or_default(),
            optional(s.map(|s| s.score)),
            optional(s.map(|s| s.control)),
            optional(s.map(|s| s.selectivity)),
            optional(s.map(|s| s.baseline)),
            c.reason
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]);
    }
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "What a linear model reads from each layer on rows it was not fitted to; the dashed line is the same probe on random labels.".to_owned(),
    };
    Figure::new(kind_of("probes")?, words, plot.scene()?, data)
}
