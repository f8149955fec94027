//! `tcd bench-eval`: makes models of random weights and times engines on rows; `cargo xtask bench eval` calls it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use rand::RngExt;
use serde_json::{Map, json};
use tcd_export::onnx;
use tcd_export::runtime::{Feed, Runnable, RuntimeError};
use tcd_export::{
    Architecture, Contents, Head, Init, ModelConfig, ModelDir, MoeConfig, Parameter, parameters,
    write_model_dir, write_tensors,
};

use super::engine::{Engine, width};
use super::export::Precision;
use super::rows::Source;
use super::{Outcome, out};
use crate::data::tokenizer::Tokenizer;
use crate::eval::encode::{Padded, batches, encode};
use crate::eval::model::Model;
use crate::eval::run;
use crate::seed::{Stream, rng};

/// Sub-commands of `tcd bench-eval`.
#[derive(Debug, Subcommand)]
pub enum BenchEval {
    /// Write a classifier of random weights, and export it.
    Make(Make),
    /// Time an engine on rows: one JSON line.
    Rows(Box<RowsRun>),
    /// Time an engine on batches of random tokens, one for each worker at a time: one JSON line, seconds a batch.
    Tokens(Tokens),
}

/// Arguments of `tcd bench-eval make`.
#[derive(Debug, Args)]
pub struct Make {
    /// L.
    #[arg(long)]
    layers: usize,
    /// H; heads are of width 64.
    #[arg(long)]
    hidden: usize,
    /// E; 0 for a vanilla model.
    #[arg(long, default_value_t = 0)]
    experts: usize,
    /// Classes.
    #[arg(long, default_value_t = 2)]
    labels: usize,
    /// Folder or file of the tokenizer.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Directory to write.
    #[arg(long)]
    out: PathBuf,
    /// How weights of matrix products are stored.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Write `model.onnx` alone, weights made on the fly.
    #[arg(long)]
    stream: bool,
}

/// Arguments of `tcd bench-eval rows`.
#[derive(Debug, Args)]
pub struct RowsRun {
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    source: Source,
    /// Passes over the rows, after one that is not counted.
    #[arg(long, default_value_t = 3)]
    passes: usize,
    /// Also write the batches as safetensors (`0.input_ids`, ...), for peers that run the same tensors.
    #[arg(long)]
    tensors: Option<PathBuf>,
}

/// Arguments of `tcd bench-eval tokens`.
#[derive(Debug, Args)]
pub struct Tokens {
    #[command(flatten)]
    engine: Engine,
    /// B.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// S.
    #[arg(long, default_value_t = 128)]
    sequence: usize,
    /// Timed runs.
    #[arg(long, default_value_t = 20)]
    runs: usize,
}

impl BenchEval {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            BenchEval::Make(c) => c.run(),
            BenchEval::Rows(c) => c.run(),
            BenchEval::Tokens(c) => c.run(),
        }
    }
}

impl Make {
    fn run(&self) -> Result<Outcome> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let config = ModelConfig {
            moe: (self.experts > 0).then(|| MoeConfig::new(self.experts)),
            ..ModelConfig::new(
                tokenizer.vocab_size(),
                self.layers,
                self.hidden,
                self.hidden / 64,
                4 * self.hidden,
            )
        };
        let architecture = config.validate()?;
        let head = Head::SequenceClassification {
            labels: self.labels,
        };
        if self.stream {
            return self.stream(&architecture, head);
        }
        let contents = Contents {
            architecture: &architecture,
            head,
            tokenizer_json: &tokenizer.to_json()?,
            labels: &[],
            keys: Map::new(),
            notes: Map::new(),
        };
        write_model_dir(&self.out, &contents, |parameter| Ok(random(parameter)))?;
        let model = ModelDir::open(&self.out)?;
        let start = Instant::now();
        let options = onnx::Options {
            precision: self.precision.into(),
            ..onnx::Options::default()
        };
        let written = onnx::export(&model, &self.out, &options)?;
        out(
            &json!({"export_seconds": start.elapsed().as_secs_f64(), "bytes": written.bytes})
                .to_string(),
        );
        Ok(Outcome::Done)
    }

    fn stream(&self, architecture: &Architecture, head: Head) -> Result<Outcome> {
        let table: HashMap<String, Parameter> = parameters(architecture, head)
            .into_iter()
            .map(|row| (row.name.clone(), row))
            .collect();
        let mut give = |name: &str| {
            let row = table.get(name).ok_or("no such parameter")?;
            Ok(Cow::Owned(random(row)))
        };
        let start = Instant::now();
        let options = onnx::Options {
            precision: self.precision.into(),
            ..onnx::Options::default()
        };
        let written = onnx::export_from(architecture, head, &self.out, &options, &mut give)?;
        let line = json!({
            "export_seconds": start.elapsed().as_secs_f64(), "bytes": written.bytes,
            "parameters": written.parameters, "peak_memory_bytes": crate::machine::peak_memory(),
        });
        out(&line.to_string());
        Ok(Outcome::Done)
    }
}

/// Weights as BERT begins with them; routers are wider, so that random tokens spread over the experts.
fn random(parameter: &Parameter) -> Vec<u8> {
    let mut random = rng(
        1,
        Stream::Init,
        &[u64::from(crc32c::crc32c(parameter.name.as_bytes()))],
    );
    let width = if parameter.name.contains("router") {
        1.0
    } else {
        0.07
    };
    let mut value = || match parameter.init {
        Init::Normal => (random.random::<f32>() - 0.5) * width,
        Init::Zeros => 0.0,
        Init::Ones => 1.0,
    };
    (0..parameter.count())
        .flat_map(|_| value().to_le_bytes())
        .collect()
}

impl RowsRun {
    fn run(&self) -> Result<Outcome> {
        let begin = Instant::now();
        let model = Model::open(&self.engine.model)?;
        let runtime = self.engine.runtime()?;
        let width = width(&model, &*runtime)?;
        let session = self
            .engine
            .load(&*runtime, &model.path, &["logits".to_owned()])?;
        let mut sessions = session.workers();
        let load = begin.elapsed().as_secs_f64();
        let examples = self.source.read()?.examples;
        let length = self.engine.row_length(&model);
        let size = self.engine.batch_size(&model, sessions.len());
        let never = AtomicBool::new(false);
        let (mut encoding, mut running, mut first) = (Vec::new(), Vec::new(), 0.0);
        for pass in 0..=self.passes {
            let start = Instant::now();
            let set = encode(&model.tokenizer, &examples, length)?;
            let encoded = start.elapsed().as_secs_f64();
            let start = Instant::now();
            run::run(&mut sessions, &set, size, width, &never, &|_| {})?;
            let ran = start.elapsed().as_secs_f64();
            if pass == 0 {
                first = encoded + ran;
                if let Some(path) = &self.tensors {
                    let all: Vec<Padded> = batches(&set, size.shared(&set, sessions.len()))
                        .iter()
                        .map(|batch| Padded::new(&set, batch))
                        .collect();
                    write_batches(path, &all)?;
                }
                continue;
            }
            encoding.push(encoded);
            running.push(ran);
        }
        let line = json!({
            "rows": examples.len(), "load_seconds": load, "first_seconds": first,
            "encode_seconds": encoding, "run_seconds": running,
        });
        out(&line.to_string());
        Ok(Outcome::Done)
    }
}

/// Batches as f32 tensors: the peers turn them into integers.
fn write_batches(path: &Path, all: &[Padded]) -> Result<()> {
    let mut table = Vec::new();
    let mut values = Vec::new();
    for (index, padded) in all.iter().enumerate() {
        let parts = [
            ("input_ids", &padded.input_ids),
            ("attention_mask", &padded.attention_mask),
            ("token_type_ids", &padded.token_type_ids),
        ];
        for (name, ids) in parts {
            table.push(Parameter {
                name: format!("{index}.{name}"),
                shape: vec![padded.batch, padded.sequence],
                init: Init::Zeros,
                decay: false,
            });
            values.push(ids);
        }
    }
    let mut next = values.into_iter();
    write_tensors(path, &table, &mut |_| {
        let ids = next.next().ok_or("a batch is missing")?;
        Ok(ids
            .iter()
            .flat_map(|&id| (id as f32).to_le_bytes())
            .collect())
    })
    .context("cannot write the batches")?;
    Ok(())
}

impl Tokens {
    fn run(&self) -> Result<Outcome> {
        let model = Model::open(&self.engine.model)?;
        let runtime = self.engine.runtime()?;
        let start = Instant::now();
        let session = self
            .engine
            .load(&*runtime, &model.path, &["logits".to_owned()])?;
        let load = start.elapsed().as_secs_f64();
        let mut workers = session.workers();
        let mut random = rng(1, Stream::Data, &[0]);
        let cells = self.batch * self.sequence;
        let size = model.tokenizer.vocab_size() as i64;
        let ids: Vec<i64> = (0..cells).map(|_| random.random_range(0..size)).collect();
        let (mask, types) = (vec![1; cells], vec![0; cells]);
        let feed = Feed {
            batch: self.batch,
            sequence: self.sequence,
            input_ids: &ids,
            attention_mask: &mask,
            token_type_ids: &types,
        };
        let timed = |_, worker: &mut dyn Runnable| -> Result<Vec<f64>, RuntimeError> {
            let one = |_| {
                let start = Instant::now();
                worker.run(&feed)?;
                Ok(start.elapsed().as_secs_f64())
            };
            (0..self.runs + 3).map(one).collect()
        };
        let times = run::beside(&mut workers, timed).map_err(anyhow::Error::from_boxed)?;
        let many = workers.len() as f64;
        let first = times.iter().map(|times| times[0]).fold(0.0, f64::max);
        let after = times.iter().flat_map(|times| &times[3..]);
        let running: Vec<f64> = after.map(|seconds| seconds / many).collect();
        let line = json!({"load_seconds": load, "first_seconds": first, "run_seconds": running});
        out(&line.to_string());
        Ok(Outcome::Done)
    }
}
