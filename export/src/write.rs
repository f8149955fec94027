//! Writing of model directories: tensor by tensor into a sibling directory, which gets its name by a rename at the end.
//!
//! A directory of the final name is always complete, never more than one tensor of the model is held in memory, and
//! after an error nothing has changed. The format is described in [`crate::model_dir`].

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::config::Architecture;
use crate::model_dir::{
    BoxError, CONFIG_FILE, ModelDirError, Record, TOKENIZER_FILE, WEIGHTS_FILE, io_error,
};
use crate::parameters::{DECODER_BIAS, DECODER_WEIGHT, Head, Parameter, parameters};
use crate::weights::DECODER_BIAS_COPY;

/// Longest header that safetensors readers accept, in bytes.
pub(crate) const MAX_HEADER: usize = 100_000_000;

/// What goes into a model directory beside the tensors.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// What the model is.
    pub architecture: &'a Architecture,
    /// The head that is stored.
    pub head: Head,
    /// Text of `tokenizer.json`; its ids must lie below `vocab_size`.
    pub tokenizer_json: &'a str,
    /// Names of the classes; empty, or one for each.
    pub labels: &'a [String],
    /// Further keys of `config.json`, in Hugging Face's names, such as `finetuning_task`.
    pub keys: Map<String, Value>,
    /// Remembered in `config.json` under `tcd.notes`.
    pub notes: Map<String, Value>,
}

/// Writes a model directory; gives what was recorded in it.
///
/// `tensor` gives a parameter's values as little-endian f32, `parameter.bytes()` of them; it is called once for each
/// parameter, sorted by name. An earlier model directory of this program is replaced, anything else that is in the way is
/// an error. After an error nothing has changed.
pub fn write_model_dir(
    path: impl AsRef<Path>,
    contents: &Contents<'_>,
    mut tensor: impl FnMut(&Parameter) -> Result<Vec<u8>, BoxError>,
) -> Result<Record, ModelDirError> {
    // A path such as `.` has no name and no sibling until it is resolved.
    let path = std::path::absolute(path.as_ref())
        .map_err(|source| io_error("resolve path", path.as_ref())(source))?;
    let path = path.as_path();
    check_tokenizer(contents)?;
    check_target(path)?;
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(io_error("create directory", parent))?;
    let building = Temporary(sibling(path, "new"));
    fs::create_dir(&building.0).map_err(io_error("create directory", &building.0))?;

    let weights_blake3 = write_weights(&building.0.join(WEIGHTS_FILE), contents, &mut tensor)?;
    write_file(
        &building.0.join(TOKENIZER_FILE),
        contents.tokenizer_json.as_bytes(),
    )?;
    let record = Record {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        weights_blake3,
        tokenizer_blake3: blake3::hash(contents.tokenizer_json.as_bytes())
            .to_hex()
            .to_string(),
        notes: contents.notes.clone(),
    };
    let config = format!("{:#}\n", Value::Object(config_map(contents, &record)));
    write_file(&building.0.join(CONFIG_FILE), config.as_bytes())?;
    sync_dir(&building.0)?;
    put_in_place(&building.0, path)?;
    sync_dir(parent)?;
    Ok(record)
}

/// The content of `config.json`.
fn config_map(contents: &Contents<'_>, record: &Record) -> Map<String, Value> {
    let class = match contents.head {
        Head::None => "BertModel",
        Head::MaskedLm => "BertForMaskedLM",
        Head::SequenceClassification { .. } => "BertForSequenceClassification",
    };
    // `transformers` has no class for a mixture, and must not take it for a vanilla model.
    let prefix = if contents.architecture.moe.is_some() {
        "TcdMoe"
    } else {
        ""
    };
    let mut map = Map::new();
    map.insert(
        "architectures".to_owned(),
        json!([format!("{prefix}{class}")]),
    );
    map.extend(contents.architecture.to_map());
    if let Head::SequenceClassification { labels } = contents.head {
        let name = |index: usize| {
            contents
                .labels
                .get(index)
                .cloned()
                .unwrap_or_else(|| format!("LABEL_{index}"))
        };
        let names: Map<_, _> = (0..labels)
            .map(|index| (index.to_string(), name(index).into()))
            .collect();
        let indices: Map<_, _> = (0..labels)
            .map(|index| (name(index), index.into()))
            .collect();
        map.insert("id2label".to_owned(), Value::Object(names));
        map.insert("label2id".to_owned(), Value::Object(indices));
    }
    map.extend(contents.keys.clone());
    map.insert("tcd".to_owned(), json!(record));
    map
}

/// Streams the tensors; gives the file's hash.
fn write_weights(
    path: &Path,
    contents: &Contents<'_>,
    tensor: &mut dyn FnMut(&Parameter) -> Result<Vec<u8>, BoxError>,
) -> Result<String, ModelDirError> {
    let mut table = parameters(contents.architecture, contents.head);
    if table.iter().any(|row| row.name == DECODER_WEIGHT) {
        // Beside an untied decoder `transformers` computes with the decoder's own bias.
        let bias = table.iter().find(|row| row.name == DECODER_BIAS).cloned();
        table.extend(bias.map(|row| Parameter {
            name: DECODER_BIAS_COPY.to_owned(),
            ..row
        }));
    }
    table.sort_by(|left, right| left.name.cmp(&right.name));
    write_tensors(path, &table, tensor)
}

/// Writes a safetensors file of f32 tensors, flushed to disk; gives its BLAKE3 hash.
///
/// `tensor` gives the values as for [`write_model_dir`], once for each row of `table`, in its order: one tensor is in memory at
/// a time. After an error the file is not whole: callers write beside the place and rename.
pub fn write_tensors(
    path: &Path,
    table: &[Parameter],
    tensor: &mut dyn FnMut(&Parameter) -> Result<Vec<u8>, BoxError>,
) -> Result<String, ModelDirError> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for row in table {
        let end = offset + row.bytes();
        header.insert(
            row.name.clone(),
            json!({"dtype": "F32", "shape": row.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // Data start at a multiple of eight, as the safetensors library writes it.
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));
    if header.len() > MAX_HEADER {
        return Err(ModelDirError::Header { got: header.len() });
    }

    let mut hasher = blake3::Hasher::new();
    let file = File::create(path).map_err(io_error("create", path))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut write = |bytes: &[u8]| {
        hasher.update(bytes);
        file.write_all(bytes).map_err(io_error("write", path))
    };
    write(&(header.len() as u64).to_le_bytes())?;
    write(header.as_bytes())?;
    let mut bias = Vec::new();
    for row in table {
        if row.name == DECODER_BIAS_COPY {
            // Sorted, the copy comes after the bias.
            write(&bias)?;
            continue;
        }
        let bytes = tensor(row).map_err(|source| ModelDirError::Tensor {
            name: row.name.clone(),
            source,
        })?;
        if bytes.len() != row.bytes() {
            return Err(ModelDirError::TensorSize {
                name: row.name.clone(),
                expected: row.bytes(),
                got: bytes.len(),
            });
        }
        write(&bytes)?;
        if row.name == DECODER_BIAS {
            bias = bytes;
        }
    }
    let file = file
        .into_inner()
        .map_err(|error| io_error("write", path)(error.into_error()))?;
    file.sync_all().map_err(io_error("write to disk", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The tokenizer must be JSON, and every id that it can give must have an embedding.
fn check_tokenizer(contents: &Contents<'_>) -> Result<(), ModelDirError> {
    let tokenizer: Value = serde_json::from_str(contents.tokenizer_json).map_err(|error| {
        ModelDirError::Tokenizer(format!("`tokenizer.json` is not JSON: {error}"))
    })?;
    let vocabulary = match &tokenizer["model"]["vocab"] {
        Value::Object(ids) => ids.values().filter_map(Value::as_u64).max(),
        Value::Array(tokens) => (tokens.len() as u64).checked_sub(1),
        _ => None,
    };
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let highest = added
        .filter_map(|token| token["id"].as_u64())
        .chain(vocabulary)
        .max();
    let size = contents.architecture.vocab_size;
    match highest {
        None => Err(ModelDirError::Tokenizer(
            "`tokenizer.json` has no vocabulary".to_owned(),
        )),
        Some(id) if id >= size as u64 => Err(ModelDirError::Tokenizer(format!(
            "it has token id {id}, `vocab_size` is {size}"
        ))),
        Some(_) => Ok(()),
    }
}

/// Only nothing, an empty directory or an earlier model directory of this program may be replaced.
fn check_target(path: &Path) -> Result<(), ModelDirError> {
    let in_the_way = |why| {
        Err(ModelDirError::InTheWay {
            path: path.to_owned(),
            why,
        })
    };
    match fs::symlink_metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("look at", path)(source)),
        Ok(metadata) if !metadata.is_dir() => return in_the_way("it is not a directory"),
        Ok(_) => {}
    }
    let mut empty = true;
    for entry in fs::read_dir(path).map_err(io_error("read directory", path))? {
        let entry = entry.map_err(io_error("read directory", path))?;
        if entry
            .file_type()
            .map_err(io_error("look at", &entry.path()))?
            .is_dir()
        {
            return in_the_way("it has directories in it");
        }
        empty = false;
    }
    let config = fs::read_to_string(path.join(CONFIG_FILE)).unwrap_or_default();
    let ours =
        serde_json::from_str::<Value>(&config).is_ok_and(|config| config.get("tcd").is_some());
    if empty || ours {
        Ok(())
    } else {
        in_the_way("it is not empty and no model directory of this program")
    }
}

/// Renames the new directory to its name; an earlier one is set aside, and put back if that fails.
fn put_in_place(building: &Path, path: &Path) -> Result<(), ModelDirError> {
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(io_error("rename to", to));
    // An empty directory counts as absent: the rename replaces it.
    if !path.join(CONFIG_FILE).exists() {
        return rename(building, path);
    }
    let aside = sibling(path, "old");
    rename(path, &aside)?;
    if let Err(error) = rename(building, path) {
        rename(&aside, path)?;
        return Err(error);
    }
    drop(Temporary(aside));
    Ok(())
}

/// A name beside `path` that no other writer uses.
fn sibling(path: &Path, role: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.{role}.tmp", std::process::id()))
}

/// A directory that goes when this value goes; no matter if it has been renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // A leftover is hidden and named as temporary; an error here would hide the first one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ModelDirError> {
    let mut file = File::create(path).map_err(io_error("create", path))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("write to disk", path))
}

fn sync_dir(path: &Path) -> Result<(), ModelDirError> {
    // Only Unix lets a directory be opened and flushed.
    if cfg!(unix) {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error("write to disk", path))?;
    }
    Ok(())
}
