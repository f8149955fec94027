//! A recogniser for the controlled English, written apart from the generator: it accepts a declarative sentence only if its
//! determiners, verbs and word order agree. Oracle for the tests.

use super::lexicon::*;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    One,
    More,
}

struct Parser<'a> {
    words: Vec<&'a str>,
    at: usize,
}

/// Whether the sentence (with its full stop) belongs to the language.
pub fn accepts(sentence: &str) -> bool {
    let Some(body) = sentence.strip_suffix('.') else {
        return false;
    };
    let lower = body.to_lowercase();
    let mut p = Parser {
        words: lower.split(' ').collect(),
        at: 0,
    };
    loop {
        if p.clause().is_none() {
            return false;
        }
        if p.at == p.words.len() {
            return true;
        }
        if !p.any(&CONNECTIVES) {
            return false;
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> &str {
        self.words.get(self.at).copied().unwrap_or("")
    }

    fn any(&mut self, words: &[&str]) -> bool {
        let found = words.contains(&self.peek());
        self.at += usize::from(found);
        found
    }

    fn phrase<'p>(&mut self, phrases: impl IntoIterator<Item = &'p &'p str>) -> bool {
        for phrase in phrases {
            let parts: Vec<_> = phrase.split(' ').collect();
            if self.words[self.at..].starts_with(&parts) {
                self.at += parts.len();
                return true;
            }
        }
        false
    }

    fn time(&mut self) -> bool {
        self.phrase(PAST_TIMES.iter().chain(&PRESENT_TIMES))
    }

    fn place(&mut self) -> bool {
        self.phrase(TOPICS.iter().flat_map(|t| &t.places))
    }

    fn adjective(&mut self) -> bool {
        let topical: Vec<_> = TOPICS.iter().flat_map(|t| t.adjectives).collect();
        let synonyms: Vec<_> = SYNONYMS[9..].iter().flat_map(|p| [p.0, p.1]).collect();
        let lists: [&[&str]; 8] = [
            &ADJECTIVES,
            &PERSON_ADJECTIVES,
            &POSITIVE,
            &NEGATIVE,
            &LIVING_STATES,
            &THING_STATES,
            &topical,
            &synonyms,
        ];
        lists.iter().any(|list| self.any(list))
    }

    fn noun(&mut self) -> Option<Number> {
        let word = self.peek().to_owned();
        let mut nouns: Vec<&str> = ANIMALS.to_vec();
        nouns.push("animal");
        for t in &TOPICS {
            nouns.extend(t.people.iter().chain(&t.things).chain([&t.category]));
        }
        let number = nouns.iter().find_map(|n| {
            if *n == word {
                Some(Number::One)
            } else {
                (with_s(n) == word).then_some(Number::More)
            }
        });
        self.at += usize::from(number.is_some());
        number
    }

    fn np(&mut self) -> Option<Number> {
        if NAMES.iter().any(|n| n.to_lowercase() == self.peek()) {
            self.at += 1;
            return Some(Number::One);
        }
        let determiner = self.peek().to_owned();
        let required = match determiner.as_str() {
            "the" => None,
            "a" | "an" | "this" | "that" => Some(Number::One),
            "these" | "those" => Some(Number::More),
            d if NUMBERS.contains(&d) => Some(Number::More),
            _ => return None,
        };
        self.at += 1;
        let vowel = self.peek().starts_with(['a', 'e', 'i', 'o', 'u']);
        if (determiner == "a" && vowel) || (determiner == "an" && !vowel) {
            return None;
        }
        self.adjective();
        let number = self.noun()?;
        required.is_none_or(|r| r == number).then_some(number)
    }

    fn be(&mut self, number: Number) -> bool {
        let forms = if number == Number::One {
            ["is", "was"]
        } else {
            ["are", "were"]
        };
        self.any(&forms)
    }

    /// A verb in one of its forms: base, third person, past.
    fn verb(&mut self, form: fn(&str) -> String) -> Option<bool> {
        let word = self.peek();
        let second = SYNONYMS[..9].iter().map(|p| &p.1);
        let transitive = TOPICS
            .iter()
            .flat_map(|t| &t.actions)
            .chain(second)
            .any(|v| form(v) == word);
        let alone = MOTIONS.iter().any(|v| form(v) == word);
        self.at += usize::from(transitive || alone);
        (transitive || alone).then_some(transitive)
    }

    fn clause(&mut self) -> Option<()> {
        self.time();
        if self.any(&["there"]) {
            let more = match self.peek() {
                "is" => Number::One,
                "are" => Number::More,
                _ => return None,
            };
            self.at += 1;
            return (self.np()? == more && self.place()).then_some(());
        }
        let number = self.np()?;
        if self.be(number) {
            self.any(&["not"]);
            if self.verb(with_ed) == Some(true) {
                if !self.any(&["by"]) {
                    return None;
                }
                self.np()?;
            } else {
                let strong = self.any(&DEGREES);
                if !self.adjective() && (strong || self.np().is_none()) {
                    return None;
                }
            }
        } else {
            let helper = if number == Number::One {
                ["does", "did"]
            } else {
                ["do", "did"]
            };
            let transitive = if self.any(&helper) {
                if !self.any(&["not"]) {
                    return None;
                }
                self.verb(str::to_owned)?
            } else if let Some(past) = self.verb(with_ed) {
                past
            } else if number == Number::One {
                self.verb(with_s)?
            } else {
                self.verb(str::to_owned)?
            };
            if transitive {
                self.np()?;
            }
        }
        self.place();
        self.time();
        Some(())
    }
}
