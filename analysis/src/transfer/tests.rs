//! Curves and gaps against hand-made ones, numerical integration, and laws.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn point(family: &str, seed: u64, log_likelihood: f64, score: f64) -> TransferPoint {
    TransferPoint {
        family: family.into(),
        seed,
        step: 0,
        log_likelihood,
        score,
    }
}

fn gap(points: &[TransferPoint]) -> Result<TransferGap, TransferError> {
    transfer_gap(&family_curves(points)?, "a", "b", &Bootstrap::default())
}

#[test]
fn parallel_lines_are_their_distance_apart_and_crossing_ones_cancel() {
    let mut points = vec![point("a", 1, -4.0, 70.0), point("a", 1, -2.0, 80.0)];
    points.extend([point("b", 1, -3.0, 73.0), point("b", 1, -1.0, 83.0)]);
    let found = gap(&points).unwrap();
    assert!((found.gap.unwrap() - 2.0).abs() < 1e-12);
    assert_eq!(found.overlap, Some([-3.0, -2.0]));
    assert!(found.interval.is_none() && found.reason.unwrap().contains("two seeds"));
    let crossing = [
        point("a", 1, 0.0, 0.0),
        point("a", 1, 1.0, 1.0),
        point("b", 1, 0.0, 1.0),
        point("b", 1, 1.0, 0.0),
    ];
    assert!(gap(&crossing).unwrap().gap.unwrap().abs() < 1e-15);
}

#[test]
fn the_gap_equals_fine_numerical_integration() {
    let points: Vec<TransferPoint> = (0..7)
        .flat_map(|i| {
            let x = f64::from(i);
            [
                point("a", 1, -5.0 + 0.61 * x, 60.0 + x * x),
                point("b", 1, -4.7 + 0.73 * x, 58.0 + 3.0 * x.sqrt()),
            ]
        })
        .collect();
    let curves = family_curves(&points).unwrap();
    let found = gap(&points).unwrap();
    let [low, high] = found.overlap.unwrap();
    let steps = 200_000;
    let sum: f64 = (0..steps)
        .map(|i| {
            let x = low + (high - low) * (f64::from(i) + 0.5) / f64::from(steps);
            curves[0].runs[0].at(x).unwrap() - curves[1].runs[0].at(x).unwrap()
        })
        .sum();
    assert!((found.gap.unwrap() - sum / f64::from(steps)).abs() < 1e-8);
}

#[test]
fn the_interval_spans_the_seeds_and_closes_where_they_agree() {
    let family = |name: &str, offsets: &[f64]| -> Vec<TransferPoint> {
        let runs = offsets.iter().enumerate();
        runs.flat_map(|(s, o)| {
            [
                point(name, s as u64, -4.0, 70.0 + o),
                point(name, s as u64, -2.0, 80.0 + o),
            ]
        })
        .collect()
    };
    let apart = [
        family("a", &[3.0, 5.0, 4.0]),
        family("b", &[0.0, 1.0, -1.0]),
    ]
    .concat();
    let found = gap(&apart).unwrap();
    let [low, high] = found.interval.unwrap();
    assert!((found.gap.unwrap() - 4.0).abs() < 1e-12);
    assert!(
        low < 4.0 && 4.0 < high && low > 2.0 - 1e-9 && high < 6.0 + 1e-9,
        "{low} {high}"
    );
    let same = [family("a", &[4.0, 4.0]), family("b", &[0.0, 0.0])].concat();
    let [low, high] = gap(&same).unwrap().interval.unwrap();
    assert!((low - 4.0).abs() < 1e-12 && (high - 4.0).abs() < 1e-12);
}

#[test]
fn curves_that_do_not_overlap_are_refused_with_their_ranges() {
    let points = [
        point("a", 1, -2.0, 1.0),
        point("a", 1, -1.0, 2.0),
        point("b", 1, -5.0, 1.0),
        point("b", 1, -3.0, 2.0),
    ];
    let text = gap(&points).unwrap_err().to_string();
    assert!(
        text.contains("-2.0000 to -1.0000") && text.contains("hint"),
        "{text}"
    );
    let torn = [
        point("a", 1, -2.0, 1.0),
        point("a", 2, -1.0, 2.0),
        point("b", 1, -5.0, 1.0),
    ];
    assert!(matches!(gap(&torn), Err(TransferError::FamilyRange { .. })));
    assert_eq!(gap(&points[..2]), Err(TransferError::Unknown("b".into())));
    assert!(matches!(
        gap(&[point("a", 1, f64::NAN, 1.0)]),
        Err(TransferError::NotFinite { .. })
    ));
}

#[test]
fn points_are_read_back_and_bad_lines_named() {
    let text = "score,family,seed,step,log_likelihood\n70.5,a,1,100,-4.25\n\n71,b,2,200,-3\n";
    let points = points_from_csv(text).unwrap();
    assert_eq!(
        points[0],
        TransferPoint {
            family: "a".into(),
            seed: 1,
            step: 100,
            log_likelihood: -4.25,
            score: 70.5
        }
    );
    for (text, word) in [
        ("", "empty"),
        ("family,seed,step,score\n", "log_likelihood"),
        (
            "family,seed,step,log_likelihood,score\na,1,2,x,3\n",
            "line 2",
        ),
        ("family,seed,step,log_likelihood,score\na,1,2\n", "3 fields"),
    ] {
        assert!(
            points_from_csv(text)
                .unwrap_err()
                .to_string()
                .contains(word),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn exchanging_families_turns_the_sign_and_a_shift_shifts(
        a in proptest::collection::vec((-5.0_f64..0.0, 0.0_f64..100.0), 2..8),
        b in proptest::collection::vec((-5.0_f64..0.0, 0.0_f64..100.0), 2..8),
        shift in -10.0_f64..10.0,
    ) {
        let (la, lb) = (Line::through(&a), Line::through(&b));
        let moved = Line { x: la.x.clone(), y: la.y.iter().map(|y| y + shift).collect() };
        match distance(&la, &lb) {
            Some((gap, range)) => {
                let (back, other) = distance(&lb, &la).unwrap();
                prop_assert!((gap + back).abs() < 1e-9 && range == other);
                prop_assert!((distance(&moved, &lb).unwrap().0 - gap - shift).abs() < 1e-9);
            }
            None => prop_assert!(distance(&lb, &la).is_none()),
        }
        prop_assert!(distance(&la, &la).unwrap().0.abs() < 1e-12);
    }
}
