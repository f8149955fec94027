//! Training of a WordPiece vocabulary.
//!
//! The vocabulary grows by merging the most frequent pair of neighbouring pieces, over counted words, as the trainer of the
//! `tokenizers` crate does (WordPiece there is trained as byte-pair encoding with the `##` prefix). That trainer breaks ties
//! by the order of a randomly seeded hash map, so two runs give two vocabularies, and counts pairs in 32 bits; here ties go
//! to the pair with the smaller ids, counts have 64 bits, and equal files give an equal vocabulary. Normaliser and
//! pre-tokenizer are the crate's, so words are counted as they will be cut. Memory grows with the number of different words,
//! not with the text.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rayon::prelude::*;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::{Tokenizer, TokenizerError};
use crate::data::text::{self, Documents};

/// The special tokens of a trained vocabulary, in the order of their ids.
pub const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// At most this many different characters enter the vocabulary, the most frequent ones; words with others are unknown.
pub const ALPHABET: usize = 1000;

/// Longer words become `[UNK]` at encoding, so training leaves them out.
const MAX_WORD_CHARS: usize = 100;

/// Text is counted in batches of about this many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// What to train.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens wanted, special ones included. Fewer come out where the text has no more pairs.
    pub vocab_size: usize,
    /// A pair must occur this often to be merged.
    pub min_frequency: u64,
    /// Lower-case the text and strip accents.
    pub lowercase: bool,
    /// The field read from JSON lines.
    pub text_field: String,
}

/// How far training is, for a progress display.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// Bytes read of all bytes.
    Read(u64, u64),
    /// Tokens in the vocabulary, of those wanted.
    Merge(usize, usize),
}

/// Trains a vocabulary on files and folders (see [`text::find`]).
pub fn train(
    paths: &[PathBuf],
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tokenizer, TokenizerError> {
    let words = count_words(paths, options, progress)?;
    if words.is_empty() {
        return Err(TokenizerError::NoText);
    }
    let tokens = merge(&words, options.vocab_size, options.min_frequency, progress)?;
    Tokenizer::from_tokens(&tokens, options.lowercase, Path::new("trained vocabulary"))
}

fn count_words(
    paths: &[PathBuf],
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<BTreeMap<String, u64>, TokenizerError> {
    let files = text::find(paths)?;
    let total = files.iter().map(|f| f.bytes).sum();
    let read = Arc::new(AtomicU64::new(0));
    let normalizer = BertNormalizer::new(true, true, None, options.lowercase);
    let mut counts: HashMap<String, u64> = HashMap::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut count = |batch: &mut Vec<String>| -> Result<(), TokenizerError> {
        let merged = batch
            .par_iter()
            .try_fold(HashMap::new, |mut map: HashMap<String, u64>, document| {
                count_document(document, &normalizer, &mut map).map(|()| map)
            })
            .try_reduce(HashMap::new, |a, b| {
                let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
                for (word, n) in small {
                    *large.entry(word).or_default() += n;
                }
                Ok(large)
            })?;
        for (word, n) in merged {
            *counts.entry(word).or_default() += n;
        }
        batch.clear();
        progress(Progress::Read(
            read.load(std::sync::atomic::Ordering::Relaxed),
            total,
        ));
        Ok(())
    };
    for file in &files {
        for document in Documents::open(&file.path, &options.text_field, Arc::clone(&read))? {
            let document = document?;
            bytes += document.len();
            batch.push(document);
            if bytes >= BATCH_BYTES {
                count(&mut batch)?;
                bytes = 0;
            }
        }
    }
    count(&mut batch)?;
    Ok(counts.into_iter().collect())
}

fn count_document(
    document: &str,
    normalizer: &BertNormalizer,
    counts: &mut HashMap<String, u64>,
) -> Result<(), TokenizerError> {
    let encode = |source| TokenizerError::Encode { source };
    let mut normalized = NormalizedString::from(document);
    normalizer.normalize(&mut normalized).map_err(encode)?;
    let mut pieces = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut pieces).map_err(encode)?;
    for (word, _, _) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        match counts.get_mut(word) {
            Some(n) => *n += 1,
            None => {
                counts.insert(word.to_owned(), 1);
            }
        }
    }
    Ok(())
}

type Pair = (u32, u32);

/// The vocabulary of counted words: special tokens, characters (in code order, then those that go on a word), merges.
fn merge(
    words: &BTreeMap<String, u64>,
    vocab_size: usize,
    min_frequency: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<String>, TokenizerError> {
    let mut tokens: Vec<String> = SPECIAL.iter().map(|&s| s.to_owned()).collect();
    let usable = || {
        words
            .iter()
            .filter(|(word, _)| word.chars().count() <= MAX_WORD_CHARS)
    };
    let mut frequency: BTreeMap<char, u64> = BTreeMap::new();
    for (word, n) in usable() {
        word.chars()
            .for_each(|c| *frequency.entry(c).or_default() += n);
    }
    let mut ranked: Vec<(char, u64)> = frequency.into_iter().collect();
    ranked.sort_by_key(|&(c, n)| (Reverse(n), c));
    let alphabet: BTreeSet<char> = ranked.iter().take(ALPHABET).map(|&(c, _)| c).collect();
    let known = || usable().filter(|(word, _)| word.chars().all(|c| alphabet.contains(&c)));
    let inner: BTreeSet<char> = known().flat_map(|(word, _)| word.chars().skip(1)).collect();
    tokens.extend(alphabet.iter().map(char::to_string));
    tokens.extend(inner.iter().map(|c| format!("##{c}")));
    if tokens.len() > vocab_size {
        return Err(TokenizerError::TooSmall {
            size: vocab_size,
            needed: tokens.len(),
        });
    }
    let mut ids: HashMap<String, u32> = tokens
        .iter()
        .enumerate()
        .map(|(i, t)| (t.clone(), i as u32))
        .collect();
    let mut pieces: Vec<(Vec<u32>, u64)> = known()
        .map(|(word, &n)| {
            let piece = |(i, c): (usize, char)| {
                if i == 0 {
                    ids[&c.to_string()]
                } else {
                    ids[&format!("##{c}")]
                }
            };
            (word.chars().enumerate().map(piece).collect(), n)
        })
        .collect();

    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
    for (index, (word, n)) in pieces.iter().enumerate() {
        for pair in word.windows(2).map(|w| (w[0], w[1])) {
            *counts.entry(pair).or_default() += n;
            places.entry(pair).or_default().push(index as u32);
        }
    }
    // Entries whose count is no longer the pair's own are passed over when they come up; every change adds a fresh one.
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        counts.iter().map(|(&p, &n)| (n, Reverse(p))).collect();
    while tokens.len() < vocab_size {
        let Some((n, Reverse(pair))) = queue.pop() else {
            break;
        };
        if counts.get(&pair) != Some(&n) {
            continue;
        }
        if n < min_frequency.max(1) {
            break;
        }
        let tail = &tokens[pair.1 as usize];
        let token = format!(
            "{}{}",
            tokens[pair.0 as usize],
            tail.strip_prefix("##").unwrap_or(tail)
        );
        let id = *ids.entry(token).or_insert_with_key(|token| {
            tokens.push(token.clone());
            tokens.len() as u32 - 1
        });
        let mut touched: BTreeSet<Pair> = BTreeSet::new();
        for index in places.remove(&pair).unwrap_or_default() {
            let (word, n) = &mut pieces[index as usize];
            if !word.windows(2).any(|w| (w[0], w[1]) == pair) {
                continue;
            }
            for old in word.windows(2).map(|w| (w[0], w[1])) {
                if let Some(count) = counts.get_mut(&old) {
                    *count -= *n;
                }
                touched.insert(old);
            }
            *word = join(word, pair, id);
            for new in word.windows(2).map(|w| (w[0], w[1])) {
                *counts.entry(new).or_default() += *n;
                if touched.insert(new) || new.0 == id || new.1 == id {
                    places.entry(new).or_default().push(index);
                }
            }
        }
        for pair in touched {
            match counts.get(&pair) {
                Some(0) => drop(counts.remove(&pair)),
                Some(&n) => queue.push((n, Reverse(pair))),
                None => {}
            }
        }
        progress(Progress::Merge(tokens.len(), vocab_size));
    }
    Ok(tokens)
}

/// The word with every occurrence of the pair, from the left, made one piece.
fn join(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut joined = Vec::with_capacity(word.len() - 1);
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            joined.push(id);
            i += 2;
        } else {
            joined.push(word[i]);
            i += 1;
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The definition: recount all pairs before each merge.
    fn naive(words: &BTreeMap<String, u64>, vocab_size: usize, min_frequency: u64) -> Vec<String> {
        let first: BTreeSet<char> = words.keys().flat_map(|w| w.chars()).collect();
        let inner: BTreeSet<char> = words.keys().flat_map(|w| w.chars().skip(1)).collect();
        let mut tokens: Vec<String> = SPECIAL.iter().map(|&s| s.to_owned()).collect();
        tokens.extend(first.iter().map(char::to_string));
        tokens.extend(inner.iter().map(|c| format!("##{c}")));
        let id = |tokens: &[String], t: &str| tokens.iter().position(|x| x == t).map(|i| i as u32);
        let mut pieces: Vec<(Vec<u32>, u64)> = words
            .iter()
            .map(|(w, &n)| {
                let one = |(i, c): (usize, char)| {
                    if i == 0 {
                        c.to_string()
                    } else {
                        format!("##{c}")
                    }
                };
                (
                    w.chars()
                        .enumerate()
                        .map(one)
                        .map(|t| id(&tokens, &t).unwrap())
                        .collect(),
                    n,
                )
            })
            .collect();
        while tokens.len() < vocab_size {
            let mut counts: BTreeMap<Pair, u64> = BTreeMap::new();
            for (word, n) in &pieces {
                word.windows(2)
                    .for_each(|w| *counts.entry((w[0], w[1])).or_default() += n);
            }
            let Some((&pair, &n)) = counts.iter().max_by_key(|&(&p, &n)| (n, Reverse(p))) else {
                break;
            };
            if n < min_frequency {
                break;
            }
            let token =
                tokens[pair.0 as usize].clone() + tokens[pair.1 as usize].trim_start_matches("##");
            let new = id(&tokens, &token).unwrap_or_else(|| {
                tokens.push(token);
                tokens.len() as u32 - 1
            });
            pieces
                .iter_mut()
                .for_each(|(word, _)| *word = join(word, pair, new));
        }
        tokens
    }

    #[test]
    fn merging_equals_its_definition() {
        use rand::RngExt;
        for seed in 0..40 {
            let mut rng = crate::seed::rng(seed, crate::seed::Stream::Data, &[]);
            let words: BTreeMap<String, u64> = (0..60)
                .map(|_| {
                    let length = rng.random_range(1..9);
                    let word = (0..length)
                        .map(|_| char::from(b'a' + rng.random_range(0..3u8)))
                        .collect();
                    (word, rng.random_range(1..6))
                })
                .collect();
            for (size, least) in [(30, 1), (80, 1), (1000, 4), (1000, 1)] {
                let got = merge(&words, size, least, &mut |_| {}).unwrap();
                assert_eq!(
                    got,
                    naive(&words, size, least),
                    "seed {seed} size {size} least {least}"
                );
            }
        }
    }

    #[test]
    fn trained_vocabulary_is_repeatable_and_covers_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.txt");
        std::fs::write(
            &file,
            "The cats sat. The CAT sits;\n\nthe catsätze sät.\n".repeat(3),
        )
        .unwrap();
        let options = Options {
            vocab_size: 60,
            min_frequency: 2,
            lowercase: true,
            text_field: "text".into(),
        };
        let run = |o: &Options| train(std::slice::from_ref(&file), o, &mut |_| {});
        let t = run(&options).unwrap();
        assert_eq!(t.special().ids(), [0, 1, 2, 3, 4]);
        assert_eq!(
            t.to_json().unwrap(),
            run(&options).unwrap().to_json().unwrap()
        );
        let ids = t.encode("the cat sat; Cats").unwrap();
        assert!(!ids.contains(&1));
        assert_eq!(
            ids.iter().map(|&i| t.token(i).unwrap()).collect::<Vec<_>>()[..2],
            ["the", "cat"]
        );
        let cased = run(&Options {
            lowercase: false,
            ..options.clone()
        })
        .unwrap();
        assert!(cased.id("ä").is_some() && cased.id("T").is_some() && t.id("T").is_none());
        let small = run(&Options {
            vocab_size: 8,
            ..options
        });
        assert!(
            matches!(small, Err(TokenizerError::TooSmall { size: 8, needed: n }) if n > 8),
            "{small:?}"
        );
    }
}
