//! The measures of claims: which results give them, and what their intervals are over.

use std::path::Path;

use tcd_analysis::cka::CkaResult;

use super::Row;
use crate::eval::table::{Row as TableRow, Shown, table};
use crate::report::find::{Results, Sourced};
use crate::report::roles::{Role, Roles};
use crate::report::verdict::{Measured, welch};

/// Why an interval is missing.
fn few(a: usize, b: usize, what: &str) -> String {
    format!("{a} and {b} {what}, where an interval takes two of each")
}

/// Runs over one corpus: Welch's interval over seeds. Likelihood results: Welch's interval over models where there are several of
/// each role, else the paired bootstrap over rows of text, or where neither is the first model both intervals' ends.
pub(super) fn log_likelihood(results: &Results, roles: &Roles, row: &Row) -> Vec<Measured> {
    let mut found = Vec::new();
    let mut corpora: Vec<(&str, &str)> = Vec::new();
    for run in &results.runs {
        let corpus = (run.result.corpus.as_str(), run.result.evaluation.as_str());
        if !corpora.contains(&corpus) {
            corpora.push(corpus);
        }
    }
    for (corpus, evaluation) in corpora {
        let of = |role: Role| -> Vec<(usize, f64)> {
            let runs = results.runs.iter().filter(|r| {
                (r.result.corpus.as_str(), r.result.evaluation.as_str()) == (corpus, evaluation)
            });
            runs.filter(|r| roles.role(&r.result.name, Some(&r.result.dir)) == Some(role))
                .filter_map(|r| Some((r.source, r.result.last()?.heldout_log_likelihood)))
                .collect()
        };
        let (a, b) = (of(row.better), of(row.worse));
        let values = |list: &[(usize, f64)]| list.iter().map(|(_, v)| *v).collect::<Vec<_>>();
        if let Some((difference, interval)) = welch(&values(&a), &values(&b)) {
            found.push(Measured {
                what: format!(
                    "{} − {}, end of pre-training on {corpus}",
                    row.better.words(),
                    row.worse.words()
                ),
                difference,
                interval,
                basis: match interval {
                    Some(_) => format!("over {} and {} runs (Welch)", a.len(), b.len()),
                    None => few(a.len(), b.len(), "runs"),
                },
                unit: "nats a masked token",
                decimals: 3,
                sources: a.iter().chain(&b).map(|(source, _)| *source).collect(),
            });
        }
    }
    for result in &results.likelihood {
        found.extend(likelihood_result(result, roles, row));
    }
    found
}

fn likelihood_result(
    found: &Sourced<tcd_analysis::likelihood::LikelihoodResult>,
    roles: &Roles,
    row: &Row,
) -> Vec<Measured> {
    let result = &found.result;
    let role = |name: &str| {
        let source = result.provenance.models.iter().find(|m| m.name == name);
        roles.role(name, source.map(|m| Path::new(m.model.as_str())))
    };
    let mut corpora: Vec<&str> = Vec::new();
    for cell in &result.cells {
        if !corpora.contains(&cell.corpus.as_str()) {
            corpora.push(&cell.corpus);
        }
    }
    let mut measured = Vec::new();
    for corpus in corpora {
        let cells: Vec<_> = result
            .cells
            .iter()
            .filter(|c| c.corpus == corpus && c.class == "all")
            .collect();
        let of = |wanted: Role| {
            cells
                .iter()
                .filter(|c| role(&c.model) == Some(wanted))
                .filter_map(|c| Some((*c, c.log_likelihood?)))
                .collect::<Vec<_>>()
        };
        let (a, b) = (of(row.better), of(row.worse));
        let make = |what: String, difference, interval, basis: String| Measured {
            what,
            difference,
            interval,
            basis,
            unit: "nats a masked token",
            decimals: 3,
            sources: vec![found.source],
        };
        if a.len() > 1 && b.len() > 1 {
            let values = |list: &[(_, f64)]| list.iter().map(|(_, v)| *v).collect::<Vec<_>>();
            if let Some((difference, interval)) = welch(&values(&a), &values(&b)) {
                measured.push(make(
                    format!(
                        "{} − {} on `{corpus}`",
                        row.better.words(),
                        row.worse.words()
                    ),
                    difference,
                    interval,
                    format!("over {} and {} models (Welch)", a.len(), b.len()),
                ));
            }
            continue;
        }
        for (x, vx) in &a {
            for (y, vy) in &b {
                let first = cells.first().map(|c| c.model.as_str());
                let (interval, how) = if first == Some(y.model.as_str()) {
                    (x.difference_interval, "paired over rows of text")
                } else if first == Some(x.model.as_str()) {
                    let turned = y.difference_interval.map(|[low, high]| [-high, -low]);
                    (turned, "paired over rows of text")
                } else {
                    let ends = x.interval.zip(y.interval);
                    (
                        ends.map(|(x, y)| [x[0] - y[1], x[1] - y[0]]),
                        "from the ends of both models' intervals over rows of text, so on the wide side",
                    )
                };
                let basis = match interval {
                    Some(_) => format!("{how}; one model each, so that other seeds stay open"),
                    None => "the result has none".to_owned(),
                };
                measured.push(make(
                    format!("{} − {} on `{corpus}`", x.model, y.model),
                    vx - vy,
                    interval,
                    basis,
                ));
            }
        }
    }
    measured
}

/// Gaps of transfer results: the bootstrap over seeds.
pub(super) fn transfer_gap(results: &Results, roles: &Roles, row: &Row) -> Vec<Measured> {
    let mut found = Vec::new();
    for result in &results.transfer {
        for gap in &result.result.gaps {
            let (a, b) = (roles.role(&gap.a, None), roles.role(&gap.b, None));
            let sign = match (a, b) {
                (Some(a), Some(b)) if (a, b) == (row.better, row.worse) => 1.0,
                (Some(a), Some(b)) if (b, a) == (row.better, row.worse) => -1.0,
                _ => continue,
            };
            let Some(value) = gap.gap else {
                continue;
            };
            let (x, y, seeds) = if sign > 0.0 {
                (&gap.a, &gap.b, gap.seeds)
            } else {
                (&gap.b, &gap.a, [gap.seeds[1], gap.seeds[0]])
            };
            let interval = gap.interval.map(|[low, high]| {
                if sign > 0.0 {
                    [low, high]
                } else {
                    [-high, -low]
                }
            });
            let confidence = result.result.bootstrap.confidence;
            let basis = match interval {
                Some(_) if (confidence - 0.95).abs() > 1e-9 => format!(
                    "bootstrap over {} and {} seeds, at {:.0} % and not 95 %",
                    seeds[0],
                    seeds[1],
                    100.0 * confidence
                ),
                Some(_) => format!("bootstrap over {} and {} seeds", seeds[0], seeds[1]),
                None => gap
                    .reason
                    .clone()
                    .unwrap_or_else(|| few(seeds[0], seeds[1], "seeds")),
            };
            // Scores are fractions, or already times 100: told by their size.
            let fractions = result.result.points.iter().all(|p| p.score.abs() <= 1.0);
            let scale = if fractions { 100.0 } else { 1.0 };
            found.push(Measured {
                what: format!("{x} − {y}, score at equal log-likelihood"),
                difference: sign * value * scale,
                interval: interval.map(|ends| ends.map(|e| e * scale)),
                basis,
                unit: "points",
                decimals: 2,
                sources: vec![result.source],
            });
        }
    }
    found
}

/// The GLUE average over the tasks that both roles have: Welch's interval over pre-trained models where there are several of each, else
/// over seeds of fine-tuning.
pub(super) fn glue(results: &Results, roles: &Roles, row: &Row) -> Vec<Measured> {
    let role = |r: &crate::eval::result::TaskResult| roles.role(&r.model.name, Some(&r.model.path));
    let mut kept = Vec::new();
    let mut sources = Vec::new();
    for (source, dir, result) in &results.glue {
        if matches!(role(result), Some(r) if r == row.better || r == row.worse) {
            kept.push((dir.clone(), result.clone()));
            sources.push(*source);
        }
    }
    let summary = table(&kept, Shown::Median, false);
    let of = |wanted: Role| -> Vec<&TableRow> {
        let rows = summary.rows.iter();
        rows.filter(|r| {
            kept.iter()
                .any(|(_, k)| k.model.name == r.model && role(k) == Some(wanted))
        })
        .filter(|r| r.average.is_some_and(f64::is_finite))
        .collect()
    };
    let (a, b) = (of(row.better), of(row.worse));
    if a.is_empty() || b.is_empty() || summary.averaged.is_empty() {
        return Vec::new();
    }
    let averages = |rows: &[&TableRow]| rows.iter().filter_map(|r| r.average).collect::<Vec<_>>();
    // The mean over tasks under each seed of fine-tuning that all tasks have.
    let by_seed = |r: &TableRow| -> Vec<f64> {
        let cells: Vec<_> = r
            .cells
            .iter()
            .filter(|c| summary.averaged.contains(&c.task))
            .collect();
        let Some(first) = cells.first() else {
            return Vec::new();
        };
        let score = |seed: u64| -> Option<f64> {
            let sum: Option<f64> = cells
                .iter()
                .map(|c| Some(c.by_seed.iter().find(|(s, _)| *s == seed)?.1))
                .sum();
            sum.map(|s| s / cells.len() as f64)
                .filter(|s| s.is_finite())
        };
        first
            .by_seed
            .iter()
            .filter_map(|(s, _)| score(*s))
            .collect()
    };
    let tasks = summary.averaged.join(", ");
    let name = |rows: &[&TableRow], role: Role| match rows {
        [one] => one.model.clone(),
        _ => role.words().to_owned(),
    };
    let (found, basis) = if a.len() > 1 && b.len() > 1 {
        (
            welch(&averages(&a), &averages(&b)),
            format!(
                "over {} and {} pre-trained models (Welch)",
                a.len(),
                b.len()
            ),
        )
    } else {
        let seeds = |rows: &[&TableRow]| rows.iter().flat_map(|r| by_seed(r)).collect::<Vec<_>>();
        let (x, y) = (seeds(&a), seeds(&b));
        (
            welch(&x, &y),
            format!(
                "over {} and {} seeds of fine-tuning (Welch); other seeds of pre-training stay open",
                x.len(),
                y.len()
            ),
        )
    };
    let Some((difference, interval)) = found else {
        return Vec::new();
    };
    vec![Measured {
        what: format!(
            "{} − {}, mean over {tasks}",
            name(&a, row.better),
            name(&b, row.worse)
        ),
        difference: 100.0 * difference,
        interval: interval.map(|ends| ends.map(|e| 100.0 * e)),
        basis: match interval {
            Some(_) => basis,
            None => {
                "too few seeds that all tasks have, where an interval takes two of each".to_owned()
            }
        },
        unit: "points",
        decimals: 2,
        sources,
    }]
}

/// A CKA table between a vanilla model and another one.
struct ToTeacher<'a> {
    source: usize,
    result: &'a CkaResult,
    /// Name of the other model, and its role.
    student: &'a str,
    role: Role,
    teacher_hash: &'a str,
}

impl ToTeacher<'_> {
    /// Whether two tables can be compared: one teacher, one sample, one way.
    fn comparable(&self, other: &Self) -> bool {
        let data = |t: &Self| {
            let models = &t.result.provenance.models;
            models.first().map(|m| m.data_blake3.clone())
        };
        self.teacher_hash == other.teacher_hash
            && data(self) == data(other)
            && self.result.provenance.sample == other.result.provenance.sample
            && self.result.options == other.result.options
    }

    /// Values and intervals of taps of one name.
    fn same_taps(&self) -> impl Iterator<Item = (&str, f64, Option<[f64; 2]>)> {
        let cells = self.result.cells.iter().filter(|c| c.a == c.b);
        cells.filter_map(|c| Some((c.a.as_str(), c.cka?, c.interval)))
    }
}

/// CKA with the teacher, mean over the taps that both tables have: the difference, with an interval from the ends of the cells'
/// intervals, which is on the wide side.
pub(super) fn cka(results: &Results, roles: &Roles, row: &Row) -> Vec<Measured> {
    let mut tables: Vec<ToTeacher> = Vec::new();
    for found in &results.cka {
        let [a, b] = found.result.provenance.models.as_slice() else {
            continue;
        };
        let role = |m: &tcd_analysis::provenance::ModelSource| {
            roles.role(&m.name, Some(Path::new(m.model.as_str())))
        };
        for (teacher, student) in [(a, b), (b, a)] {
            if let (Some(Role::Vanilla), Some(role)) = (role(teacher), role(student)) {
                tables.push(ToTeacher {
                    source: found.source,
                    result: &found.result,
                    student: &student.name,
                    role,
                    teacher_hash: &teacher.model_blake3,
                });
            }
        }
    }
    let mut measured = Vec::new();
    for x in tables.iter().filter(|t| t.role == row.better) {
        for y in tables
            .iter()
            .filter(|t| t.role == row.worse && t.comparable(x))
        {
            let pairs: Vec<_> = x
                .same_taps()
                .filter_map(|(tap, vx, ix)| {
                    let (_, vy, iy) = y.same_taps().find(|(other, ..)| *other == tap)?;
                    let interval = ix.zip(iy).map(|(x, y)| [x[0] - y[1], x[1] - y[0]]);
                    Some((vx - vy, interval))
                })
                .collect();
            if pairs.is_empty() {
                continue;
            }
            let n = pairs.len() as f64;
            let interval: Option<Vec<[f64; 2]>> = pairs.iter().map(|(_, i)| *i).collect();
            let mean = |at: usize, all: &[[f64; 2]]| all.iter().map(|i| i[at]).sum::<f64>() / n;
            let interval = interval.map(|all| [mean(0, &all), mean(1, &all)]);
            measured.push(Measured {
                what: format!(
                    "CKA with the teacher, {} − {}, mean over {} taps",
                    x.student,
                    y.student,
                    pairs.len()
                ),
                difference: pairs.iter().map(|(d, _)| d).sum::<f64>() / n,
                interval,
                basis: match interval {
                    Some(_) => "from the ends of both values' intervals over halves of the rows, so on the wide side; other seeds stay open".to_owned(),
                    None => "the tables have no intervals (`--halves`)".to_owned(),
                },
                unit: "",
                decimals: 3,
                sources: vec![x.source, y.source],
            });
        }
    }
    measured
}
