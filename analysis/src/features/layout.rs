//! What a features file may hold: names, types, shapes, metadata and rows, checked against the table of
//! [`crate::features`].

use std::collections::{BTreeMap, HashMap, HashSet};

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::{FORMAT, FeaturesInfo, RowSpan};

/// Kinds of tensors, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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

pub(super) fn kind(name: &str) -> Option<Kind> {
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

/// The metadata, checked.
pub(super) fn read_info(
    metadata: Option<&HashMap<String, String>>,
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
pub(super) fn check_tensors(
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
pub(super) fn spans(row: &[u32], positions: &[u32]) -> Result<Vec<RowSpan>, String> {
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
