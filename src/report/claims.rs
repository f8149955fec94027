//! The claims of the method and the numbers that bear on them.
//!
//! A claim says that models of one role exceed those of another by one measure. Which results give that measure, and what their
//! intervals are over, stands with each function of `measures`; [`super::verdict`] decides.

use tcd_plots::report::{Claim, Verdict};

use super::find::Results;
use super::roles::{Role, Roles};
use super::verdict::{Measured, reason, together};

mod measures;
#[cfg(test)]
mod tests;

use measures::{cka, glue, log_likelihood, transfer_gap};

/// What a claim is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Held-out masked-LM log-likelihood.
    LogLikelihood,
    /// Transfer gap at equal log-likelihood.
    TransferGap,
    /// GLUE average.
    Glue,
    /// CKA with the vanilla teacher.
    CkaToTeacher,
}

/// A claim: models of role `better` exceed those of role `worse`.
#[derive(Debug)]
pub struct Row {
    /// Anchor on the page.
    pub id: &'static str,
    /// The claim in a sentence.
    pub statement: &'static str,
    /// The role that exceeds.
    pub better: Role,
    /// The role that it exceeds.
    pub worse: Role,
    /// By what.
    pub measure: Measure,
}

/// The claims, as the paper's argument goes.
pub const CLAIMS: [Row; 10] = [
    Row {
        id: "moe-pretrains-better",
        statement: "The mixture of experts pre-trains better than the vanilla model: its held-out log-likelihood is higher.",
        better: Role::Moe,
        worse: Role::Vanilla,
        measure: Measure::LogLikelihood,
    },
    Row {
        id: "moe-transfers-worse",
        statement: "At equal log-likelihood the mixture of experts transfers worse than the vanilla model.",
        better: Role::Vanilla,
        worse: Role::Moe,
        measure: Measure::TransferGap,
    },
    Row {
        id: "distilled-transfers-better",
        statement: "At equal log-likelihood the distilled mixture of experts transfers better than the undistilled one.",
        better: Role::Distilled,
        worse: Role::Moe,
        measure: Measure::TransferGap,
    },
    Row {
        id: "distilled-transfers-better-than-control",
        statement: "At equal log-likelihood the distilled mixture of experts transfers better than the one taught by a random teacher.",
        better: Role::Distilled,
        worse: Role::RandomTeacher,
        measure: Measure::TransferGap,
    },
    Row {
        id: "distilled-pretrains-better-than-teacher",
        statement: "The distilled mixture of experts pre-trains better than its vanilla teacher: its held-out log-likelihood is higher.",
        better: Role::Distilled,
        worse: Role::Vanilla,
        measure: Measure::LogLikelihood,
    },
    Row {
        id: "distilled-scores-higher",
        statement: "The distilled mixture of experts scores higher on GLUE than the undistilled one.",
        better: Role::Distilled,
        worse: Role::Moe,
        measure: Measure::Glue,
    },
    Row {
        id: "distilled-beats-teacher",
        statement: "The distilled mixture of experts scores higher on GLUE than its vanilla teacher.",
        better: Role::Distilled,
        worse: Role::Vanilla,
        measure: Measure::Glue,
    },
    Row {
        id: "distilled-beats-control",
        statement: "The distilled mixture of experts scores higher on GLUE than the one taught by a random teacher.",
        better: Role::Distilled,
        worse: Role::RandomTeacher,
        measure: Measure::Glue,
    },
    Row {
        id: "distilled-nearer",
        statement: "The distilled mixture's features are nearer to the teacher's than those of the undistilled one, by CKA.",
        better: Role::Distilled,
        worse: Role::Moe,
        measure: Measure::CkaToTeacher,
    },
    Row {
        id: "distilled-nearer-than-control",
        statement: "The distilled mixture's features are nearer to the teacher's than those of the one taught by a random teacher, by CKA.",
        better: Role::Distilled,
        worse: Role::RandomTeacher,
        measure: Measure::CkaToTeacher,
    },
];

impl Measure {
    /// What it takes to look at such a claim.
    fn needs(self) -> &'static str {
        match self {
            Measure::LogLikelihood => {
                "run directories of both, or `tcd analyze likelihood` over both"
            }
            Measure::TransferGap => "`tcd analyze curve` with the gap between the two families",
            Measure::Glue => "results of `tcd finetune` or `tcd eval` of both on a common task",
            Measure::CkaToTeacher => {
                "`tcd analyze cka` of the teacher with either, on the same sample"
            }
        }
    }
}

/// The claims that results bear on, and the others with what they would take.
pub fn claims(results: &Results, roles: &Roles) -> (Vec<Claim>, Vec<String>) {
    let mut seen = Vec::new();
    let mut unseen = Vec::new();
    for row in &CLAIMS {
        let measured = match row.measure {
            Measure::LogLikelihood => log_likelihood(results, roles, row),
            Measure::TransferGap => transfer_gap(results, roles, row),
            Measure::Glue => glue(results, roles, row),
            Measure::CkaToTeacher => cka(results, roles, row),
        };
        if measured.is_empty() {
            unseen.push(format!(
                "{} It takes {}.",
                row.statement,
                row.measure.needs()
            ));
            continue;
        }
        let mut sources: Vec<usize> = measured.iter().flat_map(|m| m.sources.clone()).collect();
        sources.sort_unstable();
        sources.dedup();
        seen.push(Claim {
            id: row.id.to_owned(),
            statement: row.statement.to_owned(),
            verdict: together(&measured),
            reason: reason(&measured),
            evidence: measured.iter().map(Measured::evidence).collect(),
            sources,
        });
    }
    seen.extend(parity(results));
    (seen, unseen)
}

/// Whether exported models answer alike: a check, not an interval.
fn parity(results: &Results) -> Option<Claim> {
    let all = &results.parity;
    if all.is_empty() {
        return None;
    }
    let several: Vec<_> = all.iter().filter(|p| p.result.engines.len() > 1).collect();
    let failed = several.iter().filter(|p| !p.result.holds).count();
    let verdict = match (several.len(), failed) {
        (0, _) => Verdict::Undecided,
        (_, 0) => Verdict::Supported,
        _ => Verdict::NotSupported,
    };
    let largest = several
        .iter()
        .flat_map(|p| &p.result.differences)
        .map(|d| d.max.unwrap_or(f64::INFINITY))
        .fold(0.0, f64::max);
    let flipped: u64 = several
        .iter()
        .flat_map(|p| &p.result.differences)
        .map(|d| d.flipped)
        .sum();
    let reason = if several.is_empty() {
        "Only one engine ran, which was held against itself alone.".to_owned()
    } else {
        let held = match (several.len(), failed) {
            (1, 0) => "The one comparison holds".to_owned(),
            (n, 0) => format!("All {n} comparisons hold"),
            (n, failed) => format!("{} of {n} comparisons do not hold", failed),
        };
        format!(
            "{held} the tolerance in every output with every expert reached; the largest difference is {largest:.1e}, {flipped} predictions differ."
        )
    };
    Some(Claim {
        id: "engines-agree".to_owned(),
        statement: "Exported models answer alike on every engine.".to_owned(),
        verdict,
        reason,
        evidence: Vec::new(),
        sources: all.iter().map(|p| p.source).collect(),
    })
}
