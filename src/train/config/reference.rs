//! A configuration as commented TOML: every key with what it means.
//!
//! The comments are the doc comments of the configuration's structs, which schemars puts into their schema: what a person
//! reads here and what a developer reads there cannot differ. A key without a value stands as `#key = example`.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Map, Value};
use tcd_export::presets;

use super::RunConfig;

/// Longest line of a comment.
const WIDTH: usize = 100;

/// A pre-training configuration, see [`describe`].
pub fn describe_run(config: &RunConfig) -> Result<String, toml::ser::Error> {
    let names = presets()
        .into_iter()
        .map(|preset| match preset.aliases.as_slice() {
            [] => preset.name,
            aliases => format!("{} ({})", preset.name, aliases.join(", ")),
        });
    let names = names.collect::<Vec<_>>().join(", ");
    let about = "Configuration of `tcd pretrain`. `tcd pretrain --config FILE` reads it, `--set section.key=value` \
                 changes a key. A line that begins with `#key = ` or `#[section]` shows what may be set and is not.";
    let presets = format!("Presets: {names}.");
    describe(config, about, &[("model.preset", &presets)])
}

/// Commented TOML that reads back as `config`: `about` on top, then every key with its meaning and its value. `notes` are
/// added to the meaning of the keys and sections they name.
pub fn describe<C: JsonSchema + Serialize>(
    config: &C,
    about: &str,
    notes: &[(&str, &str)],
) -> Result<String, toml::ser::Error> {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<C>();
    let mut writer = Writer {
        text: String::new(),
        notes,
    };
    writer.comment(about);
    let values = toml::Table::try_from(config)?;
    if let Some(keys) = keys(schema.as_value()) {
        writer.section("", keys, Some(&values))?;
    }
    Ok(writer.text)
}

/// The keys of a section; `None` for a plain value.
fn keys(schema: &Value) -> Option<&Map<String, Value>> {
    let optional = schema.get("anyOf").and_then(|any| any.get(0));
    let keys = schema.get("properties");
    keys.or_else(|| optional?.get("properties"))?.as_object()
}

struct Writer<'a> {
    text: String,
    notes: &'a [(&'a str, &'a str)],
}

impl Writer<'_> {
    /// Plain keys first: in TOML they would belong to the last section otherwise.
    fn section(
        &mut self,
        path: &str,
        schema: &Map<String, Value>,
        values: Option<&toml::Table>,
    ) -> Result<(), toml::ser::Error> {
        let inside = |key: &str| match path {
            "" => key.to_string(),
            path => format!("{path}.{key}"),
        };
        for (key, schema) in schema.iter().filter(|(_, s)| keys(s).is_none()) {
            self.meaning(&inside(key), schema);
            match values.and_then(|v| v.get(key)) {
                Some(value) => self.line(&format!("{key} = {value}")),
                None => {
                    let value = toml::Value::try_from(example(schema))?;
                    self.line(&format!("#{key} = {value}"));
                }
            }
        }
        for (key, schema) in schema {
            let Some(keys) = keys(schema) else { continue };
            let path = inside(key);
            self.meaning(&path, schema);
            let values = values.and_then(|v| v.get(key)).and_then(|v| v.as_table());
            let mark = if values.is_some() { "" } else { "#" };
            self.line(&format!("{mark}[{path}]"));
            self.section(&path, keys, values)?;
        }
        Ok(())
    }

    fn meaning(&mut self, path: &str, schema: &Value) {
        self.line("");
        self.comment(schema["description"].as_str().unwrap_or_default());
        let notes = self.notes;
        for (_, note) in notes.iter().filter(|(key, _)| *key == path) {
            self.comment(note);
        }
    }

    fn comment(&mut self, text: &str) {
        let mut line = "#".to_string();
        for word in text.split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH {
                self.line(&line);
                line = "#".to_string();
            }
            line = format!("{line} {word}");
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// A value that a key without one may have.
fn example(schema: &Value) -> &Value {
    let default = schema.get("default").filter(|value| !value.is_null());
    let example = schema.get("examples").and_then(|all| all.get(0));
    default.or(example).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{DeviceConfig, ModelSection, SeedsConfig};
    use super::*;
    use crate::distill::DistillConfig;
    use crate::distill::config::RandomTeacher;
    use crate::train::initial::InitConfig;
    use tcd_export::MoeConfig;

    fn section() -> ModelSection {
        let mut moe = MoeConfig::new(8);
        moe.capacity_factor = Some(1.5);
        ModelSection {
            preset: Some("bert-l2-h128".to_string()),
            layers: Some(3),
            hidden: Some(256),
            heads: Some(4),
            intermediate: Some(300),
            max_positions: Some(64),
            hidden_dropout: Some(0.25),
            attention_dropout: Some(0.0),
            initializer_range: Some(0.05),
            moe: Some(moe),
        }
    }

    fn full() -> RunConfig {
        RunConfig {
            output: "runs/a \"b\"".into(),
            seed: 7,
            seeds: SeedsConfig {
                data: Some(1),
                mask: Some(2),
                init: Some(3),
                dropout: Some(4),
                distill: Some(5),
            },
            init: InitConfig {
                from: Some("runs/vanilla/model".into()),
                expert_noise: 0.1,
            },
            distill: Some(DistillConfig {
                random: RandomTeacher {
                    seed: 3,
                    model: Some(section()),
                },
                ..DistillConfig::default()
            }),
            device: DeviceConfig::Cuda(3),
            model: section(),
            ..RunConfig::default()
        }
    }

    fn plain_keys(path: &str, table: &toml::Table, found: &mut Vec<(String, String)>) {
        for (key, value) in table {
            match value.as_table() {
                Some(inner) if path.is_empty() => plain_keys(key, inner, found),
                Some(inner) => plain_keys(&format!("{path}.{key}"), inner, found),
                None => found.push((path.to_string(), key.clone())),
            }
        }
    }

    /// Section and key of each line `key = value` or `#key = value`, with the lines before it.
    fn described(text: &str) -> Vec<(String, String, String)> {
        let (mut section, mut before, mut found) = (String::new(), String::new(), Vec::new());
        for line in text.lines() {
            let bare = line.strip_prefix('#').unwrap_or(line);
            if let Some(name) = bare.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.to_string();
            } else if line.is_empty() {
                before.clear();
            } else if line.starts_with("# ") {
                before += line;
            } else if let Some((key, _)) = bare.split_once(" = ") {
                found.push((section.clone(), key.to_string(), before.clone()));
            }
        }
        found
    }

    #[test]
    fn every_key_is_there_and_explained() {
        let (mut wanted, table) = (Vec::new(), toml::Table::try_from(full()).unwrap());
        plain_keys("", &table, &mut wanted);
        assert!(wanted.len() > 40, "{wanted:?}");
        for config in [RunConfig::default(), full()] {
            let text = describe_run(&config).unwrap();
            let found = described(&text);
            for (section, key) in &wanted {
                let line = found.iter().find(|(s, k, _)| (s, k) == (section, key));
                let (.., meaning) = line.unwrap_or_else(|| panic!("no `{section}.{key}`:\n{text}"));
                let told = meaning.contains("Default") || meaning.contains("Required");
                assert!(told, "`{section}.{key}` tells no default: {meaning}");
            }
            assert_eq!(
                found.len(),
                wanted.len(),
                "a key that no configuration has:\n{text}"
            );
        }
    }

    #[test]
    fn it_reads_back_and_its_examples_are_valid() {
        for config in [RunConfig::default(), full()] {
            let text = describe_run(&config).unwrap();
            assert_eq!(
                toml::from_str::<RunConfig>(&text).unwrap(),
                config,
                "{text}"
            );
            let all: Vec<&str> = text
                .lines()
                .map(|l| match l.strip_prefix('#') {
                    Some(bare) if !bare.starts_with(' ') => bare,
                    _ => l,
                })
                .collect();
            let all: RunConfig = toml::from_str(&all.join("\n")).unwrap();
            assert!(all.model.moe.is_some() && all.seeds.dropout.is_some());
        }
    }
}
