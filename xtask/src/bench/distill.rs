//! `cargo xtask bench distill`: what a teacher costs, beside the student's own step and the teacher's own forward pass.
//!
//! The program times the three in turn within one process (`tcd bench-distill`); a round is one such process. The ratio is
//! distilled step / (student's step + teacher's forward), of medians. Peak memory is measured at several numbers of
//! positions, and at twice the tokens, to see what it grows with.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::peers::output_of;
use super::sample::last_object;
use super::stats::{Ratio, median, pooled_median, ratio};

/// The most that a distilled step may cost.
const TARGET: f64 = 1.15;

/// What the program prints.
#[derive(Debug, Deserialize)]
struct Sample {
    student_seconds: Vec<f64>,
    distilled_seconds: Vec<f64>,
    teacher_seconds: Vec<f64>,
    peak_memory_bytes: u64,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Processes.
    pub rounds: u32,
    /// Timed steps of each.
    pub steps: u32,
    /// CPU threads.
    pub threads: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Outcome {
    threads: u32,
    /// Distilled step over student's step plus teacher's forward, by method.
    cost: Vec<(String, Ratio)>,
    /// Medians in seconds of the relations method: student's step, teacher's forward, distilled step.
    seconds: [f64; 3],
    /// Rows of a batch, positions drawn, peak bytes.
    memory: Vec<(u32, u32, u64)>,
}

fn run(program: &Path, effort: Effort, more: &[&str]) -> Result<Sample> {
    let mut command = Command::new(program);
    command
        .arg("bench-distill")
        .args(["--threads", &effort.threads.to_string()])
        .args(["--steps", &effort.steps.to_string()])
        .args(more);
    let text = output_of(command, "tcd bench-distill")?;
    serde_json::from_str(last_object(&text)?).context("reading what `tcd bench-distill` printed")
}

/// Measures.
pub fn measure(program: &Path, effort: Effort) -> Result<Outcome> {
    let methods = ["relations", "logits", "hidden", "minilm", "cka"];
    let mut samples: Vec<Vec<Sample>> = methods.iter().map(|_| Vec::new()).collect();
    for round in 0..effort.rounds {
        for (method, samples) in methods.iter().zip(&mut samples) {
            eprintln!("round {} of {}: {method}", round + 1, effort.rounds);
            samples.push(run(program, effort, &["--method", method])?);
        }
    }
    let column = |samples: &[Sample], pick: fn(&Sample) -> &Vec<f64>| -> Vec<Vec<f64>> {
        samples.iter().map(|s| pick(s).clone()).collect()
    };
    let mut cost = Vec::new();
    for (method, samples) in methods.iter().zip(&samples) {
        let distilled = column(samples, |s| &s.distilled_seconds);
        let apart: Vec<Vec<f64>> = samples
            .iter()
            .map(|s| {
                let teacher = median(&s.teacher_seconds).unwrap_or(f64::NAN);
                s.student_seconds.iter().map(|t| t + teacher).collect()
            })
            .collect();
        let ratio = ratio(&distilled, &apart).context("no timed step")?;
        cost.push(((*method).to_string(), ratio));
    }
    let relations = &samples[0];
    let seconds = [
        column(relations, |s| &s.student_seconds),
        column(relations, |s| &s.teacher_seconds),
        column(relations, |s| &s.distilled_seconds),
    ]
    .map(|rounds| pooled_median(&rounds).unwrap_or(f64::NAN));
    let few = Effort { steps: 2, ..effort };
    let mut memory = Vec::new();
    for (rows, positions) in [(32, 256), (32, 1024), (32, 4096), (64, 1024)] {
        eprintln!("memory at {rows} rows, {positions} positions");
        let (b, n) = (rows.to_string(), positions.to_string());
        let sample = run(program, few, &["--batch", &b, "--positions", &n])?;
        memory.push((rows, positions, sample.peak_memory_bytes));
    }
    Ok(Outcome {
        threads: effort.threads,
        cost,
        seconds,
        memory,
    })
}

impl Outcome {
    /// The tables, as Markdown.
    pub fn markdown(&self) -> String {
        let [student, teacher, distilled] = self.seconds;
        let mut text = format!(
            "L4 H128, 16 experts, teacher L4 H128, 1,024 positions, 32 rows of 128, {} threads: student's step {:.0} ms, teacher's forward {:.0} ms, distilled step {:.0} ms (medians)\n\n| method | distilled step / (student's step + teacher's forward) (range of the rounds) | target |\n| --- | ---: | ---: |\n",
            self.threads,
            1e3 * student,
            1e3 * teacher,
            1e3 * distilled
        );
        for (i, (method, ratio)) in self.cost.iter().enumerate() {
            let target = if i == 0 {
                format!("<= {TARGET:.2}")
            } else {
                "-".to_string()
            };
            text += &format!(
                "| {method} | {:.2} ({:.2}..{:.2}) | {target} |\n",
                ratio.value, ratio.min, ratio.max
            );
        }
        text += "\n| rows | positions | peak memory |\n| ---: | ---: | ---: |\n";
        for (rows, positions, bytes) in &self.memory {
            text += &format!("| {rows} | {positions} | {} MiB |\n", bytes >> 20);
        }
        text
    }
}
