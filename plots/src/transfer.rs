//! Figure `transfer`: GLUE score against held-out log-likelihood by family, the gap between two families shaded (the figure that
//! the paper opens with).

use tcd_analysis::transfer::{Line, TransferGap, TransferResult};

use crate::axis::{Law, short};
use crate::figure::{Figure, Table, Words};
use crate::kinds::kind_of;
use crate::legend::Sample;
use crate::lines::{Across, LineOf, LinePlot, Named, Panel, Point, Shade};
use crate::output::PlotError;
use crate::style::{FAINT, series};

use plotters::style::RGBColor;

/// Filling of the gap.
const SHADE: RGBColor = RGBColor(120, 120, 120);

/// One figure for each gap; one without shade where no gap was measured.
pub fn transfer(result: &TransferResult) -> Result<Vec<Figure>, PlotError> {
    if result.gaps.is_empty() {
        return Ok(vec![figure(result, None)?]);
    }
    result
        .gaps
        .iter()
        .map(|g| figure(result, Some(g)))
        .collect()
}

/// The part of a line within a range, its ends included.
fn within(line: &Line, [low, high]: [f64; 2]) -> Vec<(f64, f64)> {
    let mut xs: Vec<f64> = line
        .x
        .iter()
        .copied()
        .filter(|x| (low..=high).contains(x))
        .chain([low, high])
        .collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    xs.into_iter()
        .filter_map(|x| Some((x, line.at(x)?)))
        .collect()
}

fn figure(result: &TransferResult, gap: Option<&TransferGap>) -> Result<Figure, PlotError> {
    let mean = |family: &str| {
        let curve = result.curves.iter().find(|c| c.family == family);
        curve.and_then(|c| c.mean.as_ref())
    };
    let mut panel = Panel {
        heading: "downstream score (GLUE average)".to_owned(),
        ..Panel::default()
    };
    let mut extra = Vec::new();
    let mut notes = Vec::new();
    if let Some(gap) = gap {
        if let (Some(a), Some(b), Some(overlap)) = (mean(&gap.a), mean(&gap.b), gap.overlap) {
            let lower = within(b, overlap).into_iter().rev();
            let corners: Vec<_> = within(a, overlap).into_iter().chain(lower).collect();
            panel.areas.push(Shade {
                corners,
                colour: SHADE,
                opacity: 0.22,
            });
            extra.push((
                Sample::Fill(crate::style::Series {
                    colour: RGBColor(210, 210, 210),
                    dash: None,
                    marker: crate::style::Marker::Ring,
                }),
                format!("transfer gap {} \u{2212} {}", gap.a, gap.b),
            ));
        }
        notes.push(sentence(gap, result.bootstrap.confidence));
    }
    for (i, curve) in result.curves.iter().enumerate() {
        let several = curve.runs.len() > 1;
        let points = |l: &Line| -> Vec<Point> {
            l.x.iter()
                .zip(&l.y)
                .map(|(x, y)| Point::new(*x, *y))
                .collect()
        };
        for run in curve.runs.iter().filter(|_| several) {
            panel.lines.push(LineOf {
                series: i,
                points: points(run),
                faint: true,
            });
        }
        match &curve.mean {
            Some(mean) => panel.lines.push(LineOf {
                series: i,
                points: points(mean),
                faint: false,
            }),
            None => notes.push(format!(
                "the runs of `{}` share no range of log-likelihood, so that they have no mean curve",
                curve.family
            )),
        }
    }
    if result.curves.iter().any(|c| c.runs.len() > 1) {
        extra.push((
            Sample::Plain(FAINT, Some((4, 6))),
            "single seeds".to_owned(),
        ));
    }
    let plot = LinePlot {
        title: "Transfer: downstream score against pre-training log-likelihood".to_owned(),
        width: 960.0,
        panel_height: 420.0,
        series: result
            .curves
            .iter()
            .enumerate()
            .map(|(i, c)| Named {
                name: c.family.clone(),
                looks: series(i),
            })
            .collect(),
        across: Across::Numbers {
            label: "held-out log-likelihood (nats per masked token)".to_owned(),
            law: Law::Linear,
        },
        panels: vec![panel],
        extra,
        notes,
    };
    let mut data = Table::new(&["family", "seed", "step", "log_likelihood", "score"]);
    for p in &result.points {
        data.push([
            p.family.clone(),
            p.seed.to_string(),
            p.step.to_string(),
            p.log_likelihood.to_string(),
            p.score.to_string(),
        ]);
    }
    let caption = match gap {
        Some(gap) => format!(
            "Downstream score against held-out log-likelihood, mean over seeds; {}.",
            sentence(gap, result.bootstrap.confidence)
        ),
        None => "Downstream score against held-out log-likelihood, mean over seeds.".to_owned(),
    };
    let words = Words {
        part: gap.map_or(String::new(), |g| format!("{}-{}", g.a, g.b)),
        title: plot.title.clone(),
        caption,
    };
    Figure::new(kind_of("transfer")?, words, plot.scene()?, data)
}

fn sentence(gap: &TransferGap, confidence: f64) -> String {
    let pair = format!("the transfer gap of {} over {}", gap.a, gap.b);
    let Some(value) = gap.gap else {
        let reason = gap.reason.as_deref().unwrap_or("no reason was given");
        return format!("{pair} was not measured: {reason}");
    };
    let interval = gap.interval.map_or_else(
        || "no interval: too few seeds".to_owned(),
        |[l, h]| {
            format!(
                "{} % interval {} to {}",
                short(confidence * 100.0),
                short(l),
                short(h)
            )
        },
    );
    format!(
        "{pair} is {} points ({interval}; {} and {} seeds)",
        short(value),
        gap.seeds[0],
        gap.seeds[1]
    )
}
