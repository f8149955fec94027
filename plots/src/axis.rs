//! Axes: ranges, ticks at round numbers, and their texts.

/// Whether a value has a place on an axis: finite, and not so large that differences overflow.
pub(crate) fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() <= 1e300
}

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// Evenly.
    Linear,
    /// By their logarithm; values at or below zero have no place.
    Log,
}

/// An axis between two values, the lower one smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    pub law: Law,
    pub low: f64,
    pub high: f64,
}

impl Axis {
    /// An axis that holds all finite values, with a share of room at its ends; nothing where there are none.
    pub fn around(law: Law, values: impl IntoIterator<Item = f64>, room: f64) -> Option<Axis> {
        let fits = |v: &f64| drawable(*v) && (law == Law::Linear || *v > 0.0);
        let (low, high) = values
            .into_iter()
            .filter(fits)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                (l.min(v), h.max(v))
            });
        if low > high {
            return None;
        }
        if law == Law::Log {
            let (l, h) = (low.ln(), high.ln());
            let span = (h - l).max(0.5) * room.max(1e-3);
            return Some(Axis {
                law,
                low: (l - span).exp(),
                high: (h + span).exp(),
            });
        }
        let span = (high - low).max(low.abs().max(high.abs()) * 1e-3).max(1e-9);
        let axis = Axis {
            law,
            low: low - span * room,
            high: high + span * room,
        };
        Some(axis.opened())
    }

    /// An axis of two different ends.
    fn opened(self) -> Axis {
        if self.high > self.low {
            return self;
        }
        let more = (self.low.abs() * 1e-3).max(1e-9);
        Axis {
            low: self.low - more,
            high: self.high + more,
            ..self
        }
    }

    /// The axis with zero in it.
    pub fn with_zero(self) -> Axis {
        Axis {
            low: self.low.min(0.0),
            high: self.high.max(0.0),
            ..self
        }
        .opened()
    }

    /// The axis within bounds, never empty.
    pub fn within(self, bounds: Option<(f64, f64)>) -> Axis {
        let Some((low, high)) = bounds else {
            return self;
        };
        let low = self.low.clamp(low, high);
        Axis {
            low,
            high: self.high.min(high).max(low + 1e-6 * low.abs().max(1.0)),
            ..self
        }
    }

    /// Where a value stands, 0 at the low end and 1 at the high one; nothing where it has no place or lies far outside.
    pub fn share(&self, value: f64) -> Option<f64> {
        let share = match self.law {
            Law::Linear => (value - self.low) / (self.high - self.low),
            Law::Log => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
        };
        (-100.0..=101.0).contains(&share).then_some(share)
    }

    /// Ticks within the axis, about as many as asked for, with their texts.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        match self.law {
            Law::Linear => self.linear_ticks(count),
            Law::Log => self.log_ticks(count),
        }
    }

    fn linear_ticks(&self, count: usize) -> Vec<(f64, String)> {
        let span = self.high - self.low;
        let rough = span / count.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|s| *s >= rough * 0.999)
            .unwrap_or(10.0 * power);
        if !(step.is_finite() && step > 0.0) {
            return Vec::new();
        }
        let first = (self.low / step - 1e-9).ceil();
        (0..200)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|v| *v <= self.high + step * 1e-9)
            .map(|v| (v, tick(v, span, step)))
            .collect()
    }

    fn log_ticks(&self, count: usize) -> Vec<(f64, String)> {
        let (low, high) = (self.low.log10(), self.high.log10());
        let every = ((high - low) / count.max(1) as f64).ceil().max(1.0) as i32;
        // Under two decades whole powers are too few.
        let parts: &[f64] = if high - low < 2.2 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let mut ticks = Vec::new();
        for power in (low.floor() as i32..=high.ceil() as i32).filter(|p| p.rem_euclid(every) == 0)
        {
            for part in parts {
                let value = part * 10f64.powi(power);
                if (self.low * 0.999..=self.high * 1.001).contains(&value) {
                    ticks.push((value, log_tick(value)));
                }
            }
        }
        ticks
    }
}

/// A tick of a logarithmic axis.
fn log_tick(value: f64) -> String {
    if !(1e-3..1e6).contains(&value) {
        return format!("{value:.0e}").replace('-', "\u{2212}");
    }
    if value < 1.0 {
        let decimals = (-value.log10()).ceil().max(0.0) as usize;
        return format!("{value:.decimals$}");
    }
    match value {
        v if v >= 1e3 => format!("{}k", (v / 1e3).round()),
        v => format!("{}", v.round()),
    }
}

/// A tick of an axis of some span: as many decimals as the step between ticks asks for, thousands and more shortened.
fn tick(value: f64, span: f64, step: f64) -> String {
    if span >= 1e13 {
        return format!("{value:.1e}").replace('-', "\u{2212}");
    }
    let (unit, suffix) = match span {
        s if s >= 2e9 => (1e9, "G"),
        s if s >= 2e6 => (1e6, "M"),
        s if s >= 2e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    // One more than the step's first digit, since a step may be 2.5.
    let decimals = (1.0 - (step / unit).log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{:.*}", decimals, value / unit);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    match text {
        "0" | "-0" => "0".to_owned(),
        other => format!("{}{suffix}", other.replacen('-', "\u{2212}", 1)),
    }
}

/// A number for people: four digits that matter, a true minus.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".to_owned();
    }
    let size = value.abs();
    let text = if size != 0.0 && !(1e-4..1e7).contains(&size) {
        format!("{value:.3e}")
    } else {
        let decimals = (3.0 - size.max(1e-4).log10().floor()).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    };
    if text == "-0" {
        "0".to_owned()
    } else {
        text.replacen('-', "\u{2212}", 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ticks_are_short_and_distinct() {
        assert_eq!(tick(2_000_000.0, 8e6, 1e6), "2M");
        assert_eq!(tick(2_500_000.0, 15e6, 2.5e6), "2.5M");
        assert_eq!(tick(0.0, 8e6, 1e6), "0");
        assert_eq!(tick(-2.5, 3.0, 0.5), "\u{2212}2.5");
        assert_eq!(tick(0.02, 0.1, 0.02), "0.02");
        assert_eq!(tick(1500.0, 3000.0, 500.0), "1500");
        assert_eq!(tick(-0.001, 3.0, 0.5), "0");
        for (low, high) in [
            (0.0, 1.0),
            (-9.3, -2.1),
            (0.0, 8.2e6),
            (99.98, 100.01),
            (-1e299, 1e300),
            (0.0, 15e6),
        ] {
            let axis = Axis {
                law: Law::Linear,
                low,
                high,
            };
            let ticks = axis.ticks(6);
            assert!((3..=8).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(ticks.windows(2).all(|p| p[0].1 != p[1].1), "{ticks:?}");
        }
        let log = |low, high| {
            let axis = Axis {
                law: Law::Log,
                low,
                high,
            };
            axis.ticks(6).into_iter().map(|t| t.1).collect::<Vec<_>>()
        };
        assert_eq!(log(1.0, 128.0), ["1", "2", "5", "10", "20", "50", "100"]);
        assert_eq!(
            log(0.9e-2, 1.1),
            ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
        );
        assert_eq!(log(1e-9, 1.0).len(), 5);
    }

    #[test]
    fn axes_hold_what_is_finite_and_are_never_empty() {
        let around = |values: &[f64]| Axis::around(Law::Linear, values.iter().copied(), 0.05);
        assert_eq!(around(&[]), None);
        assert_eq!(around(&[f64::NAN, f64::INFINITY, f64::MAX]), None);
        for values in [
            &[3.0][..],
            &[0.0, f64::NAN],
            &[1e300, -1e300],
            &[1e-300, 2e-300],
            &[1e300],
        ] {
            let axis = around(values).unwrap();
            assert!(axis.high > axis.low && axis.high - axis.low < f64::INFINITY);
            for v in values.iter().filter(|v| v.is_finite()) {
                let share = axis.share(*v).unwrap();
                assert!((-8.0..=9.0).contains(&share), "{values:?}: {share}");
            }
            axis.ticks(6);
        }
        assert_eq!(Axis::around(Law::Log, [-1.0, 0.0], 0.1), None);
        let log = Axis::around(Law::Log, [0.0, 10.0, 1000.0], 0.0).unwrap();
        assert!((log.share(100.0).unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(log.share(0.0), None);
    }

    #[test]
    fn numbers_for_people() {
        let cases = [
            (0.0, "0"),
            (-0.12345, "\u{2212}0.1235"),
            (12.3456, "12.35"),
            (123_456.0, "123456"),
            (1e-9, "1.000e\u{2212}9"),
            (f64::NAN, "not finite"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }
}
