//! Putting an exported model in place: `model.onnx`, its second file where it needs one, and the record `onnx.json`.
//!
//! Files are written beside their places and renamed when all is on disk. Where there is a second file, an earlier model is
//! removed before the new pair is put in place, so that no model ever stands beside values of another.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Architecture;
use crate::model_dir::{BoxError, CONFIG_FILE, ModelDir, ModelDirError, TOKENIZER_FILE, io_error};
use crate::parameters::{Head, Parameter, parameters};
use crate::taps::Tap;

use super::bert::Plan;
use super::check::Faults;
use super::encode::{self, EncodeError, MAX_INLINE};
use super::graph::Precision;
use super::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use super::{IR_VERSION, OPSET};

/// Name of the file with the head's outputs.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the file with taps as further outputs.
pub const FEATURES_FILE: &str = "features.onnx";
/// What follows a model's file name in the name of its second file.
pub const DATA_SUFFIX: &str = ".data";
/// Name of the record beside the models.
pub const ONNX_RECORD: &str = "onnx.json";

/// How a model is exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Taps that become outputs; with any, the file is [`FEATURES_FILE`].
    pub taps: Vec<Tap>,
    /// How weights of matrix products are stored.
    pub precision: Precision,
    /// Make each token's expert and gate outputs too, `expert.{layer}` and `gate.{layer}`; with it the file is [`FEATURES_FILE`].
    pub routing: bool,
    /// How rows come to their expert.
    pub moe_form: super::MoeForm,
    /// Put values into a second file even where one would do.
    pub external_data: bool,
    /// Name of the task, for the metadata.
    pub task: Option<String>,
}

/// `onnx.json`: what lies beside it, by file name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OnnxRecord {
    /// The models.
    pub files: BTreeMap<String, FileRecord>,
}

/// What is recorded of an exported model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Version of the program that wrote it.
    pub version: String,
    /// Version of the standard operators.
    pub opset: i64,
    /// Names of its inputs.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// `f32`, `f16` or `int8`.
    pub precision: String,
    /// Longest row that it takes, in tokens.
    pub max_positions: usize,
    /// BLAKE3 of the model, in hexadecimal.
    pub blake3: String,
    /// BLAKE3 of its second file; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_blake3: Option<String>,
    /// BLAKE3 of the tokenizer that it was trained with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_blake3: Option<String>,
}

/// What an export wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The model.
    pub path: PathBuf,
    /// Its second file.
    pub data: Option<PathBuf>,
    /// Operators in the graph.
    pub nodes: usize,
    /// Parameters of the table, all of which are in the file.
    pub parameters: usize,
    /// Bytes of both files.
    pub bytes: u64,
    /// What was recorded.
    pub record: FileRecord,
}

/// Why a model cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The model cannot be read, or a file not written.
    #[error(transparent)]
    ModelDir(#[from] ModelDirError),
    /// The graph breaks a rule; nothing was written.
    #[error("the graph is not sound, which is a fault of this program: {0}")]
    Check(#[source] Faults),
    /// The values cannot be written.
    #[error("cannot write `{}`", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// The record beside the models is not one.
    #[error("cannot read `{}`; hint: remove it, it is written anew", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The directory holds something else.
    #[error("will not replace `{}`: it differs from that of the model; hint: choose another directory", .0.display())]
    Differs(PathBuf),
}

/// Exports the model of a directory into the directory `out`, which may be the same.
///
/// The directory is complete afterwards: `config.json` and the tokenizer are copied to where they are missing.
///
/// # Errors
/// A model that cannot be read, a directory that holds another model, or a failure of the system.
pub fn export(model: &ModelDir, out: &Path, options: &Options) -> Result<Written, ExportError> {
    let loaded = model.load(model.head(), crate::weights::Values::Finite)?;
    let mut metadata = vec![("source", "model directory".to_owned())];
    if !model.labels().is_empty() {
        metadata.push(("labels", Value::from(model.labels()).to_string()));
    }
    fs::create_dir_all(out).map_err(io_error("create directory", out))?;
    let tokenizer = match model.tokenizer_file() {
        Ok(path) => {
            let bytes = fs::read(&path).map_err(io_error("read", &path))?;
            complete(&path, out, &bytes)?;
            Some(blake3::hash(&bytes).to_hex().to_string())
        }
        Err(_) => None,
    };
    let config = model.path().join(CONFIG_FILE);
    complete(
        &config,
        out,
        &fs::read(&config).map_err(io_error("read", &config))?,
    )?;
    let target = Target {
        architecture: model.architecture(),
        head: model.head(),
        tokenizer_blake3: tokenizer,
        metadata,
    };
    let mut before: &[u8] = &[];
    target.export(out, options, &mut |name| {
        let tensor = loaded
            .tensor(name)
            .ok_or_else(|| BoxError::from("it is not in the weights"))?;
        // What was written need not stay in memory.
        model
            .weights()
            .forget(std::mem::replace(&mut before, tensor.bytes));
        Ok(Cow::Borrowed(tensor.bytes))
    })
}

/// Exports a model whose parameters a caller gives, by name, as little-endian f32 in the table's shape.
///
/// # Errors
/// As [`export`].
pub fn export_from(
    architecture: &Architecture,
    head: Head,
    out: &Path,
    options: &Options,
    fetch: &mut encode::Fetch<'_>,
) -> Result<Written, ExportError> {
    fs::create_dir_all(out).map_err(io_error("create directory", out))?;
    let target = Target {
        architecture,
        head,
        tokenizer_blake3: None,
        metadata: Vec::new(),
    };
    target.export(out, options, fetch)
}

/// Copies a file of the model to where it is missing; a different one is an error.
fn complete(file: &Path, out: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let to = out.join(file.file_name().unwrap_or(TOKENIZER_FILE.as_ref()));
    match fs::read(&to) {
        Ok(there) if there == bytes => Ok(()),
        Ok(_) => Err(ExportError::Differs(to)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(put(&to, bytes)?),
        Err(error) => Err(io_error("read", &to)(error).into()),
    }
}

/// Writes a small file whole.
fn put(path: &Path, bytes: &[u8]) -> Result<(), ModelDirError> {
    let beside = temporary(path);
    fs::write(&beside.0, bytes).map_err(io_error("write", path))?;
    fs::rename(&beside.0, path).map_err(io_error("rename to", path))
}

struct Target<'a> {
    architecture: &'a Architecture,
    head: Head,
    tokenizer_blake3: Option<String>,
    metadata: Vec<(&'static str, String)>,
}

impl Target<'_> {
    fn export(
        &self,
        out: &Path,
        options: &Options,
        fetch: &mut encode::Fetch<'_>,
    ) -> Result<Written, ExportError> {
        let table = parameters(self.architecture, self.head);
        let plan = Plan {
            architecture: self.architecture,
            head: self.head,
            taps: &options.taps,
            precision: options.precision,
            routing: options.routing,
            moe_form: options.moe_form,
        };
        let graph = plan.checked(&table).map_err(ExportError::Check)?;
        let name = if options.taps.is_empty() && !options.routing {
            MODEL_FILE
        } else {
            FEATURES_FILE
        };
        let path = out.join(name);
        let data_name = format!("{name}{DATA_SUFFIX}");
        let external = options.external_data || encode::data_bytes(&graph) > MAX_INLINE;

        let mut model = Hashed::create(&path)?;
        let mut data = if external {
            Some(Hashed::create(&out.join(&data_name))?)
        } else {
            None
        };
        let second = data
            .as_mut()
            .map(|file| (data_name.as_str(), file as &mut dyn Write));
        encode::encode(&self.header(options), &graph, fetch, &mut model, second).map_err(
            |source| ExportError::Encode {
                path: path.clone(),
                source,
            },
        )?;
        let model = model.finish()?;
        let data = data.map(Hashed::finish).transpose()?;
        let names = |infos: &[super::proto::ValueInfoProto]| -> Vec<String> {
            infos.iter().map(|info| info.name.clone()).collect()
        };
        let record = FileRecord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            opset: OPSET,
            inputs: names(&graph.inputs),
            outputs: names(&graph.outputs),
            precision: options.precision.name().to_owned(),
            max_positions: self.architecture.max_position_embeddings,
            blake3: model.hash.clone(),
            data_blake3: data.as_ref().map(|file| file.hash.clone()),
            tokenizer_blake3: self.tokenizer_blake3.clone(),
        };
        let bytes = model.bytes + data.as_ref().map_or(0, |file| file.bytes);
        let written = Written {
            path: path.clone(),
            data: data.as_ref().map(|file| file.path.clone()),
            nodes: graph.nodes.len(),
            parameters: table.iter().map(Parameter::count).sum(),
            bytes,
            record,
        };
        self.place(out, name, model, data, &written.record)?;
        Ok(written)
    }

    /// Everything of the file but the graph.
    fn header(&self, options: &Options) -> ModelProto {
        let (kind, labels) = match self.head {
            Head::None => ("encoder", None),
            Head::MaskedLm => ("masked-lm", None),
            Head::SequenceClassification { labels: 1 } => ("regressor", Some(1)),
            Head::SequenceClassification { labels } => ("classifier", Some(labels)),
        };
        let mut properties = vec![
            ("head", kind.to_owned()),
            ("precision", options.precision.name().to_owned()),
            (
                "max_positions",
                self.architecture.max_position_embeddings.to_string(),
            ),
            ("vocab_size", self.architecture.vocab_size.to_string()),
        ];
        properties.extend(labels.map(|count| ("num_labels", count.to_string())));
        if let Some(experts) = self.architecture.experts() {
            properties.push(("experts", experts.to_string()));
            properties.push(("moe_form", options.moe_form.name().to_owned()));
        }
        let capacity = self
            .architecture
            .moe
            .as_ref()
            .and_then(|moe| moe.capacity_factor);
        properties.extend(capacity.map(|factor| ("capacity_factor", factor.to_string())));
        properties.extend(options.task.clone().map(|task| ("task", task)));
        properties.extend(
            self.tokenizer_blake3
                .clone()
                .map(|hash| ("tokenizer_blake3", hash)),
        );
        properties.extend(self.metadata.iter().cloned());
        let metadata_props = properties
            .into_iter()
            .map(|(key, value)| StringStringEntryProto {
                key: format!("tcd.{key}"),
                value,
            })
            .collect();
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "tcd".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: None,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET,
            }],
            metadata_props,
        }
    }

    fn place(
        &self,
        out: &Path,
        name: &str,
        model: Finished,
        data: Option<Finished>,
        record: &FileRecord,
    ) -> Result<(), ExportError> {
        let path = out.join(ONNX_RECORD);
        let mut all = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| ExportError::Record {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => OnnxRecord::default(),
            Err(error) => return Err(io_error("read", &path)(error).into()),
        };
        all.files.insert(name.to_owned(), record.clone());
        let old = out.join(format!("{name}{DATA_SUFFIX}"));
        if data.is_some() || old.exists() {
            for file in [&model.path, &old] {
                match fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error("remove", file)(error).into());
                    }
                    _ => {}
                }
            }
        }
        if let Some(data) = data {
            data.place()?;
        }
        model.place()?;
        let text = serde_json::to_string_pretty(&all).map_err(|source| ExportError::Record {
            path: path.clone(),
            source,
        })?;
        Ok(put(&path, format!("{text}\n").as_bytes())?)
    }
}

/// A file beside its place, hashed as it is written.
struct Hashed {
    path: PathBuf,
    beside: Beside,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

/// A whole file beside its place.
struct Finished {
    path: PathBuf,
    beside: Beside,
    hash: String,
    bytes: u64,
}

/// A temporary file, removed when this value goes; no matter if it has been renamed.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        // An error here would hide the first one; the name tells what a leftover is.
        let _ = fs::remove_file(&self.0);
    }
}

fn temporary(path: &Path) -> Beside {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Beside(path.with_file_name(format!(".{name}.{}.tmp", std::process::id())))
}

impl Hashed {
    fn create(path: &Path) -> Result<Self, ExportError> {
        let beside = temporary(path);
        let file = File::create(&beside.0).map_err(io_error("create", path))?;
        Ok(Self {
            path: path.to_owned(),
            beside,
            file: BufWriter::with_capacity(1 << 20, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    fn finish(self) -> Result<Finished, ExportError> {
        let path = &self.path;
        let file = self
            .file
            .into_inner()
            .map_err(|error| io_error("write", path)(error.into_error()))?;
        file.sync_all().map_err(io_error("write to disk", path))?;
        Ok(Finished {
            path: self.path,
            beside: self.beside,
            hash: self.hasher.finalize().to_hex().to_string(),
            bytes: self.bytes,
        })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > 1 << 20 {
            self.hasher.update_rayon(bytes);
        } else {
            self.hasher.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Finished {
    fn place(self) -> Result<(), ExportError> {
        fs::rename(&self.beside.0, &self.path).map_err(io_error("rename to", &self.path))?;
        Ok(())
    }
}
