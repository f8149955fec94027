//! A study that was checked: its models, who teaches whom, and why a study cannot be run.

use std::path::PathBuf;

use tcd_export::Architecture;
use thiserror::Error;

use super::config::StudyConfig;
use crate::train::config::RunConfig;

/// Why a study cannot be run.
#[derive(Debug, Error)]
pub enum StudyError {
    /// Values that cannot be.
    #[error("the study cannot be run: {}; hint: `tcd run --print-config` tells what every key means", violations.join("; "))]
    Invalid {
        /// One line each.
        violations: Vec<String>,
    },
    /// A file of the study, or one that it reads.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// `read`, `write`, ...
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// What a stage reads from outside is not there.
    #[error("stage `{stage}` reads `{}`, which is not there; hint: set `{key}` in the configuration, in the file or by `--set {key}=PATH`", path.display())]
    Missing {
        /// The stage.
        stage: String,
        /// The file or folder.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
    },
    /// The folder is somebody else's.
    #[error("`{}` holds something that no study wrote; hint: name another folder as `output`", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works in it.
    #[error("another process works in `{}`{}; hint: wait for it, or end it", path.display(), holder.map_or(String::new(), |id| format!(" (process {id})")))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Its process id.
        holder: Option<u32>,
    },
    /// No stage has this name.
    #[error("there is no stage `{name}`; hint: one of {}", known.join(", "))]
    Unknown {
        /// As given.
        name: String,
        /// Groups and names.
        known: Vec<String>,
    },
}

/// Who teaches a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeacherOf {
    /// An untrained model.
    Random,
    /// The model of a family with this seed.
    Family(String, u64),
    /// A model directory.
    Directory(PathBuf),
}

/// One model of the study, resolved.
#[derive(Clone, Debug)]
pub struct Model {
    /// Family.
    pub family: String,
    /// Seed.
    pub seed: u64,
    /// Its pre-training, without what the command line adds: output, corpus, teacher, threads and device.
    pub run: RunConfig,
    /// Its architecture.
    pub arch: Architecture,
    /// Its teacher.
    pub teacher: Option<TeacherOf>,
}

impl Model {
    /// `FAMILY-sSEED`: its name in tables and its folder.
    pub fn name(&self) -> String {
        format!("{}-s{}", self.family, self.seed)
    }

    /// Whether it is a mixture of experts.
    pub fn is_moe(&self) -> bool {
        self.arch.experts().is_some()
    }
}

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub struct Study {
    /// What was asked for.
    pub config: StudyConfig,
    /// Every model, families in their order, seeds within.
    pub models: Vec<Model>,
    /// Comparisons as pairs of families.
    pub comparisons: Vec<(String, String)>,
}

impl Study {
    /// The models that are analysed: those of the first seed.
    pub fn analysed(&self) -> impl Iterator<Item = &Model> {
        let first = self.config.seeds.first().copied();
        self.models.iter().filter(move |m| Some(m.seed) == first)
    }

    /// The tasks of the transfer curve.
    pub fn transfer_tasks(&self) -> &[String] {
        match self.config.transfer.tasks.as_slice() {
            [] => &self.config.finetune.tasks,
            tasks => tasks,
        }
    }
}
