//! `tcd analyze curve`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use tcd_analysis::provenance::Provenance;
use tcd_analysis::transfer::{
    Bootstrap, TransferResult, family_curves, points_from_csv, transfer_gap,
};

use super::common::{OutputArgs, command_line, short, table};
use crate::cli::{Outcome, note};

/// Arguments of `tcd analyze curve`.
///
/// Points are CSV with the columns family, seed, step, log_likelihood (held-out, nats a masked token), score (GLUE average). The transfer
/// gap of A and B is the mean of score(A) - score(B) at equal log-likelihood over the range that both curves cover, with a bootstrap
/// interval over seeds. Where the curves do not overlap there is no such number, and the command says so and ends with exit code 2.
///
/// Example:
///   tcd analyze curve points.csv --gap distilled:moe --gap vanilla:moe --out transfer.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Curve {
    /// Points, CSV; several files are joined.
    #[arg(required = true, value_name = "POINTS.csv")]
    points: Vec<PathBuf>,
    /// Families whose gap is measured; may be given several times. Every pair where none is given.
    #[arg(long, value_name = "A:B")]
    gap: Vec<String>,
    /// Draws of the bootstrap.
    #[arg(long, default_value_t = Bootstrap::default().draws, value_name = "N")]
    draws: usize,
    /// Share of the interval.
    #[arg(long, default_value_t = 0.95, value_name = "SHARE")]
    confidence: f64,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    output: OutputArgs,
}

impl Curve {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            bail!(
                "`--confidence` must lie between 0 and 1: {}",
                self.confidence
            );
        }
        let mut points = Vec::new();
        for path in &self.points {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read: {}", path.display()))?;
            points.extend(
                points_from_csv(&text)
                    .with_context(|| format!("cannot read points: {}", path.display()))?,
            );
        }
        let curves = family_curves(&points)?;
        let bootstrap = Bootstrap {
            draws: self.draws,
            confidence: self.confidence,
            seed: self.seed,
        };
        let mut gaps = Vec::new();
        for (a, b) in self.pairs(&curves.iter().map(|c| c.family.clone()).collect::<Vec<_>>())? {
            gaps.push(transfer_gap(&curves, &a, &b, &bootstrap)?);
        }
        let provenance = Provenance::new("transfer 1", &command_line(), Vec::new(), None);
        let result = TransferResult {
            provenance,
            bootstrap,
            points,
            curves,
            gaps,
        };
        let lines: Vec<Vec<String>> = result
            .gaps
            .iter()
            .map(|g| {
                vec![
                    format!("{} - {}", g.a, g.b),
                    short(g.gap),
                    short(g.interval.map(|i| i[0])),
                    short(g.interval.map(|i| i[1])),
                    format!("{} / {}", g.seeds[0], g.seeds[1]),
                ]
            })
            .collect();
        table(&["transfer gap", "mean", "low", "high", "seeds"], &lines);
        for gap in &result.gaps {
            if let Some(reason) = &gap.reason {
                note(&format!("{} - {}: {reason}", gap.a, gap.b));
            }
            if gap.draws_without_overlap > 0 {
                let (count, all) = (gap.draws_without_overlap, self.draws);
                note(&format!(
                    "{} - {}: in {count} of {all} draws the curves did not overlap",
                    gap.a, gap.b
                ));
            }
        }
        self.output.write(
            &result,
            &[("", result.to_csv()), ("gaps", result.gaps_csv())],
        )?;
        Ok(Outcome::Done)
    }

    fn pairs(&self, families: &[String]) -> Result<Vec<(String, String)>> {
        if self.gap.is_empty() {
            let all =
                (0..families.len()).flat_map(|i| (i + 1..families.len()).map(move |j| (i, j)));
            return Ok(all
                .map(|(i, j)| (families[i].clone(), families[j].clone()))
                .collect());
        }
        let split = |pair: &String| match pair.split_once(':') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() => Ok((a.to_owned(), b.to_owned())),
            _ => bail!("`--gap` takes two families as `A:B`: `{pair}`"),
        };
        self.gap.iter().map(split).collect()
    }
}
