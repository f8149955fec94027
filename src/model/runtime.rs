//! libtorch as an engine of [`tcd_export::runtime`]: a model directory straight from its safetensors file.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use tcd_export::runtime::{Feed, Options, Output, Runnable, Runtime, RuntimeError};
use tcd_export::{Architecture, Head, ModelDir, Values, parameters};

use super::{
    Bert, BertInput, ClassificationHead, Encoded, MaskedLmHead, Mode, ModelError, Store,
    StoreOptions,
};

/// What the head gives, and the encoder's last hidden state.
const LOGITS: &str = "logits";
const HIDDEN: &str = "last_hidden_state";

/// The engine.
#[derive(Clone, Copy, Debug)]
pub struct Tch;

/// The head of a prepared model.
#[derive(Debug)]
enum ModelHead {
    None,
    MaskedLm(MaskedLmHead),
    Classification(ClassificationHead),
}

/// A model on libtorch. It reads the tensors of the store it was built over, so one over a store in training gives what the
/// weights are at the time.
#[derive(Debug)]
pub struct Session {
    bert: Bert,
    head: ModelHead,
    arch: Architecture,
    device: Device,
    outputs: Vec<String>,
}

impl Session {
    /// A session over the parameters of `store`, made for `head`, that gives these outputs; empty for the head's own.
    pub fn new(store: &Store, arch: &Architecture, head: Head, outputs: &[String]) -> Self {
        let head = match head {
            Head::None => ModelHead::None,
            Head::MaskedLm => ModelHead::MaskedLm(MaskedLmHead::new(store, arch)),
            Head::SequenceClassification { .. } => {
                ModelHead::Classification(ClassificationHead::new(store, arch))
            }
        };
        let own = match head {
            ModelHead::None => HIDDEN,
            _ => LOGITS,
        };
        Session {
            bert: Bert::new(store, arch),
            head,
            arch: arch.clone(),
            device: store.options().device,
            outputs: if outputs.is_empty() {
                vec![own.to_owned()]
            } else {
                outputs.to_vec()
            },
        }
    }

    /// The feed as tensors.
    ///
    /// # Errors
    /// Shapes that do not fit, more positions than the model has, ids beyond its tables.
    pub fn input(&self, feed: &Feed<'_>) -> Result<BertInput, RuntimeError> {
        let cells = feed.batch * feed.sequence;
        let arch = &self.arch;
        if cells == 0 || feed.sequence > arch.max_position_embeddings {
            return Err(format!(
                "a batch of {} by {} tokens; the model takes from 1 to {} tokens",
                feed.batch, feed.sequence, arch.max_position_embeddings
            )
            .into());
        }
        let shape = [feed.batch as i64, feed.sequence as i64];
        let tensor = |name: &str, values: &[i64], limit: usize| {
            if values.len() != cells {
                let got = values.len();
                return Err(format!("`{name}` has {got} values, expected {cells}"));
            }
            match values.iter().find(|v| !(0..limit as i64).contains(*v)) {
                Some(bad) => Err(format!(
                    "`{name}` holds {bad}, expected from 0 to {}",
                    limit - 1
                )),
                None => Ok(Tensor::from_slice(values)
                    .view(shape)
                    .to_device(self.device)), // [B, S]
            }
        };
        let mask = tensor("attention_mask", feed.attention_mask, 2)?;
        Ok(BertInput {
            input_ids: tensor("input_ids", feed.input_ids, arch.vocab_size)?,
            attention_mask: feed.attention_mask.contains(&0).then_some(mask),
            token_type_ids: Some(tensor(
                "token_type_ids",
                feed.token_type_ids,
                arch.type_vocab_size,
            )?),
        })
    }

    /// Encodes a batch; with `tapped`, keeps every named hidden state.
    pub fn encode(&self, input: &BertInput, mode: Mode, tapped: bool) -> Encoded {
        self.bert.forward(input, mode, tapped)
    }

    /// The head's output.
    ///
    /// # Shapes
    /// `hidden` `[B, S, H]` to `[B, C]` or, masked LM, `[B, S, V]`; none without a head.
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> Option<Tensor> {
        match &self.head {
            ModelHead::None => None,
            ModelHead::MaskedLm(head) => Some(head.logits(hidden)),
            ModelHead::Classification(head) => Some(head.logits(hidden, mode)),
        }
    }
}

impl Runnable for Session {
    fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError> {
        let input = self.input(feed)?;
        tch::no_grad(|| {
            let own = |name: &String| name == LOGITS || name == HIDDEN;
            let tapped = !self.outputs.iter().all(own);
            let encoded = self.encode(&input, Mode::Eval, tapped);
            self.outputs
                .iter()
                .map(|name| {
                    let tensor = match name.as_str() {
                        LOGITS => self.logits(&encoded.hidden, Mode::Eval),
                        HIDDEN => Some(encoded.hidden.shallow_clone()),
                        name => encoded.taps.as_ref().and_then(|taps| {
                            let tap = taps.iter().find(|(tap, _)| tap.to_string() == name);
                            tap.map(|(_, tensor)| tensor.shallow_clone())
                        }),
                    };
                    match tensor {
                        Some(tensor) => output(name, &tensor),
                        None => Err(unknown(name, &encoded)),
                    }
                })
                .collect()
        })
    }

    fn workers(self: Box<Self>) -> Vec<Box<dyn Runnable>> {
        vec![self]
    }
}

fn unknown(name: &str, encoded: &Encoded) -> RuntimeError {
    let taps: Vec<String> = encoded
        .taps
        .iter()
        .flat_map(|taps| taps.keys().map(ToString::to_string))
        .collect();
    format!(
        "the model has no output `{name}`; it has {LOGITS} (with a head), {HIDDEN}, {}",
        taps.join(", ")
    )
    .into()
}

fn output(name: &str, tensor: &Tensor) -> Result<Output, RuntimeError> {
    let flat = tensor
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous()
        .view([-1]);
    Ok(Output {
        name: name.to_owned(),
        shape: tensor.size().iter().map(|&n| n as usize).collect(),
        values: Vec::try_from(flat)?,
    })
}

impl Runtime for Tch {
    fn name(&self) -> &'static str {
        "tch"
    }

    fn check(&self) -> Result<String, RuntimeError> {
        let loaded = crate::machine::loaded_libraries();
        let version = crate::machine::libtorch(&loaded).and_then(|library| library.version);
        Ok(format!(
            "libtorch {}",
            version.unwrap_or_else(|| "of unknown version".to_owned())
        ))
    }

    fn prepare(&self, dir: &Path, options: &Options) -> Result<Box<dyn Runnable>, RuntimeError> {
        tch::set_num_threads(i32::try_from(options.threads.max(1))?);
        let model = ModelDir::open(dir)?;
        let (arch, head) = (model.architecture(), model.head());
        let weights = model.load(head, Values::Finite)?;
        let device = Device::cuda_if_available();
        let bf16 = false;
        let mut store = Store::new(&parameters(arch, head), StoreOptions { device, bf16 })?;
        store.load::<ModelError>(|parameter| {
            let tensor = weights.tensor(&parameter.name);
            Ok(tensor.map(|t| t.to_vec()).unwrap_or_default())
        })?;
        Ok(Box::new(Session::new(&store, arch, head, &options.outputs)))
    }
}
