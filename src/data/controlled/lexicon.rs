//! The words of the controlled English.
//!
//! Eight topics, each with people, things of one category, places, actions and adjectives that occur in no other topic, so
//! that words of a document predict each other; and words that all topics share. All nouns and verbs are regular, so that a
//! form is made by rule and agreement has no exceptions. Own word lists.

/// A field of life: who does what to which things where.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// Name, the `genre` of MNLI.
    pub name: &'static str,
    /// What its things are: `crop` for carrots.
    pub category: &'static str,
    /// People.
    pub people: [&'static str; 4],
    /// Things.
    pub things: [&'static str; 6],
    /// Places, with their preposition.
    pub places: [&'static str; 4],
    /// What its people do to its things.
    pub actions: [&'static str; 5],
    /// What its things can be said to be, without judgement.
    pub adjectives: [&'static str; 3],
}

/// The topics; the last two are the mismatched genres of MNLI.
pub const TOPICS: [Topic; 8] = [
    Topic {
        name: "farm",
        category: "crop",
        people: ["farmer", "gardener", "shepherd", "picker"],
        things: ["carrot", "onion", "melon", "pumpkin", "cabbage", "pepper"],
        places: [
            "in the field",
            "in the barn",
            "near the fence",
            "behind the stable",
        ],
        actions: ["plant", "harvest", "gather", "water", "weigh"],
        adjectives: ["ripe", "fresh", "juicy"],
    },
    Topic {
        name: "kitchen",
        category: "dish",
        people: ["chef", "waiter", "baker", "guest"],
        things: ["soup", "pie", "stew", "salad", "omelet", "pudding"],
        places: [
            "in the kitchen",
            "at the counter",
            "near the oven",
            "in the restaurant",
        ],
        actions: ["cook", "taste", "serve", "prepare", "season"],
        adjectives: ["hot", "sweet", "salty"],
    },
    Topic {
        name: "harbour",
        category: "vessel",
        people: ["sailor", "captain", "pilot", "diver"],
        things: ["boat", "ship", "raft", "yacht", "canoe", "sloop"],
        places: [
            "in the harbour",
            "at the dock",
            "near the lighthouse",
            "on the river",
        ],
        actions: ["sail", "anchor", "board", "paint", "launch"],
        adjectives: ["wooden", "narrow", "swift"],
    },
    Topic {
        name: "school",
        category: "text",
        people: ["teacher", "pupil", "writer", "scholar"],
        things: ["poem", "letter", "report", "novel", "lesson", "chapter"],
        places: [
            "in the school",
            "in the library",
            "at the desk",
            "near the classroom",
        ],
        actions: ["copy", "study", "discuss", "translate", "print"],
        adjectives: ["short", "long", "difficult"],
    },
    Topic {
        name: "workshop",
        category: "tool",
        people: ["carpenter", "builder", "plumber", "mechanic"],
        things: ["hammer", "drill", "ladder", "shovel", "chisel", "wrench"],
        places: [
            "in the workshop",
            "on the roof",
            "near the bench",
            "in the cellar",
        ],
        actions: ["borrow", "sharpen", "clean", "polish", "repair"],
        adjectives: ["rusty", "sharp", "solid"],
    },
    Topic {
        name: "market",
        category: "garment",
        people: ["tailor", "trader", "customer", "clerk"],
        things: ["coat", "shirt", "jacket", "glove", "scarf", "blouse"],
        places: [
            "at the market",
            "in the shop",
            "near the stall",
            "in the street",
        ],
        actions: ["fold", "stitch", "mend", "sort", "display"],
        adjectives: ["woollen", "warm", "striped"],
    },
    Topic {
        name: "concert",
        category: "instrument",
        people: ["singer", "drummer", "dancer", "composer"],
        things: ["piano", "violin", "drum", "guitar", "trumpet", "cello"],
        places: [
            "in the theatre",
            "on the stage",
            "near the curtain",
            "in the studio",
        ],
        actions: ["play", "tune", "carry", "pack", "record"],
        adjectives: ["loud", "soft", "electric"],
    },
    Topic {
        name: "road",
        category: "vehicle",
        people: ["driver", "cyclist", "passenger", "inspector"],
        things: ["truck", "van", "tractor", "wagon", "scooter", "tram"],
        places: [
            "on the road",
            "at the station",
            "near the bridge",
            "in the garage",
        ],
        actions: ["park", "load", "steer", "rent", "examine"],
        adjectives: ["slow", "heavy", "modern"],
    },
];

/// Words of equal meaning, in this language: either may stand for the other.
pub const SYNONYMS: [(&str, &str); 14] = [
    ("gather", "collect"),
    ("repair", "fix"),
    ("mend", "patch"),
    ("carry", "transport"),
    ("examine", "check"),
    ("prepare", "arrange"),
    ("display", "show"),
    ("launch", "float"),
    ("discuss", "debate"),
    ("big", "large"),
    ("small", "little"),
    ("old", "ancient"),
    ("new", "recent"),
    ("quiet", "silent"),
];

/// Animals, at home in every topic.
pub const ANIMALS: [&str; 10] = [
    "dog", "cat", "horse", "goat", "donkey", "rabbit", "duck", "pigeon", "squirrel", "puppy",
];

/// What animals do, alone.
pub const MOTIONS: [&str; 8] = [
    "rest", "jump", "wander", "wait", "yawn", "sneeze", "listen", "stay",
];

/// What animals do to things, where either may be the reason.
pub const NOTICES: [&str; 5] = ["follow", "watch", "pass", "avoid", "approach"];

/// States of the living.
pub const LIVING_STATES: [&str; 8] = [
    "hungry", "tired", "thirsty", "sleepy", "nervous", "curious", "lonely", "brave",
];

/// States of things.
pub const THING_STATES: [&str; 8] = [
    "broken",
    "cheap",
    "expensive",
    "dusty",
    "dirty",
    "empty",
    "damaged",
    "portable",
];

/// Adjectives for anything, without judgement.
pub const ADJECTIVES: [&str; 10] = [
    "old", "new", "big", "small", "red", "green", "blue", "white", "black", "yellow",
];

/// Adjectives for people, without judgement.
pub const PERSON_ADJECTIVES: [&str; 5] = ["young", "tall", "quiet", "busy", "careful"];

/// Adjectives that praise.
pub const POSITIVE: [&str; 16] = [
    "good",
    "great",
    "wonderful",
    "lovely",
    "excellent",
    "charming",
    "superb",
    "pleasant",
    "beautiful",
    "brilliant",
    "delightful",
    "amazing",
    "perfect",
    "splendid",
    "fantastic",
    "impressive",
];

/// Adjectives that blame.
pub const NEGATIVE: [&str; 16] = [
    "bad",
    "awful",
    "terrible",
    "horrible",
    "poor",
    "dreadful",
    "ugly",
    "boring",
    "nasty",
    "dull",
    "weak",
    "disappointing",
    "miserable",
    "clumsy",
    "unpleasant",
    "hopeless",
];

/// Words that strengthen an adjective.
pub const DEGREES: [&str; 5] = ["very", "quite", "really", "rather", "truly"];

/// Names of people.
pub const NAMES: [&str; 24] = [
    "Anna", "Peter", "Maria", "Thomas", "Julia", "Martin", "Laura", "Daniel", "Sophie", "Oscar",
    "Clara", "Victor", "Emma", "Simon", "Alice", "Felix", "Nora", "Hugo", "Ruth", "Leon", "Greta",
    "Ivan", "Paula", "Jonas",
];

/// Times that go with the past.
pub const PAST_TIMES: [&str; 6] = [
    "yesterday",
    "last week",
    "on monday",
    "on friday",
    "this morning",
    "last summer",
];

/// Times that go with the present.
pub const PRESENT_TIMES: [&str; 4] = ["every day", "every week", "every evening", "in winter"];

/// Numerals for more than one.
pub const NUMBERS: [&str; 9] = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

/// Words that join two clauses.
pub const CONNECTIVES: [&str; 4] = ["and", "but", "because", "while"];

fn vowel(c: u8) -> bool {
    matches!(c, b'a' | b'e' | b'i' | b'o' | b'u')
}

/// Adds the regular `-s` of plural nouns and of verbs in the third person.
pub fn with_s(word: &str) -> String {
    let b = word.as_bytes();
    let consonant_y = b.len() > 1 && b.ends_with(b"y") && !vowel(b[b.len() - 2]);
    if consonant_y {
        format!("{}ies", &word[..word.len() - 1])
    } else if ["s", "x", "ch", "sh"].iter().any(|end| word.ends_with(end)) {
        format!("{word}es")
    } else {
        format!("{word}s")
    }
}

/// The regular past, which is the participle too.
pub fn with_ed(verb: &str) -> String {
    let b = verb.as_bytes();
    if verb.ends_with('e') {
        format!("{verb}d")
    } else if b.len() > 1 && b.ends_with(b"y") && !vowel(b[b.len() - 2]) {
        format!("{}ied", &verb[..verb.len() - 1])
    } else {
        format!("{verb}ed")
    }
}

/// The other word of equal meaning, if there is one.
pub fn synonym(word: &str) -> Option<&'static str> {
    SYNONYMS.iter().find_map(|&(a, b)| {
        if a == word {
            Some(b)
        } else if b == word {
            Some(a)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn topics_share_no_content_word() {
        let mut seen = BTreeSet::new();
        for t in &TOPICS {
            let words = t
                .people
                .iter()
                .chain(&t.things)
                .chain(&t.places)
                .chain(&t.actions)
                .chain(&t.adjectives);
            for word in words.chain([&t.category]) {
                assert!(seen.insert(*word), "`{word}` stands twice");
            }
        }
        for animal in ANIMALS {
            assert!(seen.insert(animal), "`{animal}` stands twice");
        }
    }

    #[test]
    fn forms_follow_the_spelling_rules() {
        for (base, s, ed) in [
            ("copy", "copies", "copied"),
            ("play", "plays", "played"),
            ("polish", "polishes", "polished"),
            ("launch", "launches", "launched"),
            ("fix", "fixes", "fixed"),
            ("tune", "tunes", "tuned"),
            ("pass", "passes", "passed"),
        ] {
            assert_eq!((with_s(base).as_str(), with_ed(base).as_str()), (s, ed));
        }
    }

    #[test]
    fn polarity_lists_are_disjoint_and_synonyms_symmetric() {
        assert!(POSITIVE.iter().all(|w| !NEGATIVE.contains(w)));
        for (a, b) in SYNONYMS {
            assert_eq!((synonym(a), synonym(b)), (Some(b), Some(a)));
        }
    }
}
