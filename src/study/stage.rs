//! A stage: calls of this program, what they read and write, and what they need first.

use std::path::{Path, PathBuf};

use super::estimate::Cost;

/// A place that a command names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the study, relative to its folder: written by a stage that is needed, or by this one.
    Study(PathBuf),
    /// Outside: its contents are part of the key.
    Outside {
        /// As the configuration has it.
        path: PathBuf,
        /// What of it is read; the whole of it where empty.
        read: Vec<PathBuf>,
        /// The key of the configuration that names it.
        key: &'static str,
    },
}

/// One word of a command line: a text, or a text with a place after it (`data.corpus=` and a folder).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// The place.
    pub place: Option<Place>,
    /// Whether the word is left out where the place is not there: a stage that found nothing to say wrote nothing.
    pub if_there: bool,
}

impl Word {
    /// A place with a text before it.
    pub fn at(text: impl Into<String>, place: Place) -> Word {
        Word {
            text: text.into(),
            place: Some(place),
            if_there: false,
        }
    }

    /// A place in the study, left out where it is not there.
    pub fn if_there(path: impl Into<PathBuf>) -> Word {
        Word {
            if_there: true,
            ..Word::from(here(path))
        }
    }

    /// Whether it is left out.
    fn left_out(&self, study: &Path) -> bool {
        self.if_there && !Path::new(&self.shown(study)).exists()
    }

    /// The word as it stands on the command line, for a study in this folder.
    pub fn shown(&self, study: &Path) -> String {
        let path = match &self.place {
            None => return self.text.clone(),
            Some(Place::Study(path)) if path.as_os_str().is_empty() => study.to_path_buf(),
            Some(Place::Study(path)) => study.join(path),
            Some(Place::Outside { path, .. }) => path.clone(),
        };
        format!("{}{}", self.text, path.display())
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Word {
        Word {
            text: text.to_owned(),
            place: None,
            if_there: false,
        }
    }
}

impl From<String> for Word {
    fn from(text: String) -> Word {
        Word {
            text,
            place: None,
            if_there: false,
        }
    }
}

impl From<Place> for Word {
    fn from(place: Place) -> Word {
        Word::at("", place)
    }
}

/// A place in the study.
pub fn here(path: impl Into<PathBuf>) -> Place {
    Place::Study(path.into())
}

/// One call of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Its words, without the program.
    pub words: Vec<Word>,
    /// Further words that change where and how fast it runs, not what comes out: not part of the key.
    pub free: Vec<String>,
    /// A file of the study that takes what it prints.
    pub printed_to: Option<PathBuf>,
}

impl Call {
    /// A call of these words.
    pub fn new<W: Into<Word>>(words: impl IntoIterator<Item = W>) -> Call {
        Call {
            words: words.into_iter().map(Into::into).collect(),
            ..Call::default()
        }
    }

    /// With more words.
    pub fn with<W: Into<Word>>(mut self, words: impl IntoIterator<Item = W>) -> Call {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// With one more option and the place it names.
    pub fn option(self, name: &str, place: Place) -> Call {
        self.with([Word::from(name), Word::from(place)])
    }

    /// With words that are not part of the key.
    pub fn free(mut self, words: impl IntoIterator<Item = String>) -> Call {
        self.free.extend(words);
        self
    }

    /// What it prints goes to a file of the study.
    pub fn printed_to(mut self, file: impl Into<PathBuf>) -> Call {
        self.printed_to = Some(file.into());
        self
    }

    /// All words as they stand on the command line, without those whose place is not there.
    pub fn arguments(&self, study: &Path) -> Vec<String> {
        let words = self.words.iter().filter(|word| !word.left_out(study));
        let words = words.map(|word| word.shown(study));
        words.chain(self.free.iter().cloned()).collect()
    }

    /// The command as a person would type it.
    pub fn shown(&self, study: &Path) -> String {
        let mut line = vec!["tcd".to_owned()];
        line.extend(self.arguments(study).iter().map(|word| quoted(word)));
        if let Some(file) = &self.printed_to {
            line.push(format!("> {}", study.join(file).display()));
        }
        line.join(" ")
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// How an interrupted stage goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GoesOn {
    /// It begins anew; what it left is removed.
    #[default]
    Anew,
    /// With `--resume`.
    Resume,
    /// The same command goes on from what it left.
    Itself,
}

/// One stage of a study.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// Its name: the group, and of which model or pair, parted by `-`.
    pub name: String,
    /// What kind of stage it is: `pretrain`, `finetune`, ...
    pub group: &'static str,
    /// What it does, for people.
    pub what: String,
    /// Names of stages that must be done before; all stand before it in the plan.
    pub needs: Vec<String>,
    /// Files of the study that it reads as configuration, with their text; written before it runs.
    pub files: Vec<(PathBuf, String)>,
    /// Calls, one after the other.
    pub calls: Vec<Call>,
    /// What it writes, relative to the study.
    pub outputs: Vec<PathBuf>,
    /// How it goes on after an interruption.
    pub goes_on: GoesOn,
    /// Whether it may find that there is nothing to be said, so that the study goes on without it.
    pub may_refuse: bool,
    /// What it takes, where there is an estimate.
    pub cost: Option<Cost>,
    /// The estimate in words.
    pub details: Option<String>,
}

impl Stage {
    /// A stage without needs or calls yet; `of` tells it from others of its group.
    pub fn new(group: &'static str, of: &str, what: impl Into<String>) -> Stage {
        Stage {
            name: match of {
                "" => group.to_owned(),
                of => format!("{group}-{of}"),
            },
            group,
            what: what.into(),
            ..Stage::default()
        }
    }

    /// After these stages.
    pub fn after<S: Into<String>>(mut self, stages: impl IntoIterator<Item = S>) -> Stage {
        for stage in stages {
            let stage = stage.into();
            if !self.needs.contains(&stage) {
                self.needs.push(stage);
            }
        }
        self
    }

    /// With one more call.
    pub fn call(mut self, call: Call) -> Stage {
        self.calls.push(call);
        self
    }

    /// Writes this too.
    pub fn writes(mut self, path: impl Into<PathBuf>) -> Stage {
        self.outputs.push(path.into());
        self
    }

    /// What its commands read from outside the study: path, what of it, configuration key.
    pub fn outside(&self) -> impl Iterator<Item = (&Path, &[PathBuf], &'static str)> {
        let words = self.calls.iter().flat_map(|call| &call.words);
        words.filter_map(|word| match &word.place {
            Some(Place::Outside { path, read, key }) => {
                Some((path.as_path(), read.as_slice(), *key))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let outside = Place::Outside {
            path: "my glue".into(),
            read: vec![],
            key: "data.glue",
        };
        let call = Call::new(["glue", "table"])
            .with([Word::at("moe=", here("finetune/moe-s1"))])
            .option("--data", outside)
            .free(["--threads".to_owned(), "2".to_owned()])
            .printed_to("results/t.md");
        assert_eq!(
            call.shown(Path::new("runs/s")),
            "tcd glue table moe=runs/s/finetune/moe-s1 --data 'my glue' --threads 2 > runs/s/results/t.md"
        );
    }

    #[test]
    fn needs_are_named_once() {
        let stage = Stage::new("export", "moe-s1", "x").after(["a", "b", "a"]);
        assert_eq!(
            (stage.name.as_str(), stage.needs.len()),
            ("export-moe-s1", 2)
        );
    }
}
