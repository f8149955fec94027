//! Fine-tuning on GLUE (Devlin et al. 2019, section 4.1): a linear classifier, or regression, on the pooled `[CLS]`.
//!
//! [`settings`] says what a grid is, [`run`] does one run of it, [`grid`] does all, keeps the best, and goes on where it was
//! stopped, [`record`] is what they leave. Rows are tokenised once a task; batches are padded to their longest row and no further; scoring is that of
//! [`crate::eval`].

pub mod grid;
pub mod record;
pub mod run;
pub mod settings;

pub use grid::finetune;
pub use record::{GridSummary, RunRecord, TaskSummary};
pub use run::FinetuneError;
pub use settings::{FinetuneConfig, Keep, RunSetting};
