//! `tcd run`: a whole study, stage by stage.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::{Outcome, note, out};
use crate::study::estimate::{bytes, duration};
use crate::study::key::{Hashes, keys};
use crate::study::plan::Means;
use crate::study::{Plan, Study, StudyConfig, describe_study};
use crate::train::config::load;

const EXAMPLES: &str = "\
Examples:
  tcd run --print-config > study.toml
  tcd run --config configs/cpu-study.toml --set output=runs/study --set data.text='[\"my-text\"]' --set data.glue=glue --dry-run
  tcd run --config study.toml --jobs 2
  tcd run --config study.toml --only finetune --keep-going
  tcd run --config study.toml --from figures";

/// Arguments of `tcd run`.
///
/// Every stage is a call of this program, which the log of the stage shows (`OUTPUT/logs/STAGE.log`). A stage that is done with the
/// same command, settings and inputs is not done again; a changed setting does again what depends on it, and nothing else.
/// Ctrl-C lets the stages at work save what they can; the same command goes on from there.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Run {
    /// Configuration of the study, TOML; `--print-config` writes one to begin with.
    #[arg(long, short, required_unless_present = "print_config")]
    config: Option<PathBuf>,
    /// Set a key of the configuration, such as `--set output=runs/study`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the configuration, `--config` and `--set` applied, as TOML that tells what every key means, and end.
    #[arg(long)]
    print_config: bool,
    /// List the stages with their state, and what training will take in time and memory, and end.
    #[arg(long)]
    dry_run: bool,
    /// With `--dry-run`, also every command.
    #[arg(long, requires = "dry_run")]
    commands: bool,
    /// Stages beside each other; they share the cores.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
}

impl Run {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let config: StudyConfig =
            load(self.config.as_deref(), &self.set).context("cannot load the configuration")?;
        if self.print_config {
            out(describe_study(&config)?.trim_end());
            return Ok(Outcome::Done);
        }
        let study = config.validate()?;
        let plan = Plan::new(&study, self.means(&study));
        if self.dry_run {
            self.list(&study, &plan);
        }
        Ok(Outcome::Done)
    }

    fn means(&self, study: &Study) -> Means {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match study.config.threads {
            0 => (cores / usize::from(self.jobs)).max(1),
            threads => threads,
        };
        Means { threads }
    }

    /// The stages, what each will take, and the sum.
    fn list(&self, study: &Study, plan: &Plan) {
        let folder = &study.config.output;
        let machine = &study.config.machine;
        let mut hashes = Hashes::default();
        if let Err(error) = keys(plan, &mut hashes) {
            note(&format!("not yet: {error}"));
        }
        out(&format!(
            "{:<34}{:>10}{:>10}  what",
            "stage", "time", "memory"
        ));
        let (mut seconds, mut most) = (0.0, 0.0f64);
        for stage in &plan.stages {
            let time = stage.cost.map(|cost| machine.seconds(cost.flops));
            let memory = stage.cost.map(|cost| cost.bytes);
            seconds += time.unwrap_or(0.0);
            most = most.max(memory.unwrap_or(0.0));
            let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            out(&format!(
                "{:<34}{:>10}{:>10}  {}",
                stage.name,
                shown(time.map(duration)),
                shown(memory.map(bytes)),
                stage.what
            ));
            if let Some(details) = &stage.details {
                out(&format!("{:<34}{details}", ""));
            }
            if self.commands {
                for call in &stage.calls {
                    out(&format!("    {}", call.shown(folder)));
                }
            }
        }
        out(&format!(
            "\n{} stages; training and fine-tuning take about {} at {} GFLOP/s (`machine.gflops`), {} with {} stages beside \
             each other, and up to {} of memory each; a stage without an estimate takes seconds to minutes",
            plan.stages.len(),
            duration(seconds),
            machine.gflops,
            duration(seconds / f64::from(self.jobs)),
            self.jobs,
            bytes(most),
        ));
        let limit = machine.memory_gb * 1e9;
        if limit > 0.0 && most > limit {
            note(&format!(
                "more than the machine has ({} GB, `machine.memory_gb`); hint: a smaller `pretrain.data.batch_size` with more \
                 `pretrain.data.accumulation`, or fewer experts",
                machine.memory_gb
            ));
        }
    }
}
