//! A look into an ONNX file of any origin: inputs, outputs, operators, metadata, and whether all its parts are there.
//!
//! The file is mapped, and its weights are not read. What is found here decides before an engine sees the file: engines differ
//! in how they take damage, and some end the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use super::check::{self, Faults};
use super::infer::Length;
use super::proto::{DataType, EXTERNAL, GraphProto, ModelProto, TensorProto};
use super::write::MODEL_FILE;

/// The newest version of the standard operators that the engines in use know.
const NEWEST_OPSET: i64 = 26;

/// What a file says about itself.
#[derive(Clone, Debug)]
pub struct OnnxFile {
    /// The file.
    pub path: PathBuf,
    /// Version of the standard operators.
    pub opset: i64,
    /// Inputs, without constants.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Operators, with how often each is used; those of other domains as `domain.Operator`.
    pub operators: BTreeMap<String, usize>,
    /// `metadata_props`.
    pub metadata: BTreeMap<String, String>,
    /// Name and version of the program that wrote it.
    pub producer: (String, String),
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type; none where it is not a tensor of a type known here.
    pub element: Option<DataType>,
    /// Its shape; none where the file does not tell.
    pub shape: Option<Vec<Length>>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("no ONNX model: `{}`; hint: `tcd export --model DIR` writes one", .0.display())]
    Missing(PathBuf),
    /// The system refuses.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are no ONNX model.
    #[error("not an ONNX model, or cut short: `{}`; hint: copy or export it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
    /// The bytes decode but say nothing.
    #[error("not an ONNX model: `{}` has no {missing}; hint: copy or export it again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is not there.
        missing: &'static str,
    },
    /// The graph contradicts itself.
    #[error("damaged ONNX model: `{}`: {faults}; hint: copy or export it again", path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        faults: Faults,
    },
    /// Newer operators than the engines know.
    #[error("unknown opset in `{}`: {opset}, known are 7 to {newest}; hint: export the model for an older opset", path.display(), newest = NEWEST_OPSET)]
    Opset {
        /// The file.
        path: PathBuf,
        /// The version.
        opset: i64,
    },
    /// The second file is not there or too short.
    #[error("values are missing: `{}` needs `{}`: {why}; hint: copy that file beside it, or export the model again", path.display(), data.display())]
    Data {
        /// The model.
        path: PathBuf,
        /// The file that holds the values.
        data: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The file that a path means: itself, or `model.onnx` in a directory.
pub fn locate(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(MODEL_FILE)
    } else {
        path.to_owned()
    }
}

impl OnnxFile {
    /// Reads and checks a file, or `model.onnx` in a directory.
    ///
    /// # Errors
    /// A file that is missing, no model, damaged, too new, or without its second file.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let path = locate(path);
        let io = |source| ReadError::Io {
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Missing(path));
            }
            Err(error) => return Err(io(error)),
        };
        if file.metadata().map_err(io)?.is_dir() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        // SAFETY: the mapping is read only and dropped at the end of this function; files of this project are replaced
        // as a whole, which leaves a mapping intact.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Self::decode(Bytes::from_owner(map), path)
    }

    /// Reads and checks the bytes of a file; its second file is looked for beside `path`.
    ///
    /// # Errors
    /// As [`OnnxFile::open`].
    pub fn decode(bytes: Bytes, path: PathBuf) -> Result<Self, ReadError> {
        let empty = |missing| ReadError::Empty {
            path: path.clone(),
            missing,
        };
        let model = ModelProto::decode(bytes).map_err(|source| ReadError::Malformed {
            path: path.clone(),
            source,
        })?;
        let graph = model.graph.as_ref().ok_or_else(|| empty("graph"))?;
        if graph.node.is_empty() {
            return Err(empty("operators"));
        }
        let standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let opset = model
            .opset_import
            .iter()
            .find(|row| standard(&row.domain))
            .map(|row| row.version)
            .ok_or_else(|| empty("opset"))?;
        if !(7..=NEWEST_OPSET).contains(&opset) {
            return Err(ReadError::Opset { path, opset });
        }
        check::structure(graph).map_err(|faults| ReadError::Faulty {
            path: path.clone(),
            faults,
        })?;
        external(graph, &path)?;
        let constants: BTreeSet<&str> = graph
            .initializer
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        let mut operators = BTreeMap::new();
        for node in &graph.node {
            let name = if standard(&node.domain) {
                node.op_type.clone()
            } else {
                format!("{}.{}", node.domain, node.op_type)
            };
            *operators.entry(name).or_insert(0) += 1;
        }
        let port = |info: &super::proto::ValueInfoProto| {
            let kind = check::declared(info);
            Port {
                name: info.name.clone(),
                element: kind.as_ref().map(|kind| kind.element),
                shape: kind.map(|kind| kind.shape),
            }
        };
        Ok(Self {
            opset,
            inputs: graph
                .input
                .iter()
                .filter(|info| !constants.contains(info.name.as_str()))
                .map(port)
                .collect(),
            outputs: graph.output.iter().map(port).collect(),
            operators,
            metadata: model
                .metadata_props
                .into_iter()
                .map(|row| (row.key, row.value))
                .collect(),
            producer: (model.producer_name, model.producer_version),
            path,
        })
    }

    /// An entry of the metadata that this program writes, without its prefix `tcd.`.
    pub fn own(&self, key: &str) -> Option<&str> {
        self.metadata.get(&format!("tcd.{key}")).map(String::as_str)
    }

    /// Names of the classes, where the metadata tell.
    pub fn labels(&self) -> Vec<String> {
        self.own("labels")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    /// Longest row, in tokens, where the metadata tell.
    pub fn max_positions(&self) -> Option<usize> {
        self.own("max_positions").and_then(|text| text.parse().ok())
    }

    /// Tokens of the model, where the metadata tell.
    pub fn vocab_size(&self) -> Option<usize> {
        self.own("vocab_size").and_then(|text| text.parse().ok())
    }
}

/// Whether every value that lies in another file is there.
fn external(graph: &GraphProto, path: &Path) -> Result<(), ReadError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut lengths: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for tensor in graph
        .initializer
        .iter()
        .filter(|tensor| tensor.data_location == EXTERNAL)
    {
        let entry = |key: &str| {
            tensor
                .external_data
                .iter()
                .find(|row| row.key == key)
                .map(|row| row.value.as_str())
        };
        let location = entry("location").unwrap_or_default();
        let data = folder.join(location);
        let fail = |why: String| ReadError::Data {
            path: path.to_owned(),
            data: data.clone(),
            why,
        };
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !Path::new(location).components().all(inside) {
            return Err(fail("it is not a path below the model's folder".to_owned()));
        }
        let length = match lengths.get(&data) {
            Some(length) => *length,
            None => {
                let length = std::fs::metadata(&data)
                    .map_err(|error| fail(error.to_string()))?
                    .len();
                lengths.insert(data.clone(), length);
                length
            }
        };
        let end = end(tensor, &entry)
            .ok_or_else(|| fail(format!("the place of `{}` is no place", tensor.name)))?;
        if end > length {
            return Err(fail(format!(
                "it has {length} bytes, `{}` ends at {end}",
                tensor.name
            )));
        }
    }
    Ok(())
}

/// Where a tensor ends in its file.
fn end<'a>(tensor: &TensorProto, entry: &impl Fn(&str) -> Option<&'a str>) -> Option<u64> {
    let number = |key: &str| entry(key).map(|text| text.parse::<u64>().ok());
    let offset = number("offset").unwrap_or(Some(0))?;
    let expected = tensor.expected_bytes().map(|bytes| bytes as u64);
    let length = number("length").unwrap_or(expected.or(Some(0)))?;
    if expected.is_some_and(|expected| expected != length) {
        return None;
    }
    offset.checked_add(length)
}
