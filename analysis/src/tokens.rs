//! Classes of tokens that need no annotation: from the vocabulary alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a token is, by its text. Every id has exactly one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenClass {
    /// `[CLS]`, `[SEP]`, `[MASK]`, ...: the tokenizer's special ids, and ids outside of the vocabulary.
    Special,
    /// No letter and no digit.
    Punctuation,
    /// Has a digit.
    Number,
    /// The inside of a word: begins with `##`.
    Continuation,
    /// A closed-class English word: articles, pronouns, prepositions, conjunctions, auxiliaries.
    Function,
    /// Every other whole word or beginning of a word.
    Content,
}

impl TokenClass {
    /// Every class, in the order of tables.
    pub const ALL: [TokenClass; 6] = [
        TokenClass::Special,
        TokenClass::Punctuation,
        TokenClass::Number,
        TokenClass::Continuation,
        TokenClass::Function,
        TokenClass::Content,
    ];

    /// Name in results.
    pub fn name(self) -> &'static str {
        match self {
            TokenClass::Special => "special",
            TokenClass::Punctuation => "punctuation",
            TokenClass::Number => "number",
            TokenClass::Continuation => "continuation",
            TokenClass::Function => "function",
            TokenClass::Content => "content",
        }
    }

    /// The class of a WordPiece token that is not special.
    pub fn of(token: &str) -> Self {
        let text = token.strip_prefix("##").unwrap_or(token);
        if text.chars().any(|c| c.is_ascii_digit() || c.is_numeric()) {
            TokenClass::Number
        } else if !text.chars().any(char::is_alphabetic) {
            TokenClass::Punctuation
        } else if token.len() > text.len() {
            TokenClass::Continuation
        } else if FUNCTION_WORDS
            .binary_search(&text.to_lowercase().as_str())
            .is_ok()
        {
            TokenClass::Function
        } else {
            TokenClass::Content
        }
    }
}

/// Sorted, for binary search.
const FUNCTION_WORDS: [&str; 135] = [
    "a",
    "about",
    "above",
    "after",
    "against",
    "all",
    "along",
    "although",
    "am",
    "among",
    "an",
    "and",
    "another",
    "any",
    "anything",
    "are",
    "around",
    "as",
    "at",
    "be",
    "because",
    "been",
    "before",
    "behind",
    "being",
    "below",
    "beneath",
    "beside",
    "between",
    "beyond",
    "both",
    "but",
    "by",
    "can",
    "could",
    "despite",
    "did",
    "do",
    "does",
    "doing",
    "down",
    "during",
    "each",
    "either",
    "every",
    "everything",
    "except",
    "few",
    "for",
    "from",
    "had",
    "has",
    "have",
    "having",
    "he",
    "her",
    "hers",
    "herself",
    "him",
    "himself",
    "his",
    "how",
    "i",
    "if",
    "in",
    "inside",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "may",
    "me",
    "might",
    "mine",
    "must",
    "my",
    "neither",
    "no",
    "nor",
    "not",
    "nothing",
    "of",
    "off",
    "on",
    "onto",
    "or",
    "our",
    "ours",
    "out",
    "over",
    "shall",
    "she",
    "should",
    "since",
    "so",
    "some",
    "something",
    "than",
    "that",
    "the",
    "their",
    "theirs",
    "them",
    "themselves",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "though",
    "through",
    "to",
    "toward",
    "under",
    "unless",
    "until",
    "up",
    "upon",
    "us",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "whether",
    "which",
    "while",
    "who",
    "will",
    "with",
    "would",
    "you",
];

/// The classes of a vocabulary's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<Option<String>>,
    special: Vec<bool>,
}

impl Vocabulary {
    /// Reads `model.vocab` and `added_tokens` of a Hugging Face `tokenizer.json`; the error says what is wrong.
    pub fn from_tokenizer_json(text: &str) -> Result<Self, String> {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let vocab = json.pointer("/model/vocab").and_then(|v| v.as_object());
        let vocab = vocab.ok_or("it has no `model.vocab` of tokens and ids")?;
        let mut by_id: BTreeMap<usize, (String, bool)> = BTreeMap::new();
        for (token, id) in vocab {
            let id = id.as_u64().filter(|id| *id < 1 << 24);
            let id = id.ok_or_else(|| {
                format!("`model.vocab` has no proper id for the token: `{token}`")
            })?;
            by_id.insert(id as usize, (token.clone(), false));
        }
        for added in json
            .get("added_tokens")
            .and_then(|v| v.as_array())
            .into_iter()
            .flatten()
        {
            let id = added
                .get("id")
                .and_then(serde_json::Value::as_u64)
                .filter(|id| *id < 1 << 24);
            let content = added.get("content").and_then(serde_json::Value::as_str);
            let (Some(id), Some(content)) = (id, content) else {
                return Err("`added_tokens` has an entry without `id` or `content`".to_owned());
            };
            let special = added
                .get("special")
                .and_then(serde_json::Value::as_bool)
                .unwrap_or(false);
            by_id.insert(id as usize, (content.to_owned(), special));
        }
        let size = by_id.last_key_value().map_or(0, |(id, _)| id + 1);
        let mut found = Vocabulary {
            tokens: vec![None; size],
            special: vec![false; size],
        };
        for (id, (token, special)) in by_id {
            found.tokens[id] = Some(token);
            found.special[id] = special;
        }
        Ok(found)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize)?.as_deref()
    }

    /// The class of an id.
    pub fn class(&self, id: u32) -> TokenClass {
        match self.token(id) {
            Some(token) if !self.special[id as usize] => TokenClass::of(token),
            _ => TokenClass::Special,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn function_words_are_sorted_for_the_search() {
        assert!(FUNCTION_WORDS.is_sorted());
    }

    #[test]
    fn every_id_has_its_class() {
        let text = r###"{"added_tokens":[{"id":0,"content":"[PAD]","special":true},{"id":7,"content":"extra","special":false}],
            "model":{"vocab":{"[PAD]":0,"the":1,"house":2,"##ing":3,"1984":4,"##3":5,",":6,"é":8}}}"###;
        let vocabulary = Vocabulary::from_tokenizer_json(text).unwrap();
        let names: Vec<&str> = (0..11).map(|id| vocabulary.class(id).name()).collect();
        let expected = [
            "special",
            "function",
            "content",
            "continuation",
            "number",
            "number",
            "punctuation",
            "content",
            "content",
            "special",
            "special",
        ];
        assert_eq!(names, expected);
        assert_eq!(TokenClass::of("The"), TokenClass::Function);
        assert!(
            Vocabulary::from_tokenizer_json("{}")
                .unwrap_err()
                .contains("model.vocab")
        );
        assert!(
            Vocabulary::from_tokenizer_json(r#"{"model":{"vocab":{"a":-1}}}"#)
                .unwrap_err()
                .contains("`a`")
        );
    }
}
