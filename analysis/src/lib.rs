//! crate tcd-analysis
