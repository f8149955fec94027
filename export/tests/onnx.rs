//! Exported files: on every engine equal to a reference in plain loops, sound to the ONNX project's own checker, and harmless
//! when damaged.
#![allow(clippy::unwrap_used)]

#[path = "cases/agreement.rs"]
mod agreement;
#[allow(dead_code)]
#[path = "cases/common.rs"]
mod common;
#[path = "cases/damage.rs"]
mod damage;
#[path = "cases/engines.rs"]
mod engines;
#[path = "cases/files.rs"]
mod files;
#[path = "cases/judge.rs"]
mod judge;
#[path = "cases/reference.rs"]
mod reference;
