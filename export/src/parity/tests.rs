//! Fake engines: equal ones, and ones that are off in a known way.

#![allow(clippy::unwrap_used)]

use super::*;

/// Gives tokens as logits, changed by a function of row, class and value.
#[derive(Clone, Copy)]
struct Fake(&'static str, fn(usize, usize, f32) -> f32);

impl Runnable for Fake {
    fn run(&mut self, feed: &Feed<'_>) -> Result<Vec<Output>, RuntimeError> {
        let values = |width: usize| {
            (0..feed.batch)
                .flat_map(|row| (0..width).map(move |class| (row, class)))
                .map(|(row, class)| {
                    (self.1)(
                        row,
                        class,
                        (feed.input_ids[row * feed.sequence] + class as i64) as f32,
                    )
                })
                .collect()
        };
        let hidden = feed
            .input_ids
            .iter()
            .enumerate()
            .map(|(at, &id)| (self.1)(at / feed.sequence, at % feed.sequence, id as f32));
        Ok(vec![
            Output {
                name: "logits".into(),
                shape: vec![feed.batch, 3],
                values: values(3),
            },
            Output {
                name: "embedding".into(),
                shape: vec![feed.batch, feed.sequence, 1],
                values: hidden.collect(),
            },
        ])
    }

    fn workers(self: Box<Self>) -> Vec<Box<dyn Runnable>> {
        vec![self]
    }
}

impl Runtime for Fake {
    fn name(&self) -> &'static str {
        self.0
    }

    fn check(&self) -> Result<String, RuntimeError> {
        Ok(String::new())
    }

    fn prepare(&self, _: &Path, _: &Options) -> Result<Box<dyn Runnable>, RuntimeError> {
        Ok(Box::new(*self))
    }
}

const PLAIN: Fake = Fake("plain", |_, _, value| value);

fn against(other: Fake) -> Vec<Difference> {
    let options = Options {
        threads: 1,
        outputs: vec![],
    };
    let mut contest = Contest::new(&[&PLAIN, &other], Path::new(""), &options, 0.01).unwrap();
    let feed = Feed {
        batch: 2,
        sequence: 3,
        input_ids: &[4, 5, 0, 7, 8, 9],
        attention_mask: &[1, 1, 0, 1, 1, 1],
        token_type_ids: &[0; 6],
    };
    contest.run(&Case { name: "two", feed }).unwrap();
    contest.finish()
}

#[test]
fn equal_engines_do_not_differ() {
    for difference in against(PLAIN) {
        assert_eq!(
            (difference.max, difference.first.clone(), difference.flipped),
            (0.0, None, 0)
        );
        assert!(difference.holds(0.0));
    }
    let differences = against(PLAIN);
    assert_eq!((differences[0].values, differences[0].predictions), (6, 2));
    assert_eq!(differences[1].values, 5, "padding is left out");
}

#[test]
fn the_first_place_the_maximum_the_mean_and_flips_are_found() {
    let off = against(Fake("off", |row, class, value| {
        if row == 1 && class == 0 {
            value + 3.0
        } else {
            value
        }
    }));
    let logits = &off[0];
    assert_eq!(logits.max, 3.0);
    assert!((logits.mean - 0.5).abs() < 1e-12);
    let place = logits.first.clone().unwrap();
    assert_eq!(
        (place.index, place.expected, place.got),
        (vec![1, 0], 7.0, 10.0)
    );
    assert_eq!(logits.flipped, 1);
    let flip = &logits.flips[0];
    assert_eq!(
        (flip.index.clone(), flip.expected, flip.got, flip.margin),
        (vec![1], 2, 0, 2.0)
    );
    assert!(!logits.holds(1.0) && logits.holds(3.0));
}

#[test]
fn a_value_that_is_no_number_is_infinitely_far() {
    let off = against(Fake(
        "off",
        |row, _, value| if row == 0 { f32::NAN } else { value },
    ));
    assert_eq!(off[0].max, f64::INFINITY);
    assert!(!off[0].holds(1e30));
}

#[test]
fn rows_that_depend_on_their_company_are_found() {
    let options = Options {
        threads: 1,
        outputs: vec![],
    };
    let feed = Feed {
        batch: 2,
        sequence: 3,
        input_ids: &[4, 5, 0, 7, 8, 9],
        attention_mask: &[1, 1, 0, 1, 1, 1],
        token_type_ids: &[0; 6],
    };
    let case = Case { name: "two", feed };
    let mut contest = Contest::new(&[&PLAIN], Path::new(""), &options, 0.01).unwrap();
    contest.alone(&case).unwrap();
    assert!(
        contest
            .finish()
            .iter()
            .all(|difference| difference.max == 0.0 && difference.values > 0)
    );
    let sensitive = Fake("sensitive", |row, _, value| value + row as f32);
    let mut contest = Contest::new(&[&sensitive], Path::new(""), &options, 0.01).unwrap();
    contest.alone(&case).unwrap();
    let differences = contest.finish();
    assert_eq!(differences[0].max, 1.0);
    assert!(differences[0].engine.contains("alone"));
}

#[test]
fn experts_without_tokens_are_named() {
    let feed = Feed {
        batch: 1,
        sequence: 3,
        input_ids: &[1, 2, 3],
        attention_mask: &[1, 1, 0],
        token_type_ids: &[0; 3],
    };
    let output = |layer: usize, values: &[f32]| Output {
        name: format!("expert.{layer}"),
        shape: vec![1, 3],
        values: values.to_vec(),
    };
    let mut load = Load::new(2, 3);
    load.add(
        &feed,
        &[output(0, &[0.0, 2.0, 1.0]), output(1, &[1.0, 1.0, 0.0])],
    );
    assert_eq!(load.tokens, [[1, 0, 1], [0, 2, 0]]);
    assert_eq!(load.unreached(), [(0, 1), (1, 0), (1, 2)]);
}
