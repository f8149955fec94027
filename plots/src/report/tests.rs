//! The page's structure, its escapes and its limits.

#![allow(clippy::unwrap_used)]

use super::*;

const NASTY: &str = "</script><script>alert('1')</script> & \"x\"\u{0}";

fn picture(marks: usize) -> Picture {
    Picture {
        title: "A figure.".to_owned(),
        caption: NASTY.to_owned(),
        svg: "<svg width=\"40\" height=\"30\" viewBox=\"0 0 40 30\"><g id=\"g\"/></svg>".to_owned(),
        reading: NASTY.to_owned(),
        keep_colours: false,
        size: (40, 30),
        marks: vec![
            Mark {
                x: 1.04,
                y: 2.0,
                width: 0.0,
                height: 0.0,
                label: NASTY.to_owned(),
            };
            marks
        ],
        data: Some((
            vec!["model".to_owned(), "value".to_owned()],
            vec![vec![NASTY.to_owned(), "0.123456789012".to_owned()]],
        )),
        sources: vec![0],
    }
}

fn table(rows: usize) -> Table {
    Table {
        title: NASTY.to_owned(),
        columns: vec![Column::text("model"), Column::number("score")],
        rows: (0..rows)
            .map(|i| vec![Cell::text(NASTY), Cell::number(Some(i as f64), 1)])
            .collect(),
        notes: vec![NASTY.to_owned()],
        sources: vec![0],
    }
}

fn page() -> Page {
    Page {
        title: NASTY.to_owned(),
        lead: vec![NASTY.to_owned()],
        claims: vec![Claim {
            id: "one".to_owned(),
            statement: NASTY.to_owned(),
            verdict: Verdict::Undecided,
            reason: NASTY.to_owned(),
            evidence: vec![Evidence {
                what: NASTY.to_owned(),
                value: NASTY.to_owned(),
                interval: NASTY.to_owned(),
                verdict: Verdict::Undecided,
            }],
            sources: vec![0],
        }],
        unseen: vec![NASTY.to_owned()],
        sections: vec![Section {
            id: "part".to_owned(),
            title: NASTY.to_owned(),
            blocks: vec![
                Block::Text(NASTY.to_owned()),
                Block::Table(table(3)),
                Block::Figure(Box::new(picture(2))),
                Block::Figure(Box::new(picture(0))),
            ],
        }],
        sources: vec![Source {
            file: NASTY.to_owned(),
            command: Some(NASTY.to_owned()),
            facts: vec![(NASTY.to_owned(), NASTY.to_owned())],
        }],
        left_out: vec![NASTY.to_owned()],
        colophon: vec![("made by".to_owned(), NASTY.to_owned())],
    }
}

#[test]
fn every_text_is_escaped_wherever_it_stands() {
    let html = html(&page(), Limits::default()).html;
    assert!(!html.contains("<script>alert"));
    // The page's own script, and one of data for the figure with marks.
    assert_eq!(html.matches("</script>").count(), 2);
    assert!(!html.contains('\u{0}'));
    // Tags open and close in pairs.
    for tag in [
        "section", "table", "details", "figure", "ul", "ol", "div", "main", "dl", "nav",
    ] {
        let opened =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn figures_have_ids_of_their_own_and_marks_that_parse() {
    let html = html(&page(), Limits::default()).html;
    assert!(html.contains("<g id=\"figure-1-g\"/>") && html.contains("<g id=\"figure-2-g\"/>"));
    let (_, rest) = html.split_once("id=\"figure-1-marks\">").unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    type Marks = (u32, u32, Vec<(f64, f64, f64, f64, String)>);
    let (width, height, marks): Marks = serde_json::from_str(json).unwrap();
    assert_eq!((width, height, marks.len()), (40, 30, 2));
    assert_eq!((marks[0].0, marks[0].4.as_str()), (1.0, NASTY));
    assert!(!html.contains("id=\"figure-2-marks\""));
    // Long numbers are shown short and sort in full.
    assert!(html.contains("data-k=\"0.123456789012\">0.12346<"));
}

#[test]
fn what_is_too_large_is_left_out_and_named() {
    let mut page = page();
    page.sections[0].blocks = vec![Block::Table(table(30)), Block::Figure(Box::new(picture(9)))];
    let small = Limits {
        table_rows: 10,
        marks: 4,
        data_rows: 0,
        ..Limits::default()
    };
    let written = html(&page, small);
    assert_eq!(written.left_out.len(), 2, "{:?}", written.left_out);
    assert!(written.left_out[0].contains("20 of 30 rows are not on the page"));
    assert!(written.left_out[1].contains("5 of 9 points"));
    assert!(
        written
            .html
            .contains("Its 1 rows of numbers are not on the page")
    );
    for limits in [
        Limits {
            figure_bytes: 10,
            ..Limits::default()
        },
        Limits {
            page_bytes: 10,
            ..Limits::default()
        },
    ] {
        let written = html(&page, limits);
        assert!(!written.html.contains("<svg"));
        assert!(
            written.left_out[0].contains("the figure takes 0.0 MB"),
            "{:?}",
            written.left_out
        );
    }
}

#[test]
fn many_notes_are_folded_and_few_are_not() {
    let with = |notes: usize| {
        let mut page = page();
        let table = Table {
            notes: (0..notes).map(|i| format!("note {i}.")).collect(),
            ..table(3)
        };
        page.sections[0].blocks = vec![Block::Table(table)];
        html(&page, Limits::default()).html
    };
    let few = with(8);
    assert!(few.contains("note 7.") && !few.contains("more notes"));
    let many = with(9);
    let at = |what: &str| many.find(what).unwrap();
    assert!(
        at("note 5.") < at("<summary>3 more notes</summary>")
            && at("<summary>3 more notes</summary>") < at("note 6.")
            && many.contains("note 8."),
    );
}

#[test]
fn an_empty_page_is_a_page() {
    let written = html(&Page::default(), Limits::default());
    assert!(
        written
            .html
            .contains("These results bear on none of the claims.")
    );
    assert!(
        written
            .html
            .contains("Nothing that was found was left out.")
    );
    assert!(written.left_out.is_empty());
}

#[test]
fn cells_tell_numbers_from_none() {
    assert_eq!(Cell::number(Some(1.25), 1).text, "1.2");
    assert_eq!(
        (
            Cell::number(None, 1).text.as_str(),
            Cell::number(None, 1).key
        ),
        ("–", None)
    );
    let undefined = Cell::number(Some(f64::NAN), 1);
    assert_eq!(
        (undefined.text.as_str(), undefined.key),
        ("undefined", None)
    );
    assert_eq!(Cell::count(1_234_567).text, "1\u{202f}234\u{202f}567");
    assert_eq!(grouped(999), "999");
}
