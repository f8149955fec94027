//! `cargo xtask bench eval`: answering rows, this program beside Hugging Face's way and Python's onnxruntime.
//!
//! Models have random weights: speed does not depend on what they learned, and routers are wide enough that random tokens spread
//! over the experts. In every round each contestant runs once in its own process; figures are medians over all passes, and a
//! ratio has its range over the rounds ([`super::stats`]).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::peers::{self, Python, output_of};
use super::sample::last_object;
use super::stats::{Ratio, pooled_median, ratio};

/// The options of `bench eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// Rounds; in each, every contestant runs once in its own process.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of every contestant.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Measure only these, by name (`l4-h128`, `l6-h384`, `experts`).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Folder of the GLUE data, with SST-2 and MNLI.
    #[arg(long, default_value = "../shared/data/glue")]
    data: PathBuf,
    /// Tokenizer of the models.
    #[arg(
        long,
        default_value = "../shared/data/vocab/bert-base-uncased/tokenizer.json"
    )]
    tokenizer: PathBuf,
    /// A built program to measure instead of building this workspace's in release mode.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Leave out the peer that needs PyTorch.
    #[arg(long)]
    no_torch: bool,
}

/// What every contestant prints.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Line {
    #[serde(default)]
    rows: u64,
    load_seconds: f64,
    #[serde(default)]
    first_seconds: f64,
    #[serde(default)]
    encode_seconds: Vec<f64>,
    run_seconds: Vec<f64>,
}

impl Line {
    /// Tokenizing and running together, pass by pass.
    fn whole(&self) -> Vec<f64> {
        if self.encode_seconds.is_empty() {
            return self.run_seconds.clone();
        }
        self.encode_seconds
            .iter()
            .zip(&self.run_seconds)
            .map(|pair| pair.0 + pair.1)
            .collect()
    }
}

/// One contestant's rounds.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    name: String,
    lines: Vec<Line>,
}

/// A ratio and what is wanted of it.
#[derive(Clone, Debug, Serialize)]
struct Verdict {
    what: String,
    ratio: Ratio,
    target: String,
    met: bool,
}

/// Everything about one model and data set.
#[derive(Clone, Debug, Serialize)]
struct Heat {
    title: String,
    entries: Vec<Entry>,
    verdicts: Vec<Verdict>,
}

const MODELS: [(&str, u32, u32); 2] = [("l4-h128", 4, 128), ("l6-h384", 6, 384)];
const TASKS: [(&str, u32, &str); 2] =
    [("SST-2", 2, "sentence"), ("MNLI", 3, "sentence1,sentence2")];
const EXPERTS: u32 = 64;

impl Eval {
    /// Runs the benchmark: the tables go to stdout, the raw figures to `runs/bench/eval.json`.
    pub fn run(&self, root: &Path) -> Result<()> {
        let program = match &self.program {
            Some(path) => path.clone(),
            None => peers::build_program(root).context("building the program to measure")?,
        };
        crate::wheels::ensure();
        let python = if self.no_torch {
            peers::onnxruntime(root)
        } else {
            peers::install(root)
                .context("setting up the peers")?
                .with_onnxruntime(root)
        };
        let bench = Bench {
            options: self,
            program,
            python,
            folder: root.join("runs/bench/eval"),
        };
        let mut heats = Vec::new();
        for (name, layers, hidden) in MODELS {
            if self.wants(name) {
                for (task, labels, columns) in TASKS {
                    heats.push(bench.rows(name, (layers, hidden), (task, labels, columns))?);
                }
            }
        }
        if self.wants("experts") {
            heats.push(bench.experts()?);
        }
        ensure!(
            !heats.is_empty(),
            "nothing to measure\nhint: `--only` takes l4-h128, l6-h384 and experts"
        );
        print!("{}", markdown(&heats));
        let path = root.join("runs/bench/eval.json");
        super::write_whole(&path, &serde_json::to_string_pretty(&heats)?)?;
        eprintln!("raw figures: {}", path.display());
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

struct Bench<'a> {
    options: &'a Eval,
    program: PathBuf,
    python: Python,
    folder: PathBuf,
}

impl Bench<'_> {
    fn tcd(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("bench-eval").args(words);
        command
    }

    /// A model of random weights, exported.
    fn make(&self, (layers, hidden): (u32, u32), experts: u32, labels: u32) -> Result<PathBuf> {
        let out = self
            .folder
            .join(format!("l{layers}-h{hidden}-e{experts}-c{labels}"));
        let mut make = self.tcd(&["make"]);
        let numbers = [
            ("--layers", layers),
            ("--hidden", hidden),
            ("--experts", experts),
            ("--labels", labels),
        ];
        for (name, number) in numbers {
            make.arg(name).arg(number.to_string());
        }
        make.arg("--tokenizer")
            .arg(&self.options.tokenizer)
            .arg("--out")
            .arg(&out);
        output_of(make, "making a model")?;
        Ok(out)
    }

    /// Rows of a task, as a text file that all contestants read.
    fn texts(&self, task: &str, columns: &str) -> Result<PathBuf> {
        let folder = self.options.data.join(task);
        let file = if task == "MNLI" {
            "dev_matched.tsv"
        } else {
            "dev.tsv"
        };
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "reading {}\nhint: `--data` names the folder of the GLUE download",
                path.display()
            )
        })?;
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        let places = columns
            .split(',')
            .map(|name| {
                header
                    .iter()
                    .position(|column| *column == name)
                    .with_context(|| format!("no column `{name}` in {}", path.display()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut out = String::new();
        // The first rows of MNLI are enough, and a peer that pads to 128 takes its time.
        for line in lines.take(2000) {
            let fields: Vec<&str> = line.split('\t').collect();
            let texts: Vec<&str> = places
                .iter()
                .filter_map(|&place| fields.get(place).map(|text| text.trim()))
                .collect();
            writeln!(out, "{}", texts.join("\t"))?;
        }
        let to = self.folder.join(format!("{task}.txt"));
        std::fs::create_dir_all(&self.folder)?;
        std::fs::write(&to, out).with_context(|| format!("writing {}", to.display()))?;
        Ok(to)
    }

    fn line(&self, command: Command, what: &str) -> Result<Line> {
        let line: Line = serde_json::from_str(last_object(&output_of(command, what)?)?)
            .with_context(|| format!("reading what {what} printed"))?;
        ensure!(
            line.run_seconds.iter().all(|seconds| *seconds > 0.0),
            "{what} printed a time that is no duration"
        );
        Ok(line)
    }

    fn rows(
        &self,
        name: &str,
        size: (u32, u32),
        (task, labels, columns): (&str, u32, &str),
    ) -> Result<Heat> {
        let model = self.make(size, 0, labels)?;
        let (texts, tensors) = (
            self.texts(task, columns)?,
            self.folder.join(format!("{task}.safetensors")),
        );
        let threads = self.options.threads.to_string();
        let own = |engine: &str| {
            let mut command = self.tcd(&[
                "rows",
                "--runtime",
                engine,
                "--threads",
                &threads,
                "--max-length",
                "128",
                "--model",
            ]);
            command.arg(&model).arg(&texts);
            if engine == "ort" {
                command.arg("--tensors").arg(&tensors);
            }
            command
        };
        let peer = |kind: &str| {
            let mut command = self.python.script("eval_peer.py");
            command
                .args(["--kind", kind, "--threads", &threads, "--model"])
                .arg(&model);
            command
                .arg("--rows")
                .arg(&texts)
                .arg("--tensors")
                .arg(&tensors);
            command
        };
        let mut kinds = vec!["tcd ort", "tcd tract", "ort-raw", "ort-dynamic"];
        if !self.options.no_torch {
            kinds.push("hf-pad128");
        }
        let entries = self.rounds(&kinds, |kind| match kind.strip_prefix("tcd ") {
            Some(engine) => own(engine),
            None => peer(kind),
        })?;
        let by = |name: &str, what: fn(&Line) -> Vec<f64>| seconds(&entries, name, what);
        let (ours, whole) = ("tcd ort", Line::whole as fn(&Line) -> Vec<f64>);
        let run: fn(&Line) -> Vec<f64> = |line| line.run_seconds.clone();
        let mut verdicts = Vec::new();
        let mut add = |what: &str, top: Vec<Vec<f64>>, bottom: Vec<Vec<f64>>, target: Target| {
            verdicts.extend(ratio(&top, &bottom).map(|ratio| target.verdict(what, ratio)));
        };
        add(
            "sentences/s, tcd ort / hf-pad128",
            by("hf-pad128", whole),
            by(ours, whole),
            Target::AtLeast(4.0),
        );
        add(
            "sentences/s, tcd ort / ort-dynamic",
            by("ort-dynamic", whole),
            by(ours, whole),
            Target::AtLeast(1.5),
        );
        add(
            "running time, tcd ort / ort-raw",
            by(ours, run),
            by("ort-raw", run),
            Target::AtMost(1.05),
        );
        add(
            "running time, tcd tract / tcd ort",
            by("tcd tract", run),
            by(ours, run),
            Target::AtMost(2.5),
        );
        let load: fn(&Line) -> Vec<f64> = |line| vec![line.load_seconds];
        let start = pooled_median(&by(ours, load)).unwrap_or(f64::NAN);
        Ok(Heat {
            title: format!("{name}, {task}: loading on ort takes {start:.2} s"),
            entries,
            verdicts,
        })
    }

    fn experts(&self) -> Result<Heat> {
        let models = [0, EXPERTS].map(|experts| self.make((4, 128), experts, 2));
        let [vanilla, mixture] = models;
        let (vanilla, mixture) = (vanilla?, mixture?);
        let threads = self.options.threads.to_string();
        let kinds = [
            "ort vanilla",
            "ort experts",
            "tract vanilla",
            "tract experts",
        ];
        let entries = self.rounds(&kinds, |kind| {
            let (engine, which) = kind.split_once(' ').unwrap_or(("ort", "vanilla"));
            let mut command = self.tcd(&[
                "tokens",
                "--runtime",
                engine,
                "--threads",
                &threads,
                "--model",
            ]);
            command.arg(if which == "vanilla" {
                &vanilla
            } else {
                &mixture
            });
            command
        })?;
        let run: fn(&Line) -> Vec<f64> = |line| line.run_seconds.clone();
        let mut verdicts = Vec::new();
        for (engine, limit) in [("ort", 1.8), ("tract", 2.5)] {
            let [top, bottom] = ["experts", "vanilla"]
                .map(|which| seconds(&entries, &format!("{engine} {which}"), run));
            let what = format!("time of a batch of 8 x 128 tokens on {engine}, E=64 / vanilla");
            verdicts.extend(
                ratio(&top, &bottom).map(|ratio| Target::AtMost(limit).verdict(&what, ratio)),
            );
        }
        Ok(Heat {
            title: "l4-h128, 64 experts, random tokens".to_owned(),
            entries,
            verdicts,
        })
    }

    /// Runs every contestant once a round, the order turned from round to round.
    fn rounds(&self, kinds: &[&str], command: impl Fn(&str) -> Command) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = kinds
            .iter()
            .map(|kind| Entry {
                name: (*kind).to_owned(),
                lines: Vec::new(),
            })
            .collect();
        // Once in the first contestant's place: it writes the tensors that a peer reads.
        self.line(command(kinds[0]), kinds[0])?;
        for round in 0..self.options.rounds {
            for turn in 0..kinds.len() {
                let place = (turn + round as usize) % kinds.len();
                eprintln!("round {}: {}", round + 1, kinds[place]);
                let line = self.line(command(kinds[place]), kinds[place])?;
                entries[place].lines.push(line);
            }
        }
        Ok(entries)
    }
}

/// One list of seconds a round.
fn seconds(entries: &[Entry], name: &str, what: fn(&Line) -> Vec<f64>) -> Vec<Vec<f64>> {
    let entry = entries.iter().find(|entry| entry.name == name);
    entry
        .map(|entry| entry.lines.iter().map(what).collect())
        .unwrap_or_default()
}

#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn verdict(self, what: &str, ratio: Ratio) -> Verdict {
        let (target, met) = match self {
            Self::AtLeast(bound) => (format!(">= {bound}"), ratio.value >= bound),
            Self::AtMost(bound) => (format!("<= {bound}"), ratio.value <= bound),
        };
        Verdict {
            what: what.to_owned(),
            ratio,
            target,
            met,
        }
    }
}

fn markdown(heats: &[Heat]) -> String {
    let mut text = String::new();
    for heat in heats {
        text += &format!(
            "\n### {}\n\n| who | run, s | rows/s, tokenizing included |\n| --- | ---: | ---: |\n",
            heat.title
        );
        for entry in &heat.entries {
            let of = |what: fn(&Line) -> Vec<f64>| {
                pooled_median(&entry.lines.iter().map(what).collect::<Vec<_>>()).unwrap_or(f64::NAN)
            };
            let rows = entry.lines.first().map_or(0, |line| line.rows);
            let rate = if rows == 0 {
                "-".to_owned()
            } else {
                format!("{:.0}", rows as f64 / of(Line::whole))
            };
            text += &format!(
                "| {} | {:.4} | {rate} |\n",
                entry.name,
                of(|line| line.run_seconds.clone())
            );
        }
        text += "\n| compared | ratio of medians (min..max of the rounds) | target | met |\n| --- | ---: | ---: | --- |\n";
        for row in &heat.verdicts {
            let Ratio { value, min, max } = row.ratio;
            let met = if row.met { "yes" } else { "no" };
            text += &format!(
                "| {} | {value:.2} ({min:.2}..{max:.2}) | {} | {met} |\n",
                row.what, row.target
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, run: &[f64]) -> Entry {
        let line = Line {
            rows: 10,
            run_seconds: run.to_vec(),
            encode_seconds: vec![0.5; run.len()],
            ..Line::default()
        };
        Entry {
            name: name.to_owned(),
            lines: vec![line.clone(), line],
        }
    }

    #[test]
    fn tokenizing_counts_where_it_was_timed() {
        let entries = [entry("a", &[1.0, 2.0])];
        assert_eq!(
            seconds(&entries, "a", Line::whole),
            [[1.5, 2.5], [1.5, 2.5]]
        );
        assert!(
            seconds(&entries, "b", Line::whole).is_empty(),
            "who did not run has no seconds"
        );
    }

    #[test]
    fn targets_bound_from_the_right_side() {
        let ratio = Ratio {
            value: 2.0,
            min: 1.5,
            max: 2.5,
        };
        assert!(
            Target::AtLeast(2.0).verdict("x", ratio).met
                && !Target::AtLeast(2.1).verdict("x", ratio).met
        );
        assert!(
            Target::AtMost(2.0).verdict("x", ratio).met
                && !Target::AtMost(1.9).verdict("x", ratio).met
        );
        let heat = Heat {
            title: "t".to_owned(),
            entries: vec![entry("a", &[1.0])],
            verdicts: vec![Target::AtMost(1.9).verdict("x", ratio)],
        };
        let text = markdown(&[heat]);
        assert!(
            text.contains("| a | 1.0000 | 7 |")
                && text.contains("| x | 2.00 (1.50..2.50) | <= 1.9 | no |"),
            "{text}"
        );
    }
}
