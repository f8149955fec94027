//! The report: results under some paths become a page of crate `tcd-plots`, with verdicts on the claims of the method.
//!
//! [`mod@find`] reads, [`roles`] tells which part each model plays, [`claims`] collects the numbers that bear on a claim,
//! [`verdict`] decides, [`sections`] makes the tables, [`pictures`] brings the figures. The page itself is written by [`tcd_plots::report::html`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tcd_plots::report::{Page, Verdict, grouped};

pub mod claims;
pub mod find;
pub mod others;
pub mod pictures;
pub mod roles;
pub mod run;
pub mod sections;
pub mod verdict;

pub use find::{FindError, Results, find};
pub use roles::{Role, Roles};

/// What a person says of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Title of the page.
    pub title: Option<String>,
    /// Roles of models by name.
    pub roles: BTreeMap<String, Role>,
    /// The command line, for the page's foot.
    pub command: String,
}

/// A model by its name, with all that is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// Its directory, where one is named.
    pub path: Option<PathBuf>,
    /// BLAKE3 of its weights.
    pub weights: Option<String>,
}

/// Makes the page of everything under the paths.
pub fn page(paths: &[PathBuf], options: &Options) -> Result<Page, FindError> {
    let mut results = find(paths)?;
    let roles = Roles {
        given: options.roles.clone(),
        runs: results
            .runs
            .iter()
            .map(|r| (r.result.dir.clone(), r.result.name.clone(), r.result.role))
            .collect(),
    };
    let (claims, mut unseen) = claims::claims(&results, &roles);
    let models = models(&results);
    if claims.is_empty() && unseen.is_empty() {
        unseen.push("No claim is known.".to_owned());
    }
    let mut sections = sections::all(&results, &roles, &models);
    pictures::add(&mut results, &mut sections);
    let left_out = std::mem::take(&mut results.left_out);
    Ok(Page {
        title: options
            .title
            .clone()
            .unwrap_or_else(|| "Transfer capability distillation: results".to_owned()),
        lead: lead(&results, &roles, &models),
        claims,
        unseen,
        sections,
        sources: results.sources,
        left_out,
        colophon: vec![
            ("made by".to_owned(), options.command.clone()),
            (
                "program".to_owned(),
                format!("tcd {}", env!("CARGO_PKG_VERSION")),
            ),
            (
                "from".to_owned(),
                paths
                    .iter()
                    .map(|p| p.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        ],
    })
}

/// Every model that any result names.
fn models(results: &Results) -> BTreeMap<String, Known> {
    let mut models: BTreeMap<String, Known> = BTreeMap::new();
    let mut see = |name: &str, path: Option<&Path>, weights: Option<&str>| {
        let known = models.entry(name.to_owned()).or_default();
        if known.path.is_none() {
            known.path = path
                .filter(|p| !p.as_os_str().is_empty())
                .map(Path::to_owned);
        }
        if known.weights.is_none() {
            known.weights = weights.filter(|w| !w.is_empty()).map(str::to_owned);
        }
    };
    for run in &results.runs {
        let facts = run.result.facts();
        let weights = facts
            .iter()
            .find(|(name, _)| name.ends_with("model.safetensors"));
        see(
            &run.result.name,
            Some(&run.result.dir),
            weights.map(|(_, hash)| hash.as_str()),
        );
    }
    let provenances = results
        .cka
        .iter()
        .map(|r| &r.result.provenance)
        .chain(results.similarity.iter().map(|r| &r.result.provenance))
        .chain(results.geometry.iter().map(|r| &r.result.provenance))
        .chain(results.projection.iter().map(|r| &r.result.provenance))
        .chain(results.probe.iter().map(|r| &r.result.provenance))
        .chain(results.routing.iter().map(|r| &r.result.provenance))
        .chain(results.likelihood.iter().map(|r| &r.result.provenance))
        .chain(results.compare.iter().map(|r| &r.result.provenance));
    for model in provenances.flat_map(|p| &p.models) {
        see(
            &model.name,
            Some(Path::new(&model.model)),
            Some(&model.model_blake3),
        );
    }
    for (_, _, result) in &results.glue {
        // The weights are those of a fine-tuned model, not of the one that gives the name.
        see(&result.model.name, None, None);
    }
    for curve in results.transfer.iter().flat_map(|r| &r.result.curves) {
        see(&curve.family, None, None);
    }
    models
}

/// `one run`, `3 runs`.
fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("one {one}"),
        n => format!("{} {many}", grouped(n as u64)),
    }
}

/// Words with commas and an `and`.
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// With a capital at the beginning.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}

/// What was compared, in words.
fn lead(results: &Results, roles: &Roles, models: &BTreeMap<String, Known>) -> Vec<String> {
    let mut parts: BTreeMap<Option<Role>, Vec<String>> = BTreeMap::new();
    for (name, known) in models {
        let role = roles.role(name, known.path.as_deref());
        parts.entry(role).or_default().push(name.clone());
    }
    let mut paragraphs = Vec::new();
    if !models.is_empty() {
        // Those without a part come last.
        let ordered = parts.iter().skip_while(|(role, _)| role.is_none());
        let rest = parts.get(&None).map(|names| (&None, names));
        let groups: Vec<String> = ordered
            .chain(rest)
            .map(|(role, names)| {
                let shown = names.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
                let more = match names.len().saturating_sub(6) {
                    0 => String::new(),
                    n => format!(" and {n} more"),
                };
                format!("{}: {shown}{more}", role.map_or("of no part", Role::words))
            })
            .collect();
        paragraphs.push(format!(
            "What was compared. {}.",
            capital(&groups.join("; "))
        ));
    }
    let mut tasks: Vec<String> = results
        .glue
        .iter()
        .map(|(_, _, r)| r.task.clone())
        .collect();
    tasks.sort();
    tasks.dedup();
    let analyses = results.cka.len()
        + results.similarity.len()
        + results.geometry.len()
        + results.projection.len()
        + results.probe.len()
        + results.routing.len()
        + results.likelihood.len()
        + results.compare.len();
    let parts: Vec<String> = [
        (
            results.runs.len(),
            counted(results.runs.len(), "pre-training run", "pre-training runs"),
        ),
        (
            results.glue.len(),
            format!(
                "{} on {}",
                counted(results.glue.len(), "GLUE result", "GLUE results"),
                listed(&tasks)
            ),
        ),
        (
            results.transfer.len(),
            counted(
                results.transfer.len(),
                "set of transfer curves",
                "sets of transfer curves",
            ),
        ),
        (
            analyses,
            counted(analyses, "analysis of features", "analyses of features"),
        ),
        (
            results.parity.len(),
            counted(
                results.parity.len(),
                "comparison of engines",
                "comparisons of engines",
            ),
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(_, words)| words)
    .collect();
    if !parts.is_empty() {
        paragraphs.push(format!("The page is made of {}.", listed(&parts)));
    }
    if let Some(warning) = few_seeds(results, roles) {
        paragraphs.push(warning);
    }
    paragraphs
}

/// A warning where roles were pre-trained under one seed alone.
fn few_seeds(results: &Results, roles: &Roles) -> Option<String> {
    let mut seeds: BTreeMap<Role, Vec<u64>> = BTreeMap::new();
    for run in &results.runs {
        if let Some(role) = roles.role(&run.result.name, Some(&run.result.dir)) {
            let list = seeds.entry(role).or_default();
            if !list.contains(&run.result.seed) {
                list.push(run.result.seed);
            }
        }
    }
    let alone: Vec<String> = seeds
        .iter()
        .filter(|(_, list)| list.len() == 1)
        .map(|(role, _)| role.words().to_owned())
        .collect();
    (!alone.is_empty()).then(|| {
        format!(
            "Pre-trained under a single seed: {}. Differences between such models may be chance; where an interval is given, it is over rows or seeds of fine-tuning and says nothing of other seeds of pre-training.",
            listed(&alone)
        )
    })
}

/// The claims as lines for a terminal.
pub fn outline(page: &Page) -> Vec<String> {
    page.claims
        .iter()
        .map(|claim| {
            let mark = match claim.verdict {
                Verdict::Supported => "yes ",
                Verdict::NotSupported => "no  ",
                Verdict::Undecided => "open",
            };
            format!("{mark} {}", claim.statement)
        })
        .collect()
}
