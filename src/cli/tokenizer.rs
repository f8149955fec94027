//! `tcd tokenizer`: train a WordPiece vocabulary, or look at one.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;

use super::{Outcome, note, out};
use crate::data::text::{self, Documents, TextError};
use crate::data::tokenizer::Tokenizer as WordPiece;

/// Sub-commands of `tcd tokenizer`.
#[derive(Debug, Subcommand)]
pub enum Tokenizer {
    /// Train a WordPiece vocabulary on text files or folders (plain, .gz, .zst; blank-line separated, or .jsonl).
    Train(Train),
    /// Show how a tokenizer splits a text.
    Encode(Encode),
}

/// Arguments of `tcd tokenizer train`.
#[derive(Debug, Args)]
pub struct Train {
    /// Text files or folders.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where to write the `tokenizer.json`.
    #[arg(long, short)]
    out: PathBuf,
    /// Tokens in the vocabulary, special ones included.
    #[arg(long, default_value_t = 30522)]
    vocab_size: usize,
    /// A piece must occur this often.
    #[arg(long, default_value_t = 2)]
    min_frequency: u64,
    /// Keep upper case (as `bert-base-cased` does).
    #[arg(long)]
    cased: bool,
    /// Field of .jsonl files that holds the text.
    #[arg(long, default_value = "text")]
    text_field: String,
}

/// Arguments of `tcd tokenizer encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// `tokenizer.json`, `vocab.txt`, or a folder with either.
    tokenizer: PathBuf,
    /// Text to split.
    text: String,
}

impl Tokenizer {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Tokenizer::Train(train) => train.run(),
            Tokenizer::Encode(encode) => {
                let tokenizer = WordPiece::load(&encode.tokenizer)?;
                let ids = tokenizer.encode(&encode.text)?;
                let ids: Vec<String> = ids
                    .iter()
                    .map(|id| format!("{id}:{}", tokenizer.piece(*id)))
                    .collect();
                out(&ids.join(" "));
                Ok(Outcome::Done)
            }
        }
    }
}

impl Train {
    fn run(&self) -> Result<Outcome> {
        let files = text::files(&self.paths)?;
        let failed: Mutex<Option<TextError>> = Mutex::new(None);
        let spinner = ProgressBar::new_spinner()
            .with_message(format!("training a vocabulary on {} file(s)", files.len()));
        spinner.enable_steady_tick(Duration::from_millis(200));
        // A text that cannot be read ends the stream; the error is looked at afterwards.
        let texts = || {
            files
                .iter()
                .flat_map(|path| {
                    match Documents::open(path, &self.text_field, Default::default()) {
                        Ok(documents) => Box::new(documents)
                            as Box<dyn Iterator<Item = Result<String, TextError>> + Send>,
                        Err(e) => Box::new(std::iter::once(Err(e))),
                    }
                })
                .map_while(|document| match document {
                    Ok(text) => Some(text),
                    Err(e) => {
                        if let Ok(mut failed) = failed.lock() {
                            failed.get_or_insert(e);
                        }
                        None
                    }
                })
        };
        let trained = WordPiece::train(texts, self.vocab_size, self.min_frequency, !self.cased);
        spinner.finish_and_clear();
        if let Some(error) = failed.into_inner().ok().flatten() {
            return Err(error.into());
        }
        let tokenizer = trained?;
        super::write_atomically(&self.out, tokenizer.to_json().as_bytes())
            .context("cannot save the tokenizer")?;
        note(&format!(
            "{}: {} tokens, hash {:.12}",
            self.out.display(),
            tokenizer.vocab_size(),
            tokenizer.hash()
        ));
        if tokenizer.vocab_size() < self.vocab_size {
            note(&format!(
                "note: the text yields {} tokens, fewer than the {} asked for",
                tokenizer.vocab_size(),
                self.vocab_size
            ));
        }
        Ok(Outcome::Done)
    }
}
