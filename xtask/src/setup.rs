//! `cargo xtask setup`: libtorch in `.deps`, laid out so that plain cargo commands find it. Quick when nothing is to do.
//!
//! The wheel `torch` holds libtorch. For the CPU it is installed without its dependencies but for two small CUDA parts
//! that libtorch_cpu names (530 MB to download instead of several GB). What is left:
//!
//! ```text
//! .deps/torch-cpu/     the packages of torch-cpu.txt, as pip lays them (with `--cuda`: torch-cuda/, all dependencies)
//! .deps/torch/include  -> their headers
//! .deps/torch/lib/     links to the libraries to link against; `libtorch.so` is a linker script that asks for no CUDA
//! .deps/torch/stamp    what was installed; build-version lets torch-sys check the version
//! ```
//!
//! `LIBTORCH` in `.cargo/config.toml` names `.deps/torch`. Folders are built beside their place and renamed, so that an
//! interrupted set-up leaves nothing half done.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process;

/// What pip installs for the CPU; the first line pins torch.
const PACKAGES: &str = include_str!("../torch-cpu.txt");
/// Raised when the layout below changes.
const LAYOUT: u32 = 1;
/// The Python versions that the pinned torch has wheels for (3.x).
const WHEEL_PYTHONS: std::ops::RangeInclusive<u32> = 10..=14;

/// Arguments of `cargo xtask setup`.
#[derive(Debug, Args)]
pub struct Setup {
    /// Install torch with its CUDA libraries (about 3 GB to download, 7 GB on disk) and link against them.
    #[arg(long, conflicts_with = "cpu")]
    cuda: bool,
    /// Go back to the light CPU installation.
    #[arg(long)]
    cpu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Cpu,
    Cuda,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// Free space to ask for, in MiB: the installed packages and their downloads, both for a moment.
    fn space(self) -> u64 {
        match self {
            Self::Cpu => 2_048,
            Self::Cuda => 12_288,
        }
    }

    fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => &["libc10.so", "libtorch_cpu.so"],
            Self::Cuda => &[
                "libc10.so",
                "libtorch_cpu.so",
                "libc10_cuda.so",
                "libtorch_cuda.so",
            ],
        }
    }

    fn stamp(self) -> String {
        format!("layout {LAYOUT}, {}\n{PACKAGES}", self.name())
    }
}

impl Setup {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let wanted = match (self.cuda, self.cpu) {
            (true, _) => Some(Variant::Cuda),
            (_, true) => Some(Variant::Cpu),
            _ => None,
        };
        install(wanted, true)
    }
}

/// Installs what is missing for building with libtorch; says nothing when all is there.
pub fn ensure() -> Result<()> {
    install(None, false)
}

fn install(wanted: Option<Variant>, talkative: bool) -> Result<()> {
    if let Some((name, value)) = process::chosen_libtorch() {
        eprintln!("libtorch: `{name}={value}` is set and wins, nothing is installed");
        if name == "LIBTORCH"
            && !Path::new(&value).join("lib").is_dir()
            && env::var_os("LIBTORCH_LIB").is_none()
        {
            bail!(
                "`LIBTORCH` holds no folder `lib`: {value}\nhint: name an unpacked libtorch {}, or unset `LIBTORCH`",
                torch_version()
            );
        }
        return check_compiler();
    }
    let deps = process::deps();
    let present = [Variant::Cpu, Variant::Cuda]
        .into_iter()
        .find(|variant| is_installed(&deps, *variant));
    let variant = wanted.or(present).unwrap_or(Variant::Cpu);
    if present == Some(variant) {
        if talkative {
            eprintln!(
                "libtorch {} ({}) is set up in {}",
                torch_version(),
                variant.name(),
                process::own_libtorch().display()
            );
            check_compiler()?;
        }
        return Ok(());
    }
    check_platform(env::consts::OS, env::consts::ARCH)?;
    check_compiler()?;
    let start = Instant::now();
    fs::create_dir_all(&deps).with_context(|| format!("cannot create `{}`", deps.display()))?;
    let packages = deps.join(format!("torch-{}", variant.name()));
    if !holds_packages(&packages) {
        fetch(&deps, &packages, variant)?;
    }
    lay_out(&deps, &packages, variant)?;
    eprintln!(
        "libtorch {} ({}) is set up in {} ({:.0} s)",
        torch_version(),
        variant.name(),
        process::own_libtorch().display(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn torch_version() -> &'static str {
    PACKAGES
        .lines()
        .find_map(|line| line.strip_prefix("torch=="))
        .unwrap_or("?")
}

fn is_installed(deps: &Path, variant: Variant) -> bool {
    let folder = deps.join("torch");
    fs::read_to_string(folder.join("stamp")).is_ok_and(|stamp| stamp == variant.stamp())
        && folder.join("include/torch").is_dir()
        && variant
            .libraries()
            .iter()
            .all(|name| folder.join("lib").join(name).is_file())
}

/// Whether `folder` holds all packages in the pinned versions; pip writes the `dist-info` of a package last.
fn holds_packages(folder: &Path) -> bool {
    PACKAGES.lines().all(|line| {
        let (name, version) = line.split_once("==").unwrap_or((line, ""));
        folder
            .join(format!("{}-{version}.dist-info", name.replace('-', "_")))
            .is_dir()
    }) && folder.join("torch/lib/libtorch_cpu.so").is_file()
}

fn check_platform(os: &str, arch: &str) -> Result<()> {
    let version = torch_version();
    match (os, arch) {
        ("linux", "x86_64" | "aarch64") => Ok(()),
        ("macos", _) => bail!(
            "set-up installs libtorch on Linux only, this is macos\nhint: `pip3 install torch=={version}`, then `export LIBTORCH_USE_PYTORCH=1`"
        ),
        _ => bail!(
            "set-up installs libtorch on 64-bit Linux only, this is {os} {arch}\nhint: set `LIBTORCH` to an unpacked libtorch {version}, or build with `--no-default-features`"
        ),
    }
}

fn check_compiler() -> Result<()> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    // `CXX` may carry flags.
    let program = compiler.split_whitespace().next().unwrap_or("c++");
    if process::version_of(program, &["--version"]).is_none() {
        bail!(
            "no C++ compiler: `{program}` does not run\nhint: install one (`apt install g++`, `dnf install gcc-c++`), or set `CXX`"
        );
    }
    Ok(())
}

/// The Python to run pip with, and its minor version.
fn find_python() -> Result<(&'static str, u32)> {
    const ASK: &str = "import sys; print(sys.version_info[0] * 1000 + sys.version_info[1])";
    let found = ["python3", "python"].into_iter().find_map(|program| {
        let version: u32 = process::version_of(program, &["-c", ASK])?.parse().ok()?;
        (version >= 3_000).then_some((program, version - 3_000))
    });
    let Some((program, minor)) = found else {
        bail!(
            "no Python 3: neither `python3` nor `python` runs\nhint: install it (`apt install python3 python3-pip`), or set `LIBTORCH` to an unpacked libtorch {}",
            torch_version()
        );
    };
    if process::version_of(program, &["-m", "pip", "--version"]).is_none() {
        bail!(
            "`{program}` has no pip\nhint: install it (`apt install python3-pip`, or `{program} -m ensurepip --user`)"
        );
    }
    Ok((program, minor))
}

/// Lets pip install the packages into a sibling of `packages`, then renames it.
fn fetch(deps: &Path, packages: &Path, variant: Variant) -> Result<()> {
    let (python, minor) = find_python()?;
    check_space(deps, variant.space())?;
    let temporary = Temporary::new(deps)?;
    let target = temporary.path.join("packages");
    let mut pip = process::command(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--no-compile",
        "--only-binary=:all:",
    ]);
    pip.arg("--target").arg(&target);
    match variant {
        Variant::Cpu => pip.arg("--no-deps").args(PACKAGES.lines()),
        Variant::Cuda => pip.arg(format!("torch=={}", torch_version())),
    };
    if !WHEEL_PYTHONS.contains(&minor) {
        // The libraries are the same in every wheel, so that of another Python serves.
        let platform = format!("manylinux_2_28_{}", env::consts::ARCH);
        pip.args([
            "--python-version",
            "3.12",
            "--implementation",
            "cp",
            "--platform",
            &platform,
        ]);
    }
    // pip unpacks in TMPDIR: on the same disk the last step is a rename, and a small /tmp does not matter.
    pip.env("TMPDIR", &temporary.path)
        .env("PIP_USER", "0")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    eprintln!(
        "installing libtorch {} ({}) with pip, about {} to download",
        torch_version(),
        variant.name(),
        match variant {
            Variant::Cpu => "530 MB",
            Variant::Cuda => "3 GB",
        }
    );
    let mut child = pip
        .spawn()
        .with_context(|| format!("cannot start `{python} -m pip`"))?;
    let mut said = String::new();
    for line in child
        .stderr
        .take()
        .into_iter()
        .flat_map(|pipe| BufReader::new(pipe).split(b'\n'))
    {
        let line =
            String::from_utf8_lossy(&line.context("cannot read what pip says")?).into_owned();
        eprintln!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    if !child.wait().context("cannot wait for pip")?.success() {
        bail!("{}", explain_pip(&said, deps));
    }
    if !target.join("torch/lib/libtorch_cpu.so").is_file() {
        bail!(
            "pip installed torch {} without `torch/lib/libtorch_cpu.so`\nhint: set `LIBTORCH` to an unpacked libtorch of that version",
            torch_version()
        );
    }
    if packages.exists() {
        fs::rename(packages, temporary.path.join("outdated"))
            .with_context(|| format!("cannot replace `{}`", packages.display()))?;
    }
    fs::rename(&target, packages)
        .with_context(|| format!("cannot move what pip installed to `{}`", packages.display()))
}

/// One sentence and its mend for what made pip fail.
fn explain_pip(said: &str, deps: &Path) -> String {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let version = torch_version();
    if has(&["No space left on device", "Disk quota exceeded"]) {
        format!(
            "the disk filled up while pip installed into `{}`\nhint: free some space and run `cargo xtask setup` again",
            deps.display()
        )
    } else if has(&[
        "name resolution",
        "establish a new connection",
        "Network is unreachable",
        "Connection refused",
        "timed out",
        "ProxyError",
        "Max retries exceeded",
        "ConnectionResetError",
        "SSLError",
    ]) {
        format!(
            "pip cannot reach the package index to fetch torch {version}\nhint: check the network and the proxy (`HTTPS_PROXY`, `PIP_INDEX_URL`), or set `LIBTORCH` to an unpacked libtorch {version}"
        )
    } else if has(&["No matching distribution found", "Could not find a version"]) {
        format!(
            "pip finds no torch {version} for this Python and machine\nhint: update pip (`python3 -m pip install --upgrade pip`), use Python 3.10 to 3.14, or set `LIBTORCH` to an unpacked libtorch {version}"
        )
    } else {
        let last = said
            .lines()
            .rfind(|line| line.contains("ERROR"))
            .or_else(|| said.lines().last())
            .unwrap_or("it said nothing");
        format!(
            "pip could not install torch {version}: {}\nhint: mend this and run `cargo xtask setup` again, or set `LIBTORCH` to an unpacked libtorch {version}",
            last.trim()
        )
    }
}

/// Fails where the disk of `folder` has less than `needed` MiB free; a machine without `df` is trusted.
fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let Ok(output) = process::command("df").arg("-Pk").arg(folder).output() else {
        return Ok(());
    };
    match free_mib(&String::from_utf8_lossy(&output.stdout)) {
        Some(free) if free < needed => bail!(
            "too little space on the disk of `{}`: {needed} MiB needed, {free} MiB free\nhint: free some space, or clone to another disk",
            folder.display()
        ),
        _ => Ok(()),
    }
}

/// Reads the free space out of what `df -Pk` prints.
fn free_mib(df: &str) -> Option<u64> {
    let fields: Vec<&str> = df.lines().nth(1)?.split_whitespace().collect();
    // Capacity is the field with the percent sign; the file system before it may hold blanks.
    let capacity = fields.iter().position(|field| field.ends_with('%'))?;
    Some(fields.get(capacity.checked_sub(1)?)?.parse::<u64>().ok()? / 1024)
}

/// Builds `.deps/torch` out of the packages.
fn lay_out(deps: &Path, packages: &Path, variant: Variant) -> Result<()> {
    let temporary = Temporary::new(deps)?;
    let folder = temporary.path.join("torch");
    let fill = || -> std::io::Result<()> {
        let name = Path::new(packages.file_name().unwrap_or_default());
        fs::create_dir_all(folder.join("lib"))?;
        symlink(
            Path::new("..").join(name).join("torch/include"),
            folder.join("include"),
        )?;
        for library in variant.libraries() {
            symlink(
                Path::new("../..")
                    .join(name)
                    .join("torch/lib")
                    .join(library),
                folder.join("lib").join(library),
            )?;
        }
        // torch-sys asks for `-ltorch`; the real libtorch.so would bring libtorch_cuda along.
        fs::write(folder.join("lib/libtorch.so"), "INPUT(-ltorch_cpu)\n")?;
        fs::write(folder.join("build-version"), torch_version())?;
        fs::write(folder.join("stamp"), variant.stamp())
    };
    fill().with_context(|| format!("cannot fill `{}`", folder.display()))?;
    let place = deps.join("torch");
    if place.symlink_metadata().is_ok() {
        fs::rename(&place, temporary.path.join("outdated"))
            .with_context(|| format!("cannot replace `{}`", place.display()))?;
    }
    fs::rename(&folder, &place).with_context(|| format!("cannot create `{}`", place.display()))?;
    if !is_installed(deps, variant) {
        bail!(
            "`{}` lacks a library or its headers after set-up\nhint: delete `{}` and run `cargo xtask setup` again",
            place.display(),
            packages.display()
        );
    }
    Ok(())
}

/// A folder that is deleted when dropped.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("setup-{}.tmp", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot delete `{}`", path.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        fs::write(path, "").expect("writes");
    }

    fn packages(deps: &Path, variant: Variant) -> PathBuf {
        let folder = deps.join(format!("torch-{}", variant.name()));
        for library in Variant::Cuda.libraries() {
            touch(folder.join("torch/lib").join(library));
        }
        fs::create_dir_all(folder.join("torch/include/torch")).expect("creates");
        folder
    }

    #[test]
    fn the_laid_out_folder_resolves_switches_and_survives_a_move() {
        let place = tempfile::tempdir().expect("creates");
        let deps = place.path().join("first");
        fs::create_dir(&deps).expect("creates");
        assert!(!is_installed(&deps, Variant::Cpu));
        lay_out(&deps, &packages(&deps, Variant::Cpu), Variant::Cpu).expect("lays out");
        assert!(is_installed(&deps, Variant::Cpu));
        assert!(
            !deps.join("torch/lib/libtorch_cuda.so").exists(),
            "torch-sys links CUDA where it sees the library"
        );

        lay_out(&deps, &packages(&deps, Variant::Cuda), Variant::Cuda).expect("lays out");
        assert!(is_installed(&deps, Variant::Cuda) && !is_installed(&deps, Variant::Cpu));
        let linked = deps
            .join("torch/lib/libtorch_cuda.so")
            .canonicalize()
            .expect("resolves");
        assert!(
            linked.ends_with("torch-cuda/torch/lib/libtorch_cuda.so"),
            "{linked:?}"
        );

        let moved = place.path().join("second");
        fs::rename(&deps, &moved).expect("moves");
        assert!(is_installed(&moved, Variant::Cuda));
        fs::remove_file(moved.join("torch-cuda/torch/lib/libc10.so")).expect("deletes");
        assert!(
            !is_installed(&moved, Variant::Cuda),
            "a lost library is noticed"
        );
        assert_eq!(
            fs::read_dir(&moved).expect("reads").count(),
            3,
            "no temporary folder is left"
        );
    }

    #[test]
    fn packages_count_only_in_the_pinned_versions() {
        let place = tempfile::tempdir().expect("creates");
        let folder = packages(place.path(), Variant::Cpu);
        for name in [
            "torch-2.13.0",
            "nvidia_cuda_runtime-13.0.96",
            "nvidia_cuda_cupti-13.0.84",
        ] {
            fs::create_dir(folder.join(format!("{name}.dist-info"))).expect("creates");
        }
        assert!(!holds_packages(&folder));
        fs::create_dir(folder.join("nvidia_cuda_cupti-13.0.85.dist-info")).expect("creates");
        assert!(holds_packages(&folder));
    }

    #[test]
    fn free_space_is_read_from_df() {
        let plain = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 264212084 22506248 72779640 24% /\n";
        assert_eq!(free_mib(plain), Some(71_073));
        let blanks = "Filesystem 1024-blocks Used Available Capacity Mounted on\n//nas/my share 2048 1024 1024 50% /mnt/my share\n";
        assert_eq!(free_mib(blanks), Some(1));
        assert_eq!(free_mib("df: no such file\n"), None);
        let error = check_space(Path::new("/"), u64::MAX)
            .expect_err("no disk is that large")
            .to_string();
        assert!(error.contains("hint: "), "{error}");
    }

    #[test]
    fn every_failure_of_pip_has_its_mend() {
        let rows = [
            (
                "WARNING: Retrying ... Failed to establish a new connection: [Errno -3] Temporary failure in name resolution\nERROR: Could not find a version that satisfies the requirement torch==2.13.0\nERROR: No matching distribution found for torch==2.13.0",
                "cannot reach",
                "HTTPS_PROXY",
            ),
            (
                "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
                "disk filled up",
                "free some space",
            ),
            (
                "ERROR: No matching distribution found for torch==2.13.0",
                "finds no torch 2.13.0",
                "Python 3.10",
            ),
            (
                "ERROR: something new\ntrailing words",
                "something new",
                "again",
            ),
        ];
        for (said, what, mend) in rows {
            let message = explain_pip(said, Path::new(".deps"));
            let (first, hint) = message.split_once("\nhint: ").expect("has a hint");
            assert!(
                first.contains(what) && hint.contains(mend),
                "{said}: {message}"
            );
        }
    }

    #[test]
    fn other_platforms_are_told_what_to_do() {
        assert!(check_platform("linux", "x86_64").is_ok());
        for (os, arch, mend) in [
            ("macos", "aarch64", "LIBTORCH_USE_PYTORCH"),
            ("windows", "x86_64", "--no-default-features"),
            ("linux", "riscv64", "LIBTORCH"),
        ] {
            let message = check_platform(os, arch)
                .expect_err("is refused")
                .to_string();
            assert!(message.contains(mend) && message.contains(os), "{message}");
        }
    }
}
