//! The commands `tcd tokenizer` and `tcd corpus` as a person runs them: results, messages, exit codes.

use std::path::{Path, PathBuf};

use tcd::data::batch::{TrainBatches, held_out_batches};
use tcd::data::corpus::{Corpus, CorpusError, Split};
use tcd::data::masking::{Masker, MaskingConfig};
use tcd::data::tokenizer::Tokenizer;

use crate::common::tcd;

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\nsat\non\nmat\n.\n";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("vocab.txt", VOCAB.as_bytes());
        place.write(
            "text.txt",
            "The cats sat on the mat.\nThe cat sat.\n\n"
                .repeat(200)
                .as_bytes(),
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &str) -> (i32, String, String) {
        let run = tcd()
            .current_dir(self.0.path())
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

    fn ok(&self, arguments: &str) -> (String, String) {
        let (code, out, err) = self.run(arguments);
        assert_eq!(code, 0, "{arguments}: {err}");
        (out, err)
    }

    /// Asserts exit code 2 and one line of error that holds all of `parts`.
    fn fails(&self, arguments: &str, parts: &[&str]) {
        let (code, out, err) = self.run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        for part in parts.iter().chain(&["error: "]) {
            assert!(err.contains(part), "{arguments}: `{part}` not in: {err}");
        }
        assert!(!self.path("out").exists(), "{arguments} left an output");
        let left: Vec<_> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(
            !left.iter().any(|n| n.to_string_lossy().ends_with(".tmp")),
            "{left:?}"
        );
    }
}

#[test]
fn bad_input_is_one_clear_error_and_exit_code_two() {
    let p = Place::new();
    p.write("empty.txt", b"\n \n");
    p.write("latin1.txt", b"the cat\n\nthe caf\xe9\n");
    p.write("bad.jsonl", b"{\"text\": \"the cat\"}\n{\"text\": \"the\n");
    p.write("other.jsonl", b"{\"body\": \"the cat\"}\n");
    p.write("twice.txt", (VOCAB.to_owned() + "cat\n").as_bytes());
    p.write("bare.txt", b"[PAD]\n[UNK]\nthe\n");
    p.write("odd.json", b"{\"model\": 3}");
    let build = |input: &str| format!("corpus build {input} --tokenizer vocab.txt --out out");
    p.fails(
        &build("empty.txt"),
        &["empty corpus", "`empty.txt`", "hint: "],
    );
    p.fails(
        &build("latin1.txt"),
        &[
            "not UTF-8",
            "`latin1.txt`",
            "line 3",
            "byte offset 16",
            "hint: ",
        ],
    );
    p.fails(
        &build("bad.jsonl"),
        &["malformed JSON", "`bad.jsonl`", "line 2"],
    );
    p.fails(
        &build("other.jsonl"),
        &["`other.jsonl`", "line 1", "`text`", "`--text-field`"],
    );
    p.fails(
        &build("gone.txt"),
        &["cannot read `gone.txt`", "No such file"],
    );
    p.fails(
        &(build("text.txt") + " --held-out 1.5"),
        &["`held-out` must be in [0, 1): 1.5"],
    );
    p.fails(
        &(build("text.txt") + " --sequence-length 3"),
        &["`sequence-length`", "3"],
    );
    let with = |tokenizer: &str| format!("corpus build text.txt --tokenizer {tokenizer} --out out");
    p.fails(
        &with("twice.txt"),
        &["duplicate token `cat`", "`twice.txt`", "lines 7 and 13"],
    );
    p.fails(
        &with("bare.txt"),
        &["`bare.txt`", "`[CLS]`, `[SEP]`, `[MASK]`"],
    );
    p.fails(&with("odd.json"), &["not a tokenizer in `odd.json`"]);
    p.fails(&with("gone.json"), &["cannot read `gone.json`"]);
    p.fails(
        "corpus show gone",
        &["no corpus in `gone`", "tcd corpus build"],
    );
    p.fails(
        "tokenizer train empty.txt --out out",
        &["no words", "hint: "],
    );
    p.fails(
        "tokenizer train text.txt --vocab-size 6 --out out",
        &["too small: 6"],
    );
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let p = Place::new();
    p.write("file", b"x");
    let (code, _, err) = p.run("corpus build text.txt --tokenizer vocab.txt --out file/corpus");
    assert_eq!(code, 2);
    assert!(
        err.contains("cannot write") && err.contains("file"),
        "{err}"
    );
    let (code, _, err) = p.run("corpus build text.txt --tokenizer vocab.txt --out file");
    assert_eq!(code, 2);
    assert!(err.contains("`file` exists and is not a corpus"), "{err}");
    assert_eq!(std::fs::read(p.path("file")).unwrap(), b"x");
}

#[test]
fn build_once_then_up_to_date_then_batches() {
    let p = Place::new();
    // Different documents, since equal ones are held out together.
    let text: String = (0..400)
        .map(|i| {
            format!(
                "The cat{} sat on the mat{}\n\n",
                ["", "s"][i % 2],
                " .".repeat(i)
            )
        })
        .collect();
    p.write("text.txt", text.as_bytes());
    let build =
        "corpus build text.txt --tokenizer vocab.txt --out out --sequence-length 32 --held-out 0.2";
    let (out, err) = p.ok(build);
    assert!(
        out.is_empty() && err.contains("train: ") && err.contains("written in"),
        "{err}"
    );
    let (_, err) = p.ok(build);
    assert!(err.contains("up to date: `out`"), "{err}");
    let (_, err) = p.ok(&build.replace("32", "16"));
    assert!(err.contains("written in"), "{err}");
    let (out, _) = p.ok("corpus show out --rows 1 --verify");
    assert!(
        out.contains("equal to their hashes") && out.contains("train 0: [CLS] the cat"),
        "{out}"
    );

    let corpus = Corpus::open(&p.path("out")).unwrap();
    let tokenizer = Tokenizer::load(&p.path("vocab.txt")).unwrap();
    corpus.check_tokenizer(&tokenizer).unwrap();
    let masker = Masker::new(&MaskingConfig::default(), &corpus.tokenizer().unwrap());
    let batch = TrainBatches::new(&corpus, masker.clone(), 4, 1, 1)
        .get(1000)
        .unwrap();
    assert_eq!((batch.batch, batch.sequence, batch.all_real), (4, 16, true));
    // 14 tokens at 15 %: two a row; separators within a row make it fewer, not below one.
    assert!((4..=8).contains(&batch.labels.len()));
    assert!(!held_out_batches(&corpus, masker, 4, None).is_empty());

    p.write("other.txt", (VOCAB.to_owned() + "dog\n").as_bytes());
    let other = Tokenizer::load(&p.path("other.txt")).unwrap();
    let error = corpus.check_tokenizer(&other).unwrap_err();
    assert!(matches!(error, CorpusError::Vocabulary { .. }));
    let text = error.to_string();
    for part in [
        "vocabulary does not match the shards",
        tokenizer.hash(),
        other.hash(),
        "manifest.json",
        "other.txt",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_trained_vocabulary_builds_a_corpus() {
    let p = Place::new();
    p.ok("tokenizer train text.txt --vocab-size 40 --out tok");
    let first = std::fs::read(p.path("tok/tokenizer.json")).unwrap();
    p.ok("tokenizer train text.txt --vocab-size 40 --out tok");
    assert_eq!(
        std::fs::read(p.path("tok/tokenizer.json")).unwrap(),
        first,
        "two runs, two vocabularies"
    );
    let (out, _) = p.ok("tokenizer show tok --text cats");
    assert!(
        out.contains("special: pad 0, unk 1, cls 2, sep 3, mask 4") && out.contains("text: cat"),
        "{out}"
    );
    p.ok("corpus build text.txt --tokenizer tok --out out --held-out 0 --packing document");
    let corpus = Corpus::open(&p.path("out")).unwrap();
    assert_eq!(
        (
            corpus.manifest().train.documents,
            corpus.manifest().train.unknown_tokens
        ),
        (200, 0)
    );
    assert_eq!(
        (
            corpus.split(Split::Train).len(),
            corpus.split(Split::HeldOut).len()
        ),
        (200, 0)
    );
}

/// Kills builds with signal 9 at several moments: the old corpus must stay whole, and the next build must succeed.
#[test]
fn a_killed_build_leaves_the_old_corpus() {
    let p = Place::new();
    p.ok("corpus build text.txt --tokenizer vocab.txt --out out");
    let before = std::fs::read(p.path("out/manifest.json")).unwrap();
    p.write(
        "large.txt",
        "The cats sat on the mat .\n\n".repeat(150_000).as_bytes(),
    );
    for wait in [30, 100, 250] {
        let mut child = tcd()
            .current_dir(p.0.path())
            .args([
                "corpus",
                "build",
                "large.txt",
                "--tokenizer",
                "vocab.txt",
                "--out",
                "out",
                "--held-out",
                "0",
            ])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let corpus = Corpus::open(&p.path("out")).unwrap();
        corpus.verify().unwrap();
        let old = std::fs::read(p.path("out/manifest.json")).unwrap() == before;
        assert!(old || corpus.manifest().train.documents == 150_000);
    }
    p.ok("corpus build text.txt --tokenizer vocab.txt --out out --force");
    let left = |name: &str| Path::exists(&p.path(name));
    assert!(!left("out.building.tmp") && !left("out.old.tmp") && !left("out.lock.tmp"));
}
