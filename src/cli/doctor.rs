//! `tcd doctor`: what was found on this machine, versions expected and found, and the mend for what is missing.
//!
//! Exit code 1 where something that this build needs is missing or of another version; the optional never fails.

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::Outcome;
use crate::machine;

/// The packages that `cargo xtask setup` installs; their pinned torch is the one expected.
const PACKAGES: &str = include_str!("../../xtask/torch-cpu.txt");
/// The oldest onnxruntime that the programming interface in use is part of.
const ONNXRUNTIME: (u32, u32) = (1, 23);

/// Arguments of `tcd doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Whether a thing is there, and whether it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There.
    Ok,
    /// Not there or of another version, and this build needs it.
    Missing,
    /// Not there, and this build works without.
    Optional,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: &'static str,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    found: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Row {
    fn there(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            expected: None,
            found: Some(found.into()),
            mend: None,
        }
    }

    fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Turns the row into one that is not as it should be.
    fn but(mut self, state: State, mend: impl Into<String>) -> Self {
        self.state = state;
        self.mend = Some(mend.into());
        self
    }

    fn absent(name: &'static str, state: State, mend: impl Into<String>) -> Self {
        Self {
            name,
            state,
            expected: None,
            found: None,
            mend: Some(mend.into()),
        }
    }
}

/// The whole report.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    healthy: bool,
    checks: Vec<Row>,
}

impl Doctor {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let report = Report::new(look());
        if self.json {
            super::out(
                &serde_json::to_string_pretty(&report)
                    .context("cannot write the report as JSON")?,
            );
        } else {
            super::out(&report.table());
        }
        Ok(if report.healthy {
            Outcome::Done
        } else {
            Outcome::CheckFailed
        })
    }
}

impl Report {
    fn new(checks: Vec<Row>) -> Self {
        let features = [
            ("train", cfg!(feature = "train")),
            ("ort", cfg!(feature = "ort")),
        ]
        .into_iter()
        .filter_map(|(name, built)| built.then_some(name))
        .collect();
        let healthy = checks.iter().all(|row| row.state != State::Missing);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            features,
            healthy,
            checks,
        }
    }

    fn table(&self) -> String {
        let features = if self.features.is_empty() {
            "none".to_owned()
        } else {
            self.features.join(", ")
        };
        let mut lines = vec![line(
            "ok",
            "tcd",
            &format!("{}, features: {features}", self.version),
        )];
        for row in &self.checks {
            let state = match row.state {
                State::Ok => "ok",
                State::Missing => "missing",
                State::Optional => "optional",
            };
            let found = row.found.as_deref().unwrap_or("not found");
            let expected = row
                .expected
                .as_ref()
                .map_or_else(String::new, |version| format!(" (expected {version})"));
            lines.push(line(state, row.name, &format!("{found}{expected}")));
            if let Some(mend) = &row.mend {
                lines.push(line("", "", &format!("hint: {mend}")));
            }
        }
        lines.join("\n")
    }
}

fn line(state: &str, name: &str, text: &str) -> String {
    format!("{state:<10}{name:<14}{text}")
}

fn look() -> Vec<Row> {
    let loaded = machine::loaded_libraries();
    vec![
        libtorch(machine::libtorch(&loaded)),
        cuda(&loaded),
        onnxruntime(machine::onnxruntime(&loaded)),
        tool(
            "python3",
            &["python3"],
            "`cargo xtask setup` needs it: `apt install python3 python3-pip`",
        ),
        tool(
            "C++ compiler",
            &["c++", "g++", "clang++"],
            "building with libtorch needs one: `apt install g++`",
        ),
        cores(),
        memory(),
    ]
}

fn torch_expected() -> &'static str {
    PACKAGES
        .lines()
        .find_map(|line| line.strip_prefix("torch=="))
        .unwrap_or("unknown")
}

fn libtorch(found: Option<machine::Library>) -> Row {
    let expected = torch_expected();
    if !cfg!(feature = "train") {
        let mend = "this build does without it; for training: `cargo xtask setup`, then build with feature `train`";
        return Row::absent("libtorch", State::Optional, mend).expected(expected);
    }
    let mend = "`cargo xtask setup`, then build again";
    let row = match found {
        // The program does not start without libtorch; where loaded libraries are not told, that has to do.
        None => Row::there("libtorch", "loaded, place not told by this system"),
        Some(library) => {
            let version = library
                .version
                .unwrap_or_else(|| "version not told".to_owned());
            let row = Row::there(
                "libtorch",
                format!("{version} in {}", library.path.display()),
            );
            let differs = version.starts_with(|c: char| c.is_ascii_digit())
                && version.split('+').next() != Some(expected);
            if differs {
                row.but(State::Missing, mend)
            } else {
                row
            }
        }
    };
    row.expected(expected)
}

fn cuda(loaded: &[std::path::PathBuf]) -> Row {
    let cards = machine::nvidia_cards();
    let named = if cards.is_empty() {
        String::new()
    } else {
        format!(": {}", cards.join(", "))
    };
    let devices = cuda_devices();
    if devices > 0 {
        return Row::there("CUDA", format!("{devices} device(s){named}"));
    }
    let linked = loaded.iter().any(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("libtorch_cuda"))
    });
    let mut row = match (cards.is_empty(), linked) {
        (true, _) => Row::absent("CUDA", State::Optional, "not needed; the CPU is used"),
        (false, true) => Row::absent(
            "CUDA",
            State::Optional,
            "libtorch sees no device: check the driver with `nvidia-smi` and `CUDA_VISIBLE_DEVICES`",
        ),
        (false, false) => Row::absent(
            "CUDA",
            State::Optional,
            "this build has no CUDA: `cargo xtask setup --cuda`, then build again",
        ),
    };
    row.found = Some(if cards.is_empty() {
        "no device".to_owned()
    } else {
        format!("card not used{named}")
    });
    row
}

#[cfg(feature = "train")]
fn cuda_devices() -> i64 {
    if tch::Cuda::is_available() {
        tch::Cuda::device_count()
    } else {
        0
    }
}

#[cfg(not(feature = "train"))]
fn cuda_devices() -> i64 {
    0
}

fn onnxruntime(found: Option<machine::Library>) -> Row {
    let expected = format!(">= {}.{}", ONNXRUNTIME.0, ONNXRUNTIME.1);
    let mend = "`pip install onnxruntime`, or name the library in `ORT_DYLIB_PATH`";
    let row = match found {
        None => Row::absent("onnxruntime", State::Optional, mend),
        Some(library) if !library.path.is_file() => Row::there(
            "onnxruntime",
            format!("no file at {}", library.path.display()),
        )
        .but(
            State::Optional,
            "`ORT_DYLIB_PATH` names a file that is not there: correct or unset it",
        ),
        Some(library) => {
            let version = library.version.as_deref().unwrap_or("version not told");
            let row = Row::there(
                "onnxruntime",
                format!("{version} in {}", library.path.display()),
            );
            match &library.version {
                Some(version) if !machine::at_least(version, ONNXRUNTIME) => {
                    row.but(State::Optional, mend)
                }
                _ => row,
            }
        }
    };
    row.expected(expected)
}

/// A program needed for building, not for running.
fn tool(name: &'static str, programs: &[&str], mend: &str) -> Row {
    let found = programs
        .iter()
        .find_map(|program| machine::first_line(program, &["--version"]));
    found.map_or_else(
        || Row::absent(name, State::Optional, mend),
        |version| Row::there(name, version),
    )
}

fn cores() -> Row {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut text = format!("{cores}, {} data threads", rayon::current_num_threads());
    #[cfg(feature = "train")]
    text.push_str(&format!(", {} training threads", tch::get_num_threads()));
    let sets = machine::instruction_sets();
    if !sets.is_empty() {
        text.push_str(&format!("; {}", sets.join(" ")));
    }
    Row::there("cores", text)
}

fn memory() -> Row {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match machine::memory() {
        Some(memory) => Row::there(
            "memory",
            format!(
                "{:.1} GiB, {:.1} GiB free",
                gib(memory.total),
                gib(memory.available)
            ),
        ),
        None => Row::there("memory", "not told by this system"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_missing_need_makes_the_report_unhealthy() {
        let optional = Row::absent("onnxruntime", State::Optional, "install it");
        let missing = Row::there("libtorch", "2.12.0 in /opt")
            .expected("2.13.0")
            .but(State::Missing, "set up again");
        assert!(Report::new(vec![optional.clone()]).healthy);
        let report = Report::new(vec![optional, missing]);
        assert!(!report.healthy);
        let table = report.table();
        let lines: Vec<&str> = table.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "optional  onnxruntime   not found",
                "                        hint: install it",
                "missing   libtorch      2.12.0 in /opt (expected 2.13.0)",
                "                        hint: set up again",
            ]
        );
    }

    #[test]
    fn json_names_every_check_with_its_state() {
        let report = Report::new(look());
        let value: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        let names: Vec<&str> = value["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "libtorch",
                "CUDA",
                "onnxruntime",
                "python3",
                "C++ compiler",
                "cores",
                "memory"
            ]
        );
        for row in value["checks"].as_array().unwrap() {
            assert!(
                ["ok", "missing", "optional"].contains(&row["state"].as_str().unwrap()),
                "{row}"
            );
            assert!(row["state"] == "ok" || row["mend"].is_string(), "{row}");
        }
    }

    #[test]
    fn an_onnxruntime_that_is_too_old_or_gone_has_its_mend() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("libonnxruntime.so.1.9.0");
        let of = |version: &str| {
            onnxruntime(Some(machine::Library {
                path: path.clone(),
                version: Some(version.to_owned()),
            }))
        };
        assert!(of("1.24.0").found.unwrap().starts_with("no file at "));
        std::fs::write(&path, "").unwrap();
        assert_eq!(of("1.9.0").state, State::Optional);
        assert_eq!((of("1.24.0").state, of("1.24.0").mend), (State::Ok, None));
    }

    #[cfg(feature = "train")]
    #[test]
    fn the_libtorch_that_runs_is_found_in_the_expected_version() {
        let row = libtorch(machine::libtorch(&machine::loaded_libraries()));
        assert_eq!(row.state, State::Ok, "{row:?}");
        assert!(row.found.unwrap().starts_with(torch_expected()));
        let other = machine::Library {
            path: "/opt/lib/libtorch_cpu.so".into(),
            version: Some("2.12.0+cpu".to_owned()),
        };
        assert_eq!(libtorch(Some(other)).state, State::Missing);
    }
}
