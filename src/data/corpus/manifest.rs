//! The manifest of a corpus: what it was made of, how, and what came out.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CorpusError, MANIFEST};
use crate::data::tokenizer::SpecialTokens;

/// The version of the format; a corpus of another one is rebuilt.
pub const FORMAT: u32 = 1;

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents run on, a `[SEP]` between them, cut into full rows (FULL-SENTENCES of RoBERTa).
    Full,
    /// A row holds one document; a longer one takes several rows.
    Document,
}

/// The settings that decide the shards' contents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Ids a row, special tokens included; at least 8.
    pub sequence_length: usize,
    /// How documents become rows.
    pub packing: Packing,
    /// Share of the documents held out, in [0, 1).
    pub held_out: f64,
    /// Seed of the split.
    pub seed: u64,
    /// The field read from JSON lines.
    pub text_field: String,
    /// Rows a shard, at least 1.
    pub rows_per_shard: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sequence_length: 128,
            packing: Packing::Full,
            held_out: 0.01,
            seed: 0,
            text_field: "text".to_owned(),
            rows_per_shard: 1 << 18,
        }
    }
}

impl Settings {
    /// Refuses settings out of range.
    pub fn validate(&self) -> Result<(), CorpusError> {
        let bad = |name, expected, got: String| {
            Err(CorpusError::Setting {
                name,
                expected,
                got,
            })
        };
        if !(8..=65_536).contains(&self.sequence_length) {
            return bad(
                "sequence-length",
                "in 8..=65536",
                self.sequence_length.to_string(),
            );
        }
        if !(self.held_out >= 0.0 && self.held_out < 1.0) {
            return bad("held-out", "in [0, 1)", self.held_out.to_string());
        }
        if self.rows_per_shard == 0 {
            return bad("rows-per-shard", "at least 1", "0".to_owned());
        }
        Ok(())
    }
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The path as given.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: String,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// The name in the corpus folder.
    pub file: String,
    /// Its rows.
    pub rows: usize,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: String,
}

/// What one part of the corpus holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitInfo {
    /// Documents.
    pub documents: u64,
    /// Tokens of their text, special tokens not counted.
    pub tokens: u64,
    /// Unknown ones among them.
    pub unknown_tokens: u64,
    /// Tokens left out because they do not fill a last row.
    pub dropped_tokens: u64,
    /// Rows.
    pub rows: u64,
    /// The largest id in a row.
    pub max_id: u32,
    /// The files, in order.
    pub shards: Vec<Shard>,
}

/// The content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The tokenizer's [`hash`](crate::data::tokenizer::Tokenizer::hash).
    pub tokenizer_hash: String,
    /// The tokenizer's vocabulary size.
    pub vocab_size: usize,
    /// The ids of the special tokens.
    pub special: SpecialTokens,
    /// How it was made.
    pub settings: Settings,
    /// What it was made of, in reading order.
    pub inputs: Vec<Input>,
    /// The training part.
    pub train: SplitInfo,
    /// The held-out part.
    pub held_out: SplitInfo,
}

impl Manifest {
    /// Bytes an id in the shards.
    pub fn id_bytes(&self) -> usize {
        id_bytes(self.vocab_size)
    }

    /// Reads the manifest of the corpus in `dir`.
    pub fn read(dir: &Path) -> Result<Manifest, CorpusError> {
        let path = dir.join(MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(CorpusError::NotFound {
                    path: dir.to_owned(),
                });
            }
            Err(source) => {
                return Err(CorpusError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|source| CorpusError::Malformed {
                path: path.clone(),
                source,
            })?;
        manifest.settings.validate()?;
        if manifest.format != FORMAT {
            return Err(CorpusError::Damaged {
                path,
                what: "format version",
                expected: FORMAT.to_string(),
                got: manifest.format.to_string(),
            });
        }
        Ok(manifest)
    }

    /// Whether a corpus of `other`'s inputs, tokenizer and settings would be this one. Sizes and hashes of the inputs count,
    /// their names do not, but their order does.
    pub fn same_origin(&self, other: &Manifest) -> bool {
        let inputs = |m: &Manifest| {
            m.inputs
                .iter()
                .map(|i| (i.bytes, i.blake3.clone()))
                .collect::<Vec<_>>()
        };
        self.format == other.format
            && self.tokenizer_hash == other.tokenizer_hash
            && self.settings == other.settings
            && inputs(self) == inputs(other)
    }
}

/// Bytes an id takes for a vocabulary of this size.
pub(super) fn id_bytes(vocab_size: usize) -> usize {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

/// The blake3 of a file, in hexadecimal.
pub(super) fn hash_file(path: &Path) -> Result<String, CorpusError> {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_mmap_rayon(path)
        .map_err(|source| CorpusError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
    Ok(hasher.finalize().to_hex().to_string())
}
