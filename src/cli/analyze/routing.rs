//! `tcd analyze routing`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use tcd_analysis::provenance::Provenance;
use tcd_analysis::routing::{Counts, Grouping, LayerRouting, RoutingResult, agreement};
use tcd_analysis::tokens::{TokenClass, Vocabulary};

use super::common::{Named, OutputArgs, open, provenance, short, table, vocabulary};
use crate::cli::{Outcome, note};

/// Arguments of `tcd analyze routing`.
///
/// Files of one model over several tasks (named alike: `moe=f/rte.safetensors moe=f/cola.safetensors`) are put together, and the
/// specialisation by task is measured over them. Of two models over the same tokens the agreement is measured, layer by layer.
///
/// Examples:
///   tcd analyze routing moe=f/moe.safetensors distilled=f/distilled.safetensors --tokenizer m/tokenizer.json --out routing.json
///   tcd analyze routing moe=f/moe-rte.safetensors moe=f/moe-cola.safetensors --out tasks.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Routing {
    /// Features files of mixtures of experts; `NAME=FILE` names the model.
    #[arg(required = true, value_name = "FEATURES")]
    features: Vec<String>,
    /// The models' `tokenizer.json`: specialisation by token class.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Count special tokens too.
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// One model's files.
struct Model<'a> {
    name: String,
    files: Vec<&'a Named>,
}

impl Routing {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let named: Vec<Named> = self
            .features
            .iter()
            .map(|f| open(f))
            .collect::<Result<_>>()?;
        for n in &named {
            if n.file.routed_layers().is_empty() {
                bail!(
                    "no routing in {}\nhint: only mixtures of experts have it",
                    n.file.path().display()
                );
            }
        }
        let words = match &self.tokenizer {
            Some(path) => Some(vocabulary(path, &named)?),
            None => None,
        };
        let models = group(&named)?;
        let mut layers = Vec::new();
        for model in &models {
            for layer in model.files[0].file.routed_layers() {
                layers.push(self.layer(model, layer, words.as_ref())?);
            }
        }
        let (agreement, agreement_reason) = match models.as_slice() {
            [a, b] => match (a.files.as_slice(), b.files.as_slice()) {
                ([a], [b]) => match a.file.check_same_tokens(&b.file) {
                    Ok(()) => (self.agreement(a, b)?, None),
                    Err(error) => (Vec::new(), Some(error.to_string())),
                },
                _ => (
                    Vec::new(),
                    Some("agreement takes one file of each model".to_owned()),
                ),
            },
            _ => (Vec::new(), None),
        };
        let provenance: Provenance =
            provenance("routing 1", &named.iter().collect::<Vec<_>>(), None);
        let result = RoutingResult {
            provenance,
            layers,
            agreement,
            agreement_reason,
        };
        show(&result);
        let mut tables = vec![("", result.to_csv()), ("loads", result.loads_csv())];
        if !result.agreement.is_empty() {
            tables.push(("agreement", result.agreement_csv()));
        }
        self.output.write(&result, &tables)?;
        Ok(Outcome::Done)
    }

    fn counted(&self, named: &Named, token: usize) -> bool {
        let id = i64::from(named.file.input_ids()[token]);
        self.special || !named.file.info().special_ids.contains(&id)
    }

    fn layer(
        &self,
        model: &Model,
        layer: usize,
        words: Option<&Vocabulary>,
    ) -> Result<LayerRouting> {
        let experts = model.files[0].file.info().num_experts.unwrap_or(0);
        let mut classes = Counts::new(experts, TokenClass::ALL.len());
        let mut tasks = Counts::new(experts, model.files.len());
        let mut gates = Vec::new();
        for (task, named) in model.files.iter().enumerate() {
            let chosen = experts_of(named, layer, experts)?;
            let each = chosen.len() / named.file.tokens().max(1);
            let gate = named
                .file
                .floats(&format!("gate.{layer}"))
                .unwrap_or_default();
            for (at, &expert) in chosen.iter().enumerate() {
                let token = at / each.max(1);
                if !self.counted(named, token) {
                    continue;
                }
                let class = words.map_or(TokenClass::Content, |w| {
                    w.class(named.file.input_ids()[token])
                });
                let column = TokenClass::ALL
                    .iter()
                    .position(|c| *c == class)
                    .unwrap_or(0);
                classes.add(expert as usize, column);
                tasks.add(expert as usize, task);
                gates.extend(gate.get(at));
            }
        }
        let mut groupings = Vec::new();
        if words.is_some() {
            let names = TokenClass::ALL
                .iter()
                .map(|c| c.name().to_owned())
                .collect();
            groupings.push(Grouping::new("token_class", names, &classes));
        }
        if model.files.len() > 1 {
            let name = |n: &&Named| {
                n.file
                    .info()
                    .task
                    .clone()
                    .unwrap_or_else(|| n.file.info().data.clone())
            };
            groupings.push(Grouping::new(
                "task",
                model.files.iter().map(name).collect(),
                &tasks,
            ));
        }
        Ok(LayerRouting::new(
            &model.name,
            layer,
            &tasks.loads(),
            &gates,
            groupings,
        ))
    }

    fn agreement(&self, a: &Named, b: &Named) -> Result<Vec<tcd_analysis::routing::Agreement>> {
        let sizes = [a, b].map(|n| n.file.info().num_experts.unwrap_or(0));
        let shared = a
            .file
            .routed_layers()
            .into_iter()
            .filter(|l| b.file.routed_layers().contains(l));
        shared
            .map(|layer| {
                let (x, y) = (
                    experts_of(a, layer, sizes[0])?,
                    experts_of(b, layer, sizes[1])?,
                );
                // Of several experts a token the first choice is compared.
                let n = a.file.tokens().max(1);
                let (ka, kb) = ((x.len() / n).max(1), (y.len() / n).max(1));
                let mut counts = Counts::new(sizes[0], sizes[1]);
                for token in (0..a.file.tokens()).filter(|&t| self.counted(a, t)) {
                    counts.add(x[token * ka] as usize, y[token * kb] as usize);
                }
                Ok(agreement(layer, layer, &counts))
            })
            .collect()
    }
}

/// The choices of a layer, checked against the number of experts.
pub(super) fn experts_of(named: &Named, layer: usize, experts: usize) -> Result<Vec<u32>> {
    let chosen = named.file.small_ints(&format!("expert.{layer}"))?;
    if let Some(at) = chosen.iter().position(|e| *e as usize >= experts) {
        bail!(
            "not a features file: {}: `expert.{layer}` [{at}] is {}, `num_experts` is {experts}",
            named.file.path().display(),
            chosen[at]
        );
    }
    Ok(chosen)
}

/// Files by name; files of one name must be of one model.
fn group(named: &[Named]) -> Result<Vec<Model<'_>>> {
    let mut models: Vec<Model> = Vec::new();
    for n in named {
        match models.iter_mut().find(|m| m.name == n.name) {
            Some(model) => {
                let first = model.files[0].file.info();
                if first.model_blake3 != n.file.info().model_blake3 {
                    return Err(anyhow::anyhow!("two models under one name: `{}`", n.name))
                        .context(
                            "files of one name are put together\nhint: name the models `NAME=FILE`",
                        );
                }
                model.files.push(n);
            }
            None => models.push(Model {
                name: n.name.clone(),
                files: vec![n],
            }),
        }
    }
    Ok(models)
}

fn show(result: &RoutingResult) {
    let lines: Vec<Vec<String>> = result
        .layers
        .iter()
        .map(|l| {
            let share = |kind: &str| {
                l.groupings
                    .iter()
                    .find(|g| g.kind == kind)
                    .and_then(|g| g.information_share)
            };
            vec![
                l.model.clone(),
                l.layer.to_string(),
                short(l.load_entropy_share),
                short(l.load.iter().copied().reduce(f64::max)),
                format!("{}/{}", l.dead.len(), l.experts),
                short(l.gate_mean),
                short(share("token_class")),
                short(share("task")),
            ]
        })
        .collect();
    table(
        &[
            "model",
            "layer",
            "entropy share",
            "largest",
            "dead",
            "gate",
            "by class",
            "by task",
        ],
        &lines,
    );
    if !result.agreement.is_empty() {
        let lines: Vec<Vec<String>> = result
            .agreement
            .iter()
            .map(|a| {
                let numbers = [
                    a.equal,
                    Some(a.matched),
                    a.adjusted_rand,
                    a.normalised_information,
                ];
                std::iter::once(a.layer_a.to_string())
                    .chain(numbers.map(short))
                    .collect()
            })
            .collect();
        table(
            &["layer", "equal", "matched", "adjusted Rand", "information"],
            &lines,
        );
    }
    if let Some(reason) = &result.agreement_reason {
        note(&format!("no agreement: {reason}"));
    }
}
