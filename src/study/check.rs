//! [`StudyConfig::validate`]: everything that must hold, all violations at once, and every model's run resolved.

use std::path::{Path, PathBuf};

use super::checked::{Model, Study, StudyError, TeacherOf};
use super::config::{DataSection, Family, StudyConfig};
use super::plan::{SAMPLE, stem};
use crate::data::glue::Task;
use crate::data::tokenizer::Tokenizer;
use crate::distill::{DistillConfig, Teacher};
use crate::train::config::{DeviceConfig, RunConfigError, apply};
use crate::train::finetune::FinetuneConfig;

/// Collects what is wrong.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn must(&mut self, holds: bool, line: impl FnOnce() -> String) {
        if !holds {
            self.0.push(line());
        }
    }
}

impl StudyConfig {
    /// Checks everything that must hold and resolves every model; all violations come at once.
    pub fn validate(self) -> Result<Study, StudyError> {
        let mut found = Found::default();
        found.must(!self.output.as_os_str().is_empty(), || {
            "`output` must name the folder of the study".to_owned()
        });
        distinct(&mut found, "seeds", &self.seeds);
        let engines = ["tract", "ort", "tch"];
        found.must(engines.contains(&self.runtime.as_str()), || {
            format!(
                "`runtime` must be `tract`, `ort` or `tch`: `{}`",
                self.runtime
            )
        });
        self.data.check(&mut found);
        self.check_families(&mut found);
        self.check_filled_in(&mut found);
        self.check_finetuning(&mut found);
        self.check_transfer(&mut found);
        self.check_analysis(&mut found);
        found.0.extend(self.machine.validate());
        let comparisons = self.pairs(&mut found);
        let models = self.models(&mut found);
        // The same line of every family is said once.
        let mut violations: Vec<String> = Vec::new();
        for line in found.0 {
            if !violations.contains(&line) {
                violations.push(line);
            }
        }
        if !violations.is_empty() {
            return Err(StudyError::Invalid { violations });
        }
        Ok(Study {
            config: self,
            models,
            comparisons,
        })
    }

    fn check_families(&self, found: &mut Found) {
        found.must(!self.families.is_empty(), || {
            "`families` must name one at least".to_owned()
        });
        for (i, family) in self.families.iter().enumerate() {
            let name = &family.name;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            found.must(!name.is_empty() && name.chars().all(plain), || {
                format!("`families`: a name is made of letters, digits and `_`: `{name}`")
            });
            let before = &self.families[..i];
            found.must(before.iter().all(|other| other.name != *name), || {
                format!("`families`: two are called `{name}`")
            });
            found.must(name != "random" || family.teacher.is_some(), || {
                "`families`: `random` is the word for an untrained teacher, so a family of that name needs one".to_owned()
            });
            if let Some(teacher) = &family.teacher {
                let known = teacher == "random"
                    || teacher.contains('/')
                    || before.iter().any(|other| other.name == *teacher);
                found.must(known, || {
                    format!(
                        "`families`: the teacher of `{name}` is no family before it, nor `random`, nor a path with a `/`: `{teacher}`"
                    )
                });
            }
        }
    }

    /// What the study fills in must be empty.
    fn check_filled_in(&self, found: &mut Found) {
        let run = &self.pretrain;
        let teacher = run.distill.as_ref().map(|d| &d.teacher);
        for (key, holds) in [
            ("output", run.output.as_os_str().is_empty()),
            ("seed", run.seed == 0),
            ("threads", run.threads == 0),
            ("device", run.device == DeviceConfig::Auto),
            ("data.corpus", run.data.corpus.as_os_str().is_empty()),
            (
                "distill.teacher",
                teacher.is_none_or(|t| *t == Teacher::default()),
            ),
        ] {
            found.must(holds, || {
                format!("`pretrain.{key}` is the study's to fill in; hint: `output`, `seeds`, `threads`, `device`, `data` and `families` stand outside `[pretrain]`")
            });
        }
    }

    fn check_finetuning(&self, found: &mut Found) {
        check_tasks(found, "finetune.tasks", &self.finetune.tasks, false);
        distinct(found, "finetune.seeds", &self.finetune.seeds);
        let section = &self.finetune;
        let settings = FinetuneConfig {
            learning_rates: section.learning_rates.clone(),
            batch_sizes: section.batch_sizes.clone(),
            epochs: section.epochs.clone(),
            seeds: section.seeds.clone(),
            train_rows: section.train_rows,
            max_length: section.max_length,
            expert_dropout: section.expert_dropout,
            dropout: section.dropout,
            ..FinetuneConfig::default()
        };
        let lines = settings.validate();
        found
            .0
            .extend(lines.into_iter().map(|line| format!("finetune: {line}")));
    }

    fn check_transfer(&self, found: &mut Found) {
        let transfer = &self.transfer;
        if transfer.steps.is_empty() {
            return;
        }
        check_tasks(found, "transfer.tasks", &transfer.tasks, true);
        distinct(found, "transfer.steps", &transfer.steps);
        distinct(found, "transfer.seeds", &transfer.seeds);
        found.must(transfer.epochs > 0, || {
            "`transfer.epochs` must be at least 1: 0".to_owned()
        });
        found.must(transfer.train_rows != Some(0), || {
            "`transfer.train_rows` must be at least 1: 0".to_owned()
        });
        let last = self.pretrain.schedule.steps;
        let every = self.pretrain.evaluation.every_steps;
        for &step in &transfer.steps {
            let evaluated = step == last || (every > 0 && step % every == 0);
            found.must((1..=last).contains(&step) && evaluated, || {
                format!(
                    "`transfer.steps` must be multiples of `pretrain.evaluation.every_steps` ({every}) up to `pretrain.schedule.steps` ({last}), or that: {step}"
                )
            });
        }
    }

    fn check_analysis(&self, found: &mut Found) {
        let analysis = &self.analysis;
        if !analysis.enabled {
            return;
        }
        found.must(analysis.rows >= 2, || {
            format!("`analysis.rows` must be at least 2: {}", analysis.rows)
        });
        found.must(analysis.tokens >= 64, || {
            format!("`analysis.tokens` must be at least 64: {}", analysis.tokens)
        });
        found.must(analysis.tsne_rows == 0 || analysis.tsne_rows >= 16, || {
            format!(
                "`analysis.tsne_rows` must be 0 or at least 16: {}",
                analysis.tsne_rows
            )
        });
        check_tasks(found, "analysis.tasks", &analysis.tasks, true);
        for name in &analysis.tasks {
            found.must(self.finetune.tasks.contains(name), || {
                format!("`analysis.tasks` must be among `finetune.tasks`: `{name}`")
            });
        }
        let mut stems = vec![Some(stem(Path::new(SAMPLE)))];
        for path in &analysis.texts {
            let stem = path.file_stem().map(|_| stem(path));
            found.must(stem.is_some() && !stems.contains(&stem), || {
                format!(
                    "`analysis.texts` must be files of different names, none of them `{}`: `{}`",
                    self::stem(Path::new(SAMPLE)),
                    path.display()
                )
            });
            stems.push(stem);
        }
    }

    /// Comparisons as pairs.
    fn pairs(&self, found: &mut Found) -> Vec<(String, String)> {
        let known = |name: &str| self.families.iter().any(|f| f.name == name);
        if self.comparisons.is_empty() {
            return self.default_pairs();
        }
        let mut pairs = Vec::new();
        for text in &self.comparisons {
            match text.split_once(':') {
                Some((a, b)) if known(a) && known(b) && a != b => {
                    pairs.push((a.to_owned(), b.to_owned()));
                }
                _ => found.0.push(format!(
                    "`comparisons` must be two families as `A:B`: `{text}`"
                )),
            }
        }
        pairs
    }

    fn default_pairs(&self) -> Vec<(String, String)> {
        let teaches = |name: &String| {
            let mut taught = self.families.iter().filter_map(|f| f.teacher.as_ref());
            taught.any(|teacher| teacher == name)
        };
        let plain = |f: &&Family| f.teacher.is_none() && !teaches(&f.name);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let mut pairs = Vec::new();
        for a in self.families.iter().filter(|f| !plain(f)) {
            for b in self.families.iter().filter(plain) {
                pairs.push(pair(&a.name, &b.name));
            }
        }
        if pairs.is_empty() {
            // Without a family to compare with, the taught are compared with those that teach them.
            let taught = |f: &Family| Some(pair(&f.name, f.teacher.as_ref()?));
            let known = |(_, b): &(String, String)| self.families.iter().any(|f| f.name == *b);
            pairs.extend(self.families.iter().filter_map(taught).filter(known));
        }
        pairs
    }

    /// Every model, its run checked.
    fn models(&self, found: &mut Found) -> Vec<Model> {
        let vocabulary = self.vocabulary(found);
        let mut models = Vec::new();
        for family in &self.families {
            let mut run = self.pretrain.clone();
            run.distill = family
                .teacher
                .as_ref()
                .map(|_| run.distill.unwrap_or_default());
            run.checkpoint.keep_steps.extend(&self.transfer.steps);
            run.checkpoint.keep_steps.sort_unstable();
            run.checkpoint.keep_steps.dedup();
            let origin = format!("families: `{}`", family.name);
            let run = match apply(&run, &family.set, &origin) {
                Ok(run) => run,
                Err(error) => {
                    found.0.push(error.to_string());
                    continue;
                }
            };
            for &seed in &self.seeds {
                let teacher = family.teacher.as_ref().map(|name| match name.as_str() {
                    "random" => TeacherOf::Random,
                    path if path.contains('/') => TeacherOf::Directory(path.into()),
                    family => TeacherOf::Family(family.to_owned(), seed),
                });
                let mut run = run.clone();
                run.seed = seed;
                // As it will stand on the command line, to be checked as a whole.
                let mut whole = run.clone();
                whole.output = PathBuf::from("pretrain");
                whole.distill = whole.distill.map(|distill| DistillConfig {
                    teacher: Teacher::Random,
                    ..distill
                });
                match whole.validate(vocabulary, 0, self.data.sequence_length) {
                    Ok(plan) => models.push(Model {
                        family: family.name.clone(),
                        seed,
                        run,
                        arch: plan.arch,
                        teacher,
                    }),
                    Err(RunConfigError::Invalid { violations }) => {
                        found
                            .0
                            .extend(violations.into_iter().map(|v| format!("pretrain: {v}")));
                    }
                    Err(error) => found.0.push(error.to_string()),
                }
            }
        }
        models
    }

    /// Tokens of the vocabulary: that of a tokenizer which is there already, else as asked for.
    fn vocabulary(&self, found: &mut Found) -> usize {
        let Some(path) = self.data.tokenizer.as_ref().filter(|path| path.exists()) else {
            return self.data.vocabulary;
        };
        match Tokenizer::load(path) {
            Ok(tokenizer) => tokenizer.vocab_size(),
            Err(error) => {
                found.0.push(format!("`data.tokenizer`: {error}"));
                self.data.vocabulary
            }
        }
    }
}

impl DataSection {
    fn check(&self, found: &mut Found) {
        let given = !self.text.is_empty() || !self.glue.as_os_str().is_empty();
        match &self.generate {
            Some(section) => {
                found.must(!given, || {
                    "`data.generate` stands in place of `data.text` and `data.glue`: leave one or the other out".to_owned()
                });
                found.must(section.documents >= 1, || {
                    "`data.generate.documents` must be at least 1: 0".to_owned()
                });
                found.must(section.examples >= 12, || {
                    format!(
                        "`data.generate.examples` must be at least 12: {}",
                        section.examples
                    )
                });
            }
            None => {
                found.must(!self.text.is_empty(), || {
                    "`data.text` must name text files or folders".to_owned()
                });
                found.must(!self.glue.as_os_str().is_empty(), || {
                    "`data.glue` must name the directory of GLUE".to_owned()
                });
            }
        }
        found.must(self.vocabulary >= 100, || {
            format!(
                "`data.vocabulary` must be at least 100: {}",
                self.vocabulary
            )
        });
        found.must(self.held_out > 0.0 && self.held_out < 1.0, || {
            format!("`data.held_out` must lie in (0, 1): {}", self.held_out)
        });
    }
}

fn check_tasks(found: &mut Found, key: &str, names: &[String], may_be_empty: bool) {
    found.must(may_be_empty || !names.is_empty(), || {
        format!("`{key}` must name one at least")
    });
    for name in names {
        match Task::find(name) {
            None => found.0.push(format!(
                "`{key}`: there is no task `{name}`; tasks: {}",
                Task::names()
            )),
            Some(task) => {
                found.must(task.name == name, || {
                    format!("`{key}`: the task is written `{}`: `{name}`", task.name)
                });
                found.must(task.answered_by.is_none(), || {
                    format!("`{key}`: `{name}` has no training set")
                });
            }
        }
    }
    distinct_or_none(found, key, names);
}

fn distinct<T: PartialEq + std::fmt::Debug>(found: &mut Found, key: &str, values: &[T]) {
    found.must(!values.is_empty(), || {
        format!("`{key}` must name one at least")
    });
    distinct_or_none(found, key, values);
}

fn distinct_or_none<T: PartialEq + std::fmt::Debug>(found: &mut Found, key: &str, values: &[T]) {
    for (i, value) in values.iter().enumerate() {
        found.must(!values[..i].contains(value), || {
            format!("`{key}` names one twice: {value:?}")
        });
    }
}
