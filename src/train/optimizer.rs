//! AdamW (Loshchilov, Hutter 2019) over the flat buffer, with clipping by global norm.
//!
//! Both moments are tensors of the buffer's layout, so saving, sharding and reducing them needs no names. On the CPU the
//! update is one pass in Rust over parameters, moments and gradients. Elsewhere it is tensor operations on the same layout, on many
//! neighbouring leaves at once: small models have more leaves than work, and a device waits for every operation to be launched.
//! A leaf without a gradient in this step is left as it is.

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::config::OptimizerConfig;
use crate::model::{ALIGN, Leaf, Store};

/// Elements that one task updates; also the blocks of the norm, so that its value does not depend on the thread count.
const BLOCK: usize = 1 << 16;

/// Elements that one tensor operation updates at most: enough to fill a device, few enough that its intermediate results are
/// small beside the parameters.
const SPAN: usize = 1 << 24;

/// AdamW and its state.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    /// Running mean of the gradient, `[N]`, f32.
    pub first: Tensor,
    /// Running mean of its square, `[N]`, f32.
    pub second: Tensor,
    /// Updates made.
    pub updates: u64,
}

/// A contiguous CPU f32 tensor as a slice.
///
/// # Safety
/// The tensor must outlive the slice, and nothing else may write to it meanwhile.
unsafe fn slice(tensor: &Tensor) -> &[f32] {
    assert!(
        tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
    );
    // SAFETY: a contiguous f32 CPU tensor holds `numel` floats at its pointer.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The same, to write to.
///
/// # Safety
/// As for [`slice`], and nothing else may read it meanwhile.
unsafe fn slice_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(
        tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
    );
    // SAFETY: see `slice`; `&mut` keeps this handle from being used twice.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

impl AdamW {
    /// State at rest for the parameters of `store`.
    pub fn new(config: &OptimizerConfig, store: &Store) -> Self {
        AdamW {
            config: config.clone(),
            first: store.buffer().zeros_like(),
            second: store.buffer().zeros_like(),
            updates: 0,
        }
    }

    /// Global L2 norm of gradients on the CPU; they may be undefined.
    fn norm(gradients: &[Tensor]) -> f64 {
        let defined = gradients.iter().filter(|g| g.defined());
        let squares: f64 = defined
            .map(|g| {
                let g = g.to_kind(Kind::Float).contiguous();
                // SAFETY: only read, and the gradient outlives the sum.
                let values = unsafe { slice(&g) };
                let blocks: Vec<f64> = values.par_chunks(BLOCK).map(square_sum).collect();
                blocks.iter().sum::<f64>()
            })
            .sum();
        squares.sqrt()
    }

    /// Clips the gradients to the global norm `clip` (0: not at all) and updates at learning rate `rate`; `gradients[i]` belongs to
    /// leaf `i` and may be undefined. `Some(norm)` of the gradient before clipping, or `None` where it is not finite and nothing was
    /// changed.
    pub fn clipped_step(
        &mut self,
        store: &mut Store,
        gradients: &[Tensor],
        clip: f64,
        rate: f64,
    ) -> Option<f64> {
        let _no_grad = tch::no_grad_guard();
        let cpu = store.buffer().device() == Device::Cpu;
        let spans = (!cpu).then(|| spans(store.leaves(), gradients));
        let norm = match &spans {
            None => AdamW::norm(gradients),
            Some(spans) => span_norm(spans),
        };
        if !norm.is_finite() {
            return None;
        }
        let scale = if clip > 0.0 && norm > clip {
            clip / norm
        } else {
            1.0
        };
        self.updates += 1;
        match &spans {
            None => self.step(store, gradients, rate, scale),
            Some(spans) => self.step_spans(store, spans, rate, scale),
        }
        store.refresh();
        Some(norm)
    }

    /// By how much the moments' beginnings at zero make them too small: `1 - beta^t` of both.
    fn corrections(&self) -> (f64, f64) {
        let updates = self.updates.min(i32::MAX as u64) as i32;
        let of = |beta: f64| 1.0 - beta.powi(updates);
        (of(self.config.beta1), of(self.config.beta2))
    }

    /// One update on the CPU, gradients multiplied by `scale` first.
    fn step(&mut self, store: &mut Store, gradients: &[Tensor], rate: f64, scale: f64) {
        let c = &self.config;
        let (correction1, correction2) = self.corrections();
        let mut buffer = store.buffer().shallow_clone();
        let defined = store.leaves().iter().zip(gradients);
        for (leaf, gradient) in defined.filter(|(_, g)| g.defined()) {
            let decay = if leaf.decay {
                rate * c.weight_decay
            } else {
                0.0
            };
            let gradient = gradient.to_kind(Kind::Float).contiguous();
            let update = Update {
                rate: (rate / correction1) as f32,
                keep: (1.0 - decay) as f32,
                beta1: c.beta1 as f32,
                beta2: c.beta2 as f32,
                root: (1.0 / correction2).sqrt() as f32,
                eps: c.eps as f32,
                scale: scale as f32,
            };
            let range = leaf.start..leaf.start + leaf.len;
            // SAFETY: three tensors of one layout and a gradient, all distinct, all alive; ranges end within them.
            let (w, m, v, g) = unsafe {
                (
                    &mut slice_mut(&mut buffer)[range.clone()],
                    &mut slice_mut(&mut self.first)[range.clone()],
                    &mut slice_mut(&mut self.second)[range],
                    slice(&gradient),
                )
            };
            w.par_chunks_mut(BLOCK)
                .zip(m.par_chunks_mut(BLOCK))
                .zip(v.par_chunks_mut(BLOCK))
                .zip(g.par_chunks(BLOCK))
                .for_each(|(((w, m), v), g)| update.apply(w, m, v, g));
        }
    }

    /// The same update by tensor operations.
    fn step_spans(&mut self, store: &Store, spans: &[Span], rate: f64, scale: f64) {
        let c = &self.config;
        let (correction1, correction2) = self.corrections();
        for (span, at, len) in spans.iter().flat_map(Span::parts) {
            let part = |of: &Tensor| of.narrow(0, (span.start + at) as i64, len as i64);
            let (mut w, mut m, mut v) =
                (part(store.buffer()), part(&self.first), part(&self.second));
            let gradient = span.gradient.narrow(0, at as i64, len as i64);
            let mut g = gradient.to_kind(Kind::Float) * scale;
            let _ = m.lerp_(&g, 1.0 - c.beta1);
            let _ = g.g_mul_scalar_((1.0 - c.beta2).sqrt());
            let _ = v.g_mul_scalar_(c.beta2).addcmul_(&g, &g);
            if rate == 0.0 {
                continue;
            }
            if span.decay {
                let _ = w.g_mul_scalar_(1.0 - rate * c.weight_decay);
            }
            // -(root of the second moment + eps) / rate, both moments corrected, so that the update is one division.
            let against = -correction1 / rate;
            let mut divisor = v.sqrt();
            let _ = divisor.g_mul_scalar_(against / correction2.sqrt());
            let _ = divisor.g_add_scalar_(against * c.eps);
            let _ = w.addcdiv_(&m, &divisor);
        }
    }
}

/// Neighbouring leaves that are updated alike, with their gradients as one.
struct Span {
    start: usize,
    decay: bool,
    /// `[n]`.
    gradient: Tensor,
}

impl Span {
    /// Parts of at most [`SPAN`] elements: where each begins, and its length.
    fn parts(&self) -> impl Iterator<Item = (&Self, usize, usize)> {
        let all = self.gradient.numel();
        let starts = (0..all).step_by(SPAN);
        starts.map(move |at| (self, at, SPAN.min(all - at)))
    }
}

/// Puts neighbours of one kind of value and one kind of decay together, up to [`SPAN`] elements. Between leaves lie elements that
/// belong to none; their gradient is zero.
fn spans(leaves: &[Leaf], gradients: &[Tensor]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut open: Option<(usize, usize, bool, Vec<Tensor>)> = None;
    let close = |(start, _, decay, mut parts): (usize, usize, bool, Vec<Tensor>)| Span {
        start,
        decay,
        gradient: match parts.len() {
            1 => parts.remove(0),
            _ => Tensor::cat(&parts, 0),
        },
    };
    let defined = leaves.iter().zip(gradients);
    for (leaf, gradient) in defined.filter(|(_, g)| g.defined()) {
        let gradient = gradient.reshape([-1]);
        match &mut open {
            Some((start, end, decay, parts))
                if *decay == leaf.decay
                    && parts[0].kind() == gradient.kind()
                    && leaf.start < *end + ALIGN
                    && leaf.start + leaf.len - *start <= SPAN =>
            {
                if leaf.start > *end {
                    let gap = (leaf.start - *end) as i64;
                    parts.push(Tensor::zeros([gap], (gradient.kind(), gradient.device())));
                }
                parts.push(gradient);
                *end = leaf.start + leaf.len;
            }
            _ => {
                let next = (
                    leaf.start,
                    leaf.start + leaf.len,
                    leaf.decay,
                    vec![gradient],
                );
                spans.extend(open.replace(next).map(close));
            }
        }
    }
    spans.extend(open.map(close));
    spans
}

/// Global L2 norm of gradients, fetched from their device once.
fn span_norm(spans: &[Span]) -> f64 {
    let norm = |(span, at, len): (&Span, usize, usize)| {
        let part = span.gradient.narrow(0, at as i64, len as i64);
        part.to_kind(Kind::Float).norm()
    };
    let norms: Vec<Tensor> = spans.iter().flat_map(Span::parts).map(norm).collect();
    if norms.is_empty() {
        return 0.0;
    }
    Tensor::stack(&norms, 0).norm().double_value(&[])
}

/// Sum of squares in f64, eight lanes.
fn square_sum(values: &[f32]) -> f64 {
    let (groups, rest) = values.as_chunks::<8>();
    let mut lanes = [0f64; 8];
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>()
        + rest
            .iter()
            .map(|v| f64::from(*v) * f64::from(*v))
            .sum::<f64>()
}

#[derive(Clone, Copy)]
struct Update {
    rate: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    root: f32,
    eps: f32,
    scale: f32,
}

impl Update {
    fn apply(&self, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature is there.
            return unsafe { self.apply_avx2(w, m, v, g) };
        }
        self.apply_all(w, m, v, g);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn apply_avx2(&self, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        self.apply_all(w, m, v, g);
    }

    #[inline(always)]
    fn apply_all(&self, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * self.scale;
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            *w = self.keep * *w - self.rate * *m / (v.sqrt() * self.root + self.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{Initialisation, StoreOptions};
    use tcd_export::{Init, Parameter};

    fn parameter(name: &str, shape: &[usize], decay: bool) -> Parameter {
        Parameter {
            name: name.to_string(),
            shape: shape.to_vec(),
            init: Init::Normal,
            decay,
        }
    }

    /// Against the definition written for reading, in f64, over several steps; a leaf without gradient stays. Both ways of updating.
    #[test]
    fn updates_are_those_of_the_definition() {
        definition(|optimizer, store, gradients, rate, scale| {
            optimizer.step(store, gradients, rate, scale);
            AdamW::norm(gradients)
        });
        definition(|optimizer, store, gradients, rate, scale| {
            let spans = spans(store.leaves(), gradients);
            // `a` and `d` are neighbours, `c` has no gradient, `b` no decay.
            assert_eq!(spans.len(), 2);
            optimizer.step_spans(store, &spans, rate, scale);
            span_norm(&spans)
        });
    }

    fn definition(step: impl Fn(&mut AdamW, &mut Store, &[Tensor], f64, f64) -> f64) {
        let table = [
            parameter("a", &[5, 3], true),
            parameter("d", &[2, 9], true),
            parameter("b", &[7], false),
            parameter("c", &[4], true),
        ];
        let mut store = Store::new(
            &table,
            StoreOptions {
                device: Device::Cpu,
                bf16: false,
            },
        )
        .unwrap();
        store.initialise(Initialisation { seed: 1, std: 0.5 });
        let config = OptimizerConfig {
            weight_decay: 0.1,
            ..OptimizerConfig::default()
        };
        let mut optimizer = AdamW::new(&config, &store);
        let values = |store: &Store, name: &str| store.read(store.buffer(), name).unwrap();
        let untouched = values(&store, "c");
        let mut w: Vec<Vec<f64>> = ["a", "b", "d"]
            .iter()
            .map(|n| values(&store, n).iter().map(|v| f64::from(*v)).collect())
            .collect();
        let mut m: Vec<Vec<f64>> = w.iter().map(|w| vec![0.0; w.len()]).collect();
        let mut v = m.clone();
        for t in 1..=5 {
            let gradient = |leaf: &str, i: usize| ((i * 3 + t * 5 + leaf.len()) as f64).sin();
            let gradients: Vec<Tensor> = store
                .leaves()
                .iter()
                .map(|l| match l.name.as_str() {
                    "c" => Tensor::new(),
                    name => Tensor::from_slice(
                        &(0..l.len)
                            .map(|i| gradient(name, i) as f32)
                            .collect::<Vec<_>>(),
                    )
                    .view(l.tensor.size().as_slice()),
                })
                .collect();
            let squares: f64 = ["a", "b", "d"]
                .iter()
                .zip(&w)
                .flat_map(|(n, w)| (0..w.len()).map(move |i| gradient(n, i).powi(2)))
                .sum();
            let (rate, scale) = (0.01 * t as f64, 0.5);
            optimizer.updates += 1;
            let norm = step(&mut optimizer, &mut store, &gradients, rate, scale);
            assert!((norm - squares.sqrt()).abs() < 1e-5);
            for (k, name) in ["a", "b", "d"].iter().enumerate() {
                for i in 0..w[k].len() {
                    let g = gradient(name, i) * scale;
                    m[k][i] = config.beta1 * m[k][i] + (1.0 - config.beta1) * g;
                    v[k][i] = config.beta2 * v[k][i] + (1.0 - config.beta2) * g * g;
                    let first = m[k][i] / (1.0 - config.beta1.powi(t as i32));
                    let second = v[k][i] / (1.0 - config.beta2.powi(t as i32));
                    let decay = if *name == "b" {
                        0.0
                    } else {
                        config.weight_decay
                    };
                    w[k][i] = w[k][i] * (1.0 - rate * decay)
                        - rate * first / (second.sqrt() + config.eps);
                    assert!(
                        (w[k][i] - f64::from(values(&store, name)[i])).abs() < 2e-6,
                        "{name}[{i}] at step {t}"
                    );
                }
            }
        }
        assert_eq!(values(&store, "c"), untouched);
    }
}
