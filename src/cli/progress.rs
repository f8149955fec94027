//! Progress of work that counts rows: a bar on a terminal, elsewhere a line now and then.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::note;

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Progress over a known number of rows; may be advanced from several threads.
pub struct Progress {
    what: String,
    unit: &'static str,
    total: u64,
    start: Instant,
    bar: Option<ProgressBar>,
    state: Mutex<(u64, Instant)>,
}

impl Progress {
    /// Begins work called `what` on `total` things called `unit`.
    pub fn new(what: &str, unit: &'static str, total: usize) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let template = format!("{{msg}} [{{bar:24}}] {{pos}}/{{len}} {unit} {{prefix}}");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar
        });
        let now = Instant::now();
        Progress {
            what: what.to_owned(),
            unit,
            total: total as u64,
            start: now,
            bar,
            state: Mutex::new((0, now)),
        }
    }

    /// So many more are done.
    pub fn advance(&self, count: usize) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.0 += count as u64;
        let rate = state.0 as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let left = Duration::from_secs_f64(self.total.saturating_sub(state.0) as f64 / rate);
        let pace = format!("{rate:.0} {}/s, {} left", self.unit, HumanDuration(left));
        match &self.bar {
            Some(bar) => {
                bar.set_position(state.0);
                bar.set_prefix(pace);
            }
            None if state.1.elapsed() > EVERY => {
                state.1 = Instant::now();
                note(&format!(
                    "{}: {}/{} {}, {pace}",
                    self.what, state.0, self.total, self.unit
                ));
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
