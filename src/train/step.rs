//! One training step, shared by every kind of training: forward, losses, gradients, update.

use tch::{Device, Kind, Tensor};

use tcd_export::{Architecture, Head, Parameter, parameters};

use super::optimizer::AdamW;
use crate::data::batch::Batch;
use crate::distill::{Guide, StudentSide, Terms, When};
use crate::model::{
    Bert, BertInput, MaskedLmHead, Mode, ModelError, Noise, Routing, Store, StoreOptions,
};

/// A masked language model and its parameters.
#[derive(Debug)]
pub struct Model {
    /// Parameters.
    pub store: Store,
    /// Encoder.
    pub bert: Bert,
    /// Head.
    pub head: MaskedLmHead,
    /// What it was built from.
    pub arch: Architecture,
}

impl Model {
    /// Allocates and builds; every parameter is zero. `extra` parameters are trained with the model and are no part of it.
    pub fn new(
        arch: &Architecture,
        extra: &[Parameter],
        options: StoreOptions,
    ) -> Result<Self, ModelError> {
        let mut table = parameters(arch, Head::MaskedLm);
        table.extend_from_slice(extra);
        let store = Store::new(&table, options)?;
        let bert = Bert::new(&store, arch);
        let head = MaskedLmHead::new(&store, arch);
        Ok(Model {
            store,
            bert,
            head,
            arch: arch.clone(),
        })
    }

    /// A batch on the model's device.
    pub fn input(&self, batch: &Batch) -> BertInput {
        let shape = [batch.batch as i64, batch.sequence as i64];
        let device = self.store.options().device;
        let tensor = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device); // [B, S]
        BertInput {
            input_ids: tensor(&batch.input_ids),
            attention_mask: (!batch.all_real).then(|| tensor(&batch.attention_mask)),
            token_type_ids: None,
        }
    }

    /// The losses of one micro-batch, with those of a teacher where there is one.
    pub fn losses(&self, batch: &Batch, mode: Mode, guidance: Option<(&Guide, When)>) -> Losses {
        let input = self.input(batch);
        let encoded = self.bert.forward(&input, mode, guidance.is_some());
        let device = self.store.options().device;
        let positions = Tensor::from_slice(&batch.masked_positions).to_device(device); // [M]
        let labels = Tensor::from_slice(&batch.labels).to_device(device); // [M]
        let head = self.head.loss(&encoded.hidden, &positions, &labels);
        let mut total = head.mean.shallow_clone();
        let (mut balance, mut z) = (None, None);
        if let Some(moe) = &self.arch.moe {
            let layers = encoded.routing.len() as f64;
            let mean = |pick: fn(&Routing) -> &Tensor| {
                Tensor::stack(&encoded.routing.iter().map(pick).collect::<Vec<_>>(), 0)
                    .sum(Kind::Float)
                    / layers
            };
            let (b, zl) = (mean(|r| &r.balance_loss), mean(|r| &r.z_loss));
            if moe.balance_loss_weight > 0.0 {
                total = weighted(&total, &b, moe.balance_loss_weight);
            }
            if moe.z_loss_weight > 0.0 {
                total = weighted(&total, &zl, moe.z_loss_weight);
            }
            (balance, z) = (Some(b), Some(zl));
        }
        let terms = guidance.and_then(|(guide, when)| {
            let taps = encoded.taps.as_ref().expect("a tapped forward pass");
            let student = StudentSide {
                input: &input,
                taps,
                logits: &head.logits,
                masked: &positions,
            };
            guide.terms(batch, &student, when)
        });
        if let Some(distilled) = terms.as_ref().and_then(Terms::total) {
            total = &total + distilled;
        }
        Losses {
            mlm: head.mean,
            balance,
            z,
            terms,
            total,
            correct: head.correct,
            routing: encoded.routing,
        }
    }

    /// Gradients of the mean loss over masked tokens of all micro-batches, one tensor a leaf (undefined where none reaches it),
    /// and what to report. Balance and z-loss are averaged over micro-batches.
    pub fn gradients(
        &self,
        batches: &[Batch],
        seed: u64,
        step: u64,
        guide: Option<&Guide>,
    ) -> (Vec<Tensor>, Report) {
        let guide = guide.filter(|g| g.active(step));
        let leaves: Vec<&Tensor> = self.store.leaves().iter().map(|l| &l.tensor).collect();
        let masked: usize = batches.iter().map(|b| b.masked_positions.len()).sum();
        let mut gradients: Vec<Tensor> = Vec::new();
        let mut report = Report::default();
        for (i, batch) in batches
            .iter()
            .enumerate()
            .filter(|(_, b)| !b.masked_positions.is_empty())
        {
            let noise = Noise::new(seed, step, i as u64);
            let micro = i as u64;
            let guidance = guide.map(|g| (g, When::Train { step, micro }));
            let losses = self.losses(batch, Mode::Train(&noise), guidance);
            let share = batch.masked_positions.len() as f64 / masked as f64;
            report.add(&losses, share, batch, &self.arch);
            let loss = if batches.len() == 1 {
                losses.total
            } else {
                losses.total * share
            };
            let new = Tensor::run_backward(&[loss], &leaves, false, false);
            if gradients.is_empty() {
                gradients = new;
            } else {
                for (sum, new) in gradients.iter_mut().zip(new) {
                    match (sum.defined(), new.defined()) {
                        (true, true) => tch::no_grad(|| {
                            let _ = sum.g_add_(&new);
                        }),
                        (false, true) => *sum = new,
                        _ => {}
                    }
                }
            }
        }
        (gradients, report)
    }

    /// Clips and updates; `Some(norm)` of the gradient before clipping, or `None` where loss or norm is not finite and nothing
    /// was changed.
    pub fn update(
        &mut self,
        optimizer: &mut AdamW,
        gradients: &[Tensor],
        clip: f64,
        rate: f64,
    ) -> Option<f64> {
        optimizer.clipped_step(&mut self.store, gradients, clip, rate)
    }

    /// Held-out masked-LM log-likelihood (nats per masked token) and accuracy, and the raw distillation losses.
    pub fn evaluate(&self, batches: &[Batch], guide: Option<&Guide>) -> HeldOut {
        let (mut sum, mut correct, mut masked) = (0.0, 0i64, 0usize);
        let mut terms = TermReport::default();
        tch::no_grad(|| {
            for (i, batch) in batches
                .iter()
                .enumerate()
                .filter(|(_, b)| !b.masked_positions.is_empty())
            {
                let guidance = guide.map(|g| (g, When::HeldOut(i as u64)));
                let losses = self.losses(batch, Mode::Eval, guidance);
                if let Some(new) = &losses.terms {
                    terms.add(new, 1.0);
                }
                sum += losses.mlm.double_value(&[]) * batch.masked_positions.len() as f64;
                correct += losses.correct.int64_value(&[]);
                masked += batch.masked_positions.len();
            }
        });
        HeldOut {
            log_likelihood: -sum / masked as f64,
            accuracy: correct as f64 / masked as f64,
            masked,
            terms: terms.mean(),
        }
    }
}

/// `sum + weight * raw`, as a new tensor: the raw losses stay what they are.
fn weighted(sum: &Tensor, raw: &Tensor, weight: f64) -> Tensor {
    sum + raw * weight
}

/// Held-out measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// Nats per masked token; higher is better.
    pub log_likelihood: f64,
    /// Share of masked tokens predicted.
    pub accuracy: f64,
    /// Masked tokens.
    pub masked: usize,
    /// Distillation losses, mean over batches; empty without a teacher.
    pub terms: TermReport,
}

/// Losses of one micro-batch, raw, with gradient.
#[derive(Debug)]
pub struct Losses {
    /// Mean negative log-likelihood, nats per masked token.
    pub mlm: Tensor,
    /// Balance loss, mean over layers.
    pub balance: Option<Tensor>,
    /// Router z-loss, mean over layers.
    pub z: Option<Tensor>,
    /// Distillation losses, where there is a teacher.
    pub terms: Option<Terms>,
    /// What is minimised.
    pub total: Tensor,
    /// Masked tokens predicted.
    pub correct: Tensor,
    /// Routing of each layer.
    pub routing: Vec<Routing>,
}

/// What one step reports, on the host.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Minimised loss.
    pub total: f64,
    /// Masked-LM loss.
    pub mlm: f64,
    /// Balance loss, raw and weighted.
    pub balance: Option<(f64, f64)>,
    /// Router z-loss, raw and weighted.
    pub z: Option<(f64, f64)>,
    /// Real tokens.
    pub tokens: u64,
    /// By layer: tokens of each expert, and mean entropy of the router in nats.
    pub routing: Vec<(Vec<i64>, f64)>,
    /// Tokens dropped for lack of capacity, all layers.
    pub dropped: i64,
    /// Distillation losses.
    pub terms: TermReport,
}

/// Distillation losses on the host, summed by share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TermReport {
    /// Shares added up; 1 for a whole step.
    pub share: f64,
    /// Groups in the method's order.
    pub groups: Vec<GroupReport>,
    /// Seconds in the teacher's forward passes, whole.
    pub teacher_seconds: f64,
}

/// Losses of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReport {
    /// Name of the group.
    pub name: &'static str,
    /// Weight, with the schedule's factor.
    pub weight: f64,
    /// Raw loss by place.
    pub raw: Vec<(String, f64)>,
}

impl GroupReport {
    /// Mean over places.
    pub fn mean(&self) -> f64 {
        self.raw.iter().map(|(_, v)| v).sum::<f64>() / self.raw.len().max(1) as f64
    }
}

impl TermReport {
    /// Adds the losses of a micro-batch.
    pub fn add(&mut self, terms: &Terms, share: f64) {
        let groups = terms.groups.iter().map(|group| {
            let raw = group.raw.to_device(Device::Cpu).to_kind(Kind::Double);
            let raw = Vec::<f64>::try_from(raw).unwrap_or_default();
            let raw = raw.into_iter().map(|v| v * share);
            GroupReport {
                name: group.name,
                weight: group.weight * terms.factor,
                raw: group.places.iter().cloned().zip(raw).collect(),
            }
        });
        self.merge(TermReport {
            share,
            groups: groups.collect(),
            teacher_seconds: terms.teacher_seconds,
        });
    }

    /// Adds what was summed elsewhere.
    pub fn merge(&mut self, other: TermReport) {
        self.share += other.share;
        self.teacher_seconds += other.teacher_seconds;
        if self.groups.is_empty() {
            self.groups = other.groups;
            return;
        }
        for (sum, new) in self.groups.iter_mut().zip(other.groups) {
            sum.weight = new.weight;
            for ((_, sum), (_, new)) in sum.raw.iter_mut().zip(new.raw) {
                *sum += new;
            }
        }
    }

    /// The mean over what was added.
    pub fn mean(mut self) -> Self {
        if self.share > 0.0 {
            for (_, value) in self.groups.iter_mut().flat_map(|g| &mut g.raw) {
                *value /= self.share;
            }
            self.share = 1.0;
        }
        self
    }

    /// Values for the metrics: each group's mean and each place's loss, raw and weighted (its part in the sum).
    pub fn values(&self) -> Vec<(String, f64)> {
        let mut values = Vec::new();
        for group in &self.groups {
            let (name, mean) = (group.name, group.mean());
            values.push((format!("distill.{name}"), mean));
            values.push((format!("distill.{name}_weighted"), mean * group.weight));
            for (place, value) in &group.raw {
                values.push((format!("distill.{name}.{place}"), *value));
                let weighted = value * group.weight / group.raw.len() as f64;
                values.push((format!("distill.{name}.{place}_weighted"), weighted));
            }
        }
        values
    }
}

impl Report {
    fn add(&mut self, losses: &Losses, share: f64, batch: &Batch, arch: &Architecture) {
        let value = |t: &Tensor| t.double_value(&[]);
        self.total += share * value(&losses.total);
        self.mlm += share * value(&losses.mlm);
        self.tokens += batch.real_tokens as u64;
        if let Some(terms) = &losses.terms {
            self.terms.add(terms, share);
        }
        if let (Some(moe), Some(balance), Some(z)) = (&arch.moe, &losses.balance, &losses.z) {
            let (b, zl) = (share * value(balance), share * value(z));
            let old = self.balance.unwrap_or_default();
            self.balance = Some((old.0 + b, old.1 + b * moe.balance_loss_weight));
            let old = self.z.unwrap_or_default();
            self.z = Some((old.0 + zl, old.1 + zl * moe.z_loss_weight));
        }
        for (i, routing) in losses.routing.iter().enumerate() {
            let load =
                Vec::<i64>::try_from(routing.load.to_device(Device::Cpu)).unwrap_or_default();
            let entropy = share * value(&routing.entropy);
            self.dropped += routing.dropped;
            match self.routing.get_mut(i) {
                Some((sum, e)) => {
                    sum.iter_mut().zip(load).for_each(|(a, b)| *a += b);
                    *e += entropy;
                }
                None => self.routing.push((load, entropy)),
            }
        }
    }
}
