//! Documents out of text files: plain, `.gz`, `.zst`, and JSON lines.
//!
//! A plain file holds documents separated by blank lines; a `.jsonl` (or `.ndjson`) file holds one JSON object a line,
//! whose text field is the document. Everything is read as a stream, so memory does not grow with the files. A byte order
//! mark is dropped, `\r\n` counts as a line end, and bytes that are not UTF-8 are an error that names the place.
//!
//! A plain document longer than [`MAX_DOCUMENT_BYTES`] is cut at a line end into several: this bounds memory for files
//! without blank lines.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

mod compressed;

/// A plain document is cut at the first line end after this many bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// A line longer than this is refused: such a file is not text, or lacks its line ends.
pub const MAX_LINE_BYTES: u64 = 256 << 20;

/// What can be wrong with input text. Line numbers count from 1, byte offsets from 0, both in the decompressed text.
#[derive(Debug, Error)]
pub enum TextError {
    /// The path cannot be opened or read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No path given holds a file.
    #[error("no text files in {paths}: hint: give files, or folders that hold files")]
    NoFiles {
        /// The paths looked at.
        paths: String,
    },
    /// Bytes that are not UTF-8.
    #[error(
        "not UTF-8 in `{}`: line {line}, byte offset {offset}: hint: convert the file, for example with `iconv -t UTF-8`",
        path.display()
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line of the first bad byte.
        line: u64,
        /// The offset of the first bad byte.
        offset: u64,
    },
    /// A line too long to be text.
    #[error("line too long in `{}`: line {line} has more than {MAX_LINE_BYTES} bytes: hint: is this a text file?", path.display())]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
    },
    /// A line of a JSON lines file that is not JSON.
    #[error("malformed JSON in `{}`: line {line}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON line without the text field.
    #[error("no text in `{}`: line {line} has no string field `{field}`: hint: name the field with `--text-field`", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// The field looked for.
        field: String,
    },
}

/// A file found by [`find`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// The path, as given or below a folder given.
    pub path: PathBuf,
    /// Its size on disk in bytes.
    pub bytes: u64,
}

/// The text files among `paths`: files as they are, folders searched to any depth in order of path. Names that begin with a
/// dot are passed over inside folders, links to folders too (they may form a ring); a path met twice is taken once.
pub fn find(paths: &[PathBuf]) -> Result<Vec<TextFile>, TextError> {
    let mut files = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|e| io_error(path, e))?;
        if meta.is_dir() {
            walk(path, &mut files)?
        } else {
            files.push(TextFile {
                path: path.clone(),
                bytes: meta.len(),
            })
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|f| seen.insert(f.path.clone()));
    if files.is_empty() {
        let names: Vec<_> = paths.iter().map(|p| format!("`{}`", p.display())).collect();
        return Err(TextError::NoFiles {
            paths: names.join(", "),
        });
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<TextFile>) -> Result<(), TextError> {
    let mut entries = std::fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|e| e.map(|e| e.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|e| io_error(folder, e))?;
    entries.sort();
    for path in entries {
        if path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."))
        {
            continue;
        }
        let link = path.is_symlink();
        let meta = std::fs::metadata(&path).map_err(|e| io_error(&path, e))?;
        if meta.is_dir() && !link {
            walk(&path, files)?;
        } else if meta.is_file() {
            files.push(TextFile {
                path,
                bytes: meta.len(),
            });
        }
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> TextError {
    TextError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The documents of one file, in order. Ends after the first error.
pub struct Documents {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    field: Option<String>,
    line: u64,
    offset: u64,
    buffer: Vec<u8>,
    finished: bool,
}

impl Documents {
    /// Opens `path`. `text_field` is the field read from JSON lines. `read` grows by the bytes taken from the disk, for
    /// progress.
    pub fn open(
        path: &Path,
        text_field: &str,
        read: Arc<AtomicU64>,
    ) -> Result<Documents, TextError> {
        let file = std::fs::File::open(path).map_err(|e| io_error(path, e))?;
        let reader = compressed::open(path, Counted { inner: file, read });
        let plain_name = compressed::plain_name(path);
        let json = [".jsonl", ".ndjson"]
            .iter()
            .any(|end| plain_name.ends_with(end));
        Ok(Documents {
            path: path.to_owned(),
            reader,
            field: json.then(|| text_field.to_owned()),
            line: 0,
            offset: 0,
            buffer: Vec::new(),
            finished: false,
        })
    }

    /// The next line without its end, or `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<&str>, TextError> {
        self.buffer.clear();
        let path = &self.path;
        let start = self.offset;
        let read = (&mut self.reader)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|e| io_error(path, e))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.offset += read as u64;
        if read as u64 > MAX_LINE_BYTES {
            return Err(TextError::LineTooLong {
                path: path.clone(),
                line: self.line,
            });
        }
        let text = std::str::from_utf8(&self.buffer).map_err(|e| TextError::NotUtf8 {
            path: path.clone(),
            line: self.line,
            offset: start + e.valid_up_to() as u64,
        })?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        Ok(Some(if self.line == 1 {
            text.strip_prefix('\u{feff}').unwrap_or(text)
        } else {
            text
        }))
    }

    fn next_plain(&mut self) -> Result<Option<String>, TextError> {
        let mut document = String::new();
        while let Some(line) = self.next_line()? {
            let blank = line.trim().is_empty();
            if blank && document.is_empty() {
                continue;
            }
            if blank {
                return Ok(Some(document));
            }
            if !document.is_empty() {
                document.push('\n');
            }
            document.push_str(line);
            if document.len() >= MAX_DOCUMENT_BYTES {
                return Ok(Some(document));
            }
        }
        Ok((!document.is_empty()).then_some(document))
    }

    fn next_json(&mut self, field: &str) -> Result<Option<String>, TextError> {
        loop {
            let Some(line) = self.next_line()? else {
                return Ok(None);
            };
            if line.trim().is_empty() {
                continue;
            }
            let parsed = serde_json::from_str::<serde_json::Value>(line);
            let (path, line) = (self.path.clone(), self.line);
            let mut value = parsed.map_err(|source| TextError::Json {
                path: path.clone(),
                line,
                source,
            })?;
            match value.get_mut(field).map(serde_json::Value::take) {
                Some(serde_json::Value::String(text)) if text.trim().is_empty() => continue,
                Some(serde_json::Value::String(text)) => return Ok(Some(text)),
                _ => {
                    return Err(TextError::Field {
                        path,
                        line,
                        field: field.to_owned(),
                    });
                }
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let field = self.field.take();
        let next = match &field {
            Some(name) => self.next_json(name),
            None => self.next_plain(),
        };
        self.field = field;
        self.finished = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// Counts bytes as they are read.
struct Counted {
    inner: std::fs::File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<String>, TextError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let read = Arc::new(AtomicU64::new(0));
        let documents =
            Documents::open(&path, "text", Arc::clone(&read))?.collect::<Result<Vec<_>, _>>()?;
        assert_eq!(read.load(Ordering::Relaxed), bytes.len() as u64);
        Ok(documents)
    }

    const TEXT: &str = "\u{feff}\r\nOne line.\r\nTwo.\r\n \r\n\r\n\r\nSecond, naïve.";

    #[test]
    fn every_packing_of_a_file_gives_the_same_documents() {
        let expected = ["One line.\nTwo.", "Second, naïve."];
        assert_eq!(
            read("a.txt", TEXT.trim_start_matches('\u{feff}').as_bytes()).unwrap(),
            expected
        );
        assert_eq!(read("a.txt", TEXT.as_bytes()).unwrap(), expected);
        // Two gzip members, and two zstd frames with a skippable frame between them, as parallel compressors write.
        let (a, b) = TEXT.as_bytes().split_at(21);
        let gz = |bytes: &[u8]| {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(bytes).unwrap();
            e.finish().unwrap()
        };
        assert_eq!(
            read("a.txt.gz", &[gz(a), gz(b)].concat()).unwrap(),
            expected
        );
        let zst = |bytes: &[u8]| {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3].to_vec();
        assert_eq!(
            read("a.zst", &[zst(a), skippable, zst(b)].concat()).unwrap(),
            expected
        );
        let lines = "{\"text\":\"One line.\\nTwo.\",\"id\":1}\r\n\n{\"id\":2,\"text\":\"Second, na\\u00efve.\"}\n{\"text\":\" \"}";
        assert_eq!(read("a.jsonl", lines.as_bytes()).unwrap(), expected);
        assert_eq!(read("a.JSONL.gz", &gz(lines.as_bytes())).unwrap(), expected);
        assert!(read("empty.txt", b"").unwrap().is_empty());
        assert!(read("empty.zst", b"").unwrap().is_empty());
    }

    #[test]
    fn bad_bytes_are_named_by_line_and_offset() {
        match read("a.txt", b"fine\n\nab\xe9c\n") {
            Err(TextError::NotUtf8 {
                line: 3, offset: 8, ..
            }) => {}
            other => panic!("{other:?}"),
        }
        match read("a.jsonl", b"{\"text\":\"a\"}\n\n{\"text\": \"b\"") {
            Err(TextError::Json { line: 3, .. }) => {}
            other => panic!("{other:?}"),
        }
        match read("a.jsonl", b"{\"text\":\"a\"}\n{\"text\": 1}") {
            Err(TextError::Field { line: 2, field, .. }) => assert_eq!(field, "text"),
            other => panic!("{other:?}"),
        }
        for (name, bytes) in [("a.gz", &b"plain text"[..]), ("a.zst", b"plain text")] {
            assert!(
                matches!(read(name, bytes), Err(TextError::Io { .. })),
                "{name}"
            );
        }
        let whole = ruzstd::encoding::compress_to_vec(
            TEXT.as_bytes(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert!(matches!(
            read("cut.zst", &whole[..whole.len() - 9]),
            Err(TextError::Io { .. })
        ));
    }

    #[test]
    fn long_documents_are_cut_at_a_line_end() {
        let line = "word ".repeat(20_000);
        let text = format!("{line}\n").repeat(25);
        let documents = read("long.txt", text.as_bytes()).unwrap();
        assert_eq!(documents.len(), 3);
        assert!(
            documents
                .iter()
                .all(|d| d.len() < MAX_DOCUMENT_BYTES + line.len() + 1)
        );
        assert_eq!(documents.join("\n") + "\n", text);
    }

    #[test]
    fn folders_are_searched_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/z.txt", "b/a.gz", "a.txt", ".hidden", "c.jsonl"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("ring")).unwrap();
        let found = find(&[dir.path().to_owned(), dir.path().join("a.txt")]).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|f| f.path.strip_prefix(dir.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a.txt", "b/a.gz", "b/z.txt", "c.jsonl"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            find(&[empty.path().to_owned()]),
            Err(TextError::NoFiles { .. })
        ));
        assert!(matches!(
            find(&[empty.path().join("gone")]),
            Err(TextError::Io { .. })
        ));
    }
}
