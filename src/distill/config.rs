//! The `[distill]` section of a run's configuration.
//!
//! The paper (Lu, Zhao, Qin 2024) fixes what is aligned; weights, number of positions, layer map and schedule are this
//! project's choice wherever a default stands here.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::method::METHODS;
use crate::train::config::ModelSection;

/// Distillation from a frozen teacher into the model of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// A model directory, or `random` for an untrained teacher. Required.
    #[schemars(with = "String")]
    pub teacher: Teacher,
    /// What is transferred: `relations`, `logits`, `hidden`, `minilm` or `cka` (`tcd distill methods` lists them). Default
    /// `relations`.
    pub method: Method,
    /// Layer pairs: `uniform` (every layer of the shallower model with the one at the same relative depth), `identity`, or a
    /// list of pairs `[student, teacher]`, layers counted from 0. Default `uniform`.
    pub layers: LayerMap,
    /// Positions drawn from each batch, the same in teacher and student, padding left out; 0 for all. Default 1024.
    pub positions: Positions,
    /// Weights of the terms over time.
    pub schedule: TermSchedule,
    /// Settings of `method = "relations"`.
    pub relations: RelationsConfig,
    /// Settings of `method = "logits"`.
    pub logits: LogitsConfig,
    /// Settings of `method = "hidden"`.
    pub hidden: WeightConfig,
    /// Settings of `method = "minilm"`.
    pub minilm: MiniLmConfig,
    /// Settings of `method = "cka"`.
    pub cka: WeightConfig,
    /// The untrained teacher of `teacher = "random"`: vanilla, of the student's size where nothing is said.
    pub random: RandomTeacher,
}

/// `distill.teacher`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
pub enum Teacher {
    /// Untrained, drawn from `distill.random.seed`.
    Random,
    /// A model directory: this project's, or a Hugging Face BERT.
    Directory(PathBuf),
}

impl Default for Teacher {
    fn default() -> Self {
        Teacher::Directory(PathBuf::new())
    }
}

impl From<String> for Teacher {
    fn from(text: String) -> Self {
        match text.as_str() {
            "random" => Teacher::Random,
            _ => Teacher::Directory(PathBuf::from(text)),
        }
    }
}

impl From<Teacher> for String {
    fn from(teacher: Teacher) -> String {
        match teacher {
            Teacher::Random => "random".to_string(),
            Teacher::Directory(path) => path.display().to_string(),
        }
    }
}

/// `distill.method`: see [`super::method::METHODS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Transfer capability distillation: relations between features (Lu, Zhao, Qin 2024).
    #[default]
    Relations,
    /// Softened predictions (Hinton, Vinyals, Dean 2015).
    Logits,
    /// Hidden states through a learned projection (TinyBERT, Jiao et al. 2020).
    Hidden,
    /// Attention and value relations of the last layer (MiniLM, Wang et al. 2020).
    #[serde(rename = "minilm")]
    MiniLm,
    /// One minus linear CKA (Kornblith et al. 2019).
    Cka,
}

impl Method {
    /// The method of this name.
    pub fn named(name: &str) -> Option<Self> {
        let row = METHODS.iter().find(|row| row.name == name)?;
        Some(row.method)
    }
}

/// `distill.layers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LayerMap {
    /// `uniform` or `identity`.
    Named(NamedMap),
    /// Pairs `[student, teacher]`, layers counted from 0.
    List(Vec<(usize, usize)>),
}

impl Default for LayerMap {
    fn default() -> Self {
        LayerMap::Named(NamedMap::Uniform)
    }
}

/// A layer map with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NamedMap {
    /// Every layer of the shallower model, its partner at the same relative depth.
    Uniform,
    /// Layer `i` with layer `i`; depths must be equal.
    Identity,
}

/// `distill.positions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Positions(pub usize);

impl Default for Positions {
    fn default() -> Self {
        Positions(1024)
    }
}

/// How the weight of all terms goes over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TermSchedule {
    /// `constant`; `warmup`, from 0 to full over the first `steps`; or `anneal`, full until `start`, then to 0 over `steps`.
    /// Default `constant`.
    pub shape: Shape,
    /// Last step at full weight, of `anneal`. Default 0.
    pub start: u64,
    /// Steps of the way up or down; at least 1. Default 1000.
    pub steps: u64,
}

/// `distill.schedule.shape`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Always full.
    #[default]
    Constant,
    /// From 0 to full.
    Warmup,
    /// From full to 0.
    Anneal,
}

impl Default for TermSchedule {
    fn default() -> Self {
        TermSchedule {
            shape: Shape::Constant,
            start: 0,
            steps: 1000,
        }
    }
}

impl TermSchedule {
    /// The factor on every weight at a step, in [0, 1].
    pub fn factor(self, step: u64) -> f64 {
        let steps = self.steps.max(1) as f64;
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Warmup => ((step + 1) as f64 / steps).min(1.0),
            Shape::Anneal => (1.0 - step.saturating_sub(self.start) as f64 / steps).max(0.0),
        }
    }
}

/// Settings of transfer capability distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RelationsConfig {
    /// Weight of the trunk: embedding output and the hidden state that leaves each layer. Default 1.
    pub trunk: f64,
    /// Weight of the residual inner: what attention and feed-forward blocks add to the stream. Default 1.
    pub inner: f64,
    /// Weight of relations within attention: the query-key logits. Default 0.1: they are no cosines, and larger.
    pub attention: f64,
    /// Weight of relations between value vectors. Default 1.
    pub value: f64,
    /// Take each row's mean over its features away before it is scaled to unit norm, as layer norm does. Default true.
    pub center: bool,
    /// Draw `[CLS]` and `[SEP]` among the positions too. Default true.
    pub special_tokens: bool,
}

impl Default for RelationsConfig {
    fn default() -> Self {
        RelationsConfig {
            trunk: 1.0,
            inner: 1.0,
            attention: 0.1,
            value: 1.0,
            center: true,
            special_tokens: true,
        }
    }
}

/// Settings of logit distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogitsConfig {
    /// Weight of the term. Default 1.
    pub weight: f64,
    /// Temperature T; the term is multiplied by its square, so that gradients keep their size. Default 2.
    pub temperature: f64,
}

impl Default for LogitsConfig {
    fn default() -> Self {
        LogitsConfig {
            weight: 1.0,
            temperature: 2.0,
        }
    }
}

/// Settings of MiniLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MiniLmConfig {
    /// Weight of the attention relation. Default 1.
    pub attention: f64,
    /// Weight of the value relation. Default 1.
    pub value: f64,
}

impl Default for MiniLmConfig {
    fn default() -> Self {
        MiniLmConfig {
            attention: 1.0,
            value: 1.0,
        }
    }
}

/// Settings of a method with one weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WeightConfig {
    /// Weight of the term. Default 1.
    pub weight: f64,
}

impl Default for WeightConfig {
    fn default() -> Self {
        WeightConfig { weight: 1.0 }
    }
}

/// The untrained teacher (cf. Sarnthein et al. 2023).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandomTeacher {
    /// Seed of its weights. Default 0.
    pub seed: u64,
    /// Its size. Default: the student's, without experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSection>,
}

impl DistillConfig {
    /// Everything that must hold and does not, one line each.
    pub fn violations(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.teacher == Teacher::default() {
            lines.push("`distill.teacher` must name a model directory, or be `random`".to_string());
        }
        let r = &self.relations;
        for (key, weight) in [
            ("relations.trunk", r.trunk),
            ("relations.inner", r.inner),
            ("relations.attention", r.attention),
            ("relations.value", r.value),
            ("logits.weight", self.logits.weight),
            ("hidden.weight", self.hidden.weight),
            ("minilm.attention", self.minilm.attention),
            ("minilm.value", self.minilm.value),
            ("cka.weight", self.cka.weight),
        ] {
            if !(weight >= 0.0 && weight.is_finite()) {
                lines.push(format!("`distill.{key}` must be at least 0: {weight}"));
            }
        }
        let t = self.logits.temperature;
        if !(t > 0.0 && t.is_finite()) {
            lines.push(format!(
                "`distill.logits.temperature` must be positive: {t}"
            ));
        }
        if self.positions.0 == 1 {
            lines.push("`distill.positions` must be 0 (all) or at least 2: 1".to_string());
        }
        if self.schedule.steps == 0 {
            lines.push("`distill.schedule.steps` must be at least 1: 0".to_string());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn schedules_reach_what_they_say() {
        let schedule = |shape, start, steps| TermSchedule {
            shape,
            start,
            steps,
        };
        assert_eq!(TermSchedule::default().factor(7), 1.0);
        let warmup = schedule(Shape::Warmup, 0, 4);
        let factors = [0, 1, 3, 9].map(|s| warmup.factor(s));
        assert_eq!(factors, [0.25, 0.5, 1.0, 1.0]);
        let anneal = schedule(Shape::Anneal, 10, 4);
        let factors = [0, 10, 11, 14, 99].map(|s| anneal.factor(s));
        assert_eq!(factors, [1.0, 1.0, 0.75, 0.0, 0.0]);
    }

    #[test]
    fn a_section_reads_as_it_is_written() {
        let text = r#"
            teacher = "random"
            layers = [[0, 1], [3, 5]]
            positions = 64
            schedule = { shape = "anneal", start = 5, steps = 7 }
            random = { seed = 3, model = { layers = 2, hidden = 64 } }
        "#;
        let config: DistillConfig = toml::from_str(text).unwrap();
        assert_eq!(config.teacher, Teacher::Random);
        assert_eq!(config.layers, LayerMap::List(vec![(0, 1), (3, 5)]));
        let again: DistillConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
        assert!(config.violations().is_empty());
        let default = DistillConfig::default();
        assert_eq!(
            toml::from_str::<DistillConfig>(&toml::to_string(&default).unwrap()).unwrap(),
            default
        );
    }
}
