//! Model directories: `config.json`, `model.safetensors` and `tokenizer.json` in Hugging Face layout and names.
//!
//! [`ModelConfig`] is what `config.json` holds; [`Architecture`] is a configuration that was checked, and the only thing that
//! parameters are listed from. [`parameters()`] is the one table of names and shapes that training, checkpoints and export
//! share. [`Weights`] reads safetensors strictly; [`write_model_dir`] writes a directory tensor by tensor.

mod config;
mod model_dir;
mod parameters;
mod presets;
mod safetensors_writer;
mod weights;

pub use config::{Architecture, ConfigError, ModelConfig, MoeConfig, Provenance};
pub use model_dir::{ModelDir, ModelDirError, write_model_dir};
pub use parameters::{Head, Init, Parameter, parameter_count, parameters};
pub use presets::{PRESETS, Preset, preset};
pub use safetensors_writer::{WriteError, write_safetensors};
pub use weights::{Weights, WeightsError};
