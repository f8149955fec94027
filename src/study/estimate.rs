//! What training will cost, before it begins: floating-point operations and memory of a step, from the architecture alone.
//!
//! With `L` layers, width `H`, feed-forward `F`, `E` experts of which one works, sequence `S`, vocabulary `V`, `T` real tokens
//! of which the share `m` is masked, a forward pass takes
//!
//! ```text
//! T [ L (8 H^2 + 4 H F + 2 H E + 4 S H) + m (2 H^2 + 2 H V) ]
//! ```
//!
//! operations: two for each product of a weight and a value, `4 S H` a layer for query-key and attention-value products. A step
//! takes three times that, the backward pass being two forward ones (Kaplan et al. 2020, section 2.1), a distilled one also the
//! teacher's forward pass and the relations: `2 n^2 H` or, where it is less, `6 n H^2` operations for each of the `4 L + 1`
//! compared places, three times over. Memory of training is
//!
//! ```text
//! 16 P  +  2 P where layers are in bf16  +  L T H (34 + 5 A S / H) b  +  12 m T V
//! ```
//!
//! bytes: weight, gradient and two moments in f32 for each of `P` parameters, their copies in bf16, what the layers keep for the
//! backward pass (Korthikanti et al. 2022, equation 1, given for 16 bits: `b` is 1 there, 2 in f32), and logits, their softmax
//! and its gradient; `T` is here the tokens of one micro-batch. The teacher adds its weights and the hidden states compared.
//! Seconds are operations over the rate that the machine is said to sustain ([`MachineSection`]), and, where its memory's bandwidth
//! is told, over that the bytes that parameters cause to be moved: in every micro-batch each weight is read forward and backward and
//! its gradient is written, and the update, by tensor operations, moves 118 bytes a parameter. That is little beside the
//! products of a vanilla model, and most of the time of many experts. None of this counts evaluation or the start of a process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tcd_export::{Architecture, Head, active_parameter_count, parameter_count};

use crate::train::config::{DeviceConfig, Precision, RunConfig};

/// What the machine can do, for estimates only; never part of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MachineSection {
    /// Rate that one training stage sustains, in 1e9 floating-point operations a second; above 0. Default 60, what one thread
    /// of a server's CPU reaches on small models in f32.
    pub gflops: f64,
    /// Bandwidth of the memory that parameters lie in, in 1e9 bytes a second; 0 leaves the time of moving them out. Default 0.
    pub bandwidth_gb: f64,
    /// Memory that training may take, in GB; 0 where unknown. `--dry-run` says where an estimate is above it. Default 0.
    pub memory_gb: f64,
}

impl Default for MachineSection {
    fn default() -> Self {
        MachineSection {
            gflops: 60.0,
            bandwidth_gb: 0.0,
            memory_gb: 0.0,
        }
    }
}

impl MachineSection {
    /// What is wrong with it, one line each.
    pub fn validate(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !(self.gflops > 0.0 && self.gflops.is_finite()) {
            lines.push(format!("`machine.gflops` must be above 0: {}", self.gflops));
        }
        for (key, value) in [
            ("bandwidth_gb", self.bandwidth_gb),
            ("memory_gb", self.memory_gb),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                lines.push(format!("`machine.{key}` must be at least 0: {value}"));
            }
        }
        lines
    }

    /// Seconds that something takes.
    pub fn seconds(&self, cost: &Cost) -> f64 {
        let moving = match self.bandwidth_gb {
            0.0 => 0.0,
            rate => cost.traffic / (rate * 1e9),
        };
        cost.flops / (self.gflops * 1e9) + moving
    }
}

/// What a stage takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations in all.
    pub flops: f64,
    /// Bytes moved for the parameters in all.
    pub traffic: f64,
    /// Memory, bytes; that of the device where there is one.
    pub bytes: f64,
}

/// Memory of training a model, by what takes it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainingMemory {
    /// Weights and gradients, f32; copies of the weights in bf16.
    pub weights: f64,
    /// Both moments of AdamW.
    pub moments: f64,
    /// What the layers keep for the backward pass, and the logits.
    pub activations: f64,
    /// The teacher's weights and hidden states.
    pub teacher: f64,
}

impl TrainingMemory {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.moments + self.activations + self.teacher
    }
}

/// A pre-training run, ready to be estimated.
#[derive(Clone, Copy, Debug)]
pub struct Pretraining<'a> {
    /// The run.
    pub run: &'a RunConfig,
    /// The model.
    pub arch: &'a Architecture,
    /// Tokens a row.
    pub sequence: usize,
    /// The teacher's architecture; the student's without experts stands in for an unknown one.
    pub teacher: Option<&'a Architecture>,
    /// Where it is trained.
    pub device: DeviceConfig,
}

/// Operations of a forward pass over `tokens` in rows of `sequence`; `masked` is the share that the masked-LM head reads.
pub fn forward_flops(arch: &Architecture, tokens: f64, sequence: usize, masked: f64) -> f64 {
    let (l, h) = (arch.num_hidden_layers as f64, arch.hidden_size as f64);
    let (f, v) = (arch.intermediate_size as f64, arch.vocab_size as f64);
    let experts = arch.experts().unwrap_or(0) as f64;
    let layer = 8.0 * h * h + 4.0 * h * f + 2.0 * h * experts + 4.0 * sequence as f64 * h;
    tokens * (l * layer + masked * (2.0 * h * h + 2.0 * h * v))
}

impl Pretraining<'_> {
    fn bf16(&self) -> bool {
        match self.run.precision {
            Precision::Bf16 => true,
            Precision::F32 => false,
            Precision::Auto => matches!(self.device, DeviceConfig::Cuda(_)),
        }
    }

    /// Tokens of a micro-batch.
    fn tokens(&self) -> f64 {
        (self.run.data.batch_size * self.sequence) as f64
    }

    /// Operations of one step.
    pub fn step_flops(&self) -> f64 {
        let (tokens, masked) = (self.tokens(), self.run.masking.probability);
        let student = 3.0 * forward_flops(self.arch, tokens, self.sequence, masked);
        let teacher = self.teacher.map_or(0.0, |teacher| {
            let positions = match self.run.distill.as_ref().map_or(0, |d| d.positions.0) {
                0 => tokens,
                drawn => (drawn as f64).min(tokens),
            };
            let h = self.arch.hidden_size as f64;
            let place = (2.0 * positions * positions * h).min(6.0 * positions * h * h);
            let places = (4 * self.arch.num_hidden_layers + 1) as f64;
            forward_flops(teacher, tokens, self.sequence, 0.0) + 3.0 * places * place
        });
        self.run.data.accumulation as f64 * (student + teacher)
    }

    /// Memory of training.
    pub fn memory(&self) -> TrainingMemory {
        let parameters = parameter_count(self.arch, Head::MaskedLm) as f64;
        let (b, copies) = if self.bf16() { (1.0, 2.0) } else { (2.0, 0.0) };
        let tokens = self.tokens();
        let (l, h) = (
            self.arch.num_hidden_layers as f64,
            self.arch.hidden_size as f64,
        );
        let heads = self.arch.num_attention_heads as f64;
        let layer = tokens * h * (34.0 + 5.0 * heads * self.sequence as f64 / h) * b;
        let logits = 12.0 * self.run.masking.probability * tokens * self.arch.vocab_size as f64;
        let teacher = self.teacher.map_or(0.0, |teacher| {
            let width = teacher.hidden_size as f64;
            let states = (4 * teacher.num_hidden_layers + 1) as f64 * tokens * width * 2.0 * b;
            4.0 * parameter_count(teacher, Head::MaskedLm) as f64 + states
        });
        TrainingMemory {
            weights: (8.0 + copies) * parameters,
            moments: 8.0 * parameters,
            activations: l * layer + logits,
            teacher,
        }
    }

    /// Disk that the run takes at its end, bytes: weights and moments of the checkpoints that are kept, the best model and the
    /// last.
    pub fn disk(&self) -> f64 {
        let kept = &self.run.checkpoint;
        let checkpoints = (kept.keep_last + kept.keep_steps.len()) as f64;
        let parameters = parameter_count(self.arch, Head::MaskedLm) as f64;
        (12.0 * checkpoints + 8.0) * parameters
    }

    /// Bytes moved for the parameters in one step.
    pub fn step_traffic(&self) -> f64 {
        let width = if self.bf16() { 2.0 } else { 4.0 };
        let batches = self.run.data.accumulation as f64 * 3.0 * width;
        (batches + UPDATE) * parameter_count(self.arch, Head::MaskedLm) as f64
    }

    /// The whole run.
    pub fn cost(&self) -> Cost {
        let steps = self.run.schedule.steps as f64;
        Cost {
            flops: steps * self.step_flops(),
            traffic: steps * self.step_traffic(),
            bytes: self.memory().total(),
        }
    }

    /// A line for people: parameters, operations of a step, memory by part, disk.
    pub fn line(&self) -> String {
        let memory = self.memory();
        format!(
            "{} parameters, {} of them at work on a token; {:.3e} operations a step; memory {}: weights and gradients {}, \
             moments {}, activations {}, teacher {}; disk {}",
            count(parameter_count(self.arch, Head::MaskedLm)),
            count(active_parameter_count(self.arch, Head::MaskedLm)),
            self.step_flops(),
            bytes(memory.total()),
            bytes(memory.weights),
            bytes(memory.moments),
            bytes(memory.activations),
            bytes(memory.teacher),
            bytes(self.disk()),
        )
    }
}

/// Fine-tuning on one task: `rows` a pass of about [`TASK_TOKENS`] tokens, `passes` of them.
pub fn finetuning(arch: &Architecture, rows: usize, passes: f64, batch: usize) -> Cost {
    let tokens = (rows * TASK_TOKENS) as f64 * passes;
    let (l, h) = (arch.num_hidden_layers as f64, arch.hidden_size as f64);
    let kept = l * (batch * TASK_TOKENS) as f64 * h * 34.0 * 2.0;
    let parameters = parameter_count(arch, Head::MaskedLm) as f64;
    let steps = rows as f64 * passes / batch as f64;
    Cost {
        flops: 3.0 * forward_flops(arch, tokens, TASK_TOKENS, 0.0),
        traffic: steps * (12.0 + UPDATE) * parameters,
        bytes: 16.0 * parameters + kept,
    }
}

/// Bytes that clipping, an update and the new copy in bf16 move for each parameter: 10, 102 and 6, what the tensor operations of
/// `train::optimizer` read and write.
const UPDATE: f64 = 118.0;

/// Tokens of a row of GLUE, about: batches are padded to their longest row only.
pub const TASK_TOKENS: usize = 40;

/// 1234567 as `1.2 M`.
pub fn count(n: usize) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e3 => format!("{:.0} k", n / 1e3),
        n => n.to_string(),
    }
}

/// Bytes for people.
pub fn bytes(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 9.95e6 => format!("{:.0} MB", n / 1e6),
        n => format!("{:.1} MB", n / 1e6),
    }
}

/// A time for people: `0.4 s`, `45 s`, `12 min`, `3.4 h`, `2.1 days`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 99.5 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tcd_export::{ModelConfig, MoeConfig};

    use super::*;

    fn arch(experts: usize) -> Architecture {
        let mut config = ModelConfig::new(8192, 2, 128, 2, 512);
        config.moe = (experts > 0).then(|| MoeConfig::new(experts));
        config.validate().unwrap()
    }

    fn pretraining<'a>(
        run: &'a RunConfig,
        arch: &'a Architecture,
        teacher: Option<&'a Architecture>,
    ) -> Pretraining<'a> {
        Pretraining {
            run,
            arch,
            sequence: 128,
            teacher,
            device: DeviceConfig::Cpu,
        }
    }

    #[test]
    fn a_step_of_a_small_model_by_hand() {
        let (run, vanilla) = (RunConfig::default(), arch(0));
        // A layer: 12 H^2 weights and 2 S H for attention, twice; the head on 15 % of the tokens.
        let layer = 2.0 * (12.0 * 16_384.0 + 2.0 * 128.0 * 128.0);
        let head = 0.15 * 2.0 * (16_384.0 + 128.0 * 8192.0);
        let step = 3.0 * 4096.0 * (2.0 * layer + head);
        let estimate = pretraining(&run, &vanilla, None);
        assert!((estimate.step_flops() / step - 1.0).abs() < 1e-12);
        // 2.0 M parameters and no more than 100 MB of activations: the sizes that a profile shows.
        let memory = estimate.memory();
        let parameters = parameter_count(&vanilla, Head::MaskedLm) as f64;
        assert_eq!(memory.weights + memory.moments, 16.0 * parameters);
        assert!(memory.activations > 1e7 && memory.activations < 2e8);
        assert_eq!(memory.teacher, 0.0);
    }

    #[test]
    fn experts_cost_memory_and_a_teacher_costs_time() {
        let (run, vanilla, moe) = (RunConfig::default(), arch(0), arch(16));
        let plain = pretraining(&run, &vanilla, None);
        let mixture = pretraining(&run, &moe, None);
        let taught = pretraining(&run, &moe, Some(&vanilla));
        assert!(mixture.memory().total() > plain.memory().total() + 16.0 * 1e6);
        let router = 3.0 * 4096.0 * 2.0 * 2.0 * 128.0 * 16.0;
        assert!((mixture.step_flops() - plain.step_flops() - router).abs() < 1.0);
        let more = taught.step_flops() / mixture.step_flops();
        assert!(more > 1.2 && more < 2.0, "{more}");
        assert!(taught.memory().teacher > 0.0);
    }

    /// The steps of docs/benchmarks.md, measured on an H100, within a fifth: micro-batches of 64 rows of 128, each with an update.
    #[test]
    fn steps_of_the_papers_size_take_what_was_measured() {
        let machine = MachineSection {
            gflops: 200_000.0,
            bandwidth_gb: 2000.0,
            ..MachineSection::default()
        };
        let mut run = RunConfig::default();
        run.data.batch_size = 64;
        run.schedule.steps = 1;
        for (experts, measured) in [(0, 0.0268), (16, 0.0908), (64, 0.2149)] {
            let mut config = ModelConfig::new(30_522, 12, 768, 12, 3072);
            config.moe = (experts > 0).then(|| MoeConfig::new(experts));
            let arch = config.validate().unwrap();
            let estimate = Pretraining {
                device: DeviceConfig::Cuda(0),
                ..pretraining(&run, &arch, None)
            };
            let share = machine.seconds(&estimate.cost()) / measured;
            assert!((0.8..1.2).contains(&share), "{experts} experts: {share}");
            let products = MachineSection {
                bandwidth_gb: 0.0,
                ..machine.clone()
            };
            assert!(products.seconds(&estimate.cost()) < machine.seconds(&estimate.cost()));
        }
    }

    #[test]
    fn accumulation_takes_time_and_no_memory() {
        let vanilla = arch(0);
        let mut run = RunConfig::default();
        let once = pretraining(&run, &vanilla, None).cost();
        run.data.accumulation = 4;
        let four = pretraining(&run, &vanilla, None).cost();
        assert!((four.flops / once.flops - 4.0).abs() < 1e-12);
        assert_eq!(four.bytes, once.bytes);
        // Two last checkpoints of weights and both moments, the best model and the last.
        let parameters = parameter_count(&vanilla, Head::MaskedLm) as f64;
        assert_eq!(pretraining(&run, &vanilla, None).disk(), 32.0 * parameters);
    }

    #[test]
    fn numbers_for_people() {
        let times = [3.0, 600.0, 7200.0, 400_000.0].map(duration);
        assert_eq!(times, ["3.0 s", "10 min", "2.0 h", "4.6 days"]);
        assert_eq!(
            [12, 1234, 2_500_000, 3_600_000_000].map(count),
            ["12", "1 k", "2.5 M", "3.60 G"]
        );
        assert_eq!([2e6, 7.3e10].map(bytes), ["2.0 MB", "73.0 GB"]);
    }
}
