//! `tcd export`: a model directory as ONNX.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tcd_export::onnx::{self, OnnxFile, Options};
use tcd_export::{ModelDir, Tap};

use super::{Outcome, note};

/// Arguments of `tcd export`.
///
/// Writes `model.onnx` and its record `onnx.json`, by default into the model's own directory. The file holds standard ONNX
/// operators only and runs on onnxruntime, on tract, and wherever else ONNX runs. With `--features` or `--routing` it is
/// `features.onnx`, with those hidden states as further outputs; both files may stand beside each other.
///
/// Values above 1.9 GB go into a second file, `model.onnx.data`, tensor by tensor, whatever the model's size.
///
/// Examples:
///   tcd export --model runs/sst2/best
///   tcd export --model bert-tiny --out exported --precision f16
///   tcd export --model runs/moe/model --features trunk,attention.inner --routing
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Export {
    /// Model directory: `config.json`, `model.safetensors`, and the tokenizer.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Directory to write, in place of the model's own; configuration and tokenizer are copied there.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Hidden states as further outputs: `all`, `embedding`, `layer.N`, or in every layer `trunk` (with the embedding output),
    /// `query`, `key`, `value`, `attention.inner`, `ffn.inner`; or one by its name, such as `layer.0.trunk`.
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "TAP")]
    features: Vec<String>,
    /// Each token's expert and its probability as further outputs (mixtures of experts).
    #[arg(long)]
    routing: bool,
    /// How weights of matrix products are stored.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// How rows come to their expert (mixtures of experts).
    #[arg(long, value_enum, default_value_t = MoeForm::Sorted)]
    moe_form: MoeForm,
    /// Put values into a second file even where one would do.
    #[arg(long)]
    external_data: bool,
    /// Name of the task, for the file's metadata. Default: what `config.json` says.
    #[arg(long)]
    task: Option<String>,
}

/// How weights of matrix products are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Precision {
    /// As they are.
    F32,
    /// Half the file; computed in f32.
    F16,
    /// A quarter of the file; products in integers, one scale an output channel.
    Int8,
}

impl From<Precision> for onnx::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// How rows come to their expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MoeForm {
    /// Rows are sorted by expert once, and an expert computes a slice: the quicker one.
    Sorted,
    /// Each expert looks for its rows; for other programs built on tract, which does not take the slices by itself.
    Scattered,
}

impl Export {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let start = Instant::now();
        let model = ModelDir::open(&self.model)?;
        let layers = model.architecture().num_hidden_layers;
        let options = Options {
            taps: Tap::select(&self.features, layers)?,
            routing: self.routing && model.architecture().experts().is_some(),
            precision: self.precision.into(),
            moe_form: match self.moe_form {
                MoeForm::Scattered => onnx::MoeForm::Scattered,
                MoeForm::Sorted => onnx::MoeForm::Sorted,
            },
            external_data: self.external_data,
            task: self.task.clone().or_else(|| own_task(&self.model)),
        };
        if self.routing && !options.routing {
            note("`--routing`: the model has no experts, there is nothing to add");
        }
        let out = self.out.as_ref().unwrap_or(&self.model);
        let written = onnx::export(&model, out, &options)
            .with_context(|| format!("cannot export `{}`", self.model.display()))?;
        // What stands on disk is looked at once more.
        OnnxFile::open(&written.path).context("cannot read back what was written")?;
        note(&format!(
            "{}: {} parameters, {} operators, {:.1} MB{} in {:.2} s",
            written.path.display(),
            written.parameters,
            written.nodes,
            written.bytes as f64 / 1e6,
            if written.data.is_some() {
                " in two files"
            } else {
                ""
            },
            start.elapsed().as_secs_f64()
        ));
        note(&format!("outputs: {}", written.record.outputs.join(", ")));
        Ok(Outcome::Done)
    }
}

/// The task that `config.json` names.
fn own_task(model: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(model.join(tcd_export::CONFIG_FILE)).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(config.get("finetuning_task")?.as_str()?.to_owned())
}
