//! Integration tests: the library's laws and the program as a person runs it, on small data that the tests generate.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "train")]
mod common;
#[cfg(feature = "train")]
mod errors;
#[cfg(feature = "train")]
mod glue;
#[cfg(feature = "train")]
mod hugging_face;
#[cfg(feature = "train")]
mod model_laws;
#[cfg(feature = "train")]
mod resume;
