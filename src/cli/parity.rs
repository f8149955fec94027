//! `tcd parity`: the same rows through several engines, or through several files of one model.

mod against;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use tcd_export::onnx;
use tcd_export::parity::{Case, Contest, Difference, Load};
use tcd_export::runtime::{Options, Runtime};
use tcd_export::{Architecture, ModelDir, WEIGHTS_FILE};

use super::engine::has_weights;
use super::progress::Progress;
use super::rows::Source;
use super::{Outcome, note, out};
use crate::eval::encode::{BatchSize, EncodedSet, Padded, Row, batches, encode};
use crate::eval::model::Model;
use crate::eval::runtimes;

/// Arguments of `tcd parity`.
///
/// Runs the same encoded rows through every engine that can be used here and holds each against the first: largest and mean
/// difference, the first value beyond the tolerance, predictions that flip. Beside the rows it tries one row, two and three,
/// one position and all, more padding than needed, and rows alone against rows in a batch; of a mixture it counts the tokens
/// that each expert of each layer gets. Exit code 1 where a difference is beyond the tolerance or an expert was not reached.
///
/// With `--against` it is one engine and several files of one model: how far those of smaller precision are from the model's own,
/// which predictions flip and, on a GLUE split, what they cost in score.
///
/// Examples:
///   tcd parity --model runs/sst2/best --task SST-2 --data glue
///   tcd parity --model runs/moe/model --with ort,tract --tolerance 1e-4 sentences.txt
///   tcd export --model runs/sst2/best --precision int8 --out runs/sst2/int8
///   tcd parity --model runs/sst2/best --against runs/sst2/int8 --with ort --task SST-2 --data glue
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Parity {
    /// Model directory with `model.onnx` (`tcd export` writes it).
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Engines, at least two, the one first that the others are held against. Default: all that can be used here. With
    /// `--against` the first of them alone.
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "ENGINE")]
    with: Vec<String>,
    /// Other files of the same model, or directories of them, to hold against its own on one engine.
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "DIR")]
    against: Vec<PathBuf>,
    /// Largest difference allowed, absolute. Default: 1e-4; with `--against` any, and differences are told only.
    #[arg(long, value_name = "X")]
    tolerance: Option<f64>,
    /// Take the first rows only.
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Positions of a batch, padding included. Default: 512 a thread, of a mixture of experts 2048.
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Threads of each engine; 0 takes all processors.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Also write everything that was found as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A batch by its name.
struct Named {
    name: String,
    padded: Padded,
}

impl Named {
    fn case(&self) -> Case<'_> {
        Case {
            name: &self.name,
            feed: self.padded.feed(),
        }
    }
}

impl Parity {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let tolerance = self.tolerance();
        if tolerance.is_nan() || tolerance < 0.0 {
            bail!("`--tolerance` is {tolerance}, must be at least 0");
        }
        let start = Instant::now();
        let model = Model::open(&self.model)?;
        let engines = self.engines()?;
        if !self.against.is_empty() {
            return self.files(&*engines[0], &model, start);
        }
        let mut examples = self.source.read()?.examples;
        examples.truncate(self.rows.unwrap_or(usize::MAX));
        let set = encode(&model.tokenizer, &examples, model.row_length(None))?;
        let options = self.options();
        let rows: Vec<&dyn Runtime> = engines.iter().map(|engine| &**engine).collect();
        let mut contest = Contest::new(&rows, &self.model, &options, tolerance)
            .map_err(anyhow::Error::from_boxed)?;
        let progress = Progress::new("parity", "rows", set.rows.len());
        let failed = |name: &str| format!("an engine failed: {name}");
        let size = BatchSize::positions(self.batch_tokens, model.mixture, options.threads);
        for (index, batch) in batches(&set, size).iter().enumerate() {
            let named = Named {
                name: format!("batch {index}"),
                padded: Padded::new(&set, batch),
            };
            contest
                .run(&named.case())
                .map_err(anyhow::Error::from_boxed)
                .with_context(|| failed(&named.name))?;
            progress.advance(batch.len());
        }
        drop(progress);
        let weights = ModelDir::open(&self.model).ok();
        let limited = weights
            .as_ref()
            .is_some_and(|model| has_capacity(model.architecture()));
        for named in shapes(&set, model.max_positions) {
            contest
                .run(&named.case())
                .map_err(anyhow::Error::from_boxed)
                .with_context(|| failed(&named.name))?;
            if !limited {
                contest
                    .alone(&named.case())
                    .map_err(anyhow::Error::from_boxed)
                    .with_context(|| failed(&named.name))?;
            }
        }
        if limited {
            note(
                "rows alone are not compared: with a capacity factor a row's result depends on its batch",
            );
        }
        let differences = contest.finish();
        let load = match &weights {
            Some(model) => self.load(model, &*engines[0], &set)?,
            None => None,
        };
        self.report(&engines, &differences, load.as_ref(), set.rows.len(), start)
    }

    fn tolerance(&self) -> f64 {
        let usual = if self.against.is_empty() {
            1e-4
        } else {
            f64::INFINITY
        };
        self.tolerance.unwrap_or(usual)
    }

    fn options(&self) -> Options {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            threads: if self.threads == 0 { all } else { self.threads },
            outputs: vec![],
        }
    }

    fn engines(&self) -> Result<Vec<Box<dyn Runtime>>> {
        // Files are compared on an engine for files.
        let files = !self.against.is_empty();
        let weights = has_weights(&self.model);
        let mut chosen = Vec::new();
        if self.with.is_empty() {
            for engine in runtimes::runtimes() {
                if engine.name() == "tch" && (files || !weights) {
                    if !files {
                        note(&format!(
                            "tch is left out: `{}` has no `{WEIGHTS_FILE}`",
                            self.model.display()
                        ));
                    }
                    continue;
                }
                match engine.check() {
                    Ok(_) => chosen.push(engine),
                    Err(error) => note(&format!("{} is left out: {error}", engine.name())),
                }
            }
        }
        for name in &self.with {
            let engine = runtimes::runtime(Some(name)).map_err(anyhow::Error::msg)?;
            engine.check().map_err(anyhow::Error::from_boxed)?;
            chosen.push(engine);
        }
        let Some(first) = chosen.first() else {
            bail!("no engine can be used here; hint: `tcd doctor` tells what is missing");
        };
        if files && first.name() == "tch" {
            bail!(
                "`--against` compares ONNX files, which tch does not read; hint: `--with ort` or `--with tract`"
            );
        }
        if !files && chosen.len() == 1 && !self.with.is_empty() {
            bail!(
                "at least two engines are needed, and `--with {}` names one; hint: `--with {0},tract` or no `--with` at all, or `--against` for another file on the same engine",
                first.name()
            );
        }
        if !files && chosen.len() == 1 {
            note(&format!(
                "only {} can be used here: rows are compared with themselves alone; hint: `tcd doctor` tells what is missing",
                first.name()
            ));
        }
        Ok(chosen)
    }

    /// Tokens of each expert, on an engine for ONNX files; none in a vanilla model.
    fn load(
        &self,
        model: &ModelDir,
        first: &dyn Runtime,
        set: &EncodedSet,
    ) -> Result<Option<Load>> {
        let Some(experts) = model.architecture().experts() else {
            return Ok(None);
        };
        let folder = self
            .model
            .join(format!(".parity.{}.tmp", std::process::id()));
        let remove = Folder(folder.clone());
        let options = onnx::Options {
            routing: true,
            ..onnx::Options::default()
        };
        let written =
            onnx::export(model, &folder, &options).context("cannot export the routing")?;
        // libtorch reads no ONNX file.
        let tract;
        let engine = if first.name() == "tch" {
            tract = runtimes::runtime(Some("tract")).map_err(anyhow::Error::msg)?;
            &*tract
        } else {
            first
        };
        let layers = model.architecture().num_hidden_layers;
        let outputs = (0..layers).map(|layer| format!("expert.{layer}")).collect();
        let options = Options {
            outputs,
            ..self.options()
        };
        let mut session = engine
            .prepare(&written.path, &options)
            .map_err(anyhow::Error::from_boxed)?;
        let mut load = Load::new(layers, experts);
        let size = BatchSize::positions(self.batch_tokens, true, options.threads);
        for batch in batches(set, size) {
            let padded = Padded::new(set, &batch);
            let outputs = session
                .run(&padded.feed())
                .map_err(anyhow::Error::from_boxed)?;
            load.add(&padded.feed(), &outputs);
        }
        drop(remove);
        Ok(Some(load))
    }

    fn report(
        &self,
        engines: &[Box<dyn Runtime>],
        differences: &[Difference],
        load: Option<&Load>,
        rows: usize,
        start: Instant,
    ) -> Result<Outcome> {
        let mut good = true;
        for row in differences {
            good &= show(row, self.tolerance());
        }
        if let Some(load) = load {
            let unreached = load.unreached();
            let all: usize = load.tokens.iter().map(Vec::len).sum();
            good &= unreached.is_empty();
            out(&format!(
                "{} experts: {} of {all} got tokens",
                if unreached.is_empty() { "ok  " } else { "FAIL" },
                all - unreached.len()
            ));
            for (layer, expert) in unreached.iter().take(20) {
                out(&format!(
                    "       layer {layer}, expert {expert} was not reached; hint: give more rows"
                ));
            }
        }
        let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
        if let Some(path) = &self.json {
            let report = json!({
                "model": self.model, "engines": names, "rows": rows, "tolerance": self.tolerance(),
                "holds": good, "differences": differences, "experts": load,
            });
            std::fs::write(path, format!("{report:#}\n"))
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        note(&format!(
            "{rows} rows on {} in {:.1} s: {}",
            names.join(", "),
            start.elapsed().as_secs_f64(),
            if good {
                "all within tolerance"
            } else {
                "not all of it holds"
            }
        ));
        Ok(if good {
            Outcome::Done
        } else {
            Outcome::CheckFailed
        })
    }
}

/// Says how an output differs; whether it holds.
fn show(row: &Difference, tolerance: f64) -> bool {
    let holds = row.holds(tolerance);
    out(&format!(
        "{} {} {}: max {:.2e}, mean {:.2e} over {} values{}",
        match holds {
            true if tolerance.is_infinite() => "    ",
            true => "ok  ",
            false => "FAIL",
        },
        row.engine,
        row.output,
        row.max,
        row.mean,
        row.values,
        match row.predictions {
            0 => String::new(),
            all => format!("; {} of {all} predictions flip", row.flipped),
        }
    ));
    if let Some(place) = &row.first {
        out(&format!(
            "       first beyond {tolerance:e}: {} at {:?}: {}, expected {}",
            place.batch, place.index, place.got, place.expected
        ));
    }
    for flip in &row.flips {
        out(&format!(
            "       flip: {} at {:?}: {} in place of {}, margin {:.1e}",
            flip.batch, flip.index, flip.got, flip.expected, flip.margin
        ));
    }
    holds
}

fn has_capacity(architecture: &Architecture) -> bool {
    architecture
        .moe
        .as_ref()
        .is_some_and(|moe| moe.capacity_factor.is_some())
}

/// A folder that goes when this value goes.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Its name says that it is temporary; nothing more can be done.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Batches of the shapes at which exported files have been seen to break.
fn shapes(set: &EncodedSet, longest: usize) -> Vec<Named> {
    let count = set.rows.len();
    let named = |name: &str, padded: Padded| Named {
        name: name.to_owned(),
        padded,
    };
    let mut all = vec![named("one row", Padded::new(set, &[0]))];
    for rows in [2, 3, 7] {
        let places: Vec<usize> = (0..rows).map(|row| row * 31 % count).collect();
        all.push(named(&format!("{rows} rows"), Padded::new(set, &places)));
    }
    let own = |ids: Vec<u32>| EncodedSet {
        rows: vec![Row {
            second: ids.len(),
            ids,
        }],
        truncated: 0,
        pad: set.pad,
    };
    let first = &set.rows[0].ids;
    all.push(named(
        "one position",
        Padded::new(&own(vec![first[0]]), &[0]),
    ));
    // Rows one after the other until all positions are filled.
    let ids = set
        .rows
        .iter()
        .cycle()
        .flat_map(|row| row.ids.iter().copied())
        .take(longest);
    all.push(named(
        "all positions",
        Padded::new(&own(ids.collect()), &[0]),
    ));
    all.push(named(
        "two rows, padded further",
        padded_further(Padded::new(set, &[0, 1 % count]), 5, longest, set.pad),
    ));
    all
}

/// The batch with so many more positions of padding.
fn padded_further(padded: Padded, more: usize, longest: usize, pad: u32) -> Padded {
    let sequence = (padded.sequence + more).min(longest);
    let widen = |values: &[i64], fill: i64| {
        let rows = values.chunks_exact(padded.sequence);
        rows.flat_map(|row| {
            row.iter()
                .copied()
                .chain(std::iter::repeat_n(fill, sequence - row.len()))
        })
        .collect()
    };
    Padded {
        batch: padded.batch,
        sequence,
        input_ids: widen(&padded.input_ids, i64::from(pad)),
        attention_mask: widen(&padded.attention_mask, 0),
        token_type_ids: widen(&padded.token_type_ids, 0),
    }
}
