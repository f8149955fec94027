//! What commands that run a finished model share: the engine's options, and how wide a model's outputs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use tcd_export::onnx::OnnxFile;
use tcd_export::runtime::{Options, Runnable, Runtime};
use tcd_export::{Head, ModelDir, WEIGHTS_FILE};

use crate::eval::encode::BatchSize;
use crate::eval::model::Model;
use crate::eval::runtimes;

/// A finished model and how to run it.
#[derive(Clone, Debug, Args)]
pub struct Engine {
    /// Model directory: `config.json`, `tokenizer.json`, and `model.onnx` or `model.safetensors` as the engine needs it.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Engine: `ort`, `tract` or `tch`. Default: the first that can be used here.
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// Threads; 0 takes all processors.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Positions of a batch, padding included. Default: 512, of a mixture of experts 2048; so many for each thread where several
    /// share the work of a batch.
    #[arg(long, value_name = "N")]
    pub batch_tokens: Option<usize>,
    /// Longest row, in tokens; longer ones lose the end of their longer text. Default: as in fine-tuning, else all that the
    /// model takes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(5..))]
    pub max_length: Option<u32>,
}

impl Engine {
    /// Threads inside a model.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// The engine, which can be used here.
    pub fn runtime(&self) -> Result<Box<dyn Runtime>> {
        if self.runtime.is_none() && !self.model.join(tcd_export::onnx::MODEL_FILE).is_file() {
            // Without an exported file only libtorch reads the model.
            if let Ok(tch) = runtimes::runtime(Some("tch"))
                && has_weights(&self.model)
            {
                return Ok(tch);
            }
        }
        let runtime = chosen(self.runtime.as_deref(), std::slice::from_ref(&self.model))?;
        runtime
            .check()
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("cannot use the engine `{}`", runtime.name()))?;
        Ok(runtime)
    }

    /// Loads a file of the model, or the directory as the engine has it.
    pub fn load(
        &self,
        runtime: &dyn Runtime,
        path: &Path,
        outputs: &[String],
    ) -> Result<Box<dyn Runnable>> {
        let options = Options {
            threads: self.threads(),
            outputs: outputs.to_vec(),
        };
        runtime
            .prepare(path, &options)
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("cannot load `{}` on {}", path.display(), runtime.name()))
    }

    /// How rows are put together for a model that is `workers` at once.
    pub fn batch_size(&self, model: &Model, workers: usize) -> BatchSize {
        let inside = self.threads() / workers.max(1);
        BatchSize::positions(self.batch_tokens, model.mixture, inside)
    }

    /// Longest row to encode.
    pub fn row_length(&self, model: &Model) -> usize {
        model.row_length(self.max_length.map(|length| length as usize))
    }
}

/// Whether libtorch has something to read there.
pub fn has_weights(model: &Path) -> bool {
    model.join(WEIGHTS_FILE).is_file()
}

/// The engine of a name; without one the first that can be used here and reads all the models.
pub fn chosen(name: Option<&str>, models: &[PathBuf]) -> Result<Box<dyn Runtime>> {
    let without = models.iter().find(|model| !has_weights(model));
    if let (Some("tch"), Some(model)) = (name, without)
        && model.join(tcd_export::onnx::MODEL_FILE).is_file()
    {
        bail!(
            "tch reads `{WEIGHTS_FILE}`, which is not in `{}`; hint: `--runtime ort` or `--runtime tract` runs the ONNX file there",
            model.display()
        );
    }
    if name.is_none() && without.is_some() {
        let usable = runtimes::runtimes()
            .into_iter()
            .find(|row| row.name() != "tch" && row.check().is_ok());
        if let Some(row) = usable {
            return Ok(row);
        }
    }
    runtimes::runtime(name).map_err(anyhow::Error::msg)
}

/// Outputs a row of a classifier or regressor, as its ONNX file, its weights or its labels tell.
pub fn width(model: &Model, runtime: &dyn Runtime) -> Result<usize> {
    if runtime.name() != "tch" {
        let file = OnnxFile::open(&model.path)?;
        let shape = file
            .outputs
            .iter()
            .find(|port| port.name == "logits")
            .map(|port| port.shape.clone().unwrap_or_default());
        match shape.as_deref() {
            Some([_, tcd_export::onnx::Length::Is(width)]) => return Ok(*width),
            Some([_, _] | []) => return Ok(model.labels.len().max(1)),
            _ => bail!(
                "`{}` is no classifier or regressor: it gives {}; hint: `tcd features` takes hidden states from any model",
                file.path.display(),
                file.outputs
                    .iter()
                    .map(|port| port.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }
    match ModelDir::open(&model.path)?.head() {
        Head::SequenceClassification { labels } => Ok(labels),
        _ => bail!(
            "`{}` is no classifier or regressor; hint: `tcd finetune` makes one",
            model.path.display()
        ),
    }
}
