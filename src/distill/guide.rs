//! A teacher at work: what a training step asks for its distillation losses.

use std::time::Instant;

use tch::{Kind, Tensor};

use tcd_export::{Architecture, Parameter};

use super::config::{DistillConfig, LayerMap};
use super::layers;
use super::method::{Group, Projections, Row, Side, View, row};
use super::sample::Sampler;
use super::teacher::{DistillError, Pupil, TeacherModel};
use crate::data::batch::{Batch, HELD_OUT_MASK_SEED};
use crate::model::{BertInput, Store, Taps};

/// Teacher, method and settings.
#[derive(Debug)]
pub struct Guide {
    teacher: TeacherModel,
    config: DistillConfig,
    row: &'static Row,
    pairs: Vec<(usize, usize)>,
    sampler: Sampler,
    projections: Option<Projections>,
}

/// Where in a run a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A micro-batch of a training step.
    Train {
        /// Step.
        step: u64,
        /// Micro-batch.
        micro: u64,
    },
    /// A held-out batch by number: its positions are the same in every run, and it is compared in f64.
    HeldOut(u64),
}

/// The student's side of a batch.
#[derive(Clone, Copy, Debug)]
pub struct StudentSide<'a> {
    /// What both models read.
    pub input: &'a BertInput,
    /// Its named hidden states.
    pub taps: &'a Taps,
    /// Its logits at masked positions, `[M, V]`.
    pub logits: &'a Tensor,
    /// The masked positions, flat in `B*S`, `[M]`.
    pub masked: &'a Tensor,
}

/// Distillation losses of one micro-batch.
#[derive(Debug)]
pub struct Terms {
    /// Raw losses by group and place.
    pub groups: Vec<Group>,
    /// Factor of the schedule on every weight.
    pub factor: f64,
    /// Seconds in the teacher's forward pass.
    pub teacher_seconds: f64,
}

impl Terms {
    /// What is added to the student's loss: the sum over groups of weight times mean.
    pub fn total(&self) -> Option<Tensor> {
        self.groups
            .iter()
            .filter(|g| g.weight > 0.0)
            .map(|g| g.raw.mean(g.raw.kind()).to_kind(Kind::Float) * (g.weight * self.factor))
            .reduce(|a, b| a + b)
    }
}

impl Guide {
    /// Parameters that the method learns beside the student's; they go into the student's store.
    pub fn extra(
        config: &DistillConfig,
        student: &Architecture,
        teacher: &TeacherModel,
    ) -> Vec<Parameter> {
        (row(config.method).extra)(student, &teacher.arch)
    }

    /// A guide for a student with this store; `seed` is that of the stream of drawn positions.
    ///
    /// # Errors
    /// A layer map that the depths do not allow.
    pub fn new(
        config: &DistillConfig,
        teacher: TeacherModel,
        store: &Store,
        pupil: &Pupil,
        seed: u64,
    ) -> Result<Self, DistillError> {
        let pairs = layers::pairs(
            &config.layers,
            pupil.arch.num_hidden_layers,
            teacher.arch.num_hidden_layers,
        )
        .map_err(DistillError::Unfit)?;
        let special = pupil.tokenizer.special();
        let excluded = match config.relations.special_tokens {
            true => Vec::new(),
            false => vec![i64::from(special.cls), i64::from(special.sep)],
        };
        Ok(Guide {
            row: row(config.method),
            config: config.clone(),
            pairs,
            sampler: Sampler {
                positions: config.positions.0,
                excluded,
                seed,
            },
            projections: Projections::find(store),
            teacher,
        })
    }

    /// The teacher.
    pub fn teacher(&self) -> &TeacherModel {
        &self.teacher
    }

    /// Aligned layers `(student, teacher)`.
    pub fn pairs(&self) -> &[(usize, usize)] {
        &self.pairs
    }

    /// What is transferred.
    pub fn row(&self) -> &'static Row {
        self.row
    }

    /// Whether a training step at `step` needs the teacher at all.
    pub fn active(&self, step: u64) -> bool {
        self.config.schedule.factor(step) > 0.0
    }

    /// The losses of a batch; `None` where it has fewer than two positions to compare.
    pub fn terms(&self, batch: &Batch, student: &StudentSide, when: When) -> Option<Terms> {
        let device = student.masked.device();
        let (factor, sample) = match when {
            When::Train { step, micro } => (
                self.config.schedule.factor(step),
                self.sampler.draw(batch, step, micro, device)?,
            ),
            When::HeldOut(index) => {
                let sampler = Sampler {
                    seed: HELD_OUT_MASK_SEED,
                    ..self.sampler.clone()
                };
                (1.0, sampler.draw(batch, 0, index, device)?.precise())
            }
        };
        let start = Instant::now();
        let (encoded, logits) = self.teacher.forward(student.input, student.masked);
        let teacher_seconds = start.elapsed().as_secs_f64();
        let taps = encoded.taps.as_ref().expect("a tapped forward pass");
        let groups = (self.row.groups)(&View {
            student: Side {
                taps: student.taps,
                logits: Some(student.logits),
            },
            teacher: Side {
                taps,
                logits: logits.as_ref(),
            },
            sample: &sample,
            pairs: &self.pairs,
            projections: self.projections.as_ref(),
            config: &self.config,
        });
        Some(Terms {
            groups,
            factor,
            teacher_seconds,
        })
    }

    /// One line on what is done, for the person at the start.
    pub fn describe(&self) -> String {
        let arch = &self.teacher.arch;
        let layers = match &self.config.layers {
            LayerMap::List(_) => "listed layers".to_string(),
            _ => format!("{} layer pairs", self.pairs.len()),
        };
        format!(
            "teacher: L{} H{}, {} parameters{}; {} ({}), {layers}",
            arch.num_hidden_layers,
            arch.hidden_size,
            self.teacher.parameter_count(),
            arch.experts()
                .map_or(String::new(), |e| format!(", {e} experts a layer")),
            self.row.name,
            self.row.source,
        )
    }
}
