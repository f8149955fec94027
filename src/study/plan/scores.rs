//! The stages that score models, and those that show it: GLUE's tables, export and evaluation, the transfer curve, figures and
//! the report.

use std::path::{Path, PathBuf};

use super::{Maker, at, list};
use crate::study::checked::Model;
use crate::study::estimate::Cost;
use crate::study::stage::{Call, GoesOn, Stage, Word, here};

impl Maker<'_> {
    pub fn glue(&mut self) {
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
    pub fn export_and_eval(&mut self, model: &Model) {
        let (name, config) = (model.name(), &self.study.config);
        let tasks = &config.finetune.tasks;
        let export = |dir: &Path| Call::new(["export"]).option("--model", here(dir));
        let mut stage = Stage::new("export", &name, format!("write {name} as ONNX"))
            .after([format!("pretrain-{name}")])
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
        let export_name = self.add(stage);
        let mut stage = Stage::new(
            "export",
            &format!("{name}-tuned"),
            format!("write the fine-tuned models of {name} as ONNX"),
        );
        for task in tasks {
            let best = at::best(&name, task);
            stage = stage
                .after([format!("finetune-{name}-{task}")])
                .call(export(&best))
                .writes(best.join("model.onnx"));
        }
        let tuned = self.add(stage);
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
        .after([export_name, "sample".to_owned()])
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
            .after([tuned])
            .call(call)
            .writes(out)
        };
        self.add(stage);
    }

    /// Paired differences on GLUE between the models of the first seed.
    pub fn differences(&mut self) {
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
    pub fn transfer(&mut self) {
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
                    cost.traffic += one.traffic;
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
        for (a, b) in &study.comparisons {
            // One by one: curves of one pair that do not overlap leave the others their gap.
            let out = at::result(&format!("curve-{a}-{b}.json"));
            let call = Call::new(["analyze", "curve"])
                .with([here(points.with_extension("csv"))])
                .with(["--gap".to_owned(), format!("{a}:{b}")])
                .option("--out", here(&out));
            let stage = Stage {
                may_refuse: true,
                ..Stage::new(
                    "curve",
                    &format!("{a}-{b}"),
                    format!("transfer curves, and the gap of {a} over {b}"),
                )
                .after(["points"])
                .call(call)
                .writes(out)
            };
            self.add(stage);
        }
    }

    /// Figures and report of everything before.
    pub fn report(&mut self) {
        let section = &self.study.config.report;
        let everything: Vec<String> = self.stages.iter().map(|s| s.name.clone()).collect();
        let models: Vec<String> = self.study.models.iter().map(Model::name).collect();
        if section.figures {
            let call = Call::new(["plot", "all"])
                .with(models.iter().map(|name| here(at::run(name))))
                .with(models.iter().map(|name| here(at::finetuned(name))))
                .with(self.drawn())
                .option("--out", here(at::FIGURES));
            // Apart: these scores are those of fine-tuning once more.
            let scores = models.iter().map(|name| here(format!("scores/{name}")));
            let speed = Call::new(["plot", "speed"])
                .with(scores)
                .option("--out", here(format!("{}/speed.svg", at::FIGURES)));
            let stage = Stage::new("figures", "", "draw every figure")
                .after(everything.clone())
                .call(call)
                .call(speed)
                .writes(at::FIGURES);
            self.add(stage);
        }
        if section.page {
            // By name: folders may hold what an earlier configuration left.
            let call = Call::new(["report"])
                .with(models.iter().map(|name| here(at::run(name))))
                .with(models.iter().map(|name| here(at::finetuned(name))))
                .with(self.results(|_| true))
                .option("--out", here(at::REPORT));
            let stage = Stage::new("report", "", "write the report")
                .after(everything)
                .call(call)
                .writes(at::REPORT);
            self.add(stage);
        }
    }

    /// Results that have a figure.
    fn drawn(&self) -> Vec<Word> {
        self.results(|group| DRAWN.contains(&group))
    }

    /// The results of stages of some groups, as far as they are there.
    fn results(&self, of: impl Fn(&str) -> bool) -> Vec<Word> {
        let stages = self.stages.iter().filter(|stage| of(stage.group));
        let files = stages.flat_map(|stage| &stage.outputs);
        files
            .filter(|file| {
                file.starts_with(at::RESULTS) && file.extension().is_some_and(|e| e == "json")
            })
            .map(Word::if_there)
            .collect()
    }
}

/// Groups whose results have a figure.
const DRAWN: [&str; 12] = [
    "difference",
    "curve",
    "cka",
    "similarity",
    "geometry",
    "pca",
    "tsne",
    "probe",
    "likelihood",
    "routing",
    "trace",
    "compare",
];
