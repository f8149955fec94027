#![allow(clippy::unwrap_used)]
use super::*;

fn info() -> FeaturesInfo {
    FeaturesInfo {
        command: "tcd features m".into(),
        model: "m".into(),
        model_blake3: "aa".into(),
        tokenizer_blake3: "bb".into(),
        data: "d.txt".into(),
        data_blake3: "cc".into(),
        special_ids: vec![0, 101, 102],
        task: Some("RTE".into()),
        labels: vec!["entailment".into(), "not_entailment".into()],
        num_experts: Some(4),
        num_heads: Some(2),
    }
}

fn slots() -> Vec<Slot> {
    vec![
        Slot::floats("layer.10.trunk", &[5, 3]),
        Slot::floats("layer.2.trunk", &[5, 3]),
        Slot::floats("embedding", &[5, 3]),
        Slot::ints("input_ids", &[5]),
        Slot::ints("row", &[5]),
        Slot::ints("position", &[5]),
        Slot::ints("expert.0", &[5]),
        Slot::floats("gate.0", &[5]),
        Slot::ints("rows.id", &[2]),
        Slot::floats("rows.label", &[2]),
    ]
}

fn fill(writer: &mut FeaturesWriter, row: &[i64; 5], position: &[i64; 5]) {
    for (at, name) in ["embedding", "layer.2.trunk", "layer.10.trunk"]
        .iter()
        .enumerate()
    {
        // Batches may come in any order.
        writer
            .floats(name, 3, &[9.0, 10.0, 11.0, 12.0, 13.0, at as f32])
            .unwrap();
        writer
            .floats(name, 0, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
            .unwrap();
    }
    writer
        .ints("input_ids", 0, &[101, 7, 102, 101, 102])
        .unwrap();
    writer.ints("row", 0, row).unwrap();
    writer.ints("position", 0, position).unwrap();
    writer.ints("expert.0", 0, &[0, 1, 2, 3, 0]).unwrap();
    writer.floats("gate.0", 0, &[0.5; 5]).unwrap();
    writer.ints("rows.id", 0, &[9, 4]).unwrap();
    writer.floats("rows.label", 0, &[0.0, 1.0]).unwrap();
}

fn written(row: &[i64; 5], position: &[i64; 5]) -> Result<FeaturesFile, FeaturesError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let mut writer = FeaturesWriter::create(&path, &info(), slots()).unwrap();
    fill(&mut writer, row, position);
    writer.finish().unwrap();
    FeaturesFile::open(&path)
}

#[test]
fn a_file_goes_round_in_blocks() {
    let file = written(&[9, 9, 9, 4, 4], &[0, 1, 2, 0, 1]).unwrap();
    assert_eq!(file.info(), &info());
    assert_eq!(
        file.taps(),
        ["embedding", "layer.2.trunk", "layer.10.trunk"]
    );
    assert_eq!((file.tokens(), file.width("embedding").unwrap()), (5, 3));
    assert_eq!(file.input_ids(), [101, 7, 102, 101, 102]);
    assert_eq!(
        file.rows(),
        [
            RowSpan {
                id: 9,
                tokens: 0..3
            },
            RowSpan {
                id: 4,
                tokens: 3..5
            }
        ]
    );
    let mut block = Vec::new();
    file.read_tap("layer.10.trunk", 2..5, &mut block).unwrap();
    assert_eq!(block, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 2.0]);
    assert_eq!(file.routed_layers(), [0]);
    assert_eq!(file.small_ints("expert.0").unwrap(), [0, 1, 2, 3, 0]);
    assert_eq!(file.floats("rows.label").unwrap(), [0.0, 1.0]);
    file.check_same_tokens(&file).unwrap();
    file.check_same_rows(&file).unwrap();
}

#[test]
fn rows_that_are_torn_apart_or_miscounted_are_named() {
    let error = written(&[9, 9, 4, 9, 4], &[0, 1, 0, 2, 1])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`row` [3]") && error.contains("row 9"),
        "{error}"
    );
    let error = written(&[9, 9, 9, 4, 4], &[0, 1, 1, 0, 1])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`position` [2] is 1, expected 2"), "{error}");
    let error = written(&[4, 4, 4, 9, 9], &[0, 1, 2, 0, 1])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`rows.id`"), "{error}");
    let error = written(&[-1, -1, -1, 9, 9], &[0, 1, 2, 0, 1])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`row` [0]: -1"), "{error}");
}

#[test]
fn gaps_and_unknown_names_are_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let mut writer = FeaturesWriter::create(&path, &info(), slots()).unwrap();
    writer.ints("row", 0, &[1, 1]).unwrap();
    let error = writer
        .floats("embedding", 4, &[0.0; 6])
        .unwrap_err()
        .to_string();
    assert!(error.contains("do not fit"), "{error}");
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("values were written"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let error =
        FeaturesWriter::create(&path, &info(), vec![Slot::floats("layer.0.trunc", &[1, 1])])
            .unwrap_err();
    assert!(error.to_string().contains("layer.0.trunc"));
}

#[test]
fn bytes_that_are_no_features_file_are_refused_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let mut writer = FeaturesWriter::create(&path, &info(), slots()).unwrap();
    fill(&mut writer, &[9, 9, 9, 4, 4], &[0, 1, 2, 0, 1]);
    writer.finish().unwrap();
    let good = std::fs::read(&path).unwrap();
    for cut in [0, 7, 8, 40, good.len() - 1] {
        std::fs::write(&path, &good[..cut]).unwrap();
        let error = FeaturesFile::open(&path).unwrap_err();
        assert!(
            matches!(error, FeaturesError::Header { .. }),
            "{cut}: {error}"
        );
    }
    // A change of equal length in the header each.
    for (from, to, word) in [
        ("tcd-features 1", "tcd-features 9", "format"),
        ("layer.2.trunk", "layer.2.trunc", "unknown name"),
        ("\"position\"", "\"positiom\"", "position"),
        ("[0,101,102]", "[0,101,1x2]", "special_ids"),
        ("\"num_experts\"", "\"num_expertz\"", "num_experts"),
        ("\"shape\":[5,3]", "\"shape\":[3,5]", "[5, H]"),
    ] {
        let text = String::from_utf8_lossy(&good).into_owned();
        assert!(text.contains(from), "{from}");
        let at = good
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        let mut bad = good.clone();
        bad[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, bad).unwrap();
        let error = FeaturesFile::open(&path).unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("f.safetensors"),
            "{error}"
        );
    }
}

#[test]
fn tap_names_are_those_of_the_encoder() {
    for good in [
        "embedding",
        "layer.0.trunk",
        "layer.11.attention.inner",
        "layer.3.ffn.inner",
        "layer.0.query",
    ] {
        assert!(is_tap(good), "{good}");
    }
    for bad in [
        "layer.trunk",
        "layer.01.trunk",
        "layer.1.output",
        "layer..trunk",
        "expert.0",
        "layer.1",
    ] {
        assert!(!is_tap(bad), "{bad}");
    }
}
