//! Writes the folders of libtorch into every program built here, so that it starts from anywhere with nothing exported.
//!
//! Feature `train` only. The folder is the one torch-sys links against: `LIBTORCH_USE_PYTORCH`, else `LIBTORCH_LIB`, else
//! `LIBTORCH` (`.cargo/config.toml` sets it to what `cargo xtask setup` installs). Links are followed to the real folder,
//! because libtorch finds its own dependencies relative to where it lies. Where there is no libtorch the build ends here
//! with the mend, before torch-sys compiles against headers that are not there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Prints the folder of the libraries of the Python package `torch` without loading it.
const PYTHON_TORCH_LIB: &str = "import importlib.util as u, os.path as p
s = u.find_spec('torch')
print(p.join(p.dirname(s.origin), 'lib') if s else '')";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_TRAIN").is_none() {
        return;
    }
    for name in ["LIBTORCH", "LIBTORCH_LIB", "LIBTORCH_USE_PYTORCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let (library, beside) = match os.as_str() {
        "linux" => ("libtorch_cpu.so", "$ORIGIN"),
        "macos" => ("libtorch_cpu.dylib", "@loader_path"),
        // Windows looks for libraries beside the program and in PATH; there is nothing to write.
        _ => return,
    };
    let folder = match link_folder() {
        Ok(folder) => folder,
        Err(error) => return fail(&error),
    };
    let linked = folder.join(library);
    let Ok(real) = linked.canonicalize() else {
        return fail(&format!("libtorch is missing: no `{}`", linked.display()));
    };
    // `setup --cuda` changes the content behind the same path; the stamp tells.
    let stamp = folder.join("../stamp");
    if stamp.exists() {
        println!("cargo::rerun-if-changed={}", stamp.display());
    }
    let mut folders = vec![real.parent().unwrap_or(&folder).to_path_buf()];
    if os == "linux" {
        folders.extend(force_cuda(&folder));
    }
    folders.dedup();
    for folder in &folders {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    println!("cargo::rustc-link-arg=-Wl,-rpath,{beside}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{beside}/../lib");
}

/// Makes the program need libtorch_cuda where there is one (no symbol of it is called, so the linker would leave it out)
/// and returns its real folder.
fn force_cuda(folder: &Path) -> Option<PathBuf> {
    let real = folder.join("libtorch_cuda.so").canonicalize().ok()?;
    println!(
        "cargo::rustc-link-arg=-Wl,--no-as-needed,{},--as-needed,--allow-shlib-undefined",
        real.display()
    );
    real.parent().map(Path::to_path_buf)
}

/// The folder torch-sys links against.
fn link_folder() -> Result<PathBuf, String> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        let python = if env::var_os("VIRTUAL_ENV").is_some() {
            "python"
        } else {
            "python3"
        };
        let output = Command::new(python)
            .args(["-c", PYTHON_TORCH_LIB])
            .output()
            .map_err(|error| {
                format!("`LIBTORCH_USE_PYTORCH` is set but `{python}` does not run: {error}")
            })?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if path.is_empty() {
            return Err(format!(
                "`LIBTORCH_USE_PYTORCH` is set but `{python}` has no package `torch`"
            ));
        }
        return Ok(PathBuf::from(path));
    }
    let parent = env::var_os("LIBTORCH_LIB").or_else(|| env::var_os("LIBTORCH"));
    Ok(parent
        .map_or_else(|| PathBuf::from("/usr"), PathBuf::from)
        .join("lib"))
}

/// Ends the build with one message.
fn fail(message: &str) {
    println!("cargo::error={message}");
    println!(
        "cargo::error=hint: run `cargo xtask setup` in the folder of this workspace, or set `LIBTORCH` to libtorch 2.13.0"
    );
    println!("cargo::error=hint: `--no-default-features` builds everything that needs no libtorch");
}
