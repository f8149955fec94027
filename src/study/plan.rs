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
//! | `glue` | | `tcd glue table`, `tcd glue compare` |
//! | `export`, `parity`, `eval` | model | `tcd export`, `tcd parity`, `tcd eval` |
//! | `light` | model and step | `tcd finetune` of a checkpoint |
//! | `points`, `curve` | | `tcd analyze points`, `tcd analyze curve` |
//! | `features` and the measures | model or pair | `tcd features`, `tcd analyze` |
//! | `figures`, `report` | | `tcd plot all`, `tcd report` |

use std::path::{Path, PathBuf};

use tcd_export::Architecture;

use super::checked::{Model, Study, StudyError, TeacherOf};
use super::estimate::{Cost, Pretraining, finetuning};
use super::plan_analysis;
use super::stage::{Call, GoesOn, Place, Stage, Word, here};
use crate::data::glue::{Role, Task};

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
            plan_analysis::analysis(&mut maker);
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

    /// Whether a later stage rests on an earlier one, itself included.
    pub fn rests_on(&self, later: usize, earlier: usize) -> bool {
        later == earlier
            || self.stages[later]
                .needs
                .iter()
                .filter_map(|name| self.find(name))
                .any(|need| self.rests_on(need, earlier))
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

    /// `--runtime NAME`, where one is asked for.
    pub fn runtime(&self) -> Vec<Word> {
        let name = self.study.config.runtime.iter();
        name.flat_map(|name| [Word::from("--runtime"), Word::from(name.clone())])
            .collect()
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

    fn data(&mut self) {
        let data = &self.study.config.data;
        let mut texts = vec![Word::from(here("data/corpus"))];
        if let Some(generate) = &data.generate {
            let stage = Stage::new(
                "generate",
                "",
                "write a corpus and tasks in a controlled English",
            )
            .call(
                Call::new(["generate"])
                    .option("--out", here("data"))
                    .with(["--seed".to_owned(), generate.seed.to_string()])
                    .with(["--documents".to_owned(), generate.documents.to_string()])
                    .with(["--examples".to_owned(), generate.examples.to_string()]),
            )
            .writes("data");
            self.add(stage);
        } else {
            let outside = |path: &PathBuf| {
                Word::from(Place::Outside {
                    path: path.clone(),
                    read: Vec::new(),
                    key: "data.text",
                })
            };
            texts = data.text.iter().map(outside).collect();
        }
        let before = self.glue_needs();
        let tokenizer = match &data.tokenizer {
            Some(path) => Place::Outside {
                path: path.clone(),
                read: Vec::new(),
                key: "data.tokenizer",
            },
            None => {
                let call = Call::new(["tokenizer", "train"])
                    .with(texts.clone())
                    .with(["--vocab-size".to_owned(), data.vocabulary.to_string()])
                    .option("--out", here(at::TOKENIZER));
                let stage = Stage::new("tokenizer", "", "train a WordPiece vocabulary")
                    .after(before.clone())
                    .call(call)
                    .writes(at::TOKENIZER);
                self.add(stage);
                here(at::TOKENIZER)
            }
        };
        let call = Call::new(["corpus", "build"])
            .with(texts)
            .option("--tokenizer", tokenizer)
            .option("--out", here(at::CORPUS))
            .with([
                "--sequence-length".to_owned(),
                data.sequence_length.to_string(),
            ])
            .with(["--held-out".to_owned(), data.held_out.to_string()])
            .free(self.threads());
        let stage = Stage::new("corpus", "", "turn the text into token shards")
            .after(before)
            .after(self.of("tokenizer"))
            .call(call)
            .writes(at::CORPUS);
        self.add(stage);
        let rows = self.study.config.analysis.rows;
        let call = Call::new(["corpus", "sample"])
            .with([here(at::CORPUS)])
            .with(["--rows".to_owned(), rows.to_string()])
            .option("--out", here(at::SAMPLE));
        let stage = Stage::new("sample", "", "write held-out rows as text")
            .after(["corpus"])
            .call(call)
            .writes(at::SAMPLE);
        self.add(stage);
    }

    fn pretrain(&mut self, model: &Model) {
        let (name, config) = (model.name(), &self.study.config);
        let file = PathBuf::from(format!("config/{name}.toml"));
        // Of plain tables and values only, so that it cannot fail.
        let text = toml::to_string(&model.run).unwrap_or_default();
        let words: &[&str] = match model.teacher {
            Some(_) => &["distill", "run"],
            None => &["pretrain"],
        };
        let mut call = Call::new(words.iter().copied())
            .option("--config", here(&file))
            .with([
                Word::from("--set"),
                Word::at("data.corpus=", here(at::CORPUS)),
            ])
            .with([
                Word::from("--set"),
                Word::at("output=", here(at::run(&name))),
            ]);
        let device = String::from(config.device);
        call = call.free(["--set".to_owned(), format!("device={device}")]);
        call = call.free([
            "--set".to_owned(),
            format!("threads={}", self.means.threads),
        ]);
        let mut needs = vec!["corpus".to_owned()];
        let what = match &model.teacher {
            None if model.is_moe() => "pre-train a mixture of experts".to_owned(),
            None => "pre-train a vanilla model".to_owned(),
            Some(TeacherOf::Random) => {
                call = call.with(["--teacher", "random"]);
                "pre-train under an untrained teacher".to_owned()
            }
            Some(TeacherOf::Directory(path)) => {
                let place = Place::Outside {
                    path: path.clone(),
                    read: Vec::new(),
                    key: "families",
                };
                call = call.option("--teacher", place);
                format!("pre-train under `{}`", path.display())
            }
            Some(TeacherOf::Family(family, seed)) => {
                let teacher = format!("{family}-s{seed}");
                call = call.option("--teacher", here(at::model(&teacher)));
                needs.push(format!("pretrain-{teacher}"));
                format!("pre-train under {teacher}")
            }
        };
        let vanilla = self.teacher_architecture(model);
        let estimate = Pretraining {
            run: &model.run,
            arch: &model.arch,
            sequence: config.data.sequence_length,
            teacher: vanilla.as_ref(),
            device: config.device,
        };
        let stage = Stage {
            files: vec![(file, text)],
            goes_on: GoesOn::Resume,
            cost: Some(estimate.cost()),
            details: Some(estimate.line()),
            ..Stage::new("pretrain", &name, format!("{what}: {}", model.family))
                .after(needs)
                .call(call)
                .writes(at::run(&name))
        };
        self.add(stage);
    }

    /// The teacher's architecture, as far as it is known here.
    fn teacher_architecture(&self, model: &Model) -> Option<Architecture> {
        let own = || {
            let mut config = (*model.arch).clone();
            config.moe = None;
            config.validate().ok()
        };
        match model.teacher.as_ref()? {
            TeacherOf::Family(family, _) => {
                let mut of = self.study.models.iter().filter(|m| m.family == *family);
                of.next().map(|m| m.arch.clone()).or_else(own)
            }
            TeacherOf::Random | TeacherOf::Directory(_) => own(),
        }
    }

    /// Relations to the first teacher of the analysed models.
    fn relations(&mut self) {
        let analysed: Vec<&Model> = self.study.analysed().collect();
        let teacher = analysed.iter().find_map(|m| match &m.teacher {
            Some(TeacherOf::Family(family, seed)) => Some(format!("{family}-s{seed}")),
            _ => None,
        });
        let Some(teacher) = teacher else { return };
        let students: Vec<String> = analysed
            .iter()
            .map(|m| m.name())
            .filter(|n| *n != teacher)
            .collect();
        let out = at::result("relations.json");
        let call = Call::new(["distill", "measure"])
            .with(students.iter().map(|name| here(at::model(name))))
            .option("--teacher", here(at::model(&teacher)))
            .option("--corpus", here(at::CORPUS))
            .option("--out", here(&out))
            .free(self.threads());
        let all = students.iter().chain([&teacher]);
        let stage = Stage::new("relations", "", format!("measure relations to {teacher}"))
            .after(all.map(|name| format!("pretrain-{name}")))
            .call(call)
            .writes(out);
        self.add(stage);
    }

    fn finetune(&mut self, model: &Model, task: &str) {
        let name = model.name();
        let section = &self.study.config.finetune;
        let call = Call::new(["finetune"])
            .option("--model", here(at::model(&name)))
            .with(["--name", &name, "--task", task])
            .option("--data", self.glue_data(&[task.to_owned()]))
            .option("--out", here(at::finetuned(&name)))
            .with(["--seeds".to_owned(), list(&section.seeds)])
            .with(["--epochs".to_owned(), list(&section.epochs)]);
        let call = self.tuned(call, model, section.train_rows);
        let passes = section.epochs.iter().sum::<usize>()
            * section.learning_rates.len()
            * section.batch_sizes.len()
            * section.seeds.len();
        let stage = Stage {
            goes_on: GoesOn::Itself,
            cost: Some(self.finetuning_cost(model, task, section.train_rows, passes)),
            ..Stage::new(
                "finetune",
                &format!("{name}-{task}"),
                format!("fine-tune {name} on {task}"),
            )
            .after([format!("pretrain-{name}")])
            .after(self.glue_needs())
            .call(call)
            .writes(at::finetuned(&name).join(task))
        };
        self.add(stage);
    }

    /// What fine-tuning of models and of checkpoints has in common.
    fn tuned(&self, call: Call, model: &Model, train_rows: Option<usize>) -> Call {
        let section = &self.study.config.finetune;
        let mut call = call
            .with(["--learning-rate".to_owned(), list(&section.learning_rates)])
            .with(["--batch-size".to_owned(), list(&section.batch_sizes)])
            .with(["--max-length".to_owned(), section.max_length.to_string()]);
        let expert_dropout = section.expert_dropout.filter(|_| model.is_moe());
        for (option, value) in [
            ("--train-rows", train_rows.map(|n| n.to_string())),
            ("--expert-dropout", expert_dropout.map(|p| p.to_string())),
            ("--dropout", section.dropout.map(|p| p.to_string())),
        ] {
            if let Some(value) = value {
                call = call.with([option.to_owned(), value]);
            }
        }
        let device = String::from(self.study.config.device);
        call.free(["--device".to_owned(), device])
            .free(self.threads())
    }

    fn finetuning_cost(
        &self,
        model: &Model,
        task: &str,
        train_rows: Option<usize>,
        passes: usize,
    ) -> Cost {
        let task = Task::find(task);
        let official = |role| -> usize {
            let splits = task.into_iter().flat_map(|t| t.splits_of(role));
            splits.map(|split| split.rows).sum()
        };
        let generated = self.study.config.data.generate.as_ref();
        let rows = generated.map_or_else(|| official(Role::Train), |g| g.examples);
        let rows = rows.min(train_rows.unwrap_or(usize::MAX));
        let dev = generated.map_or_else(|| official(Role::Dev), |g| g.examples / 5);
        // The development set after each pass takes a third of what as many training rows do.
        let batch = self.study.config.finetune.batch_sizes.iter().max();
        finetuning(
            &model.arch,
            rows + dev / 3,
            passes as f64,
            batch.copied().unwrap_or(32),
        )
    }

    fn glue(&mut self) {
        let folders: Vec<Word> = self
            .study
            .models
            .iter()
            .map(|model| here(at::finetuned(&model.name())).into())
            .collect();
        let mut stage =
            Stage::new("glue", "", "sum up the scores on GLUE").after(self.of("finetune"));
        for (format, ending) in [("markdown", "md"), ("csv", "csv"), ("json", "json")] {
            let out = at::result(&format!("glue.{ending}"));
            let call = Call::new(["glue", "table"])
                .with(folders.clone())
                .with(["--format", format])
                .option("--out", here(&out));
            stage = stage.call(call).writes(out);
        }
        self.add(stage);
    }

    /// ONNX files of a model and of its fine-tuned ones, checked and scored without libtorch.
    fn export_and_eval(&mut self, model: &Model) {
        let (name, config) = (model.name(), &self.study.config);
        let tasks = &config.finetune.tasks;
        let tuned: Vec<String> = tasks
            .iter()
            .map(|t| format!("finetune-{name}-{t}"))
            .collect();
        let export = |dir: &Path| Call::new(["export"]).option("--model", here(dir));
        let mut stage = Stage::new("export", &name, format!("write {name} as ONNX"))
            .after([format!("pretrain-{name}")])
            .after(tuned)
            .call(export(&at::model(&name)))
            .writes(at::model(&name).join("model.onnx"));
        if config.analysis.enabled && config.seeds.first() == Some(&model.seed) {
            let mut taps = export(&at::model(&name)).with(["--features", "trunk"]);
            if model.is_moe() {
                taps = taps.with(["--routing"]);
            }
            stage = stage
                .call(taps)
                .writes(at::model(&name).join("features.onnx"));
        }
        for task in tasks {
            let best = at::best(&name, task);
            stage = stage.call(export(&best)).writes(best.join("model.onnx"));
        }
        let export = self.add(stage);
        let out = at::result(&format!("parity-{name}.json"));
        let call = Call::new(["parity"])
            .option("--model", here(at::model(&name)))
            .with([here(at::SAMPLE)])
            .with(["--rows", "64"])
            .option("--json", here(&out))
            .free(self.threads());
        let stage = Stage::new(
            "parity",
            &name,
            format!("hold the engines against each other on {name}"),
        )
        .after([export.clone(), "sample".to_owned()])
        .call(call)
        .writes(out);
        self.add(stage);
        let out = PathBuf::from(format!("scores/{name}"));
        let call = Call::new(["eval", "--model"])
            .with(tasks.iter().map(|task| here(at::best(&name, task))))
            .option("--data", self.glue_data(tasks))
            .with(self.runtime())
            .option("--out", here("scores"))
            .free(self.threads());
        let stage = Stage {
            goes_on: GoesOn::Itself,
            ..Stage::new(
                "eval",
                &name,
                format!("score {name} on GLUE from its ONNX files"),
            )
            .after([export])
            .call(call)
            .writes(out)
        };
        self.add(stage);
    }

    /// Paired differences on GLUE between the models of the first seed.
    fn differences(&mut self) {
        let Some(seed) = self.study.config.seeds.first() else {
            return;
        };
        for (a, b) in &self.study.comparisons {
            let (x, y) = (format!("{a}-s{seed}"), format!("{b}-s{seed}"));
            let out = at::result(&format!("difference-{a}-{b}.json"));
            // The difference is that of the second over the first.
            let call = Call::new(["glue", "compare"])
                .with([here(format!("scores/{y}")), here(format!("scores/{x}"))])
                .with(["--json"])
                .printed_to(&out);
            let stage = Stage::new(
                "difference",
                &format!("{a}-{b}"),
                format!("differences of {a} over {b} on GLUE"),
            )
            .after([format!("eval-{x}"), format!("eval-{y}")])
            .call(call)
            .writes(out);
            self.add(stage);
        }
    }

    /// Checkpoints along the way, fine-tuned lightly, and the curve through them.
    fn transfer(&mut self) {
        let (study, section) = (self.study, &self.study.config.transfer);
        if section.steps.is_empty() {
            return;
        }
        let tasks = study.transfer_tasks();
        let train_rows = section.train_rows.or(study.config.finetune.train_rows);
        let mut folders: Vec<Word> = Vec::new();
        for model in &study.models {
            let name = model.name();
            for &step in &section.steps {
                let out = PathBuf::from(format!("transfer/{name}/step-{step:08}"));
                let call = Call::new(["finetune"])
                    .option("--model", here(at::checkpoint(&name, step)))
                    .with(["--name".to_owned(), format!("{name}-{step}")])
                    .with(["--task".to_owned(), tasks.join(",")])
                    .option("--data", self.glue_data(tasks))
                    .option("--out", here(&out))
                    .with(["--seeds".to_owned(), list(&section.seeds)])
                    .with(["--epochs".to_owned(), section.epochs.to_string()]);
                let call = self.tuned(call, model, train_rows);
                let passes = section.epochs
                    * section.seeds.len()
                    * study.config.finetune.learning_rates.len()
                    * study.config.finetune.batch_sizes.len();
                let mut cost = Cost::default();
                for task in tasks {
                    let one = self.finetuning_cost(model, task, train_rows, passes);
                    cost.flops += one.flops;
                    cost.bytes = cost.bytes.max(one.bytes);
                }
                let stage = Stage {
                    goes_on: GoesOn::Itself,
                    cost: Some(cost),
                    ..Stage::new(
                        "light",
                        &format!("{name}-{step}"),
                        format!("fine-tune {name} as of step {step}"),
                    )
                    .after([format!("pretrain-{name}")])
                    .after(self.glue_needs())
                    .call(call)
                    .writes(&out)
                };
                self.add(stage);
                folders.push(here(out).into());
            }
        }
        let points = at::result("points.json");
        let runs = study.models.iter().map(|model| {
            let family = format!("{}:{}=", model.family, model.seed);
            Word::at(family, here(at::run(&model.name())))
        });
        let call = Call::new(["analyze", "points"])
            .with(runs.collect::<Vec<_>>())
            .with(["--finetuned"])
            .with(folders)
            .with(["--tasks".to_owned(), tasks.join(",")])
            .option("--out", here(&points));
        let stage = Stage::new(
            "points",
            "",
            "set GLUE against log-likelihood, checkpoint by checkpoint",
        )
        .after(self.of("light"))
        .call(call)
        .writes(&points)
        .writes(points.with_extension("csv"));
        self.add(stage);
        let out = at::result("transfer.json");
        let mut call = Call::new(["analyze", "curve"]).with([here(points.with_extension("csv"))]);
        for (a, b) in &study.comparisons {
            call = call.with(["--gap".to_owned(), format!("{a}:{b}")]);
        }
        let stage = Stage {
            may_refuse: true,
            ..Stage::new("curve", "", "draw the transfer curve and measure the gaps")
                .after(["points"])
                .call(call.option("--out", here(&out)))
                .writes(out)
        };
        self.add(stage);
    }

    /// Figures and report of everything before.
    fn report(&mut self) {
        let section = &self.study.config.report;
        let everything: Vec<String> = self.stages.iter().map(|s| s.name.clone()).collect();
        let sources: Vec<Word> = ["pretrain", "finetune", at::RESULTS]
            .map(|folder| here(folder).into())
            .into();
        if section.figures {
            let call = Call::new(["plot", "all"])
                .with(sources.clone())
                .option("--out", here(at::FIGURES));
            let stage = Stage::new("figures", "", "draw every figure")
                .after(everything.clone())
                .call(call)
                .writes(at::FIGURES);
            self.add(stage);
        }
        if section.page {
            let call = Call::new(["report"])
                .with(sources)
                .option("--out", here(at::REPORT));
            let stage = Stage::new("report", "", "write the report")
                .after(everything)
                .call(call)
                .writes(at::REPORT);
            self.add(stage);
        }
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
