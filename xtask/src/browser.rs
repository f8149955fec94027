//! The browser in which the report is tested: Debian's package `chromium`.
//!
//! It is installed on request (`cargo xtask test --install-browser`), or by itself where `CI` is set and the user is root on Debian or a
//! relative of it. Without a browser the test says that it did not run.

use std::env;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::process;

/// Names under which the test looks for it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

fn is_there() -> bool {
    env::var_os("TCD_CHROMIUM").is_some()
        || env::var_os("PATH").is_some_and(|path| {
            env::split_paths(&path).any(|dir| NAMES.iter().any(|name| dir.join(name).is_file()))
        })
}

/// Whether an `os-release` is that of Debian, or of a system made from it.
fn is_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| {
        let value = line
            .strip_prefix("ID=")
            .or_else(|| line.strip_prefix("ID_LIKE="));
        value.is_some_and(|v| v.trim_matches('"').split(' ').any(|id| id == "debian"))
    })
}

fn is_root() -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Makes sure of a browser where one is wanted: an error where it was asked for and cannot be had, a notice where it was not.
pub fn ensure(asked: bool) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    let by_itself = env::var_os("CI").is_some()
        && is_root()
        && fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian(&text));
    if !asked && !by_itself {
        eprintln!(
            "no Chromium was found: the report is not opened in a browser; `cargo xtask test --install-browser` installs one"
        );
        return Ok(());
    }
    match install() {
        Err(error) if !asked => {
            eprintln!("the report is not opened in a browser: {error:#}");
            Ok(())
        }
        done => done,
    }
}

fn install() -> Result<()> {
    if process::version_of("apt-get", &["--version"]).is_none() {
        bail!(
            "cannot install a browser: there is no apt-get\nhint: install Chromium, or name a program in `TCD_CHROMIUM`"
        );
    }
    if !is_root() {
        bail!("cannot install a browser: that takes root\nhint: sudo apt-get install chromium");
    }
    let apt = |words: &[&str]| {
        let mut command = process::command("apt-get");
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut command)
    };
    apt(&["update", "--quiet"])
        .and_then(|()| {
            apt(&[
                "install",
                "--yes",
                "--quiet",
                "--no-install-recommends",
                "chromium",
            ])
        })
        .context("cannot install `chromium`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_relatives_are_told_from_others() {
        assert!(is_debian("NAME=\"Debian\"\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nNAME=\"like debian\"\n"));
        assert!(!is_debian(""));
    }
}
