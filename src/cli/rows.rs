//! Rows of text for `predict`, `features` and `parity`: from a file, from standard input, or from a GLUE split.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::data::glue::{Example, Found, Role, Task, read_split};

/// Where rows come from.
#[derive(Clone, Debug, Args)]
pub struct Source {
    /// Text file, a row a line, `-` for standard input; a TAB parts the two texts of a pair.
    #[arg(
        value_name = "FILE",
        conflicts_with = "task",
        required_unless_present = "task"
    )]
    file: Option<PathBuf>,
    /// The file has a header; take the columns of these names as the text, or the two texts.
    #[arg(long, value_delimiter = ',', value_name = "A[,B]", requires = "file")]
    columns: Option<Vec<String>>,
    /// GLUE task, in place of a file.
    #[arg(long, requires = "data")]
    task: Option<String>,
    /// Directory of the GLUE data.
    #[arg(long, value_name = "DIR", requires = "task")]
    data: Option<PathBuf>,
    /// Split of the task, by its name; `dev` takes the first of two.
    #[arg(long, default_value = "dev")]
    split: String,
}

/// All rows of a source.
pub struct Rows {
    /// The rows, numbered from 0 unless the task numbers them.
    pub examples: Vec<Example>,
    /// What they are called.
    pub name: String,
    /// BLAKE3 of them, in hexadecimal.
    pub hash: String,
    /// Their task.
    pub task: Option<&'static Task>,
}

impl Source {
    /// Reads everything.
    pub fn read(&self) -> Result<Rows> {
        if let (Some(task), Some(data)) = (&self.task, &self.data) {
            return self.glue(task, data);
        }
        let mut reader = self.open()?;
        let examples: Vec<Example> =
            std::iter::from_fn(|| reader.next_row().transpose()).collect::<Result<_>>()?;
        if examples.is_empty() {
            bail!("no rows in `{}`", reader.name);
        }
        let mut hasher = blake3::Hasher::new();
        for example in &examples {
            for text in std::iter::once(&example.first).chain(&example.second) {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        Ok(Rows {
            examples,
            name: reader.name,
            hash: hasher.finalize().to_hex().to_string(),
            task: None,
        })
    }

    fn glue(&self, task: &str, data: &Path) -> Result<Rows> {
        let task = Task::find(task)
            .with_context(|| format!("there is no task `{task}`; tasks: {}", Task::names()))?;
        let split = match self.split.as_str() {
            "dev" => task.splits_of(Role::Dev).next(),
            "test" => task.splits_of(Role::Test).next(),
            name => task.split(name),
        };
        let split =
            split.with_context(|| format!("{} has no split `{}`", task.name, self.split))?;
        match read_split(data, task, split, false)? {
            Found::Data(data) => Ok(Rows {
                examples: data.examples,
                name: format!("{} {}", task.name, split.name),
                hash: data.hash,
                task: Some(task),
            }),
            Found::Missing(missing) => bail!("{missing}"),
        }
    }

    /// Opens the file or standard input, to be read row by row.
    pub fn open(&self) -> Result<Reader> {
        let path = self.file.as_deref().unwrap_or(Path::new("-"));
        let (input, name): (Box<dyn BufRead>, _) = if path == Path::new("-") {
            (Box::new(io::stdin().lock()), "standard input".to_owned())
        } else {
            let file =
                File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            (
                Box::new(BufReader::with_capacity(1 << 16, file)),
                path.display().to_string(),
            )
        };
        let mut reader = Reader {
            input,
            name,
            line: 0,
            rows: 0,
            columns: None,
        };
        if let Some(columns) = &self.columns {
            reader.header(columns)?;
        }
        Ok(reader)
    }

    /// Whether rows come from a GLUE split, which is read at once.
    pub fn is_glue(&self) -> bool {
        self.task.is_some()
    }
}

/// Rows, one after the other.
pub struct Reader {
    input: Box<dyn BufRead>,
    /// The file's name.
    pub name: String,
    line: u64,
    rows: u64,
    /// Columns of the texts and their number in the header.
    columns: Option<(Vec<usize>, usize)>,
}

impl Reader {
    fn header(&mut self, wanted: &[String]) -> Result<()> {
        if wanted.is_empty() || wanted.len() > 2 {
            bail!("`--columns` takes one or two names, not {}", wanted.len());
        }
        let Some(line) = self.text()? else {
            bail!("no header in `{}`: it is empty", self.name);
        };
        let names: Vec<&str> = line
            .split('\t')
            .map(|name| name.trim_start_matches('\u{feff}'))
            .collect();
        let place = |column: &String| {
            names
                .iter()
                .position(|name| name == column)
                .with_context(|| {
                    format!(
                        "no column `{column}` in `{}`; hint: it has {}",
                        self.name,
                        names.join(", ")
                    )
                })
        };
        let places = wanted.iter().map(place).collect::<Result<Vec<_>>>()?;
        self.columns = Some((places, names.len()));
        Ok(())
    }

    /// The next line without its end.
    fn text(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = self
            .input
            .read_until(b'\n', &mut bytes)
            .with_context(|| format!("cannot read `{}`", self.name))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        let text = String::from_utf8(bytes)
            .with_context(|| format!("not UTF-8 in `{}`, line {}", self.name, self.line))?;
        Ok(Some(text))
    }

    /// The next row.
    pub fn next_row(&mut self) -> Result<Option<Example>> {
        let Some(text) = self.text()? else {
            return Ok(None);
        };
        let fields: Vec<&str> = text.split('\t').collect();
        let wrong = |expected: String| {
            anyhow::anyhow!(
                "`{}`, line {}: {expected}, found {}; hint: name the columns of the texts with `--columns`",
                self.name,
                self.line,
                fields.len()
            )
        };
        let picked: Vec<&str> = match &self.columns {
            Some((places, count)) if fields.len() == *count => {
                places.iter().map(|&place| fields[place]).collect()
            }
            Some((_, count)) => return Err(wrong(format!("expected {count} columns"))),
            None if fields.len() <= 2 => fields.clone(),
            None => return Err(wrong("expected a text, or two parted by a TAB".to_owned())),
        };
        let example = Example {
            index: self.rows,
            first: picked[0].to_owned(),
            second: picked.get(1).map(|text| (*text).to_owned()),
            target: None,
        };
        self.rows += 1;
        Ok(Some(example))
    }

    /// Up to so many more rows.
    pub fn window(&mut self, rows: usize) -> Result<Vec<Example>> {
        let mut window = Vec::new();
        while window.len() < rows {
            match self.next_row()? {
                Some(row) => window.push(row),
                None => break,
            }
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn source(text: &[u8], columns: Option<&[&str]>) -> (tempfile::NamedTempFile, Source) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let source = Source {
            file: Some(file.path().to_owned()),
            columns: columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            task: None,
            data: None,
            split: "dev".to_owned(),
        };
        (file, source)
    }

    fn error(text: &[u8], columns: Option<&[&str]>) -> String {
        let (_file, source) = source(text, columns);
        format!("{:#}", source.read().err().unwrap())
    }

    #[test]
    fn lines_are_rows_and_a_tab_parts_pairs() {
        let (_file, source) = source(b"one text\r\n\na first\tand a second\nlast", None);
        let rows = source.read().unwrap().examples;
        let texts: Vec<_> = rows
            .iter()
            .map(|row| (row.first.as_str(), row.second.as_deref()))
            .collect();
        assert_eq!(
            texts,
            [
                ("one text", None),
                ("", None),
                ("a first", Some("and a second")),
                ("last", None)
            ]
        );
        assert_eq!(rows[3].index, 3);
    }

    #[test]
    fn columns_go_by_name() {
        let text = "\u{feff}id\tpremise\tlabel\thypothesis\n7\tp\tyes\th\n".as_bytes();
        let (_file, named) = source(text, Some(&["hypothesis", "premise"]));
        let row = &named.read().unwrap().examples[0];
        assert_eq!(
            (row.first.as_str(), row.second.as_deref()),
            ("h", Some("p"))
        );
        assert!(error(text, Some(&["text"])).contains("no column `text`"));
        assert!(
            error(text, None).contains("line 1: expected a text, or two parted by a TAB, found 4")
        );
        assert!(
            error(b"a\tb\n1\t2\t3\n", Some(&["a"])).contains("line 2: expected 2 columns, found 3")
        );
    }

    #[test]
    fn what_is_no_text_is_named_with_its_line() {
        assert!(error(b"good\n\xff\xfe\n", None).contains("line 2"));
        assert!(error(b"", None).contains("no rows"));
        assert!(error(b"", Some(&["a"])).contains("no header"));
    }
}
