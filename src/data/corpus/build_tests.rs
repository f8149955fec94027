//! Tests of building and reading a corpus.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::data::corpus::{Corpus, Packing};
use crate::data::tokenizer::tests::small;
use crate::data::{absent, batch::test_text};

struct Bench {
    dir: tempfile::TempDir,
    options: Options,
}

impl Bench {
    fn new(text: &str, settings: Settings) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), text).unwrap();
        let options = Options {
            inputs: vec![dir.path().join("a.txt")],
            out: dir.path().join("corpus"),
            settings,
            threads: 2,
            force: false,
        };
        Bench { dir, options }
    }

    fn build(&self) -> Result<Built, CorpusError> {
        build(&self.options, &small(), &mut |_| {})
    }

    fn open(&self) -> Corpus {
        Corpus::open(&self.options.out).unwrap()
    }

    fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name());
        names
            .filter_map(|n| n.into_string().ok())
            .filter(|n| n.contains(".tmp"))
            .collect()
    }
}

fn rows(corpus: &Corpus, split: Split) -> Vec<Vec<u32>> {
    let rows = corpus.split(split);
    let mut row = Vec::new();
    (0..rows.len())
        .map(|i| rows.row(i, &mut row).map(|()| row.clone()).unwrap())
        .collect()
}

fn settings(packing: Packing) -> Settings {
    Settings {
        sequence_length: 8,
        packing,
        held_out: 0.0,
        ..Settings::default()
    }
}

#[test]
fn full_rows_hold_the_running_text() {
    let b = Bench::new(
        "the cats sat\n\non\n\n \n\nmat the\ncat sat on . mat the\n",
        settings(Packing::Full),
    );
    assert!(matches!(b.build(), Ok(Built::Written(_))));
    let c = b.open();
    // the cat ##s sat | on | mat the cat sat on . mat the: 13 tokens, rows of 6. The border after `on` falls between two rows,
    // so it has no separator of its own.
    let expected = [vec![2, 5, 6, 7, 8, 3, 9, 3], vec![2, 10, 5, 6, 8, 9, 14, 3]];
    assert_eq!(rows(&c, Split::Train), expected);
    let train = &c.manifest().train;
    assert_eq!(
        (
            train.documents,
            train.tokens,
            train.dropped_tokens,
            train.max_id
        ),
        (3, 13, 2, 14)
    );
    c.verify().unwrap();
    assert!(b.leftovers().is_empty());
}

#[test]
fn document_rows_hold_one_document_and_lose_nothing() {
    let b = Bench::new(
        "the cats sat\n\non\n\nmat the cat sat on . mat the",
        settings(Packing::Document),
    );
    b.build().unwrap();
    let expected = [
        vec![2, 5, 6, 7, 8, 3, 0, 0],
        vec![2, 9, 3, 0, 0, 0, 0, 0],
        vec![2, 10, 5, 6, 8, 9, 14, 3],
        vec![2, 10, 5, 3, 0, 0, 0, 0],
    ];
    assert_eq!(rows(&b.open(), Split::Train), expected);
    assert_eq!(b.open().manifest().train.dropped_tokens, 0);
}

#[test]
fn a_text_below_one_row_makes_a_padded_row() {
    let b = Bench::new("the cat", settings(Packing::Full));
    b.build().unwrap();
    assert_eq!(rows(&b.open(), Split::Train), [[2, 5, 6, 3, 0, 0, 0, 0]]);
}

#[test]
fn threads_and_shards_change_nothing_but_the_split_of_files() {
    let text = test_text(3000);
    let all = |threads, rows_per_shard| {
        let mut b = Bench::new(
            &text,
            Settings {
                rows_per_shard,
                held_out: 0.2,
                ..settings(Packing::Full)
            },
        );
        b.options.threads = threads;
        b.build().unwrap();
        let c = b.open();
        c.verify().unwrap();
        assert_eq!(
            c.manifest().train.shards.len(),
            c.split(Split::Train).len().div_ceil(rows_per_shard)
        );
        (rows(&c, Split::Train), rows(&c, Split::HeldOut))
    };
    let one = all(1, 100_000);
    assert!(one.0.len() > 1000);
    assert_eq!(one, all(4, 100_000));
    assert_eq!(one, all(3, 97));
}

#[test]
fn the_split_depends_on_the_document_alone() {
    let text = test_text(4000);
    let held = |text: &str, seed| {
        let s = Settings {
            held_out: 0.1,
            seed,
            ..settings(Packing::Full)
        };
        text.split("\n\n")
            .map(str::to_owned)
            .filter(|d| is_held_out(d, &s))
            .collect::<Vec<_>>()
    };
    let some = held(&text, 1);
    // Binomial: 4000 documents at 0.1, 400 expected, standard deviation 19, five of them; equal documents go together,
    // so the bound is doubled.
    assert!(some.len().abs_diff(400) < 190, "{}", some.len());
    let reversed: Vec<&str> = text
        .split("\n\n")
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    let mut again = held(&reversed.join("\n\n"), 1);
    again.reverse();
    assert_eq!(some, again);
    assert_ne!(some, held(&text, 2));
}

#[test]
fn rebuilt_only_when_something_changed() {
    let mut b = Bench::new(&test_text(50), settings(Packing::Full));
    let upto = |r: Result<Built, CorpusError>| matches!(r, Ok(Built::UpToDate(_)));
    assert!(!upto(b.build()));
    assert!(upto(b.build()));
    b.options.settings.seed = 5;
    assert!(!upto(b.build()));
    assert!(upto(b.build()));
    std::fs::write(&b.options.inputs[0], test_text(51)).unwrap();
    assert!(!upto(b.build()));
    assert!(upto(b.build()));
    b.options.force = true;
    assert!(!upto(b.build()));
    b.options.force = false;
    let other = Tokenizer::from_vocab(
        &(crate::data::tokenizer::tests::SMALL.to_owned() + "dog\n"),
        Path::new("v"),
    )
    .unwrap();
    assert!(!upto(build(&b.options, &other, &mut |_| {})));
    // A shard that lost bytes is found and the corpus rebuilt.
    let shard = b.options.out.join("train-00000.bin");
    std::fs::write(&shard, b"short").unwrap();
    assert!(matches!(
        Corpus::open(&b.options.out),
        Err(CorpusError::Damaged { what: "bytes", .. })
    ));
    assert!(!upto(build(&b.options, &other, &mut |_| {})));
    b.open().verify().unwrap();
}

#[test]
fn a_failed_build_leaves_the_old_corpus_and_nothing_else() {
    let b = Bench::new(&test_text(50), settings(Packing::Full));
    b.build().unwrap();
    let before = rows(&b.open(), Split::Train);
    std::fs::write(&b.options.inputs[0], b"the cat\n\n\xff\n").unwrap();
    match b.build() {
        Err(CorpusError::Text(TextError::NotUtf8 {
            line: 3, offset: 9, ..
        })) => {}
        other => panic!("{other:?}"),
    }
    std::fs::write(&b.options.inputs[0], " \n\n").unwrap();
    assert!(matches!(b.build(), Err(CorpusError::Empty { .. })));
    assert_eq!(rows(&b.open(), Split::Train), before);
    assert!(b.leftovers().is_empty(), "{:?}", b.leftovers());
    // What a kill leaves: half a build, or the old corpus moved aside.
    let half = b.dir.path().join("corpus.building.tmp");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("train-00000.bin"), "x").unwrap();
    std::fs::rename(&b.options.out, b.dir.path().join("corpus.old.tmp")).unwrap();
    std::fs::write(&b.options.inputs[0], test_text(50)).unwrap();
    assert!(matches!(b.build(), Ok(Built::UpToDate(_))));
    assert_eq!(rows(&b.open(), Split::Train), before);
}

#[test]
fn folders_of_others_and_damage_are_refused() {
    let b = Bench::new(&test_text(50), settings(Packing::Full));
    std::fs::create_dir(&b.options.out).unwrap();
    std::fs::write(b.options.out.join("thesis.tex"), "x").unwrap();
    assert!(matches!(b.build(), Err(CorpusError::Occupied { .. })));
    std::fs::remove_file(b.options.out.join("thesis.tex")).unwrap();
    b.build().unwrap();
    let shard = b.options.out.join("train-00000.bin");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[3] = 0xff;
    // In place of the file, not into it: the open corpus keeps its own bytes.
    std::fs::write(b.dir.path().join("altered"), &bytes).unwrap();
    std::fs::rename(b.dir.path().join("altered"), &shard).unwrap();
    let c = b.open();
    assert!(matches!(
        c.verify(),
        Err(CorpusError::Damaged { what: "blake3", .. })
    ));
    let got = c.split(Split::Train).row(0, &mut Vec::new());
    assert!(
        matches!(
            got,
            Err(CorpusError::Damaged {
                what: "token id",
                ..
            })
        ),
        "{got:?}"
    );
}

#[test]
fn real_text_with_the_published_vocabulary() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let input = shared.join("corpus/wikipedia_00.txt");
    if !input.exists() {
        return absent("corpus");
    }
    let tokenizer = Tokenizer::load(&shared.join("vocab/bert-base-uncased")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        inputs: vec![input],
        out: dir.path().join("corpus"),
        settings: Settings {
            held_out: 0.05,
            ..Settings::default()
        },
        threads: 0,
        force: false,
    };
    build(&options, &tokenizer, &mut |_| {}).unwrap();
    let c = Corpus::open(&options.out).unwrap();
    let (train, held) = (&c.manifest().train, &c.manifest().held_out);
    // 1273 documents, 648,665 words at 1.32 tokens a word; binomial bound of five standard deviations on the held-out ones.
    assert_eq!(train.documents + held.documents, 1273);
    assert!(held.documents.abs_diff(64) < 39, "{}", held.documents);
    let tokens = train.tokens + held.tokens;
    assert!(
        (1.30..1.34).contains(&(tokens as f64 / 648_665.0)),
        "{tokens}"
    );
    let mut row = Vec::new();
    let unknown = |split| {
        (0..c.split(split).len())
            .map(|i| {
                c.split(split).row(i, &mut row).unwrap();
                assert!(
                    row[0] == 101 && row[127] == 102 && row.iter().all(|&id| id != 0),
                    "row {i}"
                );
                row.iter().filter(|&&id| id == 100).count() as u64
            })
            .sum::<u64>()
    };
    let counted: u64 = [Split::Train, Split::HeldOut].map(unknown).iter().sum();
    assert!(train.unknown_tokens + held.unknown_tokens - counted < 10);
}
