//! What this machine and process hold: libtorch as loaded, onnxruntime as found, graphics cards, memory.
//!
//! Contract: looking only, nothing is loaded or changed. Each function returns `None` where it finds nothing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library: where it lies and what it says its version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The file.
    pub path: PathBuf,
    /// Its version, where one is told.
    pub version: Option<String>,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What this process may use: the machine's, or the limit of its control group.
    pub total: u64,
    /// What is free at this moment.
    pub available: u64,
}

/// The libraries that this process has loaded (Linux; elsewhere none are told).
pub fn loaded_libraries() -> Vec<PathBuf> {
    mapped_libraries(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
}

fn mapped_libraries(maps: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| file_name(path).contains(".so"))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// libtorch as this process has loaded it.
pub fn libtorch(loaded: &[PathBuf]) -> Option<Library> {
    let path = loaded
        .iter()
        .find(|path| file_name(path).starts_with("libtorch_cpu."))?
        .clone();
    let version = path.parent().and_then(Path::parent).and_then(torch_version);
    Some(Library { path, version })
}

/// The version of the torch folder: `build-version` in an unpacked libtorch, `version.py` in a Python package.
pub fn torch_version(folder: &Path) -> Option<String> {
    if let Ok(version) = fs::read_to_string(folder.join("build-version")) {
        return Some(version.trim().to_owned());
    }
    let text = fs::read_to_string(folder.join("version.py")).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim_matches(['\'', '"']).to_owned())
}

/// onnxruntime as a program started here would find it: `ORT_DYLIB_PATH`, the `.deps` folder, Python's packages.
pub fn onnxruntime(loaded: &[PathBuf]) -> Option<Library> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH") {
        return Some(library(PathBuf::from(path)));
    }
    let near_libtorch = loaded
        .iter()
        .filter(|path| file_name(path).starts_with("libtorch_cpu."))
        .filter_map(|path| {
            path.ancestors()
                .find(|folder| folder.ends_with(".deps"))
                .map(Path::to_path_buf)
        });
    let deps = env::current_dir()
        .map(|folder| folder.join(".deps"))
        .into_iter()
        .chain(near_libtorch);
    deps.map(|folder| folder.join("onnxruntime/onnxruntime/capi"))
        .chain(python_package("onnxruntime").map(|folder| folder.join("capi")))
        .find_map(|folder| onnxruntime_in(&folder))
}

fn onnxruntime_in(folder: &Path) -> Option<Library> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = file_name(path);
            name.starts_with("libonnxruntime.") && !name.contains("providers")
        })
        .collect();
    paths.sort();
    paths.into_iter().next_back().map(library)
}

fn library(path: PathBuf) -> Library {
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    // `libonnxruntime.so.1.23.2` on Linux, `libonnxruntime.1.23.2.dylib` on macOS.
    let name = file_name(&real);
    let digits = name
        .trim_end_matches(".dylib")
        .trim_start_matches(|c: char| !c.is_ascii_digit());
    let version = digits.contains('.').then(|| digits.to_owned());
    Library { path, version }
}

/// The folder of a package of the Python that runs here.
fn python_package(name: &str) -> Option<PathBuf> {
    let code = format!(
        "import importlib.util as u; s = u.find_spec('{name}'); print(s.submodule_search_locations[0] if s else '')"
    );
    let path = first_line("python3", &["-c", &code])?;
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// The first line that a program prints; `None` where it does not run or fails.
pub fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .map(|line| line.trim().to_owned())
}

/// Whether a version of the form `1.23.4` is at least `(major, minor)`.
pub fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = version.split(['.', '+', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

/// The NVIDIA cards that the driver knows, by model.
pub fn nvidia_cards() -> Vec<String> {
    let folders = fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .flatten();
    let mut cards: Vec<String> = folders
        .filter_map(|entry| fs::read_to_string(entry.path().join("information")).ok())
        .filter_map(|text| {
            text.lines().find_map(|line| {
                line.strip_prefix("Model:")
                    .map(|model| model.trim().to_owned())
            })
        })
        .collect();
    cards.sort();
    cards
}

/// The instruction sets of this processor that matrix products gain from.
pub fn instruction_sets() -> Vec<&'static str> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: Vec<&str> = text
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .map(|line| line.split_whitespace().collect())
        .unwrap_or_default();
    let known = [
        "avx2",
        "avx512f",
        "avx512_bf16",
        "amx_bf16",
        "asimd",
        "sve",
        "bf16",
    ];
    known
        .into_iter()
        .filter(|name| flags.contains(name))
        .collect()
}

/// The memory of this machine, or of its control group where that is less.
pub fn memory() -> Option<Memory> {
    let (total, available) = parse_memory(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limited = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(match limited {
        Some((limit, used)) if limit < total => Memory {
            total: limit,
            available: available.min(limit.saturating_sub(used)),
        },
        _ => Memory { total, available },
    })
}

/// The most memory that this process has had, in bytes (Linux; elsewhere it is not told).
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn parse_memory(meminfo: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    };
    Some((of("MemTotal:")?, of("MemAvailable:")?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn loaded_libraries_are_read_once_each_blanks_kept() {
        let maps = "\
7f0000-7f0001 r--p 00000000 fe:00 12  /opt/my torch/torch/lib/libtorch_cpu.so
7f0001-7f0002 r-xp 00001000 fe:00 12  /opt/my torch/torch/lib/libtorch_cpu.so
7f0002-7f0003 rw-p 00000000 00:00 0   [heap]
7f0003-7f0004 r--p 00000000 fe:00 13  /usr/lib/libc.so.6
7f0004-7f0005 r--p 00000000 fe:00 14  /data/tokens.bin
7f0005-7f0006 rw-p 00000000 00:00 0
";
        let expected = [
            PathBuf::from("/opt/my torch/torch/lib/libtorch_cpu.so"),
            PathBuf::from("/usr/lib/libc.so.6"),
        ];
        assert_eq!(mapped_libraries(maps), expected);
    }

    #[test]
    fn the_version_of_torch_is_read_from_either_layout() {
        let place = tempfile::tempdir().unwrap();
        let lib = place.path().join("lib");
        let loaded = [lib.join("libtorch_cpu.so")];
        assert_eq!(libtorch(&loaded).unwrap().version, None);
        let text = "from typing import Optional\n\n__all__ = ['__version__', 'debug']\n__version__ = '2.13.0+cu130'\ndebug = False\n";
        fs::write(place.path().join("version.py"), text).unwrap();
        assert_eq!(
            libtorch(&loaded).unwrap().version.as_deref(),
            Some("2.13.0+cu130")
        );
        fs::write(place.path().join("build-version"), "2.13.1+cpu\n").unwrap();
        assert_eq!(
            libtorch(&loaded).unwrap().version.as_deref(),
            Some("2.13.1+cpu")
        );
        assert_eq!(libtorch(&[PathBuf::from("/usr/lib/libc.so.6")]), None);
    }

    #[test]
    fn onnxruntime_is_told_from_its_providers_and_its_version_from_its_name() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(onnxruntime_in(place.path()), None);
        for name in [
            "libonnxruntime_providers_shared.so",
            "onnxruntime_pybind11_state.so",
            "libonnxruntime.so.1.23.2",
        ] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let found = onnxruntime_in(place.path()).unwrap();
        assert_eq!(found.version.as_deref(), Some("1.23.2"));
        assert!(found.path.ends_with("libonnxruntime.so.1.23.2"));
        assert_eq!(
            library(PathBuf::from("/x/libonnxruntime.1.24.0.dylib"))
                .version
                .as_deref(),
            Some("1.24.0")
        );
        assert_eq!(library(PathBuf::from("/x/libonnxruntime.so")).version, None);
    }

    #[test]
    fn versions_compare_by_number_not_by_letter() {
        for (version, holds) in [
            ("1.23", true),
            ("1.9.9", false),
            ("1.100.0", true),
            ("2.0.0+cu1", true),
            ("1", false),
            ("new", false),
        ] {
            assert_eq!(at_least(version, (1, 23)), holds, "{version}");
        }
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       16316412 kB\nMemFree:         1000000 kB\nMemAvailable:    8158206 kB\n";
        assert_eq!(
            parse_memory(text),
            Some((16_316_412 * 1024, 8_158_206 * 1024))
        );
        assert_eq!(parse_memory("MemTotal: 12 kB\n"), None);
    }
}
