//! WordPiece tokenizers: load any Hugging Face `tokenizer.json` or BERT `vocab.txt`, or train one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Normalizer, Tokenizer as HfTokenizer};

/// The special tokens, in the order a trained vocabulary begins with.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// What marks a piece that continues a word.
const CONTINUATION: &str = "##";

/// Characters a trained vocabulary knows, at most; the most frequent ones.
const ALPHABET: usize = 1000;

/// Why a tokenizer could not be had.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The system refused.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// Not a tokenizer file.
    #[error("`{}` is not a tokenizer: {problem}", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Special tokens are missing.
    #[error("`{}` lacks the special tokens {}; hint: BERT needs [PAD], [UNK], [CLS], [SEP] and [MASK]", path.display(), missing.join(", "))]
    Specials {
        /// File.
        path: PathBuf,
        /// Which.
        missing: Vec<String>,
    },
    /// Training failed.
    #[error("cannot train a vocabulary: {problem}")]
    Train {
        /// What is wrong.
        problem: String,
    },
}

/// Ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Padding.
    pub pad: u32,
    /// Unknown word.
    pub unk: u32,
    /// Begins a sequence.
    pub cls: u32,
    /// Ends a sequence or segment.
    pub sep: u32,
    /// Stands for a masked token.
    pub mask: u32,
}

impl SpecialTokens {
    /// Whether the id is one of the five.
    pub fn contains(&self, id: u32) -> bool {
        [self.pad, self.unk, self.cls, self.sep, self.mask].contains(&id)
    }
}

/// A tokenizer and what the rest of the program asks of it.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: HfTokenizer,
    special: SpecialTokens,
    continuation: Vec<bool>,
    hash: String,
}

impl Tokenizer {
    /// Loads `tokenizer.json`, `vocab.txt` (one token a line, lower-casing), or a folder that holds either. Truncation and
    /// padding that the file asks for are switched off: batches decide on both.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let mut path = path.to_path_buf();
        if path.is_dir() {
            let found = ["tokenizer.json", "vocab.txt"]
                .iter()
                .map(|n| path.join(n))
                .find(|p| p.exists());
            path = found.ok_or_else(|| TokenizerError::Malformed {
                path: path.clone(),
                problem: "a folder without `tokenizer.json` or `vocab.txt`".to_string(),
            })?;
        }
        let text = fs::read_to_string(&path).map_err(|source| TokenizerError::Io {
            path: path.clone(),
            source,
        })?;
        let malformed = |problem: String| TokenizerError::Malformed {
            path: path.clone(),
            problem,
        };
        let inner = if text.trim_start().starts_with('{') {
            let mut inner: HfTokenizer = text
                .parse()
                .map_err(|e: tokenizers::Error| malformed(e.to_string()))?;
            inner
                .with_truncation(None)
                .map_err(|e| malformed(e.to_string()))?;
            inner.with_padding(None);
            inner
        } else {
            let mut lines: BTreeMap<&str, u32> = BTreeMap::new();
            for (i, token) in text.lines().enumerate() {
                if let Some(first) = lines.insert(token, i as u32) {
                    return Err(malformed(format!(
                        "token `{token}` stands on lines {} and {}",
                        first + 1,
                        i + 1
                    )));
                }
            }
            let vocab = lines.into_iter().map(|(t, i)| (t.to_string(), i));
            let model = WordPiece::builder()
                .vocab(vocab.collect::<ahash::AHashMap<_, _>>())
                .unk_token("[UNK]".to_string())
                .build()
                .map_err(|e| malformed(e.to_string()))?;
            bert(model, true).map_err(|e| malformed(e.to_string()))?
        };
        Self::from_inner(inner, &path)
    }

    fn from_inner(inner: HfTokenizer, path: &Path) -> Result<Self, TokenizerError> {
        let missing: Vec<String> = SPECIAL_TOKENS
            .iter()
            .filter(|t| inner.token_to_id(t).is_none())
            .map(|t| t.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(TokenizerError::Specials {
                path: path.to_path_buf(),
                missing,
            });
        }
        let id = |token: &str| inner.token_to_id(token).unwrap_or_default();
        let special = SpecialTokens {
            pad: id("[PAD]"),
            unk: id("[UNK]"),
            cls: id("[CLS]"),
            sep: id("[SEP]"),
            mask: id("[MASK]"),
        };
        let vocab: BTreeMap<u32, String> = inner
            .get_vocab(true)
            .into_iter()
            .map(|(t, i)| (i, t))
            .collect();
        let size = vocab.last_key_value().map_or(0, |(i, _)| *i as usize + 1);
        let mut continuation = vec![false; size];
        for (i, token) in &vocab {
            continuation[*i as usize] =
                token.starts_with(CONTINUATION) && token.len() > CONTINUATION.len();
        }
        // What decides on token ids: the vocabulary and what text goes through before it.
        let mut hasher = blake3::Hasher::new();
        for (i, token) in &vocab {
            hasher.update(&i.to_le_bytes());
            hasher.update(token.as_bytes());
            hasher.update(&[0]);
        }
        let json = |part: serde_json::Result<String>| part.unwrap_or_default();
        hasher.update(json(serde_json::to_string(&inner.get_normalizer())).as_bytes());
        hasher.update(json(serde_json::to_string(&inner.get_pre_tokenizer())).as_bytes());
        let hash = hasher.finalize().to_hex().to_string();
        Ok(Tokenizer {
            inner,
            special,
            continuation,
            hash,
        })
    }

    /// Trains a WordPiece vocabulary with BERT's normaliser. `texts` is asked for the texts twice: for the alphabet, then for
    /// the pieces. The same texts give the same vocabulary: the library numbers characters inside words in the order of a
    /// random hash map, so they are numbered here before it runs.
    pub fn train<I: Iterator<Item = String> + Send>(
        texts: impl Fn() -> I,
        vocab_size: usize,
        min_frequency: u64,
        lowercase: bool,
    ) -> Result<Self, TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Train {
            problem: e.to_string(),
        };
        let mut inner = HfTokenizer::new(WordPiece::default());
        inner
            .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))
            .map_err(failed)?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        let mut counts: BTreeMap<char, u64> = BTreeMap::new();
        for text in texts() {
            let mut text = tokenizers::NormalizedString::from(text);
            BertNormalizer::new(true, true, None, lowercase)
                .normalize(&mut text)
                .map_err(failed)?;
            for c in text.get().chars().filter(|c| !c.is_whitespace()) {
                *counts.entry(c).or_default() += 1;
            }
        }
        let mut alphabet: Vec<(char, u64)> = counts.into_iter().collect();
        alphabet.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        alphabet.truncate(ALPHABET);
        alphabet.sort();
        let least = SPECIAL_TOKENS.len() + 2 * alphabet.len();
        if alphabet.is_empty() {
            return Err(TokenizerError::Train {
                problem: "the text holds no word; hint: name files with running text".to_string(),
            });
        }
        if vocab_size < least {
            let problem = format!(
                "a vocabulary for this text needs at least {least} tokens (special ones and characters): {vocab_size}"
            );
            return Err(TokenizerError::Train { problem });
        }
        let inside = alphabet.iter().map(|(c, _)| format!("{CONTINUATION}{c}"));
        let first: Vec<AddedToken> = SPECIAL_TOKENS
            .iter()
            .map(|t| t.to_string())
            .chain(inside)
            .map(|t| AddedToken::from(t, true))
            .collect();
        let mut trainer: tokenizers::models::TrainerWrapper = WordPieceTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .special_tokens(first)
            .initial_alphabet(alphabet.iter().map(|(c, _)| *c).collect())
            .limit_alphabet(alphabet.len())
            .show_progress(false)
            .build()
            .into();
        inner.train(&mut trainer, texts()).map_err(failed)?;
        let vocab = inner.get_vocab(false);
        let model = WordPiece::builder()
            .vocab(vocab.into_iter().collect::<ahash::AHashMap<_, _>>())
            .unk_token("[UNK]".to_string())
            .build()
            .map_err(failed)?;
        Self::from_inner(
            bert(model, lowercase).map_err(failed)?,
            Path::new("tokenizer.json"),
        )
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.continuation.len()
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// Hash of everything that decides on token ids, in hex. `vocab.txt` and a `tokenizer.json` of equal content have one hash.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether the piece continues a word.
    pub fn continues(&self, id: u32) -> bool {
        self.continuation.get(id as usize).copied().unwrap_or(false)
    }

    /// Token ids of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false);
        encoding
            .map(|e| e.get_ids().to_vec())
            .map_err(|e| TokenizerError::Train {
                problem: e.to_string(),
            })
    }

    /// The piece of one id, as the vocabulary has it.
    pub fn piece(&self, id: u32) -> String {
        self.inner
            .id_to_token(id)
            .unwrap_or_else(|| format!("<{id}>"))
    }

    /// Text of token ids, special tokens shown.
    pub fn decode(&self, ids: &[u32]) -> String {
        let pieces = ids.iter().map(|id| self.piece(*id));
        pieces.collect::<Vec<_>>().join(" ").replace(" ##", "")
    }

    /// The `tokenizer.json` text.
    pub fn to_json(&self) -> String {
        self.inner.to_string(true).unwrap_or_default()
    }
}

/// A tokenizer around a WordPiece model, as BERT has it.
fn bert(model: WordPiece, lowercase: bool) -> Result<HfTokenizer, tokenizers::Error> {
    let mut inner = HfTokenizer::new(model);
    inner.with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    let known: Vec<AddedToken> = SPECIAL_TOKENS
        .iter()
        .filter(|t| inner.token_to_id(t).is_some())
        .map(|t| AddedToken::from(*t, true))
        .collect();
    inner.add_special_tokens(known)?;
    if let (Some(cls), Some(sep)) = (inner.token_to_id("[CLS]"), inner.token_to_id("[SEP]")) {
        let template = TemplateProcessing::builder()
            .try_single("[CLS] $A [SEP]")?
            .try_pair("[CLS] $A [SEP] $B:1 [SEP]:1")?
            .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
            .build()?;
        inner.with_post_processor(Some(template));
    }
    Ok(inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str =
        "The walker walked. The talker talked and talks. Walking and talking walkers.";

    #[test]
    fn training_is_repeatable_and_files_keep_the_hash() {
        let train = || Tokenizer::train(|| (0..50).map(|_| TEXT.to_string()), 60, 2, true).unwrap();
        let (a, b) = (train(), train());
        assert_eq!(a.hash(), b.hash());
        let s = a.special();
        assert_eq!((s.pad, s.unk, s.cls, s.sep, s.mask), (0, 1, 2, 3, 4));
        let ids = a.encode("Walked talks").unwrap();
        assert!(!ids.contains(&s.unk));
        assert_eq!(a.decode(&ids), "walked talks");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), a.to_json()).unwrap();
        let back = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(
            (back.hash(), back.encode("talker zzz").unwrap()),
            (a.hash(), a.encode("talker zzz").unwrap())
        );
        // The same vocabulary as vocab.txt.
        let mut vocab: Vec<(u32, String)> = a
            .inner
            .get_vocab(true)
            .into_iter()
            .map(|(t, i)| (i, t))
            .collect();
        vocab.sort();
        let lines: Vec<&str> = vocab.iter().map(|(_, t)| t.as_str()).collect();
        let file = dir.path().join("vocab.txt");
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        assert_eq!(Tokenizer::load(&file).unwrap().hash(), a.hash());
        let mut lower = false;
        for (i, t) in &vocab {
            lower |= a.continues(*i);
            assert_eq!(a.continues(*i), t.starts_with("##"), "{t}");
        }
        assert!(lower, "some piece continues a word");
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vocab.txt");
        for (text, part) in [
            (
                "[PAD]\n[UNK]\n[CLS]\na\n",
                "lacks the special tokens [SEP], [MASK]",
            ),
            (
                "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n",
                "token `a` stands on lines 6 and 8",
            ),
            ("{\"version\": 1", "is not a tokenizer"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Tokenizer::load(&file).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("vocab.txt"),
                "{part} not in: {error}"
            );
        }
    }
}
