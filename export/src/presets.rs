//! Published sizes: the 24 small BERTs of Turc et al. 2019 ("Well-Read Students Learn Better") and the two sizes of Lu, Zhao
//! and Qin 2024, vanilla and with 64 experts.

use crate::config::{ModelConfig, MoeConfig};

/// A named size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Name, such as `bert-l4-h256` or `moe-l12-h128`.
    pub name: &'static str,
    /// Other name, such as `bert-mini`.
    pub alias: Option<&'static str>,
    /// Encoder layers.
    pub layers: usize,
    /// Hidden size; heads are H/64 and the feed-forward width 4H, as published.
    pub hidden: usize,
    /// Experts of each layer; `None` for vanilla.
    pub experts: Option<usize>,
}

macro_rules! presets {
    ($($name:literal $(($alias:literal))? : $layers:literal x $hidden:literal $(, $experts:literal experts)? ;)*) => {
        /// Every preset.
        pub const PRESETS: &[Preset] = &[$(Preset {
            name: $name,
            alias: presets!(@some $($alias)?),
            layers: $layers,
            hidden: $hidden,
            experts: presets!(@some $($experts)?),
        },)*];
    };
    (@some) => { None };
    (@some $x:literal) => { Some($x) };
}

presets! {
    "bert-l2-h128" ("bert-tiny"): 2 x 128;
    "bert-l2-h256": 2 x 256;
    "bert-l2-h512": 2 x 512;
    "bert-l2-h768": 2 x 768;
    "bert-l4-h128": 4 x 128;
    "bert-l4-h256" ("bert-mini"): 4 x 256;
    "bert-l4-h512" ("bert-small"): 4 x 512;
    "bert-l4-h768": 4 x 768;
    "bert-l6-h128": 6 x 128;
    "bert-l6-h256": 6 x 256;
    "bert-l6-h512": 6 x 512;
    "bert-l6-h768": 6 x 768;
    "bert-l8-h128": 8 x 128;
    "bert-l8-h256": 8 x 256;
    "bert-l8-h512" ("bert-medium"): 8 x 512;
    "bert-l8-h768": 8 x 768;
    "bert-l10-h128": 10 x 128;
    "bert-l10-h256": 10 x 256;
    "bert-l10-h512": 10 x 512;
    "bert-l10-h768": 10 x 768;
    "bert-l12-h128": 12 x 128;
    "bert-l12-h256": 12 x 256;
    "bert-l12-h512": 12 x 512;
    "bert-l12-h768" ("bert-base"): 12 x 768;
    "moe-l12-h128": 12 x 128, 64 experts;
    "moe-l12-h768": 12 x 768, 64 experts;
}

impl Preset {
    /// The configuration of this size; the vocabulary is `bert-base-uncased`'s until set.
    pub fn config(&self) -> ModelConfig {
        ModelConfig {
            num_hidden_layers: self.layers,
            hidden_size: self.hidden,
            num_attention_heads: self.hidden / 64,
            intermediate_size: 4 * self.hidden,
            moe: self.experts.map(|num_experts| MoeConfig {
                num_experts,
                ..MoeConfig::default()
            }),
            ..ModelConfig::default()
        }
    }
}

/// The preset of that name or alias.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS
        .iter()
        .find(|p| p.name == name || p.alias == Some(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parameters::{Head, parameter_count};

    #[test]
    fn names_say_sizes_and_every_row_builds() {
        for p in PRESETS {
            let family = if p.experts.is_some() { "moe" } else { "bert" };
            assert_eq!(p.name, format!("{family}-l{}-h{}", p.layers, p.hidden));
            p.config().validate().unwrap();
        }
        assert_eq!(PRESETS.len(), 26);
    }

    /// Turc et al. 2019, table 1, gives 4.4 (tiny), 11.3 (mini), 29.1 (small), 41.7 (medium) and 110.1 (base) million, counted
    /// with pooler, without head.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, millions) in [
            ("bert-tiny", 4.4),
            ("bert-mini", 11.3),
            ("bert-small", 29.1),
            ("bert-medium", 41.7),
            ("bert-base", 110.1),
        ] {
            let arch = preset(name).unwrap().config().validate().unwrap();
            // Head::None holds no pooler: H*H + H more.
            let count =
                parameter_count(&arch, Head::None) + arch.hidden_size * (arch.hidden_size + 1);
            assert!(
                (count as f64 / 1e6 - millions).abs() < 0.7,
                "{name}: {count}"
            );
        }
        // bert-base exactly: 109,482,240 with pooler.
        let base = preset("bert-base").unwrap().config().validate().unwrap();
        assert_eq!(parameter_count(&base, Head::None) + 768 * 769, 109_482_240);
    }
}
