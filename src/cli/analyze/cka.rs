//! `tcd analyze cka`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tcd_analysis::cka::resample::Resampling;
use tcd_analysis::cka::{CkaOptions, CkaResult, Estimator, Form, Kernel, Stage, cka};
use tcd_analysis::source::TapSource;

use super::common::{OutputArgs, SampleArgs, Track, open_all, provenance, short_tap, table};
use crate::cli::{Outcome, note};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KernelName {
    Linear,
    Rbf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormName {
    /// Whichever takes fewer operations.
    Auto,
    /// Products of features (linear kernel).
    Feature,
    /// Blocks of Gram matrices.
    Sample,
}

/// Arguments of `tcd analyze cka`.
///
/// Every tap of the first model against every tap of the second over the same rows. Beside each value stand a null (rows permuted: what
/// unrelated features of these shapes reach) and an interval (random halves of the data's rows), both on a subsample. A layer
/// that cannot be compared has its reason in the table; the rest still comes.
///
/// Examples:
///   tcd analyze cka vanilla=f/vanilla.safetensors moe=f/moe.safetensors --out cka.json
///   tcd analyze cka f/moe.safetensors --kernel rbf --rows mean --out self.json
///   tcd analyze cka f/a.safetensors f/b.safetensors --biased --minibatch 256 --permutations 0 --halves 0 --out quick.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Cka {
    /// One features file, or two over the same rows; `NAME=FILE` names the model.
    #[arg(required = true, num_args = 1..=2, value_name = "FEATURES")]
    features: Vec<String>,
    #[command(flatten)]
    sample: SampleArgs,
    /// Kernel.
    #[arg(long, value_enum, default_value_t = KernelName::Linear)]
    kernel: KernelName,
    /// Width of the RBF kernel, as a fraction of the tap's median distance between rows.
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    bandwidth: f64,
    /// Biased HSIC instead of the unbiased one.
    #[arg(long)]
    biased: bool,
    /// The way to the exact value; all give the same.
    #[arg(long, value_enum, default_value_t = FormName::Auto)]
    form: FormName,
    /// Also the minibatch form of Nguyen et al. 2021, over batches of this many rows.
    #[arg(long, value_name = "ROWS")]
    minibatch: Option<usize>,
    /// Rows of the subsample that null and interval are made on.
    #[arg(long, default_value_t = Resampling::default().rows, value_name = "N")]
    resample_rows: usize,
    /// Permutations of the null; 0 leaves it out.
    #[arg(long, default_value_t = Resampling::default().permutations, value_name = "N")]
    permutations: usize,
    /// Half-samples of the interval; 0 leaves it out.
    #[arg(long, default_value_t = Resampling::default().halves, value_name = "N")]
    halves: usize,
    #[command(flatten)]
    output: OutputArgs,
}

impl Cka {
    fn options(&self) -> Result<CkaOptions> {
        if !(self.bandwidth > 0.0 && self.bandwidth.is_finite()) {
            bail!("`--bandwidth` must be above 0: {}", self.bandwidth);
        }
        if self.form == FormName::Feature && self.kernel == KernelName::Rbf {
            bail!("`--form feature` is for the linear kernel alone\nhint: leave `--form` out");
        }
        if self.resample_rows > 8192 {
            bail!(
                "`--resample-rows` is at most 8192, as Gram matrices of that size are held: {}",
                self.resample_rows
            );
        }
        Ok(CkaOptions {
            kernel: match self.kernel {
                KernelName::Linear => Kernel::Linear,
                KernelName::Rbf => Kernel::Rbf {
                    fraction: self.bandwidth,
                },
            },
            estimator: if self.biased {
                Estimator::Biased
            } else {
                Estimator::Debiased
            },
            form: match self.form {
                FormName::Auto => Form::Auto,
                FormName::Feature => Form::Feature,
                FormName::Sample => Form::Sample,
            },
            minibatch: self.minibatch,
            resampling: Resampling {
                rows: self.resample_rows,
                permutations: self.permutations,
                halves: self.halves,
                seed: self.sample.seed,
                ..Resampling::default()
            },
        })
    }

    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let options = self.options()?;
        let files = open_all(&self.features)?;
        let a = self.sample.rows_of(&files[0].file, None)?;
        let b = match files.get(1) {
            Some(second) => {
                self.sample.check_pair(&files[0].file, &second.file)?;
                Some(self.sample.rows_of(&second.file, None)?)
            }
            None => None,
        };
        let exact = Track::new("exact sums", "steps");
        let mini = Track::new("minibatches", "batches");
        let chance = Track::new("null and interval", "draws");
        let other = b.as_ref().map(|b| b as &dyn TapSource<f32>);
        let cells = cka(&a, other, &options, &|stage, done, total| match stage {
            Stage::Exact => exact.at(done, total),
            Stage::Minibatch => mini.at(done, total),
            Stage::Resampling => chance.at(done, total),
        })?;
        let names =
            |source: &dyn TapSource<f32>| source.taps().iter().map(|(n, _)| n.clone()).collect();
        let result = CkaResult {
            provenance: provenance(
                "cka 1",
                &files.iter().collect::<Vec<_>>(),
                Some(self.sample.info(&a, None)),
            ),
            options,
            taps_a: names(&a),
            taps_b: names(other.unwrap_or(&a)),
            cells,
        };
        drop((exact, mini, chance));
        self.show(&result, a.len());
        self.output.write(&result, &[("", result.to_csv())])?;
        Ok(Outcome::Done)
    }

    fn show(&self, result: &CkaResult, rows: usize) {
        let mut header = vec![String::new()];
        header.extend(result.taps_b.iter().map(|t| short_tap(t)));
        let lines: Vec<Vec<String>> = result
            .cells
            .chunks(result.taps_b.len())
            .zip(&result.taps_a)
            .map(|(cells, tap)| {
                let mut line = vec![short_tap(tap)];
                line.extend(
                    cells
                        .iter()
                        .map(|c| c.cka.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"))),
                );
                line
            })
            .collect();
        table(
            &header.iter().map(String::as_str).collect::<Vec<_>>(),
            &lines,
        );
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for reason in result.cells.iter().filter_map(|c| c.reason.as_ref()) {
            *reasons.entry(reason.to_string()).or_default() += 1;
        }
        for (reason, count) in reasons {
            note(&format!("{count} cells have no value: {reason}"));
        }
        note(&format!("{} cells over {rows} rows", result.cells.len()));
    }
}
