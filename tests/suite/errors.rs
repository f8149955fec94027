//! Bad input: one clear error that names what and where, exit code 2, nothing lost.

use std::fs;

use crate::common::{refuse, small_corpus, succeed, tcd};

#[test]
fn bad_text_and_bad_vocabularies_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let small = small_corpus(root.path());
    let out = root.path().join("out");
    let text = root.path().join("text.txt");
    let build = || {
        let mut command = tcd();
        command
            .args(["corpus", "build"])
            .arg(&text)
            .arg("--tokenizer")
            .arg(&small.tokenizer)
            .arg("--out")
            .arg(&out);
        command
    };
    for (content, part) in [
        (&b""[..], "the corpus is empty"),
        (&b"\n \n\n"[..], "the corpus is empty"),
        (&b"good\nbad \xff\n"[..], "line 2, byte 4"),
    ] {
        fs::write(&text, content).unwrap();
        let error = refuse(&mut build());
        assert!(error.contains(part), "{part} not in: {error}");
        assert!(!out.exists(), "nothing is left behind");
    }
    fs::write(&text, "a document\n").unwrap();
    let error = refuse(build().args(["--sequence-length", "2"]));
    assert!(error.contains("`sequence-length`"), "{error}");
    // What is there stays when a new build fails.
    succeed(build().args(["--held-out", "0"]));
    let before = fs::read(out.join("manifest.json")).unwrap();
    fs::write(&text, b"\xff").unwrap();
    refuse(&mut build());
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
    let error = refuse(
        tcd()
            .args(["corpus", "build", "/does/not/exist", "--tokenizer"])
            .arg(&small.tokenizer)
            .arg("--out")
            .arg(&out),
    );
    assert!(error.contains("/does/not/exist"), "{error}");
    let vocab = root.path().join("vocab.txt");
    fs::write(&vocab, "[PAD]\n[UNK]\nword\n").unwrap();
    let error = refuse(
        tcd()
            .args(["corpus", "build"])
            .arg(&text)
            .arg("--tokenizer")
            .arg(&vocab)
            .arg("--out")
            .arg(&out),
    );
    assert!(error.contains("[CLS], [SEP], [MASK]"), "{error}");
}

#[cfg(feature = "train")]
#[test]
fn bad_runs_are_refused() {
    use crate::common::tiny_run;

    let root = tempfile::tempdir().unwrap();
    let small = small_corpus(root.path());
    let config = tiny_run(root.path(), &small.corpus, "");
    let output = format!("output={}", root.path().join("run").display());
    let with = |setting: &str| {
        let error = refuse(
            tcd()
                .arg("pretrain")
                .arg("--config")
                .arg(&config)
                .args(["--set", &output, "--set", setting]),
        );
        assert!(!root.path().join("run/checkpoints").exists());
        error
    };
    for (setting, part) in [
        ("model.heads=5", "`hidden_size`"),
        ("model.headz=5", "headz"),
        ("model.max_positions=16", "rows of 32"),
        ("optimizer.learning_rate=-1", "`optimizer.learning_rate`"),
        ("device=cuda:77", "cuda:77"),
        ("data.corpus=nowhere", "nowhere"),
        ("model.preset=huge", "`huge`"),
    ] {
        let error = with(setting);
        assert!(error.contains(part), "{setting}: {part} not in: {error}");
    }
    // A file where the run directory should be.
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = with(&format!("output={}", file.join("run").display()));
    assert!(error.contains("file"), "{error}");
    // A vocabulary that is not the shards'.
    let other = root.path().join("other.json");
    let text = root.path().join("data/corpus");
    succeed(
        tcd()
            .args(["tokenizer", "train", "--vocab-size", "300"])
            .arg(text)
            .arg("--out")
            .arg(&other),
    );
    fs::copy(&other, small.corpus.join("tokenizer.json")).unwrap();
    let error = with("seed=1");
    assert!(
        error.contains("the vocabulary does not match the shards"),
        "{error}"
    );
    // Shards that were cut off.
    fs::copy(&small.tokenizer, small.corpus.join("tokenizer.json")).unwrap();
    let shard = small.corpus.join("train-00000.bin");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 10]).unwrap();
    let error = with("seed=1");
    assert!(
        error.contains("train-00000.bin") && error.contains("expected"),
        "{error}"
    );
}
