//! Python wheels that tests use where they are there: onnxruntime's library, and the ONNX project's checker as outside judge.
//!
//! Each goes into a folder of its own under `.deps`, beside which tests look; nothing outside the workspace changes. A failure
//! is said and is no error: tests that need the wheel then say that they did not run.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::process;

/// Folder under `.deps`, requirement, what is lost without it.
const WHEELS: [(&str, &str, &str); 2] = [
    (
        "onnxruntime",
        "onnxruntime==1.32.0",
        "the engine `ort` is not tested",
    ),
    (
        "onnx-judge",
        "onnx==1.23.2",
        "exported files are not held against Python's `onnx.checker`",
    ),
];
const STAMP: &str = "tcd.stamp";

/// Installs what is missing; quick when nothing is.
pub fn ensure() {
    for (folder, requirement, lost) in WHEELS {
        let folder = process::deps().join(folder);
        if is_installed(&folder, requirement) {
            continue;
        }
        if let Err(why) = install(&folder, requirement) {
            eprintln!("cannot install `{requirement}`: {why}; {lost}");
        }
    }
}

fn is_installed(folder: &Path, requirement: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|stamp| stamp.trim() == requirement)
}

/// Installs into a sibling folder and renames it, so that an interrupted run leaves nothing half done.
fn install(folder: &Path, requirement: &str) -> Result<(), String> {
    let beside = folder.with_extension("tmp");
    let text = |error: std::io::Error| error.to_string();
    for old in [&beside, &folder.to_path_buf()] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(text)?;
        }
    }
    fs::create_dir_all(&beside).map_err(text)?;
    eprintln!("installing `{requirement}` into {}", folder.display());
    let output = process::command("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ])
        .args(["--only-binary=:all:", "--target"])
        .arg(&beside)
        .arg(requirement)
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .stdin(Stdio::null())
        .output()
        .map_err(text)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said
            .trim()
            .lines()
            .next_back()
            .unwrap_or("pip failed")
            .to_owned());
    }
    fs::write(beside.join(STAMP), requirement).map_err(text)?;
    fs::rename(&beside, folder).map_err(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_counts_in_the_pinned_version_only() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_installed(folder.path(), "onnx==1"));
        fs::write(folder.path().join(STAMP), "onnx==1\n").unwrap();
        assert!(is_installed(folder.path(), "onnx==1"));
        assert!(!is_installed(folder.path(), "onnx==2"));
    }

    #[test]
    fn what_pip_cannot_install_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("wheel");
        assert!(install(&folder, "/no/such/wheel-1-py3-none-any.whl").is_err());
        assert!(!folder.exists());
    }
}
