//! Every head, tap and precision on every engine, against the reference.

use tcd_export::onnx::{FEATURES_FILE, MoeForm, Options, Precision};
use tcd_export::runtime::{Options as RunOptions, Output};
use tcd_export::{Architecture, Head, ModelConfig, ModelDir, MoeConfig, Tap};

use super::common::fixture;
use super::engines::{Rows, architecture, engines, export, fetch, run};
use super::reference::Reference;

/// Largest difference that f32 explains at these sizes, where values are of the order of 1.
const CLOSE: f64 = 2e-5;
const HEADS: [Head; 4] = [
    Head::None,
    Head::MaskedLm,
    Head::SequenceClassification { labels: 3 },
    Head::SequenceClassification { labels: 1 },
];

/// Batches of one row, two, an odd number; of one position and of all; padded and not; with a row of padding alone.
fn batches() -> Vec<Rows> {
    vec![
        Rows::new(&[1], 1, 3),
        Rows::new(&[10], 10, 5),
        Rows::new(&[4, 4], 4, 1),
        Rows::new(&[9, 2, 6], 9, 8),
        Rows::new(&[3, 0], 5, 2),
        Rows::new(&[10, 7, 10, 3], 10, 11),
    ]
}

/// Compares at valid positions: what a model gives at padding has no meaning but in the outputs of whole rows.
fn assert_close(
    output: &Output,
    wanted: &(Vec<usize>, Vec<f64>),
    rows: &Rows,
    within: f64,
    what: &str,
) {
    assert_eq!(output.shape, wanted.0, "{what}");
    let (shape, s) = (&output.shape, rows.sequence);
    let inner: usize = shape[1..].iter().product();
    for (index, (got, wanted)) in output.values.iter().zip(&wanted.1).enumerate() {
        let row = index / inner;
        let place = match shape.len() {
            4 => Some(index / shape[3] % s),
            3 => Some(index / shape[2] % s),
            _ => None,
        };
        let real = match place {
            Some(place) => rows.mask[row * s + place] == 1,
            None => true,
        };
        let difference = (f64::from(*got) - wanted).abs();
        assert!(
            !real || difference <= within,
            "{what}: at {index}: {got}, expected {wanted}"
        );
        assert!(got.is_finite(), "{what}: at {index}: {got}");
    }
}

fn check(architecture: &Architecture, head: Head, options: &Options, within: f64) {
    let folder = tempfile::tempdir().unwrap();
    let written = export(architecture, head, folder.path(), options);
    let reference = Reference::new(architecture, head, fetch(architecture, head));
    for engine in engines() {
        for threads in [1, 2] {
            let run_options = RunOptions {
                threads,
                outputs: vec![],
            };
            let mut model = engine.prepare(&written.path, &run_options).unwrap();
            for rows in batches() {
                let what = format!(
                    "{} {head:?} {options:?} {threads} threads, {rows:?}",
                    engine.name()
                );
                let wanted = reference.run(&rows.feed());
                let outputs = model.run(&rows.feed()).unwrap();
                let names: Vec<_> = outputs.iter().map(|output| output.name.clone()).collect();
                assert_eq!(names, written.record.outputs, "{what}");
                for output in &outputs {
                    assert_close(
                        output,
                        &wanted.values[&output.name],
                        &rows,
                        within,
                        &format!("{what}: {}", output.name),
                    );
                }
            }
        }
    }
}

#[test]
fn every_head_of_a_vanilla_model() {
    for head in HEADS {
        check(&architecture(None), head, &Options::default(), CLOSE);
    }
}

#[test]
fn every_head_of_a_mixture() {
    for head in HEADS {
        check(&architecture(Some(3)), head, &Options::default(), CLOSE);
    }
}

#[test]
fn an_untied_decoder() {
    let untied = architecture(None).with_tied_decoder(false);
    check(&untied, Head::MaskedLm, &Options::default(), CLOSE);
}

#[test]
fn every_tap() {
    for experts in [None, Some(3)] {
        let architecture = architecture(experts);
        let options = Options {
            taps: Tap::all(2),
            ..Options::default()
        };
        check(&architecture, Head::MaskedLm, &options, CLOSE);
        // Any choice of taps alone.
        let options = Options {
            taps: vec![Tap::Key(1), Tap::Trunk(0)],
            ..Options::default()
        };
        check(&architecture, Head::None, &options, CLOSE);
    }
}

/// The tests above mean something only if all experts have work, and one has none in some batch.
#[test]
fn batches_reach_every_expert() {
    let architecture = architecture(Some(3));
    let head = Head::None;
    let reference = Reference::new(&architecture, head, fetch(&architecture, head));
    let mut idle = false;
    let mut reached = vec![[false; 3]; 2];
    for rows in batches() {
        for (layer, experts) in reference.run(&rows.feed()).experts.iter().enumerate() {
            idle |= (0..3).any(|expert| !experts.contains(&Some(expert)));
            for expert in experts.iter().flatten() {
                reached[layer][*expert] = true;
            }
        }
    }
    assert!(idle);
    assert_eq!(reached, [[true; 3]; 2]);
}

/// The capacity counts the real tokens of the whole batch, so it must not be cut into parts.
#[test]
fn capacity_drops_the_tokens_that_training_drops() {
    for factor in [0.4, 1.0, 1.3] {
        let moe = MoeConfig {
            capacity_factor: Some(factor),
            ..MoeConfig::new(3)
        };
        let config = ModelConfig {
            moe: Some(moe),
            ..architecture(None).config().clone()
        };
        let architecture = config.validate().unwrap();
        let head = Head::None;
        let reference = Reference::new(&architecture, head, fetch(&architecture, head));
        let rows = Rows::new(&[9, 2, 6], 9, 8);
        let dropped = reference.run(&rows.feed()).experts[0]
            .iter()
            .filter(|expert| expert.is_none())
            .count();
        assert!(factor >= 1.0 || dropped > 10, "{dropped}");
        check(&architecture, head, &Options::default(), CLOSE);
    }
}

/// The form that is not the default, on every head and precision.
#[test]
fn the_scattered_form_equals_the_other() {
    let scattered = |precision| Options {
        moe_form: MoeForm::Scattered,
        precision,
        ..Options::default()
    };
    for head in HEADS {
        let options = scattered(Precision::F32);
        check(&architecture(Some(3)), head, &options, CLOSE);
    }
    let limited = with_experts(MoeConfig {
        capacity_factor: Some(0.4),
        ..MoeConfig::new(3)
    });
    check(&limited, Head::None, &scattered(Precision::F32), CLOSE);
    for (precision, within) in [(Precision::F16, 0.02), (Precision::Int8, 0.3)] {
        let options = scattered(precision);
        check(&architecture(Some(3)), Head::None, &options, within);
    }
}

fn with_experts(moe: MoeConfig) -> Architecture {
    let config = ModelConfig {
        moe: Some(moe),
        ..architecture(None).config().clone()
    };
    config.validate().unwrap()
}

/// Many experts, of which a batch reaches few; one expert alone; values in a second file.
#[test]
fn experts_that_have_no_tokens_cost_nothing_and_change_nothing() {
    for experts in [1, 2, 40] {
        let architecture = with_experts(MoeConfig::new(experts));
        for external_data in [false, true] {
            let options = Options {
                external_data,
                ..Options::default()
            };
            check(&architecture, Head::None, &options, CLOSE);
        }
        let options = Options {
            taps: Tap::all(2),
            routing: true,
            ..Options::default()
        };
        check_outputs(&architecture, &options);
    }
}

/// Routing beside the taps: each engine's experts are the reference's.
fn check_outputs(architecture: &Architecture, options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let written = export(architecture, Head::None, folder.path(), options);
    let reference = Reference::new(architecture, Head::None, fetch(architecture, Head::None));
    for engine in engines() {
        for rows in batches() {
            let wanted = reference.run(&rows.feed());
            let outputs = run(&*engine, &written.path, &rows, 1);
            for (layer, experts) in wanted.experts.iter().enumerate() {
                let name = format!("expert.{layer}");
                let output = outputs.iter().find(|output| output.name == name).unwrap();
                for (place, expert) in experts.iter().enumerate() {
                    if let Some(expert) = expert {
                        assert_eq!(output.values[place], *expert as f32, "{}", engine.name());
                    }
                }
            }
        }
    }
}

/// All tokens go to one expert, each in its turn.
#[test]
fn all_tokens_to_one_expert() {
    let architecture = architecture(Some(3));
    for favourite in 0..3 {
        // Ties go to the first, so a router of equal rows but one that is larger along the bias of the inputs will not do:
        // rows before the favourite are those of an expert that loses everywhere.
        let plain = fetch(&architecture, Head::None);
        let one = |name: &str| {
            let mut bytes = plain(name);
            if name.contains("LayerNorm.bias") {
                // Every hidden state has a large first value.
                bytes[..4].copy_from_slice(&30f32.to_le_bytes());
            }
            if name.contains("router") {
                let width = bytes.len() / 3;
                bytes.fill(0);
                bytes[favourite * width..][..4].copy_from_slice(&1f32.to_le_bytes());
            }
            bytes
        };
        let reference = Reference::new(&architecture, Head::None, one);
        let folder = tempfile::tempdir().unwrap();
        let mut give = |name: &str| Ok(one(name).into());
        let options = Options::default();
        let written = tcd_export::onnx::export_from(
            &architecture,
            Head::None,
            folder.path(),
            &options,
            &mut give,
        )
        .unwrap();
        for rows in batches() {
            let wanted = reference.run(&rows.feed());
            for experts in &wanted.experts {
                assert!(experts.iter().flatten().all(|expert| *expert == favourite));
            }
            for engine in engines() {
                let outputs = run(&*engine, &written.path, &rows, 1);
                // Hidden states are about 30 here.
                assert_close(
                    &outputs[0],
                    &wanted.values["last_hidden_state"],
                    &rows,
                    10.0 * CLOSE,
                    engine.name(),
                );
            }
        }
    }
}

/// Equal rows of a router tie: the first expert wins, as in training.
#[test]
fn ties_go_to_the_first_expert() {
    let architecture = architecture(Some(3));
    let head = Head::None;
    let plain = fetch(&architecture, head);
    let tied = |name: &str| {
        let mut bytes = plain(name);
        if name.contains("router") {
            let row = bytes.len() / 3;
            bytes.copy_within(..row, row);
            bytes.copy_within(..row, 2 * row);
        }
        bytes
    };
    let reference = Reference::new(&architecture, head, tied);
    let rows = Rows::new(&[9, 2, 6], 9, 8);
    let wanted = reference.run(&rows.feed());
    assert!(
        wanted.experts[0]
            .iter()
            .flatten()
            .all(|expert| *expert == 0)
    );
    let folder = tempfile::tempdir().unwrap();
    let mut give = |name: &str| Ok(tied(name).into());
    let written = tcd_export::onnx::export_from(
        &architecture,
        head,
        folder.path(),
        &Options::default(),
        &mut give,
    )
    .unwrap();
    for engine in engines() {
        let outputs = run(&*engine, &written.path, &rows, 1);
        assert_close(
            &outputs[0],
            &wanted.values["last_hidden_state"],
            &rows,
            CLOSE,
            engine.name(),
        );
    }
}

/// A row alone, a row in a batch and a row with more padding give the same.
#[test]
fn neither_company_nor_padding_changes_a_row() {
    let architecture = architecture(Some(3));
    let head = Head::SequenceClassification { labels: 3 };
    let folder = tempfile::tempdir().unwrap();
    let written = export(&architecture, head, folder.path(), &Options::default());
    for engine in engines() {
        let alone = run(&*engine, &written.path, &Rows::new(&[5], 5, 4), 1);
        for rows in [Rows::new(&[5], 10, 4), Rows::new(&[5, 9, 1], 9, 4)] {
            let batched = run(&*engine, &written.path, &rows, 1);
            for (got, wanted) in batched[0].values.iter().zip(&alone[0].values) {
                assert!(
                    (got - wanted).abs() < 1e-5,
                    "{}: {got} {wanted}",
                    engine.name()
                );
            }
        }
    }
}

/// Each worker of a model computes whole batches, beside the others, as the model on one thread does. One whose rows depend on the
/// batch stays whole, so that batches do not depend on the number of threads.
#[test]
fn workers_compute_batches_of_their_own() {
    let limited = MoeConfig {
        capacity_factor: Some(1.0),
        ..MoeConfig::new(3)
    };
    let head = Head::SequenceClassification { labels: 3 };
    for (moe, many) in [(None, 2), (Some(MoeConfig::new(3)), 2), (Some(limited), 1)] {
        let config = ModelConfig {
            moe,
            ..architecture(None).config().clone()
        };
        let architecture = config.validate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let written = export(&architecture, head, folder.path(), &Options::default());
        for engine in engines() {
            let options = RunOptions {
                threads: 2,
                outputs: vec![],
            };
            let model = engine.prepare(&written.path, &options).unwrap();
            let mut workers = model.workers();
            assert_eq!(workers.len(), many, "{}", engine.name());
            std::thread::scope(|scope| {
                for (seed, worker) in workers.iter_mut().enumerate() {
                    let (engine, path) = (&*engine, &written.path);
                    scope.spawn(move || {
                        for lengths in [&[5, 9, 2][..], &[4], &[3, 3]] {
                            let rows = Rows::new(lengths, 9, seed);
                            let got = worker.run(&rows.feed()).unwrap();
                            let wanted = run(engine, path, &rows, 1);
                            assert_eq!(got[0].shape, wanted[0].shape);
                            for (got, wanted) in got[0].values.iter().zip(&wanted[0].values) {
                                assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
                            }
                        }
                    });
                }
            });
        }
    }
}

/// f16 weights lose what f16 loses; integers lose more, and stay near.
#[test]
fn smaller_precisions_stay_near() {
    for experts in [None, Some(3)] {
        for (precision, within) in [(Precision::F16, 0.02), (Precision::Int8, 0.3)] {
            let options = Options {
                precision,
                ..Options::default()
            };
            check(&architecture(experts), Head::MaskedLm, &options, within);
        }
    }
}

/// The logits that `transformers` gave for the fixture; `expected.json` is made by the script beside it.
#[test]
fn logits_of_transformers() {
    let model = ModelDir::open(fixture()).unwrap();
    let text = std::fs::read_to_string(fixture().join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |key: &str| -> Vec<i64> {
        serde_json::from_value::<Vec<Vec<i64>>>(expected[key].clone())
            .unwrap()
            .concat()
    };
    let rows = Rows {
        batch: 2,
        sequence: 12,
        ids: ids("input_ids"),
        mask: ids("attention_mask"),
        types: ids("token_type_ids"),
    };
    let logits: Vec<f64> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let written = tcd_export::onnx::export(&model, folder.path(), &Options::default()).unwrap();
    for engine in engines() {
        let outputs = run(&*engine, &written.path, &rows, 1);
        assert_close(
            &outputs[0],
            &(vec![2, 12, 96], logits.clone()),
            &rows,
            1e-4,
            engine.name(),
        );
    }
}

/// Only what is asked for is computed, in the order asked for.
#[test]
fn outputs_are_chosen_by_name() {
    let architecture = architecture(None);
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        taps: Tap::all(2),
        ..Options::default()
    };
    export(&architecture, Head::None, folder.path(), &options);
    let path = folder.path().join(FEATURES_FILE);
    let wanted = vec!["layer.1.trunk".to_owned(), "embedding".to_owned()];
    for engine in engines() {
        let run_options = RunOptions {
            threads: 1,
            outputs: wanted.clone(),
        };
        let outputs = engine
            .prepare(&path, &run_options)
            .unwrap()
            .run(&Rows::new(&[4], 4, 1).feed())
            .unwrap();
        let names: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["layer.1.trunk", "embedding"]);
        let wrong = RunOptions {
            threads: 1,
            outputs: vec!["layer.2.trunk".to_owned()],
        };
        let error = engine.prepare(&path, &wrong).err().unwrap().to_string();
        assert!(
            error.contains("no output `layer.2.trunk`") && error.contains("layer.1.trunk"),
            "{error}"
        );
    }
}
