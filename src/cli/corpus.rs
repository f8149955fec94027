//! `tcd corpus`: turn text into token shards, or look at a corpus.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Outcome, note, out};
use crate::data::corpus::{self, Built, CorpusSettings, Manifest, Packing, Progress, Split};
use crate::data::tokenizer::Tokenizer;

/// Sub-commands of `tcd corpus`.
#[derive(Debug, Subcommand)]
pub enum Corpus {
    /// Turn text files or folders (plain, .gz, .zst; blank-line separated, or .jsonl) into token shards.
    ///
    /// Nothing is done where the directory holds the same corpus already: same text, tokenizer and settings.
    Build(Build),
    /// Show what a corpus holds.
    Show(Show),
}

/// `--packing`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PackingArg {
    /// Full rows, documents one after the other with [SEP] between.
    Full,
    /// One document a row (long ones several), the rest padding.
    Document,
}

/// Arguments of `tcd corpus build`.
#[derive(Debug, Args)]
pub struct Build {
    /// Text files or folders.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// `tokenizer.json`, `vocab.txt`, or a folder with either.
    #[arg(long, short)]
    tokenizer: PathBuf,
    /// Directory to write.
    #[arg(long, short)]
    out: PathBuf,
    /// Tokens in a row, special ones included.
    #[arg(long, default_value_t = 128)]
    sequence_length: usize,
    /// How documents become rows.
    #[arg(long, value_enum, default_value = "full")]
    packing: PackingArg,
    /// Share of documents held out.
    #[arg(long, default_value_t = 0.01)]
    held_out: f64,
    /// Seed of the split.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Field of .jsonl files that holds the text.
    #[arg(long, default_value = "text")]
    text_field: String,
    /// Build even where the directory is up to date.
    #[arg(long)]
    force: bool,
}

/// Arguments of `tcd corpus show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Corpus directory.
    corpus: PathBuf,
    /// Print the first rows of the training split as text.
    #[arg(long, default_value_t = 0)]
    rows: usize,
    /// Read every shard and hold it against its hash; exit code 2 where it differs.
    #[arg(long)]
    verify: bool,
}

impl Corpus {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Corpus::Build(build) => build.run(),
            Corpus::Show(show) => show.run(),
        }
    }
}

impl Build {
    fn run(&self) -> Result<Outcome> {
        let tokenizer = Tokenizer::load(&self.tokenizer).context("cannot load the tokenizer")?;
        let settings = CorpusSettings {
            sequence_length: self.sequence_length,
            packing: match self.packing {
                PackingArg::Full => Packing::Full,
                PackingArg::Document => Packing::Document,
            },
            held_out: self.held_out,
            seed: self.seed,
            text_field: self.text_field.clone(),
        };
        let progress = Progress::default();
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template(
            "{spinner} tokenizing [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
        )?);
        let start = Instant::now();
        let built = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                corpus::build(
                    &self.paths,
                    &tokenizer,
                    &settings,
                    &self.out,
                    self.force,
                    &progress,
                )
            });
            while !work.is_finished() {
                bar.set_length(progress.total.load(Ordering::Relaxed));
                bar.set_position(progress.done.load(Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(50));
            }
            work.join()
        });
        bar.finish_and_clear();
        match built.map_err(|_| anyhow::anyhow!("the build stopped on an error in this program"))? {
            Ok(Built::UpToDate(manifest)) => {
                note(&format!("{}: up to date", self.out.display()));
                describe(&manifest);
            }
            Ok(Built::Written(manifest)) => {
                let seconds = start.elapsed().as_secs_f64();
                let tokens = manifest.train.tokens + manifest.held_out.tokens;
                note(&format!(
                    "{}: written in {seconds:.1} s, {:.0} tokens/s",
                    self.out.display(),
                    tokens as f64 / seconds
                ));
                describe(&manifest);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Outcome::Done)
    }
}

fn describe(manifest: &Manifest) {
    for (name, split) in [("train", &manifest.train), ("held out", &manifest.held_out)] {
        let unknown = 100.0 * split.unknown as f64 / split.tokens.max(1) as f64;
        note(&format!(
            "  {name:9} {:>9} documents {:>12} tokens ({unknown:.3} % unknown) {:>9} rows of {}",
            split.documents, split.tokens, split.rows, manifest.settings.sequence_length
        ));
    }
}

impl Show {
    fn run(&self) -> Result<Outcome> {
        let corpus = corpus::Corpus::open(&self.corpus)?;
        out(&serde_json::to_string_pretty(&corpus.manifest)?);
        if self.verify {
            corpus.verify()?;
            note("every shard has the hash that the manifest states");
        }
        if self.rows > 0 {
            let tokenizer = corpus.tokenizer()?;
            let rows = corpus.split(Split::Train);
            for i in 0..self.rows.min(rows.len()) {
                out(&tokenizer.decode(&rows.row(i)));
            }
        }
        Ok(Outcome::Done)
    }
}
