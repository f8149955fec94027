//! What training steps report, averaged over the steps between two records of the log.

use super::step::Report;

/// Reports since the last record.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    reports: Vec<Report>,
}

impl Interval {
    /// Counts a step.
    pub fn add(&mut self, report: Report) {
        self.reports.push(report);
    }

    /// The values to log, and an empty interval. Those of a mixture of experts are there where the reports have them.
    pub fn take(&mut self) -> Vec<(String, f64)> {
        let interval = std::mem::take(self);
        let mut values = vec![("mlm_loss".to_string(), interval.mean(|r| r.mlm))];
        if interval.reports.iter().any(|r| r.balance.is_some()) {
            interval.expert_losses(&mut values);
            interval.expert_load(&mut values);
        }
        values
    }

    fn mean(&self, pick: impl Fn(&Report) -> f64) -> f64 {
        self.reports.iter().map(pick).sum::<f64>() / self.reports.len().max(1) as f64
    }

    fn expert_losses(&self, values: &mut Vec<(String, f64)>) {
        let (balance, z) = (
            |r: &Report| r.balance.unwrap_or_default(),
            |r: &Report| r.z.unwrap_or_default(),
        );
        for (name, value) in [
            ("balance_loss", self.mean(|r| balance(r).0)),
            ("balance_loss_weighted", self.mean(|r| balance(r).1)),
            ("z_loss", self.mean(|r| z(r).0)),
            ("z_loss_weighted", self.mean(|r| z(r).1)),
            ("dropped_tokens", self.mean(|r| r.dropped as f64)),
        ] {
            values.push((name.to_string(), value));
        }
    }

    /// Expert statistics over the whole interval, by layer.
    fn expert_load(&self, values: &mut Vec<(String, f64)>) {
        let layers = self.reports.iter().map(|r| r.routing.len()).max();
        for layer in 0..layers.unwrap_or(0) {
            let mut load: Vec<i64> = Vec::new();
            for report in &self.reports {
                if let Some((counts, _)) = report.routing.get(layer) {
                    load.resize(counts.len(), 0);
                    load.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
                }
            }
            let total = load.iter().sum::<i64>().max(1) as f64;
            let shares = load.iter().map(|n| *n as f64 / total);
            let entropy = shares.clone().filter(|p| *p > 0.0).map(|p| -p * p.ln());
            for (name, value) in [
                ("largest_load", shares.clone().fold(0.0, f64::max)),
                (
                    "dead_experts",
                    load.iter().filter(|n| **n == 0).count() as f64,
                ),
                ("load_entropy", entropy.sum()),
                (
                    "router_entropy",
                    self.mean(|r| r.routing.get(layer).map_or(0.0, |(_, e)| *e)),
                ),
            ] {
                values.push((format!("layer.{layer}.{name}"), value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn means_and_loads_are_over_the_interval() {
        let mut interval = Interval::default();
        for (mlm, counts) in [(1.0, [3, 0, 0, 1]), (2.0, [1, 0, 2, 1])] {
            interval.add(Report {
                mlm,
                balance: Some((mlm, 0.01 * mlm)),
                z: Some((0.0, 0.0)),
                routing: vec![(counts.to_vec(), mlm)],
                ..Report::default()
            });
        }
        let values = interval.take();
        let get = |name: &str| values.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(get("mlm_loss"), 1.5);
        assert_eq!(get("balance_loss_weighted"), 0.015);
        assert_eq!(get("layer.0.largest_load"), 0.5);
        assert_eq!(get("layer.0.dead_experts"), 1.0);
        assert_eq!(get("layer.0.router_entropy"), 1.5);
        // Shares 1/2, 1/4, 1/4: 1.5 bits.
        assert!((get("layer.0.load_entropy") - 1.5 * 2f64.ln()).abs() < 1e-12);
        assert_eq!(interval.take(), [("mlm_loss".to_string(), 0.0)]);
    }
}
