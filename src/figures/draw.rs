//! Which figure function takes which results.

use std::path::PathBuf;

use tcd_plots::{self as plots, Difference, Figure, Kind, PlotError, RunRecords, Score, Speed};

use super::read::{Found, Loaded};
use super::{Choices, FiguresError, Sourced};
use crate::eval::table::{Shown, table};

type Drawn = Result<Vec<Figure>, PlotError>;

/// The figures of one result, or of several that go together.
pub(super) type Group = Result<Vec<Sourced>, FiguresError>;

/// The figures of a kind from the results that fit it, each result apart where they do not go together.
pub(super) fn kind_of(
    kind: &'static Kind,
    found: &[Found],
    choices: &Choices,
) -> Result<Vec<Group>, FiguresError> {
    let fitting: Vec<&Found> = found
        .iter()
        .filter(|f| kind.takes.contains(&f.source()))
        .collect();
    if fitting.is_empty() {
        let list = |names: Vec<&str>| {
            let mut names: Vec<&str> = names;
            names.dedup();
            names.join(", ")
        };
        return Err(FiguresError::Nothing {
            kind: kind.name,
            given: list(found.iter().map(|f| f.source().describe()).collect()),
            takes: list(kind.takes.iter().map(|s| s.describe()).collect()),
        });
    }
    let groups: Vec<Vec<&Found>> = if kind.together {
        vec![fitting]
    } else {
        fitting.into_iter().map(|f| vec![f]).collect()
    };
    Ok(groups
        .into_iter()
        .map(|group| group_of(kind, &group, choices))
        .collect())
}

fn group_of(kind: &'static Kind, group: &[&Found], choices: &Choices) -> Group {
    let sources: Vec<PathBuf> = group.iter().map(|f| f.path.clone()).collect();
    let figures = draw(kind, group, choices).map_err(|source| {
        let of = sources.iter().take(4).map(|p| p.display().to_string());
        FiguresError::Plot {
            kind: kind.name,
            of: of.collect::<Vec<_>>().join(", "),
            source,
        }
    })?;
    let sourced = |figure| Sourced {
        figure,
        sources: sources.clone(),
    };
    Ok(figures.into_iter().map(sourced).collect())
}

fn draw(kind: &Kind, found: &[&Found], choices: &Choices) -> Drawn {
    let one = |figure: Result<Figure, PlotError>| figure.map(|f| vec![f]);
    let title = choices.title.as_deref();
    let first = found.first().map(|f| &f.loaded);
    match (kind.name, first) {
        ("curves", _) => {
            let curves: Vec<_> = found
                .iter()
                .filter_map(|f| match &f.loaded {
                    Loaded::Run { curve, .. } => Some(curve.clone()),
                    _ => None,
                })
                .collect();
            one(plots::curves(&curves, choices.x, title))
        }
        ("losses", _) => {
            let runs: Vec<RunRecords> = found
                .iter()
                .filter_map(|f| match &f.loaded {
                    Loaded::Run { curve, records } => Some(RunRecords {
                        name: curve.name.clone(),
                        records: records.clone(),
                    }),
                    _ => None,
                })
                .collect();
            one(plots::losses(&runs, choices.x, title))
        }
        ("transfer", Some(Loaded::Transfer(r))) => plots::transfer(r),
        ("cka", Some(Loaded::Cka(r))) => one(plots::cka(r)),
        ("cka-grid", _) => {
            let results: Vec<_> = found
                .iter()
                .filter_map(|f| match &f.loaded {
                    Loaded::Cka(r) => Some(r),
                    _ => None,
                })
                .collect();
            one(plots::cka_grid(&results))
        }
        ("depth", _) => {
            let (mut ckas, mut similarities) = (Vec::new(), Vec::new());
            for f in found {
                match &f.loaded {
                    Loaded::Cka(r) => ckas.push(r),
                    Loaded::Similarity(r) => similarities.push(r),
                    _ => {}
                }
            }
            one(plots::depth(&ckas, &similarities))
        }
        ("spectra", Some(Loaded::Geometry(r))) => one(plots::spectra(r)),
        ("ranks", Some(Loaded::Geometry(r))) => one(plots::ranks(r)),
        ("projection", Some(Loaded::Projection(r))) => one(plots::projection(r)),
        ("probes", Some(Loaded::Probe(r))) => one(plots::probes(r)),
        ("load", Some(Loaded::Routing(r))) => one(plots::load(r)),
        ("specialisation", Some(Loaded::Routing(r))) => plots::specialisation(r),
        ("sentence", Some(Loaded::Sentences(all))) => all.iter().map(plots::sentence).collect(),
        ("likelihood", Some(Loaded::Likelihood(r))) => plots::likelihood(r),
        ("likelihood-differences", Some(Loaded::Likelihood(r))) => plots::likelihood_differences(r),
        ("scores", _) => {
            let (scores, notes) = scores(found);
            one(plots::scores(&scores, &notes))
        }
        ("differences", _) => one(plots::differences(&differences(found))),
        ("speed", _) => one(plots::speed(&speeds(found))),
        (name, _) => Err(PlotError::Empty {
            what: format!("the kind `{name}` has no figure function"),
        }),
    }
}

fn scores(found: &[&Found]) -> (Vec<Score>, Vec<String>) {
    let (mut scores, mut notes, mut results) = (Vec::new(), Vec::new(), Vec::new());
    for f in found {
        match &f.loaded {
            Loaded::Glue(dir, result) => results.push((dir.clone(), (**result).clone())),
            Loaded::Scores(of, said) => {
                scores.extend(of.clone());
                notes.extend(said.clone());
            }
            _ => {}
        }
    }
    let table = table(&results, Shown::Median, false);
    for row in &table.rows {
        for cell in &row.cells {
            scores.push(Score {
                model: row.model.clone(),
                task: cell.task.to_owned(),
                score: cell.score,
                spread: Some([cell.low, cell.best]),
                runs: cell.runs,
            });
        }
        if let (Some(average), true) = (row.average, table.averaged.len() > 1) {
            scores.push(Score {
                model: row.model.clone(),
                task: "average".to_owned(),
                score: average,
                spread: None,
                runs: 1,
            });
        }
    }
    // The average stands last, whatever the order of models was.
    scores.sort_by_key(|s| s.task == "average");
    notes.extend(table.notes);
    (scores, notes)
}

fn differences(found: &[&Found]) -> Vec<Difference> {
    let mut all = Vec::new();
    for f in found {
        match &f.loaded {
            Loaded::Differences(rows) => all.extend(rows.clone()),
            Loaded::Compare(result) => all.push(Difference::of_rows(result)),
            _ => {}
        }
    }
    all
}

fn speeds(found: &[&Found]) -> Vec<Speed> {
    let mut all: Vec<Speed> = Vec::new();
    for f in found {
        match &f.loaded {
            Loaded::Speeds(speeds) => all.extend(speeds.clone()),
            Loaded::Glue(_, result) => {
                let Some(speed) = result.runtime.rows_per_second else {
                    continue;
                };
                let group = format!("{} {}", result.task, result.split);
                let name = format!("{} ({})", result.model.name, result.runtime.name);
                // Models of one name, as fine-tuning seeds are, count as passes of one.
                match all.iter_mut().find(|s| s.group == group && s.name == name) {
                    Some(known) => known.per_second.push(speed),
                    None => all.push(Speed {
                        group,
                        name,
                        per_second: vec![speed],
                        bytes: onnx_bytes(&result.model.path),
                    }),
                }
            }
            _ => {}
        }
    }
    all
}

/// Size of a model directory's ONNX file with its external data, where it has one.
fn onnx_bytes(dir: &std::path::Path) -> Option<u64> {
    let size = |name: &str| std::fs::metadata(dir.join(name)).ok().map(|m| m.len());
    let model = tcd_export::onnx::MODEL_FILE;
    let data = format!("{model}{}", tcd_export::onnx::DATA_SUFFIX);
    Some(size(model)? + size(&data).unwrap_or(0))
}
