//! tract, an engine in pure Rust: no library to find, nothing native to install.
//!
//! tract computes on one thread. With several, each computes batches of its own over the same weights ([`Runnable::workers`]), or a
//! part of a single batch, in whole rows.
//!
//! Blocks of sorted experts are found in the graph (`find`) and computed by an operator of their own (`experts`); what else
//! tract lacks for that form is in `rows`.

mod experts;
mod find;
mod rows;

use std::path::Path;
use std::sync::Arc;

use tract_onnx::pb::TensorProto;
use tract_onnx::prelude::*;
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_hir::internal::{Framework, format_err};

use super::common::{EngineError, Signature, guarded, spread};
use super::{Feed, Options, Output, Runnable, Runtime, RuntimeError};

const ENGINE: &str = "tract";

/// The engine tract.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Runtime for Tract {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn check(&self) -> Result<String, RuntimeError> {
        Ok("tract 0.23.9, built in".to_owned())
    }

    fn prepare(&self, dir: &Path, options: &Options) -> Result<Box<dyn Runnable>, RuntimeError> {
        let signature = Signature::read(dir, options)?;
        let plan =
            guarded(|| load(&signature).map_err(|error| format!("{error:#}"))).map_err(|why| {
                EngineError::Load {
                    engine: ENGINE,
                    path: signature.path.clone(),
                    why,
                    hint: if signature.sorted {
                        "try `--runtime ort`, or export with `--moe-form scattered`"
                    } else {
                        "try `--runtime ort`, or export the model again"
                    },
                }
            })?;
        Ok(Box::new(TractModel {
            signature,
            plan,
            threads: options.threads.max(1),
        }))
    }
}

fn load(signature: &Signature) -> TractResult<Arc<TypedRunnableModel>> {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert(find::EXPERTS, experts::build);
    onnx.op_register.insert(find::ROWS, rows::build);
    onnx.op_register.insert(find::ZEROS, rows::build);
    let mut file = onnx.proto_model_for_path(&signature.path)?;
    let folder = signature.path.parent().and_then(Path::to_str);
    if let Some(graph) = file.graph.as_mut() {
        let load = |row: &TensorProto| load_tensor(&*onnx.provider, row, folder).ok();
        find::replace(graph, &load);
    }
    let parsed = onnx.parse(&file, folder)?;
    drop(file);
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(format_err!("no operator gives `{name}`"));
    }
    let mut model = parsed.model;
    let axes =
        [model.symbols.sym("batch"), model.symbols.sym("sequence")].map(|symbol| symbol.to_dim());
    for (index, (_, narrow)) in signature.inputs.iter().enumerate() {
        let kind = if *narrow {
            i32::datum_type()
        } else {
            i64::datum_type()
        };
        model.set_input_fact(index, InferenceFact::dt_shape(kind, &axes))?;
    }
    model.select_outputs_by_name(&signature.outputs)?;
    model.into_optimized()?.into_runnable()
}

#[derive(Clone)]
struct TractModel {
    signature: Signature,
    plan: Arc<TypedRunnableModel>,
    threads: usize,
}

impl Runnable for TractModel {
    fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError> {
        self.signature.check(feed)?;
        let threads = if self.signature.undivided {
            1
        } else {
            self.threads
        };
        let (plan, signature) = (&self.plan, &self.signature);
        let run = |_: &mut (), feed: &Feed<'_>| {
            guarded(|| run(plan, signature, feed).map_err(|error| format!("{error:#}")))
        };
        spread(&mut vec![(); threads], feed, run).map_err(|why| {
            EngineError::Run {
                engine: ENGINE,
                batch: feed.batch,
                sequence: feed.sequence,
                why,
            }
            .into()
        })
    }

    fn workers(self: Box<Self>) -> Vec<Box<dyn Runnable>> {
        let many = if self.signature.undivided {
            1
        } else {
            self.threads
        };
        let alone = TractModel {
            threads: 1,
            ..*self
        };
        (0..many)
            .map(|_| Box::new(alone.clone()) as Box<dyn Runnable>)
            .collect()
    }
}

fn run(
    plan: &Arc<TypedRunnableModel>,
    signature: &Signature,
    feed: &Feed<'_>,
) -> TractResult<Vec<Output>> {
    let shape = [feed.batch, feed.sequence];
    let mut inputs = tvec![];
    for (input, narrow) in &signature.inputs {
        let tensor = Tensor::from_shape(&shape, input.of(feed))?;
        let tensor = if *narrow {
            tensor.cast_to::<i32>()?.into_owned()
        } else {
            tensor
        };
        inputs.push(tensor.into_tvalue());
    }
    let outputs = plan.run(inputs)?;
    let mut results = Vec::new();
    for (name, value) in signature.outputs.iter().zip(outputs) {
        let tensor = value.cast_to::<f32>()?;
        results.push(Output {
            name: name.clone(),
            shape: tensor.shape().to_vec(),
            values: tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
        });
    }
    Ok(results)
}
