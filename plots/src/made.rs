//! Made results in the real schemas, for the gallery and the tests: smooth functions of layer and model, no measurements.

#![allow(missing_docs)]

use tcd_analysis::cka::{CkaCell, CkaOptions, CkaResult, Reason};
use tcd_analysis::compare::CompareResult;
use tcd_analysis::geometry::{GeometryResult, Measures, TapGeometry};
use tcd_analysis::likelihood::{LikelihoodCell, LikelihoodResult};
use tcd_analysis::probe::{ProbeCell, ProbeOptions, ProbeResult, ProbeScores};
use tcd_analysis::projection::{Projected, Projection, ProjectionResult};
use tcd_analysis::provenance::{ModelSource, Provenance};
use tcd_analysis::routing::{Counts, Grouping, LayerRouting, RoutingResult};
use tcd_analysis::similarity::{Pairs, SimilarityCell, SimilarityResult};
use tcd_analysis::transfer::{
    Bootstrap, TransferPoint, TransferResult, family_curves, transfer_gap,
};
use tcd_analysis::{CurvePoint, Metrics, PretrainingCurve};

use super::{Difference, RunRecords, Score, SentenceLayer, SentenceRouting, Speed};

/// A repeatable number in 0..1 for a place.
pub fn noise(at: usize) -> f64 {
    let mut x = (at as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

pub fn provenance(schema: &str, models: &[&str]) -> Provenance {
    let source = |name: &&str| ModelSource {
        name: (*name).to_owned(),
        features: format!("features/{name}.safetensors"),
        model: format!("models/{name}"),
        model_blake3: "0".repeat(64),
        tokenizer_blake3: "1".repeat(64),
        data: "data/rte.tsv".to_owned(),
        data_blake3: "2".repeat(64),
        features_command: "tcd features".to_owned(),
    };
    Provenance::new(
        schema,
        "tcd analyze",
        models.iter().map(source).collect(),
        None,
    )
}

/// `layers` taps after the embedding.
pub fn taps(layers: usize) -> Vec<String> {
    std::iter::once("embedding".to_owned())
        .chain((0..layers).map(|l| format!("layer.{l}.trunk")))
        .collect()
}

pub fn cka(a: &str, b: &str, layers: usize) -> CkaResult {
    let taps = taps(layers);
    let mut cells = Vec::new();
    for (i, x) in taps.iter().enumerate() {
        for (j, y) in taps.iter().enumerate() {
            let apart = (i as f64 - j as f64) / layers.max(1) as f64;
            let value = (-4.0 * apart * apart).exp() * (1.0 - 0.4 * i as f64 / taps.len() as f64);
            let gone = i == 2 && j == 5;
            cells.push(CkaCell {
                a: x.clone(),
                b: y.clone(),
                cka: (!gone).then_some(value),
                reason: gone.then(|| Reason::NoVariance { tap: x.clone() }),
                minibatch: None,
                interval: (!gone).then_some([value - 0.04, value + 0.03]),
                null_mean: Some(0.0),
                null_high: Some(0.05),
                p_value: Some(0.01),
            });
        }
    }
    let models: Vec<&str> = if a == b { vec![a] } else { vec![a, b] };
    CkaResult {
        provenance: provenance("cka 1", &models),
        options: CkaOptions::default(),
        taps_a: taps.clone(),
        taps_b: taps,
        cells,
    }
}

pub fn similarity(a: &str, b: &str, layers: usize) -> SimilarityResult {
    let taps = taps(layers);
    let measures = ["procrustes", "svcca", "rsa", "relation"];
    let mut cells = Vec::new();
    for (m, measure) in measures.iter().enumerate() {
        for (i, tap) in taps.iter().enumerate() {
            let depth = i as f64 / taps.len() as f64;
            let value = (0.2 + 0.5 * depth) * (1.0 + 0.1 * m as f64);
            cells.push(SimilarityCell {
                measure: (*measure).to_owned(),
                a: tap.clone(),
                b: tap.clone(),
                value: Some(value + 0.05 * noise(i + b.len())),
                reason: None,
            });
        }
    }
    SimilarityResult {
        provenance: provenance("similarity 1", &[a, b]),
        pairs: Pairs::SameName,
        measures: measures.iter().map(|m| (*m).to_owned()).collect(),
        taps_a: taps.clone(),
        taps_b: taps,
        cells,
    }
}

pub fn geometry(models: &[&str], layers: usize, width: usize) -> GeometryResult {
    let mut found = Vec::new();
    for (m, model) in models.iter().enumerate() {
        for (i, tap) in taps(layers).into_iter().enumerate() {
            let fall = 0.6 + 0.1 * i as f64 + 0.2 * m as f64;
            let spectrum: Vec<f64> = (1..=width).map(|k| (k as f64).powf(-fall)).collect();
            let (sum, squares) = (
                spectrum.iter().sum::<f64>(),
                spectrum.iter().map(|l| l * l).sum::<f64>(),
            );
            found.push(TapGeometry {
                model: (*model).to_owned(),
                tap,
                rows: 5000,
                width,
                measures: Some(Measures {
                    effective_rank: width as f64 / (1.0 + fall),
                    participation_ratio: sum * sum / squares,
                    anisotropy: Some(0.1 + 0.05 * i as f64),
                    mean_norm: 10.0,
                    top_share: spectrum[0] / sum,
                    spectrum,
                }),
                reason: None,
            });
        }
    }
    GeometryResult {
        provenance: provenance("geometry 1", models),
        taps: found,
    }
}

pub fn projection(rows: usize, labels: &[&str], layers: usize) -> ProjectionResult {
    let label = |row: usize| labels[row % labels.len().max(1)].to_owned();
    let projected = |(i, tap): (usize, String)| Projected {
        tap,
        points: (0..rows)
            .map(|r| {
                let group = (r % labels.len().max(1)) as f64;
                let angle = group + 0.3 * i as f64;
                let spread = 0.8;
                vec![
                    3.0 * angle.cos() + spread * (noise(r * 2 + i) + noise(r * 3) - 1.0),
                    2.0 * angle.sin() + spread * (noise(r * 2 + 1 + i) + noise(r * 5) - 1.0),
                ]
            })
            .collect(),
        variance: Some(vec![4.0, 2.0]),
        total_variance: 10.0,
        variance_share: Some(vec![0.4, 0.2]),
    };
    ProjectionResult {
        provenance: provenance("projection 1", &["moe"]),
        projection: Projection::Pca,
        label_kind: "token_class".to_owned(),
        labels: (0..rows).map(label).collect(),
        taps: taps(layers)
            .into_iter()
            .skip(1)
            .enumerate()
            .map(projected)
            .collect(),
    }
}

pub fn probes(models: &[&str], tasks: &[&str], layers: usize) -> ProbeResult {
    let mut cells = Vec::new();
    for (m, model) in models.iter().enumerate() {
        for (t, task) in tasks.iter().enumerate() {
            for (i, tap) in taps(layers).into_iter().enumerate() {
                let score = 0.5 + 0.4 * (1.0 - (-0.4 * (i + m) as f64).exp()) - 0.05 * t as f64;
                let control = 0.4 - 0.02 * i as f64;
                cells.push(ProbeCell {
                    model: (*model).to_owned(),
                    tap,
                    task: (*task).to_owned(),
                    scores: Some(ProbeScores {
                        metric: if t == 0 { "r2" } else { "accuracy" }.to_owned(),
                        score,
                        train_score: score + 0.02,
                        baseline: 0.3,
                        control,
                        selectivity: score - control,
                        train_rows: 750,
                        test_rows: 250,
                        classes: (t > 0).then_some(3),
                    }),
                    reason: None,
                });
            }
        }
    }
    ProbeResult {
        provenance: provenance("probe 1", models),
        options: ProbeOptions::default(),
        cells,
    }
}

pub fn routing(models: &[(&str, usize)], layers: usize) -> RoutingResult {
    let classes = [
        "function_word",
        "content_word",
        "number",
        "punctuation",
        "word_part",
    ];
    let mut all = Vec::new();
    for (model, experts) in models {
        for layer in 0..layers {
            let mut counts = Counts::new(*experts, classes.len());
            for expert in 0..*experts {
                if expert == 3 && layer == 1 {
                    continue;
                }
                for group in 0..classes.len() {
                    let likes = if expert % classes.len() == group {
                        20 * (layer + 1)
                    } else {
                        10
                    };
                    let times = likes + (20.0 * noise(expert * 31 + group * 7 + layer)) as usize;
                    counts.counts[expert * classes.len() + group] = times as u64;
                }
            }
            let loads = counts.loads();
            let names = classes.iter().map(|c| (*c).to_owned()).collect();
            let grouping = Grouping::new("token_class", names, &counts);
            all.push(LayerRouting::new(model, layer, &loads, &[], vec![grouping]));
        }
    }
    RoutingResult {
        provenance: provenance("routing 1", &models.iter().map(|m| m.0).collect::<Vec<_>>()),
        layers: all,
        agreement: Vec::new(),
        agreement_reason: None,
    }
}

pub fn sentence(text: &str, layers: usize, experts: usize) -> SentenceRouting {
    let tokens: Vec<String> = text.split(' ').map(ToOwned::to_owned).collect();
    let layer = |l: usize| SentenceLayer {
        name: l.to_string(),
        experts: (0..tokens.len())
            .map(|t| (noise(t * 17 + l) * experts as f64) as u32)
            .collect(),
        weights: (0..tokens.len())
            .map(|t| (0.2 + 0.8 * noise(t * 5 + l * 3)) as f32)
            .collect(),
    };
    SentenceRouting {
        title: "Routing of sentence 0 in moe".to_owned(),
        layers: (0..layers).map(layer).collect(),
        tokens,
        experts,
    }
}

pub fn likelihood(models: &[&str], corpora: &[&str]) -> LikelihoodResult {
    let classes = ["all", "function_word", "content_word", "number"];
    let mut cells = Vec::new();
    for (c, corpus) in corpora.iter().enumerate() {
        for (m, model) in models.iter().enumerate() {
            for (k, class) in classes.iter().enumerate() {
                let value = -3.0 - 0.5 * c as f64 + 0.15 * m as f64 - 0.4 * k as f64;
                let apart = 0.15 * m as f64 - 0.1;
                cells.push(LikelihoodCell {
                    model: (*model).to_owned(),
                    corpus: (*corpus).to_owned(),
                    class: (*class).to_owned(),
                    tokens: 4000 / (k + 1),
                    rows: 500,
                    log_likelihood: Some(value),
                    interval: Some([value - 0.08, value + 0.07]),
                    difference: (m > 0).then_some(apart),
                    difference_interval: (m > 0).then_some([apart - 0.06, apart + 0.05]),
                });
            }
        }
    }
    LikelihoodResult {
        provenance: provenance("likelihood 1", models),
        bootstrap: Bootstrap::default(),
        cells,
    }
}

/// A transfer result over families of three seeds; empty gaps where the families are fewer than two.
pub fn transfer(families: &[&str]) -> TransferResult {
    let mut points = Vec::new();
    for (f, family) in families.iter().enumerate() {
        for seed in 0..3 {
            for i in 0..8 {
                let x = -6.0 + 0.45 * f64::from(i) + 0.3 * f as f64 + 0.05 * noise(seed + f);
                let score = 55.0 + 5.0 * (x + 6.0) + 1.5 * f as f64 - 0.4 * (x + 6.0).powi(2)
                    + noise(seed * 9 + i as usize + f);
                points.push(TransferPoint {
                    family: (*family).to_owned(),
                    seed: seed as u64,
                    step: 1000 * (i as u64 + 1),
                    log_likelihood: x,
                    score,
                });
            }
        }
    }
    let curves = family_curves(&points).unwrap_or_default();
    let bootstrap = Bootstrap {
        draws: 200,
        ..Bootstrap::default()
    };
    let gaps = match families {
        [a, .., b] => transfer_gap(&curves, b, a, &bootstrap)
            .into_iter()
            .collect(),
        _ => Vec::new(),
    };
    TransferResult {
        provenance: provenance("transfer 1", &[]),
        bootstrap,
        points,
        curves,
        gaps,
    }
}

pub fn curve(name: &str, end: f64, count: u64) -> PretrainingCurve {
    let point = |i: u64| {
        let t = i as f64 / (count.max(2) - 1) as f64;
        CurvePoint {
            step: i * 100,
            tokens: i * 819_200,
            wall_seconds: i as f64 * 60.0,
            heldout_log_likelihood: -9.0 + (9.0 + end) * (1.0 - (-3.0 * t).exp()),
            heldout_accuracy: 0.05 + 0.08 * t * (9.0 + end),
            train_loss: None,
        }
    };
    PretrainingCurve {
        name: name.to_owned(),
        points: (0..count).map(point).collect(),
    }
}

pub fn records(name: &str, terms: &[&str], count: u64) -> RunRecords {
    let record = |i: u64| {
        let t = i as f64 / count.max(1) as f64;
        let value = |(k, term): (usize, &&str)| {
            let fall = (8.0 / (k + 1) as f64) * (-2.0 * t).exp() + 0.3 * noise(i as usize + k);
            ((*term).to_owned(), fall)
        };
        let mut values: Vec<(String, f64)> = terms.iter().enumerate().map(value).collect();
        values.push(("tokens".to_owned(), i as f64 * 8192.0));
        Metrics {
            step: i * 10,
            kind: "train".to_owned(),
            wall_seconds: i as f64,
            values,
        }
    };
    RunRecords {
        name: name.to_owned(),
        records: (1..=count).map(record).collect(),
    }
}

pub fn scores(models: &[&str], tasks: &[&str]) -> Vec<Score> {
    let mut all = Vec::new();
    for (t, task) in tasks.iter().enumerate() {
        for (m, model) in models.iter().enumerate() {
            let score = 0.5 + 0.3 * noise(t) + 0.03 * m as f64;
            all.push(Score {
                model: (*model).to_owned(),
                task: (*task).to_owned(),
                score,
                spread: Some([score - 0.03, score + 0.02]),
                runs: 3,
            });
        }
    }
    all
}

pub fn differences(tasks: &[&str]) -> Vec<Difference> {
    let one = |(t, task): (usize, &&str)| {
        let difference = 0.06 * noise(t) - 0.02;
        Difference {
            model: "distilled".to_owned(),
            against: "moe".to_owned(),
            task: (*task).to_owned(),
            difference,
            interval: Some([difference - 0.02, difference + 0.025]),
            p_value: Some(noise(t + 9)),
            rows: 277 * (t + 1),
        }
    };
    tasks.iter().enumerate().map(one).collect()
}

pub fn speeds() -> Vec<Speed> {
    let mut all = Vec::new();
    for group in ["SST-2 dev, L4 H128", "MNLI, L6 H384"] {
        for (i, name) in [
            "run_glue's way (PyTorch)",
            "onnxruntime (Python)",
            "tcd on ort",
            "tcd on tract",
        ]
        .iter()
        .enumerate()
        {
            let speed = 250.0 * (i + 1) as f64;
            all.push(Speed {
                group: group.to_owned(),
                name: (*name).to_owned(),
                per_second: vec![speed * 0.95, speed, speed * 1.04],
                bytes: (i > 0).then_some(20_000_000 + 3_000_000 * i as u64),
            });
        }
    }
    all
}

pub fn compare() -> CompareResult {
    CompareResult {
        provenance: provenance("compare 1", &["moe", "distilled"]),
        labels: Vec::new(),
        counts: [120, 20, 35, 102],
        accuracy: [140.0 / 277.0, 155.0 / 277.0],
        mcnemar_p: 0.06,
        rows: Vec::new(),
        taps: Vec::new(),
    }
}
