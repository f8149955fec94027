//! Where the workspace lies and how its programs are run: always from the root, commands shown before they run.
//!
//! Contract: a child sees the environment of the user, not what cargo added for xtask. Cargo's `[env]` table puts
//! `LIBTORCH` into the environment of xtask; handed on, it would count as set by the user and make cargo rebuild.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The folder of what set-up installs.
pub fn deps() -> PathBuf {
    root().join(".deps")
}

/// The folder that `LIBTORCH` names unless the user sets it.
pub fn own_libtorch() -> PathBuf {
    deps().join("torch")
}

/// A libtorch that the user chose: the variable and its value. It wins over the installed one.
pub fn chosen_libtorch() -> Option<(&'static str, String)> {
    if let Some(value) = env::var_os("LIBTORCH_USE_PYTORCH") {
        return Some(("LIBTORCH_USE_PYTORCH", value.to_string_lossy().into_owned()));
    }
    let value = env::var_os("LIBTORCH")?;
    (Path::new(&value) != own_libtorch())
        .then(|| ("LIBTORCH", value.to_string_lossy().into_owned()))
}

/// A program run from the root of the workspace.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    if env::var_os("LIBTORCH").is_some_and(|value| Path::new(&value) == own_libtorch()) {
        command.env_remove("LIBTORCH");
    }
    command
}

/// Cargo, of the toolchain that runs xtask.
pub fn cargo<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args);
    cargo
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![program_name(command)];
    words.extend(
        command
            .get_args()
            .map(|word| quoted(&word.to_string_lossy())),
    );
    words.join(" ")
}

fn program_name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let root = root();
    match program.strip_prefix(&root) {
        Ok(inside) => inside.display().to_string(),
        Err(_) => program
            .file_name()
            .unwrap_or(command.get_program())
            .to_string_lossy()
            .into_owned(),
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Shows a command on standard error, then runs it with the terminal of the user.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("$ {shown}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// The first line that a program prints about itself when asked for its version; `None` where it does not run.
pub fn version_of(program: &str, args: &[&str]) -> Option<String> {
    let output = command(program)
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_command_that_a_shell_reads_back_alike() {
        let mut command = Command::new(root().join("target/debug/tcd"));
        command.args(["plot", "a b", "it's", "x=1", ""]);
        let line = shown(&command);
        assert_eq!(line, r"target/debug/tcd plot 'a b' 'it'\''s' x=1 ''");
        let echoed = Command::new("sh")
            .args(["-c", &format!("printf '%s|' {line}")])
            .output()
            .expect("sh runs");
        assert_eq!(
            String::from_utf8_lossy(&echoed.stdout),
            "target/debug/tcd|plot|a b|it's|x=1||"
        );
    }
}
