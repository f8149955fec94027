//! onnxruntime, through a library that is found when the program runs.
//!
//! One environment serves the whole process, so the first library that loads stays. Sessions use every optimisation and as many
//! threads as asked for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType, TensorRef};

use super::common::{EngineError, Signature};
use super::{Feed, Options, Output, Runnable, Runtime, RuntimeError};

const ENGINE: &str = "ort";

/// The engine onnxruntime.
#[derive(Clone, Debug)]
pub struct Ort {
    library: Option<PathBuf>,
}

/// Why onnxruntime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OrtError {
    /// No library was found.
    #[error(
        "no onnxruntime library was found; hint: `pip install onnxruntime`, or name the library in `ORT_DYLIB_PATH`"
    )]
    NotFound,
    /// The library does not load.
    #[error("cannot load onnxruntime from `{}`: {why}; hint: version 1.23 or newer is needed (`pip install --upgrade onnxruntime`), or name another in `ORT_DYLIB_PATH`", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Ort {
    /// The engine from a library file, such as `libonnxruntime.so.1.32.0`; none where none was found, which
    /// [`Runtime::check`] reports.
    pub fn new(library: Option<PathBuf>) -> Self {
        Self { library }
    }

    fn environment(&self) -> Result<Environment, OrtError> {
        static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
        let mut kept = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(environment) = kept.as_ref() {
            return Ok(environment.clone());
        }
        let path = self.library.as_ref().ok_or(OrtError::NotFound)?;
        let fail = |why: String| OrtError::Library {
            path: path.clone(),
            why,
        };
        if !path.is_file() {
            return Err(fail("no such file".to_owned()));
        }
        let builder = ort::init_from(path).map_err(|error| fail(error.to_string()))?;
        let environment = builder
            .with_name("tcd")
            .with_telemetry(false)
            .build()
            .map_err(|error| fail(error.to_string()))?;
        environment.set_log_level(ort::logging::LogLevel::Error);
        Ok(kept.insert(environment).clone())
    }
}

impl Runtime for Ort {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn check(&self) -> Result<String, RuntimeError> {
        self.environment()?;
        // `ORT Build Info: git-branch=..., git-commit-id=..., build type=Release, ...`: the file's name tells the version.
        let path = self.library.clone().unwrap_or_default();
        let real = path.canonicalize().unwrap_or(path);
        Ok(format!("onnxruntime, {}", real.display()))
    }

    fn prepare(&self, dir: &Path, options: &Options) -> Result<Box<dyn Runnable>, RuntimeError> {
        let signature = Signature::read(dir, options)?;
        let environment = self.environment()?;
        let load = |why: String| EngineError::Load {
            engine: ENGINE,
            path: signature.path.clone(),
            why,
            hint: "try `--runtime tract`, or export the model again",
        };
        let session = session(&environment, &signature.path, options.threads)
            .map_err(|error| load(error.to_string()))?;
        let mut selector = OutputSelector::no_default();
        for name in &signature.outputs {
            selector = selector.with(name);
        }
        let run_options = RunOptions::new()
            .map_err(|error| load(error.to_string()))?
            .with_outputs(selector);
        Ok(Box::new(OrtModel {
            signature,
            session,
            options: run_options,
        }))
    }
}

fn session(environment: &Environment, path: &Path, threads: usize) -> ort::Result<Session> {
    Session::builder(environment)?
        .with_log_level(ort::logging::LogLevel::Error)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads.max(1))?
        .commit_from_file(path)
}

struct OrtModel {
    signature: Signature,
    session: Session,
    options: RunOptions<ort::session::HasSelectedOutputs>,
}

impl Runnable for OrtModel {
    fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError> {
        self.signature.check(feed)?;
        let (batch, sequence) = (feed.batch, feed.sequence);
        let fail = |why: String| EngineError::Run {
            engine: ENGINE,
            batch,
            sequence,
            why,
        };
        let shape = [batch, sequence];
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        for (input, narrow) in &self.signature.inputs {
            let values = input.of(feed);
            let value = if *narrow {
                let values: Vec<i32> = values
                    .iter()
                    .map(|&id| i32::try_from(id).unwrap_or(-1))
                    .collect();
                Tensor::from_array((shape, values)).map(SessionInputValue::from)
            } else {
                TensorRef::from_array_view((shape, values)).map(SessionInputValue::from)
            };
            inputs.push((
                input.name().into(),
                value.map_err(|error| fail(error.to_string()))?,
            ));
        }
        let outputs = self
            .session
            .run_with_options(inputs, &self.options)
            .map_err(|error| fail(error.to_string()))?;
        let mut results = Vec::new();
        for name in &self.signature.outputs {
            let value = outputs
                .get(name)
                .ok_or_else(|| fail(format!("no output `{name}`")))?;
            results.push(output(name, value).map_err(fail)?);
        }
        Ok(results)
    }
}

/// An output as f32.
fn output(name: &str, value: &DynValue) -> Result<Output, String> {
    let text = |error: ort::Error| error.to_string();
    let kind = value.dtype().tensor_type();
    let (shape, values) = match kind {
        Some(TensorElementType::Float32) => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(text)?;
            (shape, values.to_vec())
        }
        Some(TensorElementType::Float64) => {
            let (shape, values) = value.try_extract_tensor::<f64>().map_err(text)?;
            (shape, values.iter().map(|&value| value as f32).collect())
        }
        // Experts, by their numbers.
        Some(TensorElementType::Int64) => {
            let (shape, values) = value.try_extract_tensor::<i64>().map_err(text)?;
            (shape, values.iter().map(|&value| value as f32).collect())
        }
        other => return Err(format!("output `{name}` is {other:?}, not numbers")),
    };
    let shape = shape
        .iter()
        .map(|&length| usize::try_from(length).unwrap_or(0))
        .collect();
    Ok(Output {
        name: name.to_owned(),
        shape,
        values,
    })
}
