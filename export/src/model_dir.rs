//! Model directories, read and written as a whole.
//!
//! | file | content |
//! | --- | --- |
//! | `config.json` | [`ModelConfig`] under Hugging Face's keys; `architectures` names the head; `tcd` is ours ([`Record`]) |
//! | `model.safetensors` | the parameters of the table as f32, sorted by name, metadata `{"format": "pt"}` |
//! | `tokenizer.json` | the tokenizer as the `tokenizers` library writes it |
//!
//! [`ModelDir`] reads one, [`mod@crate::write`] writes one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Architecture, ConfigError, ModelConfig};
use crate::parameters::{Head, Parameter, parameters};
use crate::weights::{Loaded, Values, Weights, WeightsError};

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Name of the tokenizer file.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// An error of the caller's, such as a tensor that cannot be fetched.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a model directory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelDirError {
    /// The operating system refuses.
    #[error("cannot {action}: `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no such directory, or no `config.json` in it.
    #[error("not a model directory: `{}`, it has no `{missing}`; hint: {hint}", path.display())]
    NotModelDir {
        /// The directory.
        path: PathBuf,
        /// The file that is not there.
        missing: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The configuration is not usable.
    #[error("cannot use `{}`", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// The weights are not usable.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer is not usable with the model.
    #[error("tokenizer does not fit the model: {0}")]
    Tokenizer(String),
    /// Something else is in the way.
    #[error("will not replace `{}`: {why}; hint: choose another directory or remove this one", path.display())]
    InTheWay {
        /// The directory to be written.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// The caller could not give a tensor.
    #[error("cannot get tensor `{name}`")]
    Tensor {
        /// The parameter.
        name: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The caller gave a tensor of a wrong size.
    #[error("tensor `{name}` has {got} bytes, expected {expected}")]
    TensorSize {
        /// The parameter.
        name: String,
        /// Bytes by its shape, as f32.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The model has so many tensors that their names do not fit a safetensors header.
    #[error(
        "safetensors header is too long: {got} bytes, at most {limit}; hint: use fewer layers or experts",
        limit = crate::write::MAX_HEADER
    )]
    Header {
        /// Its length.
        got: usize,
    },
    /// A file is not the one that was written.
    #[error("file was altered: `{}` has hash {got}, `config.json` says {expected}; hint: copy the directory again", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// Hash in `config.json`.
        expected: String,
        /// Hash of the file.
        got: String,
    },
}

/// What the key `tcd` of `config.json` records; other programs ignore it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the program that wrote the directory.
    pub version: String,
    /// BLAKE3 of `model.safetensors`, in hexadecimal.
    pub weights_blake3: String,
    /// BLAKE3 of `tokenizer.json`, in hexadecimal.
    pub tokenizer_blake3: String,
    /// Whatever the writer wants to be remembered, such as the training step.
    #[serde(default)]
    pub notes: Map<String, Value>,
}

/// An open model directory: checked configuration, mapped weights.
#[derive(Debug)]
pub struct ModelDir {
    path: PathBuf,
    architecture: Architecture,
    head: Head,
    labels: Vec<String>,
    record: Option<Record>,
    weights: Weights,
}

/// Weights for fine-tuning: what the directory has, and what starts anew.
#[derive(Debug)]
pub struct Initial<'a> {
    /// Tensors from the directory.
    pub loaded: Loaded<'a>,
    /// Parameters of the head that the directory does not have; to be initialised.
    pub fresh: Vec<Parameter>,
}

impl ModelDir {
    /// Reads and checks `config.json` and the header of `model.safetensors`.
    ///
    /// A decoder in the file that is not a copy of the word embeddings makes the architecture an untied one, whatever
    /// `tie_word_embeddings` says, as in `transformers`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelDirError> {
        let path = path.as_ref();
        let file = path.join(CONFIG_FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let hint = "give a directory with `config.json` and `model.safetensors`";
                return Err(ModelDirError::NotModelDir {
                    path: path.to_owned(),
                    missing: CONFIG_FILE,
                    hint,
                });
            }
            Err(source) => {
                return Err(ModelDirError::Io {
                    action: "read",
                    path: file,
                    source,
                });
            }
        };
        let config = |source| ModelDirError::Config {
            path: file.clone(),
            source,
        };
        let map: Map<String, Value> = serde_json::from_str(&text)
            .map_err(ConfigError::Json)
            .map_err(config)?;
        let architecture = ModelConfig::from_map(&map)
            .and_then(|raw| raw.validate())
            .map_err(config)?;
        let record = match map.get("tcd") {
            Some(value) => Some(
                serde_json::from_value(value.clone())
                    .map_err(ConfigError::Json)
                    .map_err(config)?,
            ),
            None => None,
        };
        let labels = labels(&map);
        let head = head(&map, labels.len());
        let weights = Weights::open(path.join(WEIGHTS_FILE))?;
        let tied = architecture.tie_word_embeddings && !weights.has_own_decoder();
        let architecture = architecture.with_tied_decoder(tied);
        Ok(Self {
            path: path.to_owned(),
            architecture,
            head,
            labels,
            record,
            weights,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model is.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The head that `architectures` names; an encoder alone where it names none that is known.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Names of the classes, by their index; empty where `config.json` has none.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What the writer recorded; none in a directory that another program wrote.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The weights file.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// All parameters with this head, strictly.
    pub fn load(&self, head: Head, values: Values) -> Result<Loaded<'_>, ModelDirError> {
        Ok(self
            .weights
            .load(&parameters(&self.architecture, head), values)?)
    }

    /// The parameters that the directory has; strict about the encoder, while each part of the head (pooler, classifier,
    /// masked-LM head) may be absent as a whole and is then listed as fresh.
    pub fn load_or_fresh(&self, head: Head, values: Values) -> Result<Initial<'_>, ModelDirError> {
        let part = |name: &str| {
            ["bert.pooler.", "cls.predictions.", "classifier."]
                .into_iter()
                .find(|part| name.starts_with(part))
        };
        let (wanted, fresh): (Vec<_>, Vec<_>) = parameters(&self.architecture, head)
            .into_iter()
            .partition(|parameter| match part(&parameter.name) {
                Some(part) => self.weights.names().any(|name| name.starts_with(part)),
                None => true,
            });
        Ok(Initial {
            loaded: self.weights.load(&wanted, values)?,
            fresh,
        })
    }

    /// The tokenizer: `tokenizer.json`, or `vocab.txt` where only that is there.
    pub fn tokenizer_file(&self) -> Result<PathBuf, ModelDirError> {
        [TOKENIZER_FILE, "vocab.txt"]
            .into_iter()
            .map(|name| self.path.join(name))
            .find(|file| file.is_file())
            .ok_or_else(|| ModelDirError::NotModelDir {
                path: self.path.clone(),
                missing: TOKENIZER_FILE,
                hint: "copy the `tokenizer.json` or `vocab.txt` of the model there",
            })
    }

    /// BLAKE3 of `model.safetensors`, in hexadecimal; reads the whole file.
    pub fn weights_hash(&self) -> Result<String, ModelDirError> {
        hash_file(&self.path.join(WEIGHTS_FILE))
    }

    /// Compares weights and tokenizer with the hashes recorded at writing; true if there is a record.
    pub fn verify(&self) -> Result<bool, ModelDirError> {
        let Some(record) = &self.record else {
            return Ok(false);
        };
        for (name, expected) in [
            (WEIGHTS_FILE, &record.weights_blake3),
            (TOKENIZER_FILE, &record.tokenizer_blake3),
        ] {
            let path = self.path.join(name);
            let got = hash_file(&path)?;
            if got != *expected {
                return Err(ModelDirError::Altered {
                    path,
                    expected: expected.clone(),
                    got,
                });
            }
        }
        Ok(true)
    }
}

fn labels(map: &Map<String, Value>) -> Vec<String> {
    let Some(Value::Object(names)) = map.get("id2label") else {
        return Vec::new();
    };
    let by_index: BTreeMap<usize, String> = names
        .iter()
        .filter_map(|(index, name)| Some((index.parse().ok()?, name.as_str()?.to_owned())))
        .collect();
    by_index.into_values().collect()
}

fn head(map: &Map<String, Value>, labels: usize) -> Head {
    let class = map
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str)
        .unwrap_or_default();
    match class.trim_start_matches("TcdMoe") {
        "BertForMaskedLM" | "BertForPreTraining" => Head::MaskedLm,
        "BertForSequenceClassification" => {
            // Two classes are what `transformers` assumes where the file says nothing.
            Head::SequenceClassification {
                labels: if labels == 0 { 2 } else { labels },
            }
        }
        _ => Head::None,
    }
}

fn hash_file(path: &Path) -> Result<String, ModelDirError> {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_mmap_rayon(path)
        .map_err(io_error("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Attaches what was tried, and on what, to an error of the operating system.
pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ModelDirError {
    let path = path.to_owned();
    move |source| ModelDirError::Io {
        action,
        path,
        source,
    }
}
