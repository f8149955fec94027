//! A directory without weights, as other exporters write it: what its ONNX file gives of the hidden states.
//!
//! Outputs that bear the name of a tap are that tap; `last_hidden_state`, which nearly every exporter gives, is the last layer's
//! trunk. Sizes come from `config.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use tcd_export::onnx::{FEATURES_FILE, MODEL_FILE, OnnxFile};
use tcd_export::{CONFIG_FILE, Tap, WEIGHTS_FILE};

/// Name of the last layer's output in files of other exporters.
const LAST: &str = "last_hidden_state";

/// Sizes that a features file needs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Layers.
    pub layers: usize,
    /// Width of a hidden state.
    pub hidden: usize,
    /// Attention heads, where known.
    pub heads: Option<usize>,
    /// Experts a layer of a mixture.
    pub experts: Option<usize>,
}

/// An ONNX file and how its outputs answer the taps that were asked for.
#[derive(Debug)]
pub struct Outside {
    /// The file.
    pub path: PathBuf,
    /// The model's sizes.
    pub sizes: Sizes,
    /// Each tap with the output that holds it.
    pub taps: Vec<(Tap, String)>,
    /// Outputs a row of a classifier or regressor in the same file.
    pub classes: Option<usize>,
    /// What is to be said about it.
    pub note: Option<String>,
}

/// Whether a directory has an ONNX file and no weights.
pub fn is_outside(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).is_file();
    !has(WEIGHTS_FILE) && (has(MODEL_FILE) || has(FEATURES_FILE))
}

impl Outside {
    /// Looks into a directory for the taps of these words.
    pub fn open(dir: &Path, words: &[String]) -> Result<Self> {
        let sizes = sizes(dir)?;
        let wanted = Tap::select(words, sizes.layers)?;
        let mut files = Vec::new();
        for name in [FEATURES_FILE, MODEL_FILE] {
            let path = dir.join(name);
            if path.is_file() {
                files.push(OnnxFile::open(&path)?);
            }
        }
        let answered: Vec<Vec<(Tap, String)>> = files
            .iter()
            .map(|file| {
                let find = |tap: &Tap| Some((*tap, output(file, *tap, sizes.layers)?));
                wanted.iter().filter_map(find).collect()
            })
            .collect();
        let best =
            (0..files.len()).max_by_key(|&place| (answered[place].len(), files.len() - place));
        let place = best.with_context(|| format!("no ONNX model in `{}`", dir.display()))?;
        let (file, taps) = (&files[place], answered[place].clone());
        let missing: Vec<String> = wanted
            .iter()
            .filter(|tap| taps.iter().all(|(known, _)| known != *tap))
            .map(ToString::to_string)
            .collect();
        let mut note = None;
        if !missing.is_empty() {
            // The default asks for every layer, and most files give the last one alone.
            if words == ["trunk"] && !taps.is_empty() {
                note = Some(format!(
                    "`{}` gives no hidden states but {}; hint: those of every layer come from the model's weights (`{WEIGHTS_FILE}`), or from a file of `tcd export --features all`",
                    file.path.display(),
                    names(&taps)
                ));
            } else {
                bail!(
                    "no {} in `{}`, and no `{WEIGHTS_FILE}` beside it to export them from; hint: {}, or copy the `{FEATURES_FILE}` there that `tcd export --features {}` writes from the weights",
                    missing.join(", "),
                    file.path.display(),
                    match output(file, Tap::Trunk(sizes.layers - 1), sizes.layers) {
                        Some(_) => format!("it has `--taps layer.{}.trunk`", sizes.layers - 1),
                        None => format!("its outputs are {}", outputs(file)),
                    },
                    words.join(",")
                );
            }
        }
        let classes = file.outputs.iter().find(|port| port.name == "logits");
        let classes = classes.and_then(|port| match port.shape.as_deref() {
            Some([_, tcd_export::onnx::Length::Is(width)]) => Some(*width),
            _ => None,
        });
        Ok(Self {
            path: file.path.clone(),
            sizes,
            taps,
            classes,
            note,
        })
    }
}

fn names(taps: &[(Tap, String)]) -> String {
    let names: Vec<String> = taps.iter().map(|(tap, _)| tap.to_string()).collect();
    names.join(", ")
}

fn outputs(file: &OnnxFile) -> String {
    let names: Vec<&str> = file.outputs.iter().map(|port| port.name.as_str()).collect();
    names.join(", ")
}

/// The output that holds a tap.
fn output(file: &OnnxFile, tap: Tap, layers: usize) -> Option<String> {
    let has = |name: &str| file.outputs.iter().any(|port| port.name == name);
    let own = tap.to_string();
    if has(&own) {
        return Some(own);
    }
    (tap == Tap::Trunk(layers.saturating_sub(1)) && has(LAST)).then(|| LAST.to_owned())
}

/// Sizes as `config.json` tells them, under the names of BERT or of DistilBERT.
fn sizes(dir: &Path) -> Result<Sizes> {
    let path = dir.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let config: Map<String, Value> = serde_json::from_str(&text)
        .with_context(|| format!("not a JSON object: `{}`", path.display()))?;
    let number = |names: &[&str]| {
        let found = names.iter().find_map(|name| config.get(*name)?.as_u64());
        found
            .and_then(|value| usize::try_from(value).ok())
            .filter(|&value| value > 0)
    };
    let needed = |names: &[&str]| {
        number(names).with_context(|| {
            format!(
                "no `{}` in `{}`; hint: copy the model's own `{CONFIG_FILE}` there",
                names[0],
                path.display()
            )
        })
    };
    Ok(Sizes {
        layers: needed(&["num_hidden_layers", "n_layers"])?,
        hidden: needed(&["hidden_size", "dim"])?,
        heads: number(&["num_attention_heads", "n_heads"]),
        experts: None,
    })
}
