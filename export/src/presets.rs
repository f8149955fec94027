//! Named sizes: the 24 published small BERTs and the paper's two, vanilla and with 64 experts.
//!
//! Source: Turc et al. 2019, "Well-Read Students Learn Better" (L in 2..12, H in 128..768, A = H / 64, F = 4 H,
//! vocabulary of 30,522, 512 positions); arXiv 2403.01994 (L = 12, H = 128 and 768, 64 experts).

use crate::config::{ModelConfig, MoeConfig};

/// Layers of the published sizes.
const LAYERS: [usize; 6] = [2, 4, 6, 8, 10, 12];
/// Hidden sizes of the published sizes.
const HIDDEN: [usize; 4] = [128, 256, 512, 768];
/// Vocabulary of the published models; a run sets its own.
const VOCABULARY: usize = 30_522;
/// Experts a layer in the paper.
const PAPER_EXPERTS: usize = 64;
/// Second names: alias, layers, hidden size.
const ALIASES: [(&str, usize, usize); 7] = [
    ("tiny", 2, 128),
    ("mini", 4, 256),
    ("small", 4, 512),
    ("medium", 8, 512),
    ("base", 12, 768),
    ("paper-l12-h128", 12, 128),
    ("paper-l12-h768", 12, 768),
];

/// One named size.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// The name, such as `bert-l2-h128`.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<&'static str>,
    /// Its configuration, with the published vocabulary size.
    pub config: ModelConfig,
}

/// All presets, smallest first, those with experts last.
pub fn presets() -> Vec<Preset> {
    let vanilla = LAYERS.iter().flat_map(|&layers| {
        HIDDEN.iter().map(move |&hidden| Preset {
            name: format!("bert-l{layers}-h{hidden}"),
            aliases: ALIASES
                .iter()
                .filter(|row| (row.1, row.2) == (layers, hidden))
                .map(|row| row.0)
                .collect(),
            config: published(layers, hidden),
        })
    });
    let experts = [128, 768].into_iter().map(|hidden| Preset {
        name: format!("paper-moe-l12-h{hidden}"),
        aliases: Vec::new(),
        config: ModelConfig {
            moe: Some(MoeConfig::new(PAPER_EXPERTS)),
            ..published(12, hidden)
        },
    });
    vanilla.chain(experts).collect()
}

/// The configuration of a preset, by its name or an alias.
pub fn preset(name: &str) -> Option<ModelConfig> {
    presets()
        .into_iter()
        .find(|row| row.name == name || row.aliases.contains(&name))
        .map(|row| row.config)
}

fn published(layers: usize, hidden: usize) -> ModelConfig {
    ModelConfig::new(VOCABULARY, layers, hidden, hidden / 64, 4 * hidden)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::parameters::{Head, active_parameter_count, parameter_count};

    #[test]
    fn every_row_is_valid_and_found_by_each_of_its_names() {
        let rows = presets();
        assert_eq!(rows.len(), 26);
        let mut names: Vec<&str> = rows
            .iter()
            .flat_map(|row| std::iter::once(row.name.as_str()).chain(row.aliases.iter().copied()))
            .collect();
        for row in &rows {
            let architecture = row.config.validate().unwrap();
            assert_eq!(architecture.head_size(), 64, "{}", row.name);
            assert_eq!(
                row.config.intermediate_size,
                4 * row.config.hidden_size,
                "{}",
                row.name
            );
            for name in std::iter::once(row.name.as_str()).chain(row.aliases.iter().copied()) {
                assert_eq!(preset(name).as_ref(), Some(&row.config), "{name}");
            }
        }
        assert_eq!(names.len(), 26 + ALIASES.len());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 26 + ALIASES.len());
        assert_eq!(preset("bert-l3-h128"), None);
    }

    /// ```python
    /// for L, H in ...:
    ///     m = BertForMaskedLM(BertConfig(num_hidden_layers=L, hidden_size=H, num_attention_heads=H // 64, intermediate_size=4 * H))
    ///     c = BertForSequenceClassification(m.config)
    ///     print(L, H, *(sum(p.numel() for p in x.parameters()) for x in (m, c)))
    /// ```
    #[test]
    fn parameter_counts_are_those_of_transformers() {
        let classifier = Head::SequenceClassification { labels: 2 };
        for (name, masked, classification) in COUNTS {
            let architecture = preset(name).unwrap().validate().unwrap();
            assert_eq!(
                parameter_count(&architecture, Head::MaskedLm),
                masked,
                "{name}"
            );
            assert_eq!(
                parameter_count(&architecture, classifier),
                classification,
                "{name}"
            );
            assert_eq!(
                active_parameter_count(&architecture, Head::MaskedLm),
                masked,
                "{name}"
            );
        }
    }

    const COUNTS: [(&str, usize, usize); 5] = [
        ("bert-l2-h128", 4_416_698, 4_386_178),
        ("bert-l4-h256", 11_201_594, 11_171_074),
        ("bert-l4-h512", 28_795_194, 28_764_674),
        ("bert-l8-h512", 41_404_730, 41_374_210),
        ("bert-l12-h768", 109_514_298, 109_483_778),
    ];

    /// A mixture adds, in each layer, 63 feed-forwards and a router without bias.
    #[test]
    fn experts_add_feed_forwards_and_routers() {
        for hidden in [128, 768] {
            let count = |name: &str, count: fn(&crate::Architecture, Head) -> usize| {
                count(
                    &preset(&format!("paper-{name}l12-h{hidden}"))
                        .unwrap()
                        .validate()
                        .unwrap(),
                    Head::MaskedLm,
                )
            };
            let feed_forward = 2 * hidden * 4 * hidden + 4 * hidden + hidden;
            let added = count("moe-", parameter_count) - count("", parameter_count);
            assert_eq!(added, 12 * (63 * feed_forward + 64 * hidden));
            let active = count("moe-", active_parameter_count) - count("", parameter_count);
            assert_eq!(active, 12 * 64 * hidden);
        }
    }
}
