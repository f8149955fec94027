//! `tcd corpus`: turn text into token shards, look at a corpus.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::tokenizer::byte_bar;
use super::{Outcome, note, out};
use crate::data::corpus::build::{self, Built, Progress, build};
use crate::data::corpus::{self, Manifest, Packing, Settings, Split, SplitInfo};
use crate::data::tokenizer::Tokenizer;
use crate::files::write_whole;

/// Sub-commands of `tcd corpus`.
#[derive(Debug, Subcommand)]
pub enum Corpus {
    /// Turn text files or folders into memory-mapped token shards.
    Build(Build),
    /// Show what a corpus holds.
    Show(Show),
    /// Write held-out rows of a corpus as text, a row a line, for `tcd features` and `tcd parity`.
    Sample(Sample),
}

/// Arguments of `tcd corpus build`.
#[derive(Debug, Args)]
pub struct Build {
    /// Text files or folders (plain, .gz, .zst: documents between blank lines; .jsonl: one a line).
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// A `tokenizer.json`, a `vocab.txt`, or a folder that holds one.
    #[arg(long)]
    tokenizer: PathBuf,
    /// The corpus folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Tokens a row, special ones included.
    #[arg(long, default_value_t = Settings::default().sequence_length)]
    sequence_length: usize,
    /// How documents become rows: running on in full rows, or one document a row.
    #[arg(long, value_enum, default_value_t = Settings::default().packing)]
    packing: Packing,
    /// Share of the documents held out for measuring.
    #[arg(long, default_value_t = Settings::default().held_out)]
    held_out: f64,
    /// Seed of the held-out choice.
    #[arg(long, default_value_t = Settings::default().seed)]
    seed: u64,
    /// The text field of JSON lines.
    #[arg(long, default_value_t = Settings::default().text_field)]
    text_field: String,
    /// Threads that tokenize; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Build even if nothing changed.
    #[arg(long)]
    force: bool,
}

/// Arguments of `tcd corpus show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The corpus folder.
    corpus: PathBuf,
    /// Print this many rows of each part as text.
    #[arg(long, default_value_t = 0)]
    rows: usize,
    /// Compare the shards with their hashes.
    #[arg(long)]
    verify: bool,
}

/// Arguments of `tcd corpus sample`.
///
/// The rows are spread evenly over the held-out part. Special tokens are left out; the text is that of the tokens, so that the
/// same tokenizer cuts it alike.
#[derive(Debug, Args)]
pub struct Sample {
    /// The corpus folder.
    corpus: PathBuf,
    /// So many rows, or all where there are fewer.
    #[arg(long, default_value_t = 300, value_name = "N")]
    rows: usize,
    /// The text file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Corpus {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Corpus::Build(c) => c.run(),
            Corpus::Show(c) => c.run(),
            Corpus::Sample(c) => c.run(),
        }
    }
}

impl Build {
    fn run(&self) -> Result<Outcome> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let options = build::Options {
            inputs: self.inputs.clone(),
            out: self.out.clone(),
            settings: Settings {
                sequence_length: self.sequence_length,
                packing: self.packing,
                held_out: self.held_out,
                seed: self.seed,
                text_field: self.text_field.clone(),
                ..Settings::default()
            },
            threads: self.threads,
            force: self.force,
        };
        let bar = byte_bar();
        let start = std::time::Instant::now();
        let built = build(&options, &tokenizer, &mut |p| {
            let (message, done, total) = match p {
                Progress::Hash(done, total) => ("hashing", done, total),
                Progress::Read(done, total) => ("tokenizing", done, total),
            };
            bar.set_message(message);
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        match built? {
            Built::UpToDate(_) => note(&format!("up to date: `{}`", self.out.display())),
            Built::Written(manifest) => {
                let seconds = start.elapsed().as_secs_f64();
                let tokens = manifest.train.tokens + manifest.held_out.tokens;
                summary(&manifest).iter().for_each(|line| note(line));
                note(&format!(
                    "written in {seconds:.1} s ({:.0} thousand tokens/s): `{}`",
                    tokens as f64 / seconds / 1e3,
                    self.out.display()
                ));
                if manifest.held_out.rows == 0 && self.held_out > 0.0 {
                    note(
                        "warning: no document was held out: hint: raise `--held-out` or give more documents",
                    );
                }
            }
        }
        Ok(Outcome::Done)
    }
}

impl Show {
    fn run(&self) -> Result<Outcome> {
        let corpus = corpus::Corpus::open(&self.corpus)?;
        summary(corpus.manifest()).iter().for_each(|line| out(line));
        if self.verify {
            corpus.verify()?;
            out("shards: equal to their hashes");
        }
        if self.rows == 0 {
            return Ok(Outcome::Done);
        }
        let tokenizer = corpus.tokenizer()?;
        let mut row = Vec::new();
        for split in [Split::Train, Split::HeldOut] {
            let rows = corpus.split(split);
            for index in 0..rows.len().min(self.rows) {
                rows.row(index, &mut row)?;
                out(&format!(
                    "{} {index}: {}",
                    split.name(),
                    tokenizer.decode(&row)?
                ));
            }
        }
        Ok(Outcome::Done)
    }
}

impl Sample {
    fn run(&self) -> Result<Outcome> {
        let corpus = corpus::Corpus::open(&self.corpus)?;
        let tokenizer = corpus.tokenizer()?;
        let special = tokenizer.special().ids();
        let rows = corpus.split(Split::HeldOut);
        let count = self.rows.min(rows.len());
        if count == 0 {
            bail!(
                "no rows to take of {} held-out ones in `{}`; hint: build the corpus with a larger `--held-out`",
                rows.len(),
                self.corpus.display()
            );
        }
        let (mut text, mut row) = (String::new(), Vec::new());
        for i in 0..count {
            rows.row(i * rows.len() / count, &mut row)?;
            row.retain(|id| !special.contains(id));
            let line = tokenizer.decode(&row)?;
            text.push_str(line.trim());
            text.push('\n');
        }
        if let Some(folder) = self.out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        write_whole(&self.out, text.as_bytes())
            .with_context(|| format!("cannot write `{}`", self.out.display()))?;
        note(&format!("{count} held-out rows: `{}`", self.out.display()));
        Ok(Outcome::Done)
    }
}

fn summary(manifest: &Manifest) -> Vec<String> {
    let s = &manifest.settings;
    let bytes: u64 = manifest.inputs.iter().map(|i| i.bytes).sum();
    let part = |name: &str, p: &SplitInfo| {
        let unknown = 100.0 * p.unknown_tokens as f64 / p.tokens.max(1) as f64;
        format!(
            "{name}: {} documents, {} tokens ({unknown:.3} % unknown), {} rows, {} files",
            p.documents,
            p.tokens,
            p.rows,
            p.shards.len()
        )
    };
    vec![
        format!("inputs: {} files, {bytes} bytes", manifest.inputs.len()),
        format!(
            "tokenizer: {} tokens, hash {}",
            manifest.vocab_size, manifest.tokenizer_hash
        ),
        format!(
            "rows: {} tokens, packing {}, held out {}, seed {}",
            s.sequence_length,
            format!("{:?}", s.packing).to_lowercase(),
            s.held_out,
            s.seed
        ),
        part("train", &manifest.train),
        part("held out", &manifest.held_out),
    ]
}
