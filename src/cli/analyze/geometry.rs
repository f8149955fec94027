//! `tcd analyze geometry`.

use anyhow::Result;
use clap::Args;
use tcd_analysis::geometry::{GeometryResult, geometry};

use super::common::{OutputArgs, SampleArgs, Track, open_all, provenance, short, short_tap, table};
use crate::cli::{Outcome, note};

/// Arguments of `tcd analyze geometry`.
///
/// Example:
///   tcd analyze geometry vanilla=f/vanilla.safetensors moe=f/moe.safetensors --out geometry.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Geometry {
    /// Features files; `NAME=FILE` names the model.
    #[arg(required = true, value_name = "FEATURES")]
    features: Vec<String>,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Geometry {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let files = open_all(&self.features)?;
        let mut taps = Vec::new();
        let mut sample = None;
        for named in &files {
            let rows = self.sample.rows_of(&named.file, None)?;
            let track = Track::new("geometry", "taps");
            taps.extend(geometry(&named.name, &rows, &|done, total| {
                track.at(done, total)
            })?);
            sample.get_or_insert(self.sample.info(&rows, None));
        }
        let result = GeometryResult {
            provenance: provenance("geometry 1", &files.iter().collect::<Vec<_>>(), sample),
            taps,
        };
        let lines: Vec<Vec<String>> = result
            .taps
            .iter()
            .map(|t| {
                let m = t.measures.as_ref();
                vec![
                    t.model.clone(),
                    short_tap(&t.tap),
                    short(m.map(|m| m.effective_rank)),
                    short(m.map(|m| m.participation_ratio)),
                    short(m.and_then(|m| m.anisotropy)),
                    short(m.map(|m| m.top_share)),
                ]
            })
            .collect();
        table(
            &[
                "model",
                "tap",
                "effective rank",
                "participation",
                "anisotropy",
                "top share",
            ],
            &lines,
        );
        for t in &result.taps {
            if let Some(reason) = &t.reason {
                note(&format!("{} {}: {reason}", t.model, t.tap));
            }
        }
        self.output.write(
            &result,
            &[("", result.to_csv()), ("spectra", result.spectra_csv())],
        )?;
        Ok(Outcome::Done)
    }
}
