//! How a run's weights start: drawn from the seed, or copied from a model directory.
//!
//! A mixture of experts may start from a vanilla model (sparse upcycling, Komatsuzaki et al. 2023): every expert is a copy of the
//! vanilla feed-forward block of its layer, the router is drawn anew. The gate of a Switch layer scales each block's output by
//! the router's probability, so the upcycled model is not the vanilla function at first, and training mends that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use tcd_export::{Architecture, Head, ModelDir, ModelDirError, Parameter, Values, parameters};

use crate::data::tokenizer::{Tokenizer, TokenizerError};
use crate::model::{Initialisation, ModelError, Store, normal};
use crate::seed::{Stream, rng};

/// `[init]`: where the weights of a run start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InitConfig {
    /// A model directory to copy from, of the same sizes; a vanilla one for a mixture of experts is upcycled. Default: none,
    /// weights are drawn.
    #[schemars(example = &"runs/vanilla/model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Noise added to each copy of a feed-forward block, as a share of its weights' root mean square, so that experts
    /// differ. Default 0: the router's draw alone tells them apart.
    pub expert_noise: f64,
}

impl InitConfig {
    /// What is wrong with it, one line each.
    pub fn validate(&self) -> Vec<String> {
        let noise = self.expert_noise;
        match noise >= 0.0 && noise.is_finite() {
            true => Vec::new(),
            false => vec![format!("`init.expert_noise` must be at least 0: {noise}")],
        }
    }
}

/// Why weights cannot start.
#[derive(Debug, Error)]
pub enum InitError {
    /// The directory cannot be read.
    #[error("the initial model cannot be read")]
    ModelDir(#[from] ModelDirError),
    /// Its tokenizer cannot be read.
    #[error("the initial model's tokenizer cannot be read")]
    Tokenizer(#[from] TokenizerError),
    /// Its tokenizer is not the corpus's.
    #[error("the initial model `{}` has another tokenizer than the corpus; hint: build the corpus with `--tokenizer {}`", path.display(), path.display())]
    OtherTokenizer {
        /// Model directory.
        path: PathBuf,
    },
    /// It has no such parameter, or another size of it.
    #[error("the initial model `{}` does not fit: {problem}", path.display())]
    Unfit {
        /// Model directory.
        path: PathBuf,
        /// What does not.
        problem: String,
    },
    /// The store refused the values.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Sets every parameter of `store`, that of a masked language model of `arch`.
pub fn initialise(
    store: &mut Store,
    arch: &Architecture,
    config: &InitConfig,
    how: Initialisation,
    tokenizer_hash: &str,
) -> Result<(), InitError> {
    store.initialise(how);
    let Some(path) = &config.from else {
        return Ok(());
    };
    let dir = ModelDir::open(path)?;
    if Tokenizer::load(&dir.tokenizer_file()?)?.hash() != tokenizer_hash {
        return Err(InitError::OtherTokenizer { path: path.clone() });
    }
    let source = dir.load(Head::MaskedLm, Values::Finite)?;
    let unfit = |problem: String| InitError::Unfit {
        path: path.clone(),
        problem,
    };
    let table = parameters(arch, Head::MaskedLm);
    let own: BTreeSet<&str> = table.iter().map(|p| p.name.as_str()).collect();
    let upcycled = dir.architecture().moe.is_none() && arch.moe.is_some();
    // What is not in the directory keeps its draw: routers of an upcycled model, projections of a distilled one.
    let drawn = store.buffer().copy();
    let layout: Vec<Parameter> = store.parameters().cloned().collect();
    let mut kept = BTreeMap::new();
    for p in &layout {
        let drawn_only =
            (upcycled && p.name.contains(".moe.router.")) || !own.contains(p.name.as_str());
        if drawn_only {
            kept.insert(
                p.name.clone(),
                store.read(&drawn, &p.name).unwrap_or_default(),
            );
        }
    }
    store.load(|p| {
        if let Some(values) = kept.remove(&p.name) {
            return Ok(values);
        }
        let name = match upcycled {
            true => vanilla_name(&p.name),
            false => p.name.clone(),
        };
        let tensor = source
            .tensor(&name)
            .ok_or_else(|| unfit(format!("it has no `{name}`")))?;
        let mut values = tensor.to_vec();
        if values.len() != p.count() {
            return Err(unfit(format!(
                "`{name}` has {} values, `{}` needs {} ({:?})",
                values.len(),
                p.name,
                p.count(),
                p.shape
            )));
        }
        if upcycled && name != p.name && config.expert_noise > 0.0 {
            add_noise(&mut values, config.expert_noise, how.seed, &p.name);
        }
        Ok(values)
    })
}

/// The feed-forward block that an expert's tensor is a copy of.
fn vanilla_name(name: &str) -> String {
    match name.split_once("moe.experts.") {
        Some((path, rest)) => {
            let tail = rest.split_once('.').map_or(rest, |(_, tail)| tail);
            format!("{path}{tail}")
        }
        None => name.to_string(),
    }
}

fn add_noise(values: &mut [f32], share: f64, seed: u64, name: &str) {
    let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let rms = (square / values.len().max(1) as f64).sqrt();
    let hash = blake3::hash(name.as_bytes());
    let place = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"));
    let mut noise = vec![0f32; values.len()];
    normal(
        &mut noise,
        share * rms,
        &mut rng(seed, Stream::Init, &[place, u64::MAX]),
    );
    values.iter_mut().zip(noise).for_each(|(v, n)| *v += n);
}
