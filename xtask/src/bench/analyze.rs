//! `cargo xtask bench analyze`: layer-by-layer linear CKA beside numpy and the package torch_cka, and the memory of a stream from the disk.
//!
//! Every contestant runs in its own process, interleaved over the rounds; the first call of a process is a warm-up and not
//! counted. The ratio that the target is about is against the faster of numpy's two forms.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::peers::{self, Python, output_of};
use super::report::Bound;
use super::sample::last_object;
use super::stats::{Ratio, pooled_median, ratio};

/// The options of `bench analyze`.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Few rounds, to see that everything runs; the numbers are not for quoting.
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, every contestant runs once in its own process [default: 5, with --quick 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Threads of every contestant.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Leave out the package torch_cka (its torch is several GB to install).
    #[arg(long)]
    no_torch: bool,
    /// Also stream a million tokens of 13 layers from a file of 6.7 GB under `runs/bench` and tell the peak memory.
    #[arg(long)]
    memory: bool,
}

/// What is compared at once: two models of `layers` taps over `rows` rows.
#[derive(Clone, Copy, Debug, Serialize)]
struct Shape {
    name: &'static str,
    rows: usize,
    width: usize,
    layers: usize,
    /// Whether torch_cka finishes it: it builds every Gram matrix anew for every pair.
    torch: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "d128",
        rows: 20_000,
        width: 128,
        layers: 13,
        torch: false,
    },
    Shape {
        name: "d768",
        rows: 4096,
        width: 768,
        layers: 13,
        torch: false,
    },
    Shape {
        name: "small",
        rows: 1024,
        width: 128,
        layers: 13,
        torch: true,
    },
];

/// Who runs, in the order of the table.
const OURS: &str = "tcd feature";
const OURS_SAMPLE: &str = "tcd sample";
const JOINED: &str = "numpy-joined";
const TILES: &str = "numpy-tiles";
const TORCH: &str = "torch-cka";

/// What one process printed.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Sample {
    seconds: Vec<f64>,
    mean: f64,
    peak_memory_bytes: u64,
    #[serde(default)]
    versions: BTreeMap<String, String>,
}

/// One contestant at one shape.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    shape: &'static str,
    contestant: &'static str,
    rounds: Vec<Sample>,
}

/// One compared pair.
#[derive(Clone, Debug, Serialize)]
struct Comparison {
    shape: &'static str,
    what: String,
    ratio: Ratio,
    bound: Option<Bound>,
    met: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    quick: bool,
    cpu: String,
    threads: u32,
    entries: Vec<Entry>,
    comparisons: Vec<Comparison>,
    stream: Option<Sample>,
}

impl Analyze {
    /// Runs the benchmark.
    pub fn run(&self, root: &Path) -> Result<()> {
        let python = self.python(root).context("setting up the Python peers")?;
        let program = build(root).context("building the program to measure")?;
        let rounds = self.rounds.unwrap_or(if self.quick { 2 } else { 5 });
        let mut entries = Vec::new();
        for shape in SHAPES {
            entries.extend(self.heat(&shape, rounds, &python, &program)?);
            // The tables come at the end; a run that is stopped has shown this much.
            for found in compare(&entries).iter().filter(|c| c.shape == shape.name) {
                let Ratio { value, min, max } = found.ratio;
                eprintln!(
                    "{}: {} {value:.2} ({min:.2}..{max:.2})",
                    shape.name, found.what
                );
            }
        }
        let stream = if self.memory {
            Some(self.stream(root, &program)?)
        } else {
            None
        };
        let comparisons = compare(&entries);
        let (cpu, threads) = (super::contest::cpu_model(), self.threads);
        let report = Report {
            quick: self.quick,
            cpu,
            threads,
            entries,
            comparisons,
            stream,
        };
        print!("{}", report.markdown());
        let path = root.join("runs/bench/analyze.json");
        super::write_whole(
            &path,
            &serde_json::to_string_pretty(&report).context("writing the report as JSON")?,
        )?;
        eprintln!("raw figures: {}", path.display());
        Ok(())
    }

    fn python(&self, root: &Path) -> Result<Python> {
        if self.no_torch {
            peers::install_into(root, "analyze-numpy", None, &["numpy==2.4.6"])
        } else {
            let torch = peers::install(root)?;
            let packages = ["torch_cka==0.21", "tqdm==4.70.1", "matplotlib==3.11.2"];
            peers::install_into(root, "analyze-peers", Some(torch), &packages)
        }
    }

    fn heat(
        &self,
        shape: &Shape,
        rounds: u32,
        python: &Python,
        program: &Path,
    ) -> Result<Vec<Entry>> {
        let mut names = vec![OURS, OURS_SAMPLE, JOINED, TILES];
        if shape.torch && !self.no_torch {
            names.push(TORCH);
        }
        // The sample form of many rows is not what anyone would choose.
        names.retain(|n| *n != OURS_SAMPLE || shape.rows <= 4 * shape.width * shape.layers);
        let mut entries: Vec<Entry> = names
            .iter()
            .map(|&contestant| Entry {
                shape: shape.name,
                contestant,
                rounds: Vec::new(),
            })
            .collect();
        for round in 0..rounds as usize {
            for turn in 0..entries.len() {
                let entry = (round + turn) % entries.len();
                let entry = &mut entries[entry];
                eprintln!("{} {} round {}", shape.name, entry.contestant, round + 1);
                let command = self.command(shape, entry.contestant, python, program);
                entry.rounds.push(self.measure(command, entry.contestant)?);
            }
        }
        Ok(entries)
    }

    fn command(&self, shape: &Shape, contestant: &str, python: &Python, program: &Path) -> Command {
        let repeats = if contestant == TORCH { "2" } else { "4" };
        let sizes = [shape.rows, shape.width, shape.layers].map(|n| n.to_string());
        match contestant {
            OURS | OURS_SAMPLE => {
                let mut command = Command::new(program);
                command
                    .arg("cka")
                    .args(sizes)
                    .arg(repeats)
                    .arg(if contestant == OURS {
                        "feature"
                    } else {
                        "sample"
                    });
                command
            }
            _ => {
                let mut command = python.script("analyze_peer.py");
                command.arg(contestant).args(sizes).arg(repeats);
                command
            }
        }
    }

    fn measure(&self, mut command: Command, what: &str) -> Result<Sample> {
        let threads = self.threads.to_string();
        for variable in [
            "RAYON_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
        ] {
            command.env(variable, &threads);
        }
        let stdout = output_of(command, what)?;
        let mut sample: Sample =
            serde_json::from_str(last_object(&stdout)?).context("reading the JSON line")?;
        ensure!(
            sample.seconds.iter().all(|s| s.is_finite() && *s > 0.0),
            "{what} timed no duration"
        );
        if sample.seconds.len() > 1 {
            sample.seconds.remove(0);
        }
        Ok(sample)
    }

    fn stream(&self, root: &Path, program: &Path) -> Result<Sample> {
        let path = root.join("runs/bench/stream.safetensors");
        eprintln!("a million tokens from {}", path.display());
        let mut command = Command::new(program);
        command.args(["stream", "1000000", "128", "13"]).arg(&path);
        let sample = self.measure(command, "the stream");
        std::fs::remove_file(&path).with_context(|| format!("removing: {}", path.display()))?;
        sample
    }
}

/// Builds this project's side in release mode and gives its path.
fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            "tcd-analysis",
            "--example",
            "bench_analyze",
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo failed: {}", output.status);
    peers::executable(&String::from_utf8_lossy(&output.stdout)).context("cargo named no executable")
}

fn seconds(entries: &[Entry], shape: &str, contestant: &str) -> Option<Vec<Vec<f64>>> {
    let entry = entries
        .iter()
        .find(|e| e.shape == shape && e.contestant == contestant)?;
    Some(entry.rounds.iter().map(|s| s.seconds.clone()).collect())
}

fn compare(entries: &[Entry]) -> Vec<Comparison> {
    let mut found = Vec::new();
    for shape in &SHAPES {
        let of = |contestant| seconds(entries, shape.name, contestant);
        let Some(ours) = of(OURS) else { continue };
        // The faster form of numpy counts.
        let forms = [JOINED, TILES]
            .into_iter()
            .filter_map(|name| Some((name, of(name)?)));
        let best = forms.min_by(|a, b| {
            let median = |rounds: &Vec<Vec<f64>>| pooled_median(rounds).unwrap_or(f64::INFINITY);
            median(&a.1).total_cmp(&median(&b.1))
        });
        let mut add =
            |what: String, top: &[Vec<f64>], bottom: &[Vec<f64>], bound: Option<Bound>| {
                if let Some(ratio) = ratio(top, bottom) {
                    let met = bound.map(|b| b.is_met(ratio.value));
                    found.push(Comparison {
                        shape: shape.name,
                        what,
                        ratio,
                        bound,
                        met,
                    });
                }
            };
        if let Some((name, numpy)) = best {
            add(
                format!("speed: {OURS} / {name}"),
                &numpy,
                &ours,
                Some(Bound::AtLeast(1.0)),
            );
            if let Some(sample) = of(OURS_SAMPLE) {
                add(
                    format!("speed: {OURS_SAMPLE} / {name}"),
                    &numpy,
                    &sample,
                    None,
                );
            }
        }
        if let Some(torch) = of(TORCH) {
            add(
                format!("speed: {OURS} / {TORCH}"),
                &torch,
                &ours,
                Some(Bound::AtLeast(10.0)),
            );
        }
    }
    found
}

impl Report {
    fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Analysis speed\n")?;
        if self.quick {
            writeln!(out, "A quick run: too few rounds to quote.\n")?;
        }
        let versions: BTreeMap<_, _> = self
            .entries
            .iter()
            .flat_map(|e| &e.rounds)
            .flat_map(|s| &s.versions)
            .collect();
        let versions: Vec<String> = versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        writeln!(
            out,
            "- machine: {}, {} threads; peers: {}",
            self.cpu,
            self.threads,
            versions.join(", ")
        )?;
        writeln!(
            out,
            "- debiased linear CKA of two models, layer by layer, no null and no interval\n"
        )?;
        writeln!(
            out,
            "| shape | rows x width, layers | program | ms | peak memory MiB |\n| --- | --- | --- | ---: | ---: |"
        )?;
        for entry in &self.entries {
            let Some(shape) = SHAPES.iter().find(|s| s.name == entry.shape) else {
                continue;
            };
            let rounds: Vec<Vec<f64>> = entry.rounds.iter().map(|s| s.seconds.clone()).collect();
            let memory = entry
                .rounds
                .iter()
                .map(|s| s.peak_memory_bytes)
                .max()
                .unwrap_or(0)
                >> 20;
            let ms = 1e3 * pooled_median(&rounds).unwrap_or(f64::NAN);
            let size = format!("{} x {}, {}", shape.rows, shape.width, shape.layers);
            writeln!(
                out,
                "| {} | {size} | {} | {ms:.1} | {memory} |",
                entry.shape, entry.contestant
            )?;
        }
        writeln!(
            out,
            "\n| shape | compared | ratio (min..max of the rounds) | target | |\n| --- | --- | ---: | ---: | --- |"
        )?;
        for c in &self.comparisons {
            let Ratio { value, min, max } = c.ratio;
            let target = match c.bound {
                Some(Bound::AtLeast(bound)) => format!(">= {bound:.1}"),
                Some(Bound::AtMost(bound)) => format!("<= {bound:.1}"),
                None => String::new(),
            };
            let verdict = c
                .met
                .map_or("", |met| if met { "met" } else { "**missed**" });
            writeln!(
                out,
                "| {} | {} | {value:.2} ({min:.2}..{max:.2}) | {target} | {verdict} |",
                c.shape, c.what
            )?;
        }
        if let Some(stream) = &self.stream {
            let mib = stream.peak_memory_bytes >> 20;
            let met = if mib < 1000 { "met" } else { "**missed**" };
            let seconds = stream.seconds.first().copied().unwrap_or(f64::NAN);
            writeln!(
                out,
                "\nA million tokens, 13 layers of 128, from the disk: {mib} MiB at peak (target: under 1 GB, {met}), {seconds:.1} s."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(contestant: &'static str, seconds: f64) -> Entry {
        let sample = Sample {
            seconds: vec![seconds; 3],
            mean: 0.0,
            peak_memory_bytes: 5 << 20,
            versions: BTreeMap::new(),
        };
        Entry {
            shape: "small",
            contestant,
            rounds: vec![sample.clone(), sample],
        }
    }

    #[test]
    fn targets_are_against_the_faster_numpy_and_torch_cka() {
        let entries = [
            entry(OURS, 0.5),
            entry(JOINED, 1.0),
            entry(TILES, 0.25),
            entry(TORCH, 8.0),
        ];
        let found = compare(&entries);
        assert_eq!(
            (found[0].what.as_str(), found[0].ratio.value, found[0].met),
            ("speed: tcd feature / numpy-tiles", 0.5, Some(false))
        );
        assert_eq!((found[1].ratio.value, found[1].met), (16.0, Some(true)));
        let report = Report {
            quick: true,
            cpu: "a processor".into(),
            threads: 2,
            entries: entries.to_vec(),
            comparisons: found,
            stream: Some(Sample {
                seconds: vec![3.0],
                mean: 0.0,
                peak_memory_bytes: 400 << 20,
                versions: BTreeMap::new(),
            }),
        };
        let text = report.markdown();
        assert!(
            text.contains("**missed**") && text.contains("A quick run") && text.contains("400 MiB"),
            "{text}"
        );
    }
}
