//! What numbers say of a claim: verdicts from intervals, and the interval of a difference over seeds.
//!
//! A claim is put so that it holds where a difference is above zero. A number with an interval speaks for the claim where the
//! interval lies above zero, against it where it lies below, and for neither otherwise. A number without an interval says
//! nothing. A claim is supported, or not, where all numbers that have intervals say so; else it is undecided.

use tcd_plots::report::{Evidence, Verdict};

/// A difference that bears on a claim; above zero is for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What was compared.
    pub what: String,
    /// The difference.
    pub difference: f64,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// What the interval is over, or why there is none.
    pub basis: String,
    /// Its unit, as it stands after the number.
    pub unit: &'static str,
    /// Decimals to show.
    pub decimals: usize,
    /// Sources, by place.
    pub sources: Vec<usize>,
}

/// The verdict of one interval.
pub fn of_interval(interval: Option<[f64; 2]>) -> Verdict {
    match interval {
        Some([low, high]) if low > 0.0 && high >= low => Verdict::Supported,
        Some([low, high]) if high < 0.0 && low <= high => Verdict::NotSupported,
        _ => Verdict::Undecided,
    }
}

/// The verdict of all numbers together; those without an interval do not count where there are others.
pub fn together(measured: &[Measured]) -> Verdict {
    let mut verdicts = measured
        .iter()
        .filter(|m| m.interval.is_some())
        .map(|m| of_interval(m.interval));
    let Some(first) = verdicts.next() else {
        return Verdict::Undecided;
    };
    if verdicts.all(|v| v == first) {
        first
    } else {
        Verdict::Undecided
    }
}

impl Measured {
    fn signed(&self, value: f64) -> String {
        format!("{value:+.0$}", self.decimals).replace('-', "\u{2212}")
    }

    /// The difference with its unit.
    pub fn value(&self) -> String {
        let space = if self.unit.is_empty() { "" } else { " " };
        format!("{}{space}{}", self.signed(self.difference), self.unit)
    }

    fn interval_text(&self) -> String {
        match self.interval {
            Some([low, high]) => format!("{} to {}", self.signed(low), self.signed(high)),
            None => "none".to_owned(),
        }
    }

    /// As the page shows it.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            what: self.what.clone(),
            value: self.value(),
            interval: format!("{} ({})", self.interval_text(), self.basis),
            verdict: of_interval(self.interval),
        }
    }

    fn sentence(&self) -> String {
        match self.interval {
            Some(_) => format!(
                "{}: {}, 95 % interval {}, {}.",
                self.what,
                self.value(),
                self.interval_text(),
                self.basis
            ),
            None => format!(
                "{}: {}, without an interval: {}.",
                self.what,
                self.value(),
                self.basis
            ),
        }
    }
}

/// Why the verdict is what it is, in words.
pub fn reason(measured: &[Measured]) -> String {
    let with: Vec<&Measured> = measured.iter().filter(|m| m.interval.is_some()).collect();
    if let [one] = measured {
        let end = match of_interval(one.interval) {
            Verdict::Supported => "All of the interval is on the claim's side.",
            Verdict::NotSupported => "All of the interval is on the other side.",
            Verdict::Undecided if one.interval.is_some() => {
                "The interval holds zero, so the sign is open."
            }
            Verdict::Undecided => "One number alone does not tell a difference from chance.",
        };
        return format!("{} {end}", one.sentence());
    }
    if with.is_empty() {
        let above = measured.iter().filter(|m| m.difference > 0.0).count();
        return format!(
            "{above} of {} differences are on the claim's side, but none has an interval: {}.",
            measured.len(),
            measured.first().map_or("", |m| m.basis.as_str())
        );
    }
    let count = |verdict| {
        with.iter()
            .filter(|m| of_interval(m.interval) == verdict)
            .count()
    };
    let strongest = with.iter().fold(with[0], |best, m| {
        if m.difference.abs() > best.difference.abs() {
            m
        } else {
            best
        }
    });
    let sides = [
        (count(Verdict::Supported), "on the claim's side"),
        (count(Verdict::NotSupported), "on the other side"),
        (count(Verdict::Undecided), "around zero"),
    ];
    let lie = match sides.iter().find(|(n, _)| *n == with.len()) {
        Some((1, side)) => format!("The one interval lies {side}."),
        Some((n, side)) => format!("All {n} intervals lie {side}."),
        None => {
            let parts: Vec<String> = sides
                .iter()
                .filter(|(n, _)| *n > 0)
                .map(|(n, side)| format!("{n} {side}"))
                .collect();
            format!("Of {} intervals {}.", with.len(), parts.join(", "))
        }
    };
    format!("{lie} The largest difference: {}", strongest.sentence())
}

/// Quantile 0.975 of Student's t with 1 to 30 degrees of freedom.
///
/// ```python
/// [round(scipy.stats.t.ppf(0.975, d), 4) for d in range(1, 31)]  # scipy 1.17.1
/// ```
const T: [f64; 30] = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622, 2.2281, 2.201, 2.1788,
    2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.093, 2.086, 2.0796, 2.0739, 2.0687, 2.0639,
    2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
];

/// The difference of means `a - b` and its 95 % interval by Welch's t, degrees of freedom rounded down; no interval where either
/// has fewer than two values. `None` where either has none.
pub fn welch(a: &[f64], b: &[f64]) -> Option<(f64, Option<[f64; 2]>)> {
    let moments = |v: &[f64]| {
        let n = v.len() as f64;
        let mean = v.iter().sum::<f64>() / n;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (n, mean, variance / n)
    };
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let ((na, ma, va), (nb, mb, vb)) = (moments(a), moments(b));
    let difference = ma - mb;
    if na < 2.0 || nb < 2.0 || !(va + vb).is_finite() {
        return Some((difference, None));
    }
    if va + vb == 0.0 {
        // Equal values under every seed are no measure of chance.
        return Some((difference, None));
    }
    let freedom = (va + vb).powi(2) / (va * va / (na - 1.0) + vb * vb / (nb - 1.0));
    let place = ((freedom + 1e-9).floor() as usize).clamp(1, T.len());
    let half = T[place - 1] * (va + vb).sqrt();
    Some((difference, Some([difference - half, difference + half])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn measured(difference: f64, interval: Option<[f64; 2]>) -> Measured {
        Measured {
            what: "moe − vanilla".to_owned(),
            difference,
            interval,
            basis: "over 3 and 3 seeds".to_owned(),
            unit: "nats",
            decimals: 2,
            sources: Vec::new(),
        }
    }

    #[test]
    fn an_interval_decides_by_where_it_lies() {
        for (interval, verdict) in [
            (Some([0.1, 0.3]), Verdict::Supported),
            (Some([-0.3, -0.1]), Verdict::NotSupported),
            (Some([-0.1, 0.3]), Verdict::Undecided),
            (Some([0.0, 0.3]), Verdict::Undecided),
            (Some([f64::NAN, 0.3]), Verdict::Undecided),
            (Some([0.1, f64::NAN]), Verdict::Undecided),
            (Some([0.3, 0.1]), Verdict::Undecided),
            (None, Verdict::Undecided),
        ] {
            assert_eq!(of_interval(interval), verdict, "{interval:?}");
        }
    }

    #[test]
    fn numbers_together_decide_where_they_agree() {
        let (yes, no, open, none) = (
            measured(0.2, Some([0.1, 0.3])),
            measured(-0.2, Some([-0.3, -0.1])),
            measured(0.1, Some([-0.1, 0.3])),
            measured(-5.0, None),
        );
        let of =
            |list: &[&Measured]| together(&list.iter().map(|m| (*m).clone()).collect::<Vec<_>>());
        assert_eq!(of(&[&yes, &yes]), Verdict::Supported);
        assert_eq!(of(&[&no, &no]), Verdict::NotSupported);
        assert_eq!(of(&[&yes, &no]), Verdict::Undecided);
        assert_eq!(of(&[&yes, &open]), Verdict::Undecided);
        assert_eq!(of(&[&yes, &none]), Verdict::Supported);
        assert_eq!(of(&[&none, &none]), Verdict::Undecided);
        assert_eq!(of(&[]), Verdict::Undecided);
    }

    #[test]
    fn reasons_tell_the_numbers() {
        assert_eq!(
            reason(&[measured(0.2, Some([-0.1, 0.5]))]),
            "moe − vanilla: +0.20 nats, 95 % interval −0.10 to +0.50, over 3 and 3 seeds. The interval holds zero, so the sign is open."
        );
        let mut alone = measured(0.2, None);
        alone.basis = "one run of each".to_owned();
        assert_eq!(
            reason(std::slice::from_ref(&alone)),
            "moe − vanilla: +0.20 nats, without an interval: one run of each. One number alone does not tell a difference from chance."
        );
        assert_eq!(
            reason(&[alone.clone(), alone]),
            "2 of 2 differences are on the claim's side, but none has an interval: one run of each."
        );
        assert_eq!(
            reason(&[
                measured(0.2, Some([0.1, 0.3])),
                measured(-0.4, Some([-0.5, -0.3]))
            ]),
            "Of 2 intervals 1 on the claim's side, 1 on the other side. The largest difference: moe − vanilla: −0.40 nats, 95 % interval −0.50 to −0.30, over 3 and 3 seeds."
        );
    }

    /// ```python
    /// scipy.stats.ttest_ind([3., 4, 5], [1., 1, 2, 2], equal_var=False).confidence_interval()  # scipy 1.17.1
    /// ```
    #[test]
    fn the_interval_over_seeds_is_that_of_welch() {
        let (difference, interval) = welch(&[3.0, 4.0, 5.0], &[1.0, 1.0, 2.0, 2.0]).unwrap();
        let [low, high] = interval.unwrap();
        assert!((difference - 2.5).abs() < 1e-12);
        assert!((low - 0.445_739_743).abs() < 1e-4, "{low}");
        assert!((high - 4.554_260_257).abs() < 1e-4, "{high}");
        assert_eq!(
            welch(&[1.0], &[0.5, 0.6]),
            Some((0.44999999999999996, None))
        );
        assert_eq!(welch(&[1.0, 1.0], &[0.5, 0.5]), Some((0.5, None)));
        assert_eq!(welch(&[], &[0.5]), None);
    }
}
