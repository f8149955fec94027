//! Writing: what is written is read back to the bit, a failure leaves nothing, an earlier directory is replaced whole.

use std::path::Path;

use serde_json::{Map, Value};
use tcd_export::{
    Architecture, BoxError, Contents, Head, ModelConfig, ModelDir, ModelDirError, MoeConfig,
    Parameter, Record, Values, parameters, write_model_dir,
};

use super::common::{mixture, names, read, tokenizer, values, vanilla};

fn contents<'a>(
    architecture: &'a Architecture,
    head: Head,
    tokenizer_json: &'a str,
) -> Contents<'a> {
    Contents {
        architecture,
        head,
        tokenizer_json,
        labels: &[],
        keys: Map::new(),
        notes: Map::new(),
    }
}

fn write(path: &Path, architecture: &Architecture, head: Head) -> Result<Record, ModelDirError> {
    let tokenizer = tokenizer(architecture.vocab_size);
    write_model_dir(path, &contents(architecture, head, &tokenizer), |row| {
        Ok(values(row))
    })
}

/// Names in a directory, hidden ones too.
fn listing(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_kind_of_model_comes_back_to_the_bit() {
    let classifier = Head::SequenceClassification { labels: 3 };
    for architecture in [vanilla(), mixture(), vanilla().with_tied_decoder(false)] {
        for head in [Head::None, Head::MaskedLm, classifier] {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("deep/model");
            let mut asked = Vec::new();
            let text = tokenizer(architecture.vocab_size);
            let record = write_model_dir(&path, &contents(&architecture, head, &text), |row| {
                asked.push(row.name.clone());
                Ok(values(row))
            })
            .unwrap();
            assert_eq!(asked, names(&architecture, head));
            assert_eq!(
                listing(&path),
                ["config.json", "model.safetensors", "tokenizer.json"]
            );
            assert_eq!(listing(path.parent().unwrap()), ["model"]);

            let directory = ModelDir::open(&path).unwrap();
            assert_eq!(directory.head(), head);
            assert_eq!(directory.record(), Some(&record));
            assert!(directory.verify().unwrap());
            assert_eq!(directory.weights_hash().unwrap(), record.weights_blake3);
            // Without the decoder in the file nothing shows that it is untied, and the configuration says it.
            assert_eq!(directory.architecture(), &architecture);
            let loaded = directory.load(head, Values::Finite).unwrap();
            let table = parameters(&architecture, head);
            assert_eq!(loaded.len(), table.len());
            for row in &table {
                let tensor = loaded.tensor(&row.name).unwrap();
                assert_eq!(
                    (tensor.shape, tensor.bytes),
                    (&row.shape[..], &values(row)[..]),
                    "{}",
                    row.name
                );
            }
            assert_eq!(
                std::fs::read_to_string(directory.tokenizer_file().unwrap()).unwrap(),
                text
            );
        }
    }
}

/// The library's own reader accepts the file, data are aligned, and an untied decoder brings its own bias.
#[test]
fn file_is_plain_safetensors() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    write(&path, &vanilla().with_tied_decoder(false), Head::MaskedLm).unwrap();
    let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let file = read(&path.join("model.safetensors"));
    assert_eq!(
        file["cls.predictions.decoder.bias"],
        file["cls.predictions.bias"]
    );
    assert_eq!(file.len(), names(&vanilla(), Head::MaskedLm).len() + 2);
}

#[test]
fn config_json_has_what_other_programs_look_for() {
    let parent = tempfile::tempdir().unwrap();
    let cases = [
        (vanilla(), Head::MaskedLm, "BertForMaskedLM", "bert"),
        (
            vanilla(),
            Head::SequenceClassification { labels: 2 },
            "BertForSequenceClassification",
            "bert",
        ),
        (
            mixture(),
            Head::MaskedLm,
            "TcdMoeBertForMaskedLM",
            "tcd_moe_bert",
        ),
    ];
    for (index, (architecture, head, class, model_type)) in cases.into_iter().enumerate() {
        let path = parent.path().join(index.to_string());
        let text = tokenizer(20);
        let labels = ["no".to_owned(), "yes".to_owned()];
        let notes = Map::from_iter([("step".to_owned(), Value::from(7))]);
        let contents = Contents {
            architecture: &architecture,
            head,
            tokenizer_json: &text,
            labels: &labels,
            keys: Map::new(),
            notes,
        };
        write_model_dir(&path, &contents, |row| Ok(values(row))).unwrap();
        let config: Value =
            serde_json::from_str(&std::fs::read_to_string(path.join("config.json")).unwrap())
                .unwrap();
        assert_eq!(config["architectures"], serde_json::json!([class]));
        assert_eq!(config["model_type"], model_type);
        assert_eq!(config["hidden_act"], "gelu");
        assert_eq!(config["layer_norm_eps"], 1e-12);
        assert_eq!(config["tcd"]["notes"]["step"], 7);
        assert_eq!(config.get("moe").is_some(), model_type == "tcd_moe_bert");
        let classifier = matches!(head, Head::SequenceClassification { .. });
        assert_eq!(config.get("id2label").is_some(), classifier);
        let expected: &[String] = if classifier { &labels } else { &[] };
        assert_eq!(ModelDir::open(&path).unwrap().labels(), expected);
    }
}

/// Fails at each tensor in turn: nothing is left, and what was there before is untouched.
#[test]
fn failure_leaves_everything_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    let architecture = vanilla();
    let text = tokenizer(20);
    let contents = contents(&architecture, Head::MaskedLm, &text);
    let fail_at = |fail: usize| {
        let mut index = 0;
        let tensor = |row: &Parameter| -> Result<Vec<u8>, BoxError> {
            index += 1;
            if index == fail {
                Err("device lost".into())
            } else {
                Ok(values(row))
            }
        };
        write_model_dir(&path, &contents, tensor).unwrap_err()
    };
    let count = names(&architecture, Head::MaskedLm).len();
    for fail in [1, count / 2, count] {
        let error = fail_at(fail);
        assert!(matches!(&error, ModelDirError::Tensor { .. }), "{error}");
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "device lost"
        );
        assert_eq!(listing(parent.path()), Vec::<String>::new());
    }
    write(&path, &architecture, Head::MaskedLm).unwrap();
    let before = std::fs::read(path.join("model.safetensors")).unwrap();
    fail_at(count);
    assert_eq!(listing(parent.path()), ["model"]);
    assert_eq!(
        std::fs::read(path.join("model.safetensors")).unwrap(),
        before
    );
    let error = write_model_dir(&path, &contents, |_| Ok(vec![0; 4]))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "tensor `bert.embeddings.LayerNorm.bias` has 4 bytes, expected 32"
    );
    assert_eq!(
        std::fs::read(path.join("model.safetensors")).unwrap(),
        before
    );
}

#[test]
fn only_own_directories_are_replaced() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    std::fs::create_dir(&path).unwrap();
    write(&path, &vanilla(), Head::MaskedLm).unwrap();
    std::fs::write(path.join("model.onnx"), "stale").unwrap();
    write(&path, &mixture(), Head::MaskedLm).unwrap();
    // What belonged to the former weights is gone with them.
    assert_eq!(
        listing(&path),
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(listing(parent.path()), ["model"]);
    assert_eq!(ModelDir::open(&path).unwrap().architecture(), &mixture());

    let strange = parent.path().join("strange");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("thesis.tex"), "dear").unwrap();
    let error = write(&strange, &vanilla(), Head::MaskedLm)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("it is not empty and no model directory of this program; hint: "),
        "{error}"
    );
    assert_eq!(listing(&strange), ["thesis.tex"]);
    std::fs::create_dir(path.join("keep")).unwrap();
    let error = write(&path, &vanilla(), Head::MaskedLm)
        .unwrap_err()
        .to_string();
    assert!(error.contains("it has directories in it"), "{error}");
    let file = strange.join("thesis.tex");
    assert!(matches!(
        write(&file, &vanilla(), Head::None),
        Err(ModelDirError::InTheWay { .. })
    ));
    assert!(matches!(
        write(&file.join("x"), &vanilla(), Head::None),
        Err(ModelDirError::Io { .. })
    ));
}

#[test]
fn tokenizer_must_fit_the_embeddings() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    let architecture = vanilla();
    for (text, part) in [
        (tokenizer(21), "it has token id 20, `vocab_size` is 20"),
        ("{".to_owned(), "`tokenizer.json` is not JSON"),
        ("{}".to_owned(), "has no vocabulary"),
    ] {
        let contents = contents(&architecture, Head::MaskedLm, &text);
        let error = write_model_dir(&path, &contents, |row| Ok(values(row)))
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
        assert!(!path.exists());
    }
    // A smaller vocabulary is fine: embeddings may be padded.
    let text = tokenizer(19);
    write_model_dir(
        &path,
        &contents(&architecture, Head::MaskedLm, &text),
        |row| Ok(values(row)),
    )
    .unwrap();
}

#[test]
fn altered_files_are_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    write(&path, &vanilla(), Head::MaskedLm).unwrap();
    let file = path.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = ModelDir::open(&path)
        .unwrap()
        .verify()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("file was altered: `{}` has hash ", file.display())),
        "{error}"
    );
}

/// Every configuration that validates survives `config.json`; the cases walk through all fields by a fixed recurrence.
#[test]
fn configurations_survive_the_file() {
    let mut state = 1_u64;
    let mut draw = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for _ in 0..500 {
        let heads = 1 + draw(16) as usize;
        let vocabulary = 1 + draw(50_000) as usize;
        let config = ModelConfig {
            hidden_dropout_prob: draw(1_000_003) as f64 / 1_000_003.0,
            attention_probs_dropout_prob: draw(1_000_003) as f64 / 1_000_003.0,
            max_position_embeddings: 1 + draw(4096) as usize,
            type_vocab_size: 1 + draw(4) as usize,
            initializer_range: (1.0 + draw(1000) as f64) / 777.0,
            layer_norm_eps: 10_f64.powi(-(draw(13) as i32)),
            pad_token_id: draw(vocabulary as u64) as usize,
            tie_word_embeddings: draw(2) == 0,
            classifier_dropout: (draw(2) == 0).then(|| draw(100) as f64 / 101.0),
            moe: (draw(2) == 0).then(|| MoeConfig {
                num_experts: 1 + draw(64) as usize,
                capacity_factor: (draw(2) == 0).then(|| (1.0 + draw(30) as f64) / 7.0),
                router_jitter: draw(100) as f64 / 101.0,
                balance_loss_weight: draw(100) as f64 / 33.0,
                z_loss_weight: draw(100) as f64 / 33.0,
                expert_dropout: draw(100) as f64 / 101.0,
            }),
            ..ModelConfig::new(
                vocabulary,
                1 + draw(48) as usize,
                heads * (1 + draw(64) as usize),
                heads,
                1 + draw(4096) as usize,
            )
        };
        let architecture = config.validate().unwrap();
        let mut map = architecture.to_map();
        map.insert("transformers_version".to_owned(), "4.40.0".into());
        let back = ModelConfig::from_json(&serde_json::to_string(&map).unwrap()).unwrap();
        assert_eq!(back, config);
    }
}
