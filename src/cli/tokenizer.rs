//! `tcd tokenizer`: train a WordPiece vocabulary, or look at a tokenizer.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Outcome, note, out};
use crate::data::tokenizer::Tokenizer as Vocabulary;
use crate::data::tokenizer::train::{self, Progress};

/// Sub-commands of `tcd tokenizer`.
#[derive(Debug, Subcommand)]
pub enum Tokenizer {
    /// Train a WordPiece vocabulary on text files or folders; writes `tokenizer.json` and `vocab.txt`.
    Train(Train),
    /// Show size, special tokens and hash of a tokenizer, and how it cuts a text.
    Show(Show),
}

/// Arguments of `tcd tokenizer train`.
#[derive(Debug, Args)]
pub struct Train {
    /// Text files or folders (plain, .gz, .zst, .jsonl).
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Tokens wanted, special ones included.
    #[arg(long, default_value_t = 30_522)]
    vocab_size: usize,
    /// Merge pairs that occur at least this often.
    #[arg(long, default_value_t = 2)]
    min_frequency: u64,
    /// Keep upper case and accents.
    #[arg(long)]
    cased: bool,
    /// The text field of JSON lines.
    #[arg(long, default_value = "text")]
    text_field: String,
}

/// Arguments of `tcd tokenizer show`.
#[derive(Debug, Args)]
pub struct Show {
    /// A `tokenizer.json`, a `vocab.txt`, or a folder that holds one.
    tokenizer: PathBuf,
    /// A text to cut into tokens.
    #[arg(long)]
    text: Option<String>,
}

impl Tokenizer {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Tokenizer::Train(c) => c.run(),
            Tokenizer::Show(c) => c.run(),
        }
    }
}

impl Train {
    fn run(&self) -> Result<Outcome> {
        let options = train::Options {
            vocab_size: self.vocab_size,
            min_frequency: self.min_frequency,
            lowercase: !self.cased,
            text_field: self.text_field.clone(),
        };
        let bar = byte_bar();
        let mut merging = false;
        let tokenizer = train::train(&self.inputs, &options, &mut |p| match p {
            Progress::Read(done, total) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Progress::Merge(done, total) => {
                if !std::mem::replace(&mut merging, true) {
                    bar.reset();
                    bar.set_length(total as u64);
                    if let Ok(style) = ProgressStyle::with_template(
                        "merging {wide_bar} {pos}/{len} tokens, {eta} left",
                    ) {
                        bar.set_style(style);
                    }
                }
                bar.set_position(done as u64);
            }
        });
        bar.finish_and_clear();
        let tokenizer = tokenizer?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot write `{}`", self.out.display()))?;
        tokenizer.save_vocab(&self.out.join("vocab.txt"))?;
        tokenizer.save(&self.out.join("tokenizer.json"))?;
        note(&format!(
            "{} tokens written: `{}`",
            tokenizer.vocab_size(),
            self.out.display()
        ));
        if tokenizer.vocab_size() < self.vocab_size {
            note(&format!(
                "the text has no more pairs that occur {} times",
                self.min_frequency
            ));
        }
        Ok(Outcome::Done)
    }
}

impl Show {
    fn run(&self) -> Result<Outcome> {
        let t = Vocabulary::load(&self.tokenizer)?;
        let s = t.special();
        out(&format!("file: {}", t.path().display()));
        out(&format!("tokens: {}", t.vocab_size()));
        out(&format!(
            "special: pad {}, unk {}, cls {}, sep {}, mask {}",
            s.pad, s.unk, s.cls, s.sep, s.mask
        ));
        out(&format!("hash: {}", t.hash()));
        if let Some(text) = &self.text {
            let tokens: Vec<_> = t
                .encode(text)?
                .iter()
                .map(|&id| t.token(id).unwrap_or_default())
                .collect();
            out(&format!("text: {}", tokens.join(" ")));
        }
        Ok(Outcome::Done)
    }
}

/// A bar over bytes, with rate and time left.
pub(super) fn byte_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message("reading");
    bar
}
