//! Learning rate over time: linear warm-up, then linear decay (Devlin et al. 2019, appendix A.2).

use super::config::ScheduleConfig;

/// Learning rate as a function of the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    steps: u64,
    final_share: f64,
}

impl Schedule {
    /// A schedule with this peak.
    pub fn new(peak: f64, config: &ScheduleConfig) -> Self {
        Schedule {
            peak,
            warmup: config.warmup_steps,
            steps: config.steps,
            final_share: config.final_share,
        }
    }

    /// Learning rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let left =
            self.steps.saturating_sub(step) as f64 / (self.steps - self.warmup).max(1) as f64;
        self.peak * (self.final_share + (1.0 - self.final_share) * left.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_peak_and_falls_to_the_final_share() {
        let s = Schedule::new(
            2.0,
            &ScheduleConfig {
                steps: 100,
                warmup_steps: 10,
                final_share: 0.1,
            },
        );
        assert_eq!(s.rate(0), 0.2);
        assert_eq!(s.rate(9), 2.0);
        assert_eq!(s.rate(10), 2.0);
        assert!((s.rate(55) - 2.0 * 0.55).abs() < 1e-12);
        assert!((s.rate(100) - 0.2).abs() < 1e-12);
        let whole = Schedule::new(
            1.0,
            &ScheduleConfig {
                steps: 4,
                warmup_steps: 4,
                final_share: 0.0,
            },
        );
        assert_eq!((whole.rate(3), whole.rate(4)), (1.0, 0.0));
    }
}
