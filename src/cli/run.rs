//! `tcd run`: a whole study, stage by stage.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Outcome, note, out};
use crate::study::estimate::{bytes, duration};
use crate::study::key::keys;
use crate::study::plan::{Means, report_page};
use crate::study::record::{Folder, Standing};
use crate::study::run::{Options, Ran, State, run};
use crate::study::{Plan, Study, StudyConfig, describe_study};
use crate::train::config::load;

const EXAMPLES: &str = "\
Examples:
  tcd run --print-config > study.toml
  tcd run --config configs/cpu-study.toml --set 'data.text=[\"my-text\"]' --set data.glue=glue --dry-run
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
    /// Only this stage, or all of this group, such as `finetune`; what it needs must be done. May be given several times.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Do this stage, or all of this group, anew, and what rests on it. May be given several times.
    #[arg(long, value_name = "STAGE")]
    from: Vec<String>,
    /// Stages beside each other; they share the cores.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// After a failure go on with what does not need the stage that failed.
    #[arg(long)]
    keep_going: bool,
}

impl Run {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let config: StudyConfig =
            load(self.config.as_deref(), &self.set).context("cannot load the configuration")?;
        let text = describe_study(&config)?;
        if self.print_config {
            out(text.trim_end());
            return Ok(Outcome::Done);
        }
        let study = config.validate()?;
        let plan = Plan::new(&study, self.means(&study));
        let (only, anew) = (named(&plan, &self.only)?, named(&plan, &self.from)?);
        if self.dry_run {
            self.list(&study, &plan);
            return Ok(Outcome::Done);
        }
        let folder = Folder::open(&study.config.output)?;
        folder.write("study.toml".as_ref(), &text)?;
        let stop = watch()?;
        let terminal = std::io::stderr().is_terminal();
        let options = Options {
            program: std::env::current_exe().context("cannot find this program")?,
            jobs: usize::from(self.jobs),
            keep_going: self.keep_going,
            only,
            anew,
            every: Duration::from_secs(if terminal { 15 } else { 60 }),
            stop: &stop,
        };
        let start = Instant::now();
        let ran = run(&plan, &folder, &options, &mut |line| note(line))?;
        self.end(&study, &plan, &ran, start.elapsed())
    }

    fn means(&self, study: &Study) -> Means {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match study.config.threads {
            0 => (cores / usize::from(self.jobs)).max(1),
            threads => threads,
        };
        Means { threads }
    }

    /// The stages, where each stands and what it will take, and the sum.
    fn list(&self, study: &Study, plan: &Plan) {
        let machine = &study.config.machine;
        let folder = Folder::look(&study.config.output);
        let standings: Vec<Option<Standing>> = match keys(plan, &mut folder.hashes()) {
            Ok(keys) => {
                let stages = plan.stages.iter().zip(&keys);
                stages
                    .map(|(s, key)| Some(folder.standing(s, key)))
                    .collect()
            }
            Err(error) => {
                note(&format!("not yet: {error}"));
                vec![None; plan.stages.len()]
            }
        };
        let wide = plan.stages.iter().map(|s| s.name.len()).max().unwrap_or(0);
        let line = |name: &str, state: &str, time: &str, memory: &str, what: &str| {
            out(&format!(
                "{name:<wide$}  {state:<8}{time:>9}{memory:>9}  {what}"
            ));
        };
        line("stage", "state", "time", "memory", "what");
        let (mut seconds, mut most, mut left) = (0.0, 0.0f64, 0.0);
        for (stage, standing) in plan.stages.iter().zip(&standings) {
            let time = stage.cost.map_or(0.0, |cost| machine.seconds(&cost));
            seconds += time;
            if !matches!(standing, Some(Standing::Done(_))) {
                left += time;
            }
            most = most.max(stage.cost.map_or(0.0, |cost| cost.bytes));
            let (time, memory) = match stage.cost {
                Some(cost) => (duration(time), bytes(cost.bytes)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let state = standing.as_ref().map_or("?", Standing::word);
            line(&stage.name, state, &time, &memory, &stage.what);
            if let Some(details) = &stage.details {
                line("", "", "", "", details);
            }
            if self.commands {
                for call in &stage.calls {
                    out(&format!("    {}", call.shown(folder.path())));
                }
            }
        }
        let rate = machine.gflops;
        out(&format!(
            "\n{} stages. Training and fine-tuning take about {} in all, {} of it still to do, at {rate} GFLOP/s a stage \
             (`machine.gflops`); `--jobs N` divides it by N where there are N cores or devices. A stage takes up to {} of \
             memory. What has no estimate takes seconds to minutes.",
            plan.stages.len(),
            duration(seconds),
            duration(left),
            bytes(most),
        ));
        let limit = machine.memory_gb;
        if limit > 0.0 && most > limit * 1e9 {
            note(&format!(
                "that is more than the machine has ({limit} GB, `machine.memory_gb`); hint: a smaller `pretrain.data.batch_size` \
                 with more `pretrain.data.accumulation`, or fewer experts"
            ));
        }
    }

    /// Says what the run came to.
    fn end(&self, study: &Study, plan: &Plan, ran: &Ran, took: Duration) -> Result<Outcome> {
        for failure in &ran.failures {
            note(&format!(
                "\nstage `{}` failed ({}); the end of its log, `{}`:",
                failure.stage,
                failure.how,
                failure.log.display()
            ));
            for line in &failure.tail {
                note(&format!("    {line}"));
            }
        }
        summary(plan, ran, took);
        let again = "the same command goes on from here";
        if ran.stopped {
            note(&format!("stopped; {again}"));
            return Ok(Outcome::Done);
        }
        if let [first, ..] = ran.failures.as_slice() {
            let names: Vec<&str> = ran.failures.iter().map(|f| f.stage.as_str()).collect();
            bail!(
                "failed: {}; hint: mend what the log says, then {again}; `--only {}` tries that stage alone, `--keep-going` does \
                 what does not need it",
                names.join(", "),
                first.stage
            );
        }
        let blocked = ran.states.iter().position(|s| *s == State::Blocked);
        if let Some(stage) = blocked {
            let stage = &plan.stages[stage];
            let undone = |name: &&String| {
                let need = plan.find(name);
                need.is_some_and(|need| !ran.states[need].settled())
            };
            let needs: Vec<&str> = stage
                .needs
                .iter()
                .filter(undone)
                .map(String::as_str)
                .collect();
            bail!(
                "stage `{}` needs what is not done: {}; hint: leave `--only` out, or name these too",
                stage.name,
                needs.join(", ")
            );
        }
        let failed = |i: &usize| ran.states[*i] == State::CheckFailed;
        let checks: Vec<&str> = (0..plan.stages.len())
            .filter(failed)
            .map(|i| plan.stages[i].name.as_str())
            .collect();
        if !checks.is_empty() {
            note(&format!(
                "what these checked does not hold: {}; their logs in `{}` say more",
                checks.join(", "),
                study.config.output.join("logs").display()
            ));
        }
        let page = study.config.output.join(report_page());
        let results = study.config.output.join("results");
        match page.is_file() && study.config.report.page {
            true => out(&format!("report: {}", page.display())),
            false => out(&format!("results: {}", results.display())),
        }
        match checks.is_empty() {
            true => Ok(Outcome::Done),
            false => Ok(Outcome::CheckFailed),
        }
    }
}

/// Stages by names and groups.
fn named(plan: &Plan, names: &[String]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for name in names {
        found.extend(plan.named(name)?);
    }
    Ok(found)
}

/// A table of the groups: how many stages came to what, and their time at work.
fn summary(plan: &Plan, ran: &Ran, took: Duration) {
    let line = |group: &str, states: &str, time: &str| {
        out(format!("{group:<12}{states:<34}{time:>10}").trim_end());
    };
    line("\nstage", " state", "time");
    let mut all = 0.0;
    for group in plan.groups() {
        let of: Vec<usize> = (0..plan.stages.len())
            .filter(|&i| plan.stages[i].group == group)
            .collect();
        let mut states: Vec<(State, usize)> = Vec::new();
        for &i in &of {
            match states.iter_mut().find(|(s, _)| *s == ran.states[i]) {
                Some((_, count)) => *count += 1,
                None => states.push((ran.states[i], 1)),
            }
        }
        let words: Vec<String> = states
            .iter()
            .map(|(state, count)| match of.len() {
                1 => state.word().to_owned(),
                _ => format!("{count} {}", state.word()),
            })
            .collect();
        let seconds: f64 = of.iter().map(|&i| ran.seconds[i]).sum();
        all += seconds;
        line(group, &words.join(", "), &duration(seconds));
    }
    let took = duration(took.as_secs_f64());
    line(
        "together",
        &format!("{took} in this sitting"),
        &duration(all),
    );
}

/// Counts Ctrl-C: the first lets the stages at work save, the second ends them.
fn watch() -> Result<Arc<AtomicUsize>> {
    let count = Arc::new(AtomicUsize::new(0));
    let handler = count.clone();
    ctrlc::set_handler(move || match handler.fetch_add(1, Ordering::Relaxed) {
        0 => {
            note("stopping: the stages at work save what they can; Ctrl-C again ends them at once")
        }
        1 => note("ending at once"),
        _ => std::process::exit(130),
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(count)
}
