//! onnxruntime, through a library that is found when the program runs.
//!
//! One environment serves the whole process, so the first library that loads stays. Sessions use every optimisation.
//!
//! With several threads a model of moderate size gets as many sessions of one thread, each of which computes batches of its own
//! ([`Runnable::workers`]), or a part of a single batch, in whole rows: onnxruntime's own threads share the work of each operator and
//! wait for each other after it, which for small models, and for mixtures most of all, costs more than it saves. A single batch of
//! fewer rows, or one that must not be cut, goes to a session with all threads inside.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType, TensorRef};

use super::common::{EngineError, Signature, spread};
use super::{Feed, Options, Output, Runnable, Runtime, RuntimeError};

const ENGINE: &str = "ort";
/// Bytes of a model up to which every thread gets a session, and so a copy, of its own.
const DIVIDED: u64 = 512 << 20;

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
        let threads = options.threads.max(1);
        let bytes = file_bytes(&signature.path);
        let divided = signature.own && !signature.undivided && bytes <= DIVIDED;
        let many = if divided { threads } else { 1 };
        let inside = if divided { 1 } else { threads };
        let (environment, signature) = (&environment, &signature);
        let workers = std::thread::scope(|scope| {
            let make = || Worker::new(environment, signature, inside);
            let threads: Vec<_> = (0..many).map(|_| scope.spawn(make)).collect();
            threads
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(worker) => worker.map_err(|error| error.to_string()),
                    Err(_) => Err("a thread ended".to_owned()),
                })
                .collect::<Result<Vec<_>, _>>()
        })
        .map_err(load)?;
        Ok(Box::new(OrtModel {
            signature: signature.clone(),
            environment: environment.clone(),
            threads,
            workers,
            whole: None,
        }))
    }
}

/// Bytes of a model and its second file.
fn file_bytes(path: &Path) -> u64 {
    let mut data = path.as_os_str().to_owned();
    data.push(crate::onnx::DATA_SUFFIX);
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    size(path) + size(Path::new(&data))
}

/// A session, and which outputs it computes.
struct Worker {
    session: Session,
    options: RunOptions<ort::session::HasSelectedOutputs>,
}

impl Worker {
    fn new(environment: &Environment, signature: &Signature, threads: usize) -> ort::Result<Self> {
        let session = Session::builder(environment)?
            .with_log_level(ort::logging::LogLevel::Error)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .commit_from_file(&signature.path)?;
        let mut selector = OutputSelector::no_default();
        for name in &signature.outputs {
            selector = selector.with(name);
        }
        let options = RunOptions::new()?.with_outputs(selector);
        Ok(Self { session, options })
    }

    /// One batch.
    fn run(&mut self, signature: &Signature, feed: &Feed<'_>) -> Result<Vec<Output>, String> {
        let text = |error: ort::Error| error.to_string();
        let shape = [feed.batch, feed.sequence];
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        for (input, narrow) in &signature.inputs {
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
            inputs.push((input.name().into(), value.map_err(text)?));
        }
        let outputs = self
            .session
            .run_with_options(inputs, &self.options)
            .map_err(text)?;
        let mut results = Vec::new();
        for name in &signature.outputs {
            let value = outputs
                .get(name)
                .ok_or_else(|| format!("no output `{name}`"))?;
            results.push(output(name, value)?);
        }
        Ok(results)
    }
}

struct OrtModel {
    signature: Signature,
    environment: Environment,
    threads: usize,
    /// For parts of a batch, or a single one for all of it.
    workers: Vec<Worker>,
    /// With all threads inside, made when a batch first needs it.
    whole: Option<Worker>,
}

impl Runnable for OrtModel {
    fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError> {
        self.signature.check(feed)?;
        let fail = |why: String| EngineError::Run {
            engine: ENGINE,
            batch: feed.batch,
            sequence: feed.sequence,
            why,
        };
        let signature = &self.signature;
        let few = feed.batch < self.workers.len();
        // An expert's few rows are no work for several threads.
        if few && signature.experts == 0 {
            let worker = match self.whole.take() {
                Some(worker) => worker,
                None => Worker::new(&self.environment, signature, self.threads)
                    .map_err(|error| fail(error.to_string()))?,
            };
            let worker = self.whole.insert(worker);
            return Ok(worker.run(signature, feed).map_err(fail)?);
        }
        let part = |worker: &mut Worker, feed: &Feed<'_>| worker.run(signature, feed);
        Ok(spread(&mut self.workers, feed, part).map_err(fail)?)
    }

    fn workers(self: Box<Self>) -> Vec<Box<dyn Runnable>> {
        if self.workers.len() < 2 {
            return vec![self];
        }
        let Self {
            signature,
            environment,
            workers,
            ..
        } = *self;
        let alone = |worker| {
            Box::new(OrtModel {
                signature: signature.clone(),
                environment: environment.clone(),
                threads: 1,
                workers: vec![worker],
                whole: None,
            }) as Box<dyn Runnable>
        };
        workers.into_iter().map(alone).collect()
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
