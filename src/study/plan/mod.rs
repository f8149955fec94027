//! The stages of a study, in the order of the data: corpus, models, fine-tuning, export, evaluation, transfer curve, analysis,
//! figures, report.
//!
//! | group | of | command |
//! | --- | --- | --- |
//! | `generate` | | `tcd generate` |
//! | `tokenizer`, `corpus`, `sample` | | `tcd tokenizer train`, `tcd corpus build`, `tcd corpus sample` |
//! | `pretrain` | model | `tcd pretrain`, `tcd distill run` |
//! | `relations` | | `tcd distill measure` |
//! | `finetune` | model and task | `tcd finetune` |
//! | `glue` | | `tcd glue table` |
//! | `export`, `parity`, `eval` | model | `tcd export`, `tcd parity`, `tcd eval` |
//! | `light` | model and step | `tcd finetune` of a checkpoint |
//! | `points` | | `tcd analyze points` |
//! | `curve`, `difference` | comparison | `tcd analyze curve`, `tcd glue compare` |
//! | `features`, `masked`, and the measures | model or pair | `tcd features`, `tcd analyze` |
//! | `figures`, `report` | | `tcd plot all`, `tcd report` |

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::checked::{Study, StudyError};
use super::stage::{Place, Stage, here};
use crate::data::glue::Task;

mod analysis;
mod models;
mod scores;

/// The stages of a study: each needs only such that stand before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<Stage>,
}

/// Where things lie in a study.
pub(super) mod at {
    use std::path::PathBuf;

    pub const TOKENIZER: &str = "tokenizer";
    pub const CORPUS: &str = "corpus";
    pub const SAMPLE: &str = "sample/text.txt";
    pub const RESULTS: &str = "results";
    pub const FIGURES: &str = "figures";
    /// The report.
    pub const REPORT: &str = "report.html";

    /// A model's run directory.
    pub fn run(model: &str) -> PathBuf {
        ["pretrain", model].iter().collect()
    }

    /// The model at its end.
    pub fn model(model: &str) -> PathBuf {
        run(model).join("model")
    }

    /// A checkpoint that is kept.
    pub fn checkpoint(model: &str, step: u64) -> PathBuf {
        run(model).join(format!("checkpoints/step-{step:08}"))
    }

    /// What fine-tuning of a model writes, task by task.
    pub fn finetuned(model: &str) -> PathBuf {
        ["finetune", model].iter().collect()
    }

    /// The model fine-tuned best on a task.
    pub fn best(model: &str, task: &str) -> PathBuf {
        finetuned(model).join(task).join("best")
    }

    /// A result.
    pub fn result(name: &str) -> PathBuf {
        [RESULTS, name].iter().collect()
    }
}

/// Held-out text, in the folder of a study.
pub(super) const SAMPLE: &str = at::SAMPLE;

/// A file's name without its ending, by which results know a text.
pub(super) fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// The report, in the folder of a study.
pub fn report_page() -> &'static str {
    at::REPORT
}

/// How stages are run; no part of any key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// CPU threads of a stage.
    pub threads: usize,
}

/// What the makers of stages share.
pub(super) struct Maker<'a> {
    pub study: &'a Study,
    pub means: Means,
    pub stages: Vec<Stage>,
}

impl Plan {
    /// The stages of a study.
    pub fn new(study: &Study, means: Means) -> Plan {
        let mut maker = Maker {
            study,
            means,
            stages: Vec::new(),
        };
        maker.data();
        for model in &study.models {
            maker.pretrain(model);
        }
        maker.relations();
        for model in &study.models {
            for task in &study.config.finetune.tasks {
                maker.finetune(model, task);
            }
        }
        maker.glue();
        for model in &study.models {
            maker.export_and_eval(model);
        }
        maker.differences();
        maker.transfer();
        if study.config.analysis.enabled {
            analysis::analysis(&mut maker);
        }
        maker.report();
        Plan {
            stages: maker.stages,
        }
    }

    /// The stage of a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.name == name)
    }

    /// The stages that a person means: one name, or all of a group.
    pub fn named(&self, name: &str) -> Result<Vec<usize>, StudyError> {
        let all = 0..self.stages.len();
        let found: Vec<usize> = match self.find(name) {
            Some(one) => vec![one],
            None => all.filter(|&i| self.stages[i].group == name).collect(),
        };
        if !found.is_empty() {
            return Ok(found);
        }
        let mut known: Vec<String> = Vec::new();
        for stage in &self.stages {
            if known.iter().all(|group| group != stage.group) {
                known.push(stage.group.to_owned());
            }
        }
        let near = self
            .stages
            .iter()
            .filter(|s| s.group == name.split('-').next().unwrap_or(name));
        known.extend(near.map(|stage| stage.name.clone()));
        Err(StudyError::Unknown {
            name: name.to_owned(),
            known,
        })
    }

    /// The groups, in order.
    pub fn groups(&self) -> Vec<&'static str> {
        let mut groups: Vec<&'static str> = Vec::new();
        for stage in &self.stages {
            if !groups.contains(&stage.group) {
                groups.push(stage.group);
            }
        }
        groups
    }

    /// Places of the stages that each stage needs.
    pub fn needs(&self) -> Vec<Vec<usize>> {
        let places: HashMap<&str, usize> = self
            .stages
            .iter()
            .enumerate()
            .map(|(i, stage)| (stage.name.as_str(), i))
            .collect();
        let of = |stage: &Stage| {
            let needs = stage.needs.iter();
            needs
                .filter_map(|name| places.get(name.as_str()).copied())
                .collect()
        };
        self.stages.iter().map(of).collect()
    }

    /// Which stages are among these, or rest on one of them, directly or by way of others.
    pub fn resting_on(&self, stages: &[usize]) -> Vec<bool> {
        let mut resting: Vec<bool> = Vec::new();
        for (i, needs) in self.needs().iter().enumerate() {
            resting.push(stages.contains(&i) || needs.iter().any(|&need| resting[need]));
        }
        resting
    }
}

impl Maker<'_> {
    /// Adds a stage; gives its name.
    pub fn add(&mut self, stage: Stage) -> String {
        let name = stage.name.clone();
        self.stages.push(stage);
        name
    }

    /// Names of the stages of a group, so far.
    pub fn of(&self, group: &str) -> Vec<String> {
        let of = self.stages.iter().filter(|stage| stage.group == group);
        of.map(|stage| stage.name.clone()).collect()
    }

    /// `--threads N`.
    pub fn threads(&self) -> Vec<String> {
        vec!["--threads".to_owned(), self.means.threads.to_string()]
    }

    /// `--runtime NAME`.
    pub fn runtime(&self) -> [String; 2] {
        ["--runtime".to_owned(), self.study.config.runtime.clone()]
    }

    /// GLUE's directory, of which these tasks are read.
    pub fn glue_data(&self, tasks: &[String]) -> Place {
        let data = &self.study.config.data;
        match data.generate {
            Some(_) => here("data/glue"),
            None => Place::Outside {
                path: data.glue.clone(),
                read: task_folders(&data.glue, tasks),
                key: "data.glue",
            },
        }
    }

    /// What must be done before GLUE's data is there.
    pub fn glue_needs(&self) -> Vec<String> {
        let generated = self.study.config.data.generate.as_ref();
        generated
            .map(|_| "generate".to_owned())
            .into_iter()
            .collect()
    }
}

/// `1,2,3`.
fn list<T: ToString>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(",")
}

/// The folders of tasks in GLUE's directory; the directory itself where one has no folder of its own.
fn task_folders(glue: &Path, tasks: &[String]) -> Vec<PathBuf> {
    let names: Vec<PathBuf> = std::fs::read_dir(glue)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    let mut found = Vec::new();
    for task in tasks {
        let owns = |path: &&PathBuf| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            let task = Task::find(task);
            task.zip(name)
                .is_some_and(|(task, name)| task.owns_folder(&name))
        };
        match names.iter().find(owns) {
            Some(path) => found.push(path.clone()),
            None => return Vec::new(),
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::super::config::StudyConfig;
    use super::super::record::Folder;
    use super::*;
    use crate::train::config::load;

    const CONFIGS: [&str; 3] = ["demo", "cpu-study", "paper"];

    fn study(name: &str, settings: &[&str]) -> Study {
        let path = PathBuf::from(format!("configs/{name}.toml"));
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        let config: StudyConfig = load(Some(&path), &settings).unwrap();
        config.validate().unwrap()
    }

    fn plan(name: &str) -> Plan {
        Plan::new(&study(name, &[]), Means { threads: 1 })
    }

    #[test]
    fn every_stage_rests_on_earlier_ones_and_writes_for_itself() {
        for name in CONFIGS {
            let plan = plan(name);
            let (mut names, mut outputs) = (BTreeSet::new(), BTreeSet::new());
            for stage in &plan.stages {
                for need in &stage.needs {
                    assert!(names.contains(need), "{name}: {} needs {need}", stage.name);
                }
                assert!(
                    names.insert(stage.name.clone()),
                    "{name}: two {}",
                    stage.name
                );
                assert!(
                    !stage.calls.is_empty() && !stage.outputs.is_empty(),
                    "{}",
                    stage.name
                );
                for output in &stage.outputs {
                    assert!(
                        outputs.insert(output.clone()),
                        "{name}: two write {output:?}"
                    );
                }
            }
            assert!(plan.find("report").is_some() && plan.named("curve").is_ok());
        }
    }

    /// What a command reads in the study, a stage that is needed, directly or by way of others, has written.
    #[test]
    fn what_a_stage_reads_is_written_by_one_that_it_rests_on() {
        for name in CONFIGS {
            let plan = plan(name);
            for (i, stage) in plan.stages.iter().enumerate() {
                let written: Vec<&PathBuf> = (0..=i)
                    .filter(|&j| plan.resting_on(&[j])[i])
                    .flat_map(|j| {
                        let other = &plan.stages[j];
                        let files = other.files.iter().map(|(path, _)| path);
                        other.outputs.iter().chain(files)
                    })
                    .collect();
                for word in stage.calls.iter().flat_map(|call| &call.words) {
                    if let Some(Place::Study(path)) = &word.place {
                        // A folder counts where something in it was written.
                        let known = written
                            .iter()
                            .any(|w| path.starts_with(w) || w.starts_with(path));
                        assert!(known, "{name}: {} reads {path:?}", stage.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_commands_of_the_demo() {
        let plan = plan("demo");
        let lines: Vec<String> = plan
            .stages
            .iter()
            .filter(|stage| !stage.name.contains("-s2"))
            .flat_map(|stage| {
                let calls = stage
                    .calls
                    .iter()
                    .map(|call| call.shown(Path::new("STUDY")));
                std::iter::once(stage.name.clone()).chain(calls.map(|call| format!("  {call}")))
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_changed_setting_changes_only_what_depends_on_it() {
        use super::super::key::{Hashes, keys};
        let of = |settings: &[&str]| {
            let plan = Plan::new(&study("demo", settings), Means { threads: 1 });
            let keys = keys(&plan, &mut Hashes::default()).unwrap();
            (plan, keys)
        };
        let (plan, before) = of(&[]);
        let changed = |settings: &[&str]| -> BTreeSet<&'static str> {
            let (other, after) = of(settings);
            assert_eq!(other.stages.len(), plan.stages.len());
            let pairs = plan.stages.iter().zip(before.iter().zip(&after));
            let differ = pairs.filter(|(_, (a, b))| a != b);
            differ.map(|(stage, _)| stage.group).collect()
        };
        assert!(
            changed(&[
                "device=cuda",
                "threads=7",
                "output=elsewhere",
                "machine.gflops=1"
            ])
            .is_empty()
        );
        assert_eq!(
            changed(&["analysis.tsne_rows=100"]),
            BTreeSet::from(["tsne", "figures", "report"])
        );
        let seeds = changed(&["finetune.seeds=[3]"]);
        for (group, is) in [
            ("pretrain", false),
            ("light", false),
            ("cka", false),
            ("compare", true),
            ("finetune", true),
            ("glue", true),
            ("eval", true),
        ] {
            assert_eq!(seeds.contains(group), is, "{group}");
        }
        let all: BTreeSet<&str> = plan.groups().into_iter().collect();
        assert_eq!(changed(&["data.generate.seed=8"]), all);
        let mut but_generate = all;
        but_generate.remove("generate");
        assert_eq!(changed(&["data.vocabulary=900"]), but_generate);
    }

    #[test]
    fn names_and_groups_name_stages_and_others_are_told() {
        let plan = plan("demo");
        assert_eq!(plan.named("corpus").unwrap().len(), 1);
        assert_eq!(plan.named("pretrain").unwrap().len(), 6);
        assert_eq!(plan.named("pretrain-moe-s1").unwrap().len(), 1);
        let text = plan.named("pretrain-moe").unwrap_err().to_string();
        assert!(
            text.contains("pretrain-moe-s1") && text.contains("finetune"),
            "{text}"
        );
    }

    #[test]
    fn a_plan_names_every_file_that_the_study_writes_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("study")).unwrap();
        for stage in &plan("demo").stages {
            for (path, text) in &stage.files {
                folder.write(path, text).unwrap();
                let file = folder.path().join(path);
                load::<crate::train::config::RunConfig>(Some(&file), &[]).unwrap();
            }
        }
    }
}
