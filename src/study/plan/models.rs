//! The stages that make models: corpus, pre-training, fine-tuning.

use std::path::PathBuf;

use tcd_export::Architecture;

use super::{Maker, at, list};
use crate::data::glue::{Role, Task};
use crate::study::checked::{Model, TeacherOf};
use crate::study::estimate::{Cost, Pretraining, finetuning};
use crate::study::stage::{Call, GoesOn, Place, Stage, Word, here};

impl Maker<'_> {
    pub fn data(&mut self) {
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

    pub fn pretrain(&mut self, model: &Model) {
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
    pub fn relations(&mut self) {
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

    pub fn finetune(&mut self, model: &Model, task: &str) {
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
    pub fn tuned(&self, call: Call, model: &Model, train_rows: Option<usize>) -> Call {
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

    pub fn finetuning_cost(
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
}
