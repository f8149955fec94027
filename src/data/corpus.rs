//! Token shards: a corpus as fixed-length rows of token ids, memory-mapped.
//!
//! A corpus directory holds `manifest.json` and, for each split, shards of rows (`train-00000.bin`, ..): little-endian u16
//! ids, u32 where the vocabulary needs it, padded with `[PAD]` to the sequence length. It is written beside its place and
//! renamed when whole. Building needs memory for one chunk of text, whatever the corpus; the result does not depend on the
//! number of threads.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::text::{self, Documents, TextError};
use super::tokenizer::{Tokenizer, TokenizerError};

/// Version of the format; another version is built anew.
const FORMAT: u32 = 1;

/// Text tokenized at a time, in bytes.
const CHUNK: usize = 8 << 20;

/// Size at which a new shard begins, in bytes.
const SHARD: u64 = 256 << 20;

/// Why a corpus could not be built or read.
#[derive(Debug, Error)]
pub enum CorpusError {
    /// The text cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The system refused.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// There was no text.
    #[error(
        "the corpus is empty: no document in {files} file(s); hint: documents are separated by blank lines"
    )]
    Empty {
        /// Files read.
        files: usize,
    },
    /// A split got no row.
    #[error("the {split} split of `{}` holds no row; hint: {hint}", path.display())]
    EmptySplit {
        /// Which.
        split: &'static str,
        /// Corpus.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// Settings that cannot be.
    #[error("{problem}")]
    Settings {
        /// What is wrong.
        problem: String,
    },
    /// The directory is not a corpus, or a part of it is cut off.
    #[error("`{}` is not a complete corpus: {problem}; hint: run `tcd corpus build` again", path.display())]
    Malformed {
        /// File or directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The shards were made with another vocabulary.
    #[error(
        "the vocabulary does not match the shards: `{}` was built with tokenizer {expected:.12}, this one is {got:.12}; hint: build the corpus with this tokenizer, or name the one it was built with",
        path.display()
    )]
    Vocabulary {
        /// Corpus.
        path: PathBuf,
        /// Hash in the manifest.
        expected: String,
        /// Hash of the tokenizer at hand.
        got: String,
    },
}

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Rows are full: `[CLS]`, tokens of one document after the other with `[SEP]` between, `[SEP]`. The last row of a split is
    /// padded.
    Full,
    /// A row holds one document, a long one several rows; the rest is padding.
    Document,
}

/// What decides on the rows, apart from text and tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusSettings {
    /// Tokens in a row, special ones included, S.
    pub sequence_length: usize,
    /// How documents become rows.
    pub packing: Packing,
    /// Share of documents held out, in [0, 1).
    pub held_out: f64,
    /// Seed of the split.
    pub seed: u64,
    /// Field of JSONL files that holds the text.
    pub text_field: String,
}

/// A file that went in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Path as it was given or found.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 hash, hex.
    pub hash: String,
}

/// A shard file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// File name in the corpus directory.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
    /// blake3 hash, hex.
    pub hash: String,
}

/// What a split holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// Documents.
    pub documents: u64,
    /// Tokens of text, special ones left out.
    pub tokens: u64,
    /// Of these, `[UNK]`.
    pub unknown: u64,
    /// Rows.
    pub rows: u64,
    /// Files.
    pub shards: Vec<Shard>,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Hash of inputs, tokenizer and settings: equal keys, equal shards.
    pub key: String,
    /// Hash of the tokenizer.
    pub tokenizer_hash: String,
    /// Number of ids.
    pub vocab_size: usize,
    /// Bytes of an id in the shards: 2 or 4.
    pub id_bytes: usize,
    /// Id of `[PAD]`.
    pub pad_token_id: u32,
    /// Settings.
    pub settings: CorpusSettings,
    /// Text files.
    pub inputs: Vec<Input>,
    /// Rows to train on.
    pub train: SplitSummary,
    /// Rows held out.
    pub held_out: SplitSummary,
}

/// Whether a build had anything to do.
#[derive(Debug)]
pub enum Built {
    /// The directory holds this corpus already.
    UpToDate(Manifest),
    /// It was written.
    Written(Manifest),
}

/// Work done so far, for a progress display: bytes of input read, and how many there are.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes read.
    pub done: Arc<AtomicU64>,
    /// Bytes in all inputs.
    pub total: Arc<AtomicU64>,
}

impl CorpusSettings {
    fn check(&self) -> Result<(), CorpusError> {
        let problem = if self.sequence_length < 3 || self.sequence_length > 1 << 16 {
            format!(
                "`sequence-length` must lie in 3..=65536: {}",
                self.sequence_length
            )
        } else if !(self.held_out >= 0.0 && self.held_out < 1.0) {
            format!("`held-out` must lie in [0, 1): {}", self.held_out)
        } else {
            return Ok(());
        };
        Err(CorpusError::Settings { problem })
    }

    /// Whether a document is held out: by its text, so that repeats never cross the split and order does not matter.
    fn holds_out(&self, document: &str) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(document.as_bytes());
        let hash = hasher.finalize();
        let draw = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"));
        (draw as f64 / u64::MAX as f64) < self.held_out
    }
}

/// Builds a corpus in `out` from the files and folders `paths`; does nothing where `out` holds it already, unless `force`.
pub fn build(
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &CorpusSettings,
    out: &Path,
    force: bool,
    progress: &Progress,
) -> Result<Built, CorpusError> {
    settings.check()?;
    let files = text::files(paths)?;
    let mut inputs = Vec::with_capacity(files.len());
    for path in &files {
        let io = |source| CorpusError::Io {
            path: path.clone(),
            source,
        };
        let bytes = fs::metadata(path).map_err(io)?.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path).map_err(io)?;
        inputs.push(Input {
            path: path.clone(),
            bytes,
            hash: hasher.finalize().to_hex().to_string(),
        });
    }
    progress.total.store(
        inputs.iter().map(|i| i.bytes).sum(),
        std::sync::atomic::Ordering::Relaxed,
    );
    let key = key(&inputs, tokenizer, settings);
    if !force
        && let Ok(old) = Corpus::open(out)
        && old.manifest.key == key
    {
        return Ok(Built::UpToDate(old.manifest));
    }
    if out.exists()
        && !out.join("manifest.json").exists()
        && fs::read_dir(out).is_ok_and(|mut d| d.next().is_some())
    {
        return Err(CorpusError::Settings {
            problem: format!(
                "`{}` exists and is not a corpus; hint: name a new directory",
                out.display()
            ),
        });
    }

    let name = out
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let partial = out.with_file_name(format!(".{name}.partial"));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| CorpusError::Io { path, source }
    };
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io(&partial))?;
    }
    fs::create_dir_all(&partial).map_err(io(&partial))?;
    let result = (|| {
        let special = tokenizer.special();
        let id_bytes = if tokenizer.vocab_size() <= 1 << 16 {
            2
        } else {
            4
        };
        let writer = |split| RowWriter::new(&partial, split, id_bytes, settings, special);
        let (mut train, mut held_out) = (writer("train"), writer("heldout"));
        let mut chunk: Vec<String> = Vec::new();
        let mut size = 0usize;
        let mut flush = |chunk: &mut Vec<String>| -> Result<(), CorpusError> {
            let rows: Vec<(bool, Vec<u32>)> = chunk
                .par_iter()
                .map(|d| Ok((settings.holds_out(d), tokenizer.encode(d)?)))
                .collect::<Result<_, TokenizerError>>()?;
            for (out, ids) in rows {
                if out {
                    held_out.document(&ids)?
                } else {
                    train.document(&ids)?
                }
            }
            chunk.clear();
            Ok(())
        };
        for path in &files {
            for document in Documents::open(path, &settings.text_field, progress.done.clone())? {
                let document = document?;
                size += document.len();
                chunk.push(document);
                if size >= CHUNK {
                    flush(&mut chunk)?;
                    size = 0;
                }
            }
        }
        flush(&mut chunk)?;
        let (train, held_out) = (train.finish()?, held_out.finish()?);
        if train.documents + held_out.documents == 0 {
            return Err(CorpusError::Empty { files: files.len() });
        }
        if train.rows == 0 {
            let hint = "lower `--held-out`, or name more text";
            return Err(CorpusError::EmptySplit {
                split: "training",
                path: out.to_path_buf(),
                hint,
            });
        }
        let manifest = Manifest {
            format: FORMAT,
            key,
            tokenizer_hash: tokenizer.hash().to_string(),
            vocab_size: tokenizer.vocab_size(),
            id_bytes,
            pad_token_id: special.pad,
            settings: settings.clone(),
            inputs,
            train,
            held_out,
        };
        let json = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
        for (file, text) in [
            ("tokenizer.json", tokenizer.to_json()),
            ("manifest.json", json),
        ] {
            fs::write(partial.join(file), text).map_err(io(&partial.join(file)))?;
        }
        if out.exists() {
            fs::remove_dir_all(out).map_err(io(out))?;
        }
        fs::rename(&partial, out).map_err(io(out))?;
        Ok(Built::Written(manifest))
    })();
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

fn key(inputs: &[Input], tokenizer: &Tokenizer, settings: &CorpusSettings) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&FORMAT.to_le_bytes());
    for input in inputs {
        // The name decides how a file is read (.gz, .jsonl); where it lies does not matter.
        hasher.update(
            input
                .path
                .file_name()
                .unwrap_or_default()
                .as_encoded_bytes(),
        );
        hasher.update(input.hash.as_bytes());
    }
    hasher.update(tokenizer.hash().as_bytes());
    hasher.update(
        serde_json::to_string(settings)
            .expect("settings are plain data")
            .as_bytes(),
    );
    hasher.finalize().to_hex().to_string()
}

/// Packs documents into rows and writes them to shards.
struct RowWriter<'a> {
    dir: &'a Path,
    split: &'static str,
    id_bytes: usize,
    settings: &'a CorpusSettings,
    special: super::tokenizer::SpecialTokens,
    pending: Vec<u32>,
    file: Option<(BufWriter<File>, blake3::Hasher, PathBuf, u64)>,
    summary: SplitSummary,
}

impl<'a> RowWriter<'a> {
    fn new(
        dir: &'a Path,
        split: &'static str,
        id_bytes: usize,
        settings: &'a CorpusSettings,
        special: super::tokenizer::SpecialTokens,
    ) -> Self {
        RowWriter {
            dir,
            split,
            id_bytes,
            settings,
            special,
            pending: Vec::new(),
            file: None,
            summary: SplitSummary::default(),
        }
    }

    fn document(&mut self, ids: &[u32]) -> Result<(), CorpusError> {
        self.summary.documents += 1;
        self.summary.tokens += ids.len() as u64;
        self.summary.unknown += ids.iter().filter(|id| **id == self.special.unk).count() as u64;
        let room = self.settings.sequence_length - 2;
        match self.settings.packing {
            Packing::Document => ids.chunks(room).try_for_each(|part| self.row(part)),
            Packing::Full => {
                if !self.pending.is_empty() {
                    self.pending.push(self.special.sep);
                }
                self.pending.extend_from_slice(ids);
                let pending = std::mem::take(&mut self.pending);
                let parts = pending.chunks_exact(room);
                self.pending = parts.remainder().to_vec();
                parts.into_iter().try_for_each(|part| self.row(part))
            }
        }
    }

    fn row(&mut self, ids: &[u32]) -> Result<(), CorpusError> {
        let length = self.settings.sequence_length;
        let mut bytes = Vec::with_capacity(length * self.id_bytes);
        let row = std::iter::once(self.special.cls)
            .chain(ids.iter().copied())
            .chain([self.special.sep]);
        for id in row.chain(std::iter::repeat(self.special.pad)).take(length) {
            bytes.extend_from_slice(&id.to_le_bytes()[..self.id_bytes]);
        }
        if self
            .file
            .as_ref()
            .is_some_and(|(.., written)| written + bytes.len() as u64 > SHARD)
        {
            self.close()?;
        }
        if self.file.is_none() {
            let name = format!("{}-{:05}.bin", self.split, self.summary.shards.len());
            let path = self.dir.join(&name);
            let file = File::create(&path).map_err(|source| CorpusError::Io {
                path: path.clone(),
                source,
            })?;
            self.file = Some((
                BufWriter::with_capacity(1 << 20, file),
                blake3::Hasher::new(),
                path,
                0,
            ));
            self.summary.shards.push(Shard {
                file: name,
                rows: 0,
                hash: String::new(),
            });
        }
        if let (Some((file, hasher, path, written)), Some(shard)) =
            (&mut self.file, self.summary.shards.last_mut())
        {
            file.write_all(&bytes).map_err(|source| CorpusError::Io {
                path: path.clone(),
                source,
            })?;
            hasher.update(&bytes);
            *written += bytes.len() as u64;
            shard.rows += 1;
            self.summary.rows += 1;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), CorpusError> {
        if let Some((mut file, hasher, path, _)) = self.file.take() {
            file.flush()
                .and_then(|()| file.get_ref().sync_all())
                .map_err(|source| CorpusError::Io { path, source })?;
            if let Some(shard) = self.summary.shards.last_mut() {
                shard.hash = hasher.finalize().to_hex().to_string();
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<SplitSummary, CorpusError> {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.row(&rest)?;
        }
        self.close()?;
        Ok(self.summary)
    }
}

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// Held out.
    HeldOut,
}

/// The rows of one split, memory-mapped.
#[derive(Debug)]
pub struct Rows {
    maps: Vec<(usize, Mmap)>,
    rows: usize,
    sequence_length: usize,
    id_bytes: usize,
}

impl Rows {
    fn open(dir: &Path, manifest: &Manifest, summary: &SplitSummary) -> Result<Self, CorpusError> {
        let (sequence_length, id_bytes) = (manifest.settings.sequence_length, manifest.id_bytes);
        let mut maps = Vec::new();
        for shard in &summary.shards {
            let path = dir.join(&shard.file);
            let io = |source| CorpusError::Io {
                path: path.clone(),
                source,
            };
            let file = File::open(&path).map_err(io)?;
            let (got, expected) = (
                file.metadata().map_err(io)?.len(),
                (shard.rows * sequence_length * id_bytes) as u64,
            );
            if got != expected {
                return Err(CorpusError::Malformed {
                    path,
                    problem: format!("{got} bytes, expected {expected}"),
                });
            }
            // SAFETY: shards are only read, and replaced by renaming their directory.
            let map = unsafe { Mmap::map(&file) }.map_err(io)?;
            maps.push((shard.rows, map));
        }
        let rows = maps.iter().map(|(n, _)| n).sum();
        Ok(Rows {
            maps,
            rows,
            sequence_length,
            id_bytes,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Tokens in a row, S.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Token ids of row `index`, padding included, `[S]`.
    ///
    /// # Panics
    /// If `index` is not below `len()`.
    pub fn row(&self, mut index: usize) -> Vec<u32> {
        for (rows, map) in &self.maps {
            if index < *rows {
                let bytes = self.sequence_length * self.id_bytes;
                let bytes = &map[index * bytes..(index + 1) * bytes];
                return bytes
                    .chunks_exact(self.id_bytes)
                    .map(|b| {
                        b.iter()
                            .rev()
                            .fold(0u32, |id, byte| id << 8 | u32::from(*byte))
                    })
                    .collect();
            }
            index -= rows;
        }
        panic!("row {index} beyond the end of the split")
    }
}

/// A corpus directory, open for reading.
#[derive(Debug)]
pub struct Corpus {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    train: Rows,
    held_out: Rows,
}

impl Corpus {
    /// Opens a corpus; shards must have the size the manifest states.
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        let file = path.join("manifest.json");
        let text = fs::read_to_string(&file).map_err(|source| CorpusError::Io {
            path: file.clone(),
            source,
        })?;
        let malformed = |problem: String| CorpusError::Malformed {
            path: file.clone(),
            problem,
        };
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(malformed(format!(
                "format {}, expected {FORMAT}",
                manifest.format
            )));
        }
        if ![2, 4].contains(&manifest.id_bytes) || manifest.settings.check().is_err() {
            return Err(malformed("impossible settings".to_string()));
        }
        let train = Rows::open(path, &manifest, &manifest.train)?;
        let held_out = Rows::open(path, &manifest, &manifest.held_out)?;
        Ok(Corpus {
            path: path.to_path_buf(),
            manifest,
            train,
            held_out,
        })
    }

    /// The rows of a split.
    pub fn split(&self, split: Split) -> &Rows {
        match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        }
    }

    /// The tokenizer that lies beside the shards, checked to be theirs.
    pub fn tokenizer(&self) -> Result<Tokenizer, CorpusError> {
        let tokenizer = Tokenizer::load(&self.path.join("tokenizer.json"))?;
        self.check_tokenizer(&tokenizer)?;
        Ok(tokenizer)
    }

    /// Whether the shards were made with `tokenizer`.
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<(), CorpusError> {
        if tokenizer.hash() == self.manifest.tokenizer_hash {
            return Ok(());
        }
        Err(CorpusError::Vocabulary {
            path: self.path.clone(),
            expected: self.manifest.tokenizer_hash.clone(),
            got: tokenizer.hash().to_string(),
        })
    }

    /// Reads every shard and holds it against its hash.
    pub fn verify(&self) -> Result<(), CorpusError> {
        for shard in self
            .manifest
            .train
            .shards
            .iter()
            .chain(&self.manifest.held_out.shards)
        {
            let path = self.path.join(&shard.file);
            let mut hasher = blake3::Hasher::new();
            hasher
                .update_mmap_rayon(&path)
                .map_err(|source| CorpusError::Io {
                    path: path.clone(),
                    source,
                })?;
            if hasher.finalize().to_hex().as_str() != shard.hash {
                return Err(CorpusError::Malformed {
                    path,
                    problem: "its hash is not the manifest's".to_string(),
                });
            }
        }
        Ok(())
    }
}
