//! `tcd bench-distill`: times a distilled step beside the student's own step and the teacher's forward pass; `cargo xtask bench
//! distill` calls it.
//!
//! The three take turns within one process, so that noise hits all of them. Prints one JSON line. The teacher is drawn at
//! random: its speed does not depend on its weights.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use tcd_export::{Architecture, ModelConfig, MoeConfig};
use tch::Tensor;

use super::bench_train::{VOCABULARY, Workload, peak_memory, random_batch};
use super::training::bound_spinning;
use super::{Outcome, out};
use crate::data::tokenizer::Tokenizer;
use crate::distill::config::Positions;
use crate::distill::{DistillConfig, Guide, Method, Pupil, Teacher, TeacherModel};
use crate::model::Initialisation;
use crate::train::config::OptimizerConfig;
use crate::train::optimizer::AdamW;
use crate::train::run::prepare_process;
use crate::train::step::Model;

/// Arguments of `tcd bench-distill`.
#[derive(Debug, Args)]
pub struct BenchDistill {
    /// Encoder layers of both.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Hidden size of both; heads are H/64.
    #[arg(long, default_value_t = 128)]
    hidden: usize,
    /// Experts of each layer of the student; 0 for vanilla.
    #[arg(long, default_value_t = 16)]
    experts: usize,
    /// Positions drawn from each batch; 0 for all.
    #[arg(long, default_value_t = 1024)]
    positions: usize,
    /// What is transferred.
    #[arg(long, default_value = "relations")]
    method: String,
    #[command(flatten)]
    workload: Workload,
}

impl BenchDistill {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        bound_spinning();
        prepare_process(self.workload.threads);
        let (student, teacher) = (self.arch(self.experts)?, self.arch(0)?);
        let options = self.workload.options()?;
        let tokenizer = placeholder_tokenizer()?;
        let pupil = Pupil {
            arch: &student,
            tokenizer: &tokenizer,
            sequence_length: self.workload.sequence,
            options,
        };
        let mut config = DistillConfig {
            teacher: Teacher::Random,
            method: Method::named(&self.method)
                .with_context(|| format!("unknown method: `{}`", self.method))?,
            positions: Positions(self.positions),
            ..DistillConfig::default()
        };
        config.random.model = Some(crate::train::config::ModelSection {
            layers: Some(teacher.num_hidden_layers),
            hidden: Some(teacher.hidden_size),
            ..Default::default()
        });
        let teacher = TeacherModel::open(&config, &pupil)?;
        let extra = Guide::extra(&config, &student, &teacher);
        let mut model = Model::new(&student, &extra, options)?;
        model.store.initialise(Initialisation {
            seed: 0,
            std: student.initializer_range,
        });
        let guide = Guide::new(&config, teacher, &model.store, &pupil, 0)?;
        let optimizer_config = OptimizerConfig {
            learning_rate: 1e-4,
            ..OptimizerConfig::default()
        };
        let mut optimizer = AdamW::new(&optimizer_config, &model.store);
        let batches = [0, 1].map(|i| random_batch(i, self.workload.batch, self.workload.sequence));
        let mut times: [Vec<f64>; 3] = Default::default();
        for step in 0..self.workload.warmup + self.workload.steps {
            let batch = std::slice::from_ref(&batches[step as usize % 2]);
            let mut train = |guide: Option<&Guide>| -> Result<f64> {
                let start = Instant::now();
                let (gradients, report) = model.gradients(batch, 0, step, guide);
                let clip = optimizer_config.clip;
                let norm = model.update(&mut optimizer, &gradients, clip, 1e-4);
                anyhow::ensure!(
                    report.total.is_finite() && norm.is_some(),
                    "step {step} is not finite"
                );
                Workload::wait(options.device);
                Ok(start.elapsed().as_secs_f64())
            };
            let (alone, distilled) = (train(None)?, train(Some(&guide))?);
            let input = model.input(&batch[0]);
            let masked = Tensor::from_slice(&batch[0].masked_positions);
            let start = Instant::now();
            let forward = guide.teacher().forward(&input, &masked);
            Workload::wait(options.device);
            let seconds = start.elapsed().as_secs_f64();
            drop(forward);
            if step >= self.workload.warmup {
                for (times, seconds) in times.iter_mut().zip([alone, distilled, seconds]) {
                    times.push(seconds);
                }
            }
        }
        out(&serde_json::json!({
            "student_seconds": times[0],
            "distilled_seconds": times[1],
            "teacher_seconds": times[2],
            "peak_memory_bytes": peak_memory(),
        })
        .to_string());
        Ok(Outcome::Done)
    }

    fn arch(&self, experts: usize) -> Result<Architecture> {
        let heads = (self.hidden / 64).max(1);
        let mut config =
            ModelConfig::new(VOCABULARY, self.layers, self.hidden, heads, 4 * self.hidden);
        config.moe = (experts > 0).then(|| MoeConfig::new(experts));
        config.validate().context("cannot build the model")
    }
}

/// A vocabulary of the special tokens alone: the batches are random ids.
fn placeholder_tokenizer() -> Result<Tokenizer> {
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n";
    Ok(Tokenizer::from_vocab(
        vocabulary,
        std::path::Path::new("vocab.txt"),
    )?)
}
