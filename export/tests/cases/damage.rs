//! Damaged, foreign and unfitting files and batches: a clear error, never a panic, and never a wrong answer in silence.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tcd_export::Head;
use tcd_export::onnx::proto::ModelProto;
use tcd_export::onnx::{OnnxFile, Options};
use tcd_export::runtime::{Feed, Options as RunOptions};

use super::engines::{Rows, architecture, engines, export};

const ONE: RunOptions = RunOptions {
    threads: 1,
    outputs: vec![],
};

/// The whole chain of an error.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

fn small(folder: &Path, options: &Options) -> PathBuf {
    export(
        &architecture(Some(2)),
        Head::SequenceClassification { labels: 2 },
        folder,
        options,
    )
    .path
}

/// What every engine and the reader say of a file; all must refuse it.
fn refused(path: &Path, part: &str) {
    let error = chain(&OnnxFile::open(path).unwrap_err());
    assert!(
        error.contains(part) && (error.contains("hint") || part == "cannot read"),
        "{part} not in: {error}"
    );
    for engine in engines() {
        let error = chain(&*engine.prepare(path, &ONE).err().unwrap());
        assert!(
            error.contains(part),
            "{}: {part} not in: {error}",
            engine.name()
        );
    }
}

#[test]
fn files_that_are_no_models_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    refused(&path, "no ONNX model");
    refused(folder.path(), "model.onnx");
    fs::create_dir(&path).unwrap();
    refused(folder.path(), "cannot read");
    fs::remove_dir(&path).unwrap();
    for (bytes, part) in [
        (&b""[..], "has no graph"),
        (b"PK\x03\x04 zip", "not an ONNX model"),
        (b"{\"json\": 1}", "not an ONNX model"),
    ] {
        fs::write(&path, bytes).unwrap();
        refused(&path, part);
    }
    let whole = fs::read(small(folder.path(), &Options::default())).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&path, "cut short");
}

#[test]
fn values_beside_the_model_must_all_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let config = tcd_export::ModelConfig {
        max_position_embeddings: 10,
        ..tcd_export::ModelConfig::new(20, 1, 32, 2, 64)
    };
    let options = Options {
        external_data: true,
        ..Options::default()
    };
    let written = export(
        &config.validate().unwrap(),
        Head::None,
        folder.path(),
        &options,
    );
    let data = written.data.unwrap();
    let bytes = fs::read(&data).unwrap();
    fs::write(&data, &bytes[..bytes.len() - 1]).unwrap();
    refused(&written.path, "values are missing");
    fs::remove_file(&data).unwrap();
    refused(&written.path, "model.onnx.data");
    // Not out of the model's folder.
    let mut model = ModelProto::decode(Bytes::from(fs::read(&written.path).unwrap())).unwrap();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        for entry in tensor
            .external_data
            .iter_mut()
            .filter(|entry| entry.key == "location")
        {
            entry.value = "../../etc/passwd".to_owned();
        }
    }
    fs::write(&written.path, model.encode_to_vec()).unwrap();
    refused(&written.path, "not a path below");
}

/// The file with something changed.
fn altered(folder: &Path, change: impl FnOnce(&mut ModelProto)) -> PathBuf {
    let path = small(folder, &Options::default());
    let mut model = ModelProto::decode(Bytes::from(fs::read(&path).unwrap())).unwrap();
    change(&mut model);
    fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

#[test]
fn graphs_that_contradict_themselves_are_refused() {
    type Change = fn(&mut ModelProto);
    let changes: [(Change, &str); 8] = [
        (|model| model.opset_import[0].version = 99, "unknown opset"),
        (|model| model.opset_import.clear(), "has no opset"),
        (
            |model| model.graph.as_mut().unwrap().node.clear(),
            "has no operators",
        ),
        (
            |model| model.graph.as_mut().unwrap().node[3].input[0] = "nowhere".to_owned(),
            "`nowhere`, which nothing",
        ),
        (
            |model| model.graph.as_mut().unwrap().node.reverse(),
            "which nothing before it gives",
        ),
        (
            |model| model.graph.as_mut().unwrap().output[0].name = "labels".to_owned(),
            "output `labels` is given by nothing",
        ),
        (
            |model| drop(model.graph.as_mut().unwrap().initializer.remove(2)),
            "which nothing before it gives",
        ),
        (
            |model| model.graph.as_mut().unwrap().initializer[5].dims = vec![3, 5],
            "expected 60",
        ),
    ];
    for (change, part) in changes {
        let folder = tempfile::tempdir().unwrap();
        refused(&altered(folder.path(), change), part);
    }
}

/// What the reader cannot know, the engine says: an operator that nobody has.
#[test]
fn unknown_operators_and_inputs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let operator = altered(folder.path(), |model| {
        let graph = model.graph.as_mut().unwrap();
        graph
            .node
            .iter_mut()
            .find(|node| node.op_type == "Tanh")
            .unwrap()
            .op_type = "Tangent".to_owned();
    });
    assert!(
        OnnxFile::open(&operator)
            .unwrap()
            .operators
            .contains_key("Tangent")
    );
    for engine in engines() {
        let error = chain(&*engine.prepare(&operator, &ONE).err().unwrap());
        assert!(
            error.contains("Tangent") && error.contains("model.onnx") && error.contains("hint"),
            "{error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let input = altered(folder.path(), |model| {
        let graph = model.graph.as_mut().unwrap();
        let name = "pixels".to_owned();
        for node in &mut graph.node {
            node.input
                .iter_mut()
                .filter(|input| *input == "token_type_ids")
                .for_each(|input| input.clone_from(&name));
        }
        graph.input[2].name = name;
    });
    for engine in engines() {
        let error = chain(&*engine.prepare(&input, &ONE).err().unwrap());
        assert!(
            error.contains("unknown input") && error.contains("`pixels`"),
            "{error}"
        );
    }
}

/// Exports of other programs: without token types, with i32.
#[test]
fn inputs_go_by_name_and_may_be_fewer_or_narrower() {
    let rows = Rows::new(&[4, 6], 6, 2);
    let mut untyped = rows.clone();
    untyped.types.fill(0);
    let folder = tempfile::tempdir().unwrap();
    let path = altered(folder.path(), |model| {
        let graph = model.graph.as_mut().unwrap();
        graph.input.swap(0, 1);
        graph.input.pop();
        let mut zeros = graph.node[0].clone();
        zeros.op_type = "Mul".to_owned();
        zeros.input[0] = "attention_mask".to_owned();
        zeros.output[0] = "token_type_ids".to_owned();
        zeros.name = "zeros".to_owned();
        graph.node.insert(0, zeros);
        model.metadata_props.clear();
    });
    for engine in engines() {
        let mut model = engine.prepare(&path, &ONE).unwrap();
        let (one, two) = (
            model.run(&rows.feed()).unwrap(),
            model.run(&untyped.feed()).unwrap(),
        );
        assert_eq!(one, two, "{}", engine.name());
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = small(folder.path(), &Options::default());
    for engine in engines() {
        let mut model = engine.prepare(&path, &ONE).unwrap();
        let mut refuse = |rows: &Rows, part: &str| {
            let error = chain(&*model.run(&rows.feed()).unwrap_err());
            assert!(error.contains(part), "{}: {error}", engine.name());
        };
        refuse(&Rows::new(&[], 0, 0), "0 rows and 0 positions");
        refuse(&Rows::new(&[11], 11, 0), "at most 10 positions");
        for id in [20, -1, i64::MAX] {
            let mut wrong = Rows::new(&[4], 4, 0);
            wrong.ids[2] = id;
            refuse(&wrong, "outside the model's vocabulary of 20");
        }
        let mut short = Rows::new(&[4], 4, 0);
        short.mask.pop();
        refuse(&short, "3 values in `attention_mask`");
        let rows = Rows::new(&[4], 4, 0);
        let huge = Feed {
            batch: usize::MAX,
            sequence: 3,
            ..rows.feed()
        };
        assert!(model.run(&huge).is_err());
        // The model goes on after refusals.
        assert!(model.run(&Rows::new(&[4], 4, 0).feed()).is_ok());
    }
}

fn whole() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::read(small(folder.path(), &Options::default())).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// The reader survives any damage.
    #[test]
    fn readers_survive_any_change(cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut bytes = whole().to_vec();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = OnnxFile::decode(Bytes::from(bytes), PathBuf::from("model.onnx"));
    }

    /// The reader survives any bytes.
    #[test]
    fn readers_survive_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = OnnxFile::decode(Bytes::from(bytes), PathBuf::from("model.onnx"));
    }
}

/// Where the values of the first kilobytes begin, the graph ends; damage there meets the engines.
fn structure_end() -> usize {
    let bytes = whole();
    let first = b"i64(0)";
    bytes
        .windows(first.len())
        .rposition(|window| window == first)
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Engines give an error or an answer, whatever happened to the file.
    #[test]
    fn engines_survive_any_change(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3)) {
        let mut bytes = whole().to_vec();
        let end = structure_end();
        for (place, value) in flips {
            bytes[place.index(end)] = value;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, &bytes).unwrap();
        for engine in engines() {
            if let Ok(mut model) = engine.prepare(&path, &ONE) {
                let _ = model.run(&Rows::new(&[4, 2], 4, 1).feed());
            }
        }
    }
}
