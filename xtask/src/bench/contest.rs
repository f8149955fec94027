//! Running the contestants: interleaved rounds, each contestant in its own process, its turn rotated round by round.
//!
//! Interleaving is what makes ratios hold on a noisy machine: both sides of a ratio run within the same minute, and no
//! side always runs first.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::peers::{Python, output_of};
use super::sample::{self, Sample};
use super::size::Size;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of every contestant.
    pub rounds: u32,
    /// Timed steps a round.
    pub steps: u32,
    /// Steps before the timed ones, a round.
    pub warmup: u32,
}

impl Effort {
    /// For numbers that are quoted.
    pub const FULL: Effort = Effort {
        rounds: 5,
        steps: 10,
        warmup: 4,
    };
    /// To see that everything runs.
    pub const QUICK: Effort = Effort {
        rounds: 2,
        steps: 3,
        warmup: 1,
    };
}

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// This program, at the size's own number of experts.
    Ours,
    /// This program without experts, beside an MoE size.
    OursVanilla,
    /// Hugging Face `BertForMaskedLM` as run_mlm trains it.
    RunMlm,
    /// The same with the head at masked positions only and fused AdamW.
    Tuned,
    /// `Tuned` with a loop over experts.
    MoeLoop,
}

impl Contestant {
    /// Who runs at a size.
    pub fn at(size: &Size) -> &'static [Contestant] {
        if size.experts > 0 {
            &[
                Contestant::Ours,
                Contestant::OursVanilla,
                Contestant::MoeLoop,
            ]
        } else {
            &[Contestant::Ours, Contestant::RunMlm, Contestant::Tuned]
        }
    }

    /// Name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Contestant::Ours => "tcd",
            Contestant::OursVanilla => "tcd, vanilla",
            Contestant::RunMlm => "run_mlm",
            Contestant::Tuned => "tuned",
            Contestant::MoeLoop => "moe-loop",
        }
    }

    /// The peer's `--kind`, none for this program.
    fn kind(self) -> Option<&'static str> {
        match self {
            Contestant::Ours | Contestant::OursVanilla => None,
            Contestant::RunMlm | Contestant::Tuned | Contestant::MoeLoop => Some(self.name()),
        }
    }
}

/// The matrix-product peak that the peers' own library reaches on this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Peak {
    /// Best over shapes and libraries, at f32 exactness.
    pub peak_gflops: f64,
    /// Best over shapes as `torch.mm` does it unasked.
    pub default_gflops: f64,
    /// Every shape measured.
    pub shapes: serde_json::Value,
}

/// What to run.
#[derive(Debug)]
pub struct Contest {
    /// This program.
    pub program: PathBuf,
    /// The peers.
    pub python: Python,
    /// Threads of everyone.
    pub threads: u32,
    /// Rounds of every contestant.
    pub rounds: u32,
    /// Timed steps a round.
    pub steps: u32,
    /// Steps before them.
    pub warmup: u32,
}

/// Every round of one contestant at one size.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Who ran.
    pub contestant: Contestant,
    /// One sample a round, in order.
    pub rounds: Vec<Sample>,
}

/// One size and all who ran at it.
#[derive(Clone, Debug, Serialize)]
pub struct Heat {
    /// The size.
    pub size: Size,
    /// In the order of [`Contestant::at`].
    pub entries: Vec<Entry>,
}

/// Everything measured in one run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name of the processor.
    pub cpu: String,
    /// Threads of everyone.
    pub threads: u32,
    /// Rounds of every contestant.
    pub rounds: u32,
    /// Timed steps a round.
    pub steps: u32,
    /// The peak before and after the rounds; the larger counts.
    pub peaks: [Peak; 2],
    /// One a size.
    pub heats: Vec<Heat>,
}

impl Contest {
    /// Runs all rounds at all sizes.
    pub fn run(&self, sizes: &[Size]) -> Result<Outcome> {
        let before = self.peak()?;
        let mut heats: Vec<Heat> = sizes.iter().map(Heat::empty).collect();
        for round in 0..self.rounds {
            for heat in &mut heats {
                eprintln!("round {} of {}: {}", round + 1, self.rounds, heat.size.name);
                for turn in turns(round, heat.entries.len()) {
                    let entry = &mut heat.entries[turn];
                    let what = format!("`{}` at `{}`", entry.contestant.name(), heat.size.name);
                    let stdout = output_of(self.command(entry.contestant, &heat.size), &what)?;
                    entry.rounds.push(
                        sample::parse(&stdout)
                            .with_context(|| format!("reading what {what} printed"))?,
                    );
                }
            }
        }
        let peaks = [before, self.peak()?];
        Ok(Outcome {
            cpu: cpu_model(),
            threads: self.threads,
            rounds: self.rounds,
            steps: self.steps,
            peaks,
            heats,
        })
    }

    fn command(&self, contestant: Contestant, size: &Size) -> Command {
        let size = if contestant == Contestant::OursVanilla {
            size.vanilla()
        } else {
            *size
        };
        let mut command = match contestant.kind() {
            None => {
                let mut command = Command::new(&self.program);
                command.arg("bench-train");
                command
            }
            Some(kind) => {
                let mut command = self.python.script("train_peer.py");
                command.args(["--kind", kind]);
                command
            }
        };
        let options = [
            ("--layers", size.layers),
            ("--hidden", size.hidden),
            ("--experts", size.experts),
            ("--batch", size.batch),
            ("--sequence", size.sequence),
            ("--steps", self.steps),
            ("--warmup", self.warmup),
            ("--threads", self.threads),
        ];
        for (name, value) in options {
            command.arg(name).arg(value.to_string());
        }
        command
    }

    fn peak(&self) -> Result<Peak> {
        let mut command = self.python.script("gemm_peak.py");
        command.args(["--threads", &self.threads.to_string()]);
        let stdout = output_of(command, "the matrix-product peak")?;
        serde_json::from_str(sample::last_object(&stdout)?)
            .context("reading the matrix-product peak")
    }
}

impl Heat {
    fn empty(size: &Size) -> Heat {
        let entries = Contestant::at(size).iter().map(|&contestant| Entry {
            contestant,
            rounds: Vec::new(),
        });
        Heat {
            size: *size,
            entries: entries.collect(),
        }
    }

    /// The rounds of one contestant.
    pub fn entry(&self, contestant: Contestant) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.contestant == contestant)
    }
}

/// Whose turn it is in a round: everyone once, another first each round.
fn turns(round: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round as usize) % count)
}

/// The processor's name, as Linux tells it.
pub(super) fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::size::SIZES;

    #[test]
    fn every_contestant_has_every_place_once_in_as_many_rounds() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| turns(round, 3).collect()).collect();
        for place in 0..3 {
            let mut seen: Vec<usize> = orders.iter().map(|order| order[place]).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2], "{orders:?}");
        }
    }

    #[test]
    fn both_kinds_of_model_meet_their_peers() {
        for size in SIZES {
            let names: Vec<&str> = Contestant::at(&size).iter().map(|c| c.name()).collect();
            let expected = if size.experts > 0 {
                ["tcd", "tcd, vanilla", "moe-loop"]
            } else {
                ["tcd", "run_mlm", "tuned"]
            };
            assert_eq!(names, expected, "{}", size.name);
        }
    }

    #[test]
    fn the_vanilla_run_beside_experts_has_none() {
        let moe = SIZES.iter().find(|s| s.experts > 0).unwrap();
        let root = std::env::temp_dir().join(format!("xtask-contest-{}", std::process::id()));
        let folder = root.join(".deps/peers");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("tcd-peers.stamp"),
            "torch==2.13.0 transformers==5.23.0",
        )
        .unwrap();
        let contest = Contest {
            program: "tcd".into(),
            python: crate::bench::peers::install(&root).unwrap(),
            threads: 2,
            rounds: 1,
            steps: 3,
            warmup: 1,
        };
        let line = |contestant| {
            let command = contest.command(contestant, moe);
            let words: Vec<String> = command
                .get_args()
                .map(|a| a.to_string_lossy().into_owned())
                .collect();
            words.join(" ")
        };
        assert!(
            line(Contestant::Ours).starts_with("bench-train --layers 4 --hidden 128 --experts 64 ")
        );
        assert!(
            line(Contestant::OursVanilla)
                .contains("--experts 0 --batch 32 --sequence 128 --steps 3 --warmup 1")
        );
        assert!(
            line(Contestant::MoeLoop)
                .contains("--kind moe-loop --layers 4 --hidden 128 --experts 64 ")
        );
        std::fs::remove_dir_all(&root).unwrap();
    }
}
