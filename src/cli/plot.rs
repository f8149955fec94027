//! `tcd plot`: figures from results, one sub-command a row of the table of kinds, and `all`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};
use tcd_plots::{KINDS, Kind, Source, XAxis};

use super::{Outcome, note};
use crate::figures::{self, Choices, Sourced};

/// Name of the sub-command that draws every kind.
const ALL: &str = "all";

/// Sub-commands of `tcd plot`: the kinds of figures.
#[derive(Debug)]
pub enum Plot {
    /// One kind.
    Kind(&'static Kind, KindArgs, Training),
    /// Every kind.
    All(AllArgs),
}

/// Arguments of all kinds.
#[derive(Debug, Args)]
pub struct KindArgs {
    /// Results: JSON files, run directories, or directories with results of GLUE.
    #[arg(required = true, value_name = "RESULT")]
    results: Vec<PathBuf>,
    /// The figure; the ending (svg, png) decides its format. Where results give several figures, their names go before the
    /// ending.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What the figure's horizontal axis shows.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum X {
    /// Optimizer steps.
    #[default]
    Steps,
    /// Tokens seen.
    Tokens,
    /// Hours at work.
    Hours,
}

/// Arguments of kinds that take run directories.
#[derive(Debug, Default, Args)]
pub struct Training {
    /// Horizontal axis.
    #[arg(long, value_enum, default_value_t = X::Steps)]
    x: X,
    /// Title above the figure.
    #[arg(long)]
    title: Option<String>,
}

/// The format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Vector graphics.
    Svg,
    /// Pixels.
    Png,
    /// One of each.
    Both,
}

impl Format {
    fn endings(self) -> &'static [&'static str] {
        match self {
            Format::Svg => &["svg"],
            Format::Png => &["png"],
            Format::Both => &["svg", "png"],
        }
    }
}

/// Arguments of `tcd plot all`.
#[derive(Debug, Args)]
pub struct AllArgs {
    /// Results: JSON files, run directories, or directories with results of GLUE.
    #[arg(required = true, value_name = "RESULT")]
    results: Vec<PathBuf>,
    /// Folder for the figures.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Format of the figures.
    #[arg(long, value_enum, default_value_t = Format::Svg)]
    format: Format,
}

fn takes_runs(kind: &Kind) -> bool {
    kind.takes.contains(&Source::Run)
}

/// The help of a kind: what it shows, how to read it, what it takes, an example.
fn command_of(kind: &'static Kind) -> Command {
    let takes: Vec<String> = kind
        .takes
        .iter()
        .map(|s| format!("  - {}", s.describe()))
        .collect();
    let how = match (kind.together, takes_runs(kind)) {
        (true, true) => "All go into one figure. `NAME=DIR` gives a run a name of its own.",
        (true, false) => "All go into one figure.",
        (false, _) => "Each result gives figures of its own.",
    };
    let long = format!(
        "{}.\n\n{}\n\nTakes:\n{}\n{how}\n\nThe numbers are written beside each figure with the ending `.data.csv`.\n\nExample:\n  {}",
        kind.shows,
        kind.reading,
        takes.join("\n"),
        kind.example
    );
    let command = KindArgs::augment_args(Command::new(kind.name));
    let command = if takes_runs(kind) {
        Training::augment_args(command)
    } else {
        command
    };
    command.about(kind.shows).long_about(long)
}

fn all_command() -> Command {
    let about = "Every figure that the results allow, into a folder";
    let long = format!(
        "{about}.\n\nEach result is recognised by its schema. A figure is named by its result and its kind, as in \
         `geometry.spectra.svg`; its numbers lie beside it as `geometry.spectra.data.csv`. What cannot be drawn is told and left out.\
         \n\nExample:\n  tcd plot all runs/vanilla runs/moe results/*.json scores --out figures --format both"
    );
    AllArgs::augment_args(Command::new(ALL))
        .about(about)
        .long_about(long)
}

impl Subcommand for Plot {
    fn augment_subcommands(command: Command) -> Command {
        command
            .subcommands(KINDS.iter().map(command_of))
            .subcommand(all_command())
            .subcommand_required(true)
            .arg_required_else_help(true)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == ALL || tcd_plots::kind(name).is_some()
    }
}

impl FromArgMatches for Plot {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Some((name, matches)) = matches.subcommand() else {
            return Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand));
        };
        if name == ALL {
            return AllArgs::from_arg_matches(matches).map(Plot::All);
        }
        let Some(kind) = tcd_plots::kind(name) else {
            return Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand));
        };
        let training = if takes_runs(kind) {
            Training::from_arg_matches(matches)?
        } else {
            Training::default()
        };
        Ok(Plot::Kind(
            kind,
            KindArgs::from_arg_matches(matches)?,
            training,
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Writes a text whole: to a sibling, then renamed.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write: {}", path.display()))
}

impl Plot {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Plot::Kind(kind, args, training) => args.run(kind, training),
            Plot::All(args) => args.run(),
        }
    }
}

impl KindArgs {
    fn run(&self, kind: &'static Kind, training: &Training) -> Result<Outcome> {
        let ending = self.out.extension().and_then(|e| e.to_str());
        let known = |e: &str| ["svg", "png"].contains(&e.to_ascii_lowercase().as_str());
        if !ending.is_some_and(known) {
            bail!(
                "unknown figure format: {}\nhint: end the name in `.svg` or `.png`",
                self.out.display()
            );
        }
        let choices = Choices {
            x: match training.x {
                X::Steps => XAxis::Steps,
                X::Tokens => XAxis::Tokens,
                X::Hours => XAxis::Hours,
            },
            title: training.title.clone(),
        };
        let figures = figures::named(kind.name, &self.results, &choices)?;
        make_folder(self.out.parent())?;
        let paths: Vec<PathBuf> = match figures.as_slice() {
            [_] => vec![self.out.clone()],
            several => {
                let ending = ending.unwrap_or("svg");
                distinct(several, |stem| {
                    let own = self.out.file_stem().unwrap_or_default();
                    format!("{}.{stem}", own.to_string_lossy())
                })
                .into_iter()
                .map(|name| self.out.with_file_name(format!("{name}.{ending}")))
                .collect()
            }
        };
        for (sourced, path) in figures.iter().zip(&paths) {
            sourced
                .figure
                .write(path)
                .context("cannot draw the figure")?;
            write(
                &path.with_extension("data.csv"),
                &sourced.figure.data().to_csv(),
            )?;
            note(&format!(
                "figure of {}: {}",
                count(sourced.sources.len(), "result"),
                path.display()
            ));
        }
        Ok(Outcome::Done)
    }
}

impl AllArgs {
    fn run(&self) -> Result<Outcome> {
        let drawn = figures::figures_of(&self.results)?;
        for error in &drawn.missing {
            note(&format!("left out: {:#}", chain(error)));
        }
        if drawn.figures.is_empty() {
            bail!("the results allow no figure");
        }
        make_folder(Some(&self.out))?;
        let stems = distinct(&drawn.figures, ToOwned::to_owned);
        for (sourced, stem) in drawn.figures.iter().zip(&stems) {
            for ending in self.format.endings() {
                let path = self.out.join(format!("{stem}.{ending}"));
                sourced
                    .figure
                    .write(&path)
                    .context("cannot draw a figure")?;
            }
            let data = self.out.join(format!("{stem}.data.csv"));
            write(&data, &sourced.figure.data().to_csv())?;
        }
        note(&format!(
            "{} in {}",
            count(drawn.figures.len(), "figure"),
            self.out.display()
        ));
        Ok(Outcome::Done)
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

fn make_folder(folder: Option<&Path>) -> Result<()> {
    match folder.filter(|p| !p.as_os_str().is_empty()) {
        None => Ok(()),
        Some(folder) => fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder: {}", folder.display())),
    }
}

/// A name for each figure, made from its stem; those that come twice get numbers.
fn distinct(figures: &[Sourced], name: impl Fn(&str) -> String) -> Vec<String> {
    let mut taken = BTreeSet::new();
    figures
        .iter()
        .map(|f| {
            let plain = name(&f.stem());
            let mut one = plain.clone();
            let mut number = 2;
            while !taken.insert(one.to_lowercase()) {
                one = format!("{plain}-{number}");
                number += 1;
            }
            one
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_kind_is_a_command_that_reads_its_own_example() {
        let command = || Plot::augment_subcommands(Command::new("plot"));
        command().debug_assert();
        for kind in &KINDS {
            assert!(Plot::has_subcommand(kind.name));
            let words = kind.example.split(' ').skip(1);
            let matches = command().try_get_matches_from(words).unwrap();
            let Plot::Kind(found, args, _) = Plot::from_arg_matches(&matches).unwrap() else {
                panic!("{}", kind.name);
            };
            assert_eq!(found.name, kind.name);
            assert!(!args.results.is_empty());
        }
        let words = ["plot", "all", "a.json", "--out", "figures"];
        let matches = command().try_get_matches_from(words).unwrap();
        assert!(matches!(
            Plot::from_arg_matches(&matches).unwrap(),
            Plot::All(_)
        ));
    }
}
