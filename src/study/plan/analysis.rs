//! The stages that explain: hidden states of the models of the first seed on held-out text and on GLUE's rows, and what is
//! measured on them. Every pair of families is compared by CKA; routing and rows that differ, by the study's comparisons.
//! Masked tokens are predicted on the held-out text and on texts of other domains.

use std::path::{Path, PathBuf};

use super::{Maker, at, stem};
use crate::data::glue::{Kind, Task};
use crate::study::checked::Model;
use crate::study::stage::{Call, Place, Stage, Word, here};

/// Features of a model: on text, on a task's rows, on a task's rows after fine-tuning.
fn features(model: &Model, of: &str) -> PathBuf {
    PathBuf::from(format!("features/{}-{of}.safetensors", model.name()))
}

/// What features after fine-tuning on a task are of.
fn tuned(task: &str) -> String {
    format!("{task}-tuned")
}

/// `FAMILY=FILE`, as results name the model.
fn named(model: &Model, of: &str) -> Word {
    Word::at(format!("{}=", model.family), here(features(model, of)))
}

/// Adds the stages.
pub(super) fn analysis(maker: &mut Maker) {
    let study = maker.study;
    let models: Vec<&Model> = study.analysed().collect();
    for model in &models {
        take_features(maker, model);
    }
    let limit = [
        "--limit".to_owned(),
        study.config.analysis.tokens.to_string(),
    ];
    for (i, a) in models.iter().enumerate() {
        for b in &models[i + 1..] {
            let of = format!("{}-{}", a.family, b.family);
            let stage = Stage::new("cka", &of, format!("CKA of {} and {}", a.family, b.family))
                .call(
                    Call::new(["analyze", "cka"])
                        .with([named(a, "text"), named(b, "text")])
                        .with(limit.clone()),
                );
            measure(maker, stage, &[a, b]);
            let stage = Stage::new(
                "similarity",
                &of,
                format!("other similarities of {} and {}", a.family, b.family),
            )
            .call(Call::new(["analyze", "similarity"]).with([named(a, "text"), named(b, "text")]));
            measure(maker, stage, &[a, b]);
        }
    }
    let texts: Vec<Word> = models.iter().map(|m| named(m, "text")).collect();
    let call = Call::new(["analyze", "geometry"])
        .with(texts.clone())
        .with(limit.clone());
    let stage = Stage::new("geometry", "", "spectra, effective ranks, anisotropy").call(call);
    measure(maker, stage, &models);
    for model in &models {
        projections(maker, model);
    }
    let call = Call::new(["analyze", "probe"])
        .with(texts)
        .with(["--task", "position,word"])
        .with(limit);
    let stage = Stage::new("probe", "text", "probe positions and words").call(call);
    measure(maker, stage, &models);
    for task in &study.config.analysis.tasks {
        let files = models.iter().map(|m| named(m, task));
        let call = Call::new(["analyze", "probe"])
            .with(files.collect::<Vec<_>>())
            .with(["--task", "label", "--rows", "mean"]);
        let stage = Stage::new("probe", task, format!("probe the labels of {task}")).call(call);
        measure(maker, stage, &models);
    }
    likelihood(maker, &models);
    routing(maker, &models);
    comparisons(maker, &models);
}

/// Completes a stage whose one call writes `results/STAGE.json`, over features of these models before fine-tuning.
fn measure(maker: &mut Maker, mut stage: Stage, models: &[&Model]) {
    let out = at::result(&format!("{}.json", stage.name));
    stage.calls = stage
        .calls
        .into_iter()
        .map(|call| call.option("--out", here(&out)))
        .collect();
    let needs = models.iter().map(|m| format!("features-{}", m.name()));
    maker.add(stage.after(needs).writes(out));
}

/// Whether routing is taken: not on libtorch.
fn routed(maker: &Maker, model: &Model) -> bool {
    model.is_moe() && maker.study.config.runtime != "tch"
}

fn take_features(maker: &mut Maker, model: &Model) {
    let config = &maker.study.config;
    let name = model.name();
    let take = |maker: &Maker, dir: PathBuf| {
        let call = Call::new(["features"])
            .option("--model", here(dir))
            .with(maker.runtime())
            .free(maker.threads());
        match routed(maker, model) {
            true => call.with(["--routing"]),
            false => call,
        }
    };
    let out = features(model, "text");
    let call = take(maker, at::model(&name))
        .with([
            "--max-length".to_owned(),
            config.data.sequence_length.to_string(),
        ])
        .option("--out", here(&out))
        .with([here(at::SAMPLE)]);
    let mut stage = Stage::new("features", &name, format!("take hidden states of {name}"))
        .after([format!("export-{name}"), "sample".to_owned()])
        .call(call)
        .writes(out);
    let on_task = |maker: &Maker, dir: PathBuf, task: &String, out: &PathBuf| {
        take(maker, dir)
            .with([
                "--max-length".to_owned(),
                config.finetune.max_length.to_string(),
            ])
            .with(["--task", task])
            .option("--data", maker.glue_data(std::slice::from_ref(task)))
            .option("--out", here(out))
    };
    for task in &config.analysis.tasks {
        let out = features(model, task);
        let call = on_task(maker, at::model(&name), task, &out);
        stage = stage.call(call).writes(out);
    }
    maker.add(stage);
    for task in &config.analysis.tasks {
        let out = features(model, &tuned(task));
        let call = on_task(maker, at::best(&name, task), task, &out);
        let what = format!("take hidden states of {name} fine-tuned on {task}");
        let stage = Stage::new("features", &format!("{name}-{task}"), what)
            .after([format!("finetune-{name}-{task}")])
            .call(call)
            .writes(out);
        maker.add(stage);
    }
}

fn projections(maker: &mut Maker, model: &Model) {
    let last = model.arch.num_hidden_layers - 1;
    let tokenizer = at::model(&model.name()).join("tokenizer.json");
    let project = || {
        Call::new(["analyze", "project"])
            .with([named(model, "text")])
            .with(["--taps".to_owned(), format!("layer.{last}.trunk")])
            .with(["--label", "token-class"])
            .option("--tokenizer", here(&tokenizer))
    };
    let stage = Stage::new(
        "pca",
        &model.family,
        format!("principal components of {}", model.family),
    )
    .call(project());
    measure(maker, stage, &[model]);
    let rows = maker.study.config.analysis.tsne_rows;
    if rows == 0 {
        return;
    }
    let call = project()
        .with(["--method".to_owned(), "tsne".to_owned()])
        .with(["--limit".to_owned(), rows.to_string()])
        .with(["--perplexity".to_owned(), (rows / 4).min(30).to_string()]);
    let stage = Stage::new("tsne", &model.family, format!("t-SNE of {}", model.family)).call(call);
    measure(maker, stage, &[model]);
}

fn routing(maker: &mut Maker, models: &[&Model]) {
    let moe: Vec<&Model> = models
        .iter()
        .copied()
        .filter(|m| routed(maker, m))
        .collect();
    let Some(first) = moe.first() else { return };
    let tokenizer = at::model(&first.name()).join("tokenizer.json");
    let files = moe.iter().map(|m| named(m, "text"));
    let call = Call::new(["analyze", "routing"])
        .with(files.collect::<Vec<_>>())
        .option("--tokenizer", here(&tokenizer));
    let stage = Stage::new("routing", "", "load and specialisation of experts").call(call);
    measure(maker, stage, &moe);
    if let Some(task) = maker.study.config.analysis.tasks.first() {
        let files = moe.iter().map(|m| named(m, task));
        let call = Call::new(["analyze", "trace"])
            .with(files.collect::<Vec<_>>())
            .option("--tokenizer", here(&tokenizer));
        let what = format!("experts of the first row of {task}, token by token");
        measure(maker, Stage::new("trace", "", what).call(call), &moe);
    }
    if moe.len() == 2 {
        // The two have been compared.
        return;
    }
    let of = |family: &str| moe.iter().find(|m| m.family == family);
    for (a, b) in &maker.study.comparisons {
        let (Some(a), Some(b)) = (of(a), of(b)) else {
            continue;
        };
        let (x, y) = (&a.family, &b.family);
        let call = Call::new(["analyze", "routing"])
            .with([named(a, "text"), named(b, "text")])
            .option("--tokenizer", here(&tokenizer));
        let stage = Stage::new(
            "routing",
            &format!("{x}-{y}"),
            format!("agreement of routing of {x} and {y}"),
        )
        .call(call);
        measure(maker, stage, &[a, b]);
    }
}

/// Masked tokens of the held-out text and of texts of other domains, the same for all models.
fn likelihood(maker: &mut Maker, models: &[&Model]) {
    let Some(first) = models.first() else { return };
    let tokenizer = at::model(&first.name()).join("tokenizer.json");
    let config = &maker.study.config;
    let other = |path: &PathBuf| Place::Outside {
        path: path.clone(),
        read: Vec::new(),
        key: "analysis.texts",
    };
    let mut texts = vec![(stem(Path::new(at::SAMPLE)), here(at::SAMPLE))];
    let others = config.analysis.texts.iter();
    texts.extend(others.map(|path| (stem(path), other(path))));
    let of = |name: &str| format!("masked-{name}");
    let mut measured = Vec::new();
    for model in models {
        let name = model.name();
        let what = format!("predict masked tokens by {name}");
        let mut stage = Stage::new("masked", &name, what)
            .after([format!("export-{name}"), "sample".to_owned()]);
        for (text, place) in &texts {
            let out = features(model, &of(text));
            let call = Call::new(["features"])
                .option("--model", here(at::model(&name)))
                .with(maker.runtime())
                .with(["--masked", "--taps", "none"])
                .with([
                    "--max-length".to_owned(),
                    config.data.sequence_length.to_string(),
                ])
                .with(["--limit".to_owned(), config.analysis.rows.to_string()])
                .option("--out", here(&out))
                .with([place.clone()])
                .free(maker.threads());
            stage = stage.call(call).writes(out);
            measured.push(named(model, &of(text)));
        }
        maker.add(stage);
    }
    let call = Call::new(["analyze", "likelihood"])
        .with(measured)
        .option("--tokenizer", here(&tokenizer));
    let stage = Stage::new(
        "likelihood",
        "",
        "log-likelihood of masked tokens, text by text",
    )
    .after(maker.of("masked"))
    .call(call);
    measure(maker, stage, &[]);
}

/// Rows of GLUE on which two fine-tuned models differ.
fn comparisons(maker: &mut Maker, models: &[&Model]) {
    let of = |family: &str| models.iter().find(|m| m.family == family);
    for (a, b) in &maker.study.comparisons {
        let (Some(a), Some(b)) = (of(a), of(b)) else {
            continue;
        };
        for task in &maker.study.config.analysis.tasks {
            if Task::find(task).is_none_or(|t| t.kind != Kind::Classification) {
                continue;
            }
            let call = Call::new(["analyze", "compare"])
                .with([named(a, &tuned(task)), named(b, &tuned(task))])
                .with(["--rows", "cls"]);
            let (x, y) = (&a.family, &b.family);
            let stage = Stage::new(
                "compare",
                &format!("{x}-{y}-{task}"),
                format!("rows of {task} on which {x} and {y} differ"),
            )
            .after([a, b].map(|m| format!("features-{}-{task}", m.name())))
            .call(call);
            measure(maker, stage, &[]);
        }
    }
}
