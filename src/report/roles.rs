//! Which part each model plays in the comparison: vanilla, mixture of experts, distilled, distilled from a random teacher.
//!
//! Told, in this order, by the person (`--role NAME=ROLE`), by the configuration of the run that a model is of, or by its name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A vanilla BERT: the teacher, or its equal.
    Vanilla,
    /// A mixture of experts without a teacher.
    Moe,
    /// A mixture of experts with a trained teacher.
    Distilled,
    /// A mixture of experts with an untrained teacher: the control.
    RandomTeacher,
}

/// Names of the parts, and words in a model's name that give it the part; the first row that fits counts.
const WORDS: [(Role, &str, &[&str]); 5] = [
    (
        Role::RandomTeacher,
        "random-teacher",
        &["random", "control"],
    ),
    (Role::Moe, "moe", &["undistil"]),
    (Role::Distilled, "distilled", &["distil", "student", "tcd"]),
    (Role::Moe, "moe", &["moe", "expert", "mixture", "switch"]),
    (Role::Vanilla, "vanilla", &["vanilla", "teacher", "dense"]),
];

impl Role {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        WORDS
            .iter()
            .find(|(role, ..)| *role == self)
            .map_or("", |(_, name, _)| name)
    }

    /// What it is called in sentences.
    pub fn words(self) -> &'static str {
        match self {
            Role::Vanilla => "vanilla",
            Role::Moe => "mixture of experts",
            Role::Distilled => "distilled mixture of experts",
            Role::RandomTeacher => "mixture of experts with a random teacher",
        }
    }

    /// The part that a model's name tells.
    pub fn of_name(name: &str) -> Option<Role> {
        let name = name.to_lowercase();
        WORDS
            .iter()
            .find(|(_, _, words)| words.iter().any(|word| name.contains(word)))
            .map(|(role, ..)| *role)
    }

    /// The part of a pre-training run by its configuration; a student that is no mixture of experts plays none.
    pub fn of_config(config: &toml::Value) -> Option<Role> {
        let moe = config.get("model").and_then(|m| {
            let preset = m.get("preset").and_then(toml::Value::as_str);
            m.get("moe")
                .map(|_| ())
                .or_else(|| preset.filter(|p| p.contains("moe")).map(|_| ()))
        });
        let teacher = config
            .get("distill")
            .map(|d| d.get("teacher").and_then(toml::Value::as_str));
        match (moe, teacher) {
            (None, None) => Some(Role::Vanilla),
            (Some(()), None) => Some(Role::Moe),
            (Some(()), Some(Some("random"))) => Some(Role::RandomTeacher),
            (Some(()), Some(_)) => Some(Role::Distilled),
            (None, Some(_)) => None,
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = WORDS.iter().find(|(_, name, _)| *name == text);
        found.map(|(role, ..)| *role).ok_or_else(|| {
            format!("no such role: `{text}`\nhint: one of vanilla, moe, distilled, random-teacher")
        })
    }
}

/// How a role was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By `--role`.
    Option,
    /// By the run's configuration.
    Run,
    /// By the name.
    Name,
    /// Not at all.
    Not,
}

impl Told {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Told::Option => "`--role`",
            Told::Run => "the run's configuration",
            Told::Name => "its name",
            Told::Not => "not told",
        }
    }
}

/// Tells roles.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Those that the person told.
    pub given: BTreeMap<String, Role>,
    /// Directories of runs, their names and roles.
    pub runs: Vec<(PathBuf, String, Option<Role>)>,
}

impl Roles {
    /// The role of a model by its name, and its directory where that is known.
    pub fn of(&self, name: &str, path: Option<&Path>) -> (Option<Role>, Told) {
        if let Some(role) = self.given.get(name) {
            return (Some(*role), Told::Option);
        }
        let run = self.runs.iter().find(|(dir, run, _)| {
            run == name
                || path.is_some_and(|path| !path.as_os_str().is_empty() && path.starts_with(dir))
        });
        if let Some((_, _, Some(role))) = run {
            return (Some(*role), Told::Run);
        }
        match Role::of_name(name) {
            Some(role) if run.is_none() => (Some(role), Told::Name),
            _ => (None, Told::Not),
        }
    }

    /// The role alone.
    pub fn role(&self, name: &str, path: Option<&Path>) -> Option<Role> {
        self.of(name, path).0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_tell_roles() {
        for (name, role) in [
            ("vanilla", Some(Role::Vanilla)),
            ("Teacher-s2", Some(Role::Vanilla)),
            ("moe-e16-s1", Some(Role::Moe)),
            ("undistilled-moe", Some(Role::Moe)),
            ("distilled-moe", Some(Role::Distilled)),
            ("moe-random-teacher", Some(Role::RandomTeacher)),
            ("bert-base", None),
        ] {
            assert_eq!(Role::of_name(name), role, "{name}");
        }
        for role in [
            Role::Vanilla,
            Role::Moe,
            Role::Distilled,
            Role::RandomTeacher,
        ] {
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert!("student".parse::<Role>().unwrap_err().contains("hint:"));
    }

    #[test]
    fn configurations_tell_roles() {
        for (text, role) in [
            ("[model]\nlayers = 2", Some(Role::Vanilla)),
            ("[model.moe]\nnum_experts = 4", Some(Role::Moe)),
            (
                "[model.moe]\nnum_experts = 4\n[distill]\nteacher = \"runs/v/model\"",
                Some(Role::Distilled),
            ),
            (
                "[model.moe]\nnum_experts = 4\n[distill]\nteacher = \"random\"",
                Some(Role::RandomTeacher),
            ),
            ("[model]\nlayers = 2\n[distill]\nteacher = \"m\"", None),
        ] {
            let config: toml::Value = toml::from_str(text).unwrap();
            assert_eq!(Role::of_config(&config), role, "{text}");
        }
    }

    #[test]
    fn the_person_counts_before_the_run_and_the_run_before_the_name() {
        let mut roles = Roles {
            runs: vec![("runs/a".into(), "a".into(), Some(Role::Moe))],
            ..Roles::default()
        };
        assert_eq!(roles.of("a", None), (Some(Role::Moe), Told::Run));
        let inside = Path::new("runs/a/model");
        assert_eq!(
            roles.of("vanilla", Some(inside)),
            (Some(Role::Moe), Told::Run)
        );
        assert_eq!(roles.of("vanilla", None), (Some(Role::Vanilla), Told::Name));
        assert_eq!(roles.of("x", None), (None, Told::Not));
        roles.given.insert("a".into(), Role::Distilled);
        assert_eq!(roles.of("a", None), (Some(Role::Distilled), Told::Option));
    }
}
