//! `tcd analyze similarity`.

use anyhow::{Result, bail};
use clap::Args;
use tcd_analysis::similarity::{
    MEASURES, Measure, Pairs, Prepared, SimilarityResult, measure, similarity,
};
use tcd_analysis::source::TapSource;

use super::common::{OutputArgs, SampleArgs, Track, open_all, provenance, short, short_tap, table};
use crate::cli::{Outcome, note, out};

/// Rows where none are asked for: some measures take the square of their number.
const ROWS: usize = 2048;

/// Arguments of `tcd analyze similarity`.
///
/// Measures hold the sampled rows in memory and take the square of their number: 2,048 rows unless `--limit` says otherwise.
///
/// Examples:
///   tcd analyze similarity f/vanilla.safetensors f/moe.safetensors --out similarity.json
///   tcd analyze similarity f/a.safetensors f/b.safetensors --measure procrustes,relation --all-pairs --out s.json
///   tcd analyze similarity --list
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Similarity {
    /// Two features files over the same rows; `NAME=FILE` names the model.
    #[arg(
        required_unless_present = "list",
        num_args = 2,
        value_name = "FEATURES"
    )]
    features: Vec<String>,
    #[command(flatten)]
    sample: SampleArgs,
    /// Measures; all where none is named.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    measure: Vec<String>,
    /// Every tap with every tap, not only with the one of its name.
    #[arg(long)]
    all_pairs: bool,
    /// List the measures and end.
    #[arg(long)]
    list: bool,
    /// The result, JSON; its table is written beside it with the ending `.csv`.
    #[arg(long, required_unless_present = "list", value_name = "FILE.json")]
    out: Option<std::path::PathBuf>,
}

impl Similarity {
    fn measures(&self) -> Result<Vec<&'static Measure>> {
        if self.measure.is_empty() {
            return Ok(MEASURES.iter().collect());
        }
        let known: Vec<&str> = MEASURES.iter().map(|m| m.name).collect();
        let find = |name: &String| match measure(name) {
            Some(m) => Ok(m),
            None => bail!(
                "no such measure: `{name}`\nhint: one of {}",
                known.join(", ")
            ),
        };
        self.measure.iter().map(find).collect()
    }

    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        if self.list {
            MEASURES
                .iter()
                .for_each(|m| out(&format!("{:<12}{}", m.name, m.description)));
            return Ok(Outcome::Done);
        }
        let measures = self.measures()?;
        let files = open_all(&self.features)?;
        self.sample.check_pair(&files[0].file, &files[1].file)?;
        let (a, b) = (
            self.sample.rows_of(&files[0].file, Some(ROWS))?,
            self.sample.rows_of(&files[1].file, Some(ROWS))?,
        );
        if a.len() > 20_000 {
            bail!(
                "these measures take the square of {} rows\nhint: `--limit 4096`; `tcd analyze cka` takes any number",
                a.len()
            );
        }
        let (pa, pb) = (Prepared::all(&a)?, Prepared::all(&b)?);
        let pairs = if self.all_pairs {
            Pairs::All
        } else {
            Pairs::SameName
        };
        let track = Track::new("similarity", "pairs");
        let cells = similarity(&measures, &pa, &pb, pairs, &|done, total| {
            track.at(done, total)
        });
        drop(track);
        if cells.is_empty() {
            bail!("the models have no tap in common\nhint: `--all-pairs`");
        }
        let names =
            |source: &dyn TapSource<f32>| source.taps().iter().map(|(n, _)| n.clone()).collect();
        let result = SimilarityResult {
            provenance: provenance(
                "similarity 1",
                &files.iter().collect::<Vec<_>>(),
                Some(self.sample.info(&a, Some(ROWS))),
            ),
            pairs,
            measures: measures.iter().map(|m| m.name.to_owned()).collect(),
            taps_a: names(&a),
            taps_b: names(&b),
            cells,
        };
        show(&result);
        note(&format!(
            "{} values over {} rows",
            result.cells.len(),
            a.len()
        ));
        let output = OutputArgs {
            out: self.out.clone().unwrap_or_default(),
        };
        output.write(&result, &[("", result.to_csv())])?;
        Ok(Outcome::Done)
    }
}

/// One line a tap, one column a measure; of all pairs those of the same name.
fn show(result: &SimilarityResult) {
    let mut header = vec!["tap"];
    header.extend(result.measures.iter().map(String::as_str));
    let value = |tap: &str, measure: &str| {
        let cell = result
            .cells
            .iter()
            .find(|c| c.a == tap && c.b == tap && c.measure == measure);
        short(cell.and_then(|c| c.value))
    };
    let lines: Vec<Vec<String>> = result
        .taps_a
        .iter()
        .filter(|t| result.taps_b.contains(t))
        .map(|t| {
            std::iter::once(short_tap(t))
                .chain(result.measures.iter().map(|m| value(t, m)))
                .collect()
        })
        .collect();
    table(&header, &lines);
}
