//! MRPC from its source files: `msr_paraphrase_train.txt`, parted by `dev_ids.tsv` as GLUE parts it, and
//! `msr_paraphrase_test.txt`, whose labels stay unread, as GLUE hides them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::tasks::{Columns, Role, Split, Task};
use super::tsv::{self, Rows};
use super::{GlueError, read};

const TRAIN: &str = "msr_paraphrase_train.txt";
const TEST: &str = "msr_paraphrase_test.txt";
const IDS: [&str; 2] = ["dev_ids.tsv", "mrpc_dev_ids.tsv"];

/// The files that a split is made of, where they are all there.
pub(super) fn files(folder: &Path, role: Role) -> Option<Vec<PathBuf>> {
    let have = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    match role {
        Role::Test => Some(vec![have(TEST)?]),
        Role::Train | Role::Dev => {
            Some(vec![have(TRAIN)?, IDS.iter().find_map(|name| have(name))?])
        }
    }
}

/// Reads a split from [`files`].
pub(super) fn parse(files: &[PathBuf], task: &Task, split: &Split) -> Result<Rows, GlueError> {
    let text = &files[0];
    let bytes = read(text)?;
    if split.role == Role::Test {
        let columns = Columns {
            label: None,
            index: None,
            ..split.columns
        };
        return tsv::parse_columns(&bytes, task, &columns, text, |_, _| true);
    }
    let ids_file = &files[1];
    let mut ids = dev_ids(&read(ids_file)?, ids_file)?;
    let mut left = ids.clone();
    let columns = Columns {
        index: None,
        ..split.columns
    };
    let rows = tsv::parse_columns(&bytes, task, &columns, text, |names, cells| {
        let id = |name: &str| {
            let place = names.iter().position(|n| *n == name);
            place.map_or("", |place| cells[place]).to_owned()
        };
        let pair = (id("#1 ID"), id("#2 ID"));
        left.remove(&pair);
        ids.contains(&pair) == (split.role == Role::Dev)
    })?;
    ids.retain(|pair| left.contains(pair));
    match ids.into_iter().min() {
        Some((one, two)) => Err(GlueError::DevIds {
            path: ids_file.clone(),
            text: text.clone(),
            pair: format!("{one} {two}"),
            count: left.len(),
        }),
        None => Ok(rows),
    }
}

fn dev_ids(bytes: &[u8], path: &Path) -> Result<HashSet<(String, String)>, GlueError> {
    let mut ids = HashSet::new();
    for (line, bytes) in tsv::lines(bytes) {
        let text = String::from_utf8_lossy(bytes);
        let mut cells = text.split('\t').map(str::trim);
        let number = |cell: Option<&str>| {
            cell.filter(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_digit()))
                .map(str::to_owned)
        };
        match (number(cells.next()), number(cells.next()), cells.next()) {
            (Some(one), Some(two), None) => ids.insert((one, two)),
            _ => {
                return Err(GlueError::Row {
                    path: path.to_owned(),
                    line,
                    expected: format!("expected two sentence ids, got: `{}`", tsv::short(&text)),
                    more: 0,
                    hint: "",
                });
            }
        };
    }
    Ok(ids)
}
