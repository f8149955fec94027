//! The report: one self-contained HTML page as a function of a [`Page`].
//!
//! Nothing is read or written here. A page has claims with their verdicts first, then sections of texts, tables and figures, then
//! the sources that all of it comes from. Every text is escaped, as names of models and files are data. The page loads nothing:
//! style, script and figures stand in it, and its content security policy forbids the rest.

mod blocks;
mod html;
mod inline;
#[cfg(test)]
mod tests;

pub use html::{Written, html};

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// What was compared, a paragraph each.
    pub lead: Vec<String>,
    /// The claims, in order.
    pub claims: Vec<Claim>,
    /// Claims that could not be looked at, and what is missing.
    pub unseen: Vec<String>,
    /// Tables and figures.
    pub sections: Vec<Section>,
    /// Where everything comes from; blocks and claims name them by place.
    pub sources: Vec<Source>,
    /// What is not on the page, a sentence each.
    pub left_out: Vec<String>,
    /// Who made the page, at its foot: label and value.
    pub colophon: Vec<(String, String)>,
}

/// What the numbers say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All intervals lie on the claim's side.
    Supported,
    /// All intervals lie on the other side.
    NotSupported,
    /// Anything else: intervals around zero, none at all, or some on either side.
    Undecided,
}

impl Verdict {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Supported => "supported",
            Verdict::NotSupported => "not supported",
            Verdict::Undecided => "undecided",
        }
    }

    /// A mark, so that it is not told by colour alone.
    fn mark(self) -> &'static str {
        match self {
            Verdict::Supported => "✓",
            Verdict::NotSupported => "✗",
            Verdict::Undecided => "?",
        }
    }
}

/// A claim and what the numbers say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Anchor on the page, of `a-z0-9-`.
    pub id: String,
    /// The claim, a sentence.
    pub statement: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in words with numbers.
    pub reason: String,
    /// The numbers.
    pub evidence: Vec<Evidence>,
    /// Where they come from.
    pub sources: Vec<usize>,
}

/// One number for or against a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// What was compared.
    pub what: String,
    /// The value with its unit.
    pub value: String,
    /// Its interval, and what it is over.
    pub interval: String,
    /// What this number alone says.
    pub verdict: Verdict,
}

/// A section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Anchor on the page, of `a-z0-9-`.
    pub id: String,
    /// Heading.
    pub title: String,
    /// What is in it.
    pub blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A table.
    Table(Table),
    /// A figure.
    Figure(Box<Picture>),
}

/// A table whose columns can be sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Title.
    pub title: String,
    /// Columns.
    pub columns: Vec<Column>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<Cell>>,
    /// Sentences below it.
    pub notes: Vec<String>,
    /// Where it comes from.
    pub sources: Vec<usize>,
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// Whether it holds numbers: set right, sorted by value.
    pub numeric: bool,
}

impl Column {
    /// A column of words.
    pub fn text(name: impl Into<String>) -> Self {
        Column {
            name: name.into(),
            numeric: false,
        }
    }

    /// A column of numbers.
    pub fn number(name: impl Into<String>) -> Self {
        Column {
            name: name.into(),
            numeric: true,
        }
    }
}

/// A cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// What it shows.
    pub text: String,
    /// What a numeric column sorts by; cells without it come last.
    pub key: Option<f64>,
}

impl Cell {
    /// A word.
    pub fn text(text: impl Into<String>) -> Self {
        Cell {
            text: text.into(),
            key: None,
        }
    }

    /// A number with so many decimals; a dash where there is none.
    pub fn number(value: Option<f64>, decimals: usize) -> Self {
        Cell::shown(value, |v| {
            format!("{v:.decimals$}").replace('-', "\u{2212}")
        })
    }

    /// A count.
    pub fn count(value: u64) -> Self {
        Cell {
            text: grouped(value),
            key: Some(value as f64),
        }
    }

    /// A number, shown by hand.
    pub fn shown(value: Option<f64>, show: impl Fn(f64) -> String) -> Self {
        Cell {
            text: match value {
                Some(v) if v.is_finite() => show(v),
                Some(_) => "undefined".to_owned(),
                None => "–".to_owned(),
            },
            key: value.filter(|v| v.is_finite()),
        }
    }
}

/// Digits in groups of three, with narrow spaces.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A figure as SVG, with values to hover.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// Title.
    pub title: String,
    /// What it shows, a sentence or two; also read to those who cannot see it.
    pub caption: String,
    /// How to read it, where that takes more words.
    pub reading: String,
    /// Whether lightness is a value in it, so that dark colours must not turn it over.
    pub keep_colours: bool,
    /// The figure.
    pub svg: String,
    /// Width and height in the units of `marks`.
    pub size: (u32, u32),
    /// Places with values.
    pub marks: Vec<Mark>,
    /// The numbers in it: headings and rows.
    pub data: Option<(Vec<String>, Vec<Vec<String>>)>,
    /// Where it comes from.
    pub sources: Vec<usize>,
}

/// A place in a figure and the value that stands there: a point, or the box of a bar or cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width; 0 for a point.
    pub width: f64,
    /// Height; 0 for a point.
    pub height: f64,
    /// What is there.
    pub label: String,
}

/// A file that something on the page comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// The file.
    pub file: String,
    /// The command that made it, where known.
    pub command: Option<String>,
    /// Hashes and the like: label and value.
    pub facts: Vec<(String, String)>,
}

/// What a page may weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of one figure.
    pub figure_bytes: usize,
    /// Most bytes of the page; what comes after is left out.
    pub page_bytes: usize,
    /// Most rows of a table.
    pub table_rows: usize,
    /// Most rows of a figure's data.
    pub data_rows: usize,
    /// Most values to hover in a figure.
    pub marks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            figure_bytes: 1_500_000,
            page_bytes: 16_000_000,
            table_rows: 400,
            data_rows: 200,
            marks: 4000,
        }
    }
}
