//! Parameters: one flat buffer, named views.
//!
//! All parameters lie in one f32 tensor in the order decayed, then not decayed, each start aligned to 64 bytes. Gradients,
//! moments and the buffer share that layout, so they are easy to reduce, shard and save. A *leaf* is a view that
//! collects a gradient: one parameter, or several of equal shape that a layer reads as one (query, key and value; the experts
//! of a layer, whose leaf is named with `*` in place of the number). Names are those of the parameter table in
//! `tcd_export`, and files hold the table's tensors, never leaves.
//!
//! In bf16 the leaves are views of a bf16 copy, refreshed after each update; routers stay f32 (Fedus et al. 2022, 2.4).

use std::collections::BTreeMap;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};
use thiserror::Error;

use tcd_export::{BoxError, Init, Parameter};

use crate::seed::{self, Stream};

/// Starts are multiples of this many elements.
pub(crate) const ALIGN: usize = 16;

/// Elements that one generator initialises.
const INIT_BLOCK: usize = 1 << 16;

/// What can go wrong with parameters.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A tensor that should be set was not given, or has another size.
    #[error("parameter `{name}` has {got} values, expected {expected}")]
    Size {
        /// Parameter.
        name: String,
        /// Number of values in the table.
        expected: usize,
        /// Number of values given.
        got: usize,
    },
    /// libtorch refused, most often for lack of memory.
    #[error("libtorch could not allocate {bytes} bytes on {device:?}")]
    Allocate {
        /// Bytes asked for.
        bytes: usize,
        /// Where.
        device: Device,
        /// Its own words.
        #[source]
        source: tch::TchError,
    },
}

/// How parameters start.
#[derive(Clone, Copy, Debug)]
pub struct Initialisation {
    /// Seed of the run's `init` stream.
    pub seed: u64,
    /// Standard deviation of weights and embeddings.
    pub std: f64,
}

/// Where parameters live and how the layers see them.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Device of the buffer.
    pub device: Device,
    /// Layers compute in bf16; the buffer stays f32.
    pub bf16: bool,
}

/// A view that collects a gradient.
#[derive(Debug)]
pub struct Leaf {
    /// Name of the parameter, or of the group.
    pub name: String,
    /// Where it starts in the buffer, in elements.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
    /// Whether weight decay applies.
    pub decay: bool,
    /// The view the layers read.
    pub tensor: Tensor,
}

/// Where one parameter of the table lies.
#[derive(Clone, Debug)]
struct Slot {
    parameter: Parameter,
    start: usize,
}

/// All parameters of a model.
#[derive(Debug)]
pub struct Store {
    buffer: Tensor,
    working: Option<Tensor>,
    leaves: Vec<Leaf>,
    by_name: BTreeMap<String, usize>,
    slots: Vec<Slot>,
    options: StoreOptions,
}

/// The leaf a parameter belongs to: itself, or the group of tensors that one product reads.
fn leaf_name(name: &str) -> String {
    if let Some((path, rest)) = name.split_once(".moe.experts.")
        && let Some((_, tail)) = rest.split_once('.')
    {
        return format!("{path}.moe.experts.*.{tail}");
    }
    for part in ["query", "key", "value"] {
        if let Some((path, tail)) = name.split_once(&format!(".attention.self.{part}.")) {
            return format!("{path}.attention.self.qkv.{tail}");
        }
    }
    name.to_string()
}

impl Store {
    /// Allocates every parameter of `table` at zero.
    pub fn new(table: &[Parameter], options: StoreOptions) -> Result<Self, ModelError> {
        // Groups in order of first appearance, decayed ones first.
        let mut names: Vec<String> = Vec::new();
        let mut members: BTreeMap<String, Vec<&Parameter>> = BTreeMap::new();
        for parameter in table {
            let name = leaf_name(&parameter.name);
            let group = members.entry(name.clone()).or_default();
            if group.is_empty() {
                names.push(name);
            }
            group.push(parameter);
        }
        names.sort_by_key(|name| !members[name][0].decay);

        let mut slots = Vec::with_capacity(table.len());
        let mut layout = Vec::with_capacity(names.len());
        let mut end = 0usize;
        for name in names {
            let group = &members[&name];
            let each: usize = group[0].shape.iter().product();
            let start = end;
            for (i, parameter) in group.iter().enumerate() {
                slots.push(Slot {
                    parameter: (*parameter).clone(),
                    start: start + i * each,
                });
            }
            let len = each * group.len();
            let mut shape: Vec<i64> = group[0].shape.iter().map(|n| *n as i64).collect();
            if name != group[0].name {
                shape.insert(0, group.len() as i64);
            }
            end = (start + len).next_multiple_of(ALIGN);
            let f32_only = name.contains(".moe.router.");
            layout.push((name, start, len, group[0].decay, shape, f32_only));
        }
        slots.sort_by(|a, b| a.parameter.name.cmp(&b.parameter.name));

        let buffer =
            Tensor::f_zeros([end as i64], (Kind::Float, options.device)).map_err(|source| {
                ModelError::Allocate {
                    bytes: end * 4,
                    device: options.device,
                    source,
                }
            })?;
        let working = options.bf16.then(|| buffer.to_kind(Kind::BFloat16));
        let mut store = Store {
            buffer,
            working,
            leaves: Vec::new(),
            by_name: BTreeMap::new(),
            slots,
            options,
        };
        for (name, start, len, decay, shape, f32_only) in layout {
            store.by_name.insert(name.clone(), store.leaves.len());
            let tensor = store.view(start, len, &shape, f32_only);
            store.leaves.push(Leaf {
                name,
                start,
                len,
                decay,
                tensor,
            });
        }
        Ok(store)
    }

    fn view(&self, start: usize, len: usize, shape: &[i64], f32_only: bool) -> Tensor {
        let base = match &self.working {
            Some(working) if !f32_only => working,
            _ => &self.buffer,
        };
        base.narrow(0, start as i64, len as i64)
            .view(shape)
            .detach()
            .set_requires_grad(true)
    }

    /// The leaf that layers read under `name`.
    ///
    /// # Panics
    /// If the table has no such parameter: the layers and the table disagree, an error in this program.
    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        match self.by_name.get(name) {
            Some(i) => self.leaves[*i].tensor.shallow_clone(),
            None => panic!("the parameter table has no `{name}`"),
        }
    }

    /// Whether a leaf of that name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Every leaf, in buffer order.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// The f32 buffer, `[N]`.
    pub fn buffer(&self) -> &Tensor {
        &self.buffer
    }

    /// Device and precision.
    pub fn options(&self) -> StoreOptions {
        self.options
    }

    /// Elements of the buffer, alignment included.
    pub fn len(&self) -> usize {
        self.buffer.numel()
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every parameter, by name.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.slots.iter().map(|s| &s.parameter)
    }

    /// Number of parameters, alignment left out.
    pub fn parameter_count(&self) -> usize {
        self.slots
            .iter()
            .map(|s| s.parameter.shape.iter().product::<usize>())
            .sum()
    }

    /// Draws every parameter from its table row: `N(0, std)`, zeros or ones. The values depend on the seed and the name alone,
    /// not on device, layout or thread count.
    pub fn initialise(&mut self, how: Initialisation) {
        let mut values = vec![0f32; self.len()];
        for slot in &self.slots {
            let len = slot.parameter.shape.iter().product::<usize>();
            let target = &mut values[slot.start..slot.start + len];
            match slot.parameter.init {
                Init::Zeros => target.fill(0.0),
                Init::Ones => target.fill(1.0),
                Init::Normal => {
                    let name = blake3::hash(slot.parameter.name.as_bytes());
                    let name =
                        u64::from_le_bytes(name.as_bytes()[..8].try_into().expect("8 bytes"));
                    target
                        .par_chunks_mut(INIT_BLOCK)
                        .enumerate()
                        .for_each(|(block, values)| {
                            normal(
                                values,
                                how.std,
                                &mut seed::rng(how.seed, Stream::Init, &[name, block as u64]),
                            );
                        });
                }
            }
        }
        self.fill(&values);
    }

    /// Sets the whole buffer, alignment included.
    fn fill(&mut self, values: &[f32]) {
        let source = Tensor::from_slice(values).to_device(self.options.device);
        tch::no_grad(|| self.buffer.copy_(&source));
        self.refresh();
    }

    /// Sets every parameter: `read` gives its values by name, in table shape.
    pub fn load<E: From<ModelError>>(
        &mut self,
        read: impl FnMut(&Parameter) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        let values = self.gather(read)?;
        self.fill(&values);
        Ok(())
    }

    /// Lays out values given by parameter as the buffer lays them out.
    pub fn gather<E: From<ModelError>>(
        &self,
        mut read: impl FnMut(&Parameter) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let mut values = vec![0f32; self.len()];
        for slot in &self.slots {
            let expected = slot.parameter.shape.iter().product::<usize>();
            let given = read(&slot.parameter)?;
            if given.len() != expected {
                let name = slot.parameter.name.clone();
                return Err(ModelError::Size {
                    name,
                    expected,
                    got: given.len(),
                }
                .into());
            }
            values[slot.start..slot.start + expected].copy_from_slice(&given);
        }
        Ok(values)
    }

    /// Sets `flat`, a tensor of the buffer's layout, to these values.
    pub fn write(&self, flat: &mut Tensor, values: &[f32]) {
        let source = Tensor::from_slice(values);
        tch::no_grad(|| flat.copy_(&source));
    }

    /// Values of the parameter `name` within `flat`, a tensor of the buffer's layout (the buffer itself, a moment).
    pub fn read(&self, flat: &Tensor, name: &str) -> Option<Vec<f32>> {
        let slot = &self.slots[self
            .slots
            .binary_search_by(|s| s.parameter.name.as_str().cmp(name))
            .ok()?];
        let len = slot.parameter.shape.iter().product::<usize>();
        let view = flat.narrow(0, slot.start as i64, len as i64);
        let mut values = vec![0f32; len];
        view.to_device(Device::Cpu).copy_data(&mut values, len);
        Some(values)
    }

    /// The same as little-endian bytes, as files hold them.
    pub fn bytes(&self, flat: &Tensor, name: &str) -> Result<Vec<u8>, BoxError> {
        let values = self
            .read(flat, name)
            .ok_or_else(|| format!("the model has no parameter `{name}`"))?;
        Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Brings the bf16 copy up to date with the buffer; nothing to do in f32.
    pub(crate) fn refresh(&mut self) {
        if let Some(working) = &mut self.working {
            tch::no_grad(|| working.copy_(&self.buffer));
        }
    }
}

/// Fills with `N(0, std)` by the Box-Muller transform.
pub(crate) fn normal(values: &mut [f32], std: f64, rng: &mut impl rand::Rng) {
    let mut unit = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    for pair in values.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - unit()).ln()).sqrt() * std;
        let angle = std::f64::consts::TAU * unit();
        pair[0] = (radius * angle.cos()) as f32;
        if let Some(second) = pair.get_mut(1) {
            *second = (radius * angle.sin()) as f32;
        }
    }
}
