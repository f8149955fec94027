//! Features files: the hidden states of one model on one sample of rows, token by token.
//!
//! `tcd features` writes them ([`FeaturesWriter`]), every measure of this crate reads them ([`FeaturesFile`]). One file
//! holds one model and one sample; files of different models over the same sample are compared tap by tap.
//!
//! # Layout
//! A safetensors file, any reader of which will do (`safetensors.numpy.load_file`). `N` counts tokens, `R` rows, `H` the
//! width of a tap, `K` routed experts. Padding is left out, so `N` is the sum of the rows' true lengths. A row's tokens
//! stand together, in their order.
//!
//! | tensor | type, shape | what |
//! | --- | --- | --- |
//! | `input_ids` | I64 `[N]` | token ids as the model read them (after masking, if any) |
//! | `row` | I64 `[N]` | row of the data file a token is of, from 0; need not be dense or sorted |
//! | `position` | I64 `[N]` | position in the row, from 0 (`[CLS]`), rising by one |
//! | `embedding`, `layer.{l}.trunk`, `layer.{l}.attention.inner`, `layer.{l}.ffn.inner` | F32 `[N, H]` | taps, layers from 0 |
//! | `layer.{l}.query`, `layer.{l}.key`, `layer.{l}.value` | F32 `[N, A*D]` | heads side by side: head `a` in columns `a*D..(a+1)*D` |
//! | `expert.{l}` | I64 `[N]` or `[N, K]` | expert(s) chosen in layer `l` (mixtures of experts only) |
//! | `gate.{l}` | F32 `[N]` or `[N, K]` | router probability of each chosen expert |
//! | `masked` | I64 `[N]` | optional: 1 where the position was masked (or replaced, or kept, as a prediction target), else 0 |
//! | `original_ids` | I64 `[N]` | with `masked`: ids before masking |
//! | `log_likelihood` | F32 `[N]` | with `masked`: log p(original id), nats, where `masked` is 1, else 0 |
//! | `rows.id` | I64 `[R]` | with any `rows.*`: the rows in the order in which the file holds them, each once |
//! | `rows.label` | F32 `[R]` | optional: gold label, index of the class or score |
//! | `rows.logits` | F32 `[R, C]` | optional: output of a fine-tuned head; `C` = 1 for a regression |
//!
//! Every other name is refused, so that a misspelt tap does not vanish silently. A file has at least one tap, or routing,
//! or `log_likelihood`.
//!
//! # Metadata
//! Strings, as safetensors has them:
//!
//! | key | what |
//! | --- | --- |
//! | `format` | `tcd-features 1` |
//! | `command` | the command line that wrote the file |
//! | `model`, `model_blake3` | the model's directory as given, and the BLAKE3 of its weights file |
//! | `tokenizer_blake3` | BLAKE3 of `tokenizer.json` |
//! | `data`, `data_blake3` | data file as given, and its BLAKE3 |
//! | `special_ids` | JSON array of the tokenizer's special ids (`[101,102,...]`) |
//! | `task` | optional: GLUE task of the rows |
//! | `labels` | optional: JSON array of class names |
//! | `num_experts` | with `expert.*`: experts a layer |
//! | `num_heads` | optional: attention heads |
//!
//! Further keys are kept and not looked at.
//!
//! # Reading
//! Taps are read in blocks of rows through positioned reads, not through a memory map: touched pages of a map count as the
//! process's own memory, and a million tokens of 13 taps are tens of gigabytes. Ids are held whole (12 bytes a token).

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};
use serde::{Deserialize, Serialize};

mod io;
#[cfg(test)]
mod tests;
mod writer;

pub use writer::{FeaturesWriter, Slot};

/// The `format` that this version reads and writes.
pub const FORMAT: &str = "tcd-features 1";

/// Where a features file comes from: its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeaturesInfo {
    /// The command line that wrote the file.
    pub command: String,
    /// The model's directory as it was given.
    pub model: String,
    /// BLAKE3 of the model's weights file, hexadecimal.
    pub model_blake3: String,
    /// BLAKE3 of `tokenizer.json`, hexadecimal.
    pub tokenizer_blake3: String,
    /// The data file as it was given.
    pub data: String,
    /// BLAKE3 of the data file, hexadecimal.
    pub data_blake3: String,
    /// The tokenizer's special ids.
    pub special_ids: Vec<i64>,
    /// GLUE task of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Names of the classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Experts a layer of a mixture of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_experts: Option<usize>,
    /// Attention heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_heads: Option<usize>,
}

/// Why a features file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FeaturesError {
    /// The system refused.
    #[error("cannot {action} the features file: {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not safetensors.
    #[error("not a safetensors file, or cut short: {}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The file is safetensors but no features file.
    #[error("not a features file: {}: {problem}", .path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What is wrong: key or tensor, expected, found.
        problem: String,
    },
    /// What was asked for is not in the file.
    #[error("{} has no `{name}`; it has: {present}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor that was asked for.
        name: String,
        /// Names of the same kind that are there.
        present: String,
    },
    /// Two files are not over the same tokens or rows.
    #[error("features files of different samples: {} and {}: {problem}", .a.display(), .b.display())]
    Mismatch {
        /// One file.
        a: PathBuf,
        /// The other.
        b: PathBuf,
        /// Where they differ first.
        problem: String,
    },
}

/// Tokens of one row: where they stand in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSpan {
    /// The row's number in the data file.
    pub id: u32,
    /// Its tokens, as indices into the file.
    pub tokens: Range<usize>,
}

/// An open features file.
#[derive(Debug)]
pub struct FeaturesFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    info: FeaturesInfo,
    input_ids: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<RowSpan>,
}

/// Kinds of tensors, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tap,
    Expert,
    Gate,
    TokenInts,
    TokenFloats,
    RowInts,
    RowFloats,
    RowMatrix,
}

/// Whether `name` is a tap: `embedding` or `layer.{l}.` with a known part.
pub fn is_tap(name: &str) -> bool {
    const PARTS: [&str; 6] = [
        "trunk",
        "attention.inner",
        "ffn.inner",
        "query",
        "key",
        "value",
    ];
    let layered = |rest: &str| {
        let (layer, part) = rest.split_once('.')?;
        Some(is_number(layer) && PARTS.contains(&part))
    };
    name == "embedding"
        || name
            .strip_prefix("layer.")
            .and_then(layered)
            .unwrap_or(false)
}

fn is_number(text: &str) -> bool {
    text == "0"
        || (!text.starts_with('0')
            && text.len() < 6
            && text.bytes().all(|b| b.is_ascii_digit())
            && !text.is_empty())
}

/// Order of taps: by depth, then by place within the layer.
pub fn tap_order(name: &str) -> (usize, usize) {
    const PLACES: [&str; 6] = [
        "query",
        "key",
        "value",
        "attention.inner",
        "ffn.inner",
        "trunk",
    ];
    let Some((layer, part)) = name
        .strip_prefix("layer.")
        .and_then(|rest| rest.split_once('.'))
    else {
        return (0, 0);
    };
    let place = PLACES
        .iter()
        .position(|p| *p == part)
        .unwrap_or(PLACES.len());
    (1 + layer.parse().unwrap_or(0), place)
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "input_ids" | "row" | "position" | "masked" | "original_ids" => Kind::TokenInts,
        "log_likelihood" => Kind::TokenFloats,
        "rows.id" => Kind::RowInts,
        "rows.label" => Kind::RowFloats,
        "rows.logits" => Kind::RowMatrix,
        _ if is_tap(name) => Kind::Tap,
        _ if name.strip_prefix("expert.").is_some_and(is_number) => Kind::Expert,
        _ if name.strip_prefix("gate.").is_some_and(is_number) => Kind::Gate,
        _ => return None,
    })
}

impl FeaturesFile {
    /// Opens a file and checks its header, ids and rows; the taps are read later, block by block.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FeaturesError> {
        let path = path.as_ref().to_path_buf();
        let fail = |source| FeaturesError::Io {
            action: "open",
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(fail)?;
        let (data_start, metadata) = io::header(&file, &path)?;
        let tensors: BTreeMap<String, TensorInfo> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        let layout = |problem: String| FeaturesError::Layout {
            path: path.clone(),
            problem,
        };
        let info = read_info(metadata.metadata().as_ref()).map_err(layout)?;
        check_tensors(&tensors, &info).map_err(layout)?;
        let mut file = FeaturesFile {
            path: path.clone(),
            file,
            data_start,
            tensors,
            info,
            input_ids: Vec::new(),
            positions: Vec::new(),
            rows: Vec::new(),
        };
        file.input_ids = file.small_ints("input_ids")?;
        file.positions = file.small_ints("position")?;
        file.rows = spans(&file.small_ints("row")?, &file.positions).map_err(layout)?;
        if file.tensors.contains_key("rows.id") {
            let ids = file.small_ints("rows.id")?;
            if !ids.iter().eq(file.rows.iter().map(|span| &span.id)) {
                return Err(layout(
                    "`rows.id` must name the rows of `row` in their order".to_owned(),
                ));
            }
        }
        Ok(file)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's metadata.
    pub fn info(&self) -> &FeaturesInfo {
        &self.info
    }

    /// Number of tokens `N`.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Token ids, `[N]`.
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// Positions in the rows, `[N]`.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The rows, in the order of the file.
    pub fn rows(&self) -> &[RowSpan] {
        &self.rows
    }

    /// Names of the taps, by depth.
    pub fn taps(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .tensors
            .keys()
            .map(String::as_str)
            .filter(|name| is_tap(name))
            .collect();
        names.sort_by_key(|name| tap_order(name));
        names
    }

    /// Layers whose routing is stored, in order.
    pub fn routed_layers(&self) -> Vec<usize> {
        let mut layers: Vec<usize> = self
            .tensors
            .keys()
            .filter_map(|name| name.strip_prefix("expert.")?.parse().ok())
            .collect();
        layers.sort_unstable();
        layers
    }

    /// Whether the file holds a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Width `H` of a tap.
    pub fn width(&self, tap: &str) -> Result<usize, FeaturesError> {
        if !is_tap(tap) {
            return Err(self.missing(tap));
        }
        Ok(self.tensor(tap)?.shape[1])
    }

    /// Reads tokens `tokens` of a tap, row-major, into `into`, which is resized to `tokens.len() * H`.
    ///
    /// # Panics
    /// If `tokens` reaches past the end.
    pub fn read_tap(
        &self,
        tap: &str,
        tokens: Range<usize>,
        into: &mut Vec<f32>,
    ) -> Result<(), FeaturesError> {
        let width = self.width(tap)?;
        assert!(
            tokens.end <= self.tokens(),
            "tokens {tokens:?} of {}",
            self.tokens()
        );
        self.read_floats(tap, tokens.start * width..tokens.end * width, into)
    }

    /// A whole tensor of floats that is small beside the taps: `log_likelihood`, `gate.{l}`, `rows.*`.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, FeaturesError> {
        let count = self.tensor(name)?.shape.iter().product();
        let mut values = Vec::new();
        self.read_floats(name, 0..count, &mut values)?;
        Ok(values)
    }

    /// A whole tensor of non-negative whole numbers: `expert.{l}`, `masked`, `original_ids`.
    pub fn small_ints(&self, name: &str) -> Result<Vec<u32>, FeaturesError> {
        let info = self.tensor(name)?;
        if info.dtype != Dtype::I64 {
            return Err(self.missing(name));
        }
        let count: usize = info.shape.iter().product();
        let mut bytes = vec![0; count * 8];
        self.read_bytes(info.data_offsets.0 as u64, &mut bytes)?;
        let mut values = Vec::with_capacity(count);
        for (index, chunk) in bytes.chunks_exact(8).enumerate() {
            let value = i64::from_le_bytes(chunk.try_into().expect("chunks of 8"));
            let Ok(value) = u32::try_from(value) else {
                let problem = format!("`{name}` [{index}]: {value} is outside 0..4294967296");
                return Err(FeaturesError::Layout {
                    path: self.path.clone(),
                    problem,
                });
            };
            values.push(value);
        }
        Ok(values)
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], FeaturesError> {
        Ok(&self.tensor(name)?.shape)
    }

    /// Checks that `other` is over the same tokens in the same order, as token-by-token comparison needs it.
    pub fn check_same_tokens(&self, other: &Self) -> Result<(), FeaturesError> {
        let fail = |problem| {
            Err(FeaturesError::Mismatch {
                a: self.path.clone(),
                b: other.path.clone(),
                problem,
            })
        };
        if self.info.tokenizer_blake3 != other.info.tokenizer_blake3 {
            return fail(
                "their tokenizers differ; compare rows (`--rows cls` or `--rows mean`)".to_owned(),
            );
        }
        if self.tokens() != other.tokens() {
            return fail(format!("{} tokens and {}", self.tokens(), other.tokens()));
        }
        if let Some(i) = (0..self.tokens()).find(|&i| self.input_ids[i] != other.input_ids[i]) {
            return fail(format!(
                "token {i} is {} and {}",
                self.input_ids[i], other.input_ids[i]
            ));
        }
        if self.rows != other.rows {
            return fail("the tokens are the same but belong to other rows".to_owned());
        }
        Ok(())
    }

    /// Checks that `other` holds the same rows of the same data in the same order, as `[CLS]` and pooled comparison needs it.
    pub fn check_same_rows(&self, other: &Self) -> Result<(), FeaturesError> {
        let fail = |problem| {
            Err(FeaturesError::Mismatch {
                a: self.path.clone(),
                b: other.path.clone(),
                problem,
            })
        };
        if self.info.data_blake3 != other.info.data_blake3 {
            return fail(format!(
                "data files differ: `{}` and `{}`",
                self.info.data, other.info.data
            ));
        }
        if self.rows.len() != other.rows.len() {
            return fail(format!("{} rows and {}", self.rows.len(), other.rows.len()));
        }
        let differs = self
            .rows
            .iter()
            .zip(&other.rows)
            .position(|(a, b)| a.id != b.id);
        match differs {
            Some(i) => fail(format!(
                "row {i} is number {} and {} of the data",
                self.rows[i].id, other.rows[i].id
            )),
            None => Ok(()),
        }
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo, FeaturesError> {
        self.tensors.get(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> FeaturesError {
        let present = if is_tap(name) || kind(name).is_none() {
            self.taps().join(", ")
        } else {
            self.tensors
                .keys()
                .filter(|n| !is_tap(n))
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        };
        FeaturesError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
            present,
        }
    }

    fn read_floats(
        &self,
        name: &str,
        elements: Range<usize>,
        into: &mut Vec<f32>,
    ) -> Result<(), FeaturesError> {
        let info = self.tensor(name)?;
        if info.dtype != Dtype::F32 {
            return Err(self.missing(name));
        }
        let mut bytes = vec![0; elements.len() * 4];
        self.read_bytes(
            (info.data_offsets.0 + elements.start * 4) as u64,
            &mut bytes,
        )?;
        into.clear();
        into.extend(
            bytes
                .chunks_exact(4)
                .map(|c| f32::from_le_bytes(c.try_into().expect("chunks of 4"))),
        );
        Ok(())
    }

    fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<(), FeaturesError> {
        io::read_at(&self.file, self.data_start + offset, into).map_err(|source| {
            FeaturesError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            }
        })
    }
}

/// The metadata, checked.
fn read_info(
    metadata: Option<&std::collections::HashMap<String, String>>,
) -> Result<FeaturesInfo, String> {
    let metadata = metadata.ok_or("it has no metadata")?;
    let text = |key: &str| {
        metadata
            .get(key)
            .cloned()
            .ok_or_else(|| format!("metadata lacks the key: `{key}`"))
    };
    let format = text("format")?;
    if format != FORMAT {
        return Err(format!(
            "`format` is `{format}`, this version reads `{FORMAT}`"
        ));
    }
    let json =
        |key: &str, value: &str| format!("metadata `{key}` is not what it should be: {value}");
    let count = |key: &str| match metadata.get(key) {
        Some(value) => value.parse().map(Some).map_err(|_| json(key, value)),
        None => Ok(None),
    };
    let special = text("special_ids")?;
    let labels = metadata.get("labels").map_or("[]", String::as_str);
    Ok(FeaturesInfo {
        command: text("command")?,
        model: text("model")?,
        model_blake3: text("model_blake3")?,
        tokenizer_blake3: text("tokenizer_blake3")?,
        data: text("data")?,
        data_blake3: text("data_blake3")?,
        special_ids: serde_json::from_str(&special).map_err(|_| json("special_ids", &special))?,
        task: metadata.get("task").cloned(),
        labels: serde_json::from_str(labels).map_err(|_| json("labels", labels))?,
        num_experts: count("num_experts")?,
        num_heads: count("num_heads")?,
    })
}

/// Checks names, types and shapes against the table in the module's documentation.
fn check_tensors(
    tensors: &BTreeMap<String, TensorInfo>,
    info: &FeaturesInfo,
) -> Result<(), String> {
    for name in ["input_ids", "row", "position"] {
        if !tensors.contains_key(name) {
            return Err(format!("it lacks the tensor: `{name}`"));
        }
    }
    let n = tensors["input_ids"].shape.first().copied().unwrap_or(0);
    let rows = tensors
        .get("rows.id")
        .and_then(|info| info.shape.first().copied());
    for (name, tensor) in tensors {
        let kind =
            kind(name).ok_or_else(|| format!("it holds a tensor of unknown name: `{name}`"))?;
        check_tensor(name, kind, tensor, n, rows)?;
    }
    let routed = tensors.keys().any(|name| name.starts_with("expert."));
    if routed && info.num_experts.is_none() {
        return Err("metadata lacks the key: `num_experts`".to_owned());
    }
    for name in tensors.keys().filter(|name| name.starts_with("gate.")) {
        let expert = name.replace("gate.", "expert.");
        if tensors.get(&expert).map(|t| &t.shape) != Some(&tensors[name].shape) {
            return Err(format!("`{name}` has no `{expert}` of its shape"));
        }
    }
    let likely = tensors.contains_key("log_likelihood");
    if likely && !(tensors.contains_key("masked") && tensors.contains_key("original_ids")) {
        return Err("`log_likelihood` needs `masked` and `original_ids`".to_owned());
    }
    if !routed && !likely && !tensors.keys().any(|name| is_tap(name)) {
        return Err("it holds no tap, no routing and no `log_likelihood`".to_owned());
    }
    Ok(())
}

fn check_tensor(
    name: &str,
    kind: Kind,
    tensor: &TensorInfo,
    n: usize,
    rows: Option<usize>,
) -> Result<(), String> {
    let shape = &tensor.shape;
    let r = rows.unwrap_or(usize::MAX);
    let matrix = |length| shape.len() == 2 && shape[0] == length && shape[1] > 0;
    let (dtype, fits, wanted) = match kind {
        Kind::Tap => (Dtype::F32, matrix(n), format!("[{n}, H]")),
        Kind::Expert => (
            Dtype::I64,
            shape == &[n] || matrix(n),
            format!("[{n}] or [{n}, K]"),
        ),
        Kind::Gate => (
            Dtype::F32,
            shape == &[n] || matrix(n),
            format!("[{n}] or [{n}, K]"),
        ),
        Kind::TokenInts => (Dtype::I64, shape == &[n], format!("[{n}]")),
        Kind::TokenFloats => (Dtype::F32, shape == &[n], format!("[{n}]")),
        Kind::RowInts => (Dtype::I64, shape.len() == 1, "[R]".to_owned()),
        Kind::RowFloats => (Dtype::F32, shape == &[r], "[R] beside `rows.id`".to_owned()),
        Kind::RowMatrix => (Dtype::F32, matrix(r), "[R, C] beside `rows.id`".to_owned()),
    };
    if tensor.dtype != dtype || !fits {
        return Err(format!(
            "`{name}` is {:?} {shape:?}, expected {dtype:?} {wanted}",
            tensor.dtype
        ));
    }
    Ok(())
}

/// The rows as spans of tokens; a row's tokens must stand together and its positions count up from 0.
fn spans(row: &[u32], positions: &[u32]) -> Result<Vec<RowSpan>, String> {
    let mut spans: Vec<RowSpan> = Vec::new();
    let mut seen = HashSet::new();
    for (i, (&id, &position)) in row.iter().zip(positions).enumerate() {
        match spans.last_mut() {
            Some(span) if span.id == id => {
                if position as usize != span.tokens.len() {
                    return Err(format!(
                        "`position` [{i}] is {position}, expected {} (row {id})",
                        span.tokens.len()
                    ));
                }
                span.tokens.end = i + 1;
            }
            _ => {
                if !seen.insert(id) {
                    return Err(format!(
                        "`row` [{i}]: the tokens of row {id} do not stand together"
                    ));
                }
                if position != 0 {
                    return Err(format!(
                        "`position` [{i}] is {position}, expected 0 where row {id} begins"
                    ));
                }
                spans.push(RowSpan {
                    id,
                    tokens: i..i + 1,
                });
            }
        }
    }
    Ok(spans)
}
