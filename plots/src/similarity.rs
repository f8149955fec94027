//! Figures of similarity: `cka` (one pair of models), `cka-grid` (pairs on one scale), `depth` (layer against the same layer).

use tcd_analysis::cka::{CkaCell, CkaResult};
use tcd_analysis::provenance::{Provenance, optional};
use tcd_analysis::similarity::{MEASURES, SimilarityResult};

use crate::figure::{Figure, Table, Words};
use crate::heat::{Cell, HeatPlot, Map, Scale, said};
use crate::kinds::kind_of;
use crate::legend::Sample;
use crate::lines::{Across, LineOf, LinePlot, Named, Panel, Point};
use crate::output::PlotError;
use crate::style::{FAINT, series};
use crate::taps::{axis_label, places, short_tap};

/// The two models of a comparison; the second may be the first.
fn models(provenance: &Provenance) -> (String, String) {
    let name = |i: usize| provenance.models.get(i).map(|m| m.name.clone());
    let a = name(0).unwrap_or_else(|| "A".to_owned());
    let b = name(1).unwrap_or_else(|| a.clone());
    (a, b)
}

fn pair(provenance: &Provenance) -> String {
    let (a, b) = models(provenance);
    if a == b && provenance.models.len() < 2 {
        format!("{a} with itself")
    } else {
        format!("{a} and {b}")
    }
}

fn map(result: &CkaResult, heading: String) -> Map {
    let (a, b) = models(&result.provenance);
    let cell = |c: &CkaCell| {
        let reason = c.reason.as_ref().map(ToString::to_string);
        let what = format!("{a} {}, {b} {}", short_tap(&c.a), short_tap(&c.b));
        let mut label = said(&what, c.cka, reason.as_deref().unwrap_or_default());
        if let Some([low, high]) = c.interval {
            label += &format!(" ({low:.3} to {high:.3})");
        }
        if let Some(null) = c.null_high {
            label += &format!(", unrelated up to {null:.3}");
        }
        Cell {
            value: c.cka,
            text: c
                .cka
                .map(|v| format!("{v:.2}").replace('-', "\u{2212}"))
                .unwrap_or_default(),
            label,
        }
    };
    Map {
        heading,
        down: axis_label(&result.taps_a, &a),
        across: axis_label(&result.taps_b, &b),
        rows: result.taps_a.iter().map(|t| short_tap(t)).collect(),
        columns: result.taps_b.iter().map(|t| short_tap(t)).collect(),
        cells: result.cells.iter().map(cell).collect(),
    }
}

fn cka_data(results: &[&CkaResult]) -> Table {
    let mut data = Table::new(&[
        "model_a",
        "model_b",
        "a",
        "b",
        "cka",
        "interval_low",
        "interval_high",
        "null_mean",
        "null_high",
        "p_value",
        "reason",
    ]);
    for result in results {
        let (a, b) = models(&result.provenance);
        for c in &result.cells {
            data.push([
                a.clone(),
                b.clone(),
                c.a.clone(),
                c.b.clone(),
                optional(c.cka),
                optional(c.interval.map(|i| i[0])),
                optional(c.interval.map(|i| i[1])),
                optional(c.null_mean),
                optional(c.null_high),
                optional(c.p_value),
                c.reason
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]);
        }
    }
    data
}

/// CKA is read from 0 to 1; a debiased value below 0 is drawn as 0 and written as it is.
fn cka_scale() -> Scale {
    Scale {
        label: "CKA".to_owned(),
        low: 0.0,
        high: 1.0,
        two_sided: false,
    }
}

fn without_value(results: &[&CkaResult]) -> Vec<String> {
    let cells = results.iter().flat_map(|r| &r.cells);
    let count = cells.filter(|c| c.cka.is_none_or(f64::is_nan)).count();
    if count == 0 {
        return Vec::new();
    }
    vec![format!("crossed cells have no value: {count}")]
}

/// The map of one pair.
pub fn cka(result: &CkaResult) -> Result<Figure, PlotError> {
    let of = pair(&result.provenance);
    let title = format!("CKA of {of}");
    let plot = HeatPlot {
        title: title.clone(),
        maps: vec![map(result, String::new())],
        scale: cka_scale(),
        square: true,
        notes: without_value(&[result]),
    };
    let caption = format!(
        "How alike the layers of {of} are on the same rows: 1 for the same relations between rows, 0 for nothing in common."
    );
    let words = Words {
        part: String::new(),
        title,
        caption,
    };
    Figure::new(kind_of("cka")?, words, plot.scene()?, cka_data(&[result]))
}

/// The maps of several pairs on one scale.
pub fn cka_grid(results: &[&CkaResult]) -> Result<Figure, PlotError> {
    if results.is_empty() {
        return Err(PlotError::empty("no CKA results were given"));
    }
    let title = "CKA of pairs of models".to_owned();
    let plot = HeatPlot {
        title: title.clone(),
        maps: results
            .iter()
            .map(|r| map(r, pair(&r.provenance)))
            .collect(),
        scale: cka_scale(),
        square: true,
        notes: without_value(results),
    };
    let words = Words {
        part: String::new(),
        title,
        caption: "How alike the layers of each pair of models are, all maps on one scale."
            .to_owned(),
    };
    Figure::new(
        kind_of("cka-grid")?,
        words,
        plot.scene()?,
        cka_data(results),
    )
}

/// One line of `depth`: a measure of a pair of models by tap.
struct Depth {
    measure: String,
    pair: String,
    cells: Vec<DepthCell>,
}

/// Tap, value, interval, upper end of the null.
type DepthCell = (String, Option<f64>, Option<[f64; 2]>, Option<f64>);

fn depths(ckas: &[&CkaResult], similarities: &[&SimilarityResult]) -> Vec<Depth> {
    let mut found = Vec::new();
    for result in ckas {
        let same = result.cells.iter().filter(|c| c.a == c.b);
        found.push(Depth {
            measure: "cka".to_owned(),
            pair: pair(&result.provenance),
            cells: same
                .map(|c| (c.a.clone(), c.cka, c.interval, c.null_high))
                .collect(),
        });
    }
    for result in similarities {
        for measure in &result.measures {
            let of = pair(&result.provenance);
            // The same pair's CKA over all rows is there already.
            if found.iter().any(|d| d.measure == *measure && d.pair == of) {
                continue;
            }
            let cells = result.cells.iter();
            let same = cells.filter(|c| c.measure == *measure && c.a == c.b);
            found.push(Depth {
                measure: measure.clone(),
                pair: of,
                cells: same.map(|c| (c.a.clone(), c.value, None, None)).collect(),
            });
        }
    }
    found.retain(|d| !d.cells.is_empty());
    found
}

/// Similarity and distance of the same layer of two models, by depth.
pub fn depth(ckas: &[&CkaResult], similarities: &[&SimilarityResult]) -> Result<Figure, PlotError> {
    let found = depths(ckas, similarities);
    if found.is_empty() {
        return Err(PlotError::empty("no result compares taps of the same name"));
    }
    let taps = places(
        found
            .iter()
            .flat_map(|d| d.cells.iter().map(|c| c.0.as_str())),
    );
    let mut pairs: Vec<&str> = Vec::new();
    let mut measures: Vec<&str> = Vec::new();
    for d in &found {
        if !pairs.contains(&d.pair.as_str()) {
            pairs.push(&d.pair);
        }
        if !measures.contains(&d.measure.as_str()) {
            measures.push(&d.measure);
        }
    }
    let mut data = Table::new(&[
        "measure",
        "models",
        "tap",
        "value",
        "interval_low",
        "interval_high",
        "null_high",
    ]);
    let mut panels = Vec::new();
    let mut null = false;
    for measure in &measures {
        let known = MEASURES.iter().find(|m| m.name == *measure);
        let mut panel = Panel {
            heading: known.map_or_else(|| (*measure).to_owned(), heading),
            zero: true,
            ..Panel::default()
        };
        for d in found.iter().filter(|d| d.measure == *measure) {
            let series = pairs.iter().position(|p| *p == d.pair).unwrap_or(0);
            let at = |tap: &str| taps.iter().position(|t| t == tap).unwrap_or(0) as f64;
            let mut points: Vec<Point> = d
                .cells
                .iter()
                .filter_map(|(tap, value, interval, _)| {
                    Some(Point {
                        x: at(tap),
                        y: (*value)?,
                        interval: *interval,
                    })
                })
                .collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            panel.lines.push(LineOf {
                series,
                points,
                faint: false,
            });
            let mut nulls: Vec<Point> = d
                .cells
                .iter()
                .filter_map(|c| Some(Point::new(at(&c.0), c.3?)))
                .collect();
            nulls.sort_by(|a, b| a.x.total_cmp(&b.x));
            if !nulls.is_empty() {
                null = true;
                panel.lines.push(LineOf {
                    series,
                    points: nulls,
                    faint: true,
                });
            }
            for (tap, value, interval, null) in &d.cells {
                data.push([
                    d.measure.clone(),
                    d.pair.clone(),
                    tap.clone(),
                    optional(*value),
                    optional(interval.map(|i| i[0])),
                    optional(interval.map(|i| i[1])),
                    optional(*null),
                ]);
            }
        }
        panels.push(panel);
    }
    let named = |(i, name): (usize, &&str)| Named {
        name: (*name).to_owned(),
        looks: series(i),
    };
    let plot = LinePlot {
        title: "Similarity and distance by depth".to_owned(),
        width: if panels.len() > 3 { 1200.0 } else { 900.0 },
        panel_height: 220.0,
        series: pairs.iter().enumerate().map(named).collect(),
        across: Across::Places {
            label: axis_label(&taps, ""),
            names: taps.iter().map(|t| short_tap(t)).collect(),
        },
        panels,
        extra: if null {
            let sample = Sample::Plain(FAINT, Some((4, 6)));
            vec![(sample, "unrelated features reach".to_owned())]
        } else {
            Vec::new()
        },
        notes: Vec::new(),
    };
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "The same layer of two models set against each other, from the embeddings to the last layer; one panel a measure.".to_owned(),
    };
    Figure::new(kind_of("depth")?, words, plot.scene()?, data)
}

fn heading(m: &tcd_analysis::similarity::Measure) -> String {
    use tcd_analysis::similarity::Direction;
    let name = match m.name {
        "cka" => "linear CKA, debiased",
        "cka-biased" => "linear CKA, biased",
        "cka-rbf" => "CKA with an RBF kernel",
        "procrustes" => "orthogonal Procrustes",
        "svcca" => "SVCCA",
        "pwcca" => "PWCCA",
        "rsa" => "RSA",
        "relation" => "relation distance of distillation",
        other => other,
    };
    match m.direction {
        Direction::Similarity => format!("{name} (higher: more alike)"),
        Direction::Distance => format!("{name} (lower: more alike)"),
    }
}
