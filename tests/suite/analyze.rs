//! The commands `tcd analyze` as a person runs them: results on features whose relations are known, messages, exit codes.

use std::path::PathBuf;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::process::Command;
use tcd_analysis::cka::CkaResult;
use tcd_analysis::features::{FeaturesInfo, FeaturesWriter, Slot};

/// Vocabulary: special tokens, then classes that the tests know.
const TOKENIZER: &str = r###"{"added_tokens":[{"id":0,"content":"[CLS]","special":true},{"id":1,"content":"[SEP]","special":true}],
"model":{"vocab":{"[CLS]":0,"[SEP]":1,"the":2,"of":3,"house":4,"tree":5,"##s":6,"1984":7,",":8,"runs":9}}}"###;

const ROWS: usize = 40;
const LENGTH: usize = 12;
const WIDTH: usize = 8;

/// A folder with features files of two models, `a.safetensors` and `b.safetensors`.
pub(crate) struct Place(tempfile::TempDir);

/// What a model's file holds beside noise of its own seed.
struct Model {
    seed: u64,
    /// Share of noise in the features; the rest is common to all models.
    noise: f32,
    /// One tap whose rows are all equal.
    flat: bool,
}

impl Place {
    pub(crate) fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::write(place.path("tokenizer.json"), TOKENIZER).unwrap();
        place.model(
            "a",
            &Model {
                seed: 1,
                noise: 0.1,
                flat: true,
            },
        );
        place.model(
            "b",
            &Model {
                seed: 2,
                noise: 0.3,
                flat: false,
            },
        );
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    fn model(&self, name: &str, model: &Model) {
        let n = ROWS * LENGTH;
        let mut common = ChaCha8Rng::seed_from_u64(0);
        let mut own = ChaCha8Rng::seed_from_u64(model.seed);
        let ids: Vec<i64> = (0..n)
            .map(|t| match t % LENGTH {
                0 => 0,
                p if p == LENGTH - 1 => 1,
                _ => common.random_range(2..10),
            })
            .collect();
        let features = |rng: &mut ChaCha8Rng, shared: &mut ChaCha8Rng| -> Vec<f32> {
            (0..n * WIDTH)
                .map(|at| {
                    let noise: f32 = rng.random::<f32>() - 0.5;
                    let both: f32 = shared.random::<f32>() - 0.5;
                    // The first column tells the word, the second the position.
                    let (t, c) = (at / WIDTH, at % WIDTH);
                    let said = match c {
                        0 => ids[t] as f32,
                        1 => (t % LENGTH) as f32,
                        _ => both,
                    };
                    said + model.noise * noise
                })
                .collect()
        };
        let names = ["embedding", "layer.0.trunk", "layer.1.trunk"];
        let taps: Vec<Vec<f32>> = (0..3)
            .map(|l| {
                if model.flat && l == 1 {
                    return vec![0.25; n * WIDTH];
                }
                features(&mut own, &mut ChaCha8Rng::seed_from_u64(100 + l))
            })
            .collect();
        let info = FeaturesInfo {
            command: "tcd features".into(),
            model: format!("models/{name}"),
            model_blake3: format!("{:064}", model.seed),
            tokenizer_blake3: blake3::hash(TOKENIZER.as_bytes()).to_hex().to_string(),
            data: "glue/RTE/dev.tsv".into(),
            data_blake3: "cc".into(),
            special_ids: vec![0, 1],
            task: Some("RTE".into()),
            labels: vec!["entailment".into(), "not_entailment".into()],
            num_experts: Some(4),
            num_heads: Some(2),
        };
        let mut slots: Vec<Slot> = [
            "input_ids",
            "row",
            "position",
            "masked",
            "original_ids",
            "expert.0",
        ]
        .iter()
        .map(|s| Slot::ints(*s, &[n]))
        .collect();
        slots.extend(["log_likelihood", "gate.0"].map(|s| Slot::floats(s, &[n])));
        slots.extend(names.map(|s| Slot::floats(s, &[n, WIDTH])));
        slots.extend([
            Slot::ints("rows.id", &[ROWS]),
            Slot::floats("rows.label", &[ROWS]),
            Slot::floats("rows.logits", &[ROWS, 2]),
        ]);
        let mut file =
            FeaturesWriter::create(self.path(&format!("{name}.safetensors")), &info, slots)
                .unwrap();
        let ints = |of: &dyn Fn(usize) -> i64| (0..n).map(of).collect::<Vec<i64>>();
        file.ints("input_ids", 0, &ids).unwrap();
        file.ints("original_ids", 0, &ids).unwrap();
        file.ints("row", 0, &ints(&|t| (t / LENGTH) as i64))
            .unwrap();
        file.ints("position", 0, &ints(&|t| (t % LENGTH) as i64))
            .unwrap();
        file.ints("masked", 0, &ints(&|t| i64::from(t % LENGTH == 3)))
            .unwrap();
        // Expert 3 is never chosen; the others follow the word.
        file.ints(
            "expert.0",
            0,
            &ids.iter().map(|id| id % 3).collect::<Vec<_>>(),
        )
        .unwrap();
        file.floats("gate.0", 0, &vec![0.5; n]).unwrap();
        let likely: Vec<f32> = (0..n)
            .map(|t| {
                if t % LENGTH == 3 {
                    -1.0 - model.noise
                } else {
                    0.0
                }
            })
            .collect();
        file.floats("log_likelihood", 0, &likely).unwrap();
        for (name, values) in names.iter().zip(&taps) {
            file.floats(name, 0, values).unwrap();
        }
        file.ints("rows.id", 0, &(0..ROWS as i64).collect::<Vec<_>>())
            .unwrap();
        file.floats(
            "rows.label",
            0,
            &(0..ROWS).map(|r| (r % 2) as f32).collect::<Vec<_>>(),
        )
        .unwrap();
        // The first model is right everywhere, the second wrong in every fifth row.
        let wrong = |r: usize| model.seed == 2 && r.is_multiple_of(5);
        let logits: Vec<f32> = (0..ROWS)
            .flat_map(|r| {
                if (r % 2 == 1) != wrong(r) {
                    [0.0, 1.0]
                } else {
                    [1.0, 0.0]
                }
            })
            .collect();
        file.floats("rows.logits", 0, &logits).unwrap();
        file.finish().unwrap();
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &str) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcd"));
        let run = command
            .current_dir(self.0.path())
            .arg("analyze")
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

    pub(crate) fn ok(&self, arguments: &str) -> String {
        let (code, out, err) = self.run(arguments);
        assert_eq!(code, 0, "{arguments}: {err}");
        out
    }

    fn fails(&self, arguments: &str, parts: &[&str]) {
        let (code, _, err) = self.run(arguments);
        assert_eq!(code, 2, "{arguments}: {err}");
        assert!(
            parts.iter().all(|p| err.contains(p)) && !err.contains("panicked"),
            "{arguments}: {err}"
        );
    }
}

#[test]
fn cka_finds_what_models_share_and_says_why_a_layer_has_no_value() {
    let place = Place::new();
    let out = place.ok("cka first=a.safetensors second=b.safetensors --out out/cka.json --minibatch 50 --permutations 30 --halves 30");
    assert!(out.contains("embedding"), "{out}");
    let text = std::fs::read_to_string(place.path("out/cka.json")).unwrap();
    let result: CkaResult = serde_json::from_str(&text).unwrap();
    assert_eq!(result.provenance.schema, "cka 1");
    assert!(
        result
            .provenance
            .command
            .starts_with("tcd analyze cka first=a.safetensors")
    );
    assert_eq!(
        (
            result.provenance.models[0].name.as_str(),
            result.provenance.models[1].name.as_str()
        ),
        ("first", "second")
    );
    let sample = result.provenance.sample.as_ref().unwrap();
    assert_eq!(
        (sample.count, sample.of),
        (ROWS * (LENGTH - 2), ROWS * (LENGTH - 2))
    );
    assert_eq!(result.cells.len(), 9);
    for cell in &result.cells {
        if cell.a == "layer.0.trunk" {
            assert!(
                cell.cka.is_none()
                    && cell
                        .reason
                        .as_ref()
                        .unwrap()
                        .to_string()
                        .contains("no variance")
            );
            continue;
        }
        // Word and position dominate every other tap.
        let (value, [low, high]) = (cell.cka.unwrap(), cell.interval.unwrap());
        assert!(
            value > 0.9 && low <= value && value <= high && cell.p_value.unwrap() < 0.05,
            "{cell:?}"
        );
        assert!((cell.minibatch.unwrap() - value).abs() < 0.02);
    }
    let csv = std::fs::read_to_string(place.path("out/cka.csv")).unwrap();
    assert_eq!(csv.lines().count(), 10);
    assert!(
        csv.contains("layer.0.trunk,embedding,,,,,,,,no variance"),
        "{csv}"
    );
}

#[test]
fn every_form_and_kernel_of_cka_runs_and_forms_agree() {
    let place = Place::new();
    let value = |arguments: &str| {
        place.ok(&format!(
            "cka b.safetensors --permutations 0 --halves 0 --out c.json {arguments}"
        ));
        place.read("c.json")["cells"][1]["cka"].as_f64().unwrap()
    };
    let (feature, sample) = (value("--form feature"), value("--form sample"));
    assert!((feature - sample).abs() < 1e-5, "{feature} {sample}");
    assert!(value("--biased") > 0.0 && value("--kernel rbf") > 0.3);
    for rows in ["cls", "mean"] {
        value(&format!("--rows {rows}"));
    }
}

#[test]
fn the_other_measures_geometry_and_projections_run() {
    let place = Place::new();
    place.ok("similarity a.safetensors b.safetensors --limit 120 --out s.json");
    let result = place.read("s.json");
    assert_eq!(result["cells"].as_array().unwrap().len(), 8 * 3);
    assert!(place.ok("similarity --list").contains("procrustes"));
    place.ok("geometry a.safetensors b.safetensors --out g.json");
    let taps = place.read("g.json");
    assert!(
        taps["taps"][0]["measures"]["effective_rank"]
            .as_f64()
            .unwrap()
            > 1.0
    );
    assert_eq!(taps["taps"][1]["reason"]["code"], "no_variance");
    assert!(
        std::fs::read_to_string(place.path("g.spectra.csv"))
            .unwrap()
            .lines()
            .count()
            > 8
    );
    let project = "project b.safetensors --taps embedding --limit 100";
    place.ok(&format!(
        "{project} --label token-class --tokenizer tokenizer.json --out p.json"
    ));
    assert!(
        place.read("p.json")["taps"][0]["variance_share"][0]
            .as_f64()
            .unwrap()
            > 0.3
    );
    place.ok(&format!("{project} --method tsne --perplexity 10 --iterations 100 --label expert --expert-layer 0 --out t.json"));
    assert_eq!(
        std::fs::read_to_string(place.path("t.csv"))
            .unwrap()
            .lines()
            .count(),
        101
    );
    place.fails(
        &format!("{project} --method tsne --perplexity 0 --out t.json"),
        &["perplexity of 0", "100 rows"],
    );
    place.fails(
        &format!("{project} --method tsne --perplexity NaN --out t.json"),
        &["perplexity of NaN"],
    );
}

#[test]
fn probes_read_position_and_word_beyond_their_control() {
    let place = Place::new();
    place.ok("probe b.safetensors --task position,word,masked --taps embedding --out probe.json");
    let result = place.read("probe.json");
    for cell in result["cells"].as_array().unwrap() {
        let score = |key: &str| cell["scores"][key].as_f64().unwrap();
        match cell["task"].as_str().unwrap() {
            "position" => assert!(
                score("score") > 0.95 && score("selectivity") > 0.5,
                "{cell}"
            ),
            "word" => assert!(
                score("score") > score("baseline") + 0.3 && score("selectivity") > 0.3,
                "{cell}"
            ),
            _ => assert!(score("score") >= 0.8, "{cell}"),
        }
    }
    place.ok("probe b.safetensors --task label --rows cls --out label.json");
    place.fails(
        "probe b.safetensors --task label --out l.json",
        &["--rows cls"],
    );
    place.fails(
        "probe b.safetensors --task word --held-out 1.5 --out l.json",
        &["--held-out", "1.5"],
    );
}

#[test]
fn routing_counts_dead_experts_specialisation_and_agreement() {
    let place = Place::new();
    place.ok("routing a.safetensors b.safetensors --tokenizer tokenizer.json --out r.json");
    let result = place.read("r.json");
    let layer = &result["layers"][0];
    assert_eq!(layer["dead"], serde_json::json!([3]));
    assert!(layer["groupings"][0]["information_share"].as_f64().unwrap() > 0.1);
    assert_eq!(
        (
            result["agreement"][0]["equal"].as_f64(),
            result["agreement"][0]["adjusted_rand"].as_f64()
        ),
        (Some(1.0), Some(1.0))
    );
    place.ok("routing m=b.safetensors m=b.safetensors --out tasks.json");
    let tasks = place.read("tasks.json");
    let information = tasks["layers"][0]["groupings"][0]["information"].as_f64();
    assert!(information.unwrap() < 1e-12);
    place.fails(
        "routing m=a.safetensors m=b.safetensors --out r.json",
        &["two models under one name: `m`"],
    );
}

#[test]
fn a_trace_names_the_tokens_and_experts_of_a_row() {
    let place = Place::new();
    let told = place
        .ok("trace a.safetensors b.safetensors --tokenizer tokenizer.json --row 3 --out t.json");
    assert!(told.contains("neighbours together"), "{told}");
    let result = place.read("t.json");
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["row"], 3);
        assert_eq!(row["tokens"].as_array().unwrap().len(), LENGTH);
        assert_eq!(row["tokens"][0], "[CLS]");
        let experts = row["layers"][0]["experts"].as_array().unwrap();
        assert_eq!(experts.len(), LENGTH);
        assert!(
            experts
                .iter()
                .all(|e| e.as_u64() < row["num_experts"].as_u64())
        );
    }
    assert!(place.path("t.csv").exists());
    place.fails(
        "trace a.safetensors --tokenizer tokenizer.json --row 4000 --out t.json",
        &["no row 4000 in", "hint: it has 40 rows, 0 to 39"],
    );
}

#[test]
fn curves_give_the_gap_or_refuse() {
    let place = Place::new();
    let mut points = "family,seed,step,log_likelihood,score\n".to_owned();
    for seed in 0..3 {
        for step in 0..5 {
            let x = -5.0 + 0.5 * f64::from(step);
            points += &format!(
                "moe,{seed},{step},{x},{}\n",
                60.0 + 4.0 * x + f64::from(seed)
            );
            points += &format!(
                "distilled,{seed},{step},{},{}\n",
                x - 0.2,
                63.0 + 4.0 * (x - 0.2) + f64::from(seed)
            );
            points += &format!("far,{seed},{step},{},70\n", x + 9.0);
        }
    }
    std::fs::write(place.path("points.csv"), points).unwrap();
    place.ok("curve points.csv --gap distilled:moe --out t.json");
    let gap = place.read("t.json")["gaps"][0].clone();
    assert!((gap["gap"].as_f64().unwrap() - 3.0).abs() < 1e-9);
    let (low, high) = (
        gap["interval"][0].as_f64().unwrap(),
        gap["interval"][1].as_f64().unwrap(),
    );
    assert!(low < 3.0 && high > 3.0 && high - low < 5.0);
    place.fails(
        "curve points.csv --gap far:moe --out u.json",
        &["do not overlap", "hint"],
    );
    assert!(!place.path("u.json").exists());
    place.fails("curve points.csv --gap distilled --out u.json", &["A:B"]);
    place.fails(
        "curve points.csv --gap moe:vanilla --out u.json",
        &["vanilla"],
    );
}

#[test]
fn likelihood_and_comparison_pair_the_models() {
    let place = Place::new();
    place.ok("likelihood a.safetensors b.safetensors --tokenizer tokenizer.json --out l.json");
    let cells = place.read("l.json")["cells"].clone();
    let all = cells
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["model"] == "b" && c["class"] == "all")
        .unwrap()
        .clone();
    assert_eq!(
        (all["corpus"].as_str(), all["tokens"].as_u64()),
        (Some("dev"), Some(ROWS as u64))
    );
    assert!((all["difference"].as_f64().unwrap() + 0.2).abs() < 1e-6);
    place.ok("compare a.safetensors b.safetensors --rows mean --permutations 50 --out c.json");
    let result = place.read("c.json");
    assert_eq!(result["counts"], serde_json::json!([32, 8, 0, 0]));
    assert!((result["mcnemar_p"].as_f64().unwrap() - 2.0 / 256.0).abs() < 1e-12);
    let lines = |wrong: usize| {
        (0..ROWS)
            .map(|r| {
                let said = if r < wrong { "x" } else { "y" };
                format!("{{\"index\":{r},\"prediction\":\"{said}\",\"label\":\"y\",\"outputs\":[0.0,1.0]}}\n")
            })
            .collect::<String>()
    };
    std::fs::write(place.path("pa.jsonl"), lines(3)).unwrap();
    std::fs::write(place.path("pb.jsonl"), lines(10)).unwrap();
    place.ok("compare a.safetensors b.safetensors --rows cls --predictions pa.jsonl pb.jsonl --permutations 50 --out d.json");
    assert_eq!(
        place.read("d.json")["counts"],
        serde_json::json!([30, 7, 0, 3])
    );
    std::fs::write(place.path("bad.jsonl"), "{\"index\":0}\n").unwrap();
    place.fails(
        "compare a.safetensors b.safetensors --rows cls --predictions pa.jsonl bad.jsonl --out e.json",
        &["bad.jsonl:1", "prediction"],
    );
}

#[test]
fn bad_input_ends_with_code_two_and_names_the_file() {
    let place = Place::new();
    place.fails("cka none.safetensors --out c.json", &["none.safetensors"]);
    std::fs::write(place.path("bad.safetensors"), b"not a file of this kind").unwrap();
    place.fails("cka bad.safetensors --out c.json", &["bad.safetensors"]);
    place.fails(
        "cka a.safetensors --taps layer.9.trunk --out c.json",
        &["layer.9.trunk", "hint", "layer.1.trunk"],
    );
    place.fails(
        "cka a.safetensors --kernel rbf --bandwidth 0 --out c.json",
        &["--bandwidth"],
    );
    place.fails(
        "cka a.safetensors --kernel rbf --form feature --out c.json",
        &["linear"],
    );
    std::fs::write(place.path("other.json"), TOKENIZER.replace("tree", "shrub")).unwrap();
    place.fails(
        "routing a.safetensors --tokenizer other.json --out r.json",
        &["another tokenizer", "other.json"],
    );
    place.fails(
        "similarity a.safetensors b.safetensors --measure ccka --out s.json",
        &["ccka", "procrustes"],
    );
}
