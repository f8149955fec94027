//! From samples to the Markdown tables and the JSON file: tokens/s, ratios, share of the peak, targets.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::contest::{Contestant, Entry, Heat, Outcome};
use super::sample::Sample;
use super::stats::{Ratio, pooled_median, ratio};

/// Which way a target points.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The ratio must reach this.
    AtLeast(f64),
    /// The ratio must not exceed this.
    AtMost(f64),
}

impl Bound {
    /// Whether a ratio meets the target; NaN does not.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }
}

/// One compared pair; a target where `bound` is given, else shown beside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the size.
    pub size: &'static str,
    /// What is divided by what.
    pub what: String,
    /// The ratio and its range.
    pub ratio: Ratio,
    /// The target.
    pub bound: Option<Bound>,
    /// Whether it is met.
    pub met: Option<bool>,
}

/// One contestant at one size.
#[derive(Clone, Debug, Serialize)]
struct Row {
    size: &'static str,
    contestant: Contestant,
    tokens_per_second: f64,
    milliseconds: [f64; 4],
    peak_memory_mib: f64,
    parameters: u64,
    share_of_peak: f64,
    optimizer: Option<String>,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report<'a> {
    quick: bool,
    peak_gflops: f64,
    default_gflops: f64,
    versions: BTreeMap<String, String>,
    rows: Vec<Row>,
    comparisons: Vec<Comparison>,
    outcome: &'a Outcome,
}

/// One list of seconds a round.
fn seconds(entry: &Entry, phase: impl Fn(&Sample) -> Vec<f64>) -> Vec<Vec<f64>> {
    entry.rounds.iter().map(phase).collect()
}

impl<'a> Report<'a> {
    /// Computes every table.
    pub fn new(outcome: &'a Outcome, quick: bool) -> Report<'a> {
        let best = |pick: fn(&super::contest::Peak) -> f64| {
            outcome.peaks.iter().map(pick).fold(f64::NAN, f64::max)
        };
        let peak_gflops = best(|p| p.peak_gflops);
        let mut versions = BTreeMap::new();
        let mut rows = Vec::new();
        let mut comparisons = Vec::new();
        for heat in &outcome.heats {
            for entry in &heat.entries {
                versions.extend(entry.rounds.iter().flat_map(|s| s.versions.clone()));
                rows.push(row(heat, entry, peak_gflops));
            }
            comparisons.extend(compare(heat));
        }
        Report {
            quick,
            peak_gflops,
            default_gflops: best(|p| p.default_gflops),
            versions,
            rows,
            comparisons,
            outcome,
        }
    }

    /// The tables for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let outcome = self.outcome;
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        writeln!(out, "# Training speed\n")?;
        if self.quick {
            writeln!(out, "A quick run: too few steps to quote.\n")?;
        }
        writeln!(
            out,
            "- machine: {}, {} threads",
            outcome.cpu, outcome.threads
        )?;
        writeln!(
            out,
            "- peers: {}",
            if versions.is_empty() {
                "none".to_owned()
            } else {
                versions.join(", ")
            }
        )?;
        writeln!(
            out,
            "- {} interleaved rounds of {} timed steps; medians over all steps",
            outcome.rounds, outcome.steps
        )?;
        writeln!(
            out,
            "- f32 matrix-product peak: {:.0} GFLOP/s (`torch.mm` by default: {:.0})\n",
            self.peak_gflops, self.default_gflops
        )?;
        writeln!(
            out,
            "| size | program | tokens/s | step ms | forward | backward | optimizer | peak memory MiB | parameters | share of peak |"
        )?;
        writeln!(
            out,
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for row in &self.rows {
            let [step, forward, backward, optimizer] = row.milliseconds;
            let program = match &row.optimizer {
                Some(name) => format!("{} ({name})", row.contestant.name()),
                None => row.contestant.name().to_owned(),
            };
            writeln!(
                out,
                "| {} | {program} | {:.0} | {step:.1} | {forward:.1} | {backward:.1} | {optimizer:.1} | {:.0} | {} | {:.0} % |",
                row.size,
                row.tokens_per_second,
                row.peak_memory_mib,
                row.parameters,
                100.0 * row.share_of_peak
            )?;
        }
        writeln!(
            out,
            "\n| size | compared | ratio (min..max of the rounds) | target | |"
        )?;
        writeln!(out, "| --- | --- | ---: | ---: | --- |")?;
        for comparison in &self.comparisons {
            let Ratio { value, min, max } = comparison.ratio;
            let target = match comparison.bound {
                Some(Bound::AtLeast(bound)) => format!(">= {bound:.1}"),
                Some(Bound::AtMost(bound)) => format!("<= {bound:.1}"),
                None => String::new(),
            };
            let verdict = comparison
                .met
                .map_or("", |met| if met { "met" } else { "**missed**" });
            let (size, what) = (comparison.size, &comparison.what);
            writeln!(
                out,
                "| {size} | {what} | {value:.2} ({min:.2}..{max:.2}) | {target} | {verdict} |"
            )?;
        }
        Ok(())
    }

    /// Everything, the raw samples included.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("writing the report as JSON")
    }
}

fn row(heat: &Heat, entry: &Entry, peak_gflops: f64) -> Row {
    let size = if entry.contestant == Contestant::OursVanilla {
        heat.size.vanilla()
    } else {
        heat.size
    };
    let median =
        |phase: fn(&Sample) -> Vec<f64>| pooled_median(&seconds(entry, phase)).unwrap_or(f64::NAN);
    let step = median(|s| s.step_seconds.clone());
    let phases = [
        step,
        median(|s| s.forward_seconds.clone()),
        median(|s| s.backward_seconds.clone()),
        median(|s| s.optimizer_seconds.clone()),
    ];
    let tokens_per_second = size.tokens() / step;
    let bytes = entry
        .rounds
        .iter()
        .map(|s| s.peak_memory_bytes)
        .max()
        .unwrap_or(0);
    Row {
        size: heat.size.name,
        contestant: entry.contestant,
        tokens_per_second,
        milliseconds: phases.map(|s| 1e3 * s),
        peak_memory_mib: bytes as f64 / f64::from(1 << 20),
        parameters: entry.rounds.last().map_or(0, |s| s.parameters),
        share_of_peak: size.flops_per_token() * tokens_per_second / (1e9 * peak_gflops),
        optimizer: entry.rounds.last().and_then(|s| s.optimizer.clone()),
    }
}

/// Every comparison at one size: speed against each peer, and an MoE model's cost against the vanilla one.
fn compare(heat: &Heat) -> Vec<Comparison> {
    let mut found = Vec::new();
    let mut add = |what: &str,
                   top: Option<Vec<Vec<f64>>>,
                   bottom: Option<Vec<Vec<f64>>>,
                   bound: Option<Bound>| {
        if let (Some(top), Some(bottom)) = (top, bottom)
            && let Some(ratio) = ratio(&top, &bottom)
        {
            let met = bound.map(|bound| bound.is_met(ratio.value));
            found.push(Comparison {
                size: heat.size.name,
                what: what.to_owned(),
                ratio,
                bound,
                met,
            });
        }
    };
    let of =
        |who, phase: fn(&Sample) -> Vec<f64>| heat.entry(who).map(|entry| seconds(entry, phase));
    let step: fn(&Sample) -> Vec<f64> = |s| s.step_seconds.clone();
    let forward: fn(&Sample) -> Vec<f64> = |s| s.forward_seconds.clone();
    let optimizer: fn(&Sample) -> Vec<f64> = |s| s.optimizer_seconds.clone();
    let ours = Contestant::Ours;
    // Tokens/s of ours over a peer's is the peer's seconds over ours.
    let run_mlm = heat.size.run_mlm_target.map(Bound::AtLeast);
    add(
        "tokens/s: tcd / run_mlm",
        of(Contestant::RunMlm, step),
        of(ours, step),
        run_mlm,
    );
    add(
        "tokens/s: tcd / tuned",
        of(Contestant::Tuned, step),
        of(ours, step),
        Some(Bound::AtLeast(1.0)),
    );
    add(
        "tokens/s: tcd / moe-loop",
        of(Contestant::MoeLoop, step),
        of(ours, step),
        None,
    );
    let vanilla = Contestant::OursVanilla;
    add(
        "forward time: MoE / vanilla",
        of(ours, forward),
        of(vanilla, forward),
        Some(Bound::AtMost(1.5)),
    );
    let both = |who| of(who, Sample::forward_backward);
    add(
        "forward+backward time: MoE / vanilla",
        both(ours),
        both(vanilla),
        Some(Bound::AtMost(2.0)),
    );
    add(
        "optimizer time: MoE / vanilla",
        of(ours, optimizer),
        of(vanilla, optimizer),
        None,
    );
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::contest::Peak;
    use crate::bench::size::SIZES;

    fn sample(step: f64, forward: f64, backward: f64) -> Sample {
        Sample {
            step_seconds: vec![step; 3],
            forward_seconds: vec![forward; 3],
            backward_seconds: vec![backward; 3],
            optimizer_seconds: vec![step - forward - backward; 3],
            peak_memory_bytes: 512 << 20,
            parameters: 4_416_698,
            optimizer: None,
            versions: BTreeMap::from([("torch".to_owned(), "2.13.0".to_owned())]),
        }
    }

    fn outcome(name: &str, samples: &[[Sample; 2]]) -> Outcome {
        let size = *SIZES.iter().find(|s| s.name == name).unwrap();
        let entries = Contestant::at(&size).iter().zip(samples);
        let entries = entries
            .map(|(&contestant, rounds)| Entry {
                contestant,
                rounds: rounds.to_vec(),
            })
            .collect();
        let peak = |gflops| Peak {
            peak_gflops: gflops,
            default_gflops: 200.0,
            shapes: serde_json::Value::Null,
        };
        let heats = vec![Heat { size, entries }];
        Outcome {
            cpu: "a processor".into(),
            threads: 2,
            rounds: 2,
            steps: 3,
            peaks: [peak(500.0), peak(400.0)],
            heats,
        }
    }

    #[test]
    fn dense_targets_follow_the_ratio_of_step_times() {
        let twice = |step: f64| {
            [
                sample(step, step / 4.0, step / 2.0),
                sample(step, step / 4.0, step / 2.0),
            ]
        };
        let outcome = outcome("l2-h128", &[twice(0.125), twice(0.5), twice(0.0625)]);
        let report = Report::new(&outcome, false);
        let [run_mlm, tuned] = &report.comparisons[..] else {
            panic!("{:?}", report.comparisons)
        };
        assert_eq!(
            (run_mlm.ratio.value, run_mlm.bound, run_mlm.met),
            (4.0, Some(Bound::AtLeast(4.0)), Some(true))
        );
        assert_eq!((tuned.ratio.value, tuned.met), (0.5, Some(false)));
        let ours = &report.rows[0];
        assert_eq!(
            (ours.tokens_per_second, ours.peak_memory_mib),
            (32768.0, 512.0)
        );
        let share = outcome.heats[0].size.flops_per_token() * 32768.0 / 500e9;
        assert!((ours.share_of_peak - share).abs() < 1e-12);
        let text = report.markdown();
        assert!(
            text.contains("tcd / run_mlm | 4.00 (4.00..4.00) | >= 4.0 | met |"),
            "{text}"
        );
        assert!(
            text.contains("tcd / tuned | 0.50 (0.50..0.50) | >= 1.0 | **missed** |"),
            "{text}"
        );
        assert!(text.contains("torch 2.13.0") && !text.contains("quick run"));
    }

    #[test]
    fn moe_targets_compare_phases_with_our_vanilla_and_leave_the_optimizer_out() {
        let moe = [sample(10.0, 1.5, 2.5), sample(10.0, 1.5, 2.5)];
        let vanilla = [sample(2.0, 1.0, 0.875), sample(2.0, 1.0, 0.875)];
        let peer = [sample(30.0, 10.0, 10.0), sample(20.0, 5.0, 5.0)];
        let outcome = outcome("l4-h128-e64", &[moe, vanilla, peer]);
        let report = Report::new(&outcome, true);
        let by = |start: &str| {
            report
                .comparisons
                .iter()
                .find(|c| c.what.starts_with(start))
                .unwrap()
        };
        assert_eq!(
            (by("forward time").ratio.value, by("forward time").met),
            (1.5, Some(true))
        );
        assert_eq!(
            by("forward+backward time").met,
            Some(false),
            "4 / 1.875 is above 2"
        );
        assert_eq!(by("optimizer time").bound, None);
        let beside = by("tokens/s: tcd / moe-loop");
        assert_eq!(
            (beside.ratio, beside.met),
            (
                Ratio {
                    value: 2.5,
                    min: 2.0,
                    max: 3.0
                },
                None
            )
        );
        assert!(report.markdown().contains("A quick run"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(
            json["outcome"]["heats"][0]["entries"][2]["contestant"],
            "moe-loop"
        );
        assert_eq!(json["comparisons"][1]["bound"]["at-most"], 1.5);
    }

    #[test]
    fn no_number_meets_no_target() {
        assert!(!Bound::AtLeast(1.0).is_met(f64::NAN) && !Bound::AtMost(1.0).is_met(f64::NAN));
    }
}
