//! crate tcd-plots
