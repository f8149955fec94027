//! `tcd analyze likelihood`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use tcd_analysis::likelihood::{LikelihoodResult, MaskedToken, likelihood};
use tcd_analysis::tokens::Vocabulary;
use tcd_analysis::transfer::Bootstrap;

use super::common::{Named, OutputArgs, open, provenance, short, table, vocabulary};
use crate::cli::Outcome;

/// Arguments of `tcd analyze likelihood`.
///
/// Files hold `masked`, `original_ids` and `log_likelihood` (see `tcd features`). Files of one data file are one corpus; the first file of a
/// corpus is the model that the others are set against, token by token.
///
/// Example:
///   tcd analyze likelihood moe=f/moe-bio.safetensors distilled=f/distilled-bio.safetensors \
///     moe=f/moe-speeches.safetensors distilled=f/distilled-speeches.safetensors --tokenizer m/tokenizer.json --out ood.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Likelihood {
    /// Features files; `NAME=FILE` names the model.
    #[arg(required = true, value_name = "FEATURES")]
    features: Vec<String>,
    /// The models' `tokenizer.json`, for the classes of tokens.
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Draws of the bootstrap over rows.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    draws: usize,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    output: OutputArgs,
}

impl Likelihood {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let files: Vec<Named> = self
            .features
            .iter()
            .map(|f| open(f))
            .collect::<Result<_>>()?;
        let words = vocabulary(&self.tokenizer, &files)?;
        let bootstrap = Bootstrap {
            draws: self.draws,
            seed: self.seed,
            ..Bootstrap::default()
        };
        let mut corpora: Vec<(String, Vec<&Named>)> = Vec::new();
        for named in &files {
            let hash = &named.file.info().data_blake3;
            match corpora
                .iter_mut()
                .find(|(_, of)| of[0].file.info().data_blake3 == *hash)
            {
                Some((_, of)) => of.push(named),
                None => corpora.push((corpus_name(&named.file.info().data), vec![named])),
            }
        }
        let mut cells = Vec::new();
        for (corpus, of) in &corpora {
            let models = of
                .iter()
                .map(|n| Ok((n.name.clone(), tokens(n, &words)?)))
                .collect::<Result<Vec<_>>>()?;
            cells.extend(likelihood(corpus, &models, &bootstrap)?);
        }
        let files: Vec<_> = files.iter().collect();
        let result = LikelihoodResult {
            provenance: provenance("likelihood 1", &files, None),
            bootstrap,
            cells,
        };
        let lines: Vec<Vec<String>> = result
            .cells
            .iter()
            .filter(|c| c.tokens > 0)
            .map(|c| {
                let range = c
                    .interval
                    .map_or_else(|| "-".to_owned(), |[l, h]| format!("{l:.4}..{h:.4}"));
                let numbers = [short(c.log_likelihood), range, short(c.difference)];
                [
                    vec![
                        c.corpus.clone(),
                        c.model.clone(),
                        c.class.clone(),
                        c.tokens.to_string(),
                    ],
                    numbers.to_vec(),
                ]
                .concat()
            })
            .collect();
        table(
            &[
                "corpus",
                "model",
                "class",
                "tokens",
                "nats a token",
                "interval",
                "difference",
            ],
            &lines,
        );
        self.output.write(&result, &[("", result.to_csv())])?;
        Ok(Outcome::Done)
    }
}

fn corpus_name(data: &str) -> String {
    Path::new(data)
        .file_stem()
        .map_or_else(|| data.to_owned(), |s| s.to_string_lossy().into_owned())
}

fn tokens(named: &Named, words: &Vocabulary) -> Result<Vec<MaskedToken>> {
    let file = &named.file;
    let (values, masked, ids) = (
        file.floats("log_likelihood")?,
        file.small_ints("masked")?,
        file.small_ints("original_ids")?,
    );
    let mut found = Vec::new();
    for span in file.rows() {
        for t in span.tokens.clone().filter(|&t| masked[t] == 1) {
            if !values[t].is_finite() {
                bail!(
                    "{}: `log_likelihood` [{t}] is not finite: {}",
                    file.path().display(),
                    values[t]
                );
            }
            found.push(MaskedToken {
                row: span.id,
                class: words.class(ids[t]),
                log_likelihood: f64::from(values[t]),
            });
        }
    }
    Ok(found)
}
