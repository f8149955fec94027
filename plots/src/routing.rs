//! Figures of routing: `load`, `specialisation`, `sentence`.

use serde::{Deserialize, Serialize};
use tcd_analysis::provenance::optional;
use tcd_analysis::routing::{Grouping, LayerRouting, RoutingResult};

use crate::axis::short;
use crate::figure::{Figure, Table, Words};
use crate::geometry::in_order;
use crate::heat::{Cell, HeatPlot, Map, Scale};
use crate::kinds::kind_of;
use crate::lines::{Across, LineOf, LinePlot, Named, Panel, Point};
use crate::output::PlotError;
use crate::style::series;

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

/// A round number at or above a value, for the end of a scale.
fn rounded_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|v| *v >= value)
        .unwrap_or(value)
}

/// Load of every expert in every layer, a map a model.
pub fn load(result: &RoutingResult) -> Result<Figure, PlotError> {
    let models = in_order(result.layers.iter().map(|l| l.model.as_str()));
    if models.is_empty() {
        return Err(PlotError::empty("the result has no layers with experts"));
    }
    let mut data = Table::new(&["model", "layer", "expert", "share", "times_equal_share"]);
    let mut maps = Vec::new();
    let mut most: f64 = 2.0;
    for model in &models {
        let layers: Vec<&LayerRouting> =
            result.layers.iter().filter(|l| l.model == *model).collect();
        let experts = layers.iter().map(|l| l.load.len()).max().unwrap_or(0);
        let mut cells = Vec::new();
        for layer in &layers {
            for expert in 0..experts {
                let share = layer.load.get(expert).copied();
                let times = share.map(|s| s * layer.load.len() as f64);
                let dead = share == Some(0.0);
                most = most.max(times.filter(|t| t.is_finite()).unwrap_or(0.0));
                let what = format!("{model}, layer {}, expert {expert}", layer.layer);
                cells.push(Cell {
                    value: times.filter(|_| !dead),
                    text: times.map(|t| format!("{t:.1}")).unwrap_or_default(),
                    label: match share {
                        Some(s) if !dead => format!(
                            "{what}: {} % of tokens, {} times an equal share",
                            short(s * 100.0),
                            short(s * layer.load.len() as f64)
                        ),
                        Some(_) => format!("{what}: no token"),
                        None => format!("{what}: no such expert"),
                    },
                });
                if let Some(s) = share {
                    data.push([
                        (*model).to_owned(),
                        layer.layer.to_string(),
                        expert.to_string(),
                        s.to_string(),
                        optional(times),
                    ]);
                }
            }
        }
        let dead: usize = layers.iter().map(|l| l.dead.len()).sum();
        let note = if dead > 0 {
            format!(", {dead} without tokens")
        } else {
            String::new()
        };
        maps.push(Map {
            heading: format!("{model}: {experts} experts{note}"),
            down: "layer".to_owned(),
            across: "expert".to_owned(),
            rows: layers.iter().map(|l| l.layer.to_string()).collect(),
            columns: numbers(experts),
            cells,
        });
    }
    let plot = HeatPlot {
        title: "Load of experts".to_owned(),
        maps,
        scale: Scale {
            label: "times an equal share".to_owned(),
            low: 0.0,
            high: rounded_up(most),
            two_sided: false,
        },
        square: false,
        notes: Vec::new(),
    };
    let words = Words {
        part: String::new(),
        title: plot.title.clone(),
        caption: "Share of the tokens that each expert took, as a multiple of an equal share; crossed cells are experts that no token chose.".to_owned(),
    };
    Figure::new(kind_of("load")?, words, plot.scene()?, data)
}

/// What a grouping is called.
fn grouping_name(kind: &str) -> String {
    match kind {
        "token_class" => "token classes".to_owned(),
        "task" => "tasks".to_owned(),
        other => other.replace('_', " "),
    }
}

/// The information by layer, then for every model and grouping the maps of groups by expert.
pub fn specialisation(result: &RoutingResult) -> Result<Vec<Figure>, PlotError> {
    let groupings = || result.layers.iter().flat_map(|l| &l.groupings);
    if groupings().next().is_none() {
        return Err(PlotError::empty(
            "the routing result groups tokens neither by class nor by task",
        ));
    }
    let kinds = in_order(groupings().map(|g| g.kind.as_str()));
    let models = in_order(result.layers.iter().map(|l| l.model.as_str()));
    let mut figures = vec![information(result, &kinds, &models)?];
    for model in &models {
        for kind in &kinds {
            figures.extend(maps_of(result, model, kind)?);
        }
    }
    Ok(figures)
}

fn information(
    result: &RoutingResult,
    kinds: &[&str],
    models: &[&str],
) -> Result<Figure, PlotError> {
    let last = result.layers.iter().map(|l| l.layer).max().unwrap_or(0);
    let mut data = Table::new(&["model", "layer", "grouping", "information", "share"]);
    let mut panels = Vec::new();
    for kind in kinds {
        let mut panel = Panel {
            heading: format!(
                "{}: what the expert tells of them (share of their entropy)",
                grouping_name(kind)
            ),
            zero: true,
            bounds: Some((0.0, 1.0)),
            ..Panel::default()
        };
        for (series, model) in models.iter().enumerate() {
            let mut points = Vec::new();
            for layer in result.layers.iter().filter(|l| l.model == *model) {
                for g in layer.groupings.iter().filter(|g| g.kind == *kind) {
                    if let Some(share) = g.information_share {
                        points.push(Point::new(layer.layer as f64, share));
                    }
                    data.push([
                        (*model).to_owned(),
                        layer.layer.to_string(),
                        g.kind.clone(),
                        g.information.to_string(),
                        optional(g.information_share),
                    ]);
                }
            }
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            panel.lines.push(LineOf {
                series,
                points,
                faint: false,
            });
        }
        panels.push(panel);
    }
    let plot = LinePlot {
        title: "Specialisation of experts by layer".to_owned(),
        width: 900.0,
        panel_height: 220.0,
        series: models
            .iter()
            .enumerate()
            .map(|(i, m)| Named {
                name: (*m).to_owned(),
                looks: series(i),
            })
            .collect(),
        across: Across::Places {
            label: "layer".to_owned(),
            names: numbers(last + 1),
        },
        panels,
        extra: Vec::new(),
        notes: Vec::new(),
    };
    let words = Words {
        part: "information".to_owned(),
        title: plot.title.clone(),
        caption: "How much the chosen expert tells of a token's group: 0 for nothing, 1 where it names the group.".to_owned(),
    };
    Figure::new(kind_of("specialisation")?, words, plot.scene()?, data)
}

/// Doublings beyond which the colour no longer changes.
const DOUBLINGS: f64 = 3.0;

fn maps_of(result: &RoutingResult, model: &str, kind: &str) -> Result<Option<Figure>, PlotError> {
    let mut data = Table::new(&["model", "layer", "expert", "group", "tokens", "doublings"]);
    let mut maps = Vec::new();
    for layer in result.layers.iter().filter(|l| l.model == model) {
        for g in layer.groupings.iter().filter(|g| g.kind == kind) {
            maps.push(group_map(layer, g, &mut data)?);
        }
    }
    if maps.is_empty() {
        return Ok(None);
    }
    let of = grouping_name(kind);
    let plot = HeatPlot {
        title: format!("What the experts of {model} take: {of}"),
        maps,
        scale: Scale {
            label: "doublings of chance".to_owned(),
            low: -DOUBLINGS,
            high: DOUBLINGS,
            two_sided: true,
        },
        square: false,
        notes: vec![
            "crossed cells: no tokens; from \u{2212}3 and +3 doublings on the colour stays the same".to_owned(),
        ],
    };
    let words = Words {
        part: format!("{model}-{kind}"),
        title: plot.title.clone(),
        caption: format!(
            "How many times more often than chance each expert of {model} takes tokens of a group ({of}), in doublings: +1 is twice, \u{2212}1 half."
        ),
    };
    Figure::new(kind_of("specialisation")?, words, plot.scene()?, data).map(Some)
}

fn group_map(layer: &LayerRouting, g: &Grouping, data: &mut Table) -> Result<Map, PlotError> {
    if g.counts.iter().any(|c| c.len() != g.groups.len()) {
        return Err(PlotError::result(format!(
            "layer {} of `{}`: counts do not fit the {} groups",
            layer.layer,
            layer.model,
            g.groups.len()
        )));
    }
    let experts = g.counts.len();
    let total = g.counts.iter().flatten().sum::<u64>() as f64;
    let mut cells = Vec::with_capacity(experts * g.groups.len());
    for (at, group) in g.groups.iter().enumerate() {
        let of_group = g.counts.iter().map(|c| c[at]).sum::<u64>() as f64;
        for (expert, counts) in g.counts.iter().enumerate() {
            let of_expert = counts.iter().sum::<u64>() as f64;
            let count = counts[at];
            let chance = of_group * of_expert / total.max(1.0);
            let doublings = (count > 0 && chance > 0.0).then(|| (count as f64 / chance).log2());
            let what = format!("layer {}, expert {expert}, {group}", layer.layer);
            cells.push(Cell {
                value: doublings,
                text: doublings
                    .map(|d| format!("{d:+.1}").replace('-', "\u{2212}"))
                    .unwrap_or_default(),
                label: match doublings {
                    Some(d) => format!("{what}: {count} tokens, {} times chance", short(d.exp2())),
                    None => format!("{what}: no tokens"),
                },
            });
            data.push([
                layer.model.clone(),
                layer.layer.to_string(),
                expert.to_string(),
                group.clone(),
                count.to_string(),
                optional(doublings),
            ]);
        }
    }
    let share = g.information_share.map_or(String::new(), |s| {
        format!(
            " (the expert tells {} %)",
            short((s * 1000.0).round() / 10.0)
        )
    });
    Ok(Map {
        heading: format!("layer {}{share}", layer.layer),
        down: String::new(),
        across: "expert".to_owned(),
        rows: g.groups.iter().map(|n| n.replace('_', " ")).collect(),
        columns: numbers(experts),
        cells,
    })
}

/// Routing of one sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentenceRouting {
    /// What stands above: the model, the sentence's number.
    pub title: String,
    /// The tokens.
    pub tokens: Vec<String>,
    /// The layers with experts, by depth.
    pub layers: Vec<SentenceLayer>,
    /// Experts of a layer.
    pub experts: usize,
}

/// One layer of [`SentenceRouting`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentenceLayer {
    /// Its name.
    pub name: String,
    /// Experts of each token, `[tokens, chosen]`.
    pub experts: Vec<u32>,
    /// The router's probability of each, `[tokens, chosen]`.
    pub weights: Vec<f32>,
}

/// Routing of one sentence, tokens downwards and layers across.
pub fn sentence(routing: &SentenceRouting) -> Result<Figure, PlotError> {
    let tokens = routing.tokens.len();
    if tokens == 0 || routing.layers.is_empty() {
        return Err(PlotError::empty(format!(
            "`{}` has no tokens or no layers with experts",
            routing.title
        )));
    }
    let mut data = Table::new(&["token", "text", "layer", "expert", "probability"]);
    let mut columns = Vec::new();
    for layer in &routing.layers {
        let each = layer.experts.len() / tokens;
        if each == 0
            || layer.experts.len() != each * tokens
            || layer.weights.len() != layer.experts.len()
        {
            return Err(PlotError::result(format!(
                "`{}`, layer {}: {} experts and {} weights for {tokens} tokens",
                routing.title,
                layer.name,
                layer.experts.len(),
                layer.weights.len()
            )));
        }
        let mut column = Vec::new();
        for (t, token) in routing.tokens.iter().enumerate() {
            let chosen = &layer.experts[t * each..(t + 1) * each];
            let weights = &layer.weights[t * each..(t + 1) * each];
            for (expert, weight) in chosen.iter().zip(weights) {
                data.push([
                    t.to_string(),
                    token.clone(),
                    layer.name.clone(),
                    expert.to_string(),
                    weight.to_string(),
                ]);
            }
            let names: Vec<String> = chosen.iter().map(ToString::to_string).collect();
            let each: Vec<String> = chosen
                .iter()
                .zip(weights)
                .map(|(e, w)| format!("expert {e} with probability {}", short(f64::from(*w))))
                .collect();
            column.push(Cell {
                value: Some(f64::from(weights.iter().sum::<f32>())).filter(|v| v.is_finite()),
                text: names.join(","),
                label: format!("`{token}`, layer {}: {}", layer.name, each.join(", ")),
            });
        }
        columns.push(column);
    }
    let cells = (0..tokens)
        .flat_map(|t| columns.iter().map(move |c| c[t].clone()))
        .collect();
    let plot = HeatPlot {
        title: routing.title.clone(),
        maps: vec![Map {
            heading: format!("expert of each token, of {}", routing.experts),
            down: "token".to_owned(),
            across: "layer".to_owned(),
            rows: routing.tokens.clone(),
            columns: routing.layers.iter().map(|l| l.name.clone()).collect(),
            cells,
        }],
        scale: Scale {
            label: "router's probability".to_owned(),
            low: 0.0,
            high: 1.0,
            two_sided: false,
        },
        square: false,
        notes: Vec::new(),
    };
    let words = Words {
        part: String::new(),
        title: routing.title.clone(),
        caption: "Which expert each token goes to in each layer (the number), and how sure the router is (the colour).".to_owned(),
    };
    Figure::new(kind_of("sentence")?, words, plot.scene()?, data)
}
