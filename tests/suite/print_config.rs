//! `tcd pretrain --print-config`: a configuration that explains itself.

use std::fs;
use std::path::Path;

use crate::common::{succeed, tcd, tiny_run};

fn printed(arguments: &[&str]) -> String {
    let output = succeed(tcd().args(["pretrain", "--print-config"]).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_default_configuration_is_explained_key_by_key() {
    insta::assert_snapshot!(printed(&[]));
}

#[test]
fn a_resolved_configuration_is_printed_and_stays_what_it_is() {
    let root = tempfile::tempdir().unwrap();
    let moe = "[model.moe]\nnum_experts = 4\n";
    let config = tiny_run(root.path(), Path::new("a corpus"), moe);
    let config = config.to_str().unwrap();
    let text = printed(&["--config", config, "--set", "optimizer.clip=0.5"]);
    for line in [
        "corpus = \"a corpus\"",
        "layers = 2",
        "num_experts = 4",
        "clip = 0.5",
        "#preset = \"bert-l4-h128\"",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
    }
    let again = root.path().join("again.toml");
    fs::write(&again, &text).unwrap();
    assert_eq!(printed(&["--config", again.to_str().unwrap()]), text);
}
