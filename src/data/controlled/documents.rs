//! Documents of the pre-training corpus.
//!
//! A document keeps to one topic, one mood (what it judges, it mostly praises or mostly blames) and one tense of telling for
//! each sentence, so that a model can learn co-occurrence, polarity and agreement from it.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::grammar::{Clause, Np, Tense, Wording, copula, pick, say, sentence};
use super::lexicon::{
    ANIMALS, CONNECTIVES, DEGREES, LIVING_STATES, NEGATIVE, NUMBERS, POSITIVE, THING_STATES,
    TOPICS, Topic,
};
use super::tasks::{Asked, question};

/// `a` or `an` before a word.
pub fn article(next: &str) -> &'static str {
    if next.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words
        .iter()
        .flat_map(|w| w.split(' '))
        .map(str::to_owned)
        .collect()
}

/// `the soup was not very good`: what is said of a thing or person.
fn judged(rng: &mut ChaCha8Rng, topic: &Topic, praise: bool) -> Vec<String> {
    let person = rng.random_bool(0.3);
    let mut subject = if person {
        Np::person(rng, topic)
    } else {
        Np::thing(rng, topic)
    };
    subject.adjective = None;
    let negated = rng.random_bool(0.25);
    let tense = if rng.random_bool(0.5) {
        Tense::Past
    } else {
        Tense::Present
    };
    let state = rng.random_bool(0.3);
    let adjective = match (state, person, praise != negated) {
        (true, true, _) => pick(rng, &LIVING_STATES),
        (true, false, _) => pick(rng, &THING_STATES),
        (false, _, true) => pick(rng, &POSITIVE),
        (false, _, false) => pick(rng, &NEGATIVE),
    };
    let mut words = subject.words(false);
    words.push(copula(subject.plural, tense).to_owned());
    words.extend(negated.then(|| "not".to_owned()));
    words.extend(rng.random_bool(0.4).then(|| pick(rng, &DEGREES).to_owned()));
    words.push(adjective.to_owned());
    words
}

fn told(rng: &mut ChaCha8Rng, topic: &Topic) -> Vec<String> {
    let clause = if rng.random_bool(0.8) {
        Clause::action(rng, topic)
    } else {
        Clause::motion(rng, topic)
    };
    let wording = if rng.random_bool(0.4) {
        Wording::other(rng, &clause)
    } else {
        Wording::default()
    };
    say(&clause, wording)
}

fn one(rng: &mut ChaCha8Rng, topic: &Topic, praise: bool) -> String {
    let words = match rng.random_range(0..100) {
        0..46 => told(rng, topic),
        46..72 => judged(rng, topic, praise),
        72..80 => {
            let (place, plural) = (pick(rng, &topic.places), rng.random_bool(0.5));
            let number = if plural { pick(rng, &NUMBERS) } else { "a" };
            let noun = if rng.random_bool(0.3) {
                pick(rng, &ANIMALS)
            } else {
                pick(rng, &topic.things)
            };
            let np = Np {
                determiner: Some(number),
                adjective: None,
                noun,
                plural,
            };
            let mut words = owned(&["there", copula(plural, Tense::Present)]);
            words.extend(np.words(false));
            words.extend(owned(&[place]));
            words
        }
        80..85 => {
            let animal = rng.random_bool(0.3);
            let noun = if animal {
                pick(rng, &ANIMALS)
            } else {
                pick(rng, &topic.things)
            };
            let category = if animal { "animal" } else { topic.category };
            owned(&[article(noun), noun, "is", article(category), category])
        }
        85..95 => {
            let mut words = told(rng, topic);
            words.push(pick(rng, &CONNECTIVES).to_owned());
            words.extend(if rng.random_bool(0.5) {
                judged(rng, topic, praise)
            } else {
                told(rng, topic)
            });
            words
        }
        _ => {
            let clause = Clause::full(rng, topic);
            let asked = pick(rng, &[Asked::Where, Asked::When, Asked::Who]);
            let long = rng.random_bool(0.5);
            return question(&clause, asked, long, rng.random_bool(0.3));
        }
    };
    sentence(&words, '.')
}

/// One document: 4 to 12 sentences in one or more paragraphs, a line each; the last line has its end.
pub fn document(rng: &mut ChaCha8Rng) -> String {
    let topic = &pick(rng, &TOPICS);
    let good = rng.random_bool(0.5);
    let sentences = rng.random_range(4..=12);
    let mut text = String::new();
    for i in 0..sentences {
        if i > 0 {
            text.push(if rng.random_bool(0.15) { '\n' } else { ' ' });
        }
        let praise = if rng.random_bool(0.9) { good } else { !good };
        text.push_str(&one(rng, topic, praise));
    }
    text.push('\n');
    text
}
