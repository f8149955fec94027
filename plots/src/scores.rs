//! Figures of GLUE: `scores`, `differences`; and of exported models: `speed`.

use serde::{Deserialize, Serialize};
use tcd_analysis::compare::CompareResult;
use tcd_analysis::provenance::optional;

use crate::axis::short;
use crate::bars::{Bar, BarPanel, BarPlot, Group};
use crate::figure::{Figure, Table, Words};
use crate::geometry::in_order;
use crate::kinds::kind_of;
use crate::lines::Named;
use crate::output::PlotError;
use crate::style::series;

/// The score of one model on one task, as a fraction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The model.
    pub model: String,
    /// The task, or `average`.
    pub task: String,
    /// The score shown, the median over seeds.
    pub score: f64,
    /// Lowest and highest of the seeds, where there are several.
    pub spread: Option<[f64; 2]>,
    /// Runs behind it.
    pub runs: usize,
}

fn per_cent(value: f64) -> String {
    if value.is_finite() {
        format!("{:.1}", 100.0 * value).replace('-', "\u{2212}")
    } else {
        "-".to_owned()
    }
}

fn models<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Named> {
    let named = |(i, name): (usize, &str)| Named {
        name: name.to_owned(),
        looks: series(i),
    };
    in_order(names).into_iter().enumerate().map(named).collect()
}

/// GLUE scores by task and model.
pub fn scores(scores: &[Score], notes: &[String]) -> Result<Figure, PlotError> {
    if scores.is_empty() {
        return Err(PlotError::empty("there are no scores on development sets"));
    }
    let named = models(scores.iter().map(|s| s.model.as_str()));
    let mut groups = Vec::new();
    for task in in_order(scores.iter().map(|s| s.task.as_str())) {
        let mut bars = Vec::new();
        for (number, model) in named.iter().enumerate() {
            let of = scores
                .iter()
                .find(|s| s.task == task && s.model == model.name);
            let Some(score) = of else { continue };
            let spread = score.spread.filter(|_| score.runs > 1);
            let said = spread.map_or(String::new(), |[l, h]| {
                format!(
                    " ({} to {} over {} seeds)",
                    per_cent(l),
                    per_cent(h),
                    score.runs
                )
            });
            bars.push(Bar {
                series: number,
                value: score.score * 100.0,
                interval: spread.map(|s| s.map(|v| v * 100.0)),
                texts: vec![per_cent(score.score)],
                label: format!("{}, {task}: {}{said}", model.name, per_cent(score.score)),
            });
        }
        groups.push(Group {
            name: task.to_owned(),
            bars,
        });
    }
    let plot = BarPlot {
        title: "GLUE scores".to_owned(),
        series: named,
        panels: vec![BarPanel {
            axis: "score (%)".to_owned(),
            columns: vec!["score".to_owned()],
            groups,
            dots: false,
            bounds: Some((-100.0, 100.0)),
        }],
        notes: notes.to_vec(),
    };
    let mut data = Table::new(&["model", "task", "score", "lowest", "highest", "runs"]);
    for s in scores {
        data.push([
            s.model.clone(),
            s.task.clone(),
            s.score.to_string(),
            optional(s.spread.map(|s| s[0])),
            optional(s.spread.map(|s| s[1])),
            s.runs.to_string(),
        ]);
    }
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "Score on each task's development set, the median over seeds of fine-tuning; whiskers go from the lowest to the best seed.".to_owned(),
    };
    Figure::new(kind_of("scores")?, words, plot.scene()?, data)
}

/// The paired difference between two models on one task, as a fraction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The model whose score counts as positive.
    pub model: String,
    /// The model it is set against.
    pub against: String,
    /// The task, with the split where that matters.
    pub task: String,
    /// Score of `model` less that of `against`.
    pub difference: f64,
    /// 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// Two-sided p-value of no difference.
    pub p_value: Option<f64>,
    /// Rows.
    pub rows: usize,
}

impl Difference {
    /// Of a comparison by rows: second less first, with the interval for paired shares (Agresti 2002, section 10.1.1).
    pub fn of_rows(result: &CompareResult) -> Self {
        let name = |i: usize| {
            let model = result.provenance.models.get(i);
            model.map_or_else(|| ["A", "B"][i].to_owned(), |m| m.name.clone())
        };
        let [_, only_a, only_b, _] = result.counts.map(|c| c as f64);
        let n = result.counts.iter().sum::<usize>();
        let difference = result.accuracy[1] - result.accuracy[0];
        let m = n.max(1) as f64;
        let variance = (only_a + only_b - (only_b - only_a).powi(2) / m).max(0.0) / (m * m);
        let half = 1.96 * variance.sqrt();
        let data = result.provenance.models.first().map(|m| m.data.as_str());
        let file = data.and_then(|d| d.rsplit('/').next()).unwrap_or("rows");
        Difference {
            model: name(1),
            against: name(0),
            task: file.split('.').next().unwrap_or(file).to_owned(),
            difference,
            interval: (n > 0).then_some([difference - half, difference + half]),
            p_value: Some(result.mcnemar_p),
            rows: n,
        }
    }
}

/// Paired differences by task.
pub fn differences(differences: &[Difference]) -> Result<Figure, PlotError> {
    if differences.is_empty() {
        return Err(PlotError::empty("there are no differences"));
    }
    let pair = |d: &Difference| format!("{} \u{2212} {}", d.model, d.against);
    let pairs: Vec<String> = differences.iter().map(pair).collect();
    let named = models(pairs.iter().map(String::as_str));
    let signed = |v: f64| format!("{:+.1}", 100.0 * v).replace('-', "\u{2212}");
    let mut groups = Vec::new();
    for task in in_order(differences.iter().map(|d| d.task.as_str())) {
        let bars = differences
            .iter()
            .filter(|d| d.task == task)
            .map(|d| {
                let series = named.iter().position(|n| n.name == pair(d)).unwrap_or(0);
                let range = d.interval.map_or(String::new(), |[l, h]| {
                    format!(" ({} to {})", signed(l), signed(h))
                });
                let p = d.p_value.map_or("-".to_owned(), |p| format!("{p:.3}"));
                Bar {
                    series,
                    value: d.difference * 100.0,
                    interval: d.interval.map(|i| i.map(|v| v * 100.0)),
                    label: format!(
                        "{}, {task}: {}{range}, p {p}, {} rows",
                        pair(d),
                        signed(d.difference),
                        d.rows
                    ),
                    texts: vec![signed(d.difference), p, d.rows.to_string()],
                }
            })
            .collect();
        groups.push(Group {
            name: task.to_owned(),
            bars,
        });
    }
    let title = match named.as_slice() {
        [one] => format!("Paired differences: {}", one.name),
        _ => "Paired differences".to_owned(),
    };
    let plot = BarPlot {
        title: title.clone(),
        series: named,
        panels: vec![BarPanel {
            axis: "difference (percentage points)".to_owned(),
            columns: vec!["points".to_owned(), "p".to_owned(), "rows".to_owned()],
            groups,
            dots: true,
            bounds: None,
        }],
        notes: Vec::new(),
    };
    let mut data = Table::new(&[
        "model",
        "against",
        "task",
        "difference",
        "low",
        "high",
        "p_value",
        "rows",
    ]);
    for d in differences {
        data.push([
            d.model.clone(),
            d.against.clone(),
            d.task.clone(),
            d.difference.to_string(),
            optional(d.interval.map(|i| i[0])),
            optional(d.interval.map(|i| i[1])),
            optional(d.p_value),
            d.rows.to_string(),
        ]);
    }
    let words = Words {
        part: String::new(),
        title,
        caption: "Differences between two models on the same rows, with 95 % intervals; right of zero the model named first is better.".to_owned(),
    };
    Figure::new(kind_of("differences")?, words, plot.scene()?, data)
}

/// How fast one model runs, and how large it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// What was run: the rows or task; ratios are taken within.
    pub group: String,
    /// The model or engine.
    pub name: String,
    /// Rows a second, one for each pass.
    pub per_second: Vec<f64>,
    /// Size of the file with its data.
    pub bytes: Option<u64>,
}

impl Speed {
    fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self
            .per_second
            .iter()
            .copied()
            .filter(|v| v.is_finite())
            .collect();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n => f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]),
        }
    }

    fn megabytes(&self) -> f64 {
        self.bytes.map_or(f64::NAN, |b| b as f64 / 1e6)
    }
}

/// Speed and size, with ratios to the first of each group.
pub fn speed(speeds: &[Speed]) -> Result<Figure, PlotError> {
    if speeds.is_empty() {
        return Err(PlotError::empty("no result says how fast a model ran"));
    }
    let named = models(speeds.iter().map(|s| s.name.as_str()));
    let panel = |axis: &str, column: &str, value: &dyn Fn(&Speed) -> f64, passes: bool| {
        let mut groups = Vec::new();
        for group in in_order(speeds.iter().map(|s| s.group.as_str())) {
            let of: Vec<&Speed> = speeds.iter().filter(|s| s.group == group).collect();
            let first = of.iter().map(|s| value(s)).find(|v| v.is_finite());
            let first = first.unwrap_or(f64::NAN);
            let bars: Vec<Bar> = of
                .iter()
                .filter(|s| value(s).is_finite())
                .map(|s| {
                    let v = value(s);
                    let low = s.per_second.iter().copied().fold(f64::INFINITY, f64::min);
                    let high = s.per_second.iter().copied().fold(0.0, f64::max);
                    let number = if v >= 100.0 {
                        format!("{v:.0}")
                    } else {
                        short(v)
                    };
                    let ratio = if first > 0.0 {
                        format!("{:.2}\u{d7}", v / first)
                    } else {
                        "-".to_owned()
                    };
                    Bar {
                        series: named.iter().position(|n| n.name == s.name).unwrap_or(0),
                        value: v,
                        interval: (passes && s.per_second.len() > 1).then_some([low, high]),
                        label: format!("{}, {group}: {number} {column}, {ratio}", s.name),
                        texts: vec![number, ratio],
                    }
                })
                .collect();
            if !bars.is_empty() {
                groups.push(Group {
                    name: group.to_owned(),
                    bars,
                });
            }
        }
        BarPanel {
            axis: axis.to_owned(),
            columns: vec![column.to_owned(), "ratio".to_owned()],
            groups,
            dots: false,
            bounds: None,
        }
    };
    let mut panels = vec![panel(
        "speed (rows per second)",
        "rows/s",
        &Speed::median,
        true,
    )];
    if speeds.iter().any(|s| s.bytes.is_some()) {
        panels.push(panel("size (MB)", "MB", &Speed::megabytes, false));
    }
    let plot = BarPlot {
        title: "Speed and size".to_owned(),
        series: named,
        panels,
        notes: vec!["ratios are to the first of each group".to_owned()],
    };
    let mut data = Table::new(&[
        "group",
        "name",
        "rows_per_second",
        "slowest",
        "fastest",
        "bytes",
    ]);
    for s in speeds {
        let fold = |f: fn(f64, f64) -> f64| s.per_second.iter().copied().reduce(f);
        data.push([
            s.group.clone(),
            s.name.clone(),
            s.median().to_string(),
            optional(fold(f64::min)),
            optional(fold(f64::max)),
            s.bytes.map(|b| b.to_string()).unwrap_or_default(),
        ]);
    }
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "Rows a second of each model, tokenizing left out where it was timed apart, and the size of its file; ratios are to the first of each group.".to_owned(),
    };
    Figure::new(kind_of("speed")?, words, plot.scene()?, data)
}
