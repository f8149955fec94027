//! Each way in which weights or configuration can be wrong: one error that names every offender.

use safetensors::Dtype;
use tcd_export::{
    ConfigError, Head, ModelConfig, ModelDir, ModelDirError, MoeConfig, Values, Weights,
};

use super::common::{File, changed, fixture};

const QUERY: &str = "bert.encoder.layer.1.attention.self.query.weight";
const NORM: &str = "bert.embeddings.LayerNorm.weight";

fn message(change: impl FnOnce(&mut File), values: Values) -> String {
    let directory = changed(change, |_| {});
    let directory = ModelDir::open(directory.path()).unwrap();
    let error = directory
        .load(Head::MaskedLm, values)
        .unwrap_err()
        .to_string();
    let path = directory
        .path()
        .join("model.safetensors")
        .display()
        .to_string();
    let start = format!("weights do not fit the model: `{path}`: ");
    error
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("no path: {error}"))
        .to_owned()
}

#[test]
fn every_offender_is_named_at_once() {
    let change = |file: &mut File| {
        let query = file.remove(QUERY).unwrap();
        file.insert(
            "bert.encoder.layer.2.attention.self.query.weight".into(),
            query,
        );
        let word = file
            .get_mut("bert.embeddings.word_embeddings.weight")
            .unwrap();
        word.shape = vec![48, 32];
        let norm = file.get_mut(NORM).unwrap();
        norm.dtype = Dtype::BF16;
        norm.bytes.truncate(32);
        let bias = file.get_mut("cls.predictions.bias").unwrap();
        bias.bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    };
    let expected = "`bert.embeddings.LayerNorm.weight` has type BF16, expected F32; \
        `bert.embeddings.word_embeddings.weight` has shape [48, 32], expected [96, 16]; \
        `bert.encoder.layer.1.attention.self.query.weight` is missing; \
        `bert.encoder.layer.2.attention.self.query.weight` is unexpected; \
        `cls.predictions.bias` is not finite at index 2; \
        hint: save the model as f32 (`model.float().save_pretrained(DIR)`)";
    assert_eq!(message(change, Values::Finite), expected);
    // Unless asked for, values are not read; the rest stays.
    let unchecked = expected.replace("`cls.predictions.bias` is not finite at index 2; ", "");
    assert_eq!(message(change, Values::Unchecked), unchecked);
}

#[test]
fn long_lists_are_cut_and_counted() {
    let got = message(
        |file| file.retain(|name, _| name.starts_with("cls.")),
        Values::Unchecked,
    );
    // 42 parameters, 5 of them in the head.
    assert_eq!(got.matches(" is missing").count(), 20, "{got}");
    assert!(got.ends_with("; and 17 more, 37 in all"), "{got}");
}

#[test]
fn two_names_for_one_parameter_clash() {
    let got = message(
        |file| drop(file.insert("embeddings.LayerNorm.gamma".into(), file[NORM].clone())),
        Values::Unchecked,
    );
    let expected = "`bert.embeddings.LayerNorm.weight` is stored twice, as `bert.embeddings.LayerNorm.weight` and \
        `embeddings.LayerNorm.gamma`";
    assert_eq!(got, expected);
}

#[test]
fn every_cut_of_the_file_is_noticed() {
    let whole = std::fs::read(fixture().join("model.safetensors")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let lengths = (0..64)
        .chain((64..whole.len()).step_by(997))
        .chain([whole.len() - 1]);
    for length in lengths {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Weights::open(&path).unwrap_err().to_string();
        let expected = format!("weights are truncated or corrupted: `{}`", path.display());
        assert!(error.starts_with(&expected), "{length}: {error}");
    }
    // A header that claims more than there is, and one that is no JSON.
    for (at, byte) in [(2, 0xff), (8, b'x')] {
        let mut bad = whole.clone();
        bad[at] = byte;
        std::fs::write(&path, &bad).unwrap();
        assert!(Weights::open(&path).is_err(), "byte {at}");
    }
    let mut longer = whole;
    longer.push(0);
    std::fs::write(&path, &longer).unwrap();
    assert!(Weights::open(&path).is_err());
}

#[test]
fn absent_files_are_named_with_the_mend() {
    let directory = changed(|_| {}, |_| {});
    let weights = directory.path().join("model.safetensors");
    std::fs::rename(&weights, directory.path().join("pytorch_model.bin")).unwrap();
    let error = ModelDir::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("only `pytorch_model.bin`; hint: convert it with transformers"),
        "{error}"
    );
    std::fs::remove_file(directory.path().join("pytorch_model.bin")).unwrap();
    let error = ModelDir::open(directory.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot open weights: `{}`", weights.display())
    );
    std::fs::create_dir(&weights).unwrap();
    assert!(ModelDir::open(directory.path()).is_err());
    std::fs::remove_file(directory.path().join("config.json")).unwrap();
    let error = ModelDir::open(directory.path()).unwrap_err();
    assert!(
        matches!(
            error,
            ModelDirError::NotModelDir {
                missing: "config.json",
                ..
            }
        ),
        "{error}"
    );
    let directory = ModelDir::open(fixture()).unwrap();
    let error = directory.tokenizer_file().unwrap_err().to_string();
    assert!(error.contains("it has no `tokenizer.json`"), "{error}");
}

/// Changes a good configuration and gives the message.
fn invalid(change: impl FnOnce(&mut ModelConfig)) -> String {
    let mut config = ModelConfig {
        moe: Some(MoeConfig::new(4)),
        ..ModelConfig::new(100, 2, 16, 2, 32)
    };
    change(&mut config);
    config.validate().unwrap_err().to_string()
}

#[test]
fn all_violations_are_reported_at_once() {
    let got = invalid(|config| {
        config.hidden_size = 130;
        config.num_attention_heads = 4;
        config.num_hidden_layers = 0;
        config.hidden_dropout_prob = f64::NAN;
        config.attention_probs_dropout_prob = 1.0;
        config.pad_token_id = 100;
        config.hidden_act = "gelu_new".into();
        config.position_embedding_type = "relative_key".into();
        config.initializer_range = 0.0;
        config.moe = Some(MoeConfig {
            num_experts: 0,
            capacity_factor: Some(0.0),
            router_jitter: -0.1,
            balance_loss_weight: f64::INFINITY,
            z_loss_weight: f64::NAN,
            expert_dropout: 1.0,
        });
    });
    let expected = "invalid model configuration: `num_hidden_layers` is 0, must be from 1 to 16777216; \
        `hidden_size` is 130, must be a multiple of `num_attention_heads` (4); \
        `pad_token_id` is 100, must be below `vocab_size` (100); \
        `hidden_act` is `gelu_new`, must be `gelu` (the exact one; no other activation is supported); \
        `position_embedding_type` is `relative_key`, must be `absolute` (no other kind is supported); \
        `hidden_dropout_prob` is NaN, must be in [0, 1); \
        `attention_probs_dropout_prob` is 1, must be in [0, 1); \
        `initializer_range` is 0, must be above 0 and finite; \
        `moe.num_experts` is 0, must be from 1 to 65536; \
        `moe.capacity_factor` is 0, must be above 0 and finite; \
        `moe.router_jitter` is -0.1, must be in [0, 1); \
        `moe.expert_dropout` is 1, must be in [0, 1); \
        `moe.balance_loss_weight` is inf, must be at least 0 and finite; \
        `moe.z_loss_weight` is NaN, must be at least 0 and finite";
    assert_eq!(got, expected);
}

/// Sizes that no machine holds are refused before anything is computed from them.
#[test]
fn absurd_sizes_are_refused_without_overflow() {
    let got = invalid(|config| {
        config.vocab_size = usize::MAX;
        config.hidden_size = usize::MAX - 1;
        config.intermediate_size = usize::MAX;
        config.num_hidden_layers = usize::MAX;
        config.moe = Some(MoeConfig::new(usize::MAX));
    });
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "moe.num_experts",
    ] {
        assert!(
            got.contains(&format!("`{key}` is 18446744073709551")),
            "{key}: {got}"
        );
    }
    let wide = invalid(|config| {
        config.intermediate_size = 1 << 24;
        config.hidden_size = 1 << 17;
    });
    assert!(
        wide.contains("must give at most 4398046511104 parameters with the other sizes, not "),
        "{wide}"
    );
    assert!(invalid(|config| config.num_hidden_layers = 4097).contains("must be at most 4096"));
}

fn json_error(text: &str) -> String {
    match ModelConfig::from_json(text) {
        Err(error @ ConfigError::Invalid(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn config_json_is_read_key_by_key() {
    let got = json_error(
        r#"{"model_type": "roberta", "vocab_size": -3, "hidden_size": "16", "num_hidden_layers": 2,
            "intermediate_size": 32, "is_decoder": true, "pruned_heads": {"0": [1]}, "anything": 5}"#,
    );
    for part in [
        "`model_type` is `roberta`, must be `bert` or `tcd_moe_bert`",
        "`vocab_size` is -3, not accepted: ",
        "`hidden_size` is 16, not accepted: invalid type: string",
        "`num_attention_heads` is absent, must be given",
        "`is_decoder` is true, must be false",
        "`pruned_heads` is {\"0\":[1]}, must be empty",
    ] {
        assert!(got.contains(part), "{part}: {got}");
    }
    assert!(!got.contains("anything"), "{got}");
    let sizes = r#""vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4"#;
    let kinds = [
        (
            r#""model_type": "bert", "moe": {"num_experts": 2}"#,
            "must be `tcd_moe_bert`",
        ),
        (r#""model_type": "tcd_moe_bert""#, "`moe` is absent"),
        (r#""moe": {"num_experts": 2}"#, "`model_type` is absent"),
        (
            r#""model_type": "tcd_moe_bert", "moe": {"num_experts": 2, "top_k": 2}"#,
            "unknown field `top_k`",
        ),
    ];
    for (kind, part) in kinds {
        let got = json_error(&format!("{{{kind}, {sizes}}}"));
        assert!(got.contains(part), "{got}");
    }
    // Google's first files have neither `model_type` nor `layer_norm_eps`.
    let old = ModelConfig::from_json(&format!("{{{sizes}}}")).unwrap();
    assert_eq!(old, ModelConfig::new(9, 1, 4, 1, 4));
    assert!(matches!(
        ModelConfig::from_json("[1]"),
        Err(ConfigError::Json(_))
    ));
    assert!(matches!(
        ModelConfig::from_json("{"),
        Err(ConfigError::Json(_))
    ));
}
