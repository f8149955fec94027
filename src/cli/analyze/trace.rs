//! `tcd analyze trace`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use tcd_analysis::RowSpan;
use tcd_analysis::tokens::Vocabulary;
use tcd_analysis::trace::{LayerTrace, RowTrace, TraceResult};

use super::common::{Named, OutputArgs, open_all, provenance, short, table, vocabulary};
use super::routing::experts_of;
use crate::cli::Outcome;

/// Arguments of `tcd analyze trace`.
///
/// Example:
///   tcd features --model m --routing --out f/m.safetensors sentences.txt
///   tcd analyze trace moe=f/m.safetensors --tokenizer m/tokenizer.json --row 0 --row 5 --out trace.json
///   tcd plot sentence trace.json --out sentence.svg
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Trace {
    /// Features files of mixtures of experts; `NAME=FILE` names the model.
    #[arg(required = true, value_name = "FEATURES")]
    features: Vec<String>,
    /// The models' `tokenizer.json`: how tokens are written.
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Row numbers of the data, counted from 0; may be given several times. The first row of the file where none is given.
    #[arg(long, value_name = "N")]
    row: Vec<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Trace {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let named = open_all(&self.features)?;
        let words = vocabulary(&self.tokenizer, &named)?;
        let mut rows = Vec::new();
        for n in &named {
            if n.file.routed_layers().is_empty() {
                bail!(
                    "no routing in {}\nhint: only mixtures of experts have it; `tcd features --routing` writes it",
                    n.file.path().display()
                );
            }
            let spans: Vec<&RowSpan> = match self.row.as_slice() {
                [] => n.file.rows().first().into_iter().collect(),
                wanted => wanted
                    .iter()
                    .map(|id| span(n, *id))
                    .collect::<Result<_>>()?,
            };
            for span in spans {
                rows.push(row(n, span, &words)?);
            }
        }
        let result = TraceResult {
            provenance: provenance("trace 1", &named.iter().collect::<Vec<_>>(), None),
            rows,
        };
        let lines: Vec<Vec<String>> = result
            .rows
            .iter()
            .map(|r| {
                let experts: Vec<usize> = r
                    .layers
                    .iter()
                    .map(|l| {
                        let mut used = l.experts.clone();
                        used.sort_unstable();
                        used.dedup();
                        used.len()
                    })
                    .collect();
                let used: Vec<String> = experts.iter().map(usize::to_string).collect();
                vec![
                    r.model.clone(),
                    r.row.to_string(),
                    r.tokens.len().to_string(),
                    used.join(" "),
                    short(r.run_share()),
                ]
            })
            .collect();
        table(
            &[
                "model",
                "row",
                "tokens",
                "experts used by layer",
                "neighbours together",
            ],
            &lines,
        );
        self.output.write(&result, &[("", result.to_csv())])?;
        Ok(Outcome::Done)
    }
}

fn span(named: &Named, id: u32) -> Result<&RowSpan> {
    let found = named.file.rows().iter().find(|span| span.id == id);
    found.with_context(|| {
        let ids = named.file.rows().iter().map(|span| span.id);
        format!(
            "no row {id} in {}\nhint: it has {} rows, {} to {}",
            named.file.path().display(),
            named.file.rows().len(),
            ids.clone().min().unwrap_or(0),
            ids.max().unwrap_or(0)
        )
    })
}

fn row(named: &Named, span: &RowSpan, words: &Vocabulary) -> Result<RowTrace> {
    let file = &named.file;
    let num_experts = file.info().num_experts.unwrap_or(0);
    let tokens = file.input_ids()[span.tokens.clone()]
        .iter()
        .map(|id| {
            words
                .token(*id)
                .map_or_else(|| format!("#{id}"), str::to_owned)
        })
        .collect();
    let mut layers = Vec::new();
    for layer in file.routed_layers() {
        let chosen = experts_of(named, layer, num_experts)?;
        let each = (chosen.len() / file.tokens().max(1)).max(1);
        let name = format!("gate.{layer}");
        let gates = match file.has(&name) {
            true => file.floats(&name)?,
            false => Vec::new(),
        };
        layers.push(LayerTrace {
            layer,
            experts: span.tokens.clone().map(|t| chosen[t * each]).collect(),
            gates: span
                .tokens
                .clone()
                .filter_map(|t| gates.get(t * each).map(|g| f64::from(*g)))
                .collect(),
        });
    }
    Ok(RowTrace {
        model: named.name.clone(),
        num_experts,
        row: span.id,
        tokens,
        layers,
    })
}
