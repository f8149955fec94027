//! Laws of the generated text: repeatable, in the language, in the official layout, balanced, no row twice.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SMALL: Settings = Settings {
    seed: 3,
    documents: 120,
    examples: 120,
};

fn rows(files: &BTreeMap<String, String>, path: &str) -> Vec<Vec<String>> {
    files[path]
        .lines()
        .map(|l| l.split('\t').map(str::to_owned).collect())
        .collect()
}

fn small() -> BTreeMap<String, String> {
    files(&SMALL).unwrap().into_iter().collect()
}

#[test]
fn the_seed_alone_decides_every_byte() {
    assert_eq!(files(&SMALL).unwrap(), files(&SMALL).unwrap());
    let other = files(&Settings { seed: 4, ..SMALL }).unwrap();
    for ((path, a), (_, b)) in files(&SMALL).unwrap().iter().zip(&other) {
        assert!(a != b || path == "README.txt", "{path}");
    }
    // Tasks do not depend on the number of documents.
    let more: BTreeMap<_, _> = files(&Settings {
        documents: 130,
        ..SMALL
    })
    .unwrap()
    .into_iter()
    .collect();
    assert_eq!(more["glue/RTE/train.tsv"], small()["glue/RTE/train.tsv"]);
}

#[test]
fn every_statement_of_the_corpus_is_accepted_by_the_checker() {
    let (mut statements, mut words, mut documents) = (0, BTreeSet::new(), 0);
    let settings = Settings {
        documents: 600,
        ..SMALL
    };
    for (path, text) in files(&settings)
        .unwrap()
        .into_iter()
        .filter(|(p, _)| p.starts_with("corpus/"))
    {
        for document in text.split("\n\n") {
            documents += 1;
            let ends = document.matches(['.', '?']).count();
            assert!((4..=12).contains(&ends), "{path}: {document}");
            for sentence in document
                .split_inclusive(['.', '?'])
                .map(str::trim)
                .filter(|s| !s.is_empty())
            {
                words.extend(
                    sentence
                        .to_lowercase()
                        .replace(['.', '?'], "")
                        .split(' ')
                        .map(str::to_owned),
                );
                if sentence.ends_with('.') {
                    assert!(checker::accepts(sentence), "{sentence}");
                    statements += 1;
                }
            }
        }
    }
    assert_eq!(documents, 600);
    assert!(statements > 3000, "{statements}");
    assert!(
        (400..=900).contains(&words.len()),
        "word forms: {}",
        words.len()
    );
}

#[test]
fn the_checker_agrees_with_the_labels_of_cola() {
    for row in rows(&small(), "glue/CoLA/train.tsv") {
        assert_eq!(checker::accepts(&row[3]), row[1] == "1", "{row:?}");
        assert_eq!(row[2] == "*", row[1] == "0");
    }
}

#[test]
fn files_have_the_official_columns() {
    let files = small();
    // Columns of the GLUE download, and the first bytes of its headers.
    let expected = [
        ("CoLA/train", 4, "generated\t"),
        ("CoLA/dev", 4, "generated\t"),
        ("CoLA/test", 2, "index\tsentence\n"),
        ("SST-2/train", 2, "sentence\tlabel\n"),
        ("SST-2/dev", 2, "sentence\tlabel\n"),
        ("SST-2/test", 2, "index\tsentence\n"),
        (
            "MRPC/train",
            5,
            "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        ),
        ("MRPC/dev", 5, "\u{feff}Quality\t#1 ID"),
        (
            "MRPC/test",
            5,
            "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        ),
        (
            "STS-B/train",
            10,
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
        ),
        ("STS-B/dev", 10, "index\tgenre"),
        ("STS-B/test", 9, "index\tgenre"),
        (
            "QQP/train",
            6,
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
        ),
        ("QQP/dev", 6, "id\tqid1"),
        ("QQP/test", 3, "id\tquestion1\tquestion2\n"),
        (
            "MNLI/train",
            12,
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n",
        ),
        ("MNLI/dev_matched", 16, "index\tpromptID"),
        ("MNLI/dev_mismatched", 16, "index\tpromptID"),
        ("MNLI/test_matched", 10, "index\tpromptID"),
        ("MNLI/test_mismatched", 10, "index\tpromptID"),
        ("QNLI/train", 4, "index\tquestion\tsentence\tlabel\n"),
        ("QNLI/dev", 4, "index"),
        ("QNLI/test", 3, "index\tquestion\tsentence\n"),
        ("RTE/train", 4, "index\tsentence1\tsentence2\tlabel\n"),
        ("RTE/dev", 4, "index"),
        ("RTE/test", 3, "index\tsentence1\tsentence2\n"),
        ("WNLI/train", 4, "index\tsentence1\tsentence2\tlabel\n"),
        ("WNLI/dev", 4, "index"),
        ("WNLI/test", 3, "index"),
        ("AX/diagnostic", 3, "index\tsentence1\tsentence2\n"),
        (
            "AX/diagnostic-full",
            8,
            "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n",
        ),
    ];
    for (name, columns, start) in expected {
        let path = format!("glue/{name}.tsv");
        assert!(
            files[&path].starts_with(start),
            "{path}: {:?}",
            files[&path].lines().next()
        );
        let rows = rows(&files, &path);
        let headers = usize::from(name != "CoLA/train" && name != "CoLA/dev");
        assert!(rows.iter().all(|r| r.len() == columns), "{path}");
        let count = if name.ends_with("train") { 120 } else { 24 };
        assert_eq!(rows.len() - headers, count, "{path}");
    }
    assert_eq!(
        files.keys().filter(|p| p.starts_with("glue/")).count(),
        expected.len()
    );
    assert!(
        !files["glue/CoLA/dev.tsv"].ends_with('\n') && files["glue/CoLA/train.tsv"].ends_with('\n')
    );
    assert!(
        files["glue/SST-2/train.tsv"]
            .lines()
            .skip(1)
            .all(|l| l.contains(" . \t"))
    );
    assert!(
        rows(&files, "glue/MNLI/test_matched.tsv")
            .iter()
            .skip(1)
            .all(|r| r[2].parse::<u32>().is_ok())
    );
}

#[test]
fn labels_are_balanced_and_no_row_stands_twice() {
    let files = small();
    for task in &TASKS {
        let mut texts = BTreeSet::new();
        let sets = files
            .iter()
            .filter(|(p, _)| p.starts_with(&format!("glue/{}/", task.name)));
        for (path, _) in sets {
            let split = if path.contains("train") {
                task.train
            } else if path.contains("dev") {
                task.dev
            } else {
                task.test
            };
            let columns: Vec<_> = split.split(' ').collect();
            let is_text = |c: &str| {
                c.starts_with("sentence") || c.starts_with("question") || c.ends_with("String")
            };
            let mut labels: BTreeMap<String, usize> = BTreeMap::new();
            let headers = usize::from(task.header || path.contains("test"));
            for row in rows(&files, path).iter().skip(headers) {
                let cells = || columns.iter().zip(row);
                let text: Vec<_> = cells()
                    .filter(|(c, _)| is_text(c) && !c.ends_with("parse"))
                    .map(|(_, t)| t.trim().to_owned())
                    .collect();
                assert!(
                    !text.is_empty() && text.iter().all(|t| t.len() > 8),
                    "{path}: {row:?}"
                );
                assert!(texts.insert(text), "{path}: {row:?} stands twice");
                let label = cells().find(|(c, _)| {
                    matches!(
                        **c,
                        "label" | "gold_label" | "score" | "Quality" | "is_duplicate"
                    )
                });
                if let Some((_, label)) = label {
                    *labels.entry(label.clone()).or_default() += 1;
                }
            }
            let (least, most) = (
                labels.values().min().copied(),
                labels.values().max().copied(),
            );
            assert!(path.contains("test") == labels.is_empty(), "{path}");
            assert!(
                labels.is_empty()
                    || (labels.len() == task.classes && most.unwrap() - least.unwrap() <= 1),
                "{path}: {labels:?}"
            );
        }
    }
}

#[test]
fn sentiment_follows_from_polarity_and_negation() {
    for row in rows(&small(), "glue/SST-2/train.tsv").iter().skip(1) {
        let words: Vec<_> = row[0].split(' ').collect();
        let praise = words.iter().any(|w| lexicon::POSITIVE.contains(w));
        assert_ne!(
            praise,
            words.iter().any(|w| lexicon::NEGATIVE.contains(w)),
            "{row:?}"
        );
        assert_eq!(row[1] == "1", praise != words.contains(&"not"), "{row:?}");
    }
}

#[test]
fn mismatched_topics_are_not_trained_on() {
    let files = small();
    let genres = |path: &str| {
        rows(&files, path)
            .iter()
            .skip(1)
            .map(|r| r[3].clone())
            .collect::<BTreeSet<_>>()
    };
    let (train, matched) = (
        genres("glue/MNLI/train.tsv"),
        genres("glue/MNLI/dev_matched.tsv"),
    );
    assert!(matched.is_subset(&train));
    assert!(genres("glue/MNLI/dev_mismatched.tsv").is_disjoint(&train));
}

#[test]
fn a_foreign_directory_is_left_alone_and_an_own_one_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let summary = generate(&out, &SMALL).unwrap();
    assert_eq!(summary.corpus_files, 4);
    fs::write(out.join("mine.txt"), "mine").unwrap();
    generate(
        &out,
        &Settings {
            documents: 2,
            ..SMALL
        },
    )
    .unwrap();
    assert_eq!(fs::read_dir(out.join("corpus")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(out.join("mine.txt")).unwrap(), "mine");
    fs::remove_file(out.join(MARKER)).unwrap();
    assert!(matches!(
        generate(&out, &SMALL),
        Err(ControlledError::Foreign { .. })
    ));
    assert!(matches!(
        generate(
            &out,
            &Settings {
                examples: 1,
                ..SMALL
            }
        ),
        Err(ControlledError::Setting { .. })
    ));
    // A marker cannot make the generator remove files elsewhere.
    let trap = dir.path().join("trap");
    fs::create_dir(&trap).unwrap();
    fs::write(
        trap.join(MARKER),
        format!("{MARKER_HEAD}\n../data/mine.txt\n"),
    )
    .unwrap();
    generate(&trap, &SMALL).unwrap();
    assert!(out.join("mine.txt").exists());
}
