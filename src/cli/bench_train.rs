//! `tcd bench-train`: times training steps on random tokens; `cargo xtask bench train` calls it beside its peers.
//!
//! Prints one JSON line. The batch is made before the clock starts; forward ends with the loss on the host.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use rand::RngExt;
use tcd_export::{ModelConfig, MoeConfig};
use tch::{Device, Tensor};

use super::training::bound_spinning;
use super::{Outcome, out};
use crate::data::batch::Batch;
use crate::model::{Initialisation, Mode, Noise, StoreOptions};
use crate::seed::{Stream, rng};
use crate::train::config::{DeviceConfig, OptimizerConfig};
use crate::train::optimizer::AdamW;
use crate::train::run::{device, prepare_process};
use crate::train::step::Model;

/// Ids that are ordinary tokens in the vocabulary the peers use.
const FIRST_TOKEN: i64 = 1000;

/// Size of the vocabulary, that of bert-base-uncased.
pub(super) const VOCABULARY: usize = 30522;

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
    #[command(flatten)]
    workload: Workload,
}

/// What is timed, and how often.
#[derive(Debug, Args)]
pub(super) struct Workload {
    /// Rows of a batch.
    #[arg(long, default_value_t = 32)]
    pub(super) batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    pub(super) sequence: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 10)]
    pub(super) steps: u64,
    /// Steps before the timed ones.
    #[arg(long, default_value_t = 3)]
    pub(super) warmup: u64,
    /// CPU threads.
    #[arg(long, default_value_t = 0)]
    pub(super) threads: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    device: DeviceConfig,
    /// Layers in bf16.
    #[arg(long)]
    bf16: bool,
}

impl Workload {
    /// Where and how the model computes.
    pub(super) fn options(&self) -> Result<StoreOptions> {
        Ok(StoreOptions {
            device: device(self.device)?,
            bf16: self.bf16,
        })
    }

    /// Waits until the device has done what it was given, which it does beside this program.
    pub(super) fn wait(device: Device) {
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
    }
}

fn parse_device(text: &str) -> Result<DeviceConfig, String> {
    DeviceConfig::try_from(text.to_owned())
}

impl BenchTrain {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        bound_spinning();
        prepare_process(self.workload.threads);
        let mut config = ModelConfig::new(
            VOCABULARY,
            self.layers,
            self.hidden,
            (self.hidden / 64).max(1),
            4 * self.hidden,
        );
        config.moe = (self.experts > 0).then(|| MoeConfig::new(self.experts));
        let arch = config.validate().context("cannot build the model")?;
        let mut model = Model::new(&arch, &[], self.workload.options()?)?;
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
            .map(|i| random_batch(i, self.workload.batch, self.workload.sequence))
            .collect();
        let mut times: [Vec<f64>; 4] = Default::default();
        for step in 0..self.workload.warmup + self.workload.steps {
            let batch = &batches[step as usize % batches.len()];
            let noise = Noise::new(0, step, 0);
            let start = Instant::now();
            let losses = model.losses(batch, Mode::Train(&noise), None);
            let loss = losses.total.double_value(&[]);
            let forward = start.elapsed().as_secs_f64();
            let leaves: Vec<&Tensor> = model.store.leaves().iter().map(|l| &l.tensor).collect();
            let gradients = Tensor::run_backward(&[&losses.total], &leaves, false, false);
            drop(losses);
            Workload::wait(model.store.options().device);
            let backward = start.elapsed().as_secs_f64();
            let norm = model.update(
                &mut optimizer,
                &gradients,
                optimizer_config.clip,
                optimizer_config.learning_rate,
            );
            drop(gradients);
            Workload::wait(model.store.options().device);
            let whole = start.elapsed().as_secs_f64();
            anyhow::ensure!(
                loss.is_finite() && norm.is_some(),
                "step {step} is not finite"
            );
            if step >= self.workload.warmup {
                for (times, seconds) in
                    times
                        .iter_mut()
                        .zip([whole, forward, backward - forward, whole - backward])
                {
                    times.push(seconds);
                }
            }
        }
        let tokens = (self.workload.batch * self.workload.sequence) as f64;
        let rate = tokens * self.workload.steps as f64 / times[0].iter().sum::<f64>();
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
}

/// Random ids, 15 percent of the positions of each row masked.
pub(super) fn random_batch(index: u64, rows: usize, sequence: usize) -> Batch {
    let mut rng = rng(0, Stream::Data, &[index]);
    let tokens = rows * sequence;
    let mut token = || rng.random_range(FIRST_TOKEN..VOCABULARY as i64);
    let input_ids: Vec<i64> = (0..tokens).map(|_| token()).collect();
    let per_row = (0.15 * sequence as f64).round() as usize;
    let masked_positions: Vec<i64> = (0..rows)
        .flat_map(|row| (0..per_row).map(move |i| (row * sequence + i * sequence / per_row) as i64))
        .collect();
    let labels = masked_positions
        .iter()
        .map(|p| input_ids[*p as usize])
        .collect();
    Batch {
        batch: rows,
        sequence,
        input_ids,
        attention_mask: vec![1; tokens],
        masked_positions,
        labels,
        real_tokens: tokens,
        all_real: true,
    }
}

/// Largest resident size of this process so far, in bytes.
pub(super) fn peak_memory() -> u64 {
    // SAFETY: `getrusage` fills the struct it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    // Linux counts in kilobytes.
    usage.ru_maxrss as u64 * 1024
}
