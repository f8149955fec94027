//! A made-up study for the report's tests: every kind of result, for four models under two seeds, as files.
//!
//! Numbers are made so that one claim is supported, one is not and one is open.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use tcd_analysis::cka::{CkaCell, CkaOptions, CkaResult};
use tcd_analysis::compare::{CompareResult, ComparedRow, Outcome, TapDifference};
use tcd_analysis::geometry::{GeometryResult, Measures, TapGeometry};
use tcd_analysis::likelihood::{LikelihoodCell, LikelihoodResult};
use tcd_analysis::probe::{ProbeCell, ProbeOptions, ProbeResult, ProbeScores};
use tcd_analysis::projection::{Projected, Projection, ProjectionResult};
use tcd_analysis::provenance::{ModelSource, Provenance};
use tcd_analysis::routing::{Counts, Grouping, LayerRouting, RoutingResult, agreement};
use tcd_analysis::similarity::{Pairs, SimilarityCell, SimilarityResult};
use tcd_analysis::transfer::{
    Bootstrap, TransferPoint, TransferResult, family_curves, transfer_gap,
};

/// The models; the last name tries to be markup.
pub const MODELS: [&str; 4] = ["vanilla", "moe", "distilled", "random-<b>teacher</b>"];
const LAYERS: usize = 4;

fn taps() -> Vec<String> {
    let layers = (0..LAYERS).map(|l| format!("layer.{l}.trunk"));
    std::iter::once("embedding".to_owned())
        .chain(layers)
        .collect()
}

fn provenance(schema: &str, names: &[&str]) -> Provenance {
    let models = names.iter().map(|name| ModelSource {
        name: (*name).to_owned(),
        features: format!("features/{name}.safetensors"),
        model: format!("models/{name}"),
        model_blake3: format!("{:064x}", name.len()),
        tokenizer_blake3: format!("{:064x}", 77),
        data: "held-out.txt".to_owned(),
        data_blake3: format!("{:064x}", 99),
        features_command: format!("tcd features --model models/{name}"),
    });
    let kind = schema.split(' ').next().unwrap();
    let command = format!("tcd analyze {kind} {}", names.join(" "));
    Provenance::new(schema, &command, models.collect(), None)
}

fn write(dir: &Path, name: &str, value: &impl Serialize) {
    fs::write(dir.join(name), serde_json::to_string_pretty(value).unwrap()).unwrap();
}

fn run(dir: &Path, name: &str, seed: u64, end: f64) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    let mut config = format!(
        "seed = {seed}\n[data]\ncorpus = \"corpus\"\n[model]\nlayers = {LAYERS}\nhidden = 128\n"
    );
    if !name.starts_with("vanilla") {
        config += "[model.moe]\nnum_experts = 16\n";
    }
    if name.starts_with("distilled") {
        config += "[distill]\nteacher = \"runs/vanilla/model\"\nmethod = \"relations\"\n";
    }
    if name.starts_with("random") {
        config += "[distill]\nteacher = \"random\"\n";
    }
    fs::write(folder.join("config.toml"), config).unwrap();
    let lines: String = (1..=8)
        .map(|at| {
            let value = end - 3.0 * (-f64::from(at) / 2.0).exp();
            let train = json!({"step": at * 100, "kind": "train", "wall_seconds": f64::from(at) * 30.0, "loss": -value, "mlm_loss": -value});
            let eval = json!({"step": at * 100, "kind": "eval", "wall_seconds": f64::from(at) * 30.0, "tokens": at * 409_600,
                "heldout_log_likelihood": value, "heldout_accuracy": 0.5 + value / 20.0});
            format!("{train}\n{eval}\n")
        })
        .collect();
    fs::write(folder.join("metrics.jsonl"), lines).unwrap();
    write(
        &folder,
        "summary.json",
        &json!({"parameters": 4_000_000, "finished": true}),
    );
}

fn glue(dir: &Path, model: &str, task: &str, seed: u64, score: f64) {
    let folder = dir.join(format!(
        "{}-{task}-{seed}",
        model.replace(['<', '>', '/'], "_")
    ));
    fs::create_dir_all(&folder).unwrap();
    let hash = "a".repeat(64);
    write(
        &folder,
        "result.json",
        &json!({
            "schema": "tcd-glue-result/1", "version": "0.1.0", "task": task, "split": "dev", "score": score,
            "scores": {"accuracy": score}, "prediction_counts": [100, 177], "warnings": [],
            "model": {"name": model, "path": format!("ft/{model}"), "weights_blake3": hash, "tokenizer_hash": hash},
            "data": {"files": [], "blake3": hash, "rows": 277, "official_rows": 277, "left_out": 0, "label_counts": [131, 146]},
            "encoding": {"max_length": 128, "truncated": 0},
            "runtime": {"name": "tch", "version": "0.26", "threads": 2, "sessions": 1, "seconds": null, "rows_per_second": null},
            "finetuning": {"learning_rate": 1e-4, "batch_size": 32, "epochs": 3, "seed": seed, "steps": 234, "best_epoch": 2,
                "stopped_early": false, "start_task": null, "seconds": 12.0, "train_rows": 2490},
            "key": hash
        }),
    );
}

fn transfer() -> TransferResult {
    let mut points = Vec::new();
    for (family, shift) in [("vanilla", 2.0), ("moe", -2.0), ("distilled", 1.8)] {
        for seed in 1..=3 {
            for at in 0..6_u32 {
                let x = -4.0 + 0.3 * f64::from(at);
                let wobble = 0.2 * (f64::from(at) + seed as f64 * 1.7).sin();
                points.push(TransferPoint {
                    family: family.to_owned(),
                    seed,
                    step: u64::from(at) * 100,
                    log_likelihood: x,
                    score: 70.0 + 6.0 * (x + 4.0) + shift + wobble,
                });
            }
        }
    }
    let curves = family_curves(&points).unwrap();
    let bootstrap = Bootstrap {
        draws: 200,
        ..Bootstrap::default()
    };
    let gaps = [
        ("moe", "vanilla"),
        ("distilled", "moe"),
        ("distilled", "vanilla"),
    ]
    .map(|(a, b)| transfer_gap(&curves, a, b, &bootstrap).unwrap());
    TransferResult {
        provenance: provenance("transfer 1", &[]),
        bootstrap,
        points,
        curves,
        gaps: gaps.to_vec(),
    }
}

fn cka(a: &str, b: &str, same: f64) -> CkaResult {
    let taps = taps();
    let mut cells = Vec::new();
    for (i, x) in taps.iter().enumerate() {
        for (j, y) in taps.iter().enumerate() {
            let value = same * (-0.4 * i.abs_diff(j) as f64).exp();
            cells.push(CkaCell {
                a: x.clone(),
                b: y.clone(),
                cka: Some(value),
                reason: None,
                minibatch: None,
                interval: Some([value - 0.02, value + 0.02]),
                null_mean: Some(0.0),
                null_high: Some(0.01),
                p_value: Some(0.01),
            });
        }
    }
    CkaResult {
        provenance: provenance("cka 1", &[a, b]),
        options: CkaOptions::default(),
        taps_a: taps.clone(),
        taps_b: taps,
        cells,
    }
}

fn similarity() -> SimilarityResult {
    let measures = ["cka", "procrustes", "relation"];
    let cells = measures.iter().enumerate().flat_map(|(m, measure)| {
        taps()
            .into_iter()
            .enumerate()
            .map(move |(at, tap)| SimilarityCell {
                measure: (*measure).to_owned(),
                a: tap.clone(),
                b: tap,
                value: Some(0.9 - 0.1 * at as f64 - 0.2 * m as f64),
                reason: None,
            })
    });
    SimilarityResult {
        provenance: provenance("similarity 1", &["vanilla", "moe"]),
        pairs: Pairs::SameName,
        measures: measures.map(str::to_owned).to_vec(),
        taps_a: taps(),
        taps_b: taps(),
        cells: cells.collect(),
    }
}

fn geometry() -> GeometryResult {
    let tap = |model: &str, at: usize, tap: String| TapGeometry {
        model: model.to_owned(),
        tap,
        rows: 2000,
        width: 128,
        measures: Some(Measures {
            spectrum: (0..128)
                .map(|i| (-0.05 * f64::from(i) * (at + 1) as f64).exp())
                .collect(),
            effective_rank: 90.0 - 12.0 * at as f64,
            participation_ratio: 40.0 - 6.0 * at as f64,
            anisotropy: Some(0.1 + 0.1 * at as f64),
            mean_norm: 11.3,
            top_share: 0.05 * (at + 1) as f64,
        }),
        reason: None,
    };
    let all = MODELS.iter().flat_map(|model| {
        let taps = taps().into_iter().enumerate();
        taps.map(move |(at, name)| tap(model, at, name))
    });
    GeometryResult {
        provenance: provenance("geometry 1", &MODELS),
        taps: all.collect(),
    }
}

fn probes() -> ProbeResult {
    let cell = |model: &str, task: &str, at: usize, tap: String| ProbeCell {
        model: model.to_owned(),
        tap,
        task: task.to_owned(),
        scores: Some(ProbeScores {
            metric: "accuracy".to_owned(),
            score: 0.6 + 0.06 * at as f64,
            train_score: 0.9,
            baseline: 0.5,
            control: 0.52,
            selectivity: 0.08 + 0.06 * at as f64,
            train_rows: 1500,
            test_rows: 500,
            classes: Some(2),
        }),
        reason: None,
    };
    let mut cells = Vec::new();
    for model in MODELS {
        for task in ["position", "label"] {
            for (at, tap) in taps().into_iter().enumerate() {
                cells.push(cell(model, task, at, tap));
            }
        }
    }
    ProbeResult {
        provenance: provenance("probe 1", &MODELS),
        options: ProbeOptions::default(),
        cells,
    }
}

fn routing() -> RoutingResult {
    let mut counts = Counts::new(16, 4);
    let mut other = Counts::new(16, 16);
    for token in 0..4000_usize {
        counts.add((token * token / 7) % 15, token % 4);
        other.add(token % 16, (token + token / 900) % 16);
    }
    let names = ["content", "function", "number", "punctuation"]
        .map(str::to_owned)
        .to_vec();
    let layer = |model: &str, layer| {
        let groups = vec![Grouping::new("token_class", names.clone(), &counts)];
        LayerRouting::new(model, layer, &counts.loads(), &[0.4, 0.5, 0.6], groups)
    };
    let models = ["moe", "distilled"];
    RoutingResult {
        provenance: provenance("routing 1", &models),
        layers: models
            .iter()
            .flat_map(|m| (0..LAYERS).map(|l| layer(m, l)).collect::<Vec<_>>())
            .collect(),
        agreement: (0..LAYERS).map(|l| agreement(l, l, &other)).collect(),
        agreement_reason: None,
    }
}

fn likelihood() -> LikelihoodResult {
    let mut cells = Vec::new();
    for corpus in ["held-out", "news", "law"] {
        for (at, model) in MODELS.iter().enumerate() {
            for class in ["all", "content", "function"] {
                let value = -2.6 + 0.05 * at as f64 - if class == "content" { 1.0 } else { 0.0 };
                let difference = 0.05 * at as f64;
                cells.push(LikelihoodCell {
                    model: (*model).to_owned(),
                    corpus: corpus.to_owned(),
                    class: class.to_owned(),
                    tokens: 12_345,
                    rows: 512,
                    log_likelihood: Some(value),
                    interval: Some([value - 0.03, value + 0.03]),
                    difference: Some(difference),
                    difference_interval: Some([difference - 0.02, difference + 0.02]),
                });
            }
        }
    }
    LikelihoodResult {
        provenance: provenance("likelihood 1", &MODELS),
        bootstrap: Bootstrap::default(),
        cells,
    }
}

fn projection() -> ProjectionResult {
    let points = (0..300).map(|i| {
        let t = f64::from(i) * 0.21;
        vec![t.sin() * (1.0 + t / 20.0), t.cos() * (1.0 + t / 30.0)]
    });
    ProjectionResult {
        provenance: provenance("projection 1", &["moe"]),
        projection: Projection::Pca,
        label_kind: "label".to_owned(),
        labels: (0..300)
            .map(|i| ["entailment", "neutral", "contradiction"][i % 3].to_owned())
            .collect(),
        taps: vec![Projected {
            tap: "layer.3.trunk".to_owned(),
            points: points.collect(),
            variance: Some(vec![3.0, 2.0]),
            total_variance: 9.0,
            variance_share: Some(vec![0.333, 0.222]),
        }],
    }
}

fn compared() -> CompareResult {
    let outcomes = [
        Outcome::Both,
        Outcome::OnlyA,
        Outcome::OnlyB,
        Outcome::Neither,
    ];
    let rows = (0..80_u32).map(|row| ComparedRow {
        row,
        label: 1,
        prediction_a: 1,
        prediction_b: 0,
        outcome: outcomes[row as usize % 4],
    });
    let tap = |(at, tap): (usize, String)| TapDifference {
        tap,
        differing: Some(0.02 + 0.01 * at as f64),
        agreeing: Some(0.015),
        auc: Some(0.5 + 0.04 * at as f64),
        p_value: Some(0.2),
        reason: None,
    };
    CompareResult {
        provenance: provenance("compare 1", &["moe", "distilled"]),
        labels: vec!["no".to_owned(), "yes".to_owned()],
        counts: [20; 4],
        accuracy: [0.5, 0.5],
        mcnemar_p: 1.0,
        rows: rows.collect(),
        taps: taps().into_iter().enumerate().map(tap).collect(),
    }
}

/// Writes the study under `dir`.
pub fn write_study(dir: &Path) {
    let (runs, scores, analysis) = (dir.join("runs"), dir.join("scores"), dir.join("analysis"));
    fs::create_dir_all(&analysis).unwrap();
    for (name, end) in [
        ("vanilla", -2.60),
        ("moe", -2.45),
        ("distilled", -2.46),
        ("random-teacher", -2.47),
    ] {
        for seed in 1..=2 {
            run(
                &runs,
                &format!("{name}-s{seed}"),
                seed,
                end + 0.001 * seed as f64,
            );
        }
    }
    for (model, base) in MODELS.iter().zip([0.66, 0.64, 0.70, 0.64]) {
        for (task, more) in [("RTE", -0.08), ("SST-2", 0.14), ("QNLI", 0.1)] {
            for seed in 1..=3 {
                let spread = if *model == "random-<b>teacher</b>" {
                    0.08
                } else {
                    0.01
                };
                glue(
                    &scores,
                    model,
                    task,
                    seed,
                    base + more + spread * (seed as f64 - 2.0),
                );
            }
        }
    }
    write(&analysis, "transfer.json", &transfer());
    write(&analysis, "cka-moe.json", &cka("vanilla", "moe", 0.9));
    write(
        &analysis,
        "cka-distilled.json",
        &cka("vanilla", "distilled", 0.7),
    );
    write(&analysis, "similarity.json", &similarity());
    write(&analysis, "geometry.json", &geometry());
    write(&analysis, "probes.json", &probes());
    write(&analysis, "routing.json", &routing());
    write(&analysis, "likelihood.json", &likelihood());
    write(&analysis, "pca.json", &projection());
    write(&analysis, "compare.json", &compared());
    write(
        &analysis,
        "parity.json",
        &json!({"model": "ft/moe", "engines": ["tch", "tract"], "rows": 277, "tolerance": 1e-4, "holds": true,
            "differences": [{"engine": "tract", "output": "logits", "values": 554, "max": 2.1e-6, "mean": 3.0e-7, "first": null,
                "predictions": 277, "flipped": 0, "flips": []}],
            "experts": {"tokens": [[10, 20], [5, 6]]}}),
    );
    // Not results: passed by. Broken: told of.
    fs::write(analysis.join("notes.json"), "{\"a\": 1}").unwrap();
    fs::write(
        analysis.join("broken.json"),
        "{\"provenance\": {\"schema\": \"cka 1\"}}",
    )
    .unwrap();
}
