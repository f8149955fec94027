//! Figures of geometry: `spectra`, `ranks`, and `projection` (PCA or t-SNE).

use tcd_analysis::geometry::{GeometryResult, Measures, TapGeometry};
use tcd_analysis::projection::{Projection, ProjectionResult};
use tcd_analysis::provenance::optional;

use crate::axis::{Law, short};
use crate::figure::{Figure, Table, Words};
use crate::kinds::kind_of;
use crate::lines::{Across, LineOf, LinePlot, Named, Panel, Point};
use crate::output::PlotError;
use crate::scatter::{Cloud, ScatterPlot};
use crate::style::{by_depth, series};
use crate::taps::{axis_label, places, short_tap};

/// Names in the order of their first appearance.
pub(crate) fn in_order<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn left_out(taps: &[TapGeometry]) -> Vec<String> {
    let reason = |t: &TapGeometry| {
        let reason = t.reason.as_ref()?;
        Some(format!("{} {}: {reason}", t.model, short_tap(&t.tap)))
    };
    let all: Vec<String> = taps.iter().filter_map(reason).collect();
    let mut notes: Vec<String> = all.iter().take(4).cloned().collect();
    if all.len() > 4 {
        notes.push(format!("and {} more without values", all.len() - 4));
    }
    notes
}

/// Share of variance along each principal direction, a panel a model and a line a tap.
pub fn spectra(result: &GeometryResult) -> Result<Figure, PlotError> {
    let models = in_order(result.taps.iter().map(|t| t.model.as_str()));
    if models.is_empty() {
        return Err(PlotError::empty("the geometry result has no taps"));
    }
    let taps = places(result.taps.iter().map(|t| t.tap.as_str()));
    let mut data = Table::new(&["model", "tap", "k", "eigenvalue", "share"]);
    let mut panels = Vec::new();
    for model in &models {
        let mut panel = Panel {
            heading: format!("{model}: share of variance"),
            log: true,
            // Below that the spectrum of f32 features is rounding.
            bounds: Some((1e-9, 1.0)),
            ..Panel::default()
        };
        for tap in result.taps.iter().filter(|t| t.model == *model) {
            let Some(measures) = &tap.measures else {
                continue;
            };
            let total: f64 = measures.spectrum.iter().sum();
            let share = |l: &f64| l / total;
            let points = measures.spectrum.iter().enumerate();
            panel.lines.push(LineOf {
                series: taps.iter().position(|t| *t == tap.tap).unwrap_or(0),
                // A direction without variance has no place on this axis.
                points: points
                    .clone()
                    .map(|(k, l)| Point::new(k as f64 + 1.0, share(l)))
                    .filter(|p| p.y.is_nan() || p.y > 1e-9)
                    .collect(),
                faint: false,
            });
            for (k, l) in points {
                data.push([
                    tap.model.clone(),
                    tap.tap.clone(),
                    (k + 1).to_string(),
                    l.to_string(),
                    share(l).to_string(),
                ]);
            }
        }
        panels.push(panel);
    }
    let plot = LinePlot {
        title: "Spectra of hidden states by layer".to_owned(),
        width: if panels.len() > 3 { 1200.0 } else { 900.0 },
        panel_height: 300.0,
        series: taps
            .iter()
            .enumerate()
            .map(|(i, t)| Named {
                name: layer_name(t),
                looks: by_depth(i, taps.len()),
            })
            .collect(),
        across: Across::Numbers {
            label: "principal direction, by variance".to_owned(),
            law: Law::Log,
        },
        panels,
        extra: Vec::new(),
        notes: left_out(&result.taps),
    };
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "How the variance of the hidden states is spread over directions: a line that falls fast means that few directions hold most of it.".to_owned(),
    };
    Figure::new(kind_of("spectra")?, words, plot.scene()?, data)
}

fn layer_name(tap: &str) -> String {
    let short = short_tap(tap);
    if tap == "embedding" {
        "embeddings".to_owned()
    } else if short.parse::<usize>().is_ok() {
        format!("layer {short}")
    } else {
        short
    }
}

type Value = fn(&Measures) -> Option<f64>;

/// Panels of `ranks`.
const RANKS: [(&str, Value); 3] = [
    ("effective rank (directions)", |m| Some(m.effective_rank)),
    ("participation ratio (directions)", |m| {
        Some(m.participation_ratio)
    }),
    ("anisotropy (mean cosine)", |m| m.anisotropy),
];

/// Effective rank, participation ratio and anisotropy by layer.
pub fn ranks(result: &GeometryResult) -> Result<Figure, PlotError> {
    let models = in_order(result.taps.iter().map(|t| t.model.as_str()));
    if models.is_empty() {
        return Err(PlotError::empty("the geometry result has no taps"));
    }
    let taps = places(result.taps.iter().map(|t| t.tap.as_str()));
    let panel = |(heading, value): &(&str, Value)| {
        let line = |(i, model): (usize, &&str)| {
            let of = result.taps.iter().filter(|t| t.model == **model);
            let mut points: Vec<Point> = of
                .filter_map(|t| {
                    let x = taps.iter().position(|n| *n == t.tap)? as f64;
                    Some(Point::new(x, value(t.measures.as_ref()?)?))
                })
                .collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            LineOf {
                series: i,
                points,
                faint: false,
            }
        };
        Panel {
            heading: (*heading).to_owned(),
            zero: true,
            lines: models.iter().enumerate().map(line).collect(),
            ..Panel::default()
        }
    };
    let plot = LinePlot {
        title: "Directions in use by layer".to_owned(),
        width: 900.0,
        panel_height: 200.0,
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
        panels: RANKS.iter().map(panel).collect(),
        extra: Vec::new(),
        notes: left_out(&result.taps),
    };
    let mut data = Table::new(&[
        "model",
        "tap",
        "rows",
        "width",
        "effective_rank",
        "participation_ratio",
        "anisotropy",
        "reason",
    ]);
    for t in &result.taps {
        let of = |f: Value| optional(t.measures.as_ref().and_then(f));
        data.push([
            t.model.clone(),
            t.tap.clone(),
            t.rows.to_string(),
            t.width.to_string(),
            of(RANKS[0].1),
            of(RANKS[1].1),
            of(RANKS[2].1),
            t.reason
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]);
    }
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "How many directions the hidden states use (effective rank, participation ratio) and how far they point the same way (anisotropy), by layer.".to_owned(),
    };
    Figure::new(kind_of("ranks")?, words, plot.scene()?, data)
}

/// Rows in two dimensions, a panel a tap.
pub fn projection(result: &ProjectionResult) -> Result<Figure, PlotError> {
    if result.taps.is_empty() {
        return Err(PlotError::empty("the projection has no taps"));
    }
    let model = result.provenance.models.first();
    let model = model.map_or("the model", |m| m.name.as_str());
    let what = match result.label_kind.as_str() {
        "token_class" => "class".to_owned(),
        other => other.replace('_', " "),
    };
    let (method, pca) = match result.projection {
        Projection::Pca => ("Principal components", true),
        Projection::Tsne { .. } => ("t-SNE", false),
    };
    let mut data = Table::new(&["tap", "row", "label", "x1", "x2"]);
    let mut clouds = Vec::new();
    let mut flat = false;
    for tap in &result.taps {
        if tap.points.len() != result.labels.len() {
            return Err(PlotError::result(format!(
                "`{}` has {} points for {} labels",
                tap.tap,
                tap.points.len(),
                result.labels.len()
            )));
        }
        flat |= tap.points.iter().any(|p| p.len() < 2);
        let points: Vec<(f64, f64)> = tap
            .points
            .iter()
            .map(|p| {
                let at = |i: usize| p.get(i).copied();
                (at(0).unwrap_or(f64::NAN), at(1).unwrap_or(0.0))
            })
            .collect();
        for (row, (p, label)) in points.iter().zip(&result.labels).enumerate() {
            data.push([
                tap.tap.clone(),
                row.to_string(),
                label.clone(),
                p.0.to_string(),
                p.1.to_string(),
            ]);
        }
        let axis = |i: usize| {
            let share = tap.variance_share.as_ref().and_then(|s| s.get(i));
            match (pca, share) {
                (true, Some(s)) => format!(
                    "component {} ({} % of variance)",
                    i + 1,
                    short((s * 1000.0).round() / 10.0)
                ),
                (true, None) => format!("component {}", i + 1),
                (false, _) => format!("t-SNE {} (no unit)", i + 1),
            }
        };
        clouds.push(Cloud {
            heading: layer_name(&tap.tap),
            across: axis(0),
            up: axis(1),
            points,
        });
    }
    let title = format!("{method} of {model} by {what}");
    let notes = if flat {
        vec!["the result has one dimension; the second is drawn as 0".to_owned()]
    } else {
        Vec::new()
    };
    let plot = ScatterPlot {
        title: title.clone(),
        label: what.clone(),
        labels: &result.labels,
        clouds,
        notes,
    };
    let caption = if pca {
        format!("Hidden states along their two directions of most variance, coloured by {what}.")
    } else {
        format!(
            "Hidden states laid out so that neighbours stay neighbours, coloured by {what}; distances between groups mean nothing."
        )
    };
    let words = Words {
        part: if pca { "pca" } else { "tsne" }.to_owned(),
        title,
        caption,
    };
    Figure::new(kind_of("projection")?, words, plot.scene()?, data)
}
