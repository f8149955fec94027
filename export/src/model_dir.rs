//! The model directory: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! A directory is written beside its place and renamed, so a name never holds half a model.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{Architecture, ConfigError, ModelConfig};
use crate::parameters::{Head, parameters};
use crate::safetensors_writer::{WriteError, write_safetensors};
use crate::weights::{Weights, WeightsError};

/// Why a model directory could not be read or written.
#[derive(Debug, Error)]
pub enum ModelDirError {
    /// The system refused.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// `config.json` is not a configuration.
    #[error("`{}` is not a model configuration", path.display())]
    Json {
        /// File.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: serde_json::Error,
    },
    /// The configuration cannot be built.
    #[error("`{}` cannot be used", path.display())]
    Config {
        /// File.
        path: PathBuf,
        /// All violations.
        #[source]
        source: ConfigError,
    },
    /// There is no `model.safetensors`.
    #[error("`{}` has no `model.safetensors`{hint}", path.display())]
    NoWeights {
        /// Directory.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// The weights are not the model's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A model directory, its configuration checked.
#[derive(Debug)]
pub struct ModelDir {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds.
    pub arch: Architecture,
}

impl ModelDir {
    /// Reads and checks `config.json`.
    pub fn open(path: &Path) -> Result<Self, ModelDirError> {
        let file = path.join("config.json");
        let text = fs::read_to_string(&file).map_err(|source| ModelDirError::Io {
            path: file.clone(),
            source,
        })?;
        let config: ModelConfig =
            serde_json::from_str(&text).map_err(|source| ModelDirError::Json {
                path: file.clone(),
                source,
            })?;
        let arch = config
            .validate()
            .map_err(|source| ModelDirError::Config { path: file, source })?;
        Ok(ModelDir {
            path: path.to_path_buf(),
            arch,
        })
    }

    /// Reads the weights strictly for `head`. The architecture that comes back says whether the decoder is tied, as the file
    /// has it.
    pub fn weights(&self, head: Head) -> Result<(Architecture, Weights), ModelDirError> {
        let file = self.path.join("model.safetensors");
        if !file.exists() {
            let hint = if self.path.join("pytorch_model.bin").exists() {
                "; hint: load it with `transformers` and save it again with `safe_serialization=True`"
            } else {
                "; hint: name a directory that holds a finished model"
            };
            return Err(ModelDirError::NoWeights {
                path: self.path.clone(),
                hint,
            });
        }
        let mut weights = Weights::open(&file)?;
        let untied = weights.normalise(matches!(head, Head::SequenceClassification { .. }));
        let mut config = self.arch.clone().into_config();
        config.tie_word_embeddings = !untied;
        let arch = config.validate().map_err(|source| ModelDirError::Config {
            path: self.path.clone(),
            source,
        })?;
        weights.check(&parameters(&arch, head))?;
        Ok((arch, weights))
    }

    /// The tokenizer file: `tokenizer.json`, else `vocab.txt`.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        ["tokenizer.json", "vocab.txt"]
            .iter()
            .map(|n| self.path.join(n))
            .find(|p| p.exists())
    }
}

/// Writes a model directory in one step, as far as a reader can see: all of it, or nothing. `read` gives the values of one
/// parameter at a time. An existing directory of that name is replaced. Returns the blake3 hash of the weights.
pub fn write_model_dir(
    path: &Path,
    arch: &Architecture,
    head: Head,
    tokenizer_json: &str,
    read: impl FnMut(&str) -> Vec<f32>,
) -> Result<String, ModelDirError> {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let beside = |suffix: &str| path.with_file_name(format!(".{name}.{suffix}"));
    let temporary = beside("partial");
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ModelDirError::Io { path, source }
    };
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(io(&temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(io(&temporary))?;
    let result = (|| {
        let table = parameters(arch, head);
        let hash = write_safetensors(
            &temporary.join("model.safetensors"),
            table.iter().map(|p| (p.name.as_str(), p.shape.as_slice())),
            read,
        )?;
        let config = serde_json::to_string_pretty(&**arch).expect("a configuration is plain data");
        for (file, text) in [("tokenizer.json", tokenizer_json), ("config.json", &config)] {
            let file = temporary.join(file);
            fs::write(&file, text).map_err(io(&file))?;
        }
        if path.exists() {
            let old = beside("replaced");
            let _ = fs::remove_dir_all(&old);
            fs::rename(path, &old).map_err(io(path))?;
            fs::rename(&temporary, path).map_err(io(path))?;
            let _ = fs::remove_dir_all(&old);
        } else {
            fs::rename(&temporary, path).map_err(io(path))?;
        }
        Ok(hash)
    })();
    if result.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::MoeConfig;

    fn tiny(moe: Option<MoeConfig>) -> Architecture {
        ModelConfig {
            vocab_size: 11,
            hidden_size: 4,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 6,
            max_position_embeddings: 5,
            moe,
            ..ModelConfig::default()
        }
        .validate()
        .unwrap()
    }

    fn value(name: &str, len: usize) -> Vec<f32> {
        let seed = name.bytes().map(u32::from).sum::<u32>();
        (0..len).map(|i| (seed + i as u32) as f32).collect()
    }

    /// Writes tensors under other names, shapes or without some: `change` maps a row to what is written.
    fn variant(
        dir: &Path,
        arch: &Architecture,
        change: impl Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>,
        extra: &[(&str, &[usize])],
    ) {
        fs::create_dir_all(dir).unwrap();
        fs::write(
            dir.join("config.json"),
            serde_json::to_string(&**arch).unwrap(),
        )
        .unwrap();
        let mut rows: Vec<(String, Vec<usize>, String)> = parameters(arch, Head::MaskedLm)
            .iter()
            .filter_map(|p| change(&p.name, &p.shape).map(|(n, s)| (n, s, p.name.clone())))
            .collect();
        rows.extend(
            extra
                .iter()
                .map(|(n, s)| (n.to_string(), s.to_vec(), n.to_string())),
        );
        let shapes: std::collections::BTreeMap<_, _> = rows
            .iter()
            .map(|(n, s, o)| (n.clone(), (s.clone(), o.clone())))
            .collect();
        write_safetensors(
            &dir.join("model.safetensors"),
            rows.iter().map(|(n, s, _)| (n.as_str(), s.as_slice())),
            |n| {
                let (shape, original) = &shapes[n];
                let original = if n == "cls.predictions.decoder.bias" {
                    "cls.predictions.bias"
                } else {
                    original
                };
                value(original, shape.iter().product())
            },
        )
        .unwrap();
    }

    #[test]
    fn a_written_directory_reads_back_and_replaces_an_older_one() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        for moe in [
            None,
            Some(MoeConfig {
                num_experts: 3,
                ..MoeConfig::default()
            }),
        ] {
            let arch = tiny(moe);
            let table = parameters(&arch, Head::MaskedLm);
            let len = |n: &str| {
                table
                    .iter()
                    .find(|p| p.name == n)
                    .unwrap()
                    .shape
                    .iter()
                    .product()
            };
            write_model_dir(&dir, &arch, Head::MaskedLm, "{}", |n| value(n, len(n))).unwrap();
            let (back, weights) = ModelDir::open(&dir)
                .unwrap()
                .weights(Head::MaskedLm)
                .unwrap();
            assert_eq!(back, arch);
            for p in &table {
                assert_eq!(
                    weights.values(&p.name).unwrap(),
                    value(&p.name, len(&p.name)),
                    "{}",
                    p.name
                );
            }
        }
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            1,
            "nothing else is left beside it"
        );
    }

    #[test]
    fn a_failed_write_leaves_the_old_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        let arch = tiny(None);
        let table = parameters(&arch, Head::MaskedLm);
        let len = |n: &str| {
            table
                .iter()
                .find(|p| p.name == n)
                .unwrap()
                .shape
                .iter()
                .product()
        };
        write_model_dir(&dir, &arch, Head::MaskedLm, "{}", |n| value(n, len(n))).unwrap();
        let before = fs::read(dir.join("model.safetensors")).unwrap();
        let error = write_model_dir(&dir, &arch, Head::MaskedLm, "{}", |_| vec![1.0]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("word_embeddings.weight` has 1 values, expected 44"),
            "{error}"
        );
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), before);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn hugging_face_variants_load() {
        let root = tempfile::tempdir().unwrap();
        let arch = tiny(None);
        let bare = root.path().join("bare");
        variant(
            &bare,
            &arch,
            |n, s| {
                Some((
                    n.trim_start_matches("bert.")
                        .replace("LayerNorm.weight", "LayerNorm.gamma"),
                    s.to_vec(),
                ))
            },
            &[
                ("pooler.dense.weight", &[4, 4]),
                ("embeddings.position_ids", &[1, 5]),
                ("cls.seq_relationship.bias", &[2]),
                ("cls.predictions.decoder.bias", &[11]),
            ],
        );
        let (back, weights) = ModelDir::open(&bare)
            .unwrap()
            .weights(Head::MaskedLm)
            .unwrap();
        assert!(back.tie_word_embeddings);
        assert_eq!(weights.dropped().len(), 4, "{:?}", weights.dropped());
        let untied = root.path().join("untied");
        variant(
            &untied,
            &arch,
            |n, s| Some((n.to_string(), s.to_vec())),
            &[("cls.predictions.decoder.weight", &[11, 4])],
        );
        let (back, weights) = ModelDir::open(&untied)
            .unwrap()
            .weights(Head::MaskedLm)
            .unwrap();
        assert!(!back.tie_word_embeddings);
        assert!(weights.values("cls.predictions.decoder.weight").is_some());
    }

    #[test]
    fn everything_wrong_is_named_in_one_error() {
        let root = tempfile::tempdir().unwrap();
        let arch = tiny(None);
        let dir = root.path().join("wrong");
        variant(
            &dir,
            &arch,
            |n, s| match n {
                "bert.encoder.layer.0.output.dense.bias" => None,
                "bert.encoder.layer.0.intermediate.dense.weight" => {
                    Some((n.to_string(), vec![s[1], s[0]]))
                }
                _ => Some((n.to_string(), s.to_vec())),
            },
            &[("bert.encoder.layer.1.output.dense.bias", &[4])],
        );
        let text = ModelDir::open(&dir)
            .unwrap()
            .weights(Head::MaskedLm)
            .unwrap_err()
            .to_string();
        for part in [
            "missing `bert.encoder.layer.0.output.dense.bias` [4]",
            "`bert.encoder.layer.0.intermediate.dense.weight` has shape [4, 6], expected [6, 4]",
            "unexpected `bert.encoder.layer.1.output.dense.bias`",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
        // A type: rewrite the header of a good file, F32 -> I32 has the same size.
        let good = root.path().join("good");
        variant(&good, &arch, |n, s| Some((n.to_string(), s.to_vec())), &[]);
        let file = good.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        let at = bytes.windows(3).position(|w| w == b"F32").unwrap();
        let mut typed = bytes.clone();
        typed[at] = b'I';
        fs::write(&file, &typed).unwrap();
        let text = ModelDir::open(&good)
            .unwrap()
            .weights(Head::MaskedLm)
            .unwrap_err()
            .to_string();
        assert!(text.contains("has type I32, expected F32"), "{text}");
        fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
        let text = ModelDir::open(&good)
            .unwrap()
            .weights(Head::MaskedLm)
            .unwrap_err()
            .to_string();
        assert!(text.contains("not a complete safetensors file"), "{text}");
        fs::remove_file(&file).unwrap();
        fs::write(good.join("pytorch_model.bin"), b"x").unwrap();
        let text = ModelDir::open(&good)
            .unwrap()
            .weights(Head::MaskedLm)
            .unwrap_err()
            .to_string();
        assert!(text.contains("safe_serialization"), "{text}");
    }
}
