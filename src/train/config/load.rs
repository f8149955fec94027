//! Reading a configuration: a TOML file, then `--set key=value` over it; and why one cannot be used.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a configuration cannot be run.
#[derive(Debug, Error)]
pub enum RunConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or keys or values that are not ours.
    #[error("`{origin}` cannot be used: {message}")]
    Parse {
        /// File, or `--set` argument.
        origin: String,
        /// Where and what.
        message: String,
    },
    /// Values that cannot be.
    #[error("the configuration cannot be run: {}", Lines(violations))]
    Invalid {
        /// One line each.
        violations: Vec<String>,
    },
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Reads a file and applies `key=value` settings (`optimizer.learning_rate=1e-3`), values in TOML. Without a file the
/// settings stand alone.
pub fn load<C: DeserializeOwned>(
    path: Option<&Path>,
    settings: &[String],
) -> Result<C, RunConfigError> {
    let text = match path {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path).map_err(|source| RunConfigError::Io {
            path: path.to_path_buf(),
            source,
        })?,
    };
    let origin = path.map_or_else(String::new, |p| p.display().to_string());
    let unusable = |origin: &str, error: toml::de::Error| RunConfigError::Parse {
        origin: origin.to_string(),
        message: error.to_string().trim().to_string(),
    };
    // The file alone first, so that an error in it shows its line.
    let mut config: C = toml::from_str(&text).map_err(|e| unusable(&origin, e))?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|e| unusable(&origin, e))?;
    for setting in settings {
        let origin = format!("--set {setting}");
        insert(&mut table, setting).map_err(|message| RunConfigError::Parse {
            origin: origin.clone(),
            message,
        })?;
        config = table.clone().try_into().map_err(|e| unusable(&origin, e))?;
    }
    Ok(config)
}

/// A configuration with `key=value` settings over it, which `origin` names in errors.
pub fn apply<C: DeserializeOwned + Serialize>(
    config: &C,
    settings: &[String],
    origin: &str,
) -> Result<C, RunConfigError> {
    let unusable = |message: String| RunConfigError::Parse {
        origin: origin.to_string(),
        message: message.trim().to_string(),
    };
    let mut table = toml::Table::try_from(config).map_err(|e| unusable(e.to_string()))?;
    for setting in settings {
        let named = |message: String| unusable(format!("{setting}: {message}"));
        insert(&mut table, setting).map_err(named)?;
        let tried: Result<C, _> = table.clone().try_into();
        tried.map_err(|e: toml::de::Error| named(e.to_string()))?;
    }
    table
        .try_into()
        .map_err(|e: toml::de::Error| unusable(e.to_string()))
}

/// Puts one `key=value` in its place, sections made as needed.
fn insert(table: &mut toml::Table, setting: &str) -> Result<(), String> {
    let (key, value) = setting
        .split_once('=')
        .ok_or_else(|| "expected `key=value`".to_string())?;
    // What is not TOML is text: paths need no quotes.
    let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut place = table;
    let (sections, last) = match key.trim().rsplit_once('.') {
        Some((sections, last)) => (Some(sections), last),
        None => (None, key.trim()),
    };
    for part in sections.into_iter().flat_map(|s| s.split('.')) {
        let next = place
            .entry(part.to_string())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        place = next
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is not a section"))?;
    }
    place.insert(last.to_string(), value);
    Ok(())
}
