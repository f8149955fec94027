//! `tcd features`: hidden states of a model on rows of text, token by token, as a features file (`tcd_analysis::features`).

mod masked;
mod outside;
mod place;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use tcd_analysis::{FeaturesInfo, FeaturesWriter, Slot};
use tcd_export::onnx::{self, FEATURES_FILE, MODEL_FILE, OnnxFile};
use tcd_export::runtime::Runtime;
use tcd_export::{Head, ModelDir, TOKENIZER_FILE, Tap, WEIGHTS_FILE};

use self::masked::{likely, mask, unmasked};
use self::outside::{Outside, Sizes, is_outside};
use self::place::{fixed, place};
use super::engine::Engine;
use super::progress::Progress;
use super::rows::{Rows, Source};
use super::{Outcome, command_line, note};
use crate::eval::encode::{Padded, batches, encode};
use crate::eval::model::Model;
use crate::eval::{run, runtimes};

/// Arguments of `tcd features`.
///
/// Writes a safetensors file: for each token (padding left out) `input_ids`, `row`, `position`, and a matrix for each tap,
/// `[tokens, width]`; experts and gates of a mixture with `--routing`; labels and the head's outputs by row where there are.
/// Batches go to their places in the file as they come, so memory does not grow with the rows.
///
/// With `--masked` the rows are masked as in pre-training, by a generator made of seed and row number, so that all models of one vocabulary
/// see the same masks; the log-likelihood of each masked token goes into the file, which `tcd analyze likelihood` reads.
///
/// On onnxruntime and tract the taps come from `features.onnx` beside the model, or from a temporary file where that lacks them.
/// Lines without text are left out. A directory of another exporter, with `model.onnx` and no weights, gives what its outputs hold: `last_hidden_state` is the
/// trunk of the last layer.
///
/// Examples:
///   tcd features --model runs/vanilla/model --out vanilla.safetensors text.txt
///   tcd features --model runs/moe/model --taps all --routing --task SST-2 --data glue --out moe.safetensors
///   tcd features --model runs/moe/model --masked --taps none --max-length 128 --limit 500 --out ood.safetensors speeches.txt
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Features {
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    source: Source,
    /// Hidden states to take, as `tcd export --features` names them; `none` for none.
    #[arg(long, value_delimiter = ',', num_args = 1.., default_value = "trunk", value_name = "TAP")]
    taps: Vec<String>,
    /// Take each token's expert and its probability too (mixtures of experts; on onnxruntime or tract).
    #[arg(long)]
    routing: bool,
    /// Mask rows as in pre-training (15 %) and take the log-likelihood of what was masked (masked-LM models).
    #[arg(long)]
    masked: bool,
    /// Seed of the masks.
    #[arg(long, default_value_t = 0, value_name = "SEED", requires = "masked")]
    mask_seed: u64,
    /// At most this many rows, spread evenly over the data.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What is taken of a model.
struct Wanted {
    /// Each tap with the output that holds it.
    taps: Vec<(Tap, String)>,
    routing: bool,
    logits: Option<usize>,
    sizes: Sizes,
    /// Log-likelihood of masked tokens.
    masked: bool,
}

impl Wanted {
    /// Names of the model's outputs.
    fn outputs(&self) -> Vec<String> {
        let mut names: Vec<String> = self.taps.iter().map(|(_, name)| name.clone()).collect();
        if self.routing {
            let layers = 0..self.sizes.layers;
            names.extend(
                layers.flat_map(|layer| [format!("expert.{layer}"), format!("gate.{layer}")]),
            );
        }
        if self.logits.is_some() || self.masked {
            names.push("logits".to_owned());
        }
        names
    }

    /// What an output is called in the features file.
    fn slot(&self, output: &str) -> String {
        let tap = self.taps.iter().find(|(_, name)| name == output);
        match tap {
            Some((tap, _)) => tap.to_string(),
            None if output == "logits" => "rows.logits".to_owned(),
            None => output.to_owned(),
        }
    }

    /// Tensors of the file.
    fn slots(&self, tokens: usize, rows: &Rows) -> Vec<Slot> {
        let one = [tokens];
        let mut slots: Vec<Slot> = ["input_ids", "row", "position"]
            .map(|name| Slot::ints(name, &one))
            .into();
        let width = self.sizes.hidden;
        slots.extend(
            self.taps
                .iter()
                .map(|(tap, _)| Slot::floats(tap.to_string(), &[tokens, width])),
        );
        if self.routing {
            for layer in 0..self.sizes.layers {
                slots.push(Slot::ints(format!("expert.{layer}"), &one));
                slots.push(Slot::floats(format!("gate.{layer}"), &one));
            }
        }
        if self.masked {
            slots.extend(["masked", "original_ids"].map(|name| Slot::ints(name, &one)));
            slots.push(Slot::floats("log_likelihood", &one));
        }
        let count = rows.examples.len();
        slots.push(Slot::ints("rows.id", &[count]));
        if rows.examples.iter().all(|row| row.target.is_some()) {
            slots.push(Slot::floats("rows.label", &[count]));
        }
        slots.extend(
            self.logits
                .map(|classes| Slot::floats("rows.logits", &[count, classes])),
        );
        slots
    }
}

impl Features {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let start = Instant::now();
        let model = Model::open(&self.engine.model)?;
        let origin = self.origin()?;
        let wanted = self.wanted(&origin)?;
        let rows = self.rows()?;
        let max_length = self.engine.row_length(&model);
        let mut set = encode(&model.tokenizer, &rows.examples, max_length)?;
        if set.truncated > 0 {
            note(&format!(
                "{} of {} rows cut to {max_length} tokens",
                set.truncated,
                set.rows.len()
            ));
        }
        let targets = match self.masked {
            true => mask(&mut set, &model, &rows, self.mask_seed),
            false => Vec::new(),
        };
        let runtime = self.runtime()?;
        let file = match &origin {
            Origin::Weights(weights) => self.file(&*runtime, weights, &wanted)?,
            Origin::File(outside) => ModelFile {
                path: outside.path.clone(),
                temporary: None,
            },
        };
        let session = self.engine.load(&*runtime, &file.path, &wanted.outputs())?;
        let mut workers = session.workers();
        drop(file);

        let mut starts = vec![0];
        for row in &set.rows {
            starts.push(starts[starts.len() - 1] + row.ids.len());
        }
        let tokens = starts[set.rows.len()];
        let info = self.info(&model, &origin, wanted.sizes, &rows)?;
        let slots = wanted.slots(tokens, &rows);
        let mut writer = FeaturesWriter::create(&self.out, &info, slots)?;
        fixed(&mut writer, &set, &rows, &starts)?;
        unmasked(&mut writer, &set, &targets, &starts)?;
        let progress = Progress::new("features", "rows", set.rows.len());
        let size = self.engine.batch_size(&model, workers.len());
        for group in batches(&set, size.shared(&set, workers.len())).chunks(workers.len()) {
            let padded: Vec<Padded> = group.iter().map(|batch| Padded::new(&set, batch)).collect();
            let outputs = run::together(&mut workers, &padded)?;
            for ((batch, padded), outputs) in group.iter().zip(&padded).zip(&outputs) {
                for output in outputs {
                    if self.masked && output.name == "logits" {
                        likely(&mut writer, output, &set, batch, &targets, &starts)?;
                        continue;
                    }
                    let slot = wanted.slot(&output.name);
                    place(&mut writer, &slot, output, padded, batch, &set, &starts)?;
                }
                progress.advance(batch.len());
            }
        }
        drop(progress);
        writer.finish()?;
        note(&format!(
            "{}: {} taps of {tokens} tokens in {} rows, on {} in {:.1} s",
            self.out.display(),
            wanted.taps.len(),
            set.rows.len(),
            runtime.name(),
            start.elapsed().as_secs_f64()
        ));
        Ok(Outcome::Done)
    }

    /// The engine; where none is named and routes are asked for, which libtorch does not give, the first of the others that can be used.
    fn runtime(&self) -> Result<Box<dyn Runtime>> {
        if self.routing && self.engine.runtime.is_none() {
            for name in ["ort", "tract"] {
                if let Ok(runtime) = runtimes::runtime(Some(name))
                    && runtime.check().is_ok()
                {
                    return Ok(runtime);
                }
            }
        }
        self.engine.runtime()
    }

    /// The rows that take part: those with text, at most as many as asked for.
    fn rows(&self) -> Result<Rows> {
        let mut rows = self.source.read()?;
        let before = rows.examples.len();
        rows.examples
            .retain(|row| !row.first.trim().is_empty() || row.second.is_some());
        let count = rows.examples.len();
        if count == 0 {
            bail!("no row of `{}` has text", rows.name);
        }
        if count < before {
            note(&format!("{} lines without text left out", before - count));
        }
        if let Some(limit) = self.limit.map(|n| n as usize).filter(|n| *n < count) {
            // The first row of each of `limit` parts, as equal as they can be.
            let mut place = 0;
            rows.examples.retain(|_| {
                place += 1;
                ((place - 1) * limit) % count < limit
            });
            note(&format!("{limit} of {count} rows, spread evenly"));
        }
        Ok(rows)
    }

    /// The weights, or the ONNX file where there are none.
    fn origin(&self) -> Result<Origin> {
        let dir = &self.engine.model;
        if !is_outside(dir) {
            return Ok(Origin::Weights(Box::new(ModelDir::open(dir)?)));
        }
        let outside = Outside::open(dir, &self.taps)?;
        outside.note.iter().for_each(|line| note(line));
        Ok(Origin::File(outside))
    }

    fn wanted(&self, origin: &Origin) -> Result<Wanted> {
        let without = || {
            anyhow::anyhow!(
                "`{}` has no experts; hint: leave `--routing` out",
                self.engine.model.display()
            )
        };
        match origin {
            Origin::Weights(weights) => {
                let architecture = weights.architecture();
                if self.routing && architecture.experts().is_none() {
                    return Err(without());
                }
                if self.masked && weights.head() != Head::MaskedLm {
                    bail!(
                        "`{}` has no masked-LM head; hint: `--masked` is for pre-trained models, not for fine-tuned ones",
                        self.engine.model.display()
                    );
                }
                let none = self.taps == ["none"];
                if none && !self.routing && !self.masked {
                    bail!(
                        "nothing to take; hint: `--taps none` goes with `--routing` or `--masked`"
                    );
                }
                let taps = match none {
                    true => Vec::new(),
                    false => Tap::select(&self.taps, architecture.num_hidden_layers)?,
                };
                Ok(Wanted {
                    taps: taps.into_iter().map(|tap| (tap, tap.to_string())).collect(),
                    routing: self.routing,
                    logits: match weights.head() {
                        Head::SequenceClassification { labels } => Some(labels),
                        _ => None,
                    },
                    masked: self.masked,
                    sizes: Sizes {
                        layers: architecture.num_hidden_layers,
                        hidden: architecture.hidden_size,
                        heads: Some(architecture.num_attention_heads),
                        experts: architecture.experts(),
                    },
                })
            }
            Origin::File(outside) => {
                if self.masked {
                    bail!(
                        "`--masked` needs the weights, and `{}` has no `{WEIGHTS_FILE}`; hint: give the pre-trained model's directory",
                        self.engine.model.display()
                    );
                }
                if self.routing {
                    bail!(
                        "`--routing` needs the weights, and `{}` has no `{WEIGHTS_FILE}`; hint: leave it out",
                        self.engine.model.display()
                    );
                }
                Ok(Wanted {
                    taps: outside.taps.clone(),
                    routing: false,
                    logits: outside.classes,
                    sizes: outside.sizes,
                    masked: false,
                })
            }
        }
    }

    /// What the engine loads: the directory on libtorch; else a file that has the taps.
    fn file(&self, runtime: &dyn Runtime, model: &ModelDir, wanted: &Wanted) -> Result<ModelFile> {
        let dir = &self.engine.model;
        if runtime.name() == "tch" {
            if wanted.routing {
                bail!("`--routing` needs the engine `ort` or `tract`");
            }
            return Ok(ModelFile {
                path: dir.clone(),
                temporary: None,
            });
        }
        let file_name = match wanted.taps.is_empty() && !wanted.routing {
            true => MODEL_FILE,
            false => FEATURES_FILE,
        };
        let path = dir.join(file_name);
        let names = wanted.outputs();
        if let Ok(file) = OnnxFile::open(&path)
            && names
                .iter()
                .all(|name| file.outputs.iter().any(|port| port.name == *name))
        {
            return Ok(ModelFile {
                path,
                temporary: None,
            });
        }
        let mut folder = self.out.clone().into_os_string();
        folder.push(format!(".{}.onnx.tmp", std::process::id()));
        let folder = PathBuf::from(folder);
        let options = onnx::Options {
            taps: wanted.taps.iter().map(|(tap, _)| *tap).collect(),
            routing: wanted.routing,
            ..onnx::Options::default()
        };
        let temporary = ModelFile {
            path: folder.join(file_name),
            temporary: Some(folder.clone()),
        };
        onnx::export(model, &folder, &options)
            .with_context(|| format!("cannot export the taps of `{}`", dir.display()))?;
        note(&format!(
            "what is asked for is not in a `{file_name}` beside the model: exported to a temporary file"
        ));
        Ok(temporary)
    }

    fn info(
        &self,
        model: &Model,
        origin: &Origin,
        sizes: Sizes,
        rows: &Rows,
    ) -> Result<FeaturesInfo> {
        let recorded = match origin {
            Origin::Weights(weights) => weights
                .record()
                .map(|record| record.weights_blake3.clone())
                .map_or_else(|| weights.weights_hash(), Ok)
                .with_context(|| format!("cannot read `{WEIGHTS_FILE}`"))?,
            Origin::File(outside) => blake3::Hasher::new()
                .update_mmap_rayon(&outside.path)
                .with_context(|| format!("cannot read `{}`", outside.path.display()))?
                .finalize()
                .to_hex()
                .to_string(),
        };
        Ok(FeaturesInfo {
            command: command_line(),
            model: model.path.display().to_string(),
            model_blake3: recorded,
            tokenizer_blake3: tokenizer_hash(&model.path)?,
            data: rows.name.clone(),
            data_blake3: rows.hash.clone(),
            special_ids: model
                .tokenizer
                .special()
                .ids()
                .iter()
                .map(|&id| i64::from(id))
                .collect(),
            task: rows.task.map(|task| task.name.to_owned()),
            labels: rows.task.map(|task| task.label_names()).unwrap_or_default(),
            num_experts: sizes.experts,
            num_heads: sizes.heads,
        })
    }
}

/// BLAKE3 of the tokenizer's file.
fn tokenizer_hash(dir: &std::path::Path) -> Result<String> {
    let file = [TOKENIZER_FILE, "vocab.txt"]
        .map(|name| dir.join(name))
        .into_iter()
        .find(|file| file.is_file())
        .with_context(|| format!("no `{TOKENIZER_FILE}` in `{}`", dir.display()))?;
    let bytes =
        std::fs::read(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// Where hidden states come from.
enum Origin {
    /// A directory with weights, from which any tap can be exported.
    Weights(Box<ModelDir>),
    /// An ONNX file that is all there is.
    File(Outside),
}

/// A file that an engine loads.
struct ModelFile {
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            // Its name says that it is temporary; nothing more can be done.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
