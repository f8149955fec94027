//! `tcd bench-train`: times training steps on random tokens; `cargo xtask bench train` calls it beside its peers.
//!
//! Prints one JSON line. The batch is made before the clock starts; forward ends with the loss on the host.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use rand::RngExt;
use tcd_export::{ModelConfig, MoeConfig};
use tch::{Device, Tensor};

use super::{Outcome, out};
use crate::data::batch::Batch;
use crate::model::{Initialisation, Mode, Noise, StoreOptions};
use crate::seed::{Stream, rng};
use crate::train::config::OptimizerConfig;
use crate::train::optimizer::AdamW;
use crate::train::run::prepare_process;
use crate::train::step::Model;

/// Ids that are ordinary tokens in the vocabulary the peers use.
const FIRST_TOKEN: i64 = 1000;

/// Arguments of `tcd bench-train`.
#[derive(Debug, Args)]
pub struct BenchTrain {
    /// Encoder layers.
    #[arg(long)]
    layers: usize,
    /// Hidden size; heads are H/64.
    #[arg(long)]
    hidden: usize,
    /// Experts of each layer; 0 for vanilla.
    #[arg(long, default_value_t = 0)]
    experts: usize,
    /// Rows of a batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    sequence: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Steps before the timed ones.
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// CPU threads.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl BenchTrain {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        prepare_process(self.threads);
        let vocabulary = 30522;
        let mut config = ModelConfig::new(
            vocabulary,
            self.layers,
            self.hidden,
            (self.hidden / 64).max(1),
            4 * self.hidden,
        );
        config.moe = (self.experts > 0).then(|| MoeConfig::new(self.experts));
        let arch = config.validate().context("cannot build the model")?;
        let mut model = Model::new(
            &arch,
            StoreOptions {
                device: Device::Cpu,
                bf16: false,
            },
        )?;
        model.store.initialise(Initialisation {
            seed: 0,
            std: arch.initializer_range,
        });
        let optimizer_config = OptimizerConfig {
            learning_rate: 1e-4,
            ..OptimizerConfig::default()
        };
        let mut optimizer = AdamW::new(&optimizer_config, &model.store);
        let batches: Vec<Batch> = (0..4)
            .map(|i| self.random_batch(i, vocabulary as i64))
            .collect();
        let mut times: [Vec<f64>; 4] = Default::default();
        for step in 0..self.warmup + self.steps {
            let batch = &batches[step as usize % batches.len()];
            let noise = Noise::new(0, step, 0);
            let start = Instant::now();
            let losses = model.losses(batch, Mode::Train(&noise));
            let loss = losses.total.double_value(&[]);
            let forward = start.elapsed().as_secs_f64();
            let leaves: Vec<&Tensor> = model.store.leaves().iter().map(|l| &l.tensor).collect();
            let gradients = Tensor::run_backward(&[&losses.total], &leaves, false, false);
            drop(losses);
            let backward = start.elapsed().as_secs_f64();
            let norm = model.update(
                &mut optimizer,
                &gradients,
                optimizer_config.clip,
                optimizer_config.learning_rate,
            );
            drop(gradients);
            let whole = start.elapsed().as_secs_f64();
            anyhow::ensure!(
                loss.is_finite() && norm.is_some(),
                "step {step} is not finite"
            );
            if step >= self.warmup {
                for (times, seconds) in
                    times
                        .iter_mut()
                        .zip([whole, forward, backward - forward, whole - backward])
                {
                    times.push(seconds);
                }
            }
        }
        let tokens = (self.batch * self.sequence) as f64;
        let rate = tokens * self.steps as f64 / times[0].iter().sum::<f64>();
        out(&serde_json::json!({
            "tokens_per_second": rate,
            "step_seconds": times[0],
            "forward_seconds": times[1],
            "backward_seconds": times[2],
            "optimizer_seconds": times[3],
            "peak_memory_bytes": peak_memory(),
            "parameters": model.store.parameter_count(),
            "optimizer": "AdamW (this program)",
        })
        .to_string());
        Ok(Outcome::Done)
    }

    fn random_batch(&self, index: u64, vocabulary: i64) -> Batch {
        let mut rng = rng(0, Stream::Data, &[index]);
        let tokens = self.batch * self.sequence;
        let mut token = || rng.random_range(FIRST_TOKEN..vocabulary);
        let input_ids: Vec<i64> = (0..tokens).map(|_| token()).collect();
        let per_row = (0.15 * self.sequence as f64).round() as usize;
        let masked_positions: Vec<i64> = (0..self.batch)
            .flat_map(|row| {
                (0..per_row)
                    .map(move |i| (row * self.sequence + i * self.sequence / per_row) as i64)
            })
            .collect();
        let labels = masked_positions
            .iter()
            .map(|p| input_ids[*p as usize])
            .collect();
        Batch {
            batch: self.batch,
            sequence: self.sequence,
            input_ids,
            attention_mask: vec![1; tokens],
            masked_positions,
            labels,
            real_tokens: tokens,
            all_real: true,
        }
    }
}

/// Largest resident size of this process so far, in bytes.
fn peak_memory() -> u64 {
    // SAFETY: `getrusage` fills the struct it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    // Linux counts in kilobytes.
    usage.ru_maxrss as u64 * 1024
}
