//! A whole study from one configuration: which stages there are, what each depends on, what is done already, and running them.
//!
//! A stage is one or a few calls of this program with explicit inputs and outputs. Its key is a hash of its command lines, of
//! the contents of what it reads from outside the study, and of the keys of the stages that it reads from ([`key`]); a stage
//! that is on record with its key is not done again. [`config`] reads a study, [`plan`] makes its stages, [`estimate`] says
//! what training will cost, [`run`] does what is to be done. No stage shares memory with another: everything that one leaves to
//! the next is a file that a person can look at.

mod check;
pub mod checked;
pub mod config;
pub mod estimate;
pub mod key;
pub mod plan;
pub mod process;
pub mod record;
pub mod run;
pub mod stage;

pub use checked::{Model, Study, StudyError, TeacherOf};
pub use config::{StudyConfig, describe_study};
pub use plan::Plan;
pub use stage::{Call, GoesOn, Place, Stage, Word};
