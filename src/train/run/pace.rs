//! How fast a run goes, and who is told.

use std::time::Duration;

/// What a run says while it runs.
pub trait Observer {
    /// A line for the person.
    fn line(&mut self, text: &str);
    /// State after a step: step, steps in all, loss, tokens a second, time left.
    fn step(&mut self, step: u64, steps: u64, loss: f64, tokens_per_second: f64, left: Duration);
    /// The end.
    fn finish(&mut self);
}

/// Steps of this process and their time, evaluation and saving left out: in all, and since the last record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pace {
    steps: u64,
    tokens: u64,
    seconds: f64,
    interval_tokens: u64,
    interval_seconds: f64,
}

impl Pace {
    /// Counts a step.
    pub fn add(&mut self, tokens: u64, time: Duration) {
        let seconds = time.as_secs_f64();
        self.steps += 1;
        self.tokens += tokens;
        self.seconds += seconds;
        self.interval_tokens += tokens;
        self.interval_seconds += seconds;
    }

    /// Begins a new interval.
    pub fn next_interval(&mut self) {
        (self.interval_tokens, self.interval_seconds) = (0, 0.0);
    }

    /// Tokens a second, in all.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }

    /// Tokens a second in this interval.
    pub fn interval_tokens_per_second(&self) -> f64 {
        self.interval_tokens as f64 / self.interval_seconds.max(1e-9)
    }

    /// The time that so many steps will take.
    pub fn time_of(&self, steps: u64) -> Duration {
        Duration::from_secs_f64(steps as f64 * self.seconds / self.steps.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_start_anew_and_the_whole_does_not() {
        let mut pace = Pace::default();
        assert_eq!(pace.time_of(7), Duration::ZERO);
        pace.add(100, Duration::from_secs(1));
        pace.next_interval();
        pace.add(50, Duration::from_secs(2));
        assert_eq!(pace.tokens_per_second(), 50.0);
        assert_eq!(pace.interval_tokens_per_second(), 25.0);
        assert_eq!(pace.time_of(4), Duration::from_secs(6));
    }
}
