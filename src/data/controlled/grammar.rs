//! Meanings and how they are said.
//!
//! A [`Clause`] is a meaning: who does what to what, where, when, or not. [`say`] turns it into words in one of several
//! [`Wording`]s that mean the same; [`relation`] says what follows from what. The labels of all tasks come from these two and
//! from [`super::lexicon`], never from a guess about the text.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::lexicon::{
    ADJECTIVES, ANIMALS, MOTIONS, NAMES, NUMBERS, PAST_TIMES, PERSON_ADJECTIVES, PRESENT_TIMES,
    TOPICS, Topic, synonym, with_ed, with_s,
};

/// One of a slice.
pub fn pick<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// A noun with what stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Np {
    /// A determiner, numeral, or nothing for a name.
    pub determiner: Option<&'static str>,
    /// An adjective.
    pub adjective: Option<&'static str>,
    /// The noun in the singular, or a name.
    pub noun: &'static str,
    /// More than one.
    pub plural: bool,
}

impl Np {
    /// A name.
    pub fn name(rng: &mut ChaCha8Rng) -> Self {
        Self {
            determiner: None,
            adjective: None,
            noun: pick(rng, &NAMES),
            plural: false,
        }
    }

    /// A noun, with `the`, a numeral, `this` or the like.
    pub fn noun(rng: &mut ChaCha8Rng, noun: &'static str, adjectives: &[&'static str]) -> Self {
        let plural = rng.random_bool(0.45);
        let determiner = match (plural, rng.random_range(0..10)) {
            (true, 0..4) => "the",
            (true, 4) => "these",
            (true, 5) => "those",
            (true, _) => pick(rng, &NUMBERS),
            (false, 0..5) => "the",
            (false, 5) => "this",
            (false, 6) => "that",
            (false, _) => "a",
        };
        let adjective = rng.random_bool(0.35).then(|| pick(rng, adjectives));
        Self {
            determiner: Some(determiner),
            adjective,
            noun,
            plural,
        }
    }

    /// A thing of a topic.
    pub fn thing(rng: &mut ChaCha8Rng, topic: &Topic) -> Self {
        let noun = pick(rng, &topic.things);
        let own = rng.random_bool(0.5);
        Self::noun(rng, noun, if own { &topic.adjectives } else { &ADJECTIVES })
    }

    /// A person of a topic.
    pub fn person(rng: &mut ChaCha8Rng, topic: &Topic) -> Self {
        let noun = pick(rng, &topic.people);
        Self::noun(rng, noun, &PERSON_ADJECTIVES)
    }

    /// An animal.
    pub fn animal(rng: &mut ChaCha8Rng) -> Self {
        let noun = pick(rng, &ANIMALS);
        Self::noun(rng, noun, &ADJECTIVES)
    }

    /// The words; `swap` uses words of equal meaning where there are some.
    pub fn words(&self, swap: bool) -> Vec<String> {
        let mut words = Vec::new();
        let adjective = self
            .adjective
            .map(|a| if swap { synonym(a).unwrap_or(a) } else { a });
        let noun = if self.plural {
            with_s(self.noun)
        } else {
            self.noun.to_owned()
        };
        if let Some(determiner) = self.determiner {
            let next = adjective.unwrap_or(self.noun);
            let an = determiner == "a" && next.starts_with(['a', 'e', 'i', 'o', 'u']);
            words.push(if an {
                "an".to_owned()
            } else {
                determiner.to_owned()
            });
        }
        words.extend(adjective.map(str::to_owned));
        words.push(noun);
        words
    }
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tense {
    /// Now, or always.
    Present,
    /// Before.
    Past,
}

/// The meaning of a clause with a verb of action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Who.
    pub subject: Np,
    /// Does what; the base form.
    pub verb: &'static str,
    /// To what.
    pub object: Option<Np>,
    /// Where, with the preposition.
    pub place: Option<&'static str>,
    /// When.
    pub time: Option<&'static str>,
    /// Present or past.
    pub tense: Tense,
    /// It is not so.
    pub negated: bool,
}

/// Ways to say one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wording {
    /// `the soup was cooked by Anna`.
    pub passive: bool,
    /// The time comes first.
    pub time_first: bool,
    /// Words of equal meaning are used.
    pub synonyms: bool,
}

impl Wording {
    /// Another wording than the plain one, of those that change this clause.
    pub fn other(rng: &mut ChaCha8Rng, clause: &Clause) -> Self {
        let mut all = Vec::new();
        for bits in 1..8_u8 {
            let wording = Self {
                passive: bits & 1 > 0,
                time_first: bits & 2 > 0,
                synonyms: bits & 4 > 0,
            };
            if say(clause, wording) != say(clause, Self::default()) {
                all.push(wording);
            }
        }
        if all.is_empty() {
            Self::default()
        } else {
            pick(rng, &all)
        }
    }
}

impl Clause {
    /// People of a topic doing something to its things, sometimes where and when.
    pub fn action(rng: &mut ChaCha8Rng, topic: &Topic) -> Self {
        let tense = if rng.random_bool(0.5) {
            Tense::Past
        } else {
            Tense::Present
        };
        let times: &[&'static str] = if tense == Tense::Past {
            &PAST_TIMES
        } else {
            &PRESENT_TIMES
        };
        let subject = if rng.random_bool(0.3) {
            Np::name(rng)
        } else {
            Np::person(rng, topic)
        };
        let place = rng.random_bool(0.5).then(|| pick(rng, &topic.places));
        let time = rng.random_bool(0.5).then(|| pick(rng, times));
        let (verb, object) = (pick(rng, &topic.actions), Some(Np::thing(rng, topic)));
        Self {
            subject,
            verb,
            object,
            place,
            time,
            tense,
            negated: rng.random_bool(0.2),
        }
    }

    /// The same with place and time always there and nothing denied.
    pub fn full(rng: &mut ChaCha8Rng, topic: &Topic) -> Self {
        let mut clause = Self::action(rng, topic);
        let times: &[&'static str] = if clause.tense == Tense::Past {
            &PAST_TIMES
        } else {
            &PRESENT_TIMES
        };
        clause.place = Some(pick(rng, &topic.places));
        clause.time = Some(pick(rng, times));
        clause.negated = false;
        clause
    }

    /// An animal about its business.
    pub fn motion(rng: &mut ChaCha8Rng, topic: &Topic) -> Self {
        let tense = if rng.random_bool(0.5) {
            Tense::Past
        } else {
            Tense::Present
        };
        let place = Some(pick(rng, &topic.places));
        let verb = pick(rng, &MOTIONS);
        let negated = rng.random_bool(0.15);
        Self {
            subject: Np::animal(rng),
            verb,
            object: None,
            place,
            time: None,
            tense,
            negated,
        }
    }
}

/// `is`, `are`, `was` or `were`.
pub fn copula(plural: bool, tense: Tense) -> &'static str {
    match (plural, tense) {
        (false, Tense::Present) => "is",
        (true, Tense::Present) => "are",
        (false, Tense::Past) => "was",
        (true, Tense::Past) => "were",
    }
}

/// The verb and what belongs to it, for a subject of that number.
fn verb_words(clause: &Clause, verb: &str) -> Vec<String> {
    let plural = clause.subject.plural;
    match (clause.negated, clause.tense) {
        (false, Tense::Past) => vec![with_ed(verb)],
        (false, Tense::Present) if plural => vec![verb.to_owned()],
        (false, Tense::Present) => vec![with_s(verb)],
        (true, tense) => {
            let helper = match (tense, plural) {
                (Tense::Past, _) => "did",
                (Tense::Present, true) => "do",
                (Tense::Present, false) => "does",
            };
            vec![helper.to_owned(), "not".to_owned(), verb.to_owned()]
        }
    }
}

/// The clause in words, in lower case but for names, without a full stop.
pub fn say(clause: &Clause, wording: Wording) -> Vec<String> {
    let verb = if wording.synonyms {
        synonym(clause.verb).unwrap_or(clause.verb)
    } else {
        clause.verb
    };
    let mut words: Vec<String> = Vec::new();
    let split = |phrase: &str| phrase.split(' ').map(str::to_owned).collect::<Vec<_>>();
    if wording.time_first {
        words.extend(clause.time.iter().flat_map(|t| split(t)));
    }
    match &clause.object {
        Some(object) if wording.passive => {
            words.extend(object.words(wording.synonyms));
            words.push(copula(object.plural, clause.tense).to_owned());
            words.extend(clause.negated.then(|| "not".to_owned()));
            words.push(with_ed(verb));
            words.push("by".to_owned());
            words.extend(clause.subject.words(wording.synonyms));
        }
        object => {
            words.extend(clause.subject.words(wording.synonyms));
            words.extend(verb_words(clause, verb));
            words.extend(object.iter().flat_map(|o| o.words(wording.synonyms)));
        }
    }
    words.extend(clause.place.iter().flat_map(|p| split(p)));
    if !wording.time_first {
        words.extend(clause.time.iter().flat_map(|t| split(t)));
    }
    words
}

/// Words as a sentence: a capital first, names of days with theirs, and the end mark.
pub fn sentence(words: &[String], end: char) -> String {
    let mut text = String::new();
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        if i == 0 || word == "monday" || word == "friday" {
            let mut letters = word.chars();
            text.extend(letters.next().map(|c| c.to_ascii_uppercase()));
            text.push_str(letters.as_str());
        } else {
            text.push_str(word);
        }
    }
    text.push(end);
    text
}

/// What one meaning says about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// If the first holds, the second does.
    Entailment,
    /// Neither.
    Neutral,
    /// They cannot both hold.
    Contradiction,
}

impl Relation {
    /// The label in MNLI.
    pub fn label(self) -> &'static str {
        match self {
            Relation::Entailment => "entailment",
            Relation::Neutral => "neutral",
            Relation::Contradiction => "contradiction",
        }
    }
}

/// The noun's category, which is true of each of its things.
pub fn category(noun: &str) -> Option<&'static str> {
    TOPICS
        .iter()
        .find(|t| t.things.contains(&noun))
        .map(|t| t.category)
}

/// Whether the second clause, both read as positive, says no more than the first.
fn says_no_more(first: &Clause, second: &Clause) -> bool {
    let noun = |a: &Np, b: &Np| {
        a.determiner == b.determiner
            && a.plural == b.plural
            && (b.adjective.is_none() || a.adjective == b.adjective)
            && (a.noun == b.noun || category(a.noun) == Some(b.noun))
    };
    let object = match (&first.object, &second.object) {
        (Some(a), Some(b)) => noun(a, b),
        (a, b) => a == b,
    };
    let free = |a: Option<&str>, b: Option<&str>| b.is_none() || a == b;
    first.verb == second.verb
        && first.tense == second.tense
        && noun(&first.subject, &second.subject)
        && object
        && free(first.place, second.place)
        && free(first.time, second.time)
}

/// What the first clause says about the second: a clause entails all that says no more, and the denial of one entails the
/// denial of all that say no less.
pub fn relation(first: &Clause, second: &Clause) -> Relation {
    let follows = match (first.negated, second.negated) {
        (false, false) => says_no_more(first, second).then_some(Relation::Entailment),
        (true, true) => says_no_more(second, first).then_some(Relation::Entailment),
        (false, true) => says_no_more(first, second).then_some(Relation::Contradiction),
        (true, false) => says_no_more(second, first).then_some(Relation::Contradiction),
    };
    follows.unwrap_or(Relation::Neutral)
}
