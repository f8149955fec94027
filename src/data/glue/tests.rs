#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::data::controlled::{Settings, generate};

fn find(data: &Path, task: &str, split: &str) -> Result<Found, GlueError> {
    let task = Task::find(task).unwrap();
    read_split(data, task, task.split(split).unwrap(), false)
}

fn have(data: &Path, task: &str, split: &str) -> SplitData {
    match find(data, task, split).unwrap() {
        Found::Data(data) => *data,
        Found::Missing(missing) => panic!("{missing}"),
    }
}

/// A data directory with one file.
fn one(file: &str, bytes: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    dir
}

/// Task, split, rows, rows of each label: the numbers that stand in the README of the shared data.
type Counts = (&'static str, &'static str, usize, &'static [usize]);
const REAL: [Counts; 19] = [
    ("CoLA", "train", 8551, &[2528, 6023]),
    ("CoLA", "dev", 1043, &[322, 721]),
    ("CoLA", "test", 1063, &[]),
    ("SST-2", "train", 67_349, &[29_780, 37_569]),
    ("SST-2", "dev", 872, &[428, 444]),
    ("SST-2", "test", 1821, &[]),
    ("MRPC", "train", 3668, &[1194, 2474]),
    ("MRPC", "dev", 408, &[129, 279]),
    ("MRPC", "test", 1725, &[]),
    ("STS-B", "train", 5749, &[]),
    ("STS-B", "dev", 1500, &[]),
    ("STS-B", "test", 1379, &[]),
    ("RTE", "train", 2490, &[1249, 1241]),
    ("RTE", "dev", 277, &[146, 131]),
    ("RTE", "test", 3000, &[]),
    ("MNLI", "train", 10_471, &[3565, 3470, 3436]),
    ("MNLI", "dev_matched", 9815, &[3479, 3123, 3213]),
    ("QQP", "train", 9310, &[5904, 3406]),
    ("QQP", "dev", 999, &[623, 376]),
];

fn real() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/glue");
    if data.is_dir() {
        return Some(data);
    }
    crate::data::absent("GLUE");
    None
}

#[test]
fn real_files_have_their_rows_and_labels() {
    let Some(data) = real() else { return };
    for (task, split, rows, counts) in REAL {
        let got = have(&data, task, split);
        assert_eq!(got.examples.len(), rows, "{task} {split}");
        if task != "STS-B" && !counts.is_empty() {
            assert_eq!(got.label_counts(), counts, "{task} {split}");
        }
        let hidden = got.split.role == Role::Test;
        assert!(got.examples.iter().all(|e| e.target.is_none() == hidden));
        assert!(
            got.examples.iter().all(|e| !e.first.is_empty()),
            "{task} {split}"
        );
        let indices = got.examples.iter().map(|e| e.index);
        assert!(indices.eq(0..rows as u64), "{task} {split}");
        let sample = task == "QQP" || (task, split) == ("MNLI", "train");
        assert_eq!(got.is_official_size(), !sample, "{task} {split}");
    }
    for (task, split) in [("MNLI", "dev_mismatched"), ("QNLI", "dev"), ("AX", "test")] {
        assert!(
            matches!(find(&data, task, split).unwrap(), Found::Missing(_)),
            "{task}"
        );
    }
}

#[test]
fn real_rows_read_as_they_stand() {
    let Some(data) = real() else { return };
    let mrpc = have(&data, "MRPC", "dev");
    assert!(
        mrpc.examples[0]
            .first
            .starts_with("He said the foodservice pie business")
    );
    assert!(
        mrpc.examples[0]
            .second
            .as_deref()
            .unwrap()
            .starts_with("\" The foodservice")
    );
    let sts = have(&data, "STS-B", "dev");
    assert_eq!(sts.examples[0].target, Some(Target::Score(5.0)));
    assert_eq!(sts.examples[0].first, "A man with a hard hat is dancing.");
    let cola = have(&data, "CoLA", "dev");
    assert_eq!(
        cola.examples[0].first,
        "The sailors rode the breeze clear of the rocks."
    );
    assert!(
        cola.examples[1042].target.is_some(),
        "the last line has no line end"
    );
}

#[test]
fn mrpc_is_made_of_its_source_as_glue_makes_it() {
    let Some(data) = real() else { return };
    let source = tempfile::tempdir().unwrap();
    let folder = source.path().join("MRPC");
    fs::create_dir(&folder).unwrap();
    for file in ["msr_paraphrase_train.txt", "dev_ids.tsv"] {
        fs::copy(data.join("MRPC").join(file), folder.join(file)).unwrap();
    }
    for split in ["train", "dev"] {
        let texts = |data: SplitData| {
            let mut rows: Vec<_> = data
                .examples
                .into_iter()
                .map(|e| (e.first, e.second, format!("{:?}", e.target)))
                .collect();
            rows.sort();
            rows
        };
        let made = have(source.path(), "MRPC", split);
        assert_eq!(texts(made), texts(have(&data, "MRPC", split)), "{split}");
    }
    assert!(matches!(
        find(source.path(), "MRPC", "test").unwrap(),
        Found::Missing(_)
    ));
    fs::write(folder.join("dev_ids.tsv"), "1\t2\n").unwrap();
    assert!(matches!(
        find(source.path(), "MRPC", "dev"),
        Err(GlueError::DevIds { count: 1, .. })
    ));
    fs::write(folder.join("dev_ids.tsv"), "1606495\t1606619\n1\n").unwrap();
    assert!(matches!(
        find(source.path(), "MRPC", "dev"),
        Err(GlueError::Row { line: 2, .. })
    ));
}

#[test]
fn every_generated_file_reads() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        seed: 3,
        documents: 2,
        examples: 60,
    };
    generate(dir.path(), &settings).unwrap();
    let data = dir.path().join("glue");
    for task in &TASKS {
        for split in task.splits {
            let got = have(&data, task.name, split.name);
            let wanted = if split.role == Role::Train { 60 } else { 12 };
            assert_eq!(got.examples.len(), wanted, "{} {}", task.name, split.name);
            let pairs = split.columns.texts.len() == 2;
            assert!(got.examples.iter().all(|e| e.second.is_some() == pairs));
            assert_eq!(
                got.label_counts().len(),
                if split.role == Role::Test {
                    0
                } else {
                    task.labels.len()
                }
            );
        }
    }
}

#[test]
fn quirks_of_the_files_are_taken_as_they_come() {
    let header = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n";
    let text = format!("{header}1\t1\t2\t\" a\tb \"\" c\r\n0\t3\t4\t\tlast");
    let dir = one("mrpc/dev.tsv", text);
    let rows = have(dir.path(), "MRPC", "dev").examples;
    assert_eq!(rows[0].first, "\" a");
    assert_eq!(rows[0].second.as_deref(), Some("b \"\" c"));
    assert_eq!(
        (rows[1].first.as_str(), rows[1].second.as_deref()),
        ("", Some("last"))
    );
    assert_eq!(rows[1].target, Some(Target::Class(0)));
    // The data directory may be the task's own.
    let own = dir.path().join("mrpc");
    assert_eq!(have(&own, "MRPC", "dev").examples, rows);
    // Columns go by name.
    let dir = one(
        "RTE/dev.tsv",
        "label\tsentence2\tsentence1\tx\nentailment\tb\ta\t9\n",
    );
    let rows = have(dir.path(), "RTE", "dev").examples;
    assert_eq!(
        (rows[0].first.as_str(), rows[0].target),
        ("a", Some(Target::Class(0)))
    );
}

#[test]
fn malformed_rows_are_told_with_file_and_line() {
    for (file, text, line, said) in [
        (
            "CoLA/dev.tsv",
            "a\t1\t\tgood\nb\t1\tshort\n",
            2,
            "expected 4 columns (source, label, mark, sentence), got: 3",
        ),
        (
            "CoLA/dev.tsv",
            "a\t2\t\tx\n",
            1,
            "column 2: expected one of 0, 1, got: `2`",
        ),
        ("CoLA/dev.tsv", "a\t1\t\tx\n\nb\t1\t\tx\n", 2, "got: 1"),
        (
            "SST-2/dev.tsv",
            "sentence\tlabel\nfine\tpositive\n",
            2,
            "got: `positive`",
        ),
        (
            "STS-B/dev.tsv",
            "sentence1\tsentence2\tscore\na\tb\t5.1\n",
            2,
            "a score from 0 to 5",
        ),
        (
            "STS-B/dev.tsv",
            "sentence1\tsentence2\tscore\na\tb\tnan\n",
            2,
            "a score from 0 to 5",
        ),
        (
            "RTE/test.tsv",
            "index\tsentence1\tsentence2\n0\ta\tb\n-1\ta\tb\n",
            3,
            "a row number in column 1",
        ),
    ] {
        let dir = one(file, text);
        let (folder, split) = file.split_once('/').unwrap();
        let split = split.trim_end_matches(".tsv");
        let error = find(dir.path(), folder, split).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(file) && message.contains(&format!("line {line}:")),
            "{message}"
        );
        assert!(
            message.contains(said) && message.contains("--skip-malformed"),
            "{message}"
        );
    }
    let mut bytes = b"sentence\tlabel\nfine\t1\nb".to_vec();
    bytes.extend(b"\xff\t1\nlast\t0\n");
    let dir = one("SST-2/dev.tsv", bytes);
    let error = find(dir.path(), "SST-2", "dev").unwrap_err().to_string();
    assert!(error.contains("line 3: expected UTF-8"), "{error}");
    let task = Task::find("SST-2").unwrap();
    let Found::Data(kept) = read_split(dir.path(), task, task.split("dev").unwrap(), true).unwrap()
    else {
        panic!("missing");
    };
    assert_eq!((kept.examples.len(), kept.left_out.len()), (2, 1));
    assert!(kept.notes()[0].contains("left out") && kept.notes()[0].contains(":3:"));
}

#[test]
fn headers_empty_files_and_two_folders_are_told() {
    let dir = one("RTE/dev.tsv", "index\tsentence1\tlabel\n0\ta\tentailment\n");
    let error = find(dir.path(), "RTE", "dev").unwrap_err().to_string();
    assert!(
        error.contains("`sentence2`") && error.contains("index, sentence1, label"),
        "{error}"
    );
    for text in ["", "sentence\tlabel\n"] {
        let dir = one("SST-2/dev.tsv", text);
        assert!(matches!(
            find(dir.path(), "SST-2", "dev"),
            Err(GlueError::Empty { .. })
        ));
    }
    let dir = one("SST-2/dev.tsv", "sentence\tlabel\nx\t1\n");
    fs::create_dir(dir.path().join("sst2")).unwrap();
    assert!(matches!(
        find(dir.path(), "SST-2", "dev"),
        Err(GlueError::TwoFolders { .. })
    ));
    let nowhere = find(Path::new("/nowhere"), "SST-2", "dev");
    assert!(matches!(nowhere, Err(GlueError::Io { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for task in &TASKS {
            for split in task.splits {
                let path = Path::new("file");
                let _ = tsv::parse(&bytes, task, split, path);
                let header = split.columns.texts.join("\t").into_bytes();
                let _ = tsv::parse(&[header, b"\n".to_vec(), bytes.clone()].concat(), task, split, path);
            }
        }
        let task = Task::find("CoLA").unwrap();
        let _ = hub::parse(bytes, task, task.split("dev").unwrap(), Path::new("file"), 0);
    }

    /// A real file with bytes changed is an error or reads otherwise; it never panics.
    #[test]
    fn no_damage_to_a_parquet_file_makes_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = parquet_bytes(false, &["one", "two", "three"], &[1, 0, 1]);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let task = Task::find("CoLA").unwrap();
        let _ = hub::parse(bytes, task, task.split("dev").unwrap(), Path::new("file"), 0);
    }
}

fn column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: &[T::T],
    optional: bool,
) {
    let mut column = group.next_column().unwrap().unwrap();
    let levels = vec![1i16; values.len()];
    column
        .typed::<T>()
        .write_batch(values, optional.then_some(&levels[..]), None)
        .unwrap();
    column.close().unwrap();
}

/// CoLA as the Hugging Face data set has it: optional columns, Snappy.
fn parquet_bytes(hidden: bool, texts: &[&str], labels: &[i64]) -> Vec<u8> {
    let schema = "message schema { optional binary sentence (UTF8); optional int64 label; optional int32 idx; }";
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(
        &mut bytes,
        Arc::new(parse_message_type(schema).unwrap()),
        Arc::new(properties),
    )
    .unwrap();
    let mut group = file.next_row_group().unwrap();
    let texts: Vec<ByteArray> = texts.iter().map(|&t| t.into()).collect();
    column::<ByteArrayType>(&mut group, &texts, true);
    let labels: Vec<i64> = labels
        .iter()
        .map(|&l| if hidden { -1 } else { l })
        .collect();
    column::<Int64Type>(&mut group, &labels, true);
    let indices: Vec<i32> = (0..labels.len() as i32).map(|i| i + 10).collect();
    column::<Int32Type>(&mut group, &indices, true);
    group.close().unwrap();
    file.close().unwrap();
    bytes
}

#[test]
fn parquet_files_of_hugging_face_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cola");
    fs::create_dir(&folder).unwrap();
    for (part, texts) in [("00000", ["a", "\"b\t"]), ("00001", ["c", "d"])] {
        let bytes = parquet_bytes(false, &texts, &[1, 0]);
        fs::write(folder.join(format!("train-{part}-of-00002.parquet")), bytes).unwrap();
    }
    let bytes = parquet_bytes(true, &["hidden"], &[0]);
    fs::write(folder.join("test-00000-of-00001.parquet"), bytes).unwrap();
    let train = have(dir.path(), "CoLA", "train");
    assert_eq!(train.files.len(), 2);
    let texts: Vec<&str> = train.examples.iter().map(|e| e.first.as_str()).collect();
    assert_eq!(texts, ["a", "\"b\t", "c", "d"]);
    assert_eq!(train.label_counts(), [2, 2]);
    assert_eq!(train.examples[1].index, 11);
    assert_eq!(have(dir.path(), "CoLA", "test").examples[0].target, None);
    assert!(matches!(
        find(dir.path(), "CoLA", "dev").unwrap(),
        Found::Missing(_)
    ));
    // A development set with hidden labels is malformed.
    fs::write(
        folder.join("validation-00000-of-00001.parquet"),
        parquet_bytes(true, &["x"], &[0]),
    )
    .unwrap();
    let error = find(dir.path(), "CoLA", "dev").unwrap_err().to_string();
    assert!(error.contains("got: -1"), "{error}");
}

#[test]
fn parquet_scores_are_of_any_width_and_wrong_columns_are_told() {
    let write = |kind: &str| {
        let schema = format!(
            "message schema {{ required binary sentence1 (UTF8); required binary sentence2 (UTF8); required {kind} label; }}"
        );
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(
            &mut bytes,
            Arc::new(parse_message_type(&schema).unwrap()),
            Arc::new(WriterProperties::builder().build()),
        )
        .unwrap();
        let mut group = file.next_row_group().unwrap();
        column::<ByteArrayType>(&mut group, &["a".into()], false);
        column::<ByteArrayType>(&mut group, &["b".into()], false);
        match kind {
            "float" => column::<FloatType>(&mut group, &[2.5], false),
            "double" => column::<DoubleType>(&mut group, &[2.5], false),
            _ => column::<ByteArrayType>(&mut group, &["2.5".into()], false),
        }
        group.close().unwrap();
        file.close().unwrap();
        bytes
    };
    for kind in ["float", "double"] {
        let dir = one("stsb/validation.parquet", write(kind));
        let rows = have(dir.path(), "STS-B", "dev").examples;
        assert_eq!(
            (rows[0].index, rows[0].target),
            (0, Some(Target::Score(2.5)))
        );
    }
    let dir = one("stsb/validation.parquet", write("binary"));
    assert!(matches!(
        find(dir.path(), "STS-B", "dev"),
        Err(GlueError::Parquet { .. })
    ));
    let dir = one("qnli/validation.parquet", write("float"));
    let error = find(dir.path(), "QNLI", "dev").unwrap_err().to_string();
    assert!(
        error.contains("no column `question`") && error.contains("sentence1"),
        "{error}"
    );
    let dir = one("qnli/validation.parquet", b"PAR1 no PAR1");
    assert!(matches!(
        find(dir.path(), "QNLI", "dev"),
        Err(GlueError::Parquet { .. })
    ));
}
