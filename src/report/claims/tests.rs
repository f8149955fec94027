//! Each measure with numbers that make its claim supported, not supported and undecided.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use tcd_analysis::CurvePoint;
use tcd_analysis::cka::{CkaCell, CkaOptions, CkaResult};
use tcd_analysis::likelihood::{LikelihoodCell, LikelihoodResult};
use tcd_analysis::provenance::{ModelSource, Provenance};
use tcd_analysis::transfer::{Bootstrap, TransferGap, TransferPoint, TransferResult};

use super::*;
use crate::eval::result::{
    DataRecord, EncodingRecord, FinetuneRecord, ModelRecord, RuntimeRecord, SCHEMA, TaskResult,
};
use crate::report::find::Sourced;
use crate::report::others::{ParityDifference, ParityRecord};
use crate::report::run::Run;

fn sourced<T>(result: T) -> Sourced<T> {
    Sourced { source: 0, result }
}

fn provenance(names: &[&str]) -> Provenance {
    let models = names.iter().map(|name| ModelSource {
        name: (*name).to_owned(),
        features: String::new(),
        model: format!("m/{name}"),
        model_blake3: format!("hash of {name}"),
        tokenizer_blake3: "t".to_owned(),
        data: "d".to_owned(),
        data_blake3: "d".to_owned(),
        features_command: String::new(),
    });
    Provenance::new("x 1", "tcd", models.collect(), None)
}

/// The verdict on a claim, or nothing where no number bears on it.
fn verdict(results: &Results, id: &str) -> Option<Verdict> {
    let (claims, _) = claims(results, &Roles::default());
    claims.iter().find(|c| c.id == id).map(|c| c.verdict)
}

fn run(name: &str, seed: u64, log_likelihood: f64) -> Sourced<Run> {
    sourced(Run {
        name: name.to_owned(),
        dir: PathBuf::from(name),
        seed,
        corpus: "corpus".to_owned(),
        points: vec![CurvePoint {
            step: 10,
            tokens: 100,
            wall_seconds: 1.0,
            heldout_log_likelihood: log_likelihood,
            heldout_accuracy: 0.5,
            train_loss: None,
        }],
        ..Run::default()
    })
}

#[test]
fn runs_decide_by_seeds() {
    let with = |moe: &[f64], vanilla: &[f64]| {
        let list = |name: &'static str, values: &[f64]| {
            let each = values.iter().enumerate();
            each.map(move |(seed, v)| run(&format!("{name}-s{seed}"), seed as u64, *v))
                .collect::<Vec<_>>()
        };
        let runs = [list("moe", moe), list("vanilla", vanilla)].concat();
        let results = Results {
            runs,
            ..Results::default()
        };
        verdict(&results, "moe-pretrains-better")
    };
    let low = [-2.60, -2.61, -2.59];
    assert_eq!(with(&[-2.5, -2.51, -2.49], &low), Some(Verdict::Supported));
    assert_eq!(
        with(&[-2.7, -2.71, -2.69], &low),
        Some(Verdict::NotSupported)
    );
    assert_eq!(with(&[-2.4, -2.8, -2.6], &low), Some(Verdict::Undecided));
    // A single seed tells nothing, however large the difference.
    assert_eq!(with(&[-1.0], &[-3.0]), Some(Verdict::Undecided));
    assert_eq!(with(&[f64::NAN], &low), None);
    assert_eq!(with(&[], &low), None);
}

fn likelihood(cells: &[(&str, f64, Option<[f64; 2]>)]) -> Results {
    let first = cells[0].1;
    let names: Vec<&str> = cells.iter().map(|c| c.0).collect();
    let cell = |(at, c): (usize, &(&str, f64, Option<[f64; 2]>))| LikelihoodCell {
        model: c.0.to_owned(),
        corpus: "held-out".to_owned(),
        class: "all".to_owned(),
        tokens: 100,
        rows: 10,
        log_likelihood: Some(c.1),
        interval: Some([c.1 - 0.05, c.1 + 0.05]),
        difference: (at > 0).then_some(c.1 - first),
        difference_interval: c.2,
    };
    Results {
        likelihood: vec![sourced(LikelihoodResult {
            provenance: provenance(&names),
            bootstrap: Bootstrap::default(),
            cells: cells.iter().enumerate().map(cell).collect(),
        })],
        ..Results::default()
    }
}

#[test]
fn likelihoods_decide_by_paired_intervals_whichever_model_is_first() {
    let id = "moe-pretrains-better";
    let with = |interval| {
        let results = likelihood(&[("vanilla", -2.6, None), ("moe", -2.5, Some(interval))]);
        verdict(&results, id)
    };
    assert_eq!(with([0.05, 0.15]), Some(Verdict::Supported));
    assert_eq!(with([-0.15, -0.05]), Some(Verdict::NotSupported));
    assert_eq!(with([-0.05, 0.15]), Some(Verdict::Undecided));
    let turned = |interval| {
        let results = likelihood(&[("moe", -2.5, None), ("vanilla", -2.6, Some(interval))]);
        verdict(&results, id)
    };
    assert_eq!(turned([-0.15, -0.05]), Some(Verdict::Supported));
    assert_eq!(turned([0.05, 0.15]), Some(Verdict::NotSupported));
    // Neither is the first: the ends of both intervals, 0.05 either way.
    let beside = |distilled: f64| {
        let results = likelihood(&[
            ("moe", -2.0, None),
            ("vanilla", -2.6, Some([-0.7, -0.5])),
            ("distilled", distilled, Some([-0.7, -0.5])),
        ]);
        verdict(&results, "distilled-pretrains-better-than-teacher")
    };
    assert_eq!(beside(-2.45), Some(Verdict::Supported));
    assert_eq!(beside(-2.75), Some(Verdict::NotSupported));
    assert_eq!(beside(-2.55), Some(Verdict::Undecided));
}

fn gap(a: &str, b: &str, gap: f64, interval: Option<[f64; 2]>) -> Results {
    Results {
        transfer: vec![sourced(TransferResult {
            provenance: provenance(&[]),
            bootstrap: Bootstrap::default(),
            points: vec![TransferPoint {
                family: a.to_owned(),
                seed: 1,
                step: 1,
                log_likelihood: -2.0,
                score: 70.0,
            }],
            curves: Vec::new(),
            gaps: vec![TransferGap {
                a: a.to_owned(),
                b: b.to_owned(),
                gap: Some(gap),
                interval,
                overlap: Some([-3.0, -2.0]),
                seeds: [3, 3],
                draws_without_overlap: 0,
                reason: interval.is_none().then(|| "one seed".to_owned()),
            }],
        })],
        ..Results::default()
    }
}

#[test]
fn transfer_gaps_decide_whichever_way_they_are_taken() {
    let worse = |a, b, value, interval| verdict(&gap(a, b, value, interval), "moe-transfers-worse");
    assert_eq!(
        worse("vanilla", "moe", 1.0, Some([0.5, 1.5])),
        Some(Verdict::Supported)
    );
    assert_eq!(
        worse("moe", "vanilla", -1.0, Some([-1.5, -0.5])),
        Some(Verdict::Supported)
    );
    assert_eq!(
        worse("moe", "vanilla", 1.0, Some([0.5, 1.5])),
        Some(Verdict::NotSupported)
    );
    assert_eq!(
        worse("moe", "vanilla", 1.0, Some([-0.5, 1.5])),
        Some(Verdict::Undecided)
    );
    assert_eq!(
        worse("moe", "vanilla", -9.0, None),
        Some(Verdict::Undecided)
    );
    let better =
        |other: &str, id, interval| verdict(&gap("distilled", other, 1.0, Some(interval)), id);
    let (moe, control) = (
        "distilled-transfers-better",
        "distilled-transfers-better-than-control",
    );
    assert_eq!(better("moe", moe, [0.1, 2.0]), Some(Verdict::Supported));
    assert_eq!(
        better("moe", moe, [-2.0, -0.1]),
        Some(Verdict::NotSupported)
    );
    assert_eq!(better("moe", moe, [-0.1, 2.0]), Some(Verdict::Undecided));
    assert_eq!(
        better("moe-random-teacher", control, [0.1, 2.0]),
        Some(Verdict::Supported)
    );
    assert_eq!(better("moe", control, [0.1, 2.0]), None);
}

fn glue_result(model: &str, task: &str, seed: u64, score: f64) -> (usize, PathBuf, TaskResult) {
    let result = TaskResult {
        schema: SCHEMA.to_owned(),
        version: "0".to_owned(),
        task: task.to_owned(),
        split: "dev".to_owned(),
        score: Some(score),
        scores: BTreeMap::from([("accuracy".to_owned(), score)]),
        prediction_counts: Vec::new(),
        warnings: Vec::new(),
        model: ModelRecord {
            name: model.to_owned(),
            path: PathBuf::from("x"),
            weights_blake3: None,
            tokenizer_hash: "t".to_owned(),
        },
        data: DataRecord {
            files: Vec::new(),
            blake3: "d".to_owned(),
            rows: 277,
            official_rows: 277,
            left_out: 0,
            label_counts: Vec::new(),
        },
        encoding: EncodingRecord {
            max_length: 128,
            truncated: 0,
        },
        runtime: RuntimeRecord {
            name: "tch".to_owned(),
            version: "0".to_owned(),
            threads: 1,
            sessions: 1,
            seconds: None,
            rows_per_second: None,
        },
        finetuning: Some(FinetuneRecord {
            learning_rate: 1e-4,
            batch_size: 32,
            epochs: 3,
            seed,
            steps: 10,
            best_epoch: 1,
            stopped_early: false,
            start_task: None,
            seconds: 1.0,
            train_rows: 100,
            base_blake3: None,
        }),
        key: String::new(),
    };
    let dir = PathBuf::from(format!("{model}/{task}/{seed}"));
    (0, dir, result)
}

/// Results of models, each with its scores by seed, on two tasks.
fn glue_results(models: &[(&str, &[f64])]) -> Results {
    let mut glue = Vec::new();
    for (model, scores) in models {
        for (seed, score) in scores.iter().enumerate() {
            glue.push(glue_result(model, "RTE", seed as u64, *score));
            glue.push(glue_result(model, "SST-2", seed as u64, *score + 0.1));
        }
    }
    Results {
        glue,
        ..Results::default()
    }
}

#[test]
fn glue_decides_by_seeds_of_fine_tuning_or_by_models() {
    let id = "distilled-scores-higher";
    let moe: &[f64] = &[0.60, 0.61, 0.59];
    let with =
        |distilled: &[f64]| verdict(&glue_results(&[("distilled", distilled), ("moe", moe)]), id);
    assert_eq!(with(&[0.65, 0.66, 0.64]), Some(Verdict::Supported));
    assert_eq!(with(&[0.55, 0.56, 0.54]), Some(Verdict::NotSupported));
    assert_eq!(with(&[0.60, 0.62, 0.59]), Some(Verdict::Undecided));
    assert_eq!(with(&[0.9]), Some(Verdict::Undecided));
    assert_eq!(verdict(&glue_results(&[("moe", moe)]), id), None);
    // Several models of each part: the spread is over them, not over seeds of fine-tuning.
    let apart: &[f64] = &[0.7, 0.7001, 0.6999];
    let results = glue_results(&[
        ("distilled-s1", apart),
        ("distilled-s2", &[0.60]),
        ("moe-s1", &[0.60]),
        ("moe-s2", &[0.61]),
    ]);
    assert_eq!(verdict(&results, id), Some(Verdict::Undecided));
    let control = glue_results(&[("distilled", &[0.65, 0.66]), ("random", &[0.5, 0.51])]);
    assert_eq!(
        verdict(&control, "distilled-beats-control"),
        Some(Verdict::Supported)
    );
    let teacher = glue_results(&[("distilled", &[0.65, 0.66]), ("teacher", &[0.8, 0.81])]);
    assert_eq!(
        verdict(&teacher, "distilled-beats-teacher"),
        Some(Verdict::NotSupported)
    );
}

fn cka_result(names: [&str; 2], value: f64, half: Option<f64>) -> Sourced<CkaResult> {
    let taps = vec!["embedding".to_owned(), "layer.0.trunk".to_owned()];
    let cell = |a: &String, b: &String| {
        let v = if a == b { value } else { 0.0 };
        CkaCell {
            a: a.clone(),
            b: b.clone(),
            cka: Some(v),
            reason: None,
            minibatch: None,
            interval: half.map(|h| [v - h, v + h]),
            null_mean: None,
            null_high: None,
            p_value: None,
        }
    };
    let pairs = taps.iter().flat_map(|a| taps.iter().map(move |b| (a, b)));
    sourced(CkaResult {
        provenance: provenance(&names),
        options: CkaOptions::default(),
        cells: pairs.map(|(a, b)| cell(a, b)).collect(),
        taps_a: taps.clone(),
        taps_b: taps.clone(),
    })
}

#[test]
fn cka_with_the_teacher_decides_by_the_ends_of_both_intervals() {
    let with = |distilled: f64, half: Option<f64>| {
        let results = Results {
            cka: vec![
                cka_result(["vanilla", "moe"], 0.5, half),
                cka_result(["distilled", "vanilla"], distilled, half),
            ],
            ..Results::default()
        };
        verdict(&results, "distilled-nearer")
    };
    assert_eq!(with(0.8, Some(0.1)), Some(Verdict::Supported));
    assert_eq!(with(0.2, Some(0.1)), Some(Verdict::NotSupported));
    assert_eq!(with(0.6, Some(0.1)), Some(Verdict::Undecided));
    assert_eq!(with(0.8, None), Some(Verdict::Undecided));
    // Another teacher, another sample: no comparison.
    let mut other = cka_result(["vanilla", "distilled"], 0.9, Some(0.01));
    other.result.provenance.models[0].model_blake3 = "another".to_owned();
    let results = Results {
        cka: vec![cka_result(["vanilla", "moe"], 0.5, Some(0.01)), other],
        ..Results::default()
    };
    assert_eq!(verdict(&results, "distilled-nearer"), None);
}

#[test]
fn engines_agree_where_all_hold() {
    let with = |engines: &[&str], holds: bool| {
        let results = Results {
            parity: vec![sourced(ParityRecord {
                model: "m".to_owned(),
                engines: engines.iter().map(|e| (*e).to_owned()).collect(),
                rows: 8,
                tolerance: 1e-4,
                holds,
                differences: vec![ParityDifference {
                    engine: "tract".to_owned(),
                    output: "logits".to_owned(),
                    values: 16,
                    max: Some(1e-6),
                    mean: Some(1e-7),
                    predictions: 8,
                    flipped: 0,
                }],
                experts: None,
            })],
            ..Results::default()
        };
        verdict(&results, "engines-agree")
    };
    assert_eq!(with(&["tch", "tract"], true), Some(Verdict::Supported));
    assert_eq!(with(&["tch", "tract"], false), Some(Verdict::NotSupported));
    assert_eq!(with(&["tract"], true), Some(Verdict::Undecided));
}

#[test]
fn claims_have_anchors_of_their_own_and_say_what_they_take() {
    let ids: std::collections::BTreeSet<_> = CLAIMS.iter().map(|c| c.id).collect();
    assert_eq!(ids.len(), CLAIMS.len());
    for claim in &CLAIMS {
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(claim.id.chars().all(plain), "{}", claim.id);
        assert!(claim.statement.ends_with('.') && claim.better != claim.worse);
    }
    let (seen, unseen) = claims(&Results::default(), &Roles::default());
    assert!(seen.is_empty());
    assert_eq!(unseen.len(), CLAIMS.len());
    assert!(unseen.iter().all(|line| line.contains("It takes ")));
}
