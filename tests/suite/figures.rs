//! The commands `tcd plot` as a person runs them: every result of `tcd analyze`, run directories, results of GLUE; help and refusals.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tcd_plots::KINDS;

use crate::analyze::Place;

/// `tcd plot` in a folder: exit code, standard output, standard error.
fn plot(place: &Place, arguments: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcd"));
    let run = command
        .current_dir(place.path(""))
        .arg("plot")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        run.status.code().unwrap(),
        text(run.stdout),
        text(run.stderr),
    )
}

fn drawn(place: &Place, arguments: &str) {
    let (code, out, err) = plot(place, arguments);
    assert!(code == 0 && out.is_empty(), "{arguments}: {out}{err}");
}

fn refused(place: &Place, arguments: &str, parts: &[&str]) {
    let (code, _, err) = plot(place, arguments);
    assert_eq!(code, 2, "{arguments}: {err}");
    for part in parts {
        assert!(err.contains(part), "{arguments}: `{part}` not in: {err}");
    }
    assert!(!err.contains("panicked"), "{err}");
}

/// Every file of a folder with its bytes.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| {
            let name = e.file_name().into_string().unwrap();
            (name, fs::read(e.path()).unwrap())
        })
        .collect()
}

/// A run's records, as `tcd distill run` writes them.
fn make_run(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let mut text = String::new();
    for step in 1..=20 {
        let loss = 9.0 - 0.2 * f64::from(step);
        let tokens = step * 4096;
        text += &format!(
            "{{\"step\":{step},\"kind\":\"train\",\"wall_seconds\":{step},\"loss\":{loss},\"mlm_loss\":{loss},\"balance_loss\":1.5,\"distill.trunk\":0.4,\"distill.trunk.0:0\":0.4,\"tokens\":{tokens}}}\n"
        );
        if step % 5 == 0 {
            text += &format!(
                "{{\"step\":{step},\"kind\":\"eval\",\"wall_seconds\":{step},\"tokens\":{tokens},\"heldout_log_likelihood\":{},\"heldout_accuracy\":0.1}}\n",
                -loss
            );
        }
    }
    fs::write(dir.join("metrics.jsonl"), text).unwrap();
}

/// Results of GLUE of one model over seeds, as `tcd eval` writes them.
fn make_glue(dir: &Path, model: &str, task: &str, seed: u64, score: f64) {
    let dir = dir.join(format!("{model}-{task}-{seed}"));
    fs::create_dir_all(&dir).unwrap();
    let value = serde_json::json!({
        "schema": "tcd-glue-result/1", "version": "0.1.0", "task": task, "split": "dev", "score": score,
        "scores": {"accuracy": score}, "prediction_counts": [140, 137], "warnings": [],
        "model": {"name": model, "path": format!("models/{model}"), "weights_blake3": null, "tokenizer_hash": "t"},
        "data": {"files": ["dev.tsv"], "blake3": "d", "rows": 277, "official_rows": 277, "left_out": 0, "label_counts": [146, 131]},
        "encoding": {"max_length": 128, "truncated": 0},
        "runtime": {"name": "ort", "version": "1", "threads": 2, "sessions": 1, "seconds": 0.5, "rows_per_second": 554.0},
        "finetuning": {"learning_rate": 1e-4, "batch_size": 16, "epochs": 3, "seed": seed, "steps": 100, "best_epoch": 2,
            "stopped_early": false, "start_task": null, "seconds": 10.0, "train_rows": 2490},
        "key": format!("{model}{task}{seed}")
    });
    fs::write(dir.join("result.json"), value.to_string()).unwrap();
}

/// Results of every kind in one folder, `results/`; what draws them all.
fn everything(place: &Place) -> String {
    let pair = "first=a.safetensors second=b.safetensors";
    place.ok(&format!(
        "cka {pair} --permutations 10 --halves 10 --out results/cka.json"
    ));
    place.ok(&format!(
        "similarity {pair} --limit 120 --out results/similarity.json"
    ));
    place.ok(&format!("geometry {pair} --out results/geometry.json"));
    place.ok("project b.safetensors --label label --out results/pca.json");
    place.ok(&format!(
        "routing {pair} --tokenizer tokenizer.json --out results/routing.json"
    ));
    place.ok(&format!(
        "likelihood {pair} --tokenizer tokenizer.json --draws 50 --out results/likelihood.json"
    ));
    place.ok(&format!(
        "compare {pair} --rows mean --permutations 50 --out results/compare.json"
    ));
    place.ok("probe b.safetensors --task position --taps embedding --out results/probe.json");
    let points: String = ["vanilla", "moe"]
        .iter()
        .enumerate()
        .flat_map(|(f, family)| {
            (0..6).map(move |i| {
                let (x, y) = (-6.0 + f64::from(i) * 0.5, 60.0 + f64::from(i) + f as f64);
                format!("{family},{},{i},{x},{y}\n", i % 2)
            })
        })
        .collect();
    fs::write(
        place.path("points.csv"),
        format!("family,seed,step,log_likelihood,score\n{points}"),
    )
    .unwrap();
    place.ok("curve points.csv --draws 50 --out results/transfer.json");
    place.ok("trace a.safetensors --tokenizer tokenizer.json --out results/trace.json");
    fs::write(
        place.path("results/glue-compare.json"),
        r#"[{"task":"RTE","split":"dev","first_model":"moe","second_model":"distilled","rows":277,"first":0.5,"second":0.52,"difference":0.02,"low":-0.01,"high":0.05,"p_value":0.2,"draws":10,"undefined":0}]"#,
    )
    .unwrap();
    fs::write(
        place.path("results/bench.json"),
        r#"[{"title":"SST-2","entries":[{"name":"tcd on ort","lines":[{"rows":872,"load_seconds":0.1,"first_seconds":0.2,"encode_seconds":[0.1,0.1],"run_seconds":[0.4,0.5]}]}],"verdicts":[]}]"#,
    )
    .unwrap();
    make_run(&place.path("runs/moe"));
    make_run(&place.path("runs/distilled"));
    for (model, more) in [("moe", 0.0), ("distilled", 0.02)] {
        for seed in 1..=3 {
            for task in ["RTE", "WNLI"] {
                make_glue(
                    &place.path("scores"),
                    model,
                    task,
                    seed,
                    0.5 + more + 0.01 * seed as f64,
                );
            }
        }
    }
    let mut files: Vec<String> = contents(&place.path("results"))
        .into_keys()
        .filter(|n| n.ends_with(".json"))
        .map(|n| format!("results/{n}"))
        .collect();
    files.extend(["runs/moe", "Distilled=runs/distilled", "scores"].map(str::to_owned));
    files.join(" ")
}

#[test]
fn all_results_are_recognised_and_drawn_beside_their_numbers_and_nothing_is_overwritten() {
    let place = Place::new();
    let paths = everything(&place);
    let before = contents(&place.path("results"));
    // Into the folder of the results: their own CSV files stay.
    drawn(&place, &format!("all {paths} --out results --format both"));
    let after = contents(&place.path("results"));
    for (name, bytes) in &before {
        assert!(after.get(name) == Some(bytes), "{name} was touched");
    }
    let new: Vec<&String> = after.keys().filter(|n| !before.contains_key(*n)).collect();
    for kind in &KINDS {
        let found = new.iter().any(|n| {
            n.ends_with(".svg")
                && n.split('.')
                    .any(|part| part == kind.name || part.starts_with(&format!("{}-", kind.name)))
        });
        assert!(found, "{}: {new:?}", kind.name);
    }
    for name in new.iter().filter(|n| n.ends_with(".svg")) {
        let stem = name.strip_suffix(".svg").unwrap();
        assert!(after.contains_key(&format!("{stem}.png")), "{stem}");
        let data = String::from_utf8(after[&format!("{stem}.data.csv")].clone()).unwrap();
        assert!(data.lines().count() > 1, "{stem}: {data}");
        assert!(!after[*name].is_empty());
    }
    assert!(new.iter().all(|n| !n.contains(".tmp")));
}

#[test]
fn one_kind_goes_to_one_file_and_several_figures_get_names() {
    let place = Place::new();
    place.ok("geometry first=a.safetensors second=b.safetensors --out geometry.json");
    place.ok("routing a.safetensors --tokenizer tokenizer.json --out routing.json");
    make_run(&place.path("runs/moe"));
    drawn(&place, "ranks geometry.json --out new/ranks.svg");
    assert!(place.path("new/ranks.data.csv").is_file());
    drawn(
        &place,
        "curves mine=runs/moe --x tokens --title Mine --out curves.svg",
    );
    let svg = fs::read_to_string(place.path("curves.svg")).unwrap();
    assert!(
        svg.contains("Mine") && svg.contains("mine") && svg.contains("tokens seen in training")
    );
    drawn(&place, "specialisation routing.json --out s.svg");
    assert!(
        place
            .path("s.routing.specialisation-information.svg")
            .is_file()
    );
    assert!(
        place
            .path("s.routing.specialisation-a-token_class.svg")
            .is_file()
            || place
                .path("s.routing.specialisation-a-token-class.svg")
                .is_file()
    );

    refused(
        &place,
        "ranks routing.json --out x.svg",
        &[
            "`ranks`",
            "tcd analyze routing",
            "hint: it takes",
            "geometry",
        ],
    );
    refused(
        &place,
        "ranks geometry.json --out x.gif",
        &["x.gif", "hint: end the name in `.svg` or `.png`"],
    );
    refused(&place, "ranks nowhere.json --out x.svg", &["nowhere.json"]);
    fs::write(place.path("other.json"), "{\"a\":1}").unwrap();
    refused(
        &place,
        "all other.json --out figures",
        &["other.json", "hint: `tcd plot --help`"],
    );
    fs::write(place.path("broken.json"), "{").unwrap();
    refused(
        &place,
        "ranks broken.json --out x.svg",
        &["broken.json", "not JSON"],
    );
    let text = fs::read_to_string(place.path("geometry.json")).unwrap();
    fs::write(
        place.path("wrong.json"),
        text.replace("\"rows\"", "\"rowz\""),
    )
    .unwrap();
    refused(
        &place,
        "ranks wrong.json --out x.svg",
        &["wrong.json", "tcd analyze geometry", "rowz"],
    );
    fs::create_dir(place.path("empty")).unwrap();
    refused(&place, "scores empty --out x.svg", &["empty", "hint:"]);
    assert!(!place.path("x.svg").exists());
}

#[test]
fn help_lists_the_kinds_and_each_teaches() {
    let place = Place::new();
    let (code, out, _) = plot(&place, "--help");
    assert_eq!(code, 0);
    for kind in &KINDS {
        assert!(
            out.contains(kind.name) && out.contains(&kind.shows[..20]),
            "{}",
            kind.name
        );
        let (code, own, _) = plot(&place, &format!("{} --help", kind.name));
        assert_eq!(code, 0);
        assert!(own.contains("Takes:") && own.contains("Example:"), "{own}");
    }
    let (_, out, _) = plot(&place, "all --help");
    assert!(
        out.contains(".data.csv") && out.contains("--format"),
        "{out}"
    );
}
