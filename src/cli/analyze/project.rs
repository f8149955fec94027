//! `tcd analyze project`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tcd_analysis::projection::{Projection, ProjectionResult, project};
use tcd_analysis::source::{FeatureRows, TapSource};

use super::common::{
    OutputArgs, Rows, SampleArgs, Track, open, provenance, short, short_tap, table, vocabulary,
};
use crate::cli::{Outcome, note};

/// Rows where none are asked for.
const ROWS: usize = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Principal components.
    Pca,
    /// t-SNE, on the leading principal components.
    Tsne,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LabelKind {
    /// Number of the row in the data file.
    Row,
    /// Position in the row.
    Position,
    /// Class of the token by its text; needs `--tokenizer`.
    TokenClass,
    /// Gold label of the row.
    Label,
    /// Expert that the token went to; needs `--expert-layer`.
    Expert,
}

/// Arguments of `tcd analyze project`.
///
/// Examples:
///   tcd analyze project f/moe.safetensors --taps layer.3.trunk --label token-class --tokenizer m/tokenizer.json --out pca.json
///   tcd analyze project f/sst2.safetensors --rows cls --label label --method tsne --perplexity 30 --out tsne.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Project {
    /// Features file; `NAME=FILE` names the model.
    features: String,
    #[command(flatten)]
    sample: SampleArgs,
    /// The way to few dimensions.
    #[arg(long, value_enum, default_value_t = Method::Pca)]
    method: Method,
    /// Dimensions, 1 to 3.
    #[arg(long, default_value_t = 2, value_name = "N")]
    dims: usize,
    /// Effective number of neighbours of t-SNE; above 1, at most a third of the rows.
    #[arg(long, default_value_t = 30.0, value_name = "X")]
    perplexity: f64,
    /// Iterations of t-SNE.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    iterations: usize,
    /// Principal components that t-SNE starts from.
    #[arg(long, default_value_t = 50, value_name = "N")]
    components: usize,
    /// What the points are labelled by.
    #[arg(long, value_enum, default_value_t = LabelKind::Row)]
    label: LabelKind,
    /// The models' `tokenizer.json`, for token classes.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Layer whose experts label the points.
    #[arg(long, value_name = "LAYER")]
    expert_layer: Option<usize>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Project {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let named = open(&self.features)?;
        let rows = self.sample.rows_of(&named.file, Some(ROWS))?;
        let labels = self.labels(&rows)?;
        let projection = match self.method {
            Method::Pca => Projection::Pca,
            Method::Tsne => Projection::Tsne {
                perplexity: self.perplexity,
                iterations: self.iterations,
                components: self.components.max(1),
                seed: self.sample.seed,
            },
        };
        let track = Track::new("projection", "taps");
        let mut taps = Vec::new();
        for tap in 0..rows.taps().len() {
            taps.push(project(&rows, tap, self.dims, &projection)?);
            track.at(tap + 1, rows.taps().len());
        }
        drop(track);
        let kind = self
            .label
            .to_possible_value()
            .map(|v| v.get_name().replace('-', "_"))
            .unwrap_or_default();
        let info = self.sample.info(&rows, Some(ROWS));
        let result = ProjectionResult {
            provenance: provenance("projection 1", &[&named], Some(info)),
            projection,
            label_kind: kind,
            labels,
            taps,
        };
        let shares = |t: &tcd_analysis::projection::Projected| match &t.variance_share {
            Some(shares) => shares
                .iter()
                .map(|s| short(Some(*s)))
                .collect::<Vec<_>>()
                .join(" "),
            None => "-".to_owned(),
        };
        let lines: Vec<Vec<String>> = result
            .taps
            .iter()
            .map(|t| vec![short_tap(&t.tap), shares(t)])
            .collect();
        table(&["tap", "variance explained"], &lines);
        note(&format!("{} rows in {} dimensions", rows.len(), self.dims));
        self.output.write(&result, &[("", result.to_csv())])?;
        Ok(Outcome::Done)
    }

    fn labels(&self, rows: &FeatureRows) -> Result<Vec<String>> {
        let file = rows.file();
        let by_row = |values: Vec<String>| {
            (0..rows.len())
                .map(|i| values[rows.cluster(i)].clone())
                .collect()
        };
        let by_token = |of: &dyn Fn(usize) -> String| -> Result<Vec<String>> {
            if self.sample.rows == Rows::Mean {
                bail!(
                    "a mean over tokens has no label of one token\nhint: `--label row` or `--label label`"
                );
            }
            Ok((0..rows.len()).map(|i| of(rows.token(i))).collect())
        };
        match self.label {
            LabelKind::Row => Ok(by_row(
                file.rows().iter().map(|r| r.id.to_string()).collect(),
            )),
            LabelKind::Position => by_token(&|t| file.positions()[t].to_string()),
            LabelKind::TokenClass => {
                let Some(path) = &self.tokenizer else {
                    bail!("`--label token-class` needs `--tokenizer FILE`")
                };
                let words = vocabulary(path, std::slice::from_ref(&open(&self.features)?))?;
                by_token(&|t| words.class(file.input_ids()[t]).name().to_owned())
            }
            LabelKind::Label => {
                let names = &file.info().labels;
                let name = |v: f32| {
                    names
                        .get(v as usize)
                        .cloned()
                        .unwrap_or_else(|| v.to_string())
                };
                Ok(by_row(
                    file.floats("rows.label")?.into_iter().map(name).collect(),
                ))
            }
            LabelKind::Expert => {
                let Some(layer) = self.expert_layer else {
                    bail!("`--label expert` needs `--expert-layer LAYER`")
                };
                let experts = file.small_ints(&format!("expert.{layer}"))?;
                let each = experts.len() / file.tokens().max(1);
                by_token(&|t| experts[t * each].to_string())
            }
        }
    }
}
