//! Structure of the figures: what stands in them, not where to the pixel. Every kind is drawn on made data, on nothing, on one point, on
//! values that are not finite, and on long names.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

#[allow(clippy::wildcard_imports)]
use super::*;

/// A name that has to be broken.
const LONG: &str =
    "moe-64-experts-top-1_hidden-768_layers-12_balance-0.01_distilled-from-a-random-teacher_seed-3";

/// The texts of an SVG in order.
fn texts(svg: &str) -> Vec<String> {
    let part = |t: &str| {
        let inner = t.split_once('>').unwrap().1;
        inner.split("</text>").next().unwrap().trim().to_owned()
    };
    svg.split("<text").skip(1).map(part).collect()
}

fn drawn(figure: &Figure) -> Vec<String> {
    texts(&figure.svg().unwrap())
}

/// Every kind on made data of some models.
fn all(models: &[&str], layers: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    let curves: Vec<_> = models.iter().map(|m| made::curve(m, -2.0, 20)).collect();
    let terms = ["loss", "mlm_loss", "balance_loss", "distill.trunk"];
    let records: Vec<_> = models
        .iter()
        .map(|m| made::records(m, &terms, 50))
        .collect();
    let (first, last) = (models[0], models[models.len() - 1]);
    let cka = made::cka(first, last, layers);
    let similarity = made::similarity(first, last, layers);
    let geometry = made::geometry(models, layers, 16);
    let experts: Vec<(&str, usize)> = models.iter().map(|m| (*m, 8)).collect();
    let routing = made::routing(&experts, layers);
    let likelihood = made::likelihood(models, &["speeches", "biology"]);
    figures.push(super::curves(&curves, XAxis::Tokens, None).unwrap());
    figures.push(losses(&records, XAxis::Hours, None).unwrap());
    figures.extend(transfer(&made::transfer(models)).unwrap());
    figures.push(super::cka(&cka).unwrap());
    figures.push(cka_grid(&[&cka, &cka]).unwrap());
    figures.push(depth(&[&cka], &[&similarity]).unwrap());
    figures.push(spectra(&geometry).unwrap());
    figures.push(ranks(&geometry).unwrap());
    figures.push(projection(&made::projection(100, &["word", "number"], layers)).unwrap());
    figures.push(probes(&made::probes(models, &["position", "class"], layers)).unwrap());
    figures.push(load(&routing).unwrap());
    figures.extend(specialisation(&routing).unwrap());
    figures.push(sentence(&made::sentence("the house stood", layers, 8)).unwrap());
    figures.extend(super::likelihood(&likelihood).unwrap());
    if models.len() > 1 {
        figures.extend(likelihood_differences(&likelihood).unwrap());
    }
    figures.push(scores(&made::scores(models, &["CoLA", "RTE"]), &[]).unwrap());
    figures.push(differences(&made::differences(&["CoLA", "RTE"])).unwrap());
    figures.push(speed(&made::speeds()).unwrap());
    figures
}

#[test]
fn every_kind_draws_has_words_data_and_marks_within_the_figure() {
    let figures = all(&["vanilla", "moe"], 4);
    let kinds: BTreeSet<&str> = figures.iter().map(|f| f.kind().name).collect();
    assert_eq!(kinds, KINDS.iter().map(|k| k.name).collect());
    for figure in &figures {
        let name = figure.stem();
        let svg = figure.svg().unwrap();
        assert!(svg.starts_with("<svg") && !svg.contains("NaN"), "{name}");
        let title: String = texts(&svg)[..2].join(" ");
        assert!(
            title.contains(figure.title().split(' ').next().unwrap()),
            "{name}: {title}"
        );
        assert!(
            figure.caption().ends_with('.'),
            "{name}: {}",
            figure.caption()
        );
        let table = figure.data();
        assert!(!table.rows.is_empty(), "{name}");
        assert!(
            table.rows.iter().all(|r| r.len() == table.columns.len()),
            "{name}"
        );
        let (w, h) = figure.size();
        assert!(!figure.marks().is_empty(), "{name}");
        for mark in figure.marks() {
            let inside = mark.x >= 0.0
                && mark.y >= 0.0
                && mark.x + mark.width <= f64::from(w)
                && mark.y + mark.height <= f64::from(h);
            assert!(
                inside && !mark.label.is_empty(),
                "{name}: {mark:?} in {w}x{h}"
            );
        }
    }
}

/// The boxes of level and turned texts, as the font measures them.
fn boxes(svg: &str) -> Vec<(String, [f64; 4])> {
    let mut found = Vec::new();
    for part in svg.split("<text").skip(1) {
        let (head, rest) = part.split_once('>').unwrap();
        let attribute = |name: &str| {
            let start = head.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
            head[start..].split('"').next().unwrap().to_owned()
        };
        let number = |name: &str| attribute(name).parse::<f64>().unwrap();
        let text = rest.split("</text>").next().unwrap().trim();
        let text = text
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&apos;", "'")
            .replace("&amp;", "&");
        let size = number("font-size") * 1.24;
        let long = f64::from(style::width(&text, size).unwrap());
        let tall = size * 0.72;
        let start = match attribute("text-anchor").as_str() {
            "start" => 0.0,
            "middle" => -long / 2.0,
            _ => -long,
        };
        let up = match attribute("dy").as_str() {
            "0.76em" => 0.0,
            "0.5ex" => -tall / 2.0,
            _ => -tall,
        };
        let (x, y) = (number("x"), number("y"));
        let of = if head.contains("rotate(270") {
            // Turned against the clock: what ran to the right runs upwards.
            [x + up, y - start - long, x + up + tall, y - start]
        } else {
            [x + start, y + up, x + start + long, y + up + tall]
        };
        found.push((text, of));
    }
    found
}

#[test]
fn no_text_lies_on_another_or_outside_the_figure() {
    let mut figures = all(&["vanilla", "moe"], 4);
    figures.extend(all(
        &["vanilla", LONG, "moe", "distilled", "random", LONG],
        13,
    ));
    figures.extend(all(&["one"], 1));
    figures.push(load(&made::routing(&[("moe", 64), ("small", 2)], 12)).unwrap());
    figures.push(cka(&made::cka("a", "b", 60)).unwrap());
    figures.push(
        sentence(&made::sentence(
            &"antidisestablishmentarianism ".repeat(40),
            24,
            64,
        ))
        .unwrap(),
    );
    for figure in &figures {
        let boxes = boxes(&figure.svg().unwrap());
        let (w, h) = figure.size();
        for (i, (text, a)) in boxes.iter().enumerate() {
            let inside = a[0] >= -1.0
                && a[1] >= -3.0
                && a[2] <= f64::from(w) + 2.0
                && a[3] <= f64::from(h) + 2.0;
            assert!(inside, "{}: `{text}` {a:?} in {w}x{h}", figure.stem());
            for (other, b) in &boxes[..i] {
                let wide = a[2].min(b[2]) - a[0].max(b[0]);
                let high = a[3].min(b[3]) - a[1].max(b[1]);
                assert!(
                    wide < 2.0 || high < 2.0,
                    "{}: `{text}` {a:?} on `{other}` {b:?}",
                    figure.stem()
                );
            }
        }
    }
}

#[test]
fn short_runs_are_drawn_by_minutes() {
    let mut run = made::curve("vanilla", -2.0, 20);
    let last = run.points.len() as f64;
    for (i, point) in run.points.iter_mut().enumerate() {
        point.wall_seconds = 300.0 * (i + 1) as f64 / last;
    }
    let texts = drawn(&curves(&[run], XAxis::Hours, None).unwrap());
    for wanted in ["training time (minutes)", "Pre-training by minutes", "5"] {
        assert!(
            texts.iter().any(|text| text == wanted),
            "{wanted}: {texts:?}"
        );
    }
}

#[test]
fn names_stand_at_line_ends_or_in_a_legend_and_axes_have_units() {
    for (x, label) in [
        (XAxis::Steps, "optimizer steps"),
        (XAxis::Tokens, "tokens seen in training"),
        (XAxis::Hours, "training time (hours)"),
    ] {
        let runs = [
            made::curve("vanilla", -2.0, 20),
            made::curve("moe", -4.0, 20),
        ];
        let texts = drawn(&curves(&runs, x, Some("A < B")).unwrap());
        for wanted in [
            label,
            "held-out log-likelihood (nats per masked token)",
            "held-out accuracy (% of masked tokens)",
            "vanilla",
            "moe",
            "A &lt; B",
        ] {
            let count = texts.iter().filter(|t| *t == wanted).count();
            assert_eq!(count, 1, "{wanted}: {texts:?}");
        }
    }
    let figure = curves(&[made::curve(LONG, -2.0, 5)], XAxis::Steps, None).unwrap();
    assert!(
        drawn(&figure)
            .iter()
            .any(|t| t.starts_with("moe-64-experts"))
    );
}

#[test]
fn nothing_to_draw_is_an_error_that_says_so() {
    let empty = |result: Result<Figure, PlotError>| {
        assert!(matches!(result, Err(PlotError::Empty { .. })), "{result:?}");
    };
    empty(curves(&[], XAxis::Steps, None));
    empty(losses(&[], XAxis::Steps, None));
    empty(cka_grid(&[]));
    empty(depth(&[], &[]));
    empty(spectra(&made::geometry(&[], 3, 4)));
    empty(ranks(&made::geometry(&[], 3, 4)));
    empty(probes(&made::probes(&[], &[], 3)));
    empty(load(&made::routing(&[], 3)));
    empty(sentence(&made::sentence("a", 0, 4)));
    empty(scores(&[], &[]));
    empty(differences(&[]));
    empty(speed(&[]));
    let several = |result: Result<Vec<Figure>, PlotError>| {
        assert!(matches!(result, Err(PlotError::Empty { .. })));
    };
    several(specialisation(&made::routing(&[], 3)));
    several(likelihood(&made::likelihood(&[], &[])));
    several(likelihood_differences(&made::likelihood(&["one"], &["c"])));
    // A run without evaluations, and a transfer result without points, are empty plots that say so.
    let bare = curves(&[made::curve("a", -2.0, 0)], XAxis::Steps, None).unwrap();
    assert!(drawn(&bare).contains(&"no finite values".to_owned()));
    let bare = transfer(&made::transfer(&[])).unwrap();
    assert!(drawn(&bare[0]).contains(&"no finite values".to_owned()));
    let mut none = made::cka("a", "b", 2);
    (none.taps_a, none.taps_b, none.cells) = (vec![], vec![], vec![]);
    assert!(drawn(&cka(&none).unwrap()).contains(&"no values".to_owned()));
    let blank = projection(&made::projection(0, &["a"], 1)).unwrap();
    assert!(drawn(&blank).contains(&"no finite values".to_owned()));
}

#[test]
fn single_points_and_values_that_are_not_finite_are_drawn_and_counted() {
    for figure in all(&["one"], 1) {
        figure.svg().unwrap();
    }
    for count in [1, 2] {
        curves(&[made::curve("a", -9.0, count)], XAxis::Steps, None)
            .unwrap()
            .svg()
            .unwrap();
    }
    let mut run = made::curve("a", -2.0, 4);
    run.points[1].heldout_log_likelihood = f64::NAN;
    let texts = drawn(&curves(&[run.clone()], XAxis::Steps, None).unwrap());
    assert!(
        texts.contains(&"values left out as not finite: 1".to_owned()),
        "{texts:?}"
    );
    for p in &mut run.points {
        (p.heldout_log_likelihood, p.heldout_accuracy) = (f64::INFINITY, f64::NAN);
    }
    let texts = drawn(&curves(&[run], XAxis::Steps, None).unwrap());
    assert_eq!(texts.iter().filter(|t| *t == "no finite values").count(), 2);

    let mut cells = made::cka("a", "b", 2);
    for c in &mut cells.cells {
        c.cka = Some(f64::NAN);
    }
    assert!(drawn(&cka(&cells).unwrap()).contains(&"crossed cells have no value: 9".to_owned()));
    let mut cloud = made::projection(50, &["a", "b"], 1);
    cloud.taps[0].points[3][0] = f64::NAN;
    let texts = drawn(&projection(&cloud).unwrap());
    assert!(texts.contains(&"points left out as not finite: 1".to_owned()));
    let mut table = made::scores(&["a", "b"], &["CoLA"]);
    table[1].score = f64::NAN;
    assert!(drawn(&scores(&table, &[]).unwrap()).contains(&"no value".to_owned()));
    let mut flat = made::geometry(&["a"], 1, 4);
    if let Some(m) = &mut flat.taps[0].measures {
        (m.spectrum, m.effective_rank) = (vec![0.0; 4], f64::NAN);
    }
    spectra(&flat).unwrap().svg().unwrap();
    ranks(&flat).unwrap().svg().unwrap();
    for value in [f64::MAX, f64::MIN, 1e300, 1e-300] {
        let mut far = made::differences(&["CoLA", "RTE"]);
        (far[0].difference, far[0].interval) = (value, Some([value, f64::INFINITY]));
        differences(&far).unwrap().svg().unwrap();
        let mut run = made::curve("a", -2.0, 3);
        run.points[1].heldout_log_likelihood = value;
        curves(&[run], XAxis::Steps, None).unwrap().svg().unwrap();
    }
}

#[test]
fn very_large_results_are_thinned_or_refused() {
    let long = curves(&[made::curve("a", -2.0, 100_000)], XAxis::Steps, None).unwrap();
    assert!(long.svg().unwrap().len() < 400_000 && long.marks().len() < 2000);
    assert_eq!(long.data().rows.len(), 100_000);
    let cloud = projection(&made::projection(50_000, &["a", "b"], 1)).unwrap();
    assert!(cloud.svg().unwrap().len() < 3_000_000);
    let texts = drawn(&cloud);
    assert!(
        texts
            .iter()
            .any(|t| t.starts_with("drawn are") && t.contains("50000")),
        "{texts:?}"
    );
    let error = cka(&made::cka("a", "b", 400)).unwrap_err().to_string();
    assert!(error.contains("cells"), "{error}");
    let tasks: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
    let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
    let error = scores(&made::scores(&["a"], &tasks), &[]).unwrap_err();
    assert!(matches!(error, PlotError::Large { .. }), "{error}");
}

#[test]
fn a_result_that_contradicts_itself_is_refused() {
    let mut wrong = made::cka("a", "b", 2);
    wrong.cells.pop();
    assert!(matches!(cka(&wrong), Err(PlotError::Result { .. })));
    let mut wrong = made::projection(5, &["a"], 1);
    wrong.labels.pop();
    assert!(matches!(projection(&wrong), Err(PlotError::Result { .. })));
    let mut wrong = made::sentence("a b", 1, 4);
    wrong.layers[0].weights.pop();
    assert!(matches!(sentence(&wrong), Err(PlotError::Result { .. })));
    let mut wrong = made::routing(&[("moe", 4)], 1);
    wrong.layers[0].groupings[0].groups.pop();
    assert!(matches!(
        specialisation(&wrong),
        Err(PlotError::Result { .. })
    ));
}

#[test]
fn transfer_shades_the_gap_and_says_it_in_words() {
    let result = made::transfer(&["moe", "distilled"]);
    let figures = transfer(&result).unwrap();
    assert_eq!(figures.len(), 1);
    assert_eq!(figures[0].stem(), "transfer-distilled-moe");
    assert!(
        figures[0]
            .caption()
            .contains("the transfer gap of distilled over moe is")
    );
    // The shaded area is the only polygon that is no marker: it alone is half transparent.
    let svg = figures[0].svg().unwrap();
    assert_eq!(svg.matches("opacity=\"0.22\"").count(), 1);
    let mut none = result;
    none.gaps[0].gap = None;
    none.gaps[0].overlap = None;
    none.gaps[0].reason = Some("no overlap".to_owned());
    let figure = &transfer(&none).unwrap()[0];
    assert!(figure.caption().contains("was not measured: no overlap"));
    assert_eq!(figure.svg().unwrap().matches("opacity=\"0.22\"").count(), 0);
}

#[test]
fn a_comparison_by_rows_has_the_interval_of_paired_shares() {
    // counts 120, 20, 35, 102: difference 15/277; statsmodels has no paired interval, the formula by hand:
    // sqrt(55 - 15^2/277) / 277 * 1.96 = 0.05208
    let d = Difference::of_rows(&made::compare());
    let [low, high] = d.interval.unwrap();
    assert!((d.difference - 15.0 / 277.0).abs() < 1e-12);
    assert!(((high - low) / 2.0 - 0.052_08).abs() < 2e-5, "{low} {high}");
    assert_eq!((d.model.as_str(), d.task.as_str()), ("distilled", "rte"));
}

#[test]
fn files_appear_whole_in_the_format_of_their_ending() {
    let dir = tempfile::tempdir().unwrap();
    let figure = curves(&[made::curve("a", -2.0, 5)], XAxis::Steps, None).unwrap();
    let path = dir.path().join("figure.PNG");
    figure.write(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let (w, h) = figure.size();
    assert_eq!((side(16), side(20)), (2 * w, 2 * h));
    figure.write(&dir.path().join("figure.svg")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let wrong = |name: &str| figure.write(&dir.path().join(name)).unwrap_err();
    assert!(matches!(wrong("x.gif"), PlotError::Format { .. }));
    assert!(matches!(wrong("no/x.png"), PlotError::Io { .. }));
    assert!(matches!(wrong("no/x.svg"), PlotError::Io { .. }));
}

/// An SVG's elements and texts, numbers left out.
fn structure(svg: &str) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    let mut lines: Vec<String> = Vec::new();
    for part in svg.split('<').skip(1) {
        let tag = part
            .split([' ', '>', '/'])
            .find(|t| !t.is_empty())
            .unwrap_or("");
        if tag == "text" && !part.starts_with('/') {
            let text = part.split_once('>').unwrap().1.trim();
            let digits = |c: char| if c.is_ascii_digit() { '#' } else { c };
            let mut filtered: String = text.chars().map(digits).collect();
            while filtered.contains("##") {
                filtered = filtered.replace("##", "#");
            }
            let filtered = filtered.replace("#.#", "#").replace('\u{2212}', "");
            if filtered.chars().any(char::is_alphabetic) {
                lines.push(filtered);
            }
        } else if !part.starts_with('/') {
            match counts.iter_mut().find(|c| c.0 == tag) {
                Some(known) => known.1 += 1,
                None => counts.push((tag.to_owned(), 1)),
            }
        }
    }
    let shapes: Vec<String> = counts
        .iter()
        .filter(|c| c.0 != "svg")
        .map(|(tag, _)| tag.clone())
        .collect();
    lines.dedup();
    format!("[{}]\n{}\n", shapes.join(" "), lines.join("\n"))
}

#[test]
fn the_structure_of_every_kind_stays() {
    let mut text = String::new();
    for figure in all(&["vanilla", "moe"], 3) {
        text += &format!(
            "## {}\n{}\n{}\n",
            figure.stem(),
            figure
                .caption()
                .chars()
                .map(|c| if c.is_ascii_digit() { '#' } else { c })
                .collect::<String>(),
            structure(&figure.svg().unwrap())
        );
    }
    insta::assert_snapshot!(text);
}
