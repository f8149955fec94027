//! Transfer curves: downstream score against pre-training log-likelihood, and the gap between two families (METHOD.md).
//!
//! A family (vanilla, MoE, distilled MoE, ...) has runs under several seeds, a run has checkpoints with held-out masked-LM
//! log-likelihood and a GLUE average. A run's curve is the broken line through its checkpoints, sorted by log-likelihood (scores at
//! equal log-likelihood are averaged). A family's curve is the mean of its runs' curves where all of them are defined. The *transfer gap*
//! of two families is the vertical distance of their curves, averaged over the log-likelihoods that both cover: exact, as both
//! are broken lines. Its interval is the bootstrap over seeds: runs of each family are drawn anew with replacement.
//!
//! # Schema `transfer 1`
//! JSON: [`TransferResult`]. CSV of the points: `family,seed,step,log_likelihood,score` (the same columns are read); of the gaps
//! ([`TransferResult::gaps_csv`]) `a,b,gap,interval_low,interval_high,overlap_low,overlap_high,seeds_a,seeds_b,reason`.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::cka::resample::quantile;
use crate::provenance::{Provenance, csv, optional};

#[cfg(test)]
mod tests;

/// One checkpoint of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferPoint {
    /// The family.
    pub family: String,
    /// The run's seed.
    pub seed: u64,
    /// Optimizer steps of pre-training.
    pub step: u64,
    /// Held-out masked-LM log-likelihood, nats a masked token.
    pub log_likelihood: f64,
    /// Downstream score, as GLUE averages it (0..100 or 0..1, the same for all).
    pub score: f64,
}

/// Why a gap could not be measured, or points not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// A family has no points.
    #[error("no points of the family: `{0}`")]
    Unknown(String),
    /// A point is not finite.
    #[error("family `{family}`, seed {seed}, step {step}: `{field}` is not a finite number")]
    NotFinite {
        /// The family.
        family: String,
        /// The seed.
        seed: u64,
        /// The step.
        step: u64,
        /// Which field.
        field: &'static str,
    },
    /// The runs of one family cover no common range.
    #[error(
        "the runs of family `{family}` share no range of log-likelihood: the best start is {low:.4}, the worst end {high:.4}"
    )]
    FamilyRange {
        /// The family.
        family: String,
        /// Largest of the runs' least log-likelihoods.
        low: f64,
        /// Least of the runs' largest.
        high: f64,
    },
    /// The curves do not overlap.
    #[error(
        "the curves of `{a}` ({:.4} to {:.4}) and `{b}` ({:.4} to {:.4}) do not overlap in log-likelihood: no gap at equal log-likelihood\nhint: add earlier checkpoints of the better model or later ones of the worse",
        range_a[0], range_a[1], range_b[0], range_b[1]
    )]
    NoOverlap {
        /// One family.
        a: String,
        /// The other.
        b: String,
        /// Log-likelihoods that the first covers.
        range_a: [f64; 2],
        /// Log-likelihoods that the second covers.
        range_b: [f64; 2],
    },
    /// A line of the CSV is not a point.
    #[error("line {line}: {problem}")]
    Csv {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// A broken line: log-likelihoods rising strictly, with scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Log-likelihoods, rising.
    pub x: Vec<f64>,
    /// Scores.
    pub y: Vec<f64>,
}

impl Line {
    /// Through points in any order; scores at equal log-likelihood are averaged.
    pub fn through(points: &[(f64, f64)]) -> Self {
        let mut sorted = points.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut line = Line {
            x: Vec::new(),
            y: Vec::new(),
        };
        let mut at = 0;
        while at < sorted.len() {
            let same = sorted[at..]
                .iter()
                .take_while(|p| p.0 == sorted[at].0)
                .count();
            line.x.push(sorted[at].0);
            line.y
                .push(sorted[at..at + same].iter().map(|p| p.1).sum::<f64>() / same as f64);
            at += same;
        }
        line
    }

    /// The score at `x` within the line's range; nothing outside.
    pub fn at(&self, x: f64) -> Option<f64> {
        let (first, last) = (*self.x.first()?, *self.x.last()?);
        if !(first <= x && x <= last) {
            return None;
        }
        let right = self.x.partition_point(|v| *v < x);
        if self.x[right] == x {
            return Some(self.y[right]);
        }
        let (a, b) = (right - 1, right);
        let share = (x - self.x[a]) / (self.x[b] - self.x[a]);
        Some(self.y[a] + share * (self.y[b] - self.y[a]))
    }

    fn range(&self) -> Option<[f64; 2]> {
        Some([*self.x.first()?, *self.x.last()?])
    }

    /// The mean of lines where all are defined; their common range where there is none (`low > high`).
    fn mean(lines: &[&Line]) -> Result<Line, [f64; 2]> {
        let ranges: Vec<[f64; 2]> = lines.iter().filter_map(|l| l.range()).collect();
        let low = ranges
            .iter()
            .map(|r| r[0])
            .fold(f64::NEG_INFINITY, f64::max);
        let high = ranges.iter().map(|r| r[1]).fold(f64::INFINITY, f64::min);
        if low > high || ranges.is_empty() {
            return Err([low, high]);
        }
        let mut x: Vec<f64> = lines
            .iter()
            .flat_map(|l| &l.x)
            .copied()
            .filter(|v| (low..=high).contains(v))
            .collect();
        x.extend([low, high]);
        x.sort_by(f64::total_cmp);
        x.dedup();
        let y = x
            .iter()
            .map(|&x| lines.iter().filter_map(|l| l.at(x)).sum::<f64>() / lines.len() as f64)
            .collect();
        Ok(Line { x, y })
    }
}

/// Mean vertical distance `a - b` over the common range, and that range; nothing where they do not overlap. On a single common point
/// it is the distance there.
fn distance(a: &Line, b: &Line) -> Option<(f64, [f64; 2])> {
    let (ra, rb) = (a.range()?, b.range()?);
    let (low, high) = (ra[0].max(rb[0]), ra[1].min(rb[1]));
    if low > high {
        return None;
    }
    let mut x: Vec<f64> =
        a.x.iter()
            .chain(&b.x)
            .copied()
            .filter(|v| (low..=high).contains(v))
            .collect();
    x.extend([low, high]);
    x.sort_by(f64::total_cmp);
    x.dedup();
    let apart: Vec<f64> = x
        .iter()
        .map(|&x| Some(a.at(x)? - b.at(x)?))
        .collect::<Option<_>>()?;
    if x.len() == 1 {
        return Some((apart[0], [low, high]));
    }
    // The difference is straight between neighbouring corners, so that trapezoids are exact.
    let area: f64 = (1..x.len())
        .map(|i| (x[i] - x[i - 1]) * f64::midpoint(apart[i], apart[i - 1]))
        .sum();
    Some((area / (high - low), [low, high]))
}

/// How the interval is made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Draws.
    pub draws: usize,
    /// Share of the interval, 0..1.
    pub confidence: f64,
    /// Seed.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap {
            draws: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

/// The curve of one family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyCurve {
    /// The family.
    pub family: String,
    /// Its seeds.
    pub seeds: Vec<u64>,
    /// The mean of its runs' curves; absent where they share no range.
    pub mean: Option<Line>,
    /// The curve of each run, in the order of `seeds`.
    pub runs: Vec<Line>,
}

/// The gap between two families.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferGap {
    /// The family whose score counts as positive.
    pub a: String,
    /// The other.
    pub b: String,
    /// Mean of `score(a) - score(b)` at equal log-likelihood.
    pub gap: Option<f64>,
    /// Bootstrap interval over seeds.
    pub interval: Option<[f64; 2]>,
    /// Log-likelihoods that it was averaged over.
    pub overlap: Option<[f64; 2]>,
    /// Runs of each family.
    pub seeds: [usize; 2],
    /// Draws of the bootstrap in which the curves did not overlap; they are left out of the interval.
    pub draws_without_overlap: usize,
    /// Why there is no gap or no interval.
    pub reason: Option<String>,
}

/// Curves and gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferResult {
    /// What made it.
    pub provenance: Provenance,
    /// How the intervals were made.
    pub bootstrap: Bootstrap,
    /// The checkpoints.
    pub points: Vec<TransferPoint>,
    /// Curves by family.
    pub curves: Vec<FamilyCurve>,
    /// Gaps of the pairs asked for.
    pub gaps: Vec<TransferGap>,
}

/// `(log-likelihood, score)` of the checkpoints of each seed.
type Runs = BTreeMap<u64, Vec<(f64, f64)>>;

/// The curves of all families, in order of name.
pub fn family_curves(points: &[TransferPoint]) -> Result<Vec<FamilyCurve>, TransferError> {
    let mut families: BTreeMap<&str, Runs> = BTreeMap::new();
    for p in points {
        for (field, value) in [("log_likelihood", p.log_likelihood), ("score", p.score)] {
            if !value.is_finite() {
                return Err(TransferError::NotFinite {
                    family: p.family.clone(),
                    seed: p.seed,
                    step: p.step,
                    field,
                });
            }
        }
        families
            .entry(&p.family)
            .or_default()
            .entry(p.seed)
            .or_default()
            .push((p.log_likelihood, p.score));
    }
    let curve = |(family, runs): (&str, Runs)| {
        let lines: Vec<Line> = runs.values().map(|points| Line::through(points)).collect();
        let mean = Line::mean(&lines.iter().collect::<Vec<_>>()).ok();
        FamilyCurve {
            family: family.to_owned(),
            seeds: runs.into_keys().collect(),
            mean,
            runs: lines,
        }
    };
    Ok(families.into_iter().map(curve).collect())
}

/// The gap between families `a` and `b`; refused where their curves do not overlap.
pub fn transfer_gap(
    curves: &[FamilyCurve],
    a: &str,
    b: &str,
    bootstrap: &Bootstrap,
) -> Result<TransferGap, TransferError> {
    let find = |name: &str| {
        curves
            .iter()
            .find(|c| c.family == name)
            .ok_or_else(|| TransferError::Unknown(name.to_owned()))
    };
    let (ca, cb) = (find(a)?, find(b)?);
    let mean = |c: &FamilyCurve| {
        Line::mean(&c.runs.iter().collect::<Vec<_>>()).map_err(|[low, high]| {
            TransferError::FamilyRange {
                family: c.family.clone(),
                low,
                high,
            }
        })
    };
    let (la, lb) = (mean(ca)?, mean(cb)?);
    let Some((gap, overlap)) = distance(&la, &lb) else {
        let range = |l: &Line| l.range().unwrap_or([f64::NAN; 2]);
        return Err(TransferError::NoOverlap {
            a: a.to_owned(),
            b: b.to_owned(),
            range_a: range(&la),
            range_b: range(&lb),
        });
    };
    let mut found = TransferGap {
        a: a.to_owned(),
        b: b.to_owned(),
        gap: Some(gap),
        interval: None,
        overlap: Some(overlap),
        seeds: [ca.runs.len(), cb.runs.len()],
        draws_without_overlap: 0,
        reason: None,
    };
    if found.seeds.iter().any(|n| *n < 2) {
        found.reason = Some("no interval: it takes two seeds of each family at least".to_owned());
        return Ok(found);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
    let mut draw = |c: &FamilyCurve| {
        let lines: Vec<&Line> = (0..c.runs.len())
            .map(|_| &c.runs[rng.random_range(0..c.runs.len())])
            .collect();
        Line::mean(&lines).ok()
    };
    let mut gaps = Vec::with_capacity(bootstrap.draws);
    for _ in 0..bootstrap.draws {
        let drawn = draw(ca).zip(draw(cb)).and_then(|(x, y)| distance(&x, &y));
        match drawn {
            Some((gap, _)) => gaps.push(gap),
            None => found.draws_without_overlap += 1,
        }
    }
    gaps.sort_by(f64::total_cmp);
    let tail = (1.0 - bootstrap.confidence) / 2.0;
    found.interval =
        (!gaps.is_empty()).then(|| [quantile(&gaps, tail), quantile(&gaps, 1.0 - tail)]);
    Ok(found)
}

/// The points as CSV: `family,seed,step,log_likelihood,score`.
pub fn points_to_csv(points: &[TransferPoint]) -> String {
    let row = |p: &TransferPoint| {
        vec![
            p.family.clone(),
            p.seed.to_string(),
            p.step.to_string(),
            p.log_likelihood.to_string(),
            p.score.to_string(),
        ]
    };
    csv(
        "family,seed,step,log_likelihood,score",
        points.iter().map(row),
    )
}

/// Reads points from CSV with the columns of the module's documentation, in any order of columns.
pub fn points_from_csv(text: &str) -> Result<Vec<TransferPoint>, TransferError> {
    const COLUMNS: [&str; 5] = ["family", "seed", "step", "log_likelihood", "score"];
    let fail = |line: usize, problem: String| TransferError::Csv { line, problem };
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let (_, header) = lines
        .next()
        .ok_or_else(|| fail(1, "the file is empty".to_owned()))?;
    let names: Vec<&str> = header
        .trim_start_matches('\u{feff}')
        .split(',')
        .map(str::trim)
        .collect();
    let place = |column: &str| {
        names
            .iter()
            .position(|n| *n == column)
            .ok_or_else(|| fail(1, format!("it lacks the column: `{column}`")))
    };
    let places = COLUMNS
        .iter()
        .map(|c| place(c))
        .collect::<Result<Vec<_>, _>>()?;
    let mut points = Vec::new();
    for (index, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != names.len() {
            return Err(fail(
                index + 1,
                format!("{} fields, the header has {}", fields.len(), names.len()),
            ));
        }
        let bad = |c: usize| {
            fail(
                index + 1,
                format!("`{}` is not a number: `{}`", COLUMNS[c], fields[places[c]]),
            )
        };
        let whole = |c: usize| fields[places[c]].parse::<u64>().map_err(|_| bad(c));
        let real = |c: usize| fields[places[c]].parse::<f64>().map_err(|_| bad(c));
        points.push(TransferPoint {
            family: fields[places[0]].to_owned(),
            seed: whole(1)?,
            step: whole(2)?,
            log_likelihood: real(3)?,
            score: real(4)?,
        });
    }
    Ok(points)
}

impl TransferResult {
    /// The points as CSV; the module's documentation names the columns.
    pub fn to_csv(&self) -> String {
        points_to_csv(&self.points)
    }

    /// The gaps as CSV; the module's documentation names the columns.
    pub fn gaps_csv(&self) -> String {
        let row = |g: &TransferGap| {
            let end = |ends: Option<[f64; 2]>, i: usize| optional(ends.map(|e| e[i]));
            vec![
                g.a.clone(),
                g.b.clone(),
                optional(g.gap),
                end(g.interval, 0),
                end(g.interval, 1),
                end(g.overlap, 0),
                end(g.overlap, 1),
                g.seeds[0].to_string(),
                g.seeds[1].to_string(),
                g.reason.clone().unwrap_or_default(),
            ]
        };
        csv(
            "a,b,gap,interval_low,interval_high,overlap_low,overlap_high,seeds_a,seeds_b,reason",
            self.gaps.iter().map(row),
        )
    }
}
