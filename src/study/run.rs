//! Running a plan: what is done is kept, what can be done is done, several stages beside each other, until all is done, a
//! stage fails, or the user stops it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::checked::StudyError;
use super::estimate::duration;
use super::key::keys;
use super::plan::Plan;
use super::process::Process;
use super::record::{Begun, Ended, Folder, Record, Standing};
use super::stage::{GoesOn, Stage};

/// Lines of a failed stage's log that are shown.
const SHOWN: usize = 12;
/// How often children are looked at.
const TICK: Duration = Duration::from_millis(40);

/// How to run.
#[derive(Debug)]
pub struct Options<'a> {
    /// This program.
    pub program: PathBuf,
    /// Stages beside each other, at least 1.
    pub jobs: usize,
    /// After a failure go on with what does not need the failed stage.
    pub keep_going: bool,
    /// Only these; all where none is named.
    pub only: Vec<usize>,
    /// These, and what rests on them, anew.
    pub anew: Vec<usize>,
    /// Between lines on how far the stages at work are.
    pub every: Duration,
    /// How often the user asked to stop: at the first time children are asked to save, at the second they are ended.
    pub stop: &'a AtomicUsize,
}

/// Where a stage came to in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not begun.
    Waiting,
    /// At work.
    Running,
    /// Was done before.
    Kept,
    /// Done.
    Done,
    /// Done, or done before; what it checked does not hold.
    CheckFailed,
    /// There was nothing to be said.
    Refused,
    /// Failed.
    Failed,
    /// Stopped by the user.
    Stopped,
    /// What it needs is not done.
    Blocked,
}

impl State {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            State::Waiting => "not run",
            State::Running => "running",
            State::Kept => "kept",
            State::Done => "done",
            State::CheckFailed => "check failed",
            State::Refused => "refused",
            State::Failed => "failed",
            State::Stopped => "stopped",
            State::Blocked => "blocked",
        }
    }

    /// Whether what needs it can go on.
    pub fn settled(self) -> bool {
        matches!(
            self,
            State::Kept | State::Done | State::CheckFailed | State::Refused
        )
    }
}

/// A stage that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Its name.
    pub stage: String,
    /// How it ended.
    pub how: String,
    /// Its log.
    pub log: PathBuf,
    /// The end of it.
    pub tail: Vec<String>,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// Each stage's state.
    pub states: Vec<State>,
    /// Each stage's seconds at work, over all sittings.
    pub seconds: Vec<f64>,
    /// What failed.
    pub failures: Vec<Failure>,
    /// Whether the user stopped it.
    pub stopped: bool,
}

/// A stage at work.
struct AtWork {
    stage: usize,
    call: usize,
    process: Process,
    since: Instant,
    before: f64,
    resume: bool,
}

struct Runner<'a> {
    plan: &'a Plan,
    folder: &'a Folder,
    options: &'a Options<'a>,
    keys: Vec<String>,
    standings: Vec<Standing>,
    needs: Vec<Vec<usize>>,
    /// Stages to be done anew.
    anew: Vec<bool>,
    at_work: Vec<AtWork>,
    ran: Ran,
    say: &'a mut dyn FnMut(&str),
}

/// Runs a plan in its folder; `say` takes lines for the user.
pub fn run(
    plan: &Plan,
    folder: &Folder,
    options: &Options,
    say: &mut dyn FnMut(&str),
) -> Result<Ran, StudyError> {
    let mut hashes = folder.hashes();
    let keys = keys(plan, &mut hashes)?;
    folder.keep_hashes(&hashes)?;
    let stages = plan.stages.iter().zip(&keys);
    let standings: Vec<Standing> = stages.map(|(s, key)| folder.standing(s, key)).collect();
    let mut runner = Runner {
        plan,
        folder,
        options,
        keys,
        standings,
        needs: plan.needs(),
        anew: plan.resting_on(&options.anew),
        at_work: Vec::new(),
        ran: Ran::default(),
        say,
    };
    runner.begin();
    runner.go()?;
    Ok(runner.ran)
}

impl Runner<'_> {
    /// What is kept.
    fn begin(&mut self) {
        let count = self.plan.stages.len();
        self.ran.states = vec![State::Waiting; count];
        self.ran.seconds = vec![0.0; count];
        for i in 0..count {
            if let (Standing::Done(record), false) = (&self.standings[i], self.anew[i]) {
                self.ran.seconds[i] = record.seconds;
                self.ran.states[i] = match record.ended {
                    Ended::Done => State::Kept,
                    Ended::CheckFailed => State::CheckFailed,
                    Ended::Refused => State::Refused,
                };
            }
        }
        let kept = self.ran.states.iter().filter(|s| s.settled()).count();
        if kept > 0 {
            (self.say)(&format!("{kept} of {count} stages are done already"));
        }
    }

    fn wanted(&self, stage: usize) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&stage)
    }

    fn go(&mut self) -> Result<(), StudyError> {
        let mut told = Instant::now();
        loop {
            let asked = self.options.stop.load(Ordering::Relaxed);
            if asked > 0 {
                self.ran.stopped = true;
                self.at_work
                    .iter_mut()
                    .for_each(|w| w.process.ask_to_stop());
            }
            if asked > 1 {
                for mut work in std::mem::take(&mut self.at_work) {
                    work.process.kill();
                    self.leave(&work)?;
                }
            }
            let halted =
                self.ran.stopped || (!self.ran.failures.is_empty() && !self.options.keep_going);
            if !halted {
                self.start_what_can()?;
            }
            if self.at_work.is_empty() {
                break;
            }
            self.look()?;
            if told.elapsed() >= self.options.every {
                told = Instant::now();
                self.tell();
            }
            std::thread::sleep(TICK);
        }
        for i in 0..self.plan.stages.len() {
            let waits = self.ran.states[i] == State::Waiting && self.wanted(i);
            if waits && !self.ran.stopped && !self.needs(i).all(State::settled) {
                self.ran.states[i] = State::Blocked;
            }
        }
        Ok(())
    }

    /// States of what a stage needs.
    fn needs(&self, stage: usize) -> impl Iterator<Item = State> {
        self.needs[stage].iter().map(|&need| self.ran.states[need])
    }

    fn start_what_can(&mut self) -> Result<(), StudyError> {
        for i in 0..self.plan.stages.len() {
            if self.at_work.len() >= self.options.jobs {
                break;
            }
            let ready = self.ran.states[i] == State::Waiting
                && self.wanted(i)
                && self.needs(i).all(State::settled);
            if ready {
                self.start(i)?;
            }
        }
        Ok(())
    }

    /// Number and name of a stage, as every line about it begins.
    fn head(&self, stage: usize) -> String {
        let count = self.plan.stages.len();
        format!("[{}/{count}] {}", stage + 1, self.plan.stages[stage].name)
    }

    fn start(&mut self, i: usize) -> Result<(), StudyError> {
        let stage = &self.plan.stages[i];
        let anew = self.anew[i];
        let begun = match &self.standings[i] {
            Standing::Begun(begun) if !anew && stage.goes_on != GoesOn::Anew => Some(begun.clone()),
            _ => None,
        };
        if begun.is_none() {
            self.folder.clear(stage)?;
        }
        let before = begun.as_ref().map_or(0.0, |begun| begun.seconds);
        let record = Begun {
            key: self.keys[i].clone(),
            seconds: before,
        };
        self.folder.begin(&stage.name, &record)?;
        self.folder.prepare(stage)?;
        for (path, text) in &stage.files {
            self.folder.write(path, text)?;
        }
        let again = match begun {
            Some(_) => ", going on",
            None => "",
        };
        let line = format!("{}: {}{again}", self.head(i), stage.what);
        (self.say)(&line);
        let resume = begun.is_some() && stage.goes_on == GoesOn::Resume;
        let since = Instant::now();
        let mut work = self.call(i, 0, resume, begun.is_some())?;
        (work.since, work.before) = (since, before);
        self.at_work.push(work);
        self.ran.states[i] = State::Running;
        Ok(())
    }

    /// Starts a call of a stage.
    fn call(
        &self,
        i: usize,
        call: usize,
        resume: bool,
        append: bool,
    ) -> Result<AtWork, StudyError> {
        let (stage, study) = (&self.plan.stages[i], self.folder.path());
        let mut arguments = stage.calls[call].arguments(study);
        if resume {
            arguments.push("--resume".to_owned());
        }
        let path = self.folder.log(&stage.name);
        let failed = |doing: &'static str, path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| StudyError::Io {
                doing,
                path,
                source,
            }
        };
        let mut options = File::options();
        options.create(true).write(true);
        match append || call > 0 {
            true => options.append(true),
            false => options.truncate(true),
        };
        let mut log = options.open(&path).map_err(failed("write", &path))?;
        let resume_word = if resume { " --resume" } else { "" };
        writeln!(log, "$ {}{resume_word}", stage.calls[call].shown(study))
            .map_err(failed("write", &path))?;
        let printed = match &stage.calls[call].printed_to {
            Some(file) => {
                let path = temporary(&study.join(file));
                Some(File::create(&path).map_err(failed("create", &path))?)
            }
            None => None,
        };
        let program = &self.options.program;
        let process = Process::start(program, &arguments, log, printed);
        Ok(AtWork {
            stage: i,
            call,
            process: process.map_err(failed("start", program))?,
            since: Instant::now(),
            before: 0.0,
            resume,
        })
    }

    /// Looks at every child; what has ended is noted, and the next call of its stage begun.
    fn look(&mut self) -> Result<(), StudyError> {
        for mut work in std::mem::take(&mut self.at_work) {
            let ended = work.process.ended();
            let status = match ended {
                Ok(None) => {
                    self.at_work.push(work);
                    continue;
                }
                Ok(Some(status)) => Some(status),
                Err(_) => None,
            };
            if self.ran.stopped {
                self.leave(&work)?;
                continue;
            }
            let stage = &self.plan.stages[work.stage];
            let good = status.is_some_and(|s| s.success());
            if good {
                self.keep_printed(stage, work.call)?;
                if work.call + 1 < stage.calls.len() {
                    let mut next = self.call(work.stage, work.call + 1, work.resume, true)?;
                    (next.since, next.before) = (work.since, work.before);
                    self.at_work.push(next);
                    continue;
                }
            }
            self.end(&work, status)?;
        }
        Ok(())
    }

    /// What a call printed becomes its file.
    fn keep_printed(&self, stage: &Stage, call: usize) -> Result<(), StudyError> {
        let Some(file) = &stage.calls[call].printed_to else {
            return Ok(());
        };
        let path = self.folder.path().join(file);
        std::fs::rename(temporary(&path), &path).map_err(|source| StudyError::Io {
            doing: "write",
            path,
            source,
        })
    }

    /// Notes that a stage was stopped.
    fn leave(&mut self, work: &AtWork) -> Result<(), StudyError> {
        let stage = &self.plan.stages[work.stage];
        let seconds = work.before + work.since.elapsed().as_secs_f64();
        let begun = Begun {
            key: self.keys[work.stage].clone(),
            seconds,
        };
        self.folder.begin(&stage.name, &begun)?;
        self.ran.states[work.stage] = State::Stopped;
        self.ran.seconds[work.stage] = seconds;
        let line = format!("{}: stopped", self.head(work.stage));
        (self.say)(&line);
        Ok(())
    }

    /// Notes how a stage ended.
    fn end(&mut self, work: &AtWork, status: Option<ExitStatus>) -> Result<(), StudyError> {
        let stage = &self.plan.stages[work.stage];
        let study = self.folder.path();
        let seconds = work.before + work.since.elapsed().as_secs_f64();
        self.ran.seconds[work.stage] = seconds;
        let gone = |path: &&PathBuf| !study.join(path).exists();
        let gone = stage.outputs.iter().find(gone);
        let code = status.and_then(|status| status.code());
        let log = self.folder.log(&stage.name);
        let ended = match (code, gone) {
            (Some(0), None) => Some(Ended::Done),
            (Some(1), None) => Some(Ended::CheckFailed),
            (Some(code), _) if code != 0 && stage.may_refuse => Some(Ended::Refused),
            _ => None,
        };
        let head = self.head(work.stage);
        let Some(ended) = ended else {
            let how = match (status, code, gone) {
                (_, Some(0), Some(path)) => {
                    format!("ended without writing `{}`", study.join(path).display())
                }
                (_, Some(code), _) => format!("exit code {code}"),
                (Some(status), ..) => status.to_string(),
                (None, ..) => "its end is not known".to_owned(),
            };
            let line = format!("{head}: failed after {}: {how}", duration(seconds));
            (self.say)(&line);
            self.ran.states[work.stage] = State::Failed;
            self.ran.failures.push(Failure {
                stage: stage.name.clone(),
                how,
                tail: tail(&log, SHOWN),
                log,
            });
            return Ok(());
        };
        let said = (ended == Ended::Refused).then(|| tail(&log, 1).concat());
        let record = Record {
            key: self.keys[work.stage].clone(),
            ended,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commands: stage.calls.iter().map(|call| call.shown(study)).collect(),
            outputs: stage.outputs.clone(),
            seconds,
            said: said.clone(),
        };
        self.folder.end(&stage.name, &record)?;
        self.ran.states[work.stage] = match ended {
            Ended::Done => State::Done,
            Ended::CheckFailed => State::CheckFailed,
            Ended::Refused => State::Refused,
        };
        let line = match said {
            Some(said) => format!("{head}: nothing to be said: {said}"),
            None => format!(
                "{head}: {}, {}",
                self.ran.states[work.stage].word(),
                duration(seconds)
            ),
        };
        (self.say)(&line);
        Ok(())
    }

    /// How far the stages at work are: the last line of each log.
    fn tell(&mut self) {
        for work in &self.at_work {
            let stage = &self.plan.stages[work.stage];
            let last = tail(&self.folder.log(&stage.name), 1).concat();
            let line = format!("{}: {last}", self.head(work.stage));
            (self.say)(&line);
        }
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// The last lines of a log that hold something.
fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(1 << 16)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text
        .split(['\n', '\r'])
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let first = all.len().saturating_sub(lines);
    all[first..].iter().map(|line| (*line).to_owned()).collect()
}
