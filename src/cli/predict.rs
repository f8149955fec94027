//! `tcd predict`: a classifier's or regressor's answers to rows of text, as JSON lines.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use tcd_export::runtime::Runnable;

use super::engine::{Engine, width};
use super::rows::Source;
use super::{Outcome, note};
use crate::data::glue::Example;
use crate::eval::encode::encode;
use crate::eval::model::Model;
use crate::eval::run;

/// Rows that are encoded and sorted by length together; the answers of one window are written before the next is read.
const WINDOW: usize = 4096;

/// Arguments of `tcd predict`.
///
/// Writes a JSON line for each row, in the order of the rows: `{"row":0,"label":"positive","probability":0.98,
/// "logits":[-1.9,2.1]}`, or from a regressor `{"row":0,"score":3.2}`. Rows are read and answered window by window, so input
/// may be of any length.
///
/// Examples:
///   tcd predict --model runs/sst2/best reviews.txt > answers.jsonl
///   zcat pairs.tsv.gz | tcd predict --model runs/mnli/best --columns premise,hypothesis - | jq .label
///   tcd predict --model runs/rte/best --task RTE --data glue --split test --out rte.jsonl
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Predict {
    #[command(flatten)]
    engine: Engine,
    #[command(flatten)]
    source: Source,
    /// File to write, in place of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Predict {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let model = Model::open(&self.engine.model)?;
        let runtime = self.engine.runtime()?;
        let width = width(&model, &*runtime)?;
        if model.labels.len() > 1 && model.labels.len() != width {
            bail!(
                "`{}` gives {width} values a row, `config.json` names {} labels",
                model.path.display(),
                model.labels.len()
            );
        }
        let session = self
            .engine
            .load(&*runtime, &model.path, &["logits".to_owned()])?;
        let mut answering = Answering {
            engine: &self.engine,
            model: &model,
            sessions: session.workers(),
            width,
            rows: 0,
            truncated: 0,
        };
        let start = Instant::now();
        match &self.out {
            None => self.answer(
                &mut answering,
                &mut BufWriter::new(std::io::stdout().lock()),
            )?,
            Some(path) => {
                let mut temporary = path.clone().into_os_string();
                temporary.push(".tmp");
                let temporary = PathBuf::from(temporary);
                let failed = || format!("cannot write `{}`", path.display());
                let file = std::fs::File::create(&temporary).with_context(failed)?;
                let mut file = BufWriter::new(file);
                self.answer(&mut answering, &mut file)?;
                file.into_inner()
                    .map_err(|error| error.into_error())?
                    .sync_all()
                    .with_context(failed)?;
                std::fs::rename(&temporary, path).with_context(failed)?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        note(&format!(
            "{} rows on {} in {seconds:.1} s, {:.0} rows/s{}",
            answering.rows,
            runtime.name(),
            answering.rows as f64 / seconds.max(1e-9),
            match answering.truncated {
                0 => String::new(),
                cut => format!("; {cut} cut to {} tokens", self.engine.row_length(&model)),
            }
        ));
        Ok(Outcome::Done)
    }

    fn answer(&self, answering: &mut Answering<'_>, out: &mut dyn Write) -> Result<()> {
        if self.source.is_glue() {
            return answering.window(&self.source.read()?.examples, out);
        }
        let mut reader = self.source.open()?;
        loop {
            let window = reader.window(WINDOW)?;
            if window.is_empty() {
                return Ok(());
            }
            answering.window(&window, out)?;
        }
    }
}

struct Answering<'a> {
    engine: &'a Engine,
    model: &'a Model,
    sessions: Vec<Box<dyn Runnable>>,
    width: usize,
    rows: usize,
    truncated: usize,
}

impl Answering<'_> {
    fn window(&mut self, examples: &[Example], out: &mut dyn Write) -> Result<()> {
        let set = encode(
            &self.model.tokenizer,
            examples,
            self.engine.row_length(self.model),
        )?;
        let never = AtomicBool::new(false);
        let size = self.engine.batch_size(self.model, self.sessions.len());
        let logits = run::run(&mut self.sessions, &set, size, self.width, &never, &|_| {})?;
        for (example, logits) in examples.iter().zip(logits.rows()) {
            if logits.iter().any(|value| !value.is_finite()) {
                bail!(
                    "the model's output for row {} is not a number: {logits:?}",
                    example.index
                );
            }
            let line = line(example.index, logits, &self.model.labels);
            writeln!(out, "{line}").context("cannot write the answers")?;
        }
        self.rows += examples.len();
        self.truncated += set.truncated;
        out.flush().context("cannot write the answers")
    }
}

/// A row's answer.
fn line(row: u64, logits: &[f32], labels: &[String]) -> Value {
    let mut line = Map::new();
    line.insert("row".to_owned(), row.into());
    if let [score] = logits {
        line.insert("score".to_owned(), json!(score));
        return Value::Object(line);
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .collect();
    let total: f64 = powers.iter().sum();
    let best = logits
        .iter()
        .position(|logit| *logit == largest)
        .unwrap_or(0);
    let name = labels
        .get(best)
        .cloned()
        .unwrap_or_else(|| format!("LABEL_{best}"));
    line.insert("label".to_owned(), name.into());
    line.insert("probability".to_owned(), json!(powers[best] / total));
    line.insert("logits".to_owned(), json!(logits));
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_the_label_and_its_probability() {
        let labels = ["no".to_owned(), "yes".to_owned()];
        let answer = line(3, &[1.0, 1.0 + 3f32.ln()], &labels);
        assert_eq!(
            (&answer["row"], &answer["label"]),
            (&json!(3), &json!("yes"))
        );
        let probability = answer["probability"].as_f64().expect("a number");
        assert!((probability - 0.75).abs() < 1e-6, "{probability}");
        assert_eq!(
            line(0, &[2.0, 2.0], &[])["label"],
            json!("LABEL_0"),
            "the first of equal ones"
        );
        assert_eq!(line(1, &[2.5], &[]).to_string(), r#"{"row":1,"score":2.5}"#);
    }
}
