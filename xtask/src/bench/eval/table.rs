//! What `bench eval` measured, and its tables.

use serde::{Deserialize, Serialize};

use super::super::stats::{Ratio, pooled_median, ratio};

/// What every contestant prints.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Line {
    #[serde(default)]
    pub(super) rows: u64,
    pub(super) load_seconds: f64,
    #[serde(default)]
    pub(super) first_seconds: f64,
    #[serde(default)]
    pub(super) encode_seconds: Vec<f64>,
    pub(super) run_seconds: Vec<f64>,
}

impl Line {
    /// Tokenizing and running together, pass by pass.
    pub(super) fn whole(&self) -> Vec<f64> {
        if self.encode_seconds.is_empty() {
            return self.run_seconds.clone();
        }
        self.encode_seconds
            .iter()
            .zip(&self.run_seconds)
            .map(|pair| pair.0 + pair.1)
            .collect()
    }
}

/// One contestant's rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) lines: Vec<Line>,
}

/// A ratio and what is wanted of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) what: String,
    pub(super) ratio: Ratio,
    pub(super) target: String,
    pub(super) met: bool,
}

/// Everything about one model and data set.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heat {
    pub(super) title: String,
    pub(super) entries: Vec<Entry>,
    pub(super) verdicts: Vec<Verdict>,
}

/// A verdict over seconds themselves in place of a ratio.
pub(super) fn absolute(what: &str, rounds: &[Vec<f64>], target: Target) -> Option<Verdict> {
    let ones = vec![vec![1.0]; rounds.len()];
    Some(target.verdict(what, ratio(rounds, &ones)?))
}

/// One list of seconds a round.
pub(super) fn seconds(entries: &[Entry], name: &str, what: fn(&Line) -> Vec<f64>) -> Vec<Vec<f64>> {
    let entry = entries.iter().find(|entry| entry.name == name);
    entry
        .map(|entry| entry.lines.iter().map(what).collect())
        .unwrap_or_default()
}

#[derive(Clone, Copy)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing is asked of it.
    Told,
}

impl Target {
    pub(super) fn verdict(self, what: &str, ratio: Ratio) -> Verdict {
        let (target, met) = match self {
            Self::AtLeast(bound) => (format!(">= {bound}"), ratio.value >= bound),
            Self::AtMost(bound) => (format!("<= {bound}"), ratio.value <= bound),
            Self::Told => (String::new(), true),
        };
        Verdict {
            what: what.to_owned(),
            ratio,
            target,
            met,
        }
    }
}

/// The tables of one model and data set.
pub(super) fn markdown(heat: &Heat) -> String {
    let mut text = format!(
        "\n### {}\n\n| who | run, s | rows/s, tokenizing included |\n| --- | ---: | ---: |\n",
        heat.title
    );
    for entry in &heat.entries {
        let of = |what: fn(&Line) -> Vec<f64>| {
            pooled_median(&entry.lines.iter().map(what).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let rows = entry.lines.first().map_or(0, |line| line.rows);
        let rate = if rows == 0 {
            "-".to_owned()
        } else {
            format!("{:.0}", rows as f64 / of(Line::whole))
        };
        text += &format!(
            "| {} | {:.4} | {rate} |\n",
            entry.name,
            of(|line| line.run_seconds.clone())
        );
    }
    text += "\n| compared | medians (min..max of the rounds) | target | met |\n| --- | ---: | ---: | --- |\n";
    for row in &heat.verdicts {
        let Ratio { value, min, max } = row.ratio;
        let met = match (row.target.as_str(), row.met) {
            ("", _) => "",
            (_, true) => "yes",
            (_, false) => "no",
        };
        text += &format!(
            "| {} | {value:.2} ({min:.2}..{max:.2}) | {} | {met} |\n",
            row.what, row.target
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, run: &[f64]) -> Entry {
        let line = Line {
            rows: 10,
            run_seconds: run.to_vec(),
            encode_seconds: vec![0.5; run.len()],
            ..Line::default()
        };
        Entry {
            name: name.to_owned(),
            lines: vec![line.clone(), line],
        }
    }

    #[test]
    fn tokenizing_counts_where_it_was_timed() {
        let entries = [entry("a", &[1.0, 2.0])];
        assert_eq!(
            seconds(&entries, "a", Line::whole),
            [[1.5, 2.5], [1.5, 2.5]]
        );
        assert!(
            seconds(&entries, "b", Line::whole).is_empty(),
            "who did not run has no seconds"
        );
    }

    #[test]
    fn targets_bound_from_the_right_side() {
        let ratio = Ratio {
            value: 2.0,
            min: 1.5,
            max: 2.5,
        };
        assert!(
            Target::AtLeast(2.0).verdict("x", ratio).met
                && !Target::AtLeast(2.1).verdict("x", ratio).met
        );
        assert!(
            Target::AtMost(2.0).verdict("x", ratio).met
                && !Target::AtMost(1.9).verdict("x", ratio).met
        );
        let heat = Heat {
            title: "t".to_owned(),
            entries: vec![entry("a", &[1.0])],
            verdicts: vec![Target::AtMost(1.9).verdict("x", ratio)],
        };
        let text = markdown(&heat);
        assert!(
            text.contains("| a | 1.0000 | 7 |")
                && text.contains("| x | 2.00 (1.50..2.50) | <= 1.9 | no |"),
            "{text}"
        );
    }
}
