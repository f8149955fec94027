//! From result files to figures: what lies at the paths is recognised, and the figure functions of crate `tcd-plots` are called.
//!
//! `tcd plot` and the report use the same two functions: [`figures_of`] draws everything that the results allow, [`named`] one kind.

use std::path::{Path, PathBuf};

use tcd_plots::{Figure, KINDS, Kind, PlotError, XAxis, kind};
use thiserror::Error;

mod draw;
mod read;

pub use read::{Found, Loaded, read};

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum FiguresError {
    /// A file cannot be read.
    #[error("cannot read the result: {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no result that figures know.
    #[error("cannot use `{path}`: {problem}", path = .path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why, with a hint.
        problem: String,
    },
    /// A result's content is not what its schema says.
    #[error("cannot use `{path}` as {what}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it says that it is.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No such kind.
    #[error("no such kind of figure: `{name}`\nhint: `tcd plot --help` lists them")]
    Kind {
        /// What was asked for.
        name: String,
    },
    /// None of the results fits the kind.
    #[error("none of the results fits the figure `{kind}`: given {given}\nhint: it takes {takes}")]
    Nothing {
        /// The kind.
        kind: &'static str,
        /// What the results are.
        given: String,
        /// What would fit.
        takes: String,
    },
    /// A figure cannot be drawn.
    #[error("cannot draw the figure `{kind}` of {of}")]
    Plot {
        /// The kind.
        kind: &'static str,
        /// The results.
        of: String,
        /// Why.
        #[source]
        source: PlotError,
    },
}

/// A figure and the results that it shows.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The figure.
    pub figure: Figure,
    /// The result files or run directories.
    pub sources: Vec<PathBuf>,
}

impl Sourced {
    /// A name for its files, without ending: that of its only source and the figure's own.
    pub fn stem(&self) -> String {
        match self.sources.as_slice() {
            [one] => match one.file_stem() {
                Some(stem) => format!("{}.{}", stem.to_string_lossy(), self.figure.stem()),
                None => self.figure.stem(),
            },
            _ => self.figure.stem(),
        }
    }
}

/// Choices that some kinds take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// The horizontal axis of training figures.
    pub x: XAxis,
    /// A title of training figures.
    pub title: Option<String>,
}

/// What could not be drawn, beside what was.
#[derive(Debug, Default)]
pub struct Drawn {
    /// The figures, in the order of the table of kinds.
    pub figures: Vec<Sourced>,
    /// Why others are missing.
    pub missing: Vec<FiguresError>,
}

/// Every figure that the results at these paths allow; what no figure knows is told in [`Drawn::missing`], unless there is nothing else.
pub fn figures_of(paths: &[PathBuf]) -> Result<Drawn, FiguresError> {
    let (found, mut unknown) = read::read_known(paths)?;
    if found.is_empty()
        && let Some(error) = unknown.pop()
    {
        return Err(error);
    }
    let mut drawn = Drawn {
        missing: unknown,
        ..Drawn::default()
    };
    for kind in &KINDS {
        let mut axes = vec![XAxis::Steps];
        if kind.name == "curves" {
            // Runs are compared at equal tokens and at equal time too.
            axes.extend([XAxis::Tokens, XAxis::Hours]);
        }
        for x in axes {
            let choices = Choices { x, title: None };
            // No result of the kind is nothing to tell.
            for group in draw::kind_of(kind, &found, &choices).unwrap_or_default() {
                match group {
                    Ok(figures) => drawn.figures.extend(figures),
                    Err(error) => drawn.missing.push(error),
                }
            }
        }
    }
    Ok(drawn)
}

/// The figures of one kind.
pub fn named(
    name: &str,
    paths: &[PathBuf],
    choices: &Choices,
) -> Result<Vec<Sourced>, FiguresError> {
    let kind: &'static Kind = kind(name).ok_or_else(|| FiguresError::Kind {
        name: name.to_owned(),
    })?;
    let groups = draw::kind_of(kind, &read(paths)?, choices)?;
    let figures: Vec<Vec<Sourced>> = groups.into_iter().collect::<Result<_, _>>()?;
    Ok(figures.into_iter().flatten().collect())
}

/// `NAME=PATH` or a path.
fn split_name(path: &Path) -> (Option<String>, PathBuf) {
    let text = path.to_string_lossy();
    match text.split_once('=') {
        Some((name, rest)) if !name.is_empty() && !path.exists() => {
            (Some(name.to_owned()), rest.into())
        }
        _ => (None, path.to_owned()),
    }
}
