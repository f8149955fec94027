//! Structure of the figure: what stands in it, not where to the pixel.
#![allow(clippy::unwrap_used)]

use super::*;

fn curve(name: &str, end: f64, count: u64) -> PretrainingCurve {
    let point = |i: u64| {
        let t = i as f64 / (count.max(2) - 1) as f64;
        CurvePoint {
            step: i * 100,
            tokens: i * 819_200,
            wall_seconds: i as f64 * 60.0,
            heldout_log_likelihood: -9.0 + (9.0 + end) * (1.0 - (-3.0 * t).exp()),
            heldout_accuracy: 0.05 + 0.08 * t * (9.0 + end),
            train_loss: None,
        }
    };
    PretrainingCurve {
        name: name.to_owned(),
        points: (0..count).map(point).collect(),
    }
}

fn svg(curves: &[PretrainingCurve], options: &CurveOptions) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("figure.svg");
    write_curves(curves, &path, options).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::read_to_string(path).unwrap()
}

/// The texts of an SVG in order.
fn texts(svg: &str) -> Vec<String> {
    let part = |t: &str| {
        t.split_once('>')
            .unwrap()
            .1
            .split("</text>")
            .next()
            .unwrap()
            .trim()
            .to_owned()
    };
    svg.split("<text").skip(1).map(part).collect()
}

#[test]
fn axes_have_units_and_names_stand_at_line_ends_once() {
    for (x, label) in [
        (XAxis::Steps, "optimizer steps"),
        (XAxis::Tokens, "tokens seen in training"),
        (XAxis::Hours, "training time (hours)"),
    ] {
        let options = CurveOptions {
            x,
            title: Some("A < B".into()),
            ..CurveOptions::default()
        };
        let svg = svg(
            &[curve("vanilla", -2.0, 20), curve("moe", -4.0, 20)],
            &options,
        );
        let texts = texts(&svg);
        for wanted in [
            label,
            PANELS[0].0,
            PANELS[1].0,
            "vanilla",
            "moe",
            "A &lt; B",
        ] {
            assert_eq!(
                texts.iter().filter(|t| *t == wanted).count(),
                1,
                "{wanted}: {texts:?}"
            );
        }
        assert!(svg.contains("<polyline") && svg.contains("<circle"));
    }
}

#[test]
fn names_that_would_overlap_go_to_a_legend_and_long_ones_are_broken() {
    let close = [curve("a", -2.0, 20), curve("b", -2.01, 20)];
    let ranges = PANELS.map(|(_, value, _)| {
        range(
            close
                .iter()
                .flat_map(|c| points(c, XAxis::Steps, value).0)
                .map(|p| p.1),
            0.06,
        )
    });
    let sizes = Sizes::at(1.0);
    let choose = |curves: &[PretrainingCurve]| {
        choose_names(curves, XAxis::Steps, &ranges, 250, 20, 270, &sizes).unwrap()
    };
    assert_eq!(
        choose(&close),
        Names::Legend(vec![vec!["a".into()], vec!["b".into()]])
    );
    assert_eq!(choose(&close[..1]), Names::Direct(0));
    // A line that ends early has no name at its end.
    assert!(matches!(
        choose(&[curve("a", -2.0, 20), curve("b", -6.0, 5)]),
        Names::Legend(_)
    ));
    let long = "moe-64-experts-top-1_hidden-768_layers-12_balance-0.01_seed-3 ".repeat(3);
    let lines = wrap(&long, 16.0, 200).unwrap();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[2].contains('\u{2026}') && lines.iter().all(|l| width(l, 16.0).unwrap() <= 215),
        "{lines:?}"
    );
    let figure = svg(&[curve(&long, -2.0, 5)], &CurveOptions::default());
    for line in wrap(&long, 16.0, 900 * 30 / 100 - 40).unwrap() {
        assert!(texts(&figure).contains(&line.trim().to_owned()), "{line}");
    }
}

#[test]
fn empty_and_non_finite_input_is_an_error_or_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.svg");
    let options = CurveOptions::default();
    assert!(matches!(
        write_curves(&[], &path, &options),
        Err(PlotError::Empty)
    ));
    assert!(!path.exists());
    assert!(matches!(
        write_curves(&[curve("a", -2.0, 3)], &dir.path().join("x.gif"), &options),
        Err(PlotError::Format { .. })
    ));
    let tiny = CurveOptions {
        width: 10,
        ..CurveOptions::default()
    };
    assert!(matches!(
        write_curves(&[curve("a", -2.0, 3)], &path, &tiny),
        Err(PlotError::Small { .. })
    ));

    let mut bad = curve("a", -2.0, 4);
    bad.points[1].heldout_log_likelihood = f64::NAN;
    assert!(
        texts(&svg(&[bad.clone()], &options))
            .contains(&"values left out as not finite: 1".to_owned())
    );
    bad.points
        .iter_mut()
        .for_each(|p| p.heldout_log_likelihood = f64::INFINITY);
    assert!(texts(&svg(&[bad.clone()], &options)).contains(&"no finite values".to_owned()));
    bad.points
        .iter_mut()
        .for_each(|p| p.heldout_accuracy = f64::NAN);
    svg(&[bad.clone()], &options);
    bad.points.clear();
    svg(&[bad], &options);
    // One point, and a flat line.
    svg(&[curve("one", -2.0, 1)], &options);
    svg(&[curve("flat", -9.0, 5)], &options);
}

#[test]
fn png_has_twice_the_pixels_and_ink_for_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("figure.PNG");
    write_curves(&[curve("a", -2.0, 5)], &path, &CurveOptions::default()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(&bytes[16..24], [0, 0, 7, 8, 0, 0, 5, 160], "1800 x 1440");
    let error = write_curves(
        &[curve("a", -2.0, 5)],
        &dir.path().join("no/figure.png"),
        &CurveOptions::default(),
    );
    assert!(matches!(error, Err(PlotError::Io { .. })));
}

#[test]
fn ticks_are_short_and_distinct() {
    assert_eq!(tick(2_000_000.0, 8e6), "2M");
    assert_eq!(tick(0.0, 8e6), "0");
    assert_eq!(tick(-2.5, 3.0), "\u{2212}2.5");
    assert_eq!(tick(0.02, 0.1), "0.02");
    assert_eq!(tick(1500.0, 3000.0), "1500");
    assert_eq!(tick(-0.001, 3.0), "0");
}
