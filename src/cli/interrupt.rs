//! Ctrl-C: the first asks to stop, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use super::note;

/// A flag that the first Ctrl-C sets, when `told` is said. Once a process.
pub fn watch_for_ctrl_c(told: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let handler = stop.clone();
    ctrlc::set_handler(move || {
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        note(told);
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(stop)
}
