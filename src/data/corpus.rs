//! A corpus: token shards in one folder, memory-mapped.
//!
//! The folder holds `manifest.json`, `tokenizer.json` and shards `train-00000.bin`, `heldout-00000.bin`, ... A shard is rows
//! of `sequence_length` little-endian ids, `u16` where the vocabulary fits and `u32` otherwise, filled up with the padding
//! id, and nothing else: any tool can map it. [`build`] writes a corpus, [`Corpus::open`] reads one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use thiserror::Error;

use super::text::TextError;
use super::tokenizer::{Tokenizer, TokenizerError};

pub mod build;
pub mod manifest;
mod pack;

pub use manifest::{Manifest, Packing, Settings, Shard, SplitInfo};

/// The name of the manifest in a corpus folder.
pub const MANIFEST: &str = "manifest.json";
/// The name of the tokenizer in a corpus folder.
pub const TOKENIZER: &str = "tokenizer.json";

/// Why a corpus cannot be built or read.
#[derive(Debug, Error)]
pub enum CorpusError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a corpus folder.
    #[error("no corpus in `{}`: `{MANIFEST}` not found: hint: build one with `tcd corpus build`", path.display())]
    NotFound {
        /// The folder.
        path: PathBuf,
    },
    /// A manifest that cannot be understood.
    #[error("malformed manifest `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// Parts of a corpus that contradict each other.
    #[error("damaged corpus: `{}`: {what}: expected {expected}, got {got}: hint: rebuild it with `tcd corpus build --force`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is compared.
        what: &'static str,
        /// As the manifest has it.
        expected: String,
        /// As it is.
        got: String,
    },
    /// A corpus of another vocabulary.
    #[error(
        "vocabulary does not match the shards: `{}` has hash {shards}, `{}` has hash {tokenizer}: hint: build the corpus with this tokenizer",
        manifest.display(),
        file.display()
    )]
    Vocabulary {
        /// The manifest.
        manifest: PathBuf,
        /// The tokenizer hash in the manifest.
        shards: String,
        /// The tokenizer's file.
        file: PathBuf,
        /// Its hash.
        tokenizer: String,
    },
    /// Input without a document, or none for training.
    #[error("empty corpus: {what} in {inputs}: hint: {hint}")]
    Empty {
        /// What is missing.
        what: &'static str,
        /// The inputs.
        inputs: String,
        /// What to do.
        hint: &'static str,
    },
    /// A setting out of range.
    #[error("`{name}` must be {expected}: {got}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// An output folder that holds something else.
    #[error("`{}` exists and is not a corpus: hint: choose another folder for `--out`", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Another process builds into the same folder.
    #[error("`{}` is being written by another process: hint: wait for it, or choose another folder for `--out`", path.display())]
    Busy {
        /// The temporary folder.
        path: PathBuf,
    },
    /// Input text that cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A tokenizer that fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// The two parts of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For measuring the log-likelihood.
    HeldOut,
}

impl Split {
    /// How the names of its shards begin.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOut => "heldout",
        }
    }
}

/// An open corpus. Clones share the mapped files.
#[derive(Clone, Debug)]
pub struct Corpus {
    dir: PathBuf,
    manifest: Arc<Manifest>,
    train: Rows,
    held_out: Rows,
}

impl Corpus {
    /// Opens the corpus in `dir`: reads the manifest, maps the shards, compares sizes and the range of ids. Contents are
    /// compared by [`Corpus::verify`].
    pub fn open(dir: &Path) -> Result<Corpus, CorpusError> {
        let manifest = Manifest::read(dir)?;
        let train = Rows::open(dir, &manifest, &manifest.train)?;
        let held_out = Rows::open(dir, &manifest, &manifest.held_out)?;
        Ok(Corpus {
            dir: dir.to_owned(),
            manifest: Arc::new(manifest),
            train,
            held_out,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the corpus was made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The rows of a part.
    pub fn split(&self, split: Split) -> &Rows {
        match split {
            Split::Train => &self.train,
            Split::HeldOut => &self.held_out,
        }
    }

    /// The tokenizer stored with the corpus.
    pub fn tokenizer(&self) -> Result<Tokenizer, CorpusError> {
        let tokenizer = Tokenizer::load(&self.dir.join(TOKENIZER))?;
        self.check_tokenizer(&tokenizer)?;
        Ok(tokenizer)
    }

    /// Refuses a tokenizer other than the one the shards were made with.
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<(), CorpusError> {
        if self.manifest.tokenizer_hash == tokenizer.hash() {
            return Ok(());
        }
        Err(CorpusError::Vocabulary {
            manifest: self.dir.join(MANIFEST),
            shards: self.manifest.tokenizer_hash.clone(),
            file: tokenizer.path().to_owned(),
            tokenizer: tokenizer.hash().to_owned(),
        })
    }

    /// Compares the contents of every shard with the manifest's hashes.
    pub fn verify(&self) -> Result<(), CorpusError> {
        for shard in self
            .manifest
            .train
            .shards
            .iter()
            .chain(&self.manifest.held_out.shards)
        {
            let path = self.dir.join(&shard.file);
            let got = manifest::hash_file(&path)?;
            if got != shard.blake3 {
                return Err(CorpusError::Damaged {
                    path,
                    what: "blake3",
                    expected: shard.blake3.clone(),
                    got,
                });
            }
        }
        Ok(())
    }
}

/// The rows of one part of a corpus. Clones share the mapped files.
#[derive(Clone, Debug)]
pub struct Rows {
    shards: Arc<Vec<MappedShard>>,
    len: usize,
    sequence_length: usize,
    id_bytes: usize,
    vocab_size: usize,
}

#[derive(Debug)]
struct MappedShard {
    path: PathBuf,
    /// The index of its first row.
    first: usize,
    rows: usize,
    /// `None` for a shard without rows, which cannot be mapped.
    map: Option<Mmap>,
}

impl Rows {
    fn open(dir: &Path, manifest: &Manifest, split: &SplitInfo) -> Result<Rows, CorpusError> {
        let damaged = |path: &Path, what, expected: String, got: String| CorpusError::Damaged {
            path: path.to_owned(),
            what,
            expected,
            got,
        };
        let (length, id_bytes) = (manifest.settings.sequence_length, manifest.id_bytes());
        if split.rows > 0 && split.max_id as usize >= manifest.vocab_size {
            let expected = format!("less than the vocabulary size {}", manifest.vocab_size);
            return Err(damaged(
                &dir.join(MANIFEST),
                "largest token id",
                expected,
                split.max_id.to_string(),
            ));
        }
        let mut shards = Vec::new();
        let mut first: usize = 0;
        for shard in &split.shards {
            let path = dir.join(&shard.file);
            let io = |source| CorpusError::Io {
                action: "read",
                path: path.clone(),
                source,
            };
            let file = std::fs::File::open(&path).map_err(io)?;
            let bytes = file.metadata().map_err(io)?.len();
            let expected = (shard.rows as u64).saturating_mul((length * id_bytes) as u64);
            if bytes != expected || shard.bytes != expected {
                return Err(damaged(
                    &path,
                    "bytes",
                    expected.to_string(),
                    bytes.to_string(),
                ));
            }
            // Safety: shards are written whole under another name and never changed in place, so the mapped bytes stay
            // as they are; a file cut by other hands is outside what a map can guard against.
            let map = if bytes > 0 {
                Some(unsafe { Mmap::map(&file) }.map_err(io)?)
            } else {
                None
            };
            shards.push(MappedShard {
                path,
                first,
                rows: shard.rows,
                map,
            });
            first += shard.rows;
        }
        if first as u64 != split.rows {
            return Err(damaged(
                &dir.join(MANIFEST),
                "rows",
                split.rows.to_string(),
                first.to_string(),
            ));
        }
        Ok(Rows {
            shards: Arc::new(shards),
            len: first,
            sequence_length: length,
            id_bytes,
            vocab_size: manifest.vocab_size,
        })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ids a row, padding included.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Puts row `index` into `row`, padding included. An id outside the vocabulary is an error.
    ///
    /// # Panics
    /// If `index` is not less than [`Rows::len`].
    pub fn row(&self, index: usize, row: &mut Vec<u32>) -> Result<(), CorpusError> {
        assert!(index < self.len, "row {index} of {}", self.len);
        let shard = &self.shards[self.shards.partition_point(|s| s.first + s.rows <= index)];
        let width = self.sequence_length * self.id_bytes;
        let start = (index - shard.first) * width;
        let bytes = &shard.map.as_deref().unwrap_or_default()[start..start + width];
        row.clear();
        if self.id_bytes == 2 {
            row.extend(
                bytes
                    .chunks_exact(2)
                    .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))),
            );
        } else {
            row.extend(
                bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            );
        }
        match row.iter().find(|&&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(id) => Err(CorpusError::Damaged {
                path: shard.path.clone(),
                what: "token id",
                expected: format!("less than the vocabulary size {}", self.vocab_size),
                got: id.to_string(),
            }),
        }
    }
}
