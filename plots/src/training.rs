//! Figures of training runs: `curves` (held-out log-likelihood and accuracy) and `losses` (training losses by term).

use tcd_analysis::{CurvePoint, Metrics, PretrainingCurve};

use crate::axis::Law;
use crate::figure::{Figure, Table, Words};
use crate::kinds::kind_of;
use crate::lines::{Across, LineOf, LinePlot, Named, Panel, Point};
use crate::output::PlotError;
use crate::style::series;

/// What the horizontal axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XAxis {
    /// Optimizer steps.
    #[default]
    Steps,
    /// Tokens seen.
    Tokens,
    /// Hours at work.
    Hours,
}

/// Runs that all end before so many seconds are drawn by minutes.
const SHORT: f64 = 600.0;

/// The horizontal axis of a figure, in the unit that fits its runs.
#[derive(Clone, Copy)]
struct Axis {
    x: XAxis,
    minutes: bool,
}

impl Axis {
    /// `seconds` are the times at work of all points.
    fn new(x: XAxis, seconds: impl IntoIterator<Item = f64>) -> Axis {
        let longest = seconds.into_iter().fold(f64::NEG_INFINITY, f64::max);
        Axis {
            x,
            minutes: (0.0..SHORT).contains(&longest),
        }
    }

    fn label(self) -> &'static str {
        match self.x {
            XAxis::Steps => "optimizer steps",
            XAxis::Tokens => "tokens seen in training",
            XAxis::Hours if self.minutes => "training time (minutes)",
            XAxis::Hours => "training time (hours)",
        }
    }

    fn word(self) -> &'static str {
        match self.x {
            XAxis::Steps => "steps",
            XAxis::Tokens => "tokens",
            XAxis::Hours if self.minutes => "minutes",
            XAxis::Hours => "hours",
        }
    }

    fn place(self, step: u64, tokens: f64, seconds: f64) -> f64 {
        match self.x {
            XAxis::Steps => step as f64,
            XAxis::Tokens => tokens,
            XAxis::Hours if self.minutes => seconds / 60.0,
            XAxis::Hours => seconds / 3600.0,
        }
    }

    fn across(self) -> Across {
        Across::Numbers {
            label: self.label().to_owned(),
            law: Law::Linear,
        }
    }
}

type Value = fn(&CurvePoint) -> f64;

/// Heading, value, and where the range stays.
type Curve = (&'static str, Value, Option<(f64, f64)>);

/// The panels of `curves`.
const PANELS: [Curve; 2] = [
    (
        "held-out log-likelihood (nats per masked token)",
        |p| p.heldout_log_likelihood,
        None,
    ),
    (
        "held-out accuracy (% of masked tokens)",
        |p| p.heldout_accuracy * 100.0,
        Some((0.0, 100.0)),
    ),
];

fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Named> {
    let one = |(i, name): (usize, &str)| Named {
        name: name.to_owned(),
        looks: series(i),
    };
    names.into_iter().enumerate().map(one).collect()
}

fn part(x: XAxis) -> String {
    match x {
        XAxis::Steps => String::new(),
        XAxis::Tokens => "tokens".to_owned(),
        XAxis::Hours => "hours".to_owned(),
    }
}

/// The points of a run that are drawn: those of the untrained model are left out where others follow, as the way from there to the first
/// evaluation would take up the whole scale.
fn drawn(run: &PretrainingCurve) -> &[CurvePoint] {
    match run.points.as_slice() {
        [first, rest @ ..] if first.step == 0 && rest.len() > 2 => rest,
        all => all,
    }
}

/// What the points that are not drawn say.
fn untrained(runs: &[PretrainingCurve]) -> Vec<String> {
    let left_out: Vec<String> = runs
        .iter()
        .filter(|run| drawn(run).len() < run.points.len())
        .map(|run| {
            let value = format!("{:.2}", run.points[0].heldout_log_likelihood);
            // A minus sign, at which no line is broken.
            format!("{} {}", run.name, value.replace('-', "\u{2212}"))
        })
        .collect();
    match left_out.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "not drawn: log-likelihood before training, {}",
            left_out.join(", ")
        )],
    }
}

/// Held-out log-likelihood and accuracy of runs over training.
pub fn curves(
    runs: &[PretrainingCurve],
    x: XAxis,
    title: Option<&str>,
) -> Result<Figure, PlotError> {
    if runs.is_empty() {
        return Err(PlotError::empty("no runs were given"));
    }
    let seconds = runs.iter().flat_map(|run| &run.points);
    let axis = Axis::new(x, seconds.map(|p| p.wall_seconds));
    let place = |p: &CurvePoint| axis.place(p.step, p.tokens as f64, p.wall_seconds);
    let panel = |(heading, value, bounds): &Curve| Panel {
        heading: (*heading).to_owned(),
        bounds: *bounds,
        lines: runs
            .iter()
            .enumerate()
            .map(|(i, run)| LineOf {
                series: i,
                faint: false,
                points: drawn(run)
                    .iter()
                    .map(|p| Point::new(place(p), value(p)))
                    .collect(),
            })
            .collect(),
        ..Panel::default()
    };
    let title = title.map_or_else(
        || format!("Pre-training by {}", axis.word()),
        ToOwned::to_owned,
    );
    let plot = LinePlot {
        title: title.clone(),
        width: 900.0,
        panel_height: 260.0,
        series: named(runs.iter().map(|r| r.name.as_str())),
        across: axis.across(),
        panels: PANELS.iter().map(panel).collect(),
        extra: Vec::new(),
        notes: untrained(runs),
    };
    let mut data = Table::new(&[
        "run",
        "step",
        "tokens",
        "wall_seconds",
        "heldout_log_likelihood",
        "heldout_accuracy",
        "train_loss",
    ]);
    for run in runs {
        for p in &run.points {
            data.push([
                run.name.clone(),
                p.step.to_string(),
                p.tokens.to_string(),
                p.wall_seconds.to_string(),
                p.heldout_log_likelihood.to_string(),
                p.heldout_accuracy.to_string(),
                p.train_loss.map(|l| l.to_string()).unwrap_or_default(),
            ]);
        }
    }
    let caption = format!(
        "How well each run predicts masked tokens of held-out text, against {}; higher is better in both panels.",
        axis.label()
    );
    let words = Words {
        part: part(x),
        title,
        caption,
    };
    Figure::new(kind_of("curves")?, words, plot.scene()?, data)
}

/// The records of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecords {
    /// The run's name.
    pub name: String,
    /// Its records.
    pub records: Vec<Metrics>,
}

/// What a term is called in a figure; nothing for values that are no losses.
fn term(name: &str) -> Option<String> {
    match name {
        "loss" => return Some("whole loss, weights included".to_owned()),
        "mlm_loss" => return Some("masked-LM loss (nats per masked token)".to_owned()),
        "balance_loss" => return Some("load balance loss of experts".to_owned()),
        "z_loss" => return Some("router z-loss".to_owned()),
        _ => {}
    }
    let rest = name.strip_prefix("distill.")?;
    // Single places (`distill.trunk.3:3`) and weighted values stay in the data.
    let plain = !rest.contains('.') && !rest.ends_with("_weighted") && rest != "teacher_seconds";
    plain.then(|| format!("distillation: {}", rest.replace('_', " ")))
}

/// Training losses by term.
pub fn losses(runs: &[RunRecords], x: XAxis, title: Option<&str>) -> Result<Figure, PlotError> {
    let mut terms: Vec<String> = Vec::new();
    for record in runs.iter().flat_map(|r| &r.records) {
        for (name, _) in record.values.iter().filter(|_| record.kind == "train") {
            if term(name).is_some() && !terms.contains(name) {
                terms.push(name.clone());
            }
        }
    }
    if terms.is_empty() {
        return Err(PlotError::empty("no run has training records"));
    }
    // A whole loss that is the masked-LM loss alone says nothing new.
    if terms == ["loss", "mlm_loss"] {
        terms.remove(0);
    }
    let seconds = runs.iter().flat_map(|run| &run.records);
    let axis = Axis::new(x, seconds.map(|m| m.wall_seconds));
    let place =
        |m: &Metrics| axis.place(m.step, m.get("tokens").unwrap_or(f64::NAN), m.wall_seconds);
    let mut data = Table::new(&["run", "term", "step", "tokens", "wall_seconds", "value"]);
    let mut panels = Vec::new();
    for name in &terms {
        let mut panel = Panel {
            heading: term(name).unwrap_or_default(),
            ..Panel::default()
        };
        for (i, run) in runs.iter().enumerate() {
            let records = run.records.iter().filter(|r| r.kind == "train");
            let mut points: Vec<Point> = Vec::new();
            for record in records {
                let Some(value) = record.get(name) else {
                    continue;
                };
                points.push(Point::new(place(record), value));
                data.push([
                    run.name.clone(),
                    name.clone(),
                    record.step.to_string(),
                    record
                        .get("tokens")
                        .map(|t| t.to_string())
                        .unwrap_or_default(),
                    record.wall_seconds.to_string(),
                    value.to_string(),
                ]);
            }
            if !points.is_empty() {
                panel.lines.push(LineOf {
                    series: i,
                    points,
                    faint: false,
                });
            }
        }
        panels.push(panel);
    }
    let title = title.map_or_else(
        || format!("Training losses by {}", axis.word()),
        ToOwned::to_owned,
    );
    let plot = LinePlot {
        title: title.clone(),
        width: if panels.len() > 3 { 1200.0 } else { 900.0 },
        panel_height: 190.0,
        series: named(runs.iter().map(|r| r.name.as_str())),
        across: axis.across(),
        panels,
        extra: Vec::new(),
        notes: Vec::new(),
    };
    let caption = format!(
        "Each term of the training loss, before its weight, against {}; lower is better.",
        axis.label()
    );
    let words = Words {
        part: part(x),
        title,
        caption,
    };
    Figure::new(kind_of("losses")?, words, plot.scene()?, data)
}
