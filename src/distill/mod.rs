//! Transfer capability distillation: a frozen teacher, the relation losses, and the baselines they are compared with.
//!
//! [`config`] is the `[distill]` section, [`teacher`] the frozen model, [`layers`] pairs layers, [`sample`] draws positions,
//! [`relations`] computes the losses of METHOD, [`method`] is the table of everything that can be transferred, and
//! [`guide`] is what a training step talks to.
//!
//! Shape letters are those of [`crate::model`], with `n` drawn positions, `B'` drawn sequences and `K` relations at once.

pub mod config;
pub mod guide;
pub mod layers;
pub mod method;
pub mod relations;
pub mod sample;
pub mod teacher;

pub use config::{DistillConfig, Method, Teacher};
pub use guide::{Guide, StudentSide, Terms, When};
pub use method::{Group, METHODS, Row};
pub use teacher::{DistillError, Pupil, TeacherModel};
