//! Getting the contestants ready: the Python peers' packages under `.deps/peers`, and this workspace's own program.
//!
//! The packages go into a folder of the workspace and nowhere else. A stamp file names what was installed; without it a
//! folder that already holds the right versions is taken as it is, anything else is installed anew.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// What pip installs: versions are pinned, so that two runs compare the same peers.
const PACKAGES: [(&str, &str); 2] = [("torch", "2.13.0"), ("transformers", "5.23.0")];
const STAMP: &str = "tcd-peers.stamp";

/// A Python that finds the peers' packages, and the folder with their scripts.
#[derive(Clone, Debug)]
pub struct Python {
    /// Folders of packages; a folder hides what those after it hold.
    packages: Vec<PathBuf>,
    scripts: PathBuf,
}

impl Python {
    /// The same Python, which finds the wheel of onnxruntime too.
    pub fn with_onnxruntime(mut self, root: &Path) -> Self {
        self.packages.push(root.join(".deps/onnxruntime"));
        self
    }

    /// A command that runs one of the peers' scripts.
    pub fn script(&self, name: &str) -> Command {
        let mut command = self.bare();
        command.arg(self.scripts.join(name));
        command
    }

    fn bare(&self) -> Command {
        let mut command = Command::new("python3");
        // Nothing is fetched while measuring: the peers are built from a configuration, not from a hub.
        let folders: Vec<&OsStr> = self.packages.iter().map(|p| p.as_os_str()).collect();
        command
            .env("PYTHONPATH", folders.join(OsStr::new(":")))
            .env("HF_HUB_OFFLINE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Whether the packages import at the pinned versions.
    fn holds_packages(&self) -> bool {
        if !self.packages.iter().all(|p| p.is_dir()) {
            return false;
        }
        let code = "import torch, transformers; print(torch.__version__.split('+')[0], transformers.__version__)";
        let output = self
            .bare()
            .args(["-c", code])
            .stderr(Stdio::null())
            .output();
        output.is_ok_and(|o| o.status.success() && is_pinned(&String::from_utf8_lossy(&o.stdout)))
    }
}

/// Whether a line of versions, in the order of `PACKAGES`, names the pinned ones.
fn is_pinned(versions: &str) -> bool {
    versions
        .split_whitespace()
        .eq(PACKAGES.iter().map(|(_, version)| *version))
}

fn requirements() -> Vec<String> {
    PACKAGES
        .iter()
        .map(|(name, version)| format!("{name}=={version}"))
        .collect()
}

/// Installs the peers' packages where the stamp is absent or names others.
pub fn install(root: &Path) -> Result<Python> {
    let packages = root.join(".deps/peers");
    let python = Python {
        packages: vec![packages.clone()],
        scripts: root.join("benches/peers"),
    };
    let wanted = requirements().join(" ");
    let stamp = packages.join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == wanted) {
        return Ok(python);
    }
    if !python.holds_packages() {
        eprintln!(
            "installing the PyTorch peers into {} (several GB, once)",
            packages.display()
        );
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--upgrade", "--target"])
            .arg(&packages)
            .args(requirements())
            // The table on stdout stays alone.
            .stdout(std::io::stderr())
            .status()
            .context("starting `python3 -m pip`\nhint: install Python 3 with pip")?;
        ensure!(
            status.success(),
            "pip failed: {status}\nhint: it needs the network and about 6 GB of disk"
        );
        ensure!(
            python.holds_packages(),
            "the installed packages do not import at the pinned versions: {wanted}"
        );
    }
    std::fs::write(&stamp, &wanted).with_context(|| format!("writing: {}", stamp.display()))?;
    Ok(python)
}

/// Installs pinned packages with what they depend on into `.deps/FOLDER`; `beneath` adds its own packages.
pub fn install_into(
    root: &Path,
    folder: &str,
    beneath: Option<Python>,
    packages: &[&str],
) -> Result<Python> {
    let own = root.join(".deps").join(folder);
    let stamp = own.join(STAMP);
    let wanted = packages.join(" ");
    if !std::fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == wanted) {
        eprintln!("installing {wanted} into {}", own.display());
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--upgrade", "--target"])
            .arg(&own)
            .args(packages)
            .stdout(std::io::stderr())
            .status()
            .context("starting `python3 -m pip`\nhint: install Python 3 with pip")?;
        ensure!(
            status.success(),
            "pip failed: {status}\nhint: it needs the network"
        );
        std::fs::write(&stamp, &wanted).with_context(|| format!("writing: {}", stamp.display()))?;
    }
    let mut packages = vec![own];
    packages.extend(beneath.into_iter().flat_map(|python| python.packages));
    Ok(Python {
        packages,
        scripts: root.join("benches/peers"),
    })
}

/// Builds this workspace's program in release mode and returns its path.
pub fn build_program(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--bin",
            "tcd",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(
        output.status.success(),
        "cargo failed: {}\nhint: `cargo xtask setup` brings libtorch",
        output.status
    );
    executable(&String::from_utf8_lossy(&output.stdout))
        .context("cargo named no executable for `tcd`")
}

/// The executable in cargo's messages, which holds for any target folder the user has set.
pub(super) fn executable(messages: &str) -> Option<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    paths.next_back()
}

/// Runs a contestant and returns its stdout; its stderr is shown only when it fails.
pub fn output_of(mut command: Command, what: &str) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {what}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        bail!("{what} failed: {}\n{tail}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading the output of {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_pinned_versions_count_as_installed() {
        assert!(is_pinned("2.13.0 5.23.0\n"));
        assert!(!is_pinned("2.13.1 5.23.0\n"));
        assert!(!is_pinned("2.13.0\n"));
        assert!(!is_pinned(""));
    }

    #[test]
    fn the_executable_is_taken_from_cargo_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/elsewhere/tcd\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/elsewhere/tcd")));
        assert_eq!(executable("{\"executable\":null}"), None);
    }

    #[test]
    fn a_stamped_folder_is_taken_without_running_anything() {
        let root = std::env::temp_dir().join(format!("xtask-peers-{}", std::process::id()));
        std::fs::create_dir_all(root.join(".deps/peers")).unwrap();
        std::fs::write(
            root.join(".deps/peers").join(STAMP),
            requirements().join(" ") + "\n",
        )
        .unwrap();
        let python = install(&root).unwrap();
        let command = python.script("train_peer.py");
        assert!(
            command
                .get_args()
                .any(|a| Path::new(a) == root.join("benches/peers/train_peer.py"))
        );
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_failing_contestant_is_named_with_its_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo shown >&2; exit 3"]);
        let message = format!("{:#}", output_of(command, "the peer `tuned`").unwrap_err());
        assert!(
            message.contains("the peer `tuned` failed") && message.contains("shown"),
            "{message}"
        );
    }
}
