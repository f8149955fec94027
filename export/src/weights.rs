//! Strict reading of safetensors.
//!
//! Every tensor of the table must be there, in its shape, in f32, and nothing else may be: one error lists all that is wrong.
//! What Hugging Face BERT files are known to vary in is accepted and normalised first: names without the `bert.` prefix,
//! `LayerNorm.gamma`/`beta`, `position_ids`, decoder tensors that repeat tied ones, and a pooler or next-sentence head that the
//! wanted head does not use; what was left out is listed in [`Weights::dropped`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use thiserror::Error;

use crate::parameters::Parameter;

/// Problems listed in one message; the rest are counted.
const LISTED: usize = 20;

/// Why weights could not be read.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The system refused.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// Not a whole safetensors file.
    #[error("`{}` is not a complete safetensors file; hint: it may be cut off or altered, copy or train it again", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// What the format check says.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The tensors are not those of the architecture.
    #[error("`{}` does not hold the model its `config.json` describes: {}", path.display(), summary(problems))]
    Mismatch {
        /// File.
        path: PathBuf,
        /// One line for each tensor.
        problems: Vec<String>,
    },
}

fn summary(problems: &[String]) -> String {
    let mut text = problems
        .iter()
        .take(LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > LISTED {
        text.push_str(&format!("; and {} more", problems.len() - LISTED));
    }
    text
}

#[derive(Clone, Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// A memory-mapped safetensors file, its names normalised.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, Entry>,
    dropped: Vec<String>,
}

impl Weights {
    /// Maps the file and reads its header.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the file is only read; model files are replaced by renaming, never changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let malformed = |source| WeightsError::Malformed {
            path: path.to_path_buf(),
            source,
        };
        let parsed = SafeTensors::deserialize(&map).map_err(malformed)?;
        let base = map.as_ptr() as usize;
        let mut entries = BTreeMap::new();
        for (name, view) in parsed.tensors() {
            let start = view.data().as_ptr() as usize - base;
            let entry = Entry {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                start,
                end: start + view.data().len(),
            };
            entries.insert(name, entry);
        }
        drop(parsed);
        Ok(Weights {
            path: path.to_path_buf(),
            map,
            entries,
            dropped: Vec::new(),
        })
    }

    /// Brings Hugging Face variants to the names of the table. Whether the masked-LM decoder is a matrix of its own is the
    /// result: `true` where it is (untied).
    pub fn normalise(&mut self, wants_pooler: bool) -> bool {
        let prefixed = self.entries.keys().any(|n| n.starts_with("bert."));
        let mut entries = BTreeMap::new();
        for (name, entry) in std::mem::take(&mut self.entries) {
            let mut new = name.clone();
            if !prefixed
                && ["embeddings.", "encoder.", "pooler."]
                    .iter()
                    .any(|p| name.starts_with(p))
            {
                new = format!("bert.{name}");
            }
            for (old, current) in [
                (".LayerNorm.gamma", ".LayerNorm.weight"),
                (".LayerNorm.beta", ".LayerNorm.bias"),
            ] {
                if let Some(path) = new.strip_suffix(old) {
                    new = format!("{path}{current}");
                }
            }
            let unused = new == "bert.embeddings.position_ids"
                || new.starts_with("cls.seq_relationship.")
                || (!wants_pooler && new.starts_with("bert.pooler."));
            if unused {
                self.dropped.push(name);
            } else {
                entries.insert(new, entry);
            }
        }
        self.entries = entries;
        for (copy, original) in [
            ("cls.predictions.decoder.bias", "cls.predictions.bias"),
            (
                "cls.predictions.decoder.weight",
                "bert.embeddings.word_embeddings.weight",
            ),
        ] {
            let (Some(a), Some(b)) = (self.entries.get(copy), self.entries.get(original)) else {
                continue;
            };
            if a.dtype == b.dtype
                && a.shape == b.shape
                && self.map[a.start..a.end] == self.map[b.start..b.end]
            {
                self.entries.remove(copy);
                self.dropped.push(copy.to_string());
            }
        }
        self.entries.contains_key("cls.predictions.decoder.weight")
    }

    /// Holds the file against the table: missing, unexpected, mis-shaped and mis-typed tensors are one error.
    pub fn check(&self, table: &[Parameter]) -> Result<(), WeightsError> {
        let mut problems = Vec::new();
        let wanted: BTreeMap<&str, &Parameter> =
            table.iter().map(|p| (p.name.as_str(), p)).collect();
        for (name, parameter) in &wanted {
            match self.entries.get(*name) {
                None => problems.push(format!("missing `{name}` {:?}", parameter.shape)),
                Some(entry) => {
                    if entry.shape != parameter.shape {
                        problems.push(format!(
                            "`{name}` has shape {:?}, expected {:?}",
                            entry.shape, parameter.shape
                        ));
                    }
                    if entry.dtype != Dtype::F32 {
                        problems.push(format!("`{name}` has type {:?}, expected F32", entry.dtype));
                    }
                }
            }
        }
        for name in self
            .entries
            .keys()
            .filter(|n| !wanted.contains_key(n.as_str()))
        {
            problems.push(format!("unexpected `{name}`"));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(WeightsError::Mismatch {
                path: self.path.clone(),
                problems,
            })
        }
    }

    /// Values of one tensor, or `None` where it is absent or not f32.
    pub fn values(&self, name: &str) -> Option<Vec<f32>> {
        let entry = self.entries.get(name).filter(|e| e.dtype == Dtype::F32)?;
        let (chunks, _) = self.map[entry.start..entry.end].as_chunks::<4>();
        Some(chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Shape of one tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// Names that normalising left out.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }
}
