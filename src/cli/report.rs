//! `tcd report`: one page of everything that was found out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tcd_plots::report::{Limits, html};

use super::{Outcome, note, out};
use crate::files::write_whole;
use crate::report::{Options, Role, outline, page};

/// Arguments of `tcd report`.
///
/// Finds results under the paths (run directories; JSON of `tcd analyze`, `tcd eval`, `tcd finetune`, `tcd parity`, `tcd glue compare`
/// and of the benchmark; records of exports) and writes one page that needs no network: what the numbers say of the method's claims, tables
/// that sort, figures, and the command and hashes behind each. A claim is supported where every interval lies on its side, not
/// supported where every one lies on the other, undecided otherwise.
///
/// Claims compare models by the part they play: vanilla, moe, distilled, random-teacher. A run's configuration tells it, else
/// the model's name; `--role` tells it by hand.
///
/// Examples:
///   tcd report runs analysis --out report.html
///   tcd report runs/a runs/b scores cka.json --role a=vanilla --role b=moe --out report.html
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Report {
    /// Directories and files with results.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The page.
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
    /// Title of the page.
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// A model's part: vanilla, moe, distilled or random-teacher.
    #[arg(long, value_name = "NAME=ROLE", value_parser = role)]
    role: Vec<(String, Role)>,
    /// Most megabytes of the page; figures beyond are left out and named.
    #[arg(long, default_value_t = 16, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..))]
    max_size: u32,
}

fn role(text: &str) -> Result<(String, Role), String> {
    let (name, role) = text
        .rsplit_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("expected `NAME=ROLE`")?;
    Ok((name.to_owned(), role.parse()?))
}

impl Report {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let command: Vec<String> = std::env::args().skip(1).collect();
        let options = Options {
            title: self.title.clone(),
            roles: self.role.iter().cloned().collect::<BTreeMap<_, _>>(),
            command: format!("tcd {}", command.join(" ")),
        };
        let page = page(&self.paths, &options).context("cannot make the report")?;
        let limits = Limits {
            page_bytes: self.max_size as usize * 1_000_000,
            ..Limits::default()
        };
        let written = html(&page, limits);
        if let Some(folder) = self.out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder: {}", folder.display()))?;
        }
        write_whole(&self.out, written.html.as_bytes())
            .with_context(|| format!("cannot write: {}", self.out.display()))?;
        outline(&page).iter().for_each(|line| out(line));
        for line in page.left_out.iter().chain(&written.left_out) {
            note(&format!("left out: {line}"));
        }
        note(&format!(
            "report of {} sources, {:.1} MB: {}",
            page.sources.len(),
            written.html.len() as f64 / 1e6,
            self.out.display()
        ));
        Ok(Outcome::Done)
    }
}
