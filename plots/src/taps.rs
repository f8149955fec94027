//! Names of taps in figures.

/// A tap's name without what all have in common: the layer alone for the trunk, `emb` for the embeddings.
pub(crate) fn short_tap(name: &str) -> String {
    if name == "embedding" {
        return "emb".to_owned();
    }
    name.strip_prefix("layer.").map_or_else(
        || name.to_owned(),
        |rest| rest.trim_end_matches(".trunk").to_owned(),
    )
}

/// What an axis of these taps shows, of a model where one is named.
pub(crate) fn axis_label(taps: &[String], model: &str) -> String {
    let trunk = |t: &String| t == "embedding" || t.ends_with(".trunk");
    let what = if taps.iter().all(trunk) {
        "layer"
    } else {
        "tap"
    };
    if model.is_empty() {
        what.to_owned()
    } else {
        format!("{what} of {model}")
    }
}

/// The taps of several models by depth: the embedding, then by layer, within a layer in the order of their first appearance.
pub(crate) fn places<'a>(taps: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for tap in taps {
        if !found.iter().any(|f| f == tap) {
            found.push(tap.to_owned());
        }
    }
    let depth = |name: &String| {
        let number = name
            .strip_prefix("layer.")
            .and_then(|r| r.split('.').next());
        match number.and_then(|n| n.parse::<usize>().ok()) {
            Some(layer) => layer + 1,
            None if name == "embedding" => 0,
            None => usize::MAX,
        }
    };
    found.sort_by_key(depth);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_stand_by_depth_under_short_names() {
        let taps = [
            "layer.10.trunk",
            "layer.2.trunk",
            "pooled",
            "embedding",
            "layer.2.trunk",
        ];
        let found = places(taps);
        assert_eq!(
            found,
            ["embedding", "layer.2.trunk", "layer.10.trunk", "pooled"]
        );
        let short: Vec<String> = found.iter().map(|t| short_tap(t)).collect();
        assert_eq!(short, ["emb", "2", "10", "pooled"]);
        assert_eq!(axis_label(&found[..3], "moe"), "layer of moe");
        assert_eq!(axis_label(&found, ""), "tap");
        assert_eq!(short_tap("layer.3.ffn.inner"), "3.ffn.inner");
    }
}
