//! What `transformers` wrote is read as it is, in each of the forms in which it has been written over the years.

use tcd_export::{
    Fault, Head, ModelDir, ModelDirError, Values, Weights, WeightsError, parameter_count,
};

use super::common::{File, changed, fixture, names, read, renamed};

const DECODER: &str = "cls.predictions.decoder.weight";
const DECODER_BIAS: &str = "cls.predictions.decoder.bias";
const WORDS: &str = "bert.embeddings.word_embeddings.weight";
const BIAS: &str = "cls.predictions.bias";

/// Reads a directory strictly as a masked-LM model and compares every byte with the fixture.
fn assert_same(directory: &ModelDir, expected: &File) -> Vec<String> {
    let loaded = directory.load(Head::MaskedLm, Values::Finite).unwrap();
    assert_eq!(loaded.len(), expected.len());
    for (name, tensor) in loaded.iter() {
        let expected = &expected[name];
        assert_eq!(
            (tensor.shape, tensor.bytes),
            (&expected.shape[..], &expected.bytes[..]),
            "{name}"
        );
    }
    loaded
        .dropped()
        .iter()
        .map(|dropped| dropped.name.clone())
        .collect()
}

#[test]
fn fixture_loads_strictly() {
    let directory = ModelDir::open(fixture()).unwrap();
    assert_eq!(directory.head(), Head::MaskedLm);
    assert!(directory.architecture().tie_word_embeddings);
    assert_eq!(directory.architecture().head_size(), 8);
    assert!(directory.record().is_none());
    let expected = read(&fixture().join("model.safetensors"));
    assert_eq!(assert_same(&directory, &expected), Vec::<String>::new());
    // sum(p.numel() for p in model.parameters()), which counts tied tensors once
    assert_eq!(
        parameter_count(directory.architecture(), Head::MaskedLm),
        6960
    );
    let names: Vec<_> = directory.weights().names().collect();
    assert_eq!(
        names,
        super::common::names(directory.architecture(), Head::MaskedLm)
    );
}

/// What it is called, how the fixture is brought into it, what is then left out at reading.
type Form = (&'static str, fn(&mut File), &'static [&'static str]);

#[test]
fn old_forms_are_brought_to_one() {
    let expected = read(&fixture().join("model.safetensors"));
    let forms: [Form; 4] = [
        (
            "unprefixed",
            |file| *file = renamed(file, |name| name.trim_start_matches("bert.").to_owned()),
            &[],
        ),
        (
            "gamma and beta",
            |file| {
                *file = renamed(file, |name| {
                    name.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta")
                });
                assert!(file.contains_key("bert.embeddings.LayerNorm.gamma"));
            },
            &[],
        ),
        (
            "tied copies",
            |file| {
                file.insert(DECODER.into(), file[WORDS].clone());
                file.insert(DECODER_BIAS.into(), file[BIAS].clone());
            },
            &[DECODER_BIAS, DECODER],
        ),
        (
            "buffer, pooler and next-sentence head",
            |file| {
                let mut positions = file[BIAS].clone();
                positions.dtype = safetensors::Dtype::I32;
                file.insert("embeddings.position_ids".into(), positions);
                file.insert("bert.pooler.dense.bias".into(), file[BIAS].clone());
                file.insert("cls.seq_relationship.weight".into(), file[BIAS].clone());
            },
            &[
                "bert.pooler.dense.bias",
                "embeddings.position_ids",
                "cls.seq_relationship.weight",
            ],
        ),
    ];
    for (form, change, dropped) in forms {
        let directory = changed(change, |_| {});
        let directory = ModelDir::open(directory.path()).unwrap();
        let mut got = assert_same(&directory, &expected);
        let mut dropped: Vec<_> = dropped.iter().map(|name| name.to_string()).collect();
        got.sort();
        dropped.sort();
        assert_eq!(got, dropped, "{form}");
        assert!(directory.architecture().tie_word_embeddings, "{form}");
    }
}

/// A decoder of its own is used whether `config.json` says so or not, with the bias that `transformers` computes with.
#[test]
fn untied_decoder_is_a_parameter() {
    for tied in [true, false] {
        let directory = changed(
            |file| {
                let mut own = file[WORDS].clone();
                own.bytes.rotate_left(4);
                file.insert(DECODER.into(), own);
                if !tied {
                    let mut own = file[BIAS].clone();
                    own.bytes.rotate_left(4);
                    file.insert(DECODER_BIAS.into(), own);
                }
            },
            |config| drop(config.insert("tie_word_embeddings".into(), tied.into())),
        );
        let file = read(&directory.path().join("model.safetensors"));
        let directory = ModelDir::open(directory.path()).unwrap();
        assert!(!directory.architecture().tie_word_embeddings);
        let loaded = directory.load(Head::MaskedLm, Values::Finite).unwrap();
        assert_eq!(loaded.tensor(DECODER).unwrap().bytes, file[DECODER].bytes);
        assert_ne!(loaded.tensor(DECODER).unwrap().bytes, file[WORDS].bytes);
        let bias = if tied { BIAS } else { DECODER_BIAS };
        assert_eq!(loaded.tensor(BIAS).unwrap().bytes, file[bias].bytes);
    }
}

/// `tie_word_embeddings` false promises a decoder; its absence is an error, not a tie.
#[test]
fn promised_decoder_is_missing() {
    let directory = changed(
        |_| {},
        |config| drop(config.insert("tie_word_embeddings".into(), false.into())),
    );
    let directory = ModelDir::open(directory.path()).unwrap();
    let error = directory
        .load(Head::MaskedLm, Values::Unchecked)
        .unwrap_err();
    let ModelDirError::Weights(WeightsError::Mismatch { offences, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(offences.len(), 1);
    assert_eq!(
        (offences[0].name.as_str(), &offences[0].fault),
        (DECODER, &Fault::Missing)
    );
}

#[test]
fn tied_bias_that_differs_is_an_error() {
    let directory = changed(
        |file| {
            let mut own = file[BIAS].clone();
            own.bytes.rotate_left(4);
            file.insert(DECODER_BIAS.into(), own);
        },
        |_| {},
    );
    let directory = ModelDir::open(directory.path()).unwrap();
    let error = directory
        .load(Head::MaskedLm, Values::Unchecked)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`cls.predictions.decoder.bias` differs from `cls.predictions.bias`"),
        "{error}"
    );
    assert!(
        error.contains("hint: set `tie_word_embeddings` to false"),
        "{error}"
    );
}

/// A masked-LM directory starts a classifier: the encoder is read, pooler and classifier are fresh.
#[test]
fn fine_tuning_starts_from_a_masked_language_model() {
    let directory = ModelDir::open(fixture()).unwrap();
    let head = Head::SequenceClassification { labels: 3 };
    let initial = directory.load_or_fresh(head, Values::Unchecked).unwrap();
    let fresh: Vec<_> = initial
        .fresh
        .iter()
        .map(|row| (row.name.as_str(), row.shape.clone()))
        .collect();
    let expected = [
        ("bert.pooler.dense.weight", vec![16, 16]),
        ("bert.pooler.dense.bias", vec![16]),
        ("classifier.weight", vec![3, 16]),
        ("classifier.bias", vec![3]),
    ];
    assert_eq!(fresh, expected);
    let loaded: Vec<_> = initial
        .loaded
        .iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(loaded, names(directory.architecture(), Head::None));
    assert_eq!(initial.loaded.dropped().len(), 5);
    // Half a pooler is no pooler: that is a mistake, not a fresh start.
    let half = changed(
        |file| {
            drop(file.insert(
                "bert.pooler.dense.bias".into(),
                file["bert.embeddings.LayerNorm.bias"].clone(),
            ))
        },
        |_| {},
    );
    let half = ModelDir::open(half.path()).unwrap();
    let error = half
        .load_or_fresh(head, Values::Unchecked)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`bert.pooler.dense.weight` is missing"),
        "{error}"
    );
}

#[test]
fn values_are_those_of_the_file() {
    let weights = Weights::open(fixture().join("model.safetensors")).unwrap();
    let directory = ModelDir::open(fixture()).unwrap();
    let table = tcd_export::parameters(directory.architecture(), Head::MaskedLm);
    let loaded = weights.load(&table, Values::Unchecked).unwrap();
    // model.bert.embeddings.LayerNorm.weight[:4].tolist()
    let norm = loaded.tensor("bert.embeddings.LayerNorm.weight").unwrap();
    assert_eq!(norm.shape, [16]);
    assert_eq!(
        norm.to_vec()[..4],
        [1.5487092, 0.454332, 0.937476, 0.69473696]
    );
}
