//! Model directories: `config.json`, `model.safetensors` and `tokenizer.json` in Hugging Face layout and names.
//!
//! [`config`] says what a model is, [`mod@presets`] names sizes, [`mod@parameters`] is the one table of parameter names and
//! shapes, [`weights`] reads safetensors strictly against that table, [`model_dir`] and [`mod@write`] read and write
//! whole directories. [`onnx`] writes and reads ONNX files, [`mod@runtime`] runs them; [`taps`] names hidden states.

pub mod config;
pub mod model_dir;
pub mod onnx;
pub mod parameters;
pub mod parity;
pub mod presets;
pub mod runtime;
pub mod taps;
pub mod weights;
pub mod write;

pub use config::{Architecture, ConfigError, ModelConfig, MoeConfig};
pub use model_dir::{
    BoxError, CONFIG_FILE, Initial, ModelDir, ModelDirError, Record, TOKENIZER_FILE, WEIGHTS_FILE,
};
pub use parameters::{Head, Init, Parameter, active_parameter_count, parameter_count, parameters};
pub use presets::{Preset, preset, presets};
pub use taps::{Tap, UnknownTap};
pub use weights::{Dropped, Fault, Loaded, Offence, Tensor, Values, Weights, WeightsError};
pub use write::{Contents, clear_leftovers, write_model_dir, write_tensors};
