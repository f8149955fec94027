//! Strict reading of `model.safetensors`, memory-mapped, against the table of parameters.
//!
//! [`Weights::open`] checks the file's structure, [`Weights::load`] its content: every parameter asked for must be
//! there, as f32 and in its shape, and nothing else may be. All tensors that offend are named in one error.
//!
//! The variants in which Hugging Face has written BERT are brought to one form first: names without the leading `bert.`,
//! layer norms named `gamma` and `beta`, the `position_ids` buffer, copies of tied decoder tensors, and heads that are not
//! wanted. What is left out on the way is listed in [`Loaded::dropped`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::parameters::{DECODER_BIAS, DECODER_WEIGHT, Parameter, WORD_EMBEDDINGS};

/// The copy of [`DECODER_BIAS`] that `transformers` writes beside an untied decoder, and computes with.
pub(crate) const DECODER_BIAS_COPY: &str = "cls.predictions.decoder.bias";
/// Buffers that old versions of `transformers` saved beside the parameters.
const BUFFERS: [&str; 2] = [
    "bert.embeddings.position_ids",
    "bert.embeddings.token_type_ids",
];
/// Heads: the start of their names. A head of which nothing is wanted is left out.
const HEADS: [&str; 4] = [
    "bert.pooler.",
    "cls.seq_relationship.",
    "cls.predictions.",
    "classifier.",
];
/// Offences named in one message; the rest is counted.
const LISTED: usize = 20;

/// An open safetensors file.
///
/// The file is mapped: it must not be cut short while this value lives. Files that this project writes are only ever
/// replaced as a whole, which leaves the mapping intact.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Stored>,
    clashes: Vec<Offence>,
}

#[derive(Debug, Clone)]
struct Stored {
    /// The name in the file.
    raw: String,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Tensors that were checked; names are those of the table.
#[derive(Debug)]
pub struct Loaded<'a> {
    tensors: BTreeMap<String, Tensor<'a>>,
    dropped: Vec<Dropped>,
}

/// One f32 tensor in a mapped file.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Shape, outermost first.
    pub shape: &'a [usize],
    /// The values, little-endian f32; not necessarily aligned.
    pub bytes: &'a [u8],
}

/// A tensor of the file that was left out, under the name that it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Name in the file.
    pub name: String,
    /// Why it is not needed.
    pub reason: &'static str,
}

/// One tensor that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// Name in the table; for tensors that are not in it, name in the file.
    pub name: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The table asks for it, the file does not have it.
    Missing,
    /// The file has it, the table does not know it.
    Unexpected,
    /// The shape differs.
    Shape {
        /// Shape in the table.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// Not f32.
    Dtype {
        /// Type in the file.
        got: String,
    },
    /// NaN or an infinity.
    NonFinite {
        /// Index of the first such value.
        index: usize,
    },
    /// Two names in the file stand for the same parameter.
    Duplicate {
        /// The names in the file.
        names: [String; 2],
    },
    /// A copy of a tied tensor that is not a copy.
    Differs {
        /// The tensor that it should equal.
        from: &'static str,
    },
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.name)?;
        match &self.fault {
            Fault::Missing => write!(f, "is missing"),
            Fault::Unexpected => write!(f, "is unexpected"),
            Fault::Shape { expected, got } => write!(f, "has shape {got:?}, expected {expected:?}"),
            Fault::Dtype { got } => write!(f, "has type {got}, expected F32"),
            Fault::NonFinite { index } => write!(f, "is not finite at index {index}"),
            Fault::Duplicate { names } => {
                write!(f, "is stored twice, as `{}` and `{}`", names[0], names[1])
            }
            Fault::Differs { from } => write!(f, "differs from `{from}`, to which it is tied"),
        }
    }
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be opened.
    #[error("cannot open weights: `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is a pickle where a safetensors file should be.
    #[error(
        "no safetensors file: `{}`, only `{found}`; hint: convert it with transformers, \
         `AutoModelForMaskedLM.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)`",
        path.display()
    )]
    Pickle {
        /// The file that should be there.
        path: PathBuf,
        /// The file that is there.
        found: &'static str,
    },
    /// The file is not a whole safetensors file.
    #[error("weights are truncated or corrupted: `{}`; hint: copy or write the file again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the safetensors reader says.
        #[source]
        source: SafeTensorError,
    },
    /// The content does not fit the table.
    #[error("weights do not fit the model: `{}`: {}", path.display(), list(offences))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong, sorted by name.
        offences: Vec<Offence>,
    },
}

fn list(offences: &[Offence]) -> String {
    let mut text = offences
        .iter()
        .take(LISTED)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if offences.len() > LISTED {
        text += &format!(
            "; and {} more, {} in all",
            offences.len() - LISTED,
            offences.len()
        );
    }
    if offences
        .iter()
        .any(|offence| matches!(offence.fault, Fault::Dtype { .. }))
    {
        text += "; hint: save the model as f32 (`model.float().save_pretrained(DIR)`)";
    }
    if offences
        .iter()
        .any(|offence| matches!(offence.fault, Fault::Differs { .. }))
    {
        text += "; hint: set `tie_word_embeddings` to false in `config.json` if the decoder is not tied";
    }
    text
}

/// What [`Weights::load`] checks beyond names, shapes and types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Values {
    /// Values are not read.
    #[default]
    Unchecked,
    /// Every value must be finite (reads the whole file).
    Finite,
}

impl Weights {
    /// Maps a safetensors file and checks its header against its length.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let open = |source| WeightsError::Open {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                for found in [
                    "pytorch_model.bin",
                    "pytorch_model.bin.index.json",
                    "model.safetensors.index.json",
                ] {
                    if path.with_file_name(found).is_file() {
                        return Err(WeightsError::Pickle {
                            path: path.to_owned(),
                            found,
                        });
                    }
                }
                return Err(open(source));
            }
            Err(source) => return Err(open(source)),
        };
        if file.metadata().map_err(open)?.is_dir() {
            return Err(open(std::io::ErrorKind::IsADirectory.into()));
        }
        // SAFETY: the mapping is read only. A file that is cut short underneath is outside of what can be guarded
        // against; the type's documentation says so.
        let map = unsafe { Mmap::map(&file) }.map_err(open)?;
        let malformed = |source| WeightsError::Malformed {
            path: path.to_owned(),
            source,
        };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(malformed)?;
        let start = size_of::<u64>() + header;
        let mut tensors = BTreeMap::new();
        let mut clashes = Vec::new();
        let mut entries: Vec<_> = metadata.tensors().into_iter().collect();
        entries.sort_by(|left, right| left.0.cmp(&right.0));
        for (raw, info) in entries {
            let name = canonical(&raw);
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let stored = Stored {
                raw: raw.clone(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range,
            };
            if let Some(other) = tensors.insert(name.clone(), stored) {
                clashes.push(Offence {
                    name,
                    fault: Fault::Duplicate {
                        names: [other.raw, raw],
                    },
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            map,
            tensors,
            clashes,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets this process forget the memory of mapped bytes: read again, they come from the system's cache or from disk.
    ///
    /// `bytes` is a part of this file, such as [`Tensor::bytes`]; anything else is left alone.
    pub fn forget(&self, bytes: &[u8]) {
        #[cfg(unix)]
        if let Some(start) = (bytes.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize)
            && start + bytes.len() <= self.map.len()
        {
            // SAFETY: the mapping is read only and backed by the file: what is given back is read again from it.
            // A failure means that the memory stays, which harms nothing.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    bytes.len(),
                )
            };
        }
    }

    /// Names of all tensors in the file, brought to the table's form, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file has a tensor of this name (in the table's form).
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether the file holds a masked-LM decoder that differs from the word embeddings.
    pub fn has_own_decoder(&self) -> bool {
        self.contains(DECODER_WEIGHT) && !self.equal(DECODER_WEIGHT, WORD_EMBEDDINGS)
    }

    /// The tensors that `wanted` asks for, if the file holds exactly them.
    pub fn load(&self, wanted: &[Parameter], values: Values) -> Result<Loaded<'_>, WeightsError> {
        let mut offences = self.clashes.clone();
        let mut dropped = Vec::new();
        let by_name: BTreeMap<&str, &Parameter> =
            wanted.iter().map(|row| (row.name.as_str(), row)).collect();

        let untied = by_name.contains_key(DECODER_WEIGHT);
        let mut tensors = BTreeMap::new();
        for (name, stored) in &self.tensors {
            if by_name.contains_key(name.as_str()) {
                continue;
            }
            match self.unneeded(name, &by_name, untied) {
                Ok(Some(reason)) => dropped.push(Dropped {
                    name: stored.raw.clone(),
                    reason,
                }),
                Ok(None) => offences.push(Offence {
                    name: stored.raw.clone(),
                    fault: Fault::Unexpected,
                }),
                Err(fault) => offences.push(Offence {
                    name: stored.raw.clone(),
                    fault,
                }),
            }
        }
        for (&name, parameter) in &by_name {
            // Beside an untied decoder `transformers` keeps two biases, and computes with the decoder's.
            let copy = if untied && name == DECODER_BIAS {
                self.tensors.get(DECODER_BIAS_COPY)
            } else {
                None
            };
            let Some(stored) = copy.or_else(|| self.tensors.get(name)) else {
                offences.push(Offence {
                    name: name.to_owned(),
                    fault: Fault::Missing,
                });
                continue;
            };
            if stored.shape != parameter.shape {
                let fault = Fault::Shape {
                    expected: parameter.shape.clone(),
                    got: stored.shape.clone(),
                };
                offences.push(Offence {
                    name: name.to_owned(),
                    fault,
                });
            }
            if stored.dtype != Dtype::F32 {
                let fault = Fault::Dtype {
                    got: stored.dtype.to_string(),
                };
                offences.push(Offence {
                    name: name.to_owned(),
                    fault,
                });
                continue;
            }
            let tensor = Tensor {
                shape: &stored.shape,
                bytes: &self.map[stored.range.clone()],
            };
            if values == Values::Finite
                && let Some(index) = tensor.values().position(|value| !value.is_finite())
            {
                offences.push(Offence {
                    name: name.to_owned(),
                    fault: Fault::NonFinite { index },
                });
            }
            tensors.insert(name.to_owned(), tensor);
        }
        if offences.is_empty() {
            Ok(Loaded { tensors, dropped })
        } else {
            offences.sort_by(|left, right| left.name.cmp(&right.name));
            Err(WeightsError::Mismatch {
                path: self.path.clone(),
                offences,
            })
        }
    }

    /// Why a tensor that is not in the table may be left out; none if it may not.
    fn unneeded(
        &self,
        name: &str,
        wanted: &BTreeMap<&str, &Parameter>,
        untied: bool,
    ) -> Result<Option<&'static str>, Fault> {
        if BUFFERS.contains(&name) {
            return Ok(Some("a buffer, not a parameter"));
        }
        let head = HEADS.iter().find(|head| name.starts_with(*head));
        let Some(head) = head else { return Ok(None) };
        if !wanted.keys().any(|wanted| wanted.starts_with(head)) {
            return Ok(Some("belongs to a head that is not wanted"));
        }
        let tied_to = match name {
            DECODER_WEIGHT => WORD_EMBEDDINGS,
            DECODER_BIAS_COPY if untied => {
                return Ok(Some("read in place of `cls.predictions.bias`"));
            }
            DECODER_BIAS_COPY => DECODER_BIAS,
            _ => return Ok(None),
        };
        if self.equal(name, tied_to) {
            Ok(Some("a copy of the tensor to which it is tied"))
        } else {
            Err(Fault::Differs { from: tied_to })
        }
    }

    /// Whether two tensors are there and equal to the bit.
    fn equal(&self, left: &str, right: &str) -> bool {
        match (self.tensors.get(left), self.tensors.get(right)) {
            (Some(left), Some(right)) => {
                left.dtype == right.dtype
                    && left.shape == right.shape
                    && self.map[left.range.clone()] == self.map[right.range.clone()]
            }
            _ => false,
        }
    }
}

/// The table's name for a name in a file.
fn canonical(raw: &str) -> String {
    let bare = ["embeddings.", "encoder.", "pooler."]
        .iter()
        .any(|part| raw.starts_with(part));
    let name = if bare {
        format!("bert.{raw}")
    } else {
        raw.to_owned()
    };
    for (old, new) in [
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
    ] {
        if let Some(path) = name.strip_suffix(old) {
            return format!("{path}{new}");
        }
    }
    name
}

impl<'a> Loaded<'a> {
    /// A tensor by the table's name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'a>> {
        self.tensors.get(name).copied()
    }

    /// All tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Tensor<'a>)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), *tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Tensors of the file that were left out, sorted by name.
    pub fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }
}

impl Tensor<'_> {
    /// The values in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f32> {
        self.bytes
            .chunks_exact(4)
            .map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
    }

    /// The values, copied.
    pub fn to_vec(&self) -> Vec<f32> {
        self.values().collect()
    }
}
