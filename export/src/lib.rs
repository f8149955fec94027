//! crate tcd-export
