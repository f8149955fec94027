//! Documents from text files.
//!
//! Files or folders (searched in name order), plain, `.gz` or `.zst`; documents are separated by blank lines, or are the text
//! field of each JSONL object. One document is in memory at a time. Text that is not UTF-8 is an error with file, line and byte.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use thiserror::Error;

/// Why text could not be read.
#[derive(Debug, Error)]
pub enum TextError {
    /// The system refused.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// Bytes that are not UTF-8.
    #[error("`{}` is not UTF-8: line {line}, byte {byte} of the line; hint: convert the file, for example with `iconv -f latin1 -t utf-8`", path.display())]
    NotUtf8 {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Byte in the line, from 0.
        byte: usize,
    },
    /// A JSONL line that holds no document.
    #[error("`{}`, line {line}: {problem}; hint: each line must be an object with a string field `{field}` (`--text-field`)", path.display())]
    Json {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
        /// Field that was looked for.
        field: String,
    },
    /// A folder without any file.
    #[error("`{}` holds no file", path.display())]
    Empty {
        /// Folder.
        path: PathBuf,
    },
}

/// Every file under `paths`: files as named, folders searched, in name order.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, TextError> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        collect(path, &mut found)?;
        if found.len() == before {
            return Err(TextError::Empty { path: path.clone() });
        }
    }
    Ok(found)
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) -> Result<(), TextError> {
    let io = |source| TextError::Io {
        path: path.to_path_buf(),
        source,
    };
    if !fs::metadata(path).map_err(io)?.is_dir() {
        found.push(path.to_path_buf());
        return Ok(());
    }
    let mut children = fs::read_dir(path)
        .map_err(io)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io)?;
    children.sort();
    for child in children {
        let hidden = child
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden {
            collect(&child, found)?;
        }
    }
    Ok(())
}

/// Counts the bytes that were read of a file, compressed as it is, for progress.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The documents of one file, in order.
pub struct Documents {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    json_field: Option<String>,
    line: u64,
    done: bool,
}

impl Documents {
    /// Opens a file; `.jsonl` (also compressed) is read as JSONL with the text in `text_field`. Bytes read are added to
    /// `progress`.
    pub fn open(
        path: &Path,
        text_field: &str,
        progress: Arc<AtomicU64>,
    ) -> Result<Self, TextError> {
        let io = |source| TextError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = Counted {
            inner: File::open(path).map_err(io)?,
            count: progress,
        };
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        let (inner, reader): (&str, Box<dyn BufRead + Send>) =
            if let Some(inner) = name.strip_suffix(".gz") {
                (
                    inner,
                    Box::new(BufReader::with_capacity(
                        1 << 18,
                        flate2::read::MultiGzDecoder::new(file),
                    )),
                )
            } else if let Some(inner) = name.strip_suffix(".zst") {
                let decoder = ruzstd::decoding::StreamingDecoder::new(file)
                    .map_err(|e| io(io::Error::other(e)))?;
                (inner, Box::new(BufReader::with_capacity(1 << 18, decoder)))
            } else {
                (
                    name.as_str(),
                    Box::new(BufReader::with_capacity(1 << 18, file)),
                )
            };
        let json_field = inner.ends_with(".jsonl").then(|| text_field.to_string());
        Ok(Documents {
            path: path.to_path_buf(),
            reader,
            json_field,
            line: 0,
            done: false,
        })
    }

    /// The next line without its end, or `None` at the end of the file.
    fn read_line(&mut self) -> Result<Option<String>, TextError> {
        let mut bytes = Vec::new();
        let n = self
            .reader
            .read_until(b'\n', &mut bytes)
            .map_err(|source| TextError::Io {
                path: self.path.clone(),
                source,
            })?;
        if n == 0 {
            return Ok(None);
        }
        self.line += 1;
        while bytes.last().is_some_and(|b| *b == b'\n' || *b == b'\r') {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) => Err(TextError::NotUtf8 {
                path: self.path.clone(),
                line: self.line,
                byte: e.utf8_error().valid_up_to(),
            }),
        }
    }

    fn read_document(&mut self) -> Result<Option<String>, TextError> {
        let mut document = String::new();
        while let Some(line) = self.read_line()? {
            if let Some(field) = &self.json_field {
                if line.trim().is_empty() {
                    continue;
                }
                let wrong = |problem: String| TextError::Json {
                    path: self.path.clone(),
                    line: self.line,
                    problem,
                    field: field.clone(),
                };
                let value: Value =
                    serde_json::from_str(&line).map_err(|e| wrong(format!("not JSON ({e})")))?;
                return match value.get(field) {
                    Some(Value::String(text)) => Ok(Some(text.clone())),
                    Some(_) => Err(wrong(format!("field `{field}` is not a string"))),
                    None => Err(wrong(format!("no field `{field}`"))),
                };
            }
            if !line.trim().is_empty() {
                document.push_str(&line);
                document.push('\n');
            } else if !document.is_empty() {
                return Ok(Some(document));
            }
        }
        Ok((!document.is_empty()).then_some(document))
    }
}

impl Iterator for Documents {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let document = self.read_document().transpose();
        self.done = !matches!(document, Some(Ok(_)));
        document
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    fn read(path: &Path) -> Result<Vec<String>, TextError> {
        Documents::open(path, "text", Arc::default())?.collect()
    }

    #[test]
    fn plain_and_compressed_files_hold_the_same_documents() {
        let dir = tempfile::tempdir().unwrap();
        let text = "\u{feff}One line.\r\nTwo.\n\n\n  \nSecond document, no end";
        let plain = dir.path().join("a.txt");
        fs::write(&plain, text).unwrap();
        let expected = vec![
            "One line.\nTwo.\n".to_string(),
            "Second document, no end\n".to_string(),
        ];
        assert_eq!(read(&plain).unwrap(), expected);
        let gz = dir.path().join("a.txt.gz");
        let mut encoder = flate2::write::GzEncoder::new(
            File::create(&gz).unwrap(),
            flate2::Compression::default(),
        );
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        assert_eq!(read(&gz).unwrap(), expected);
        let zst = dir.path().join("a.txt.zst");
        ruzstd::encoding::compress(
            text.as_bytes(),
            File::create(&zst).unwrap(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(read(&zst).unwrap(), expected);
        assert_eq!(
            files(&[dir.path().to_path_buf()]).unwrap(),
            [plain, gz, zst]
        );
    }

    #[test]
    fn bad_text_names_file_line_and_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latin.txt");
        fs::write(&path, b"fine\ncaf\xe9\n").unwrap();
        let text = read(&path).unwrap_err().to_string();
        assert!(
            text.contains("latin.txt") && text.contains("line 2, byte 3"),
            "{text}"
        );
        let path = dir.path().join("b.jsonl");
        for (content, part) in [
            (
                "{\"text\": \"a\"}\n{\"body\": \"b\"}\n",
                "line 2: no field `text`",
            ),
            ("{\"text\": 3}\n", "line 1: field `text` is not a string"),
            ("{\"text\": \"a\"\n", "line 1: not JSON"),
        ] {
            fs::write(&path, content).unwrap();
            let text = read(&path).unwrap_err().to_string();
            assert!(text.contains(part), "{part} not in: {text}");
        }
        fs::write(&path, "{\"text\": \"a\"}\n\n{\"text\": \"b\\nc\"}\n").unwrap();
        assert_eq!(read(&path).unwrap(), ["a", "b\nc"]);
    }
}
