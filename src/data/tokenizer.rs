//! Tokenizers: any Hugging Face `tokenizer.json`, or a BERT `vocab.txt`, behind one type.
//!
//! [`Tokenizer`] adds to the `tokenizers` crate what training needs: the five special tokens, a table of word
//! continuations (for whole-word masking), and a hash that tells whether two tokenizers give the same ids. The text of a
//! special token (`[MASK]` in an article) is ordinary text to it, so no document can forge one. Truncation and padding of a
//! loaded file are dropped: packing is the corpus's business. Training is in [`train`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

pub mod train;

/// The names looked for, in order of preference: BERT's, then RoBERTa's.
const SPECIAL_NAMES: [(&str, [&str; 2]); 5] = [
    ("padding", ["[PAD]", "<pad>"]),
    ("unknown", ["[UNK]", "<unk>"]),
    ("classification", ["[CLS]", "<s>"]),
    ("separator", ["[SEP]", "</s>"]),
    ("mask", ["[MASK]", "<mask>"]),
];

/// Why a tokenizer cannot be had.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A folder without a tokenizer.
    #[error("no tokenizer in `{}`: expected `tokenizer.json` or `vocab.txt`", path.display())]
    NotFound {
        /// The folder.
        path: PathBuf,
    },
    /// A `tokenizer.json` that the library cannot read.
    #[error("not a tokenizer in `{}`: hint: expected a Hugging Face `tokenizer.json` or a BERT `vocab.txt`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A token listed twice in a `vocab.txt`.
    #[error("duplicate token `{token}` in `{}`: lines {first} and {second}", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its first line.
        first: usize,
        /// Its second line.
        second: usize,
    },
    /// Special tokens that are not there.
    #[error("special tokens missing in `{}`: {}: hint: masked-LM training needs all five", path.display(), missing.join(", "))]
    MissingSpecial {
        /// The file.
        path: PathBuf,
        /// The names of the missing tokens.
        missing: Vec<String>,
    },
    /// Text that cannot be tokenized; with a sound tokenizer this does not happen.
    #[error("cannot tokenize text")]
    Encode {
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Training settings that cannot work.
    #[error(
        "vocabulary size too small: {size}: hint: the special tokens and the characters of the text alone are {needed}"
    )]
    TooSmall {
        /// The size asked for.
        size: usize,
        /// The least size.
        needed: usize,
    },
    /// Training text without a single word.
    #[error("no words in the training text: hint: give files that hold text")]
    NoText,
    /// Training text that cannot be read.
    #[error(transparent)]
    Text(#[from] super::text::TextError),
}

/// The ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// `[PAD]`: fills rows.
    pub pad: u32,
    /// `[UNK]`: stands for text outside the vocabulary.
    pub unk: u32,
    /// `[CLS]`: begins a row.
    pub cls: u32,
    /// `[SEP]`: ends a segment.
    pub sep: u32,
    /// `[MASK]`: hides a token.
    pub mask: u32,
}

impl SpecialTokens {
    /// The five ids, in the order of the fields.
    pub fn ids(&self) -> [u32; 5] {
        [self.pad, self.unk, self.cls, self.sep, self.mask]
    }
}

/// A tokenizer with the special tokens of masked-LM training.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    special: SpecialTokens,
    continuation: Vec<bool>,
    vocab_size: usize,
    hash: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads a `tokenizer.json`, a `vocab.txt` (any `.txt`), or a folder that holds either (`tokenizer.json` wins).
    pub fn load(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let file = if path.is_dir() {
            ["tokenizer.json", "vocab.txt"]
                .iter()
                .map(|name| path.join(name))
                .find(|p| p.is_file())
                .ok_or_else(|| TokenizerError::NotFound {
                    path: path.to_owned(),
                })?
        } else {
            path.to_owned()
        };
        let read = |source| TokenizerError::Io {
            action: "read",
            path: file.clone(),
            source,
        };
        if file
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("txt"))
        {
            let text = std::fs::read_to_string(&file).map_err(read)?;
            return Tokenizer::from_vocab(&text, &file);
        }
        Tokenizer::from_json(&std::fs::read_to_string(&file).map_err(read)?, &file)
    }

    /// A tokenizer from the text of a `tokenizer.json`; `path` is for messages.
    pub fn from_json(text: &str, path: &Path) -> Result<Tokenizer, TokenizerError> {
        let malformed = |source| TokenizerError::Malformed {
            path: path.to_owned(),
            source,
        };
        let mut inner: tokenizers::Tokenizer = text.parse().map_err(malformed)?;
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        let canonical = inner.to_string(false).map_err(malformed)?;
        let canonical: Value = serde_json::from_str(&canonical).map_err(|e| malformed(e.into()))?;
        let vocab = inner.get_vocab(true);
        let special = find_special(&vocab, path)?;
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        let prefix = canonical["model"]["continuing_subword_prefix"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        let mut continuation = vec![false; vocab_size];
        for (token, &id) in &vocab {
            let piece =
                !prefix.is_empty() && token.len() > prefix.len() && token.starts_with(&prefix);
            continuation[id as usize] = piece && !special.ids().contains(&id);
        }
        let hash = hash_of(&vocab, canonical);
        Ok(Tokenizer {
            inner,
            path: path.to_owned(),
            special,
            continuation,
            vocab_size,
            hash,
        })
    }

    /// A BERT tokenizer from the text of a `vocab.txt`, one token a line; `path` is for messages. Lower-cases (and strips
    /// accents) unless an ordinary token holds a letter that lower-casing would change.
    pub fn from_vocab(text: &str, path: &Path) -> Result<Tokenizer, TokenizerError> {
        let mut lines: HashMap<&str, usize> = HashMap::new();
        let mut tokens = Vec::new();
        for (index, token) in text.lines().map(str::trim_end).enumerate() {
            if let Some(first) = lines.insert(token, index) {
                return Err(TokenizerError::Duplicate {
                    path: path.to_owned(),
                    token: token.to_owned(),
                    first: first + 1,
                    second: index + 1,
                });
            }
            tokens.push(token.to_owned());
        }
        let ordinary = |t: &&String| !(t.starts_with('[') && t.ends_with(']'));
        let cased = tokens
            .iter()
            .filter(ordinary)
            .any(|t| t.chars().any(|c| c.to_lowercase().ne([c])));
        let vocab = tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (token.clone(), id as u32))
            .collect();
        let special = find_special(&vocab, path)?;
        Tokenizer::from_json(&bert_json(&tokens, &special, !cased).to_string(), path)
    }

    /// The ids of the special tokens.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// One more than the largest id, added tokens included: the least number of rows of an embedding table.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The file it was loaded from (or trained for), for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A hash, in hexadecimal, of all that decides which ids a text becomes: vocabulary, normaliser, pre-tokenizer, model,
    /// added tokens. A `vocab.txt` and the `tokenizer.json` made of it have the same hash.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether the token goes on with the word of the token before it (`##ing`). False outside the vocabulary.
    pub fn continuation(&self, id: u32) -> bool {
        self.continuation.get(id as usize).copied().unwrap_or(false)
    }

    /// The ids of a text, without special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|source| TokenizerError::Encode { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] of many texts, in parallel over rayon's current pool, in order.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts
            .par_iter()
            .map(|text| self.encode(text.as_ref()))
            .collect()
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of ids, special tokens included, for people to read.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, false)
            .map_err(|source| TokenizerError::Encode { source })
    }

    /// The text of a `tokenizer.json` that gives this tokenizer again, also in other tools.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner
            .to_string(false)
            .map_err(|source| TokenizerError::Encode { source })
    }

    /// Writes `tokenizer.json` to `path`, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), TokenizerError> {
        write_whole(path, self.to_json()?.as_bytes())
    }

    /// Writes the tokens one a line in the order of ids, as BERT's `vocab.txt`, whole or not at all.
    pub fn save_vocab(&self, path: &Path) -> Result<(), TokenizerError> {
        let lines: String = (0..self.vocab_size as u32)
            .map(|id| self.token(id).unwrap_or_default() + "\n")
            .collect();
        write_whole(path, lines.as_bytes())
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TokenizerError> {
    crate::files::write_whole(path, bytes).map_err(|source| TokenizerError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn find_special(
    vocab: &HashMap<String, u32>,
    path: &Path,
) -> Result<SpecialTokens, TokenizerError> {
    let mut missing = Vec::new();
    let ids = SPECIAL_NAMES.map(
        |(_, names)| match names.iter().find_map(|n| vocab.get(*n)) {
            Some(&id) => id,
            None => {
                missing.push(format!("`{}`", names[0]));
                0
            }
        },
    );
    if !missing.is_empty() {
        return Err(TokenizerError::MissingSpecial {
            path: path.to_owned(),
            missing,
        });
    }
    let [pad, unk, cls, sep, mask] = ids;
    Ok(SpecialTokens {
        pad,
        unk,
        cls,
        sep,
        mask,
    })
}

/// The parts of a tokenizer that decide its ids, one after the other. The vocabulary goes in by id, since files list it in any
/// order.
fn hash_of(vocab: &HashMap<String, u32>, mut canonical: Value) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tcd tokenizer 1\0");
    let mut by_id: Vec<_> = vocab.iter().map(|(token, id)| (id, token)).collect();
    by_id.sort();
    for (id, token) in by_id {
        hasher.update(&id.to_le_bytes());
        hasher.update(&(token.len() as u64).to_le_bytes());
        hasher.update(token.as_bytes());
    }
    if let Some(model) = canonical["model"].as_object_mut() {
        model.shift_remove("vocab");
    }
    for part in ["normalizer", "pre_tokenizer", "model", "added_tokens"] {
        hasher.update(part.as_bytes());
        hasher.update(canonical[part].to_string().as_bytes());
        hasher.update(&[0]);
    }
    hasher.finalize().to_hex().to_string()
}

/// The `tokenizer.json` of a BERT vocabulary, as Hugging Face writes it.
fn bert_json(tokens: &[String], special: &SpecialTokens, lowercase: bool) -> Value {
    let name = |id: u32| tokens[id as usize].as_str();
    let mut ids = special.ids();
    ids.sort_unstable();
    let added: Vec<Value> = ids
        .iter()
        .map(|&id| {
            json!({"id": id, "content": name(id), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let vocab: serde_json::Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let (cls, sep) = (name(special.cls), name(special.sep));
    let token = |id: &str, kind: u32| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let sequence = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let mut template = serde_json::Map::new();
    for (name, id) in [(cls, special.cls), (sep, special.sep)] {
        template.insert(
            name.to_owned(),
            json!({"id": name, "ids": [id], "tokens": [name]}),
        );
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [token(cls, 0), sequence("A", 0), token(sep, 0)],
            "pair": [token(cls, 0), sequence("A", 0), token(sep, 0), sequence("B", 1), token(sep, 1)],
            "special_tokens": template},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": name(special.unk), "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A vocabulary for tests of this module and its neighbours: ids 0 to 4 are the special tokens.
    pub(crate) const SMALL: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\nsat\non\nmat\nun\n##like\n##ly\n.\n[\n]\nmask\n";

    pub(crate) fn small() -> Tokenizer {
        Tokenizer::from_vocab(SMALL, Path::new("vocab.txt")).unwrap()
    }

    fn shared(file: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../shared/data")
            .join(file);
        path.exists().then_some(path)
    }

    #[test]
    fn text_becomes_ids_and_cannot_forge_special_tokens() {
        let t = small();
        assert_eq!(t.encode("The CÁTs\nsat.").unwrap(), [5, 6, 7, 8, 14]);
        assert_eq!(t.encode("unlikely dog").unwrap(), [11, 12, 13, 1]);
        assert_eq!(t.encode("[MASK] the").unwrap(), [15, 17, 16, 5]);
        assert_eq!(
            (0..18).filter(|&i| t.continuation(i)).collect::<Vec<_>>(),
            [7, 12, 13]
        );
        assert_eq!((t.vocab_size(), t.special().ids()), (18, [0, 1, 2, 3, 4]));
        assert!(!t.continuation(99));
        assert_eq!(
            t.encode_batch(&["the", "", "mat"]).unwrap(),
            [vec![5], vec![], vec![10]]
        );
    }

    #[test]
    fn saved_files_load_as_the_same_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let t = small();
        t.save_vocab(&dir.path().join("vocab.txt")).unwrap();
        let from_vocab = Tokenizer::load(dir.path()).unwrap();
        t.save(&dir.path().join("tokenizer.json")).unwrap();
        let from_json = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(from_json.path().file_name().unwrap(), "tokenizer.json");
        assert_eq!((t.hash(), t.hash()), (from_vocab.hash(), from_json.hash()));
        assert_eq!(from_json.encode("The cats").unwrap(), [5, 6, 7]);
        // One token more, one case rule less: other hashes.
        for other in [format!("{SMALL}dog\n"), SMALL.replace("mask\n", "Mask\n")] {
            assert_ne!(
                Tokenizer::from_vocab(&other, Path::new("v"))
                    .unwrap()
                    .hash(),
                t.hash()
            );
        }
        let padded = t.to_json().unwrap().replace(
            "\"truncation\":null",
            "\"truncation\":{\"direction\":\"Right\",\"max_length\":2,\"strategy\":\"LongestFirst\",\"stride\":0}",
        );
        let reset = Tokenizer::from_json(&padded, Path::new("t")).unwrap();
        assert_eq!(
            (reset.encode("the cats sat").unwrap().len(), reset.hash()),
            (4, t.hash())
        );
    }

    #[test]
    fn bad_vocabularies_are_refused() {
        let error = |text: &str| Tokenizer::from_vocab(text, Path::new("v.txt")).unwrap_err();
        match error(&format!("{SMALL}cat\n")) {
            TokenizerError::Duplicate {
                token,
                first: 7,
                second: 19,
                ..
            } => assert_eq!(token, "cat"),
            other => panic!("{other:?}"),
        }
        let text = error("[PAD]\n[UNK]\n[SEP]\nthe\n").to_string();
        assert!(
            text.contains("v.txt") && text.contains("`[CLS]`, `[MASK]`"),
            "{text}"
        );
        assert!(matches!(
            Tokenizer::from_json("{\"a\":1}", Path::new("t")),
            Err(TokenizerError::Malformed { .. })
        ));
        assert!(matches!(
            Tokenizer::load(Path::new("absent.json")),
            Err(TokenizerError::Io { .. })
        ));
    }

    #[test]
    fn published_vocabulary_in_both_formats() {
        let Some(folder) = shared("vocab/bert-base-uncased") else {
            return super::super::absent("vocab");
        };
        let json = Tokenizer::load(&folder).unwrap();
        let vocab = Tokenizer::load(&folder.join("vocab.txt")).unwrap();
        assert_eq!(json.hash(), vocab.hash());
        assert_eq!(json.special().ids(), [0, 100, 101, 102, 103]);
        assert_eq!(json.vocab_size(), 30522);
        // Python tokenizers 0.23.3:
        // BertWordPieceTokenizer("vocab.txt").encode("Hello, embeddings!", add_special_tokens=False).ids
        assert_eq!(
            vocab.encode("Hello, embeddings!").unwrap(),
            [7592, 1010, 7861, 8270, 4667, 2015, 999]
        );
        // Counted when the data was collected: 58 unknown of 308,619 tokens in the first 4000 lines.
        let Some(text) = shared("corpus/wikipedia_00.txt") else {
            return;
        };
        let text = std::fs::read_to_string(text).unwrap();
        let lines: Vec<&str> = text.lines().take(4000).collect();
        let ids: Vec<u32> = vocab.encode_batch(&lines).unwrap().concat();
        assert_eq!(
            (ids.len(), ids.iter().filter(|&&id| id == 100).count()),
            (308_619, 58)
        );
    }
}
