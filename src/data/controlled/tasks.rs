//! Examples of the nine GLUE tasks and the diagnostic set, each made for a wanted label.
//!
//! A maker takes the wanted class and returns an example whose label follows from its meaning; where a draw does not come
//! out as wanted it returns `None` and is called again.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::documents::article;
use super::grammar::{
    Clause, Relation, Tense, Wording, category, copula, pick, relation, say, sentence,
};
use super::lexicon::{
    ADJECTIVES, ANIMALS, DEGREES, LIVING_STATES, NAMES, NEGATIVE, NOTICES, PAST_TIMES, POSITIVE,
    PRESENT_TIMES, THING_STATES, Topic, synonym, with_ed, with_s,
};

/// One example: one or two texts, the label as the file has it, the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The texts.
    pub texts: Vec<String>,
    /// The label.
    pub label: String,
    /// The topic's name.
    pub genre: &'static str,
}

/// Makes an example of a class, or fails to.
pub type Maker = fn(&mut ChaCha8Rng, usize, &Topic) -> Option<Example>;

fn example(topic: &Topic, texts: &[String], label: &str) -> Option<Example> {
    Some(Example {
        texts: texts.to_vec(),
        label: label.to_owned(),
        genre: topic.name,
    })
}

/// A part of a clause's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Subject,
    Verb,
    Object,
    Place,
    Time,
}

const PARTS: [Part; 5] = [
    Part::Subject,
    Part::Verb,
    Part::Object,
    Part::Place,
    Part::Time,
];

/// Another value from a slice.
fn another(rng: &mut ChaCha8Rng, from: &[&'static str], old: &str) -> &'static str {
    let others: Vec<_> = from.iter().copied().filter(|w| *w != old).collect();
    pick(rng, &others)
}

/// Gives one part another meaning.
fn change(rng: &mut ChaCha8Rng, clause: &mut Clause, topic: &Topic, part: Part) {
    let times: &[&'static str] = if clause.tense == Tense::Past {
        &PAST_TIMES
    } else {
        &PRESENT_TIMES
    };
    match part {
        Part::Subject if clause.subject.determiner.is_none() => {
            clause.subject.noun = another(rng, &NAMES, clause.subject.noun);
        }
        Part::Subject => clause.subject.noun = another(rng, &topic.people, clause.subject.noun),
        Part::Verb => clause.verb = another(rng, &topic.actions, clause.verb),
        Part::Object => {
            if let Some(object) = &mut clause.object {
                object.noun = another(rng, &topic.things, object.noun);
            }
        }
        Part::Place => {
            clause.place = Some(another(
                rng,
                &topic.places,
                clause.place.unwrap_or_default(),
            ))
        }
        Part::Time => clause.time = Some(another(rng, times, clause.time.unwrap_or_default())),
    }
}

fn worded(rng: &mut ChaCha8Rng, clause: &Clause, other: f64) -> String {
    let wording = if rng.random_bool(other) {
        Wording::other(rng, clause)
    } else {
        Wording::default()
    };
    sentence(&say(clause, wording), '.')
}

/// CoLA: 1 a sentence of the grammar, 0 one with an agreement, a determiner, a verb form or the order broken.
pub fn cola(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let mut clause = if rng.random_bool(0.8) {
        Clause::action(rng, topic)
    } else {
        Clause::motion(rng, topic)
    };
    if want == 1 {
        let text = worded(rng, &clause, 0.2);
        return example(topic, &[text], "1");
    }
    let good = say(&clause, Wording::default());
    let head = clause.subject.words(false).len();
    let mut bad = good.clone();
    match rng.random_range(0..4) {
        0 if clause.tense == Tense::Present => {
            let verb = if clause.negated {
                ["do", "does"]
            } else {
                [clause.verb, ""]
            };
            let third = if clause.negated {
                verb[1].to_owned()
            } else {
                with_s(clause.verb)
            };
            bad[head] = if clause.subject.plural {
                third
            } else {
                verb[0].to_owned()
            };
        }
        1 if !matches!(clause.subject.determiner, None | Some("the")) => {
            clause.subject.plural = !clause.subject.plural;
            bad = say(&clause, Wording::default());
        }
        2 if head > 1 => bad[..head].rotate_left(1),
        2 => {
            let verb = bad.remove(head);
            bad.push(verb);
        }
        3 if clause.negated => bad[head + 2] = with_ed(clause.verb),
        3 => {
            bad.remove(head);
        }
        _ => return None,
    }
    if bad == good {
        None
    } else {
        example(topic, &[sentence(&bad, '.')], "0")
    }
}

/// SST-2: praise or blame, the adjective's polarity turned round by a negation. Lower case, separate marks, and a space last.
pub fn sst2(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let negated = rng.random_bool(0.35);
    let list = if (want == 1) != negated {
        &POSITIVE
    } else {
        &NEGATIVE
    };
    let (adjective, second) = (pick(rng, list), pick(rng, list));
    let person = rng.random_bool(0.3);
    let noun = if person {
        pick(rng, &topic.people)
    } else {
        pick(rng, &topic.things)
    };
    let degree = pick(rng, &DEGREES);
    let plural = rng.random_bool(0.4);
    let nouns = if plural {
        with_s(noun)
    } else {
        noun.to_owned()
    };
    let not = if negated { "not " } else { "" };
    let name = pick(rng, &NAMES).to_lowercase();
    let text = match rng.random_range(0..5) {
        0 => format!(
            "the {nouns} {} {not}{degree} {adjective}",
            copula(plural, Tense::Past)
        ),
        1 => format!(
            "the {nouns} {} {not}{adjective}",
            copula(plural, Tense::Present)
        ),
        2 => format!("{not}{} {adjective} {noun}", article(adjective)),
        3 if negated => format!("{name} did not call the {nouns} {adjective}"),
        3 => format!("{name} called the {nouns} {degree} {adjective}"),
        _ if negated || adjective == second => return None,
        _ => format!("{} {adjective} and {second} {noun}", article(adjective)),
    };
    example(
        topic,
        &[format!("{text} . ")],
        if want == 1 { "1" } else { "0" },
    )
}

/// MRPC: 1 the same meaning in other words, 0 another meaning.
pub fn mrpc(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let first = Clause::full(rng, topic);
    let mut second = first.clone();
    if want == 0 {
        let part = pick(rng, &PARTS);
        change(rng, &mut second, topic, part);
    }
    let (a, b) = (
        worded(rng, &first, 0.0),
        worded(rng, &second, if want == 1 { 1.0 } else { 0.6 }),
    );
    if a == b {
        None
    } else {
        example(topic, &[a, b], if want == 1 { "1" } else { "0" })
    }
}

/// Half points of meaning that two clauses share: two for each equal part, one for an object equal but for its adjective.
fn shared_halves(a: &Clause, b: &Clause) -> usize {
    let object = match (&a.object, &b.object) {
        (Some(x), Some(y)) if x == y => 2,
        (Some(x), Some(y)) if x.noun == y.noun => 1,
        _ => 0,
    };
    let equal = [
        a.subject == b.subject,
        a.verb == b.verb,
        a.place == b.place,
        a.time == b.time,
    ];
    object + 2 * equal.iter().filter(|e| **e).count()
}

/// STS-B: of five parts (who, does, what, where, when), as many points as are shared; class `c` is `c / 2` points.
pub fn stsb(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let first = Clause::full(rng, topic);
    let mut second = first.clone();
    let mut parts = PARTS.to_vec();
    parts.shuffle(rng);
    if want % 2 == 1 {
        parts.retain(|p| *p != Part::Object);
        let object = second.object.as_mut()?;
        object.adjective = Some(another(
            rng,
            &ADJECTIVES,
            object.adjective.unwrap_or_default(),
        ));
    }
    for part in parts.iter().skip(want / 2) {
        change(rng, &mut second, topic, *part);
    }
    let (a, b) = (worded(rng, &first, 0.0), worded(rng, &second, 0.4));
    let points = shared_halves(&first, &second);
    if points == want {
        example(topic, &[a, b], &format!("{:.3}", points as f64 / 2.0))
    } else {
        None
    }
}

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The place.
    Where,
    /// The time.
    When,
    /// The subject.
    Who,
}

/// A question about a clause in a short or a long form, with words of equal meaning or not.
pub fn question(clause: &Clause, asked: Asked, long: bool, synonyms: bool) -> String {
    let verb = if synonyms {
        synonym(clause.verb).unwrap_or(clause.verb)
    } else {
        clause.verb
    };
    let object = clause.object.iter().flat_map(|o| o.words(synonyms));
    let mut words: Vec<String> = Vec::new();
    let opening = match (asked, long) {
        (Asked::Where, false) => "where",
        (Asked::Where, true) => "in which place",
        (Asked::When, false) => "when",
        (Asked::When, true) => "at what time",
        (Asked::Who, false) => "who",
        (Asked::Who, true) => "which person",
    };
    words.extend(opening.split(' ').map(str::to_owned));
    if asked == Asked::Who {
        words.push(if clause.tense == Tense::Past {
            with_ed(verb)
        } else {
            with_s(verb)
        });
        words.extend(object);
        words.extend(
            clause
                .place
                .iter()
                .flat_map(|p| p.split(' '))
                .map(str::to_owned),
        );
    } else {
        let helper = match (clause.tense, clause.subject.plural) {
            (Tense::Past, _) => "did",
            (Tense::Present, true) => "do",
            (Tense::Present, false) => "does",
        };
        words.push(helper.to_owned());
        words.extend(clause.subject.words(synonyms));
        words.push(verb.to_owned());
        words.extend(object);
    }
    sentence(&words, '?')
}

/// QQP: 1 two forms of one question, 0 questions with another answer.
pub fn qqp(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let clause = Clause::full(rng, topic);
    let kinds = [Asked::Where, Asked::When, Asked::Who];
    let asked = pick(rng, &kinds);
    let (mut other, mut other_asked) = (clause.clone(), asked);
    if want == 0 {
        // Verb and object stand in every question, so a change of either changes the question.
        match rng.random_range(0..3) {
            0 => change(rng, &mut other, topic, Part::Verb),
            1 => change(rng, &mut other, topic, Part::Object),
            _ => {
                other_asked = pick(
                    rng,
                    &kinds
                        .into_iter()
                        .filter(|k| *k != asked)
                        .collect::<Vec<_>>(),
                )
            }
        }
    }
    let long = rng.random_bool(0.5);
    let a = question(&clause, asked, long, false);
    let b = question(
        &other,
        other_asked,
        if want == 1 {
            !long
        } else {
            rng.random_bool(0.5)
        },
        rng.random_bool(0.4),
    );
    if a == b {
        None
    } else {
        example(topic, &[a, b], if want == 1 { "1" } else { "0" })
    }
}

/// Leaves out something, or says it more generally.
fn weaken(rng: &mut ChaCha8Rng, clause: &mut Clause) {
    match rng.random_range(0..4) {
        0 => clause.place = None,
        1 => clause.time = None,
        2 => clause.subject.adjective = None,
        _ => {
            if let Some(object) = &mut clause.object {
                object.adjective = None;
                object.noun = category(object.noun).unwrap_or(object.noun);
            }
        }
    }
}

/// A premise and a hypothesis in the wanted relation, or `None`.
fn inference(rng: &mut ChaCha8Rng, want: Relation, topic: &Topic) -> Option<(Clause, Clause)> {
    let strong = Clause::full(rng, topic);
    let mut weak = strong.clone();
    for _ in 0..rng.random_range(1..=2) {
        weaken(rng, &mut weak);
    }
    // A denied premise is the weak one: denying less denies more.
    let denied = rng.random_bool(0.4);
    let (mut premise, mut hypothesis) = if denied {
        (weak, strong)
    } else {
        (strong, weak)
    };
    premise.negated = denied;
    hypothesis.negated = match want {
        Relation::Entailment => denied,
        Relation::Contradiction => !denied,
        Relation::Neutral => rng.random_bool(0.5),
    };
    if want == Relation::Neutral {
        match rng.random_range(0..3) {
            0 => std::mem::swap(&mut premise, &mut hypothesis),
            1 => change(rng, &mut hypothesis, topic, Part::Object),
            _ => change(rng, &mut hypothesis, topic, Part::Verb),
        }
    }
    (relation(&premise, &hypothesis) == want && premise != hypothesis)
        .then_some((premise, hypothesis))
}

/// MNLI and the diagnostic set: what the first sentence says about the second.
pub fn mnli(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let want = [
        Relation::Entailment,
        Relation::Neutral,
        Relation::Contradiction,
    ][want];
    let (premise, hypothesis) = inference(rng, want, topic)?;
    let texts = [worded(rng, &premise, 0.2), worded(rng, &hypothesis, 0.3)];
    example(topic, &texts, want.label())
}

/// RTE: whether the second text follows from the two sentences of the first.
pub fn rte(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let wanted = if want == 0 {
        Relation::Entailment
    } else {
        pick(rng, &[Relation::Neutral, Relation::Contradiction])
    };
    let (premise, hypothesis) = inference(rng, wanted, topic)?;
    let beside = Clause::full(rng, topic);
    if relation(&beside, &hypothesis) != Relation::Neutral {
        return None;
    }
    let (a, b) = (worded(rng, &premise, 0.2), worded(rng, &beside, 0.2));
    let text = if rng.random_bool(0.5) {
        format!("{a} {b}")
    } else {
        format!("{b} {a}")
    };
    let label = if want == 0 {
        "entailment"
    } else {
        "not_entailment"
    };
    example(topic, &[text, worded(rng, &hypothesis, 0.3)], label)
}

/// QNLI: whether the sentence answers the question.
pub fn qnli(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let clause = Clause::full(rng, topic);
    let asked = pick(rng, &[Asked::Where, Asked::When, Asked::Who]);
    let text = question(&clause, asked, rng.random_bool(0.3), rng.random_bool(0.2));
    let mut answer = clause;
    if want == 1 {
        match (rng.random_range(0..3), asked) {
            (0, Asked::Where) => answer.place = None,
            (0, Asked::When) => answer.time = None,
            (0 | 1, _) => change(rng, &mut answer, topic, Part::Verb),
            _ => change(rng, &mut answer, topic, Part::Object),
        }
    }
    let label = if want == 0 {
        "entailment"
    } else {
        "not_entailment"
    };
    example(topic, &[text, worded(rng, &answer, 0.3)], label)
}

/// WNLI: whom `it` means, as only the living can be hungry and only things expensive.
pub fn wnli(rng: &mut ChaCha8Rng, want: usize, topic: &Topic) -> Option<Example> {
    let (animal, thing) = (pick(rng, &ANIMALS), pick(rng, &topic.things));
    let verb = with_ed(pick(rng, &NOTICES));
    let living = rng.random_bool(0.5);
    let state = if living {
        pick(rng, &LIVING_STATES)
    } else {
        pick(rng, &THING_STATES)
    };
    let place = pick(rng, &topic.places);
    let (one, two) = if rng.random_bool(0.5) {
        (animal, thing)
    } else {
        (thing, animal)
    };
    // The thing moves only if it stands second; standing first it is passive.
    let act = if one == animal {
        verb
    } else {
        format!("was {verb} by")
    };
    let first = format!("The {one} {act} the {two} {place} because it was {state}.");
    let told = if living == (want == 1) { animal } else { thing };
    example(
        topic,
        &[first, format!("The {told} was {state}.")],
        if want == 1 { "1" } else { "0" },
    )
}

/// Makes `count` different examples, classes in turn and then shuffled; `seen` holds the texts that are used up. `None` when
/// the language has no more.
pub fn examples(
    rng: &mut ChaCha8Rng,
    make: Maker,
    classes: usize,
    topics: &[Topic],
    count: usize,
    seen: &mut BTreeSet<Vec<String>>,
) -> Option<Vec<Example>> {
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        let found = (0..2000).find_map(|_| {
            let topic = pick(rng, topics);
            make(rng, i % classes, &topic).filter(|e| seen.insert(e.texts.clone()))
        });
        out.push(found?);
    }
    out.shuffle(rng);
    Some(out)
}
