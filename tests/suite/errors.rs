//! Runs that cannot be: one clear error that names what and where, exit code 2, nothing lost. (Bad text and vocabularies are
//! refused in `data.rs`, run directories in `run_directory.rs`.)

use std::fs;

use crate::common::{refuse, small_corpus, succeed, tcd};

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
    // A vocabulary that is not the shards'.
    let other = root.path().join("other");
    let text = root.path().join("data/corpus");
    succeed(
        tcd()
            .args(["tokenizer", "train", "--vocab-size", "300"])
            .arg(text)
            .arg("--out")
            .arg(&other),
    );
    fs::copy(
        other.join("tokenizer.json"),
        small.corpus.join("tokenizer.json"),
    )
    .unwrap();
    let error = with("seed=1");
    assert!(
        error.contains("vocabulary does not match the shards"),
        "{error}"
    );
    // Shards that were cut off.
    fs::copy(
        small.tokenizer.join("tokenizer.json"),
        small.corpus.join("tokenizer.json"),
    )
    .unwrap();
    let shard = small.corpus.join("train-00000.bin");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 10]).unwrap();
    let error = with("seed=1");
    assert!(
        error.contains("train-00000.bin") && error.contains("expected"),
        "{error}"
    );
}
