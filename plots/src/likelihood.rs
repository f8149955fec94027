//! Figures of masked-LM log-likelihood: `likelihood` and `likelihood-differences`, over corpora and over token classes.

use tcd_analysis::likelihood::{LikelihoodCell, LikelihoodResult};
use tcd_analysis::provenance::optional;

use crate::axis::short;
use crate::bars::{Bar, BarPanel, BarPlot, Group};
use crate::figure::{Figure, Table, Words};
use crate::geometry::in_order;
use crate::kinds::{Kind, kind_of};
use crate::lines::Named;
use crate::output::PlotError;
use crate::style::series;

/// The class of all tokens.
const ALL: &str = "all";

/// One of the two kinds.
struct Shown {
    kind: &'static Kind,
    value: fn(&LikelihoodCell) -> Option<f64>,
    interval: fn(&LikelihoodCell) -> Option<[f64; 2]>,
    dots: bool,
    axis: String,
}

/// Log-likelihoods: over all tokens by corpus, and for each corpus by token class.
pub fn likelihood(result: &LikelihoodResult) -> Result<Vec<Figure>, PlotError> {
    let shown = Shown {
        kind: kind_of("likelihood")?,
        value: |c| c.log_likelihood,
        interval: |c| c.interval,
        dots: false,
        axis: "log-likelihood (nats per masked token)".to_owned(),
    };
    figures(result, &shown)
}

/// Differences to the first model, likewise.
pub fn likelihood_differences(result: &LikelihoodResult) -> Result<Vec<Figure>, PlotError> {
    let first = result.cells.first().map_or("", |c| c.model.as_str());
    let shown = Shown {
        kind: kind_of("likelihood-differences")?,
        value: |c| c.difference,
        interval: |c| c.difference_interval,
        dots: true,
        axis: format!("difference to {first} (nats per masked token)"),
    };
    if !result.cells.iter().any(|c| c.difference.is_some()) {
        return Err(PlotError::empty(
            "the result has one model a corpus, so that nothing differs",
        ));
    }
    figures(result, &shown)
}

fn figures(result: &LikelihoodResult, shown: &Shown) -> Result<Vec<Figure>, PlotError> {
    if result.cells.is_empty() {
        return Err(PlotError::empty("the likelihood result has no cells"));
    }
    let corpora = in_order(result.cells.iter().map(|c| c.corpus.as_str()));
    let all: Vec<&LikelihoodCell> = result.cells.iter().filter(|c| c.class == ALL).collect();
    let mut made = vec![figure(shown, &all, None)?];
    for corpus in corpora {
        let of = result.cells.iter();
        let cells: Vec<&LikelihoodCell> = of
            .filter(|c| c.corpus == corpus && c.class != ALL && c.tokens > 0)
            .collect();
        if cells.iter().any(|c| (shown.value)(c).is_some()) {
            made.push(figure(shown, &cells, Some(corpus))?);
        }
    }
    Ok(made)
}

fn figure(
    shown: &Shown,
    cells: &[&LikelihoodCell],
    corpus: Option<&str>,
) -> Result<Figure, PlotError> {
    // The first model has no difference to itself.
    let models = in_order(
        cells
            .iter()
            .filter(|c| !shown.dots || (shown.value)(c).is_some())
            .map(|c| c.model.as_str()),
    );
    let name = |c: &LikelihoodCell| match corpus {
        None => c.corpus.clone(),
        Some(_) => c.class.replace('_', " "),
    };
    let names: Vec<String> = cells.iter().map(|c| name(c)).collect();
    let mut groups = Vec::new();
    for group in in_order(names.iter().map(String::as_str)) {
        let mut bars = Vec::new();
        for (number, model) in models.iter().enumerate() {
            let of = cells.iter().find(|c| c.model == *model && name(c) == group);
            let Some(cell) = of else { continue };
            let value = (shown.value)(cell);
            let range = (shown.interval)(cell);
            let said = range.map_or(String::new(), |[l, h]| {
                format!(" ({} to {})", short(l), short(h))
            });
            let text = value.map_or("-".to_owned(), |v| {
                let sign = if shown.dots && v > 0.0 { "+" } else { "" };
                format!("{sign}{v:.3}").replace('-', "\u{2212}")
            });
            bars.push(Bar {
                series: number,
                value: value.unwrap_or(f64::NAN),
                interval: range,
                label: format!("{model}, {group}: {text}{said}, {} tokens", cell.tokens),
                texts: vec![text, cell.tokens.to_string()],
            });
        }
        if !bars.is_empty() {
            groups.push(Group {
                name: group.to_owned(),
                bars,
            });
        }
    }
    let what = if shown.dots {
        "Differences in log-likelihood"
    } else {
        "Masked-LM log-likelihood"
    };
    let over = corpus.map_or_else(
        || " by corpus".to_owned(),
        |c| format!(" by token class: {c}"),
    );
    let plot = BarPlot {
        title: format!("{what}{over}"),
        series: models
            .iter()
            .enumerate()
            .map(|(i, m)| Named {
                name: (*m).to_owned(),
                // With the first model left out, the others keep its figure's colours.
                looks: series(if shown.dots { i + 1 } else { i }),
            })
            .collect(),
        panels: vec![BarPanel {
            axis: shown.axis.clone(),
            columns: vec!["nats".to_owned(), "tokens".to_owned()],
            groups,
            dots: shown.dots,
            bounds: None,
        }],
        notes: Vec::new(),
    };
    let mut data = Table::new(&[
        "model",
        "corpus",
        "class",
        "tokens",
        "rows",
        "log_likelihood",
        "interval_low",
        "interval_high",
        "difference",
        "difference_low",
        "difference_high",
    ]);
    for c in cells {
        data.push([
            c.model.clone(),
            c.corpus.clone(),
            c.class.clone(),
            c.tokens.to_string(),
            c.rows.to_string(),
            optional(c.log_likelihood),
            optional(c.interval.map(|i| i[0])),
            optional(c.interval.map(|i| i[1])),
            optional(c.difference),
            optional(c.difference_interval.map(|i| i[0])),
            optional(c.difference_interval.map(|i| i[1])),
        ]);
    }
    let caption = if shown.dots {
        format!(
            "Mean {}, on the same masked tokens; right of zero is better, whiskers are bootstrap intervals over rows.",
            shown.axis
        )
    } else {
        "Mean log-likelihood of masked tokens; shorter bars are better, whiskers are bootstrap intervals over rows.".to_owned()
    };
    let words = Words {
        part: corpus.unwrap_or_default().to_owned(),
        title: plot.title.clone(),
        caption,
    };
    Figure::new(shown.kind, words, plot.scene()?, data)
}
