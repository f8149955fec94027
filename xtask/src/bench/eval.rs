//! `cargo xtask bench eval`: answering rows, this program beside Hugging Face's way and Python's onnxruntime.
//!
//! Models have random weights: speed does not depend on what they learned, and routers are wide enough that random tokens spread
//! over the experts. In every round each contestant runs once in its own process; figures are medians over all passes, and a
//! ratio has its range over the rounds ([`super::stats`]).

mod table;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use self::table::{Entry, Heat, Line, Target, absolute, markdown, seconds};
use super::peers::{self, Python, output_of};
use super::sample::last_object;
use super::stats::{pooled_median, ratio};

/// The options of `bench eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// Rounds; in each, every contestant runs once in its own process.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of every contestant.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Rows of a task, from its first.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Measure only these, by name (`l4-h128`, `l6-h384`, `experts`, `precision`, `export`).
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

const MODELS: [(&str, u32, u32); 2] = [("l4-h128", 4, 128), ("l6-h384", 6, 384)];
const TASKS: [(&str, u32, &str); 2] =
    [("SST-2", 2, "sentence"), ("MNLI", 3, "sentence1,sentence2")];
const EXPERTS: u32 = 64;
const PRECISIONS: [&str; 3] = ["f32", "f16", "int8"];
/// As the peers of PyTorch have it.
const TRANSFORMERS: &str = "transformers==5.23.0";

/// Seconds of running.
const RUN: fn(&Line) -> Vec<f64> = |line| line.run_seconds.clone();

/// What making a model prints.
#[derive(Clone, Debug, Deserialize)]
struct Made {
    export_seconds: f64,
}

impl Eval {
    /// Runs the benchmark: the tables go to stdout, the raw figures to `runs/bench/eval.json`.
    pub fn run(&self, root: &Path) -> Result<()> {
        let program = match &self.program {
            Some(path) => path.clone(),
            None => peers::build_program(root).context("building the program to measure")?,
        };
        crate::wheels::ensure();
        let python = if self.no_torch {
            // The peers on onnxruntime tokenize as people do, which needs no PyTorch.
            peers::install_into(root, "peers-onnxruntime", None, &[TRANSFORMERS])
                .context("setting up the peers")?
                .with_onnxruntime(root)
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
        let mut heats = Heats::default();
        for (name, layers, hidden) in MODELS {
            if self.wants(name) {
                for (task, labels, columns) in TASKS {
                    heats.add(bench.rows(name, (layers, hidden), (task, labels, columns))?);
                }
            }
        }
        if self.wants("experts") {
            let mut threads = vec![1, self.threads];
            threads.dedup();
            for threads in threads {
                heats.add(bench.experts(threads)?);
            }
        }
        if self.wants("precision") {
            heats.add(bench.precision()?);
        }
        if self.wants("export") {
            heats.add(bench.export()?);
        }
        ensure!(
            !heats.0.is_empty(),
            "nothing to measure\nhint: `--only` takes l4-h128, l6-h384, experts, precision and export"
        );
        let path = root.join("runs/bench/eval.json");
        super::write_whole(&path, &serde_json::to_string_pretty(&heats.0)?)?;
        eprintln!("raw figures: {}", path.display());
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// What was measured so far; each table is printed as soon as it is complete, so that a run that is stopped has shown its part.
#[derive(Default)]
struct Heats(Vec<Heat>);

impl Heats {
    fn add(&mut self, heat: Heat) {
        println!("{}", markdown(&heat));
        self.0.push(heat);
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
    fn make(&self, size: (u32, u32), experts: u32, labels: u32) -> Result<PathBuf> {
        Ok(self.made(size, experts, labels, "f32")?.0)
    }

    /// A model of random weights in a precision, and what making it told.
    fn made(
        &self,
        (layers, hidden): (u32, u32),
        experts: u32,
        labels: u32,
        precision: &str,
    ) -> Result<(PathBuf, Made)> {
        let out = self.folder.join(format!(
            "l{layers}-h{hidden}-e{experts}-c{labels}-{precision}"
        ));
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
            .args(["--precision", precision])
            .arg("--out")
            .arg(&out);
        let said = output_of(make, "making a model")?;
        let made = serde_json::from_str(last_object(&said)?)
            .context("reading what making a model printed")?;
        Ok((out, made))
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
        // The first rows are enough, and a peer that pads to 128 takes its time.
        for line in lines.take(self.options.rows as usize) {
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
            by(ours, RUN),
            by("ort-raw", RUN),
            Target::AtMost(1.05),
        );
        add(
            "running time, tcd tract / tcd ort",
            by("tcd tract", RUN),
            by(ours, RUN),
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

    /// Batches of random tokens on an engine.
    fn tokens(&self, engine: &str, threads: u32, model: &Path) -> Command {
        let mut command = self.tcd(&["tokens", "--runtime", engine]);
        command.args(["--threads", &threads.to_string(), "--model"]);
        command.arg(model);
        command
    }

    fn experts(&self, threads: u32) -> Result<Heat> {
        let models = [0, EXPERTS].map(|experts| self.make((4, 128), experts, 2));
        let [vanilla, mixture] = models;
        let (vanilla, mixture) = (vanilla?, mixture?);
        let kinds = [
            "ort vanilla",
            "ort experts",
            "tract vanilla",
            "tract experts",
        ];
        let entries = self.rounds(&kinds, |kind| {
            let (engine, which) = kind.split_once(' ').unwrap_or(("ort", "vanilla"));
            let model = if which == "vanilla" {
                &vanilla
            } else {
                &mixture
            };
            self.tokens(engine, threads, model)
        })?;
        let mut verdicts = Vec::new();
        for (engine, limit) in [("ort", 1.8), ("tract", 2.5)] {
            let [top, bottom] = ["experts", "vanilla"]
                .map(|which| seconds(&entries, &format!("{engine} {which}"), RUN));
            let what = format!("time of a batch of 8 x 128 tokens on {engine}, E=64 / vanilla");
            verdicts.extend(
                ratio(&top, &bottom).map(|ratio| Target::AtMost(limit).verdict(&what, ratio)),
            );
        }
        let tract =
            ["tract", "ort"].map(|engine| seconds(&entries, &format!("{engine} vanilla"), RUN));
        verdicts.extend(ratio(&tract[0], &tract[1]).map(|ratio| {
            Target::AtMost(2.5).verdict("time of such a batch, tract / ort, vanilla", ratio)
        }));
        let start: fn(&Line) -> Vec<f64> = |line| vec![line.load_seconds + line.first_seconds];
        for (who, target) in [
            ("ort vanilla", Target::AtMost(0.5)),
            ("ort experts", Target::Told),
            ("tract vanilla", Target::Told),
            ("tract experts", Target::Told),
        ] {
            let what = format!("seconds to load and to run the first batch, {who}");
            verdicts.extend(absolute(&what, &seconds(&entries, who, start), target));
        }
        let plural = if threads == 1 { "" } else { "s" };
        Ok(Heat {
            title: format!("l4-h128, 64 experts, random tokens, {threads} thread{plural}"),
            entries,
            verdicts,
        })
    }

    /// What smaller precisions cost in time.
    fn precision(&self) -> Result<Heat> {
        let models = PRECISIONS
            .iter()
            .map(|precision| Ok((*precision, self.made((4, 128), 0, 2, precision)?.0)))
            .collect::<Result<Vec<_>>>()?;
        let kinds: Vec<String> = ["ort", "tract"]
            .iter()
            .flat_map(|engine| {
                PRECISIONS
                    .iter()
                    .map(move |precision| format!("{engine} {precision}"))
            })
            .collect();
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        let entries = self.rounds(&kinds, |kind| {
            let (engine, which) = kind.split_once(' ').unwrap_or(("ort", "f32"));
            let model = models.iter().find(|(precision, _)| *precision == which);
            let model = model.map_or(self.folder.as_path(), |(_, path)| path);
            self.tokens(engine, self.options.threads, model)
        })?;
        let mut verdicts = Vec::new();
        for engine in ["ort", "tract"] {
            for precision in &PRECISIONS[1..] {
                let [top, bottom] = [*precision, "f32"]
                    .map(|which| seconds(&entries, &format!("{engine} {which}"), RUN));
                let what =
                    format!("time of a batch of 8 x 128 tokens on {engine}, {precision} / f32");
                verdicts
                    .extend(ratio(&top, &bottom).map(|ratio| Target::Told.verdict(&what, ratio)));
            }
        }
        Ok(Heat {
            title: "l4-h128 in smaller precisions, random tokens".to_owned(),
            entries,
            verdicts,
        })
    }

    /// Seconds to export a mixture of 0.4 GB, round by round.
    fn export(&self) -> Result<Heat> {
        let mut lines = Vec::new();
        for _ in 0..self.options.rounds {
            let (path, made) = self.made((12, 128), EXPERTS, 2, "f32")?;
            lines.push(Line {
                run_seconds: vec![made.export_seconds],
                ..Line::default()
            });
            // Nothing else runs it, and it is large.
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("removing {}", path.display()))?;
        }
        let entries = vec![Entry {
            name: "tcd export".to_owned(),
            lines,
        }];
        let what = "seconds to export";
        let verdict = absolute(
            what,
            &seconds(&entries, "tcd export", RUN),
            Target::AtMost(2.0),
        );
        Ok(Heat {
            title: "l12-h128, 64 experts, export".to_owned(),
            entries,
            verdicts: verdict.into_iter().collect(),
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
